"""Shared memory between peers of one host: who uses it, who is refused, and what those do to the
others who are stopped, lie, or read slowly (G1, G3, G6, G8)."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import multiprocessing.connection
import os
import random
import resource
import signal
import socket
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import collectives
import crew
import mortals
import raw_shm
from calls import LARGE, SMALL, TINY, data_of, ring_sum
from collectives._native import lib
from crew import DEADLINE, Crew, Member
from mortals import Mortals
from pool import Pool
from raw_peer import Pair, is_closed, until
from raw_shm import RING_BYTES, SIZE, UNIT_BYTES, UNITS, RawShm, make_segment
from test_lifecycle import shared_memory


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(3) as pool:
        yield pool


# ---- which transport -----------------------------------------------------------------------------


def used(group: collectives.Group) -> tuple[int, int]:
    """Segments of others that are mapped, connections."""
    array = np.ones(1000)
    group.all_reduce(array)
    assert (array == group.size).all()
    group.barrier()
    mapped = Path("/proc/self/maps").read_text().splitlines()
    mine = sum("memfd:collectives" in line and "rw-s" in line for line in mapped)
    return len(shared_memory()) - 2 * mine, group.counters().open_connections


@pytest.mark.parametrize(
    ("transports", "expected"),
    [
        ("shm auto", [(1, 0)] * 2),
        ("auto auto tcp", [(1, 1), (1, 1), (0, 2)]),
    ],
)
def test_peers_of_one_host_use_memory_where_both_may(transports, expected):
    options = [{"transport": transport} for transport in transports.split()]
    with Crew(len(options), options) as run:
        by_index = dict(zip((m.index for m in run.members), run.get(used), strict=True))
        assert [by_index[index] for index in range(len(options))] == expected


def test_the_environment_chooses_where_the_options_do_not(monkeypatch):
    with Crew(2, environment={"COLLECTIVES_TRANSPORT": "tcp"}) as run:
        assert run.get(used) == [(0, 1)] * 2
    assert collectives.Options().chosen_transport == "auto"
    monkeypatch.setenv("COLLECTIVES_TRANSPORT", "tcp")
    assert collectives.Options().chosen_transport == "tcp"
    assert collectives.Options(transport="shm").chosen_transport == "shm"
    monkeypatch.setenv("COLLECTIVES_TRANSPORT", "pigeon")
    with pytest.raises(collectives.InvalidArgument, match="pigeon"):
        _ = collectives.Options().chosen_transport


def test_who_wants_nothing_but_memory_learns_who_has_none():
    with collectives.Coordinator("127.0.0.1:0") as coordinator:
        members = [Member(index) for index in range(2)]
        try:
            for index, transport in enumerate(("shm", "tcp")):
                arguments = {"name": f"p{index}", "min_size": 2, "timeout": 20.0}
                options = {"transport": transport}
                members[index].start("crew:join", coordinator.address, arguments, options)
            (ended, *_) = multiprocessing.connection.wait([m._pipe for m in members], DEADLINE)
            outcome = next(m for m in members if m._pipe is ended).result()
        finally:
            for member in members:
                member.kill()
                member.end()
    print(outcome.message)
    assert outcome.error == "Evicted", outcome.trace
    assert "'p0'" in outcome.message and "'p1'" in outcome.message


def join_without_room(_: Any, *arguments: Any) -> int:
    """A process that may make no file, and so no segment, of a size that is of use."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    return crew.join(None, *arguments)


def test_without_memory_tcp_does_it():
    with Crew(2, joiner="test_shm:join_without_room") as run:
        assert run.get(used) == [(0, 1)] * 2


def test_without_memory_who_wants_nothing_else_learns_why():
    with collectives.Coordinator("127.0.0.1:0") as coordinator:
        member = Member(0)
        try:
            arguments = {"name": "p0", "timeout": 20.0}
            member.start(join_without_room, coordinator.address, arguments, {"transport": "shm"})
            outcome = member.result()
        finally:
            member.end()
    assert "shared memory" in outcome.message and "File too large" in outcome.message


