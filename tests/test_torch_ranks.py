"""The ranks that other tests run in: results, errors, deaths and hangs of theirs are told."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import pytest

import torch_ranks
from torch_ranks import RankError, Ranks


def add(rank: int, world: int, value: float) -> tuple[int, int, list[float]]:
    import torch
    import torch.distributed as dist

    tensor = torch.full((2,), value + rank)
    dist.all_reduce(tensor)
    return rank, world, tensor.tolist()


@pytest.mark.parametrize("store", ["file", "tcp"])
def test_results_come_by_rank(ranks: Ranks, store: str) -> None:
    results = ranks.run(add, 1.5, world=3, backend="gloo", store=store, group_timeout=20)
    assert results == [(rank, 3, [7.5, 7.5]) for rank in range(3)]


def alone(rank: int, world: int) -> list[bool]:
    import torch.distributed as dist

    before = dist.is_initialized()
    seen = []
    for turn in range(3):
        torch_ranks.initialize(f"turn {turn}", backend="gloo")
        seen.append(dist.get_rank() == rank and dist.get_world_size() == world)
        dist.barrier()  # Gloo's connections break if one ends while another connects
        dist.destroy_process_group()
    return [before, *seen]


def test_a_function_may_make_its_own_process_groups(ranks: Ranks) -> None:
    assert ranks.run(alone, init=False) == [[False, True, True, True]] * 2


def complain(rank: int, world: int) -> None:
    print(f"this is rank {rank}")
    if rank == 1:
        raise ValueError("no such luck")


def test_what_a_rank_raises_is_told_with_what_all_have_printed(ranks: Ranks) -> None:
    with pytest.raises(RankError, match=r"failed in ranks \[1\]") as caught:
        ranks.run(complain, init=False)
    for words in ("ValueError: no such luck", "this is rank 0", "this is rank 1", "in complain"):
        assert words in str(caught.value)


def die(rank: int, world: int) -> int:
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return rank


def test_a_death_is_an_error_unless_it_was_expected(ranks: Ranks) -> None:
    assert ranks.run(die, init=False, world=3, may_die={1}) == [0, None, 2]
    with pytest.raises(RankError, match="rank 1: died: -9"):
        ranks.run(die, init=False, may_die={0})


def hang(rank: int, world: int) -> None:
    torch_ranks.tell(rank)
    if rank == 0:
        lock = threading.Lock()
        with lock:
            lock.acquire()


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_hang_ends_with_stacks_and_without_processes(ranks: Ranks) -> None:
    running = ranks.start(hang, init=False, timeout=1.0)
    assert [running.hear(rank) for rank in range(2)] == [0, 1]
    with pytest.raises(RankError, match="rank 0: was not done in time") as caught:
        running.results()
    assert "in hang" in str(caught.value)
    assert all(gone(pid) for pid in running.pids)


def stop(rank: int, world: int) -> int:
    if rank == 1:
        torch_ranks.tell("here")
        os.kill(os.getpid(), signal.SIGSTOP)
    return rank


def test_a_stopped_rank_is_ended_too(ranks: Ranks) -> None:
    running = ranks.start(stop, init=False, timeout=1.0)
    assert running.hear(1) == "here"
    with pytest.raises(RankError, match="rank 1: was not done in time"):
        running.results()
    assert all(gone(pid) for pid in running.pids)


def measured(rank: int, world: int) -> Any:
    import torch

    return torch.get_num_threads(), threading.active_count()


def test_a_rank_is_there_in_a_moment(ranks: Ranks) -> None:
    ranks.run(measured, init=False)  # the interpreter is there
    began = time.monotonic()
    # One thread each: a fork of a process with more would be a gamble.
    assert ranks.run(measured, init=False, world=4) == [(1, 1)] * 4
    took = time.monotonic() - began
    assert took < 2.0, f"an interpreter of its own would take as long as these four: {took:.1f} s"
