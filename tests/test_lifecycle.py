"""From join to leave, and what goes on around it: Ctrl-C, fork, leaks, leaving, idling."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import pathlib
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import collectives
import mortals
from crew import Crew
from pool import Pool

FOREVER = 20.0


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(3) as pool:
        yield pool


# ---- Ctrl-C ----------------------------------------------------------------------------------

WITHIN = 0.2
LARGE = 4 << 20


def wait_in_join(group: collectives.Group | None, address: str) -> None:
    collectives.join(address, group="nobody else", min_size=2, timeout=FOREVER)


def wait_in_small(group: collectives.Group, array: np.ndarray) -> None:
    group.all_reduce(array[:100])


def wait_in_large(group: collectives.Group, array: np.ndarray) -> None:
    group.all_reduce(array)


def wait_in_broadcast(group: collectives.Group, array: np.ndarray) -> None:
    group.broadcast(array, 1)


def wait_in_barrier(group: collectives.Group, array: np.ndarray) -> None:
    group.barrier()


def wait_in_work(group: collectives.Group, array: np.ndarray) -> None:
    work = group.all_reduce_async(array)
    try:
        work.wait()
    except KeyboardInterrupt:
        assert not work.done(), "it goes on, and may be waited for again"
        work.cancel("interrupted by KeyboardInterrupt")
        raise


def wait_in_await(group: collectives.Group, array: np.ndarray) -> None:
    async def main() -> None:
        await group.all_reduce_async(array)

    asyncio.run(main())


def wait_in_sync(group: collectives.Group, array: np.ndarray) -> None:
    group.sync()


WAITS: dict[str, Callable[[collectives.Group, np.ndarray], None]] = {
    "all_reduce of 400 bytes": wait_in_small,
    "all_reduce of 16 MiB": wait_in_large,
    "broadcast": wait_in_broadcast,
    "barrier": wait_in_barrier,
    "Work.wait": wait_in_work,
    "await": wait_in_await,
    "sync": wait_in_sync,
}


class Interrupter:
    """Sends this process a real SIGINT and measures until KeyboardInterrupt has come up."""

    def __init__(self, delay: float) -> None:
        self.sent = 0.0
        self._delay = delay

    def _send(self) -> None:
        self.sent = time.monotonic()
        os.kill(os.getpid(), signal.SIGINT)

    def run(self, call: Callable[[], Any]) -> float:
        timer = threading.Timer(self._delay, self._send)
        timer.start()
        try:
            call()
        except KeyboardInterrupt:
            return time.monotonic() - self.sent
        finally:
            timer.join()
        raise AssertionError("it returned, uninterrupted")


def interrupt(group: collectives.Group, where: str, delay: float) -> tuple[float, str]:
    array = np.random.default_rng(group.rank).standard_normal(LARGE).astype(np.float32)
    before = array.tobytes()
    group.barrier()
    took, said = 0.0, ""
    if group.rank == 0:
        took = Interrupter(delay).run(lambda: WAITS[where](group, array))
        assert array.tobytes() == before, "the input was not restored"
    else:
        # Waits in another order until it hears that the run is interrupted.
        try:
            group.barrier(tag=1, timeout=FOREVER)
        except collectives.Cancelled as error:
            said = str(error)
    group.sync(timeout=FOREVER)
    group.all_reduce(array)
    return took, said


@pytest.mark.parametrize("delay", [0.03, 0.25], ids=["first turn", "later turn"])
@pytest.mark.parametrize("where", WAITS)
def test_ctrl_c_ends_every_wait_at_once(pool: Pool, where: str, delay: float):
    (took, _), (_, said) = pool.get(2, interrupt, where, delay)
    print(f"{where}: {took * 1e3:.1f} ms")
    assert took < WITHIN, f"{where}: {took:.3f} s"
    if where == "await":
        assert "cancelled" in said
    else:
        assert "interrupted by KeyboardInterrupt" in said, "the others hear why"


def interrupt_join(_: Any, address: str) -> tuple[float, int]:
    threads = threading.active_count()
    took = Interrupter(0.4).run(lambda: wait_in_join(None, address))
    return took, threading.active_count() - threads


def test_ctrl_c_ends_join(pool: Pool):
    member = pool.crew.members[0]
    member.start(interrupt_join, pool.crew.coordinator.address)
    took, threads = member.result().get()
    print(f"join: {took * 1e3:.1f} ms")
    assert took < WITHIN
    assert threads == 0, "its threads are gone"


def interrupt_leave(group: collectives.Group) -> float:
    if group.rank == 0:
        group.barrier()
        # Rank 1 is stopped, so that what it is owed stays unacknowledged.
        pause(group)
        group.broadcast_async(np.ones(100_000, np.float32), 0)
        return Interrupter(0.3).run(lambda: group.leave(timeout=FOREVER))
    # It may be stopped before the first of them has returned, which nobody else then holds.
    with contextlib.suppress(collectives.PeerLost, collectives.TooFewPeers):
        group.barrier()
        group.barrier(tag=1, timeout=FOREVER)
    return 0.0


def pause(group: collectives.Group) -> None:
    pid = int(group.peers[1].name.rpartition("-")[2])
    os.kill(pid, signal.SIGSTOP)
    threading.Timer(1.0, os.kill, (pid, signal.SIGCONT)).start()


def test_ctrl_c_ends_leave(pool: Pool):
    took, _ = pool.get(2, interrupt_leave)
    print(f"leave: {took * 1e3:.1f} ms")
    assert took < WITHIN


# ---- fork --------------------------------------------------------------------------------------


def sockets_of(pid: int | str) -> set[str]:
    """The sockets that a process holds, by inode."""
    found = set()
    for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            target = str(fd.readlink())
            if target.startswith("socket:"):
                found.add(target)
    return found


def of_the_data_plane(group: collectives.Group) -> set[str]:
    """TCP sockets that listen at, or are connected to, a member's data port, and local ones that
    listen or were accepted."""
    ports = {int(address.rpartition(":")[2]) for p in group.peers for address in p.addresses}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in pathlib.Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            ends = {int(end.rpartition(":")[2], 16) for end in fields[1:3]}
            if ends & ports:
                found.add(f"socket:[{fields[9]}]")
    for line in pathlib.Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[-1].startswith("@collectives/"):
            found.add(f"socket:[{fields[6]}]")
    return found


def shared_memory() -> list[str]:
    """Segments that this process has mapped or open."""
    mapped = pathlib.Path("/proc/self/maps").read_text().splitlines()
    opened = []
    for fd in pathlib.Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            opened.append(str(fd.readlink()))
    return [line for line in mapped + opened if "memfd:collectives" in line]


def in_the_child(group: collectives.Group, work: collectives.Work, mine: set[str]) -> str:
    calls: dict[str, Callable[[], Any]] = {
        "all_reduce": lambda: group.all_reduce(np.ones(3)),
        "all_reduce_async": lambda: group.all_reduce_async(np.ones(3)),
        "broadcast": lambda: group.broadcast(np.ones(3)),
        "broadcast_async": lambda: group.broadcast_async(np.ones(3)),
        "barrier": group.barrier,
        "barrier_async": group.barrier_async,
        "sync": group.sync,
        "leave": group.leave,
        "counters": group.counters,
        "wait": work.wait,
        "done": work.done,
        "cancel": work.cancel,
        "telemetry": work.telemetry,
    }
    for name, call in calls.items():
        try:
            call()
        except collectives.CollectiveError as error:
            if "parent process" not in str(error) or "join" not in str(error):
                return f"{name} said {error}"
        else:
            return f"{name} raised nothing"
    held = sockets_of("self") & mine
    if held:
        return f"the child holds {len(held)} sockets of its parent"
    return f"the child holds {shared}" if (shared := shared_memory()) else "fine"


def fork_and_go_on(group: collectives.Group) -> tuple[str, float]:
    array = np.ones(1000)
    group.all_reduce(array)
    work = group.all_reduce_async(np.ones(1 << 20))
    mine = sockets_of("self") & of_the_data_plane(group)
    assert len(mine) >= 2, "one that listens, one that is connected"
    if group.rank != 0:
        group.all_reduce(array, tag=1)
        work.wait()
        group.barrier()
        return "fine", float(array[0])
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        said = "died"
        try:
            said = in_the_child(group, work, mine)
        except BaseException as error:
            said = repr(error)
        finally:
            os.write(write, said.encode())
            os._exit(0)
    os.close(write)
    group.all_reduce(array, tag=1)
    work.wait()
    said = os.read(read, 1000).decode()
    os.close(read)
    os.waitpid(child, 0)
    group.barrier()
    return said, float(array[0])


@pytest.mark.parametrize("transport", ["auto", "tcp"])
def test_a_forked_child_is_told_so_and_holds_nothing_of_its_parents(pool: Pool, transport: str):
    options = {"transport": transport}
    assert pool.get(2, fork_and_go_on, options=options) == [("fine", 4.0)] * 2


def fork_in_with(group: collectives.Group) -> int:
    """A child that runs off the end of a with block must not leave in its parent's name."""
    child = 0
    if group.rank == 0:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                with group:
                    pass
                status = 0
            finally:
                os._exit(status)
        child = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    group.barrier()
    return child


