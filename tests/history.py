"""Random histories of real processes: a driver, the program that its peers run, and a checker.

Each peer runs ``live``: some operations, sync(), and so on. What the operations are follows from
the seed and the number of the step, so all peers do the same; what happens to whom is in a ``Plan``
that the seed makes: peers die or stop at exact moments, leave, come; the coordinator dies and comes
back. Every peer keeps a journal; ``check`` compares them.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import random
import signal
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np

import collectives
from calls import COLLECTIVES, Call, data_of
from crew import Member
from mortals import arm
from nursery import Nursery
from rulers import Ruler

DETECTION = 1.0
LIMIT = 20.0  # seconds that no single call may take
TRANSFER = "transfer"  # a send and its receive, between two that are always the same
PAIR = ("p0", "p1")
PHASES = (
    "issued", "reduce_scatter", "between", "all_gather", "complete", "tokens", "sealed", "judged",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Fate:
    """What happens to a peer.

    Attributes:
        comes: seconds after the beginning.
        what: ``"lives"``, ``"dies"``, ``"stops"`` or ``"leaves"``.
        step: from which on.
        phase: the moment of its death or stop.
        held: seconds that it stands still.
    """

    name: str
    comes: float = 0.0
    what: str = "lives"
    step: int = 0
    phase: str = ""
    held: float = 0.0


@dataclasses.dataclass(frozen=True)
class Plan:
    """A history: who takes part, when the coordinator is killed, and for how many steps."""

    seed: int
    fates: tuple[Fate, ...]
    falls: tuple[float, ...]
    steps: int = 30


def plan_of(seed: int) -> Plan:
    chance = random.Random(seed)
    fates = [Fate("p0")]  # or nobody might be left
    for number in range(1, chance.randint(3, 6)):
        what = chance.choice(("lives", "dies", "dies", "stops", "leaves"))
        comes = chance.choice((0.0, 0.0, 0.0, chance.uniform(0.2, 1.0)))
        held = chance.choice((0.2, DETECTION + 1.5)) if what == "stops" else 0.0
        step, phase = chance.randrange(2, 25), chance.choice(PHASES)
        fates.append(Fate(f"p{number}", comes, what, step, phase, held))
    falls = sorted(chance.uniform(0.1, 1.2) for _ in range(chance.choice((0, 0, 1, 2))))
    return Plan(seed, tuple(fates), tuple(falls))


# ---- in the processes ------------------------------------------------------------------------


class Journal:
    """A file of one JSON object a line, each written at once."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, **fields: Any) -> None:
        os.write(self._fd, (json.dumps(fields) + "\n").encode())


def call_of(seed: int, step: int, size: int) -> Call:
    """The operation of a step, for all peers the same."""
    common = random.Random(seed * 1_000_003 + step)
    return Call(
        # All-reduces go on after each death, so that what follows is not all errors.
        common.choice(("all_reduce",) * 4 + ("barrier", TRANSFER) + COLLECTIVES),
        common.choice((10, 3_000, 30_000)),
        common.randrange(100) % size,
        in_place=common.random() < 0.5,
        counts=common.choice(("", "uneven", "zeros")),
        resize=common.random() < 0.7,
        on_failure="raise" if common.random() < 0.15 else "retry",
        seed=seed + step,
    )


def transfer(group: collectives.Group, call: Call, step: int) -> collectives.Result | None:
    """From the first of two to the other one or back; None: this peer is neither, or alone."""
    ranks = {peer.name: rank for rank, peer in enumerate(group.peers)}
    sender, receiver = PAIR if step % 2 else PAIR[::-1]
    if group.name not in PAIR or not {sender, receiver} <= ranks.keys():
        return None
    sent = data_of(sender, call.count, call.seed)
    if group.name == sender:
        return group.send(sent, ranks[receiver])
    array = np.empty_like(sent)
    # There is one that sends to it; a receive from any finds that out.
    result = group.recv(array, ranks[sender] if step % 3 else None)
    assert array.tobytes() == sent.tobytes(), "something else was sent"
    return result


def operate(group: collectives.Group, seed: int, step: int) -> list[Any]:
    """The operation of a step, checked; what it is, contributors, view, and a digest of the result,
    if that is the same for all; nothing, if it is that of others."""
    call = call_of(seed, step, group.size)
    if call.kind == TRANSFER:
        result = transfer(group, call, step)
        return [] if result is None else [TRANSFER, result.contributors, result.view, 0]
    result = call.make(group)
    same = call.kind in ("all_reduce", "broadcast", "all_gather")
    digest = zlib.crc32(result.value) if same else 0
    return [call.kind, result.contributors, result.view, digest]


def cycle(group: collectives.Group, journal: Journal, plan: Plan, fate: Fate, step: int) -> int:
    """Operations up to the next sync; the next step, -1: it has left."""
    for _ in range(5):
        if fate.what == "leaves" and step >= fate.step:
            journal.note(step=step, left=True)
            group.leave(timeout=5.0)
            return -1
        began = time.monotonic()
        try:
            outcome = operate(group, plan.seed, step)
        except collectives.PeerLost as error:
            outcome = ["PeerLost", error.peer]
        if outcome:
            journal.note(step=step, outcome=outcome, took=round(time.monotonic() - began, 3))
        step += 1
        if outcome[:1] == ["PeerLost"]:
            break  # broken until all have called sync()
    return step


