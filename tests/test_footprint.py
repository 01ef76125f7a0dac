"""What a peer costs its host: memory beyond the user's buffers, and a core while nothing is to do.

The bounds are those of the design: 64 MiB a process beside the one shadow that is kept, and a
hundredth of a core.
"""

from __future__ import annotations

import contextlib
import re
import resource
import time
from pathlib import Path

import numpy as np
import pytest

import collectives
import crew
from crew import DEADLINE, Crew

PEERS, CONNECTIONS = 8, 8
LARGE = 64 << 20  # bytes
MOST = 64 << 20  # bytes beyond the user's
IDLE, SHARE = 5.0, 0.01  # seconds, and what may be used of a core meanwhile


def resident() -> dict[str, int]:
    """Bytes of this process by what they are: its own, and of shared memory."""
    text = Path("/proc/self/status").read_text()
    found = dict(re.findall(r"Rss(Anon|Shmem):\s+(\d+) kB", text))
    return {name: int(size) << 10 for name, size in found.items()}


def enter(_: None, address: str, arguments: dict[str, object], options: dict[str, object]) -> int:
    """Know what was there before the library."""
    global _before
    _before = resident()
    return crew.join(None, address, arguments, options)


def segment() -> int:
    """Bytes of this process's own, mapped or not."""
    total = 0
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if "memfd:collectives" in str(fd.readlink()):
                total += fd.stat().st_blocks * 512
    return total


def cost(group: collectives.Group) -> dict[str, int]:
    """Bytes beyond the user's after one large operation, by kind."""
    array = np.ones(LARGE // 4, np.float32)
    group.all_reduce(array, timeout=DEADLINE)
    assert (array == group.size).all()
    group.barrier(timeout=DEADLINE)
    now = resident()
    return {
        "own": now["Anon"] - _before["Anon"] - 2 * LARGE,  # the array, and its shadow
        "segment": segment(),
        "seen": now["Shmem"] - _before["Shmem"],
        "connections": group.counters().open_connections,
    }


def cpu_seconds(group: collectives.Group) -> float:
    before = resource.getrusage(resource.RUSAGE_SELF)
    time.sleep(IDLE)  # the claim is about a stretch of time
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.full
@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_a_peer_of_eight_costs_64_mib_and_when_idle_a_hundredth_of_a_core(transport: str):
    options = {"transport": transport, "connections": CONNECTIONS}
    with Crew(PEERS, options, joiner="test_footprint:enter") as run:
        costs = run.get(cost)
        for _ in range(3):  # what runs beside, in the same cores, makes it more and never less
            shares = [seconds / IDLE for seconds in run.get(cpu_seconds)]
            print(f"{transport}: " + ", ".join(f"{share:.2%}" for share in shares) + " of a core")
            if max(shares) < SHARE:
                break
    connections = (PEERS - 1) * CONNECTIONS if transport == "tcp" else 0
    for found in costs:
        own, shared, seen = (found[name] >> 10 for name in ("own", "segment", "seen"))
        print(f"{own} KiB of its own, {shared} in its segment, {seen} seen in all segments")
        assert found["connections"] == connections
        # A page of a segment counts for who made it, though all who read it have it mapped.
        assert found["own"] + found["segment"] < MOST
    assert max(shares) < SHARE
