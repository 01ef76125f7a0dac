"""DiLoCo while members die: the round goes on with those who are left, who hold the same state."""

from __future__ import annotations

import itertools
import os
import signal

import numpy as np
import pytest
import torch
from torch import nn

import collectives
from collectives.codec import Codec
from collectives.diloco import DiLoCo
from crew import DEADLINE
from test_deaths import crew_of

ROUNDS = 3


class Two(nn.Module):
    """Parameters of two dtypes, so that a round has two reductions."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Parameter(torch.zeros(30_000))
        self.wide = nn.Parameter(torch.zeros(30_000, dtype=torch.float64))


def bit(name: str) -> int:
    return 1 << int(name.removeprefix("p"))


def train(
    group: collectives.Group, fault: tuple[int, str, int] | None, journal: str, rounds: int = ROUNDS
) -> list[tuple[str, int, float, float]]:
    """Rounds in each of which a peer moves all its parameters by its bit.

    Args:
        fault: dies at the how-manieth operation of which round, in which phase; round 0 is the
            sharing of the state.

    Returns:
        Of each round: digest, size, and what the parameters have become.
    """
    module = Two()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += group.rank  # rank 0 gives its values to all
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)

    def arm(number: int) -> None:
        if fault is not None and fault[0] == number:
            fd = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            group._fault_at(fault[1], group._native.last_operation() + fault[2], journal_fd=fd)

    arm(0)
    diloco = DiLoCo(
        module, optimizer, group, inner_steps=1, outer_lr=1.0, outer_momentum=0.0, nesterov=False
    )
    done = []
    while diloco.round < rounds:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter += bit(group.name)
        arm(diloco.round + 1)
        record = diloco.step()
        assert record is not None
        single, double = module.narrow[0].item(), module.wide[0].item()
        assert (module.narrow == single).all() and (module.wide == double).all()
        done.append((record.digest, record.size, single, double))
    return done


def average(indices: list[int]) -> float:
    return sum(1 << index for index in indices) / len(indices)


# A round's operations: 1 and 2 the two blocks, 3 and more the sync.
@pytest.mark.parametrize(
    ("operation", "phase"),
    [(1, "reduce_scatter"), (1, "all_gather"), (1, "complete"), (2, "issued"), (2, "tokens")],
)
def test_the_survivors_finish_the_round_with_the_average_of_one_set_of_peers(
    operation, phase, tmp_path
):
    journal = tmp_path / "journal"
    with crew_of(3, modules=("torch",)) as crew:
        *staying, victim = crew.members
        for member in crew.members:
            fault = (2, phase, operation) if member is victim else None
            member.start(train, fault, str(journal))
        assert victim.process.wait(DEADLINE) == -signal.SIGKILL
        assert journal.read_text()
        crew.members = staying
        first, second = (member.result().get() for member in staying)
        assert first == second
        everybody = [member.index for member in (*staying, victim)]
        left = [member.index for member in staying]
        expected = average(everybody)
        assert first[0][1:] == (3, pytest.approx(expected), pytest.approx(expected))
        # Those of a finished operation may count the dead, but then all of the round does.
        size, single, double = first[1][1:]
        assert size == (3 if double - expected > average(left) + 1e-6 else 2) or operation == 2
        expected += average(everybody if size == 3 else left)
        assert (single, double) == (pytest.approx(expected), pytest.approx(expected))
        expected += average(left)
        assert first[2][1:] == (2, pytest.approx(expected), pytest.approx(expected))


def train_coded(
    group: collectives.Group, codec: Codec, fault: tuple[int, str, int] | None, journal: str
) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Rounds in each of which a peer moves its parameters as it likes.

    Returns:
        The digests of the rounds; Θ at last, the residual, and all moves together.
    """
    module = nn.Linear(300, 100, bias=False)
    nn.init.zeros_(module.weight)
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    diloco = DiLoCo(
        module, optimizer, group, inner_steps=1, outer_lr=1.0, outer_momentum=0.0, codec=codec
    )
    digests = []
    moved = np.zeros((100, 300))
    while diloco.round < ROUNDS:
        generator = np.random.default_rng([diloco.round, *group.name.encode()])
        move = generator.standard_normal((100, 300), np.float32)
        if fault is not None and fault[0] == diloco.round + 1:
            fd = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            group._fault_at(fault[1], group._native.last_operation() + fault[2], journal_fd=fd)
        with torch.no_grad():
            module.weight += torch.from_numpy(move)
        moved += move
        record = diloco.step()
        assert record is not None
        digests.append(record.digest)
    state = diloco.state_dict()
    owed = state["residuals"][0].numpy() if "residuals" in state else np.zeros(30_000)
    diloco.load_state_dict(state)
    assert diloco.digest() == digests[-1]
    return digests, state["theta"]["weight"].numpy(), owed.reshape(100, 300), moved


