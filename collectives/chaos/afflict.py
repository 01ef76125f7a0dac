"""What each kind of fault does, and how it ends. Called by the harness, in its one thread."""

from __future__ import annotations

import contextlib
import functools
import random
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from collectives.chaos import namespaces
from collectives.chaos.crowd import Life
from collectives.chaos.faults import Fault
from collectives.chaos.network import COORDINATOR, Pair, Side, Where
from collectives.chaos.profiles import PROFILES, Direction
from collectives.chaos.route import Route, Way

if TYPE_CHECKING:
    from collectives.chaos.harness import Harness

_TURN = 0.05  # seconds of a slow process, in which it runs and stands still


def afflict(harness: Harness, number: int, fault: Fault) -> None:
    """Begin a fault, and see to its end."""
    hit = _KINDS[fault.kind](harness, number, fault)
    if hit is None:
        harness.journal.write("skipped", fault=number, kind=fault.kind)
        return
    harness.begun(number, fault, hit)


def _peer(harness: Harness, fault: Fault) -> Life | None:
    """The life that the fault is about, if its place has one now."""
    assert fault.peer is not None
    life = harness.lives.get(fault.peer)
    return life if life is not None and not life.ended and life.joined else None


def _kill(harness: Harness, number: int, fault: Fault) -> list[str] | None:
    life = _peer(harness, fault)
    if life is None:
        return None
    life.expected, life.restart = True, fault.restart
    if fault.moment is None:
        life.process.signal(signal.SIGKILL)
    else:
        harness.arm(life, number, fault, "kill")
    return [life.place]


def _stop(harness: Harness, number: int, fault: Fault) -> list[str] | None:
    life = _peer(harness, fault)
    if life is None:
        return None
    if fault.moment is not None:
        harness.arm(life, number, fault, "stop")
        return [life.place]
    life.stop()

    def go_on() -> None:
        life.go_on()
        harness.healed(number)

    harness.later(fault.lasting or 0.0, go_on)
    return [life.place]


def _leave(harness: Harness, number: int, fault: Fault) -> list[str] | None:
    life = _peer(harness, fault)
    if life is None:
        return None
    life.restart = fault.restart
    harness.ask_to_leave(life)
    return [life.place]


def _join(harness: Harness, number: int, fault: Fault) -> list[str] | None:
    names: list[str] = []
    for _ in range(fault.count or 1):
        name = fault.peer if fault.peer and not names else harness.free_place()
        life = harness.lives.get(name)
        if life is not None and not life.ended:
            continue
        life = harness.start(name)
        names.append(name)
        if fault.lasting is not None:
            harness.later(fault.lasting, functools.partial(harness.ask_to_leave, life))
    return names or None


def _slow(harness: Harness, number: int, fault: Fault) -> list[str] | None:
    life = _peer(harness, fault)
    if life is None:
        return None
    share, until = fault.share or 0.5, harness.now() + (fault.lasting or 0.0)

    def rest() -> None:
        if life.ended or harness.now() >= until:
            harness.healed(number)
            return
        life.stop()
        harness.later(_TURN * (1 - share), run)

    def run() -> None:
        life.go_on()
        harness.later(_TURN * share, rest)

    rest()
    return [life.place]


def _coordinator_kill(harness: Harness, number: int, fault: Fault) -> list[str] | None:
    coordinator = harness.coordinator
    if not coordinator.alive:
        return None
    harness.journal.write("coordinator", what="killed", pid=coordinator.pid)
    coordinator.kill()

    def again() -> None:
        coordinator.start()
        harness.journal.write("coordinator", what="restarted", pid=coordinator.pid)
        harness.healed(number)

    if fault.restart is not None:
        harness.later(fault.restart, again)
    return [COORDINATOR]


