"""The bench: its numbers are exact and its checks see what they should. No test looks at a time."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from multiprocessing.connection import Pipe

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collectives.bench import kernels, messages, report, sweep, table
from collectives.bench.collective import COLLECTIVES, Part
from collectives.bench.config import BenchConfig, parse_bytes, parse_sizes
from collectives.bench.messages import Block
from collectives.bench.pattern import DTYPES, Pattern, poison
from collectives.bench.ranks import BenchError, Ranks
from collectives.bench.report import Figure
from collectives.errors import CollectiveError, InvalidArgument, UnsupportedError

NUMPY_DTYPES = [name for name in DTYPES if name != "bfloat16"]
COMBINE = {
    "sum": np.add,
    "avg": np.add,
    "prod": np.multiply,
    "min": np.minimum,
    "max": np.maximum,
    "band": np.bitwise_and,
    "bor": np.bitwise_or,
    "bxor": np.bitwise_xor,
}
OF_BOOLS = {"sum": "bor", "prod": "band"}

# ---- settings ----------------------------------------------------------------------------------


def test_sizes_are_read_as_people_write_them() -> None:
    assert parse_bytes("512") == 512
    assert parse_bytes("64k") == parse_bytes("64KiB") == 65536
    assert parse_sizes("1K:16K") == (1024, 4096, 16384)
    assert parse_sizes("1K:5K:2") == (1024, 2048, 4096)
    assert parse_sizes("1K,1M") == (1024, 1 << 20)
    assert parse_sizes("1K:256M")[-1] == 256 << 20


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "1T", "K", "4K:1K", "1K:4K:1", "1K:4K:2:2", "1K:4K:x", "32G", "1.5K"]
)
def test_sizes_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_sizes(text)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ranks": 0}, "0 ranks"),
        ({"sizes": ()}, "no size"),
        ({"out_of_place": False, "in_place": False}, "neither"),
        ({"compare": ("nccl",)}, "cannot compare with nccl"),
        ({"compare": ("gloo",), "op": "avg"}, "Gloo has no avg"),
        ({"compare": ("mpi",), "dtype": "float16"}, "Open MPI has no float16"),
        ({"compare": ("gloo",), "dtype": "bool"}, "Gloo has no bool"),
        ({"operation": "all_reduce_scatter"}, "unknown operation 'all_reduce_scatter'"),
        ({"operation": "all_gather"}, "all_gather needs 'none'"),
        ({"op": "none"}, "all_reduce needs a reduction"),
        ({"operation": "broadcast", "op": "none", "in_place": False}, "left to measure of broadc"),
        ({"transport": "rdma"}, "unknown transport 'rdma'"),
        ({"iterations": 0}, "0 iterations"),
        ({"timeout": 0.0}, "timeout"),
    ],
)
def test_settings_that_make_no_sense_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        BenchConfig(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dtype": "float"}, "unknown dtype"),
        ({"op": "mean"}, "unknown op"),
        ({"dtype": "int8", "op": "prod", "ranks": 9}, "cannot hold"),
        ({"dtype": "float16", "op": "band"}, "no band of float16"),
        ({"dtype": "bfloat16", "op": "bxor"}, "no bxor of bfloat16"),
        ({"dtype": "bool", "op": "avg"}, "no avg of bool"),
        ({"dtype": "float64", "sizes": (4,)}, "less than one element"),
        ({"operation": "reduce_scatter", "sizes": (64, 7)}, "7 bytes .* for each of 2 ranks"),
    ],
)
def test_a_run_that_cannot_be_checked_does_not_start(
    fields: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidArgument, match=message):
        sweep.check(BenchConfig(**fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(("library", "package"), [("gloo", "torch"), ("mpi", "mpi4py")])
def test_comparing_with_what_is_not_there_says_what_to_install(
    library: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match=f"needs {package}, which is not installed"):
        sweep.check(BenchConfig(compare=(library,)))


# ---- the numbers -------------------------------------------------------------------------------


def combine(op: str, inputs: list[np.ndarray]) -> np.ndarray:
    """What a library does: in the dtype itself, one after the other, then the division."""
    total = inputs[0].copy()
    for other in inputs[1:]:
        total = COMBINE[op](total, other)
        assert total.dtype == inputs[0].dtype
    if op == "avg":
        divisor = total.dtype.type(len(inputs))
        total = total // divisor if total.dtype.kind in "iu" else total / divisor
    return total


def filled(pattern: Pattern, count: int) -> list[np.ndarray]:
    buffers = [np.empty(count, pattern.storage) for _ in range(pattern.ranks)]
    for rank, buffer in enumerate(buffers):
        poison(buffer)
        pattern.fill(buffer, rank)
    return buffers


def has(dtype: str, op: str) -> bool:
    return op != "avg" if dtype == "bool" else "float" not in dtype or not op.startswith("b")


@pytest.mark.parametrize(
    ("dtype", "op"), [(dtype, op) for dtype in NUMPY_DTYPES for op in COMBINE if has(dtype, op)]
)
def test_a_right_result_has_no_wrong_element_however_often_in_place(dtype: str, op: str) -> None:
    does = OF_BOOLS.get(op, op) if dtype == "bool" else op
    for ranks in (1, 2, 3, 5):
        pattern = Pattern(dtype, op, ranks)
        values = filled(pattern, 300)
        calls = min(pattern.chain(), 200)
        for call in range(1, calls + 1):
            values = [combine(does, values)] * ranks
            assert np.all(np.isfinite(values[0].astype(np.float64)))
            assert pattern.count_wrong(values[0], calls=call) == 0
        backwards = combine(does, filled(pattern, 300)[::-1])
        assert pattern.count_wrong(backwards) == 0


@pytest.mark.parametrize("ranks", [2, 3, 6])
@pytest.mark.parametrize("op", ["band", "bor", "bxor"])
@pytest.mark.parametrize("dtype", ["int8", "uint16", "uint64", "bool"])
def test_most_of_a_wrong_bitwise_reduction_is_seen(dtype: str, op: str, ranks: int) -> None:
    count = 10_000
    pattern = Pattern(dtype, op, ranks)
    inputs = filled(pattern, count)
    for rank in range(ranks):
        missing = combine(op, inputs[:rank] + inputs[rank + 1 :])
        most = count / (3 * (ranks + 1)) if dtype == "bool" else 2 * count / 3
        assert pattern.count_wrong(missing) > most, rank
        another = [*inputs[:rank], inputs[(rank + 1) % ranks], *inputs[rank + 1 :]]
        assert pattern.count_wrong(combine(op, another)) > most
        if op == "bxor":
            assert pattern.count_wrong(combine(op, [*inputs, inputs[rank]])) > count / 3


def test_bfloat16_is_exact_too() -> None:
    torch = pytest.importorskip("torch")
    for ranks in (2, 3):
        for op in ("sum", "max"):
            pattern = Pattern("bfloat16", op, ranks)
            tensors = [
                torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
                for x in filled(pattern, 100)
            ]
            total = tensors[0].clone()
            for other in tensors[1:]:
                total = total + other if op == "sum" else torch.maximum(total, other)
            assert pattern.count_wrong(total.view(torch.int16).numpy().view(np.uint16)) == 0


@given(
    dtype=st.sampled_from([name for name in NUMPY_DTYPES if name != "bool"]),
    ranks=st.integers(2, 6),
    count=st.integers(1, 20_000),
    data=st.data(),
)
@settings(deadline=None, max_examples=50)
def test_every_element_of_a_wrong_sum_is_seen(
    dtype: str, ranks: int, count: int, data: st.DataObject
) -> None:
    pattern = Pattern(dtype, "sum", ranks)
    inputs = filled(pattern, count)
    rank = data.draw(st.integers(0, ranks - 1), label="rank")
    other = data.draw(st.integers(0, ranks - 1).filter(lambda r: r != rank), label="other")
    with np.errstate(over="ignore"):
        missing = combine("sum", inputs[:rank] + inputs[rank + 1 :])
        doubled = combine("sum", [*inputs, inputs[rank]])
    assert pattern.count_wrong(missing) == count
    assert pattern.count_wrong(doubled) == count
    if (rank - other) % pattern.period:
        swapped = combine("sum", [*inputs[:other], inputs[rank], *inputs[other + 1 :]])
        assert pattern.count_wrong(swapped) == count


@given(count=st.integers(1, 300_000), data=st.data())
@settings(deadline=None, max_examples=30)
def test_one_wrong_element_is_counted_as_one(count: int, data: st.DataObject) -> None:
    pattern = Pattern("float32", "sum", 2)
    result = combine("sum", filled(pattern, count))
    result[data.draw(st.integers(0, count - 1), label="where")] += 1
    assert pattern.count_wrong(result) == 1


def test_bytes_that_nobody_wrote_are_wrong() -> None:
    for dtype in DTYPES:
        pattern = Pattern(dtype, "sum", 2)
        buffer = np.zeros(1000, pattern.storage)
        poison(buffer)
        assert pattern.count_wrong(buffer) == 1000


def test_bytes_in_the_place_of_another_slice_are_wrong() -> None:
    pattern = Pattern("float32", "sum", 2)
    result = combine("sum", filled(pattern, 1 << 18))
    slice_elements = 1 << 14
    result[:slice_elements] = result[slice_elements : 2 * slice_elements].copy()
    assert pattern.count_wrong(result) >= slice_elements // 2


def block_of(pattern: Pattern, rank: int, block: int) -> np.ndarray:
    buffer = np.empty(100, pattern.storage)
    pattern.fill(buffer, rank, block)
    return buffer


@pytest.mark.parametrize("ranks", [2, 3, 8, 64])
def test_no_block_has_an_element_of_another(ranks: int) -> None:
    copied, reduced = (Pattern("float32", op, ranks) for op in ("none", "sum"))
    every = np.stack([block_of(copied, r, b) for r in range(ranks) for b in range(ranks)])
    assert all(len(np.unique(place)) == ranks * ranks for place in every.T)
    total = [sum(block_of(reduced, r, b) for r in range(ranks)) for b in range(ranks)]
    assert all(len(np.unique(place)) == ranks for place in np.stack(total).T)


def test_a_block_in_the_place_of_another_is_wrong_everywhere() -> None:
    pattern = Pattern("float32", "none", 3)
    parts = [(rank, block) for rank in range(3) for block in range(3)]
    for part in parts:
        for other in parts:
            wrong = pattern.count_wrong(block_of(pattern, *other), Part([part[0]], part[1]))
            assert wrong == (0 if other == part else 100)


# ---- the figures -------------------------------------------------------------------------------


def test_a_figure_follows_the_conventions_of_nccl_tests() -> None:
    figure = Figure.of([10.0, 30.0, 20.0, 40.0], size=100_000, bus_factor=1.5, checked=8, wrong=1)
    assert (figure.iterations, figure.mean_us, figure.median_us, figure.min_us) == (4, 25, 25, 10)
    assert math.isclose(figure.algbw, 4.0)
    assert math.isclose(figure.busbw, 6.0)
    assert math.isclose(figure.p99_us, 39.7)


def test_a_figure_has_the_cpu_time_of_all_ranks_and_the_peak_of_the_worst() -> None:
    calls = report.Calls(size=1_000_000, bus_factor=1.0)
    warm = messages.BlockResult((9, 9), 10, 0, cpu_ns=5, cpu_calls=2, peak_bytes=7)
    calls.took([warm, warm])
    calls.forget_times()
    calls.took(
        [
            messages.BlockResult((1000, 3000), 10, 1, 6_000_000, 3, 1),
            messages.BlockResult((3000, 5000), 10, 0, 3_000_000, 3, 2),
        ]
    )
    figure = calls.figure()
    assert (figure.iterations, figure.mean_us, figure.checked, figure.wrong) == (2, 3.0, 40, 1)
    assert math.isclose(figure.cpu_seconds_per_gb, 9e-3 / 3e-3)
    assert figure.peak_bytes == 7


def test_the_bound_counts_two_passes_out_of_place_and_three_in_place() -> None:
    memory = report.Bandwidth(24e9, "whole", processes=2)
    bounds = memory.bounds(COLLECTIVES["all_reduce"])
    assert bounds == {"out_of_place": 6e9, "in_place": 4e9}
    size = report.BEYOND_CACHE
    figure = Figure.of([size / 3e3], size, 2, 1, 0)  # 3 GB/s
    row = report.Row(size, size // 4, figure, figure, None, None, None).bounded(bounds)
    assert row.bound_out_of_place == pytest.approx(0.5)
    assert row.bound_in_place == pytest.approx(0.75)
    small = dataclasses.replace(row, bytes=size - 1, bound_in_place=None, bound_out_of_place=None)
    assert small.bounded(bounds) == small


# What nccl-tests says of busbw, and what each byte of the buffer costs in memory, of 4 ranks.
FACTORS = {
    "all_reduce": (1.5, 8, 12),
    "broadcast": (1, None, None),
    "reduce": (1, None, None),
    "reduce_scatter": (0.75, 5, None),
    "all_gather": (0.75, 5, None),
    "gather": (0.75, None, None),
    "scatter": (0.75, None, None),
    "all_to_all": (0.75, 8, None),
}


def test_every_operation_has_the_factors_of_nccl_tests() -> None:
    assert {
        name: (c.bus_factor(4), c.traffic(4, in_place=False), c.traffic(4, in_place=True))
        for name, c in COLLECTIVES.items()
    } == FACTORS


@pytest.mark.parametrize("compare", [(), ("gloo",), ("mpi",), ("gloo", "mpi")])
@pytest.mark.parametrize("in_place", [False, True])
def test_the_table_has_as_many_columns_as_its_head(
    compare: tuple[str, ...], in_place: bool
) -> None:
    figure = Figure.of([10.0], 1024, 2, 1, 0)
    row = report.Row(1024, 256, figure, figure, figure, 2.0, 3.0, figure, figure, 4.0, 5.0)
    shown = table.Table(BenchConfig(compare=compare, in_place=in_place))
    titles, names, units = shown.head()
    line = shown.row(row)
    assert len(names) == len(line) >= max(len(titles), len(units))
    sides = 2 if in_place else 1
    sections = 2 + sides + ("gloo" in compare) + sides * ("mpi" in compare)
    # The # in front of the names makes them a comment; it is no column.
    headings = [len(part.split()) for part in names[1:].split("|")]
    assert headings == [len(part.split()) for part in line.split("|")]
    assert len(headings) == sections


@pytest.mark.parametrize(
    ("operation", "op", "root", "sections"),
    [
        ("all_gather", "none", "-1", ["out-of-place", "in-place", "model", "gloo"]),
        ("broadcast", "none", "0", ["in-place", "model", "gloo"]),
        ("all_to_all", "none", "-1", ["out-of-place", "model", "gloo"]),
        ("reduce", "sum", "0", ["out-of-place", "in-place", "model", "gloo"]),
    ],
)
def test_the_table_has_what_the_operation_has(
    operation: str, op: str, root: str, sections: list[str]
) -> None:
    shown = table.Table(BenchConfig(operation=operation, op=op, compare=("gloo",)))
    assert shown.head()[0].replace("|", " ").split()[1:] == sections
    figure = Figure.of([10.0], 1024, 2, 1, 0)
    row = report.Row(1024, 256, figure, figure, figure, 2.0, 3.0)
    assert shown.row(row).split()[3:5] == [op, root]


def test_messages_arrive_as_they_were_sent() -> None:
    ours, theirs = (messages.Line(connection) for connection in Pipe())
    config = BenchConfig(sizes=(4, 8), compare=("gloo",))
    for message in (
        messages.Start(config, "127.0.0.1:1", "127.0.0.1:2", local=True),
        messages.BlockResult((1, 2), 3, 4, congestion=("cubic",)),
        messages.Ready(),
        messages.End(),
    ):
        ours.send(message)
        assert theirs.receive() == message
    for junk in (b"", b"\x80\x04]", b'["Nonsense", {}]', b'["Ready", {"a": 1}]', b"[1, 2, 3]"):
        ours.connection.send_bytes(junk)
        with pytest.raises(CollectiveError, match="no message of the bench"):
            theirs.receive()


# ---- in real processes -------------------------------------------------------------------------

TINY = BenchConfig(sizes=(1024, 65536), iterations=4, blocks=2, timeout=100.0, transport="tcp")


def check_schema(found: dict[str, object], *, gloo: bool) -> None:
    assert found["schema"] == report.SCHEMA
    assert found["operation"] == "all_reduce"
    assert {"collectives", "python", "numpy"} <= set(found["versions"])  # type: ignore[call-overload]
    assert {"cpu", "cores", "kernel", "avx2"} <= set(found["machine"])  # type: ignore[call-overload]
    sizes = found["sizes"]
    assert isinstance(sizes, list)
    assert [row["bytes"] for row in sizes] == [1024, 65536]
    assert [row["count"] for row in sizes] == [256, 16384]
    assert found["bandwidth"] is None  # no row is beyond the cache
    for row in sizes:
        for name in ("out_of_place", "in_place", *(["gloo"] if gloo else [])):
            figure = row[name]
            assert figure["iterations"] == 4
            assert 0 < figure["min_us"] <= figure["median_us"] <= figure["p99_us"]
            assert figure["algbw"] > 0
            assert math.isclose(figure["busbw"], figure["algbw"])  # 2(n-1)/n is 1 for two
            # Warm-up and two blocks on two ranks, every element.
            assert figure["checked"] == 3 * 2 * row["count"]
            assert figure["cpu_seconds_per_gb"] > 0
            assert figure["peak_bytes"] >= 0
        assert (row["gloo"] is not None) == gloo
        assert (row["ratio_out_of_place"] is not None) == gloo


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_a_run_checks_every_element_and_finds_none_wrong(transport: str) -> None:
    rows: list[report.Row] = []
    result = sweep.run(dataclasses.replace(TINY, transport=transport), rows.append)
    check_schema(json.loads(result.to_json()), gloo=False)
    assert rows == result.sizes
    assert result.wrong == 0
    assert result.sockets["collectives"] >= (transport == "tcp")
    assert len(result.congestion["collectives"]) == (transport == "tcp")


# How many elements all ranks together get to check, of a buffer of n blocks; out and in place.
RESULTS = {
    "all_reduce": lambda n: n,
    "broadcast": lambda n: n,
    "reduce": lambda n: 1,
    "reduce_scatter": lambda n: 1,
    "all_gather": lambda n: n,
    "gather": lambda n: 1,
    "scatter": lambda n: 1,
    "all_to_all": lambda n: n,
}
WAYS = {"broadcast": {"in_place"}, "all_to_all": {"out_of_place"}}


def config_of(operation: str, **fields: object) -> BenchConfig:
    op = "sum" if COLLECTIVES[operation].reduces else "none"
    return dataclasses.replace(TINY, operation=operation, op=op, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("transport", ["shm", "tcp"])
@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.full), 3])
@pytest.mark.parametrize("operation", COLLECTIVES)
def test_every_operation_is_right_in_every_element(
    operation: str, ranks: int, transport: str
) -> None:
    config = config_of(operation, ranks=ranks, transport=transport, iterations=3)
    result = sweep.run(config)
    assert (result.operation, result.wrong) == (operation, 0)
    for row, size in zip(result.sizes, config.sizes, strict=True):
        blocks = ranks if COLLECTIVES[operation].has_blocks else 1
        assert row.count == size // 4 // blocks * blocks
        assert row.bytes == 4 * row.count
        assert row.named.keys() == WAYS.get(operation, {"out_of_place", "in_place"})
        for figure in row.named.values():
            assert figure.iterations == 3
            # Warm-up and two blocks.
            assert figure.checked == 3 * RESULTS[operation](ranks) * row.count


@pytest.mark.parametrize("operation", COLLECTIVES)
def test_a_planted_wrong_element_is_seen_in_every_operation(operation: str) -> None:
    check_planted(config_of(operation, sizes=(1024,), ranks=3, plant_wrong=3))


@pytest.mark.full
@pytest.mark.parametrize("operation", COLLECTIVES)
def test_a_planted_wrong_element_is_seen_in_every_library(operation: str) -> None:
    pytest.importorskip("mpi4py")
    pytest.importorskip("torch")
    check_planted(
        config_of(operation, sizes=(1024,), ranks=3, plant_wrong=3, compare=("gloo", "mpi"))
    )


def check_planted(config: BenchConfig) -> None:
    (row,) = sweep.run(config).sizes
    # Those of rank 0's first block: every rank gets them, or rank 0 alone.
    seen = 1 if config.operation == "all_to_all" else RESULTS[config.operation](3)
    # Warm-up and two blocks, three elements.
    assert {name: figure.wrong for name, figure in row.named.items()} == dict.fromkeys(
        row.named, 3 * 3 * seen
    )
    assert len(row.named) >= len(config.libraries)


@pytest.mark.full
def test_both_libraries_have_the_same_congestion_control() -> None:
    pytest.importorskip("torch")
    result = sweep.run(dataclasses.replace(TINY, compare=("gloo",), congestion="reno"))
    check_schema(json.loads(result.to_json()), gloo=True)
    assert result.wrong == 0
    assert result.congestion == {"collectives": ["reno"], "gloo": ["reno"]}


def test_a_congestion_control_that_is_not_there_is_an_error() -> None:
    with pytest.raises(CollectiveError, match="congestion control 'nonsense'"):
        sweep.run(dataclasses.replace(TINY, congestion="nonsense"))


def test_a_rank_that_dies_ends_the_run_and_is_named() -> None:
    config = dataclasses.replace(TINY, sizes=(1024,))
    with pytest.raises(BenchError, match="rank-"), Ranks(config) as ranks:  # noqa: PT012
        ranks.ready()
        victim = ranks._processes["collectives"][1]
        victim.kill()
        victim.wait(30)
        ranks.ask("collectives", Block(False, 256, 1, settle=False))
    assert all(process.poll() is not None for process in ranks._processes["collectives"])


def test_the_command_prints_the_table_and_writes_the_json(tmp_path) -> None:
    path = tmp_path / "bench.json"
    command = [sys.executable, "-m", "collectives.cli", "bench", "all_reduce"]
    command += ["--sizes", "1K,64K", "--iterations", "4", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    assert found["wrong"] == 0
    assert found["overhead"]["python_call_us"] > found["overhead"]["c_call_us"] > 0
    lines = [line for line in done.stdout.splitlines() if line and line[0] != "#"]
    assert [line.split()[0] for line in lines] == ["1024", "65536"]
    assert "Wrong elements: 0 of" in done.stdout
    assert "Python cost per call" in done.stdout


def test_the_command_says_what_is_wrong_with_its_arguments() -> None:
    command = [sys.executable, "-m", "collectives.cli", "bench", "all_reduce", "--sizes", "1X"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "'1X' is no size" in done.stderr
    assert "Traceback" not in done.stderr


# ---- the kernels -------------------------------------------------------------------------------


def test_every_kernel_is_measured_and_every_element_of_it_is_checked() -> None:
    found = kernels.measure(out_of_cache=1 << 20, rounds=1)
    assert len(found.dtypes) == 12
    assert all([*row] == ["sum", "prod", "min", "max", "division"] for row in found.dtypes.values())
    assert len(found.codecs) == len(kernels.CODECS)
    assert all([*row] == ["encode", "decode and add"] for row in found.codecs.values())
    rows = (*found.dtypes.values(), *found.codecs.values(), found.others)
    speeds = [s for row in rows for s in row.values()]
    assert all(speed.cached > 0 and speed.memory > 0 for speed in speeds)
    assert found.wrong == 0
    assert len([*found.lines()]) == 12 + len(found.others) + len(found.codecs) + 5


def test_a_kernel_that_is_wrong_is_counted() -> None:
    case = next(iter(kernels._others(kernels._Arrays(1 << 20))))
    case.call()
    case.outputs[0][5] ^= 1
    assert case.wrong() == 1
