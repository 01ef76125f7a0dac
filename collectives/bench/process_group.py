"""``torch.distributed`` with this library's backend beside Gloo: calls, and DDP's training step.

The ranks (`process_group_rank`) have a process group of each backend and sleep between commands.
Each figure is made of blocks in which the backends take turns, so that a disturbance of the machine
hits them alike.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from multiprocessing.connection import Connection, wait
from typing import Any

from collectives.bench import sweep
from collectives.bench.collective import COLLECTIVES
from collectives.bench.ranks import BenchError
from collectives.bench.report import Figure
from collectives.errors import InvalidArgument

OURS = "collectives"
TRANSPORTS = ("auto", "shm", "tcp")
_FEWEST_CALLS, _MOST_CALLS = 10, 2000
_SMALL = 4

OnProgress = Callable[[int, int, str], None]


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings of one run.

    Attributes:
        ranks: how many processes take part, on this host.
        size: bytes of the larger of input and output of the large operations.
        parameters: about how many the model has that DDP trains.
        transport: between our ranks: ``"shm"``, ``"tcp"`` or ``"auto"``; Gloo has TCP.
        backends: names by which c10d knows them, in the order of their turns.
        iterations: timed calls per figure; None: as many as fit `seconds`, 10 to 2000.
        seconds: time to spend per figure where `iterations` is None.
        steps: training steps with communication, and without, of each backend.
        blocks: into how many turns the calls of a figure are cut.
        timeout: seconds without an answer after which the run is given up.
        plant_wrong: elements that rank 0 gets wrong, to test that the bench sees them.

    Raises:
        InvalidArgument: a value is out of its range.
    """

    ranks: int = 2
    size: int = 16 << 20
    parameters: int = 25_000_000
    transport: str = "auto"
    backends: tuple[str, ...] = (OURS, "gloo")
    iterations: int | None = None
    seconds: float = 1.0
    steps: int = 20
    blocks: int = 5
    timeout: float = 120.0
    plant_wrong: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.ranks <= 64:
            raise InvalidArgument(f"{self.ranks} ranks; a process group of 2 to 64 is measured")
        if self.size < _SMALL * self.ranks:
            raise InvalidArgument(f"{self.size} bytes are less than an element for each rank")
        if self.transport not in TRANSPORTS:
            raise InvalidArgument(
                f"unknown transport {self.transport!r}; known are {', '.join(TRANSPORTS)}"
            )
        for name in ("parameters", "steps", "blocks", "iterations"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidArgument(f"{name} is {value}; at least 1 is needed")
        for name in ("seconds", "timeout"):
            if not getattr(self, name) > 0:
                raise InvalidArgument(f"{name} is {getattr(self, name)}; it has to be above 0")

    @property
    def operations(self) -> list[Operation]:
        """What is called by itself, in order."""
        block = self.size // _SMALL // self.ranks * self.ranks * _SMALL
        large = [Operation(name, block) for name in OPERATIONS if name != "barrier"]
        return [Operation("all_reduce", _SMALL), Operation("barrier", 0), *large]


# By c10d's names (those before torch 2.13), what they are for the patterns.
OPERATIONS = {
    "all_reduce": COLLECTIVES["all_reduce"],
    "all_gather_into_tensor": COLLECTIVES["all_gather"],
    "reduce_scatter_tensor": COLLECTIVES["reduce_scatter"],
    "barrier": None,
}


@dataclasses.dataclass(frozen=True)
class Operation:
    """An operation of `OPERATIONS` on a buffer of so many bytes of float32; of a barrier 0."""

    name: str
    bytes: int


# ---- what the conductor asks, and what a rank answers: see `process_group_rank` ------------------


@dataclasses.dataclass(frozen=True)
class Calls:
    """Make so many timed calls of an operation, and check what comes out."""

    backend: str
    operation: Operation
    calls: int


@dataclasses.dataclass(frozen=True)
class Steps:
    """Take so many training steps, with communication or without."""

    backend: str
    steps: int
    sync: bool


@dataclasses.dataclass(frozen=True)
class Buckets:
    """So many times, reduce what DDP reduces in a step, with nothing beside it."""

    backend: str
    calls: int


Command = Calls | Steps | Buckets


@dataclasses.dataclass(frozen=True)
class Bucket:
    """One bucket of one step; seconds after the end of backward's computation, None: unknown."""

    bytes: int
    entered: float
    first_byte: float | None
    done: float | None


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a command took, and what the checks found.

    Attributes:
        started: CLOCK_MONOTONIC of each timed call, ns.
        took: its ns.
        checked: elements that were checked.
        wrong: those that were wrong.
        buckets: of each step, if the backend tells.
    """

    started: list[int]
    took: list[int]
    checked: int
    wrong: int
    buckets: list[list[Bucket]] = dataclasses.field(default_factory=list)


# ---- the report -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Row:
    """An operation: the figure of each backend."""

    operation: str
    bytes: int
    figures: dict[str, Figure]


@dataclasses.dataclass(frozen=True)
class Training:
    """DDP's step with one backend.

    Attributes:
        step: forward, backward and the reduction of the gradients.
        alone: the same with a communication hook that only divides: all that DDP does but the
            reduction.
        communication_us: the medians' difference: what a step waits for the reduction.
        buckets: the same reductions with nothing beside them.
    """

    step: Figure
    alone: Figure
    communication_us: float
    buckets: Figure


@dataclasses.dataclass(frozen=True)
class Timeline:
    """A bucket of ours in a step: medians over steps and ranks.

    Attributes:
        bytes: of the bucket.
        entered_us: when its reduction was issued, after the end of backward's computation: below 0
            where they overlap.
        first_byte_us: when the first byte of another rank arrived, likewise; None: unknown.
        done_us: when the result was there, likewise.
        overlapped: of the steps and ranks, how many had the first byte before that end.
    """

    bytes: int
    entered_us: float
    first_byte_us: float | None
    done_us: float | None
    overlapped: float


@dataclasses.dataclass(frozen=True)
class Report:
    """All that a run found out; see `sweep` for ``machine`` and ``versions``."""

    options: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    started: str
    seconds: float
    operations: list[Row]
    training: dict[str, Training]
    overlap: list[Timeline]

    @property
    def figures(self) -> Iterator[Figure]:
        """All of them."""
        for row in self.operations:
            yield from row.figures.values()
        for one in self.training.values():
            yield from (one.step, one.alone, one.buckets)

    @property
    def wrong(self) -> int:
        """Wrong elements in the whole run, of all backends."""
        return sum(figure.wrong for figure in self.figures)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON takes it, with ``wrong`` in it."""
        return {**dataclasses.asdict(self), "wrong": self.wrong}


def to_json(reports: Sequence[Report]) -> str:
    """Return the reports as JSON text."""
    return json.dumps([report.as_dict() for report in reports], indent=2)


# ---- the run ----------------------------------------------------------------------------------


def measure(config: Config, on_progress: OnProgress = lambda done, total, what: None) -> Report:
    """Measure all there is.

    Raises:
        BenchError: a rank failed, or did not answer in time.
    """
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    begin = time.monotonic()
    operations = config.operations
    total = len(operations) + 2
    with _Ranks(config) as ranks:
        rows = []
        for done, operation in enumerate(operations):
            on_progress(done, total, f"{operation.name}, {operation.bytes} bytes")
            rows.append(_row(config, ranks, operation))
        on_progress(len(operations), total, "training steps")
        training, overlap = _training(config, ranks)
        on_progress(total, total, "done")
    return Report(
        options=dataclasses.asdict(config),
        machine=sweep.machine(),
        versions=sweep.versions(),
        started=started,
        seconds=time.monotonic() - begin,
        operations=rows,
        training=training,
        overlap=overlap,
    )


def _row(config: Config, ranks: _Ranks, operation: Operation) -> Row:
    collective = OPERATIONS[operation.name]
    factor = collective.bus_factor(config.ranks) if collective else 0.0
    gathered = {name: _Gathered(operation.bytes, factor) for name in config.backends}
    calls = {}
    for name in config.backends:
        # Warm-up, from which the number of calls follows; checked, not counted.
        warm = gathered[name].add(ranks.ask(Calls(name, operation, 3)), operation)
        gathered[name].times.clear()
        fit = int(config.seconds * 1e6 / max(1.0, min(warm)))
        calls[name] = config.iterations or max(_FEWEST_CALLS, min(_MOST_CALLS, fit))
    for turn in range(config.blocks):
        for name in config.backends:
            if share := _share(calls[name], config.blocks, turn):
                answers = ranks.ask(Calls(name, operation, share))
                gathered[name].add(answers, operation)
    return Row(
        operation.name, operation.bytes, {name: one.figure() for name, one in gathered.items()}
    )


def _training(config: Config, ranks: _Ranks) -> tuple[dict[str, Training], list[Timeline]]:
    kinds = ("step", "alone", "buckets")
    gathered = {(name, kind): _Gathered(0, 0.0) for name in config.backends for kind in kinds}
    timelines: list[list[Bucket]] = []

    def take(name: str, kind: str, steps: int) -> list[Answer]:
        command: Command = (
            Buckets(name, steps) if kind == "buckets" else Steps(name, steps, kind == "step")
        )
        answers = ranks.ask(command)
        gathered[name, kind].add(answers)
        return answers

    for name, kind in gathered:
        take(name, kind, 2)  # the model is made, and DDP finds its buckets
        gathered[name, kind].times.clear()
    for turn in range(config.blocks):
        for name, kind in gathered:
            if share := _share(config.steps, config.blocks, turn):
                answers = take(name, kind, share)
                if name == OURS:
                    timelines += [step for answer in answers for step in answer.buckets]
    found = {}
    for name in config.backends:
        step, alone, buckets = (gathered[name, kind].figure() for kind in kinds)
        found[name] = Training(step, alone, step.median_us - alone.median_us, buckets)
    return found, [_timeline(column) for column in zip(*timelines, strict=True)]


def _timeline(buckets: Sequence[Bucket]) -> Timeline:
    def median(times: list[float]) -> float | None:
        return statistics.median(times) * 1e6 if times else None

    first = [one.first_byte for one in buckets if one.first_byte is not None]
    entered = median([one.entered for one in buckets])
    assert entered is not None
    return Timeline(
        bytes=buckets[0].bytes,
        entered_us=entered,
        first_byte_us=median(first),
        done_us=median([one.done for one in buckets if one.done is not None]),
        overlapped=sum(when < 0 for when in first) / len(buckets),
    )


def _share(calls: int, blocks: int, turn: int) -> int:
    return calls * (turn + 1) // blocks - calls * turn // blocks


class _Gathered:
    """What the blocks of one figure came to, so far."""

    def __init__(self, size: int, bus_factor: float) -> None:
        self._size, self._bus_factor = size, bus_factor
        self.times: list[float] = []
        self._checked = self._wrong = 0

    def add(self, answers: list[Answer], operation: Operation | None = None) -> list[float]:
        """Add a block, of which each rank has told its answer; return its times, us."""
        self._checked += sum(answer.checked for answer in answers)
        self._wrong += sum(answer.wrong for answer in answers)
        # As in nccl-tests, the time of a call is the mean over the ranks.
        columns = list(zip(*(answer.took for answer in answers), strict=True))
        if operation is not None and operation.name == "barrier":
            # Nobody may leave it before the last has come; the ranks have one clock.
            starts = zip(*(answer.started for answer in answers), strict=True)
            for came, took in zip(starts, columns, strict=True):
                self._checked += 1
                self._wrong += min(map(sum, zip(came, took, strict=True))) < max(came)
        times = [sum(column) / len(column) / 1e3 for column in columns]
        self.times += times
        return times

    def figure(self) -> Figure:
        """Return the figure."""
        return Figure.of(self.times, self._size, self._bus_factor, self._checked, self._wrong)


def _rank(*arguments: Any) -> None:
    from collectives.bench import process_group_rank  # and with it torch, which we do not need

    process_group_rank.main(*arguments)


class _Ranks:
    """The processes of a run, as long as a ``with`` block."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._stack = contextlib.ExitStack()
        self._pipes: list[Connection] = []

    def __enter__(self) -> _Ranks:
        context = multiprocessing.get_context("spawn")
        with self._stack:
            folder = self._stack.enter_context(tempfile.TemporaryDirectory())
            for rank in range(self._config.ranks):
                mine, theirs = context.Pipe()
                process = context.Process(
                    target=_rank,
                    args=(theirs, self._config, rank, f"{folder}/store"),
                    daemon=True,
                )
                process.start()
                theirs.close()
                self._stack.callback(process.join, 5)
                self._stack.callback(process.kill)
                self._stack.callback(mine.close)
                self._pipes.append(mine)
            self._answers("start")
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def ask(self, command: Command) -> list[Answer]:
        """Have all ranks carry out a command; return their answers, by rank.

        Raises:
            BenchError: one of them failed, died or took too long.
        """
        for pipe in self._pipes:
            with contextlib.suppress(OSError):  # who is dead is found when its answer is awaited
                pipe.send(command)
        return self._answers(f"{command}")

    def _answers(self, what: str) -> list[Answer]:
        answers: dict[int, Answer] = {}
        deadline = time.monotonic() + self._config.timeout
        while len(answers) < len(self._pipes):
            pending = {pipe: rank for rank, pipe in enumerate(self._pipes) if rank not in answers}
            ready = wait(list(pending), max(0.0, deadline - time.monotonic()))
            if not ready:
                names = ", ".join(f"rank {rank}" for rank in pending.values())
                raise BenchError(
                    f"no answer from {names} within {self._config.timeout:g} s ({what})"
                )
            for pipe in ready:
                rank = pending[pipe]  # type: ignore[index]
                try:
                    answer = self._pipes[rank].recv()
                except (EOFError, OSError):
                    raise BenchError(f"rank {rank} died ({what}); its words are above") from None
                if isinstance(answer, str):
                    raise BenchError(f"rank {rank}: {answer}")
                answers[rank] = answer
        return [answers[rank] for rank in sorted(answers)]


# ---- for people -------------------------------------------------------------------------------


def lines(report: Report) -> list[str]:
    """Return the tables: operations, training steps, and where a bucket's reduction lies."""
    options, backends = report.options, list(report.options["backends"])
    first, *others = backends
    text = [
        f"# {options['ranks']} ranks, torch {report.versions['torch']}, {report.machine['cpu']},"
        f" {report.machine['cores']} cores",
        f"#{'':33}" + "".join(f"{name + ' (us)':>22}" for name in backends),
        f"#{'operation':>22}{'bytes':>11}"
        + f"{'median':>12}{'p99':>10}" * len(backends)
        + "".join(f"{'/' + other:>10}" for other in others),
    ]
    for row in report.operations:
        figures = [row.figures[name] for name in backends]
        text.append(
            f"{row.operation:>23}{row.bytes:>11}"
            + "".join(f"{one.median_us:12.2f}{one.p99_us:10.1f}" for one in figures)
            + "".join(f"{one.median_us / figures[0].median_us:9.2f}x" for one in figures[1:])
        )
    text += [
        f"# DDP, {options['parameters']} parameters, {options['steps']} steps; medians, ms",
        f"#{'':>15}{'step':>10}{'p99':>10}{'silent':>10}{'waits':>10}{'buckets alone':>15}",
    ]
    for name in backends:
        one = report.training[name]
        text.append(
            f"{name:>16}{one.step.median_us / 1e3:10.2f}{one.step.p99_us / 1e3:10.2f}"
            f"{one.alone.median_us / 1e3:10.2f}{one.communication_us / 1e3:10.2f}"
            f"{one.buckets.median_us / 1e3:15.2f}"
        )
    if report.overlap:
        text += [
            f"# Buckets of {first}: ms after backward has computed all (below 0: beside it)",
            f"#{'bytes':>15}{'entered':>10}{'first byte':>12}{'done':>10}{'overlapped':>12}",
        ]
        for bucket in report.overlap:
            text.append(
                f"{bucket.bytes:>16}{bucket.entered_us / 1e3:10.2f}{_ms(bucket.first_byte_us):>12}"
                f"{_ms(bucket.done_us):>10}{bucket.overlapped:12.0%}"
            )
    checked = sum(figure.checked for figure in report.figures)
    return [*text, f"# Wrong elements: {report.wrong} of {checked} checked"]


def _ms(microseconds: float | None) -> str:
    return "-" if microseconds is None else f"{microseconds / 1e3:.2f}"
