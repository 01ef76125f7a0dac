"""Which calls are one operation, and who was in a run with whom: what most checkers start from.

An operation is known by its group, its tag and its number, which no death resets; a send and its
receive by who sends to whom, too, which nobody knows of a receive from any that raised. Only in a
*lineage*, though: if all members of a run die, the next run begins anew. Members that ever shared a
view are of one lineage.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools

from collectives.chaos.history import History
from collectives.chaos.journal import View
from collectives.chaos.records import Call, Life, Seen

Key = tuple[int | None, tuple[str, str] | None, int]
"""Of an operation: its tag, the pair if it is of one, and its number."""


def key_of(call: Call) -> Key | None:
    """Which operation of its lineage a call is, None: that is not known."""
    if call.number is None or (call.to and call.pair is None):
        return None
    return call.tag, call.pair, call.number


@dataclasses.dataclass(slots=True)
class Operation:
    """The calls that are one operation, of all lives."""

    lineage: Lineage
    tag: int | None
    pair: tuple[str, str] | None
    number: int
    calls: list[Call]
    _survivors: list[Call] | None = None

    @property
    def name(self) -> str:
        """For people."""
        tag = "" if self.tag is None else f" of tag {self.tag}"
        if self.pair is not None:
            return f"transfer {self.number} from {self.pair[0]} to {self.pair[1]}{tag}"
        return f"{self.calls[0].op} {self.number}{tag}"

    @property
    def complete(self) -> bool:
        """Whether all survivors have returned it; all members of its view, if nobody died."""
        calls = self.survivors()
        return bool(calls) and all(call.returned for call in calls)

    def survivors(self) -> list[Call]:
        """The calls of those who are members of the newest view in which it was resolved.

        That of a success is the view it ended in; that of an error the one in which its caller met
        the others again, since the verdict's own may have been seen by nobody. Who ended with an
        unknown outcome is out of the run, whoever was interrupted did not wait for the decision,
        and nothing was sent of what was refused.
        """
        if self._survivors is None:
            self._survivors = self._who_survived()
        return self._survivors

    def _who_survived(self) -> list[Call]:
        told = [call for call in self.calls if call.ended is not None and not _not_told(call)]
        views = [view for call in told if (view := self.lineage.resolved(call)) is not None]
        if not views:
            return told
        newest = max(views)
        return [call for call in told if call.presence and call.presence.id in newest.ids]


_NOT_TOLD = ("KeyboardInterrupt", "Evicted", "InvalidArgument", "UnsupportedError")


def _not_told(call: Call) -> bool:
    return call.unknown or call.error in _NOT_TOLD


@dataclasses.dataclass
class Lineage:
    """Members of a group that are related by views.

    Attributes:
        views: all that were seen, by (term, number), each with who saw it when, the first first.
        lives: by member id.
        operations: by what ``key_of`` says.
        views_after: by id of a call that raised, what its caller saw when it met the others again.
    """

    group: str
    views: dict[tuple[int, int], list[Seen]]
    lives: dict[str, Life]
    operations: dict[Key, Operation]
    views_after: dict[int, View] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def ordered(self) -> list[list[Seen]]:
        """The views in their order."""
        return [self.views[key] for key in sorted(self.views)]

    @functools.cached_property
    def by_number(self) -> dict[int, View]:
        """The views by their number, which no restart resets."""
        return {seen[0].view.number: seen[0].view for seen in self.ordered}

    def resolved(self, call: Call) -> View | None:
        """The view in which an ended call was resolved, as far as its life knows."""
        if call.returned:
            return self.by_number.get(call.in_view) if call.in_view is not None else call.seen
        return self.views_after.get(id(call), call.seen)


def lineages(history: History) -> list[Lineage]:
    """All lineages of a run, with their operations; found once for each history."""
    found: list[Lineage] | None = history.memo.get("lineages")
    if found is None:
        found = history.memo["lineages"] = _find(history)
    return found


def _find(history: History) -> list[Lineage]:
    parents: dict[tuple[str, str], tuple[str, str]] = {}

    def root(member: tuple[str, str]) -> tuple[str, str]:
        while (parent := parents.setdefault(member, member)) != member:
            parents[member] = parents[parent]
            member = parent
        return member

    for life in history.lives.values():
        for seen in life.views:
            mine = root((seen.presence.group, seen.presence.id))
            for member in seen.view.ids:
                parents[root((seen.presence.group, member))] = mine
    found: dict[tuple[str, str], Lineage] = {}
    for life in history.lives.values():
        for presence in life.presences:
            at = root((presence.group, presence.id))
            lineage = found.setdefault(at, Lineage(presence.group, {}, {}, {}))
            lineage.lives[presence.id] = life
        for seen in life.views:
            lineage = found[root((seen.presence.group, seen.presence.id))]
            lineage.views.setdefault((seen.view.term, seen.view.number), []).append(seen)
    for lineage in found.values():
        for seers in lineage.views.values():
            seers.sort(key=lambda seen: seen.t)
    for life in history.lives.values():
        _operations(life, {at: found[root(at)] for at in parents})
    return list(found.values())


def _operations(life: Life, lineage_of: dict[tuple[str, str], Lineage]) -> None:
    syncs = [call for call in life.calls if call.op == "sync" and call.returned]
    began = [call.t for call in syncs]
    for call in life.calls:
        key = key_of(call)
        if call.presence is None or key is None or call.ended is None:
            continue
        lineage = lineage_of[call.group, call.presence.id]
        operation = lineage.operations.get(key)
        if operation is None:
            operation = lineage.operations[key] = Operation(lineage, *key, [])
        operation.calls.append(call)
        if call.error is not None:
            # What it saw when it had met the others after the error: at the end of its next sync.
            next_one = bisect.bisect_left(began, call.ended)
            met = syncs[next_one] if next_one < len(syncs) else None
            view = _view_after(life, call, met)
            if view is not None:
                lineage.views_after[id(call)] = view


def _view_after(life: Life, call: Call, met: Call | None) -> View | None:
    """The last view that a life saw in a call, or up to the end of another."""
    for seen in reversed(life.views):
        if seen.presence is not call.presence:
            continue
        # The line of a view stands behind that of the call in which it came.
        if met is None or seen.t <= (met.ended or 0) or seen.call is met:
            return seen.view
    return call.seen
