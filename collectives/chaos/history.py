"""A run folder, read: lives with their calls, the faults that hit them, what the coordinator did.

Times are nanoseconds of the machine's monotonic clock, as in the journals. Nothing here judges; the
checkers do. Who was a member with whom, and which calls belong together, is in ``operations``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from collectives.chaos.journal import DamagedJournal, Line, View, read
from collectives.chaos.records import (
    FOREVER,
    INSTANT,
    SECOND,
    Call,
    Fault,
    Life,
    Presence,
    Seen,
    State,
)


@dataclasses.dataclass
class History:
    """All that is known about a run.

    Attributes:
        begin: the fields of the harness's first line.
        lives: by name, such as ``"p2.1"``.
        outages: when there was no coordinator, with whether it was killed (else: stopped).
        stopping: when the harness began to end the run.
        finish: its last line.
        memo: what was derived from all this, once.
    """

    folder: Path
    begin: dict[str, Any]
    lives: dict[str, Life]
    events: list[Line]
    faults: list[Fault]
    outages: list[tuple[float, float, bool]]
    stopping: float
    start: int
    finish: int
    memo: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def detection(self) -> float:
        """Seconds after which a silent peer counts as lost."""
        return float(self.begin.get("detection") or 5.0)

    @property
    def recovery(self) -> float:
        """Seconds that a call waits for a decision beyond its timeout (``Options.recovery``)."""
        return float(self.begin.get("recovery") or 10.0)

    @property
    def calls(self) -> Iterator[Call]:
        """All calls of all lives."""
        for life in self.lives.values():
            yield from life.calls

    def seconds(self, t: float) -> float:
        """Seconds since the beginning."""
        return (t - self.start) / SECOND

    def alive(self, t: float) -> list[Life]:
        """The lives that ran at a time."""
        return [life for life in self.lives.values() if (life.started or 0) <= t < life.gone]

    def faults_in(self, since: float, until: float) -> list[Fault]:
        """The faults that were on at any time of an interval."""
        return [fault for fault in self.faults if fault.t <= until and fault.until >= since]

    def touching(self, place: str, since: float, until: float) -> list[Fault]:
        """Those of them that touch a place."""
        return [fault for fault in self.faults_in(since, until) if place in fault.places]

    def lines_around(
        self, moments: Sequence[tuple[float, Collection[str]]], before: float, after: float
    ) -> list[dict[str, list[Line]]]:
        """The lines of all journals around some moments, by the journal's name.

        Args:
            moments: nanoseconds of CLOCK_MONOTONIC, and references such as ``"p0.0:17"`` to lines
                that belong to it, whenever they were written.
            before: seconds before each.
            after: seconds after each.
        """
        found: list[dict[str, list[Line]]] = [{} for _ in moments]
        for path in journals_of(self.folder):
            name = "harness" if path.parent == self.folder else path.stem
            for line in read(path):
                for at, (t, lines) in zip(found, moments, strict=True):
                    near = t - before * SECOND <= line.t <= t + after * SECOND
                    if near or f"{name}:{line.number}" in lines:
                        at.setdefault(name, []).append(line)
        return found

    @classmethod
    def read(cls, folder: str | Path) -> History:
        """Read a run folder.

        Raises:
            DamagedJournal: a journal is damaged or contradicts itself.
            OSError: it cannot be read.
        """
        folder = Path(folder)
        lives = {}
        for path in journals_of(folder)[1:]:
            place, _, number = path.stem.rpartition(".")
            life = lives[path.stem] = Life(place, int(number))
            _read_life(life, path)
        return _read_harness(folder, lives)


def journals_of(folder: Path) -> list[Path]:
    """The journals of a run folder: the harness's, then those of the lives in their order."""

    def order(path: Path) -> tuple[int, str, int]:
        place, _, number = path.stem.rpartition(".")
        return len(place), place, int(number)

    return [folder / "harness.jsonl", *sorted((folder / "peers").glob("*.jsonl"), key=order)]


def _read_life(life: Life, path: Path) -> None:
    now: dict[str, Presence] = {}
    views: dict[str, View] = {}
    open_calls: dict[int, Call] = {}
    last: Call | None = None
    for line in read(path):
        fields, kind = line.fields, line.kind
        try:
            group = fields.get("group", "")
            if kind == "call":
                call = _call(life, now.get(group), views.get(group), line)
                life.calls.append(call)
                open_calls[call.n] = call
            elif kind in ("return", "raise"):
                last = open_calls.pop(fields["n"])
                _end(last, line)
            elif kind in ("joined", "rejoined"):
                presence = Presence(group, fields["id"], fields["name"], line.t)
                now[group] = presence
                life.presences.append(presence)
                views[group] = View.from_json(fields["view"])
                within = _under_way(open_calls)
                life.views.append(Seen(line.t, views[group], presence, line.number, within))
            elif kind == "view" and group in now:
                views[group] = View.from_json(fields["view"])
                within = _under_way(open_calls) or last
                life.views.append(Seen(line.t, views[group], now[group], line.number, within))
            elif kind == "state":
                what = (fields["revision"], fields["digest"], fields.get("run"))
                life.states.append(State(line.t, group, *what, line.number, now.get(group)))
            elif kind == "wrong":
                life.wrongs.append(line)
            elif kind == "resources":
                life.resources.append(line)
            elif kind == "counters" and group in now:
                presence = now[group]
                presence.counters, presence.out = fields["counts"], fields["out"]
                presence.counted = line.t
            elif kind == "left" and group in now:
                now.pop(group).left = line.t
            elif kind == "end":
                life.ended, life.ending = line.t, fields["status"]
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedJournal(
                f"{path}, line {line.number}: a {kind!r} that makes no sense ({error!r})"
            ) from None


