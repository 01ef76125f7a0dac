"""Why an operation is carried out as it is: its plan in rounds, its time, and the alternatives.

Called by ``collectives explain``, which prints and draws what is found here.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from collectives.errors import UnsupportedError
from collectives.topology.model import Graph, Prediction
from collectives.topology.network import Network
from collectives.topology.plans import Plan, algorithms, choose, limit, plan_of
from collectives.topology.table import LevelRow, Table


@dataclasses.dataclass(frozen=True)
class Alternative:
    """Another algorithm: its time in seconds, or None if it is not for so many bytes."""

    algorithm: str
    seconds: float | None


@dataclasses.dataclass(frozen=True, eq=False)
class Explanation:
    """How an operation is carried out.

    Attributes:
        plan: of all ranks.
        bytes: of the larger of a rank's input and output.
        network: that was assumed.
        levels: of the table, as far as there are such.
        reason: why it is this algorithm, as a sentence.
        seconds: that it takes by the model.
        bound: what these are the time of.
        alternatives: the quickest first.
        rounds: of each message of the plan the round in which it travels, from 1: one more than
            the longest chain of messages that come before it has.
    """

    plan: Plan
    bytes: int
    network: Network
    levels: tuple[LevelRow, ...]
    reason: str
    seconds: float
    bound: str
    alternatives: tuple[Alternative, ...]
    rounds: np.ndarray[Any, np.dtype[np.int64]]


def explain(
    kind: str,
    nbytes: int,
    size: int,
    network: Network,
    *,
    root: int = 0,
    algorithm: str | None = None,
    table: Table | None = None,
) -> Explanation:
    """Return how an operation is carried out, and why.

    Args:
        kind: ``"all_reduce"``, ``"broadcast"`` ...
        nbytes: of the larger of a rank's input and output.
        size: how many ranks.
        network: between them.
        root: of operations that have one.
        algorithm: that the call asks for; None: none.
        table: of the view; None: it has none.

    Raises:
        InvalidArgument: there is no such operation or algorithm, or the network is of other ranks.
        UnsupportedError: the algorithm does not do this operation, or not of so many bytes.
    """
    known = algorithms(kind)
    row = None if table is None else table.algorithm(kind, nbytes)
    usual = choose(kind, nbytes, size, network.places, local=network.local)
    chosen = algorithm or row or usual
    levels = () if table is None else table.levels[: len(network.places) + 1]
    plans = [level.plan for level in levels]
    plan = plan_of(kind, chosen, size, network.places, root, plans)
    if nbytes > limit(chosen):
        able = ", ".join(name for name in known if nbytes <= limit(name))
        raise UnsupportedError(
            f"algorithm {chosen!r} is for up to {limit(chosen)} bytes, and here are {nbytes};"
            f" choose from {able}"
        )
    graph = Graph(plan)
    made = Prediction(plan, network, graph)
    others = []
    for name in known:
        if name != chosen and nbytes <= limit(name):
            other = plan_of(kind, name, size, network.places, root, plans)
            others.append(Alternative(name, Prediction(other, network).seconds(nbytes)))
    others.sort(key=lambda one: one.seconds or 0.0)
    others += [Alternative(name, None) for name in known if nbytes > limit(name)]
    one = np.zeros((len(graph.source), 1))
    one[: len(plan.sends)] = 1.0
    before = graph.heads(one, np.zeros((graph.nodes, 1)))[graph.origin, 0]
    why = (
        "asked for"
        if algorithm
        else "by the table"
        if row
        else "by the engine, which has no table here"
    )
    return Explanation(
        plan=plan,
        bytes=nbytes,
        network=network,
        levels=levels,
        reason=f"{why}; {_verdict(made.seconds(nbytes), others)}",
        seconds=made.seconds(nbytes),
        bound=made.bound(nbytes),
        alternatives=tuple(others),
        rounds=before.astype(np.int64) + 1,
    )


def _verdict(seconds: float, others: list[Alternative]) -> str:
    """Return what the model says about the choice."""
    times = [one.seconds for one in others if one.seconds is not None]
    if not times:
        return "there is no other way"
    if min(times) >= 0.99 * seconds:
        return "nothing is quicker by the model"
    return f"by the model {others[0].algorithm} is {seconds / min(times):.3g} times as quick"
