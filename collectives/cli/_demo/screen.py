"""How the demo looks: a live line per peer on a terminal, plain lines elsewhere, tables at the end.

Nothing is decided here.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group as Stack
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from collectives.cli._demo.messages import Dying, Joined, Progress, RoundEnd

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console, RenderableType

    from collectives.cli._demo.messages import Message
    from collectives.cli._demo.report import Event, Report

_BARS = "▁▂▃▄▅▆▇█"
_SPARKS = 16
_DIGITS = 6


def human_bytes(count: float) -> str:
    """A number of bytes for people, in powers of 1000: ``"1.5 MB"``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


class PlainScreen:
    """One line per round, for logs and pipes."""

    def __init__(self, console: Console, report: Report) -> None:
        self._console = console
        self._report = report
        self._started = time.monotonic()

    def __enter__(self) -> PlainScreen:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def tick(self) -> None:
        """Nothing moves here."""

    def update(self, peer: str, message: Message) -> None:
        """Print what is worth a line."""
        if isinstance(message, Joined):
            came = f" after round {message.round}, with the run's state" if message.round else ""
            self._line(f"{peer} joined view {message.view} as rank {message.rank}{came}")
        elif isinstance(message, Dying):
            self._line(f"{peer} kills itself in the middle of round {message.round}")
        elif isinstance(message, RoundEnd):
            entry = self._report.rounds[message.number - 1]
            if entry.complete:
                self._line(
                    f"round {entry.number}/{self._report.expected_rounds}  view {entry.view}  "
                    f"{entry.size} peers  loss {entry.loss:.3f}  "
                    f"validation {entry.validation:.3f}  sent {human_bytes(entry.wire_bytes)}  "
                    + ("state identical" if entry.identical else "STATE DIFFERS")
                    + _recovered(self._report, entry.number)
                )

    def _line(self, text: str) -> None:
        seconds = time.monotonic() - self._started
        self._console.print(
            f"[{seconds:5.1f} s] {text}", markup=False, highlight=False, soft_wrap=True
        )


class LiveScreen:
    """A line per peer, redrawn in place: view, round, loss and its curve, bytes sent."""

    def __init__(self, console: Console, report: Report, names: list[str]) -> None:
        self._report = report
        self._names = names
        self._done = dict.fromkeys(names, 0)
        self._started = time.monotonic()
        self._live = Live(console=console, refresh_per_second=8, get_renderable=self._render)

    def __enter__(self) -> LiveScreen:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def tick(self) -> None:
        """``Live`` redraws by itself."""

    def update(self, peer: str, message: Message) -> None:
        """Remember how far the peer is; the report has the rest."""
        if isinstance(message, Progress):
            self._done[peer] = message.step
        elif isinstance(message, RoundEnd):
            self._done[peer] = message.number * self._report.inner_steps

    def _render(self) -> RenderableType:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for title in ("peer", "view", "round", "", "loss", "", "sent"):
            table.add_column(title, no_wrap=True)
        steps = self._report.expected_rounds * self._report.inner_steps
        killed = {
            event.peer: event.round for event in self._report.events if event.kind == "killed"
        }
        for name in dict.fromkeys([*self._names, *self._report.joined]):
            joined = self._report.joined.get(name)
            if joined is None:
                table.add_row(Text(name, style="bold"), "", "", Text("starting", style="dim"))
                continue
            ends = [entry.peers[name] for entry in self._report.rounds if name in entry.peers]
            curve = [loss for _, loss in self._report.curves.get(name, [])]
            table.add_row(
                Text(name, style="bold"),
                str(ends[-1].view if ends else joined.view),
                f"{ends[-1].number if ends else joined.round}/{self._report.expected_rounds}",
                ProgressBar(total=steps, completed=self._done[name], width=20),
                f"{curve[-1]:.3f}" if curve else "",
                Text(spark_line(curve), style="cyan"),
                Text(f"killed in round {killed[name]}", style="bold red")
                if name in killed
                else Text(human_bytes(sum(end.wire_bytes for end in ends))),
            )
        return Stack(table, self._status())

    def _status(self) -> Text:
        report = self._report
        told = [entry for entry in report.rounds if entry.complete]
        line = Text(f"{time.monotonic() - self._started:5.0f} s", style="dim")
        if report.validation_start is not None:
            line.append(f"   validation {report.validation_start:.3f}")
        if told:
            line.append(f" → {told[-1].validation:.3f}")
            identical = sum(entry.identical for entry in told)
            style = "green" if identical == len(told) else "bold red"
            line.append(f"   state identical in {identical} of {len(told)} rounds", style=style)
        for event in report.events:
            line.append(f"   {_told(event)}", style="magenta")
        return line


def spark_line(values: list[float]) -> str:
    """The values as a row of little bars, the newest last; at most 16."""
    if not values:
        return ""
    if len(values) > _SPARKS:
        values = [values[i * (len(values) - 1) // (_SPARKS - 1)] for i in range(_SPARKS)]
    low, high = min(values), max(values)
    height = (high - low) or 1.0
    return "".join(_BARS[round((value - low) / height * (len(_BARS) - 1))] for value in values)


def _told(event: Event) -> str:
    seconds = f"{event.seconds_to_recover * 1e3:.0f} ms"
    if event.kind == "killed":
        return (
            f"{event.peer} was killed in round {event.round}; finished without it {seconds} later"
        )
    return f"{event.peer} joined after round {event.round}, and had the state in {seconds}"


def _recovered(report: Report, number: int) -> str:
    """What a round's line says of a death in it."""
    killed = [e for e in report.events if e.kind == "killed" and e.round == number]
    return "".join(f", {e.seconds_to_recover * 1e3:.0f} ms after {e.peer} died" for e in killed)


def summary(report: Report) -> RenderableType:
    """What is printed at the end: the table of rounds, the verdict's facts and the sample."""
    names = sorted({name for entry in report.rounds for name in entry.peers})
    table = Table(title="Rounds", title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for title in ("round", "view", "size", "loss", "valid.", "sent"):
        table.add_column(title, justify="right", no_wrap=True)
    for name in names:
        table.add_column(name, no_wrap=True)
    for entry in report.rounds:
        if not entry.peers:
            continue
        digests = [
            entry.peers[name].digest[:_DIGITS] if name in entry.peers else "-" for name in names
        ]
        style = "green" if entry.identical else "bold red"
        table.add_row(
            str(entry.number),
            str(entry.view),
            str(entry.size),
            f"{entry.loss:.3f}",
            f"{entry.validation:.3f}",
            human_bytes(entry.wire_bytes),
            *(Text(digest, style=style) for digest in digests),
        )
    facts = Text()
    style = "green" if report.bit_identical else "bold red"
    facts.append(
        f"state bit-identical on all peers in {report.identical_rounds} of "
        f"{len(report.rounds)} rounds\n",
        style=style,
    )
    start, end = report.validation_start, report.validation_end
    if start is not None and end is not None:
        facts.append(f"validation loss {start:.3f} before, {end:.3f} after (nats per byte)\n")
    for event in report.events:
        facts.append(f"{_told(event)}\n", style="magenta")
    if report.sample:
        facts.append("\nwhat the model writes now:\n", style="bold")
        facts.append(report.sample + "\n", style="italic")
    return Stack(table, facts)
