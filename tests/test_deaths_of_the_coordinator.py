"""The coordinator dies, or stands still, in the round about a member's death (G1, G3, G6)."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from mortals import LARGE, SMALL, Case, Mortals
from nursery import Nursery
from rulers import STEPS, Ruler

BACK = 4.0  # seconds from the restart until operations have gone on


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery("mortals", "rulers") as nursery:
        yield nursery


@pytest.mark.parametrize("on_failure", ["retry", "raise"])
@pytest.mark.parametrize("count", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("journal", [True, False], ids=["journal", "no journal"])
@pytest.mark.parametrize("step", STEPS)
def test_no_one_is_lost_with_a_coordinator_that_dies_in_a_round(
    step, journal, count, on_failure, nursery, tmp_path
):
    how: dict[str, Any] = {"journal": str(tmp_path / "j")} if journal else {}
    died = ((2, "all_gather"),)
    with Ruler(nursery, step=step, **how) as ruler, Mortals(ruler) as mortals:

        def restart() -> float:
            ruler.fell()
            ruler.again()
            return time.time()

        case = Case(4, "all_reduce", count, True, on_failure, died, patience=BACK)
        records = mortals.run(case, restart)
        print(f"{max(record.at for record in records):.3f}", records[0].outcome)
        assert ruler.status()["term"] == 2
