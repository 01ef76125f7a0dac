"""Quantized reductions: every bit by the codec's own kernels, and what failures leave."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import collectives
import quantized
from calls import LARGE, SMALL, TINY, Call, data_of
from collectives._native.engine import LEVEL_CODECS
from collectives.codec import Codec
from covering import covering
from crew import DEADLINE, Crew
from mortals import Case, Mortals, arm
from pool import Pool

SIZES = (2, 3, 4)
COUNTS = (1, 100, 4_097, 100_003, 1_000_003)
CODECS = ("bf16", "int8", "int4", "mxint8")
HEADER = 128


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(4) as pool:
        yield pool


@pytest.fixture(scope="module")
def mortals() -> Iterator[Mortals]:
    with Mortals() as mortals:
        yield mortals


def names(group: collectives.Group) -> list[str]:
    return [peer.name for peer in group.peers]


def given(group: collectives.Group, count: int, dtype: str) -> list[np.ndarray]:
    """The inputs of all, by rank."""
    return [data_of(name, count, 0).astype(dtype) for name in names(group)]


# ---- the same bits -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Sum:
    size: int
    codec: str
    count: int
    dtype: str
    op: str
    algorithm: str | None
    transport: str
    form: str

    def __str__(self) -> str:
        return " ".join(str(value) for value in dataclasses.astuple(self))


def sums() -> Iterator[Sum]:
    for size in (1, *SIZES):
        for codec in CODECS:
            for count in COUNTS:
                for dtype in ("f4", "f8", "f2"):
                    for op in ("sum", "avg"):
                        for algorithm in (None, "direct", "ring"):
                            for transport in ("tcp", "shm"):
                                for form in ("in place", "apart", "strided", "list"):
                                    yield Sum(
                                        size, codec, count, dtype, op, algorithm, transport, form
                                    )


def add_up(group: collectives.Group, case: Sum) -> int:
    inputs = given(group, case.count, case.dtype)
    mine = inputs[group.rank]
    wanted = quantized.reduced(inputs, Codec(case.codec), case.op, case.algorithm or "direct")
    how: dict[str, Any] = {"op": case.op, "codec": case.codec, "timeout": DEADLINE}
    if case.algorithm:
        how["algorithm"] = case.algorithm
    array: Any = mine.copy()
    if case.form == "strided":
        array = np.zeros((case.count, 3), case.dtype)[:, 1]
        array[:] = mine
    elif case.form == "list":
        array = [mine[: case.count // 3].copy(), mine[case.count // 3 :].copy()]
    elif case.form == "apart":
        how["out"] = np.empty_like(mine)
    result = group.all_reduce(array, **how)
    value = np.concatenate(result.value) if case.form == "list" else result.value
    assert value.tobytes() == wanted.tobytes(), f"wrong bits: {case}"
    assert case.form != "apart" or array.tobytes() == mine.tobytes()
    assert result.contributors == tuple(names(group))
    return result.wire_bytes


FEW = covering(random.Random(1).sample(list(sums()), 300), dataclasses.astuple)


@pytest.mark.parametrize(
    "case",
    FEW,
    ids=str,
)
def test_a_sum_has_the_bits_that_the_kernels_give(pool, case):
    pool.get(case.size, add_up, case, options={"transport": case.transport})


@pytest.mark.full
@pytest.mark.timeout(900)
def test_all_sums_have_the_bits_that_the_kernels_give(pool):
    for case in sums():
        pool.get(case.size, add_up, case, options={"transport": case.transport})


def all_of_it(group: collectives.Group, codec: Codec, count: int, dtype: str) -> bytes:
    """Of codecs whose keys are the engine's: near the right result, and what it is."""
    import torch  # for bfloat16; here, since each process takes seconds to import it

    inputs = given(group, count, "f4")
    exact = sum(array.astype("f8") for array in inputs) / len(inputs)
    array = torch.tensor(inputs[group.rank]).to(getattr(torch, dtype))
    residual = np.zeros(count, np.float32) if codec.error_feedback else None
    group.all_reduce(array, "avg", codec=codec, residual=residual, timeout=DEADLINE)
    off = np.abs(array.double().numpy() - exact)
    # Two encodings of about 4 bits or more, the first ones averaged.
    assert np.sqrt(np.mean(off**2)) < 0.2 * np.sqrt(np.mean(exact**2)), codec
    return bytes(array.view(torch.uint8).numpy())


