"""A symbolic prover for plans.

`prove` takes the plans of all ranks of one operation and raises `PlanError`, naming the rule that
is broken, unless the plans are right for every timing, every number of connections and every way to
cut slices, which may differ among the ranks. It knows nothing about rings: what the result has to
be is told to it as an expression per segment.

Why it is enough to look at one byte per segment: a step and the step that it comes after act on
the same segment (rule "after"), and so do the two ends of a message and a reduction and what was
kept for it (rule "match"). So a byte of a step needs the same byte of the steps before it, and all
bytes have the same dependencies. That it also waits for its neighbours in a slice, whoever cut it,
delays it, and cannot stop it: they are bytes of the same steps, and those never wait in a circle
(rule "deadlock"). A step of all segments acts on each of them.

What the engine promises, and what is assumed here, is no more than this:

- a byte of a step starts after the same byte of its `after` is done;
- a send that is done has been started; nothing is known about its receipt;
- a send reads its buffer until the receiver has consumed the byte (it sends by reference, and
  sends again after a lost connection);
- a receive writes its buffer from the moment on at which its `after` is done and its message was
  sent;
- a kept receive is done when it is there, but consumed only with the reduction: it may be kept by
  reference, too. The reduction starts after everything that is kept for it is there;
- if the operation is `copied`: a send reads its buffer only when it starts, and the sends that wait
  for nothing have started before their rank receives anything.

The rules:

    shape      ranks, sizes, kinds, peers, segments, sources and flags are in range
    after      `after` names another step, of the same segment, and never in a circle
    match      each send has exactly one receive, of the same segment, and the other way round; each
               reduction keeps one from every other rank, and what is kept has one reduction
    deadlock   every step is done in the end, also if a send waits for its receiver (rendezvous)
    hazard     no two accesses to the same bytes, one of them a write, may happen at one time
    value      each rank ends with the declared expression in each segment: each input exactly
               once, in the declared order, the same on all ranks; in place and out of place
    final      as many steps per segment as declared are marked final, and make the whole reduction
    bytes      each rank sends, and to whom, what the algorithm's formula says
"""

from __future__ import annotations

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

SEND, RECV, RECV_REDUCE, RECV_KEEP, REDUCE = range(5)
FROM_INPUT, FROM_OUTPUT = 0, 1
ALL_SEGMENTS = 2**32 - 1
NAMES = {
    SEND: "send",
    RECV: "recv",
    RECV_REDUCE: "recv-reduce",
    RECV_KEEP: "recv-keep",
    REDUCE: "reduce",
}


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

    def touched(self, step: Step) -> Sequence[int]:
        """The segments that the step acts on."""
        return range(self.segments) if step.segment == ALL_SEGMENTS else (step.segment,)


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

    def fold(self, values: Sequence[int], first: int) -> int:
        """((v_f + v_f+1) + v_f+2) + ..., all of them, modulo their number: the canonical order."""
        return functools.reduce(self.op, (*values[first:], *values[:first]))

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


def _step(plans: Sequence[Plan], node: Node) -> Step:
    return plans[node[0]].steps[node[1]]


def _where(plans: Sequence[Plan], node: Node) -> str:
    rank, index = node
    step = _step(plans, node)
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
            if not 0 <= step.peer < size or (step.peer == rank) != (step.kind == REDUCE):
                raise PlanError("shape", f"no such peer; {where}")
            if not 0 <= step.segment < plan.segments and step.segment != ALL_SEGMENTS:
                raise PlanError("shape", f"no such segment; {where}")
            if step.kind == REDUCE and (step.message or plan.segments > size):
                raise PlanError("shape", f"a message, or no rank to begin with; {where}")
            if step.source not in (FROM_INPUT, FROM_OUTPUT) or (step.kind != SEND and step.source):
                raise PlanError("shape", f"bad source; {where}")
            if step.final not in ((0, 1) if step.kind in (RECV_REDUCE, REDUCE) else (0,)):
                raise PlanError("shape", f"only a reduction can be final; {where}")


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


