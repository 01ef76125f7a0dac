"""Operations under way and what they return: ``Work``, ``Result``, ``Telemetry``."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import threading
import time
from collections.abc import Generator, Sequence
from typing import Any, NoReturn, Protocol

import numpy as np

from collectives import errors
from collectives._native import ffi, lib
from collectives._native.engine import check, nanoseconds, raise_status, text
from collectives.arrays import is_list

MERCY = 0.15
"""Seconds that a cancelled or interrupted call waits for the coordinator to decide about it."""
SLICE_NS = 100_000_000
"""How long a wait stays in the core before Python may handle signals: Ctrl-C works in every one."""


_watching = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Range:
    """Elements of a result, in the order of their indices, with the same contributors.

    Attributes:
        begin: the first of them.
        end: the first behind them.
        contributors: names of the peers whose input is in them, by rank.
    """

    begin: int
    end: int
    contributors: tuple[str, ...]


class Result:
    """What an operation returned.

    Attributes:
        value: the array that holds the result: the input if in place, else ``out``; None for
            a barrier.
        contributors: names of the peers whose input is in the result, in all of it, by rank; of
            a send and a receive, the sender's.
        view: number of the view in which it ended.
        retries: how often it was repeated because a peer was lost; with ``on_failure="resume"``,
            how many parts were.
        wire_bytes: bytes that this peer sent for it, headers and lost attempts included.
        seconds: from the call to its end.
    """

    __slots__ = ("_ranges", "contributors", "retries", "seconds", "value", "view", "wire_bytes")

    def __init__(
        self,
        value: Any,
        contributors: tuple[str, ...],
        view: int,
        retries: int,
        wire_bytes: int,
        seconds: float,
        ranges: tuple[Range, ...] | None = None,
    ) -> None:
        self._ranges = ranges
        self.value = value
        self.contributors = contributors
        self.view = view
        self.retries = retries
        self.wire_bytes = wire_bytes
        self.seconds = seconds

    @property
    def ranges(self) -> tuple[Range, ...]:
        """Whose input is where in ``value``, range by range, without gaps; neighbours differ.

        One range, unless a member was lost from an operation with ``on_failure="resume"``.
        """
        if self._ranges is None:
            self._ranges = (Range(0, _elements(self.value), self.contributors),)
        return self._ranges

    def __repr__(self) -> str:
        return (
            f"Result(contributors={self.contributors}, view={self.view}, retries={self.retries},"
            f" wire_bytes={self.wire_bytes}, seconds={self.seconds:.6f})"
        )


def _elements(value: Any) -> int:
    if value is None:
        return 0
    if isinstance(value, Sequence):
        return sum(_elements(one) for one in value)
    return int(value.size if isinstance(value, np.ndarray) else value.numel())


class Later:
    """A value that follows from what has come, when an operation has succeeded.

    Attributes:
        reduces: whether something of every contributor is in each part of it.
    """

    reduces = False

    def of(self, contributors: tuple[str, ...]) -> Any:
        """The value, of these; the same if it is asked again."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Packed(Later):
    """A result with a block of each member of ``names``: less of it is there if some were lost."""

    array: Any
    names: tuple[str, ...]
    rows: tuple[int, ...]

    def of(self, contributors: tuple[str, ...]) -> Any:
        """The part that holds the blocks of these."""
        if len(contributors) == len(self.names):
            return self.array
        if is_list(self.array):
            blocks = zip(self.names, self.array, strict=True)
            return [block for name, block in blocks if name in contributors]
        rows = dict(zip(self.names, self.rows, strict=True))
        return self.array[: sum(rows[name] for name in contributors)]


class Owner(Protocol):
    """What an operation asks of its group when it has ended."""

    @property
    def name(self) -> str:
        """This peer's name."""

    def ended_in(self, view: int) -> tuple[str, ...]:
        """The names of the members of a view, by rank; the caller's view is at least this one."""

    def culprit(self) -> str:
        """The name of the peer because of which the group is broken; "": nobody in particular."""

    def has_failed(self, error: BaseException) -> None:
        """The caller knows that the group is broken, by this error."""


@dataclasses.dataclass(frozen=True)
class LinkUse:
    """What one operation did on the link to one peer.

    Attributes:
        peer: its name.
        sent_bytes: on the wire, headers included.
        received_bytes: on the wire, headers included.
        blocked_seconds: how long slices waited for the link or for the peer's credit.
        resent: slices sent a second time.
    """

    peer: str
    sent_bytes: int
    received_bytes: int
    blocked_seconds: float
    resent: int


