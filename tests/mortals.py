"""Members that die at exact moments, and what the survivors made of it.

    with Mortals() as mortals:
        survivors = mortals.run(Case(3, Call("all_reduce"), victims=((1, "between"),)))

Each case is a group of its own in processes that live on, but for the victims, which are forked
anew. Survivors check their own results against numpy (``calls``) and send back a ``Record``;
``agree`` compares those.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import collectives
import crew
from calls import Call
from crew import DEADLINE, Member, Outcome
from nursery import Nursery

# Seconds from a death until the survivors have gone on. `make test` runs other files beside this,
# so the promise itself is held by `make test-full`.
NOTICED = 1.5 if os.environ.get("COLLECTIVES_TEST_FULL") else 6.0


@dataclasses.dataclass(frozen=True)
class Case:
    """One operation in which members die.

    Attributes:
        victims: ranks, and the moment at which each dies (``Group._fault_at``).
        min_size: of every member.
        transport: of every member.
        patience: seconds after the last death in which all must have gone on.
    """

    size: int
    call: Call
    victims: tuple[tuple[int, str], ...] = ()
    min_size: int = 1
    transport: str = "auto"
    patience: float = NOTICED

    @property
    def kind(self) -> str:
        return self.call.kind

    def __str__(self) -> str:
        dead = " and ".join(f"{rank} dies {phase}" for rank, phase in self.victims)
        return f"{self.size} peers, {self.transport}, {self.call}, {dead}"


@dataclasses.dataclass(frozen=True)
class Record:
    """What one survivor saw of a case.

    Attributes:
        outcome: ``("ok", contributors, digest)`` or the error's class and the peer that it names.
        at: ``time.time()`` of the end of the operation.
        after: contributors of the operation after it.
    """

    rank: int
    name: str
    members: tuple[str, ...]
    outcome: tuple[Any, ...]
    message: str
    at: float
    retries: int
    after: tuple[str, ...] | str


# ---- in the processes ------------------------------------------------------------------------


def operate(group: collectives.Group, case: Case) -> tuple[tuple[Any, ...], int]:
    """Do the case's operation; every byte is checked. The outcome, and how often it was retried."""
    if case.kind == "sync":
        group.sync(timeout=DEADLINE)
        return ("ok", tuple(peer.name for peer in group.peers), 0), 0
    result = case.call.make(group, timeout=DEADLINE)
    # Of the others each rank has something else, which it has checked by itself.
    same = case.kind in ("all_reduce", "broadcast", "all_gather")
    digest = zlib.crc32(result.value) if same else 0
    return ("ok", result.contributors, digest), result.retries


def grow(group: collectives.Group, size: int) -> None:
    """Admit others until there are so many."""
    while group.size < size:
        group.sync(timeout=DEADLINE)


def go_on(group: collectives.Group) -> tuple[str, ...]:
    """An operation of no consequence, checked: who took part."""
    array = np.full(100, 1.0)
    result = group.all_reduce(array, timeout=DEADLINE)
    assert (array == len(result.contributors)).all()
    return result.contributors


def enter(
    address: str, name: str, me: str, size: int, min_size: int = 1, **options: Any
) -> collectives.Group:
    """Be a member of a group of ``size`` that may shrink to ``min_size``."""
    group = collectives.join(
        address,
        group=name,
        name=me,
        min_size=min_size,
        timeout=DEADLINE,
        options=collectives.Options(**{"timeout": DEADLINE, **options}),
    )
    grow(group, size)
    return group


