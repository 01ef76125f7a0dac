"""all_reduce with on_failure="resume": the parts that stand at a death are kept (G1, G2, G4)."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import collectives
from calls import data_of, ring_sum
from collectives.chaos.profiles import Direction
from collectives.chaos.shaper import Shaper
from crew import DEADLINE, Member
from mortals import Mortals, arm, go_on
from proxy import free_port

PART = 8 << 20  # bytes of a part, at least
AT_ONCE = 4  # parts
MOST = 64  # parts
PARTS = 6
COUNT = PARTS * PART // 4 + 12_345  # float32


@pytest.fixture(scope="module")
def mortals() -> Iterator[Mortals]:
    with Mortals() as mortals:
        yield mortals


# ---- in the processes ------------------------------------------------------------------------


def bounds(count: int, itemsize: int = 4) -> list[int]:
    """Where the parts begin, and the end."""
    parts = min(max(count * itemsize // PART, 1), MOST)
    return [i * (count // parts) + min(i, count % parts) for i in range(parts + 1)]


def given(name: str, count: int, seed: int = 0) -> np.ndarray:
    """A peer's input: not the same anywhere in two parts."""
    return np.resize(data_of(name, 65_521, seed), count)


def contributed(result: collectives.Result, count: int) -> list[tuple[str, ...]]:
    """The contributors of each part; the ranges are checked."""
    ranges, edges = result.ranges, bounds(count)
    assert ranges[0].begin == 0 and ranges[-1].end == count, ranges
    for one, following in itertools.pairwise(ranges):
        assert one.end == following.begin and one.contributors != following.contributors, ranges
    assert {one.begin for one in ranges} <= set(edges), (ranges, edges)
    everywhere = set.intersection(*(set(one.contributors) for one in ranges))
    assert set(result.contributors) == everywhere, result
    return [
        next(one.contributors for one in ranges if one.begin <= edge < one.end)
        for edge in edges[:-1]
    ]


def check(result: collectives.Result, value: np.ndarray, op: str = "sum", seed: int = 0) -> Any:
    """Every byte is what numpy makes of the inputs of each part's contributors."""
    flat = value.reshape(-1)
    edges = bounds(flat.size)
    who = contributed(result, flat.size)
    inputs = {name: given(name, flat.size, seed) for names in who for name in names}
    for names, begin, end in zip(who, edges[:-1], edges[1:], strict=True):
        wanted = ring_sum([inputs[name][begin:end] for name in names])
        if op == "avg":
            wanted /= np.float32(len(names))
        assert flat[begin:end].tobytes() == wanted.tobytes(), (result, result.ranges, begin)
    return who, zlib.crc32(flat)


def reduce(
    group: collectives.Group, op: str = "sum", in_place: bool = True, seed: int = 0, **how: Any
) -> tuple[Any, int, int]:
    """Who contributed to each part and the bytes' digest; parts repeated; bytes sent."""
    mine = given(group.name, COUNT, seed)
    out = None if in_place else np.empty_like(mine)
    before = group.counters().sent_bytes
    result = group.all_reduce(mine, op, out=out, on_failure="resume", timeout=DEADLINE, **how)
    sent = group.counters().sent_bytes - before
    assert result.value is (mine if in_place else out)
    if not in_place:
        assert mine.tobytes() == given(group.name, COUNT, seed).tobytes()
    return check(result, result.value, op, seed), result.retries, sent


def part_number(group: collectives.Group, part: int) -> int:
    return group._native.last_operation() + 1 + part


def die(
    group: collectives.Group, part: int, phase: str, folder: str, action: str, *arguments: Any
) -> Any:
    """Meet one's fate at a moment of a part; in a round, whenever that is."""
    number = 0 if phase in ("sealed", "judged") else part_number(group, part)
    arm(group, phase, folder, number, action=action)
    return reduce(group, *arguments)


def name_of(group: collectives.Group) -> str:
    return group.name


