"""A symbolic prover for plans.

`prove` takes the plans of all ranks of one operation and raises `PlanError`, naming the rule that
is broken, unless the plans are right for every timing, every number of connections and every
slice size. It knows nothing about rings: what the result has to be is told to it as an expression
per segment.

Why it is enough to look at one slice per segment: a step and the step that it comes after act on
the same segment (rule "after"), and so do the two ends of a message (rule "match"). So slice j of
a step depends on the slices j of other steps alone, and all slices have the same dependencies.

What the engine promises, and what is assumed here, is no more than this:

- slice j of a step starts after slice j of its `after` is done;
- a send that is done has been started; nothing is known about its receipt;
- a send reads its buffer until the receiver has consumed the slice (it sends by reference, and
  sends again after a lost connection);
- a receive writes its buffer from the moment on at which its `after` is done and its message was
  sent.

The rules:

    shape      ranks, sizes, kinds, peers, segments, sources and flags are in range
    after      `after` names another step, of the same segment, and never in a circle
    match      each send has exactly one receive, of the same segment, and the other way round
    deadlock   every step is done in the end, also if a send waits for its receiver (rendezvous)
    hazard     no two accesses to the same bytes, one of them a write, may happen at one time
    value      each rank ends with the declared expression in each segment: each input exactly
               once, in the declared order, the same on all ranks; in place and out of place
    final      exactly one step per segment is marked final, and it makes the whole reduction
    bytes      each rank sends, and to whom, what the algorithm's formula says
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

SEND, RECV, RECV_REDUCE = 0, 1, 2
FROM_INPUT, FROM_OUTPUT = 0, 1
NAMES = {SEND: "send", RECV: "recv", RECV_REDUCE: "recv-reduce"}


class PlanError(AssertionError):
    """A plan breaks a rule."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(f"{rule}: {message}")
        self.rule = rule


@dataclasses.dataclass(frozen=True)
class Step:
    """One step; the fields of `struct coll_step` in their order."""

    kind: int
    peer: int
    segment: int
    message: int
    source: int
    final: int
    after: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """The plan of one rank."""

    rank: int
    size: int
    segments: int
    steps: tuple[Step, ...]


# An expression is an input (the rank it belongs to), ("op", received, own), ("final", whole) or
# None for bytes that nobody has written. Expressions are interned, so comparing two is comparing
# two small integers, however deep they are.
class Expressions:
    """Builds expressions and tells equal ones by equal numbers."""

    def __init__(self) -> None:
        self._ids: dict[object, int] = {}
        self._forms: list[object] = []

    def _intern(self, form: object) -> int:
        if form not in self._ids:
            self._ids[form] = len(self._forms)
            self._forms.append(form)
        return self._ids[form]

    def input(self, rank: int) -> int:
        return self._intern(("x", rank))

    def op(self, received: int, own: int) -> int:
        return self._intern(("op", received, own))

    def final(self, whole: int) -> int:
        return self._intern(("final", whole))

    def fold(self, ranks: Iterable[int]) -> int:
        """((x_a + x_b) + x_c) + ..."""
        first, *others = ranks
        value = self.input(first)
        for rank in others:
            value = self.op(value, self.input(rank))
        return value

    def text(self, value: int | None) -> str:
        if value is None:
            return "nothing"
        form = self._forms[value]
        assert isinstance(form, tuple)
        if form[0] == "x":
            return f"x{form[1]}"
        if form[0] == "final":
            return f"final{self.text(form[1])}"
        return f"({self.text(form[1])}+{self.text(form[2])})"


Node = tuple[int, int]  # (rank, index of the step)


def _where(plans: Sequence[Plan], node: Node) -> str:
    rank, index = node
    step = plans[rank].steps[index]
    return (
        f"rank {rank} step {index} ({NAMES[step.kind]} segment {step.segment} "
        f"peer {step.peer} message {step.message})"
    )


