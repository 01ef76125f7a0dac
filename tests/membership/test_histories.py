"""Random histories of the whole control plane; see ``simulation``. What is asserted is there."""

from __future__ import annotations

import os

import pytest
from simulation import Chances, run_history

# A quick look at every test run; set it to thousands after a change of the machines.
HISTORIES = int(os.environ.get("COLLECTIVES_HISTORIES", "20"))
FIRST = int(os.environ.get("COLLECTIVES_SEED", "0"))

KINDS = {
    "a good network": Chances(),
    "a bad network": Chances(loss=0.1, repeat=0.1, reconnect=0.05),
    "peers that die": Chances(death=0.05),
    "peers that die on a bad network": Chances(loss=0.1, repeat=0.1, reconnect=0.05, death=0.03),
    "a coordinator that dies": Chances(restart=0.2),
    "a coordinator that dies, as peers do": Chances(loss=0.1, repeat=0.1, restart=0.2, death=0.03),
    "pairs that cannot talk": Chances(loss=0.05, repeat=0.1, death=0.02, blocked=0.2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_peers_agree_and_nobody_hangs_with(kind):
    synced = 0
    for seed in range(FIRST, FIRST + HISTORIES):
        world = run_history(
            seed,
            peers=2 + seed % 5,
            min_size=1 + seed % 3,
            token=b"secret" if seed % 2 else b"",
            chances=KINDS[kind],
        )
        synced += world.synced
    assert synced > 2 * HISTORIES, "histories in which nothing happens prove nothing"


def test_a_history_can_be_replayed_by_its_seed():
    first, second = (run_history(7, peers=4, chances=Chances(loss=0.1, death=0.05)) for _ in "ab")
    assert first.lines == second.lines
