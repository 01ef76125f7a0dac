"""Peers fetch bytes from each other by name: over the links of a committed or prepared view, beside
operations, with bounded memory; and whoever goes away ends the fetch with an error."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
import time
import uuid
from collections.abc import Iterator

import numpy as np
import pytest

from collectives import errors
from collectives._native import ffi, lib
from collectives._native.engine import Engine, EnginePeer
from collectives._native.fetch import ANSWER_MAX, REQUEST_MAX, Answer, Fetch, Server, wait
from collectives.options import Options
from raw_peer import Frame, Pair, is_closed, open_group, read_frame, until

FETCH, CHUNK, ABSENT = 14, 15, 4
BIG = ANSWER_MAX


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """Two engines that reduce all the time."""
    with Pair(connections=2) as made:
        made.start()
        yield made


@contextlib.contextmanager
def serving(engine: Engine, answer) -> Iterator[Server]:
    server = Server(engine)
    for group in (1, 2):  # the second is the raw member's
        server.serve(group, answer)
    try:
        yield server
    finally:
        server.close()


def content(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def lend(array: np.ndarray):
    return lambda peer, request, most: Answer(memoryview(array)[: int(request)], True)


def ended(fetch: Fetch, seconds: float = 20.0) -> int:
    """The bytes that came; raises what ended it."""
    deadline = time.monotonic() + seconds
    while wait([fetch], 0.1) is None:
        assert time.monotonic() < deadline, "the fetch did not end"
    return fetch.result()


def ask(pair: Pair, request: bytes, place: np.ndarray) -> Fetch:
    """B asks A."""
    return Fetch(pair.groups[1], pair.ids[0], request, memoryview(place))


@pytest.mark.parametrize("size", [0, 1, 100, 262_144, 262_145, BIG])
def test_what_is_fetched_is_what_the_source_has(pair, size):
    source, place = content(size), np.zeros(max(size, 1), np.uint8)
    with serving(pair.a, lend(source)):
        assert ended(ask(pair, b"%d" % size, place)) == size
    assert place[:size].tobytes() == source.tobytes()
    pair.is_unharmed()


def test_many_fetches_go_on_beside_operations_in_both_directions(pair):
    source = content(3_000_000)
    with serving(pair.a, lend(source)), serving(pair.b, lend(source)):
        before = pair.rounds
        for _ in range(3):
            places = [np.zeros(source.size, np.uint8) for _ in range(16)]
            fetches = [
                Fetch(pair.groups[i % 2], pair.ids[1 - i % 2], b"3000000", memoryview(place))
                for i, place in enumerate(places)
            ]
            assert [ended(fetch) for fetch in fetches] == [source.size] * 16
            assert all(place.tobytes() == source.tobytes() for place in places)
        assert pair.rounds > before
    pair.is_unharmed()


def test_a_source_may_say_no_and_says_no_when_it_does_not_serve(pair):
    place = np.zeros(10, np.uint8)
    with pytest.raises(errors.UnsupportedError, match="'A' does not have what was asked for"):
        ended(ask(pair, b"x", place))
    with serving(pair.a, lambda *_: None), pytest.raises(errors.UnsupportedError, match="'A'"):
        ended(ask(pair, b"x", place))
    with serving(pair.a, lambda *_: 1 / 0), pytest.raises(errors.UnsupportedError, match="'A'"):
        ended(ask(pair, b"x", place))
    too_long = content(11)
    with serving(pair.a, lend(too_long)), pytest.raises(errors.UnsupportedError, match="'A'"):
        ended(ask(pair, b"11", place))
    assert not place.any()


@pytest.mark.parametrize(
    ("request_", "size"), [(b"", 10), (bytes(REQUEST_MAX + 1), 10), (b"x", BIG + 1)]
)
def test_arguments_out_of_range_are_refused(pair, request_, size):
    with pytest.raises(errors.InvalidArgument, match="1 to 1024 bytes"):
        ask(pair, request_, np.zeros(size, np.uint8))


def test_who_is_in_no_view_with_us_cannot_be_asked(pair):
    with pytest.raises(errors.PeerLost, match="no link"):
        Fetch(pair.groups[1], pair.raw, b"x", memoryview(bytearray(10)))


@pytest.mark.parametrize("fault", ["CUT_CONNECTION", "FLIP_BIT"])
def test_a_lost_connection_or_a_flipped_bit_costs_a_resend(fault):
    source, place = content(BIG), np.zeros(BIG, np.uint8)
    with Pair(transport="tcp", connections=2) as pair, serving(pair.a, lend(source)):
        lost = sum(engine.counters().connections_lost for engine in pair.engines)
        code = getattr(lib, f"COLL_FAULT_{fault}")
        assert lib.coll_inject(pair.groups[0].handle, code, 1, 5) == lib.COLL_OK
        assert ended(ask(pair, b"%d" % BIG, place)) == BIG
        assert place.tobytes() == source.tobytes()
        assert sum(engine.counters().connections_lost for engine in pair.engines) > lost


def test_outstanding_fetches_are_bounded_also_those_that_nobody_wants_any_more():
    go = threading.Event()
    source = content(1000)

    def slowly(peer, request, most):
        go.wait(20)
        return Answer(memoryview(source), True)

    with Pair() as pair, serving(pair.a, slowly):
        places = [np.zeros(1000, np.uint8) for _ in range(16)]
        fetches = [ask(pair, b"x", place) for place in places]
        for fetch in fetches[:8]:
            fetch.release()
        with pytest.raises(errors.Timeout, match="16 fetches are under way to 'A'"):
            ask(pair, b"x", np.zeros(1000, np.uint8))
        go.set()
        assert [ended(fetch) for fetch in fetches[8:]] == [1000] * 8
        assert not any(place.any() for place in places[:8]), "written after its release"
        assert all(place.tobytes() == source.tobytes() for place in places[8:])
        fresh = np.zeros(1000, np.uint8)
        assert ended(ask(pair, b"x", fresh)) == 1000


def test_lent_memory_is_free_at_once_when_it_is_taken_back():
    source = content(BIG)
    asked = threading.Event()

    def answer(peer, request, most):
        asked.set()
        return Answer(memoryview(source), True)

    seed = random.randrange(1 << 30)
    print("seed", seed)
    chance = random.Random(seed)
    outcomes = set()
    with Pair(connections=2) as pair, serving(pair.a, answer) as server:
        corrupt = pair.b.counters().corrupt_frames
        for i in range(40):
            whole = source.tobytes()
            asked.clear()
            place = np.zeros(BIG, np.uint8)
            fetch = ask(pair, b"x", place)
            assert asked.wait(20)
            deadline = time.monotonic() + chance.choice((0.0, 0.001, 0.005, 0.1))
            while time.monotonic() < deadline and wait([fetch], 0.0005) is None:
                pass
            server.take_back(1)
            source[:] = i  # what travels must not see this
            try:
                assert ended(fetch) == BIG
                assert place.tobytes() == whole
                outcomes.add("whole")
            except errors.UnsupportedError:
                outcomes.add("no")
        assert pair.b.counters().corrupt_frames == corrupt
    assert "no" in outcomes, "never taken back half-way"


def test_a_source_that_goes_away_ends_the_fetch():
    with Pair() as pair:
        server = Server(pair.a)
        server.serve(1, lambda *_: time.sleep(0.2))
        fetch = ask(pair, b"x", np.zeros(10, np.uint8))
        # Its engine closes with the request unanswered.
        pair.groups[0].close()
        server.close()
        pair.raw_group.close()
        pair.a.close()
        with pytest.raises(errors.PeerLost, match="'A' is lost"):
            ended(fetch)


def test_a_view_without_the_peer_ends_the_fetch_and_frees_what_was_lent():
    go, source = threading.Event(), content(BIG)

    def slowly(peer, request, most):
        go.wait(20)
        return Answer(memoryview(source), True)

    with Pair() as pair, serving(pair.a, slowly) as server:
        fetch = ask(pair, b"x", np.zeros(BIG, np.uint8))
        alone = (EnginePeer(pair.ids[1], "B", pair.b.addresses),)
        pair.groups[1].prepare(
            term=1, number=2, first_operation=1, rank=0, peers=alone, key=bytes(32)
        )
        pair.groups[1].commit(1, 2, 1)
        with pytest.raises(errors.PeerLost, match="in no view with us"):
            ended(fetch)
        alone = (EnginePeer(pair.ids[0], "A", pair.a.addresses),)
        pair.groups[0].prepare(
            term=1, number=2, first_operation=1, rank=0, peers=alone, key=bytes(32)
        )
        pair.groups[0].commit(1, 2, 1)
        go.set()
        until(lambda: not server._out, "the source still lends its memory")


def test_a_prepared_view_is_enough_and_the_fetch_outlives_its_commit():
    source, place = content(BIG), np.zeros(BIG, np.uint8)
    go = threading.Event()

    def slowly(peer, request, most):
        go.wait(20)
        return Answer(memoryview(source), True)

    with Pair() as pair:
        newcomer = Engine(Options(bind=("127.0.0.1",)), uuid.uuid4())
        peers = [
            EnginePeer(peer, name, engine.addresses)
            for peer, name, engine in zip(
                (*pair.ids, newcomer.peer_id), "ABN", (*pair.engines, newcomer), strict=True
            )
        ]
        key = bytes(range(32))
        groups = [pair.groups[0], pair.groups[1], open_group(newcomer, 1, 2, peers, key)]
        for rank in range(2):
            groups[rank].prepare(
                term=1, number=1 + 1, first_operation=1, rank=rank, peers=tuple(peers), key=key
            )
        groups[2].prepare(
            term=1, number=1 + 1, first_operation=1, rank=2, peers=tuple(peers), key=key
        )
        with serving(pair.a, slowly):
            fetch = until(lambda: _try(groups[2], pair.ids[0], place), "not connected")
            for group in groups:
                group.commit(1, 2, 1)
            go.set()
            assert ended(fetch) == BIG
        assert place.tobytes() == source.tobytes()
        groups[2].close()
        newcomer.close()


def _try(group, peer, place) -> Fetch | None:
    with contextlib.suppress(errors.PeerLost):
        return Fetch(group, peer, b"x", memoryview(place))
    return None


# ---- members that talk nonsense ----------------------------------------------------------------


def chunk(**fields) -> Frame:
    return Frame(**{"type": CHUNK, "kind": 0, "dtype": 0, "op": 0, **fields})


def from_raw(pair: Pair, place: np.ndarray) -> Fetch:
    return Fetch(pair.raw_group, pair.raw, b"what", memoryview(place))


@pytest.mark.parametrize(
    "fields",
    [
        {"count": 101, "payload": bytes(100)},  # more than the place holds
        {"count": 2**64 - 1, "payload": bytes(100)},
        {"count": 100, "payload": bytes(100), "offset": 1},
        {"count": 100, "payload": bytes(100), "offset": 2**64 - 50},
        {"count": 99, "payload": bytes(100)},
        {"count": 100},  # nothing of something
        {"count": 0, "payload": b"x"},
    ],
)
def test_chunks_that_do_not_fit_end_the_connection_and_write_nowhere(fields):
    with Pair() as pair, contextlib.closing(pair.member()) as member:
        around = np.full(300, 7, np.uint8)
        fetch = from_raw(pair, around[100:200])
        asked = read_frame(member)
        assert (asked.type, asked.payload, asked.count) == (FETCH, b"what", 100)
        with pair.counts("corrupt_frames", 1):
            member.sendall(chunk(operation=asked.operation, **fields).encode())
            assert is_closed(member)
        assert (around == 7).all()
        fetch.release()


def test_chunks_that_contradict_each_other_end_the_connection():
    with Pair() as pair, contextlib.closing(pair.member()) as member:
        fetch = from_raw(pair, np.zeros(100, np.uint8))
        number = read_frame(member).operation
        with pair.counts("corrupt_frames", 1):
            for sequence, count in enumerate((100, 50), 1):
                frame = chunk(operation=number, sequence=sequence, count=count, payload=bytes(10))
                member.sendall(frame.encode())
            assert is_closed(member)
        fetch.release()


def test_chunks_in_any_order_make_the_answer_and_those_of_no_fetch_are_ignored():
    with Pair() as pair, contextlib.closing(pair.member()) as member:
        place = np.zeros(100, np.uint8)
        fetch = from_raw(pair, place)
        number = read_frame(member).operation
        sequences = itertools.count(1)
        for operation in (number + 1, 0, 2**64 - 1):
            frame = chunk(operation=operation, sequence=next(sequences), count=9, payload=bytes(9))
            member.sendall(frame.encode())
        for offset in (50, 0, 75, 25):
            frame = chunk(
                operation=number, sequence=next(sequences), count=100, offset=offset,
                payload=bytes(range(offset, offset + 25)),
            )  # fmt: skip
            member.sendall(frame.encode())
        assert ended(fetch) == 100
        assert place.tobytes() == bytes(range(100))


@pytest.mark.parametrize("fields", [{"payload": b""}, {"payload": bytes(1025), "count": 1},
                                    {"payload": b"x", "count": BIG + 1}])  # fmt: skip
def test_requests_out_of_bounds_end_the_connection(fields):
    with Pair() as pair, contextlib.closing(pair.member()) as member, \
            pair.counts("corrupt_frames", 1):  # fmt: skip
        member.sendall(Frame(type=FETCH, **fields).encode())
        assert is_closed(member)


def test_a_peer_that_asks_for_too_much_at_once_is_cut_off_and_others_are_not():
    go = threading.Event()

    def stuck(peer, request, most):
        go.wait(20)

    with Pair() as pair, serving(pair.a, stuck), contextlib.closing(pair.member()) as member:
        with pair.counts("corrupt_frames", 1):
            for number in range(1, 66):
                frame = Frame(type=FETCH, sequence=number, operation=number, payload=b"x", count=9)
                member.sendall(frame.encode())
            assert is_closed(member)
        go.set()
        with pytest.raises(errors.UnsupportedError):
            ended(ask(pair, b"x", np.zeros(9, np.uint8)))


def test_a_request_for_a_group_that_is_not_shared_gets_no_answer():
    served = []

    def answer(peer, request, most):
        served.append(request)

    with Pair() as pair, serving(pair.a, answer), contextlib.closing(pair.member()) as member:
        for number, group in enumerate((1, 9), 1):  # A and B's, and nobody's
            frame = Frame(
                type=FETCH, sequence=number, operation=number, group=group, payload=b"x", count=9
            )
            member.sendall(frame.encode())
            reply = read_frame(member)
            assert (reply.type, reply.flags & ABSENT, reply.operation) == (CHUNK, ABSENT, number)
    assert not served


def test_a_wait_for_nothing_and_a_null_pointer_are_errors(pair):
    ended_ = ffi.new("uint32_t *")
    assert lib.coll_fetch_wait(ffi.NULL, 0, 0, ended_) == lib.COLL_INVALID_ARGUMENT
    assert lib.coll_serve_answer(pair.a.handle, 1, ffi.NULL, 5) == lib.COLL_INVALID_ARGUMENT
    assert lib.coll_serve_answer(pair.a.handle, 10**9, b"", 0) == lib.COLL_INVALID_ARGUMENT
