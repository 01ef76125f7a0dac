"""Faults at an exact moment: the phase that is asked for is the phase in which a peer dies."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crew import DEADLINE, Crew

# Elements of float32; so few that all send all to all, or so many that there are owners.
TINY, LARGE = 1_000, 1_000_000


def call(group: Any, kind: str, count: int) -> tuple[str, ...]:
    """The names of the contributors, once the result is proved to be made of them."""
    if kind == "barrier":
        return group.barrier(timeout=DEADLINE).contributors
    array = np.full(count, number_of(group.name), np.float32)
    if kind == "broadcast":
        result = group.broadcast(array, 0, timeout=DEADLINE)
    else:
        result = group.all_reduce(array, timeout=DEADLINE)
    assert (array == sum(map(number_of, result.contributors))).all()
    return result.contributors


def number_of(name: str) -> int:
    return int(name.removeprefix("p")) + 1


def die_in(
    group: Any, kind: str, count: int, phase: str, journal: str, action: str, after: int
) -> tuple[str, ...]:
    group.barrier(timeout=DEADLINE)
    fd = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    number = group._native.last_operation() + 1
    group._fault_at(phase, number, None, action, journal_fd=fd, after_slices=after)
    return call(group, kind, count)


def live_on(group: Any, kind: str, count: int) -> tuple[str, ...]:
    group.barrier(timeout=DEADLINE)
    return call(group, kind, count)


REACHED = [
    *(
        ("all_reduce", TINY, phase, 0)
        for phase in ("issued", "reduce_scatter", "between", "complete")
    ),
    *(
        ("all_reduce", LARGE, phase, 0)
        for phase in ("issued", "reduce_scatter", "between", "all_gather", "complete")
    ),
    ("all_reduce", LARGE, "reduce_scatter", 3),
    ("all_reduce", LARGE, "all_gather", 3),
    ("all_reduce", LARGE, "tokens", 0),
    ("broadcast", TINY, "all_gather", 0),
    ("broadcast", TINY, "tokens", 0),
    ("broadcast", LARGE, "complete", 0),
    ("barrier", 0, "issued", 0),
    ("barrier", 0, "complete", 0),
    ("barrier", 0, "tokens", 0),
]


@pytest.mark.parametrize(("kind", "count", "phase", "after"), REACHED)
@pytest.mark.parametrize(
    "size",
    # In the full run only: tests/test_deaths_by_phase.py goes through them at less expense.
    [pytest.param(size, marks=pytest.mark.full) for size in (2, 3, 4)],
    ids=lambda size: f"{size} peers",
)
def test_a_peer_dies_in_the_phase_that_was_asked_for(size, kind, count, phase, after, tmp_path):
    journal = tmp_path / "journal"
    with Crew(size) as crew:
        victim = crew.members[-1]
        for member in crew.members[:-1]:
            member.start(live_on, kind, count)
        victim.start(die_in, kind, count, phase, str(journal), "kill", after)
        assert victim.process.wait(DEADLINE) == -signal.SIGKILL
        assert journal.read_text() == f"{phase} 2\n"
        for member in crew.members[:-1]:
            outcome = member.result()
            assert outcome.error in ("", "PeerLost", "TooFewPeers"), outcome.trace
            if phase == "issued" or (count == LARGE and phase in ("reduce_scatter", "between")):
                # Nobody can have what has not been sent.
                assert outcome.error or f"p{victim.index}" not in outcome.value


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("phase", ["reduce_scatter", "complete"])
def test_a_peer_that_is_stopped_at_a_moment_goes_on_when_it_is_woken(phase, tmp_path):
    journal = tmp_path / "journal"
    with Crew(3) as crew:
        stopped = crew.members[1]
        for member in crew.members:
            if member is stopped:
                member.start(die_in, "all_reduce", LARGE, phase, str(journal), "stop", 0)
            else:
                member.start(live_on, "all_reduce", LARGE)
        deadline = time.monotonic() + DEADLINE
        while state_of(stopped.pid) != "T":
            assert time.monotonic() < deadline, "it was not stopped"
            time.sleep(0.005)
        assert journal.read_text() == f"{phase} 2\n"
        stopped.signal(signal.SIGCONT)
        assert all(len(member.result().get()) == 3 for member in crew.members)


def unmet(group: Any) -> int:
    """Another operation, another tag, a phase that does not come: nothing happens."""
    done = len(call(group, "all_reduce", TINY))
    for phase, number, tag in (("complete", 99, None), ("complete", 2, 7), ("tokens", 0, None)):
        group._fault_at(phase, number, tag)
        done += len(call(group, "all_reduce", TINY))
    return done


def test_what_is_not_the_moment_passes():
    with Crew(2) as crew:
        assert crew.get(unmet) == [8, 8]


def refuse(group: Any) -> str:
    from collectives._native import ffi, lib

    moment = ffi.new("struct coll_moment *")
    moment.phase = lib.COLL_PHASE_COUNT
    assert lib.coll_fault_at(group._handle, moment) == lib.COLL_INVALID_ARGUMENT
    said = ffi.string(lib.coll_last_error()).decode()
    assert lib.coll_fault_at(group._handle, ffi.NULL) == lib.COLL_OK
    return said


def test_a_moment_that_does_not_exist_is_refused():
    with Crew(1) as crew:
        assert "no phase" in crew.get(refuse)[0]
