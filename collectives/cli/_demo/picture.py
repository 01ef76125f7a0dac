"""The demo as a picture: loss over the run, what was sent, and marks where peers came or went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from collectives.cli._demo.screen import human_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from collectives.cli._demo.report import Report

_INK = "#1f2933"
_MUTED = "#7b8794"
_GRID = "#e4e7eb"
_VALIDATION = "#c2410c"
_SENT = "#0f766e"
_EVENT = "#7c3aed"
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "text.color": _INK,
}


def draw(report: Report, path: str) -> None:
    """Write the picture of a run as a PNG to ``path``."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(10, 6.4), dpi=150, facecolor="white")
        FigureCanvasAgg(figure)
        losses, sent = figure.subplots(
            2, 1, sharex=True, gridspec_kw={"height_ratios": [3.2, 1], "hspace": 0.12}
        )
        figure.subplots_adjust(left=0.095, right=0.88, top=0.835, bottom=0.085)
        _title(figure, report)
        _draw_losses(losses, report)
        _draw_sent(sent, report)
        figure.align_ylabels()
        for axes in (losses, sent):
            axes.set_axisbelow(True)
            axes.grid(axis="y", color=_GRID, linewidth=0.8)
            axes.tick_params(length=0)
            for event in report.events:
                axes.axvline(
                    event.round,
                    color=_EVENT,
                    linewidth=1,
                    linestyle="--",
                )
        for event in report.events:
            losses.annotate(
                f"{event.peer} {event.kind}",
                (event.round, 1.015),
                xycoords=("data", "axes fraction"),
                color=_EVENT,
                fontsize=9,
                ha="center",
            )
        figure.savefig(path)


def _title(figure: Figure, report: Report) -> None:
    peers = max((entry.size for entry in report.rounds if entry.peers), default=0)
    figure.text(
        0.03,
        0.945,
        f"{peers} peers, one model, {len(report.rounds)} rounds of DiLoCo",
        fontsize=17,
        fontweight="bold",
    )
    identical = f"state bit-identical on all peers in {report.identical_rounds} of "
    verdict = identical + f"{len(report.rounds)} rounds"
    start, end = report.validation_start, report.validation_end
    if start is not None and end is not None:
        verdict += f"  ·  validation loss {start:.2f} → {end:.2f} nats per byte"
    figure.text(0.03, 0.9, verdict, fontsize=10.5, color=_MUTED)


def _draw_losses(axes: Axes, report: Report) -> None:
    colors = mpl.colormaps["winter"]
    names = sorted(report.curves)
    for number, name in enumerate(names):
        curve = report.curves[name]
        axes.plot(
            [step / report.inner_steps for step, _ in curve],
            [loss for _, loss in curve],
            color=colors(0.15 + 0.75 * number / max(len(names) - 1, 1)),
            linewidth=0.9,
            alpha=0.55,
            label=f"training, {name}" if len(names) <= 6 else ("training" if not number else None),
        )
    told = [entry for entry in report.rounds if entry.peers]
    points = [(float(entry.number), entry.validation) for entry in told]
    if report.validation_start is not None:
        points.insert(0, (0.0, report.validation_start))
    if points:
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            color=_VALIDATION,
            linewidth=2.2,
            marker="o",
            markersize=4,
            markerfacecolor="white",
            markeredgewidth=1.4,
            label="validation, after each round",
        )
        axes.annotate(
            # The rounds' points are measured on a part of the text; the number is for all of it.
            f"{report.validation_end or points[-1][1]:.2f}",
            points[-1],
            xytext=(9, 0),
            textcoords="offset points",
            color=_VALIDATION,
            fontweight="bold",
            va="center",
            annotation_clip=False,
        )
    axes.set_ylabel("loss (nats per byte)")
    if axes.lines:
        axes.legend(frameon=False, loc="upper right", labelcolor=_INK)


def _draw_sent(axes: Axes, report: Report) -> None:
    told = [entry for entry in report.rounds if entry.peers]
    axes.bar(
        [entry.number for entry in told],
        [entry.wire_bytes for entry in told],
        width=0.55,
        color=_SENT,
        alpha=0.85,
    )
    total = sum(entry.wire_bytes for entry in told)
    axes.set_ylabel("sent per round")
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: human_bytes(value)))
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.set_xlim(0, max(report.expected_rounds, 1) + 0.5)
    axes.text(
        1.012,
        0.5,
        f"{human_bytes(total)}\nin all;\n{human_bytes(total * report.inner_steps)}\nif every step\n"
        "were averaged",
        transform=axes.transAxes,
        color=_SENT,
        fontsize=9,
        va="center",
    )
