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
  reference, too. It is kept for the next reduction of its segment, which starts after everything
  that is kept for it is there;
- if the operation is `copied`: a send reads its buffer only when it starts, the sends that wait for
  nothing have started before their rank receives anything, and those that wait for a step before a
  reduction that waits for it, too.

The rules:

    shape      ranks, sizes, kinds, peers, segments, sources and flags are in range
    after      `after` names another step, of the same segment, and never in a circle
    match      each send has exactly one receive, of the same segment, and the other way round; each
               reduction keeps something, one from each rank, and what is kept has a reduction
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
import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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

    def fold_ranks(self, values: Mapping[int, int], first: int) -> int:
        """The same of the values of some ranks, beginning with the first from rank `first` on."""
        order = sorted(values)
        return self.fold([values[r] for r in order], sum(r < first for r in order) % len(order))

    def evaluate(self, value: int, inputs: Sequence[Any], op: Callable[[Any, Any], Any]) -> Any:
        """The expression of numbers; what is final is not divided."""
        form = self._forms[value]
        assert isinstance(form, tuple)
        if form[0] == "x":
            return inputs[form[1]]
        if form[0] == "final":
            return self.evaluate(form[1], inputs, op)
        left, right = (self.evaluate(part, inputs, op) for part in form[1:])
        return op(left, right)

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
            if not 0 <= step.peer < size or (step.peer == rank and step.kind != REDUCE):
                raise PlanError("shape", f"no such peer; {where}")
            whole = step.segment == ALL_SEGMENTS
            if step.kind == REDUCE and whole and (step.peer != rank or plan.segments > size):
                raise PlanError("shape", f"it begins with each segment's rank; {where}")
            if not 0 <= step.segment < plan.segments and step.segment != ALL_SEGMENTS:
                raise PlanError("shape", f"no such segment; {where}")
            if step.kind == REDUCE and step.message:
                raise PlanError("shape", f"a reduction is no message; {where}")
            sources = (FROM_INPUT, FROM_OUTPUT) if step.kind in (SEND, REDUCE) else (FROM_INPUT,)
            if step.source not in sources:
                raise PlanError("shape", f"bad source; {where}")
            if step.kind == REDUCE and (step.source == FROM_OUTPUT) != (step.after >= 0):
                raise PlanError("shape", f"what is in the output comes after a step; {where}")
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


def _kept(plans: Sequence[Plan], plan: Plan) -> dict[Node, dict[int, Node]]:
    """What each reduction of a rank keeps: all of its segment since the one before, by rank."""
    found: dict[Node, dict[int, Node]] = {}
    waiting: dict[int, dict[int, Node]] = defaultdict(dict)
    for index, step in enumerate(plan.steps):
        node, kept = (plan.rank, index), waiting[step.segment]
        if step.kind == RECV_KEEP:
            if step.peer in kept:
                raise PlanError("match", f"{_where(plans, node)} is the second from this rank")
            kept[step.peer] = node
        elif step.kind == REDUCE:
            if not kept:
                raise PlanError("match", f"{_where(plans, node)} keeps nothing")
            if step.peer not in (plan.rank, *kept):
                raise PlanError("match", f"{_where(plans, node)} begins with who gives nothing")
            found[node] = waiting.pop(step.segment)
    for kept in waiting.values():
        for node in kept.values():
            raise PlanError("match", f"{_where(plans, node)} has no reduction")
    return found


