"""The pure parts of shared state: manifests, elections, plans, and when packing pays."""

from __future__ import annotations

import contextlib
import random
import uuid

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collectives.errors import InvalidArgument, UnsupportedError
from collectives.state import SharedState
from collectives.state.content import CHUNK, DIGEST, Entry, Manifest, ManifestError, digests_of
from collectives.state.election import BALLOT, NO_RUN, Ballot, elect
from collectives.state.plan import DEPTH, Gauge, Piece, Plan
from collectives.state.service import Request, unpack

# ---- what is shared ------------------------------------------------------------------------------


def test_a_manifest_survives_its_encoding_and_knows_every_byte():
    state = SharedState({"w": np.arange(CHUNK // 4, dtype=np.float64), "b": b"x", "n": 1, "f": 0.5})
    manifest = state.manifest()
    assert Manifest.decode(manifest.encode()) == manifest
    assert len(manifest.entries["w"].digests) == 2 * DIGEST
    seen = {manifest.encode()}
    for change in (
        lambda: state["w"].__setitem__(CHUNK // 4 - 1, 0.0),
        lambda: state.__setitem__("b", b"y"),
        lambda: state.__setitem__("n", True),  # equal to 1, and another type
        lambda: state.__setitem__("f", -0.5),
        state.advance,
        lambda: state.add("more", np.zeros(0)),
        lambda: state.remove("more"),
    ):
        change()
        seen.add(state.manifest().encode())
    assert len(seen) == 7  # the last one undoes the one before


def test_the_order_of_names_does_not_matter():
    one = SharedState({"a": 1, "b": 2}).manifest().encode()
    assert one == SharedState({"b": 2, "a": 1}).manifest().encode()


def test_digests_do_not_depend_on_the_number_of_threads():
    content = np.random.default_rng(0).integers(0, 256, 70 << 20, np.uint8).data
    parts = [digests_of(content[at : at + CHUNK]) for at in range(0, content.nbytes, CHUNK)]
    assert digests_of(content) == b"".join(parts)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1 << 30))
def test_broken_manifests_are_refused_and_nothing_else_happens(seed):
    chance = random.Random(seed)
    whole = SharedState({"w": np.ones((3, 4)), "b": b"abc", "n": 7}, revision=9).manifest()
    data = bytearray(whole.encode())
    for _ in range(chance.randint(1, 4)):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    del data[chance.choice((len(data), chance.randrange(len(data)))) :]
    with contextlib.suppress(ManifestError):
        Manifest.decode(bytes(data))


@pytest.mark.parametrize(
    "entry",
    [
        ["w", "tensor", "float32", [2], None, 8, b"short"],
        ["w", "tensor", "float32", [2], None, -8, b""],
        ["w", "tensor", "float32", [-2], None, 0, b""],
        ["w", "other", "", [], None, 0, b""],
        ["w", "value", "", [], "text", 0, b""],
        ["w", "value", "", [], None, 0, b""],
        [7, "value", "", [], 1, 0, b""],
        ["w", "value", "", [], 1, 0],
    ],
)
def test_entries_that_contradict_themselves_are_refused(entry):
    with pytest.raises(ManifestError):
        Manifest.decode(msgpack.packb([1, 0, [entry]]))


def test_a_tensor_is_allocated_only_as_it_is_described():
    state = SharedState()
    with pytest.raises(Exception, match="cannot have 9 bytes"):
        state.allocate(Entry("w", "tensor", "float32", (2,), None, 9, bytes(DIGEST)))
    with pytest.raises(UnsupportedError, match="neither numpy nor torch"):
        state.allocate(Entry("w", "tensor", "float33", (2,), None, 8, bytes(DIGEST)))
    assert "w" not in state


@pytest.mark.parametrize(
    ("value", "error", "says"),
    [
        ([1, 2], InvalidArgument, "'w' is a list"),
        ("text", InvalidArgument, "'w' is a str"),
        (2**63, InvalidArgument, "64 bits"),
        (np.zeros((4, 4))[:, 1], InvalidArgument, "contiguous"),
        (np.array([object()]), UnsupportedError, "dtype object"),
        (np.zeros(3, ">f4"), UnsupportedError, "byte order"),
        (np.broadcast_to(np.zeros(1), 1), InvalidArgument, "read-only"),
    ],
)
def test_what_cannot_be_shared_is_refused(value, error, says):
    with pytest.raises(error, match=says):
        SharedState({"w": value})


def test_the_mapping_refuses_what_would_not_be_shared():
    state = SharedState({"w": np.zeros(3), "n": 1, "b": b""})
    with pytest.raises(InvalidArgument, match="write into it"):
        state["w"] = np.ones(3)
    with pytest.raises(InvalidArgument, match="cannot become list"):
        state["n"] = [1]
    with pytest.raises(InvalidArgument, match="in the state already"):
        state.add("n", 2)
    with pytest.raises(KeyError):
        state["missing"] = 1
    for name in ("", "x" * 513):
        with pytest.raises(InvalidArgument, match="names are str"):
            state.add(name, 1)
    with pytest.raises(InvalidArgument, match="known are auto"):
        SharedState(role="boss")  # type: ignore[arg-type]
    state["n"] += 2
    assert dict(state)["n"] == 3 and len(state) == 3


# ---- elections -----------------------------------------------------------------------------------


def ballot(number: int, revision: int, digest: int, **how) -> Ballot:
    run = uuid.UUID(int=how.pop("run", 0))
    return Ballot(uuid.UUID(int=number + 1), run, revision, bytes([digest]) * 16, 50, **how)


def numbers(peers) -> list[int]:
    return [peer.int - 1 for peer in peers]


@pytest.mark.parametrize(
    ("ballots", "sources", "receivers"),
    [
        ([(5, 1), (5, 1), (5, 1)], [0, 1, 2], []),
        ([(5, 1), (5, 2), (5, 2)], [1, 2], [0]),
        ([(5, 1), (5, 2)], [0], [1]),  # a tie: the lowest rank
        ([(5, 1), (5, 1), (6, 2)], [2], [0, 1]),  # the highest revision
        ([(5, 1), (6, 1)], [1], [0]),
        ([(5, 1), (9, 2, {"member": False})], [0], [1]),
        ([(5, 1, {"member": False}), (9, 2, {"member": False})], [1], [0]),
        ([(5, 1), (9, 2, {"complete": False})], [0], [1]),
        ([(5, 1), (5, 1, {"complete": False})], [0], [1]),
        ([(5, 1), (9, 2, {"role": "receive_only"})], [0], [1]),
        ([(5, 1), (5, 1, {"role": "receive_only"})], [0], []),
        ([(0, 7, {"empty": True}), (0, 7, {"empty": True}), (0, 1)], [2], [0, 1]),
        ([(0, 7, {"empty": True})], [0], []),
        ([(5, 1), (5, 1, {"member": False})], [0, 1], []),
    ],
)
def test_whose_state_counts(ballots, sources, receivers):
    cast = [
        ballot(i, each[0], each[1], **(each[2] if len(each) > 2 else {}))
        for i, each in enumerate(ballots)
    ]
    election = elect(cast)
    assert numbers(election.sources) == sources
    assert numbers(election.receivers) == receivers
    assert not election.outside
    assert election.settled == (not receivers)


def test_who_cannot_take_part_is_outside():
    election = elect(
        [
            ballot(0, 5, 1, run=1),
            ballot(1, 5, 1),
            ballot(2, 9, 2, run=2),
            ballot(3, 4, 3, role="send_only"),
        ]
    )
    assert numbers(election.sources) == [0, 1]
    assert election.run.int == 1
    assert sorted(numbers(election.outside)) == [2, 3]
    assert not election.settled


def test_nobody_may_have_anything_to_give():
    election = elect([ballot(0, 5, 1, role="receive_only"), ballot(1, 5, 1, complete=False)])
    assert election.winner is None and not election.settled
    assert "no peer has a whole state" in election.reason


cast_ballots = st.lists(
    st.builds(
        lambda number, revision, digest, run, role, member, complete, empty: ballot(
            number, revision, digest, run=run, role=role, member=member, complete=complete,
            empty=empty,
        ),
        st.integers(0, 1000), st.integers(0, 3), st.integers(0, 2), st.integers(0, 2),
        st.sampled_from(("auto", "receive_only", "send_only")), st.booleans(), st.booleans(),
        st.booleans(),
    ),
    min_size=1, max_size=8, unique_by=lambda b: b.peer,
)  # fmt: skip


@given(cast_ballots)
def test_an_election_sorts_everybody_and_its_winner_is_a_source_that_may_give(ballots):
    election = elect(ballots)
    again = elect([found for b in ballots if (found := Ballot.decode(b.encode()))])
    assert election == again
    if election.winner is None:
        assert all(not b.complete or b.role == "receive_only" for b in ballots)
        return
    assert election.winner.peer in election.sources
    groups = [set(election.sources), set(election.receivers), set(election.outside)]
    assert sum(map(len, groups)) == len(set().union(*groups))
    for b in ballots:
        if b.peer in election.sources:
            assert b.complete and b.role != "receive_only"
            assert (b.revision, b.digest) == (election.winner.revision, election.winner.digest)
        if b.peer in election.receivers:
            assert b.role != "send_only" and b.run in (NO_RUN, election.run)
    if any(b.member and b.complete and b.role != "receive_only" and not b.empty for b in ballots):
        assert election.winner.member


def test_what_nobody_cast_is_no_ballot():
    assert Ballot.decode(bytes(BALLOT)) is None


# ---- plans ---------------------------------------------------------------------------------------


def pieces(count: int) -> list[Piece]:
    return [Piece("w", i * CHUNK, CHUNK, bytes(16)) for i in range(count)]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 60), st.integers(1, 4), st.integers(0, 1 << 30))
