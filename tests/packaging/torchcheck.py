"""What an installed package must be able to do for PyTorch, without being imported by name.

``torchcheck.py FOLDER`` starts two ranks of itself, which reduce a tensor and make each other wait.
"""

from __future__ import annotations

import subprocess
import sys

import torch
import torch.distributed as dist


def rank(number: int, folder: str) -> None:
    """Take part in one all_reduce of two."""
    store = f"file://{folder}/store"
    dist.init_process_group("collectives", init_method=store, rank=number, world_size=2)
    tensor = torch.full((100_003,), number + 1.0)
    dist.all_reduce(tensor)
    assert bool((tensor == 3).all()), tensor
    dist.barrier()
    issued = sys.modules["collectives.torch"].counts()
    assert issued == {"all_reduce": 1, "barrier": 1}, issued
    dist.destroy_process_group()


def main(folder: str) -> None:
    """Check that two processes reduce."""
    ranks = [
        subprocess.Popen([sys.executable, __file__, folder, str(number)]) for number in range(2)
    ]
    try:
        statuses = [process.wait(timeout=90) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert statuses == [0, 0], statuses
    print(f"works: torch {torch.__version__}, {sys.modules['collectives'].__file__}")


if __name__ == "__main__":
    rank(int(sys.argv[2]), sys.argv[1]) if len(sys.argv) > 2 else main(sys.argv[1])