def names(members: Sequence[Member]) -> tuple[str, ...]:
    for member in members:
        member.start(name_of)
    return tuple(member.result().get() for member in members)


def met(folder: Path, rank: int, phase: str) -> None:
    assert (folder / str(rank)).read_text().split()[0] == phase


def stopped(member: Member) -> None:
    path = Path(f"/proc/{member.pid}/stat")
    eventually(lambda: path.read_text().rpartition(")")[2].split()[0] == "T")


def eventually(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not what():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.002)


# ---- deaths ----------------------------------------------------------------------------------

FEW = [
    ("auto", 0, "between", "sum", True),
    ("auto", 4, "tokens", "sum", False),
    ("auto", 5, "reduce_scatter", "avg", True),
    ("tcp", 0, "issued", "sum", False),
    ("tcp", 4, "all_gather", "avg", True),
    ("tcp", 5, "complete", "sum", True),
]
PHASES = ("issued", "reduce_scatter", "between", "all_gather", "complete", "tokens")
ALL = [
    (transport, part, phase, op, in_place)
    for number, (transport, part, phase) in enumerate(
        itertools.product(("auto", "tcp"), range(PARTS), PHASES)
    )
    for op, in_place in [(("sum", "avg")[number % 2], bool(number // 2 % 2))]
]


def survivors(found: Sequence[Any], parts: int = PARTS) -> list[tuple[str, ...]]:
    """The contributors of each part, on which all agree, like on every byte."""
    assert all(one[0] == found[0][0] for one in found), found
    who: list[tuple[str, ...]] = found[0][0][0]
    assert len(who) == parts
    assert all(set(later) <= set(earlier) for earlier, later in itertools.pairwise(who)), who
    return who


def one_dies(mortals, tmp_path, transport, part, phase, op, in_place) -> None:
    members = mortals.band(3, {"transport": transport})
    everybody = names(members)
    others = everybody[0], everybody[2]
    for rank, member in enumerate(members):
        if rank == 1:
            member.start(die, part, phase, str(tmp_path), "kill", op, in_place)
        else:
            member.start(reduce, op, in_place)
    assert members[1].result().error == "Died"
    left = [members[0], members[2]]
    found = [member.result().get() for member in left]
    met(tmp_path, 1, phase)
    who = survivors(found)
    # To start this part, the victim had to know that all had those before the last ones.
    begun = 0 if phase == "issued" else max(0, part - AT_ONCE + 1)
    assert who[:begun] == [everybody] * begun, who
    # Those after it had to wait for it, and it was not complete anywhere without the victim.
    if phase in ("issued", "reduce_scatter"):
        assert who[part:] == [others] * (PARTS - part), who
    else:
        assert who[part + AT_ONCE :] == [others] * len(who[part + AT_ONCE :]), who
    for _, retries, _ in found:
        assert retries <= AT_ONCE
    for member in left:
        member.start(go_on)
    assert [member.result().get() for member in left] == [others, others]
    members[1].process.close()
    mortals.disband(left)


@pytest.mark.parametrize(("transport", "part", "phase", "op", "in_place"), FEW)
def test_parts_that_stand_at_a_death_are_kept(
    mortals, tmp_path, transport, part, phase, op, in_place
):
    one_dies(mortals, tmp_path, transport, part, phase, op, in_place)


@pytest.mark.full
@pytest.mark.parametrize(("transport", "part", "phase", "op", "in_place"), ALL)
def test_parts_that_stand_at_a_death_are_kept_whenever_it_is(
    mortals, tmp_path, transport, part, phase, op, in_place
):
    one_dies(mortals, tmp_path, transport, part, phase, op, in_place)


@pytest.mark.parametrize("transport", ["auto", "tcp"])
@pytest.mark.parametrize(("part", "phase"), [(0, "judged"), (0, "sealed"), (5, "reduce_scatter")])
def test_a_second_death_in_the_round_or_in_the_repeat(mortals, tmp_path, transport, part, phase):
    members = mortals.band(4, {"transport": transport})
    everybody = names(members)
    for rank, member in enumerate(members):
        if rank == 3:
            member.start(die, 1, "reduce_scatter", str(tmp_path), "kill")
        elif rank == 1:
            member.start(die, part, phase, str(tmp_path), "kill")
        else:
            member.start(reduce)
    assert [members[rank].result().error for rank in (3, 1)] == ["Died", "Died"]
    left = [members[0], members[2]]
    found = [member.result().get() for member in left]
    met(tmp_path, 3, "reduce_scatter")
    met(tmp_path, 1, phase)
    who = survivors(found)
    assert everybody[3] not in who[1] and who[-1] == (everybody[0], everybody[2])
    if phase == "reduce_scatter":  # part 1 has been repeated with it
        assert who[1] == everybody[:3]
    for dead in (1, 3):
        members[dead].process.close()
    mortals.disband(left)


def test_one_that_stands_still_is_put_out_and_has_its_input_back(mortals, tmp_path):
    members = mortals.band(3, {"detection": 1.0})
    everybody = names(members)
    still = members[1]
    for member in members:
        if member is still:
            member.start(stand_still, 4, "reduce_scatter", str(tmp_path))
        else:
            member.start(reduce)
    stopped(still)
    left = [members[0], members[2]]
    who = survivors([member.result().get() for member in left])
    assert who[0] == everybody and who[4:] == [(everybody[0], everybody[2])] * 2
    still.signal(signal.SIGCONT)
    assert still.result().get() == "Evicted"
    still.kill()
    mortals.disband(left)


def stand_still(group: collectives.Group, part: int, phase: str, folder: str) -> str:
    arm(group, phase, folder, part_number(group, part), action="stop")
    return fail(group)


def fail(group: collectives.Group, **how: Any) -> str:
    """The error's name; the array is as it was, also where it had been reduced already."""
    mine = given(group.name, COUNT)
    try:
        group.all_reduce(mine, on_failure="resume", **{"timeout": DEADLINE, **how})
    except collectives.CollectiveError as error:
        assert mine.tobytes() == given(group.name, COUNT).tobytes(), "not as before"
        return type(error).__name__
    raise AssertionError("it has succeeded")


# ---- bytes -----------------------------------------------------------------------------------

LONG = 16 * PART // 4  # elements: sixteen parts
SLICE = 256 << 10


def counted(group: collectives.Group, victim: int, how: str) -> tuple[int, int]:
    """A death near the end of a reduction: bytes sent for it, and how many contributed."""
    mine = given(group.name, LONG)
    first = group._native.last_operation() + 1
    if group.rank == victim and how == "resume":
        group._fault_at("between", first + 13)
    elif group.rank == victim:
        # As far in a plain one: of two thirds that come in its second half, most have.
        group._fault_at("all_gather", first, after_slices=LONG * 4 * 2 // 3 * 9 // 10 // SLICE)
    before = group.counters().sent_bytes
    result = group.all_reduce(mine, on_failure=how, timeout=DEADLINE)
    return group.counters().sent_bytes - before, len(result.contributors)


def bytes_sent(mortals: Mortals, victim: int, how: str) -> int:
    """By a survivor, on average."""
    members = mortals.band(3, {"transport": "tcp"})
    for member in members:
        member.start(counted, victim, how)
    outcomes = [member.result() for member in members]
    found = [outcome.get() for outcome in outcomes if outcome.error != "Died"]
    assert [size for _, size in found] == [len(found)] * (3 if victim < 0 else 2)
    left = [rank for rank in range(3) if not outcomes[rank].error]
    for rank in {0, 1, 2} - set(left):
        members[rank].process.close()
    mortals.disband([members[rank] for rank in left])
    return sum(sent for sent, _ in found) // len(found)


def test_a_death_near_the_end_costs_few_bytes(mortals):
    whole, resumed, retried = (
        bytes_sent(mortals, victim, how)
        for victim, how in ((-1, "resume"), (1, "resume"), (1, "retry"))
    )
    print(f"bytes that a survivor sent: no death {whole:,}, resume {resumed:,}, retry {retried:,}")
    lost = AT_ONCE * whole // 16
    assert resumed < whole + lost + whole // 50
    assert retried > whole + lost + whole // 10, "nothing was saved"


# ---- one outcome -----------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["auto", "tcp"])
def test_what_had_been_reduced_is_undone_when_too_few_are_left(mortals, tmp_path, transport):
    members = mortals.take(3)
    for index, member in enumerate(members):
        arguments = mortals.coordinator.address, f"few-{transport}", f"p{index}", transport
        member.start(too_few, *arguments, str(tmp_path))
    outcomes = [member.result() for member in members]
    assert sorted(outcome.error or outcome.value for outcome in outcomes) == [
        "Died", "TooFewPeers", "TooFewPeers",
    ]  # fmt: skip
    for member in members:
        member.process.close()


def too_few(_: Any, address: str, name: str, me: str, transport: str, folder: str) -> str:
    options = collectives.Options(transport=transport)
    group = collectives.join(
        address, group=name, name=me, min_size=3, timeout=DEADLINE, options=options
    )
    if group.rank == 2:
        arm(group, "reduce_scatter", folder, part_number(group, 4))
    return fail(group)


def interrupted(group: collectives.Group, how: str, folder: str) -> tuple[str, bool]:
    """Rank 0 wants to end it while rank 1 stands still in the fifth part, so that the first has
    been reduced; the outcome, and whether the array is as it was."""
    here = Path(folder)
    if group.rank == 1:
        arm(group, "reduce_scatter", folder, part_number(group, 4), action="stop")
    mine = given(group.name, COUNT)
    timeout = 1.5 if how == "timeout" and group.rank == 0 else DEADLINE
    work = group.all_reduce_async(mine, on_failure="resume", timeout=timeout)
    if group.rank == 0 and how == "cancel":
        eventually(lambda: (here / "1").exists() and "reduce" in (here / "1").read_text())
        assert mine[0] != given(group.name, 1)[0]
        work.cancel("enough")
    try:
        work.wait()
    except collectives.CollectiveError as error:
        found = type(error).__name__
    else:
        found = ""
    restored = mine.tobytes() == given(group.name, COUNT).tobytes()
    group.sync(timeout=DEADLINE)
    assert len(go_on(group)) == 3
    return found, restored


@pytest.mark.parametrize(
    ("how", "error", "transport"),
    [
        ("cancel", "Cancelled", "auto"),
        ("cancel", "Cancelled", "tcp"),
        ("timeout", "Timeout", "tcp"),
    ],
)
def test_one_ends_it_and_it_ends_for_all_with_every_byte_as_before(
    mortals, tmp_path, how, error, transport
):
    members = mortals.band(3, {"transport": transport})
    for member in members:
        member.start(interrupted, how, str(tmp_path))
    stopped(members[1])
    eventually(lambda: mortals.group_of(members).round is not None)
    members[1].signal(signal.SIGCONT)
    assert [member.result().get() for member in members] == [(error, True)] * 3
    mortals.disband(members)


def dropped(group: collectives.Group) -> str:
    """Rank 0 leaves without a word: what it had is restored at once."""
    mine = given(group.name, COUNT)
    try:
        work = group.all_reduce_async(mine, on_failure="resume")
    except collectives.Cancelled:  # it was later
        return "Cancelled"
    if group.rank == 0:
        work.abandon(KeyboardInterrupt())
        assert mine.tobytes() == given(group.name, COUNT).tobytes()
        return "Cancelled"
    try:
        work.wait()
    except collectives.CollectiveError as error:
        assert mine.tobytes() == given(group.name, COUNT).tobytes()
        return type(error).__name__
    return ""


def different(group: collectives.Group, count: int) -> tuple[str, str]:
    mine = np.ones(count if group.rank else count + 1, np.float32)
    try:
        group.all_reduce(mine, on_failure="resume", timeout=DEADLINE)
    except collectives.MismatchError as error:
        assert (mine == 1).all()
        return type(error).__name__, str(error)
    return "", ""


def mixed(group: collectives.Group, count: int) -> tuple[str, str]:
    how = "retry" if group.rank == 0 else "resume"
    mine = np.ones(count, np.float32)
    try:
        group.all_reduce(mine, on_failure=how, timeout=DEADLINE)
    except collectives.MismatchError as error:
        assert (mine == 1).all()
        return type(error).__name__, str(error)
    return "", ""


@pytest.mark.parametrize("count", [10, 100_000, COUNT])
@pytest.mark.parametrize("call", [different, mixed])
def test_calls_that_differ_are_a_mismatch(mortals, call, count):
    members = mortals.band(2)
    for member in members:
        member.start(call, count)
    (error, text), other = [member.result().get() for member in members]
    assert error == "MismatchError" and other[1] == text
    assert f"count={count}" in text and "resume" in text
    mortals.disband(members)


# ---- what it takes ---------------------------------------------------------------------------


def strided(group: collectives.Group) -> None:
    rows = 2 * PART // 4000 + 1
    flat = given(group.name, rows * 1000)
    wide = np.zeros((rows, 1500), np.float32)
    wide[:, 200:1200] = flat.reshape(rows, 1000)
    tall = np.zeros((1000, rows), np.float32)
    tall[...] = flat.reshape(rows, 1000).T
    for view in (wide[:, 200:1200], tall.T):
        result = group.all_reduce(view, on_failure="resume", timeout=DEADLINE)
        assert len(result.ranges) == 1
        check(result, np.ascontiguousarray(view))
    assert not wide[:, :200].any() and not wide[:, 1200:].any()
    arrays = [flat[:7].copy(), flat[7:1_000_000].copy(), flat[1_000_000:].copy()]
    result = group.all_reduce(arrays, on_failure="resume", timeout=DEADLINE)
    check(result, np.concatenate(arrays))


def asynchronous(group: collectives.Group) -> None:
    """Two at once, others between them, of the same tag and of another."""
    arrays = [given(group.name, COUNT, seed) for seed in range(2)]
    small = [np.full(100, 1.0) for _ in range(3)]
    works = [group.all_reduce_async(arrays[0], on_failure="resume")]
    works += [group.all_reduce_async(small[0]), group.barrier_async(tag=5)]
    works += [group.all_reduce_async(arrays[1], "avg", on_failure="resume", tag=7)]
    works += [group.all_reduce_async(small[1], tag=7), group.all_reduce_async(small[2])]
    results = [work.wait(DEADLINE) for work in works]
    check(results[0], arrays[0], "sum", 0)
    check(results[3], arrays[1], "avg", 1)
    assert all((array == group.size).all() for array in small)
    telemetry = works[0].telemetry()
    assert telemetry.retries == 0 and len(telemetry.links) == group.size - 1
    assert telemetry.done >= telemetry.last_byte >= telemetry.first_byte > 0
    assert sum(link.sent_bytes for link in telemetry.links) == results[0].wire_bytes
    assert all(work.done() for work in works)

    async def awaited() -> collectives.Result:
        return await group.all_reduce_async(arrays[0], on_failure="resume")

    assert asyncio.run(awaited()).value is arrays[0]


def small_and_none(group: collectives.Group) -> None:
    for count in (0, 1, 1000, 1_000_000):
        array = np.full(count, group.rank + 1, np.int64)
        result = group.all_reduce(array, on_failure="resume", timeout=DEADLINE)
        assert (array == sum(range(1, group.size + 1))).all()
        assert result.ranges == (collectives.Range(0, count, result.contributors),)
    result = group.all_reduce(np.ones((5, 6)), timeout=DEADLINE)
    assert result.ranges == (collectives.Range(0, 30, result.contributors),)
    assert group.barrier().ranges[0].end == 0


def refused(group: collectives.Group) -> None:
    array = np.ones(COUNT, np.float32)
    group.barrier()
    for call in (
        lambda: group.all_reduce(array, on_failure="resume", atomic=False),
        lambda: group.broadcast(array, on_failure="resume"),
        lambda: group.reduce(array, on_failure="resume"),
        lambda: group.barrier(on_failure="resume"),
    ):
        with pytest.raises(collectives.InvalidArgument, match="only an all_reduce can be resumed"):
            call()
    with pytest.raises(collectives.InvalidArgument, match="known are 'retry', 'raise', 'resume'"):
        group.all_reduce(array, on_failure="resumed")
    with group.step(), pytest.raises(collectives.InvalidArgument, match="use 'retry' there"):
        group.all_reduce(array, on_failure="resume")
    assert (array == 1).all()
    go_on(group)  # none of it has taken a number


@pytest.mark.parametrize("function", [strided, asynchronous, small_and_none, refused])
def test_it_is_an_all_reduce_like_any_other(mortals, function):
    members = mortals.band(3)
    for member in members:
        member.start(function)
    for member in members:
        member.result().get()
    mortals.disband(members)


def test_alone_it_is_all_there(mortals):
    (member,) = mortals.band(1)
    member.start(reduce, "avg", False)
    assert member.result().get()[1:] == (0, 0)
    mortals.disband([member])


def test_who_goes_without_waiting_has_its_input_back(mortals):
    members = mortals.band(3)
    for member in members:
        member.start(dropped)
    assert len({member.result().get() for member in members[1:]}) == 1
    assert members[0].result().get() == "Cancelled"
    for member in members:
        member.process.close()


# ---- a slow network --------------------------------------------------------------------------

RATE = 50e6  # bit/s, of each peer
SIZE = 256 << 20


def over_a_slow_network(group: collectives.Group, victim: int) -> tuple[int, int]:
    """A death at nine tenths: bytes sent, and parts that all have contributed to."""
    count = SIZE // 4
    mine = given(group.name, count)
    if group.rank == victim:
        part = 9 * len(bounds(count)) // 10
        group._fault_at("between", part_number(group, part))
    before = group.counters().sent_bytes
    result = group.all_reduce(mine, on_failure="resume", timeout=600.0)
    sent = group.counters().sent_bytes - before
    who, _ = check(result, mine)
    return sent, sum(len(names) == 4 for names in who)


@pytest.mark.full  # minutes, at such a rate
@pytest.mark.timeout(900)
def test_a_death_at_nine_tenths_costs_little_where_bytes_are_dear(mortals):
    direction = Direction(rate=RATE, queue=1 << 20)
    with Shaper(seed=1) as shaper:
        ports = [free_port() for _ in range(4)]
        options = [
            {
                "transport": "tcp",
                "bind": ("127.0.0.1",),
                "port_range": (port, port),
                "advertise": (
                    shaper.route(f"127.0.0.1:{port}", up=direction, down=direction).address,
                ),
            }
            for port in ports
        ]
        members = mortals.band(4, options)
        began = time.monotonic()
        for member in members:
            member.start(over_a_slow_network, 2)
        outcomes = [member.result(900.0) for member in members]
        took = time.monotonic() - began
        assert outcomes[2].error == "Died"
        left = [members[rank] for rank in (0, 1, 3)]
        found = [outcomes[rank].get() for rank in (0, 1, 3)]
        members[2].process.close()
        mortals.disband(left)
    ideal = SIZE * 2 * 3 // 4
    sent = max(one for one, _ in found)
    more = f"{sent / ideal - 1:.1%} more, in {took:.0f} s"
    print(f"a survivor sends {ideal:,} bytes without a death, {sent:,} with one: {more}")
    assert len({kept for _, kept in found}) == 1 and found[0][1] >= 9 * 32 // 10 - AT_ONCE
    assert sent < 1.2 * ideal