def test_every_piece_comes_whatever_sources_do_as_long_as_one_is_honest(count, sources, seed):
    chance = random.Random(seed)
    plan = Plan(pieces(count), range(sources))
    out: list[tuple[int, Piece]] = []
    came: list[Piece] = []
    now = 0.0
    for _ in range(20 * count + 100):
        if plan.done:
            break
        now += chance.random()
        for source in plan.sources:
            while piece := plan.take(source, now):
                assert (source, piece) not in out
                out.append((source, piece))
        assert all(sum(s == source for s, _ in out) <= DEPTH for source in plan.sources)
        assert out, "nobody is asked for anything, though something is missing"
        source, piece = chance.choice(out)
        fate = chance.random()
        if source == 0 or fate < 0.7:  # source 0 is the honest one
            others = plan.came(source, piece, now)
            assert sorted(others) == sorted(s for s, p in out if p == piece and s != source)
            came.append(piece)
            out = [each for each in out if each[1] != piece]
        elif fate < 0.85:
            plan.wrong(source, piece)
            out = [each for each in out if each[1] != piece]
        else:
            plan.lost(source)
        out = [each for each in out if each[0] in plan.sources]
    assert plan.done
    assert sorted(came, key=lambda p: p.offset) == pieces(count)


def test_a_slow_source_gets_less():
    plan = Plan(pieces(100), ("fast", "slow"))
    due: dict[tuple[str, Piece], float] = {}
    done = {"fast": 0, "slow": 0}
    now = 0.0
    while not plan.done:
        for source, pace in (("fast", 0.1), ("slow", 1.0)):
            while piece := plan.take(source, now):
                last = max((at for (s, _), at in due.items() if s == source), default=now)
                due[source, piece] = max(now, last) + pace
        (source, piece), now = min(due.items(), key=lambda item: item[1])
        plan.came(source, piece, now)
        due = {key: at for key, at in due.items() if key[1] != piece}
        done[source] += 1
    assert done["fast"] > 5 * done["slow"]


