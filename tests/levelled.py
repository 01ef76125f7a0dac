"""Peers that commit their views with a topology that the test gives.

    with Crew(5, joiner="levelled:join", join={"places": ((0, 0, 1, 1, 1),)}) as crew:
        ...

It is of the ranks of the first view; later ones that are synced into have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import crew
from collectives._native.engine import EngineGroup, Topology


def join(_: None, address: str, arguments: dict[str, Any], options: dict[str, Any]) -> int:
    """``crew.join``, with ``places`` and ``choices`` among the arguments."""
    with_topology(arguments.pop("places", ()), arguments.pop("choices", ()))
    return crew.join(None, address, arguments, options)


def with_topology(
    places: Sequence[Sequence[int]], choices: Sequence[tuple[int, int, int]] = ()
) -> None:
    """Have the views of this process that are committed from now on be like that."""
    topology = Topology(tuple(tuple(level) for level in places), tuple(choices))
    plain = getattr(EngineGroup, "_plain_commit", EngineGroup.commit)

    def commit(self: EngineGroup, *view: Any) -> None:
        fits = all(len(level) == self._prepared for level in topology.places)
        plain(self, *view[:3], topology if fits else None)

    EngineGroup._plain_commit = plain  # type: ignore[attr-defined]
    EngineGroup.commit = commit  # type: ignore[method-assign]
