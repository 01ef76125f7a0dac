"""What this machine offers to the library: one probe per concern, each returning a finding.

Nothing here prints; ``collectives doctor`` does. A probe never raises: what it could not find out
is a finding too. A cure is a shell command that turns its finding into ``ok``; each kind of cure
was carried out in an environment stripped of what it restores (see ``tests/test_doctor.py``), and
where there is no such command the detail says what is lost instead.
"""

from __future__ import annotations

from collections.abc import Callable

from collectives.cli._doctor.accelerators import cuda, nccl, torch
from collectives.cli._doctor.finding import Finding, Status
from collectives.cli._doctor.library import compiler, core, dependencies, processor, python
from collectives.cli._doctor.system import (
    congestion_control,
    ipv6,
    loopback,
    open_files,
    pidfd,
    shared_memory,
)

__all__ = ["PROBES", "Finding", "Status", "examine"]

PROBES: tuple[Callable[[], Finding], ...] = (
    python, dependencies, core, processor, compiler, torch, cuda, nccl,
    shared_memory, congestion_control, open_files, loopback, ipv6, pidfd,
)  # fmt: skip


def examine() -> list[Finding]:
    """Run every probe, in the order in which people read the result."""
    return [probe() for probe in PROBES]