@dataclasses.dataclass(frozen=True)
class Telemetry:
    """Where an operation's time went; times are seconds of CLOCK_MONOTONIC, None: not yet.

    Attributes:
        number: of the operation in its tag.
        entered: it was issued.
        first_byte: the first payload arrived, perhaps before it was issued here.
        last_byte: the last payload arrived.
        done: it ended.
        retries: how often it was repeated.
        links: one entry per other peer of the view.
    """

    number: int
    entered: float
    first_byte: float | None
    last_byte: float | None
    done: float | None
    retries: int
    links: tuple[LinkUse, ...]


FROM_ANY = ""
"""As the name of the one whose input it is: it is not known before the end."""


def contributors_of(names: tuple[str, ...], root: str | None, info: Any) -> tuple[str, ...]:
    """Whose input it is: of the peers of its view, or of one."""
    if root is None:
        return names
    return (root if root != FROM_ANY else names[info.partner],)


def make_result(
    value: Any, names: tuple[str, ...], info: Any, ranges: tuple[Range, ...] | None = None
) -> Result:
    """A Result from the core's ``struct coll_info``."""
    return Result(
        value.of(names) if isinstance(value, Later) else value,
        names,
        info.view,
        info.retries,
        info.sent_bytes,
        (info.done_ns - info.entered_ns) * 1e-9,
        ranges,
    )