CODED = [Codec("int8"), Codec("e3m0", error_feedback=True)]
PHASES = ("reduce_scatter", "all_gather", "tokens")
FEW = {(CODED[0], "all_gather"), (CODED[1], "reduce_scatter")}


@pytest.mark.parametrize(
    ("codec", "phase"),
    [
        pytest.param(*case, marks=() if case in FEW else pytest.mark.full)
        for case in itertools.product(CODED, PHASES)
    ],
    ids=str,
)
def test_the_survivors_of_a_quantized_round_hold_the_same_state(codec, phase, tmp_path):
    journal = tmp_path / "journal"
    with crew_of(3, modules=("torch",)) as crew:
        *staying, victim = crew.members
        for member in crew.members:
            fault = (2, phase, 1) if member is victim else None
            member.start(train_coded, codec, fault, str(journal))
        assert victim.process.wait(DEADLINE) == -signal.SIGKILL
        assert journal.read_text()
        crew.members = staying
        first, second = (member.result().get() for member in staying)
        assert first[0] == second[0] and len(set(first[0])) == ROUNDS


def test_with_error_feedback_rounds_lose_nothing():
    with crew_of(2, modules=("torch",)) as crew:
        for codec, most in (
            (Codec("int4", error_feedback=True), 1e-4),
            (Codec("topk", keep=400, error_feedback=True), 1e-4),
            (Codec("int4"), np.inf),
        ):
            found = crew.get(train_coded, codec, None, "")
            theta, moved = found[0][1], (found[0][3] + found[1][3]) / 2
            owed = (found[0][2] + found[1][2]) / 2
            off = np.abs(theta - owed - moved).max()  # pseudo-gradients point backwards
            assert off < most and (most < 1 or off > 0.1)


def share_again(
    group: collectives.Group, operation: int, phase: str, journal: str
) -> tuple[int, str, bool]:
    """A round; then the last rank begins anew, and rank 0 dies while it gets the state.

    Returns:
        The number of rounds, the digest, and whether the call had to be repeated.
    """

    def make() -> DiLoCo:
        module = Two()
        optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
        return DiLoCo(module, optimizer, group, inner_steps=1)

    diloco = make()
    diloco.step()
    rank = group.rank
    if rank == 0:
        fd = os.open(journal, os.O_WRONLY | os.O_CREAT)
        group._fault_at(phase, group._native.last_operation() + operation, journal_fd=fd)
    repeated = False
    while True:
        try:
            if rank == 2 and diloco.round == 1 and not repeated:
                diloco = make()  # a newcomer: it has no rounds, and its own parameters
            else:
                diloco.share()
        except collectives.PeerLost:
            assert not repeated
            repeated = True
            group.sync(timeout=DEADLINE)
            if rank == 2:
                diloco = make()
                break
            continue
        break
    return diloco.round, diloco.digest(), repeated


@pytest.mark.parametrize(
    ("operation", "phase", "repeated"),
    # A small reduction is one exchange: who dies in it has sent what the others need, and is missed
    # in what comes next.
    [(1, "reduce_scatter", True), (1, "issued", False), (3, "issued", True)],
)
def test_the_state_is_that_of_a_peer_that_has_it_though_the_ranks_change_meanwhile(
    operation, phase, repeated, tmp_path
):
    with crew_of(3, modules=("torch",)) as crew:
        victim, *staying = crew.members
        for member in crew.members:
            member.start(share_again, operation, phase, str(tmp_path / "journal"))
        assert victim.process.wait(DEADLINE) == -signal.SIGKILL
        crew.members = staying
        first, second = (member.result().get() for member in staying)
        assert first == second
        assert first[0] == 1, "the round that was done is lost"
        assert first[2] == repeated
