"""The faults of the shaping proxy, as plain sockets see them."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator

import pytest

import shaped
from collectives.chaos.profiles import Direction
from collectives.chaos.shaper import Shaper


@pytest.fixture(scope="module")
def shaper() -> Iterator[Shaper]:
    with Shaper(seed=2) as proxy:
        yield proxy
    assert proxy._process.returncode == 0


@pytest.fixture
def wire(shaper: Shaper) -> Iterator[shaped.Wire]:
    with shaped.wire(shaper) as made:
        yield made


def speak(sender: socket.socket, receiver: socket.socket) -> None:
    """A word must pass."""
    sender.sendall(b"word")
    assert shaped.exactly(receiver, 4) == b"word"


def test_a_held_direction_lets_nothing_pass_until_it_is_healed(wire: shaped.Wire) -> None:
    near, far = wire.pair()
    wire.route.hold("up")
    near.sendall(b"word")
    assert shaped.is_silent(far)
    assert wire.route.stats().up.queued == 0  # it is not even read
    speak(far, near)
    near.shutdown(socket.SHUT_WR)
    assert shaped.is_silent(far)
    wire.route.heal()
    assert shaped.rest(far) == b"word"


def test_a_cut_may_end_by_itself_and_leaves_other_faults_alone(wire: shaped.Wire) -> None:
    near, far = wire.pair()
    wire.route.refuse()
    begun = time.monotonic()
    wire.route.hold("up", seconds=0.05)
    wire.route.hold("up", seconds=0.15)  # the newer one counts
    near.sendall(b"word")
    assert shaped.exactly(far, 4) == b"word"
    assert time.monotonic() - begun >= 0.15
    with pytest.raises(ConnectionRefusedError):
        wire.dial()
    wire.route.refuse(seconds=0.05)

    def admitted() -> bool:
        try:
            wire.dial().close()
        except ConnectionRefusedError:
            return False
        return True

    shaped.until(admitted, "it refuses no more")
    wire.route.hold("up", seconds=0.05)
    wire.route.hold()
    near.sendall(b"word")
    assert shaped.is_silent(far, 0.1)


def test_what_is_under_way_is_held_too(shaper: Shaper) -> None:
    with shaped.wire(shaper, up=Direction(delay=0.05)) as wire:
        near, far = wire.pair()
        near.sendall(b"word")
        shaped.until(lambda: wire.route.stats().up.queued == 4, "the word is under way")
        wire.route.hold()
        assert shaped.is_silent(far, 0.15)
        wire.route.heal()
        assert shaped.exactly(far, 4) == b"word"


def test_a_held_connection_hides_the_death_of_an_end(wire: shaped.Wire) -> None:
    near, far = wire.pair()
    wire.route.hold()
    shaped.abort(near)
    assert shaped.is_silent(far)
    wire.route.heal()
    with pytest.raises(ConnectionResetError):
        far.recv(1)


@pytest.mark.parametrize("fault", ["hold", "drop"])
def test_new_connections_hang_while_a_direction_is_cut(wire: shaped.Wire, fault: str) -> None:
    getattr(wire.route, fault)("down")
    near = wire.dial()
    near.sendall(b"word")
    assert wire.route.stats().accepted == 0
    wire.listener.settimeout(0.1)
    with pytest.raises(TimeoutError):
        wire.listener.accept()
    wire.listener.settimeout(shaped.PATIENCE)
    wire.route.heal()
    assert shaped.exactly(wire.accept(), 4) == b"word"


def test_a_dropping_direction_swallows_while_the_sender_makes_progress(wire: shaped.Wire) -> None:
    near, far = wire.pair()
    speak(near, far)
    wire.route.drop("up")
    near.sendall(bytes(5_000_000))
    shaped.until(lambda: wire.route.stats().up.dropped == 5_000_000, "all of it was read")
    assert shaped.is_silent(far)
    speak(far, near)
    wire.route.heal()
    speak(near, far)
    assert wire.route.stats().up.bytes == 8


def test_a_dropping_direction_keeps_the_end_to_itself(wire: shaped.Wire) -> None:
    near, far = wire.pair()
    wire.route.drop("up")
    near.shutdown(socket.SHUT_WR)
    assert shaped.is_silent(far)
    wire.route.heal()
    assert far.recv(1) == b""


def test_a_reset_of_both_ends_is_heard_by_both(wire: shaped.Wire) -> None:
    pairs = [wire.pair() for _ in range(3)]
    assert wire.route.reset() == 3
    for pair in pairs:
        for end in pair:
            with pytest.raises(ConnectionResetError):
                end.recv(1)
    speak(*wire.pair())
    stats = wire.route.stats()
    assert (stats.live, stats.accepted) == (1, 4)


@pytest.mark.parametrize("end", ["dialler", "target"])
def test_a_reset_of_one_end_is_an_orderly_end_to_the_other(shaper: Shaper, end: str) -> None:
    late = Direction(delay=0.05)
    with shaped.wire(shaper, up=late, down=late) as wire:
        near, far = wire.pair()
        cut, other = (near, far) if end == "dialler" else (far, near)
        cut.sendall(b"last words")
        shaped.until(
            lambda: wire.route.stats().up.queued + wire.route.stats().down.queued == 10,
            "the words are under way",
        )
        assert wire.route.reset(end) == 1
        with pytest.raises(ConnectionResetError):
            cut.recv(1)
        assert shaped.rest(other) == b"last words"
        shaped.until(lambda: wire.route.stats().live == 0, "the connection is over")


@pytest.mark.parametrize("end", ["dialler", "target"])
def test_a_half_open_connection_swallows_what_the_other_end_says(
    wire: shaped.Wire, end: str
) -> None:
    near, far = wire.pair()
    cut, other = (near, far) if end == "dialler" else (far, near)
    assert wire.route.half(end) == 1
    with pytest.raises(ConnectionResetError):
        cut.recv(1)
    other.sendall(bytes(3_000_000))
    assert shaped.is_silent(other)
    wire.route.heal()
    other.sendall(b"anybody?")
    assert shaped.is_silent(other)
    other.close()
    shaped.until(lambda: wire.route.stats().live == 0, "the connection is over")


def test_a_refusing_route_refuses_new_connections_and_keeps_its_port(wire: shaped.Wire) -> None:
    pair = wire.pair()
    wire.route.refuse()
    with pytest.raises(ConnectionRefusedError):
        wire.dial()
    speak(*pair)
    wire.route.heal()
    speak(*wire.pair())


def test_an_ignoring_route_gives_who_dials_no_answer(wire: shaped.Wire) -> None:
    pair = wire.pair()
    wire.route.ignore()
    with pytest.raises(TimeoutError):
        wire.dial(timeout=0.2)
    speak(*pair)
    wire.route.refuse()
    with pytest.raises(ConnectionRefusedError):
        wire.dial()
    wire.route.heal()
    speak(*wire.pair())


def chunk(wire: shaped.Wire, near: socket.socket, far: socket.socket, data: bytes) -> bytes:
    """Send one chunk after all before has arrived, and then what tells its end from it."""
    before = wire.route.stats().up.bytes
    near.sendall(data)
    shaped.until(lambda: wire.route.stats().up.bytes > before, "it has passed")
    passed = wire.route.stats().up.bytes - before
    return shaped.exactly(far, passed)


SIZE = 1000  # less than what one read gets, so it is one chunk


def test_flips_are_of_one_bit_and_as_many_as_were_asked_for(wire: shaped.Wire) -> None:
    near, far = wire.pair()
    data = random.Random(3).randbytes(SIZE)
    wire.route.flip("up", 3)
    for _ in range(3):
        got = chunk(wire, near, far, data)
        differing = int.from_bytes(got, "big") ^ int.from_bytes(data, "big")
        assert len(got) == SIZE
        assert differing.bit_count() == 1
    assert chunk(wire, near, far, data) == data
    speak(far, near)
    stats = wire.route.stats()
    assert (stats.up.flipped, stats.down.flipped) == (3, 0)


def without_piece(longer: bytes, shorter: bytes) -> bool:
    """Whether the shorter is the longer without one piece of it."""
    size = len(longer) - len(shorter)
    return 1 <= size <= 16 and any(
        longer[:at] + longer[at + size :] == shorter for at in range(len(shorter) + 1)
    )


def test_truncation_cuts_a_piece_out(wire: shaped.Wire) -> None:
    near, far = wire.pair()
    data = random.Random(4).randbytes(SIZE)
    wire.route.truncate("up", 2)
    for _ in range(2):
        assert without_piece(data, chunk(wire, near, far, data))
    assert chunk(wire, near, far, data) == data
    assert wire.route.stats().up.truncated == 2


def test_duplication_sends_a_piece_twice(wire: shaped.Wire) -> None:
    near, far = wire.pair()
    data = random.Random(5).randbytes(SIZE)
    wire.route.duplicate("up", 2)
    for _ in range(2):
        got = chunk(wire, near, far, data)
        size = len(got) - SIZE
        assert any(got == data[: at + size] + data[at:] for at in range(SIZE - size + 1)), (
            "not a piece of it twice"
        )
    assert chunk(wire, near, far, data) == data
    assert wire.route.stats().up.duplicated == 2


def test_chunks_of_one_byte_are_damaged_too(wire: shaped.Wire) -> None:
    near, far = wire.pair()
    wire.route.flip("up")
    assert chunk(wire, near, far, b"\0") in {bytes([1 << bit]) for bit in range(8)}
    wire.route.duplicate("up")
    assert chunk(wire, near, far, b"a") == b"aa"
    wire.route.truncate("up")
    near.sendall(b"a")
    shaped.until(lambda: wire.route.stats().up.truncated == 1, "nothing is left of it")
    speak(near, far)


def test_damage_in_both_directions_at_once_under_load(shaper: Shaper) -> None:
    with shaped.wire(shaper, up=Direction(queue=20_000), down=Direction(queue=20_000)) as wire:
        near, far = wire.pair()
        for damage in (wire.route.flip, wire.route.truncate, wire.route.duplicate):
            damage("both", 1000)
        received: dict[str, bytes] = {}

        def say(end: socket.socket) -> None:
            end.sendall(bytes(2_000_000))
            end.shutdown(socket.SHUT_WR)

        with shaped.running(
            lambda: say(near),
            lambda: say(far),
            lambda: received.update(up=shaped.rest(far)),
            lambda: received.update(down=shaped.rest(near)),
        ):
            pass
        stats = wire.route.stats()
        for name, flow in (("up", stats.up), ("down", stats.down)):
            assert len(received[name]) == flow.bytes
            assert flow.flipped > 0
            assert any(received[name]), "no bit was flipped"


def test_healing_takes_back_damage_that_has_not_been_done(wire: shaped.Wire) -> None:
    near, far = wire.pair()
    wire.route.flip("both", 100)
    wire.route.heal()
    speak(near, far)
    assert wire.route.stats().up.flipped == 0


def test_the_same_seed_does_the_same_damage() -> None:
    def damaged(seed: int) -> bytes:
        with Shaper(seed=seed) as proxy, shaped.wire(proxy) as wire:
            near, far = wire.pair()
            wire.route.flip("up")
            return chunk(wire, near, far, bytes(SIZE))

    assert damaged(7) == damaged(7) != damaged(8)
