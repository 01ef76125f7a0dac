"""Hosts, sites and the plan table of a view: what the coordinator makes of what peers say."""

from __future__ import annotations

import dataclasses
import io
import itertools
import uuid

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from test_coordinator import Desk, of, peer_id
from test_messages import tampered
from test_restart import back, restarted, word

from collectives.cli.status import render
from collectives.membership.codec import decode
from collectives.membership.messages import Commit, Hello, Prepared, Recollect, Verdict
from collectives.membership.places import places_of
from collectives.membership.report import decode_issued
from collectives.membership.status import snapshot
from collectives.membership.view import Choice, LevelChoice, Peer, View

TABLE = (Choice("all_reduce", 4096, "doubling"), Choice("all_reduce", 2**40, "ring"))
LEVELS = (LevelChoice("ring", "shm"), LevelChoice(transport="tcp"))


def peers_at(sites: str) -> tuple[Peer, ...]:
    return tuple(Peer(peer_id(i), f"p{i}", (), site=site.strip()) for i, site in enumerate(sites))


def places(hosts: str, sites: str = "", but: tuple[tuple[int, int], ...] = ()):
    """Of peers whose hosts, and sites, are letters; ``but`` for what some do not reach."""
    peers = peers_at(sites or " " * len(hosts))
    nearby = {
        peer.id: tuple(
            other
            for other, host in enumerate(hosts)
            if host == hosts[rank] and (rank, other) not in but
        )
        for rank, peer in enumerate(peers)
    }
    return places_of(peers, nearby)


def test_a_host_is_peers_that_reach_each_other_by_memory():
    assert places("aabb") == (((0, 0, 1, 1),), ())
    assert places("abab") == (((0, 1, 0, 1),), ())
    assert places("abca") == (((0, 1, 2, 0),), ())


def test_a_level_that_says_nothing_is_left_out():
    assert places("aaaa") == ((), ()), "one host"
    assert places("abcd") == ((), ()), "hosts of one peer"
    assert places("abcd", "xxxx") == ((), ()), "one site"
    assert places("abcd", "wxyz") == ((), ()), "sites of one peer"
    assert places("aabb", "xxyy") == (((0, 0, 1, 1),), ()), "the sites are the hosts"
    assert places("abcd", "xyxy") == (((0, 1, 0, 1),), ()), "sites alone"


def test_hosts_are_within_sites():
    assert places("aabbcc", "xxxxyy") == (((0, 0, 1, 1, 2, 2), (0, 0, 0, 0, 1, 1)), ())
    assert places("aabbcc", "    yy") == (((0, 0, 1, 1, 2, 2), (0, 0, 0, 0, 1, 1)), ())


def test_a_host_at_two_sites_counts_as_two_and_that_is_said():
    found, odd = places("aaab", "xxyy")
    assert found == ((0, 0, 1, 2), (0, 0, 1, 1))
    assert len(odd) == 1
    assert "'p0' of site 'x' and 'p2' of site 'y' are on one host" in odd[0]


def test_who_reaches_not_all_of_a_host_joins_the_first_that_it_fits():
    assert places("aaab", but=((0, 2),)) == (((0, 0, 1, 2),), ()), "one says so, both are apart"
    assert places("aaab", but=((2, 0),)) == (((0, 0, 1, 2),), ())
    assert places("aaaa", but=((0, 2), (0, 3))) == (((0, 0, 1, 1),), ())
    assert places("aaaa", but=((1, 2), (0, 3))) == (((0, 0, 1, 1),), ())


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_places_are_a_hierarchy_of_what_the_peers_said(data):
    size = data.draw(st.integers(1, 9))
    peers = peers_at("".join(data.draw(st.sampled_from(" xy")) for _ in range(size)))
    pairs = list(itertools.permutations(range(size), 2))
    said = {pair for pair in pairs if data.draw(st.booleans())}
    nearby = {
        peer.id: tuple(r for r in range(size) if r == rank or (rank, r) in said)
        for rank, peer in enumerate(peers)
    }
    levels, odd = places_of(peers, nearby)
    assert (levels, odd) == places_of(peers, nearby)
    crossed = any(
        (a, b) in said and (b, a) in said and peers[a].site != peers[b].site for a, b in pairs
    )
    assert bool(odd) == crossed
    for level in levels:
        assert 1 < len(set(level)) < size
        assert list(dict.fromkeys(level)) == list(range(len(set(level)))), "numbered as they come"
    for a, b in pairs:
        shared = [level[a] == level[b] for level in levels]
        assert shared == sorted(shared), "who shares a group shares the outer one"
        if any(shared):
            both = (a, b) in said and (b, a) in said
            assert both or peers[a].site == peers[b].site, "neither a host nor a site"


