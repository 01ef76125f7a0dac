"""Deaths while plans with levels run: members, whole hosts, and what joins hosts.

Hosts are network namespaces. Their links carry very little until the emulator has seen a part of
the operation pass, when the death comes. It takes root.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import signal
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

import collectives
import mortals
from collectives import incarnation
from collectives.chaos import namespaces
from collectives.chaos.profiles import Direction
from collectives.chaos.wan import Wan
from crew import DEADLINE, Member
from far_hosts import needs_root
from mortals import Mortals
from raw_peer import until

pytestmark = needs_root

COUNT = 400_000  # elements of float32
LINK = Direction(rate=100e6, delay=1e-3, queue=256 << 10)
# What an operation meets until the death: it needs ten seconds, and the test is in time.
NARROW = Direction(rate=1e6, delay=1e-3, queue=32 << 10)
DETECTION = 3.0  # seconds: others load the machine, too
ROOT = 1


@dataclasses.dataclass(frozen=True)
class Case:
    """Who is where, what they call, and what happens to whom.

    Attributes:
        hosts: a letter for each rank.
        dead: ranks that are killed.
        cut: two hosts between which nothing passes from then on.
        gone: ranks that are not in the group after it; the dead, if nothing is cut.
        scaled: a scaled sum, of a list of arrays.
    """

    hosts: str
    kind: str = "all_reduce"
    algorithm: str | None = "hierarchical"
    dead: tuple[int, ...] = ()
    cut: str = ""
    gone: tuple[int, ...] = ()
    scaled: bool = False

    def __str__(self) -> str:
        what = f"cut {self.cut}" if self.cut else f"dead {','.join(map(str, self.dead))}"
        scaled = "scaled " if self.scaled else ""
        return f"{scaled}{self.kind} {self.algorithm} {self.hosts} {what}"


class World:
    """The hosts, and a coordinator on one of its own, which everybody reaches."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.wan = stack.enter_context(Wan(seed=1))
        for name in "abcz":
            self.wan.host(name)
        self.shape(LINK)

        # Its threads, and with them its sockets, belong where it is started.
        def start() -> Any:
            return stack.enter_context(collectives.Coordinator(f"{self.wan.address('z')}:0"))

        self.mortals = stack.enter_context(Mortals(self.wan.namespace("z").run(start)))
        self._numbers = itertools.count(1)

    def band(self, hosts: str) -> list[Member]:
        """A group on these hosts, by rank."""
        members = self.mortals.take(len(hosts))
        coordinator, group = self.mortals.coordinator, f"hosts {next(self._numbers)}"
        for rank, (member, host) in enumerate(zip(members, hosts, strict=True)):
            where = self.wan.namespace(host).path, self.wan.address(host)
            member.start(settle, coordinator.address, group, f"{host}{rank}", len(hosts), *where)
            until(lambda n=rank: self.known(group) > n, "the coordinator does not hear of it")
        assert [member.result().get() for member in members] == list(range(len(hosts)))
        return members

    def known(self, group: str) -> int:
        """How many of it the coordinator has heard of."""
        found = self.mortals.coordinator.state.groups.get(group)
        return len(found.peers) if found else 0

    def passed(self) -> int:
        """Bytes between hosts, up to now."""
        return sum(self.wan.stats(*way).bytes for way in itertools.permutations("abc", 2))

    def shape(self, direction: Direction) -> None:
        for way in itertools.permutations("abc", 2):
            self.wan.shape(*way, direction)

    def cut(self, hosts: str, on: bool) -> None:
        for way in itertools.permutations(hosts, 2):
            self.wan.cut(*way, on)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with contextlib.ExitStack() as stack:
        yield World(stack)


# ---- in the processes ----------------------------------------------------------------------------


def settle(_: Any, address: str, group: str, me: str, size: int, namespace: str, host: str) -> int:
    """Be on a host, for good, and in a group."""
    namespaces.enter(namespace)
    # The kernel knows of the processes of all hosts; a host knows of its own alone.
    incarnation.process_identity = lambda: ""  # type: ignore[attr-defined]
    options = {"bind": (host,), "detection": DETECTION, "transport": "auto"}
    return mortals.found(None, address, group, me, size, 1, options)


