"""What this process uses: memory and its peak, and the speed at which it copies."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from collectives._native import ffi, lib
from collectives.bench.messages import Stream, Streamed

_ARRAY_BYTES = 64 << 20  # two of them per process are well out of any cache
_PIECE = 256 << 10


def resident() -> int:
    """Return the bytes of memory that this process has, shared memory that it touched included."""
    return _status("VmRSS")


def forget_peak() -> None:
    """Let `peak` start again, where the system allows it; else it is that of the whole life."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Return the most bytes of memory that this process had since `forget_peak`."""
    return _status("VmHWM")


def _status(name: str) -> int:
    with Path("/proc/self/status").open() as lines:
        for line in lines:
            if line.startswith(name):
                return int(line.split()[1]) << 10
    return 0


# ---- the speed of copies -----------------------------------------------------------------------


def _whole(target: Any, source: Any) -> None:
    # So long that the C library avoids reading what it is about to overwrite, if it ever does.
    np.copyto(target, source)


def _pieces(target: Any, source: Any) -> None:
    for start in range(0, len(source), _PIECE):
        np.copyto(target[start : start + _PIECE], source[start : start + _PIECE])


def _streaming(target: Any, source: Any) -> None:
    lib.coll_copy_stream(ffi.from_buffer(target), ffi.from_buffer(source), len(source))


WAYS: dict[str, Callable[[Any, Any], None]] = {"whole": _whole, "pieces": _pieces}
if hasattr(lib, "coll_copy_stream"):
    WAYS["streaming"] = _streaming


def stream(command: Stream, barrier: Callable[[], object]) -> Streamed:
    """Copy for a while, at the same time as the other ranks."""
    source, target = (np.full(_ARRAY_BYTES, fill, np.uint8) for fill in (1, 2))
    copy = WAYS[command.way]
    copy(target, source)
    barrier()
    copied, begin = 0, time.perf_counter()
    elapsed = 0.0
    while elapsed < command.seconds:
        copy(target, source)
        copied += _ARRAY_BYTES
        elapsed = time.perf_counter() - begin
    return Streamed(copied, elapsed)
