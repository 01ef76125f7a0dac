"""A ``Group`` that writes down every call and what came of it.

``install`` has ``collectives.join`` make one, so that a program need not know of it. The lines are
those of ``docs/chaos.md``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from collectives._native import ffi, lib
from collectives._native.engine import check, text
from collectives.chaos import journal as journals
from collectives.chaos.journal import Journal
from collectives.group import Group
from collectives.incarnation import Application, Incarnation
from collectives.issue import BLOCKS, OPS, REDUCTIONS, SCALED_SUM, STATE_TAG, Issuer
from collectives.membership.peer import SyncOutcome
from collectives.membership.view import View
from collectives.state.shared import SharedState
from collectives.step import Step
from collectives.work import Result, Work

_WARM = 40
"""Calls after which a process holds what it needs, and anything more is a leak."""
_EMPTY = (lib.COLL_BARRIER, lib.COLL_SYNC)
_PAIRS = (lib.COLL_SEND, lib.COLL_RECV)
_ALIKE = (lib.COLL_ALL_REDUCE, lib.COLL_BROADCAST, lib.COLL_ALL_GATHER, *_PAIRS)
"""What has the same result on all ranks that have one; of others each has its own."""
_REDUCTIONS = {**{code: name for name, code in OPS.items()}, SCALED_SUM: "scaled_sum"}
_DTYPES = {
    code: ffi.string(lib.coll_dtype_name(code)).decode()
    for code in range(64)
    if lib.coll_dtype_size(code)
}


class Recorder:
    """What one process writes down; safe from any thread.

    Args:
        journal: where it goes.

    Attributes:
        adjust: makes what a program asks to join with what it is to be.
        entered: called when a group was joined.
        work: the number of the program's own step, if it has one; lines of calls have it.
        calls: how many calls have ended.
    """

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.work: int | None = None
        self.calls = 0
        self.groups: list[Group] = []
        self.adjust: Callable[[Application], Application] = lambda application: application
        self.entered: Callable[[], None] = lambda: None
        self._numbers = itertools.count(1)

    def call(self, **fields: Any) -> int:
        """A call begins; returns its number."""
        number = next(self._numbers)
        self.journal.write("call", n=number, work=self.work, **fields)
        return number

    def returned(self, n: int, **fields: Any) -> None:
        """The call succeeded."""
        self.journal.write("return", n=n, **fields)
        self._ended()

    def raised(self, n: int, error: BaseException, **fields: Any) -> None:
        """The call raised."""
        self.journal.write(
            "raise",
            n=n,
            error=type(error).__name__,
            peer=getattr(error, "peer", None) or None,
            unknown=bool(getattr(error, "outcome_unknown", False)),
            message=str(error),
            **fields,
        )
        self._ended()

    def _ended(self) -> None:
        self.calls += 1
        if self.calls == _WARM:
            self.resources()

    def resources(self) -> None:
        """Count what this process holds now."""
        here = Path("/proc/self")
        children = 0
        for task in (here / "task").iterdir():
            with contextlib.suppress(OSError):  # a thread that ends just now
                children += len((task / "children").read_text().split())
        self.journal.write(
            "resources",
            fds=len(list((here / "fd").iterdir())),
            threads=len(list((here / "task").iterdir())),
            mappings=(here / "maps").read_text().count("\n"),
            children=children,
            rss=int((here / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
        )

    @contextlib.contextmanager
    def recording(self, **fields: Any) -> Iterator[dict[str, Any]]:
        """A call that is the block; what is put into the dictionary goes into its ``return``."""
        n, since, more = self.call(**fields), time.monotonic(), dict[str, Any]()
        try:
            yield more
        except BaseException as error:
            self.raised(n, error, number=None, digest=None)
            raise
        self.returned(n, seconds=time.monotonic() - since, **{**_NOTHING, **more})

    def wrong(self, what: str) -> None:
        """The program has found a value that is not what it must be."""
        self.journal.write("wrong", work=self.work, what=what)

    def state(self, group: Group, state: SharedState) -> None:
        """All members hold this now."""
        digests = [f"{name} {_digest_of_value(state[name])}" for name in sorted(state)]
        self.journal.write(
            "state",
            group=group.view.group,
            revision=state.revision,
            digest=journals.digest_of_all(digests),
            run=state.run.hex if state.run else None,
            work=self.work,
        )


_NOTHING: dict[str, Any] = dict.fromkeys(
    ("number", "digest", "own", "contributors", "ranges", "view", "retries")
)


def line_of(view: View) -> journals.View:
    """A view as a journal has it."""
    members = tuple((peer.id.hex, peer.name) for peer in view.peers)
    return journals.View(view.term, view.number, members)


def _digest_of_value(value: Any) -> str:
    if isinstance(value, bytes | bytearray):
        return journals.digest(bytes(value))
    if isinstance(value, bool | int | float):
        return repr(value)
    if hasattr(value, "detach"):  # a torch tensor; numpy may lack its dtype
        import torch

        value = value.detach().contiguous().flatten().view(torch.uint8).numpy()
    return journals.digest(np.ascontiguousarray(value))


def _digest_of_result(value: Any) -> str | None:
    """Of its elements in their order, however they lie; None: it has none."""
    if not isinstance(value, list | tuple):
        value = [value]
    bits = xxhash.xxh3_64()
    for array in value:
        if array is None:
            return None
        if hasattr(array, "detach"):
            import torch

            array = array.detach().contiguous().flatten().view(torch.uint8).numpy()
        packed: Any = np.ascontiguousarray(array)
        bits.update(packed)
    return bits.hexdigest()


def _codec_of(call: Any) -> str | None:
    """Its name and all that is set of it; whether the bits depend on more than that."""
    if not call.codec:
        return None
    name = text(lib.coll_codec_name(call.codec.format))
    how = journals.digest(bytes(ffi.buffer(call.codec, ffi.sizeof("struct coll_codec"))))
    numbered = call.codec.hadamard or call.codec.flags & lib.COLL_CODEC_STOCHASTIC
    more = call.residual or numbered
    return f"{name} {how}{journals.AND_MORE if more else ''}"


def _elements(pointer: Any, count: int, strides: Any, size: int) -> Any:
    """An array in memory, as numpy sees it; the elements are bytes."""
    if not count:
        return np.empty(0, f"V{size}")
    first = np.frombuffer(ffi.buffer(ffi.cast("char *", pointer), size), f"V{size}")
    if strides:
        shape = [strides.shape[i] for i in range(strides.dims)]
        steps = [strides.strides[i] for i in range(strides.dims)]
    else:
        shape, steps = [count], [size]
    return np.lib.stride_tricks.as_strided(first, shape, steps, writeable=False)


class RecordedWork(Work):
    """A ``Work`` that tells when its end is taken."""

    told: Callable[[Result | BaseException], None] | None = None

    def _finish(self, status: int) -> Result:
        tell, self.told = self.told, None
        try:
            result = super()._finish(status)
        except BaseException as error:
            if tell is not None:
                tell(error)
            raise
        if tell is not None:
            tell(result)
        return result


class _Call:
    """What a thread is about to do, as its argument structure says.

    Attributes:
        fields: of the line.
    """

    def __init__(self, call: Any, root: str | None, mine: Incarnation, blocking: bool) -> None:
        moves = call.kind not in _EMPTY
        given, result = ffi.new("uint64_t *"), ffi.new("uint64_t *")
        check(lib.coll_call_extents(call, mine.rank, mine.size, given, result))
        element = lib.coll_dtype_size(call.dtype) if moves else 0
        raises = call.flags & lib.COLL_NO_REPEAT or (
            call.kind in BLOCKS and not call.flags & lib.COLL_RESIZE
        )
        self._input: list[Any] = []
        # What a factor belongs to is not known by its digest.
        if element and given[0] and call.op != SCALED_SUM and call.kind != lib.COLL_RECV:
            for i in range(call.input_arrays if call.inputs else 0):
                one = call.inputs[i]
                self._input.append(_elements(one.data, one.count, one.strides, element))
            if not call.inputs:
                self._input = [_elements(call.input, given[0], call.input_strides, element)]
        self._moves, self._alike = moves, call.kind in _ALIKE
        on_failure = "resume" if call.flags & lib.COLL_RESUME else "raise" if raises else "retry"
        sizes = [part for part in (call.counts, call.counts_from) if part]
        counts = [part[rank] for part in sizes for rank in range(mine.size)]
        to = None
        if call.kind in _PAIRS:
            to = mine.names[call.root if call.kind == lib.COLL_SEND else mine.rank]
        self.fields: dict[str, Any] = {
            "group": mine.view.group,
            "op": text(lib.coll_kind_name(call.kind)),
            "tag": None if call.tag == lib.COLL_UNTAGGED else call.tag,
            "count": call.count if moves else None,
            "counts": counts or None,
            "dtype": _DTYPES[call.dtype] if moves else None,
            "redop": _REDUCTIONS[call.op] if call.kind in REDUCTIONS else None,
            "codec": _codec_of(call),
            "root": root,
            "to": to,
            "in_place": moves and call.input == call.output and call.inputs == call.outputs,
            "atomic": not call.flags & lib.COLL_NOT_ATOMIC,
            "timeout": call.timeout_ns * 1e-9,
            "on_failure": on_failure,
            "blocking": blocking,
            "digest": self.input(),
        }

    def input(self) -> str | None:
        """The digest of what it takes."""
        return _digest_of_result(self._input) if self._input else None

    def output(self, value: Any) -> dict[str, str | None]:
        """The digest of what it gives: where all that have a result have the same, or its own."""
        found = _digest_of_result(value) if self._moves else None
        return {"digest": found, "own": None} if self._alike else {"digest": None, "own": found}


class RecordingIssuer(Issuer):
    """An ``Issuer`` that writes down what it issues for the program, and what came of it."""

    _work_type = RecordedWork
    recorder: Recorder
    sync_number: int | None = None  # of the last sync() that all members were in

    def __init__(self, mine: Incarnation, timeout: float) -> None:
        super().__init__(mine, timeout)
        self._last = threading.local()  # .work: what this thread took from the core last

    def _take(self, scratch: Any, value: Any, keep: Any) -> Work | None:
        work = super()._take(scratch, value, keep)
        self._last.work = work
        return work

    def _described(self, blocking: bool) -> _Call | None:
        call = self.scratch.call
        if call.tag == STATE_TAG or call.kind == lib.COLL_SYNC:
            return None  # a part of sync(), which is written down as a whole
        return _Call(call, self.scratch.root, self.mine, blocking)

    def _number(self) -> int | None:
        work = self._last.work
        return int(self.scratch.info.number) if work is None else work.telemetry().number

    def blocking(self, value: Any) -> Result:
        """As it is, and written down."""
        call = self._described(True)
        self._last.work = None
        if call is None:
            syncs = self.scratch.call.kind == lib.COLL_SYNC
            result = super().blocking(value)
            if syncs:
                self.sync_number = self._number()
            return result
        n = self.recorder.call(**call.fields)
        try:
            result = super().blocking(value)
        except BaseException as error:
            number = self._number() if self._last.work is not None else None
            self.recorder.raised(n, error, number=number, digest=call.input())
            raise
        self._returned(n, result, call, self._number())
        return result

    def issue(self, value: Any, keep: Any) -> Work:
        """As it is, and written down; what comes of it when its end is taken."""
        call = self._described(False)
        if call is None:
            return super().issue(value, keep)
        n = self.recorder.call(**call.fields)
        try:
            work = super().issue(value, keep)
        except BaseException as error:
            self.recorder.raised(n, error, number=None, digest=call.input())
            raise
        number = work.telemetry().number

        def tell(ended: Result | BaseException) -> None:
            if isinstance(ended, Result):
                self._returned(n, ended, call, number)
            else:
                self.recorder.raised(n, ended, number=number, digest=call.input())

        assert isinstance(work, RecordedWork)
        work.told = tell
        return work

    def _returned(self, n: int, result: Result, call: _Call, number: int | None) -> None:
        ranges = [[one.begin, one.end, list(one.contributors)] for one in result.ranges]
        self.recorder.returned(
            n,
            number=number,
            **call.output(result.value),
            contributors=list(result.contributors),
            ranges=ranges if len(ranges) > 1 else None,
            view=result.view,
            retries=result.retries,
            seconds=result.seconds,
        )


class RecordedGroup(Group):
    """A ``Group`` whose life is written down."""

    _issuer_type = RecordingIssuer
    recorder: Recorder

    def __init__(
        self,
        application: Application,
        timeout: float | None = None,
        state: SharedState | None = None,
        beside: Incarnation | None = None,
    ) -> None:
        application = self.recorder.adjust(application)
        since, bare = time.monotonic(), _bare(timeout, application)
        with self.recorder.recording(op="join", group=application.group, **bare):
            super().__init__(application, timeout, state, beside)
            self._tell_entry("joined", time.monotonic() - since)
        self.on_view_change(self._tell_view)
        self.recorder.groups.append(self)
        self.recorder.entered()

    def _tell_entry(self, kind: str, seconds: float) -> None:
        self.recorder.journal.write(
            kind,
            group=self.view.group,
            id=self._mine.id.hex,
            name=self.name,
            view=line_of(self.view),
            newcomer=self._mine.newcomer,
            seconds=seconds,
        )

    def _tell_counters(self) -> None:
        """What the present incarnation has counted, before it ends."""
        if not self._mine.closed:  # else all are zero
            self.recorder.journal.write(
                "counters",
                group=self._application.group,
                counts=dataclasses.asdict(self.counters()),
                out=self._mine.out,
            )

    def _tell_view(self, view: View) -> None:
        self.recorder.journal.write("view", group=view.group, view=line_of(view))

    def _recording(
        self, op: str, timeout: float | None
    ) -> contextlib.AbstractContextManager[dict[str, Any]]:
        bare = _bare(timeout, self._application)
        return self.recorder.recording(op=op, group=self._application.group, **bare)

    def sync(
        self, state: SharedState | None = None, *, timeout: float | None = None
    ) -> SyncOutcome:
        """As it is, and written down."""
        with self._recording("sync", timeout) as line:
            issuer = self._issuer
            assert isinstance(issuer, RecordingIssuer)
            issuer.sync_number = None
            outcome = super().sync(state, timeout=timeout)
            line["number"] = issuer.sync_number
            line["view"] = outcome.view.number
            line["contributors"] = [peer.name for peer in outcome.view.peers]
        if state is not None:
            self.recorder.state(self, state)
        return outcome

    def leave(self, *, timeout: float = 10.0) -> None:
        """As it is, and written down."""
        if self._issuer.closed:
            super().leave(timeout=timeout)
            return
        self.recorder.resources()
        self._tell_counters()
        with self._recording("leave", timeout):
            super().leave(timeout=timeout)
        self.recorder.groups.remove(self)
        self.recorder.journal.write("left", group=self._application.group)

    def rejoin(self, *, timeout: float | None = None, state: SharedState | None = None) -> View:
        """As it is, and written down."""
        since = time.monotonic()
        with self._recording("rejoin", timeout):
            if self._mine.out:
                self._tell_counters()
            view = super().rejoin(timeout=timeout, state=state)
            self._tell_entry("rejoined", time.monotonic() - since)
        return view

    @contextlib.contextmanager
    def step(self, *, timeout: float | None = None) -> Iterator[Step]:
        """As it is, and written down."""
        with self._recording("step", timeout), super().step(timeout=timeout) as step:
            yield step


def _bare(timeout: float | None, application: Application) -> dict[str, Any]:
    """The fields of a call that moves nothing of the program's."""
    moved = ("count", "counts", "dtype", "redop", "codec", "root", "to", "in_place", "digest")
    fields = ("tag", *moved, "on_failure")
    limit = application.options.timeout if timeout is None else timeout
    return {**dict.fromkeys(fields), "timeout": limit, "blocking": True}


def install(recorder: Recorder) -> None:
    """Have every group that this process joins from now on written down."""
    RecordingIssuer.recorder = RecordedGroup.recorder = recorder
    Group._joined_type = RecordedGroup


__all__ = ["RecordedGroup", "RecordedWork", "Recorder", "install", "line_of"]
