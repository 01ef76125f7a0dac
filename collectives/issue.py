"""From the arguments of a call to an operation under way: ``Issuer``.

Every collective call of a ``Group`` is checked here, handed to the C core, and waited for or made a
``Work``. A call goes in two steps, through structures that each thread has once: ``prepare``,
``reduction`` or ``copying`` fill them in, ``blocking`` or ``issue`` start what they say.
"""

from __future__ import annotations

import dataclasses
import os
import threading
from typing import Any, ClassVar, NoReturn

from collectives import errors
from collectives._native import ffi, lib
from collectives._native.engine import ALGORITHMS, nanoseconds, raise_status, text
from collectives.arrays import Buffer, buffer_of, dtype_name, is_list
from collectives.codec import Codec
from collectives.incarnation import Incarnation
from collectives.step import Step
from collectives.work import FROM_ANY, SLICE_NS, Later, Result, Work, contributors_of, make_result

OPS: dict[str, int] = {
    "sum": lib.COLL_SUM,
    "avg": lib.COLL_AVG,
    "prod": lib.COLL_PROD,
    "min": lib.COLL_MIN,
    "max": lib.COLL_MAX,
    "band": lib.COLL_BAND,
    "bor": lib.COLL_BOR,
    "bxor": lib.COLL_BXOR,
}
"""The reductions."""

SCALED_SUM: int = lib.COLL_SCALED_SUM


@dataclasses.dataclass(frozen=True)
class ScaledSum:
    """A sum of inputs that are multiplied first; see ``scaled_sum``."""

    factor: float


def scaled_sum(factor: float) -> ScaledSum:
    """A reduction: the sum of each member's input times that member's factor.

    The product is rounded to the dtype, which is a floating one, before anything is added. The
    factor is rounded to float32 first, but for float64; products of float16 and bfloat16 are
    computed in float32. In place the input is overwritten by the result alone.

    Args:
        factor: of this rank; each may have another.

    Returns:
        What ``op`` may be in the calls that reduce.

    Raises:
        TypeError, ValueError: the factor is no number.
    """
    return ScaledSum(float(factor))


ON_FAILURE: dict[str, int] = {
    "retry": 0,
    "raise": lib.COLL_NO_REPEAT,
    "resume": lib.COLL_RESUME,
}
"""What may become of an operation when a member is lost, as the core's flags."""

BLOCKS = (
    lib.COLL_REDUCE_SCATTER,
    lib.COLL_ALL_GATHER,
    lib.COLL_GATHER,
    lib.COLL_SCATTER,
    lib.COLL_ALL_TO_ALL,
)
"""The kinds that are shaped by the group."""

REDUCTIONS = (lib.COLL_ALL_REDUCE, lib.COLL_REDUCE, lib.COLL_REDUCE_SCATTER)
"""The kinds whose result has something of every contributor."""

STATE_TAG: int = lib.COLL_STATE_TAG
"""Of the operations of joining and syncing: they do not disturb the order of the user's."""

_BLANK = ffi.new("struct coll_call *")[0]
_OK = lib.COLL_OK
_run = lib.coll_run
_UNTAGGED: int = lib.COLL_UNTAGGED
_ANY: int = lib.COLL_ANY


class Scratch(threading.local):
    """One thread's argument structures: making them anew would cost half the call."""

    def __init__(self) -> None:
        self.call = ffi.new("struct coll_call *")
        self.info = ffi.new("struct coll_info *")
        self.operation = ffi.new("struct coll_operation **")
        self.kept: dict[str, Any] = {}  # what the call points to
        self.root: str | None = None  # its name, for what has one
        self.issued = False  # whether the call that failed last had become an operation

    def keep(self, what: str, array: Any) -> Any:
        """Hold on to what the call points to, until it points to another one."""
        self.kept[what] = array
        return array