def arm(
    group: collectives.Group,
    phase: str,
    folder: str,
    number: int | None = None,
    tag: int | None = None,
    action: str = "kill",
) -> None:
    """Die at the next operation's phase, or a round's, and leave a line that says so."""
    fd = os.open(f"{folder}/{group.rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    if number is None:
        in_round = phase in ("sealed", "judged")
        number = 0 if in_round else group._native.last_operation() + 1
    group._fault_at(phase, number, tag, action, journal_fd=fd)


def assemble(folder: str, rank: int, size: int) -> None:
    """Wait until all are back from what was before: a death would have them repeat it, and make
    their call in another view."""
    Path(folder, f"{rank}.ready").touch()
    deadline = time.monotonic() + DEADLINE
    while len(list(Path(folder).glob("*.ready"))) < size:
        assert time.monotonic() < deadline, "not all are ready"
        time.sleep(0.001)


def play(_: Any, address: str, name: str, me: str, case: Case, folder: str) -> Record:
    group = enter(address, name, me, case.size, case.min_size, transport=case.transport)
    rank, mine, members = group.rank, group.name, tuple(peer.name for peer in group.peers)
    group.barrier(timeout=DEADLINE)
    # Before all are there: else one could die, and its round pass, before the next is armed.
    for victim, phase in case.victims:
        if victim == rank:
            arm(group, phase, folder)
    assemble(folder, rank, case.size)
    message, retries = "", 0
    after: tuple[str, ...] | str
    try:
        outcome, retries = operate(group, case)
    except collectives.CollectiveError as error:
        outcome, message = (type(error).__name__, getattr(error, "peer", "")), str(error)
    at = time.time()
    if outcome[0] == "TooFewPeers":
        after = ""  # it waits for more from now on
    else:
        if outcome[0] != "ok":
            group.sync(timeout=DEADLINE)
        after = go_on(group)
    group.leave(timeout=3.0)
    return Record(rank, mine, members, outcome, message, at, retries, after)


def found(
    _: Any, address: str, name: str, me: str, size: int, min_size: int, options: dict[str, Any]
) -> int:
    """Keep the group for the functions that are called next; the rank in it."""
    crew._group = enter(address, name, me, size, min_size, **options)
    return crew._group.rank


def part(group: collectives.Group) -> None:
    """Leave it."""
    crew._group = None
    group.leave(timeout=3.0)


# ---- in the test -----------------------------------------------------------------------------


class Mortals:
    """Processes for cases, and their coordinator; a context manager.

    Args:
        coordinator: one that runs already; None: one of its own.
    """

    def __init__(self, coordinator: Any = None) -> None:
        self._mine = None if coordinator else collectives.Coordinator("127.0.0.1:0")
        self.coordinator = coordinator or self._mine
        self.nursery = Nursery("mortals")
        self.idle: list[Member] = []
        self._names: dict[int, str] = {}  # of the group that a process was last in
        self._numbers = itertools.count(1)

    def __enter__(self) -> Mortals:
        self.nursery.__enter__()
        return self

    def __exit__(self, *what: object) -> None:
        self.nursery.__exit__(*what)
        if self._mine is not None:
            self._mine.close()

    def take(self, size: int) -> list[Member]:
        """``size`` processes that do nothing."""
        while len(self.idle) < size:
            self.idle.append(Member(next(self._numbers), nursery=self.nursery))
        taken, self.idle = self.idle[:size], self.idle[size:]
        return taken

    def band(
        self,
        size: int,
        options: dict[str, Any] | Sequence[dict[str, Any]] | None = None,
        addresses: Sequence[str] | None = None,
    ) -> list[Member]:
        """``size`` processes in a group that may shrink to one, by rank; it is the first argument
        of what they are told to do. ``disband`` ends it.

        Args:
            size: how many.
            options: of ``collectives.Options``; a sequence: of one process each.
            addresses: of the coordinator, as each process sees it; None: as it is.
        """
        members = self.take(size)
        name = f"g{next(self._numbers)}"
        for index, member in enumerate(members):
            mine = options or {}
            mine = mine if isinstance(mine, dict) else mine[index]
            who = f"p{index}"
            self._names[member.pid] = name
            address = addresses[index] if addresses else self.coordinator.address
            member.start(found, address, name, who, size, 1, mine)
        ranks = [member.result().get() for member in members]
        return [members[ranks.index(rank)] for rank in range(size)]

    def group_of(self, members: Sequence[Member]) -> Any:
        """What the coordinator, one in this process, knows of a band."""
        return self.coordinator.state.groups[self._names[members[0].pid]]

    def disband(self, members: Sequence[Member]) -> None:
        """Have them leave; they are there for other groups."""
        for member in members:
            member.start(part)
        for member in members:
            member.result().get()
        self.idle += members

    def run(self, case: Case, meanwhile: Callable[[], float] = lambda: 0.0) -> list[Record]:
        """Play it. The records of the survivors, by rank; those of the dead are checked: each died
        at its moment, or, where others' deaths spared it that moment, lives.

        Args:
            case: what to do.
            meanwhile: called once all have begun; returns ``time.time()`` of what the survivors may
                have had to wait for.
        """
        members = self.take(case.size)
        name = f"g{next(self._numbers)}"
        with tempfile.TemporaryDirectory() as folder:
            for index, member in enumerate(members):
                who = f"p{index}"
                member.start(play, self.coordinator.address, name, who, case, folder)
            since = meanwhile()
            outcomes = [member.result() for member in members]
            died = {int(path.name): path for path in Path(folder).glob("[0-9]")}
            lines = {rank: path.read_text() for rank, path in died.items()}
            when = max((path.stat().st_mtime for path in died.values()), default=since)
        dead = [outcome for outcome in outcomes if outcome.error == "Died"]
        broken = [outcome.trace for outcome in outcomes if outcome.error not in ("", "Died")]
        assert not broken, f"{case}\n" + "\n".join(broken)
        for member, outcome in zip(members, outcomes, strict=True):
            if outcome.error:
                member.process.close()
            else:
                self.idle.append(member)
        phases = {rank: line.split()[0] for rank, line in lines.items() if line}
        assert len(dead) == len(phases), f"{case}: {len(dead)} died, {lines}"
        assert phases.items() <= dict(case.victims).items(), f"{case}: {lines}"
        first = case.victims[0]
        if all(phase not in ("sealed", "judged") for _, phase in case.victims[:1]):
            assert len(case.victims) > 1 or first[0] in phases, f"{case}: its moment did not come"
        records = [outcome.value for outcome in outcomes if not outcome.error]
        records.sort(key=lambda record: record.rank)
        agree(case, records, set(phases), max(when, since))
        return records


def agree(case: Case, records: list[Record], dead: set[int], when: float) -> None:
    """One outcome for all survivors, in time, and the run goes on."""
    says = "\n".join(str(record) for record in records)
    assert records, case
    assert len(records) == case.size - len(dead)
    first = records[0]
    assert all(record.outcome == first.outcome for record in records), f"{case}\n{says}"
    late = max(record.at for record in records) - when
    assert late < case.patience, f"{case}: {late:.3f} s after the last death\n{says}"
    lost = {first.members[rank] for rank in dead}
    if first.outcome[0] == "TooFewPeers":
        return
    assert all(set(r.after) == set(first.members) - lost for r in records), f"{case}\n{says}"
    if first.outcome[0] == "ok":
        if case.kind in ("broadcast", "scatter"):
            assert first.outcome[1] == (first.members[case.call.root],), says
        else:
            assert set(first.members) - lost <= set(first.outcome[1]) <= set(first.members), says
    else:
        assert first.outcome[0] == "PeerLost", says
        assert first.outcome[1] in lost, says


__all__ = [
    "NOTICED", "Case", "Mortals", "Outcome", "Record", "arm", "enter", "go_on", "grow", "operate",
]  # fmt: skip
