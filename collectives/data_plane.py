"""The data plane that membership drives in production: the C engine behind ``DataPlane``.

``join`` makes one, the agent calls it from its thread, ``Group`` issues operations on
``EnginePlane.group``.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import uuid
from collections.abc import Sequence

from collectives._native import lib
from collectives._native.engine import (
    ALGORITHMS,
    KINDS,
    LEVEL_CODECS,
    LEVEL_PLANS,
    TRANSPORTS,
    VISITS,
    Engine,
    EngineGroup,
    EnginePeer,
    Topology,
)
from collectives.errors import CollectiveError, InvalidArgument
from collectives.membership.address import parse_address
from collectives.membership.plane import (
    GivenUp,
    PeerSuspected,
    PlaneEvent,
    Reported,
    Unreachable,
    VerdictHeard,
    VerdictTaken,
    Vetoed,
    ViewReady,
)
from collectives.membership.view import Choice, LevelChoice, View
from collectives.options import Options

logger = logging.getLogger("collectives.data_plane")


class EnginePlane:
    """One group's data plane on an engine; implements ``membership.plane.DataPlane``.

    Attributes:
        group: the core's group; None until the coordinator has told its number.
        visiting: the visit under way: its peers, and the group that has links to them.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.group: EngineGroup | None = None
        self.visiting: tuple[EngineGroup, View] | None = None
        self._visits: dict[int, EngineGroup] = {}  # kept to the end: others may be using one
        self._coming: View | None = None

    @property
    def event_fd(self) -> int:
        """A descriptor that is readable while events wait; only once it is open."""
        return self._opened().event_fd

    def next_event(self) -> PlaneEvent | None:
        """The oldest event, None when there is none."""
        while self.group is not None:
            letter = self.group.next_message()
            if letter is not None:
                kind, data = letter
                if kind == lib.COLL_ROUND_REPORT:
                    return Reported(data)
                if kind == lib.COLL_ROUND_VERDICT:
                    return VerdictHeard(data)
                return VerdictTaken(data[:32], uuid.UUID(bytes=data[32:48]))
            event = self.group.next_event()
            if event is None:
                return None
            if event.kind == lib.COLL_EVENT_VIEW_READY:
                return ViewReady(event.view, self._nearby(event.view))
            if event.kind == lib.COLL_EVENT_PEER_UNREACHABLE:
                return Unreachable(event.view, event.peer, event.text)
            if event.kind == lib.COLL_EVENT_PEER_LOST:
                return PeerSuspected(event.view, event.peer, event.text, event.certain)
            if event.kind == lib.COLL_EVENT_VETO:
                return Vetoed(event.view, event.text)
            if event.kind == lib.COLL_EVENT_OUT:
                return GivenUp(event.view, event.text)
            if event.kind == lib.COLL_EVENT_STALLED:
                logger.warning("%s", event.text)  # membership has no part in it
        return None

    def open(self, group_id: int, group: str) -> None:
        """Open the group under the run's number for it."""
        if self.group is None:
            self.group = EngineGroup(self._engine, group_id, group)

    def prepare(self, view: View, rank: int) -> None:
        """Start to connect to the peers of a coming view."""
        prepare_view(self._opened(), view, rank)
        self._coming = view

    def _nearby(self, number: int) -> tuple[int, ...]:
        coming = self._coming
        if self.group is None or coming is None or coming.number != number:
            return ()
        try:
            flags = self.group.nearby(coming.size)
        except InvalidArgument:
            return ()  # a verdict that others passed on came first: it will not be committed
        return tuple(rank for rank, near in enumerate(flags) if near)

    def commit(self, view: View) -> None:
        """Make the prepared view the one in which operations run."""
        self._opened().commit(
            view.term,
            view.number,
            view.first_operation,
            Topology(view.places, choices_of(view.table), settings_of(view.levels)),
        )

    def discard(self) -> None:
        """Forget the prepared view."""
        if self.group is not None:
            self.group.discard()

    def visit(self, view: View | None) -> None:
        """Have links to the peers of a visit: a view of a group of its own, never committed."""
        if self.visiting is not None and view is None:
            self.visiting[0].discard()
        self.visiting = None
        rank = None if view is None else view.rank_of(self._engine.peer_id)
        if view is None or rank is None:
            return
        number = view.group_id | VISITS
        if number not in self._visits:
            self._visits[number] = EngineGroup(self._engine, number, view.group)
        prepare_view(self._visits[number], view, rank)
        self.visiting = (self._visits[number], view)

    def close(self) -> None:
        """Close the core's groups; whoever drives or uses them must have ended."""
        for group in (self.group, *self._visits.values()):
            if group is not None:
                group.close()

    def seal(self, epoch: bytes) -> None:
        """A round was opened: seal and report."""
        self._opened().seal(epoch)

    def judge(self, verdict: bytes) -> None:
        """Take the verdict of a round."""
        self._opened().judge(verdict)

    def relay(self, peer: uuid.UUID, message: bytes, verdict: bool) -> None:
        """Pass a seal or a verdict on to a member that does not hear the coordinator."""
        self._opened().relay(peer, message, verdict)

    def out(self, text: str) -> None:
        """This peer was evicted: end everything."""
        if self.group is not None:
            self.group.out(text)

    def _opened(self) -> EngineGroup:
        if self.group is None:
            raise CollectiveError("the coordinator prepared a view before it named the group")
        return self.group


