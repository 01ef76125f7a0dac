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
from collectives.bench.config import BenchConfig
from collectives.bench.pattern import Pattern
from collectives.bench.ranks import Ranks
from collectives.bench.report import Figure, Report, Row
from collectives.bench.worker import Block
from collectives.errors import InvalidArgument, UnsupportedError

_FEWEST_CALLS = 10
_MOST_CALLS = 2000
# Shorter calls than this are measured after one that is not counted.
_SETTLE_SECONDS = 0.01

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
    small = [size for size in config.sizes if size < pattern.storage.itemsize]
    if small:
        raise InvalidArgument(f"{small[0]} bytes are less than one element of {config.dtype}")
    if (config.compare or config.dtype == "bfloat16") and importlib.util.find_spec("torch") is None:
        need = "--compare gloo" if config.compare else "--dtype bfloat16"
        raise UnsupportedError(
            f"{need} needs torch, which is not installed; install it with "
            "pip install 'collectives[torch]', or leave the option out"
        )
    return pattern


def run(
    config: BenchConfig,
    on_row: OnRow = lambda row: None,
    on_progress: OnProgress = lambda done, total, what: None,
) -> Report:
    """Measure all-reduce and return the report; the callbacks are told as it goes on.

    Raises:
        InvalidArgument: the settings do not fit together.
        UnsupportedError: something that is not installed is needed.
        BenchError: a rank failed.
    """
    pattern = check(config)
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    begin = time.monotonic()
    kinds = _kinds(config)
    total = len(kinds) * len(config.sizes)
    rows: list[Row] = []
    with Ranks(config) as ranks:
        on_progress(0, total, "starting the ranks")
        hello = ranks.hellos()[0]
        for size in config.sizes:
            count = size // pattern.storage.itemsize
            done = len(rows) * len(kinds)
            on_progress(done, total, f"{size} bytes")
            row = _size(config, ranks, count, count * pattern.storage.itemsize, kinds)
            rows.append(row)
            on_row(row)
        on_progress(total, total, "done")
    return Report(
        operation="all_reduce",
        options={**dataclasses.asdict(config), "sizes": list(config.sizes)},
        congestion=hello.congestion,
        sockets=hello.sockets,
        machine=machine(),
        versions=versions(),
        started=started,
        seconds=time.monotonic() - begin,
        sizes=rows,
    )


Kind = tuple[str, bool]  # (library, in place)


def _kinds(config: BenchConfig) -> list[Kind]:
    kinds = []
    if config.out_of_place:
        kinds.append(("collectives", False))
    if config.in_place:
        kinds.append(("collectives", True))
    # torch offers Gloo's all-reduce in place only; both of our columns are compared with that.
    kinds += [(library, True) for library in config.compare]
    return kinds


def _size(config: BenchConfig, ranks: Ranks, count: int, size: int, kinds: list[Kind]) -> Row:
    """Measure one size: blocks of calls, all libraries in turn."""
    times: dict[Kind, list[float]] = {kind: [] for kind in kinds}
    checked = dict.fromkeys(kinds, 0)
    wrong = dict.fromkeys(kinds, 0)

    def block(kind: Kind, calls: int, settle: bool) -> list[float]:
        results = ranks.ask(Block(kind[0], kind[1], count, calls, settle))
        checked[kind] += sum(result.checked for result in results)
        wrong[kind] += sum(result.wrong for result in results)
        # As in nccl-tests, the time of a call is the mean over the ranks.
        columns = zip(*(result.nanoseconds for result in results), strict=True)
        return [sum(column) / len(column) / 1e3 for column in columns]

    plan: dict[Kind, tuple[int, bool]] = {}
    for kind in kinds:
        # Warm-up, from which the number of calls follows; checked, not counted.
        warm = block(kind, 2 if size > 1 << 24 else 5, settle=True)
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
                times[kind] += block(kind, share, settle)

    figures = {
        kind: Figure.of(times[kind], size, config.ranks, checked[kind], wrong[kind])
        for kind in kinds
    }
    out, inside = figures.get(("collectives", False)), figures.get(("collectives", True))
    gloo = figures.get(("gloo", True))
    return Row(
        bytes=size,
        count=count,
        out_of_place=out,
        in_place=inside,
        gloo=gloo,
        ratio_out_of_place=_ratio(gloo, out),
        ratio_in_place=_ratio(gloo, inside),
    )


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
    for package in ("numpy", "torch"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
