"""What c10d promises of works, futures, process groups and how they begin and end."""

from __future__ import annotations

import datetime
import gc
import itertools
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import torch_ranks
from torch_ranks import BACKEND, Ranks

# Functions of ranks import torch by themselves: pytest's process does without.

SOON = 10.0


def wait_until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.001)


def seconds(number: float) -> datetime.timedelta:
    return datetime.timedelta(seconds=number)


def assemble(rank: int, world: int) -> None:
    """Wait, without the process group, until all ranks are here; once in a run."""
    store = torch_ranks.store("assembled")
    store.set(f"{rank}", "")
    store.wait([f"{other}" for other in range(world)], seconds(SOON))


def error_of(function: Callable[[], Any]) -> str:
    """What it raises; "" if nothing."""
    import torch.distributed as dist

    try:
        function()
    except dist.DistBackendError as error:
        return str(error)
    return ""


# ---- works ---------------------------------------------------------------------------------------


def wait_twice(rank: int, world: int) -> None:
    import torch
    import torch.distributed as dist

    store = torch_ranks.store()
    tensor = torch.full((1000,), rank + 1.0)
    if rank == 0:
        work = dist.all_reduce(tensor, async_op=True)
        assert not work.is_completed()
        began = time.monotonic()
        with pytest.raises(dist.DistBackendError, match="has not ended within 50 ms"):
            work.wait(seconds(0.05))
        assert 0.05 <= time.monotonic() - began < SOON
        assert not work.is_completed()
        store.set("go", "")
    else:
        store.wait(["go"], seconds(SOON))
        work = dist.all_reduce(tensor, async_op=True)
    assert work.wait() and work.wait(seconds(1))
    assert work.is_completed() and work.is_success() and work.exception() is None
    assert (tensor == sum(range(1, world + 1))).all()


def test_a_wait_that_passed_can_be_repeated(ranks: Ranks) -> None:
    ranks.run(wait_twice)


def completed_without_wait(rank: int, world: int) -> None:
    import torch
    import torch.distributed as dist

    for count in (1, 100_000):
        tensor = torch.ones(count)
        work = dist.all_reduce(tensor, async_op=True)
        wait_until(work.is_completed, "nobody waits, and it does not end")
        assert (tensor == world).all()
        assert work.result()[0].data_ptr() == tensor.data_ptr()


def test_works_end_without_being_waited_for(ranks: Ranks) -> None:
    ranks.run(completed_without_wait)


def drop(rank: int, world: int) -> None:
    import torch
    import torch.distributed as dist

    tensors = [torch.full((n * 1000,), float(rank)) for n in range(1, 40)]
    for tensor in tensors:
        dist.all_reduce(tensor, async_op=True)
    for _ in range(40):  # of these nobody keeps even the tensor
        dist.all_reduce(torch.ones(5000), async_op=True)
    gc.collect()
    expected = sum(range(world))
    wait_until(lambda: all((tensor == expected).all() for tensor in tensors), "some do not end")
    dist.barrier()


@pytest.mark.parametrize("world", [2, 3])
def test_works_that_nobody_keeps_are_done_all_the_same(ranks: Ranks, world: int) -> None:
    ranks.run(drop, world=world)


