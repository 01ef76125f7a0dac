"""Ranks that somebody else has started: torchrun, mpirun, srun, or a shell with their variables.

Every process that was started starts one process per library that is measured; that of rank 0 is
the conductor besides. How the others learn where it listens:

- from a file that all of them see (``--meet FILE``);
- torchrun holds a store at MASTER_ADDR:MASTER_PORT: from there;
- otherwise the conductor itself listens at MASTER_ADDR:MASTER_PORT.
"""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from collectives.bench.config import BenchConfig
from collectives.bench.processes import command_of, environment_of
from collectives.errors import InvalidArgument

# (rank, size), the most specific first.
_VARIABLES = (
    ("RANK", "WORLD_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
)
_KEY = "collectives/bench"


@dataclasses.dataclass(frozen=True)
class Launch:
    """Which of how many processes this one is."""

    rank: int
    size: int


def find(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """Return what a launcher says about this process; None: there was none, or it is alone.

    Raises:
        InvalidArgument: what it says makes no sense.
    """
    for rank, size in _VARIABLES:
        if rank in environment and size in environment:
            try:
                launch = Launch(int(environment[rank]), int(environment[size]))
            except ValueError:
                launch = Launch(-1, 0)
            if not 0 <= launch.rank < launch.size:
                raise InvalidArgument(
                    f"{rank}={environment[rank]!r} and {size}={environment[size]!r} name no rank"
                )
            return launch if launch.size > 1 else None
    return None


class Meeting:
    """Where the processes of a launch find their conductor.

    Args:
        file: that all of them see; None: go by the environment.
        timeout: seconds to wait for a store.

    Raises:
        InvalidArgument: neither the file nor the environment says where.
    """

    def __init__(self, file: Path | None, timeout: float) -> None:
        self._file, self._timeout = file, timeout
        self._master = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
        self._store = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        if file is None and not (self._master[0] and self._master[1].isdigit()):
            raise InvalidArgument(
                "the ranks do not know where to meet: set MASTER_ADDR and MASTER_PORT, or give"
                " --meet FILE with a path that all of them see"
            )

    @property
    def host(self) -> str:
        """The name under which the others reach this host, if it is that of rank 0."""
        return socket.gethostname() if self._file else self._master[0]

    @property
    def port(self) -> int:
        """The port at which the conductor has to listen; 0: any."""
        return 0 if self._file or self._store else int(self._master[1])

    def tell(self, port: int) -> None:
        """Tell the others where the conductor listens."""
        place = f"{self.host}:{port}"
        if self._file:
            new = self._file.with_name(f"{self._file.name}.{os.getpid()}")
            new.write_text(place)
            new.replace(self._file)
        elif self._store:
            self._agent().set(_KEY, place)

    def address(self) -> str:
        """Return where to connect, as `messages.connect` takes it."""
        if self._file:
            return f"@{self._file}"
        if self._store:
            return str(self._agent().get(_KEY).decode())
        return ":".join(self._master)

    def end(self) -> None:
        """Leave nothing behind for the next run."""
        if self._file:
            self._file.unlink(missing_ok=True)

    def _agent(self) -> Any:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        host, port = self._master
        return TCPStore(host, int(port), is_master=False, timeout=timedelta(seconds=self._timeout))


def follow(launch: Launch, config: BenchConfig, meeting: Meeting) -> int:
    """Be a rank that is not 0: start its processes and wait for them; return the exit status."""
    address = meeting.address()
    processes = [
        subprocess.Popen(
            command_of(address, library, launch.rank), env=environment_of(library, config)
        )
        for library in config.libraries
    ]
    return max(process.wait() != 0 for process in processes)