class Issuer:
    """Issues the operations of one group, in whichever incarnation it is.

    Attributes:
        mine: the incarnation; ``Group.rejoin`` sets another one.
        step: what the operations belong to while the block of a step is open.
        closed: whether the group was left.
        called: whether anything was called since the admission.
    """

    _work_type: ClassVar[type[Work]] = Work  # another one for the chaos harness

    def __init__(self, mine: Incarnation, timeout: float) -> None:
        self.mine = mine
        self.step: Step | None = None
        self.closed = self.called = False
        self.scratch = Scratch()
        self._pid = os.getpid()
        self._thread: int | None = None  # whose the untagged operations are
        self._timeout_ns = nanoseconds(timeout)
        self._pending_lock = threading.Lock()
        self._pending: set[Work] = set()  # guarded by _pending_lock

    @property
    def forked(self) -> bool:
        """Whether this is a forked child, where nothing of the group may be used."""
        return os.getpid() != self._pid

    def check_process(self) -> None:
        """Raise in a forked child."""
        if self.forked:
            raise errors.CollectiveError(
                "this group belongs to the parent process; call collectives.join() in the child"
            )

    def check_alive(self) -> None:
        """Raise if nothing can be called any more."""
        self.check_process()
        if self.closed:
            raise errors.CollectiveError("this group was left; call collectives.join() again")
        if self.mine.closed:
            raise errors.Evicted("this peer is out of the run and has not come back; call rejoin()")

    def check_no_step(self, what: str) -> None:
        """Raise in the block of a step: ``what`` cannot be called there."""
        if self.step is not None:
            raise errors.InvalidArgument(f"{what} inside a step; end the step's block first")

    def close(self, why: str = "") -> None:
        """Leave at once: pending operations of the others end with an error that says why."""
        if self.closed or self.forked:
            return
        self.closed = True
        self.mine.close(why)
        self._pending.clear()

    def release_order(self) -> None:
        """The untagged operations belong to no thread any more; the next call decides."""
        self._thread = None

    def claim_order(self) -> None:
        """The untagged operations are this thread's.

        Raises:
            InvalidArgument: they are another's: two that share an order would match by chance.
        """
        me = threading.get_ident()
        if self._thread != me:
            if self._thread is not None:
                raise errors.InvalidArgument(
                    "untagged operations come from another thread already; pass tag=... to give"
                    " this thread an order of its own"
                )
            self._thread = me

    def prepare(self, kind: int, tag: int | None, timeout: float | None) -> Any:
        """Fill in this thread's structure for an operation without payload."""
        call = self.scratch.call
        self.scratch.root = None
        self.called = True
        call[0] = _BLANK  # at once: each field by itself would cost a tenth of the call
        call.kind = kind
        call.tag = self._tag(tag)
        call.timeout_ns = self._timeout_ns if timeout is None else checked_ns(timeout)
        return call

    def reduction(
        self,
        array: Any,
        op: str | ScaledSum,
        out: Any,
        tag: int | None,
        timeout: float | None,
        flags: int,
        algorithm: str | None = None,
        reserved: int | None = None,
        codec: str | Codec | None = None,
        residual: Any = None,
    ) -> None:
        """Fill in this thread's structure for an ``all_reduce``; ``reserved`` is a tag, too."""
        code = code_of(op)
        given = buffer_of(array, "array", writable=out is None)
        pointer, count, dtype, lies = given
        call = self.prepare(lib.COLL_ALL_REDUCE, 0 if reserved else tag, timeout)
        call.tag = reserved or call.tag
        call.op = code
        if code == SCALED_SUM:
            call.factor = factor_of(op)
        call.input = call.output = pointer
        call.count = count
        call.dtype = dtype
        call.flags = flags
        if lies is not None:
            self.scratch.keep("input", lies).as_input(call)
        if out is None and lies is not None:
            lies.as_output(call)
        if algorithm is not None:
            call.algorithm = algorithm_code(algorithm)
        if codec is not None or residual is not None:
            self.encode(call, codec, residual, count)
        if self.step is not None and flags & lib.COLL_RESUME:
            raise errors.InvalidArgument(
                "on_failure='resume' in a step, which counts only if all of it has the same"
                " contributors; use 'retry' there"
            )
        if out is None and self.step is not None:
            self.step.keep(array, given)
        if out is not None:
            target, out_count, out_dtype, lies = buffer_of(out, "out", writable=True)
            if out_count != count or out_dtype != dtype:
                raise errors.InvalidArgument(
                    f"out has {out_count} elements of {dtype_name(out_dtype)}, array has"
                    f" {count} of {dtype_name(dtype)}; they must match"
                )
            call.output = target
            if lies is not None:
                self.scratch.keep("output", lies).as_output(call)

    def encode(self, call: Any, codec: str | Codec | None, residual: Any, count: int) -> None:
        """Have what the call sends encoded; ``count``: elements of its input."""
        if codec is None:
            raise errors.InvalidArgument("residual without a codec; nothing is lost then")
        made = Codec.of(codec)
        call.codec = self.scratch.keep("codec", made.struct())
        if made.error_feedback != (residual is not None):
            raise errors.InvalidArgument(
                "a codec with error_feedback=True needs residual=, a float32 array like the input,"
                " zeros at first"
                if made.error_feedback
                else "residual is for a codec with error_feedback=True"
            )
        if residual is None:
            return
        given = buffer_of(residual, "residual", writable=True)
        pointer, elements, dtype, lies = given
        if elements != count or dtype != lib.COLL_F32 or lies is not None:
            raise errors.InvalidArgument(
                f"residual has {elements} elements of {dtype_name(dtype)}; it needs {count} of"
                " float32, in one piece"
            )
        call.residual = ffi.cast("float *", pointer)
        if self.step is not None:
            self.step.keep(residual, given)

    def copying(
        self,
        array: Any,
        root: int,
        tag: int | None,
        timeout: float | None,
        flags: int,
        algorithm: str | None = None,
    ) -> None:
        """Fill in this thread's structure for a ``broadcast``."""
        here = root == self.mine.rank
        given = buffer_of(array, "array", writable=not here)
        pointer, count, dtype, lies = given
        call = self.prepare(lib.COLL_BROADCAST, tag, timeout)
        # A rank is that of the caller's view, of which the core may be ahead.
        call.root = self.checked_root(root)
        call.peers = self.mine.ids
        call.peer_count = self.mine.size
        self.scratch.root = self.mine.names[root]
        call.input = call.output = pointer
        call.count = count
        call.dtype = dtype
        call.flags = flags
        if lies is not None:
            self.scratch.keep("input", lies).as_input(call)
            lies.as_output(call)
        if algorithm is not None:
            call.algorithm = algorithm_code(algorithm)
        if not here and self.step is not None:
            self.step.keep(array, given)

    def sending(self, array: Any, to: int, tag: int | None, timeout: float | None) -> None:
        """Fill in this thread's structure for a ``send``."""
        given = buffer_of(array, "array", writable=False)
        call = self._pairing(lib.COLL_SEND, given, to, "to", tag, timeout)
        call.input, _, _, lies = given
        if lies is not None:
            self.scratch.keep("input", lies).as_input(call)
        self.scratch.root = self.mine.names[self.mine.rank]

    def receiving(
        self, array: Any, source: int | None, tag: int | None, timeout: float | None
    ) -> None:
        """Fill in this thread's structure for a ``recv``."""
        given = buffer_of(array, "array", writable=True)
        call = self._pairing(lib.COLL_RECV, given, source, "source", tag, timeout)
        call.output, _, _, lies = given
        if lies is not None:
            self.scratch.keep("output", lies).as_output(call)
        self.scratch.root = FROM_ANY if source is None else self.mine.names[source]
        if self.step is not None:
            self.step.keep(array, given)

    def _pairing(
        self,
        kind: int,
        given: Buffer,
        other: int | None,
        what: str,
        tag: int | None,
        timeout: float | None,
    ) -> Any:
        if other is not None and not 0 <= other < self.mine.size:
            raise errors.InvalidArgument(
                f"{what} is {other}; the ranks of this view are 0 to {self.mine.size - 1}"
            )
        if other == self.mine.rank:
            raise errors.InvalidArgument(f"{what} is {other}, this rank itself; copy the array")
        call = self.prepare(kind, tag, timeout)
        call.root = _ANY if other is None else other
        call.peers = self.mine.ids
        call.peer_count = self.mine.size
        _, call.count, call.dtype, _ = given
        return call

    def checked_root(self, root: int) -> int:
        """A rank of the caller's view.

        Raises:
            InvalidArgument: it is none.
        """
        if not 0 <= root < self.mine.size:
            raise errors.InvalidArgument(
                f"root is {root}; the ranks of this view are 0 to {self.mine.size - 1}"
            )
        return root

    def _tag(self, tag: int | None) -> int:
        if tag is not None:
            if not 0 <= tag < STATE_TAG:
                raise errors.InvalidArgument(f"tag is {tag}; allowed are 0 to {STATE_TAG - 1}")
            return tag
        if self._thread != threading.get_ident():
            self.claim_order()
        return _UNTAGGED

    def blocking(self, value: Any) -> Result:
        """Run what this thread's structure says, and wait for it."""
        mine = self.mine
        if mine.closed:
            self.check_alive()
        scratch = self.scratch
        try:
            status = _run(mine.handle, scratch.call, SLICE_NS, scratch.operation, scratch.info)
            if status == _OK:
                info = scratch.info
                names = mine.names if info.view == mine.number else mine.ended_in(info.view)
                return make_result(value, contributors_of(names, scratch.root, info), info)
            return self._slowly(status, scratch, value)
        except errors.CollectiveError:
            raise
        except BaseException as interrupt:
            # Python handles a signal as soon as the core returns: before we know what it returned.
            self._interrupted(scratch, interrupt)
            raise

    def _slowly(self, status: int, scratch: Scratch, value: Any) -> Result:
        """What is not over in one turn of the core, went wrong, or has more to tell."""
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

    def _take(self, scratch: Scratch, value: Any, keep: Any) -> Work | None:
        """The operation that the core has left in ``scratch``, None if it has none."""
        operation = scratch.operation[0]
        if operation == ffi.NULL:
            return None
        scratch.operation[0] = ffi.NULL  # it is taken once
        return self._work_type(operation, value, self.mine, self.mine.number, keep, scratch.root)

    def refuse(self, tag: int | None, status: int, why: str) -> Work:
        """Have the next operation of a tag end with an error, on all ranks.

        Args:
            tag: as in ``all_reduce``.
            status: the core's number of the error.
            why: its message.

        Raises:
            CollectiveError: the group is broken already, for all; the caller decides who is told.
        """
        mine = self.mine
        operation = ffi.new("struct coll_operation **")
        order = _UNTAGGED if tag is None else tag
        refused = lib.coll_refuse(mine.handle, order, status, why.encode(), operation)
        if refused != _OK:
            raise_status(refused, text(lib.coll_last_error()), peer=mine.culprit())
        return self._work_type(operation[0], None, mine, mine.number, None, None)

    def mismatch(self, tag: int | None, why: str) -> NoReturn:
        """Raise a MismatchError that the core could not find, on all ranks.

        Those that find nothing raise it at their next call of the tag.
        """
        try:
            self.refuse(tag, lib.COLL_MISMATCH, why).wait()
        except errors.CollectiveError as error:  # others may have been quicker
            self.mine.has_failed(error)
            raise
        raise errors.CollectiveError(why)

    def _interrupted(self, scratch: Scratch, interrupt: BaseException) -> None:
        work = self._take(scratch, None, None)
        if work is not None:
            work.abandon(interrupt)

    def _refused(self, status: int) -> None:
        message = text(lib.coll_last_error())
        if status in (lib.COLL_INVALID_ARGUMENT, lib.COLL_UNSUPPORTED, lib.COLL_FORKED):
            raise_status(status, message)
        try:
            raise_status(status, message, peer=self.mine.culprit())
        except errors.CollectiveError as error:
            self.mine.has_failed(error)
            raise

    def issue(self, value: Any, keep: Any) -> Work:
        """Start what this thread's structure says; ``keep`` are the arrays that it uses."""
        self.check_alive()
        scratch = self.scratch
        try:
            status = lib.coll_issue(self.mine.handle, scratch.call, scratch.operation)
            if status != _OK:
                self._refused(status)
            # A list may be changed meanwhile; what it held must not be freed.
            held = [tuple(array) if is_list(array) else array for array in keep]
            work = self._take(scratch, value, held)
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
        if self.step is not None:
            reduces = scratch.call.kind in REDUCTIONS or (
                isinstance(value, Later) and value.reduces
            )
            self.step.started(work, reduces)
        return work