def _check_shape(plans: Sequence[Plan]) -> None:
    size = len(plans)
    for rank, plan in enumerate(plans):
        if (plan.rank, plan.size) != (rank, size):
            raise PlanError("shape", f"rank {rank} of {size} has plan {plan.rank} of {plan.size}")
        if plan.segments != plans[0].segments or plan.segments < 1:
            raise PlanError("shape", f"rank {rank} cuts the buffer into {plan.segments} segments")
        for index, step in enumerate(plan.steps):
            where = f"rank {rank} step {index}: {step}"
            if step.kind not in NAMES:
                raise PlanError("shape", f"unknown kind; {where}")
            if not 0 <= step.peer < size or step.peer == rank:
                raise PlanError("shape", f"no such peer; {where}")
            if not 0 <= step.segment < plan.segments:
                raise PlanError("shape", f"no such segment; {where}")
            if step.source not in (FROM_INPUT, FROM_OUTPUT) or (step.kind != SEND and step.source):
                raise PlanError("shape", f"bad source; {where}")
            if step.final not in (0, 1) or (step.kind != RECV_REDUCE and step.final):
                raise PlanError("shape", f"only a recv-reduce can be final; {where}")


def _check_after(plans: Sequence[Plan]) -> None:
    for rank, plan in enumerate(plans):
        for index, step in enumerate(plan.steps):
            if step.after == -1:
                continue
            where = _where(plans, (rank, index))
            if not 0 <= step.after < len(plan.steps):
                raise PlanError("after", f"{where} comes after step {step.after}, which is none")
            seen = index
            for _ in plan.steps:
                seen = plan.steps[seen].after
                if not 0 <= seen < len(plan.steps):
                    break
            else:
                raise PlanError("after", f"{where} comes after itself")
            if plan.steps[step.after].segment != step.segment:
                # Two segments can have different numbers of slices.
                raise PlanError("after", f"{where} comes after a step of another segment")


def _match(plans: Sequence[Plan]) -> dict[Node, Node]:
    """Return the send of each receive."""
    sends: dict[tuple[int, int, int], Node] = {}
    receives: dict[tuple[int, int, int], Node] = {}
    for rank, plan in enumerate(plans):
        for index, step in enumerate(plan.steps):
            if step.kind == SEND:
                side, key = sends, (rank, step.peer, step.message)
            else:
                side, key = receives, (step.peer, rank, step.message)
            if key in side:
                raise PlanError("match", f"{_where(plans, (rank, index))}: message used twice")
            side[key] = (rank, index)
    for one, other in ((sends, receives), (receives, sends)):
        for key, node in one.items():
            if key not in other:
                raise PlanError("match", f"{_where(plans, node)} has no other end")
    for key, node in receives.items():
        a, b = plans[node[0]].steps[node[1]], plans[sends[key][0]].steps[sends[key][1]]
        if a.segment != b.segment:
            raise PlanError("match", f"{_where(plans, node)} is sent as segment {b.segment}")
    return {node: sends[key] for key, node in receives.items()}


def _topological(
    nodes: Iterable[Node], before: Callable[[Node], Iterable[Node]]
) -> tuple[list[Node], list[Node]]:
    """Order `nodes` so that each follows what `before` names; and those that cannot be ordered."""
    waits: dict[Node, int] = {}
    followers: dict[Node, list[Node]] = defaultdict(list)
    for node in nodes:
        needed = list(before(node))
        waits[node] = len(needed)
        for other in needed:
            followers[other].append(node)
    order = [node for node, count in waits.items() if count == 0]
    for node in order:
        for other in followers[node]:
            waits[other] -= 1
            if waits[other] == 0:
                order.append(other)
    return order, [node for node, count in waits.items() if count > 0]


def _check_deadlock(plans: Sequence[Plan], sent_by: dict[Node, Node]) -> list[Node]:
    """Return the steps in an order in which they can happen."""
    nodes = [(rank, i) for rank, plan in enumerate(plans) for i in range(len(plan.steps))]

    def earlier(node: Node) -> list[Node]:
        after = plans[node[0]].steps[node[1]].after
        return [] if after < 0 else [(node[0], after)]

    def buffered(node: Node) -> list[Node]:
        return earlier(node) + ([sent_by[node]] if node in sent_by else [])

    order, stuck = _topological(nodes, buffered)
    if stuck:
        raise PlanError("deadlock", f"{_where(plans, stuck[0])} never starts")

    # Without a buffer a message happens at one moment: when both its ends are ready. Each message
    # is then one node, the one of its receive.
    received_by = {send: receive for receive, send in sent_by.items()}

    def rendezvous(node: Node) -> list[Node]:
        needed = earlier(node) + earlier(sent_by[node])
        return [received_by.get(other, other) for other in needed]

    _, stuck = _topological(sent_by, rendezvous)
    if stuck:
        raise PlanError("deadlock", f"{_where(plans, stuck[0])} never starts without buffers")
    return order


