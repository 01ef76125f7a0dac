"""A run that never was: a run folder as the harness and correct peers would have written it.

Four peers; one is killed and comes again, one stands still until it is evicted and rejoins, one
stops for a moment only; strangers and damaged bytes; the coordinator is killed; an operation times
out; another death is an error because nobody wanted it repaired. The times are invented, the
``Journal`` is the real one. ``mutants`` changes single things in it.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from collectives._native.engine import Counters
from collectives.chaos.journal import Journal, View, digest

SECOND = 1_000_000_000
ORIGIN = 1_000 * SECOND
GROUP = "default"
COUNTERS = [field.name for field in dataclasses.fields(Counters)]


def ns(seconds: float) -> int:
    return ORIGIN + round(seconds * SECOND)


@dataclasses.dataclass
class Actor:
    """A life and what it knows."""

    place: str
    life: int
    journal: Journal
    id: str
    n: int = 0
    called: str | None = None

    @property
    def name(self) -> str:
        return self.place if self.life == 0 else f"{self.place}.{self.life}"


class Story:
    """Writes a run folder, event by event."""

    def __init__(self, folder: Path, **begin: Any) -> None:
        (folder / "peers").mkdir(parents=True)
        self.folder = folder
        self.harness = Journal(folder / "harness.jsonl")
        self.actors: list[Actor] = []
        self.view = View(1, 1, ())
        self.number = 0
        self._faults = 0
        self._ids = 0
        fields = {"scenario": "synthetic", "seed": 1, "detection": 2.0, **begin}
        self.tell(0.0, "begin", **fields)
        self.tell(0.0, "coordinator", what="started", pid=1)

    def tell(self, t: float, kind: str, /, **fields: Any) -> None:
        self.harness.write(kind, t=ns(t), **fields)

    def new_id(self) -> str:
        self._ids += 1
        return digest(b"id %d" % self._ids)

    def fault(
        self, t: float, kind: str, *peers: str, until: float | None = None, **more: Any
    ) -> int:
        end = None if until is None else ns(until)
        self.tell(t, "fault", fault=self._faults, kind=kind, peers=list(peers), until=end, **more)
        self._faults += 1
        return self._faults - 1

    def start(self, t: float, place: str) -> Actor:
        life = sum(actor.place == place for actor in self.actors)
        journal = Journal(self.folder / "peers" / f"{place}.{life}.jsonl")
        actor = Actor(place, life, journal, self.new_id())
        self.actors.append(actor)
        self.tell(t, "started", peer=place, life=life, pid=100 + len(self.actors))
        journal.write("start", t=ns(t + 0.1), peer=place, life=life, pid=100 + len(self.actors))
        return actor

    def exited(self, t: float, actor: Actor, status: int, expected: bool = True) -> None:
        fields = {"peer": actor.place, "life": actor.life, "pid": 0}
        self.tell(t, "exited", **fields, status=status, expected=expected)

    def change(self, *members: Actor, term: int | None = None) -> None:
        """The next view; it is written down by ``joined`` and by who ends a call in it."""
        members_of = tuple((actor.id, actor.name) for actor in members)
        self.view = View(term or self.view.term, self.view.number + 1, members_of)

    def joined(self, t: float, actor: Actor, *, newcomer: bool, again: bool = False) -> None:
        fields = {"group": GROUP, "id": actor.id, "name": actor.name, "view": self.view}
        kind = "rejoined" if again else "joined"
        actor.journal.write(kind, t=ns(t), **fields, newcomer=newcomer, seconds=0.2)

    def call(self, t: float, actor: Actor, op: str, **more: Any) -> None:
        actor.n += 1
        actor.called = more.get("digest")
        fields: dict[str, Any] = {"n": actor.n, "group": GROUP, "op": op, "tag": None}
        fields |= {"count": None, "dtype": None, "redop": None, "root": None, "in_place": False}
        fields |= {"timeout": 10.0, "on_failure": "retry", "atomic": True, "digest": None}
        actor.journal.write("call", t=ns(t), **(fields | {"blocking": True, "work": None} | more))

    def ends(self, t: float, actor: Actor, kind: str, **fields: Any) -> None:
        actor.journal.write(kind, t=ns(t), n=actor.n, **fields)

    def saw(self, t: float, actor: Actor) -> None:
        actor.journal.write("view", t=ns(t), group=GROUP, view=self.view)

    def resources(self, t: float, actor: Actor, **more: int) -> None:
        fields = {"fds": 20, "threads": 5, "mappings": 300, "children": 0, "rss": 1 << 27} | more
        actor.journal.write("resources", t=ns(t), **fields)

    def counters(self, t: float, actor: Actor, out: bool = False, **more: int) -> None:
        counts = dict.fromkeys(COUNTERS, 0) | more
        actor.journal.write("counters", t=ns(t), group=GROUP, counts=counts, out=out)

    def operation(
        self,
        t: float,
        members: list[Actor],
        op: str = "all_reduce",
        *,
        took: float = 0.05,
        work: int | None = None,
        becomes: list[Actor] | None = None,
        raises: tuple[str, str | None] | None = None,
        held: tuple[Actor, ...] = (),
        ranges: list[Any] | None = None,
        **more: Any,
    ) -> int:
        """One operation of these members; ``becomes``: the view that it ends in has only those.

        Who is ``held`` has not ended it by then.
        """
        self.number += 1
        step = self.number if work is None else work
        moves: dict[str, Any] = {}
        if op in ("all_reduce", "broadcast", "reduce_scatter"):
            moves = {"count": 1000, "dtype": "f32", "in_place": True}
            moves |= {"root": members[0].name} if op == "broadcast" else {"redop": "sum"}
        for index, actor in enumerate(members):
            mine = digest(f"{step} {actor.name}".encode()) if moves else None
            self.call(t + index * 1e-4, actor, op, work=step, digest=mine, **moves, **more)
        if becomes is not None:
            self.change(*becomes)
        names = list(self.view.names)
        result = digest(f"{step} {names}".encode()) if moves else None
        for index, actor in enumerate(a for a in members if a not in held):
            end = t + took + index * 1e-4
            if actor.id not in self.view.ids:
                continue
            if becomes is not None:
                self.saw(end, actor)
            if raises is None:
                told = {"number": self.number, "digest": result, "contributors": names}
                told |= {"view": self.view.number, "retries": int(becomes is not None)}
                told["ranges"] = ranges
                if op == "reduce_scatter":
                    own = digest(f"{step} {names} for {actor.name}".encode())
                    told |= {"digest": None, "own": own}
                if op == "broadcast":
                    told["contributors"] = names[:1]
                self.ends(end, actor, "return", **told, seconds=took)
            else:
                error = {"number": self.number, "error": raises[0], "peer": raises[1]}
                error |= {"unknown": False, "message": "it went wrong", "digest": actor.called}
                self.ends(end, actor, "raise", **error)
            if actor.n == 1:
                self.resources(end, actor)
        return self.number

    def transfer(self, t: float, number: int, sender: Actor, receiver: Actor) -> None:
        """A send and its receive, which have numbers of their own."""
        what = digest(f"transfer {number} of {sender.name}".encode())
        moves = {"count": 1000, "dtype": "f32", "root": sender.name, "to": receiver.name}
        told = {"number": number, "digest": what, "contributors": [sender.name], "retries": 0}
        told |= {"view": self.view.number, "seconds": 0.01}
        for actor, op, given in ((sender, "send", what), (receiver, "recv", None)):
            self.call(t, actor, op, digest=given, **moves)
        for actor in (receiver, sender):
            self.ends(t + 0.01, actor, "return", **told)

    def sync(
        self, t: float, members: list[Actor], *new: Actor, revision: int, term: int = 0
    ) -> None:
        """All meet, ``new`` ones are admitted, and all hold the same state."""
        self.number += 1
        for actor in members:
            self.call(t, actor, "sync")
        if new:
            self.change(*members, *new, term=term or None)
        for actor in members:
            if new:
                self.saw(t + 0.1, actor)
            told = {"number": self.number, "digest": None, "contributors": None}
            told |= {"view": self.view.number, "retries": 0, "seconds": 0.1}
            self.ends(t + 0.1, actor, "return", **told)
        for actor in new:
            again = actor.n > 0
            self.joined(t + 0.1, actor, newcomer=True, again=again)
        held = digest(b"state %d" % revision)
        for actor in (*members, *new):
            line = {"group": GROUP, "revision": revision, "digest": held, "run": "r", "work": None}
            actor.journal.write("state", t=ns(t + 0.12), **line)

    def leaves(self, t: float, actor: Actor, **counts: int) -> None:
        self.resources(t, actor, fds=22, mappings=310)
        self.counters(t, actor, **counts)
        self.call(t, actor, "leave")
        nothing = dict.fromkeys(("number", "digest", "contributors", "view", "retries"))
        self.ends(t + 0.1, actor, "return", **nothing, seconds=0.1)
        actor.journal.write("left", t=ns(t + 0.1), group=GROUP)
        actor.journal.write("end", t=ns(t + 0.2), status="ok")
        self.exited(t + 0.4, actor, 0)


def write(folder: Path) -> None:
    """The story."""
    story = Story(folder)
    p0, p1, p2, p3 = four = [story.start(0.0, f"p{index}") for index in range(4)]
    story.view = View(1, 1, tuple((actor.id, actor.name) for actor in four))
    for actor in four:
        story.joined(0.5, actor, newcomer=False)
    for index in range(8):
        # The sixth has the inputs of the fifth.
        story.operation(1.0 + index / 2, four, work=5 if index == 5 else None)
    story.operation(5.0, four, "broadcast")
    story.operation(5.5, four, "barrier")
    story.sync(6.5, four, revision=1)

    # Operation 12: p2 is killed, the others finish it.
    story.fault(7.02, "kill", "p2", restart=1.0)
    story.exited(7.05, p2, -9)
    three = [p0, p1, p3]
    story.operation(7.0, four, took=0.08, becomes=three)
    story.operation(7.5, three)
    again = story.start(8.0, "p2")
    story.sync(9.0, three, again, revision=2)
    four = [p0, p1, p3, again]
    for index in range(6):
        story.operation(10.0 + index / 2, four)

    # Operation 21: p3 stands still for longer than the detection time.
    story.fault(14.05, "stop", "p3", until=18.0)
    three = [p0, p1, again]
    story.operation(14.0, four, took=2.4, becomes=three)
    gone = {"number": None, "error": "Evicted", "peer": None, "unknown": True}
    story.ends(18.1, p3, "raise", **gone, message="out of the run", digest=p3.called)
    for index in range(4):
        story.operation(17.0 + index / 2, three)
    story.counters(18.2, p3, out=True, refused_hello=1)
    p3.id = story.new_id()
    story.sync(20.0, three, p3, revision=3)
    four = [*three, p3]

    # p1 stops for a moment, somebody talks nonsense to p3, bytes between p0 and p1 are damaged.
    story.operation(21.0, four)
    story.fault(22.0, "stop", "p1", until=22.5)
    story.operation(22.1, four, took=0.5)
    stranger = story.fault(23.0, "stranger", "p3", count=5)
    flip = story.fault(23.5, "flip", "p0", "p1", count=3)
    story.fault(24.0, "slow", "p2", until=26.0, share=0.2)
    story.operation(24.2, four, took=0.4)

    # The coordinator is killed, and restarted from its journal.
    story.fault(27.0, "coordinator_kill", restart=1.5)
    story.tell(27.0, "coordinator", what="killed", pid=1)
    story.operation(27.3, four)
    story.tell(28.5, "coordinator", what="restarted", pid=2)
    for index in range(3):
        story.operation(29.0 + index / 2, four)
    story.operation(31.0, four, took=10.0, raises=("Timeout", None))
    story.sync(41.5, four, revision=4)
    story.view = dataclasses.replace(story.view, term=2)

    # A death that is an error.
    for index in range(3):
        story.operation(42.0 + index / 2, four)
    story.fault(44.02, "kill", "p2")
    story.exited(44.05, again, -9)
    three = [p0, p1, p3]
    lost = ("PeerLost", again.name)
    story.operation(44.0, four, took=0.09, becomes=three, raises=lost, on_failure="raise")
    story.sync(45.0, three, revision=5)
    for index in range(20):
        story.operation(46.0 + index, three)
    # One is resumed; what the ranks have of their own; sends and receives beside all that.
    whole = [actor.name for actor in three]
    story.operation(66.0, three, on_failure="resume", ranges=[[0, 500, whole], [500, 1000, whole]])
    for _ in range(2):
        story.operation(66.1, three, "reduce_scatter", took=0.01, work=1000)
    story.transfer(66.2, 1, p0, p1)
    story.transfer(66.25, 1, p1, p0)
    story.transfer(66.3, 2, p0, p1)
    for fault, count in ((stranger, 5), (flip, 3)):
        story.tell(66.4, "applied", fault=fault, count=count)
    story.tell(66.5, "stopping")
    broken = {"corrupt_frames": 1, "connections_lost": 1}
    story.leaves(67.0, p0, **broken)
    story.leaves(67.1, p1, **broken)
    story.leaves(67.2, p3, refused_hello=4, refused_silent=1)
    story.tell(68.0, "finish")


class Lines:
    """The lines of a run folder, to be changed and written back."""

    def __init__(self, folder: Path) -> None:
        self.files = {
            path: [json.loads(line) for line in path.read_text().splitlines()]
            for path in [folder / "harness.jsonl", *sorted((folder / "peers").glob("*.jsonl"))]
        }

    def write(self, folder: Path) -> None:
        for path, lines in self.files.items():
            goal = folder / ("" if path.stem == "harness" else "peers") / path.name
            goal.parent.mkdir(parents=True, exist_ok=True)
            goal.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def of(self, name: str) -> list[dict[str, Any]]:
        """The lines of ``"harness"`` or of a life such as ``"p0.0"``."""
        (found,) = [lines for path, lines in self.files.items() if path.stem == name]
        return found

    def all(self, name: str, kind: str, /, **match: Any) -> list[dict[str, Any]]:
        names = [path.stem for path in self.files] if name == "*" else [name]
        lines = [line for each in names for line in self.of(each) if line["k"] == kind]
        found = [line for line in lines if match.items() <= line.items()]
        assert found, f"no {kind} with {match} in {name}"
        return found

    def one(self, name: str, kind: str, /, **match: Any) -> dict[str, Any]:
        (found,) = self.all(name, kind, **match)
        return found

    def call_of(self, name: str, number: int) -> dict[str, Any]:
        ends = [line for line in self.of(name) if line.get("number") == number]
        return self.one(name, "call", n=ends[0]["n"])

    def end_of(self, name: str, number: int) -> dict[str, Any]:
        (found,) = [line for line in self.of(name) if line.get("number") == number]
        return found