def test_the_end_of_a_with_block_in_a_child_changes_nothing(pool: Pool):
    assert pool.get(2, fork_in_with) == [0, 0]


# ---- nothing is left behind ----------------------------------------------------------------------


class MallocInfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
        "fordblks", "keepcost",
    )]  # fmt: skip


def heap() -> int:
    """Bytes that malloc has given out; 0 where it does not tell, which glibc does."""
    ask = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if ask is None:
        return 0
    ask.restype = MallocInfo
    found = ask()
    return found.uordblks + found.hblkhd


def footprint() -> dict[str, int]:
    gc.collect()
    maps = pathlib.Path("/proc/self/maps").read_text().splitlines()
    children = 0
    for task in pathlib.Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that ends just now
            children += len((task / "children").read_text().split())
    return {
        "children": children,
        "threads": sum(1 for _ in pathlib.Path("/proc/self/task").iterdir()),
        "descriptors": sum(1 for _ in pathlib.Path("/proc/self/fd").iterdir()),
        "mappings": len(maps),
        "segments": len(shared_memory()),
        "resident": int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096,
        "heap": heap(),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
    }


def settled() -> dict[str, int]:
    """The footprint once it has been the same for a while: a thread that has been joined may
    still be on its last steps in the kernel."""
    seen = footprint()
    same, deadline = 0, time.monotonic() + FOREVER
    while same < 3 and time.monotonic() < deadline:
        time.sleep(0.002)
        before, seen = seen, footprint()
        same = same + 1 if before["threads"] == seen["threads"] else 0
    return seen


