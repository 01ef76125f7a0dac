"""The shaping proxy as a process: what it uses, when it ends, and what its driver refuses."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import shaped
import strip
from collectives.chaos.profiles import Direction
from collectives.chaos.shaper import Shaper
from collectives.errors import CollectiveError, InvalidArgument, Timeout


@pytest.fixture(scope="module")
def shaper() -> Iterator[Shaper]:
    with Shaper(seed=1) as proxy:
        yield proxy
    assert proxy._process.returncode == 0


def descriptors(shaper: Shaper) -> int:
    return len(list((Path("/proc") / str(shaper.pid) / "fd").iterdir()))


def test_without_descriptors_connections_wait_and_the_proxy_does_not_spin() -> None:
    with Shaper() as proxy, shaped.wire(proxy) as wire:
        first, first_far = wire.pair()
        few = descriptors(proxy)
        resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, (few, few))
        waiting = wire.dial()
        shaped.until(lambda: wire.route.stats().starved >= 3, "it tries again")
        used = proxy_cpu(proxy)
        begun = time.monotonic()
        shaped.until(lambda: time.monotonic() > begun + 0.3, "some time has passed")
        assert proxy_cpu(proxy) - used < 0.15
        assert proxy.stats()["starved"] >= 3
        first.sendall(b"x")
        assert shaped.exactly(first_far, 1) == b"x"
        first.close()
        first_far.close()
        waiting.sendall(b"at last")
        assert shaped.exactly(wire.accept(), 7) == b"at last"


def proxy_cpu(shaper: Shaper) -> float:
    """Seconds of a core that the proxy has used."""
    fields = Path(f"/proc/{shaper.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_an_idle_proxy_uses_no_processor(shaper: Shaper) -> None:
    with shaped.wire(shaper, up=Direction(rate=1e6, delay=1e-3)) as wire:
        near, far = wire.pair()
        near.sendall(b"x")
        shaped.exactly(far, 1)
        used = proxy_cpu(shaper)
        assert shaped.is_silent(far, 0.3)
        assert proxy_cpu(shaper) - used <= 0.02


def test_removing_a_route_ends_its_connections_and_frees_everything() -> None:
    with Shaper() as proxy:
        proxy.stats()  # it has begun
        before = descriptors(proxy)
        with shaped.wire(proxy) as wire:
            near, far = wire.pair()
            assert descriptors(proxy) > before
            wire.route.remove()
            for end in (near, far):
                with pytest.raises(ConnectionResetError):
                    end.recv(1)
            with pytest.raises(ConnectionRefusedError):
                wire.dial()
            with pytest.raises(CollectiveError, match="there is no route"):
                wire.route.stats()
        assert descriptors(proxy) == before


def test_the_proxy_ends_with_its_owner_though_a_child_of_it_lives_on() -> None:
    owner = (
        "import os, signal, sys\n"
        "from collectives.chaos.shaper import Shaper\n"
        "shaper = Shaper()\n"
        "child = os.fork()\n"  # holds the owner's end of the socket
        "if child == 0: signal.pause()\n"
        "print(shaper.pid, child, flush=True)\n"
        "signal.pause()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", owner], stdout=subprocess.PIPE, text=True, cwd=strip.ROOT
    )
    assert process.stdout is not None
    proxy, child = map(int, process.stdout.readline().split())
    try:
        assert Path(f"/proc/{proxy}").exists()
        process.kill()
        process.wait(shaped.PATIENCE)
        shaped.until(lambda: is_gone(proxy), "the proxy has ended")
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()


def is_gone(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


def test_closing_ends_the_proxy_and_its_connections() -> None:
    proxy = Shaper()
    with shaped.wire(proxy) as wire:
        near, _ = wire.pair()
        proxy.close()
        proxy.close()
        assert is_gone(proxy.pid)
        with contextlib.suppress(ConnectionResetError):
            assert near.recv(1) == b""
        with pytest.raises(CollectiveError, match="is gone"):
            wire.route.stats()


def test_a_proxy_that_does_not_answer_is_an_error_in_time() -> None:
    with Shaper(patience=0.1) as proxy:
        os.kill(proxy.pid, signal.SIGSTOP)
        with pytest.raises(Timeout, match="did not answer 'stats'"):
            proxy.stats()


@pytest.mark.parametrize(
    "direction", [Direction(rate=-1), Direction(delay=float("nan")), Direction(jitter=float("inf"))]
)
def test_figures_that_make_no_sense_are_refused(shaper: Shaper, direction: Direction) -> None:
    with pytest.raises(InvalidArgument):
        shaper.route("127.0.0.1:9", up=direction)


@pytest.mark.parametrize("target", ["127.0.0.1", "localhost:80", "127.0.0.1:0", "[::1:80", "a b:1"])
def test_targets_that_are_no_addresses_are_refused(shaper: Shaper, target: str) -> None:
    with pytest.raises(CollectiveError, match="address"):
        shaper.route(target)


def test_threads_may_command_at_once(shaper: Shaper) -> None:
    with shaped.wire(shaper) as wire:
        stats = [lambda: [wire.route.stats() for _ in range(200)]] * 4
        with shaped.running(*stats):
            pass
