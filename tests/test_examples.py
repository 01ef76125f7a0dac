"""The examples, run as their docstrings say: one process per peer, the address in a variable."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

import collectives

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"
DEADLINE = 120.0


def run_two(name):
    """Output of two processes of an example."""
    with collectives.Coordinator("127.0.0.1:0") as coordinator:
        environment = os.environ | {
            "COLLECTIVES_COORDINATOR": coordinator.address,
            "OMP_NUM_THREADS": "1",  # the peers share this machine's cores
        }
        peers = [
            subprocess.Popen(
                [sys.executable, str(EXAMPLES / name)],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for _ in range(2)
        ]
        try:
            outputs = [peer.communicate(timeout=DEADLINE)[0] for peer in peers]
        finally:
            for peer in peers:
                peer.kill()
                peer.wait()
    assert [peer.returncode for peer in peers] == [0, 0], outputs
    return outputs


def test_all_reduce():
    outputs = sorted(run_two("all_reduce.py"))
    assert outputs == [f"rank {rank} of 2: 1.5 from 2 peers\n" for rank in (0, 1)]


@pytest.mark.full
def test_diloco_minimal():
    one, other = (
        [line.split() for line in text.splitlines()] for text in run_two("diloco_minimal.py")
    )
    assert len(one) == 10
    assert [line[-1] for line in one] == [line[-1] for line in other]  # digests
    assert [line[3] for line in one] != [line[3] for line in other]  # losses: other data


def test_the_added_lines_are_five():
    source = (EXAMPLES / "diloco_minimal.py").read_text()
    assert sum(line.split("  #")[-1].strip() == "+" for line in source.splitlines()) == 5
