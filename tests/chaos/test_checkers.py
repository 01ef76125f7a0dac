"""The checkers: a correct run passes all, and each broken one is caught by the right one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import synthetic
from mutants import MUTANTS, OTHER, Mutant, not_counted

from collectives.chaos.checkers import CHECKERS, determinism
from collectives.chaos.history import History
from collectives.chaos.losses import losses


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> synthetic.Lines:
    folder = tmp_path_factory.mktemp("run") / "run"
    synthetic.write(folder)
    return synthetic.Lines(folder)


def judged(folder: Path) -> dict[str, list[str]]:
    history = History.read(folder)
    return {
        checker.name: [violation.what for violation in found]
        for checker in CHECKERS
        if (found := checker.check(history).violations)
    }


def test_a_correct_run_passes_and_every_checker_has_something_to_check(
    run: synthetic.Lines, tmp_path: Path
) -> None:
    run.write(tmp_path)
    assert judged(tmp_path) == {}
    history = History.read(tmp_path)
    assert [checker.name for checker in CHECKERS if not checker.check(history).checked] == []


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.broken.replace(" ", "-"))
def test_a_broken_run_is_caught_by_the_checker_of_its_rule_alone(
    mutant: Mutant, run: synthetic.Lines, tmp_path: Path
) -> None:
    changed = copy.deepcopy(run)
    mutant.change(changed)
    changed.write(tmp_path)
    found = judged(tmp_path)
    assert list(found) == [mutant.caught_by], found


def no_fault_applied(run: synthetic.Lines) -> None:
    for line in run.all("harness", "applied"):
        line["count"] = 0


def not_said_how_much_applied(run: synthetic.Lines) -> None:
    for line in run.all("harness", "applied"):
        run.of("harness").remove(line)


def counters_lost(run: synthetic.Lines) -> None:
    run.of("p3.0").remove(run.all("p3.0", "counters")[-1])


def put_out_afterwards(run: synthetic.Lines) -> None:
    run.all("p3.0", "counters")[-1]["out"] = True


def counted_while_the_stranger_came(run: synthetic.Lines) -> None:
    run.all("p3.0", "counters")[-1]["t"] = synthetic.ns(23.1)


@pytest.mark.parametrize(
    "unknown",
    [
        no_fault_applied,
        not_said_how_much_applied,
        counters_lost,
        put_out_afterwards,
        counted_while_the_stranger_came,
    ],
    ids=lambda unknown: unknown.__name__,
)
def test_what_was_not_counted_is_no_violation_where_nobody_knows_that_it_should_have_been(
    unknown: Callable[[synthetic.Lines], None], run: synthetic.Lines, tmp_path: Path
) -> None:
    changed = copy.deepcopy(run)
    not_counted("p3.0")(changed)
    unknown(changed)
    changed.write(tmp_path)
    assert judged(tmp_path) == {}


def test_every_checker_has_a_mutant() -> None:
    assert {checker.name for checker in CHECKERS} == {mutant.caught_by for mutant in MUTANTS}


def test_runs_with_the_same_inputs_have_the_same_bits(run: synthetic.Lines, tmp_path: Path) -> None:
    other = copy.deepcopy(run)
    run.write(tmp_path / "one")
    other.write(tmp_path / "two")
    same = determinism.compare(History.read(tmp_path / "one"), History.read(tmp_path / "two"))
    assert same.checked > 20 and not same.violations

    for name in ("p0.0", "p1.0", "p2.0", "p3.0"):
        other.end_of(name, 3)["digest"] = OTHER
    other.write(tmp_path / "three")
    (found,) = determinism.compare(
        History.read(tmp_path / "one"), History.read(tmp_path / "three")
    ).violations
    assert found.rule == "G4" and "all_reduce 3" in found.what


def test_a_loss_is_put_down_to_the_newest_cut(run: synthetic.Lines, tmp_path: Path) -> None:
    changed = copy.deepcopy(run)
    changed.all("harness", "fault", kind="stop")[0]["kind"] = "isolate"
    earlier = {"fault": 99, "kind": "half_open", "peers": ["p1", "p3"], "until": None}
    changed.of("harness").insert(-9, {"t": synthetic.ns(4.0), "k": "fault", **earlier})
    changed.write(tmp_path)
    history = History.read(tmp_path)
    (cut,) = [loss for loss in losses(history) if loss.cause == "cut"]
    assert cut.fault is not None and cut.fault.kind == "isolate" and cut.name == "p3"
    assert judged(tmp_path) == {}


def test_a_life_that_was_killed_before_its_first_line_is_no_violation(
    run: synthetic.Lines, tmp_path: Path
) -> None:
    changed = copy.deepcopy(run)
    harness = changed.of("harness")
    at = {"peer": "p7", "life": 0, "pid": 99}
    harness.insert(-2, {"t": synthetic.ns(66), "k": "started", **at})
    harness.insert(
        -2, {"t": synthetic.ns(66.1), "k": "exited", **at, "status": -9, "expected": True}
    )
    changed.write(tmp_path)
    assert judged(tmp_path) == {}