def _coordinator_stop(harness: Harness, number: int, fault: Fault) -> list[str] | None:
    coordinator = harness.coordinator
    if not coordinator.alive:
        return None
    process = coordinator.pid
    harness.journal.write("coordinator", what="stopped", pid=process)
    coordinator.stop()

    def go_on() -> None:
        if coordinator.alive and coordinator.pid == process:
            coordinator.go_on()
            harness.journal.write("coordinator", what="continued", pid=process)
        harness.healed(number)

    harness.later(fault.lasting or 0.0, go_on)
    return [COORDINATOR]


def _pairs(harness: Harness, fault: Fault) -> list[Pair]:
    return list(harness.scenario.pairs(fault, harness.added))


def _cut(harness: Harness, number: int, fault: Fault, pairs: set[Pair]) -> list[str]:
    harness.network.cut(number, pairs)
    _mend_later(harness, number, fault)
    return sorted({name for pair in pairs for name in pair})


def _mend_later(harness: Harness, number: int, fault: Fault) -> None:
    def mend() -> None:
        harness.network.mend(number)
        harness.healed(number)

    if fault.lasting is not None:
        harness.later(fault.lasting, mend)


def _both(pairs: list[Pair]) -> set[Pair]:
    return {*pairs, *((b, a) for a, b in pairs)}


def _partition(harness: Harness, number: int, fault: Fault) -> list[str] | None:
    pairs = _pairs(harness, fault)
    there = set(pairs) if fault.way != "back" else set()
    back = {(b, a) for a, b in pairs} if fault.way != "there" else set()
    return _cut(harness, number, fault, there | back)


def _isolate(harness: Harness, number: int, fault: Fault) -> list[str] | None:
    assert fault.peer is not None
    others = [name for name in (*harness.lives, COORDINATOR) if name != fault.peer]
    _cut(harness, number, fault, _both([(fault.peer, other) for other in others]))
    return [fault.peer]


def _cut_off(harness: Harness, number: int, fault: Fault) -> list[str] | None:
    peers = harness.scenario.resolve(fault.peers or (), harness.added)
    return _cut(harness, number, fault, _both([(name, COORDINATOR) for name in peers]))


def _link(harness: Harness, number: int, fault: Fault) -> list[str] | None:
    pairs = _pairs(harness, fault)
    directions: dict[Pair, Direction] = {}
    for a, b in pairs:
        if fault.profile is not None:
            profile = PROFILES[fault.profile]
            directions[a, b], directions[b, a] = profile.up, profile.down
            continue
        for pair, rate in (((a, b), fault.rate_up), ((b, a), fault.rate_down)):
            usual = harness.share_of(*pair)
            rate = rate if rate is not None else usual.direction.rate if usual else 0.0
            directions[pair] = Direction(rate, fault.delay or 0.0, fault.jitter or 0.0)
    harness.network.link(number, directions)
    _mend_later(harness, number, fault)
    return sorted({name for pair in pairs for name in pair})


def _routes(harness: Harness, fault: Fault) -> Iterator[tuple[Route, bool]]:
    for a, b in _pairs(harness, fault):
        yield from harness.network.between(a, b)


def _to_routes(
    do: Callable[[Route, bool, Fault], object],
) -> Callable[[Harness, int, Fault], list[str] | None]:
    """A fault of a moment: ``do(route, a_dials, fault)`` with every route between the two."""

    def act(harness: Harness, number: int, fault: Fault) -> list[str] | None:
        routes = list(_routes(harness, fault))
        for route, dials in routes:
            do(route, dials, fault)
        if not routes:
            return None
        return sorted({name for pair in _pairs(harness, fault) for name in pair})

    return act


def _damage(
    do: Callable[[Route, Way, int], None], done: str
) -> Callable[[Harness, int, Fault], list[str] | None]:
    """Damage to what goes from a to b next: ``do(route, way, count)``; the flow counts ``done``."""

    def act(harness: Harness, number: int, fault: Fault) -> list[str] | None:
        ways: list[tuple[Route, Side]] = [
            (route, "up" if dials else "down") for route, dials in _routes(harness, fault)
        ]
        if not ways:
            return None

        def count() -> int:
            return sum(getattr(getattr(route.stats(), way), done) for route, way in ways)

        before = count()
        for route, way in ways:
            do(route, way, fault.count or 1)
        harness.ask_later(number, lambda: count() - before)
        return sorted({name for pair in _pairs(harness, fault) for name in pair})

    return act