def checked_ns(timeout: float) -> int:
    """A timeout in nanoseconds; raises InvalidArgument unless it is above 0."""
    if not timeout > 0:
        raise errors.InvalidArgument(f"timeout is {timeout}; it is in seconds, above 0")
    return nanoseconds(timeout)


def flags_of(atomic: bool, on_failure: str) -> int:
    """The arguments of that name as the core's flags."""
    how = ON_FAILURE.get(on_failure)
    if how is None:
        raise errors.InvalidArgument(
            f"on_failure is {on_failure!r}; known are {', '.join(map(repr, ON_FAILURE))}"
        )
    return how if atomic else how | lib.COLL_NOT_ATOMIC


def code_of(op: str | ScaledSum) -> int:
    """The core's number of a reduction; raises InvalidArgument if there is no such."""
    if isinstance(op, ScaledSum):
        return SCALED_SUM
    code = OPS.get(op)
    if code is None:
        raise errors.InvalidArgument(
            f"op is {op!r}; known are {', '.join(OPS)}, and scaled_sum(factor)"
        )
    return code


def factor_of(op: str | ScaledSum) -> float:
    """What this rank's input is multiplied by."""
    return op.factor if isinstance(op, ScaledSum) else 1.0


def algorithm_code(name: str) -> int:
    """An algorithm as a call names it; raises InvalidArgument if there is no such."""
    code = ALGORITHMS.get(name)
    if code is None:
        raise errors.InvalidArgument(f"algorithm is {name!r}; known are {', '.join(ALGORITHMS)}")
    return 1 + code
