"""How long a plan takes on a network, without running it.

A plan is a graph of steps, and what they need are resources: links, the lines of hosts and sites,
processes. Two things bound its time from below, and the larger one is the prediction:

- the *longest path*: the steps that wait for each other, each message with its latency and the
  transfer of one slice, since a slice goes on as soon as it is in;
- the *busiest resource*: how long until the first slice can get to it, all that it has to carry,
  and the shortest way from there to the end. (It is the bound by which job shops are scheduled:
  J. Carlier, The one-machine sequencing problem, 1982.)

A ring is busy from the first moment, so its second bound is 2(n-1)/n of the buffer over a link; the
last link of a chain stands idle until the first slice has come through all others. Nobody had to
tell the model either: both follow from the steps. What it leaves out: congestion, retransmission,
what processes lose when they outnumber the cores, and caches.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from collectives.errors import InvalidArgument
from collectives.topology.network import Network
from collectives.topology.plans import ALL_SEGMENTS, RECV_REDUCE, REDUCE, SEND, Plan

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# How the engine cuts (native/engine/execute.c): an eighth of what a step moves, within these.
_SLICES, _SHORTEST, _LONGEST = 8, 32 << 10, 256 << 10
# Above it members exchange tokens before they return (native/engine/agree.h).
_SMALL = 64 << 10


class Graph:
    """What waits for what in a plan, in an order in which longest paths can be found.

    The nodes are the steps that receive or reduce, and one more, the last, that comes before all
    others. A send is part of the edge from what it waits for to who receives it.
    """

    def __init__(self, plan: Plan) -> None:
        nodes = len(plan.step) + 1
        start = nodes - 1
        after = np.where(plan.after < 0, start, plan.after)
        waiting = np.flatnonzero((plan.step != SEND) & (plan.after >= 0))
        #: Of each message, the node that it waits for. Messages are the first edges.
        self.origin = after[plan.sends]
        source = np.concatenate([self.origin, after[waiting], plan.keeps])
        target = np.concatenate([plan.receives, waiting, plan.reductions])
        self.source, self.target = source, target
        self.nodes, self.start = nodes, start
        #: Of each step, how many others come before it, one after the other.
        self.depth = _depths(source, target, nodes, start)
        self._forward = self._rounds(self.depth[target], target)
        self._backward = self._rounds(-self.depth[source], source)

    @staticmethod
    def _rounds(turn: Integers, at: Integers) -> list[tuple[Integers, Integers, Integers]]:
        """Group edges by their turn, and in it by the node that they add to."""
        order = np.argsort(turn * (int(at.max()) + 1) + at, kind="stable")
        ends = [0, *(np.flatnonzero(np.diff(turn[order])) + 1).tolist(), len(order)]
        found = []
        for begin, end in itertools.pairwise(ends):
            edges = order[begin:end]
            first = np.flatnonzero(np.diff(at[edges], prepend=-1))
            found.append((edges, first, at[edges[first]]))
        return found

    def heads(self, edges: Floats, steps: Floats) -> Floats:
        """Return when each step is done at best, given what edges and steps cost."""
        done = np.zeros((self.nodes, edges.shape[1]))
        for group, first, nodes in self._forward:
            arrived = done[self.source[group]] + edges[group]
            done[nodes] = np.maximum.reduceat(arrived, first) + steps[nodes]
        return done

    def tails(self, edges: Floats, steps: Floats) -> Floats:
        """Return how long it is at least from the end of each step to that of the plan."""
        left = np.zeros((self.nodes, edges.shape[1]))
        for group, first, nodes in self._backward:
            target = self.target[group]
            left[nodes] = np.maximum.reduceat(left[target] + steps[target] + edges[group], first)
        return left


def _depths(source: Integers, target: Integers, nodes: int, start: int) -> Integers:
    """Return of each node the number of edges on the longest way to it from the start."""
    order = np.argsort(source, kind="stable")
    successors = target[order]
    begin = np.searchsorted(source[order], np.arange(nodes + 1))
    waits = np.bincount(target, minlength=nodes)
    depth = np.zeros(nodes, np.int64)
    ready, turn = np.array([start]), 0
    while len(ready):
        counts = begin[ready + 1] - begin[ready]
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        reached, times = np.unique(
            successors[np.repeat(begin[ready], counts) + offsets], return_counts=True
        )
        waits[reached] -= times
        turn += 1
        ready = reached[waits[reached] == 0]
        depth[ready] = turn
    assert not waits.any(), "the steps of a plan never wait in a circle"
    return depth


class Prediction:
    """What a plan costs on a network, for any number of bytes.

    Times are linear in the bytes of a slice, or nearly so, and what resources carry is linear in
    the bytes of the buffer; so all of them are worked out for no bytes and for the longest slice.

    Args:
        plan: of all ranks.
        network: of as many ranks.
        graph: the plan's, if it is there already.

    Raises:
        InvalidArgument: the network's places are those of another number of ranks.
    """

    def __init__(self, plan: Plan, network: Network, graph: Graph | None = None) -> None:
        if network.places and len(network.places[0]) != plan.size:
            raise InvalidArgument(
                f"the plan is for {plan.size} ranks, the network for {len(network.places[0])}"
            )
        self._share = plan.share
        # Tokens go once around by dissemination.
        rounds = math.ceil(math.log2(plan.size))
        self._tokens = rounds * (network.levels[-1].latency + network.overhead)
        self._path = np.zeros(2)
        # Rows: head, head with the longest slice, the same of the tails, work, work per byte.
        self._resources = np.zeros((6, 0))
        self._names: list[tuple[str, Integers]] = []
        self._size = plan.size
        if len(plan.step) > 0:
            self._measure(plan, network, graph or Graph(plan))

    def _measure(self, plan: Plan, network: Network, graph: Graph) -> None:
        slices = np.array([0.0, _LONGEST])
        # The part of the buffer that a step moves, and how many times that of others.
        part = np.where(plan.segment == ALL_SEGMENTS, 1.0, plan.share)
        times = part / plan.share
        level = _level_of(plan, network)
        latency = np.array([one.latency for one in network.levels])[level]
        per_byte = times[plan.sends] / np.array([one.bandwidth for one in network.levels])[level]
        edges = np.zeros((len(graph.source), 2))
        edges[: len(level)] = latency[:, None] + np.outer(per_byte, slices)
        reduced = _inputs(plan) / network.reduction
        steps = np.zeros((graph.nodes, 2))
        steps[:-1] = np.outer(times * reduced, slices)
        heads, tails = graph.heads(edges, steps), graph.tails(edges, steps)
        self._path = heads.max(axis=0)

        before = heads[graph.origin]
        after = latency[:, None] + steps[plan.receives] + tails[plan.receives]
        resources = []
        for name, key, used, rate in _carriers(plan, network, level):
            members, found = _resource(
                key[used], before[used], after[used], part[plan.sends][used] / rate
            )
            resources.append(found)
            self._names.append((name, members))
        # What a process does: hand over what it sends, take what it receives, and reduce.
        others = np.flatnonzero(plan.step != SEND)
        both = np.concatenate([plan.sends, others])
        members, found = _resource(
            plan.rank[both],
            np.concatenate([before, (heads - steps)[others]]),
            np.concatenate([after + edges[: len(level)] - latency[:, None], tails[others]]),
            (part * reduced)[both],
            np.where(plan.step[both] == REDUCE, 0.0, network.overhead),
        )
        resources.append(found)
        self._names.append(("what rank {0} has to do itself", members))
        self._resources = np.concatenate(resources, axis=1)

    def seconds(self, nbytes: int) -> float:
        """Return how long the operation takes on `nbytes` bytes: of the larger of input and output.

        It never falls as the bytes grow.
        """
        path, busy = self._bounds(nbytes)
        tokens = self._tokens if nbytes > _SMALL else 0.0
        return max(path, float(busy.max(initial=0.0))) + tokens

    def bound(self, nbytes: int) -> str:
        """Return what the time is that of, in words."""
        path, busy = self._bounds(nbytes)
        # What is on that way and carries nothing else is bound as it is.
        if path >= 0.999 * busy.max(initial=0.0):
            return "the longest way through the steps, one after the other"
        at = int(busy.argmax())
        ends = list(itertools.accumulate(len(members) for _, members in self._names))
        kind = bisect.bisect_right(ends, at)
        name, members = self._names[kind]
        member = int(members[at - ends[kind]])  # counted from their end
        return name.format(member, *divmod(member, self._size))

    def _bounds(self, nbytes: int) -> tuple[float, Floats]:
        if nbytes < 0:
            raise InvalidArgument(f"{nbytes} bytes; 0 or more are needed")
        moved = self._share * nbytes
        piece = min(moved, max(_SHORTEST, min(moved / _SLICES, _LONGEST)))
        at = piece / _LONGEST
        path = self._path[0] + at * (self._path[1] - self._path[0])
        head0, head1, tail0, tail1, work, per_byte = self._resources
        busy = head0 + at * (head1 - head0) + tail0 + at * (tail1 - tail0) + work
        busy += nbytes * per_byte
        return float(path), busy


def predict(plan: Plan, nbytes: int, network: Network) -> float:
    """Return the seconds that a plan takes; `Prediction` does many sizes at a time."""
    return Prediction(plan, network).seconds(nbytes)


def _inputs(plan: Plan) -> Floats:
    """Return of each step how many times its own length it reduces."""
    inputs = np.bincount(plan.reductions, minlength=len(plan.step)).astype(float)
    inputs[plan.step == RECV_REDUCE] = 1.0
    return inputs


def _level_of(plan: Plan, network: Network) -> Integers:
    """Return over which level's links each message goes."""
    level = np.full(len(plan.sends), len(network.places))
    source, target = plan.rank[plan.sends], plan.rank[plan.receives]
    for i in reversed(range(len(network.places))):
        groups = np.array(network.places[i])
        level[groups[source] == groups[target]] = i
    return level


