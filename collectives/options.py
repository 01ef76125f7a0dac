"""Options of a peer: where it listens, how it talks, when it loses patience."""

from __future__ import annotations

import dataclasses
import os

from collectives.errors import InvalidArgument

TRANSPORTS = ("auto", "shm", "tcp")
TRANSPORT_VARIABLE = "COLLECTIVES_TRANSPORT"
SITE_VARIABLE = "COLLECTIVES_SITE"


@dataclasses.dataclass(frozen=True)
class Options:
    """How a peer talks to the others. Every field has a default that works on a LAN.

    Attributes:
        bind: addresses to listen on for other peers; empty: all of the host's.
        advertise: addresses to tell others, ``"HOST"`` or ``"HOST:PORT"``, tried in order; empty:
            those listened on.
        port_range: inclusive range of ports to listen in; None: any free port.
        interface: name of the network interface to use, for example ``"eth0"``.
        transport: ``"shm"``, ``"tcp"`` or ``"auto"``: shared memory to peers on the same host and
            TCP to others. With ``"shm"`` a peer elsewhere is unreachable. None:
            ``$COLLECTIVES_TRANSPORT``, and ``"auto"`` where that is not set. The result does not
            depend on it.
        site: name of the place that this peer's host is in: a rack, a building, a cloud's region.
            Hosts of one site are near each other; plans keep traffic within a site where they can.
            None: ``$COLLECTIVES_SITE``, and none where that is not set. All peers of a host name
            the same, and peers without one are taken to be at one site.
        tune: measure the links whenever a view is formed, and choose plans by what was found. It
            takes a moment (some messages between pairs of peers), holds if all members of a view
            want it and the coordinator has no plan table, and makes results depend on what was
            measured: sums are then added in the order of the plan that was chosen.
        connections: TCP connections to each peer, 1 to 64; from two on, another one is for small
            operations. They share out the addresses of the peer at which it is reached, so that
            with as many as there are paths each carries its part. 0: one, and on long links as many
            as raise the rate, up to 17.
        congestion: TCP congestion control for every connection (for example ``"cubic"``); None:
            chosen per connection from its measured round trip.
        slice_bytes: bytes of payload in one frame, 4096 to 1048576; None: chosen by size. The
            result does not depend on it.
        checksums: whether payloads carry a CRC32C (headers always do).
        agreement: False only to measure what the promises cost: then a result may be returned here
            that others never get.
        isa: instruction set of the reduction kernels: ``"auto"``, ``"scalar"`` or ``"avx2"``. The
            result does not depend on it.
        timeout: seconds a call may take before it raises ``Timeout``.
        detection: seconds of silence after which a peer is reported lost; None: never (for
            debuggers).
        recovery: seconds that a call which wants to end with an error (its timeout passed, it was
            cancelled) waits for the coordinator to decide; after that it raises all the same, with
            ``outcome_unknown``, and this peer is out of the run.
        heartbeat: seconds between the heartbeats of an idle link; at most a quarter of the shortest
            detection time of any peer.
        stall_warning: seconds that an operation may take before a warning in the log says who is
            absent; None: never.
        dump: directory that gets a JSON file of the operations in flight whenever a call raises
            what broke the group, the latest 16 of each group; None: ``$COLLECTIVES_DUMP``, and
            none where that is not set.

    Raises:
        InvalidArgument: a value is out of its range.
    """

    bind: tuple[str, ...] = ()
    advertise: tuple[str, ...] = ()
    port_range: tuple[int, int] | None = None
    interface: str | None = None
    transport: str | None = None
    site: str | None = None
    tune: bool = False
    connections: int = 0
    congestion: str | None = None
    slice_bytes: int | None = None
    checksums: bool = True
    agreement: bool = True
    isa: str = "auto"
    timeout: float = 300.0
    detection: float | None = 5.0
    recovery: float = 10.0
    heartbeat: float = 0.25
    stall_warning: float | None = 10.0
    dump: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.bind, str) or isinstance(self.advertise, str):
            raise InvalidArgument(
                "Options.bind and Options.advertise are tuples of addresses, not strings; "
                'write bind=("10.0.0.3",)'
            )
        if self.transport not in (None, *TRANSPORTS):
            raise InvalidArgument(
                f"Options.transport is {self.transport!r}; allowed are 'auto', 'shm', 'tcp'"
            )
        if not 0 <= self.connections <= 64:
            raise InvalidArgument(
                f"Options.connections is {self.connections}; allowed are 1 to 64, and 0: chosen"
            )
        if self.slice_bytes is not None and not 4096 <= self.slice_bytes <= 1 << 20:
            raise InvalidArgument(
                f"Options.slice_bytes is {self.slice_bytes}; allowed are 4096 to 1048576"
            )
        if self.isa not in ("auto", "scalar", "avx2"):
            raise InvalidArgument(
                f"Options.isa is {self.isa!r}; allowed are 'auto', 'scalar', 'avx2'"
            )
        if self.port_range is not None:
            low, high = self.port_range
            if not 1 <= low <= high <= 65535:
                raise InvalidArgument(
                    f"Options.port_range is {self.port_range}; it needs 1 <= low <= high <= 65535"
                )
        for field in ("timeout", "heartbeat", "detection", "recovery", "stall_warning"):
            value = getattr(self, field)
            if value is not None and not value > 0:
                raise InvalidArgument(f"Options.{field} is {value}; it is in seconds, above 0")
        if self.detection is not None and self.detection < 4 * self.heartbeat:
            raise InvalidArgument(
                f"Options.detection is {self.detection}, less than four heartbeats of"
                f" {self.heartbeat} s: a late one would look like a death"
            )

    @property
    def chosen_site(self) -> str:
        """``site``, or what the environment says."""
        return os.environ.get(SITE_VARIABLE, "") if self.site is None else self.site

    @property
    def chosen_transport(self) -> str:
        """``transport``, or what the environment asks for.

        Raises:
            InvalidArgument: the environment asks for one that there is not.
        """
        chosen = self.transport or os.environ.get(TRANSPORT_VARIABLE) or "auto"
        if chosen not in TRANSPORTS:
            raise InvalidArgument(
                f"${TRANSPORT_VARIABLE} is {chosen!r}; allowed are 'auto', 'shm', 'tcp'"
            )
        return chosen