def _black_hole(harness: Harness, number: int, fault: Fault) -> list[str] | None:
    pairs = _pairs(harness, fault)
    harness.network.swallow(number, _both(pairs))
    _mend_later(harness, number, fault)
    return sorted({name for pair in pairs for name in pair})


def _stranger(harness: Harness, number: int, fault: Fault) -> list[str] | None:
    address = None if fault.peer is None else harness.network.address_of(fault.peer)
    if address is None:
        return None
    chance = random.Random(f"{harness.seed} stranger {number}")
    noise = [chance.randbytes(chance.randint(1, 300)) for _ in range(fault.count or 1)]
    where = harness.network.where(str(fault.peer))
    refused: list[bytes] = []
    told = (address, where, noise, refused)
    threading.Thread(target=_babble, args=told, daemon=True).start()
    harness.ask_later(number, lambda: len(refused))
    return [str(fault.peer)]


def _babble(address: str, where: Where, noise: list[bytes], refused: list[bytes]) -> None:
    _approach(where)
    for data in noise:
        with contextlib.suppress(OSError), _connected(address) as line:
            if _is_refused(line, data):
                refused.append(data)


def _is_refused(line: socket.socket, data: bytes) -> bool:
    """Whether who listens there closes the connection because of this."""
    try:
        line.sendall(data)
        return not line.recv(1 << 12)
    except ConnectionError:  # it did so before it had read all of it
        return True


def _approach(where: Where) -> None:
    """Have this thread, which does nothing else, be where it can reach the place."""
    if where.namespace:
        namespaces.enter(where.namespace)


def _connected(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=1.0)


def _flood(harness: Harness, number: int, fault: Fault) -> list[str] | None:
    address = None if fault.peer is None else harness.network.address_of(fault.peer)
    if address is None:
        return None
    over = threading.Event()
    where = harness.network.where(str(fault.peer))

    def come() -> None:
        _approach(where)
        lines = []
        for _ in range(fault.count or 1):
            try:
                lines.append(_connected(address))
            except OSError:
                break
        over.wait(60)
        for line in lines:
            line.close()

    threading.Thread(target=come, daemon=True).start()

    def end() -> None:
        over.set()
        harness.healed(number)

    harness.later(fault.lasting or 0.0, end)
    return [str(fault.peer)]


def _exhaust(harness: Harness, number: int, fault: Fault) -> list[str] | None:
    life = _peer(harness, fault)
    if life is None:
        return None
    harness.say(life, "exhaust", seconds=fault.lasting)
    harness.later(fault.lasting or 0.0, lambda: harness.healed(number))
    return [life.place]


def _load(harness: Harness, number: int, fault: Fault) -> list[str] | None:
    harness.burn(fault.count or 1, fault.share or 1.0, fault.lasting or 0.0)
    harness.later(fault.lasting or 0.0, functools.partial(harness.healed, number))
    return []


_KINDS: dict[str, Callable[[Harness, int, Fault], list[str] | None]] = {
    "kill": _kill,
    "stop": _stop,
    "leave": _leave,
    "join": _join,
    "slow": _slow,
    "coordinator_kill": _coordinator_kill,
    "coordinator_stop": _coordinator_stop,
    "partition": _partition,
    "isolate": _isolate,
    "cut_off": _cut_off,
    "link": _link,
    "black_hole": _black_hole,
    "stranger": _stranger,
    "flood": _flood,
    "exhaust": _exhaust,
    "load": _load,
    "reset": _to_routes(lambda route, dials, fault: route.reset("both")),
    "half_open": _to_routes(
        lambda route, dials, fault: route.half("target" if dials else "dialler")
    ),
    "flip": _damage(Route.flip, "flipped"),
    "truncate": _damage(Route.truncate, "truncated"),
    "duplicate": _damage(Route.duplicate, "duplicated"),
}
