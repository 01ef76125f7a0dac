"""Plans beside each other on emulated networks: their times, and what they put on which link.

A scenario is a layout of hosts and the operations to be compared on it. What each plan has to carry
is counted in the plan itself, and stands beside what the peers say that they sent and what the
emulator saw; its time stands beside what the cost model predicts for such a network.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import platform
import statistics
from collections.abc import Callable, Iterable, Sequence

from collectives.bench.hosts import Case, Hosts, Layout
from collectives.errors import InvalidArgument
from collectives.topology import model, network, plans

_LEAST, _MOST = 3, 30  # calls of a case
_HEADERS = 52  # bytes of IP and TCP in a packet, with timestamps


@dataclasses.dataclass(frozen=True)
class Scenario:
    """What is compared, and where.

    Attributes:
        name: by which the command line knows it.
        claim: what it is to show, for people.
        layout: the hosts.
        cases: the operations. Of those of one kind and size, ratios are to the first.
        over_sizes: whether it is to find from which size on the ring is faster than the others.
    """

    name: str
    claim: str
    layout: Layout
    cases: tuple[Case, ...]
    over_sizes: bool = False


def _cases(kind: str, algorithms: Iterable[str | None], sizes: Iterable[int]) -> tuple[Case, ...]:
    return tuple(Case(kind, algorithm, size) for size in sizes for algorithm in algorithms)


_KIB, _MIB = 1 << 10, 1 << 20
_SLOW = 200e6  # bit/s: what the emulator carries beside the peers on a core or two
_TWO = _cases("all_reduce", ("ring", "direct", "hierarchical", None), (16 * _MIB,))
_SMALL = _cases(
    "all_reduce",
    ("ring", "whole", "doubling", "direct", None),
    (4 * _KIB, 16 * _KIB, 32 * _KIB, 48 * _KIB, 64 * _KIB),
)


def _far(hosts: str) -> Layout:
    return Layout(hosts, 10e6, shared=True, round_trip=20e-3)


def _several(paths: int) -> Scenario:
    # Long operations: TCP takes a second to find the pace of each path.
    cases = _cases("all_reduce", (None,), (paths * 40 * _MIB,))
    layout = Layout("ab", 100e6, round_trip=2e-3, paths=paths, connections=paths)
    claim = f"what {paths} connections carry over as many paths"
    return Scenario(f"paths-{paths}", claim, layout, cases)


_ALL = (
    Scenario("two-hosts", "two hosts, with ranks in their order", Layout("aabb", _SLOW), _TWO),
    Scenario("interleaved", "the same, with ranks in turns", Layout("abab", _SLOW), _TWO),
    Scenario(
        "pairwise",
        "links of pairs, each of which carries as much in either direction",
        Layout("abcd", 100e6),
        _cases("all_reduce", ("ring", "bidirectional_ring", "direct", None), (16 * _MIB,)),
    ),
    Scenario("far-4", "long links, four peers", _far("abcd"), _SMALL, True),
    Scenario("far-8", "long links, eight peers", _far("abcdefgh"), _SMALL, True),
    Scenario(
        "quantized",
        "two peers, and what a codec saves",
        Layout("ab", 1e9, mtu=65000),
        tuple(
            Case("all_reduce", "direct", 64 * _MIB, codec)
            for codec in ("", "bf16", "mxint8", "int8", "mxfp4", "int4", "nvfp4", "e3m0")
        ),
    ),
    _several(1),
    _several(2),
    _several(4),
)

SCENARIOS = {scenario.name: scenario for scenario in _ALL}


@dataclasses.dataclass(frozen=True)
class Row:
    """A case, measured.

    Attributes:
        case: what was called.
        algorithm: what carried it out: what the call asks for, or the library's choice.
        calls: that were made and checked.
        seconds: median of a call's.
        predicted: seconds, by the cost model.
        ratio: median of the first case of this kind and size, divided by this one.
        planned: bytes of payload from one host to another, in the busiest direction of all, as the
            plans of all ranks have it; here and below of one call.
        sent: the same, by the peers' telemetry: payload and frame headers.
        packets: the same, by the emulator: IP packets with their headers, and acknowledgements.
        planned_within: bytes of payload between the peers of that host; 0 where it has but one.
        sent_within: the same, by the peers' telemetry.
        rate: bit/s of payload in the busiest direction.
        checked: elements.
        wrong: of these.
    """

    case: Case
    algorithm: str
    calls: int
    seconds: float
    predicted: float
    ratio: float
    planned: float
    sent: float
    packets: float
    planned_within: float
    sent_within: float
    rate: float
    checked: int
    wrong: int


@dataclasses.dataclass(frozen=True)
class Crossover:
    """From which size on a plan is faster than another: bytes; None: not within the sizes.

    Attributes:
        small: faster below.
        large: faster above.
        measured: between two sizes interpolated.
        predicted: by the cost model.
    """

    small: str
    large: str
    measured: float | None
    predicted: float | None


@dataclasses.dataclass(frozen=True)
class Found:
    """All figures of a scenario."""

    name: str
    claim: str
    layout: Layout
    rows: list[Row]
    crossovers: list[Crossover]

    def lines(self) -> list[str]:
        """For people."""
        layout = self.layout
        of = "a host's" if layout.shared else "a pair's"
        lines = [
            f"# {self.name}: {self.claim}",
            f"# ranks on hosts {layout.hosts}; {of} {layout.rate / 1e6:g} Mbit/s each way"
            + f" on {layout.paths} paths" * (layout.paths > 1)
            + f", round trip {layout.round_trip * 1e3:g} ms; packets of {layout.mtu} bytes",
            f"#{'kind':>11} {'algorithm':>20} {'bytes':>10} {'median':>10} {'predicted':>10}"
            f" {'faster':>7} {'planned':>10} {'sent':>10} {'packets':>10} {'within':>10}"
            f" {'Mbit/s':>7} {'#wrong':>6}",
        ]
        for row in self.rows:
            name = row.algorithm if row.case.algorithm else f"({row.algorithm})"
            name += f" {row.case.codec}" if row.case.codec else ""
            lines.append(
                f" {row.case.kind:>11} {name:>20} {row.case.bytes:>10}"
                f" {row.seconds * 1e3:>7.1f} ms {row.predicted * 1e3:>7.1f} ms {row.ratio:>6.2f}x"
                f" {row.planned:>10.0f} {row.sent:>10.0f} {row.packets:>10.0f}"
                f" {row.sent_within:>10.0f} {row.rate / 1e6:>7.1f} {row.wrong:>6}"
            )
        for one in self.crossovers:
            lines.append(
                f"# {one.large} overtakes {one.small} at {_size(one.measured)} measured,"
                f" {_size(one.predicted)} predicted"
            )
        return lines


def _size(size: float | None) -> str:
    return "no size here" if size is None else f"{size / _KIB:.1f} KiB"


@dataclasses.dataclass(frozen=True)
class Report:
    """Several scenarios, and the machine."""

    scenarios: list[Found]
    cores: int = dataclasses.field(default_factory=lambda: os.cpu_count() or 1)
    kernel: str = dataclasses.field(default_factory=platform.release)

    @property
    def wrong(self) -> int:
        """Elements, of all."""
        return sum(row.wrong for found in self.scenarios for row in found.rows)

    def to_json(self) -> str:
        """Everything, as JSON text."""
        return json.dumps({**dataclasses.asdict(self), "wrong": self.wrong}, indent=2)


def choose(names: Sequence[str]) -> list[Scenario]:
    """Return the scenarios of these names; all, if none is given.

    Raises:
        InvalidArgument: there is none of that name.
    """
    for name in names:
        if name not in SCENARIOS:
            raise InvalidArgument(f"there is no scenario {name!r}; known: {', '.join(SCENARIOS)}")
    return [SCENARIOS[name] for name in names or SCENARIOS]


def measure(
    scenario: Scenario,
    seconds: float = 3.0,
    progress: Callable[[int, int, str], None] | None = None,
) -> Found:
    """Measure a scenario.

    Args:
        scenario: one of ``SCENARIOS``, for example.
        seconds: of the calls of each case, about.
        progress: is told how many cases of how many are done, and which is next.

    Raises:
        BenchError: a process failed or did not answer in time.
        UnsupportedError: namespaces cannot be had.
    """
    rows: list[Row] = []
    with Hosts(scenario.layout) as hosts:
        for number, case in enumerate(scenario.cases):
            if progress is not None:
                what = f"{scenario.name}: {case.algorithm or 'chosen'} {case.bytes}"
                progress(number, len(scenario.cases), what)
            rows.append(_row(hosts, case, seconds, rows))
    crossovers = _crossovers(scenario, rows) if scenario.over_sizes else []
    return Found(scenario.name, scenario.claim, scenario.layout, rows, crossovers)


def _row(hosts: Hosts, case: Case, seconds: float, before: list[Row]) -> Row:
    layout = hosts.layout
    first = hosts.run(case, 1)
    calls = min(_MOST, max(_LEAST, math.ceil(seconds / first.seconds[0])))
    found = hosts.run(case, calls)
    median = statistics.median(found.seconds)
    algorithm = case.algorithm or plans.choose(
        case.kind, case.bytes, len(layout.hosts), places(layout)
    )
    planned = crossing(case.kind, algorithm, case.encoded, layout)
    way = max((way for way in planned if way[0] != way[1]), key=planned.__getitem__)
    within = way[0] * 2
    alike = (row.seconds for row in before if _place(row.case) == _place(case))
    return Row(
        case=case,
        algorithm=algorithm,
        calls=calls,
        seconds=median,
        predicted=predicted(case.kind, algorithm, case.encoded, layout),
        ratio=next(alike, median) / median,
        planned=planned[way],
        sent=found.sent[way],
        packets=found.packets[way],
        planned_within=planned[within],
        sent_within=found.sent[within],
        rate=planned[way] * 8 / median,
        checked=first.checked + found.checked,
        wrong=first.wrong + found.wrong,
    )


def _place(case: Case) -> tuple[str, int]:
    return case.kind, case.bytes


# ---- what the plans and the model say ------------------------------------------------------------


def places(layout: Layout) -> tuple[tuple[int, ...], ...]:
    """The levels that the view of such a group has: hosts, if they say anything."""
    count = len(layout.names)
    if count in (1, len(layout.hosts)):
        return ()
    return (tuple(layout.names.index(host) for host in layout.hosts),)


def crossing(kind: str, algorithm: str, nbytes: int, layout: Layout) -> dict[str, float]:
    """Return the bytes of payload that plans have, as ``Measured.sent`` counts them."""
    plan = plans.plan_of(kind, algorithm, len(layout.hosts), places(layout))
    found = dict.fromkeys(layout.ways, 0.0)
    for source, target in zip(plan.rank[plan.sends], plan.rank[plan.receives], strict=True):
        found[layout.hosts[source] + layout.hosts[target]] += plan.share * nbytes
    return found


def predicted(kind: str, algorithm: str, nbytes: int, layout: Layout) -> float:
    """Return the seconds of an operation by the cost model."""
    plan = plans.plan_of(kind, algorithm, len(layout.hosts), places(layout))
    return model.predict(plan, nbytes, network_of(layout))


def network_of(layout: Layout) -> network.Network:
    """Return what the model is told of a layout: nothing that was measured on it."""
    rate = layout.rate / 8 * layout.paths * (layout.mtu - _HEADERS) / layout.mtu
    # All pairs of processes of two hosts share their link; of only two hosts it is the uplink.
    alone = layout.shared or len(layout.names) == 2
    between = network.Level(
        latency=network.LAN.latency + layout.round_trip / 2,
        bandwidth=rate,
        uplink=rate if alone else math.inf,
    )
    where = places(layout)
    levels = (network.MEMORY, between) if where else (between,)
    return network.Network(levels, where)


def _crossovers(scenario: Scenario, rows: list[Row]) -> list[Crossover]:
    """Where the ring overtakes each of the others."""
    named = [row for row in rows if row.case.algorithm]
    found = []
    for small in dict.fromkeys(row.algorithm for row in named):
        if small == "ring":
            continue

        def advantage(size: int, other: str = small) -> float:
            kind = scenario.cases[0].kind
            ours, ring = (predicted(kind, one, size, scenario.layout) for one in (other, "ring"))
            return ours / ring

        times = {
            size: [r.seconds for name in (small, "ring") for r in named if _is(r, name, size)]
            for size in sorted({row.case.bytes for row in named})
        }
        measured = [(size, pair[0] / pair[1]) for size, pair in times.items() if len(pair) == 2]
        sizes = [int(_KIB * 2 ** (step / 4)) for step in range(60)]
        model_says = [(size, advantage(size)) for size in sizes]
        found.append(Crossover(small, "ring", _crossing(measured), _crossing(model_says)))
    return found


def _is(row: Row, algorithm: str, size: int) -> bool:
    return row.algorithm == algorithm and row.case.bytes == size


def _crossing(points: list[tuple[int, float]]) -> float | None:
    """The size at which the ratio of two times comes to 1, between two points on log scales."""
    for (size, ratio), (larger, above) in itertools.pairwise(points):
        if ratio < 1 <= above:
            part = -math.log(ratio) / (math.log(above) - math.log(ratio))
            return float(size * (larger / size) ** part)
    return None
