"""Whole runs: real processes, real faults, and the verdict on them."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from collectives.chaos import journal, trial
from collectives.chaos.checkers import bad_input, determinism
from collectives.chaos.harness import Harness
from collectives.chaos.history import History
from collectives.chaos.network import COORDINATOR
from collectives.chaos.report import Report
from collectives.chaos.scenario import Scenario
from collectives.cli import chaos as cli
from collectives.errors import CollectiveError

QUICK = """
name = "quick"
peers = 3
duration = 5.0
[options]
detection = 1.5
"""


def run(text: str, folder: Path, seed: int = 1) -> Report:
    report = trial.run(Scenario.from_toml(text), seed, folder)
    assert not report.violations, report.violations
    assert report.operations > 30
    return report


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [line.fields for line in journal.read(folder / "harness.jsonl") if line.kind == kind]


def checked(report: Report, name: str) -> int:
    [verdict] = [v for v in report.verdicts if v.checker.name == name]
    return verdict.findings.checked


def test_processes_are_killed_stopped_and_replaced(tmp_path: Path):
    text = (
        QUICK
        + """
    [[fault]]
    kind = "kill"
    at = 0.3
    peer = "p2"
    restart = 0.3
    [[fault]]
    kind = "kill"
    peer = "p1"
    restart = 0.5
    moment = { phase = "reduce_scatter", at = 1.5 }
    [[fault]]
    kind = "stop"
    at = 2.5
    peer = "p0"
    for = 0.4
    [[fault]]
    kind = "join"
    at = 3.2
    for = 1.0
    [[fault]]
    kind = "leave"
    at = 3.6
    peer = "p2"
    """
    )
    report = run(text, tmp_path / "run")
    assert report.faults == {"kill": 2, "stop": 1, "join": 1, "leave": 1}
    [died] = lines(tmp_path / "run", "died")
    assert (died["peer"], died["phase"]) == ("p1", "reduce_scatter")
    ended = lines(tmp_path / "run", "exited")
    assert sorted(e["status"] for e in ended) == [-9, -9, 0, 0, 0, 0]
    started = lines(tmp_path / "run", "started")
    assert {(s["peer"], s["life"]) for s in started} == {
        ("p0", 0), ("p1", 0), ("p1", 1), ("p2", 0), ("p2", 1), ("p3", 0)
    }  # fmt: skip
    assert len(report.recovered("kill")) == 2
    assert report.false_deaths == 0
    for rule in ("outcomes", "liveness", "determinism", "parity", "order", "values", "leaks"):
        assert checked(report, rule) > 0, rule
    saved = json.loads((tmp_path / "run" / "report.json").read_text())
    assert saved["operations"] == report.operations
    assert "<svg" in (tmp_path / "run" / "report.html").read_text()


def test_connections_are_damaged_and_the_coordinator_is_killed(tmp_path: Path):
    text = (
        QUICK
        + """
    [workload]
    kind = "state"
    bytes = 1000000
    [links]
    default = "lan"
    [[fault]]
    kind = "reset"
    at = 0.3
    a = "p0"
    b = "p1"
    [[fault]]
    kind = "flip"
    at = 0.6
    a = "p1"
    b = "p2"
    count = 2
    [[fault]]
    kind = "coordinator_kill"
    at = 1.0
    restart = 0.3
    [[fault]]
    kind = "black_hole"
    at = 2.0
    a = "p0"
    b = "p2"
    for = 0.3
    [[fault]]
    kind = "stranger"
    at = 3.0
    peer = "p1"
    [[fault]]
    kind = "exhaust"
    at = 3.2
    peer = "p0"
    for = 0.5
    """
    )
    report = run(text, tmp_path / "run")
    assert set(report.faults) == {
        "reset", "flip", "coordinator_kill", "black_hole", "stranger", "exhaust"
    }  # fmt: skip
    assert report.history.begin["workload"] == "state"
    assert checked(report, "failover") == 1
    assert checked(report, "bad_input") == 2
    assert all(line["count"] for line in lines(tmp_path / "run", "applied"))
    # Had nobody counted anything, it would have been found.
    for path in (tmp_path / "run" / "peers").iterdir():
        path.write_text(re.sub(r'"counts":{[^}]*}', '"counts":{}', path.read_text()))
    found = bad_input.check(History.read(tmp_path / "run")).violations
    assert [violation.what.split(",")[0] for violation in found] == [
        "a flip hit p1.0 and p2.0", "a stranger hit p1.0"
    ]  # fmt: skip


def test_who_is_cut_off_comes_back(tmp_path: Path):
    text = (
        QUICK
        + """
    [[fault]]
    kind = "isolate"
    at = 0.5
    peer = "p1"
    for = 3.0
    """
    )
    report = run(text, tmp_path / "run")
    rejoined = [
        line
        for line in journal.read(tmp_path / "run" / "peers" / "p1.0.jsonl")
        if line.kind == "rejoined"
    ]
    assert len(rejoined) == 1
    assert report.false_deaths == 0
    presences = report.history.lives["p1.0"].presences
    assert [presence.out for presence in presences] == [True, False]
    assert all(presence.counters["received_bytes"] > 0 for presence in presences)


SCRIPT = """
import sys
import numpy as np
import collectives

