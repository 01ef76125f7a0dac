"""``Group``: the one object most users meet. It delegates and decides nothing.

Membership lives in ``membership`` and the moving and reducing of bytes in the C core, both behind
``Incarnation``; arrays are understood by ``arrays``, and operations under way are ``work``'s.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import numpy as np

from collectives import errors
from collectives._native import ffi, lib
from collectives._native.engine import Counters, EngineGroup, nanoseconds, raise_status, text
from collectives.arrays import buffer_of
from collectives.council import TAG, GroupCouncil
from collectives.incarnation import Application, Incarnation
from collectives.membership.peer import SyncOutcome
from collectives.membership.view import Peer, View
from collectives.state.filling import Fetched
from collectives.state.phase import Shared, share
from collectives.state.service import Service
from collectives.state.shared import SharedState
from collectives.step import Step
from collectives.work import MERCY, SLICE_NS, Result, Work, make_result

OPS: dict[str, int] = {
    "sum": lib.COLL_SUM,
    "avg": lib.COLL_AVG,
    "prod": lib.COLL_PROD,
    "min": lib.COLL_MIN,
    "max": lib.COLL_MAX,
}
"""The reductions."""

_FLUSH_SECONDS = 5.0
_OK = lib.COLL_OK
_IN_PROGRESS = lib.COLL_IN_PROGRESS
_run = lib.coll_run
_UNTAGGED: int = lib.COLL_UNTAGGED

_open_groups: weakref.WeakSet[Group] = weakref.WeakSet()


class _Scratch(threading.local):
    """One thread's argument structures: making them anew would cost half the call."""

    def __init__(self) -> None:
        self.call = ffi.new("struct coll_call *")
        self.info = ffi.new("struct coll_info *")
        self.operation = ffi.new("struct coll_operation **")
        self.root_peer = ffi.new("uint8_t[16]")
        self.root: str | None = None  # its name, for what has one
        self.issued = False  # whether the call that failed last had become an operation