def advertised(options: Options, listening: tuple[str, ...]) -> tuple[str, ...]:
    """What others are told: the options' addresses, with the listening port where none is named."""
    if not options.advertise:
        return listening
    port = parse_address(listening[0]).port
    found = []
    for entry in options.advertise:
        if entry.startswith("["):
            has_port = "]:" in entry
        else:
            has_port = entry.count(":") == 1
            if entry.count(":") > 1:
                entry = f"[{entry}]"
        found.append(entry if has_port else f"{entry}:{port}")
    return tuple(found)


def choices_of(table: Sequence[Choice]) -> tuple[tuple[int, int, int], ...]:
    """A plan table as the core takes it.

    Raises:
        CollectiveError: it names what this release does not know.
    """
    for row in table:
        if row.kind not in KINDS or row.algorithm not in ALGORITHMS:
            raise CollectiveError(
                f"the plan table has {row.kind!r} by {row.algorithm!r}, which this release does not"
                " know; use one release, or a table without it"
            )
    return tuple((KINDS[row.kind], row.bytes, ALGORITHMS[row.algorithm]) for row in table)


def settings_of(levels: Sequence[LevelChoice]) -> tuple[tuple[int, int, int], ...]:
    """What is said of the levels of a view, as the core takes it.

    Raises:
        CollectiveError: it names what this release does not know.
    """
    for number, level in enumerate(levels):
        if (
            level.plan not in LEVEL_PLANS
            or level.transport not in TRANSPORTS
            or level.codec not in LEVEL_CODECS
        ):
            raise CollectiveError(
                f"the plan table has plan {level.plan!r} over {level.transport!r} and codec"
                f" {level.codec!r} for level {number}, which this release does not know; use one"
                " release, or a table without it"
            )
    return tuple(
        (LEVEL_PLANS[level.plan], TRANSPORTS[level.transport], LEVEL_CODECS[level.codec])
        for level in levels
    )


def prepare_view(group: EngineGroup, view: View, rank: int, *, fixed: bool = False) -> None:
    """Start to connect to the peers of a view.

    Args:
        group: of the core.
        view: who they are.
        rank: this process's among them.
        fixed: nobody decides about the view: a death breaks it.
    """
    peers = tuple(
        EnginePeer(peer.id, peer.name, _numeric(peer.addresses), peer.process)
        for peer in view.peers
    )
    group.prepare(
        term=view.term,
        number=view.number,
        first_operation=view.first_operation,
        rank=rank,
        peers=peers,
        key=view.key,
        fixed=fixed,
    )


def _numeric(addresses: tuple[str, ...]) -> tuple[str, ...]:
    """The addresses with names replaced by what they resolve to here."""
    found: list[str] = []
    for address in addresses:
        parsed = parse_address(address)
        try:
            ipaddress.ip_address(parsed.host)
            found.append(address)
            continue
        except ValueError:
            pass
        try:
            infos = socket.getaddrinfo(parsed.host, parsed.port, type=socket.SOCK_STREAM)
        except OSError as error:
            logger.warning("cannot resolve %s: %s", parsed.host, error)
            continue
        for family, _, _, _, where in infos:
            host = f"[{where[0]}]" if family == socket.AF_INET6 else str(where[0])
            if f"{host}:{parsed.port}" not in found:
                found.append(f"{host}:{parsed.port}")
    return tuple(found)
