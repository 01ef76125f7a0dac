"""The coordinator's shell: a ROUTER socket, a clock and a log around ``coordinator.decide``.

``Coordinator`` runs it in a thread of its own; the command line does the same and waits. Nothing
that arrives at the port can end it: what cannot be decoded is counted and dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket as network
import threading
import time
import types
import uuid
from collections.abc import Iterable
from typing import Any, Protocol

import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message

from collectives.errors import CollectiveError, InvalidArgument
from collectives.membership import ledger
from collectives.membership.address import Address, parse_address
from collectives.membership.codec import OtherVersionError, decode, encode
from collectives.membership.coordinator import decide
from collectives.membership.durable import UnreadableError, changes, durable, restore
from collectives.membership.fields import MalformedError
from collectives.membership.journal import Journal, JournalError
from collectives.membership.restart import resume
from collectives.membership.view import Choice, LevelChoice
from collectives.membership.wire import LEVELS, MAX_TO_COORDINATOR, TABLE

logger = logging.getLogger("collectives.coordinator")

TICK = 0.25
HANDSHAKE_MS = 2000
_LOOPBACK = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
_BAD_HANDSHAKES = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


class Row(Protocol):
    """What a row of a plan table has; see ``view.Choice``."""

    @property
    def kind(self) -> str:
        """Of operation."""

    @property
    def bytes(self) -> int:
        """The largest payload it is for."""

    @property
    def algorithm(self) -> str:
        """What carries it out."""


class Level(Protocol):
    """What a level of a plan table has; see ``view.LevelChoice``."""

    @property
    def plan(self) -> str:
        """Of hierarchical operations."""

    @property
    def transport(self) -> str:
        """That its links have."""

    @property
    def codec(self) -> str:
        """Of what passes there."""


class Plans(Protocol):
    """A plan table, as ``collectives.topology.Table``."""

    @property
    def rows(self) -> Iterable[Row]:
        """The first that an operation fits decides."""

    @property
    def levels(self) -> Iterable[Level]:
        """The innermost first."""


class Coordinator:
    """The coordinator of a run, in a thread of this process.

    >>> with Coordinator("127.0.0.1:0") as coordinator:
    ...     group = collectives.join(coordinator.address)

    Args:
        bind: address to listen on; port 0: any free port, ``*``: all interfaces.
        token: the run token that peers must prove; None: anybody may join.
        timing: its patience; the default suits a LAN.
        journal: file in which it keeps what a coordinator started after it must know; None: it
            keeps nothing, and a successor needs the word of a majority of the members.
        plans: a plan table (``collectives.topology.Table``), or its rows alone (``kind``,
            ``bytes``, ``algorithm``): what carries out which operation in the views that are
            formed from now on, and how the members of each level speak to each other. None: each
            engine chooses, and all the same.
        force: without a journal to start from, restore a run by the word of one member. If the
            others can go on elsewhere, the group is split in two that both believe to be the
            whole.

    Attributes:
        address: where it listens, ready to be given to ``join`` on this machine.
        listens_on: the same, as other machines see it (``*`` stays ``*``).
        error: why it ended by itself, None while it did not: its journal could not be written.

    Raises:
        InvalidArgument: ``bind`` is no address, or ``plans`` are no table that can be sent.
        CollectiveError: it cannot listen there, or the journal cannot be used; the message says
            why.
    """

    def __init__(
        self,
        bind: str = "127.0.0.1:0",
        *,
        token: str | None = None,
        timing: ledger.Timing | None = None,
        journal: str | os.PathLike[str] | None = None,
        force: bool = False,
        plans: Plans | Iterable[Row] | None = None,
    ) -> None:
        if token == "":
            raise InvalidArgument("the run token is empty; give None for a run without one")
        self._bind = parse_address(bind)
        rows, levels = _parts_of(() if plans is None else plans)
        self._state = ledger.CoordinatorState(
            run=uuid.uuid4(),
            seed=os.urandom(32),
            token=(token or "").encode(),
            timing=timing or ledger.Timing(),
            force=force,
            plans=rows,
            levels=levels,
        )
        self.error: CollectiveError | None = None
        self._journal = None if journal is None else Journal(journal)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._started = threading.Event()
        # Descriptors of connections that have sent a valid message; their end is nothing odd.
        self._heard_of: set[int] = set()
        self._failure: BaseException | None = None
        self.address = ""
        self.listens_on = ""
        self._thread = threading.Thread(
            target=self._main, name="collectives-coordinator", daemon=True
        )
        self._remember()
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            self._thread.join()
            failure = self._failure
            if isinstance(failure, zmq.ZMQError | OSError):
                raise CollectiveError(
                    f"the coordinator cannot listen on {self._bind}: {failure.strerror}; choose"
                    " another address, or port 0 for any free one"
                ) from failure
            raise failure

    def __enter__(self) -> Coordinator:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self.close()

    @property
    def state(self) -> ledger.CoordinatorState:
        """What the coordinator knows at the moment; immutable, safe to read from any thread."""
        return self._state

    @property
    def running(self) -> bool:
        """Whether it still serves; if not and nobody closed it, ``error`` says why."""
        return self._thread.is_alive()

    def _remember(self) -> None:
        """Take up the run in the journal, or begin a journal for this one."""
        journal = self._journal
        if journal is None:
            return
        try:
            if journal.entries:
                self._state = resume(restore(journal.entries, self._state), time.monotonic())
                logger.info(
                    "going on with run %s of the journal %s at term %d",
                    self._state.run,
                    journal.path,
                    self._state.term,
                )
            # Before anybody can be told of it: no two coordinators may have one term.
            journal.append(durable(self._state))
        except UnreadableError as error:
            journal.close()
            raise JournalError(
                f"the journal {journal.path} has entries that this release cannot read ({error});"
                " start the release that wrote it"
            ) from error
        except BaseException:
            journal.close()
            raise

    def close(self) -> None:
        """Stop. Peers keep their views and go on without it; returns when the port is free."""
        loop, stop = self._loop, self._stop
        if self._thread.is_alive() and loop is not None and stop is not None:
            with contextlib.suppress(RuntimeError):  # the loop ended by itself meanwhile
                loop.call_soon_threadsafe(stop.set)
        self._thread.join()

    # -- below runs in the coordinator's thread --

    def _main(self) -> None:
        try:
            asyncio.run(self._serve())
        except JournalError as error:
            # What was decided is lost and was told to nobody; whoever asked will ask again.
            self.error = error
            logger.error("the coordinator stopped: %s", error)
        except Exception as error:
            if not self._started.is_set():
                self._failure = error
            else:
                self.error = CollectiveError(f"the coordinator ended by an internal error: {error}")
                logger.exception("the coordinator ended by an internal error")
        finally:
            if self._journal is not None:
                self._journal.close()
            self._started.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        context = zmq.asyncio.Context()
        try:
            socket = context.socket(zmq.ROUTER)
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.IPV6, 1)
            socket.setsockopt(zmq.MAXMSGSIZE, MAX_TO_COORDINATOR)
            socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
            socket.setsockopt(zmq.BACKLOG, 1024)
            socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
            # Older ZMTP than 3.0 has no handshake that could time out, and takes almost any bytes
            # for a greeting. With a ZAP domain set libzmq refuses it; no handler is needed.
            socket.setsockopt(zmq.ZAP_DOMAIN, b"collectives")
            monitor = _monitor(socket)
            port = _listen(socket, self._bind)
            self.listens_on = str(Address(self._bind.host, port))
            host = _LOOPBACK.get(self._bind.host, self._bind.host)
            self.address = str(Address(host, port))
            logger.info("listening on %s", self.listens_on)
            self._started.set()
            tasks = [
                asyncio.ensure_future(self._receive(socket)),
                asyncio.ensure_future(self._watch(monitor)),
                asyncio.ensure_future(self._tick(socket)),
                asyncio.ensure_future(self._stop.wait()),
            ]
            done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
            for task in done:
                task.result()
            socket.disable_monitor()
        finally:
            context.destroy(linger=0)

    async def _receive(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            frames: list[zmq.Frame] = await socket.recv_multipart(copy=False)
            route, payload = frames[0].bytes, frames[-1].bytes
            event: ledger.Event
            try:
                if len(frames) != 2:
                    raise MalformedError(f"{len(frames)} frames")
                event = ledger.Received(route, decode(payload, limit=MAX_TO_COORDINATOR))
                self._heard_of.add(int(frames[-1].get(zmq.SRCFD)))
            except OtherVersionError as other:
                event = ledger.ReceivedOtherVersion(route, other.low, other.high)
            except MalformedError as error:
                logger.debug("dropped a message: %s", error)
                event = ledger.Refused("undecodable message")
            await self._decide(socket, event)

    async def _tick(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            await self._decide(socket, ledger.Tick())
            await asyncio.sleep(TICK)

    async def _decide(self, socket: zmq.asyncio.Socket, event: ledger.Event) -> None:
        try:
            decision = decide(self._state, event, time.monotonic())
            packets = [(send, encode(send.message)) for send in decision.actions]
        except Exception:
            # A defect of ours must not be a way to end the run from outside.
            logger.exception("no decision about %s", type(event).__name__)
            decision = decide(self._state, ledger.Refused("internal error"), time.monotonic())
            packets = []
        self._record(decision)
        self._state = decision.state
        if decision.reason:
            logger.info("%s", decision.reason)
        for send, packet in packets:
            await self._deliver(socket, send, packet)

    def _record(self, decision: ledger.Decision) -> None:
        """On the disk before anybody hears of it, or a successor would not keep our word."""
        if self._journal is not None:
            self._journal.append(changes(self._state, decision.state))

    async def _deliver(self, socket: zmq.asyncio.Socket, send: ledger.Send, packet: bytes) -> None:
        # A ROUTER drops what is for a closed or a full connection; all is sent again on demand.
        with contextlib.suppress(zmq.ZMQError):
            await socket.send_multipart((send.route, packet))

    async def _watch(self, monitor: zmq.asyncio.Socket) -> None:
        while True:
            event = parse_monitor_message(await monitor.recv_multipart())
            if event["event"] & _BAD_HANDSHAKES:
                self._count("failed handshake")
            elif event["event"] == zmq.EVENT_DISCONNECTED:
                descriptor = event["value"]
                if descriptor in self._heard_of:
                    self._heard_of.discard(descriptor)
                else:
                    self._count("connection without a valid message")

    def _count(self, reason: str) -> None:
        self._state = decide(self._state, ledger.Refused(reason), time.monotonic()).state


def _parts_of(
    plans: Plans | Iterable[Row],
) -> tuple[tuple[Choice, ...], tuple[LevelChoice, ...]]:
    """The rows and the levels of a plan table."""
    rows: Any = getattr(plans, "rows", plans)
    levels: Any = getattr(plans, "levels", ())
    table = tuple(Choice(row.kind, row.bytes, row.algorithm) for row in rows)
    named = tuple(LevelChoice(one.plan, one.transport, one.codec) for one in levels)
    try:
        TABLE.encode(table)
        LEVELS.encode(named)
    except MalformedError as error:
        raise InvalidArgument(f"the plan table {error}") from None
    return table, named


def _monitor(socket: zmq.asyncio.Socket) -> zmq.asyncio.Socket:
    monitor: zmq.asyncio.Socket = socket.get_monitor_socket(
        _BAD_HANDSHAKES | zmq.EVENT_DISCONNECTED
    )
    monitor.setsockopt(zmq.LINGER, 0)
    return monitor


def _listen(socket: zmq.asyncio.Socket, bind: Address) -> int:
    """Bind the socket and return its port. ZeroMQ resolves no names when it binds."""
    host = bind.host
    if host != "*":
        host = str(network.getaddrinfo(host, None, type=network.SOCK_STREAM)[0][4][0])
        socket.setsockopt(zmq.IPV6, ":" in host)
    socket.bind(f"tcp://{Address(host, bind.port)}")
    bound = socket.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(bound, bytes)
    return int(bound.rstrip(b"\0").decode().rpartition(":")[2])
