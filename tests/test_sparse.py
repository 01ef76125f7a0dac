"""Sums of the greatest elements: the same bits everywhere, and what failures leave (G1, G2, G8)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

import collectives
from collectives.codec import Codec
from crew import DEADLINE
from mortals import Mortals
from pool import Pool

SEED = random.SystemRandom().randrange(2**32)
COUNT = 100_003
SIZE = 3
CODEC = Codec("topk", keep=40)
FEEDBACK = Codec("topk", keep=40, error_feedback=True)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(SIZE) as pool:
        yield pool


@pytest.fixture(scope="module")
def mortals() -> Iterator[Mortals]:
    with Mortals() as mortals:
        yield mortals


@pytest.fixture(autouse=True)
def say_the_seed() -> None:
    print(f"seed {SEED}")


def given(seed: int, rank: int, count: int = COUNT) -> np.ndarray:
    return np.random.default_rng([seed, rank]).standard_normal(count).astype(np.float32)


def added(inputs: Sequence[np.ndarray], op: str = "sum", codec: Codec = CODEC) -> np.ndarray:
    """What all ranks must have, by the scalar kernels."""
    total = np.zeros(inputs[0].size, np.float32)
    for one in inputs:
        wide = one.reshape(-1).astype(np.float32)
        codec.decode_add(codec.encode(wide, isa="scalar"), total, isa="scalar")
    return total / np.float32(len(inputs)) if op == "avg" else total


# ---- values --------------------------------------------------------------------------------------


def same_bits(group: collectives.Group, seed: int) -> None:
    inputs = [given(seed, rank) for rank in range(group.size)]
    for op in ("sum", "avg"):
        for dtype in (np.float32, np.float64, np.float16):
            array = inputs[group.rank].astype(dtype)
            result = group.all_reduce(array, op, codec=CODEC)
            want = added([one.astype(dtype) for one in inputs], op).astype(dtype)
            assert array.tobytes() == want.tobytes() and result.value is array
            assert result.contributors == tuple(peer.name for peer in group.peers)
            payload = CODEC.encoded_bytes(COUNT)
            assert payload <= result.wire_bytes / max(group.size - 1, 1) < payload + 1000
    want = added(inputs)
    out = np.zeros((COUNT, 2), np.float32)[:, 0]
    group.all_reduce(inputs[group.rank].copy(), out=out, codec=CODEC, algorithm="ring")
    assert np.array_equal(out, want)
    mine = inputs[group.rank].copy()
    parts = [mine[:1000], mine[1000:2000].reshape(10, 100), mine[2000:]]
    group.all_reduce(parts, codec=CODEC)
    assert mine.tobytes() == want.tobytes()
    scaled = inputs[group.rank] * np.float32(0.5)
    group.all_reduce(array := inputs[group.rank].copy(), collectives.scaled_sum(0.5), codec=CODEC)
    want = added([one * np.float32(0.5) for one in inputs])
    assert array.tobytes() == want.tobytes() and scaled.shape == array.shape
    for count in (0, 1, 4096, 4097):
        array = given(seed, group.rank, count)
        group.all_reduce(array, codec=CODEC)
        assert (
            array.tobytes() == added([given(seed, r, count) for r in range(group.size)]).tobytes()
        )


def later(group: collectives.Group, seed: int) -> None:
    inputs = [given(seed, rank) for rank in range(group.size)]
    arrays = [inputs[group.rank] * k for k in (1, 2, 4)]
    works = [group.all_reduce_async(array, codec=CODEC, tag=3) for array in arrays]

    async def one() -> collectives.Result:
        return await works[2]

    assert asyncio.run(one()).value is arrays[2]
    for work in works[:2]:
        assert work.wait() is work.wait()
    for array, k in zip(arrays, (1, 2, 4), strict=True):
        assert array.tobytes() == added([one * k for one in inputs]).tobytes()


def tensors(group: collectives.Group, seed: int) -> None:
    import torch

    inputs = [torch.from_numpy(given(seed, rank)).to(torch.bfloat16) for rank in range(group.size)]
    tensor = inputs[group.rank].clone()
    group.all_reduce(tensor, "avg", codec=CODEC)
    want = torch.from_numpy(added([one.float().numpy() for one in inputs], "avg"))
    assert torch.equal(tensor, want.to(torch.bfloat16))


FULL = pytest.mark.full  # importing torch takes longer than all others here
WHAT = [same_bits, later, pytest.param(tensors, marks=FULL)]


@pytest.mark.parametrize("what", WHAT)
def test_all_ranks_have_the_sum_of_what_each_has_encoded(pool: Pool, what: Any):
    pool.get(SIZE, what, SEED)


def owed(group: collectives.Group, seed: int) -> None:
    residual = np.zeros(COUNT, np.float32)
    theirs = [np.zeros(COUNT, np.float32) for _ in range(group.size)]
    sums = np.zeros((2, COUNT))
    for turn in range(30):
        inputs = [given(seed + turn, rank) for rank in range(group.size)]
        array = inputs[group.rank].copy()
        group.all_reduce(array, codec=FEEDBACK, residual=residual)
        due = [one + left for one, left in zip(inputs, theirs, strict=True)]
        assert array.tobytes() == added(due).tobytes()
        theirs = [one - CODEC.decode(CODEC.encode(one), COUNT) for one in due]
        assert residual.tobytes() == theirs[group.rank].tobytes()
        sums += [array, np.sum(inputs, 0)]
    # What has come is what was put in, but for what is still owed.
    assert np.allclose(sums[0] + np.sum(theirs, 0), sums[1], atol=1e-3)
    array = given(seed, group.rank)
    array[5] = np.inf
    group.all_reduce(array, codec=FEEDBACK, residual=residual)
    assert np.isfinite(residual).all()


def test_what_an_encoding_leaves_out_comes_later(pool: Pool):
    pool.get(SIZE, owed, SEED)


# ---- what does not work --------------------------------------------------------------------------


def mismatched(group: collectives.Group, kind: str) -> tuple[str, str]:
    odd = group.rank == 1
    array = np.ones(5000, np.float32)
    before, residual = array.copy(), np.full(5000, 0.5, np.float32)
    codec = FEEDBACK
    payload = 16 + CODEC.encoded_bytes(5000)
    try:
        if odd and kind == "codec":
            group.all_reduce(array)
        elif odd and kind == "bytes":
            group.all_gather(np.zeros(payload, np.uint8), resize=True)
        elif odd and kind == "count":
            group.all_reduce(array[:4999], codec=CODEC)
        elif odd and kind == "op":
            group.all_reduce(array, "avg", codec=codec, residual=residual)
        elif odd and kind == "keep":
            group.all_reduce(array, codec=Codec("topk", keep=50))
        else:
            group.all_reduce(array, codec=codec, residual=residual)
        name = message = ""
    except collectives.CollectiveError as error:
        name, message = type(error).__name__, str(error)
    assert np.array_equal(array, before) and (residual == 0.5).all()
    group.sync()
    group.all_reduce(array, codec=CODEC)
    assert array[0] == group.size
    return name, message


@pytest.mark.parametrize("kind", ["codec", "bytes", "count", "op", "keep"])
def test_ranks_that_call_different_things_all_hear_who_called_what(pool: Pool, kind: str):
    said = pool.get(SIZE, mismatched, kind)
    assert {name for name, _ in said} == {"MismatchError"}, said
    for _, message in said:
        assert "(rank 1) called" in message and message.count(") called") > 1, message
        assert "topk" in message, message


def refusals(group: collectives.Group) -> None:
    ones = np.ones(100, np.float32)
    unsupported = collectives.UnsupportedError
    with pytest.raises(unsupported, match="sums and averages of floats, not for max of f32"):
        group.all_reduce(ones, "max", codec=CODEC)
    with pytest.raises(unsupported, match="i32"):
        group.all_reduce(np.ones(100, np.int32), codec="topk")
    with pytest.raises(collectives.InvalidArgument, match="no parts"):
        group.all_reduce(ones, codec=CODEC, on_failure="resume")
    with pytest.raises(collectives.InvalidArgument, match="residual"):
        group.all_reduce(ones, codec=FEEDBACK)
    group.barrier()


def test_what_cannot_be_is_refused_before_anything_is_sent(pool: Pool):
    pool.get(SIZE, refusals)


def in_a_step(group: collectives.Group, seed: int) -> None:
    array, residual = given(seed, group.rank), np.ones(COUNT, np.float32)
    with group.step() as step:
        group.all_reduce_async(array, codec=FEEDBACK, residual=residual)
    assert step.contributors == tuple(peer.name for peer in group.peers)
    assert not np.array_equal(array, given(seed, group.rank))
    array, kept = given(seed, group.rank), residual.copy()
    try:
        with group.step():
            group.all_reduce(array, codec=FEEDBACK, residual=residual)
            if group.rank == 1:
                raise RuntimeError("a mistake")
    except (RuntimeError, collectives.Cancelled):
        pass
    assert array.tobytes() == given(seed, group.rank).tobytes()
    assert residual.tobytes() == kept.tobytes()
    group.sync()


def test_it_is_one_of_the_reductions_of_a_step(pool: Pool):
    pool.get(SIZE, in_a_step, SEED)


# ---- deaths --------------------------------------------------------------------------------------


def lose(group: collectives.Group, phase: str, how: str, seed: int) -> tuple[Any, ...]:
    """Rank 1 dies."""
    names, rank = [peer.name for peer in group.peers], group.rank
    if rank == 1:
        group._fault_at(phase, group._native.last_operation() + 1)
    mine = given(seed, rank)
    array, residual = mine.copy(), np.zeros(COUNT, np.float32)
    try:
        result = group.all_reduce(
            array, "avg", codec=FEEDBACK, residual=residual, on_failure=how, timeout=DEADLINE
        )
        among = [given(seed, names.index(name)) for name in result.contributors]
        assert array.tobytes() == added(among, "avg").tobytes()
        lost = mine - CODEC.decode(CODEC.encode(mine), COUNT)
        assert residual.tobytes() == lost.tobytes()
        outcome = ("ok", tuple(names), result.contributors)
    except collectives.CollectiveError as error:
        assert array.tobytes() == mine.tobytes(), "the input is as it was"
        assert not residual.any()
        outcome = (type(error).__name__, tuple(names), getattr(error, "peer", ""))
        group.sync(timeout=DEADLINE)
    after = np.ones(10)
    group.all_reduce(after, timeout=DEADLINE)
    assert (after == SIZE - 1).all()
    return outcome


@pytest.mark.parametrize("how", ["retry", "raise"])
@pytest.mark.parametrize("phase", ["issued", "all_gather", "complete"])
def test_survivors_have_the_sum_of_the_same_contributors(mortals: Mortals, phase: str, how: str):
    members = mortals.band(SIZE)
    for member in members:
        member.start(lose, phase, how, SEED)
    outcomes = [member.result() for member in members]
    assert outcomes[1].error == "Died", outcomes[1].trace
    members.pop(1).process.close()
    outcomes.pop(1)
    got = {outcome.get() for outcome in outcomes}
    mortals.disband(members)
    assert len(got) == 1, got
    [(what, names, who)] = got
    survivors = (names[0], names[2])
    if phase == "issued" and how == "raise":
        assert (what, who) == ("PeerLost", names[1])
    elif how == "retry":
        assert what == "ok" and set(who) >= set(survivors)
    else:  # it may stand
        assert what == "ok" or (what, who) == ("PeerLost", names[1])
