"""A process on the same host dies: its peers see it at once, whoever holds its sockets (G3)."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import crew
from collectives._native import ffi, lib
from collectives._native.engine import process_identity
from crew import DEADLINE, Crew
from test_deaths import barrier, crew_of, fork_workers, mended, until_lost

AT_ONCE = 0.1  # seconds, in the median


def look(identity: str) -> int:
    state = ffi.new("uint32_t *")
    assert lib.coll_process_look(identity.encode(), state) == lib.COLL_OK
    return state[0]


@contextlib.contextmanager
def another() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that lives until it is killed, and its identity."""
    program = (
        "from collectives._native.engine import process_identity as i\n"
        "print(i(), flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_an_identity_names_boot_namespace_process_and_start():
    boot, namespace, pid, start = process_identity().split("/")
    assert boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert int(namespace) == Path("/proc/self/ns/pid").stat().st_ino
    assert int(pid) == os.getpid()
    assert start == Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]


def test_a_process_is_alive_then_a_zombie_then_gone():
    assert look(process_identity()) == lib.COLL_PROCESS_ALIVE
    with another() as (process, identity):
        assert look(identity) == lib.COLL_PROCESS_ALIVE
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # its status stays: a zombie
        assert look(identity) == lib.COLL_PROCESS_DEAD
        process.wait(DEADLINE)
        assert look(identity) == lib.COLL_PROCESS_DEAD


def test_what_is_elsewhere_or_not_to_be_told_is_never_called_dead():
    boot, namespace, pid, start = process_identity().split("/")
    unborn = "4194304"  # one above the highest process number that Linux gives
    assert look(f"{boot}/{namespace}/{unborn}/{start}") == lib.COLL_PROCESS_DEAD
    for other in (
        f"{'0' * 36}/{namespace}/{unborn}/{start}",  # another boot, that is another host
        f"{boot}/{int(namespace) + 1}/{unborn}/{start}",  # another pid namespace
        f"{boot}/{namespace}1/{unborn}/{start}",
        f"{boot}/{namespace}/{pid}/{int(start) + 1}",  # the number is used by another process
    ):
        assert look(other) == lib.COLL_PROCESS_UNKNOWN, other


@pytest.mark.parametrize(
    "end",
    [
        "",
        "/",
        "x/1",
        "1",
        "1/",
        "1/x",
        "-1/1",
        " 1/1",
        "1/1/1",
        "0/1",
        "9" * 30 + "/1",
        "2147483648/1",
    ],
)
def test_what_is_no_identity_is_unknown(end):
    boot, namespace, _, _ = process_identity().split("/")
    assert look(f"{boot}/{namespace}/{end}") == lib.COLL_PROCESS_UNKNOWN
    assert look(end) == lib.COLL_PROCESS_UNKNOWN


def test_a_killed_process_is_lost_at_once_though_its_children_hold_its_sockets():
    seed = random.randrange(1 << 30)
    print("seed", seed)
    chance = random.Random(seed)
    children: list[int] = []
    took: list[float] = []
    try:
        with crew_of(6) as run:
            while len(run.members) > 1:
                victim = run.members[chance.randrange(len(run.members))]
                victim.start(fork_workers, 2)
                children += victim.result().get()
                for member in run.members:
                    member.start(until_lost, "small")
                time.sleep(chance.uniform(0.05, 0.2))  # anywhere in the middle of their calls
                run.members.remove(victim)
                killed = time.monotonic()
                victim.signal(signal.SIGKILL)
                for member in run.members:
                    name, message, when, intact = member.result().get()
                    assert name == f"p{victim.index}", message
                    assert "its process ended" in message or "is missing" in message, message
                    assert intact
                    took.append(when - killed)
                mended(run)
    finally:
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    print("seconds:", " ".join(f"{seconds:.3f}" for seconds in sorted(took)))
    assert len(took) == 15
    assert statistics.median(took) < AT_ONCE


def descriptors_of_processes(group: Any) -> int:
    targets = []
    for entry in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):  # the one that listed them, for example
            targets.append(str(entry.readlink()))
    return sum("pidfd" in target for target in targets)


def descriptors_in_a_child(group: Any) -> int:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, bytes([descriptors_of_processes(None)]))
        os._exit(0)
    os.waitpid(pid, 0)
    count = os.read(read, 1)[0]
    os.close(read)
    os.close(write)
    return count


def test_the_descriptors_go_with_the_links_and_do_not_outlive_a_fork():
    with crew_of(3) as run:
        run.get(barrier)
        assert run.get(descriptors_of_processes) == [2, 2, 2]
        assert run.get(descriptors_in_a_child) == [0, 0, 0]
        victim = run.members.pop(1)
        victim.kill()
        mended(run)
        assert run.get(descriptors_of_processes) == [1, 1]


def join_without_identity(_, address, arguments, options) -> int:
    sys.modules["collectives.incarnation"].process_identity = lambda: ""  # type: ignore[attr-defined]
    return crew.join(_, address, arguments, options)


def test_a_peer_without_an_identity_is_found_dead_by_other_means():
    """As one in a container of its own on this host."""
    with Crew(3, joiner="test_process:join_without_identity") as run:
        assert run.get(descriptors_of_processes) == [0, 0, 0]
        for member in run.members:
            member.start(until_lost, "small")
        victim = run.members.pop(1)
        began = time.monotonic()
        victim.kill()
        for member in run.members:
            name, message, when, _ = member.result().get()
            assert name == f"p{victim.index}"
            assert "its process" not in message
            assert when - began < 1.0
