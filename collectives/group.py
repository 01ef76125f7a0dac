"""``Group``: the one object most users meet. It delegates and decides nothing.

Here: who is in it, and how members come and go. Its collective calls are in ``operations``; who the
members are is decided in ``membership``, behind ``Incarnation``.
"""

from __future__ import annotations

import atexit
import dataclasses
import time
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, ClassVar

from collectives import errors, tuning
from collectives._native import lib
from collectives._native.engine import Counters, EngineGroup
from collectives.council import GroupCouncil
from collectives.incarnation import Application, Incarnation
from collectives.issue import Issuer, checked_ns
from collectives.membership.peer import SyncOutcome
from collectives.membership.view import Peer, View
from collectives.operations import Operations
from collectives.split import exchange, part_of, wish
from collectives.state.filling import Fetched
from collectives.state.phase import Shared, share
from collectives.state.shared import SharedState
from collectives.step import Step
from collectives.transaction import transaction
from collectives.work import SLICE_NS

_FLUSH_SECONDS = 5.0

_open_groups: weakref.WeakSet[Group] = weakref.WeakSet()


class Group(Operations):
    """A set of peers that do collectives together.

    Made by ``collectives.join`` and ``Group.split``. A member that dies or leaves in the middle of
    an operation costs the others a moment: they finish it without the lost one, and
    ``Result.contributors`` says who took part. So ``view``, ``rank`` and ``size`` may change inside
    any call, and only there. As a context manager the group is left gracefully at the end, and at
    once if the block raised.

    Operations are numbered in the order of their calls, so all members must make the same calls
    in the same order. A thread of its own for communication passes its own ``tag``; calls without
    one belong to the thread that made the first.
    """

    # Seams for the chaos harness, which writes down what a program calls.
    _issuer_type: ClassVar[type[Issuer]] = Issuer
    _joined_type: ClassVar[type[Group]]  # what join() makes

    def __init__(
        self,
        application: Application,
        timeout: float | None = None,
        state: SharedState | None = None,
        beside: Incarnation | None = None,
    ) -> None:
        # Who comes back later comes as anybody does.
        self._application = dataclasses.replace(application, among=())
        self._options = application.options
        self._listeners: list[Callable[[View], None]] = []
        mine = Incarnation(application, timeout, state, beside)
        mine.changed = self._changed
        self._issuer = self._issuer_type(mine, self._options.timeout)
        self._begin(timeout)
        _open_groups.add(self)

    def _begin(self, timeout: float | None) -> None:
        """Do what comes after the admission and before any call."""
        limit = self._options.timeout if timeout is None else timeout
        mine = self._mine
        try:
            tuning.tune(self._issuer, time.monotonic() + limit)
        except BaseException:
            mine.close("it could not measure its links")
            raise
        self._issuer.called = False

    # -- who is there --

    @property
    def view(self) -> View:
        """The view of the last call that has returned."""
        return self._mine.view

    @property
    def rank(self) -> int:
        """This peer's index in the view, 0 to ``size - 1``."""
        return self._mine.rank

    @property
    def size(self) -> int:
        """Number of members."""
        return self._mine.size

    @property
    def peers(self) -> tuple[Peer, ...]:
        """The members, by rank."""
        return self._mine.view.peers

    @property
    def name(self) -> str:
        """This peer's name, as the coordinator made it unique."""
        return self._mine.name

    @property
    def fetched(self) -> Fetched | None:
        """What came of the members' state before the admission; None: no state was to come."""
        return self._mine.fetched

    def on_view_change(self, call: Callable[[View], None]) -> None:
        """Have ``call(view)`` called inside a call, at its end, whenever the view has changed.

        Args:
            call: gets the new view; what it raises, the call raises.
        """
        self._listeners.append(call)

    def counters(self) -> Counters:
        """What the data plane refused and repaired so far; all zero once the group was left."""
        self._issuer.check_process()
        return self._mine.counters()

    def sync(
        self, state: SharedState | None = None, *, timeout: float | None = None
    ) -> SyncOutcome:
        """Meet all members at a safe point: admit newcomers, drop the lost, mend a broken group.

        Every member must call it, with none of its operations outstanding: what was called must
        have ended, on this thread and on all others. Those that were cancelled or interrupted, or
        that a death has stopped, it waits for. It is numbered like any operation, so a member that
        calls something else instead gets all a ``MismatchError``.

        With a state, all members hold the same one when it returns: who is behind gets what
        differs from those who are not. A newcomer's first call is ``sync(state)``, too: it takes
        part in the sync that admitted it.

        Args:
            state: what all are to hold identically; all members pass one, or none does. It must
                not be written to meanwhile.
            timeout: seconds; None: ``Options.timeout``.

        Returns:
            The view from now on, the names of those who joined and left, and what came of the
            state from whom.

        Raises:
            InvalidArgument: operations of this peer are outstanding; the message names them. They
                go on, and nobody else hears of it: wait for them, and call it again.
            Timeout: some members did not come; the message names them. Call it again to go on
                waiting.
            TooFewPeers: fewer than ``min_size`` are left, and nobody joined.
            MismatchError: some members called something else.
            Evicted: this peer is out of the run.
            StateError: this peer's state cannot become the group's, for example because a tensor
                has another shape: it has left the group. Or nobody has a state to give.
            Cancelled: another member was stopped while it took the state over.
            CoordinatorUnreachable: the coordinator fell silent.
        """
        self._issuer.check_alive()
        self._issuer.check_no_step("sync()")
        limit = self._options.timeout if timeout is None else timeout
        checked_ns(limit)
        deadline = time.monotonic() + limit
        self._settle(deadline)
        before = self._mine.view
        self._issuer.release_order()
        # A newcomer was admitted by a sync that the others are still in, with their states.
        mine = self._mine
        admitted = mine.newcomer and not self._issuer.called
        if state is None or not admitted:
            if not mine.agent.sync_pending:
                self._meet(limit, state is not None)
            tuning.regroup(self._issuer, deadline)
        shared = Shared(0, {})
        if state is not None:
            council = GroupCouncil(self._issuer, mine.serve())
            shared = share(council, state, member=not mine.newcomer, deadline=deadline)
            mine.newcomer = False
        old, new = before.peers, mine.view.peers
        return SyncOutcome(
            mine.view,
            tuple(p.name for p in new if before.rank_of(p.id) is None),
            tuple(p.name for p in old if mine.view.rank_of(p.id) is None),
            shared.bytes_received,
            shared.sources,
        )

    def _settle(self, deadline: float) -> None:
        """Wait for what the coordinator decides about, and see that nothing else is under way."""
        while not self._mine.native.idle(SLICE_NS * 1e-9):
            if time.monotonic() >= deadline:
                raise errors.Timeout(
                    "the coordinator has not decided what becomes of the operations that were given"
                    " up; call sync() again"
                )

    def _meet(self, limit: float, with_state: bool) -> None:
        """Wait for all members to call sync(), and find out if some call something else."""
        issuer = self._issuer
        issuer.prepare(lib.COLL_SYNC, None, limit).op = with_state
        told = issuer.mine.told
        try:
            issuer.blocking(None)
        except (errors.PeerLost, errors.TooFewPeers):
            pass  # this is the call that mends it
        except (errors.MismatchError, errors.Cancelled) as error:
            # It broke just now, or it was broken before, which this call mends, too. But a mismatch
            # is an error on all ranks, also on those that hear of it only now.
            if not told and (issuer.scratch.issued or isinstance(error, errors.MismatchError)):
                raise
        except errors.CollectiveError:
            if issuer.scratch.issued:
                raise

    def split(
        self,
        color: int | None,
        *,
        key: int = 0,
        name: str | None = None,
        timeout: float | None = None,
    ) -> Group | None:
        """Make new groups of this one: members with the same color form one.

        Every member must call it, in the order of its other calls. A new group is one like any
        other, with its own views, operations and failures, and can be split again; this one goes
        on. Neither ends with the other: each is left by itself. They share connections, so a
        member that dies is lost in all of them at once.

        A member that dies meanwhile is in none of the new groups.

        Args:
            color: any number of 64 bits; None: this member will be in no new group.
            key: ranks in the new group are in the order of the keys; equal ones, in that of the
                ranks here.
            name: becomes a part of the new group's name, for people: at most 24 bytes. The same
                for all members of a color.
            timeout: seconds; None: ``Options.timeout``.

        Returns:
            The new group, whose ``min_size`` is 1; None if there is no color.

        Raises:
            PeerLost, TooFewPeers, Timeout, MismatchError, Cancelled: all members get it; the group
                is broken until all call ``sync()``.
            MismatchError: members of one color gave different names; all members get it, no
                group was made, and this one is whole.
            Timeout: also if a member of the new group did not come to it, for example because it
                was interrupted; the others of this color get the same. This group is whole.
            CoordinatorUnreachable: it was not there to make a group.
            Evicted, InvalidArgument: as for other calls.
        """
        issuer, mine = self._issuer, self._mine
        issuer.check_alive()
        issuer.check_no_step("split()")
        limit = self._options.timeout if timeout is None else timeout
        checked_ns(limit)
        deadline = time.monotonic() + limit
        asked = wish(mine.id, color, key, name)
        part = part_of(self._application.group, exchange(issuer, asked, limit), asked)
        if part is None:
            return None
        application = dataclasses.replace(
            self._application, group=part.group, name=self.name, min_size=1, among=part.members
        )
        left = max(0.001, deadline - time.monotonic())
        return type(self)(application, left, beside=mine)

    def leave(self, *, timeout: float = 10.0) -> None:
        """Leave gracefully: first the others get all that this peer owes them.

        Nothing is raised if the coordinator is gone: the others find out by themselves. Calling
        it again does nothing.

        Args:
            timeout: seconds that all of it may take.
        """
        self._issuer.check_process()
        if self._issuer.closed:
            return
        self._issuer.check_no_step("leave()")
        deadline = time.monotonic() + timeout
        try:
            if not self._mine.told and not self._mine.closed:
                self._flush(min(deadline, time.monotonic() + _FLUSH_SECONDS))
            self._mine.agent.leave(max(0.1, deadline - time.monotonic()))
        except errors.CoordinatorUnreachable:
            pass  # the others find out by themselves
        finally:
            self._issuer.close()

    def rejoin(self, *, timeout: float | None = None, state: SharedState | None = None) -> View:
        """Come back after this peer was put out of the run, as a new one.

        With the arguments that ``join`` was given; the members admit it when all of them call
        ``sync()``. What it holds may differ from what they hold, so it needs their state like any
        newcomer. Works from before can still be waited for and asked.

        Args:
            timeout: seconds to wait for that; None: ``Options.timeout``.
            state: what it fetches into before it is admitted, as in ``join``.

        Returns:
            The view that it came back in.

        Raises:
            InvalidArgument: this peer is still a member (a broken group is mended by ``sync()``).
            CoordinatorUnreachable, NotAuthorized, VersionSkew, Evicted, Timeout: as ``join``; call
                it again to try again. Until it succeeds every call raises ``Evicted``.
        """
        self._issuer.check_process()
        if self._issuer.closed:
            self._issuer.check_alive()
        self._issuer.check_no_step("rejoin()")
        if not self._mine.out:
            raise errors.InvalidArgument(
                "rejoin() is for peers that were put out of the run, and this one is a member;"
                " after another error call sync()"
            )
        if timeout is not None:
            checked_ns(timeout)
        self._mine.close()  # before the next: both may want the same port
        self._issuer.release_order()
        mine = self._issuer.mine = Incarnation(self._application, timeout, state)
        mine.changed = self._changed
        self._begin(timeout)
        self._changed(mine.view)
        return mine.view

    def _flush(self, deadline: float) -> None:
        while time.monotonic() < deadline:
            if self._mine.native.flush(SLICE_NS * 1e-9):
                return

    def __enter__(self) -> Group:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._issuer.forked:
            return  # a forked child, which runs off the end of the block, too
        if kind is None:
            self.leave()
        else:
            self._issuer.close(f"it raised {kind.__name__}")

    def step(self, *, timeout: float | None = None) -> AbstractContextManager[Step]:
        """Make the operations of a ``with`` block one unit: all of them count, or none does.

        A member that dies between two reductions is in the first and not in the second. At the end
        of the block the members find out whether that was so. If it was, every array that was
        reduced or broadcast in place becomes what it was before the block, and ``StepLost`` is
        raised on all of them. The group is not broken then; take the step again::

            while True:
                try:
                    with group.step():
                        for gradient in gradients:
                            group.all_reduce(gradient, op="avg")
                    break
                except collectives.StepLost:
                    pass  # the gradients are as they were; go on without who was lost

        All operations of the group that are started while the block is open belong to it, of
        whichever tag and thread; those that are under way at its end are waited for. It costs a
        copy of each in-place array, and one small operation at the end. Arrays that the block
        changes by itself are its own business: apply what was reduced after it.

        If the block raises, here or at another member, it counts nowhere: arrays are restored, and
        the others' steps raise ``Cancelled``, which says whose fault it was.

        Args:
            timeout: seconds for the agreement at the end; None: ``Options.timeout``.

        Raises:
            StepLost: none of it counts; the message says who was lost.
            PeerLost, TooFewPeers, Timeout, MismatchError, Cancelled: an operation of the block
                failed, or the agreement did; none of it counts, and the group is broken until all
                call ``sync()``.
            InvalidArgument: a step is open already.
        """
        return transaction(self._issuer, timeout)

    # -- for the library itself --

    @property
    def _mine(self) -> Incarnation:
        return self._issuer.mine

    def _changed(self, view: View) -> None:
        for listener in self._listeners:
            listener(view)

    @property
    def _native(self) -> EngineGroup:
        return self._mine.native

    @property
    def _handle(self) -> Any:
        return self._mine.handle

    def _fault_at(
        self,
        phase: str,
        operation: int,
        tag: int | None = None,
        action: str = "kill",
        *,
        journal_fd: int = -1,
        after_slices: int = 0,
    ) -> None:
        """For tests: kill or stop this process at a moment; see ``EngineGroup.fault_at``."""
        self._mine.native.fault_at(
            phase,
            operation,
            tag=tag,
            action=action,
            journal_fd=journal_fd,
            after_slices=after_slices,
        )


Group._joined_type = Group


@atexit.register
def _close_all() -> None:
    # Daemon threads die in the middle of things at the interpreter's end; better before.
    for group in list(_open_groups):
        group._issuer.close()