def futures(rank: int, world: int) -> None:
    import torch
    import torch.distributed as dist

    store = torch_ranks.store()
    threads: list[int] = []

    def double(future: Any) -> Any:
        threads.append(threading.get_ident())
        return 2 * future.value()[0]

    tensor = torch.ones(10)
    if rank > 0:
        store.wait(["asked"], seconds(SOON))
    work = dist.all_reduce(tensor, async_op=True)
    future = work.get_future()
    if rank == 0:
        assert not future.done()
        store.set("asked", "")
    before = future.then(double).then(lambda last: last.value() + 1)
    work.wait()
    assert before.wait().tolist() == [2 * world + 1] * 10
    value = future.value()
    assert [one.data_ptr() for one in value] == [tensor.data_ptr()]
    after = work.get_future().then(double)  # of what has ended
    assert after.wait().tolist() == [2 * world] * 10
    seen = []
    future.add_done_callback(lambda done: seen.append(done.value()))
    assert len(seen) == 1
    assert len(threads) == 2

    # Of one that nobody waits for, and of which only the future is kept.
    given = torch.ones(3)
    output = torch.zeros(3 * world)
    future = dist.all_gather_single(output, given, async_op=True).get_future()
    gc.collect()
    assert [one.data_ptr() for one in future.wait()] == [output.data_ptr()]
    assert (output == 1).all()
    many = [dist.all_reduce(torch.ones(n), async_op=True).get_future() for n in range(1, 30)]
    sums = torch.futures.wait_all([future.then(double) for future in many])
    assert [len(one) for one in sums] == list(range(1, 30))
    assert all((one == 2 * world).all() for one in sums)
    empty = dist.barrier(async_op=True).get_future().wait()
    assert not empty or isinstance(empty, list)


def test_futures_have_the_results_and_run_callbacks(ranks: Ranks) -> None:
    ranks.run(futures, world=3)


def waited_by_many(rank: int, world: int) -> None:
    import torch
    import torch.distributed as dist

    store = torch_ranks.store()
    tensor = torch.ones(1000)
    if rank > 0:
        store.wait(["waiting"], seconds(SOON))
    work = dist.all_reduce(tensor, async_op=True)
    done: list[bool] = []
    threads = [threading.Thread(target=lambda: done.append(work.wait())) for _ in range(4)]
    future = work.get_future()
    threads.append(threading.Thread(target=lambda: done.append(bool(future.wait()))))
    for thread in threads:
        thread.start()
    store.set("waiting", "")
    for thread in threads:
        thread.join(SOON)
    assert done == [True] * 5
    assert (tensor == world).all()


def test_many_threads_can_wait_for_one_work(ranks: Ranks) -> None:
    ranks.run(waited_by_many)


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def many(rank: int, world: int) -> int:
    import torch
    import torch.distributed as dist

    tensor, output = torch.ones(10_000), torch.ones(10_000 * world)
    before = 0
    for turn in range(600):
        dist.all_reduce(tensor.fill_(1))
        dist.all_gather_single(output, tensor, async_op=True).get_future().then(lambda f: f).wait()
        dist.all_reduce(torch.ones(10_000), async_op=True)
        if turn == 200:
            before = resident()
    dist.barrier()
    return resident() - before


def test_works_leave_no_memory_behind(ranks: Ranks) -> None:
    # Had each of the last 400 turns kept one of its tensors, it would be 16 MB.
    for grown in ranks.run(many):
        assert grown < 8_000_000


def mismatch(rank: int, world: int, how: str) -> tuple[str, str, str]:
    import torch
    import torch.distributed as dist

    import collectives
    import collectives.torch

    ready = torch.ones(4)
    dist.all_reduce(ready)
    assemble(rank, world)  # else one might not have this sum when the group breaks
    work = dist.all_reduce(torch.ones(4 if rank else 5), async_op=True)
    future = work.get_future()
    seen = []
    child = future.then(lambda done: seen.append(error_of(done.value)))
    if how == "wait":
        first = error_of(work.wait)
    elif how == "future":
        first = error_of(future.wait)
    else:
        wait_until(work.is_completed, "it does not end")
        first = error_of(work.wait)
        assert not work.is_success()
        with pytest.raises(dist.DistBackendError):
            raise work.exception()
    child.wait()
    assert seen == [first], "a callback sees another error"
    later = dist.all_reduce(torch.ones(1), async_op=True)  # which may not raise by itself
    assert error_of(later.wait)
    assert error_of(later.get_future().wait)
    assert error_of(dist.barrier)
    assert isinstance(collectives.torch.error(), collectives.MismatchError)
    dist.destroy_process_group()
    torch_ranks.initialize("mended")
    dist.all_reduce(ready)
    assert (ready == world * world).all()
    return first, error_of(later.wait), str(collectives.torch.error())


