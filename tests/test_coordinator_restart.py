"""The coordinator dies and comes back: with its journal, without it, elsewhere, or late (G6)."""

from __future__ import annotations

import contextlib
import json
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import collectives
from collectives.membership.agent import Agent
from collectives.membership.query import query_status
from crew import DEADLINE, Crew
from membership.fakes import FakePlane
from proxy import free_port

_CODE = """
import json, logging, signal, sys
from collectives.membership.ledger import Timing
from collectives.membership.server import Coordinator
logging.basicConfig(level="INFO")
how = json.loads(sys.argv[1])
how["timing"] = Timing(**how.pop("timing", {}))
with Coordinator(**how) as coordinator:
    print("coordinator at", coordinator.address, flush=True)
    signal.pause()
"""


class CoordinatorProcess:
    """As ``collectives.Coordinator``, but one that can be killed and started again."""

    def __init__(self, address: str = "", **how: Any) -> None:
        self.address = address or f"127.0.0.1:{free_port()}"
        self.how = how

    def __enter__(self) -> CoordinatorProcess:
        how = {"bind": self.address.split(",")[0], **self.how}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _CODE, json.dumps(how)], stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        ready = select.select([self.process.stdout], [], [], DEADLINE)[0]
        assert ready and self.process.stdout.readline().startswith(b"coordinator at")
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
        self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(5)
        self.process.stdout.close()

    def again(self, **how: Any) -> None:
        self.how.update(how)
        self.__enter__()

    def status(self) -> dict[str, Any]:
        return query_status(self.address.split(",")[0], timeout=DEADLINE)

    def group(self) -> dict[str, Any]:
        groups = self.status()["groups"]
        return groups[0] if groups else {"peers": [], "situation": "", "waits_for": []}

    def all_back(self, count: int) -> None:
        """Wait until ``count`` members have come back."""
        eventually(
            lambda: sum(peer["doing"] != "not back yet" for peer in self.group()["peers"]) == count
        )


def eventually(what: Callable[[], object], limit: float = DEADLINE) -> None:
    deadline = time.monotonic() + limit
    while not what():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.05)


@contextlib.contextmanager
def crew_of(size: int, coordinator: CoordinatorProcess, **options: Any) -> Iterator[Crew]:
    """A crew whose view may shrink to one peer."""
    crew = Crew(1, options, join={"min_size": 1})
    crew.coordinator = coordinator  # type: ignore[assignment]
    with crew:
        for _ in range(size - 1):
            crew.add()
        # All of them before the sync: who is admitted has to call sync() itself from then on.
        eventually(lambda: len(coordinator.group()["peers"]) == size)
        crew.members[0].start(grow, size)
        ranks = [member.result().get() for member in crew.members[1:]]
        assert crew.members[0].result().get() == 0
        crew.members[1:] = [crew.members[1 + ranks.index(rank)] for rank in range(1, size)]
        yield crew


# ---- what the processes run ------------------------------------------------------------------


def grow(group: Any, size: int) -> int:
    while group.size < size:
        group.sync(timeout=DEADLINE)
    return group.rank


def stand(group: Any) -> tuple[int, int, int]:
    return group.view.term, group.view.number, group.size


def sync(group: Any, timeout: float = DEADLINE) -> tuple[int, int, int]:
    group.sync(timeout=timeout)
    return stand(group)


def reduce_until(group: Any, flag: str) -> int:
    """Reduce until the file is there; every result is checked, and none may take long."""
    over, done = np.zeros(1, np.uint8), 0
    while not over[0]:
        array = np.full(50_000, group.rank + 1.0)
        group.all_reduce(array, timeout=5)
        assert (array == group.size * (group.size + 1) / 2).all()
        over[0] = Path(flag).exists()
        group.all_reduce(over, "max", timeout=5)
        done += 1
    return done


def running(coordinator: Any, size: int, **options: Any) -> Crew:
    crew = Crew(size, options)
    crew.coordinator = coordinator
    return crew


# ---- with the journal -------------------------------------------------------------------------


def test_a_run_goes_on_where_its_coordinator_left_it(tmp_path):
    flag = tmp_path / "enough"
    with running(CoordinatorProcess(journal=str(tmp_path / "j")), 3) as crew:
        before = crew.coordinator.status()
        views = crew.get(stand)
        for member in crew.members:
            member.start(reduce_until, str(flag))
        crew.coordinator.kill()
        crew.coordinator.again()
        crew.coordinator.all_back(3)
        after = crew.coordinator.status()
        flag.touch()
        done = [member.result().get() for member in crew.members]
        assert len(set(done)) == 1 and done[0] > 3
        assert (after["run"], after["term"]) == (before["run"], before["term"] + 1)
        assert crew.get(sync) == views, "the same view, as nobody came or went"
        newcomer = crew.add(min_size=1)
        for member in crew.members[:3]:
            member.start(grow, 4)
        assert newcomer.result().get() == 3
        [member.result() for member in crew.members[:3]]
        assert crew.get(stand) == [(2, views[0][1] + 1, 4)] * 4
        crew.get(reduce_until, str(flag))


