"""What docs/pytorch.md says about the backend is so: its tables, its messages, its code."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import torch_ranks
from strip import ROOT
from torch_ranks import Ranks

PAGE = (ROOT / "docs" / "pytorch.md").read_text()


def table(first: str) -> list[list[str]]:
    """The cells of the table whose head begins so; the head first."""
    lines = PAGE[PAGE.index(first) :].splitlines()
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return [rows[0], *rows[2:]]


# ---- what can be reduced -------------------------------------------------------------------------


def _reducible(rank: int, world: int, cells: list[tuple[str, str]]) -> list[str]:
    """What becomes of each reduction: "yes", "no" (refused), or what else was raised."""
    import torch
    import torch.distributed as dist

    import collectives.torch

    found = []
    for name, dtype in cells:
        if name == "PREMUL_SUM":
            op = dist._make_nccl_premul_sum(2.0)
        else:
            op = getattr(dist.ReduceOp, name)
        try:
            dist.all_reduce(torch.ones(3).to(getattr(torch, dtype)), op=op)
            found.append("yes")
        except (ValueError, NotImplementedError):
            found.append("no")
        except dist.DistBackendError as error:
            found.append(f"broken: {error}")
    # What was refused is no operation that was issued.
    assert collectives.torch.counts() == {"all_reduce": found.count("yes")}
    assert {entry["status"] for entry in collectives.torch.trace()} == {"success"}
    return found


def test_the_table_of_reductions(ranks: Ranks) -> None:
    head, *rows = table("| | float64")
    cells = {
        (row[0], dtype): said
        for row in rows
        for dtypes, said in zip(head[1:], row[1:], strict=True)
        for dtype in dtypes.split()
    }
    assert len(rows) == 9 and len(cells) == 9 * 17
    for found in ranks.run(_reducible, list(cells)):
        wrong = {
            cell: (said, is_so)
            for (cell, said), is_so in zip(cells.items(), found, strict=True)
            if said != is_so
        }
        assert not wrong, f"said, found: {wrong}"


# ---- what operations are counted as --------------------------------------------------------------


def _counted(rank: int, world: int, rows: list[list[str]]) -> list[list[str]]:
    """Call what each row names; the kinds that were counted."""
    import torch
    import torch.distributed as dist

    import collectives.torch

    ones = torch.ones
    other = 1 - rank
    pair = [ones(3) for _ in range(world)]

    def both_ways() -> list[Any]:
        return [dist.P2POp(dist.isend, ones(3), other), dist.P2POp(dist.irecv, ones(3), other)]

    calls: dict[str, Callable[[], Any]] = {
        "all_reduce": lambda: (dist.all_reduce(ones(3)), dist.all_reduce(torch.eye(2).to_sparse())),
        "reduce": lambda: dist.reduce(ones(3), 0),
        "reduce_scatter": lambda: dist.reduce_scatter(ones(3), pair),
        "reduce_scatter_tensor": lambda: dist.reduce_scatter_tensor(ones(3), ones(3 * world)),
        "broadcast": lambda: dist.broadcast(ones(3), 1),
        "all_gather": lambda: dist.all_gather(pair, ones(3)),
        "all_gather_into_tensor": lambda: dist.all_gather_into_tensor(ones(3 * world), ones(3)),
        "gather": lambda: dist.gather(ones(3), pair if rank == 0 else None),
        "scatter": lambda: dist.scatter(ones(3), pair if rank == 0 else None),
        "all_to_all": lambda: dist.all_to_all(pair, [ones(3) for _ in range(world)]),
        "all_to_all_single": lambda: dist.all_to_all_single(ones(3 * world), ones(3 * world)),
        "send": lambda: dist.send(ones(3), 1) if rank == 0 else dist.recv(ones(3), 0),
        "recv": lambda: dist.recv(ones(3), 1) if rank == 0 else dist.send(ones(3), 0),
        "isend": lambda: (dist.isend(ones(3), other), dist.recv(ones(3), other)),
        "irecv": lambda: (dist.irecv(ones(3), other), dist.send(ones(3), other)),
        "batch_isend_irecv": lambda: [w.wait() for w in dist.batch_isend_irecv(both_ways())],
        "barrier": dist.barrier,
    }
    found = []
    for names, *_ in rows:
        before = collectives.torch.counts()
        for name in re.findall(r"`(\w+)`", names):
            calls[name]()
        after = collectives.torch.counts()
        found.append(sorted(kind for kind in after if after[kind] != before.get(kind, 0)))
    return found


def test_the_table_of_operations(ranks: Ranks) -> None:
    _, *rows, objects = table("| operation |")
    assert len(rows) == 9 and "objects" in objects[0]
    expected = [sorted(re.findall(r"`(\w+)`", row[2])) for row in rows]
    assert ranks.run(_counted, rows) == [expected] * 2


# ---- errors --------------------------------------------------------------------------------------


def _told(call: Any) -> tuple[str, str] | None:
    """What the backend and the call's error say; None: there was none."""
    import torch.distributed as dist

    import collectives.torch

    try:
        call()
    except dist.DistBackendError as error:
        return type(collectives.torch.error()).__name__, str(error)
    return None