@pytest.mark.parametrize("how", ["wait", "future", "poll"])
def test_errors_come_through_waits_and_futures(ranks: Ranks, how: str) -> None:
    results = ranks.run(mismatch, how, world=3)
    for first, later, now in results:
        # Who finds it out by itself names those that it has heard by then.
        assert "called different things" in first
        assert "rank 0" in first and "5" in first and "4" in first, first
        assert later, "what is called later does not fail"
        assert now == "None"


def refusals(rank: int, world: int) -> list[str]:
    import torch
    import torch.distributed as dist

    group = dist.group.WORLD
    said = []
    for bad in (
        lambda: dist.all_gather([torch.ones(2)], torch.ones(2)),
        lambda: dist.all_gather_single(torch.ones(3), torch.ones(2)),
        lambda: dist.all_to_all_single(torch.ones(4), torch.ones(4), [1, 2], [2, 2]),
        lambda: dist.all_reduce(torch.ones(2).to(torch.float8_e5m2)),
        lambda: dist.all_reduce(torch.ones(2), op=dist.ReduceOp.BAND),
        lambda: group.send([torch.ones(1)], rank, 0),
        lambda: group.allreduce([torch.ones(1), torch.ones(1)]),
    ):
        try:
            bad()
        except (ValueError, RuntimeError, NotImplementedError) as error:
            said.append(f"{type(error).__name__}: {error}")
        else:
            said.append("nothing")
    tensor = torch.ones(2)
    dist.all_reduce(tensor)  # nothing of it was sent, and the group is whole
    assert (tensor == world).all()
    return said


def test_calls_that_cannot_be_are_refused_before_anything_is_sent(ranks: Ranks) -> None:
    for said in ranks.run(refusals):
        assert "nothing" not in said, said
        assert not [one for one in said if one.startswith("DistBackendError")], said


def numbers(rank: int, world: int) -> list[int]:
    import torch
    import torch.distributed as dist

    # Of a ProcessGroup c10d asks only the backends that it has names for.
    backend = dist.group.WORLD._get_backend(torch.device("cpu"))
    seen = [backend._get_sequence_number_for_group()]
    for _ in range(3):
        dist.all_reduce(torch.ones(2))
        seen.append(backend._get_sequence_number_for_group())
    dist.barrier()
    seen.append(backend._get_sequence_number_for_group())
    return seen


def test_sequence_numbers_count_the_same_on_all_ranks(ranks: Ranks) -> None:
    first, second = ranks.run(numbers)
    assert first == second
    assert all(later > earlier for earlier, later in itertools.pairwise(first)), first


# ---- timeouts ------------------------------------------------------------------------------------


def absent(rank: int, world: int, how: str) -> tuple[float, str]:
    import torch
    import torch.distributed as dist

    store = torch_ranks.store()
    group = dist.group.WORLD
    dist.barrier()
    if rank == 1:
        store.wait(["over"], seconds(SOON))
        return 0.0, error_of(lambda: dist.all_reduce(torch.ones(1)))
    call: Callable[[], Any] = lambda: dist.all_reduce(torch.ones(1))  # noqa: E731
    if how in ("set", "recv"):
        group.set_timeout(seconds(0.5))
    elif how == "barrier":
        call = lambda: dist.barrier(timeout=seconds(0.5))  # noqa: E731
    elif how == "monitored":
        call = lambda: group.monitored_barrier(seconds(0.5))  # noqa: E731
    elif how == "options":
        options = dist.AllreduceOptions()
        options.timeout = seconds(0.5)
        call = lambda: group.allreduce([torch.ones(1)], options).wait()  # noqa: E731
    elif how == "recv":
        call = lambda: dist.recv(torch.ones(1), 1)  # noqa: E731
    began = time.monotonic()
    said = error_of(call)
    took = time.monotonic() - began
    store.set("over", "")
    return took, said


