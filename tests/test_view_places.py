"""Sites and the plan table in the views of real peers: after a death, a sync, and a restart."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from collections.abc import Iterator

import numpy as np
import pytest

import collectives
from collectives.membership.view import Choice, LevelChoice
from collectives.topology import LevelRow, Table
from crew import DEADLINE, Crew, Member
from test_coordinator_restart import CoordinatorProcess, eventually, grow

COUNT = 100_000
RING = Choice("all_reduce", 2**64 - 1, "ring")


@contextlib.contextmanager
def crew_at(coordinator, *sites: str) -> Iterator[Crew]:
    """A peer at each of the sites, by rank, in a group that may shrink to one."""
    crew = Crew(1, [{"site": site} for site in sites], join={"min_size": 1})
    crew.coordinator = coordinator
    with crew:
        for present in range(1, len(sites)):
            crew.add()
            eventually(lambda n=present: peers_of(coordinator) > n)
        crew.members[0].start(grow, len(sites))
        assert [m.result().get() for m in (*crew.members[1:], crew.members[0])] == [
            *range(1, len(sites)),
            0,
        ]
        yield crew


def peers_of(coordinator) -> int:
    if isinstance(coordinator, CoordinatorProcess):
        return len(coordinator.group()["peers"])
    groups = coordinator.state.groups
    return len(groups["default"].peers) if groups else 0


# ---- in the processes ----------------------------------------------------------------------------


def placed(group: collectives.Group) -> tuple:
    view = group.view
    return view.number, view.places, tuple(peer.site for peer in view.peers), view.table


def tens_of_kilobytes(group: collectives.Group) -> list[int]:
    """What the hierarchical plan sends to each rank; the view is of one who knows all deaths."""
    array = np.full(COUNT, group.rank + 1.0)
    work = group.all_reduce_async(array, algorithm="hierarchical", timeout=DEADLINE)
    work.wait()
    sent = {use.peer: use.sent_bytes for use in work.telemetry().links}
    return [round(sent.get(peer.name, 0) / 10_000) for peer in group.peers]


def to_whom(group: collectives.Group) -> list[int]:
    """The ranks to which an all-reduce sends; the view is that of its end."""
    array = np.full(COUNT, group.rank + 1.0)
    work = group.all_reduce_async(array, timeout=DEADLINE)
    names = work.wait().contributors
    links = {use.peer: use.sent_bytes for use in work.telemetry().links}
    assert (array == array[0]).all()
    return [rank for rank, name in enumerate(names) if links.get(name, 0) > COUNT]


def sync(group: collectives.Group) -> tuple:
    group.sync(timeout=DEADLINE)
    return placed(group)


def kill(crew: Crew, rank: int) -> None:
    """It dies; the others are indexed by their new ranks."""
    member: Member = crew.members.pop(rank)
    member.signal(signal.SIGKILL)
    member.end()


# ---- the tests -----------------------------------------------------------------------------------


def test_sites_and_the_table_are_in_the_view_and_survive_a_death():
    coordinator = collectives.Coordinator("127.0.0.1:0", plans=[RING])
    with crew_at(coordinator, "lab", "attic", "lab", "attic") as crew:
        ((number, *shown),) = set(crew.get(placed))
        assert shown == [((0, 1, 0, 1),), ("lab", "attic", "lab", "attic"), (RING,)]
        assert crew.get(to_whom) == [[1], [2], [3], [0]], "the default here is not the ring"
        kill(crew, 0)
        assert crew.get(to_whom) == [[1], [2], [0]], "the core has it still"
        ((after, *shown),) = set(crew.get(placed))
        assert after > number
        assert shown == [((1, 0, 1),), ("attic", "lab", "attic"), (RING,)]
        known = coordinator.state.groups["default"].view
        assert known is not None
        assert (known.places, known.table) == (((1, 0, 1),), (RING,))
        newcomer = crew.add()
        eventually(lambda: peers_of(coordinator) == 4)
        for member in crew.members[:3]:
            member.start(sync)
        assert newcomer.result().get() == 3
        newcomer.start(placed)
        ((_, *shown),) = {member.result().get() for member in crew.members}
        assert shown == [((0, 1, 0, 0),), ("attic", "lab", "attic", "attic"), (RING,)]


def test_the_core_has_the_places_of_those_who_stay():
    with crew_at(collectives.Coordinator("127.0.0.1:0"), "lab", "attic", "lab", "lab") as crew:
        whole = crew.get(tens_of_kilobytes)
        kill(crew, 0)
        crew.get(to_whom)
        ((_, places, *_),) = set(crew.get(placed))
        assert places == ((1, 0, 0),)
        inherited = crew.get(tens_of_kilobytes)
    with crew_at(collectives.Coordinator("127.0.0.1:0"), "attic", "lab", "lab") as crew:
        formed = crew.get(tens_of_kilobytes)
    with crew_at(collectives.Coordinator("127.0.0.1:0"), "lab", "lab", "attic") as crew:
        other = crew.get(tens_of_kilobytes)
    print(whole, inherited, formed, other)
    assert inherited == formed, "as in a view that was formed with these places"
    assert formed != other, "what is sent to whom depends on them"


def test_without_sites_and_a_table_peers_of_one_host_have_a_flat_view():
    with Crew(3) as crew:
        ((_, *shown),) = set(crew.get(placed))
        assert shown == [(), ("", "", ""), ()]
        assert crew.get(to_whom) == [[1, 2], [0, 2], [0, 1]]


def test_the_site_is_that_of_the_environment_where_none_is_named(monkeypatch):
    monkeypatch.setenv("COLLECTIVES_SITE", "cellar")
    assert collectives.Options().chosen_site == "cellar"
    assert collectives.Options(site="attic").chosen_site == "attic"
    assert collectives.Options(site="").chosen_site == ""


def test_a_restarted_coordinator_knows_the_places_of_the_view(tmp_path):
    coordinator = CoordinatorProcess(journal=str(tmp_path / "journal"))
    with crew_at(coordinator, "lab", "attic", "lab") as crew:
        before = crew.get(placed)
        assert before[0][1] == ((0, 1, 0),)
        coordinator.kill()
        coordinator.again()
        coordinator.all_back(3)
        assert coordinator.group()["view"]["places"] == [[0, 1, 0]]
        assert crew.get(placed) == before
        kill(crew, 0)
        crew.get(to_whom)
        assert {shown[1:3] for shown in crew.get(placed)} == {(((1, 0),), ("attic", "lab"))}
        assert coordinator.group()["view"]["places"] == [[1, 0]]


def bits(group: collectives.Group) -> tuple[bytes, tuple]:
    array = np.random.default_rng(group.rank).standard_normal(COUNT)
    group.all_reduce(array, timeout=DEADLINE)
    return array.tobytes(), group.view.levels


def test_levels_are_pinned_change_no_bits_and_survive_a_death():
    found = []
    for plans in (("direct", "direct"), ("ring", "ring"), ()):
        levels = tuple(LevelRow(plan, "auto") for plan in plans)
        coordinator = collectives.Coordinator("127.0.0.1:0", plans=Table(levels=levels))
        with crew_at(coordinator, "lab", "attic", "lab", "attic", "lab") as crew:
            ((array, pinned),) = set(crew.get(bits))
            assert [level.plan for level in pinned] == list(plans)
            kill(crew, 1)
            ((after, pinned),) = set(crew.get(bits))
            assert [level.plan for level in pinned] == list(plans)
            found.append((array, after))
    assert len(set(found)) == 1


@pytest.mark.parametrize(
    ("levels", "transport", "why"),
    [
        (
            ("tcp",),
            "auto",
            "has tcp for level 0, and '.*' .rank [01]. is reached by shm there; let",
        ),
        (("shm",), "tcp", "has shm for level 0, and '.*' .rank [01]. is reached by tcp there; let"),
        (("tcp", "shm"), "tcp", None),  # there is no second level here
        (("shm",), "auto", None),
    ],
)
def test_a_level_is_refused_a_transport_that_its_links_have_not(levels, transport, why):
    table = Table(levels=tuple(LevelRow(transport=name) for name in levels))
    with collectives.Coordinator("127.0.0.1:0", plans=table) as coordinator:
        crew = Crew(2, {"transport": transport})
        crew.coordinator = coordinator
        if why is None:
            with crew:
                crew.get(bits)
            return
        with pytest.raises(AssertionError, match=f"UnsupportedError: the plan table {why}"):
            crew.__enter__()


def test_peers_refuse_what_they_do_not_know_of_a_level():
    level = LevelChoice(codec="mxint8")
    with (
        collectives.Coordinator("127.0.0.1:0", plans=Levels((level,))) as coordinator,
        pytest.raises(collectives.CollectiveError, match="codec 'mxint8' for level 0, which"),
    ):
        collectives.join(coordinator.address, timeout=DEADLINE)


@dataclasses.dataclass(frozen=True)
class Levels:
    """A table of a release that knows more."""

    levels: tuple[LevelChoice, ...]
    rows: tuple[Choice, ...] = ()


def test_a_table_that_cannot_be_sent_is_refused():
    with pytest.raises(collectives.InvalidArgument, match="the plan table has 257 entries"):
        collectives.Coordinator("127.0.0.1:0", plans=[RING] * 257)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (Choice("all_reduce", 1, "teleport"), "this release does not know"),
        (Choice("all_reduce", 2**40, "whole"), "algorithm 'whole' is for up to"),
        (Choice("broadcast", 1, "ring"), "does no broadcast"),
    ],
)
def test_peers_say_what_is_wrong_with_a_table(row, why):
    with (
        collectives.Coordinator("127.0.0.1:0", plans=[row]) as coordinator,
        pytest.raises(collectives.CollectiveError, match=why),
    ):
        collectives.join(coordinator.address, timeout=DEADLINE)
