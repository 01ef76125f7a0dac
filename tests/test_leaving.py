"""Who leaves has been told of nothing that the others are then not told of (G1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import collectives
from crew import DEADLINE
from fabric import Fabric
from mortals import Mortals, go_on


@pytest.fixture(scope="module")
def mortals() -> Iterator[Mortals]:
    with Mortals() as mortals:
        yield mortals


def call(group: collectives.Group, kind: str) -> tuple[str, ...] | str:
    """The contributors, or the error."""
    array = np.ones(100, np.float32)
    try:
        if kind == "barrier":
            result = group.barrier(timeout=DEADLINE)
        else:
            result = getattr(group, kind)(array, root=0, timeout=DEADLINE)
    except collectives.CollectiveError as error:
        return f"{type(error).__name__}: {error}"
    return result.contributors


def call_and_leave(group: collectives.Group, kind: str) -> Any:
    found = call(group, kind)
    group.leave(timeout=DEADLINE)
    return found


@pytest.mark.parametrize("kind", ["barrier", "reduce", "gather"])
def test_who_leaves_stays_until_the_others_have_been_told(mortals, kind):
    """Nothing gets from rank 1 to rank 2, so neither can know by its own means that all are done,
    as rank 0 does. They ask it; had it gone they could only repeat the call, or raise."""
    with Fabric(3) as fabric:
        members = mortals.band(3, fabric.options())
        fabric.know(mortals.group_of(members))
        for member in members:
            member.start(go_on)
        (everybody,) = {member.result().get() for member in members}
        fabric.cut(1, 2, one_way=True)
        members[0].start(call_and_leave, kind)
        for member in members[1:]:
            member.start(call, kind)
        assert [member.result().get() for member in members] == [everybody] * 3
        fabric.mend()
        mortals.disband(members[1:])
        members[0].process.close()