@pytest.mark.parametrize("how", ["init", "set", "barrier", "monitored", "options", "recv"])
def test_a_timeout_ends_an_operation_and_names_the_absent(ranks: Ranks, how: str) -> None:
    # Of the whole group, it is that of its forming, too.
    limit = 4.0 if how == "init" else 20.0
    (took, said), (_, late) = ranks.run(absent, how, group_timeout=limit)
    assert (3.9 if how == "init" else 0.4) < took < SOON, said
    assert "rank 1" in said, said
    assert late, "who comes too late is not told"


# ---- aborting, closing ---------------------------------------------------------------------------


def aborted(rank: int, world: int) -> tuple[str, str]:
    import torch
    import torch.distributed as dist

    import collectives
    import collectives.torch

    dist.barrier()
    assemble(rank, world)  # else one might still be in the barrier
    if rank == 1:
        return error_of(lambda: dist.recv(torch.ones(1), 0)), str(collectives.torch.error())
    said: list[str] = []
    work = dist.all_reduce(torch.ones(1), async_op=True)
    waiter = threading.Thread(target=lambda: said.append(error_of(work.wait)))
    waiter.start()
    dist.group.WORLD.abort()
    waiter.join(SOON)
    assert not waiter.is_alive(), "the wait goes on"
    assert isinstance(collectives.torch.error(), collectives.Cancelled)
    return said[0], error_of(dist.barrier)


def test_an_abort_ends_waits_here_and_elsewhere(ranks: Ranks) -> None:
    results = ranks.run(aborted)
    for words in sum(results, ()):
        assert "rank 0 aborted the process group" in words, results


def after_destroy(rank: int, world: int) -> tuple[str, str]:
    import torch
    import torch.distributed as dist

    group = dist.group.WORLD
    other = dist.new_group()
    tensor = torch.ones(3)
    work = dist.all_reduce(tensor, async_op=True)
    future = work.get_future()
    work.wait()
    open_work = dist.all_reduce(torch.ones(3), async_op=True)
    dist.destroy_process_group(other)
    dist.barrier()
    dist.destroy_process_group()
    used = error_of(lambda held=group: held.allreduce([tensor]).wait())
    waited = error_of(open_work.wait)
    with pytest.raises((ValueError, AssertionError)):
        dist.destroy_process_group()
    with pytest.raises(ValueError, match="process group"):
        dist.all_reduce(tensor)
    assert work.wait() and future.value()[0] is not None
    group.shutdown()  # once more
    group.abort()
    del group, other, work, open_work, future
    gc.collect()
    return used, waited


def test_what_is_used_after_its_end_is_an_error(ranks: Ranks) -> None:
    for used, waited in ranks.run(after_destroy):
        assert "destroyed" in used, used
        assert waited == "", "an operation that all had called before did not end well"


def shut(rank: int, world: int) -> str:
    import torch
    import torch.distributed as dist

    dist.barrier()
    if rank == 0:
        dist.group.WORLD.shutdown()
        dist.destroy_process_group()
        return ""
    return error_of(lambda: dist.all_reduce(torch.ones(5)))


def test_who_waits_for_one_that_has_left_is_told(ranks: Ranks) -> None:
    began = time.monotonic()
    assert "rank 0" in ranks.run(shut)[1]
    assert time.monotonic() - began < SOON


def again(rank: int, world: int) -> int:
    import torch
    import torch.distributed as dist

    for turn in range(10):
        torch_ranks.initialize(f"turn {turn}")
        if turn % 3:  # else one may have left before another knows that all are there
            tensor = torch.full((1000,), turn + rank)
            dist.all_reduce(tensor)
            assert (tensor == 2 * turn + 1).all()
        dist.destroy_process_group()
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_process_group_can_be_made_again_and_again(ranks: Ranks) -> None:
    for left in ranks.run(again, init=False):
        assert left < 40, "descriptors are left over"


