"""Figures: statistics of timed calls, and a run's report as JSON; `table` is for people.

Times are microseconds. Bandwidths are GB/s with 1 GB = 1e9 bytes: algbw is the size of the buffer
divided by the mean time, busbw is that times what each link carries of the buffer.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

from collectives.bench.collective import SIDES, Collective
from collectives.bench.messages import BlockResult

SCHEMA = 1
BEYOND_CACHE = 4 << 20  # bytes of buffer from which the memory's speed is looked at


@dataclasses.dataclass(frozen=True)
class Figure:
    """One library, one size, one way of calling.

    Times are those of a call; `cpu_seconds_per_gb` is user and system time of all ranks together
    per GB of the buffer; `peak_bytes` what the library had at most beyond the caller's
    buffers, at the rank with most.
    """

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
    cpu_seconds_per_gb: float = 0.0
    peak_bytes: int = 0

    @classmethod
    def of(
        cls,
        times_us: Sequence[float],
        size: int,
        bus_factor: float,
        checked: int,
        wrong: int,
        cpu_seconds_per_gb: float = 0.0,
        peak_bytes: int = 0,
    ) -> Figure:
        """Make the figure of calls that took `times_us`, on a buffer of `size` bytes."""
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
            busbw=algbw * bus_factor,
            median_algbw=size / median / 1e3,
            checked=checked,
            wrong=wrong,
            cpu_seconds_per_gb=cpu_seconds_per_gb,
            peak_bytes=peak_bytes,
        )


class Calls:
    """What the blocks of one figure came to, so far."""

    def __init__(self, size: int, bus_factor: float) -> None:
        self._size, self._bus_factor = size, bus_factor
        self._times: list[float] = []
        self._checked = self._wrong = self._cpu_ns = self._cpu_calls = self._peak = 0

    def took(self, results: Sequence[BlockResult]) -> list[float]:
        """Add a block, of which each rank has told its result; return its times."""
        self._checked += sum(result.checked for result in results)
        self._wrong += sum(result.wrong for result in results)
        self._cpu_ns += sum(result.cpu_ns for result in results)
        self._cpu_calls += results[0].cpu_calls
        self._peak = max(self._peak, *(result.peak_bytes for result in results))
        # As in nccl-tests, the time of a call is the mean over the ranks.
        columns = zip(*(result.nanoseconds for result in results), strict=True)
        times = [sum(column) / len(column) / 1e3 for column in columns]
        self._times += times
        return times

    def forget_times(self) -> None:
        """That was the warm-up: it was checked, and its memory counts, but not what it took."""
        self._times.clear()
        self._cpu_ns = self._cpu_calls = 0

    def figure(self) -> Figure:
        """Return the figure."""
        gigabytes = self._size * self._cpu_calls / 1e9
        return Figure.of(
            self._times,
            self._size,
            self._bus_factor,
            self._checked,
            self._wrong,
            self._cpu_ns / 1e9 / gigabytes if gigabytes else 0.0,
            self._peak,
        )


def quantile(ordered: Sequence[float], q: float) -> float:
    """Return the q-quantile of ordered numbers, interpolated between the nearest two."""
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@dataclasses.dataclass(frozen=True)
class Bandwidth:
    """What so many processes reach together that copy memory: bytes read plus bytes written."""

    bytes_per_second: float
    way: str
    processes: int

    def bounds(self, collective: Collective) -> dict[str, float]:
        """Return the bytes of buffer a second that it allows, for each of SIDES with a bound."""
        found = {
            name: collective.traffic(self.processes, in_place=side) for side, name in SIDES.items()
        }
        return {name: self.bytes_per_second / moved for name, moved in found.items() if moved}


@dataclasses.dataclass(frozen=True)
class Row:
    """One size.

    Attributes:
        bytes: of the buffer, the larger of a rank's input and output.
        count: elements in it.
        out_of_place: ours, with ``out=``.
        in_place: ours, in place.
        gloo: Gloo, in the one way that it has.
        ratio_out_of_place: median time of Gloo divided by ours.
        ratio_in_place: the same.
        mpi_out_of_place: Open MPI, into another buffer.
        mpi_in_place: Open MPI, in place.
        ratio_mpi_out_of_place: median time of Open MPI divided by ours, both out of place.
        ratio_mpi_in_place: the same, both in place.
        bound_out_of_place: median speed divided by what the memory allows, beyond the cache.
        bound_in_place: the same.
        algorithm: that carried ours out.
        predicted_us: what the cost model said before the run of links of this kind.
        fitted_us: what it says with the figures that fit the run best.
    """

    bytes: int
    count: int
    out_of_place: Figure | None
    in_place: Figure | None
    gloo: Figure | None
    ratio_out_of_place: float | None
    ratio_in_place: float | None
    mpi_out_of_place: Figure | None = None
    mpi_in_place: Figure | None = None
    ratio_mpi_out_of_place: float | None = None
    ratio_mpi_in_place: float | None = None
    bound_out_of_place: float | None = None
    bound_in_place: float | None = None
    algorithm: str = ""
    predicted_us: float | None = None
    fitted_us: float | None = None

    @property
    def named(self) -> dict[str, Figure]:
        """The figures that were measured, by their names."""
        figures = {name: getattr(self, name) for name in FIGURES}
        return {name: figure for name, figure in figures.items() if figure is not None}

    def bounded(self, bounds: dict[str, float]) -> Row:
        """Return the row with the shares of the bounds in it, if no cache holds its buffers."""
        shares: dict[str, Any] = {
            f"bound_{name}": self.named[name].median_algbw * 1e9 / bound
            for name, bound in bounds.items()
            if name in self.named and self.bytes >= BEYOND_CACHE
        }
        return dataclasses.replace(self, **shares)


# What a row has figures of, and how they are called in headings.
FIGURES = {
    "out_of_place": "out",
    "in_place": "in",
    "gloo": "gloo",
    "mpi_out_of_place": "mpi-out",
    "mpi_in_place": "mpi-in",
}


@dataclasses.dataclass(frozen=True)
class Overhead:
    """What a call costs in a group of one, with 4 bytes: medians of one call, in microseconds."""

    python_call_us: float
    c_call_us: float
    python_cost_us: float
    iterations: int


@dataclasses.dataclass(frozen=True)
class Fitted:
    """The links and processes with which the cost model fits the run best; see `topology.fit`.

    Attributes:
        r2: of the logarithms of the times; 1: the model explains all of them.
        levels: what `topology.Level` has, the innermost first; None: unlimited.
        overhead: seconds that a process spends on each message.
        reduction: bytes/s of input that it reduces.
    """

    r2: float
    levels: list[dict[str, Any]]
    overhead: float
    reduction: float


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything that one run found out.

    Attributes:
        options: the settings, as `BenchConfig` names them.
        congestion: congestion control of the sockets in use, by library, as read from them.
        sockets: how many TCP connections a rank has, by library.
        machine: CPU, cores, kernel.
        versions: of this library, Python, NumPy and what it is compared with.
        overhead: the cost of a call.
        bandwidth: the speed of the memory, if the ranks share one and a size is beyond the cache.
        model: the fit of the cost model, if there were sizes enough.
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
    bandwidth: Bandwidth | None = None
    model: Fitted | None = None
    schema: int = SCHEMA

    @property
    def wrong(self) -> int:
        """Wrong elements in the whole run, of all libraries."""
        return sum(figure.wrong for row in self.sizes for figure in row.named.values())

    def to_json(self) -> str:
        """Return the report as JSON text, with ``wrong`` in it."""
        return json.dumps({**dataclasses.asdict(self), "wrong": self.wrong}, indent=2)


def with_overhead(report: Report, overhead: Overhead) -> Report:
    """Return the report with the cost of a call in it."""
    return dataclasses.replace(report, overhead=overhead)
