"""A peer's shell: a line to the coordinator, a data plane and a clock around ``peer.step``.

An ``Agent`` runs in a daemon thread of its own; the user's thread calls its blocking methods and
may be interrupted in them (Ctrl-C). ``group`` owns the agent and the data plane.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import logging
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, TypeVar, cast

from collectives.errors import CollectiveError, InvalidArgument
from collectives.membership import messages, peer, wire
from collectives.membership.address import parse_address, parse_addresses
from collectives.membership.calls import Calls, wait
from collectives.membership.codec import OtherVersionError, decode, encode
from collectives.membership.fields import MalformedError
from collectives.membership.line import Line
from collectives.membership.peer import SyncOutcome
from collectives.membership.peer_waits import FIRST_ANSWER, timed_out
from collectives.membership.plane import DataPlane
from collectives.membership.view import Choice, View
from collectives.options import Options

logger = logging.getLogger("collectives.membership")

TICK = 0.25
_KEPT_VIEWS = 256

_T = TypeVar("_T")


class Agent:
    """One process's membership in one group.

    Args:
        address: the coordinator's; several, to be tried in turn, are separated by commas.
        group: name of the group.
        name: this peer's name, for people; the coordinator makes it unique.
        min_size: the group's first view forms when so many peers are there.
        unit: peers of one unit are admitted together; empty: alone.
        token: the run token, if the run has one.
        options: where the data plane listens is taken from ``addresses``; of the options only
            ``timeout`` is used here.
        plane: the group's data plane, driven from the agent's thread until ``close``.
        peer_id: the UUID of this incarnation. It is used up once the peer has left or was
            evicted: joining again takes a new one.
        addresses: ``HOST:PORT`` at which other peers reach the data plane.
        process: ``process_identity()``; empty: nobody sees it die at once.
        visits: it fetches from the members of the group before it is admitted: see ``join``.
        site: where it is; empty: not said.
        tunes: it wants plan tables that are made from measured links: see ``tuned``.
        among: the peers that are to form the group's first view, by rank; empty: whoever comes.

    Raises:
        InvalidArgument: an argument makes no sense; nothing was sent.
    """

    def __init__(
        self,
        address: str,
        *,
        group: str = "default",
        name: str,
        min_size: int = 1,
        unit: str = "",
        token: str | None = None,
        options: Options | None = None,
        plane: DataPlane,
        peer_id: uuid.UUID | None = None,
        addresses: tuple[str, ...] = (),
        process: str = "",
        visits: bool = False,
        site: str = "",
        tunes: bool = False,
        among: tuple[uuid.UUID, ...] = (),
        versions: tuple[int, int] = wire.VERSIONS,
    ) -> None:
        addresses_to_try = parse_addresses(address)
        self._address = addresses_to_try[0]
        self._timeout = (options or Options()).timeout
        config = peer.PeerConfig(
            id=peer_id or uuid.uuid4(),
            group=group,
            name=name,
            addresses=_fitting(addresses),
            min_size=min_size,
            unit=unit,
            token=(token or "").encode(),
            coordinator=str(self._address),
            coordinators=tuple(str(one) for one in addresses_to_try),
            versions=versions,
            process=process,
            visits=visits,
            site=site,
            tunes=tunes,
            among=among,
        )
        _check(config)
        self._versions = versions
        self._plane = plane
        self._state = peer.PeerState(config)
        self._handed: View | None = None
        self._views: dict[int, View] = {}
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._line: Line | None = None
        self._calls = Calls()
        self._last_words = ""
        self._watched: int | None = None  # the open plane's descriptor

    # -- for the user's thread --

    @property
    def view(self) -> View | None:
        """The view that the last ``join`` or ``sync`` returned."""
        return self._handed

    def view_of(self, number: int, timeout: float = 10.0) -> View:
        """The view of this number; the last 256 are kept.

        The core takes a verdict before the agent's thread has noted it, if others passed it on.

        Raises:
            CollectiveError: there is no such view.
        """
        deadline = time.monotonic() + timeout
        while number not in self._views:
            if time.monotonic() > deadline:
                raise CollectiveError(f"nothing is known of view {number} any more")
            time.sleep(0.001)
        return self._views[number]

    @property
    def state(self) -> peer.PeerState:
        """What the agent knows at the moment; immutable, safe to read from any thread."""
        return self._state

    @property
    def waiting_for(self) -> str:
        """What membership waits for at the moment, for example ``"2 more peers (have: a)"``."""
        return peer.waits_for(self._state)

    @property
    def sync_pending(self) -> bool:
        """Whether a ``sync`` that raised Timeout is still under way; the next call resumes it."""
        return self._calls.pending(peer.Call.SYNC) is not None

    def join(
        self,
        timeout: float | None = None,
        meanwhile: Callable[[Callable[[], bool]], None] | None = None,
    ) -> View:
        """Ask to be admitted and wait for the first view with this peer in it.

        After a Timeout or Ctrl-C it may be called again and goes on where it was.

        Args:
            timeout: seconds; None: ``Options.timeout``. The coordinator's first answer is waited
                for at most 30 of them.
            meanwhile: what an agent that ``visits`` does before its admission. It is called with
                a function and returns when it is done or that returns true.

        Raises:
            CoordinatorUnreachable: nobody answers there.
            NotAuthorized: the run token is wrong or missing.
            VersionSkew: no common protocol version.
            Evicted: not admitted; the message says why.
            Timeout: the group is not complete; the message says who is missing.
        """
        limit = self._timeout if timeout is None else timeout
        deadline = time.monotonic() + limit
        future = self._calls.pending(peer.Call.JOIN) or self._begin(peer.Call.JOIN, peer.Start())
        first = min(deadline, time.monotonic() + FIRST_ANSWER)

        def over() -> bool:
            limit = first if self._state.heard is None else deadline
            return future.done() or time.monotonic() >= limit

        if meanwhile is not None:
            meanwhile(over)
            self._tell(peer.CallFilled())
        try:
            try:
                view = cast(View, wait(future, first))
            except concurrent.futures.TimeoutError:
                if self._state.heard is None:
                    raise
                view = cast(View, wait(future, deadline))
        except concurrent.futures.TimeoutError:
            raise self._timed_out("join()", limit) from None
        self._calls.claim(peer.Call.JOIN, future)
        self._handed = view
        return view

    def sync(self, last_operation: int, timeout: float | None = None) -> SyncOutcome:
        """Meet all members, and let the coordinator admit and drop peers.

        A sync that raised Timeout or was interrupted is still under way; the next call waits for
        the same one.

        Args:
            last_operation: the highest operation number issued so far; the next view's
                operations are numbered above everybody's.
            timeout: seconds; None: ``Options.timeout``.

        Raises:
            Timeout: some members did not come; the message names them.
            TooFewPeers: they came, but fewer than ``min_size`` are left and nobody joined.
            CoordinatorUnreachable: the coordinator fell silent.
            Evicted: this peer is out of the run.
        """
        limit = self._timeout if timeout is None else timeout
        deadline = time.monotonic() + limit
        future = self._calls.pending(peer.Call.SYNC)
        if future is None:
            if self._handed is None:
                raise InvalidArgument("sync() before join(); call join() first")
            future = self._begin(peer.Call.SYNC, peer.CallSync(last_operation))
        try:
            outcome = cast(SyncOutcome, wait(future, deadline))
        except concurrent.futures.TimeoutError:
            raise self._timed_out("sync()", limit) from None
        self._calls.claim(peer.Call.SYNC, future)
        self._handed = outcome.view
        return outcome

    def tuned(self, table: tuple[Choice, ...]) -> None:
        """All members have agreed on the plan table of their view, and their data planes have it.

        It stays in the views that verdicts issue, as it does there.
        """
        self._tell(peer.CallTuned(table))
        assert self._handed is not None
        self._handed = dataclasses.replace(self._handed, table=table)

    def leave(self, timeout: float | None = None, text: str = "") -> None:
        """Leave the group: the others are told that this peer went by its own will.

        Returns at once if the peer is out already, for whatever reason.

        Raises:
            CoordinatorUnreachable: nobody confirmed it in time; the peer is out all the same
                once its data plane is closed.
        """
        limit = self._timeout if timeout is None else timeout
        if self._thread is None or self._is_out:
            return
        future = self._calls.pending(peer.Call.LEAVE)
        try:
            if future is None:
                future = self._begin(peer.Call.LEAVE, peer.CallLeave(text))
            wait(future, time.monotonic() + limit)
        except concurrent.futures.TimeoutError:
            raise self._timed_out("leave()", limit) from None
        except CollectiveError:
            if not self._is_out:
                raise

    def close(self, text: str = "") -> None:
        """End the agent: its thread, sockets and descriptors are gone when this returns.

        A peer that waits for admission withdraws. A member that did not ``leave`` tells the
        coordinator that it aborts, so that the others know at once.

        Args:
            text: why, for the others.
        """
        self._last_words = text
        thread, loop, stop = self._thread, self._loop, self._stop
        if thread is None:
            return
        if loop is not None and stop is not None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(stop.set)
        thread.join()
        self._thread = None
        self._calls.fail(CollectiveError("the agent was closed"))

    @property
    def _is_out(self) -> bool:
        return self._state.phase is peer.Phase.OUT

    def _begin(self, call: peer.Call, event: peer.Event) -> concurrent.futures.Future[Any]:
        future = self._calls.begin(call)
        if self._thread is None:
            started = threading.Event()
            self._thread = threading.Thread(
                target=self._main, args=(started,), name="collectives-agent", daemon=True
            )
            self._thread.start()
            started.wait()
        self._tell(event)
        return future

    def _tell(self, event: peer.Event) -> None:
        loop = self._loop
        assert loop is not None
        try:
            loop.call_soon_threadsafe(self._called, event)
        except RuntimeError:  # the thread ended meanwhile and left its error
            self._calls.fail(CollectiveError("the agent was closed"))

    def _timed_out(self, what: str, limit: float) -> CollectiveError:
        probe = "" if self._line is None else self._line.probe
        return timed_out(self._state, what, limit, time.monotonic(), probe)

    # -- below runs in the agent's thread --

    def _main(self, started: threading.Event) -> None:
        try:
            asyncio.run(self._run(started))
        except Exception as error:
            logger.exception("%s the agent ended by an internal error", self._prefix())
            self._calls.fail(error)
        finally:
            started.set()

    async def _run(self, started: threading.Event) -> None:
        loop = self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        line = self._line = Line(self._found)
        try:
            line.dial(self._address)
            started.set()
            tasks = [
                asyncio.ensure_future(self._receive(line)),
                asyncio.ensure_future(self._tick()),
                asyncio.ensure_future(self._stop.wait()),
            ]
            probe = asyncio.ensure_future(line.find_fault(lambda: self._state.heard is not None))
            done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in (*pending, probe):
                task.cancel()
            await asyncio.gather(*pending, probe, return_exceptions=True)
            for task in done:
                task.result()
            if self._state.phase is peer.Phase.WAITING:
                self._handle(peer.CallLeave("it stopped waiting"))
            elif self._state.phase is peer.Phase.MEMBER:
                self._handle(peer.CallLeave(self._last_words, aborted=True))
        finally:
            if self._watched is not None:
                loop.remove_reader(self._watched)
            line.close()
            self._line = None

    def _found(self) -> None:
        """The coordinator's name was resolved: what was said before went nowhere."""
        if self._state.phase is peer.Phase.CONNECTING:
            self._handle(peer.Start())

    async def _receive(self, line: Line) -> None:
        while True:
            data = await line.receive()
            try:
                event: peer.Event = peer.Received(decode(data, versions=self._versions))
            except OtherVersionError as other:
                event = peer.ReceivedOtherVersion(other.low, other.high)
            except MalformedError as error:
                logger.warning("%s dropped a message: %s", self._prefix(), error)
                continue
            self._handle(event)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self._handle(peer.Tick())

    def _drain_plane(self) -> None:
        while True:
            event = self._plane.next_event()
            if event is None:
                return
            self._handle(event)

    def _called(self, event: peer.Event) -> None:
        # What the data plane saw before the call must count in it: a sync after a failed
        # operation is a sync of a broken group.
        self._drain_plane()
        self._handle(event)

    def _handle(self, event: peer.Event) -> None:
        try:
            result = peer.step(self._state, event, time.monotonic())
            self._state = result.state
            self._keep_view(result.state.view)
            if result.reason:
                logger.info("%s %s", self._prefix(), result.reason)
            for action in result.actions:
                self._act(action)
        except Exception as error:
            logger.exception("%s membership failed", self._prefix())
            self._calls.fail(error)
            if self._stop is not None:
                self._stop.set()

    def _keep_view(self, view: View | None) -> None:
        if view is None or self._views.get(view.number) == view:
            return
        self._views[view.number] = view
        if len(self._views) > _KEPT_VIEWS:
            del self._views[next(iter(self._views))]

    def _act(self, action: peer.Action) -> None:
        plane, line = self._plane, self._line
        if isinstance(action, peer.Send):
            if line is not None:
                line.send(encode(action.message, versions=self._versions))
        elif isinstance(action, peer.Dial):
            logger.warning("%s %s; trying %s", self._prefix(), action.why, action.address)
            if line is not None:
                line.dial(parse_address(action.address))
        elif isinstance(action, peer.OpenPlane):
            plane.open(action.group_id, action.group)
            self._watched = plane.event_fd
            asyncio.get_running_loop().add_reader(self._watched, self._drain_plane)
        elif isinstance(action, peer.PreparePlane):
            plane.prepare(action.view, action.rank)
        elif isinstance(action, peer.CommitPlane):
            plane.commit(action.view)
        elif isinstance(action, peer.DiscardPlane):
            plane.discard()
        elif isinstance(action, peer.VisitPlane):
            plane.visit(action.view)
        elif isinstance(action, peer.SealPlane):
            plane.seal(action.epoch)
        elif isinstance(action, peer.JudgePlane):
            plane.judge(action.verdict)
        elif isinstance(action, peer.RelayPlane):
            plane.relay(action.peer, action.message, action.verdict)
        elif isinstance(action, peer.EndPlane):
            plane.out(action.text)
        elif isinstance(action, peer.Resolve):
            self._calls.resolve(action.call, action.result)
        else:
            self._calls.fail(action.error)

    def _prefix(self) -> str:
        state = self._state
        view = state.view
        rank = None if view is None else view.rank_of(state.config.id)
        name = state.name or state.config.name
        where = "-" if view is None else f"{rank} @{view.number}"
        return f"[{state.config.group}/{where}] {name}:"


def _fitting(addresses: tuple[str, ...]) -> tuple[str, ...]:
    """As many addresses as a Hello takes: the first ones, and the last, which is the loopback's."""
    limit = wire.MAX_ADDRESSES
    if len(addresses) <= limit:
        return tuple(addresses)
    logger.warning(
        "this host has %d addresses; only %d are told to others, choose them with"
        " Options.bind, Options.interface or Options.advertise",
        len(addresses),
        limit,
    )
    return (*addresses[: limit - 1], addresses[-1])


def _check(config: peer.PeerConfig) -> None:
    """Refuse arguments that the wire would refuse, before anything is sent."""
    if not 1 <= config.min_size <= wire.MAX_PEERS:
        raise InvalidArgument(f"min_size is {config.min_size}; allowed are 1 to {wire.MAX_PEERS}")
    try:
        encode(
            messages.Hello(
                config.id,
                config.group,
                config.name,
                config.addresses,
                config.min_size,
                config.unit,
                site=config.site,
            )
        )
    except MalformedError as error:
        raise InvalidArgument(
            f"{str(error).removeprefix('hello.')}; names of groups, peers, units and sites have 1"
            f" to {wire.MAX_NAME} bytes and no control characters"
        ) from None
