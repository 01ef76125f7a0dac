"""Lost, stalled and lying connections cost a second sending, never the operation (G4, G8)."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import collectives
from collectives._native import lib
from crew import Crew
from proxy import Damage, Proxy, free_port

SLICE = 4096
SMALL, LARGE = 16 << 10, 1 << 20  # bytes; 64 KiB is where large operations begin
PATIENCE = 60.0


# ---- what the processes run ------------------------------------------------------------------


def inputs(seed: int, rank: int, size: int) -> np.ndarray:
    return np.random.default_rng([seed, rank]).integers(-(2**30), 2**30, size // 8, np.int64)


def operation(group: Any, kind: str, in_place: bool, size: int, seed: int) -> Any:
    """One operation on data of the seed, every byte checked. Returns its telemetry by link."""
    array = inputs(seed, group.rank, size)
    out = None if in_place or kind == "broadcast" else np.empty_like(array)
    if kind == "all_reduce":
        expected = sum(inputs(seed, rank, size) for rank in range(group.size))
        work = group.all_reduce_async(array, out=out, timeout=PATIENCE)
    else:
        root = seed % group.size
        expected = inputs(seed, root, size)
        work = group.broadcast_async(array, root, timeout=PATIENCE)
    value = work.wait().value
    assert value.tobytes() == expected.tobytes(), f"wrong bytes, seed {seed}"
    if out is not None:
        assert array.tobytes() == inputs(seed, group.rank, size).tobytes()
    return work.telemetry().links


def until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.001)


def have_connections(group: Any, count: int) -> None:
    until(lambda: group.counters().open_connections >= count, "connections did not come up")
    group.barrier()


def inject(group: Any, fault: int, after: int) -> None:
    other = (group.rank + 1) % group.size
    assert lib.coll_inject(group._handle, fault, other, after) == lib.COLL_OK


def cuts(group: Any, connections: int) -> list[tuple[Any, ...]]:
    """Every kind of operation, with a cut by each rank in turn after so many slices."""
    have_connections(group, connections * (group.size - 1))
    seen = []
    seed = 0
    for culprit in range(group.size):
        for kind, in_place in (("all_reduce", True), ("all_reduce", False), ("broadcast", True)):
            for size in (SMALL, LARGE):
                for after in (0, 1, 3) if size == SMALL else (0, 2, 70):
                    seed += 1
                    if kind == "broadcast":
                        while seed % group.size != culprit:  # the root sends
                            seed += 1
                    group.barrier()
                    before = group.counters()
                    if group.rank == culprit:
                        other = (culprit + 1) % group.size
                        inject(group, lib.COLL_FAULT_CUT_CONNECTION, after)
                    links = operation(group, kind, in_place, size, seed)
                    if group.rank == culprit:
                        until(
                            lambda before=before: (
                                group.counters().resent_slices > before.resent_slices
                            ),
                            "nothing was sent again",
                        )
                        now = group.counters()
                        seen.append(
                            (
                                kind,
                                size,
                                after,
                                now.connections_lost - before.connections_lost,
                                now.reconnects - before.reconnects,
                                [link.resent for link in links if link.peer == name(group, other)],
                            )
                        )
                    have_connections(group, connections * (group.size - 1))
    return seen


def name(group: Any, rank: int) -> str:
    return group.peers[rank].name


def telemetry_of_a_cut(group: Any) -> int:
    """A large operation has sent all of its slices again by the time it is over."""
    if group.rank == 0:
        inject(group, lib.COLL_FAULT_CUT_CONNECTION, 20)
    links = operation(group, "all_reduce", True, LARGE, 99)
    group.barrier()
    return sum(link.resent for link in links)


def flips(group: Any) -> tuple[int, int]:
    before = group.counters()
    group.barrier()
    for seed in range(8):
        # One at a time: the end of a corrupt connection takes what else is on it with it.
        if seed % 2 == group.rank:
            inject(group, lib.COLL_FAULT_FLIP_BIT, 1 + seed // 4)
        size = SMALL if seed % 4 < 2 else LARGE
        operation(group, "all_reduce", seed < 4, size, seed)
        group.barrier()
    after = group.counters()
    return (
        after.corrupt_frames - before.corrupt_frames,
        after.connections_lost - before.connections_lost,
    )


def stream(group: Any, seed: int, seconds: float, count: int, cutting: bool) -> Any:
    """Operations of random kinds and sizes; each rank cuts its own links at random."""
    common, mine = random.Random(seed), random.Random(seed * 31 + group.rank)
    began, done = time.monotonic(), 0
    while done < count:
        kind = common.choice(("all_reduce", "all_reduce", "broadcast"))
        size = 8 * common.choice((1, 13, 700, 8191, 8193, 20_000, 100_000))
        in_place = common.random() < 0.5
        if cutting and mine.random() < 0.5:
            inject(group, lib.COLL_FAULT_CUT_CONNECTION, mine.randrange(12))
        operation(group, kind, in_place, size, seed + done)
        done += 1
        # All stop after the same one.
        over = np.array([time.monotonic() - began > seconds], np.uint8)
        group.all_reduce(over, "max", timeout=PATIENCE)
        if over[0]:
            break
    return done, group.counters()


def once(group: Any, size: int, seed: int) -> float:
    began = time.monotonic()
    operation(group, "all_reduce", True, size, seed)
    return time.monotonic() - began


def several(group: Any, count: int) -> float:
    began = time.monotonic()
    for seed in range(count):
        operation(group, "all_reduce", True, 4 * LARGE, seed)
    return time.monotonic() - began


def counted(group: Any) -> Any:
    return group.counters()


def give_up(group: Any, size: int, pid: int) -> None:
    """Rank 0 cancels while half a slice is with the kernel, since rank 1 reads nothing any more."""
    array = inputs(1, group.rank, size)
    work = group.all_reduce_async(array, timeout=PATIENCE)
    if group.rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)  # has said that it wants the data; see the test
    else:
        sent, since = 0, time.monotonic()
        while sent < SLICE * 100 or time.monotonic() - since < 0.2:
            now = work.telemetry().links[0].sent_bytes
            if now != sent:
                sent, since = now, time.monotonic()
            assert not work.done()
            time.sleep(0.001)
        # Decided once rank 1 reports, which it cannot while it stands still.
        threading.Timer(0.3, os.kill, (pid, signal.SIGCONT)).start()
        work.cancel("test")
    with pytest.raises(collectives.Cancelled):
        work.wait()
    assert array.tobytes() == inputs(1, group.rank, size).tobytes()


def go_on(group: Any) -> bool:
    group.sync()
    for seed in range(3):
        operation(group, "all_reduce", True, LARGE, seed)
        operation(group, "all_reduce", False, SMALL, seed)
    return True


def outlived(group: Any) -> Any:
    global _outlived
    _outlived = group.all_reduce_async(np.ones(100))
    _outlived.wait()
    telemetry = _outlived.telemetry()
    group.leave()
    assert _outlived.done() and _outlived.telemetry() == telemetry
    _outlived = None  # released after its engine
    return True


# ---- the processes themselves cut ------------------------------------------------------------


def cut_into(connections: int) -> dict[str, Any]:
    return {"transport": "tcp", "connections": connections, "slice_bytes": SLICE}


@pytest.mark.parametrize(("size", "connections"), [(2, 1), (3, 1), (2, 2), (2, 8)])
def test_a_connection_cut_in_mid_operation_costs_a_second_sending_only(size, connections):
    with Crew(size, cut_into(connections)) as crew:
        for seen in crew.get(cuts, connections, timeout=90):
            assert len(seen) == 18
            for kind, bytes_, after, lost, reconnects, _ in seen:
                case = (kind, bytes_, after, lost, reconnects)
                assert lost >= 1, case
                assert (reconnects >= 1) == (connections == 1), case


def test_telemetry_counts_what_an_operation_sent_again():
    with Crew(2, {"transport": "tcp", "slice_bytes": SLICE}) as crew:
        assert crew.get(telemetry_of_a_cut)[0] >= 1


@pytest.mark.parametrize("connections", [1, 2])
def test_a_corrupt_payload_costs_a_second_sending_only(connections):
    with Crew(2, cut_into(connections)) as crew:
        for corrupt, lost in crew.get(flips):
            # Each end flips a bit in four of eight operations.
            assert corrupt == 4
            assert lost >= 8


@pytest.mark.parametrize("connections", [1, 3])
def test_a_stream_of_operations_survives_cuts_at_random(connections):
    seed = random.randrange(1 << 30)
    print("seed", seed)
    with Crew(3, cut_into(connections)) as crew:
        outcomes = crew.get(stream, seed, 0.8, 400, True, timeout=90)
        assert len({done for done, _ in outcomes}) == 1
        assert sum(counters.resent_slices for _, counters in outcomes) >= 3
        assert sum(counters.connections_lost for _, counters in outcomes) >= 3


# ---- the network does ------------------------------------------------------------------------


@contextlib.contextmanager
def behind_proxies(**options: Any) -> Iterator[tuple[Crew, list[Proxy]]]:
    """Two peers that reach each other through a proxy only, whoever dials."""
    with contextlib.ExitStack() as stack:
        proxies, each = [], []
        for _ in range(2):
            port = free_port()
            proxy = stack.enter_context(Proxy(port))
            proxies.append(proxy)
            each.append(
                {
                    "transport": "tcp",
                    "bind": ("127.0.0.1",),
                    "port_range": (port, port),
                    "advertise": (proxy.address,),
                    **options,
                }
            )
        yield stack.enter_context(Crew(2, each)), proxies


@pytest.mark.parametrize(
    ("connections", "acts"),
    [
        (1, ("cut", "end", "close")),
        pytest.param(2, ("cut", "close"), marks=pytest.mark.full),
        pytest.param(1, ("flip", "drop", "twice"), marks=pytest.mark.full),
        (2, ("flip", "drop", "twice", "cut")),
    ],
)
def test_results_are_right_whatever_the_network_does_to_the_bytes(connections, acts):
    seed = random.randrange(1 << 30)
    print("seed", seed)
    with behind_proxies(connections=connections) as (crew, proxies):
        damages = [Damage(seed + i, every=150_000, acts=acts, most=40) for i in range(2)]
        for proxy, damage in zip(proxies, damages, strict=True):
            proxy.damage = damage
        outcomes = crew.get(stream, seed, 1.0, 400, False, timeout=90)
        done = [act for damage in damages for act in damage.done]
        print(outcomes[0][0], "operations;", len(done), "acts;", outcomes[0][1], outcomes[1][1])
        assert len(done) >= 3
        assert sum(counters.connections_lost for _, counters in outcomes) >= 3
        if set(acts) == {"flip", "drop", "twice"}:
            assert sum(counters.corrupt_frames for _, counters in outcomes) >= 2
        for proxy in proxies:
            proxy.damage = None


@pytest.mark.parametrize("size", [SMALL, 16 * LARGE])
def test_a_connection_of_which_one_end_learns_that_it_broke_is_replaced(size):
    with behind_proxies() as (crew, proxies):
        for seed in range(3):
            for proxy in proxies:
                proxy.stall()
            for member in crew.members:
                member.start(once, size, seed)
            # Both have sent what will never arrive.
            until(lambda: max(proxy.held() for proxy in proxies) > 8000, "nothing was sent")
            assert sum(proxy.forget() for proxy in proxies) >= 1
            for proxy in proxies:
                proxy.resume()
            for member in crew.members:
                # Long before TCP itself gives the dead half up (15 s).
                assert member.result().get() < 5.0


def test_one_of_several_connections_that_falls_silent_is_given_up():
    with behind_proxies(connections=2, detection=1.0) as (crew, proxies):
        crew.get(have_connections, 2)
        assert sum(proxy.swallow_one() for proxy in proxies) >= 1
        for seconds in crew.get(several, 6):
            assert seconds < 10.0
        assert any(counters.resent_slices > 0 for counters in crew.get(counted))


def test_a_stalled_network_that_recovers_costs_nothing_but_time():
    with behind_proxies(detection=20.0) as (crew, proxies):
        crew.get(once, LARGE, 4)
        for proxy in proxies:
            proxy.stall()
        for member in crew.members:
            member.start(once, LARGE, 5)
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:
            assert not crew.members[0]._pipe.poll(0.05)
        for proxy in proxies:
            proxy.resume()
        for member in crew.members:
            member.result().get()
        counters = crew.get(counted)
        assert [c.connections_lost for c in counters] == [0, 0], counters


def test_a_link_goes_on_after_an_operation_was_cancelled_in_mid_send():
    with Crew(2, {"transport": "tcp", "detection": 20.0}) as crew:
        for member in crew.members:
            member.start(give_up, 64 << 20, crew.members[1].pid)
        for member in crew.members:
            member.result().get()
        assert crew.get(go_on) == [True, True]


def test_work_may_outlive_its_group():
    with Crew(2) as crew:
        assert crew.get(outlived) == [True, True]
