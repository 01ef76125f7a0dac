"""Print the figures of ``collectives bench OPERATION --json`` as tables for docs/performance.md.

``bench_tables.py FILE...``: a heading and two tables for each file, times and costs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

FIGURES = {
    "out_of_place": "`out=`",
    "in_place": "in place",
    "gloo": "Gloo",
    "mpi_out_of_place": "MPI",
    "mpi_in_place": "MPI in place",
}
RATIOS = {
    "ratio_out_of_place": "Gloo / `out=`",
    "ratio_in_place": "Gloo / in place",
    "ratio_mpi_out_of_place": "MPI / `out=`",
    "ratio_mpi_in_place": "MPI / in place, both",
}
BOUNDS = {"bound_out_of_place": "bound, `out=`", "bound_in_place": "bound, in place"}


def size(count: int) -> str:
    """Return bytes as people write them."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= factor:
            return f"{count / factor:g} {unit}"
    return f"{count} B"


def tables(found: dict[str, Any]) -> list[str]:
    """Return times, then costs, of one run; columns that were not measured are left out."""
    rows = found["sizes"]
    figures = [name for name in FIGURES if any(row[name] for row in rows)]
    times = {FIGURES[name]: [micros(row[name]["median_us"]) for row in rows] for name in figures}
    costs: dict[str, list[str]] = {}
    for name, title in (RATIOS | BOUNDS).items():
        if any(row[name] for row in rows):
            form, column = ("{:.2f}x", times) if name in RATIOS else ("{:.0%}", costs)
            column[title] = [form.format(row[name]) if row[name] else "" for row in rows]
    for name in figures:
        seconds = [f"{row[name]['cpu_seconds_per_gb']:.2f}" for row in rows]
        costs[f"CPU s per GB, {FIGURES[name]}"] = seconds
    for name in figures:
        peaks = [f"{row[name]['peak_bytes'] / (1 << 20):.1f}" for row in rows]
        costs[f"peak MiB, {FIGURES[name]}"] = peaks
    sizes = [size(row["bytes"]) for row in rows]
    return [*markdown({"median, µs": sizes, **times}), "", *markdown({"bytes": sizes, **costs})]


def markdown(columns: dict[str, list[str]]) -> list[str]:
    """Return a table."""
    lines = [list(columns), ["---"] * len(columns), *zip(*columns.values(), strict=True)]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def micros(value: float) -> str:
    """Return a time with three digits, or as many as it has."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def document(found: dict[str, Any]) -> list[str]:
    """Return what was measured and where, and its tables."""
    options, memory = found["options"], found["bandwidth"]
    checked = sum(row[name]["checked"] for row in found["sizes"] for name in FIGURES if row[name])
    lines = [
        f"### {found['operation']}, {options['ranks']} ranks, transport {options['transport']}",
        "",
        f"{options['dtype']}{'' if options['op'] == 'none' else ' ' + options['op']};"
        f" {found['machine']['cpu']},"
        f" {found['machine']['cores']} cores, Linux {found['machine']['kernel']}."
        f" {found['wrong']} wrong of {checked} elements.",
    ]
    if memory:
        lines[-1] += (
            f" {memory['processes']} processes copy {memory['bytes_per_second'] / 1e9:.1f} GB/s"
            " (read and written)."
        )
    versions = (f"{name} {version}" for name, version in found["versions"].items())
    return [*lines, f"Versions: {', '.join(versions)}.", "", *tables(found), ""]


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print("\n".join(document(json.loads(Path(argument).read_text()))))
