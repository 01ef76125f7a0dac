"""The libraries that the bench can call: this one, Gloo through torch, Open MPI through mpi4py."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import collectives
from collectives.bench import sockets
from collectives.bench.collective import ROOT
from collectives.bench.messages import Start

Array = NDArray[Any]


class Library(Protocol):
    """What the bench needs of a library.

    Attributes:
        rank: of this process.
        home: in place, which block of the buffer is this rank's.
    """

    rank: int
    home: int

    def barrier(self) -> object:
        """Return once all ranks have called it."""

    def call(self, source: Array, target: Array, in_place: bool) -> Callable[[], object]:
        """Return the call to be timed.

        `source` and `target` are what the operation takes and gives at this rank, empty where that
        is nothing. In place they are one buffer, or one of them is the block `home` of the other.
        """

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
        self.rank = self.home = self.group.rank
        self.barrier = self.group.barrier
        self.close = self.group.leave

    def call(self, source: Array, target: Array, in_place: bool) -> Callable[[], object]:
        """Return the call to be timed."""
        config = self._config
        options: dict[str, Any] = {"op": config.op} if config.collective.reduces else {}
        if len(target) and target is not source:
            options["out"] = typed(target, config.dtype)
        if config.algorithm is not None:
            options["algorithm"] = config.algorithm
        array = typed(source, config.dtype) if len(source) else None
        return partial(getattr(self.group, config.operation), array, **options)

    def sockets(self) -> set[int]:
        """Return the descriptors of its TCP connections."""
        return {fd for fd in sockets.connected() if self._control not in sockets.ports(fd)}


class Gloo:
    """torch.distributed over Gloo. What has no blocks it does in place only, the rest never."""

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
        self.rank = self.home = rank
        self.barrier = dist.barrier
        self.close = dist.destroy_process_group
        self._config, self._store = config, int(port)

    def call(self, source: Array, target: Array, in_place: bool) -> Callable[[], object]:
        """Return the call to be timed."""
        import torch
        import torch.distributed as dist

        def tensor(array: Array) -> Any:
            found = typed(array, config.dtype)
            return torch.from_numpy(found) if isinstance(found, np.ndarray) else found

        def blocks(whole: Any) -> Any:
            return [*whole.chunk(config.ranks)] if len(whole) else None

        config = self._config
        given, to = tensor(source), tensor(target)
        name = {"prod": "PRODUCT"}.get(config.op, config.op.upper())
        op = getattr(dist.ReduceOp, name) if config.collective.reduces else None
        # New names since torch 2.13, where the old ones warn.
        reduce_scatter, all_gather = (
            getattr(dist, new, None) or getattr(dist, old)
            for new, old in (
                ("reduce_scatter_single", "reduce_scatter_tensor"),
                ("all_gather_single", "all_gather_into_tensor"),
            )
        )
        calls: dict[str, list[Any]] = {
            "all_reduce": [dist.all_reduce, to, op],
            "broadcast": [dist.broadcast, to, ROOT],
            "reduce": [dist.reduce, to, ROOT, op],
            "reduce_scatter": [reduce_scatter, to, given, op],
            "all_gather": [all_gather, to, given],
            "gather": [dist.gather, given, blocks(to), ROOT],
            "scatter": [dist.scatter, to, blocks(given), ROOT],
            "all_to_all": [dist.all_to_all_single, to, given],
        }
        function, *arguments = calls[config.operation]
        return partial(function, *arguments)

    def sockets(self) -> set[int]:
        """Return the descriptors of its TCP connections."""
        return {fd for fd in sockets.connected() if self._store not in sockets.ports(fd)}


class Mpi:
    """Open MPI, through mpi4py; in place is MPI_IN_PLACE."""

    def __init__(self, rank: int, start: Start) -> None:
        from mpi4py import MPI

        MPI.Init()
        # What is open now is the way to mpirun; connections between ranks are made when needed.
        self._before = sockets.connected()
        self._world, self._in_place = MPI.COMM_WORLD, MPI.IN_PLACE
        self.rank = self._world.rank
        self.barrier = self._world.Barrier
        self.close = MPI.Finalize
        self._operation = start.config.operation
        # In place, MPI_Reduce_scatter_block leaves the result at the front.
        self.home = 0 if self._operation == "reduce_scatter" else self.rank
        reduces = start.config.collective.reduces
        self._op = [getattr(MPI, start.config.op.upper())] if reduces else []

    def call(self, source: Array, target: Array, in_place: bool) -> Callable[[], object]:
        """Return the call to be timed."""
        world, root = self._world, self.rank == ROOT
        own = self._in_place if in_place else source
        roots = own if root else source  # where only the root has something to do in place
        calls: dict[str, list[Any]] = {
            "all_reduce": [world.Allreduce, own, target],
            "broadcast": [world.Bcast, target],
            "reduce": [world.Reduce, roots, target],
            "reduce_scatter": [world.Reduce_scatter_block, own, source if in_place else target],
            "all_gather": [world.Allgather, own, target],
            "gather": [world.Gather, roots, target],
            "scatter": [world.Scatter, source, self._in_place if in_place and root else target],
            "all_to_all": [world.Alltoall, source, target],
        }
        function, *arguments = calls[self._operation]
        return partial(function, *arguments, *self._op)

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
    if dtype == "bool":
        return storage.view(np.bool_)
    if dtype != "bfloat16":
        return storage
    import torch

    return torch.from_numpy(storage.view(np.int16)).view(torch.bfloat16)