def live(_: Any, address: str, name: str, plan: Plan, fate: Fate, folder: str) -> str:
    """The peer's program. How it ended: "over", "left" or "out"."""
    journal = Journal(f"{folder}/{fate.name}.journal")
    options = collectives.Options(timeout=LIMIT, detection=DETECTION)
    try:
        group = collectives.join(
            address, group=name, name=fate.name, min_size=1, timeout=LIMIT, options=options
        )
        step, armed = 0, False
        while True:
            # Whoever has come learns where the others are.
            word = np.array([step, Path(folder, "over").exists()])
            group.all_reduce(word, "max")
            step = int(word[0])
            journal.note(step=step, members=[peer.name for peer in group.peers])
            if word[1]:
                group.leave(timeout=5.0)
                return "over"
            if fate.what in ("dies", "stops") and not armed and step >= fate.step:
                armed = True
                action = "kill" if fate.what == "dies" else "stop"
                arm(group, fate.phase, folder, 0, action=action)
            step = cycle(group, journal, plan, fate, step)
            if step < 0:
                return "left"
            group.sync()
            time.sleep(0.01)  # of two cores there are others to use
    except collectives.Evicted as error:
        journal.note(out=str(error))
        return "out"


# ---- the driver ------------------------------------------------------------------------------


def is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def play(plan: Plan, nursery: Nursery, folder: Path) -> dict[str, str]:
    """Have it happen; how each peer ended: also "died"."""
    peers: dict[str, Member] = {}
    waking: dict[str, float] = {}
    falls, coming = list(plan.falls), sorted(plan.fates, key=lambda fate: fate.comes)
    how: dict[str, Any] = {"journal": str(folder / "journal"), "timing": {"registration": 2.0}}
    with Ruler(nursery, **how) as ruler:
        first = folder / "p0.journal"

        def start(fate: Fate) -> None:
            peers[fate.name] = Member(len(peers), nursery=nursery)
            peers[fate.name].start(live, ruler.address, "g", plan, fate, str(folder))

        # It lives, so there is always a member: without one the next history would begin.
        start(coming.pop(0))
        began = time.monotonic()
        while not first.exists() or not first.stat().st_size:
            assert time.monotonic() - began < LIMIT, "p0 does not get in"
            time.sleep(0.01)
        began = time.monotonic()
        over = False
        while not over or waking:
            now = time.monotonic() - began
            assert now < 3 * LIMIT, "it does not end"
            while coming and coming[0].comes <= now:
                start(coming.pop(0))
            if falls and falls[0] <= now:
                falls.pop(0)
                ruler.kill()
                ruler.again()
            for fate in plan.fates:
                stops = fate.what == "stops" and fate.name in peers and fate.name not in waking
                if stops and is_stopped(peers[fate.name].pid):
                    waking[fate.name] = now + fate.held
            for name, when in list(waking.items()):
                if when <= now:
                    peers[name].signal(signal.SIGCONT)
                    del waking[name]
            steps = first.read_text().count("outcome")
            if not over and not coming and not falls and steps >= plan.steps:
                over = True
                (folder / "over").touch()
            time.sleep(0.01)
        ends = {}
        stoppers = [peers[fate.name] for fate in plan.fates if fate.what == "stops"]
        for name, peer in peers.items():
            while not peer._pipe.poll(0.02):
                assert time.monotonic() - began < 4 * LIMIT, f"{name} does not end"
                for other in stoppers:
                    if is_stopped(other.pid):
                        other.signal(signal.SIGCONT)
            outcome = peer.result()
            assert outcome.error in ("", "Died"), f"{name}: {outcome.trace}"
            ends[name] = outcome.value or "died"
        for peer in peers.values():
            peer.process.close()
    return ends


# ---- the checker -----------------------------------------------------------------------------


def check(plan: Plan, ends: dict[str, str], folder: Path) -> collections.Counter[str]:
    """One outcome of each step for all who survived it; what happened, counted."""
    happened: collections.Counter[str] = collections.Counter()
    outcomes: dict[int, dict[str, Any]] = collections.defaultdict(dict)
    fates = {fate.name: fate for fate in plan.fates}
    for name, end in ends.items():
        path = folder / f"{name}.journal"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        steps = [line for line in lines if "outcome" in line]
        assert [line["step"] for line in steps] == sorted({line["step"] for line in steps})
        happened[end] += 1
        happened["steps"] += len(steps)
        if end == "died":
            assert fates[name].what == "dies", f"{name} died by itself"
        if end == "out":
            assert fates[name].what == "stops", f"{name} was evicted: {lines[-1]}"
        if end in ("died", "out"):
            steps = steps[:-1]  # the others may have repeated the last one without it
        for line in steps:
            assert line["took"] < LIMIT, line
            outcomes[line["step"]][name] = line["outcome"]
    assert ends["p0"] == "over"
    for step, found in outcomes.items():
        (first, *others) = found.values()
        assert all(other == first for other in others), f"step {step}: {found}"
        happened["errors" if first[0] == "PeerLost" else first[0]] += 1
    return happened