def _carriers(
    plan: Plan, network: Network, level: Integers
) -> Iterator[tuple[str, Integers, NDArray[np.bool_], float]]:
    """Yield kinds of resources: name; for each message which one, and if it needs it; rate."""
    source, target = plan.rank[plan.sends], plan.rank[plan.receives]
    for i, one in enumerate(network.levels):
        pairs = source * plan.size + target
        yield "the link from rank {1} to rank {2}", pairs, level == i, one.bandwidth
    members = np.arange(plan.size)
    for i, one in enumerate(network.levels):
        if one.uplink < math.inf:
            crosses = level >= i
            yield f"what {_member(i)} {{0}} receives", members[target], crosses, one.uplink
            if one.written_once:
                crosses = crosses & ~_again(plan, level == i)
            yield f"what {_member(i)} {{0}} sends", members[source], crosses, one.uplink
        members = np.array(network.places[i]) if i < len(network.places) else 0 * members
        if one.fabric < math.inf:
            where = f"inside {_member(i + 1)} {{0}}" if i < len(network.places) else "in all"
            yield f"what is exchanged {where}", members[source], level == i, one.fabric


def _member(level: int) -> str:
    return f"level {level - 1}'s group" if level else "rank"


def _again(plan: Plan, here: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which of these messages say what an earlier one of the same rank has said."""
    which = np.flatnonzero(here)
    sends = plan.sends[which]
    same = np.stack([plan.rank[sends], plan.segment[sends], plan.after[sends]])
    _, first = np.unique(same, axis=1, return_index=True)
    again = np.zeros(len(here), bool)
    again[which] = True
    again[which[first]] = False
    return again


def _resource(
    keys: Integers,
    before: Floats,
    after: Floats,
    per_byte: Floats,
    fixed: Floats | None = None,
) -> tuple[Integers, Floats]:
    """Return the resources of one kind, and their columns of `Prediction._resources`."""
    members, which = np.unique(keys, return_inverse=True)
    count = len(members)
    rows = np.full((6, count), math.inf)
    for row, values in zip(rows, (*before.T, *after.T), strict=False):
        np.minimum.at(row, which, values)
    rows[4] = 0.0 if fixed is None else np.bincount(which, fixed, count)
    rows[5] = np.bincount(which, per_byte, count)
    return members, rows