def _under_way(calls: dict[int, Call]) -> Call | None:
    """The blocking call that was made last and has not ended."""
    return next((call for call in reversed(calls.values()) if call.blocking), None)


def _call(life: Life, presence: Presence | None, seen: View | None, line: Line) -> Call:
    get = line.fields.get
    return Call(
        life=life,
        presence=presence,
        line=line.number,
        n=line.fields["n"],
        t=line.t,
        op=line.fields["op"],
        group=get("group", ""),
        tag=get("tag"),
        count=get("count"),
        counts=tuple(get("counts") or ()) or None,
        dtype=get("dtype"),
        redop=get("redop"),
        codec=get("codec"),
        root=get("root"),
        to=get("to"),
        in_place=bool(get("in_place", False)),
        atomic=bool(get("atomic", True)),
        timeout=get("timeout"),
        on_failure=get("on_failure"),
        digest=get("digest"),
        blocking=bool(get("blocking", True)),
        work=get("work"),
        seen=seen,
    )


def _end(call: Call, line: Line) -> None:
    get = line.fields.get
    call.ended, call.end_line, call.number = line.t, line.number, get("number")
    if line.kind == "return":
        contributors = get("contributors")
        call.contributors = None if contributors is None else tuple(contributors)
        call.result, call.in_view, call.seconds = get("digest"), get("view"), get("seconds")
        call.retries, call.own = get("retries") or 0, get("own")
        call.ranges = tuple((a, b, tuple(who)) for a, b, who in get("ranges") or ())
    else:
        call.error, call.peer, call.after = line.fields["error"], get("peer"), get("digest")
        call.unknown, call.message = bool(get("unknown", False)), get("message", "")


def _read_harness(folder: Path, lives: dict[str, Life]) -> History:
    begin: dict[str, Any] = {}
    events: list[Line] = []
    faults: dict[int, Fault] = {}
    outages: list[tuple[float, float, bool]] = []
    stopping: float = FOREVER
    down: tuple[int, bool] | None = None
    last = 0
    for line in read(folder / "harness.jsonl"):
        get, kind = line.fields.get, line.kind
        events.append(line)
        last = line.t
        life = lives.get(f"{get('peer')}.{get('life')}")
        if kind in ("started", "exited", "died") and life is None:
            # It was killed before its first line.
            name = f"{get('peer')}.{get('life')}"
            life = lives[name] = Life(str(get("peer")), int(get("life", 0)))
        if kind == "begin":
            begin = line.fields
        elif kind == "started" and life:
            life.started = line.t
        elif kind == "exited" and life:
            life.exited, life.status = line.t, get("status")
            life.expected = bool(get("expected", False))
        elif kind == "died" and life:
            life.killed = line.t
        elif kind == "fault":
            fault = _fault(line)
            faults[fault.index] = fault
            if fault.kind == "kill" and fault.fields.get("moment") is None:
                for hit in _running(lives, fault):
                    hit.killed = line.t
        elif kind == "healed" and get("fault") in faults:
            faults[line.fields["fault"]].until = line.t
        elif kind == "applied" and get("fault") in faults:
            faults[line.fields["fault"]].applied = line.fields["count"]
        elif kind == "coordinator":
            what = get("what")
            if what in ("killed", "stopped"):
                down = (line.t, what == "killed")
            elif what in ("restarted", "continued") and down is not None:
                outages.append((down[0], line.t, down[1]))
                down = None
        elif kind == "stopping":
            stopping = line.t
    if down is not None:
        outages.append((down[0], FOREVER, down[1]))
    if not events:
        raise DamagedJournal(f"{folder / 'harness.jsonl'} is empty: the harness did not begin")
    for fault in faults.values():
        if fault.kind == "stop":
            for hit in _running(lives, fault):
                hit.stops.append((fault.t, fault.until))
    found = list(faults.values())
    return History(folder, begin, lives, events, found, outages, stopping, events[0].t, last)


def _fault(line: Line) -> Fault:
    fields = line.fields
    places: set[str] = set(fields.get("peers") or ())
    for key in ("peer", "a", "b"):
        value = fields.get(key)
        places.update([value] if isinstance(value, str) else value or ())
    until = line.t if fields["kind"] in INSTANT else FOREVER
    if fields.get("until") is not None:
        until = fields["until"]
    return Fault(
        fields["fault"], fields["kind"], line.t, until, frozenset(places), fields, line.number
    )


def _running(lives: dict[str, Life], fault: Fault) -> list[Life]:
    hit = [life for life in lives.values() if life.place in fault.places]
    started = [life for life in hit if life.started is not None and life.started <= fault.t]
    return [life for life in started if fault.t < life.gone]
