"""Ranks of the bench that somebody else has started, and how they find each other."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from collectives.bench import launcher
from collectives.bench.launcher import Launch
from collectives.errors import InvalidArgument
from proxy import free_port

COMMAND = [sys.executable, "-m", "collectives.cli", "bench", "all_reduce"]
COMMAND += ["--sizes", "1K", "--iterations", "2", "--timeout", "60"]
DEADLINE = 100


@pytest.mark.parametrize(
    ("environment", "launch"),
    [
        ({}, None),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}, Launch(1, 4)),
        ({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "3"}, Launch(2, 3)),
        ({"PMI_RANK": "0", "PMI_SIZE": "2"}, Launch(0, 2)),
        ({"SLURM_PROCID": "7", "SLURM_NTASKS": "8"}, Launch(7, 8)),
        # torchrun in a job of Slurm: the innermost counts.
        (
            {"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "RANK": "5", "WORLD_SIZE": "8"},
            Launch(5, 8),
        ),
        ({"SLURM_NTASKS": "8"}, None),
    ],
)
def test_a_launcher_is_known_by_its_variables(
    environment: dict[str, str], launch: Launch | None
) -> None:
    assert launcher.find(environment) == launch


@pytest.mark.parametrize(("rank", "size"), [("4", "4"), ("-1", "2"), ("x", "2"), ("0", "")])
def test_variables_that_make_no_sense_are_refused(rank: str, size: str) -> None:
    with pytest.raises(InvalidArgument, match="name no rank"):
        launcher.find({"RANK": rank, "WORLD_SIZE": size})


def alone(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *options], env={**os.environ, **environment}, capture_output=True, text=True,
        timeout=DEADLINE, check=False,
    )  # fmt: skip


def test_ranks_that_cannot_meet_are_told_how() -> None:
    done = alone(RANK="0", WORLD_SIZE="2")
    assert done.returncode == 1
    assert "set MASTER_ADDR and MASTER_PORT, or give --meet FILE" in done.stderr


def test_another_number_of_ranks_than_was_launched_is_refused() -> None:
    done = alone("--ranks", "3", RANK="0", WORLD_SIZE="2")
    assert done.returncode == 1
    assert "--ranks 3, but 2 ranks were launched" in done.stderr


@contextlib.contextmanager
def started(
    *options: str, names: tuple[str, str], ranks: int = 2, **environment: str
) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes as a launcher starts them; what is left of them at the end is killed."""
    processes = [
        subprocess.Popen(
            [*COMMAND, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, names[0]: str(rank), names[1]: str(ranks), **environment},
        )
        for rank in range(ranks)
    ]  # fmt: skip
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def check(processes: list[subprocess.Popen[str]]) -> None:
    said = [process.communicate(timeout=DEADLINE)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said
    assert "Wrong elements: 0 of" in said[0]
    assert said[1:] == [""] * (len(said) - 1)


def test_ranks_meet_at_the_master_even_if_a_stranger_is_there_first() -> None:
    port = free_port()
    names = "RANK", "WORLD_SIZE"
    with (
        started(names=names, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)) as processes,
        connected(port, processes[0]) as stranger,
    ):
        stranger.sendall(b"\0\0\0\7GET / x")
        check(processes)


@contextlib.contextmanager
def connected(port: int, process: subprocess.Popen[str]) -> Iterator[socket.socket]:
    while process.poll() is None:
        with contextlib.suppress(ConnectionRefusedError):
            connection = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
            break
        time.sleep(0.01)
    else:
        pytest.fail(f"the conductor ended: {process.communicate()[0]}")
    with connection:
        yield connection


def test_ranks_meet_by_a_file_though_an_old_one_lies_there(tmp_path: Path) -> None:
    file = tmp_path / "meet"
    file.write_text(f"127.0.0.1:{free_port()}")
    names = "SLURM_PROCID", "SLURM_NTASKS"
    with started("--meet", str(file), names=names, ranks=3) as processes:
        check(processes)
    assert list(tmp_path.iterdir()) == []


def test_the_others_end_with_the_conductor(tmp_path: Path) -> None:
    names = "PMI_RANK", "PMI_SIZE"
    long = ("--sizes", "1K:64M", "--iterations", "200")
    with started("--meet", str(tmp_path / "meet"), *long, names=names) as (first, second):
        assert first.stdout is not None
        while line := first.stdout.readline():
            if line.split()[0] == "1024":
                break
        first.kill()
        out, _ = second.communicate(timeout=DEADLINE)
    assert line, "the conductor ended by itself"
    assert second.returncode == 1, out


@pytest.mark.full
def test_ranks_of_torchrun_meet_by_its_store() -> None:
    pytest.importorskip("torch")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "--no-python", *COMMAND, "--compare", "gloo"],
        capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Wrong elements: 0 of" in done.stdout
