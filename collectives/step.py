"""What one step of a group has done so far: ``Step``.

``Group.step`` makes it, tells it of every operation, and decides whether it counts; here is what is
needed to undo it.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

from collectives._native import ffi, lib
from collectives.arrays import Arrays, Buffer
from collectives.errors import CollectiveError
from collectives.work import Result, Work


class Step:
    """Several operations that count together or not at all; see ``Group.step``.

    Attributes:
        stands: whether the block has ended and counts.
        contributors: names of the peers that are in every reduction of the step, by rank; empty
            before it stands, or if there was no reduction.
    """

    def __init__(self) -> None:
        self.stands = False
        self.contributors: tuple[str, ...] = ()
        self._kept: dict[tuple[int, ...], tuple[Any, Any, Any]] = {}
        self._works: list[tuple[Work, bool]] = []
        self._took_part: list[tuple[str, ...]] = []

    def keep(self, array: Any, buffer: Buffer) -> None:
        """An operation is about to change an array or a list of them; their first value counts."""
        pointer, count, dtype, lies = buffer
        if isinstance(lies, Arrays):
            for item, part in zip(lies.arrays, lies.buffers, strict=True):
                self.keep(item, part)
            return
        size = count * lib.coll_dtype_size(dtype)
        at = int(ffi.cast("uintptr_t", pointer))
        where = (at, size) if lies is None else (at, *lies.lies)
        if size == 0 or where in self._kept:
            return
        if lies is not None:
            copy = array.copy() if isinstance(array, np.ndarray) else array.clone()
            self._kept[where] = (array, None, copy)
            return
        copy = np.empty(size, np.uint8)
        ffi.memmove(ffi.from_buffer(copy), pointer, size)
        self._kept[where] = (array, pointer, copy)

    def started(self, work: Work, reduces: bool) -> None:
        """An asynchronous operation was started."""
        self._works.append((work, reduces))

    def reduced(self, result: Result) -> None:
        """A reduction has ended."""
        self._took_part.append(result.contributors)

    def wait(self) -> None:
        """Wait for what was started; raises the first error."""
        for work, reduces in self._works:
            result = work.wait()
            if reduces:
                self.reduced(result)

    @property
    def apart(self) -> bool:
        """Whether reductions have different contributors: somebody was lost between them."""
        return len(set(self._took_part)) > 1

    def lost(self) -> list[str]:
        """Who is in some reduction and not in all."""
        everybody = dict.fromkeys(name for names in self._took_part for name in names)
        return [name for name in everybody if any(name not in names for names in self._took_part)]

    def undo(self) -> None:
        """Wait until nothing is under way any more, and make all arrays what they were."""
        try:
            for work, _ in self._works:
                with contextlib.suppress(CollectiveError):
                    work.wait()
        finally:
            # The oldest last: parts of one array may have been kept at different times.
            for array, pointer, copy in reversed(self._kept.values()):
                if pointer is None:
                    array[...] = copy
                else:
                    ffi.memmove(pointer, ffi.from_buffer(copy), copy.size)
            self._kept.clear()

    def count(self) -> None:
        """It counts: forget what it took to undo it."""
        self.stands = True
        self.contributors = self._took_part[-1] if self._took_part else ()
        self._kept.clear()
        self._works.clear()
