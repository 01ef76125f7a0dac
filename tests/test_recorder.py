"""The recorder writes down of every call what the checkers need: real calls, of real processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import collectives
import crew
from collectives.chaos.journal import AND_MORE, Journal, read
from collectives.chaos.recorder import Recorder, install
from crew import DEADLINE, Crew

CODECS = ["mxint8", "mxfp4"]
LARGE = 3 * (8 << 20) // 4  # elements of float32: three parts


def join(_: None, address: str, arguments: dict[str, Any], options: dict[str, Any]) -> int:
    """``crew.join``, written down."""
    path = Path(arguments.pop("folder"), arguments["name"])
    install(Recorder(Journal(path)))
    return crew.join(None, address, arguments, options)


def program(group: collectives.Group) -> None:
    flat = np.arange(1000, dtype=np.float32) * (group.rank + 1)
    wide = np.zeros((100, 20), np.float32)
    wide[:, ::2] = flat.reshape(100, 10)
    # The same elements, in one piece, with holes, and as a list.
    pieces = [flat[:1].copy(), flat[1:501:1].copy(), flat[501:].copy()[::-1][::-1]]
    for array in (flat.copy(), wide[:, ::2], pieces):
        group.all_reduce(array, timeout=DEADLINE)
    flat[:] = np.random.default_rng(group.rank).standard_normal(1000, np.float32)
    for codec in (*CODECS, collectives.Codec("int8", rounding="stochastic")):
        group.all_reduce(flat.copy(), codec=codec, timeout=DEADLINE)
    group.reduce_scatter(flat[:999], timeout=DEADLINE)
    group.gather(flat, 0, timeout=DEADLINE)
    group.scatter(flat[:999], 0, timeout=DEADLINE) if group.rank == 0 else group.scatter(
        None, 0, out=np.empty(333, np.float32), timeout=DEADLINE
    )
    group.all_to_all(flat[:999], timeout=DEADLINE)
    group.all_reduce(np.ones(LARGE, np.float32), on_failure="resume", timeout=DEADLINE)
    if group.rank == 0:
        group.send(wide[:, ::2], 1, timeout=DEADLINE)
        group.send(flat, 1, timeout=DEADLINE)
    elif group.rank == 1:
        group.recv(np.empty(1000, np.float32), 0, timeout=DEADLINE)
        group.recv(np.empty((10, 200), np.float32)[:, ::2], timeout=DEADLINE)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any]]]:
    """Each rank's calls with what came of them: the fields of both lines."""
    folder = tmp_path_factory.mktemp("journals")
    with Crew(3, join={"folder": str(folder)}, joiner="test_recorder:join") as crew_of_three:
        crew_of_three.get(program, timeout=2 * DEADLINE)
        names = [f"p{member.index}" for member in crew_of_three.members]
    found = []
    for name in names:
        lines = list(read(folder / name))
        ends = {line.fields["n"]: line.fields for line in lines if line.kind == "return"}
        calls = [line.fields for line in lines if line.kind == "call"]
        found.append(
            [
                {**call, **{f"{key} after": value for key, value in ends[call["n"]].items()}}
                for call in calls
            ]
        )
    return found


def calls(told: list[list[dict[str, Any]]], rank: int, *ops: str) -> list[dict[str, Any]]:
    return [call for call in told[rank] if call["op"] in ops]


def test_a_digest_is_that_of_the_elements_however_they_lie(told):
    for rank in range(3):
        reductions = calls(told, rank, "all_reduce")[:3]
        assert len({call["digest"] for call in reductions}) == 1
        assert len({call["digest after"] for call in reductions}) == 1
        assert None not in (reductions[0]["digest"], reductions[0]["digest after"])
    assert len({calls(told, rank, "all_reduce")[0]["digest"] for rank in range(3)}) == 3
    assert len({calls(told, rank, "all_reduce")[0]["digest after"] for rank in range(3)}) == 1


@pytest.mark.parametrize("op", ["reduce_scatter", "gather", "scatter", "all_to_all"])
def test_what_a_rank_has_of_its_own_is_told_apart(told, op):
    ends = [calls(told, rank, op)[0] for rank in range(3)]
    assert all(end["digest after"] is None for end in ends)
    own = [end["own after"] for end in ends]
    if op == "gather":
        assert own[1:] == [None, None]
        own = own[:1]
    assert None not in own and len(set(own)) == len(own)


def test_what_is_resumed_is_told(told):
    for rank in range(3):
        how = [call["on_failure"] for call in calls(told, rank, "all_reduce")]
        assert how == ["retry"] * 6 + ["resume"]
        assert calls(told, rank, "all_reduce")[-1]["ranges after"] is None


def test_what_is_received_is_what_was_sent(told):
    sent, received = calls(told, 0, "send"), calls(told, 1, "recv")
    assert len(sent) == len(received) == 2 and not calls(told, 2, "send", "recv")
    for one, other in zip(sent, received, strict=True):
        assert one["digest"] == one["digest after"] == other["digest after"] is not None
        assert one["number after"] == other["number after"]
        assert one["to"] == other["to"]
        assert one["root"] == one["contributors after"][0] == other["contributors after"][0]
    assert [call["root"] for call in received] == [sent[0]["root"], ""]
    assert sent[1]["digest"] == calls(told, 0, "all_reduce")[3]["digest"]


def test_reductions_with_different_codecs_are_told_apart(told):
    for rank in range(3):
        plain, _, _, one, other, stochastic, _ = calls(told, rank, "all_reduce")
        assert one["digest"] == other["digest"] and one["digest after"] != other["digest after"]
        named = [call["codec"].split()[0] for call in (one, other, stochastic)]
        assert named == [*CODECS, "int8"] and plain["codec"] is None
        assert [call["codec"].endswith(AND_MORE) for call in (one, stochastic)] == [False, True]