def test_a_piece_that_is_overdue_is_asked_of_another_source_too_and_counts_once():
    plan = Plan(pieces(2), ("a", "b"))
    first = plan.take("a", 0.0)
    assert first is not None and plan.take("a", 0.0) is None  # one by one at first
    second = plan.take("b", 0.0)
    assert plan.came("b", second, 0.1) == ()
    assert plan.take("b", 0.2) is None, "not overdue yet"
    assert plan.take("b", 10.0) == first
    assert plan.came("b", first, 10.1) == ("a",)
    assert plan.done


def test_a_source_that_is_wrong_three_times_is_asked_no_more():
    plan = Plan(pieces(1), ("a",))
    for _ in range(3):
        assert plan.sources == ("a",)
        plan.wrong("a", plan.take("a", 0.0))
    assert plan.sources == () and not plan.done


# ---- packing -------------------------------------------------------------------------------------


def gauged(rate: float, ratio: float, packing: float, unpacking: float) -> bool:
    """What is chosen on a link of so many bytes a second; the codec's speeds are bytes a second."""
    gauge = Gauge()
    for _ in range(10):
        if gauge.choose():
            wire = int(CHUNK * ratio)
            gauge.came_packed(CHUNK, wire, CHUNK / packing, CHUNK / unpacking)
        else:
            gauge.came_raw(CHUNK, CHUNK / rate)
    return gauge.choose()


@pytest.mark.parametrize(
    ("rate", "ratio", "packing", "chosen"),
    [
        (10e6, 0.5, 300e6, True),
        (10e6, 0.92, 300e6, False),  # hardly smaller
        (10e6, 0.5, 8e6, False),  # a codec that is slower than the link
        (280e6, 0.1, 300e6, False),
        (100e6, 0.1, 300e6, True),
        (5e9, 0.1, 1e12, False),  # not even tried
    ],
)
def test_content_is_packed_where_the_link_is_slower_than_the_codec(rate, ratio, packing, chosen):
    assert gauged(rate, ratio, packing, 1e9) is chosen


@pytest.mark.parametrize("data", [b"", b"1234567", b"12345678", b"12345678" + bytes(50)])
def test_packed_nonsense_is_refused(data):
    with pytest.raises(ManifestError):
        unpack(memoryview(data), memoryview(bytearray(100)))


def test_requests_survive_their_encoding_and_nonsense_is_refused():
    for request in (Request("wé", 5, 7, True), Request(bytes(16), 0, 1 << 23)):
        assert Request.decode(request.encode()) == request
    for data in (b"", bytes(14), bytes(20), Request("w", 0, (8 << 20) + 1).encode(), b"\1" * 14 +
                 b"\xff"):  # fmt: skip
        with pytest.raises(ValueError, match=r".*"):
            Request.decode(data)
