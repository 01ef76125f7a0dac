"""``collectives bench torch`` in real processes. No test looks at a time."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

from collectives.bench import process_group
from collectives.bench.process_group import Answer, Config
from collectives.bench.ranks import BenchError
from collectives.errors import InvalidArgument

BACKENDS = ["collectives", "gloo"]


def test_calls_and_training_steps_of_both_backends_are_right(tmp_path: Path) -> None:
    figures = tmp_path / "bench.json"
    done = subprocess.run(
        [sys.executable, "-m", "collectives.cli", "bench", "torch", "--ranks", "2",
         "--size", "100003", "--parameters", "30000", "--iterations", "4", "--steps", "2",
         "--json", figures],
        capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [found] = json.loads(figures.read_text())
    assert found["wrong"] == 0
    assert [(row["operation"], row["bytes"]) for row in found["operations"]] == [
        *(("all_reduce", 4), ("barrier", 0), ("all_reduce", 100_000)),
        *(("all_gather_into_tensor", 100_000), ("reduce_scatter_tensor", 100_000)),
    ]
    for row in found["operations"]:
        assert list(row["figures"]) == BACKENDS
        for figure in row["figures"].values():
            assert figure["iterations"] == 4
            assert figure["checked"] > 0 and figure["median_us"] > 0
    width = 70  # six layers of width² are nearly 30,000
    gradients = 6 * width * width
    for name in BACKENDS:
        training = found["training"][name]
        # Two ranks take two steps, after two to warm up, and check every element of each.
        for kind in ("step", "alone", "buckets"):
            assert training[kind]["checked"] == 2 * 4 * gradients
        waits = training["step"]["median_us"] - training["alone"]["median_us"]
        assert training["communication_us"] == pytest.approx(waits)
    assert sum(bucket["bytes"] for bucket in found["overlap"]) == 4 * gradients
    for bucket in found["overlap"]:
        assert bucket["done_us"] > bucket["entered_us"]
    assert f"# Wrong elements: 0 of {sum_checked(found)} checked" in done.stdout
    head = next(line for line in done.stdout.splitlines() if line.endswith("/gloo"))
    assert head.split()[:3] == ["#", "operation", "bytes"]


def sum_checked(found: dict) -> int:
    figures = [f for row in found["operations"] for f in row["figures"].values()]
    figures += [f for one in found["training"].values() for f in one.values() if type(f) is dict]
    return sum(figure["checked"] for figure in figures)


@pytest.mark.full
def test_elements_that_are_wrong_are_seen_in_every_figure() -> None:
    report = process_group.measure(
        Config(
            size=4096, parameters=2000, iterations=1, steps=1, blocks=1, plant_wrong=1,
            backends=("collectives",),
        )
    )  # fmt: skip
    wrong = {
        f"{row.operation}, {row.bytes}": row.figures["collectives"].wrong
        for row in report.operations
    }
    assert wrong.pop("barrier, 0") == 0
    training = report.training["collectives"]
    wrong |= {"step": training.step.wrong, "buckets": training.buckets.wrong}
    assert all(wrong.values()), wrong
    # One element of one of three chains: both ranks see it, in the warm-up and in the call.
    assert wrong["all_reduce, 4"] == wrong["all_reduce, 4096"] == 4
    assert report.wrong >= sum(wrong.values())


def test_a_barrier_that_one_left_before_another_came_is_wrong() -> None:
    gathered = process_group._Gathered(0, 0.0)
    barrier = process_group.Operation("barrier", 0)
    gathered.add([Answer([100, 300], [60, 50], 0, 0), Answer([150, 351], [20, 40], 0, 0)], barrier)
    figure = gathered.figure()
    assert (figure.checked, figure.wrong) == (2, 1)  # the second: left at 350, came at 351


def test_a_rank_that_fails_or_dies_is_named() -> None:
    ranks = process_group._Ranks(Config(timeout=0.05))
    pipes = [multiprocessing.Pipe() for _ in range(2)]
    ranks._pipes = [mine for mine, _ in pipes]
    with pytest.raises(BenchError, match=r"no answer from rank 0, rank 1 within 0\.05 s"):
        ranks._answers("start")
    pipes[1][1].send("RuntimeError: no such backend")
    with pytest.raises(BenchError, match="rank 1: RuntimeError: no such backend"):
        ranks._answers("start")
    pipes[0][1].close()
    with pytest.raises(BenchError, match=r"rank 0 died \(start\)"):
        ranks._answers("start")


@pytest.mark.parametrize(
    ("setting", "value"),
    [("ranks", 1), ("ranks", 65), ("size", 7), ("transport", "pigeon"), ("steps", 0),
     ("iterations", 0), ("seconds", 0.0), ("timeout", float("nan"))],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(setting: str, value: object) -> None:
    with pytest.raises(InvalidArgument, match=str(value)):
        Config(**{setting: value})