@dataclasses.dataclass(frozen=True)
class Matches:
    """Which steps belong together."""

    sent_by: dict[Node, Node]  # of each receive: its send
    kept_for: dict[Node, dict[int, Node]]  # of each reduction: what it keeps, by rank
    read_by: dict[Node, Node]  # of each send: the step whose end is that of its reading


def _match(plans: Sequence[Plan]) -> Matches:
    sends: dict[tuple[int, ...], Node] = {}
    receives: dict[tuple[int, ...], Node] = {}
    reductions: dict[tuple[int, ...], Node] = {}
    for rank, plan in enumerate(plans):
        for index, step in enumerate(plan.steps):
            key: tuple[int, ...]
            if step.kind == REDUCE:
                side, key = reductions, (rank, step.segment)
            elif step.kind == SEND:
                side, key = sends, (rank, step.peer, step.message)
            else:
                side, key = receives, (step.peer, rank, step.message)
            if key in side:
                raise PlanError("match", f"{_where(plans, (rank, index))} is there twice")
            side[key] = (rank, index)
    for one, other in ((sends, receives), (receives, sends)):
        for ends, node in one.items():
            if ends not in other:
                raise PlanError("match", f"{_where(plans, node)} has no other end")
    kept_for: dict[Node, dict[int, Node]] = {node: {} for node in reductions.values()}
    read_by = {}
    for ends, node in receives.items():
        step, sent = _step(plans, node), _step(plans, sends[ends])
        if step.segment != sent.segment:
            raise PlanError("match", f"{_where(plans, node)} is sent as segment {sent.segment}")
        read_by[sends[ends]] = node
        if step.kind == RECV_KEEP:
            reduction = reductions.get((node[0], step.segment))
            if reduction is None:
                raise PlanError("match", f"{_where(plans, node)} has no reduction")
            if step.peer in kept_for[reduction]:
                raise PlanError("match", f"{_where(plans, node)} is the second from this rank")
            kept_for[reduction][step.peer] = node
            read_by[sends[ends]] = reduction
    for node, kept in kept_for.items():
        if len(kept) != len(plans) - 1:
            raise PlanError("match", f"{_where(plans, node)} has no more than {sorted(kept)}")
    return Matches({node: sends[ends] for ends, node in receives.items()}, kept_for, read_by)


def _before(plans: Sequence[Plan], matches: Matches, copied: bool) -> dict[Node, list[Node]]:
    """Of each step: the steps that are done before it starts."""
    before: dict[Node, list[Node]] = {}
    for rank, plan in enumerate(plans):
        at_once = [
            (rank, index)
            for index, step in enumerate(plan.steps)
            if copied and step.kind == SEND and step.after < 0
        ]
        for index, step in enumerate(plan.steps):
            node = (rank, index)
            before[node] = [(rank, step.after)] if step.after >= 0 else []
            before[node] += matches.kept_for.get(node, {}).values()
            if node in matches.sent_by:
                before[node] += [matches.sent_by[node], *at_once]
    return before


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


def _check_deadlock(
    plans: Sequence[Plan], matches: Matches, before: dict[Node, list[Node]]
) -> list[Node]:
    """Return the steps in an order in which they can happen."""
    order, stuck = _topological(before, before.__getitem__)
    if stuck:
        raise PlanError("deadlock", f"{_where(plans, stuck[0])} never starts")

    # Without a buffer a message happens at one moment: when both its ends are ready. Each message
    # is then one node, the one of its receive; and who waits for the send waits for its reader.
    def earlier(node: Node) -> list[Node]:
        after = _step(plans, node).after
        return [] if after < 0 else [(node[0], after)]

    def rendezvous(node: Node) -> list[Node]:
        needed = [*earlier(node), *matches.kept_for.get(node, {}).values()]
        if node in matches.sent_by:
            needed += earlier(matches.sent_by[node])
        return [matches.read_by.get(other, other) for other in needed]

    _, stuck = _topological((n for n in before if n not in matches.read_by), rendezvous)
    if stuck:
        raise PlanError("deadlock", f"{_where(plans, stuck[0])} never starts without buffers")
    return order


