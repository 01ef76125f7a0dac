"""Where programs end up in the end: exceptions between calls, signals, forks, exits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

import torch_ranks


def _left_open(rank: int, world: int) -> Any:
    import torch
    import torch.distributed as dist

    with pytest.raises(NotImplementedError):  # torch's block has no end for exceptions
        dist.batch_isend_irecv(
            [
                dist.P2POp(dist.isend, torch.ones(3), 1 - rank),
                dist.P2POp(dist.irecv, torch.eye(3).to_sparse(), 1 - rank),
            ]
        )
    strided = torch.zeros([2] * 8).permute(*reversed(range(8)))
    if rank == 0:
        strided.fill_(1)
    dist.broadcast(strided, 0)
    assert (strided == 1).all()
    dist.barrier()
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        dist.broadcast(torch.zeros(100_000), 1)
    except dist.DistBackendError as error:
        return str(error)
    return "success"


def test_an_exception_while_calls_are_coalesced_hides_no_later_error(
    ranks: torch_ranks.Ranks,
) -> None:
    assert "rank 1 is lost" in ranks.run(_left_open, may_die={1})[0]


EXIT = """
import sys, time
import torch, torch.distributed as dist

dist.init_process_group("collectives", store=dist.HashStore(), rank=0, world_size=1)
work = dist.all_reduce(torch.ones(3), async_op=True)
begun = []

def slowly(future):
    begun.append(1)
    time.sleep(0.5)
    print("called back", flush=True)

work.get_future().then(slowly)
while not begun:
    time.sleep(0.001)
if sys.argv[1] == "destroyed":
    dist.destroy_process_group()
"""


@pytest.mark.parametrize("how", ["destroyed", "left open"])
def test_a_program_that_ends_waits_for_callbacks(how: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", EXIT, how], timeout=60, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, (ran.returncode, ran.stderr)
    assert ran.stdout == "called back\n"


def _signalled(rank: int, world: int) -> Any:
    import torch
    import torch.distributed as dist

    heard = []
    signal.signal(signal.SIGALRM, lambda *_: heard.append(1))
    tensor = torch.ones(3)
    if rank == 0:
        work = dist.all_reduce(tensor, async_op=True)
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        torch_ranks.tell("leaving")
        dist.destroy_process_group()  # which waits for the other
        signal.setitimer(signal.ITIMER_REAL, 0)
        work.wait()
        return len(heard), tensor.tolist()
    time.sleep(0.5)  # in which signals come: the first rank is waiting all the while
    dist.all_reduce(tensor)
    return 0, tensor.tolist()


def test_signals_do_not_cut_a_goodbye_short(ranks: torch_ranks.Ranks) -> None:
    (heard, first), (_, second) = ranks.run(_signalled)
    assert heard > 2
    assert first == second == [2.0] * 3


def _written_to(rank: int, world: int) -> None:
    import torch
    import torch.distributed as dist

    def strange() -> Any:  # which the core cannot write where it is
        return torch.full([2] * 8, float(rank)).permute(*reversed(range(8)))

    parameter = torch.nn.Parameter(strange())
    dist.broadcast(parameter.data, 1)
    dist.broadcast(parameter, 1)
    assert (parameter == 1).all() and parameter.grad_fn is None
    with torch.inference_mode():
        inferred = strange()
    dist.all_reduce(inferred)
    assert (inferred == 1).all()
    leaf = torch.eye(3).to_sparse().requires_grad_()
    dist.all_reduce(leaf)
    assert torch.equal(leaf.detach().to_dense(), 2 * torch.eye(3))


def test_results_are_written_to_what_autograd_watches(ranks: torch_ranks.Ranks) -> None:
    ranks.run(_written_to)


def _sparse(rank: int, world: int) -> Any:
    import torch
    import torch.distributed as dist

    def made(dtype: Any = torch.float32) -> Any:
        return (torch.eye(3) * (rank + 1)).to(dtype).to_sparse()

    # Averages of integers are rounded toward zero, here as elsewhere.
    whole = made(torch.int32)
    dist.all_reduce(whole, op=dist.ReduceOp.AVG)
    assert torch.equal(whole.to_dense(), torch.eye(3, dtype=torch.int32))
    # Many at once, and others in between.
    tensors = [made() for _ in range(300)]
    works = []
    for tensor in tensors:
        works.append(dist.all_reduce(tensor, async_op=True))
        dist.barrier()
    for work in reversed(works):
        work.wait()
    assert all(torch.equal(tensor.to_dense(), 3 * torch.eye(3)) for tensor in tensors)
    # A callback may call another one, and wait for it.
    inner = made()

    def again(_: Any) -> Any:
        dist.all_reduce(inner)
        return inner.to_dense()

    future = dist.all_reduce(made(), async_op=True).get_future().then(again)
    assert torch.equal(future.wait(), 3 * torch.eye(3))
    # What is under way is waited for.
    last = made()
    work = dist.all_reduce(last, async_op=True)
    group = dist.group.WORLD
    dist.destroy_process_group()
    work.wait()
    assert torch.equal(last.to_dense(), 3 * torch.eye(3))
    said = []
    for _ in range(2):
        with pytest.raises(dist.DistBackendError, match="destroyed") as caught:
            group.allreduce([made()]).wait()
        said.append(str(caught.value))
    return said


def test_sparse_calls_take_their_steps_whatever_else_goes_on(ranks: torch_ranks.Ranks) -> None:
    ranks.run(_sparse, timeout=60)


def _without_a_compiler(rank: int, world: int) -> Any:
    from collectives import CollectiveError, UnsupportedError
    from collectives.torch import _shim

    if rank == 1:

        def fail() -> Any:
            raise UnsupportedError("there is no compiler here")

        _shim.load = fail
    began = time.monotonic()
    try:
        torch_ranks.initialize()
    except CollectiveError as error:
        return type(error).__name__, str(error), time.monotonic() - began
    return "", "", 0.0


def test_a_rank_that_cannot_make_the_backend_tells_the_others_why(
    ranks: torch_ranks.Ranks,
) -> None:
    (error, text, seconds), mine = ranks.run(_without_a_compiler, init=False)
    assert mine[:2] == ("UnsupportedError", "there is no compiler here")
    assert error == "PeerLost" and "'rank 1'" in text and "there is no compiler here" in text
    assert seconds < 10


def _with_a_child(rank: int, world: int) -> list[str]:
    import torch
    import torch.distributed as dist

    read, write = os.pipe()
    work = dist.all_reduce(torch.ones(3), async_op=True) if rank == 0 else None
    if work is not None:
        work.get_future().then(lambda _: os.write(write, f"{os.getpid()}\n".encode()))
        child = os.fork()
        if child == 0:
            del work
            dist.destroy_process_group()
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        assert os.waitstatus_to_exitcode(status) == 0
        dist.barrier()
    else:
        time.sleep(0.1)  # the child lives while the operation is under way
        dist.all_reduce(torch.ones(3))
        dist.barrier()
    if work is not None:
        work.get_future().wait()
        deadline = time.monotonic() + 10
        while not (said := os.read(read, 100).split()) and time.monotonic() < deadline:
            pass
        return [line.decode() for line in said] == [str(os.getpid())]
    return True


def test_a_forked_child_completes_nothing_of_its_parents(ranks: torch_ranks.Ranks) -> None:
    assert ranks.run(_with_a_child) == [True, True]
