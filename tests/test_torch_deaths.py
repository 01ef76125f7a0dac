"""A rank of a process group is killed in the middle of things; the others get over it.

Two ranks live through all rounds. The third one forks a child for each, which is killed in it: so
what the deaths leave behind in the survivors adds up.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import torch_ranks

KINDS = ("barrier", "send", "recv", "all_to_all", "ddp", "fsdp2")
SEED = int(os.environ.get("COLLECTIVES_SEED", "1"))


def _group() -> Any:
    import torch
    from torch.distributed import distributed_c10d as c10d

    return c10d._get_default_group()._get_backend(torch.device("cpu")).owner.group


def _die_in(phase: str, *, tag: int | None = None, after: int = 0) -> None:
    _group().fault_at(phase, 0, tag=tag, after_slices=after)


def _collective(kind: str, victim: bool, rng: random.Random) -> None:
    """Go on with it until somebody dies."""
    import torch
    import torch.distributed as dist

    rank, world = dist.get_rank(), dist.get_world_size()
    large = torch.ones(300_000)
    phase = rng.choice(["issued", "complete"] if kind == "barrier" else ["issued", "all_gather"])
    lived = rng.randrange(3)
    while True:
        if victim and lived == 0:
            after = rng.randrange(3) if phase == "all_gather" else 0
            _die_in(phase, tag=7 if kind in ("send", "recv") else None, after=after)
        lived -= 1
        if kind == "barrier":
            dist.barrier()
        elif kind == "all_to_all":
            dist.all_to_all_single(torch.empty(3 * 300_000), large.repeat(3))
        elif kind == "send":  # it dies with a send under way, or before
            works = [dist.isend(large, (rank + 1) % world, tag=7)]
            works.append(dist.irecv(torch.empty(300_000), (rank - 1) % world, tag=7))
            for work in works:
                work.wait()
        elif rank == world - 1:
            dist.recv(torch.empty(300_000), 0, tag=7)
        elif rank == 0:
            dist.send(large, world - 1, tag=7)
        else:
            dist.barrier()  # which nobody else calls: it must end all the same


def _ddp(victim: bool) -> None:
    import torch
    from torch.nn.parallel import DistributedDataParallel

    torch.manual_seed(0)
    layers = [torch.nn.Linear(300, 300) for _ in range(4)]
    model = DistributedDataParallel(torch.nn.Sequential(*layers), bucket_cap_mb=0.3)
    if victim:  # its last gradients are there, and others' reductions are under way
        layers[1].weight.register_hook(lambda _: os.kill(os.getpid(), signal.SIGKILL))
    while True:
        model(torch.ones(8, 300)).sum().backward()


def _fsdp2(victim: bool) -> None:
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    model = torch.nn.Sequential(*[torch.nn.Linear(256, 256) for _ in range(3)])
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model(torch.ones(4, 256)).sum().backward()
    if victim:
        _die_in("all_gather", after=1)
    while True:
        model(torch.ones(4, 256)).sum().backward()


def _live_until_death(kind: str, victim: bool, rng: random.Random) -> None:
    if kind == "ddp":
        _ddp(victim)
    elif kind == "fsdp2":
        _fsdp2(victim)
    else:
        _collective(kind, victim, rng)


def _usage() -> tuple[int, int, int]:
    """Descriptors, threads and resident MiB of this process."""
    gc.collect()
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return (
        len(list(Path("/proc/self/fd").iterdir())),
        int(status["Threads"]),
        int(status["VmRSS"].split()[0]) >> 10,
    )


def _bury(world: int, kinds: list[str], seed: int) -> list[float]:
    """Fork who dies in each round; when they did."""
    ended = []
    for number, kind in enumerate(kinds):
        child = os.fork()
        if child == 0:
            try:
                torch_ranks.initialize(f"round-{number}")
                _live_until_death(kind, True, random.Random(f"{seed} {number}"))
            finally:
                os._exit(1)
        status = os.waitpid(child, 0)[1]
        ended.append(time.monotonic())
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (kind, status)
    return ended


def _survive(rank: int, world: int, kinds: list[str], seed: int) -> Any:
    import torch
    import torch.distributed as dist
    import torch.distributed.fsdp
    import torch.nn.parallel

    import collectives.torch

    if rank == world - 1:
        return _bury(world, kinds, seed)
    rounds, usage = [], []
    for number, kind in enumerate(kinds):
        torch_ranks.initialize(f"round-{number}")
        message = ""
        try:
            _live_until_death(kind, False, random.Random(f"{seed} {number}"))
        except RuntimeError as error:
            message = f"{type(error).__name__}: {error}"
        heard = time.monotonic()
        error = collectives.torch.error()
        began = time.monotonic()
        dist.destroy_process_group()
        destroyed = time.monotonic() - began
        # The survivors go on in the same process.
        shared = torch_ranks.store(f"after-{number}")
        dist.init_process_group("collectives", rank=rank, world_size=world - 1, store=shared)
        tensor = torch.full((70_000,), rank + 1.0)
        dist.all_reduce(tensor)
        assert (tensor == 3).all()
        dist.destroy_process_group()
        rounds.append((kind, heard, message, type(error).__name__, error.peer, destroyed))
        usage.append(_usage())
    return rounds, usage


def _check(kinds: list[str], results: list[Any]) -> None:
    deaths = results[-1]
    for rounds, usage in results[:-1]:
        assert [name for name, *_ in rounds] == kinds
        for (kind, heard, message, error, peer, destroyed), died in zip(
            rounds, deaths, strict=True
        ):
            assert message.startswith("DistBackendError: "), (kind, message)
            assert "rank 2" in message, (kind, message)
            assert (error, peer) == ("PeerLost", "rank 2"), kind
            assert heard - died < 2, (kind, heard - died)
            assert destroyed < 2, (kind, destroyed)
        print("descriptors, threads, MiB:", usage)
        # The first rounds import things and make what is kept.
        assert usage[-1][0] <= usage[len(KINDS) - 1][0], usage
        assert usage[-1][1] <= usage[len(KINDS) - 1][1], usage


def test_thirty_deaths_in_a_row_are_told_and_leave_nothing_behind(ranks: torch_ranks.Ranks) -> None:
    print(f"COLLECTIVES_SEED={SEED}")
    kinds = list(KINDS) * 5
    results = ranks.run(_survive, kinds, SEED, world=3, init=False, timeout=100)
    _check(kinds, results)
    for _, usage in results[:-1]:
        assert usage[-1][2] - usage[len(KINDS) - 1][2] < 30, usage