class Work:
    """An operation under way. Awaitable; its buffers must not be touched before it is done.

    Made by the ``_async`` methods of ``Group``. One that is dropped goes on all the same: the
    group keeps it until it has finished.
    """

    def __init__(
        self,
        handle: Any,
        value: Any,
        owner: Owner,
        view: int,
        keep: Any,
        root: str | None,
    ) -> None:
        self._handle = ffi.gc(handle, lib.coll_operation_release)
        self._value = value
        self._owner = owner
        self._view = view  # in which it was issued
        self._root = root
        self._keep = keep  # the arrays whose memory the core uses
        self._result: Result | None = None
        self._watchers = 0  # guarded by _watching, like _event_fd
        self._event_fd = -1

    def done(self) -> bool:
        """Whether it has ended, well or not."""
        status = lib.coll_test(self._handle)
        if status == lib.COLL_FORKED:
            check(status)
        return bool(status != lib.COLL_IN_PROGRESS)

    def wait(self, timeout: float | None = None) -> Result:
        """Wait until it has ended.

        Args:
            timeout: seconds to wait here; None: as long as the operation's own timeout. When it
                passes, or Ctrl-C ends the waiting, the operation goes on and may be waited for
                again.

        Raises:
            Timeout: it has not ended within ``timeout``, or within its own.
            PeerLost, TooFewPeers, MismatchError, Cancelled, Evicted: it failed; the inputs are as
                they were before.
            CoordinatorUnreachable: it did not decide what becomes of the operation, so this peer is
                out of the run.
        """
        if self._result is not None:
            return self._result
        if timeout is not None and not timeout >= 0:
            raise errors.InvalidArgument(f"timeout is {timeout}; it is in seconds, not below 0")
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            # A signal ends a wait in the core early, so the time left is asked of the clock.
            left = SLICE_NS if deadline is None else nanoseconds(deadline - time.monotonic())
            status = lib.coll_wait(self._handle, max(0, min(left, SLICE_NS)))
            if status != lib.COLL_IN_PROGRESS:
                break
            if left <= 0:
                raise errors.Timeout(
                    f"the operation has not ended within {timeout:g} s; it goes on: wait again, or"
                    " cancel() it"
                )
        return self._finish(status)

    def cancel(self, reason: str = "") -> None:
        """Ask for its end, here and at all other peers, where it raises ``Cancelled``.

        The coordinator decides, which takes a moment; this waits for it, at most 150 ms. Then
        waiting raises ``Cancelled``, or returns the result if the operation had succeeded
        somewhere. No effect once it has ended. A cancelled operation leaves the group broken until
        every member calls ``sync()``.

        Args:
            reason: for the others' message.
        """
        if self.done():
            return
        message = f"'{self._owner.name}' cancelled operation {self.telemetry().number}"
        message += f": {reason}" if reason else ""
        error = errors.Cancelled(f"{message}; call sync() and go on")
        self._owner.has_failed(error)
        lib.coll_operation_veto(self._handle, lib.COLL_CANCELLED, str(error).encode())
        deadline = time.monotonic() + MERCY
        while lib.coll_test(self._handle) == lib.COLL_IN_PROGRESS:
            left = deadline - time.monotonic()
            if left <= 0:
                return
            lib.coll_wait(self._handle, nanoseconds(left))

    def abandon(self, interrupt: BaseException) -> None:
        """Cancel it, and let go of its arrays even if nothing is decided yet."""
        self.cancel(f"interrupted by {type(interrupt).__name__}")
        ffi.release(self._handle)

    def telemetry(self) -> Telemetry:
        """Where its time went so far."""
        if lib.coll_test(self._handle) == lib.COLL_FORKED:
            check(lib.COLL_FORKED)
        # In this order: it may end at any moment, and only then has it a view in which it ended.
        ended = lib.coll_test(self._handle) != lib.COLL_IN_PROGRESS
        info = ffi.new("struct coll_info *")
        lib.coll_operation_get_info(self._handle, info)
        link = ffi.new("struct coll_link_info *")
        links = []
        for rank, name in enumerate(self._owner.ended_in(info.view if ended else self._view)):
            if lib.coll_operation_link(self._handle, rank, link) != lib.COLL_OK:
                break
            if name == self._owner.name:
                continue
            links.append(
                LinkUse(
                    name,
                    link.sent_bytes,
                    link.received_bytes,
                    link.blocked_ns * 1e-9,
                    link.resent_slices,
                )
            )

        def seconds(value: int) -> float | None:
            return value * 1e-9 if value else None

        return Telemetry(
            info.number,
            info.entered_ns * 1e-9,
            seconds(info.first_byte_ns),
            seconds(info.last_byte_ns),
            seconds(info.done_ns),
            info.retries,
            tuple(links),
        )

    def __await__(self) -> Generator[Any, None, Result]:
        return self._await().__await__()

    async def _await(self) -> Result:
        if not self.done():
            loop = asyncio.get_running_loop()
            ended = asyncio.Event()
            fd = self._watch()
            try:
                loop.add_reader(fd, ended.set)
                await ended.wait()
            except asyncio.CancelledError:
                self.cancel("the task that awaited it was cancelled")
                raise
            finally:
                loop.remove_reader(fd)
                self._unwatch(fd)
        return self.wait(0)

    def _watch(self) -> int:
        """A descriptor that becomes readable at the end, for one of those that await it."""
        with _watching:
            if self._watchers == 0:
                self._event_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                lib.coll_operation_notify(self._handle, self._event_fd)
            self._watchers += 1
            # Nobody reads it, so it stays readable; a loop knows a descriptor once, hence copies.
            return os.dup(self._event_fd)

    def _unwatch(self, fd: int) -> None:
        os.close(fd)
        with _watching:
            self._watchers -= 1
            if self._watchers == 0:
                lib.coll_operation_notify(self._handle, -1)
                os.close(self._event_fd)

    def _finish(self, status: int) -> Result:
        self._keep = None
        if status == lib.COLL_FORKED:
            check(status)
        info = ffi.new("struct coll_info *")
        lib.coll_operation_get_info(self._handle, info)
        names = self._owner.ended_in(info.view)
        if status != lib.COLL_OK:
            try:
                # An operation may fail for a loss before the view in which it was issued.
                rootless = self._root not in (None, FROM_ANY, *names)
                lost = self._root if rootless else self._owner.culprit()
                raise_operation(self._handle, status, names, lost)
            except errors.CollectiveError as error:
                self._owner.has_failed(error)
                raise
        contributors = contributors_of(names, self._root, info)
        ranges = self._ranges(info.parts) if info.parts > 1 else None
        self._result = make_result(self._value, contributors, info, ranges)
        return self._result

    def _ranges(self, parts: int) -> tuple[Range, ...]:
        """Those of an operation that has succeeded in parts."""
        part = ffi.new("struct coll_part *")
        ranges: list[Range] = []
        for index in range(parts):
            check(lib.coll_operation_part(self._handle, index, part))
            names = self._owner.ended_in(part.view)
            if ranges and ranges[-1].contributors == names:
                ranges[-1] = Range(ranges[-1].begin, part.end, names)
            else:
                ranges.append(Range(part.begin, part.end, names))
        return tuple(ranges)


def raise_operation(
    handle: Any, status: int, names: tuple[str, ...], root: str | None = None
) -> NoReturn:
    """Raise the error of a finished operation; ``names`` are those of its view, by rank."""
    culprit = lib.coll_operation_culprit(handle)
    peer = names[culprit] if 0 <= culprit < len(names) else root or ""
    unknown = bool(lib.coll_operation_unknown(handle))
    raise_status(status, text(lib.coll_operation_error(handle)), peer=peer, unknown=unknown)
