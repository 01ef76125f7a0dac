"""Peers that commit their views with a topology that the test gives.

    with Crew(5, joiner="levelled:join", join={"places": ((0, 0, 1, 1, 1),)}) as crew:
        ...

It is of the ranks of the first view; later ones that are synced into have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import crew
import prover
from collectives._native import ffi, lib
from collectives._native.engine import EngineGroup, Topology


def join(_: None, address: str, arguments: dict[str, Any], options: dict[str, Any]) -> int:
    """``crew.join``, with ``places``, ``choices`` and ``settings`` among the arguments."""
    with_topology(*(arguments.pop(name, ()) for name in ("places", "choices", "settings")))
    return crew.join(None, address, arguments, options)


def summed(places: Sequence[Sequence[int]], arrays: Sequence[np.ndarray]) -> np.ndarray:
    """What the hierarchical all_reduce makes of the ranks' arrays, without dimensions, in bits."""
    size = len(arrays)
    kept = ffi.new("uint32_t[]", [place for level in places for place in level])
    topology = ffi.new("struct coll_topology *", {"levels": len(places), "places": kept})
    plan, info = ffi.new("struct coll_plan **"), ffi.new("struct coll_plan_info *")
    kind = lib.COLL_ALL_REDUCE
    assert not lib.coll_plan_make(kind, lib.COLL_HIERARCHICAL, 0, size, 0, topology, plan)
    lib.coll_plan_get_info(plan[0], info)
    lib.coll_plan_free(plan[0])
    task = prover.hierarchical(places, size, info.segments).task("all_reduce", size)
    parts = zip(*(np.array_split(array, task.segments) for array in arrays), strict=True)
    order = task.order or prover.Task.canonical
    return np.concatenate(
        [
            task.expressions.evaluate(order(task, segment), part, np.add)
            for segment, part in enumerate(parts)
        ]
    )


def with_topology(
    places: Sequence[Sequence[int]],
    choices: Sequence[tuple[int, int, int]] = (),
    settings: Sequence[tuple[int, int, int]] = (),
) -> None:
    """Have the views of this process that are committed from now on be like that."""
    topology = Topology(
        tuple(tuple(level) for level in places), tuple(choices), tuple(map(tuple, settings))
    )
    plain = getattr(EngineGroup, "_plain_commit", EngineGroup.commit)

    def commit(self: EngineGroup, *view: Any) -> None:
        fits = all(len(level) == self._prepared for level in topology.places)
        plain(self, *view[:3], topology if fits else None)

    EngineGroup._plain_commit = plain  # type: ignore[attr-defined]
    EngineGroup.commit = commit  # type: ignore[method-assign]