class Group:
    """A set of peers that do collectives together.

    Made by ``collectives.join``. A member that dies or leaves in the middle of an operation costs
    the others a moment: they finish it without the lost one, and ``Result.contributors`` says who
    took part. So ``view``, ``rank`` and ``size`` may change inside any call, and only there. As a
    context manager the group is left gracefully at the end, and at once if the block raised.

    Operations are numbered in the order of their calls, so all members must make the same calls
    in the same order. A thread of its own for communication passes its own ``tag``; calls without
    one belong to the thread that made the first.
    """

    def __init__(
        self,
        application: Application,
        timeout: float | None = None,
        state: SharedState | None = None,
    ) -> None:
        self._application = application
        self._options = application.options
        self._pid = os.getpid()
        self._closed = False
        self._thread: int | None = None
        self._timeout_ns = nanoseconds(self._options.timeout)
        self._scratch = _Scratch()
        self._pending_lock = threading.Lock()
        self._pending: set[Work] = set()  # guarded by _pending_lock
        self._listeners: list[Callable[[View], None]] = []
        self._step: Step | None = None  # the one whose block is open
        self._mine = Incarnation(application, timeout, state)
        self._mine.changed = self._changed
        _open_groups.add(self)

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
        self._check_process()
        return self._mine.engine.counters()

    def sync(
        self, state: SharedState | None = None, *, timeout: float | None = None
    ) -> SyncOutcome:
        """Meet all members at a safe point: admit newcomers, drop the lost, mend a broken group.

        Every member must call it, with no operation outstanding. It is numbered like any
        operation, so a member that calls something else instead gets all a ``MismatchError``.

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
        self._check_alive()
        self._check_no_step("sync()")
        limit = self._options.timeout if timeout is None else timeout
        _checked_ns(limit)
        deadline = time.monotonic() + limit
        before = self._mine.view
        self._thread = None
        # A newcomer was admitted by a sync that the others are still in, with their states.
        mine = self._mine
        admitted = mine.newcomer and mine.native.last_operation() < before.first_operation
        if state is None or not admitted:
            if not mine.agent.sync_pending:
                self._meet(limit, state is not None)
            self._regroup(max(0.0, deadline - time.monotonic()))
        shared = Shared(0, {})
        if state is not None:
            if mine.service is None:
                mine.service = Service(mine.engine)
            council = GroupCouncil(self, mine.service)
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

    def _regroup(self, left: float) -> None:
        """Have the coordinator admit and drop peers; every member does so."""
        mine = self._mine
        outcome = mine.agent.sync(mine.native.last_operation(), left)
        mine.synced(outcome.view)

    def _meet(self, limit: float, with_state: bool) -> None:
        """Wait for all members to call sync(), and find out if some call something else."""
        self._prepare(lib.COLL_SYNC, None, limit).op = with_state
        told = self._mine.told
        try:
            self._blocking(None)
        except (errors.PeerLost, errors.TooFewPeers):
            pass  # this is the call that mends it
        except (errors.MismatchError, errors.Cancelled) as error:
            # It broke just now, or it was broken before, which this call mends, too. But a mismatch
            # is an error on all ranks, also on those that hear of it only now.
            if not told and (self._scratch.issued or isinstance(error, errors.MismatchError)):
                raise
        except errors.CollectiveError:
            if self._scratch.issued:
                raise

    def leave(self, *, timeout: float = 10.0) -> None:
        """Leave gracefully: first the others get all that this peer owes them.

        Nothing is raised if the coordinator is gone: the others find out by themselves. Calling
        it again does nothing.

        Args:
            timeout: seconds that all of it may take.
        """
        self._check_process()
        if self._closed:
            return
        self._check_no_step("leave()")
        deadline = time.monotonic() + timeout
        try:
            if not self._mine.told and not self._mine.closed:
                self._flush(min(deadline, time.monotonic() + _FLUSH_SECONDS))
            self._mine.agent.leave(max(0.1, deadline - time.monotonic()))
        except errors.CoordinatorUnreachable:
            pass  # the others find out by themselves
        finally:
            self._close()

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
        self._check_process()
        if self._closed:
            self._check_alive()
        self._check_no_step("rejoin()")
        if not self._mine.out:
            raise errors.InvalidArgument(
                "rejoin() is for peers that were put out of the run, and this one is a member;"
                " after another error call sync()"
            )
        if timeout is not None:
            _checked_ns(timeout)
        self._mine.close()  # before the next: both may want the same port
        self._thread = None
        self._mine = Incarnation(self._application, timeout, state)
        self._mine.changed = self._changed
        self._changed(self._mine.view)
        return self._mine.view

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
        if os.getpid() != self._pid:
            return  # a forked child, which runs off the end of the block, too
        if kind is None:
            self.leave()
        else:
            self._abort(f"it raised {kind.__name__}")

    # -- operations --

    def all_reduce(
        self,
        array: Any,
        op: str = "sum",
        *,
        out: Any = None,
        tag: int | None = None,
        timeout: float | None = None,
        atomic: bool = True,
        on_failure: str = "retry",
    ) -> Result:
        """Reduce an array over all members, element by element; all get the same bits.

        Args:
            array: contiguous numpy array or CPU tensor of any shape; the same dtype and number of
                elements on all ranks.
            op: ``"sum"``, ``"avg"``, ``"prod"``, ``"min"`` or ``"max"``. Averages divide once, at
                the end, and round integers toward zero; integer sums wrap around. NaN wins in
                min and max, and -0 is less than +0.
            out: where the result goes, of the same dtype and size; None: in place.
            tag: operations of a tag are matched in their own order; a thread that communicates
                beside others uses its own. None: the untagged order.
            timeout: seconds until ``Timeout``; None: ``Options.timeout``.
            atomic: restore ``array`` if the operation fails in place. False is faster, and implies
                ``on_failure="raise"``.
            on_failure: ``"retry"``: if a member is lost, the others repeat the operation without
                it. ``"raise"``: they all raise ``PeerLost``.

        Returns:
            ``value`` is the array that holds the result, ``contributors`` whose input is in it.

        Raises:
            PeerLost: a member died or left and the operation was not to be repeated. The group is
                broken until all call ``sync()``; so it is after every other error below.
            TooFewPeers: fewer than ``min_size`` members are left.
            Timeout: the message names who is missing.
            MismatchError: ranks called different things; the message says who called what.
            InvalidArgument, UnsupportedError: nothing was sent.
        """
        self._reduction(array, op, out, tag, timeout, _flags(atomic, on_failure))
        result = self._blocking(array if out is None else out)
        if self._step is not None:
            self._step.reduced(result)
        return result

    def all_reduce_async(
        self,
        array: Any,
        op: str = "sum",
        *,
        out: Any = None,
        tag: int | None = None,
        timeout: float | None = None,
        atomic: bool = True,
        on_failure: str = "retry",
    ) -> Work:
        """Start an ``all_reduce``; its arguments are those.

        Returns:
            The operation under way; the arrays must not be touched until it has ended.

        Raises:
            PeerLost, Timeout, MismatchError, Cancelled, Evicted: the group is broken already.
                Waiting raises what ``all_reduce`` raises.
            InvalidArgument, UnsupportedError: nothing was sent.
        """
        self._reduction(array, op, out, tag, timeout, _flags(atomic, on_failure))
        return self._issue(array if out is None else out, (array, out))

    def broadcast(
        self,
        array: Any,
        root: int = 0,
        *,
        tag: int | None = None,
        timeout: float | None = None,
        atomic: bool = True,
        on_failure: str = "retry",
    ) -> Result:
        """Copy the root's array into everybody's, in place.

        Args:
            array: contiguous numpy array or CPU tensor; the same dtype and number of elements on
                all ranks. Read on the root, written elsewhere.
            root: the rank whose array it is.
            tag: as in ``all_reduce``.
            timeout: as in ``all_reduce``.
            atomic: as in ``all_reduce``.
            on_failure: as in ``all_reduce``; without its root it is not repeated in any case.

        Returns:
            ``value`` is the array; ``contributors`` is the root alone.

        Raises:
            PeerLost, Timeout, MismatchError, Cancelled, Evicted, InvalidArgument,
                UnsupportedError: as ``all_reduce``.
        """
        self._copying(array, root, tag, timeout, _flags(atomic, on_failure))
        return self._blocking(array)

    def broadcast_async(
        self,
        array: Any,
        root: int = 0,
        *,
        tag: int | None = None,
        timeout: float | None = None,
        atomic: bool = True,
        on_failure: str = "retry",
    ) -> Work:
        """Start a ``broadcast``; its arguments are those.

        Returns:
            The operation under way; the array must not be touched until it has ended.

        Raises:
            PeerLost, Timeout, MismatchError, Cancelled, Evicted: the group is broken already.
            InvalidArgument, UnsupportedError: nothing was sent.
        """
        self._copying(array, root, tag, timeout, _flags(atomic, on_failure))
        return self._issue(array, (array,))

    def barrier(
        self, *, tag: int | None = None, timeout: float | None = None, on_failure: str = "retry"
    ) -> Result:
        """Return once every member has called it.

        Args:
            tag: as in ``all_reduce``.
            timeout: as in ``all_reduce``.
            on_failure: as in ``all_reduce``.

        Returns:
            ``value`` is None; ``contributors`` are all members.

        Raises:
            PeerLost, Timeout, MismatchError, Cancelled, Evicted: as ``all_reduce``.
        """
        self._prepare(lib.COLL_BARRIER, tag, timeout).flags = _flags(True, on_failure)
        return self._blocking(None)

    def barrier_async(
        self, *, tag: int | None = None, timeout: float | None = None, on_failure: str = "retry"
    ) -> Work:
        """Start a ``barrier``; its arguments are those.

        Returns:
            The operation under way.

        Raises:
            PeerLost, Timeout, MismatchError, Cancelled, Evicted: the group is broken already.
        """
        self._prepare(lib.COLL_BARRIER, tag, timeout).flags = _flags(True, on_failure)
        return self._issue(None, ())

    # -- several as one --

    @contextlib.contextmanager
    def step(self, *, timeout: float | None = None) -> Iterator[Step]:
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
        self._check_alive()
        self._check_no_step("step()")
        self._tag(None)  # the agreement at the end is this thread's
        step = self._step = Step()
        try:
            yield step
            step.wait()
            apart = self._agree_on(step, timeout)
        except BaseException as error:
            self._step = None
            if not step.stands:
                self._refuse(error)
                step.undo()
            raise
        if apart:
            step.undo()
            lost = step.lost()
            who = " and ".join(f"{name!r}" for name in lost) or "a member"
            raise errors.StepLost(
                f"{who} was lost in the middle of the step: none of it counts, and all arrays are"
                " as they were before; take it again",
                peer=lost[0] if lost else "",
            )

    def _agree_on(self, step: Step, timeout: float | None) -> bool:
        """Whether a step is to be undone; a member that has not ended its block keeps all here."""
        self._step = None
        apart = np.array([step.apart], np.uint8)
        self._reduction(apart, "max", None, None, timeout, 0)
        work = self._issue(apart, (apart,))
        try:
            work.wait()
        except errors.CollectiveError:
            raise
        except BaseException as interrupt:
            work.cancel(f"interrupted by {type(interrupt).__name__}")
            with contextlib.suppress(errors.CollectiveError):
                work.wait()  # it may have succeeded, and then the step counts
                if not apart[0]:
                    step.count()
            raise
        if not apart[0]:
            step.count()
        return bool(apart[0])

    def _refuse(self, error: BaseException) -> None:
        """The block of a step raised: end the others' steps, too, if nothing else has."""
        mine = self._mine
        if mine.closed:
            return
        operation = ffi.new("struct coll_operation **")
        why = f"{mine.name!r} left a step by {type(error).__name__}; call sync() and go on"
        status = lib.coll_refuse(
            mine.handle, _UNTAGGED, lib.COLL_CANCELLED, why.encode(), operation
        )
        if status != _OK:
            return  # it is broken already, for all
        work = Work(operation[0], None, mine, mine.number, None, None)
        with contextlib.suppress(errors.CollectiveError):
            work.wait(None if isinstance(error, Exception) else MERCY)

    def _check_no_step(self, what: str) -> None:
        if self._step is not None:
            raise errors.InvalidArgument(f"{what} inside a step; end the step's block first")

    # -- how --

    def _prepare(self, kind: int, tag: int | None, timeout: float | None) -> Any:
        """Begin this thread's argument structure for an operation without payload."""
        call = self._scratch.call
        self._scratch.root = None
        call.kind = kind
        call.tag = self._tag(tag)
        call.timeout_ns = self._timeout_ns if timeout is None else _checked_ns(timeout)
        call.op = call.root = call.flags = call.dtype = call.count = 0
        call.input = call.output = call.root_peer = ffi.NULL
        return call

    def _reduction(
        self,
        array: Any,
        op: str,
        out: Any,
        tag: int | None,
        timeout: float | None,
        flags: int,
        reserved: int | None = None,
    ) -> None:
        code = OPS.get(op)
        if code is None:
            raise errors.InvalidArgument(f"op is {op!r}; known are {', '.join(OPS)}")
        pointer, count, dtype = buffer_of(array, "array", writable=out is None)
        call = self._prepare(lib.COLL_ALL_REDUCE, 0 if reserved else tag, timeout)
        call.tag = reserved or call.tag
        call.op = code
        call.input = call.output = pointer
        call.count = count
        call.dtype = dtype
        call.flags = flags
        if out is None and self._step is not None:
            self._step.keep(array, pointer, count * lib.coll_dtype_size(dtype))
        if out is not None:
            target, out_count, out_dtype = buffer_of(out, "out", writable=True)
            if out_count != count or out_dtype != dtype:
                raise errors.InvalidArgument(
                    f"out has {out_count} elements of {_dtype_name(out_dtype)}, array has"
                    f" {count} of {_dtype_name(dtype)}; they must match"
                )
            call.output = target

    def _copying(
        self, array: Any, root: int, tag: int | None, timeout: float | None, flags: int
    ) -> None:
        pointer, count, dtype = buffer_of(array, "array", writable=root != self._mine.rank)
        call = self._prepare(lib.COLL_BROADCAST, tag, timeout)
        # A rank is that of the caller's view, of which the core may be ahead.
        call.root = self._root(root)
        call.root_peer = self._scratch.root_peer
        call.root_peer[0:16] = self._mine.view.peers[root].id.bytes
        self._scratch.root = self._mine.names[root]
        call.input = call.output = pointer
        call.count = count
        call.dtype = dtype
        call.flags = flags
        if root != self._mine.rank and self._step is not None:
            self._step.keep(array, pointer, count * lib.coll_dtype_size(dtype))

    def _root(self, root: int) -> int:
        if not 0 <= root < self._mine.size:
            raise errors.InvalidArgument(
                f"root is {root}; the ranks of this view are 0 to {self._mine.size - 1}"
            )
        return root

    def _tag(self, tag: int | None) -> int:
        if tag is not None:
            if not 0 <= tag < TAG:
                raise errors.InvalidArgument(f"tag is {tag}; allowed are 0 to {TAG - 1}")
            return tag
        # Two threads that share an order would match by chance.
        me = threading.get_ident()
        if self._thread != me:
            if self._thread is not None:
                raise errors.InvalidArgument(
                    "untagged operations come from another thread already; pass tag=... to give"
                    " this thread an order of its own"
                )
            self._thread = me
        return _UNTAGGED

    def _blocking(self, value: Any) -> Result:
        """Run what this thread's argument structure says."""
        mine = self._mine
        if mine.closed:
            self._check_alive()
        scratch = self._scratch
        try:
            status = _run(mine.handle, scratch.call, SLICE_NS, scratch.operation, scratch.info)
            if status == _OK:
                info = scratch.info
                names = mine.names if info.view == mine.number else mine.ended_in(info.view)
                contributors = names if scratch.root is None else (scratch.root,)
                return make_result(value, contributors, info)
            return self._slowly(status, scratch, value)
        except errors.CollectiveError:
            raise
        except BaseException as interrupt:
            # Python handles a signal as soon as the core returns: before we know what it returned.
            self._interrupted(scratch, interrupt)
            raise

    def _slowly(self, status: int, scratch: _Scratch, value: Any) -> Result:
        """What is not over in one turn of the core, or went wrong."""
        work = self._take(scratch, value, None)
        scratch.issued = work is not None
        if work is None:
            self._refused(status)
        assert work is not None
        try:
            return work.wait()
        except errors.CollectiveError:
            raise
        except BaseException as interrupt:
            work.abandon(interrupt)
            raise

    def _take(self, scratch: _Scratch, value: Any, keep: Any) -> Work | None:
        """The operation that the core has left in ``scratch``, None if it has none."""
        operation = scratch.operation[0]
        if operation == ffi.NULL:
            return None
        scratch.operation[0] = ffi.NULL  # it is taken once
        return Work(operation, value, self._mine, self._mine.number, keep, scratch.root)

    def _interrupted(self, scratch: _Scratch, interrupt: BaseException) -> None:
        work = self._take(scratch, None, None)
        if work is not None:
            work.abandon(interrupt)

    def _refused(self, status: int) -> None:
        message = text(lib.coll_last_error())
        if status in (lib.COLL_INVALID_ARGUMENT, lib.COLL_UNSUPPORTED, lib.COLL_FORKED):
            raise_status(status, message)
        try:
            raise_status(status, message, peer=self._mine.culprit())
        except errors.CollectiveError as error:
            self._mine.has_failed(error)
            raise

    def _issue(self, value: Any, keep: Any) -> Work:
        self._check_alive()
        scratch = self._scratch
        try:
            status = lib.coll_issue(self._mine.handle, scratch.call, scratch.operation)
            if status != _OK:
                self._refused(status)
            work = self._take(scratch, value, keep)
            assert work is not None
        except errors.CollectiveError:
            raise
        except BaseException as interrupt:
            self._interrupted(scratch, interrupt)
            raise
        # A Work that its caller drops must not end the operation, nor free its buffers.
        with self._pending_lock:
            self._pending = {other for other in self._pending if not other.done()}
            self._pending.add(work)
        if self._step is not None:
            self._step.started(work, reduces=scratch.call.kind == lib.COLL_ALL_REDUCE)
        return work

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

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise errors.CollectiveError(
                "this group belongs to the parent process; call collectives.join() in the child"
            )

    def _check_alive(self) -> None:
        self._check_process()
        if self._closed:
            raise errors.CollectiveError("this group was left; call collectives.join() again")
        if self._mine.closed:
            raise errors.Evicted("this peer is out of the run and has not come back; call rejoin()")

    def _abort(self, why: str) -> None:
        """Leave at once: pending operations of the others end with an error that says why."""
        if self._closed or os.getpid() != self._pid:
            return
        self._close(why)

    def _close(self, why: str = "") -> None:
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        self._mine.close(why)
        self._pending.clear()


def _checked_ns(timeout: float) -> int:
    if not timeout > 0:
        raise errors.InvalidArgument(f"timeout is {timeout}; it is in seconds, above 0")
    return nanoseconds(timeout)


def _flags(atomic: bool, on_failure: str) -> int:
    if on_failure not in ("retry", "raise"):
        raise errors.InvalidArgument(f"on_failure is {on_failure!r}; known are 'retry', 'raise'")
    flags: int = 0 if atomic else lib.COLL_NOT_ATOMIC
    return flags if on_failure == "retry" else flags | lib.COLL_NO_REPEAT


def _dtype_name(dtype: int) -> str:
    name: str = ffi.string(lib.coll_dtype_name(dtype)).decode()
    return name


@atexit.register
def _close_all() -> None:
    # Daemon threads die in the middle of things at the interpreter's end; better before.
    for group in list(_open_groups):
        group._close()