# ---- stopped, let go, and awake again ------------------------------------------------------------


@pytest.fixture(scope="module")
def band_of_three() -> Iterator[Mortals]:
    with Mortals() as made:
        yield made


def storm(group: collectives.Group, count: int, folder: str) -> int:
    """All-reduces until a file says so, every byte checked; how many turns it took."""
    turn, progress = 0, Path(folder, group.name)
    being_written = progress.with_suffix(".new")
    while True:
        word = np.array([turn, Path(folder, "over").exists()])
        group.all_reduce(word, "max", timeout=DEADLINE)
        turn = int(word[0])
        if word[1]:
            return turn
        arrays = [data_of(group.name, count, turn + tag) for tag in range(2)]
        works = [group.all_reduce_async(array, tag=tag) for tag, array in enumerate(arrays)]
        for tag, work in enumerate(works):
            names = work.wait().contributors
            wanted = ring_sum([data_of(name, count, turn + tag) for name in names])
            assert arrays[tag].tobytes() == wanted.tobytes(), f"wrong bits in turn {turn}"
        turn += 1
        being_written.write_text(str(turn))
        being_written.replace(progress)  # never found empty, which would read as "not begun"


PHASES = ("any", "reduce_scatter", "all_gather", "complete")


def turns(folder: Path, name: str) -> int:
    with contextlib.suppress(FileNotFoundError):
        return int((folder / name).read_text())
    return 0


