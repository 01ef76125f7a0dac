"""A report for people: the table of nccl-tests, with the libraries that ours is compared with."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable

from collectives.bench.collective import COLLECTIVES, ROOT, SIDES
from collectives.bench.config import BenchConfig
from collectives.bench.report import FIGURES, Figure, Fitted, Overhead, Report, Row

Cell = Callable[[Row], str]


@dataclasses.dataclass(frozen=True)
class Column:
    """A column: its heading, its unit, its width, and what stands in it."""

    name: str
    unit: str
    width: int
    cell: Cell


Section = tuple[str, list[Column]]


class Table:
    """Lines of the table: columns that were not asked for are left out."""

    def __init__(self, config: BenchConfig) -> None:
        dtype, op = config.dtype, config.op
        root = ROOT if config.collective.rooted else -1
        self._sections: list[Section] = [
            (
                "",
                [
                    Column("size", "(B)", 10, lambda row: str(row.bytes)),
                    Column("count", "(elements)", 10, lambda row: str(row.count)),
                    Column("type", "", 8, lambda row: dtype),
                    Column("redop", "", 6, lambda row: op),
                    Column("root", "", 5, lambda row: str(root)),
                ],
            )
        ]
        sides = [SIDES[side] for side in config.sides("collectives")]
        for side in sides:
            self._sections.append((side.replace("_", "-"), _ours(side)))
        self._sections.append(
            (
                "model",
                [
                    Column("plan", "", 8, lambda row: row.algorithm or "-"),
                    Column("time", "(us)", 9, _micros_of("predicted_us")),
                ],
            )
        )
        if "gloo" in config.compare:
            ratios = [(f"/{FIGURES[side]}", f"ratio_{side}") for side in sides]
            self._sections.append(("gloo", _theirs("gloo", ratios)))
        if "mpi" in config.compare:
            for side in sides:
                ratios = [(f"/{FIGURES[side]}", f"ratio_mpi_{side}")]
                name = f"mpi_{side}"
                self._sections.append((name.replace("_", "-"), _theirs(name, ratios)))

    def head(self) -> list[str]:
        """Return the lines above the rows."""
        titles = [f"{title:^{_width(columns)}}" for title, columns in self._sections]
        names = [_line((c.name, c.width) for c in columns) for _, columns in self._sections]
        units = [_line((c.unit, c.width) for c in columns) for _, columns in self._sections]
        return [f"#{' | '.join(parts)}".rstrip() for parts in (titles, names, units)]

    def row(self, row: Row) -> str:
        """Return the line of one size."""
        parts = (_line((c.cell(row), c.width) for c in columns) for _, columns in self._sections)
        return f" {' | '.join(parts)}"


def _line(cells: Iterable[tuple[str, int]]) -> str:
    return " ".join(text.rjust(width) for text, width in cells)


def _width(columns: list[Column]) -> int:
    return sum(column.width + 1 for column in columns) - 1


def _of(name: str, show: Callable[[Figure], str]) -> Cell:
    def cell(row: Row) -> str:
        figure = row.named.get(name)
        return "-" if figure is None else show(figure)

    return cell


def _ours(name: str) -> list[Column]:
    return [
        Column("time", "(us)", 9, _of(name, lambda figure: _micros(figure.mean_us))),
        Column("algbw", "(GB/s)", 7, _of(name, lambda figure: f"{figure.algbw:.2f}")),
        Column("busbw", "(GB/s)", 7, _of(name, lambda figure: f"{figure.busbw:.2f}")),
        Column("#wrong", "", 7, _of(name, lambda figure: str(figure.wrong))),
        Column("median", "(us)", 9, _of(name, lambda figure: _micros(figure.median_us))),
        Column("p99", "(us)", 9, _of(name, lambda figure: _micros(figure.p99_us))),
        Column("min", "(us)", 9, _of(name, lambda figure: _micros(figure.min_us))),
    ]


def _theirs(name: str, ratios: list[tuple[str, str]]) -> list[Column]:
    columns = [
        Column("median", "(us)", 9, _of(name, lambda figure: _micros(figure.median_us))),
        Column("#wrong", "", 7, _of(name, lambda figure: str(figure.wrong))),
    ]
    for title, field in ratios:
        columns.append(Column(title, "(times)", 8, _number(field, "{:.2f}x")))
    return columns


def _micros_of(field: str) -> Cell:
    def cell(row: Row) -> str:
        value = getattr(row, field)
        return "-" if value is None else _micros(value)

    return cell


def _number(field: str, form: str) -> Cell:
    def cell(row: Row) -> str:
        value = getattr(row, field)
        return "-" if value is None else form.format(value)

    return cell


def _micros(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.1f}" if value < 10000 else f"{value:.0f}"


# ---- below the rows ----------------------------------------------------------------------------


def foot(report: Report) -> list[str]:
    """Return the lines below the rows."""
    ours = [f for row in report.sizes for f in (row.out_of_place, row.in_place) if f is not None]
    lines = []
    if ours:
        mean = math.fsum(figure.busbw for figure in ours) / len(ours)
        checked = sum(figure.checked for row in report.sizes for figure in row.named.values())
        lines.append(f"# Wrong elements: {report.wrong} of {checked} checked")
        lines.append(f"# Average bus bandwidth: {mean:.3f} GB/s")
    lines += _costs(report)
    if report.model is not None:
        lines += _fitted(report.model)
    if report.bandwidth is not None:
        memory = report.bandwidth
        bounds = [
            f"{bound / 1e9:.2f} GB/s {side.replace('_', ' ')}"
            for side, bound in memory.bounds(COLLECTIVES[report.operation]).items()
        ]
        lines.append(
            f"# Memory: {memory.processes} processes copy {memory.bytes_per_second / 1e9:.2f} GB/s"
            f" (read + written, {memory.way}); so the bound is {', '.join(bounds)}"
        )
    for library, names in report.congestion.items():
        if report.sockets[library]:
            lines.append(
                f"# {library}: {report.sockets[library]} TCP connections at rank 0, "
                f"congestion control {', '.join(names)}"
            )
    machine = report.machine
    lines.append(f"# {machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}")
    if report.overhead is not None:
        lines += overhead_lines(report.overhead)
    return lines


def _fitted(model: Fitted) -> list[str]:
    """Return the links that fit the run best, and how well."""
    lines = [f"# Model fitted to this run: R2 {model.r2:.3f} of the logarithms of the times"]
    for i, level in enumerate(model.levels):
        rates = ", ".join(
            f"{name} {level[name] / 1e9:.3g} GB/s"
            for name in ("bandwidth", "uplink", "fabric")
            if level[name] is not None
        )
        lines.append(f"#   level {i}: latency {level['latency'] * 1e6:.3g} us, {rates}")
    return lines


def _costs(report: Report) -> list[str]:
    """Return what a size costs besides time: CPU and memory, and how near the bound it comes."""
    names = [name for name in FIGURES if any(name in row.named for row in report.sizes)]
    bounds = [name for name in names if any(getattr(r, f"bound_{name}", 0) for r in report.sizes)]
    groups: list[tuple[str, list[str], Callable[[str], Cell]]] = [
        ("share of the bound", bounds, lambda name: _number(f"bound_{name}", "{:.1%}")),
        ("CPU s per GB", names, lambda name: _of(name, lambda f: f"{f.cpu_seconds_per_gb:.2f}")),
        (
            "peak memory, MiB",
            names,
            lambda name: _of(name, lambda f: f"{f.peak_bytes / 2**20:.1f}"),
        ),
    ]
    if report.model is not None:
        groups.append(("fitted, us", ["fitted"], lambda name: _micros_of("fitted_us")))
    groups = [group for group in groups if group[1]]
    wide = [max(len(title), 9 * len(some) - 1) for title, some, _ in groups]

    def joined(parts: list[list[str]]) -> str:
        return " | ".join(
            " ".join(f"{part:>8}" for part in some).rjust(width)
            for some, width in zip(parts, wide, strict=True)
        )

    titles = [f"{title:^{width}}" for (title, _, _), width in zip(groups, wide, strict=True)]
    lines = [
        f"#{'':>11} | {' | '.join(titles)}",
        f"#{'size':>11} | "
        + joined([[FIGURES.get(name, "model") for name in some] for _, some, _ in groups]),
    ]
    for row in report.sizes:
        parts = [[show(name)(row) for name in some] for _, some, show in groups]
        lines.append(f"#{row.bytes:>11} | {joined(parts)}")
    return [line.rstrip() for line in lines]


def overhead_lines(overhead: Overhead) -> list[str]:
    """Return the rows about the cost of a call."""
    return [
        f"# Group of one, 4 bytes, median of {overhead.iterations} calls:",
        f"#   group.all_reduce       {overhead.python_call_us:8.2f} us",
        f"#   coll_run, below it     {overhead.c_call_us:8.2f} us",
        f"#   Python cost per call   {overhead.python_cost_us:8.2f} us",
    ]