def join_and_leave(_: Any, address: str, cycle: int, transport: str) -> dict[str, int]:
    """One life of a group, with an operation of each kind, one that fails, and a Work kept."""
    options = collectives.Options(transport=transport)
    name, held = f"{transport}{cycle}", len(shared_memory())
    with collectives.join(
        address, group=name, min_size=2, timeout=FOREVER, options=options
    ) as group:
        # Mine, mapped and open, and the other's, mapped.
        assert len(shared_memory()) - held == (0 if transport == "tcp" else 3)
        array = np.ones(1 << 18, np.float32)
        group.all_reduce(array)
        group.broadcast(array)
        work = group.all_reduce_async(np.ones(10))
        work.wait()
        try:
            group.all_reduce(np.ones(2 + group.rank))
        except collectives.MismatchError:
            group.sync(timeout=FOREVER)
        group.all_reduce_async(array)
        group.barrier(tag=1)
    del work
    return settled()


@pytest.mark.parametrize("transport", ["auto", "tcp"])
@pytest.mark.parametrize("cycles", [16, pytest.param(100, marks=pytest.mark.full)])
def test_joining_and_leaving_leaves_nothing_behind(pool: Pool, cycles: int, transport: str):
    seen = []
    kept = set(pathlib.Path("/dev/shm").iterdir())
    for cycle in range(cycles):
        for member in pool.crew.members[:2]:
            member.start(join_and_leave, pool.crew.coordinator.address, cycle, transport)
        seen.append([member.result().get() for member in pool.crew.members[:2]])
    for index in range(2):
        early, late = seen[3][index], seen[-1][index]
        print(f"process {index}: {early} -> {late}")
        assert late["children"] == 0
        assert late["segments"] == early["segments"]
        assert late["threads"] <= early["threads"]
        assert late["descriptors"] <= early["descriptors"]
        # glibc may keep an arena (two mappings) more; 12 leaked engines would show as 12 or more.
        assert late["mappings"] <= early["mappings"] + 8
        assert late["resident"] <= early["resident"] + (3 << 20)
    left = set(pathlib.Path("/dev/shm").iterdir()) - kept
    assert not [path for path in left if "collectives" in path.name]


def exercise(group: collectives.Group) -> None:
    """Small operations, and a large one, between two."""
    for count in (1, 10_000, 1 << 20):
        array = np.full(count, 1 + group.rank, np.float32)
        group.all_reduce(array, timeout=FOREVER)
        assert (array == 3).all()


def stay(group: collectives.Group, transport: str) -> dict[str, int]:
    """Let another one in, and work with it until it has left; the footprint then."""
    mortals.grow(group, 2)
    assert len(shared_memory()) == (0 if transport == "tcp" else 3)
    exercise(group)
    while group.size > 1:
        group.sync(timeout=FOREVER)
    return settled()


def come_and_go(_: Any, address: str, name: str, transport: str) -> dict[str, int]:
    """Be the other one."""
    with mortals.enter(address, name, "guest", 2, transport=transport) as group:
        exercise(group)
    return settled()


