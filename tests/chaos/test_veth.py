"""Hosts on a switch of the kernel's: rates by tbf, cuts, and what is said where it cannot be had.

It takes network namespaces, and so root, and iproute2; without, these tests are skipped.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

import shaped
from collectives.chaos.emulated import SwitchedNetwork
from collectives.chaos.namespaces import Namespace
from collectives.chaos.network import Share
from collectives.chaos.profiles import Direction
from collectives.chaos.veth import Switch
from collectives.errors import InvalidArgument, UnsupportedError


def unsupported() -> str:
    """Why not here; empty: nothing is missing."""
    try:
        with Switch() as switch:
            switch.host("a")
            switch.rate("a", "up", 1e6)
    except UnsupportedError as error:
        return str(error)
    return ""


needs_root = pytest.mark.skipif(bool(unsupported()), reason=unsupported() or "not skipped")


@pytest.fixture
def switch() -> Iterator[Switch]:
    with Switch() as found:
        for name in "ab":
            found.host(name)
        yield found


@contextlib.contextmanager
def pair(there: Namespace, address: str, here: Namespace) -> Iterator[shaped.Pair]:
    """A TCP connection to there: its end here, and the one there."""
    with there.run(lambda: socket.create_server((address, 0))) as listener:
        target = listener.getsockname()
        near = here.run(lambda: socket.create_connection(target, shaped.PATIENCE))
        with near, listener.accept()[0] as far:
            far.settimeout(shaped.PATIENCE)
            yield near, far


def seconds(near: socket.socket, far: socket.socket, count: int) -> float:
    """How long so many bytes take."""
    begun = time.monotonic()
    with shaped.running(lambda: near.sendall(bytes(count)), lambda: shaped.exactly(far, count)):
        pass
    return time.monotonic() - begun


@needs_root
def test_what_a_host_sends_and_what_it_receives_have_rates_of_their_own(switch: Switch) -> None:
    a, b = switch.namespace("a"), switch.namespace("b")
    count, rate, burst = 500_000, 20e6, 1 << 16  # what may pass at once, and a packet of TSO
    with pair(b, switch.address("b"), a) as (near, far):
        for way in ("up", "down"):
            switch.rate("a", way, rate)
            there, back = seconds(near, far, count), seconds(far, near, count)
            slow, quick = (there, back) if way == "up" else (back, there)
            assert 8 * (count - burst) / rate < slow < 5 * 8 * count / rate
            assert quick < slow
            switch.rate("a", way, 0)


@needs_root
def test_a_cut_is_of_one_direction_and_tcp_goes_on_after_it(switch: Switch) -> None:
    with pair(switch.namespace("b"), switch.address("b"), switch.namespace("a")) as (near, far):
        switch.cut("a", "b", True)
        near.sendall(b"that way")
        assert shaped.is_silent(far, 0.1)
        switch.cut("a", "b", False)
        assert shaped.exactly(far, 8) == b"that way"


@needs_root
def test_a_network_on_a_switch_has_rates_of_hosts_and_cuts_of_pairs(switch: Switch) -> None:
    shares = {("p", "q"): Share(Direction(), ("p.up",)), ("q", "p"): Share(Direction())}
    network = SwitchedNetwork(switch, lambda x, y: shares[x, y])
    p = network.where("p")
    network.bucket("p", "up", Direction(rate=1e9))
    q = network.where("q")
    assert p == network.where("p") != q
    network.cut(1, [("p", "q"), ("p", "not there yet")])
    with pair(switch.namespace("p"), p.host, switch.namespace("p")):
        pass  # a place reaches itself
    with pytest.raises(TimeoutError):
        switch.namespace("p").run(lambda: socket.create_connection((q.host, 9), 0.1))
    network.mend(1)
    with pair(switch.namespace("q"), q.host, switch.namespace("p")) as (near, far):
        near.sendall(b"x")
        assert shaped.exactly(far, 1) == b"x"
    with pytest.raises(InvalidArgument, match="the link from q to p cannot be so"):
        network.link(2, {("q", "p"): Direction(delay=0.01)})


@needs_root
def test_what_is_missing_or_makes_no_sense_is_named(
    switch: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidArgument, match="it must be from 8 kbit/s on"):
        switch.rate("a", "up", 1.0)
    with pytest.raises(InvalidArgument, match="there is a host 'a'"):
        switch.host("a")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UnsupportedError, match="no command ip; install iproute2"):
        Switch()
