"""The commands of the bench beside the plain table, in real processes. No test looks at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import strip
from collectives.bench import report
from collectives.bench.collective import COLLECTIVES, SIDES


def bench(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "collectives.cli", "bench", *arguments],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_row_beyond_the_cache_has_its_share_of_the_bound_and_a_picture(tmp_path: Path) -> None:
    figures, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    said = bench(
        *("all_reduce", "--sizes", "1K,4M", "--iterations", "2", "--json", str(figures)),
        *("--plot", str(picture)),
    )
    found = json.loads(figures.read_text())
    memory = report.Bandwidth(**found["bandwidth"])
    assert memory.processes == 2
    assert memory.bytes_per_second > 0
    small, large = found["sizes"]
    for side in ("out_of_place", "in_place"):
        assert small[f"bound_{side}"] is None
        share = large[side]["median_algbw"] * 1e9 / memory.bounds(COLLECTIVES["all_reduce"])[side]
        assert large[f"bound_{side}"] == pytest.approx(share)
    assert "share of the bound" in said
    assert "# Memory: 2 processes copy" in said
    tables = subprocess.run(
        [sys.executable, strip.ROOT / "tools" / "bench_tables.py", figures],
        capture_output=True, text=True, timeout=30, check=True,
    ).stdout.splitlines()  # fmt: skip
    cells = [line.split("|")[1:-1] for line in tables if line.startswith("|")]
    assert [row[0].strip() for row in cells] == [
        *("median, µs", "---", "1 KiB", "4 MiB"),
        *("bytes", "---", "1 KiB", "4 MiB"),
    ]
    assert [len(row) for row in cells] == [3] * 4 + [7] * 4
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_small_operations_beside_a_large_one_are_right() -> None:
    said = bench(
        *("concurrent", "--small", "8x4K", "--large", "32M", "--rounds", "2", "--batches", "2")
    )
    assert "ratio of the p99" in said
    # Three rounds of each kind on two ranks, two batches of eight, and the large ones.
    checked = 2 * 3 * (2 * 2 * 8 * 1024 + (32 << 20) // 4)
    assert f"Wrong elements: 0 of {checked} checked" in said


def test_latencies_stand_side_by_side() -> None:
    said = bench(
        *("latency", "--ranks", "2,3", "--transport", "auto", "--sizes", "8,1K"),
        *("--iterations", "4"),
    )
    head, *rows, last = said.splitlines()
    assert head.split() == ["#", "size", "2", "ranks", "auto", "3", "ranks", "auto"]
    assert [row.split()[0] for row in rows] == ["8", "1024"]
    assert all(float(median) > 0 for row in rows for median in row.split()[1:])
    assert last == "# Wrong elements: 0"


def test_an_operation_that_reduces_nothing_has_no_op_and_the_same_outputs(tmp_path: Path) -> None:
    figures, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    said = bench(
        *("scatter", "--ranks", "3", "--sizes", "1K", "--iterations", "3"),
        *("--json", str(figures), "--plot", str(picture)),
    )
    (row,) = [line.split("|")[0].split() for line in said.splitlines() if line[0] != "#"]
    assert row == ["1020", "255", "float32", "none", "0"]
    assert "bound" not in said
    found = json.loads(figures.read_text())
    assert (found["operation"], found["options"]["op"]) == ("scatter", "none")
    assert found["wrong"] == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    refused = subprocess.run(
        [sys.executable, "-m", "collectives.cli", "bench", "scatter", "--op", "sum"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert refused.returncode == 2
    assert "No such option" in refused.stderr


@pytest.mark.full
@pytest.mark.parametrize("operation", COLLECTIVES)
def test_all_libraries_are_right_in_every_operation(operation: str, tmp_path: Path) -> None:
    pytest.importorskip("mpi4py")
    pytest.importorskip("torch")
    path = tmp_path / "bench.json"
    bench(
        *(operation, "--ranks", "3", "--sizes", "1K,1M", "--iterations", "4"),
        *("--compare", "gloo,mpi", "--json", str(path)),
    )
    found = json.loads(path.read_text())
    assert (found["operation"], found["wrong"]) == (operation, 0)
    for row in found["sizes"]:
        assert row["gloo"]["checked"] > 0
        for side in COLLECTIVES[operation].sides:
            name = SIDES[side]
            assert row[f"mpi_{name}"]["checked"] == row[name]["checked"] == row["gloo"]["checked"]
            assert row[f"ratio_{name}"] == pytest.approx(
                row["gloo"]["median_us"] / row[name]["median_us"]
            )


@pytest.mark.full
@pytest.mark.parametrize("ranks", [2, 5])
def test_all_libraries_are_measured_in_one_run(ranks: int, tmp_path: Path) -> None:
    pytest.importorskip("mpi4py")
    pytest.importorskip("torch")
    path = tmp_path / "bench.json"
    bench(
        *("all_reduce", "--ranks", str(ranks), "--sizes", "1K,1M", "--iterations", "4"),
        *("--transport", "tcp", "--compare", "gloo,mpi", "--congestion", "reno"),
        *("--json", str(path)),
    )
    found = json.loads(path.read_text())
    assert found["wrong"] == 0
    assert found["congestion"] == {"collectives": ["reno"], "gloo": ["reno"], "mpi": ["reno"]}
    for row in found["sizes"]:
        for name in report.FIGURES:
            assert row[name]["iterations"] == 4
            assert row[name]["cpu_seconds_per_gb"] > 0
        assert row["ratio_mpi_in_place"] == pytest.approx(
            row["mpi_in_place"]["median_us"] / row["in_place"]["median_us"]
        )


@pytest.mark.full
@pytest.mark.parametrize(("transport", "connections"), [("tcp", ["reno"]), ("shm", [])])
def test_all_libraries_use_the_transport_that_was_asked_for(
    transport: str, connections: list[str], tmp_path: Path
) -> None:
    pytest.importorskip("mpi4py")
    path = tmp_path / "bench.json"
    bench(
        *("all_reduce", "--sizes", "1K,1M", "--iterations", "4", "--transport", transport),
        *("--compare", "mpi", "--congestion", "reno", "--json", str(path)),
    )
    found = json.loads(path.read_text())
    assert found["wrong"] == 0
    assert found["congestion"]["mpi"] == connections
    if transport == "tcp":
        assert found["congestion"]["collectives"] == connections
