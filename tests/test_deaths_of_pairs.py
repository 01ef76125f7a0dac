"""One of two dies or stops in a send and its receive, or a third one beside them: what the others
are told (G1 to G3)."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import collectives
from crew import DEADLINE, Member
from mortals import NOTICED, Mortals, arm, go_on

SMALL, LARGE = 1_000, 4_000_000  # float32 elements; the large one is many times what goes on credit
PHASES = {"send": ("issued", "complete"), "recv": ("issued", "all_gather", "complete", "tokens")}


@pytest.fixture(scope="module")
def mortals() -> Iterator[Mortals]:
    with Mortals() as mortals:
        yield mortals


def data(rank: int, count: int) -> np.ndarray:
    return np.arange(rank, rank + count, dtype=np.float32)


def settle(group: Any, call: Any) -> tuple[str, Any, float, int]:
    """How a call ended: "ok" or the error, whom it names, when, and how often it was repeated."""
    try:
        result = call()
    except collectives.PeerLost as error:
        found = "PeerLost", error.peer, time.time(), 0
    else:
        found = "ok", result.contributors, time.time(), result.retries
    group.sync(timeout=DEADLINE)
    go_on(group)
    return found


def transfer(
    group: Any, count: int, sender: int | None, folder: str, victim: int, phase: str, action: str
) -> tuple[str, Any, float, int]:
    """Rank 0 sends to rank 1, which is to receive from ``sender``; 2 is only there."""
    me = group.rank
    if me == victim:
        arm(group, phase, folder, 0, 5, action)
    if me == 2:
        group.sync(timeout=DEADLINE)
        go_on(group)
        return "ok", (), 0.0, 0
    given = data(0, count)
    if me == 0:
        return settle(group, lambda: group.send(given, 1, tag=5, timeout=DEADLINE))

    def receive() -> Any:
        place = np.zeros(count, np.float32)
        result = group.recv(place, sender, tag=5, timeout=DEADLINE)
        assert place.tobytes() == given.tobytes(), "wrong bits"
        return result

    return settle(group, receive)


def mourn(mortals: Mortals, members: list[Member], dead: set[int], outcomes: list[Any]) -> None:
    """The survivors leave; nothing is left of the others."""
    for rank in dead:
        assert outcomes[rank].error == "Died", outcomes[rank].trace
        members[rank].process.close()
    mortals.disband([member for rank, member in enumerate(members) if rank not in dead])


def cases() -> Iterator[Any]:
    """Half of them, of each role and phase one, are not too many for every day."""
    for (role, phases), transport, action in itertools.product(
        PHASES.items(), ("auto", "tcp"), ("kill", "stop")
    ):
        for k, phase in enumerate(phases):
            for count in (SMALL, LARGE):
                few = action == "kill" and (k + (transport == "tcp") + (count == LARGE)) % 2 == 0
                few |= action == "stop" and phase == "all_gather" and count == LARGE
                marks = () if few else pytest.mark.full
                yield pytest.param(role, phase, count, transport, action, marks=marks)


@pytest.mark.parametrize(("role", "phase", "count", "transport", "action"), list(cases()))
def test_one_of_the_two_dies(
    mortals: Mortals, tmp_path: Path, role: str, phase: str, count: int, transport: str, action: str
):
    members = mortals.band(3, {"transport": transport, "detection": 1.5})
    names = [peer.name for peer in mortals.group_of(members).view.peers]
    victim = 0 if role == "send" else 1
    for member in members:
        member.start(transfer, count, 0, str(tmp_path), victim, phase, action)
    journal = tmp_path / str(victim)
    if action == "stop":
        deadline = time.monotonic() + DEADLINE
        while not (journal.exists() and journal.read_text()):
            assert time.monotonic() < deadline, "its moment did not come"
            time.sleep(0.01)
        others = [members[rank].result() for rank in (0, 1, 2) if rank != victim]
        os.kill(members[victim].pid, signal.SIGKILL)
        outcomes = [*others[:victim], members[victim].result(), *others[victim:]]
    else:
        outcomes = [member.result() for member in members]
    assert journal.read_text().startswith(phase), "its moment did not come"
    when = journal.stat().st_mtime
    what, who, at, _ = outcomes[1 - victim].get()
    outcomes[2].get()
    assert at - when < NOTICED + (4 if action == "stop" else 0), what
    # The sender may be told of what the receiver had; who receives has it or has not.
    if what == "ok":
        assert who == (names[0],)
        assert phase == "tokens" if role == "recv" else phase != "issued", "nobody has it"
    else:
        assert who == names[victim]
    mourn(mortals, members, {victim}, outcomes)


# ---- from any ----------------------------------------------------------------------------------


def one_of_two(group: Any, folder: str, count: int) -> tuple[str, Any, float, int]:
    """Rank 1 begins to send to rank 0 and dies; rank 2 sends then."""
    me = group.rank
    if me == 1:
        arm(group, "complete", folder, 0)
        group.send(data(1, count), 0, timeout=DEADLINE)
        raise AssertionError("it lives")
    if me == 2:
        deadline = time.monotonic() + DEADLINE
        while not (Path(folder, "1").exists() and Path(folder, "1").read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        return settle(group, lambda: group.send(data(2, count), 0, timeout=DEADLINE))

    def receive() -> Any:
        place = np.zeros(count, np.float32)
        result = group.recv(place, timeout=DEADLINE)
        rank = 1 if place.tobytes() == data(1, count).tobytes() else 2
        assert place.tobytes() == data(rank, count).tobytes(), "wrong bits"
        if rank == 1:  # all of it had come
            result = group.recv(place, timeout=DEADLINE)
            assert place.tobytes() == data(2, count).tobytes(), "wrong bits"
        return result

    return settle(group, receive)


FULL = pytest.mark.full


@pytest.mark.parametrize("count", [pytest.param(SMALL, marks=FULL), LARGE])
@pytest.mark.parametrize("transport", ["auto", "tcp"])
def test_a_receive_from_any_goes_on_with_another_sender(
    mortals: Mortals, tmp_path: Path, transport: str, count: int
):
    members = mortals.band(3, {"transport": transport})
    names = [peer.name for peer in mortals.group_of(members).view.peers]
    for member in members:
        member.start(one_of_two, str(tmp_path), count)
    outcomes = [member.result() for member in members]
    for rank in (0, 2):
        assert outcomes[rank].get()[:2] == ("ok", (names[2],))
    mourn(mortals, members, {1}, outcomes)


def alone(group: Any, folder: str) -> tuple[str, Any, float, int]:
    if group.rank == 1:
        arm(group, "issued", folder, 0)
        group.send(np.ones(3), 0, timeout=DEADLINE)
    return settle(group, lambda: group.recv(np.ones(3), timeout=DEADLINE))


def test_a_receive_from_any_ends_when_nobody_is_left(mortals: Mortals, tmp_path: Path):
    members = mortals.band(2)
    names = [peer.name for peer in mortals.group_of(members).view.peers]
    for member in members:
        member.start(alone, str(tmp_path))
    outcomes = [member.result() for member in members]
    assert outcomes[0].get()[:2] == ("PeerLost", names[1])
    mourn(mortals, members, {1}, outcomes)


# ---- a third one -------------------------------------------------------------------------------


def beside(group: Any, folder: str, count: int, sender: int | None) -> Any:
    """Rank 1 stops in the middle of what it receives from rank 0; rank 2 is only there."""
    if group.rank == 2:
        Path(folder, "idle").touch()
        time.sleep(DEADLINE)
        raise AssertionError("it lives")
    given = data(0, count)
    if group.rank == 0:
        return settle(group, lambda: group.send(given, 1, timeout=DEADLINE))
    fd = os.open(f"{folder}/1", os.O_WRONLY | os.O_CREAT)
    group._fault_at("all_gather", 0, None, "stop", journal_fd=fd, after_slices=20)
    place = np.zeros(count, np.float32)
    outcome = settle(group, lambda: group.recv(place, sender, timeout=DEADLINE))
    assert place.tobytes() == given.tobytes(), "wrong bits"
    return outcome


@pytest.mark.parametrize(
    ("transport", "sender"),
    [
        ("auto", 0),
        ("tcp", None),
        pytest.param("tcp", 0, marks=FULL),
        pytest.param("auto", None, marks=FULL),
    ],
)
def test_a_third_ones_death_costs_the_two_no_more_than_time(
    mortals: Mortals, tmp_path: Path, transport: str, sender: int | None
):
    count = 16 << 20  # 64 MiB
    members = mortals.band(3, {"transport": transport})
    names = [peer.name for peer in mortals.group_of(members).view.peers]
    for member in members:
        member.start(beside, str(tmp_path), count, sender)
    deadline = time.monotonic() + DEADLINE
    while not ((tmp_path / "idle").exists() and _text(tmp_path / "1")):
        assert time.monotonic() < deadline, "its moment did not come"
        time.sleep(0.001)
    os.kill(members[2].pid, signal.SIGKILL)
    assert members[2].result().error == "Died"
    os.kill(members[1].pid, signal.SIGCONT)
    for rank in (0, 1):
        what, contributors, _, retries = members[rank].result().get()
        assert (what, contributors) == ("ok", (names[0],))
        assert retries == 1
    members[2].process.close()
    mortals.disband(members[:2])


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