# ---- groups --------------------------------------------------------------------------------------


def interleaved(rank: int, world: int) -> None:
    import torch
    import torch.distributed as dist

    groups = [dist.group.WORLD, *(dist.new_group() for _ in range(3))]
    # Each rank in another order of groups, in each group in the same.
    order = groups[rank:] + groups[:rank]
    works, tensors = [], {}
    for turn in range(20):
        for group in order:
            tensor = torch.full((turn * 700 + 1,), float(turn + groups.index(group)))
            tensors[group, turn] = tensor
            works.append(dist.all_reduce(tensor, group=group, async_op=True))
    for work in reversed(works):
        work.wait()
    for (group, turn), tensor in tensors.items():
        assert (tensor == world * (turn + groups.index(group))).all()


@pytest.mark.parametrize("world", [2, 4])
def test_groups_do_not_wait_for_each_other(ranks: Ranks, world: int) -> None:
    ranks.run(interleaved, world=world)


def with_children(rank: int, world: int) -> str:
    import multiprocessing

    import torch
    import torch.distributed as dist

    tensor = torch.ones(5)
    dist.all_reduce(tensor)
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()

    def call() -> None:  # in a child, which has the process group but is no rank of it
        try:
            dist.all_reduce(torch.ones(5))
            theirs.send("nothing")
        except Exception as error:
            theirs.send(str(error))

    children = [context.Process(target=call) for _ in range(2)]  # which run what is to run at exit
    for child in children:
        child.start()
    dist.all_reduce(tensor)
    said = []
    for child in children:
        assert mine.poll(SOON), "a child hangs"
        said.append(mine.recv())
        child.join(SOON)
        assert child.exitcode == 0
    dist.all_reduce(tensor)
    assert (tensor == world**3).all()
    assert said[0] == said[1]
    return said[0]


def test_children_of_ranks_neither_disturb_nor_take_part(ranks: Ranks) -> None:
    for said in ranks.run(with_children):
        assert "this process was forked from a rank" in said, said


def threaded(rank: int, world: int) -> None:
    import torch
    import torch.distributed as dist

    groups = [dist.new_group() for _ in range(4)]
    wrong: list[str] = []

    def work_in(number: int) -> None:
        for turn in range(60):
            tensor = torch.full((1 + turn * 50 * number,), float(rank + number))
            dist.all_reduce(tensor, group=groups[number])
            if not (tensor == sum(range(world)) + number * world).all():
                wrong.append(f"group {number}, turn {turn}: {tensor[:3].tolist()}")

    threads = [threading.Thread(target=work_in, args=(n,), daemon=True) for n in range(4)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 25
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
        assert not thread.is_alive(), "a thread hangs"
    assert not wrong, wrong


def test_threads_with_groups_of_their_own(ranks: Ranks) -> None:
    ranks.run(threaded, world=3)


def grouped(rank: int, world: int) -> None:
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    def total(group: Any) -> float:
        tensor = torch.tensor([float(rank)])
        dist.all_reduce(tensor, group=group)
        return tensor.item()

    # The first, as its name depends on how many others a rank is in.
    local = dist.new_group([0, 3], use_local_synchronization=True) if rank in (0, 3) else None
    odd = dist.new_group([1, 3])
    alone = dist.new_group([2])
    if rank % 2:
        assert total(odd) == 4
        assert dist.get_backend(odd) == BACKEND
    if rank == 2:
        assert total(alone) == 2
    if local is not None:
        assert total(local) == 3
    mine, every = dist.new_subgroups(2)
    assert total(mine) == (1 if rank < 2 else 5)
    assert len(every) == 2
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("rows", "columns"))
    assert total(mesh["rows"].get_group()) == rank % 2 * 2 + 2
    assert total(mesh["columns"].get_group()) == (1 if rank < 2 else 5)
    flat = mesh._flatten("all")
    assert total(flat.get_group()) == 6
    assert total(None) == 6


