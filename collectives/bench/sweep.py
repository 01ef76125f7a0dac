"""A run over many sizes: how often each is called, who takes turns with whom, what comes out."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import platform
import time
from collections.abc import Callable
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from collectives._native import lib
from collectives._version import __version__
from collectives.bench import usage
from collectives.bench.config import BenchConfig
from collectives.bench.launcher import Meeting
from collectives.bench.messages import Block, BlockResult, Stream
from collectives.bench.model import Model
from collectives.bench.model import check as check_algorithm
from collectives.bench.pattern import Pattern
from collectives.bench.ranks import Ranks
from collectives.bench.report import BEYOND_CACHE, Bandwidth, Calls, Figure, Report, Row
from collectives.errors import InvalidArgument, UnsupportedError

_FEWEST_CALLS = 10
_MOST_CALLS = 2000
# Shorter calls than this are measured after one that is not counted.
_SETTLE_SECONDS = 0.01
# The speed of the memory: so often before the rows and after them, each way for so long.
_STREAM_ROUNDS = 2
_STREAM_SECONDS = 0.2

OnRow = Callable[[Row], None]
# (figures done, figures in all, what is measured now)
OnProgress = Callable[[int, int, str], None]


def check(config: BenchConfig) -> Pattern:
    """Return the pattern of a run.

    Raises:
        InvalidArgument: the sizes, dtype, op and ranks do not fit together.
        UnsupportedError: something that is not installed is needed.
    """
    pattern = Pattern(config.dtype, config.op, config.ranks)
    if 0 in (counts := _counts(config, pattern)):
        each = f" for each of {config.ranks} ranks" if config.collective.has_blocks else ""
        size = config.sizes[counts.index(0)]
        raise InvalidArgument(f"{size} bytes are less than one element of {config.dtype}{each}")
    check_algorithm(config)
    for option, module, extra in (
        (f"--dtype {config.dtype}", "torch" if config.dtype == "bfloat16" else "", "torch"),
        ("--compare gloo", "torch" if "gloo" in config.compare else "", "torch"),
        ("--compare mpi", "mpi4py" if "mpi" in config.compare else "", "bench-peers"),
    ):
        if module and importlib.util.find_spec(module) is None:
            raise UnsupportedError(
                f"{option} needs {module}, which is not installed; install it with "
                f"pip install 'collectives[{extra}]', or leave the option out"
            )
    return pattern


def _counts(config: BenchConfig, pattern: Pattern) -> list[int]:
    """Return how many elements fit into the sizes, in equal blocks."""
    blocks = config.ranks if config.collective.has_blocks else 1
    return [size // pattern.storage.itemsize // blocks * blocks for size in config.sizes]


def run(
    config: BenchConfig,
    on_row: OnRow = lambda row: None,
    on_progress: OnProgress = lambda done, total, what: None,
    meeting: Meeting | None = None,
) -> Report:
    """Measure an operation and return the report; the callbacks are told as it goes on.

    With a `meeting`, the ranks are those that come there instead of processes started here.

    Raises:
        InvalidArgument: the settings do not fit together.
        UnsupportedError: something that is not installed is needed.
        BenchError: a rank failed.
    """
    pattern = check(config)
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    begin = time.monotonic()
    kinds = [(library, side) for library in config.libraries for side in config.sides(library)]
    counts = _counts(config, pattern)
    total = len(kinds) * len(config.sizes)
    rows: list[Row] = []
    rates: list[Bandwidth] = []
    sockets: dict[str, int] = {}
    congestion: dict[str, list[str]] = {}
    with Ranks(config, meeting) as ranks:
        on_progress(0, total, "starting the ranks")
        ranks.ready()
        model = Model(config, ranks.local, ranks.places)
        # The bound is for ranks that share one memory, and for sizes that no cache holds.
        bounded = (
            ranks.local
            and max(counts) * pattern.storage.itemsize >= BEYOND_CACHE
            and any(
                config.collective.traffic(config.ranks, in_place=side)
                for side in config.sides("collectives")
            )
        )
        if bounded:
            on_progress(0, total, "speed of the memory")
            rates += _bandwidths(config, ranks)
        for count in counts:
            done, size = len(rows) * len(kinds), count * pattern.storage.itemsize
            on_progress(done, total, f"{size} bytes")
            row, last = _size(config, ranks, count, size, kinds)
            rows.append(model.told(row))
            on_row(rows[-1])
            for library, result in last.items():
                sockets[library] = result.sockets
                congestion[library] = list(result.congestion)
        if bounded:
            on_progress(total, total, "speed of the memory")
            rates += _bandwidths(config, ranks)
        on_progress(total, total, "done")
    rows, fitted = model.fitted(rows)
    best = max(rates, key=lambda rate: rate.bytes_per_second, default=None)
    return Report(
        operation=config.operation,
        options={**dataclasses.asdict(config), "sizes": list(config.sizes)},
        congestion=congestion,
        sockets=sockets,
        machine=machine(),
        versions=versions(),
        started=started,
        seconds=time.monotonic() - begin,
        sizes=[row.bounded(best.bounds(config.collective)) for row in rows] if best else rows,
        bandwidth=best,
        model=fitted,
    )


Kind = tuple[str, bool]  # (library, in place)


def _bandwidths(config: BenchConfig, ranks: Ranks) -> list[Bandwidth]:
    """Return the memory traffic that as many processes reach together, a few times."""
    found = []
    for _ in range(_STREAM_ROUNDS):
        for way in usage.WAYS:
            streamed = ranks.ask("collectives", Stream(way, _STREAM_SECONDS))
            # Read once, written once.
            rate = sum(2 * result.bytes / result.seconds for result in streamed)
            found.append(Bandwidth(rate, way, config.ranks))
    return found


def _size(
    config: BenchConfig, ranks: Ranks, count: int, size: int, kinds: list[Kind]
) -> tuple[Row, dict[str, BlockResult]]:
    """Measure one size: blocks of calls, all libraries in turn. With each library's last block."""
    factor = config.collective.bus_factor(config.ranks)
    found: dict[Kind, Calls] = {kind: Calls(size, factor) for kind in kinds}
    last: dict[str, BlockResult] = {}

    def block(kind: Kind, calls: int, settle: bool) -> list[float]:
        library, in_place = kind
        results = ranks.ask(library, Block(in_place, count, calls, settle))
        last[library] = results[0]
        return found[kind].took(results)

    plan: dict[Kind, tuple[int, bool]] = {}
    for kind in kinds:
        # Warm-up, from which the number of calls follows; checked, not counted.
        warm = block(kind, 2 if size > 1 << 24 else 5, settle=True)
        found[kind].forget_times()
        seconds = min(warm) / 1e6
        calls = config.iterations or max(
            _FEWEST_CALLS, min(_MOST_CALLS, int(config.seconds / max(seconds, 1e-9)))
        )
        plan[kind] = calls, seconds < _SETTLE_SECONDS
    for turn in range(config.blocks):
        for kind in kinds:
            calls, settle = plan[kind]
            share = calls * (turn + 1) // config.blocks - calls * turn // config.blocks
            if share:
                block(kind, share, settle)

    figures = {kind: calls.figure() for kind, calls in found.items()}
    out, inside = figures.get(("collectives", False)), figures.get(("collectives", True))
    # Both of our columns are compared with its only one.
    gloo = next((figure for (library, _), figure in figures.items() if library == "gloo"), None)
    mpi_out, mpi_inside = figures.get(("mpi", False)), figures.get(("mpi", True))
    row = Row(
        bytes=size,
        count=count,
        out_of_place=out,
        in_place=inside,
        gloo=gloo,
        ratio_out_of_place=_ratio(gloo, out),
        ratio_in_place=_ratio(gloo, inside),
        mpi_out_of_place=mpi_out,
        mpi_in_place=mpi_inside,
        ratio_mpi_out_of_place=_ratio(mpi_out, out),
        ratio_mpi_in_place=_ratio(mpi_inside, inside),
    )
    return row, last


def _ratio(theirs: Figure | None, ours: Figure | None) -> float | None:
    return None if theirs is None or ours is None else theirs.median_us / ours.median_us


def machine() -> dict[str, str | int | bool]:
    """Return what a figure depends on: the CPU, the cores, the kernel."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return {
        "cpu": name,
        "cores": len(os.sched_getaffinity(0)),
        "avx2": bool(lib.coll_isa_available(lib.COLL_ISA_AVX2)),
        "kernel": platform.release(),
    }


def versions() -> dict[str, str]:
    """Return the versions of this library and of what it is measured with."""
    found = {"collectives": __version__, "python": platform.python_version()}
    for package in ("numpy", "torch", "mpi4py", "openmpi"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