SOME = [
    (TINY, "any"), (SMALL, "all_gather"), (LARGE, "reduce_scatter"), (10 * LARGE, "any"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("count", "phase"),
    [
        pytest.param(count, phase, marks=() if (count, phase) in SOME else pytest.mark.full)
        for count, phase in itertools.product((TINY, SMALL, LARGE, 10 * LARGE), PHASES)
        if (count, phase) != (TINY, "all_gather")  # who hears all is done
    ],
)
def test_a_member_that_sleeps_through_its_eviction_harms_nobody(
    band_of_three, count, phase, tmp_path
):
    """The others use again what it was reading, and it reads on when it wakes up."""
    members = band_of_three.band(3, {"detection": 0.5, "heartbeat": 0.1})
    names = [peer.name for peer in band_of_three.group_of(members).view.peers]
    still = members[1]
    if phase != "any":
        still.start(mortals_arm, phase, str(tmp_path))
        still.result().get()
    for member in members:
        member.start(storm, count, str(tmp_path))
    if phase == "any":
        until(lambda: turns(tmp_path, names[1]) > 3, "they do not begin")
        time.sleep(random.uniform(0, 0.05))  # anywhere in the middle of a turn
        still.signal(signal.SIGSTOP)
    before = max(turns(tmp_path, name) for name in names)
    until(
        lambda: all(turns(tmp_path, names[rank]) > before + 10 for rank in (0, 2)),
        "the others do not go on",
    )
    still.signal(signal.SIGCONT)
    outcome = still.result()
    assert outcome.error in ("Evicted", "CollectiveError"), outcome.trace
    still.start(come_back, count)
    since = turns(tmp_path, names[0])
    until(lambda: turns(tmp_path, names[0]) > since + 10, "the others do not go on")
    (tmp_path / "over").touch()
    done = [members[rank].result().get() for rank in (0, 2)]
    assert done[0] == done[1]
    for rank in (0, 2):
        members[rank].start(admit, count)
    assert [members[rank].result().get() for rank in (0, 2)] == [3, 3]
    assert still.result().get() == 3
    band_of_three.disband(members)


def mortals_arm(group: collectives.Group, phase: str, folder: str) -> None:
    """Stop in the first operation of tag 1 that gets there."""
    mortals.arm(group, phase, folder, 0, tag=1, action="stop")


def checked(group: collectives.Group, count: int) -> int:
    array = data_of(group.name, count, 5)
    names = group.all_reduce(array, timeout=DEADLINE).contributors
    wanted = ring_sum([data_of(name, count, 5) for name in names])
    assert array.tobytes() == wanted.tobytes()
    return len(names)


def admit(group: collectives.Group, count: int) -> int:
    mortals.grow(group, 3)
    return checked(group, count)


def come_back(group: collectives.Group, count: int) -> int:
    """Be a member of the group again, as somebody new."""
    name, address, me = group._application.group, group._application.address, group.name
    with contextlib.suppress(collectives.CollectiveError):
        group.leave(timeout=3.0)
    crew._group = mortals.enter(address, name, f"{me}-again", 3)
    return checked(crew._group, count)


# ---- strangers -----------------------------------------------------------------------------------


@contextlib.contextmanager
def raw_pair() -> Iterator[Pair]:
    """A pair whose raw member is one of this host."""
    raw = raw_shm.new_id()
    options = {"detection": 0.8, "heartbeat": 0.1}  # who is given up is reported after that
    with raw_shm.listening(raw) as listener, Pair(raw=raw, **options) as made:
        made.start()
        made.listener = listener  # type: ignore[attr-defined]
        yield made


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_strangers_on_the_local_socket_are_refused_and_counted():
    with raw_pair() as pair:
        to = pair.ids[0]
        hello = pair.hello()
        before = descriptors()
        for said in (b"x", b"", hello[:80], hello + b"x", b"COLLPEER" + bytes(152)):
            with pair.counts("refused_hello", 1), raw_shm.connect(to) as one:
                if said:
                    one.sendall(said)
                else:
                    # Descriptors behind no bytes at all.
                    socket.send_fds(one, [b""], [one.fileno(), 0])
                assert is_closed(one)
        for number in (1, 2, 4, 20):
            with pair.counts("refused_hello", 1), raw_shm.connect(to) as one:
                socket.send_fds(one, [hello], [0] * number)
                assert is_closed(one)
        with pair.counts("refused_view", 1), raw_shm.connect(to) as one:
            one.sendall(pair.hello(view=9))
            one.recv(1000)
            assert is_closed(one)
        with pair.counts("refused_version", 1), raw_shm.connect(to) as one:
            one.sendall(pair.hello(low=7, high=9))
            one.recv(1000)
            assert is_closed(one)
        until(lambda: descriptors() == before, "descriptors were kept")
        pair.is_unharmed()


def test_who_does_not_know_the_key_gets_no_segment():
    with raw_pair() as pair, RawShm(pair) as raw, pair.counts("refused_hello", 1):
        raw.proof = raw.proof[:8] + bytes(32)
        raw.offer([raw.memory, raw.wake])
        assert is_closed(raw.connection)


def pipe_end() -> int:
    read, write = os.pipe()
    os.close(write)
    return read


BAD_SEGMENTS = {
    "a pipe": pipe_end,
    "one that may shrink": lambda: make_segment(seals=fcntl.F_SEAL_GROW),
    "one that may grow": lambda: make_segment(seals=fcntl.F_SEAL_SHRINK),
    "one without seals": lambda: make_segment(seals=0),
    "a short one": lambda: make_segment(SIZE - 4096),
    "an empty one": lambda: make_segment(0),
    "a long one": lambda: make_segment(SIZE + 4096),
    "one of zeros": make_segment,
}


@pytest.mark.parametrize("what", BAD_SEGMENTS)
def test_what_is_no_segment_is_not_mapped(what):
    with raw_pair() as pair, RawShm(pair, BAD_SEGMENTS[what]()) as raw:
        with pair.counts("refused_hello", 1):
            raw.offer([raw.memory, raw.wake])
            assert is_closed(raw.connection)
        pair.is_unharmed()


def test_a_proof_without_descriptors_or_with_a_lane_that_does_not_exist_is_refused():
    for fds, lane in ((0, 0), (1, 0), (3, 0), (2, raw_shm.LANES), (2, 2**32 - 1)):
        with raw_pair() as pair, RawShm(pair) as raw, pair.counts("refused_hello", 1):
            given = [raw.memory, raw.wake, raw.wake][:fds]
            if fds:
                raw.offer(given, lane=lane)
            else:
                raw.connection.sendall(raw.proof + raw_shm.OFFER.pack(lane, 0, 1))
            assert is_closed(raw.connection)


def test_more_silent_strangers_than_are_waited_for():
    with raw_pair() as pair, contextlib.ExitStack() as stack:
        before = pair.count("refused_silent")
        many = [stack.enter_context(raw_shm.connect(pair.ids[0])) for _ in range(160)]
        until(lambda: pair.count("refused_silent") >= before + 32, "they are not refused")
        assert is_closed(many[0])
        pair.is_unharmed()
        # The others are given up after a while.
        until(lambda: pair.count("refused_silent") >= before + 160, "they are not refused")


# ---- nonsense in a segment -----------------------------------------------------------------------


def lost(pair: Pair) -> str:
    """Wait until the raw member is reported lost; why."""

    def look() -> str:
        while event := pair.raw_group.next_event():
            if event.kind == lib.COLL_EVENT_PEER_LOST:
                return event.text
        return ""

    return str(until(look, "nobody is reported lost"))


NONSENSE: dict[str, dict[str, Any]] = {
    "no length": {"bytes": 0},
    "less than a line": {"bytes": 32},
    "no multiple of a line": {"bytes": 200},
    "longer than what is there": {"bytes": 1 << 20},
    "the longest of all": {"bytes": 0xFFFFFFC0},
    "a payload that is not there": {"length": 100_000},
    "the longest payload": {"length": 0xFFFFFFFF},
    "a unit behind the last": {"unit": UNITS, "units": 1, "length": 10_000},
    "units behind the last": {"unit": UNITS - 1, "units": 2, "length": 40_000},
    "the last unit of all": {"unit": 65535, "units": 65535, "length": 10_000},
    "too few units": {"unit": 0, "units": 1, "length": UNIT_BYTES + 1},
    "too much for all units": {"unit": 0, "units": 256, "length": 1 << 30},
    "type 0": {"type": 0},
    "type 99": {"type": 99},
    "type 255": {"type": 255},
}


@pytest.mark.parametrize("what", NONSENSE)
def test_nonsense_in_a_segment_ends_the_link_and_nothing_else(what):
    with raw_pair() as pair, RawShm(pair) as raw:
        raw.hand_over()
        raw.write(type=7)  # VOID: understood
        with pair.counts("corrupt_frames", 1):
            pair.listener.close()
            raw.write(**{"type": 1, **NONSENSE[what]})
        said = lost(pair)
        assert "shared memory" in said and "no sense" in said, said
        pair.is_unharmed()


@pytest.mark.parametrize("upto", [1, 63, RING_BYTES * 4, 2**63, 2**64 - 64])
def test_a_count_of_what_was_written_that_cannot_be(upto):
    with raw_pair() as pair, RawShm(pair) as raw:
        raw.hand_over()
        pair.listener.close()
        raw.publish(upto)
        assert "no sense" in lost(pair)
        pair.is_unharmed()


def test_a_peer_that_lets_this_one_go_is_not_read_any_more():
    with raw_pair() as pair, RawShm(pair) as raw:
        raw.hand_over()
        pair.listener.close()
        raw.lane.generation += 1
        with pair.counts("corrupt_frames", 0):
            raw.write(type=7)
            assert "let this peer go" in lost(pair)
        pair.is_unharmed()


def test_acknowledgements_of_what_was_never_sent_do_no_harm():
    with raw_pair() as pair, RawShm(pair) as raw:
        raw.hand_over()
        raw.lane.taken = 2**63
        raw.lane.consumed = 2**63
        for unit in range(UNITS):
            raw.lane.done[unit] = unit
        raw.write(type=7)
        pair.is_unharmed()
        raw.connection.close()
        pair.listener.close()
        lost(pair)
        pair.is_unharmed()


# ---- rings, units and windows --------------------------------------------------------------------

BORDERS = [
    at + off
    for at in (0, 8 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10)
    for off in (-1, 0, 1, 64)
]


def flood(group: collectives.Group, seed: int, count: int, slow: bool) -> int:
    """Operations of random sizes on five tags, up to 40 at once, every byte checked."""
    common, mine = random.Random(seed), random.Random(seed + group.rank)
    noise = np.random.default_rng(seed).integers(0, 256, (1 << 20) + 4096, np.uint8)
    outstanding: list[tuple[Any, np.ndarray, np.ndarray]] = []

    def check(at: int) -> None:
        work, array, wanted = outstanding.pop(at)
        work.wait()
        assert array.tobytes() == wanted.tobytes(), f"wrong bytes: {array.size}"

    for number in range(count):
        size = max(0, common.choice(BORDERS))
        if common.random() < 0.5:
            size = int(2 ** common.uniform(0, 20 if number % 10 == 0 else 16))
        tag, root = common.randrange(5), common.randrange(4 * group.size)
        base = noise[common.randrange(4096) :][:size]
        array = base + np.uint8(group.rank)
        if root < group.size:
            wanted = base + np.uint8(root)
            work = group.broadcast_async(array, root, tag=tag)
        else:
            ranks = sum(range(group.size))
            wanted = base * np.uint8(group.size) + np.uint8(ranks)
            work = group.all_reduce_async(array, tag=tag)
        outstanding.append((work, array, wanted))
        if slow and group.rank == 0 and number % 50 == 0:
            time.sleep(0.02)  # the others run ahead, as far as they may
        while len(outstanding) > 40 or (outstanding and mine.random() < 0.3):
            check(mine.randrange(len(outstanding)))
    while outstanding:
        check(0)
    return count


@pytest.mark.parametrize(
    ("size", "slow", "options"),
    [
        (2, False, {}),
        (3, True, {}),
        (3, False, {"slice_bytes": 1 << 20}),
        (3, True, {"slice_bytes": 4096}),
    ],
)
def test_thousands_of_messages_of_all_sizes(pool: Pool, size, slow, options):
    seed = random.randrange(1 << 30)
    print("seed", seed)
    count = 1000
    options = {"transport": "shm", **options}
    assert pool.get(size, flood, seed, count, slow, options=options, timeout=100) == [count] * size


def small_beside(group: collectives.Group) -> bool:
    large = [np.full(2 << 20, group.rank + 1, np.float32) for _ in range(2)]
    works = [group.all_reduce_async(array, tag=tag) for tag, array in enumerate(large)]
    small = [np.full(1 + 200 * i, group.rank + 1, np.float32) for i in range(64)]
    few = [group.all_reduce_async(array, tag=2 + i % 8) for i, array in enumerate(small)]
    for work in (*reversed(few), *works):
        work.wait()
    total = group.size * (group.size + 1) / 2
    return all((array == total).all() for array in (*large, *small))


def test_64_small_operations_beside_two_large_ones(pool: Pool):
    assert pool.get(3, small_beside, options={"transport": "shm"}) == [True] * 3


def after_idling(group: collectives.Group) -> list[float]:
    took = []
    for _ in itertools.repeat(None, 5):
        group.barrier()
        time.sleep(0.3)  # all sleep by then
        began = time.monotonic()
        group.all_reduce(np.ones(10))
        took.append(time.monotonic() - began)
    return took


def test_who_idles_wakes_up_at_once(pool: Pool):
    for took in pool.get(2, after_idling, options={"transport": "shm"}):
        print(" ".join(f"{seconds * 1e3:.2f} ms" for seconds in took))
        # They do not call at the same moment, on a busy machine.
        assert statistics.median(took) < 0.1