def _check_hazards(
    plans: Sequence[Plan],
    matches: Matches,
    before: dict[Node, list[Node]],
    order: list[Node],
    copied: bool,
) -> None:
    """Show that conflicting accesses are ordered, with input and output in one buffer.

    That is the harder case: out of place the same accesses touch more, different bytes.
    """
    # The bits of `past[node]` are the steps that are done before it starts. That a send is done
    # says no more than that it has started: what it reads is free when its reader is done.
    past: dict[Node, int] = {}
    bit = {node: 1 << i for i, node in enumerate(order)}
    touching: dict[tuple[int, int], list[Node]] = defaultdict(list)
    writing: dict[tuple[int, int], list[Node]] = defaultdict(list)
    for node in order:
        past[node] = 0
        for other in before[node]:
            past[node] |= past[other] | bit[other]
        rank, step = node[0], _step(plans, node)
        for segment in plans[rank].touched(step):
            if step.kind != RECV_KEEP:
                touching[rank, segment].append(node)
            if step.kind not in (SEND, RECV_KEEP):
                writing[rank, segment].append(node)

    def precedes(a: Node, b: Node) -> bool:
        return bool(past[b] & bit[a if copied else matches.read_by.get(a, a)])

    for place, writers in writing.items():
        for a in writers:
            for b in touching[place]:
                if a != b and not precedes(a, b) and not precedes(b, a):
                    raise PlanError(
                        "hazard",
                        f"{_where(plans, a)} and {_where(plans, b)} can touch the same bytes "
                        "at one time",
                    )


