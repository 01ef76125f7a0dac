"""Broadcasts and all_gathers that travel packed: the same bits, and the same promises (G1, G8)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import collectives
from collectives import packing
from crew import DEADLINE
from mortals import Mortals
from pool import Pool

SEED = random.SystemRandom().randrange(2**32)
LARGE = 200_000
SIZE = 3


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(SIZE, "torch") as pool:
        yield pool


@pytest.fixture(autouse=True)
def say_the_seed() -> None:
    print(f"seed {SEED}")


def weights(count: int, seed: int, rank: int = 0) -> np.ndarray:
    values = np.random.default_rng([seed, rank]).standard_normal(count) * 0.05
    return values.astype(np.float32)


# ---- values --------------------------------------------------------------------------------------


def copies(group: collectives.Group, seed: int) -> None:
    for root in range(group.size):
        for dtype in (np.float16, np.float32, np.float64, np.int32, np.uint8, np.bool_):
            want = (weights(LARGE, seed, root) * 100).astype(dtype)
            array = want.copy() if group.rank == root else np.zeros_like(want)
            result = group.broadcast(array, root, codec="lossless")
            assert array.tobytes() == want.tobytes() and result.value is array
            assert result.contributors == (group.peers[root].name,) and result.retries == 0
            if root == group.rank and dtype in (np.float16, np.float32):
                assert result.wire_bytes < 0.95 * want.nbytes * (group.size - 1), result
    strange = np.asfortranarray(weights(600, seed).reshape(20, 30)).T[::2, 1:]
    for want in (np.empty((0, 3)), np.array(2.5), weights(7, seed), strange):
        array = want.copy() if group.rank == 1 else np.zeros_like(want).copy("F")
        group.broadcast(array, 1, codec="lossless", tag=5)
        assert np.array_equal(array, want)
    back = np.zeros((40, 60), np.float32)[::2, ::2]  # not in one piece
    group.broadcast(
        weights(600, seed).reshape(20, 30) if group.rank == 0 else back, codec="lossless"
    )
    assert group.rank == 0 or np.array_equal(back, weights(600, seed).reshape(20, 30))


def tensors(group: collectives.Group, seed: int) -> None:
    import torch

    want = torch.from_numpy(weights(LARGE, seed)).to(torch.bfloat16).view(-1, 100)
    tensor = want.clone() if group.rank == 0 else torch.zeros_like(want)
    result = group.broadcast(tensor, codec="lossless")
    assert torch.equal(tensor.view(torch.int16), want.view(torch.int16))
    if group.rank == 0:
        assert result.wire_bytes < 0.75 * 2 * LARGE * (group.size - 1), result
    gathered = group.all_gather(want * (group.rank + 1), codec="lossless").value
    for rank in range(group.size):
        block = gathered[rank * len(want) : (rank + 1) * len(want)]
        assert torch.equal(block, want * (rank + 1))


def blocks(group: collectives.Group, seed: int) -> None:
    rank, size = group.rank, group.size
    want = np.concatenate([weights(LARGE, seed, other) for other in range(size)])
    result = group.all_gather(weights(LARGE, seed, rank), codec="lossless")
    assert result.value.tobytes() == want.tobytes()
    assert result.contributors == tuple(peer.name for peer in group.peers)
    counts = [3 * other for other in range(size)]  # of which one is 0
    mine = weights(3 * rank * 5, seed, rank).reshape(-1, 5)
    out = np.zeros((sum(counts), 5), np.float32)
    value = group.all_gather(mine, out=out, counts=counts, codec="lossless", tag=2).value
    assert value is out
    assert np.array_equal(
        out.ravel(), np.concatenate([weights(15 * r, seed, r) for r in range(size)])
    )
    place = np.zeros((size, 8), np.float32)
    place[rank] = weights(8, seed, rank)
    group.all_gather(place[rank : rank + 1], out=place, codec="lossless")
    assert np.array_equal(place, [weights(8, seed, other) for other in range(size)])


@pytest.mark.parametrize("what", [copies, tensors, blocks])
def test_what_travels_packed_arrives_as_it_was(pool: Pool, what: Any):
    pool.get(SIZE, what, SEED)


def test_a_group_of_one_packs_too(pool: Pool):
    pool.get(1, blocks, SEED)


# ---- calls that do not fit together --------------------------------------------------------------


def mismatched(group: collectives.Group, kind: str) -> tuple[str, str]:
    odd = group.rank == 1
    array = np.ones(1000, np.float32)
    before = array.copy()
    try:
        if kind == "dtype":
            group.broadcast(array.view(np.int32) if odd else array, codec="lossless")
        elif kind == "count":
            group.broadcast(array[:999] if odd else array, codec="lossless")
        elif kind == "plain broadcast":
            group.broadcast(array, codec=None if odd else "lossless")
        elif kind == "plain all_gather":
            group.all_gather(array, codec=None if odd else "lossless")
        elif kind == "blocks":
            group.all_gather(array[:999] if odd else array, codec="lossless")
        elif kind == "counts":
            counts = [1000] * group.size
            group.all_gather(array, counts=counts if odd else None, codec="lossless")
        group.barrier()
    except collectives.CollectiveError as error:
        name, message = type(error).__name__, str(error)
    else:
        name, message = "", ""
    assert np.array_equal(array, before)
    group.sync()
    assert group.all_gather(np.array([group.rank]), codec="lossless").value.tolist() == [0, 1, 2]
    return name, message


KINDS = ["dtype", "count", "plain broadcast", "plain all_gather", "blocks", "counts"]


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_that_call_different_things_all_hear_who_called_what(pool: Pool, kind: str):
    said = pool.get(SIZE, mismatched, kind)
    assert {name for name, _ in said} == {"MismatchError"}, said
    for _, message in said:
        assert "(rank 1) called" in message and message.count(") called") > 1, message
        assert "every rank must make the same calls" in message


def refusals(group: collectives.Group) -> None:
    for call, argument in ((group.broadcast, [np.ones(3)]), (group.all_gather, [np.ones(3)])):
        with pytest.raises((collectives.UnsupportedError, collectives.InvalidArgument)):
            call(argument, codec="lossless")
    for codec in ("int8", "", "zstd"):
        with pytest.raises(collectives.InvalidArgument, match="lossless"):
            group.broadcast(np.ones(3), codec=codec)
    out = [np.ones(3) for _ in range(group.size)]
    with pytest.raises(collectives.UnsupportedError):
        group.all_gather(np.ones(3), out=out, codec="lossless")
    group.barrier()


def test_what_cannot_be_packed_is_refused_before_anything_is_sent(pool: Pool):
    pool.get(SIZE, refusals)


def interrupted(group: collectives.Group) -> str:
    array = np.full(1000, group.rank, np.float32)
    try:
        if group.rank == 1:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(packing.Head, "decode", interrupt)
                group.broadcast(array, codec="lossless")
        else:
            group.broadcast(array, codec="lossless", timeout=DEADLINE)
    except (KeyboardInterrupt, collectives.Cancelled) as error:
        said = str(error)
    assert (array == group.rank).all()
    group.sync()
    return said


def interrupt(data: bytes) -> None:
    raise KeyboardInterrupt


def test_an_interrupt_between_the_two_operations_ends_it_for_all(pool: Pool):
    said = pool.get(SIZE, interrupted)
    assert said[0] == said[2]
    assert "left an operation by KeyboardInterrupt; call sync()" in said[0]


def in_a_step(group: collectives.Group, seed: int) -> None:
    array = weights(1000, seed, group.rank)
    try:
        with group.step():
            group.broadcast(array, codec="lossless")
            assert array.tobytes() == weights(1000, seed, 0).tobytes()
            if group.rank == 1:
                raise RuntimeError("a mistake")
    except (RuntimeError, collectives.Cancelled):
        pass
    assert array.tobytes() == weights(1000, seed, group.rank).tobytes()
    group.sync()


def test_a_step_that_does_not_count_undoes_it(pool: Pool):
    pool.get(SIZE, in_a_step, SEED)


# ---- deaths --------------------------------------------------------------------------------------


def lose(
    group: collectives.Group, kind: str, victim: int, phase: str, ahead: int, seed: int
) -> tuple[Any, ...]:
    """The victim dies at a phase of the first or second of the operations that the call is."""
    names, rank = [peer.name for peer in group.peers], group.rank
    if rank == victim:
        group._fault_at(phase, group._native.last_operation() + ahead)
    mine = weights(LARGE, seed, rank)
    array = mine.copy()
    out = np.zeros((group.size, LARGE), np.float32)
    try:
        if kind == "broadcast":
            result = group.broadcast(array, 0, codec="lossless", timeout=DEADLINE)
            assert array.tobytes() == weights(LARGE, seed, 0).tobytes()
        else:
            result = group.all_gather(
                mine.reshape(1, -1), out=out, resize=kind == "resize", codec="lossless",
                timeout=DEADLINE,
            )  # fmt: skip
            want = [weights(LARGE, seed, names.index(name)) for name in result.contributors]
            assert np.array_equal(result.value, want)
        outcome = ("ok", tuple(names), result.contributors)
    except collectives.CollectiveError as error:
        assert array.tobytes() == mine.tobytes(), "the input is as it was"
        outcome = (type(error).__name__, tuple(names), getattr(error, "peer", ""))
        group.sync(timeout=DEADLINE)
    after = np.ones(10)
    group.all_reduce(after, timeout=DEADLINE)
    assert (after == SIZE - 1).all()
    return outcome


DEATHS = [
    (kind, victim, phase, ahead)
    for kind, victim in (("broadcast", 0), ("broadcast", 1), ("all_gather", 1), ("resize", 1))
    for phase in ("issued", "complete")
    for ahead in (1, 2)
]


@pytest.fixture(scope="module")
def mortals() -> Iterator[Mortals]:
    with Mortals() as mortals:
        yield mortals


@pytest.mark.parametrize(("kind", "victim", "phase", "ahead"), DEATHS)
def test_survivors_agree_when_a_member_dies_in_either_operation(
    mortals: Mortals, kind: str, victim: int, phase: str, ahead: int
):
    members = mortals.band(SIZE)
    for member in members:
        member.start(lose, kind, victim, phase, ahead, SEED)
    outcomes = [member.result() for member in members]
    assert outcomes[victim].error == "Died", outcomes[victim].trace
    members.pop(victim).process.close()
    outcomes.pop(victim)
    got = {outcome.get() for outcome in outcomes}
    mortals.disband(members)
    assert len(got) == 1, got
    [(how, names, who)] = got
    print(kind, victim, phase, ahead, how, who)
    if kind == "broadcast" and victim != 0:
        assert (how, who) == ("ok", names[:1])
    elif kind == "resize":
        assert how == "ok" and set(who) >= set(names) - {names[victim]}
    elif phase == "issued":
        assert (how, who) == ("PeerLost", names[victim])
    else:  # it may stand
        assert how == "ok" or (how, who) == ("PeerLost", names[victim])
