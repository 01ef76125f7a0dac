"""Random histories of the whole control plane and its agreement; see ``sim``.

What must hold is asserted in ``sim.checks``. Every history follows from its seed: to see one again,
run ``COLLECTIVES_SEED=<seed> COLLECTIVES_HISTORIES=1`` with ``-k`` and the name of its kind.
"""

from __future__ import annotations

import os

import pytest
from sim.coverage import Coverage
from sim.faults import Chances
from sim.world import World, run_history

BAD = {"loss": 0.1, "repeat": 0.1, "reconnect": 0.05}
KINDS = {
    "a good network": Chances(),
    "a bad network": Chances(**BAD),
    "deaths": Chances(death=0.1),
    "deaths on a bad network": Chances(**BAD, death=0.1),
    "calls that give up": Chances(veto=0.3, mismatch=0.02),
    "calls that give up, and deaths": Chances(
        veto=0.3, mismatch=0.02, death=0.08, loss=0.05, repeat=0.05
    ),
    "processes that stand still": Chances(stop=0.15),
    "programs that hold their lock": Chances(deaf=0.15, death=0.05, veto=0.1),
    "false evidence": Chances(slander=0.05, death=0.03),
    "pairs that cannot talk": Chances(cut=0.05, death=0.03, loss=0.05),
    "a coordinator that dies": Chances(restart=0.3),
    "a coordinator that dies, as peers do": Chances(
        restart=0.3, death=0.08, veto=0.2, loss=0.05, repeat=0.05
    ),
    "a coordinator that forgets": Chances(amnesia=0.2, death=0.05, veto=0.1),
    "all of it": Chances(
        loss=0.05,
        repeat=0.05,
        reconnect=0.03,
        death=0.05,
        stop=0.05,
        deaf=0.05,
        slander=0.02,
        cut=0.02,
        veto=0.1,
        mismatch=0.01,
        restart=0.1,
    ),
}
TOTAL = int(os.environ.get("COLLECTIVES_HISTORIES", "504"))
FIRST = int(os.environ.get("COLLECTIVES_SEED", "0"))
EACH = max(1, TOTAL // len(KINDS))

coverage = Coverage()
done: set[str] = set()


def history(kind: str, seed: int, **options) -> World:
    return run_history(
        seed,
        peers=2 + seed % 4,
        min_size=1 + seed % 3,
        token=b"secret" if seed % 5 == 0 else b"",
        units=seed % 4 == 3,
        wire=seed % 8 == 0,
        chances=KINDS[kind],
        **options,
    )


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
def test_peers_agree_and_nobody_hangs_with(kind):
    print(f"seeds {FIRST} to {FIRST + EACH - 1}")
    run(kind)


def run(kind: str) -> None:
    synced = succeeded = placed = 0
    for seed in range(FIRST, FIRST + EACH):
        checks = history(kind, seed, coverage=coverage).checks
        synced += checks.synced
        succeeded += checks.succeeded
        placed += checks.placed
    assert synced > EACH < succeeded and placed, "histories in which nothing happens prove nothing"
    done.add(kind)


def test_a_history_can_be_replayed_by_its_seed():
    first, second = (history("all of it", 7).lines for _ in "ab")
    assert first == second


@pytest.mark.skipif(TOTAL < 500, reason="too few histories to meet every pair")
def test_every_pair_of_state_and_event_was_met_or_cannot_be():
    for kind in KINDS.keys() - done:
        run(kind)
    print(coverage.table())
    assert not coverage.missed()
    assert not coverage.impossible(), "the list of what cannot be is wrong"