def _check_values(
    plans: Sequence[Plan],
    matches: Matches,
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
    wire: dict[tuple[Node, int], int] = {}
    place = "in place" if in_place else "out of place"

    def carry_out(node: Node, step: Step, segment: int) -> None:
        rank = node[0]
        own = inputs[rank][segment]
        if step.kind == SEND:
            sent = own if step.source == FROM_INPUT else outputs[rank][segment]
            if sent is None:
                raise PlanError("value", f"{_where(plans, node)} sends what nobody has written")
            wire[node, segment] = sent
            return
        if step.kind == RECV_KEEP:
            return  # it stays on the wire
        assert own is not None
        if step.kind == REDUCE:
            kept = matches.kept_for[node]
            values = [own] * len(plans)
            for peer, receive in kept.items():
                values[peer] = wire[matches.sent_by[receive], segment]
            value = expressions.fold(values, segment)
        else:
            value = wire[matches.sent_by[node], segment]
            if step.kind == RECV_REDUCE:
                value = expressions.op(value, own)
        outputs[rank][segment] = expressions.final(value) if step.final else value

    for node in order:
        step = _step(plans, node)
        for segment in plans[node[0]].touched(step):
            carry_out(node, step, segment)
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


def _check_final(plans: Sequence[Plan], finals: int) -> None:
    # That the marked step makes the whole reduction is shown by the values, which contain the
    # mark; a second mark on a value that then gets lost would not be.
    counts = [0] * plans[0].segments
    for plan in plans:
        for step in plan.steps:
            for segment in plan.touched(step):
                counts[segment] += step.final
    for segment, count in enumerate(counts):
        if count != finals:
            raise PlanError("final", f"segment {segment} is final {count} times, not {finals}")


def prove(
    plans: Sequence[Plan],
    expressions: Expressions,
    expected: Callable[[int], int],
    *,
    finals: int,
    copied: bool = False,
) -> None:
    """Raise `PlanError` unless the plans of all ranks are right.

    Args:
        plans: one per rank, in their order.
        expressions: the expressions that `expected` speaks of.
        expected: the value of a segment at the end, the same on every rank.
        finals: how many steps must be marked final for each segment.
        copied: whether the operation is so small that its sends are copied when they start.
    """
    _check_shape(plans)
    _check_after(plans)
    matches = _match(plans)
    before = _before(plans, matches, copied)
    order = _check_deadlock(plans, matches, before)
    _check_hazards(plans, matches, before, order, copied)
    _check_final(plans, finals)
    for in_place in (False, True):
        _check_values(plans, matches, order, expressions, expected, in_place)


Formula = Callable[[int, Sequence[int]], dict[int, int]]


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """What an all-reduce says about itself."""

    # The elements that a rank sends to each peer, given the segments' lengths, one per rank.
    sends: Formula
    # Whether every rank reduces all, not only its own segment.
    everywhere: bool = False
    # Whether it is for operations only whose sends are copied.
    copied: bool = False


def _ring(rank: int, lengths: Sequence[int]) -> dict[int, int]:
    """All but the own segment, then all but the right neighbour's own: to that one."""
    right = (rank + 1) % len(lengths)
    return {right: 2 * sum(lengths) - lengths[_own(rank, lengths)] - lengths[_own(right, lengths)]}


def _direct(rank: int, lengths: Sequence[int]) -> dict[int, int]:
    """To each peer its segment, and the own one."""
    own = lengths[_own(rank, lengths)]
    return {peer: lengths[_own(peer, lengths)] + own for peer in _peers(rank, lengths)}


def _whole(rank: int, lengths: Sequence[int]) -> dict[int, int]:
    return dict.fromkeys(_peers(rank, lengths), sum(lengths))


def _own(rank: int, lengths: Sequence[int]) -> int:
    """The segment whose reduction ends at the rank that comes last in its order."""
    return (rank + 1) % len(lengths)


def _peers(rank: int, lengths: Sequence[int]) -> list[int]:
    return [peer for peer in range(len(lengths)) if peer != rank]


RING, DIRECT = Algorithm(_ring), Algorithm(_direct)
WHOLE = Algorithm(_whole, everywhere=True, copied=True)


def prove_all_reduce(plans: Sequence[Plan], algorithm: Algorithm) -> None:
    """Segment s is ((x_s + x_s+1) + x_s+2) + ..., all ranks, modulo their number."""
    size = len(plans)
    expressions = Expressions()
    inputs = [expressions.input(rank) for rank in range(size)]

    def expected(segment: int) -> int:
        whole = expressions.fold(inputs, segment)
        return expressions.final(whole) if size > 1 else whole

    finals = 0 if size == 1 else size if algorithm.everywhere else 1
    prove(plans, expressions, expected, finals=finals, copied=algorithm.copied)


def prove_broadcast(plans: Sequence[Plan], root: int) -> None:
    """Every rank ends with the root's input."""
    expressions = Expressions()
    prove(plans, expressions, lambda _: expressions.input(root), finals=0)


def _prove_bytes(plans: Sequence[Plan], lengths: Sequence[int], wanted: Formula) -> None:
    for plan in plans:
        sent: dict[int, int] = defaultdict(int)
        for step in plan.steps:
            if step.kind == SEND:
                sent[step.peer] += sum(lengths[segment] for segment in plan.touched(step))
        if sent != wanted(plan.rank, lengths):
            raise PlanError(
                "bytes",
                f"rank {plan.rank} sends {dict(sent)} elements, not {wanted(plan.rank, lengths)}",
            )


def prove_all_reduce_bytes(
    plans: Sequence[Plan], lengths: Sequence[int], algorithm: Algorithm
) -> None:
    """Each rank sends to each peer what the algorithm says; a group of one sends nothing."""
    _prove_bytes(plans, lengths, algorithm.sends if len(plans) > 1 else lambda *_: {})


def prove_broadcast_bytes(plans: Sequence[Plan], root: int, lengths: Sequence[int]) -> None:
    """Each rank sends the buffer once, to its right neighbour; the last of the chain nothing."""

    def chain(rank: int, lengths: Sequence[int]) -> dict[int, int]:
        right = (rank + 1) % len(plans)
        return {} if right == root else {right: sum(lengths)}

    _prove_bytes(plans, lengths, chain)