def test_a_coordinator_killed_again_and_again_loses_no_sync(tmp_path):
    """Before every sync an operation fails, so that the sync makes a view.

    The coordinator is killed in all the moments of rounds, verdicts, preparations and commits.
    """
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rest = random.Random(seed)
    planes = [FakePlane() for _ in range(3)]
    rounds = 12
    done = [0]
    with CoordinatorProcess(journal=str(tmp_path / "j")) as coordinator:
        agents = [
            Agent(coordinator.address, name=f"p{i}", min_size=3, plane=plane)
            for i, plane in enumerate(planes)
        ]

        def work(agent: Agent, plane: FakePlane) -> list[tuple[int, int]]:
            agent.join(DEADLINE)
            views = []
            for number in range(rounds):
                judged = len(plane.verdicts)
                plane.veto(agent.state.view.number, number + 1)
                eventually(lambda n=judged: len(plane.verdicts) > n)
                done[0] += 1
                view = agent.sync(number + 1, DEADLINE).view
                views.append((view.term, view.number))
                done[0] += 1
            return views

        with ThreadPoolExecutor(3) as pool:
            futures = [pool.submit(work, *pair) for pair in zip(agents, planes, strict=True)]
            kills = 0
            while not all(future.done() for future in futures):
                # They are at it again; a few steps later, or in the midst of the first.
                before = done[0]
                eventually(lambda b=before: done[0] > b or all(f.done() for f in futures))
                time.sleep(rest.uniform(0.0, 0.05))
                coordinator.kill()
                coordinator.again()
                kills += 1
            found = [future.result() for future in futures]
        for agent in agents:
            agent.close()
    for plane in planes:
        plane.close()
    assert kills > 3
    assert found[0] == found[1] == found[2]
    assert found[0] == sorted(set(found[0])), "each sync made a view, each newer than the last"


def test_a_member_that_died_meanwhile_is_missed_by_the_others_at_once(tmp_path):
    with crew_of(3, CoordinatorProcess(journal=str(tmp_path / "j"))) as crew:
        before = crew.coordinator.status()["run"]
        crew.coordinator.kill()
        crew.members.pop().kill()
        crew.coordinator.again()
        began = time.monotonic()
        assert crew.get(sync) == [(2, crew.get(stand)[0][1], 2)] * 2
        assert time.monotonic() - began < 8, "less than the time that members have to come back"
        assert crew.coordinator.status()["run"] == before


def test_nobody_is_declared_dead_before_all_had_the_time_to_come_back(tmp_path):
    coordinator = CoordinatorProcess(journal=str(tmp_path / "j"))
    with running(coordinator, 3, detection=60.0) as crew:
        views = crew.get(stand)
        crew.members[1].signal(signal.SIGSTOP)
        coordinator.kill()
        coordinator.again()
        coordinator.all_back(2)
        assert any("to come back" in text for text in coordinator.group()["waits_for"])
        for member in crew.members[::2]:
            member.start(sync)
        time.sleep(1.5)  # of the ten seconds that it has
        crew.members[1].signal(signal.SIGCONT)
        crew.members[1].start(sync)
        assert [member.result().get() for member in crew.members] == views


def test_who_does_not_come_back_in_time_is_out(tmp_path):
    coordinator = CoordinatorProcess(journal=str(tmp_path / "j"), timing={"registration": 1.0})
    with crew_of(3, coordinator, detection=60.0) as crew:
        silent = crew.members.pop(1)
        silent.signal(signal.SIGSTOP)
        try:
            coordinator.kill()
            coordinator.again()
            assert [size for _, _, size in crew.get(sync)] == [2, 2]
        finally:
            silent.signal(signal.SIGCONT)
            crew.members.append(silent)
        silent.start(sync)
        outcome = silent.result()
        assert outcome.error == "Evicted", outcome
        assert "did not come back within 1 s" in outcome.message


def test_a_coordinator_that_stood_still_accuses_nobody(tmp_path):
    with running(CoordinatorProcess(journal=str(tmp_path / "j")), 3) as crew:
        views = crew.get(stand)
        crew.coordinator.process.send_signal(signal.SIGSTOP)
        for member in crew.members:
            member.start(sync)
        time.sleep(3.0)
        crew.coordinator.process.send_signal(signal.SIGCONT)
        assert [member.result().get() for member in crew.members] == views


