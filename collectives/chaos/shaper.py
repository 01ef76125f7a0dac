"""The shaping proxy from Python: its process, its routes, and the faults that they suffer.

The proxy is a program of its own (``native/shaper``); here are blocking calls that send it one
command and wait for the reply. What to do to whom and when is decided by who calls.

    with Shaper(seed=7) as shaper:
        uplink = shaper.bucket("host-a", 100e6)
        route = shaper.route("127.0.0.1:4711", up=Direction(delay=0.02), up_buckets=[uplink])
        ...                      # a peer dials route.address instead of the target
        route.hold("up")         # a cut that nobody is told of
        route.heal()
"""

from __future__ import annotations

from collections.abc import Sequence

from collectives.chaos.driven import Driven
from collectives.chaos.profiles import Direction, Profile
from collectives.chaos.route import Route, counts, whole
from collectives.errors import CollectiveError, InvalidArgument


class ShaperError(CollectiveError):
    """The proxy refused a command, or is no more; the message says which and why."""


class Shaper(Driven):
    """The process of the proxy, whose seed is that of jitter and damage."""

    PROGRAM = "shaper"
    NAME = "the shaping proxy"
    REFUSAL = ShaperError

    def bucket(self, name: str, rate: float, burst: int = 0) -> str:
        """Make a rate that several directions share, or change it at once.

        Args:
            name: of at most 31 printable characters, without blanks, commas and ``=``.
            rate: bit/s; 0: unlimited.
            burst: bytes that may pass at once after a pause; 0: 5 ms of the rate, at least 16 KiB.

        Returns:
            The name.

        Raises:
            InvalidArgument: the name or a figure makes no sense.
        """
        if not name.isascii() or not name.isprintable() or not name or " " in name:
            raise InvalidArgument(f"{name!r} is no name for a bucket; use letters and digits")
        self.ask(f"bucket {name} {whole('rate', rate)} {whole('burst', burst)}")
        return name

    def route(
        self,
        target: str,
        *,
        up: Direction | None = None,
        down: Direction | None = None,
        up_buckets: Sequence[str] = (),
        down_buckets: Sequence[str] = (),
        listen: str = "127.0.0.1:0",
    ) -> Route:
        """Make a listener whose connections go on to ``target``; at any time.

        Args:
            target: ``HOST:PORT``, numeric; IPv6 in brackets.
            up: what bytes to the target suffer; None: nothing.
            down: what bytes from the target suffer.
            up_buckets: names of the buckets that the direction shares.
            down_buckets: the same for what comes back.
            listen: where to listen; port 0: any.

        Raises:
            ShaperError: an address is no address, or cannot be listened on.
        """
        number, address = self.ask(f"route {_word(target)} {_word(listen)}").split()
        route = Route(self.ask, int(number), address, target)
        route.shape("up", up or Direction(), up_buckets)
        route.shape("down", down or Direction(), down_buckets)
        return route

    def link(self, target: str, profile: Profile) -> Route:
        """Make a route that is like a profile."""
        return self.route(target, up=profile.up, down=profile.down)

    def stats(self) -> dict[str, int]:
        """Count ``routes``, ``live`` connections, and times without descriptors (``starved``)."""
        return counts(self.ask("stats"))


def _word(text: str) -> str:
    if text.split() != [text]:
        raise InvalidArgument(f"{text!r} is not a usable address; write HOST:PORT")
    return text