def _check_hazards(plans: Sequence[Plan], sent_by: dict[Node, Node], order: list[Node]) -> None:
    """Show that conflicting accesses are ordered, with input and output in one buffer.

    That is the harder case: out of place the same accesses touch more, different bytes.
    """
    # Each step has a start and an end (for a send: started, and consumed by its receiver). The
    # bits of `past[event]` are the events that happen before it or are it.
    past: dict[tuple[Node, str], int] = {}
    bit: dict[tuple[Node, str], int] = {}

    def happens(event: tuple[Node, str], *earlier: tuple[Node, str]) -> None:
        bit[event] = 1 << len(bit)
        past[event] = bit[event]
        for other in earlier:
            past[event] |= past[other]

    accesses: dict[tuple[int, int], list[tuple[Node, bool]]] = defaultdict(list)
    for node in order:
        rank, index = node
        step = plans[rank].steps[index]
        earlier: list[tuple[Node, str]] = []
        if step.after >= 0:
            previous = (rank, step.after)
            # That a send is done says no more than that it has started.
            sent = plans[rank].steps[step.after].kind == SEND
            earlier.append((previous, "start" if sent else "end"))
        if node in sent_by:
            earlier.append((sent_by[node], "start"))
        happens((node, "start"), *earlier)
        if node in sent_by:
            happens((node, "end"), (node, "start"))
        accesses[rank, step.segment].append((node, step.kind != SEND))

    received_by = {send: receive for receive, send in sent_by.items()}

    def precedes(a: Node, b: Node) -> bool:
        end = (received_by.get(a, a), "end")
        return bool(past[b, "start"] & bit[end])

    for touching in accesses.values():
        for i, (a, a_writes) in enumerate(touching):
            for b, b_writes in touching[i + 1 :]:
                if (a_writes or b_writes) and not precedes(a, b) and not precedes(b, a):
                    raise PlanError(
                        "hazard",
                        f"{_where(plans, a)} and {_where(plans, b)} can touch the same bytes "
                        "at one time",
                    )


def _check_values(
    plans: Sequence[Plan],
    sent_by: dict[Node, Node],
    order: list[Node],
    expressions: Expressions,
    expected: Callable[[int], int],
    in_place: bool,
) -> None:
    """Run all ranks in one order; `_check_hazards` has shown that any other gives the same."""
    segments = plans[0].segments
    inputs: list[list[int | None]] = [[expressions.input(plan.rank)] * segments for plan in plans]
    outputs: list[list[int | None]] = []
    for plan in plans:
        outputs.append(inputs[plan.rank] if in_place else [None] * segments)
    wire: dict[Node, int] = {}
    place = "in place" if in_place else "out of place"
    for node in order:
        rank, index = node
        step = plans[rank].steps[index]
        if step.kind == SEND:
            source = inputs if step.source == FROM_INPUT else outputs
            value = source[rank][step.segment]
            if value is None:
                raise PlanError("value", f"{_where(plans, node)} sends what nobody has written")
            wire[node] = value
            continue
        value = wire[sent_by[node]]
        if step.kind == RECV_REDUCE:
            own = inputs[rank][step.segment]
            assert own is not None
            value = expressions.op(value, own)
            if step.final:
                value = expressions.final(value)
        outputs[rank][step.segment] = value
    for plan in plans:
        if all(step.kind == SEND for step in plan.steps):
            # A group of one and the root of a broadcast: the engine copies input to output, at
            # any time it likes.
            outputs[plan.rank] = inputs[plan.rank]
    for segment in range(segments):
        for rank in range(len(plans)):
            if outputs[rank][segment] != expected(segment):
                raise PlanError(
                    "value",
                    f"{place} rank {rank} ends with "
                    f"{expressions.text(outputs[rank][segment])} in segment {segment}, "
                    f"expected {expressions.text(expected(segment))}",
                )


