"""How the processes of the bench are started: the command and environment of a rank, and mpirun."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from collectives.bench.config import BenchConfig
from collectives.errors import UnsupportedError


def command_of(address: str, library: str, rank: int | None) -> list[str]:
    """Return the command that runs a rank; None: what started it knows which."""
    command = [sys.executable, "-m", "collectives.bench.worker", address, library]
    return command if rank is None else [*command, str(rank)]


def environment_of(library: str, config: BenchConfig) -> dict[str, str]:
    """Return the environment of a rank: it imports from where this process does."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    if library == "mpi":
        environment |= _mpi_settings(config)
    return environment


def mpirun(config: BenchConfig) -> list[str]:
    """Return the beginning of the command that starts the ranks of MPI on this host.

    Raises:
        UnsupportedError: there is no Open MPI.
    """
    # That of this environment first: it belongs to the mpi4py of this environment.
    places = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    found = shutil.which("mpirun", path=os.pathsep.join(places))
    if found is None:
        raise UnsupportedError("there is no mpirun; install Open MPI with `make bench-peers`")
    said = subprocess.run(
        [found, "--version"], capture_output=True, text=True, timeout=60, check=False
    )
    if "Open MPI" not in said.stdout:
        raise UnsupportedError(
            f"{found} is not Open MPI's, the one that the bench knows; `make bench-peers` installs"
            " that"
        )
    # Its ranks spin, so two on one core wait for each other's time slices: each gets a core of its
    # own while there are enough, which is also what mpirun does by itself.
    bind = "none" if _crowded(config) else "core"
    return [found, "--oversubscribe", "--bind-to", bind, "-n", str(config.ranks)]


def _crowded(config: BenchConfig) -> bool:
    return config.ranks > len(os.sched_getaffinity(0))


def _mpi_settings(config: BenchConfig) -> dict[str, str]:
    """Return Open MPI's settings: the transport of the run; more ranks than cores yield."""
    transport = {"auto": "self,sm,tcp", "shm": "self,sm", "tcp": "self,tcp"}[config.transport]
    settings = {
        "OMPI_MCA_pml": "ob1",
        "OMPI_MCA_btl": transport,
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }
    if "OMPI_COMM_WORLD_SIZE" not in os.environ:  # an mpirun above us knows better
        settings["OMPI_MCA_mpi_yield_when_idle"] = "1" if _crowded(config) else "0"
    return settings