def data_of(name: str) -> np.ndarray:
    """Half of it are integers, whose sum is the same in any order; half are not, and it is not."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    halves = random.integers(0, 100, COUNT // 2), random.standard_normal(COUNT // 2)
    return np.concatenate([half.astype(np.float32) for half in halves])


def factor_of(name: str) -> float:
    """By which all products are exact, so that half of it are integers still."""
    return float(1 + int(name[1:]))


def operate(group: collectives.Group, kind: str, algorithm: str, scaled: bool) -> tuple[Any, ...]:
    """What came of it, checked, and who took part in what came after."""
    names = [peer.name for peer in group.peers]
    given = data_of(group.name)
    array = given.copy()
    rooted: dict[str, Any] = {"root": ROOT} if kind in ("reduce", "broadcast") else {}
    blocks = uneven(len(names))
    how: dict[str, Any] = {"counts": blocks, "resize": True} if kind == "reduce_scatter" else rooted
    passed: Any = array
    if scaled:
        how = {**how, "op": collectives.scaled_sum(factor_of(group.name))}
        passed = np.split(array, [1, 1, COUNT // 7, COUNT // 2 + 1])
    try:
        result = getattr(group, kind)(passed, algorithm=algorithm, timeout=DEADLINE, **how)
    except collectives.PeerLost as error:
        assert array.tobytes() == given.tobytes(), "an operation that raised wrote to its input"
        outcome: tuple[Any, ...] = ("PeerLost", error.peer)
        group.sync(timeout=DEADLINE)
    else:
        gets = kind != "reduce" or group.name == names[ROOT]
        value = array if scaled and gets else result.value
        if kind == "reduce_scatter":
            check_block(result, names.index(group.name), blocks)
        else:
            check(kind, value, result.contributors, gets, scaled)
        same = kind not in ("reduce", "reduce_scatter")
        outcome = ("ok", result.contributors, zlib.crc32(value) if same else 0)
    left = mortals.go_on(group)
    return outcome, left, group.view.places


def uneven(size: int) -> list[int]:
    """A block for each rank; not all have one."""
    blocks = [COUNT // (size + rank) if rank != 1 else 0 for rank in range(size - 1)]
    return [*blocks, COUNT - sum(blocks)]


def check_block(result: collectives.Result, rank: int, blocks: list[int]) -> None:
    begin = sum(blocks[:rank])
    inputs = [data_of(name)[begin : begin + blocks[rank]] for name in result.contributors]
    assert result.value.shape == (blocks[rank],)
    np.testing.assert_allclose(result.value, np.sum(inputs, axis=0), atol=1e-5)  # as below
    whole = max(COUNT // 2 - begin, 0)
    exact = np.sum([one[:whole] for one in inputs], axis=0)
    assert result.value[:whole].tobytes() == exact.tobytes()


def check(
    kind: str, value: np.ndarray | None, contributors: Sequence[str], gets: bool, scaled: bool
) -> None:
    """The result is that of the contributors that it names."""
    inputs = [data_of(name) for name in contributors]
    if scaled:
        factors = [np.float32(factor_of(name)) for name in contributors]
        inputs = [x * factor for x, factor in zip(inputs, factors, strict=True)]
    if not gets:
        assert value is None
        return
    assert value is not None
    if kind == "broadcast":
        assert value.tobytes() == inputs[0].tobytes()
    elif kind == "all_gather":
        assert value.tobytes() == np.concatenate(inputs).tobytes()
    else:
        whole, half = np.sum(inputs, axis=0), COUNT // 2
        assert value[:half].tobytes() == whole[:half].tobytes()
        # Sums of up to six floats of size 6 in another order: some units of the last place.
        np.testing.assert_allclose(value[half:], whole[half:], atol=6e-5 if scaled else 1e-5)


# ---- the tests -----------------------------------------------------------------------------------

SOME = [
    Case("aabb", dead=(3,)),
    Case("aabb", cut="ab", gone=(2, 3)),
    Case("aabbc", "reduce_scatter", dead=(3,)),
]
MORE = [
    Case("aabb", dead=(0,)),
    Case("aabb", dead=(2, 3)),
    Case("aabb", dead=(1, 2)),
    Case("abab", dead=(2,)),
    Case("aaab", dead=(3,)),
    Case("aabbc", dead=(1,)),
    Case("abcabc", dead=(2, 5)),
    Case("aabbcc", cut="bc", gone=(4, 5)),
    Case("abc", cut="ab", gone=(1,)),
    *(Case("aabb", dead=dead, scaled=True) for dead in ((0,), (1, 2), (2, 3))),
    Case("aabbcc", cut="bc", gone=(4, 5), scaled=True),
    Case("aabbcc", "reduce", dead=(4,), scaled=True),
    *(
        Case("aabbcc", kind, dead=dead)
        for kind in ("reduce", "reduce_scatter", "broadcast", "all_gather")
        for dead in ((ROOT,), (0,), (4,), (2, 3))
    ),
]


@pytest.mark.parametrize(
    "case",
    [*SOME, *(pytest.param(case, marks=pytest.mark.full) for case in MORE)],
    ids=str,
)
def test_survivors_have_the_same_bytes_whoever_dies_between_the_hosts(world, case):
    members = world.band(case.hosts)
    world.shape(NARROW)
    before = world.passed()
    try:
        for member in members:
            member.start(operate, case.kind, case.algorithm, case.scaled)
        # Some of it is on its way, and most of it is not.
        until(lambda: world.passed() - before > 50_000, "nothing passes between the hosts")
        for rank in case.dead:
            os.kill(members[rank].pid, signal.SIGKILL)
        if case.cut:
            world.cut(case.cut, True)
        world.shape(LINK)
        outcomes = [member.result() for member in members]
    finally:
        world.shape(LINK)
        if case.cut:
            world.cut(case.cut, False)
        for member in members:
            member.kill()
            member.end()
    gone = case.gone or case.dead
    for rank, outcome in enumerate(outcomes):
        if rank in gone:
            assert outcome.error == ("Died" if rank in case.dead else "Evicted"), outcome.trace
    alive = [outcomes[rank].get() for rank in range(len(members)) if rank not in gone]
    print(alive[0])
    assert alive == alive[:1] * len(alive)
    (what, *rest), left, places = alive[0]
    names = [f"{host}{rank}" for rank, host in enumerate(case.hosts)]
    assert set(left) == {name for rank, name in enumerate(names) if rank not in gone}
    hosts = [case.hosts[rank] for rank in range(len(names)) if rank not in gone]
    if len(set(hosts)) not in (1, len(hosts)):
        # Their numbers are those of before; who shares one is who shares a host.
        (groups,) = places
        assert [groups.index(group) for group in groups] == [hosts.index(host) for host in hosts]
    lost_root = case.kind in ("reduce", "broadcast") and ROOT in gone
    if what == "ok":
        assert not lost_root or case.kind == "broadcast"
        assert set(left) <= set(rest[0]) or case.kind == "broadcast"
    else:
        assert lost_root or case.kind == "all_gather", rest
