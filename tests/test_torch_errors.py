"""Bad input to a process group: a clear error on every rank, nothing hangs, and nothing is lost."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import torch_ranks

PATIENCE = 10.0  # seconds: no error here waits for anything longer than a moment


def _raised(call: Callable[[], Any]) -> tuple[str, str, float]:
    """The error of a call, and how long it took."""
    began = time.monotonic()
    try:
        call()
    except Exception as error:
        return type(error).__name__, str(error), time.monotonic() - began
    return "", "", time.monotonic() - began


def _backend() -> Any:
    import torch
    from torch.distributed import distributed_c10d as c10d

    return c10d._get_default_group()._get_backend(torch.device("cpu"))


def _different(rank: int, world: int) -> list[Any]:
    """Ranks that call different things; a new group for each, as it breaks."""
    import torch
    import torch.distributed as dist

    import collectives.torch

    ones = torch.ones
    pairs: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "count": (lambda: dist.all_reduce(ones(5)), lambda: dist.all_reduce(ones(6))),
        "dtype": (lambda: dist.all_reduce(ones(5)), lambda: dist.all_reduce(ones(5).double())),
        "op": (
            lambda: dist.all_reduce(ones(5)),
            lambda: dist.all_reduce(ones(5), op=dist.ReduceOp.MAX),
        ),
        "root": (lambda: dist.broadcast(ones(5), 0), lambda: dist.broadcast(ones(5), 1)),
        "kind": (lambda: dist.all_reduce(ones(5)), lambda: dist.barrier()),
        "large": (
            lambda: dist.all_gather_into_tensor(ones(2 * 100_000), ones(100_000)),
            lambda: dist.reduce_scatter_tensor(ones(100_000), ones(2 * 100_000)),
        ),
        "splits": (
            lambda: dist.all_to_all_single(ones(5), ones(4), [2, 3], [2, 2]),
            lambda: dist.all_to_all_single(ones(4), ones(4), [2, 2], [2, 2]),
        ),
        "message": (lambda: dist.send(ones(5), 1), lambda: dist.recv(ones(4), 0)),
    }
    found = []
    for name, calls in pairs.items():
        torch_ranks.initialize(name)
        error, text, seconds = _raised(calls[rank])
        cause = collectives.torch.error()
        again = _raised(lambda: dist.all_reduce(ones(3)))
        state = str(_backend().get_error())
        found.append((name, error, text, seconds, type(cause).__name__, again, state))
        dist.destroy_process_group()
    return found


def test_ranks_that_call_different_things_all_get_an_error_that_says_so(
    ranks: torch_ranks.Ranks,
) -> None:
    results = ranks.run(_different, init=False)
    for mine, theirs in zip(*results, strict=True):
        name, error, text, seconds, cause, again, state = mine
        assert (error, cause) == ("DistBackendError", "MismatchError"), mine
        assert "rank 0" in text and "rank 1" in text, mine
        assert seconds < PATIENCE, mine
        # The group stays broken, for the same reason, and says so at once.
        assert again[:2] == (error, text), name
        assert "COMM_ERROR" in state, mine
        # Each may have found it by itself, and tells it from its side.
        assert (theirs[1], theirs[4]) == (error, cause), (mine, theirs)
        assert "rank 0" in theirs[2] and "rank 1" in theirs[2], theirs


def _locally_wrong(rank: int, world: int) -> list[Any]:
    import torch
    import torch.distributed as dist

    ones = torch.ones
    cases: list[tuple[str, Callable[[], Any], str]] = [
        ("a device", lambda: _backend().allreduce([torch.empty(4, device="meta")]), "meta"),
        ("a layout", lambda: _backend().broadcast([torch.eye(3).to_sparse()]), "Sparse"),
        ("complex", lambda: dist.distributed_c10d._get_default_group().allreduce(
            [torch.ones(3, dtype=torch.complex64)], _options(dist.ReduceOp.MAX)), "complex"),
        ("f8", lambda: dist.all_reduce(torch.zeros(4).to(torch.float8_e4m3fn)), "reduced"),
        ("lengths", lambda: dist.all_gather([ones(3)], ones(3)), "one for each"),
        ("own", lambda: dist.all_gather([ones(3), ones(3)], ones(4)), "elements"),
        ("whole", lambda: dist.all_gather_into_tensor(ones(7), ones(3)), "elements"),
        ("scatter", lambda: dist.reduce_scatter_tensor(ones(3), ones(7)), "elements"),
        ("splits", lambda: dist.all_to_all_single(ones(4), ones(4), [1, 1], [2, 2]), "split"),
        ("negative", lambda: dist.all_to_all_single(ones(4), ones(4), [5, -1], [2, 2]), "split"),
        ("uneven", lambda: dist.all_to_all_single(ones(3), ones(3)), "divisible"),
        ("types", lambda: dist.all_gather([ones(3), ones(3).int()], ones(3)), "dtype"),
        ("myself", lambda: _backend().send([ones(3)], rank, 0), "itself"),
        ("tag", lambda: dist.isend(ones(3), 1 - rank, tag=-1), "tag"),
        ("bits", lambda: dist.all_reduce(ones(3), op=dist.ReduceOp.BXOR), "bxor"),
        ("average", lambda: dist.all_reduce(ones(3).bool(), op=dist.ReduceOp.AVG), "bool"),
    ]  # fmt: skip
    found = []
    for name, call, word in cases:
        error, text, seconds = _raised(call)
        found.append((name, error, text, word, seconds))
    # The group is whole: nothing was sent.
    tensor = ones(10) * (rank + 1)
    dist.all_reduce(tensor)
    assert tensor.tolist() == [3.0] * 10
    return found


def _options(op: Any) -> Any:
    from torch.distributed import distributed_c10d as c10d

    options = c10d.AllreduceOptions()
    options.reduceOp = op
    return options


def test_what_is_wrong_here_is_an_error_here_and_leaves_the_group_whole(
    ranks: torch_ranks.Ranks,
) -> None:
    for result in ranks.run(_locally_wrong):
        for name, error, text, word, seconds in result:
            assert error and word in text, (name, error, text)
            assert seconds < PATIENCE, name


def _one_is_wrong(rank: int, world: int) -> Any:
    import torch
    import torch.distributed as dist

    # torch itself does nothing at all for tensors on "meta": this asks the backend.
    device = "meta" if rank == 1 else "cpu"
    first = _raised(lambda: _backend().allreduce([torch.empty(70_000, device=device)]).wait())
    second = _raised(dist.barrier) if rank == 1 else None  # it goes on with what comes next
    return first, second


def test_the_others_of_a_rank_that_made_a_mistake_do_not_hang(ranks: torch_ranks.Ranks) -> None:
    (first, _), (wrong, second), (third, _) = ranks.run(_one_is_wrong, world=3)
    assert wrong[0] == "ValueError" and "meta" in wrong[1]
    for error, text, seconds in (first, second, third):
        assert error == "DistBackendError" and "rank 1 called barrier" in text, text
        assert seconds < PATIENCE


def _left(rank: int, world: int) -> Any:
    import torch
    import torch.distributed as dist

    import collectives.torch

    group = dist.distributed_c10d._get_default_group()
    if rank == 1:
        dist.destroy_process_group()
        kept = _raised(lambda: group.allreduce([torch.ones(3)]).wait())
        return kept, _raised(lambda: collectives.torch.counts(group)), _raised(dist.barrier)
    error = _raised(dist.barrier)
    return error, repr(collectives.torch.error())


def test_who_needs_a_rank_that_has_left_gets_an_error_at_once(ranks: torch_ranks.Ranks) -> None:
    (error, text, seconds), cause = (results := ranks.run(_left))[0]
    assert error == "DistBackendError" and "rank 1" in text and "left" in text, text
    assert "PeerLost" in cause and seconds < PATIENCE
    kept, counts, default = results[1]
    assert kept[0] == "DistBackendError" and "destroyed" in kept[1], kept
    assert counts[0] == "InvalidArgument", counts
    assert default[0] == "ValueError" and "init_process_group" in default[1], default


def _not_in_it(rank: int, world: int) -> Any:
    import torch
    import torch.distributed as dist

    group = dist.new_group([0, 1])
    tensor = torch.ones(3)
    if rank == 2:
        return _raised(lambda: dist.all_reduce(tensor, group=group)), tensor.tolist()
    dist.all_reduce(tensor, group=group)
    return tensor.tolist()


def test_a_rank_that_is_not_in_a_group_changes_nothing(ranks: torch_ranks.Ranks) -> None:
    first, second, (error, tensor) = ranks.run(_not_in_it, world=3)
    assert first == second == [2.0] * 3
    assert error[0] in ("", "ValueError") and tensor == [1.0] * 3


def _absent(rank: int, world: int, folder: str) -> Any:
    import torch
    import torch.distributed as dist

    import collectives.torch

    tensor = torch.ones(3)
    dist.all_reduce(tensor)
    if rank == 1:  # it does something else, for longer than the others have patience
        while collectives.torch.error() is None:
            time.sleep(0.05)
        return repr(collectives.torch.error())
    if rank == 0:
        return _raised(lambda: dist.all_reduce(tensor))
    group = dist.distributed_c10d._get_default_group()
    return _raised(lambda: group.monitored_barrier())


def test_a_timeout_names_who_is_absent_and_leaves_a_dump(
    ranks: torch_ranks.Ranks, tmp_path: Path
) -> None:
    results = ranks.run(
        _absent, str(tmp_path), world=2, group_timeout=1.0, options={"dump": str(tmp_path)}
    )
    error, text, seconds = results[0]
    assert error == "DistBackendError" and "rank 1" in text and "gave up" in text, text
    assert 0.9 < seconds < PATIENCE
    assert "Timeout" in results[1] and "rank 1" in results[1]
    written = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    assert {one["peer"] for one in written} == {"rank 0", "rank 1"}
    mine = next(one for one in written if one["peer"] == "rank 0")
    assert mine["error"] == "Timeout" and mine["message"] == text.partition(": ")[2]
    assert [one["kind"] for one in mine["history"]] == ["all_reduce", "all_reduce"]
    pending = mine["operations"][-1]
    assert (pending["kind"], pending["number"]) == ("all_reduce", 2)
    assert [peer["seen"] for peer in pending["peers"]] == [True, False]


def _options_given(rank: int, world: int) -> Any:
    import torch
    import torch.distributed as dist

    import collectives
    import collectives.torch
    from collectives import Codec

    found = []
    wrong: list[Callable[[], Any]] = [
        lambda: torch_ranks.initialize("a", pg_options={"connections": 2}),
        lambda: collectives.torch.Options(tune=True),
        lambda: collectives.torch.Options(codec=Codec("int8", error_feedback=True)),
        lambda: collectives.torch.Options(codec="int9"),
        lambda: collectives.torch.Options(transport="pigeon"),
    ]
    for call in wrong:
        found.append(_raised(call)[:2])
        if dist.is_initialized():
            dist.destroy_process_group()
    # Plain ones of the library will do, and what is asked for is done.
    torch_ranks.initialize("b", pg_options=collectives.Options(transport="tcp", connections=2))
    dist.barrier()
    dist.destroy_process_group()
    exact = torch.linspace(-1, 1, 50_000) * (rank + 1)
    torch_ranks.initialize("c", pg_options=collectives.torch.Options(codec="mxint8"))
    tensor = exact.clone()
    dist.all_reduce(tensor)
    whole = torch.arange(10_000)
    dist.all_reduce(whole)  # what cannot be encoded travels as it is
    assert torch.equal(whole, 2 * torch.arange(10_000))
    dist.destroy_process_group()
    off = (tensor - 3 * torch.linspace(-1, 1, 50_000)).abs().max().item()
    torch_ranks.initialize("d", pg_options=collectives.torch.Options(codec=["int8", "int4"][rank]))
    found.append(_raised(lambda: dist.all_reduce(tensor))[:2])
    dist.destroy_process_group()
    return found, off


def test_options(ranks: torch_ranks.Ranks) -> None:
    results = ranks.run(_options_given, init=False)
    for found, off in results:
        words = ["collectives.torch.Options", "tune", "error_feedback", "int9", "pigeon", "int4"]
        for (error, text), word in zip(found, words, strict=True):
            assert error and word in text, (error, text)
        assert 0 < off < 0.05  # it was quantized, and not by much
    assert results[0][1] == results[1][1]


@pytest.mark.parametrize("who", ["late", "never"])
def test_who_does_not_come_to_form_the_group_is_named(ranks: torch_ranks.Ranks, who: str) -> None:
    results = ranks.run(_late, who, init=False, world=3)
    if who == "late":
        assert results == [3, 3, 3]
    else:
        for error, text, seconds in results[:2]:
            assert error == "Timeout" and "'rank 2'" in text and "did not come" in text, text
            assert seconds < PATIENCE


def _late(rank: int, world: int, who: str) -> Any:
    import datetime

    import torch
    import torch.distributed as dist

    from collectives.torch._member import Member
    from collectives.torch.options import Options

    seconds = datetime.timedelta(seconds=1 if who == "never" else 20)
    store = torch_ranks.store("here")

    def come() -> Any:
        return Member(store, rank, range(world), "a group", seconds, Options())

    if rank == 2 and who == "never":
        return None
    if rank == 2:
        for other in (0, 1):
            while not store.check([f"1/who/{other}"]):
                time.sleep(0.01)
    if who == "never":
        return _raised(come)
    member = come()
    tensor = torch.ones(1)
    member.backend.allreduce([tensor], dist.AllreduceOptions()).wait()
    member.backend.shutdown()
    return int(tensor.item())
