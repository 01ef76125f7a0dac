"""Two hosts with two peers each: memory within a host, TCP across, in one operation (G1, G4).

A network namespace is a host of its own, as the local sockets over which segments are handed are of
one namespace. Nobody knows anybody's process here, though all share a kernel: who died is found by
the transports alone. It takes root.
"""

from __future__ import annotations

import contextlib
import itertools
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import collectives
import mortals
from calls import LARGE, TINY, Call, ring_sum
from collectives import incarnation
from collectives.chaos import namespaces
from collectives.chaos.veth import Switch
from crew import DEADLINE, Member
from mortals import Case, Mortals
from raw_peer import until
from test_lifecycle import shared_memory


def unsupported() -> str:
    """Why not here; empty: nothing is missing."""
    try:
        with Switch() as switch:
            switch.host("a")
    except collectives.UnsupportedError as error:
        return str(error)
    return ""


pytestmark = pytest.mark.skipif(bool(unsupported()), reason=unsupported() or "not skipped")

HOSTS = "aabb"  # of ranks 0 to 3


class World:
    """The hosts, and a coordinator on one of its own, so that control is never local traffic."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.switch = stack.enter_context(Switch())
        for name in "abc":
            self.switch.host(name)

        # Its threads, and with them its sockets, belong where it is started.
        def start() -> Any:
            where = f"{self.switch.address('c')}:0"
            return stack.enter_context(collectives.Coordinator(where))

        self.mortals = stack.enter_context(Mortals(self.switch.namespace("c").run(start)))
        self._numbers = itertools.count(1)

    def band(self, **options: Any) -> list[Member]:
        """A group of four, by rank; a name tells the host, and the rank."""
        members = self.mortals.take(len(HOSTS))
        coordinator, group = self.mortals.coordinator, f"mixed {next(self._numbers)}"
        for rank, (member, host) in enumerate(zip(members, HOSTS, strict=True)):
            member.index = rank
            where = self.switch.namespace(host).path, self.switch.address(host), options
            member.start(settle, coordinator.address, group, f"{host}{rank}", *where)
            until(lambda n=rank: self.known(group) > n, "the coordinator does not hear of it")
        assert [member.result().get() for member in members] == list(range(len(HOSTS)))
        return members

    def known(self, group: str) -> int:
        """How many of it the coordinator has heard of."""
        found = self.mortals.coordinator.state.groups.get(group)
        return len(found.peers) if found else 0


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with contextlib.ExitStack() as stack:
        yield World(stack)


@pytest.fixture(scope="module")
def band(world: World) -> list[Member]:
    """One of which nobody dies; it ends with the world."""
    return world.band()


# ---- in the processes ----------------------------------------------------------------------------


def settle(
    _: Any, address: str, group: str, me: str, namespace: str, host: str, more: dict[str, Any]
) -> int:
    """Be on a host, for good, and in a group of four."""
    namespaces.enter(namespace)
    incarnation.process_identity = lambda: ""  # type: ignore[attr-defined]
    options = {"bind": (host,), "connections": 1, "transport": "auto", **more}
    return mortals.found(None, address, group, me, len(HOSTS), 1, options)


def uses(group: collectives.Group) -> tuple[int, int]:
    """Segments of others that are mapped, connections."""
    mine = sum("rw-s" in line for line in shared_memory())
    return len(shared_memory()) - 2 * mine, group.counters().open_connections


def places(group: collectives.Group) -> tuple[tuple[int, ...], ...]:
    return group.view.places


def tuned(group: collectives.Group) -> tuple[Any, ...]:
    for count in (10, 100_000, 1_000_000):
        array = np.ones(count)
        group.all_reduce(array, timeout=DEADLINE)
        assert (array == group.size).all()
    return group.view.places, group.view.table


def sent() -> dict[str, int]:
    """Bytes that each device of this host has sent."""
    lines = Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]
    return {name.strip(): int(rest.split()[8]) for name, rest in (x.split(":") for x in lines)}


def values(dtype: np.dtype[Any], count: int, name: str) -> np.ndarray:
    random = np.random.default_rng([count, zlib.crc32(name.encode())])
    if dtype.kind == "f":
        return random.standard_normal(count).astype(dtype)
    return random.integers(0, 100, count).astype(dtype)


def reduce_all(group: collectives.Group, kind: str, sizes: tuple[int, ...]) -> None:
    """In a ring, whose bits can be foretold."""
    dtype, names = np.dtype(kind), [peer.name for peer in group.peers]
    assert uses(group) == (1, 2), "memory to the one of this host, connections to the others"
    for size in sizes:
        count = size // dtype.itemsize + 1  # that parts be uneven
        array = values(dtype, count, group.name)
        wanted = ring_sum([values(dtype, count, name) for name in names])
        group.barrier(timeout=DEADLINE)
        before = sent()
        work = group.all_reduce_async(array, algorithm="ring", timeout=DEADLINE)
        assert work.wait().value.tobytes() == wanted.tobytes(), f"wrong bits: {size} bytes"
        links = {use.peer: use.sent_bytes for use in work.telemetry().links}
        group.barrier(timeout=DEADLINE)
        after = sent()
        # In the ring: to the other one of this host from one of the two, to another host from the
        # other.
        assert links[names[(group.rank + 1) % group.size]] > size, links
        assert after["lo"] == before["lo"], "connections within the host"
        # What the others have to hear of this host: its sum.
        assert after["eth0"] - before["eth0"] > size


def share(group: collectives.Group) -> None:
    """What is large goes between the hosts once, whoever has called it."""
    dtype, names = np.dtype("f4"), [peer.name for peer in group.peers]
    far = [name for name in names if name[0] != group.name[0]]
    count = (8 << 20) // dtype.itemsize
    given = values(dtype, count, group.name)
    asked, chosen = given.copy(), given.copy()
    group.all_reduce(asked, algorithm="hierarchical", timeout=DEADLINE)
    work = group.all_reduce_async(chosen, timeout=DEADLINE)
    assert work.wait().value.tobytes() == asked.tobytes()
    wanted = sum(values(dtype, count, name).astype(np.float64) for name in names)
    assert np.allclose(chosen, wanted, atol=1e-5)
    links = {use.peer: use.sent_bytes for use in work.telemetry().links}
    across = sum(links[name] for name in far)
    assert 0.5 < across / given.nbytes < 0.51, links  # the two of a host share it
    root = len(names) - 1
    group.reduce(given, root, timeout=DEADLINE)
    assert group.rank != root or given.tobytes() == asked.tobytes(), "a reduce adds as all_reduce"


def die(
    group: collectives.Group, case: Case, victims: tuple[str, ...], phase: str, folder: str
) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    """The outcome of an operation in which some die, checked, and who took part in the next."""
    group.barrier(timeout=DEADLINE)
    if group.name in victims:
        mortals.arm(group, phase, folder)
    outcome, _ = mortals.operate(group, case)
    left = mortals.go_on(group)
    near = [name for name in left if name[0] == group.name[0]]
    assert places(group) == (tuple("ab".index(name[0]) for name in left),)
    wanted = len(near) - 1, len(left) - len(near)
    until(lambda: uses(group) == wanted, "links to the dead are kept, or to the living are not")
    return outcome, left


# ---- the tests -----------------------------------------------------------------------------------


def test_the_view_shows_who_shares_a_host(band):
    for member in band:
        member.start(places)
    assert [member.result().get() for member in band] == [((0, 0, 1, 1),)] * 4


def test_links_within_and_between_hosts_are_measured_and_all_get_one_table(world):
    members = world.band(tune=True)
    for member in members:
        member.start(tuned)
    ((places, table),) = {member.result().get() for member in members}
    assert places == ((0, 0, 1, 1),)
    assert "all_reduce" in {row.kind for row in table}
    for member in members:
        member.kill()
        member.end()


@pytest.mark.parametrize("kind", ["f8", "f4", "f2", "i8", "u1"])
def test_one_operation_goes_over_memory_and_tcp_and_has_the_bits_of_the_ring(band, kind):
    largest = 8 << 20 if kind in ("f4", "u1") else 2 << 20
    for member in band:
        member.start(reduce_all, kind, (1 << 10, 60 << 10, largest))
    for member in band:
        member.result().get()


def test_what_is_large_is_sent_to_the_other_host_once(band):
    for member in band:
        member.start(share)
    for member in band:
        member.result().get()


DEATHS = {
    "of one beside": ("a1",),
    "of one far away": ("b3",),
    "of one beside and one far away": ("a1", "b3"),
    "of a host": ("b2", "b3"),
}
MOMENTS = [
    (TINY, "issued"), (TINY, "complete"), (LARGE, "reduce_scatter"), (10 * LARGE, "between"),
    (10 * LARGE, "all_gather"),
]  # fmt: skip
SOME = [0, 4, 8, 12, 17]  # each death, each moment


@pytest.mark.parametrize(
    ("who", "count", "phase"),
    [
        pytest.param(who, *moment, marks=() if index in SOME else pytest.mark.full)
        for index, (who, moment) in enumerate(itertools.product(DEATHS, MOMENTS))
    ],
)
def test_survivors_on_both_hosts_agree_after_a_death(world, who, count, phase, tmp_path):
    members = world.band()
    case = Case(len(members), Call("all_reduce", count, seed=count, algorithm="ring"))
    for member in members:
        member.start(die, case, DEATHS[who], phase, str(tmp_path))
    outcomes = {f"{HOSTS[member.index]}{member.index}": member.result() for member in members}
    dead = {name for name, outcome in outcomes.items() if outcome.error == "Died"}
    assert dead, "nobody died"
    assert dead <= set(DEATHS[who])
    alive = [outcome.get() for name, outcome in outcomes.items() if name not in dead]
    print(f"{dead} died; {alive[0]}")
    assert alive == alive[:1] * len(alive)
    outcome, left = alive[0]
    assert outcome[0] == "ok"
    assert set(left) == set(outcomes) - dead
    for member in members:
        member.kill()
        member.end()