def test_groups_of_some_of_the_ranks(ranks: Ranks) -> None:
    ranks.run(grouped, world=4)


def split(rank: int, world: int) -> None:
    import torch
    import torch.distributed as dist

    group = dist.group.WORLD
    pair = group.split_group([2, 0], seconds(20), None, "halves", "two of them")
    if rank == 1:
        assert pair is None
    else:
        tensor = torch.tensor([float(rank)])
        pair.allreduce([tensor]).wait()
        assert tensor.item() == 2
        assert (pair.rank(), pair.size()) == (rank // 2, 2)
    dist.barrier()


def test_a_group_can_be_split(ranks: Ranks) -> None:
    ranks.run(split, world=3)


def test_one_rank_is_a_group(ranks: Ranks) -> None:
    ranks.run(completed_without_wait, world=1)
    ranks.run(drop, world=1)
    ranks.run(numbers, world=1)


# ---- how programs start --------------------------------------------------------------------------


def total_of_ranks() -> float:
    import torch
    import torch.distributed as dist

    tensor = torch.tensor([float(dist.get_rank())])
    dist.all_reduce(tensor)
    return tensor.item()


def by_variables(rank: int, world: int, port: int) -> float:
    import torch.distributed as dist

    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.environ.update(TORCHELASTIC_USE_AGENT_STORE="True")  # no rank is the store
    dist.init_process_group(BACKEND)
    total = total_of_ranks()
    dist.destroy_process_group()
    return total


def serve(rank: int, world: int) -> None:
    """Be a store, whose port the system chose, until this process is ended."""
    import torch.distributed as dist

    store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    torch_ranks.tell(store.port)
    threading.Event().wait()


def test_variables_of_the_environment_say_where_to_meet(ranks: Ranks) -> None:
    server = ranks.start(serve, world=1, init=False)
    assert ranks.run(by_variables, server.hear(0), world=3, init=False) == [3.0] * 3
    server.close()


def forked(index: int, count: int, where: str) -> None:
    import torch.distributed as dist

    dist.init_process_group(BACKEND, init_method=where, rank=index, world_size=count)
    assert total_of_ranks() == 1


def forking(rank: int, world: int, folder: str) -> None:
    import torch.multiprocessing as mp

    # Each of these ends without destroying its process group.
    arguments = (2, f"file://{folder}/store")
    mp.start_processes(forked, args=arguments, nprocs=2, start_method="fork")


def test_ranks_forked_by_multiprocessing(ranks: Ranks, tmp_path: Path) -> None:
    ranks.run(forking, str(tmp_path), world=1, init=False)


PROGRAM = """
    import sys
    import torch, torch.distributed as dist, torch.multiprocessing as mp

    def main(*where):
        if where:
            rank, folder = where
            store = f"file://{folder}/store"
            dist.init_process_group("BACKEND", init_method=store, rank=rank, world_size=2)
        else:
            dist.init_process_group("BACKEND")
        tensor = torch.ones(3)
        dist.all_reduce(tensor)
        print(f"rank {dist.get_rank()} has {tensor.tolist()}\\n", end="", flush=True)
        if where:
            dist.destroy_process_group()  # else the end of the program is that of the group

    if __name__ == "__main__":
        if sys.argv[1:]:
            mp.spawn(main, args=(sys.argv[1],), nprocs=2)
        else:
            main()
"""


# By torchrun the examples run, too.
@pytest.mark.parametrize("how", ["mp.spawn", pytest.param("torchrun", marks=pytest.mark.full)])
def test_a_program_of_its_own(tmp_path: Path, how: str) -> None:
    """It knows the backend by its name, without an import."""
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM).replace("BACKEND", BACKEND))
    command = [sys.executable, str(program), str(tmp_path)]
    if how == "torchrun":
        run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command = [sys.executable, *run, str(program)]
    done = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    for rank in range(2):
        assert f"rank {rank} has [2.0, 2.0, 2.0]" in done.stdout
