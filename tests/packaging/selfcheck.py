"""What an installed package must be able to do, with nothing else of the project around.

``selfcheck.py`` starts a coordinator and two peers of itself, which reduce an array together.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy

import collectives
from collectives.chaos.shaper import Shaper


def peer(address: str) -> None:
    """Take part in one all-reduce of two."""
    with collectives.join(address, min_size=2, timeout=60) as group:
        array = numpy.full(100_003, group.rank + 1, dtype=numpy.float32)
        group.all_reduce(array, op="sum")
        assert (array == 3).all(), array
        group.barrier()


def main() -> None:
    """Check where the package is, that two processes reduce, and that the proxy runs."""
    package = Path(collectives.__file__).parent
    assert package.is_relative_to(sys.prefix), package
    assert (package / "include" / "collectives.h").is_file()
    assert (package / "py.typed").is_file()
    assert "torch" not in sys.modules
    with collectives.Coordinator("127.0.0.1:0") as coordinator:
        command = [sys.executable, __file__, coordinator.address]
        peers = [subprocess.Popen(command) for _ in range(2)]
        try:
            statuses = [process.wait(timeout=90) for process in peers]
        finally:
            for process in peers:
                process.kill()
    assert statuses == [0, 0], statuses
    with Shaper() as shaper:
        assert shaper.stats()["routes"] == 0
    print(f"works: {sys.version.split()[0]} {package}")


if __name__ == "__main__":
    peer(sys.argv[1]) if len(sys.argv) > 1 else main()