with collectives.join("nowhere.example:1", min_size=2) as group:
    weights = np.zeros(1000, np.float32)
    state = collectives.SharedState({"weights": weights})
    while state.revision < 200:
        group.sync(state)
        gradient = np.full(1000, 1.0, np.float32)
        group.all_reduce(gradient, op="avg")
        weights += gradient
        state.advance()
        if sys.argv[1:] == ["fail"] and state.revision == 100 and group.rank == 1:
            raise SystemExit("this one gives up")
print("weights", weights[0])
"""


def test_a_users_script_runs_unchanged(tmp_path: Path):
    script, folder = tmp_path / "train.py", tmp_path / "run"
    script.write_text(SCRIPT)
    scenario = tmp_path / "kill.toml"
    scenario.write_text(
        'name = "kill"\npeers = 3\nmin_size = 2\nduration = 6.0\n[[fault]]\nkind = "kill"\n'
        'at = 0.2\npeer = "p2"\n'
    )
    arguments = ["run", str(scenario), "--script", str(script), "--out", str(folder)]
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 0, done.output
    assert "weights 200.0" in (folder / "logs" / "p0.0.log").read_text()
    assert "one outcome for all survivors" in done.output
    done = CliRunner().invoke(cli.app, [*arguments, "--", "fail"])
    assert done.exit_code == 1
    said = "".join(path.read_text() for path in (folder / "logs").iterdir())
    assert "this one gives up" in said


def test_a_replay_does_the_same(tmp_path: Path):
    text = (
        QUICK.replace("5.0", "3.5") + "\n[mix]\nstart = 0.2\nsettle = 0.5\nkill = 60\nreset = 60\n"
    )
    first, again = tmp_path / "run", tmp_path / "run-replay"
    run(text, first, seed=5)
    done = CliRunner().invoke(cli.app, ["replay", str(first)])
    assert done.exit_code == 0, done.output
    assert (first / "scenario.toml").read_text() == (again / "scenario.toml").read_text()

    def faults(folder: Path) -> list[tuple[Any, ...]]:
        return [(f["fault"], f["kind"], tuple(f["peers"])) for f in lines(folder, "fault")]

    assert faults(first) == faults(again) != []


@pytest.mark.parametrize(
    ("command", "own", "given", "used"),
    [
        ("run", "seed = 7", [], 7),
        ("run", "seed = 7", ["--seed", "0"], 0),
        ("run", "", [], 0),
        ("soak", "seed = 7", [], 7),
    ],
)
def test_a_seed_that_is_not_given_is_the_scenarios(
    command, own, given, used, tmp_path, monkeypatch
):
    scenario = tmp_path / "mine.toml"
    scenario.write_text(f'name = "mine"\n{own}')
    seen = []

    def begin(scenario: Scenario, seed: int, folder: Path, look: object) -> Report:
        seen.append((seed, folder.name))
        raise CollectiveError("that is enough")

    monkeypatch.setattr(trial, "run", begin)
    named = [str(scenario)] if command == "run" else ["--scenario", str(scenario)]
    done = CliRunner().invoke(cli.app, [command, *named, *given])
    assert "that is enough" in str(done.exception), done.output
    assert seen == [(used, f"mine-{used}" if command == "run" else f"{used}")]


def test_the_bits_are_no_function_of_connections_and_slices(tmp_path: Path):
    text = (
        QUICK
        + """
    connections = {}
    slice_bytes = {}
    [workload]
    dtype = "float16"
    [[fault]]
    kind = "kill"
    peer = "p1"
    moment = {{ phase = "between", operation = 150 }}
    """
    )
    one = run(text.format(1, 65536), tmp_path / "one")
    other = run(text.format(3, 4096), tmp_path / "other")
    findings = determinism.compare(one.history, other.history)
    assert findings.checked > 30
    assert not findings.violations


def test_a_places_links_share_its_rate_but_not_with_those_of_another_profile(tmp_path: Path):
    text = """
    name = "narrow"
    [links]
    default = "lan"
    [[links.between]]
    a = "p0"
    b = "p3"
    profile = "dsl"
    """
    with Harness(Scenario.from_toml(text), 1, tmp_path) as harness:
        shares = {
            pair: harness.share_of(*pair)
            for pair in itertools.permutations(("p0", "p1", "p3", COORDINATOR), 2)
        }
    names = {pair: share.buckets for pair, share in shares.items()}
    assert all(share.direction.rate == 0 for share in shares.values())
    assert names["p0", "p1"] == names["p0", COORDINATOR] != names["p1", "p0"] == names["p1", "p3"]
    assert names["p0", "p3"] != names["p3", "p0"]  # its uplink and its downlink
    assert not {names["p0", "p3"], names["p3", "p0"]} & {names["p0", "p1"], names["p3", "p1"]}
    assert len(set(names.values())) == 6  # four of the LAN, two of the DSL


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("years of work")
    done = CliRunner().invoke(cli.app, ["run", "laptop-lid", "--out", str(tmp_path)])
    assert done.exit_code != 0
    assert "no chaos run" in str(done.exception)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "laptop-lit"], "laptop-lid"),
        (["run", "laptop-lid", "--script", "no/such.py"], "no file"),
        (["run", "laptop-lid", "--", "stray"], "--script"),
        (["replay", "."], "scenario.toml"),
    ],
)
def test_what_makes_no_sense_is_an_error_that_says_so(arguments, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code != 0
    assert told in f"{done.output} {done.exception}"
