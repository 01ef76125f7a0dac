"""How a chaos run looks while it goes on: a live table on a terminal, a few lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collectives.chaos.crowd import Life
    from collectives.chaos.harness import Harness

_EVERY = 10.0  # seconds between lines where there is no terminal


class Screen:
    """Shows a harness at work; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._said = 0.0
        self._note = ""

    def __enter__(self) -> Screen:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._live.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def look(self, harness: Harness) -> None:
        """Show how things are."""
        if self._console.is_terminal:
            self._live.update(_picture(harness), refresh=True)
        elif time.monotonic() - self._said > _EVERY:
            self._said = time.monotonic()
            alive = sum(not life.ended for life in harness.lives.values())
            self.say(f"{_clock(harness):5.1f} s  {alive} peers  {harness.faults} faults")


def _clock(harness: Harness) -> float:
    return harness.now() - harness.since if harness.since else 0.0


def _picture(harness: Harness) -> RenderableType:
    scenario, now = harness.scenario, _clock(harness)
    head = Table.grid(padding=(0, 2))
    head.add_row(
        Text(f"{scenario.name}, seed {harness.seed}", "bold"),
        ProgressBar(scenario.duration, min(now, scenario.duration), width=30),
        f"{now:.0f} of {scenario.duration:.0f} s",
        f"{harness.faults} of {len(scenario.faults)} faults",
    )
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("peer", "is", "step", "calls", "view"):
        table.add_column(title, justify="left" if title in ("peer", "is") else "right")
    for life in harness.lives.values():
        work, calls, view = (life.progress.get(key) for key in ("work", "calls", "view"))
        table.add_row(
            f"{life.place}.{life.number}" if life.number else life.place,
            _state(life),
            "" if work is None else str(work),
            "" if calls is None else str(calls),
            "" if not view else f"{view[0]}.{view[1]} of {view[2]}",
        )
    table.add_row(
        "coordinator", Text("runs", "green") if harness.coordinator.alive else Text("dead", "red")
    )
    return Group(head, table, Text(harness.latest, "dim"))


def _state(life: Life) -> Text:
    if life.ended:
        return Text("gone", "red")
    if life.stopped:
        return Text("stands still", "yellow")
    return Text("works", "green") if life.ready else Text("comes", "cyan")
