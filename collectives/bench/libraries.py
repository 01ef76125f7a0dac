"""The libraries that the bench can call: this one, Gloo through torch, Open MPI through mpi4py."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import collectives
from collectives.bench import sockets
from collectives.bench.messages import Start

Array = NDArray[Any]


class Library(Protocol):
    """What the bench needs of a library."""

    rank: int

    def barrier(self) -> object:
        """Return once all ranks have called it."""

    def call(self, source: Array, target: Array, in_place: bool) -> Callable[[], object]:
        """Return the call to be timed: reduce `source` into `target`, or `target` in place."""

    def sockets(self) -> set[int]:
        """Return the descriptors of the TCP connections that carry its data."""

    def close(self) -> object:
        """Leave, with all ranks."""


class Ours:
    """This library."""

    def __init__(self, rank: int, start: Start) -> None:
        config = start.config
        # Only where it is asked for: a core without shared memory has no such option.
        chosen: Any = {} if config.transport == "auto" else {"transport": config.transport}
        options = collectives.Options(
            bind=("127.0.0.1",) if start.local else (),
            connections=config.connections,
            congestion=config.congestion,
            slice_bytes=config.slice_bytes,
            checksums=config.checksums,
            timeout=config.timeout,
            **chosen,
        )
        self.group = collectives.join(
            start.coordinator,
            group="bench",
            name=f"rank-{rank}",
            min_size=config.ranks,
            timeout=config.timeout,
            options=options,
        )
        self._config = config
        self._control = int(start.coordinator.rpartition(":")[2])
        self.rank = self.group.rank
        self.barrier = self.group.barrier
        self.close = self.group.leave

    def call(self, source: Array, target: Array, in_place: bool) -> Callable[[], object]:
        """Return the call to be timed."""
        all_reduce, op = self.group.all_reduce, self._config.op
        out = typed(target, self._config.dtype)
        if in_place:
            return lambda: all_reduce(out, op=op)
        array = typed(source, self._config.dtype)
        return lambda: all_reduce(array, op=op, out=out)

    def sockets(self) -> set[int]:
        """Return the descriptors of its TCP connections."""
        return {fd for fd in sockets.connected() if self._control not in sockets.ports(fd)}


class Gloo:
    """torch.distributed over Gloo. It reduces in place only."""

    def __init__(self, rank: int, start: Start) -> None:
        if start.local:
            os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        import torch
        import torch.distributed as dist
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        config = start.config
        limit = timedelta(seconds=config.timeout)
        host, _, port = start.store.rpartition(":")
        torch.set_num_threads(1)
        dist.init_process_group(
            "gloo",
            store=TCPStore(host, int(port), is_master=False, timeout=limit),
            rank=rank,
            world_size=config.ranks,
            timeout=limit,
        )
        self.rank = rank
        self.barrier = dist.barrier
        self.close = dist.destroy_process_group
        self._all_reduce, self._dtype, self._store = dist.all_reduce, config.dtype, int(port)
        self._op = {
            "sum": dist.ReduceOp.SUM,
            "prod": dist.ReduceOp.PRODUCT,
            "min": dist.ReduceOp.MIN,
            "max": dist.ReduceOp.MAX,
        }[config.op]

    def call(self, source: Array, target: Array, in_place: bool) -> Callable[[], object]:
        """Return the call to be timed."""
        import torch

        tensor = typed(target, self._dtype)
        if isinstance(tensor, np.ndarray):
            tensor = torch.from_numpy(tensor)
        all_reduce, op = self._all_reduce, self._op
        return lambda: all_reduce(tensor, op=op)

    def sockets(self) -> set[int]:
        """Return the descriptors of its TCP connections."""
        return {fd for fd in sockets.connected() if self._store not in sockets.ports(fd)}


class Mpi:
    """MPI_Allreduce, through mpi4py; in place is MPI_IN_PLACE."""

    def __init__(self, rank: int, start: Start) -> None:
        from mpi4py import MPI

        MPI.Init()
        # What is open now is the way to mpirun; connections between ranks are made when needed.
        self._before = sockets.connected()
        self._world, self._in_place = MPI.COMM_WORLD, MPI.IN_PLACE
        self.rank = self._world.rank
        self.barrier = self._world.Barrier
        self.close = MPI.Finalize
        names = {"sum": "SUM", "prod": "PROD", "min": "MIN", "max": "MAX"}
        self._op = getattr(MPI, names[start.config.op])

    def call(self, source: Array, target: Array, in_place: bool) -> Callable[[], object]:
        """Return the call to be timed."""
        all_reduce, op = self._world.Allreduce, self._op
        array = self._in_place if in_place else source
        return lambda: all_reduce(array, target, op)

    def sockets(self) -> set[int]:
        """Return the descriptors of its TCP connections."""
        return sockets.connected() - self._before


def load(name: str) -> None:
    """Import what a library needs, so that its memory is not counted as that of its calls."""
    if name == "gloo":
        import torch.distributed  # noqa: F401
    elif name == "mpi":
        import mpi4py

        mpi4py.rc.initialize = mpi4py.rc.finalize = False
        from mpi4py import MPI  # noqa: F401


def store(timeout: float) -> Any:
    """Return a store at which the ranks of Gloo can meet; it lasts as long as the object."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    limit = timedelta(seconds=timeout)
    return TCPStore("0.0.0.0", 0, is_master=True, wait_for_workers=False, timeout=limit)


def enter(name: str, rank: int, start: Start) -> Library:
    """Join the other ranks of a library.

    Raises:
        CollectiveError: this library could not.
    """
    libraries: dict[str, Callable[[int, Start], Library]] = {
        "collectives": Ours,
        "gloo": Gloo,
        "mpi": Mpi,
    }
    return libraries[name](rank, start)


def typed(storage: Array, dtype: str) -> Any:
    """Return the array as users have it: NumPy, but torch for what NumPy does not know."""
    if dtype != "bfloat16":
        return storage
    import torch

    return torch.from_numpy(storage.view(np.int16)).view(torch.bfloat16)