# ---- the coordinator ---------------------------------------------------------------------------


def formed(hosts: str = "aabb", sites: str = "", plans=TABLE, levels=LEVELS) -> Desk:
    """A group whose members said on which hosts they are."""
    desk = Desk()
    desk.state = dataclasses.replace(desk.state, plans=plans, levels=levels)
    for i in range(len(hosts)):
        desk.hello(i, len(hosts), site=sites[i] if sites else "")
    committed(desk, hosts)
    return desk


def committed(desk: Desk, hosts: str) -> list:
    """All members of the view in preparation have connected."""
    view, sent = desk.group.preparing.view, []
    for rank, peer in enumerate(view.peers):
        near = tuple(r for r, host in enumerate(hosts) if host == hosts[rank])
        sent += desk.say(peer.id.int - 1, Prepared(desk.group.id, view.term, view.number, near))
    return sent


def test_all_members_are_told_the_places_and_the_table():
    desk = Desk()
    desk.state = dataclasses.replace(desk.state, plans=TABLE, levels=LEVELS)
    for i in range(4):
        desk.hello(i, 4, site="lab" if i < 2 else "attic")
    commits = of(Commit, committed(desk, "abbc"))
    assert len(commits) == 4
    assert {commit.places for commit in commits} == {((0, 0, 1, 1),)}
    assert {(commit.table, commit.levels) for commit in commits} == {(TABLE, LEVELS)}
    assert desk.group.view.places == ((0, 0, 1, 1),)
    assert [peer.site for peer in desk.group.view.peers] == ["lab", "lab", "attic", "attic"]


def test_status_shows_sites_places_the_table_and_a_host_at_two_sites():
    picture = snapshot(formed("aabb", "xyyy").state, 0.0)["groups"][0]
    assert picture["view"]["places"] == [[0, 1, 2, 2], [0, 1, 1, 1]]
    assert picture["view"]["table"] == [
        ["all_reduce", 4096, "doubling"],
        ["all_reduce", 2**40, "ring"],
    ]
    assert picture["view"]["levels"] == [["ring", "shm", "auto"], ["auto", "tcp", "auto"]]
    assert [peer["site"] for peer in picture["peers"]] == ["x", "y", "y", "y"]
    assert any("it counts as two" in reason["text"] for reason in picture["reasons"])


def test_status_prints_who_is_beside_whom():
    def shown(desk: Desk) -> str:
        console = Console(file=io.StringIO(), width=120)
        render(snapshot(desk.state, 0.0), "host:1", console)
        return console.file.getvalue()

    text = shown(formed("aabbc", "xxyyy"))
    assert "level 0: p0, p1 | p2, p3 | p4" in text
    assert "level 1: p0, p1 | p2, p3, p4" in text
    assert "plans: a table of 2 rows" in text
    assert "at level 1: plan auto, transport tcp, codec auto" in text
    assert "site" in text
    assert "site" not in (flat := shown(formed("aaa", plans=(), levels=()))), (
        "there is none to show"
    )
    assert "level" not in flat and "plans" not in flat


