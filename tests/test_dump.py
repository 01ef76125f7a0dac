"""What people are told when a run stands still: a warning that names the absent, and after an error
a file with the operations in flight."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import collectives
from collectives.dump import KEPT
from crew import DEADLINE, Crew

LARGE = 300_000  # elements of float32


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            self.lines.append(record.getMessage())


# ---- what the processes run ------------------------------------------------------------------


def barrier(group: Any) -> None:
    group.barrier(timeout=DEADLINE)


def reduce_and_listen(group: Any) -> list[str]:
    """The library's warnings in an all-reduce and a barrier."""
    lines = Lines()
    logging.getLogger("collectives").addHandler(lines)
    group.all_reduce(np.ones(10), timeout=DEADLINE)
    group.barrier(timeout=DEADLINE)
    logging.getLogger("collectives").removeHandler(lines)
    return lines.lines


def come_late(group: Any, seconds: float) -> None:
    time.sleep(seconds)
    group.all_reduce(np.ones(10), timeout=DEADLINE)
    group.barrier(timeout=DEADLINE)


def call_alone(group: Any, timeout: float) -> str:
    """An operation with a tag that hangs, and one that times out; the name of the error."""
    hanging = group.all_reduce_async(np.ones(LARGE, np.float32), "max", tag=7, timeout=DEADLINE)
    try:
        group.broadcast(np.ones(5, np.int64), 1, timeout=timeout)
    except collectives.CollectiveError as error:
        with pytest.raises(collectives.CollectiveError):
            hanging.wait()  # broken along with it: not an error of its own
        with pytest.raises(collectives.CollectiveError):
            group.barrier()
        return f"{type(error).__name__}: {error}"
    return ""


def wait_for_the_break(group: Any) -> str:
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        try:
            group._native.operations()
            group.all_reduce(np.ones(1), tag=99, timeout=DEADLINE)
        except collectives.CollectiveError as error:
            return type(error).__name__
        time.sleep(0.01)
    return ""


def fail_often(group: Any, times: int) -> int:
    """Each rank calls what the other does not, and rank 0 cancels it."""
    errors = 0
    for i in range(times):
        try:
            work = group.barrier_async(tag=group.rank)
            if group.rank == 0:
                work.cancel(f"number {i}")
            work.wait(DEADLINE)
        except collectives.Cancelled:
            errors += 1
        group.sync(timeout=DEADLINE)
    return errors


# ---- stalls ----------------------------------------------------------------------------------


def test_a_stalled_operation_warns_once_and_names_the_absent():
    with Crew(3, {"stall_warning": 0.4}) as crew:
        late = crew.members[2]
        late.start(come_late, 1.5)
        for member in crew.members[:2]:
            member.start(reduce_and_listen)
        for member in crew.members[:2]:
            lines = member.result().get()
            stalls = [line for line in lines if "has waited" in line]
            print(stalls)
            assert len(stalls) == 1, lines
            assert f"'p{late.index}' (rank 2) has not called it" in stalls[0]
            assert "all_reduce(dtype=f64, op=sum, count=10)" in stalls[0]
        late.result().get()


def test_who_wants_no_warnings_gets_none():
    with Crew(2, {"stall_warning": None}) as crew:
        crew.members[1].start(come_late, 0.6)
        crew.members[0].start(reduce_and_listen)
        assert crew.members[0].result().get() == []
        crew.members[1].result().get()


def test_a_stall_warning_of_no_time_is_refused():
    with pytest.raises(collectives.InvalidArgument, match="stall_warning"):
        collectives.Options(stall_warning=0)


# ---- dumps -----------------------------------------------------------------------------------


def dumps(directory: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for path in directory.iterdir():
        assert path.suffix == ".json", path
        content = json.loads(path.read_text())
        assert content["peer"] not in found, "one for each error"
        found[content["peer"]] = content
    return found


@pytest.mark.parametrize("where", ["option", "environment"])
def test_an_error_leaves_a_file_with_the_operations_that_were_in_flight(where, tmp_path):
    directory = tmp_path / "made" / "when needed"
    options = {"dump": str(directory)} if where == "option" else {}
    # The option counts more than the environment.
    variable = str(tmp_path / "other") if where == "option" else str(directory)
    with Crew(2, options, environment={"COLLECTIVES_DUMP": variable}) as crew:
        crew.get(barrier)
        assert not list(tmp_path.iterdir()), "nothing went wrong yet"
        crew.members[0].start(call_alone, 0.7)
        said = crew.members[0].result().get()
        crew.members[1].start(wait_for_the_break)
        assert crew.members[1].result().get() == "Timeout"
        names = [f"p{member.index}" for member in crew.members]
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    found = dumps(directory)
    assert set(found) == set(names)
    first = found[names[0]]
    assert said == f"{first['error']}: {first['message']}" and first["error"] == "Timeout"
    assert first["pid"] > 0 and first["view"]["peers"] == names and first["view"]["rank"] == 0
    by_kind = {entry["kind"]: entry for entry in first["operations"]}
    assert set(by_kind) == {"broadcast", "all_reduce"}
    broadcast, reduction = by_kind["broadcast"], by_kind["all_reduce"]
    assert (broadcast["tag"], broadcast["number"], broadcast["root"]) == (None, 2, 1)
    assert (broadcast["dtype"], broadcast["count"], broadcast["op"]) == ("i64", 5, None)
    assert (reduction["tag"], reduction["op"], reduction["count"]) == (7, "max", LARGE)
    assert reduction["dtype"] == "f32"
    for entry in (broadcast, reduction):
        assert entry["phase"] == "running"
        assert 0.6 < entry["seconds"] < DEADLINE
        assert entry["pending_bytes"] > 0
        me, other = entry["peers"]
        assert (me["me"], me["seen"]) == (True, True)
        assert (other["name"], other["me"], other["seen"]) == (names[1], False, False)
        assert other["absent_since"] is not None, "it was asked, and said so"
    assert reduction["peers"][1]["sent_bytes"] > 0, "what it could without credit"
    # The other one saw them too, and had called neither.
    seen = [e for e in found[names[1]]["operations"] if e["phase"] == "not called here"]
    assert {entry["kind"] for entry in seen} == {"broadcast", "all_reduce"}
    assert all(entry["peers"][0]["seen"] for entry in seen)


def test_only_the_latest_files_are_kept(tmp_path):
    times = KEPT + 3
    with Crew(2, {"dump": str(tmp_path)}) as crew:
        assert crew.get(fail_often, times) == [times, times]
        pids = [member.pid for member in crew.members]
    for pid in pids:
        numbers = sorted(
            int(path.stem.rpartition("-")[2]) for path in tmp_path.glob(f"*-{pid}-*.json")
        )
        assert numbers == list(range(times - KEPT + 1, times + 1))


def test_a_directory_that_cannot_be_written_does_not_hide_the_error(tmp_path):
    blocked = tmp_path / "a file"
    blocked.write_text("")
    with Crew(2, {"dump": str(blocked)}) as crew:
        crew.members[0].start(call_alone, 0.3)
        assert crew.members[0].result().get().startswith("Timeout: ")
    assert list(tmp_path.iterdir()) == [blocked]