def test_a_second_coordinator_on_the_journal_ends_with_an_error(tmp_path):
    path = tmp_path / "j"
    with CoordinatorProcess(journal=str(path)) as first:
        second = subprocess.run(
            [
                *[sys.executable, "-m", "collectives.cli", "coordinator"],
                *["--bind", "127.0.0.1:0", "--journal", str(path)],
            ],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )
        assert second.returncode != 0
        assert f"in use by another coordinator, process {first.process.pid}" in second.stderr
        assert first.status()["term"] == 1


# ---- without the journal ----------------------------------------------------------------------


def test_the_members_restore_the_run_of_a_coordinator_without_memory(tmp_path):
    flag = tmp_path / "enough"
    with running(CoordinatorProcess(), 3) as crew:
        before = crew.coordinator.status()
        views = crew.get(stand)
        for member in crew.members:
            member.start(reduce_until, str(flag))
        crew.coordinator.kill()
        crew.coordinator.again()
        crew.coordinator.all_back(3)
        after = crew.coordinator.status()
        flag.touch()
        done = [member.result().get() for member in crew.members]
        assert len(set(done)) == 1
        assert (after["run"], after["term"]) == (before["run"], before["term"] + 1)
        # One that remembers nothing cannot know if an operation had failed: the sync makes a view.
        assert crew.get(sync) == [(2, number + 1, size) for _, number, size in views]


def test_a_majority_restores_the_run_and_goes_on_without_the_dead():
    with crew_of(3, CoordinatorProcess()) as crew:
        run = crew.coordinator.status()["run"]
        crew.coordinator.kill()
        crew.members.pop(0).kill()
        crew.coordinator.again()
        assert [size for _, _, size in crew.get(sync)] == [2, 2]
        assert crew.coordinator.status()["run"] == run


def test_a_minority_waits_unless_the_operator_forces_it():
    with crew_of(3, CoordinatorProcess()) as crew:
        run = crew.coordinator.status()["run"]
        crew.coordinator.kill()
        for _ in range(2):
            crew.members.pop().kill()
        crew.coordinator.again()
        crew.members[0].start(sync)
        text = "1 of 3 members are back, a majority of 2 is needed"
        eventually(lambda: any(text in word for word in crew.coordinator.group()["waits_for"]))
        assert not crew.members[0]._pipe.poll(1.0), "a minority goes nowhere by itself"
        crew.coordinator.kill()
        crew.coordinator.again(force=True)
        assert crew.members[0].result().get()[2] == 1
        assert crew.coordinator.status()["run"] == run
        assert any("--force" in r["text"] for r in crew.coordinator.group()["reasons"])


def test_a_newcomer_that_waited_does_not_take_the_group_from_its_members():
    with running(CoordinatorProcess(), 3) as crew:
        newcomer = crew.add(min_size=1)
        eventually(lambda: len(crew.coordinator.group()["peers"]) == 4)
        for member in crew.members[:3]:
            member.signal(signal.SIGSTOP)  # the newcomer is back first
        crew.coordinator.kill()
        crew.coordinator.again()
        eventually(lambda: len(crew.coordinator.group()["peers"]) == 1)
        for member in crew.members[:3]:
            member.signal(signal.SIGCONT)
            member.start(grow, 4)
        assert newcomer.result().get() == 3
        [member.result().get() for member in crew.members[:3]]
        assert {view[0] for view in crew.get(stand)} == {2}


# ---- elsewhere --------------------------------------------------------------------------------


def test_peers_follow_the_coordinator_to_another_address(tmp_path):
    first, second = (f"127.0.0.1:{free_port()}" for _ in "ab")
    coordinator = CoordinatorProcess(f"{first},{second}", journal=str(tmp_path / "j"))
    with running(coordinator, 3) as crew:
        views = crew.get(stand)
        coordinator.kill()
        coordinator.address = f"{second},{first}"
        coordinator.again()
        assert crew.get(sync) == views
        assert coordinator.status()["term"] == 2


def test_the_coordinator_of_another_run_is_skipped(tmp_path):
    first, second = (f"127.0.0.1:{free_port()}" for _ in "ab")
    coordinator = CoordinatorProcess(f"{first},{second}", journal=str(tmp_path / "j"))
    plane = FakePlane()
    with CoordinatorProcess(second) as other, running(coordinator, 2) as crew:
        agent = Agent(second, name="of another run", plane=plane)
        agent.join(DEADLINE)
        views = crew.get(stand)
        coordinator.kill()
        eventually(lambda: other.status()["refused"].get("peer not let in", 0) >= 2)
        coordinator.again()
        assert crew.get(sync) == views
        agent.close()
    plane.close()


@pytest.mark.parametrize("text", ["", "a:1,,b:2", "a:1,b:0", "a:1,b:port"])
def test_a_list_of_addresses_is_checked_before_anything_is_sent(text, monkeypatch):
    monkeypatch.setenv("COLLECTIVES_COORDINATOR", text)
    with pytest.raises(collectives.InvalidArgument):
        collectives.join()