def test_a_peer_that_knows_nothing_of_places_makes_the_view_flat():
    desk = Desk()
    desk.state = dataclasses.replace(desk.state, plans=TABLE, levels=LEVELS)
    for i in range(3):
        desk.hello(i, 3)
    view = desk.group.preparing.view
    for i, nearby in enumerate([(0, 1), (0, 1), ()]):
        sent = desk.say(i, Prepared(desk.group.id, view.term, view.number, nearby))
    commits = of(Commit, sent)
    assert {(commit.places, commit.table, commit.levels) for commit in commits} == {((), (), ())}


def test_after_a_verdict_the_others_keep_their_places_and_the_table():
    desk = formed("aabbc", "xxxyy")
    before = desk.group.view
    desk.suspect(0, 1)
    verdict = of(Verdict, desk.decided())[0]
    view = desk.group.view
    assert [peer.name for peer in view.peers] == ["p0", "p2", "p3", "p4"]
    assert view.places == tuple((a, *rest) for a, _, *rest in before.places)
    assert (view.table, view.levels) == (TABLE, LEVELS)
    assert verdict.view == view
    _, *issued = decode_issued(verdict.data)
    assert before.following(*issued) == view, "who hears it from others knows the same"


def test_the_next_sync_asks_anew():
    desk = formed("aabb")
    desk.suspect(0, 1)
    desk.decided(fails=True)
    for i in (0, 2, 3):
        desk.reached(i)
    desk.hello(4)
    committed(desk, "abab")
    assert desk.group.view.places == ((0, 1, 0, 1),)


def test_a_restarted_coordinator_keeps_places_and_table_of_the_view():
    old = formed("aabb", "xxyy")
    new = restarted(old)
    assert new.group.view == old.group.view
    assert new.group.view.places and new.group.view.table == TABLE
    assert new.group.view.levels == LEVELS
    assert new.state.plans == new.state.levels == (), (
        "those of the next views are given at each start"
    )
    sent = back(new, 0, old, number=0)
    assert not of(Commit, sent)
    sent = new.say(0, Prepared(old.group.id, 1, old.group.view.number, (0, 1)))
    assert [(c.places, c.table, c.levels) for c in of(Commit, sent)] == [
        (old.group.view.places, TABLE, LEVELS)
    ]


def test_without_its_memory_it_learns_them_from_the_members():
    old = formed("aabb")
    new = Desk()
    for i in range(3):
        back(new, i, old)
        new.say(i, word(old, i))
    assert new.group.view.places == ((0, 0, 1, 1),)
    assert new.group.view.table == TABLE


def test_a_member_whose_places_are_not_of_its_view_is_not_believed():
    old = formed("aabb")
    new = Desk()
    back(new, 0, old)
    view = dataclasses.replace(old.group.view, places=((0, 0, 1),))
    new.say(0, word(old, 0, view=view))
    assert not new.group.recollections
    assert new.state.refused["message out of place"] == 1


def test_what_an_older_release_sends_has_no_places():
    view = View("g", 1, 1, 1, peers_at("x"), b"k" * 32, places=((0,),), table=TABLE)
    prepared, commit = Prepared(1, 1, 1, (0,)), Commit(1, 1, 1, 1, ((0,),), TABLE)
    assert decode(tampered(prepared, nearby=...)).nearby == ()
    older = decode(tampered(commit, places=..., table=...))
    assert (older.places, older.table) == ((), ())
    hello = Hello(uuid.UUID(int=1), "g", "p", (), 1, site="lab")
    assert decode(tampered(hello, site=...)).site == ""
    said = Recollect(peer_id(0), uuid.UUID(int=1), 1, view, 1)
    peer = [peer_id(0).bytes, "p0", [], "", ""]
    old_view = ["g", 1, 1, 1, [peer], b"k" * 32, 1]
    flat = decode(tampered(said, view=old_view)).view
    assert (flat.places, flat.table, flat.peers[0].site) == ((), (), "")
