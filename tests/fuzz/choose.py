"""Keep the inputs of a Python target that take a step no other took: choose.py TARGET FROM TO.

What libFuzzer's -merge does for the C targets; under atheris that cannot start itself again.
"""

from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

Step = tuple[CodeType, int, int]


class Steps:
    """The pairs of lines, one right after the other in one function, that were taken."""

    def __init__(self) -> None:
        self.found: set[Step] = set()

    def trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        if "/collectives/" not in code.co_filename:
            return None
        last = frame.f_lineno

        def line(inner: FrameType, what: str, value: Any) -> Any:
            nonlocal last
            self.found.add((code, last, inner.f_lineno))
            last = inner.f_lineno
            return line

        return line


def steps_of(run: Any, data: bytes) -> set[Step]:
    steps = Steps()
    sys.settrace(steps.trace)
    try:
        run(data)
    finally:
        sys.settrace(None)
    return steps.found


def main(target: str, source: Path, kept: Path) -> None:
    run = importlib.import_module(f"fuzz_{target}").run
    known: set[Step] = set()
    for path in kept.iterdir():
        known |= steps_of(run, path.read_bytes())
    for path in sorted(source.iterdir(), key=lambda path: (path.stat().st_size, path.name)):
        found = steps_of(run, path.read_bytes())
        if found - known:
            shutil.copy(path, kept / path.name)
        known |= found


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