def match(plans: Sequence[Plan]) -> Matches:
    """Which steps belong together; raises `PlanError` where it does not come out even."""
    sends: dict[tuple[int, ...], Node] = {}
    receives: dict[tuple[int, ...], Node] = {}
    for rank, plan in enumerate(plans):
        for index, step in enumerate(plan.steps):
            if step.kind == REDUCE:
                continue
            if step.kind == SEND:
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
    kept_for: dict[Node, dict[int, Node]] = {}
    for plan in plans:
        kept_for |= _kept(plans, plan)
    reductions = {node: reduction for reduction, kept in kept_for.items() for node in kept.values()}
    read_by = {}
    for ends, node in receives.items():
        step, sent = _step(plans, node), _step(plans, sends[ends])
        if step.segment != sent.segment:
            raise PlanError("match", f"{_where(plans, node)} is sent as segment {sent.segment}")
        read_by[sends[ends]] = node
        if step.kind == RECV_KEEP:
            read_by[sends[ends]] = reductions[node]
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
            if copied and step.kind == REDUCE:
                before[node] += [
                    (rank, other)
                    for other, s in enumerate(plan.steps)
                    if s.kind == SEND and 0 <= s.after == step.after
                ]
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
    # Steps of different segments have nothing to do with each other, unless sends are copied, so
    # each segment counts its bits for itself: they are few.
    past: dict[Node, int] = {}
    bit: dict[Node, int] = {}
    counts: dict[int, int] = defaultdict(int)
    for node in order:
        segment = ALL_SEGMENTS if copied else _step(plans, node).segment
        bit[node] = 1 << counts[segment]
        counts[segment] += 1
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
    plans: Sequence[Plan], matches: Matches, order: list[Node], task: Task, in_place: bool
) -> None:
    """Run all ranks in one order; `_check_hazards` has shown that any other gives the same."""
    segments, expressions = plans[0].segments, task.expressions
    inputs = [[task.given(plan.rank, s) for s in range(segments)] for plan in plans]
    outputs: list[list[int | None]] = []
    for plan in plans:
        outputs.append(inputs[plan.rank] if in_place else [None] * segments)
    wire: dict[tuple[Node, int], int] = {}
    written: dict[tuple[int, int], int] = {}  # by a step of that kind
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
        if step.kind == RECV:
            value = wire[matches.sent_by[node], segment]
        elif own is None:
            raise PlanError("value", f"{_where(plans, node)} reduces what is not there")
        elif step.kind == REDUCE:
            mine = own if step.source == FROM_INPUT else outputs[rank][segment]
            if mine is None:
                raise PlanError("value", f"{_where(plans, node)} reduces what nobody has written")
            values = {rank: mine}
            for peer, receive in matches.kept_for[node].items():
                values[peer] = wire[matches.sent_by[receive], segment]
            first = segment if step.segment == ALL_SEGMENTS else step.peer
            value = expressions.fold_ranks(values, first)
        else:
            value = expressions.op(wire[matches.sent_by[node], segment], own)
        written[rank, segment] = step.kind
        outputs[rank][segment] = expressions.final(value) if step.final else value

    for node in order:
        step = _step(plans, node)
        for segment in plans[node[0]].touched(step):
            carry_out(node, step, segment)
    for rank, segment in itertools.product(range(len(plans)), range(segments)):
        wanted = task.wanted(rank, segment)
        if wanted is None:
            # There is room for what is reduced for others, as a reduce and a reduce_scatter do.
            kind = written.get((rank, segment))
            if kind is not None and (kind == RECV or not task.reduces):
                raise PlanError("value", f"rank {rank} has no room for segment {segment}")
            continue
        if (rank, segment) not in written and wanted == task.given(rank, segment):
            continue  # the engine copies it, at any time it likes
        if outputs[rank][segment] != wanted:
            raise PlanError(
                "value",
                f"{place} rank {rank} ends with {expressions.text(outputs[rank][segment])} in"
                f" segment {segment}, expected {expressions.text(wanted)}",
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


class Task:
    """What an operation is to do, in expressions.

    Segments are those of `coll_plan_make`. What a rank has no input for, or no room, is None.

    Args:
        kind: its name.
        size: how many ranks.
        root: of rooted kinds.
        order: how a segment is reduced; None: ((x_s + x_s+1) + x_s+2) + ..., modulo the size.
        segments: None: as many as the kind has, or a multiple of that.
    """

    def __init__(
        self,
        kind: str,
        size: int,
        root: int = 0,
        order: Order | None = None,
        segments: int | None = None,
    ) -> None:
        self.kind, self.size, self.root = kind, size, root
        self.expressions = Expressions()
        self.inputs = [self.expressions.input(rank) for rank in range(size)]
        usual = {"broadcast": 1, "all_to_all": size * size}.get(kind, size)
        self.segments = usual if segments is None else segments
        self.order = order
        self.reduces = kind in ("all_reduce", "reduce", "reduce_scatter")

    def given(self, rank: int, segment: int) -> int | None:
        """A rank's input."""
        here = {
            "broadcast": rank == self.root,
            "scatter": rank == self.root,
            "all_gather": rank == self._block(segment),
            "gather": rank == self._block(segment),
            "all_to_all": rank == segment // self.size,
        }.get(self.kind, True)
        return self.inputs[rank] if here else None

    def wanted(self, rank: int, segment: int) -> int | None:
        """What a rank is to have at the end."""
        if self.reduces:
            here = {
                "all_reduce": True,
                "reduce": rank == self.root,
                "reduce_scatter": segment == (rank + 1) % self.size,
            }[self.kind]
            whole = (self.order or Task.canonical)(self, segment)
            value = self.expressions.final(whole) if self.size > 1 else whole
            return value if here else None
        source, here = {
            "broadcast": (self.root, True),
            "scatter": (self.root, rank == segment),
            "all_gather": (self._block(segment), True),
            "gather": (self._block(segment), rank == self.root),
            "all_to_all": (segment // self.size, rank == segment % self.size),
        }[self.kind]
        return self.inputs[source] if here else None

    def canonical(self, segment: int) -> int:
        """((x_s + x_s+1) + x_s+2) + ..., all ranks, modulo their number."""
        return self.expressions.fold(self.inputs, segment)

    def _block(self, segment: int) -> int:
        return segment * self.size // self.segments


Order = Callable[[Task, int], int]
Formula = Callable[[Task, int, Sequence[int]], dict[int, int]]


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """What an algorithm says about itself.

    Attributes:
        sends: the elements that a rank sends to each peer, given the segments' lengths; None: that
            is shown in another way.
        finals: how many ranks of so many make the whole reduction of a segment in an all_reduce.
        copied: whether it is for operations only whose sends are copied when they start.
        order: how it reduces a segment; None: in the canonical order.
        parts: into how many segments it cuts what is one elsewhere.
    """

    sends: Formula | None
    finals: Callable[[int], int] = lambda _size: 1
    copied: bool = False
    order: Order | None = None
    parts: int = 1

    def task(self, kind: str, size: int, root: int = 0) -> Task:
        """What it has to do."""
        task = Task(kind, size, root, self.order)
        task.segments *= self.parts
        return task


def prove(plans: Sequence[Plan], task: Task, algorithm: Algorithm) -> None:
    """Raise `PlanError` unless the plans of all ranks are right; those of one rank do nothing."""
    _check_shape(plans)
    _check_after(plans)
    matches = match(plans)
    before = _before(plans, matches, algorithm.copied)
    order = _check_deadlock(plans, matches, before)
    _check_hazards(plans, matches, before, order, algorithm.copied)
    finals = int(task.reduces and len(plans) > 1)
    if task.kind == "all_reduce":
        finals *= algorithm.finals(len(plans))
    _check_final(plans, finals)
    for in_place in (False, True):
        _check_values(plans, matches, order, task, in_place)


def prove_bytes(
    plans: Sequence[Plan], task: Task, algorithm: Algorithm, lengths: Sequence[int]
) -> None:
    """Each rank sends to each peer what the algorithm says."""
    if algorithm.sends is None:
        return
    for plan in plans:
        sent: dict[int, int] = defaultdict(int)
        for step in plan.steps:
            if step.kind == SEND:
                sent[step.peer] += sum(lengths[segment] for segment in plan.touched(step))
        wanted = algorithm.sends(task, plan.rank, lengths) if len(plans) > 1 else {}
        if sent != wanted:
            raise PlanError("bytes", f"rank {plan.rank} sends {dict(sent)} elements, not {wanted}")


# ---- the algorithms --------------------------------------------------------------------------


def _own(task: Task, rank: int) -> int:
    """The segment whose reduction ends at the rank that comes last in its order."""
    return (rank + 1) % task.size


def _peers(task: Task, rank: int) -> list[int]:
    return [peer for peer in range(task.size) if peer != rank]


def _ring(task: Task, rank: int, lengths: Sequence[int]) -> dict[int, int]:
    """To the right neighbour: all but what that one has already, in each half."""
    right = _own(task, rank)
    if task.kind == "all_gather":
        return {right: sum(lengths) - lengths[right]}
    return {right: 2 * sum(lengths) - lengths[_own(task, rank)] - lengths[_own(task, right)]}


def _direct(task: Task, rank: int, lengths: Sequence[int]) -> dict[int, int]:
    """To each peer its segment, and the own one to who is to have it."""
    if task.kind == "all_to_all":
        return {peer: lengths[rank * task.size + peer] for peer in _peers(task, rank)}
    if task.kind == "all_gather":
        return dict.fromkeys(_peers(task, rank), lengths[rank])
    own = lengths[_own(task, rank)]
    shared = {"all_reduce": _peers(task, rank), "reduce": [task.root]}.get(task.kind, [])
    return {peer: lengths[_own(task, peer)] + own * (peer in shared) for peer in _peers(task, rank)}


def _whole(task: Task, rank: int, lengths: Sequence[int]) -> dict[int, int]:
    to = [peer for peer in _peers(task, rank) if task.kind == "all_reduce" or peer == task.root]
    return dict.fromkeys(to, sum(lengths))


def _chain(task: Task, rank: int, lengths: Sequence[int]) -> dict[int, int]:
    """The buffer once, to the right neighbour; the last of the chain nothing."""
    right = (rank + 1) % task.size
    return {} if right == task.root else {right: sum(lengths)}


def _star(task: Task, rank: int, lengths: Sequence[int]) -> dict[int, int]:
    if task.kind == "gather":
        return {} if rank == task.root else {task.root: lengths[rank]}
    blocks = {peer: lengths[0 if task.kind == "broadcast" else peer] for peer in _peers(task, rank)}
    return blocks if rank == task.root else {}


def _both_ways(task: Task, rank: int, lengths: Sequence[int]) -> dict[int, int]:
    """To the right what a ring sends of one half, to the left what it sends of the other one."""
    size, sent = task.size, dict[int, int]()
    for way, to in ((0, (rank + 1) % size), (1, (rank - 1) % size)):
        half = lengths[way::2]
        there = sum(half) - half[to]
        if task.kind == "all_reduce":  # in the first half all but the own one
            there += sum(half) - half[(to + (1, -1)[way]) % size]
        sent[to] = sent.get(to, 0) + there
    return sent


def _both_orders(task: Task, segment: int) -> int:
    """Even segments are a ring's, odd ones those of a ring in which rank r is called -r."""
    half, way = divmod(segment, 2)
    if way == 0:
        return task.expressions.fold(task.inputs, half)
    mirrored = [task.inputs[-rank % task.size] for rank in range(task.size)]
    return task.expressions.fold(mirrored, -half % task.size)


def _surplus(size: int) -> int:
    """How many ranks there are above a power of two."""
    return size - (1 << (size.bit_length() - 1))


def _doubled(task: Task, rank: int, lengths: Sequence[int]) -> dict[int, int]:
    """Everything, to the partner of each round."""
    surplus = _surplus(task.size)
    pairs = rank < 2 * surplus
    if pairs and rank % 2:
        return {rank - 1: sum(lengths)}
    number = rank // 2 if pairs else rank - surplus
    partners = [number ^ (1 << k) for k in range((task.size - surplus).bit_length() - 1)]
    peers = [2 * other if other < surplus else other + surplus for other in partners]
    return dict.fromkeys([*peers, *([rank + 1] if pairs else [])], sum(lengths))


def _pairs(task: Task, _segment: int) -> int:
    """((x0 + x1) + (x2 + x3)) + ...: neighbours in pairs, and these in pairs."""
    surplus, op = _surplus(task.size), task.expressions.op
    values = [op(*task.inputs[2 * k : 2 * k + 2]) for k in range(surplus)]
    values += task.inputs[2 * surplus :]
    while len(values) > 1:
        values = [op(*pair) for pair in zip(values[::2], values[1::2], strict=True)]
    return values[0]


class Hierarchy:
    """What a hierarchical plan promises, from its description alone.

    Args:
        places: per level, the innermost first, the group of each rank.
        size: how many ranks.
        roots: of each segment, in their order.
    """

    def __init__(self, places: Sequence[Sequence[int]], size: int, roots: Sequence[int]) -> None:
        self.levels = [*places, (0,) * size]
        self.size, self.roots = size, roots
        self.groups = [
            {g: [r for r in range(size) if level[r] == g] for g in set(level)}
            for level in self.levels
        ]
        turns: dict[tuple[int, int], itertools.cycle[int]] = {
            (level, g): itertools.cycle(members)
            for level, groups in enumerate(self.groups)
            for g, members in groups.items()
        }
        self.owners: list[dict[tuple[int, int], int]] = []  # per segment, of each group
        top = len(self.levels) - 1
        for root in roots:
            owners = {(top, 0): root}
            for level in reversed(range(top)):
                for g, members in self.groups[level].items():
                    above = owners[level + 1, self.levels[level + 1][members[0]]]
                    inherits = above in members
                    owners[level, g] = above if inherits else next(turns[level, g])
            self.owners.append(owners)

    def taking_part(self, segment: int, level: int, group: int) -> list[int]:
        """The ranks that take part in a group, at its level."""
        owners = self.owners[segment]
        return [
            rank
            for rank in self.groups[level][group]
            if level == 0 or owners[level - 1, self.levels[level - 1][rank]] == rank
        ]

    def order(self, task: Task, segment: int) -> int:
        """At each level by rank, cyclically, and the owner last."""

        def whole(level: int, group: int) -> int:
            ranks = self.taking_part(segment, level, group)
            below = level - 1
            values = {
                rank: task.inputs[rank] if level == 0 else whole(below, self.levels[below][rank])
                for rank in ranks
            }
            return task.expressions.fold_ranks(values, self.owners[segment][level, group] + 1)

        return whole(len(self.levels) - 1, 0)

    def level_of(self, a: int, b: int) -> int:
        """The innermost level at which two ranks are in one group."""
        return next(k for k, level in enumerate(self.levels) if level[a] == level[b])

    def crossings(self, level: int) -> int:
        """How often each byte is passed on at a level in one direction, at least."""
        groups = self.groups[level].values()
        inner = [len({self.levels[level - 1][r] if level else r for r in g}) for g in groups]
        return sum(count - 1 for count in inner)


def hierarchical(places: Sequence[Sequence[int]], size: int, segments: int) -> Algorithm:
    """The algorithm for these levels, of reductions of so many segments."""
    roots = [(segment - 1) % size for segment in range(segments)]
    return Algorithm(
        sends=None,
        order=Hierarchy(places, size, roots).order if size > 1 else None,
        parts=max(segments // size, 1),
    )


def prove_levels(
    plans: Sequence[Plan], kind: str, hierarchy: Hierarchy, lengths: Sequence[int]
) -> None:
    """At each level as many elements are passed on as must be: one from each group in, one out.

    A reduce sends each finished segment straight to the root of the call, besides.
    """
    sent = [[0, 0] for _ in hierarchy.levels]
    for plan in plans:
        for step in plan.steps:
            if step.kind == SEND:
                level = hierarchy.level_of(plan.rank, step.peer)
                sent[level][step.message % 2] += sum(lengths[s] for s in plan.touched(step))
    for level, (up, down) in enumerate(sent):
        wanted = hierarchy.crossings(level) * sum(lengths)
        ups = 0 if kind in ("all_gather", "broadcast") else wanted
        downs = 0 if kind == "reduce_scatter" else down if kind == "reduce" else wanted
        if (up, down) != (ups, downs):
            raise PlanError("bytes", f"level {level}: {up} up, {down} down, instead of {wanted}")


RING, DIRECT = Algorithm(_ring), Algorithm(_direct)
WHOLE = Algorithm(_whole, finals=lambda size: size, copied=True)
CHAIN, STAR = Algorithm(_chain), Algorithm(_star)
BIDIRECTIONAL_RING = Algorithm(_both_ways, order=_both_orders, parts=2)
DOUBLING = Algorithm(_doubled, finals=lambda size: size - _surplus(size), copied=True, order=_pairs)
