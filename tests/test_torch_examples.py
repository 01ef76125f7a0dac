"""The examples of the PyTorch backend, under torchrun: with either backend they print the same."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys

import pytest

import strip

DEADLINE = 100.0

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)


def start(example: str, backend: str) -> subprocess.Popen[str]:
    """Two ranks of it, for as many steps as it takes to print a loss."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", str(strip.ROOT / "examples" / example)),
            *("--backend", backend, "--steps", "20"),
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # the ranks share this machine's cores
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize(
    "example",
    [
        "ddp.py",
        pytest.param("fsdp2.py", marks=pytest.mark.full),
        pytest.param("tensor_parallel.py", marks=pytest.mark.full),
    ],
)
def test_the_losses_are_those_of_gloo(example: str) -> None:
    runs = [start(example, backend) for backend in ("collectives", "gloo")]
    try:
        outputs = [run.communicate(timeout=DEADLINE)[0] for run in runs]
    finally:
        for run in runs:
            if run.poll() is None:
                os.killpg(run.pid, 9)  # torchrun and its ranks, a session of their own
                run.wait()
    assert [run.returncode for run in runs] == [0, 0], "\n".join(outputs)
    ours, gloo = (
        re.findall(r"^step 20: loss (\d\.\d{6}), [\d,]+ tokens/s$", output, re.MULTILINE)
        for output in outputs
    )
    assert len(ours) == 1 and ours == gloo, "\n".join(outputs)