def _check_final(plans: Sequence[Plan], reduces: bool) -> None:
    # That the marked step makes the whole reduction is shown by the values, which contain the
    # mark; a second mark on a value that then gets lost would not be.
    counts = [0] * plans[0].segments
    for plan in plans:
        for step in plan.steps:
            counts[step.segment] += step.final
    wanted = 1 if reduces else 0
    for segment, count in enumerate(counts):
        if count != wanted:
            raise PlanError("final", f"segment {segment} is final {count} times")


def prove(
    plans: Sequence[Plan],
    expressions: Expressions,
    expected: Callable[[int], int],
    *,
    reduces: bool,
) -> None:
    """Raise `PlanError` unless the plans of all ranks are right.

    Args:
        plans: one per rank, in their order.
        expressions: the expressions that `expected` speaks of.
        expected: the value of a segment at the end, the same on every rank.
        reduces: whether a step must be marked final for each segment.
    """
    _check_shape(plans)
    _check_after(plans)
    sent_by = _match(plans)
    order = _check_deadlock(plans, sent_by)
    _check_hazards(plans, sent_by, order)
    _check_final(plans, reduces)
    for in_place in (False, True):
        _check_values(plans, sent_by, order, expressions, expected, in_place)


def prove_all_reduce(plans: Sequence[Plan]) -> None:
    """Segment s is ((x_s + x_s+1) + x_s+2) + ..., all ranks, modulo their number."""
    size = len(plans)
    expressions = Expressions()

    def expected(segment: int) -> int:
        whole = expressions.fold((segment + k) % size for k in range(size))
        return expressions.final(whole) if size > 1 else whole

    prove(plans, expressions, expected, reduces=size > 1)


def prove_broadcast(plans: Sequence[Plan], root: int) -> None:
    """Every rank ends with the root's input."""
    expressions = Expressions()
    prove(plans, expressions, lambda _: expressions.input(root), reduces=False)


def sent_elements(plan: Plan, lengths: Sequence[int]) -> dict[int, int]:
    """Elements that a rank sends to each peer, given the segments' lengths."""
    sent: dict[int, int] = defaultdict(int)
    for step in plan.steps:
        if step.kind == SEND:
            sent[step.peer] += lengths[step.segment]
    return dict(sent)


def prove_all_reduce_bytes(plans: Sequence[Plan], lengths: Sequence[int]) -> None:
    """Each rank sends 2(n-1)/n of the buffer, all to its right neighbour.

    Where n does not divide the count the formula is not a whole number: each phase leaves out one
    segment, and segments differ by an element at most, so it may be off by less than two.
    """
    size, count = len(plans), sum(lengths)
    for plan in plans:
        sent = sent_elements(plan, lengths)
        if size == 1:
            if sent:
                raise PlanError("bytes", "a group of one sends something")
            continue
        if set(sent) != {(plan.rank + 1) % size}:
            raise PlanError("bytes", f"rank {plan.rank} sends to {sorted(sent)}")
        difference = abs(sum(sent.values()) * size - 2 * (size - 1) * count)
        if difference >= 2 * size or (count % size == 0 and difference):
            raise PlanError(
                "bytes",
                f"rank {plan.rank} sends {sent} elements of {count}, "
                f"not {2 * (size - 1) * count / size:.1f}",
            )


def prove_broadcast_bytes(plans: Sequence[Plan], root: int, lengths: Sequence[int]) -> None:
    """Each rank sends the buffer once, to its right neighbour; the last of the chain nothing."""
    size = len(plans)
    for plan in plans:
        right = (plan.rank + 1) % size
        wanted = {} if right == root else {right: sum(lengths)}
        sent = sent_elements(plan, lengths)
        if sent != wanted:
            raise PlanError("bytes", f"rank {plan.rank} sends {sent} elements, not {wanted}")
