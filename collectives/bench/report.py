"""Figures: statistics of timed calls, and a run's report as a table and as JSON.

Times are microseconds. Bandwidths are GB/s with 1 GB = 1e9 bytes: algbw is the payload of one rank
divided by the mean time, busbw is that times 2(n-1)/n, which is what each link carries.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

SCHEMA = 1


@dataclasses.dataclass(frozen=True)
class Figure:
    """One library, one size, one way of calling."""

    iterations: int
    mean_us: float
    median_us: float
    p99_us: float
    min_us: float
    algbw: float
    busbw: float
    median_algbw: float
    checked: int
    wrong: int

    @classmethod
    def of(
        cls, times_us: Sequence[float], size: int, ranks: int, checked: int, wrong: int
    ) -> Figure:
        """Make the figure of calls that took `times_us`, on `size` bytes per rank."""
        times = sorted(times_us)
        mean = math.fsum(times) / len(times)
        median = quantile(times, 0.5)
        algbw = size / mean / 1e3
        return cls(
            iterations=len(times),
            mean_us=mean,
            median_us=median,
            p99_us=quantile(times, 0.99),
            min_us=times[0],
            algbw=algbw,
            busbw=algbw * 2 * (ranks - 1) / ranks,
            median_algbw=size / median / 1e3,
            checked=checked,
            wrong=wrong,
        )


def quantile(ordered: Sequence[float], q: float) -> float:
    """Return the q-quantile of ordered numbers, interpolated between the nearest two."""
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@dataclasses.dataclass(frozen=True)
class Row:
    """One size. `ratio_*` is the other library's median time divided by ours."""

    bytes: int
    count: int
    out_of_place: Figure | None
    in_place: Figure | None
    gloo: Figure | None
    ratio_out_of_place: float | None
    ratio_in_place: float | None

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The figures that were measured."""
        return tuple(f for f in (self.out_of_place, self.in_place, self.gloo) if f is not None)


@dataclasses.dataclass(frozen=True)
class Overhead:
    """What a call costs in a group of one, with 4 bytes: medians of one call, in microseconds."""

    python_call_us: float
    c_call_us: float
    python_cost_us: float
    iterations: int


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything that one run found out.

    Attributes:
        options: the settings, as `BenchConfig` names them.
        congestion: congestion control of the sockets in use, by library, as read from them.
        sockets: how many TCP connections rank 0 has, by library.
        machine: CPU, cores, kernel.
        versions: of this library, Python, NumPy, torch.
    """

    operation: str
    options: dict[str, Any]
    congestion: dict[str, list[str]]
    sockets: dict[str, int]
    machine: dict[str, Any]
    versions: dict[str, str]
    started: str
    seconds: float
    sizes: list[Row]
    overhead: Overhead | None = None
    schema: int = SCHEMA

    @property
    def wrong(self) -> int:
        """Wrong elements in the whole run, of all libraries."""
        return sum(figure.wrong for row in self.sizes for figure in row.figures)

    def to_json(self) -> str:
        """Return the report as JSON text, with ``wrong`` in it."""
        return json.dumps({**dataclasses.asdict(self), "wrong": self.wrong}, indent=2)


def with_overhead(report: Report, overhead: Overhead) -> Report:
    """Return the report with the cost of a call in it."""
    return dataclasses.replace(report, overhead=overhead)


# ---- the table ---------------------------------------------------------------------------------

_SIDE = ("time", "algbw", "busbw", "#wrong", "median", "p99", "min")
_SIDE_UNITS = ("(us)", "(GB/s)", "(GB/s)", "", "(us)", "(us)", "(us)")
_WIDTHS = (9, 7, 7, 7, 9, 9, 9)


def _micros(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.1f}" if value < 10000 else f"{value:.0f}"


def _side(figure: Figure | None) -> str:
    if figure is None:
        cells: tuple[str, ...] = ("-",) * len(_WIDTHS)
    else:
        cells = (
            _micros(figure.mean_us),
            f"{figure.algbw:.2f}",
            f"{figure.busbw:.2f}",
            str(figure.wrong),
            _micros(figure.median_us),
            _micros(figure.p99_us),
            _micros(figure.min_us),
        )
    return " ".join(cell.rjust(width) for cell, width in zip(cells, _WIDTHS, strict=True))


class Table:
    """Lines of the table: columns that were not asked for are left out."""

    def __init__(
        self, dtype: str, op: str, *, out_of_place: bool, in_place: bool, gloo: bool
    ) -> None:
        self._dtype, self._op = dtype, op
        self._out_of_place, self._in_place, self._gloo = out_of_place, in_place, gloo

    def head(self) -> list[str]:
        """Return the lines above the rows."""
        side = " ".join(name.rjust(width) for name, width in zip(_SIDE, _WIDTHS, strict=True))
        units = " ".join(
            name.rjust(width) for name, width in zip(_SIDE_UNITS, _WIDTHS, strict=True)
        )
        shown = [("out-of-place", self._out_of_place), ("in-place", self._in_place)]
        left = f"#{'size':>10} {'count':>10} {'type':>8} {'redop':>6} {'root':>5}"
        lines = [
            f"#{'':>43}" + "".join(f" | {title:^{len(side)}}" for title, show in shown if show),
            left + "".join(f" | {side}" for _, show in shown if show),
            f"#{'(B)':>10} {'(elements)':>10} {'':>8} {'':>6} {'':>5}"
            + "".join(f" | {units}" for _, show in shown if show),
        ]
        if self._gloo:
            widths = [8] * sum((self._out_of_place, self._in_place))
            lines[0] += f" | {'gloo':^{17 + 9 * len(widths)}}"
            lines[1] += f" | {'median':>9} {'#wrong':>7}"
            lines[2] += f" | {'(us)':>9} {'':>7}"
            for title, show in (("/out", self._out_of_place), ("/in", self._in_place)):
                if show:
                    lines[1] += f" {title:>8}"
                    lines[2] += f" {'(times)':>8}"
        return [line.rstrip() for line in lines]

    def row(self, row: Row) -> str:
        """Return the line of one size."""
        line = f" {row.bytes:>10} {row.count:>10} {self._dtype:>8} {self._op:>6} {-1:>5}"
        if self._out_of_place:
            line += f" | {_side(row.out_of_place)}"
        if self._in_place:
            line += f" | {_side(row.in_place)}"
        if self._gloo and row.gloo is not None:
            line += f" | {_micros(row.gloo.median_us):>9} {row.gloo.wrong:>7}"
            for ratio in (row.ratio_out_of_place, row.ratio_in_place):
                if ratio is not None:
                    line += f" {f'{ratio:.2f}x':>8}"
        return line


def foot(report: Report) -> list[str]:
    """Return the lines below the rows."""
    ours = [f for row in report.sizes for f in (row.out_of_place, row.in_place) if f is not None]
    lines = []
    if ours:
        mean = math.fsum(figure.busbw for figure in ours) / len(ours)
        checked = sum(figure.checked for row in report.sizes for figure in row.figures)
        lines.append(f"# Wrong elements: {report.wrong} of {checked} checked")
        lines.append(f"# Average bus bandwidth: {mean:.3f} GB/s")
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


def overhead_lines(overhead: Overhead) -> list[str]:
    """Return the rows about the cost of a call."""
    return [
        f"# Group of one, 4 bytes, median of {overhead.iterations} calls:",
        f"#   group.all_reduce       {overhead.python_call_us:8.2f} us",
        f"#   coll_run, below it     {overhead.c_call_us:8.2f} us",
        f"#   Python cost per call   {overhead.python_cost_us:8.2f} us",
    ]
