"""Lists of arrays and scaled sums in which a member dies, repeated and resumed, with levels and
without: every byte of every array is what it should be, or what it was (G1, G2, G4)."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import random
import signal
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import collectives
import levelled
from calls import data_of, ring_sum
from covering import covering
from crew import DEADLINE, Member
from mortals import Mortals, arm, go_on
from test_resume import PART, bounds, contributed, eventually, names, part_number, stopped

SIZE = 4
LARGE = 100_000  # elements of float32
PARTS = 2
LONG = PARTS * PART // 4 + 12_345
PHASES = ("issued", "reduce_scatter", "between", "all_gather", "complete", "tokens")
PLACES = {"flat": (), "2+2": ((0, 0, 1, 1),), "woven": ((0, 1, 0, 1),), "3+1": ((0, 0, 0, 1),)}


@dataclasses.dataclass(frozen=True)
class Case:
    """One reduction, and who dies when.

    Attributes:
        how: ``on_failure``.
        op: "sum", "avg" or "scaled".
        lies: "array" or "list".
        places: a key of ``PLACES``.
        part: of a resumed one, that in which the victim dies.
    """

    how: str
    op: str
    lies: str
    in_place: bool
    places: str
    transport: str
    victim: int
    phase: str
    part: int = 0

    def __str__(self) -> str:
        where = "in place" if self.in_place else "apart"
        what = f"{self.how} {self.op} of a {self.lies} {where}, {self.places}, {self.transport}"
        return f"{what}, {self.victim} dies {self.phase} {self.part}"

    @property
    def count(self) -> int:
        return LONG if self.how == "resume" else LARGE


def cases() -> Iterator[Case]:
    for how, op, lies, in_place, places, transport, victim, phase in itertools.product(
        ("retry", "raise", "resume"), ("sum", "avg", "scaled"), ("array", "list"), (True, False),
        PLACES, ("auto", "tcp"), range(SIZE), PHASES,
    ):  # fmt: skip
        if op == "scaled" or lies == "list":  # all else is done elsewhere
            for part in range(PARTS if how == "resume" else 1):
                yield Case(how, op, lies, in_place, places, transport, victim, phase, part)


# ---- in the processes ----------------------------------------------------------------------------


def factor_of(name: str) -> float:
    """Rounded to f32 it is another number."""
    return 0.3 * (1 + int(name[1:]))


@functools.lru_cache(maxsize=SIZE)
def input_of(count: int, name: str) -> np.ndarray:
    return np.resize(data_of(name, 65_521, 0), count)


def as_list(flat: np.ndarray) -> list[np.ndarray]:
    """The same elements in arrays that lie in any way, whose borders are no part's."""
    sizes = [1, 0, flat.size // 7 & ~1, flat.size // 3 & ~1, flat.size // 5]
    pieces = np.split(flat, np.cumsum(sizes))
    one, none, tall, wide, long, rest = pieces
    across = np.empty((tall.size // 2, 2), np.float32).T
    across[...] = tall.reshape(2, -1)
    every_other = np.zeros(2 * wide.size, np.float32)[::2]
    every_other[...] = wide
    return [one.reshape(()).copy(), none.copy(), across, every_other, long.copy(), rest.copy()]


def flat_of(arrays: Any) -> np.ndarray:
    if isinstance(arrays, list):
        return np.concatenate([array.reshape(-1) for array in arrays])
    return arrays


def wanted(case: Case, members: Sequence[str], who: Sequence[str], begin: int, end: int) -> Any:
    """What some of the members make of some elements."""
    inputs = [input_of(case.count, name)[begin:end] for name in who]
    if case.op == "scaled":
        inputs = [x * np.float32(factor_of(name)) for x, name in zip(inputs, who, strict=True)]
    ranks = [members.index(name) for name in who]
    places = [[level[rank] for rank in ranks] for level in PLACES[case.places]]
    whole = levelled.summed(places, inputs) if places else ring_sum(inputs)
    return whole / np.float32(len(who)) if case.op == "avg" else whole


def reduce(group: collectives.Group, case: Case, timeout: float = DEADLINE) -> tuple[Any, ...]:
    """What came of it, the same for all survivors; every byte is checked."""
    members = [peer.name for peer in group.peers]
    given = input_of(case.count, group.name)
    array: Any = as_list(given) if case.lies == "list" else given.copy()
    out = None
    if not case.in_place:  # whose arrays lie as they do is the other's business
        out = [np.empty(n, np.float32) for n in (case.count // 2, case.count - case.count // 2)]
    op = collectives.scaled_sum(factor_of(group.name)) if case.op == "scaled" else case.op
    try:
        result = group.all_reduce(array, op, out=out, on_failure=case.how, timeout=timeout)
    except collectives.CollectiveError as error:
        assert flat_of(array).tobytes() == given.tobytes(), "not as before"
        return type(error).__name__, getattr(error, "peer", "")
    assert result.value is (array if case.in_place else out)
    if not case.in_place:
        assert flat_of(array).tobytes() == given.tobytes(), "the input was written to"
    value = flat_of(result.value)
    if case.how == "resume":
        edges = bounds(case.count)
        who = contributed(result, case.count)
    else:
        edges, who = [0, case.count], [result.contributors]
    for found, begin, end in zip(who, edges[:-1], edges[1:], strict=True):
        right = wanted(case, members, found, begin, end)
        assert value[begin:end].tobytes() == right.tobytes(), (result, begin)
    return "ok", tuple(who), zlib.crc32(value)


def die(group: collectives.Group, case: Case, folder: str, action: str, *how: Any) -> Any:
    arm(group, case.phase, folder, part_number(group, case.part), action=action)
    return reduce(group, case, *how)


def stay(_: Any, places: Sequence[Sequence[int]]) -> None:
    levelled.with_topology(places)


# ---- in the test ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mortals() -> Iterator[Mortals]:
    with Mortals() as mortals:
        yield mortals


def band(mortals: Mortals, case: Case) -> list[Member]:
    members = mortals.take(SIZE)
    for member in members:
        member.start(stay, PLACES[case.places])
    for member in members:
        member.result().get()
    mortals.idle = members + mortals.idle
    return mortals.band(SIZE, {"transport": case.transport})


def one_dies(mortals: Mortals, folder: Path, case: Case) -> None:
    members = band(mortals, case)
    everybody = names(members)
    for rank, member in enumerate(members):
        if rank == case.victim:
            member.start(die, case, str(folder), "kill")
        else:
            member.start(reduce, case)
    assert members[case.victim].result().error == "Died"
    assert (folder / str(case.victim)).read_text().split()[0] == case.phase
    left = [member for rank, member in enumerate(members) if rank != case.victim]
    found = [member.result().get() for member in left]
    assert found == found[:1] * len(left), found
    others = tuple(name for name in everybody if name != everybody[case.victim])
    outcome, who, *_ = found[0]
    if outcome == "ok":
        assert set(who) <= {everybody, others}
        # Without its part of it nobody can be complete.
        assert case.phase not in ("issued", "reduce_scatter") or who[-1] == others
    else:
        assert (outcome, who) == ("PeerLost", everybody[case.victim]) and case.how == "raise"
        for member in left:
            member.start("crew:sync")
        for member in left:
            member.result().get()
    for member in left:
        member.start(go_on)
    assert [member.result().get() for member in left] == [others] * len(left)
    members[case.victim].process.close()
    mortals.disband(left)


FEW = [
    Case("resume", "scaled", "list", True, "2+2", "auto", 2, "between", 1),
    Case("resume", "avg", "list", False, "woven", "tcp", 1, "all_gather", 1),
    Case("retry", "scaled", "list", True, "3+1", "tcp", 3, "all_gather"),
    Case("retry", "avg", "list", True, "2+2", "auto", 0, "tokens"),
    Case("raise", "scaled", "list", True, "woven", "auto", 1, "between"),
]


@pytest.mark.parametrize("case", FEW, ids=str)
def test_survivors_have_the_bytes_of_those_who_contributed(mortals, tmp_path, case):
    one_dies(mortals, tmp_path, case)


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("transport", ["auto", "tcp"])
@pytest.mark.parametrize("places", PLACES)
@pytest.mark.parametrize("how", ["retry", "raise", "resume"])
def test_survivors_have_the_bytes_of_those_who_contributed_whenever_it_is(
    mortals, tmp_path, how, places, transport
):
    every = [c for c in cases() if (c.how, c.places, c.transport) == (how, places, transport)]
    few = covering(every, lambda c: (c.op, c.lies, c.in_place, c.victim, c.phase, c.part))
    for number, case in enumerate(few + random.Random(1).sample(every, 20)):
        (folder := tmp_path / str(number)).mkdir()
        one_dies(mortals, folder, case)


STOPPED = [
    Case("resume", "scaled", "list", True, "2+2", "tcp", 1, "reduce_scatter", 1),
    Case("retry", "scaled", "list", True, "2+2", "auto", 1, "all_gather"),
]


@pytest.mark.parametrize("case", STOPPED, ids=str)
def test_every_array_is_as_it_was_when_one_gives_up(mortals, tmp_path, case):
    members = band(mortals, case)
    for rank, member in enumerate(members):
        if rank == case.victim:
            member.start(die, case, str(tmp_path), "stop")
        else:
            member.start(reduce, case, 1.5 if rank == 0 else DEADLINE)
    stopped(members[case.victim])
    eventually(lambda: mortals.group_of(members).round is not None)
    members[case.victim].signal(signal.SIGCONT)
    found = [member.result().get() for member in members]
    assert found == [("Timeout", "")] * SIZE, found
    for member in members:
        member.start("crew:sync")
    for member in members:
        member.result().get()
    mortals.disband(members)