def _death(rank: int, world: int) -> tuple[str, str] | None:
    import torch.distributed as dist

    dist.barrier()
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return _told(dist.barrier)


def _leaving(rank: int, world: int) -> tuple[str, str] | None:
    import torch
    import torch.distributed as dist

    dist.barrier()
    return None if rank == 1 else _told(lambda: dist.all_reduce(torch.ones(5)))


def _difference(rank: int, world: int) -> tuple[str, str] | None:
    import torch
    import torch.distributed as dist

    return _told(lambda: dist.all_reduce(torch.ones(5 + rank)))


def _await_error() -> None:
    import collectives.torch

    while collectives.torch.error() is None:
        time.sleep(0.01)


def _absence(rank: int, world: int) -> tuple[str, str] | None:
    import torch
    import torch.distributed as dist

    if rank == 1:
        _await_error()
    return _told(lambda: dist.all_reduce(torch.ones(5)))


def _abort(rank: int, world: int) -> tuple[str, str] | None:
    import torch
    import torch.distributed as dist

    if rank == 1:
        _await_error()
        return _told(lambda: dist.all_reduce(torch.ones(5)))
    work = dist.all_reduce(torch.ones(5), async_op=True)
    dist.group.WORLD.abort()
    return _told(work.wait)


@pytest.mark.parametrize(
    ("row", "provoke", "how"),
    [
        (1, _death, {"may_die": {1}}),
        (2, _leaving, {}),
        (3, _difference, {}),
        (4, _absence, {"group_timeout": 1.0}),
        (5, _abort, {}),
    ],
)
def test_the_table_of_errors(ranks: Ranks, row: int, provoke: Any, how: dict[str, Any]) -> None:
    _, cause, message = table("| what happened |")[row]
    for rank, told in enumerate(ranks.run(provoke, **how)):
        if told is None:
            assert rank == 1 and row in (1, 2)  # who is gone
            continue
        assert cause.split("`")[1] == told[0]
        assert message in told[1], told[1]


# ---- code ----------------------------------------------------------------------------------------


def blocks() -> list[str]:
    found = re.findall(r"^( *)```python\n(.*?)^ *```", PAGE, re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(code) for _, code in found]


def test_the_code_is_python() -> None:
    assert len(blocks()) == 5
    for number, block in enumerate(blocks()):
        compile(block, f"docs/pytorch.md, block {number}", "exec")


def _survive(rank: int, world: int, code: str) -> tuple[list[float], int]:
    import torch
    import torch.distributed as dist

    def train() -> tuple[list[float], int]:
        tensor = torch.tensor([float(rank)])
        dist.all_reduce(tensor)
        if dist.get_world_size() == world:
            if rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            dist.barrier()
        return tensor.tolist(), dist.get_world_size()

    names: dict[str, Any] = {}
    exec(code, names)
    found: tuple[list[float], int] = names["survive"](
        rank, list(range(world)), torch_ranks.store(), train
    )
    return found


def test_survivors_go_on_with_a_new_group(ranks: Ranks) -> None:
    [code] = [block for block in blocks() if "def survive" in block]
    found = ranks.run(_survive, code, world=3, init=False, may_die={1})
    assert found == [([2.0], 2), None, ([2.0], 2)]


def _encoded(rank: int, world: int, code: str) -> tuple[bool, bool]:
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    import collectives.torch

    torch.manual_seed(0)
    names = {
        "dist": dist,
        "collectives": collectives,
        "DistributedDataParallel": DistributedDataParallel,
        "model": torch.nn.Linear(100, 10),
    }
    exec(code, names)
    inputs = torch.randn(4, 100, generator=torch.Generator().manual_seed(rank))
    names["model"](inputs).square().sum().backward()
    [encoded, *_] = [parameter.grad for parameter in names["model"].parameters()]
    exact = torch.nn.Linear(100, 10)
    exact.load_state_dict(names["model"].module.state_dict())
    exact(inputs).square().sum().backward()
    dist.all_reduce(exact.weight.grad, op=dist.ReduceOp.AVG)
    close = torch.allclose(encoded, exact.weight.grad, rtol=0, atol=0.05 * encoded.abs().max())
    return close, torch.equal(encoded, exact.weight.grad)


def test_gradients_travel_encoded_in_a_group_of_their_own(ranks: Ranks) -> None:
    [code] = [block for block in blocks() if "codec=" in block]
    # The group of the codec is near, and not equal: its gradients were encoded.
    assert ranks.run(_encoded, code) == [(True, False)] * 2


# ---- torchrun ------------------------------------------------------------------------------------

RESTARTED = """
import os, signal
import torch.distributed as dist

dist.init_process_group("collectives")
attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
if attempt == "0" and dist.get_rank() == 1:
    os.kill(os.getpid(), signal.SIGKILL)
dist.barrier()
os.write(1, f"rank {dist.get_rank()}, attempt {attempt}\\n".encode())
dist.destroy_process_group()
"""


@pytest.mark.full
def test_torchrun_starts_all_anew(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(RESTARTED)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc-per-node", "2", "--max-restarts", "1", str(script)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["rank 0, attempt 1", "rank 1, attempt 1"]
    assert "rank 1 is lost" in done.stderr