@pytest.mark.full
@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_a_hundred_guests_leave_nothing_behind_with_their_host(transport: str):
    seen = []
    kept = set(pathlib.Path("/dev/shm").iterdir())
    with mortals.Mortals() as made:
        host, guest = made.take(2)
        address = made.coordinator.address
        host.start(mortals.found, address, "inn", "host", 1, 1, {"transport": transport})
        host.result().get()
        for _ in range(100):
            host.start(stay, transport)
            guest.start(come_and_go, address, "inn", transport)
            seen.append([host.result().get(), guest.result().get()])
    for who, early, late in zip(("host", "guest"), seen[19], seen[-1], strict=True):
        print(f"{who}: {early} -> {late}")
        assert late["children"] == 0
        # The host's own, mapped and open.
        assert late["segments"] == (2 if who == "host" and transport == "shm" else 0)
        assert late["threads"] <= early["threads"]
        assert late["descriptors"] <= early["descriptors"]
        assert late["mappings"] <= early["mappings"] + 8
        # What the engine keeps for later use; 80 leaks of 13 KiB would show.
        assert late["heap"] <= early["heap"] + (1 << 20)
        assert late["peak"] <= early["peak"] + (3 << 20)  # malloc's own holes
    left = set(pathlib.Path("/dev/shm").iterdir()) - kept
    assert not [path for path in left if "collectives" in path.name]


# ---- leaving -------------------------------------------------------------------------------------


def leave_by_error(group: collectives.Group, address: str) -> tuple[str, str, str, float]:
    if group.rank == 1:
        group.barrier()
        with contextlib.suppress(ZeroDivisionError), group:
            raise ZeroDivisionError
        return "", "", "", time.monotonic()
    array = np.ones(1 << 20)
    try:
        group.barrier()  # rank 1 may be through, and gone, before this is
        group.all_reduce(array, timeout=FOREVER, on_failure="raise")
    except (collectives.PeerLost, collectives.TooFewPeers) as error:
        now = time.monotonic()
        assert (array == 1).all()
        # Too few, if the round was over before the all_reduce was called: only the text says who.
        name = group.peers[1].name
        return getattr(error, "peer", name), name, str(error), now
    return "", "", "nothing was raised", 0.0


def test_a_with_block_left_by_an_exception_tells_the_others_at_once(pool: Pool):
    results = pool.get(3, leave_by_error, pool.crew.coordinator.address)
    left = results[1][3]
    for rank in (0, 2):
        peer, name, said, when = results[rank]
        assert peer == name, said
        assert f"'{name}'" in said
        assert "ZeroDivisionError" in said, "and why"
        assert when - left < 1.0


def leave_early(group: collectives.Group) -> float:
    """Rank 2 is done with an operation that the others have yet to finish, and leaves."""
    array = np.full(10_000, group.rank + 1, np.float32)
    if group.rank == 2:
        group.all_reduce(array)
        group.leave()
        return float(array[0])
    work = group.all_reduce_async(array)
    if group.rank == 1:
        time.sleep(0.1)
    work.wait()
    large = np.ones(10)
    with pytest.raises(collectives.PeerLost, match="left") as caught:
        group.all_reduce(large, timeout=FOREVER, on_failure="raise")
    assert caught.value.peer == group.peers[2].name
    return float(array[0])


def test_nobody_fails_in_what_a_leaver_had_finished(pool: Pool):
    for _ in range(5):
        assert pool.get(3, leave_early) == [6.0] * 3


def leave_while_waiting(group: collectives.Group) -> str:
    """A thread waits in a call while another one leaves."""
    for _ in range(2):
        group.barrier(tag=1)
    if group.rank == 1:
        with contextlib.suppress(collectives.PeerLost, collectives.TooFewPeers):
            group.barrier(tag=2, timeout=FOREVER)
        return "fine"
    said = []

    def body() -> None:
        try:
            group.all_reduce(np.ones(1 << 18), tag=1, timeout=FOREVER)
        except collectives.CollectiveError as error:
            said.append(str(error))

    thread = threading.Thread(target=body)
    thread.start()
    while group._native.last_operation() < 3:
        time.sleep(0.001)
    group.leave()
    thread.join(FOREVER)
    assert not thread.is_alive()
    return "fine" if len(said) == 1 else f"{said}"


def test_leaving_ends_what_another_thread_waits_for(pool: Pool):
    for _ in range(3):
        assert pool.get(2, leave_while_waiting) == ["fine", "fine"]


# ---- idling --------------------------------------------------------------------------------------


def cpu_seconds(group: collectives.Group, seconds: float) -> float:
    group.all_reduce(np.ones(10))
    before = resource.getrusage(resource.RUSAGE_SELF)
    time.sleep(seconds)  # the claim is about a stretch of time
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_idling_costs_less_than_a_hundredth_of_a_core():
    with Crew(2) as crew:
        for used in crew.get(cpu_seconds, 3.0):
            print(f"{used / 3.0:.2%} of a core")
            assert used / 3.0 < 0.01
