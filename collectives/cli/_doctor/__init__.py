"""What this machine offers to the library: one probe per concern, each returning a finding.

Nothing here prints; ``collectives doctor`` does. A probe never raises: what it could not find out
is a finding too. A cure is a shell command that turns its finding into ``ok``; each kind of cure
was carried out in an environment stripped of what it restores (see ``tests/test_doctor.py``), and
where there is no such command the detail says what is lost instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from collectives.cli._doctor.accelerators import cuda, nccl, torch, torch_backend
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

# In the order in which people read the result.
PROBES: dict[str, Callable[[], Finding]] = {
    "python": python,
    "dependencies": dependencies,
    "core": core,
    "cpu": processor,
    "compiler": compiler,
    "torch": torch,
    "torch-backend": torch_backend,
    "cuda": cuda,
    "nccl": nccl,
    "shared-memory": shared_memory,
    "congestion-control": congestion_control,
    "open-files": open_files,
    "loopback": loopback,
    "ipv6": ipv6,
    "pidfd": pidfd,
}


def examine(concerns: Iterable[str] = ()) -> list[Finding]:
    """Run the probes named, or all of them; KeyError for a concern that nobody probes."""
    return [PROBES[concern]() for concern in (tuple(concerns) or PROBES)]
