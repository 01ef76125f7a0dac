"""Hosts in network namespaces, on a switch of the kernel's: its TCP, several Gbit/s, rates by tbf.

Where rates are all that a link is to have, this is faster than the emulator (``wan``): nothing of a
packet's way is outside of the kernel. It takes root, and the commands ip and tc.

    with Switch() as switch:
        for name in "ab":
            switch.host(name)
        switch.rate("a", "up", 1e9)
        ...                          # processes that are in switch.namespace("a")
"""

from __future__ import annotations

import contextlib
import subprocess
from typing import Literal

from collectives.chaos.namespaces import Namespace
from collectives.errors import InvalidArgument, UnsupportedError

NETWORK = "10.99.1."
"""The addresses of hosts begin so. They are seen in their namespaces only."""
_MOST = 254
_DEVICE = "eth0"  # of each host
_BURST = 0.004  # seconds of the rate that may pass at once: the time between two ticks
_BURST_MIN = 32 << 10  # bytes
_LATENCY = 0.05  # seconds that a packet waits at most before it is dropped


class Switch:
    """A switch and its hosts; a context manager.

    Raises:
        UnsupportedError: something is missing; the message says what, and where it is from.
    """

    def __init__(self) -> None:
        self._hosts: dict[str, tuple[int, Namespace]] = {}
        self._namespace = Namespace()
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            _run(self._namespace, "ip", "link", "add", "switch", "type", "bridge")
            _run(self._namespace, "ip", "link", "set", "switch", "up")
            undo.pop_all()

    def __enter__(self) -> Switch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it all; may be called again."""
        while self._hosts:
            self._hosts.popitem()[1][1].close()
        self._namespace.close()

    def host(self, name: str) -> str:
        """Make a host, in a namespace of its own; return its address.

        Raises:
            InvalidArgument: there is one of that name, or there are too many.
        """
        if name in self._hosts or len(self._hosts) == _MOST:
            raise InvalidArgument(
                f"there is a host {name!r}" if name in self._hosts else f"{_MOST} hosts at most"
            )
        number, there = len(self._hosts) + 1, Namespace()
        port = f"port{number}"
        with contextlib.ExitStack() as undo:
            undo.callback(there.close)
            ends = ["type", "veth", "peer", "name", _DEVICE, "netns", there.path]
            _run(self._namespace, "ip", "link", "add", port, *ends)
            _run(self._namespace, "ip", "link", "set", port, "master", "switch", "up")
            _run(there, "ip", "link", "set", _DEVICE, "address", _card(number))
            there.configure(_DEVICE, _address(number))
            undo.pop_all()
        self._hosts[name] = number, there
        for other in self._hosts:
            if other != name:
                self.cut(name, other, False)
                self.cut(other, name, False)
        return _address(number)

    def namespace(self, name: str) -> Namespace:
        """Where the host's processes live."""
        return self._hosts[name][1]

    def address(self, name: str) -> str:
        """The host's address."""
        return _address(self._hosts[name][0])

    def rate(self, name: str, way: Literal["up", "down"], rate: float) -> None:
        """Limit what a host sends, or what it receives, all together.

        Args:
            name: of the host.
            way: ``"up"``: from it; ``"down"``: to it.
            rate: bit/s, at least 8 kbit/s; 0: no limit.

        Raises:
            InvalidArgument: there is no such rate.
            UnsupportedError: the kernel has no tbf.
        """
        number, there = self._hosts[name]
        where, device = (there, _DEVICE) if way == "up" else (self._namespace, f"port{number}")
        if not rate:
            _run(where, "tc", "qdisc", "replace", "dev", device, "root", "pfifo")
            return
        if not 8e3 <= rate <= 1e12:
            raise InvalidArgument(f"the rate is {rate} bit/s, it must be from 8 kbit/s on, or 0")
        burst = max(_BURST_MIN, int(rate / 8 * _BURST))
        _run(
            where, "tc", "qdisc", "replace", "dev", device, "root", "tbf", "rate", f"{rate:.0f}bit",
            "burst", f"{burst}b", "latency", f"{_LATENCY * 1e3:.0f}ms",
        )  # fmt: skip

    def cut(self, source: str, target: str, on: bool) -> None:
        """Let nothing pass from one host to another, or let it pass again.

        The sender has another network card's address for the target: what it sends is for nobody.
        """
        number, _ = self._hosts[target]
        _run(
            self._hosts[source][1], "ip", "neigh", "replace", _address(number),
            "lladdr", _card(number, on), "dev", _DEVICE, "nud", "permanent",
        )  # fmt: skip


def _address(number: int) -> str:
    return f"{NETWORK}{number}"


def _card(number: int, nobodys: bool = False) -> str:
    return f"02:00:00:00:{'ff' if nobodys else '00'}:{number:02x}"


def _run(where: Namespace, *command: str) -> None:
    """Run a command in a namespace."""
    try:
        ran = where.run(lambda: subprocess.run(command, capture_output=True, text=True, timeout=20))
    except FileNotFoundError:
        raise UnsupportedError(
            f"there is no command {command[0]}; install iproute2 (apt install iproute2), or let"
            " links.kind be 'namespaces', which needs no command"
        ) from None
    if ran.returncode:
        raise UnsupportedError(
            f"'{' '.join(command)}' failed: {ran.stderr.strip()}; the kernel must have veth, bridge"
            " and sch_tbf; links.kind 'namespaces' needs tun alone"
        )
