"""A plan as a picture: ranks as lines, rounds from left to right, an arrow for each message."""

from __future__ import annotations

from pathlib import Path

from collectives.cli._explain.text import size_of, time_of
from collectives.errors import InvalidArgument
from collectives.topology.explain import Explanation
from collectives.topology.plans import ALL_SEGMENTS

_MOST_RANKS, _MOST_MESSAGES = 64, 5000


def draw(found: Explanation, path: Path) -> None:
    """Write the picture, in the format that the file's name asks for.

    Raises:
        InvalidArgument: there is no such format, or the plan is too large for a picture.
    """
    from matplotlib.backend_bases import FigureCanvasBase
    from matplotlib.figure import Figure

    formats = sorted(FigureCanvasBase.get_supported_filetypes())
    if path.suffix[1:].lower() not in formats:
        raise InvalidArgument(
            f"a picture cannot be written to {path}; its name may end with {', '.join(formats)}"
        )
    plan = found.plan
    if plan.size > _MOST_RANKS or len(plan.sends) > _MOST_MESSAGES:
        raise InvalidArgument(
            f"a picture of {plan.size} ranks and {len(plan.sends)} messages shows nothing; at most"
            f" {_MOST_RANKS} and {_MOST_MESSAGES} are drawn. Take fewer ranks: the plan is alike"
        )
    rounds = int(found.rounds.max(initial=1))
    figure = Figure(
        figsize=(min(max(6, 3 + 0.9 * rounds), 24), min(1.6 + 0.42 * plan.size, 16)),
        layout="constrained",
    )
    axes = figure.subplots()
    groups = found.network.places[0] if found.network.places else (0,) * plan.size
    for rank in range(plan.size):
        axes.axhline(rank, color="0.75" if groups[rank] % 2 == 0 else "0.45", linewidth=1, zorder=0)
    for number, sent, received in zip(found.rounds, plan.sends, plan.receives, strict=True):
        segment = int(plan.segment[sent])
        color = "0.2" if segment == ALL_SEGMENTS else f"C{segment % 10}"
        axes.annotate(
            "",
            xy=(number, plan.rank[received]),
            xytext=(number - 1, plan.rank[sent]),
            arrowprops={"arrowstyle": "-|>", "color": color, "shrinkA": 2, "shrinkB": 2},
        )
    axes.set(
        xlim=(-0.2, rounds + 0.2),
        ylim=(plan.size - 0.5, -0.5),
        xticks=range(rounds + 1),
        yticks=range(plan.size),
        xlabel="rounds of messages; a color for each segment",
        ylabel="rank",
    )
    axes.set_title(
        f"{plan.kind} of {size_of(found.bytes)} by {plan.size} ranks: {plan.algorithm},"
        f" {time_of(found.seconds)} by the model",
        fontsize=10,
    )
    figure.savefig(path, dpi=120)
