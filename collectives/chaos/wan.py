"""The emulator of wide-area networks from Python: its process, its hosts, and paths between them.

Packets between network namespaces pass through it, so that the kernel's TCP meets delay, loss and
reordering, as it would outside: with ``shaper`` it ends at the proxy. It takes root.

    with Wan(seed=7) as wan:
        for name in "ab":
            wan.host(name)
        wan.link("a", "b", PROFILES["lossy"])
        listener = wan.namespace("b").run(lambda: socket.create_server((wan.address("b"), 0)))
        ...                           # a process that is in wan.namespace("a") connects to it
        wan.cut("a", "b", True)       # nothing passes from a to b
"""

from __future__ import annotations

import contextlib
import dataclasses

from collectives.chaos.driven import Driven
from collectives.chaos.namespaces import Namespace, require
from collectives.chaos.profiles import Direction, Profile
from collectives.chaos.route import counts, whole
from collectives.errors import CollectiveError, InvalidArgument

NETWORK = "10.99.0."
"""The addresses of hosts begin so. They are seen in their namespaces only."""
_MOST = 254
_BESIDE, _BESIDE_MASK = 32, "255.255.255.224"  # addresses of a network of further devices


class WanError(CollectiveError):
    """The emulator refused a command, or is no more; the message says which and why."""


@dataclasses.dataclass(frozen=True)
class PathStats:
    """IP packets from one host to another.

    Attributes:
        sent: by the host; each was cut, overflown, lost or delivered, or is under way.
        cut: while nothing passed.
        overflown: for which a queue had no room.
        lost: at random.
        duplicated: that arrived twice.
        delivered: copies and all.
        reordered: of these, that arrived after one that was sent later.
        bytes: of those delivered, with their IP headers.
    """

    sent: int
    cut: int
    overflown: int
    lost: int
    duplicated: int
    delivered: int
    reordered: int
    bytes: int


class Wan(Driven):
    """The emulator's process, and the namespaces of its hosts; a context manager.

    The seed is that of losses, order and jitter: each path draws its own.

    Raises:
        UnsupportedError: it takes root, and /dev/net/tun; the message says what is missing.
    """

    PROGRAM = "wan"
    NAME = "the WAN emulator"
    REFUSAL = WanError

    def __init__(self, *, seed: int = 0, patience: float = 10.0) -> None:
        require()
        super().__init__(seed=seed, patience=patience)
        self._namespaces: dict[str, Namespace] = {}
        self._addresses: dict[str, str] = {}

    def close(self) -> None:
        """End the process, and let go of the namespaces; may be called again."""
        super().close()
        while self._namespaces:
            self._namespaces.popitem()[1].close()

    def host(self, name: str) -> str:
        """Make a host, in a namespace of its own; return its address.

        Raises:
            InvalidArgument: there is one of that name, or there are too many.
        """
        if name in self._addresses or len(self._namespaces) == _MOST:
            raise InvalidArgument(
                f"there is a host {name!r}" if name in self._addresses else f"{_MOST} hosts at most"
            )
        address = f"{NETWORK}{len(self._namespaces) + 1}"
        with contextlib.ExitStack() as stack:
            namespace = stack.enter_context(Namespace())
            device = self.ask(f"host {address} {namespace.path}")
            namespace.configure(device, address)
            stack.pop_all()
        self._namespaces[name], self._addresses[name] = namespace, address
        return address

    def device(self, host: str, network: int) -> str:
        """Give a host, one of the first 30, another device; return its address.

        What hosts send to each other's addresses of a network leaves by their own of it, so each
        network has paths of its own. To ``shape``, ``cut`` and ``stats`` the device is
        ``f"{host}/{network}"``.

        Args:
            host: its name.
            network: 1 to 6.

        Raises:
            InvalidArgument: there is no such host, or it has no number in such a network.
        """
        (address,) = self._ends(host)
        number = int(address.rpartition(".")[2])
        if not 1 <= network <= 6 or number > _BESIDE - 2 or f"{host}/{network}" in self._addresses:
            raise InvalidArgument(
                f"host {host!r}, number {number}, cannot have a device in network {network}: there"
                f" are 6 networks, of {_BESIDE - 2} hosts and with one device of each"
            )
        address = f"{NETWORK}{network * _BESIDE + number}"
        namespace = self._namespaces[host]
        device = self.ask(f"host {address} {namespace.path}")
        namespace.configure(device, address, _BESIDE_MASK)
        self._addresses[f"{host}/{network}"] = address
        return address

    def namespace(self, name: str) -> Namespace:
        """Where the host's processes live."""
        return self._namespaces[name]

    def address(self, name: str) -> str:
        """The host's address."""
        return self._addresses[name]

    def line(self, name: str, rate: float, queue: int) -> str:
        """Make a transmitter that several paths share, or change it at once; return its name.

        Args:
            name: of at most 63 printable characters, without blanks and ``=``.
            rate: bit/s; 0: unlimited.
            queue: bytes that may wait for their turn.
        """
        if not name.isascii() or not name.isprintable() or not name or " " in name:
            raise InvalidArgument(f"{name!r} is no name for a line; use letters and digits")
        self.ask(f"line {name} {whole('rate', rate)} {whole('queue', queue)}")
        return name

    def shape(
        self, source: str, target: str, direction: Direction, line: str | None = None
    ) -> None:
        """Make the path from one host to another like this.

        Args:
            source: the name of the host that sends.
            target: of the one that receives.
            direction: the figures.
            line: name of a transmitter that it shares with others; None: with nobody.

        Raises:
            InvalidArgument: a figure is negative or not finite.
            WanError: there is no such line, or a figure is out of bounds.
        """
        self.ask(
            f"shape {' '.join(self._ends(source, target))}"
            f" rate_bit_s={whole('rate', direction.rate)}"
            f" queue_bytes={whole('queue', direction.queue)}"
            f" delay_ns={whole('delay', direction.delay, 1e9)}"
            f" jitter_ns={whole('jitter', direction.jitter, 1e9)}"
            f" loss={whole('loss', direction.loss, 1e6)}"
            f" burst={whole('burst', direction.burst)}"
            f" reorder={whole('reorder', direction.reorder, 1e6)}"
            f" duplicate={whole('duplicate', direction.duplicate, 1e6)}"
            f" line={line or '-'}"
        )

    def link(self, source: str, target: str, profile: Profile) -> None:
        """Make the paths between two hosts like a profile, whose uplink the first one has."""
        self.shape(source, target, profile.up)
        self.shape(target, source, profile.down)

    def cut(self, source: str, target: str, on: bool) -> None:
        """Let nothing pass from one host to another, or let it pass again."""
        self.ask(f"cut {' '.join(self._ends(source, target))} {'on' if on else 'off'}")

    def stats(self, source: str, target: str) -> PathStats:
        """Count the packets from one host to another."""
        return PathStats(**counts(self.ask(f"stats {' '.join(self._ends(source, target))}")))

    def _ends(self, *names: str) -> list[str]:
        for name in names:
            if name not in self._addresses:
                raise InvalidArgument(f"there is no host {name!r}; make it first")
        return [self._addresses[name] for name in names]
