"""A run as a picture: peers by time, with faults, views, operations and recoveries.

A lane for each place. A life is a bar; the darker it is, the more operations its process finished
there, and red where calls raised. Faults stand on the lane of whom they hit, marks for what happens
at once and lines for what lasts. On top are the coordinator, when it was gone, and the numbers of
the views; behind all, the time that a recovery took.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MultipleLocator

from collectives.chaos.operations import lineages
from collectives.chaos.records import FOREVER, Life

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from collectives.chaos.history import History
    from collectives.chaos.report import Report

_INK, _MUTED, _GRID = "#1f2933", "#7b8794", "#e4e7eb"
_LIFE, _BUSY, _ERROR = "#e1eaf0", "#6fb3ab", "#ef4444"
_VIEW, _RECOVERY, _BAD = "#7c3aed", "#fde68a", "#dc2626"
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.edgecolor": _GRID,
    "xtick.color": _MUTED,
    "text.color": _INK,
    "svg.fonttype": "path",
    "svg.hashsalt": "collectives",
}
# Kind: marker of what happens at once, None for what lasts; color.
_MARKS: dict[str, tuple[str | None, str]] = {
    "kill": ("X", "#b91c1c"),
    "coordinator_kill": ("X", "#b91c1c"),
    "leave": ("<", "#0369a1"),
    "join": (">", "#0369a1"),
    "stop": (None, "#d97706"),
    "coordinator_stop": (None, "#d97706"),
    "slow": (None, "#a3a635"),
    "partition": (None, "#be185d"),
    "isolate": (None, "#be185d"),
    "cut_off": (None, "#be185d"),
    "black_hole": (None, "#be185d"),
    "half_open": ("d", "#be185d"),
    "link": (None, "#6d28d9"),
    "reset": ("v", "#be185d"),
    "flip": ("*", "#c026d3"),
    "truncate": ("*", "#c026d3"),
    "duplicate": ("*", "#c026d3"),
    "stranger": ("s", "#475569"),
    "flood": (None, "#475569"),
    "exhaust": (None, "#78350f"),
}
_OTHER = ("o", "#475569")
_BINS = 900  # columns of the lanes' density
_LABELS = 24  # faults, and lives, up to which each has its name beside it
_CLOCK = 180  # seconds from which on the time is told in minutes
_HEIGHT = 0.34  # half of a lane's bar


def draw(report: Report, *paths: str | Path) -> None:
    """Write the picture of a run; the endings (``.png``, ``.svg``) say as what.

    Args:
        report: of the run.
        paths: one for each picture.
    """
    with mpl.rc_context(_STYLE):
        figure = _figure(report)
        for path in paths:
            figure.savefig(path, metadata={"Date": None} if str(path).endswith(".svg") else None)


def svg(report: Report) -> str:
    """The picture as an SVG element, to stand in a page."""
    out = io.StringIO()
    with mpl.rc_context(_STYLE):
        _figure(report).savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def _figure(report: Report) -> Figure:
    history = report.history
    places = list(dict.fromkeys(life.place for life in history.lives.values()))
    lanes = {place: row for row, place in enumerate(places)}
    height = 1.55 + 0.42 * (len(places) + 1)
    figure = Figure(figsize=(12, height), dpi=130, facecolor="white")
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.075, right=0.985, top=1 - 0.72 / height, bottom=0.62 / height)
    axes = figure.add_subplot()
    _title(figure, report, height)
    for left, right in _recovering(report):
        axes.axvspan(left, right, color=_RECOVERY, lw=0, alpha=0.5, zorder=1.5)
    width = max(history.seconds(history.finish), 1e-3)
    for life in history.lives.values():
        _life(axes, history, life, lanes[life.place], width)
    _operations(axes, history, lanes, width)
    _coordinator(axes, history, width)
    _views(axes, history, len(places), width)
    _faults(axes, history, lanes, width)
    for violation in report.violations:
        axes.axvline(history.seconds(violation.t), color=_BAD, lw=1.3, ls=(0, (3, 2)), zorder=6)
    axes.set_xlim(-0.005 * width, 1.005 * width)
    axes.set_ylim(len(places) - 0.45, -1.55)
    axes.set_yticks([-1, *lanes.values()], ["coordinator", *places])
    axes.tick_params(length=0)
    if width >= _CLOCK:
        axes.xaxis.set_major_locator(MultipleLocator(60 * math.ceil(width / 60 / 10)))
    axes.xaxis.set_major_formatter(lambda value, _: _clock(value, width))
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    _legend(figure, report, height)
    return figure


def _recovering(report: Report) -> list[tuple[float, float]]:
    """The seconds in which some fault had not been recovered from, as intervals that are apart."""
    history = report.history
    spans: list[tuple[float, float]] = []
    for recovery in sorted(report.recoveries, key=lambda recovery: recovery.t):
        left = history.seconds(recovery.t)
        right = history.seconds(min(recovery.end, history.finish))
        if spans and left <= spans[-1][1]:
            left, right = spans[-1][0], max(spans.pop()[1], right)
        spans.append((left, right))
    return spans


def _title(figure: Figure, report: Report, height: float) -> None:
    begin = report.history.begin
    bad = len(report.violations)
    verdict = f"{bad} violation{'s' if bad > 1 else ''}" if bad else "no violation"
    title = f"{begin.get('scenario', 'run')}, seed {begin.get('seed')}: {verdict}"
    color = _BAD if bad else _INK
    figure.text(0.012, 1 - 0.27 / height, title, fontsize=14, fontweight="bold", color=color)
    labels = dict(report.facts())
    facts = [f"operations: {labels['operations']}", f"recoveries: {labels['recoveries']}"]
    facts.append(f"false deaths: {report.false_deaths}")
    figure.text(0.012, 1 - 0.5 / height, "  ·  ".join(facts), fontsize=9.5, color=_MUTED)


def _life(axes: Axes, history: History, life: Life, row: int, width: float) -> None:
    begin = life.started if life.started is not None else history.start
    end = life.gone if life.gone < FOREVER else history.finish
    left, right = history.seconds(begin), history.seconds(end)
    axes.barh(row, right - left, 2 * _HEIGHT, left, color=_LIFE, zorder=1)
    if life.number and len(history.lives) <= _LABELS and right - left > 0.012 * width:
        word = f".{life.number}"
        axes.text(left, row + _HEIGHT, word, fontsize=6.5, color=_INK, va="bottom", zorder=4)


def _operations(axes: Axes, history: History, rows: dict[str, int], width: float) -> None:
    edges = np.linspace(0, width, _BINS + 1)
    for outcome, color in ((True, _BUSY), (False, _ERROR)):
        counts = np.zeros((len(rows), _BINS))
        for life in history.lives.values():
            ends = [c.ended for c in life.calls if c.ended is not None and c.returned == outcome]
            counts[rows[life.place]] += np.histogram([history.seconds(t) for t in ends], edges)[0]
        # Few and many must both be seen: one operation is half of what a busy column is.
        most = max(np.quantile(counts, 0.99), 2.0)
        shades = np.where(counts > 0, 0.45 + 0.55 * np.minimum(counts / most, 1.0), 0.0)
        ramp = LinearSegmentedColormap.from_list("", [(*mpl.colors.to_rgb(color), 0), color])
        for row, shade in enumerate(shades):
            axes.imshow(
                shade[np.newaxis],
                cmap=ramp,
                vmin=0,
                vmax=1,
                aspect="auto",
                interpolation="nearest",
                extent=(0, width, row + _HEIGHT, row - _HEIGHT),
                zorder=2,
            )


def _coordinator(axes: Axes, history: History, width: float) -> None:
    axes.barh(-1, width, 0.3, 0, color=_LIFE, zorder=1)
    for down, up, killed in history.outages:
        left, right = history.seconds(down), history.seconds(min(up, history.finish))
        color = "white" if killed else "#fcd9a8"
        axes.barh(-1, right - left, 0.34, left, color=color, zorder=2)


def _views(axes: Axes, history: History, rows: int, width: float) -> None:
    first: dict[tuple[int, int], float] = {}
    for lineage in lineages(history):
        for seers in lineage.ordered:
            key = (seers[0].view.term, seers[0].view.number)
            first[key] = min(first.get(key, FOREVER), history.seconds(seers[0].t))
    last = -width
    alpha = 0.6 if len(first) <= 40 else 0.25
    for (_, number), t in sorted(first.items(), key=lambda item: item[1]):
        axes.vlines(t, -0.75, rows - 0.5, color=_VIEW, lw=0.6, alpha=alpha, zorder=3)
        if t - last > 0.018 * width:  # else numbers would stand on one another
            axes.text(t, -1.3, str(number), fontsize=7.5, color=_VIEW, ha="center", va="bottom")
            last = t
    axes.text(-0.012 * width, -1.3, "view", fontsize=7.5, color=_VIEW, ha="right", va="bottom")


def _faults(axes: Axes, history: History, lanes: dict[str, int], width: float) -> None:
    few = len(history.faults) <= _LABELS
    labelled: dict[int, float] = {}  # up to where a lane's labels reach
    for fault in history.faults:
        marker, color = _MARKS.get(fault.kind, _OTHER)
        left = history.seconds(fault.t)
        right = history.seconds(min(fault.until, history.finish))
        rows = [lanes[place] for place in fault.places if place in lanes]
        if fault.kind.startswith("coordinator"):
            rows = [-1]
        for row in rows:
            if marker is None:
                axes.hlines(row, left, right, color=color, lw=3.2 if few else 2.2, zorder=5)
                ends = [left, right]
                axes.plot(ends, [row, row], "|", color=color, ms=8, mew=1.6, zorder=5)
            else:
                axes.plot(
                    left, row, marker, color=color, ms=8.5 if few else 6, mec="white", mew=0.7,
                    zorder=7,
                )  # fmt: skip
        free = rows and labelled.get(min(rows), -width) < left
        if few and free:
            labelled[min(rows)] = left + 0.008 * width * len(fault.kind)
            axes.text(
                left,
                min(rows) - _HEIGHT + 0.02 if min(rows) >= 0 else -0.66,
                fault.kind.replace("coordinator_", ""),
                fontsize=7.5,
                color=color,
                ha="left" if left < 0.9 * width else "right",
                va="bottom" if min(rows) >= 0 else "center",
                zorder=8,
            )


def _legend(figure: Figure, report: Report, height: float) -> None:
    handles: list[Any] = [
        Patch(color=_BUSY, label="operations"),
        Patch(color=_ERROR, label="errors"),
        Patch(color=_RECOVERY, label="recovering"),
        Line2D([], [], color=_VIEW, lw=1, label="new view"),
    ]
    for kind in report.faults:
        marker, color = _MARKS.get(kind, _OTHER)
        if kind.startswith("coordinator_") and kind.removeprefix("coordinator_") in report.faults:
            continue
        label = kind.replace("_", " ")
        line = Line2D([], [], color=color, lw=3.2, label=label)
        if marker is not None:
            line = Line2D([], [], color=color, ls="", marker=marker, ms=7, label=label)
        handles.append(line)
    if report.violations:
        handles.append(Line2D([], [], color=_BAD, lw=1.3, ls="--", label="violation"))
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0.005, 0.02 / height),
        ncols=min(len(handles), 12),
        frameon=False,
        fontsize=8,
        handlelength=1.4,
        columnspacing=1.3,
    )


def _clock(seconds: float, width: float) -> str:
    if width < _CLOCK:
        return f"{seconds:g} s"
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