@pytest.mark.parametrize(("dtype", "transport"), [("float32", "tcp"), ("bfloat16", "shm")])
@pytest.mark.parametrize(
    "codec",
    [
        Codec("int4", block=32, hadamard=True, rounding="stochastic", error_feedback=True),
        Codec("int8", block=128, scale="bf16", rounding="stochastic"),
        Codec("mxint8", hadamard=32, error_feedback=True),
    ],
    ids=str,
)
def test_rotated_and_stochastic_encodings_give_the_same_bits_on_all_ranks(
    pool, codec, transport, dtype
):
    for count in (5, 70_001):
        found = pool.get(3, all_of_it, codec, count, dtype, options={"transport": transport})
        assert found[0] == found[1] == found[2]


def others(group: collectives.Group, count: int) -> None:
    """A reduce and a reduce_scatter."""
    inputs, rank, size = given(group, count, "f4"), group.rank, group.size
    codec = Codec("int8")
    wanted = quantized.reduced(inputs, codec)
    result = group.reduce(inputs[rank].copy(), 1, codec="int8", timeout=DEADLINE)
    # What the root owns itself is encoded for nobody.
    off = np.flatnonzero(wanted != result.value) if rank == 1 else np.empty(0)
    own = quantized.segments(count, codec.unit, size)[(1 + 1) % size]
    assert len(off) == 0 or (own.start <= off[0] and off[-1] < own.stop)
    assert rank == 1 or result.value is None
    counts = [count // 2, 0, count - count // 2][:size] if size == 3 else None
    even = inputs[rank][: count // size * size]
    result = group.reduce_scatter(
        inputs[rank] if counts else even, counts=counts, codec="int8", timeout=DEADLINE
    )
    edges = np.cumsum([0, *(counts or [count // size] * size)])
    part = slice(edges[rank], edges[rank + 1])
    wanted = quantized.direct(
        [array[part] for array in inputs], rank, (rank + 1) % size, codec, "sum"
    )
    assert result.value.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("transport", ["tcp", "shm"])
@pytest.mark.parametrize("size", [2, 3])
def test_a_reduce_and_a_reduce_scatter_take_a_codec(pool, size, transport):
    for count in (60, 300_000):
        pool.get(size, others, count, options={"transport": transport})


# ---- what travels ------------------------------------------------------------------------------


def traffic(group: collectives.Group, codec: Codec, count: int) -> tuple[int, int, int]:
    before = group.counters()
    array = data_of(group.name, count, 0)
    result = group.all_reduce(array, codec=codec, timeout=DEADLINE)
    after = group.counters()
    encoded = after.encoded_slices - before.encoded_slices
    return result.wire_bytes, encoded, after.decoded_slices - before.decoded_slices


@pytest.mark.parametrize("transport", ["tcp", "shm"])
@pytest.mark.parametrize("codec", ["int8", "int4", "mxint8"])
def test_the_bytes_on_the_wire_are_those_of_the_formula(pool, codec, transport):
    count, size = 4 << 20, 3
    made = Codec(codec)
    for sent, encoded, decoded in pool.get(
        size, traffic, made, count, options={"transport": transport}
    ):
        formula = 2 * (size - 1) / size * made.encoded_bytes(count)
        frames = 2 * (size - 1) / size * count * 4 / (256 << 10)
        assert formula < sent < 1.01 * formula + 2 * frames * HEADER
        # Slice by slice: each rank encodes each element once, and decodes that of all others.
        assert encoded >= count * 4 / (256 << 10) and decoded >= encoded


# ---- error feedback ----------------------------------------------------------------------------


def again_and_again(group: collectives.Group, codec: Codec, op: str, algorithm: str) -> float:
    """How far the sum of all results is from what it should be, after what is owed."""
    count, rounds = 20_000, 12
    inputs = given(group, count, "f4")
    total = np.zeros(count)
    residual = np.zeros(count, np.float32)
    how: dict[str, Any] = {"codec": codec, "algorithm": algorithm, "timeout": DEADLINE}
    if codec.error_feedback:
        how["residual"] = residual
    for _ in range(rounds):
        total += group.all_reduce(inputs[group.rank].copy(), op, **how).value
    owed = residual.copy()
    group.all_reduce(owed, op, timeout=DEADLINE)
    wanted = rounds * sum(array.astype("f8") for array in inputs)
    wanted /= group.size if op == "avg" else 1
    return float(np.abs(total + owed - wanted).max())


@pytest.mark.parametrize("op", ["sum", "avg"])
@pytest.mark.parametrize("algorithm", ["direct", "ring"])
def test_with_error_feedback_nothing_is_lost_for_ever(pool, algorithm, op):
    coded = Codec("int4", error_feedback=True)
    for off in pool.get(3, again_and_again, coded, op, algorithm):
        assert off < 1e-3
    for off in pool.get(3, again_and_again, Codec("int4"), op, algorithm):
        assert off > 0.1  # so the check above can fail


def given_up(group: collectives.Group, count: int) -> None:
    codec = Codec("int4", error_feedback=True)
    residual = data_of(group.name, count, 7)
    array = data_of(group.name, count, 0)
    before = residual.copy(), array.copy()
    if group.rank > 0:
        with pytest.raises(collectives.Timeout):
            group.all_reduce(array, codec=codec, residual=residual, timeout=0.3)
    else:  # never calls it
        with pytest.raises(collectives.Timeout):
            group.all_reduce(np.ones(1), tag=1, timeout=DEADLINE)
    assert residual.tobytes() == before[0].tobytes() and array.tobytes() == before[1].tobytes()
    group.sync(timeout=DEADLINE)
    group.all_reduce(array, codec=codec, residual=residual, timeout=DEADLINE)
    assert residual.tobytes() != before[0].tobytes()
    assert np.abs(residual).max() < np.abs(before[0]).max()  # what is lost of one encoding


def test_a_residual_is_as_before_if_the_operation_fails(pool):
    for count in (100, 200_000):
        pool.get(3, given_up, count)


def left_alone(group: collectives.Group, folder: str) -> None:
    """Rank 0 encodes in the first attempt, and not in the second, which it makes alone."""
    codec = Codec("int4", error_feedback=True)
    residual = data_of(group.name, LARGE, 7)
    array = data_of(group.name, LARGE, 0)
    before = residual.copy(), array.copy()
    if group.rank == 1:
        arm(group, "reduce_scatter", folder)
    result = group.all_reduce(array, codec=codec, residual=residual, timeout=DEADLINE)
    assert result.contributors == (group.name,)
    assert residual.tobytes() == before[0].tobytes() and array.tobytes() == before[1].tobytes()


@pytest.mark.parametrize("transport", ["auto", "tcp"])
def test_what_an_attempt_that_did_not_count_has_lost_is_not_owed(mortals, transport, tmp_path):
    members = mortals.band(2, {"transport": transport})
    for member in members:
        member.start(left_alone, str(tmp_path))
    assert members[1].result().error == "Died"
    members[0].result().get()
    mortals.disband(members[:1])


def in_a_step(group: collectives.Group) -> None:
    codec = Codec("int8", error_feedback=True)
    residual = np.zeros(1000, np.float32)
    array = data_of(group.name, 1000, 0)
    try:
        with group.step():
            group.all_reduce(array, codec=codec, residual=residual, timeout=DEADLINE)
            assert residual.any()
            raise ValueError("enough")
    except ValueError:
        pass
    assert not residual.any()
    assert array.tobytes() == data_of(group.name, 1000, 0).tobytes()


def test_a_step_that_fails_takes_the_residual_back(pool):
    pool.get(2, in_a_step)


# ---- levels, and large ones --------------------------------------------------------------------


def by_levels(group: collectives.Group, count: int) -> tuple[bytes, dict[str, int]]:
    inputs = given(group, count, "f4")
    array = inputs[group.rank].copy()
    residual = np.zeros(count, np.float32)
    codec = Codec("int8", error_feedback=True)
    for _ in range(2):
        array[:] = inputs[group.rank]
        work = group.all_reduce_async(
            array, "avg", codec=codec, residual=residual, timeout=DEADLINE
        )
        work.wait()
        exact = sum(one.astype("f8") for one in inputs) / len(inputs)
        assert np.abs(array - exact).max() < 0.1
    return array.tobytes(), {use.peer: use.sent_bytes for use in work.telemetry().links}


@pytest.mark.parametrize("transport", ["tcp", "shm"])
@pytest.mark.parametrize(
    "places",
    [
        ((0, 0, 1, 1),),
        ((0, 1, 0, 1, 2),),
        ((0, 1, 2, 3, 4, 4),),
        ((0, 0, 1, 2, 3, 3), (0, 0, 0, 0, 1, 1)),
    ],
    ids=str,
)
def test_with_levels_what_goes_between_the_outermost_groups_is_encoded(places, transport):
    size, count = len(places[0]), 400_000
    options = {"transport": transport}
    with Crew(size, options, {"places": places}, joiner="levelled:join") as crew:
        found = crew.get(by_levels, count)
        order = crew.get(names)[0]
        assert len({value for value, _ in found}) == 1
        near = far = 0
        for rank, (_, sent) in enumerate(found):
            for peer, size_of in sent.items():
                if places[-1][rank] == places[-1][order.index(peer)]:
                    near += size_of
                else:
                    far += size_of
        # From each outer group but one its sum, and back: of a segment each way.
        groups = len(set(places[-1]))
        crossing = 2 * (groups - 1) * Codec("int8").encoded_bytes(count)
        assert 0.99 * crossing < far < 1.05 * crossing
        assert near > count * 4


def scattered(group: collectives.Group, count: int) -> dict[str, int]:
    """A reduce_scatter of uneven blocks whose owner is near to some; the bytes to each peer."""
    inputs, rank, size = given(group, count, "f4"), group.rank, group.size
    counts = [count // size + 7 * r for r in range(size - 1)]
    counts.append(count - sum(counts))
    begin = sum(counts[:rank])
    work = group.reduce_scatter_async(
        inputs[rank], "avg", counts=counts, codec="int8", timeout=DEADLINE
    )
    value = work.wait().value
    exact = sum(one[begin : begin + counts[rank]].astype("f8") for one in inputs) / size
    assert 0 < np.abs(value - exact).max() < 0.1
    return {use.peer: use.sent_bytes for use in work.telemetry().links}


@pytest.mark.parametrize("transport", ["tcp", "shm"])
def test_a_reduce_scatter_over_levels_is_encoded_where_it_leaves_a_group(transport):
    places, count = (0, 1, 0, 1, 0), 400_000
    how = {"places": (places,)}
    with Crew(5, {"transport": transport}, how, joiner="levelled:join") as crew:
        order = crew.get(names)[0]
        far = 0
        for rank, sent in enumerate(crew.get(scattered, count)):
            far += sum(n for peer, n in sent.items() if places[rank] != places[order.index(peer)])
        crossing = Codec("int8").encoded_bytes(count)  # each block to its owner's group, once
        assert 0.98 * crossing < far < 1.06 * crossing


NONE, CALL = LEVEL_CODECS["none"], LEVEL_CODECS["call"]


@pytest.mark.parametrize(
    ("settings", "from_level"),
    [
        ((), 2),
        (((0, 0, NONE), (0, 0, CALL)), 1),
        (((0, 0, CALL),), 0),
        (((0, 0, 0), (0, 0, 0), (0, 0, NONE)), 3),
    ],
    ids=str,
)
def test_a_table_says_from_which_level_on_what_passes_is_encoded(settings, from_level):
    places, count = ((0, 0, 1, 1, 2, 2), (0, 0, 0, 0, 1, 1)), 400_000
    how = {"places": places, "settings": settings}
    with Crew(6, None, how, joiner="levelled:join") as crew:
        found = crew.get(by_levels, count)
        order = crew.get(names)[0]
        assert len({value for value, _ in found}) == 1
        passed = [0, 0, 0]
        for rank, (_, sent) in enumerate(found):
            for peer, bytes_sent in sent.items():
                other = order.index(peer)
                passed[sum(level[rank] != level[other] for level in places)] += bytes_sent
        # Each group but one sends its sum, and gets that of all.
        for level, pairs in enumerate((3, 1, 1)):
            coded = level >= from_level
            size = Codec("int8").encoded_bytes(count) if coded else count * 4
            assert 0.99 * 2 * pairs * size < passed[level] < 1.06 * 2 * pairs * size, level


def resumed(group: collectives.Group, count: int) -> bytes:
    inputs = given(group, count, "f4")
    result = group.all_reduce(
        inputs[group.rank], codec="int8", on_failure="resume", timeout=DEADLINE
    )
    exact = sum(data_of(name, count, 0).astype("f8") for name in names(group))
    assert np.abs(result.value - exact).max() < 0.2
    return result.value.tobytes()


def test_a_large_one_can_be_resumed_in_parts(pool):
    found = pool.get(2, resumed, 5 << 20)
    assert found[0] == found[1]


# ---- deaths ------------------------------------------------------------------------------------


def deaths() -> Iterator[Case]:
    phases = {
        TINY: ("issued", "reduce_scatter", "between", "all_gather", "complete"),
        SMALL: ("issued", "reduce_scatter", "between", "all_gather", "complete"),
        LARGE: ("issued", "reduce_scatter", "between", "all_gather", "complete", "tokens"),
    }
    for size in (2, 3, 5):
        for count in phases:
            for codec in ("int8", "mxint8"):
                for in_place in (True, False):
                    for on_failure in ("retry", "raise"):
                        for transport in ("auto", "tcp"):
                            for victim in {0, size - 1}:
                                for phase in phases[count]:
                                    call = Call(
                                        "all_reduce",
                                        count,
                                        in_place=in_place,
                                        on_failure=on_failure,
                                        codec=codec,
                                    )
                                    yield Case(size, call, ((victim, phase),), transport=transport)


def factors(case: Case) -> tuple[Any, ...]:
    (victim, phase), *_ = case.victims
    call = case.call
    how = call.codec, call.in_place, call.on_failure, case.transport
    return case.size, call.count, *how, victim == 0, phase


SOME = covering(random.Random(1).sample(list(deaths()), 200), factors)


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, id=str(c), marks=() if c in SOME else pytest.mark.full) for c in deaths()],
)
def test_survivors_of_a_quantized_reduction_agree(mortals, case):
    mortals.run(case)


# ---- bad input ---------------------------------------------------------------------------------

F4 = np.ones(100, np.float32)
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("all_reduce", {"codec": "int9"}, "there is no codec 'int9'"),
    ("all_reduce", {"codec": "int8", "op": "max"}, "for sums and averages, not for max"),
    ("all_reduce", {"codec": "int8", "op": "min"}, "for sums and averages, not for min"),
    ("all_reduce", {"codec": "int8", "op": "prod"}, "for sums and averages, not for prod"),
    ("all_reduce", {"codec": "int8", "array": np.ones(9, np.int32)}, "not for i32"),
    (
        "all_reduce",
        {"codec": "int8", "algorithm": "doubling"},
        "'doubling' carries nothing encoded",
    ),
    ("all_reduce", {"codec": "int8", "algorithm": "whole"}, "'whole' carries nothing encoded"),
    ("all_reduce", {"residual": F4.copy()}, "residual without a codec"),
    ("all_reduce", {"codec": "int8", "residual": F4.copy()}, "is for a codec with error_feedback"),
    ("all_reduce", {"codec": Codec("int8", error_feedback=True)}, "needs residual="),
    (
        "all_reduce",
        {"codec": Codec("int8", error_feedback=True), "residual": np.zeros(99, np.float32)},
        "residual has 99 elements of f32; it needs 100",
    ),
    (
        "all_reduce",
        {"codec": Codec("int8", error_feedback=True), "residual": np.zeros(100)},
        "residual has 100 elements of f64",
    ),
]


def refuse(group: collectives.Group) -> None:
    for kind, how, says in REFUSED:
        how = dict(how)
        array = how.pop("array", F4).copy()
        before = array.tobytes()
        with pytest.raises(collectives.CollectiveError, match=says) as caught:
            getattr(group, kind)(array, **how)
        assert isinstance(caught.value, (collectives.InvalidArgument, collectives.UnsupportedError))
        assert array.tobytes() == before
    array = np.ones(100, np.float32)
    group.all_reduce(array, timeout=DEADLINE)  # nothing was sent, and the group is whole
    assert (array == group.size).all()


def test_what_takes_no_codec_is_refused(pool):
    pool.get(2, refuse)


def differ(group: collectives.Group, codecs: list[Any], count: int) -> str:
    codec = codecs[group.rank]
    how = {"codec": codec} if codec else {}
    with pytest.raises(collectives.MismatchError) as caught:
        group.all_reduce(np.ones(count, np.float32), timeout=DEADLINE, **how)
    return str(caught.value)


@pytest.mark.parametrize(
    ("codecs", "says"),
    [
        (["int8", None], "codec=int8 block=32 symmetric"),
        (["int8", "int4"], "codec=int4 block=32 symmetric"),
        ([Codec("int8", block=64), "int8"], "codec=int8 block=64 symmetric"),
        ([Codec("int8", hadamard=128), "int8"], "hadamard=128"),
        ([Codec("int8", scale="bf16"), "int8"], "scale=bf16"),
        ([Codec("mxint8", rounding="stochastic"), "mxint8"], "codec=mxint8 block=32 stochastic"),
    ],
    ids=str,
)
def test_ranks_with_different_codecs_are_told(pool, codecs, says):
    for count in (100, 300_000):
        for message in pool.get(2, differ, codecs, count):
            assert says in message, message
