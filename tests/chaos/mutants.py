"""Broken runs: the synthetic run with one promise broken each, and who must see it.

``test_checkers`` has each of them judged by all checkers. The table is at the end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from synthetic import COUNTERS, Lines, ns

OTHER = "0123456789abcdef"


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A run with one thing wrong: what, which checker catches it, and how it is made."""

    broken: str
    caught_by: str
    change: Callable[[Lines], None]


def another_result(run: Lines) -> None:
    run.end_of("p1.0", 4)["digest"] = OTHER


def a_contributor_less(run: Lines) -> None:
    run.end_of("p1.0", 12)["contributors"].remove("p3")


def error_against_success(run: Lines) -> None:
    made = run.call_of("p3.0", 7)
    error = {"error": "PeerLost", "peer": "p9", "unknown": False, "message": ""}
    run.end_of("p3.0", 7).update({"k": "raise", "digest": made["digest"], **error})


def another_error(run: Lines) -> None:
    run.one("p1.0", "raise", error="Timeout")["error"] = "Cancelled"


def another_name_in_the_error(run: Lines) -> None:
    run.one("p1.0", "raise", error="PeerLost")["peer"] = "p0"


def success_of_different_calls(run: Lines) -> None:
    run.call_of("p1.0", 4)["count"] = 999


def success_of_an_older_attempt(run: Lines) -> None:
    run.end_of("p1.0", 12).update(view=1, contributors=["p0", "p1", "p2", "p3"])


def sync_against_mismatch(run: Lines) -> None:
    number = max(line["number"] for line in run.all("p1.0", "return") if line["number"])
    sync = next(
        line
        for line in run.all("p1.0", "return")
        if line["number"] and line["number"] < number and line["contributors"] is None
    )
    error = {"error": "MismatchError", "peer": None, "unknown": False, "digest": None}
    sync.update({"k": "raise", **error})


def a_wrong_value(run: Lines) -> None:
    run.of("p1.0").append({"t": ns(10), "k": "wrong", "work": 15, "what": "sum is 7, not 15"})


def other_ranges(run: Lines) -> None:
    (line,) = [one for one in run.all("p1.0", "return") if one.get("ranges")]
    line["ranges"][0][2].remove("p3")


def something_else_received(run: Lines) -> None:
    made = run.all("p1.0", "call", op="recv")[-1]
    run.one("p1.0", "return", n=made["n"])["digest"] = OTHER


def sent_and_not_received(run: Lines) -> None:
    made = run.all("p1.0", "call", op="recv")[-1]
    error = {"error": "PeerLost", "peer": "p9", "unknown": False, "message": "", "digest": None}
    run.one("p1.0", "return", n=made["n"]).update({"k": "raise", **error})


def more_received_than_sent(run: Lines) -> None:
    run.all("p1.0", "call", op="recv")[-1]["count"] = 999


def same_inputs_other_bits_of_its_own(run: Lines) -> None:
    made = run.all("p1.0", "call", op="reduce_scatter")[-1]
    run.one("p1.0", "return", n=made["n"])["own"] = OTHER


def input_changed_by_a_timeout(run: Lines) -> None:
    run.one("p0.0", "raise", error="Timeout")["digest"] = OTHER


def input_changed_by_a_death(run: Lines) -> None:
    run.one("p1.0", "raise", error="PeerLost")["digest"] = OTHER


def a_call_past_its_bound(run: Lines) -> None:
    run.call_of("p0.0", 52)["t"] -= 30_000_000_000


def a_call_that_never_ends(run: Lines) -> None:
    lines = run.of("p3.0")
    made = run.call_of("p3.0", 36)
    del lines[lines.index(made) + 1 :]
    run.one("harness", "exited", peer="p3").update(status=-9)


def a_sync_that_all_wait_in(run: Lines) -> None:
    for name in ("p0.0", "p1.0", "p3.0"):
        lines = run.of(name)
        made = run.call_of(name, 40)
        assert made["op"] == "sync"
        del lines[lines.index(made) + 1 :]
        run.one("harness", "exited", peer=name[:2]).update(status=-9)


def a_call_forgotten(run: Lines) -> None:
    run.of("p0.0").remove(run.end_of("p0.0", 52))


def late(run: Lines, number: int, seconds: float) -> None:
    """All return an operation so much later, and see its view then."""
    for name in ("p0.0", "p1.0", "p2.0", "p2.1", "p3.0"):
        lines = run.of(name)
        for index, line in enumerate(lines):
            if line.get("number") == number:
                line["t"] += round(seconds * 1e9)
                if lines[index - 1]["k"] == "view":
                    lines[index - 1]["t"] = line["t"]


def a_death_noticed_late(run: Lines) -> None:
    late(run, 12, 5.0)


def a_silence_noticed_late(run: Lines) -> None:
    late(run, 21, 4.5)


def lost_after_a_short_stop(run: Lines) -> None:
    run.all("harness", "fault", kind="stop")[0]["until"] = ns(14.6)


def lost_because_it_was_slow(run: Lines) -> None:
    run.all("harness", "fault", kind="stop")[0]["kind"] = "slow"


def same_inputs_other_bits(run: Lines) -> None:
    for name in ("p0.0", "p1.0", "p2.0", "p3.0"):
        run.end_of(name, 6)["digest"] = OTHER


def a_member_with_another_state(run: Lines) -> None:
    run.one("p1.0", "state", revision=2)["digest"] = OTHER


def a_newcomer_with_another_state(run: Lines) -> None:
    run.one("p2.1", "state", revision=2)["digest"] = OTHER


def a_view_seen_twice(run: Lines) -> None:
    lines = run.of("p1.0")
    view = run.all("p1.0", "view")[0]
    lines.insert(lines.index(view) + 1, dict(view))


def a_view_with_two_lists(run: Lines) -> None:
    run.all("p1.0", "view")[1]["view"]["members"].reverse()


def back_under_the_same_id(run: Lines) -> None:
    old = run.one("p3.0", "joined")["id"]
    new = run.one("p3.0", "rejoined")["id"]
    run.one("p3.0", "rejoined")["id"] = old
    for lines in run.files.values():
        for line in lines:
            for member in line.get("view", {}).get("members", []) if "group" in line else []:
                if member[0] == new:
                    member[0] = old


def a_contributor_from_outside(run: Lines) -> None:
    for name in ("p0.0", "p1.0", "p2.1"):
        run.end_of(name, 23)["contributors"].append("p3")


def lost_to_the_coordinator(run: Lines) -> None:
    run.of("harness").remove(run.all("harness", "fault", kind="stop")[0])
    for t, what in ((14.1, "killed"), (15.0, "restarted")):
        run.of("harness").append({"t": ns(t), "k": "coordinator", "what": what, "pid": 1})
    for line in run.all("*", "view") + run.all("*", "joined") + run.all("*", "rejoined"):
        line["view"]["term"] += line["view"]["number"] >= 4


def a_term_that_stays(run: Lines) -> None:
    for line in run.all("*", "view"):
        line["view"]["term"] = 1


def a_run_that_stands_still(run: Lines) -> None:
    later = [line for line in run.all("*", "return") if line["t"] > ns(27)]
    for line in later:
        error = {"error": "Timeout", "peer": None, "unknown": False, "digest": None}
        line.update({"k": "raise", **error})
    for line in run.all("*", "raise"):
        if line["t"] > ns(27):
            line.update(error="Timeout", peer=None)


def ended_by_a_stranger(run: Lines) -> None:
    run.one("harness", "exited", peer="p3").update(t=ns(23.2), status=-11, expected=False)


def not_counted(*names: str) -> Callable[[Lines], None]:
    def change(run: Lines) -> None:
        for name in names:
            run.all(name, "counters")[-1]["counts"] = dict.fromkeys(COUNTERS, 0)

    return change


def a_crash(run: Lines) -> None:
    run.one("harness", "exited", peer="p1").update(status=-6, expected=False)


def an_exception(run: Lines) -> None:
    run.one("p1.0", "end")["status"] = "ZeroDivisionError: division by zero"
    run.one("harness", "exited", peer="p1").update(status=1, expected=False)


def a_process_left_over(run: Lines) -> None:
    run.of("harness").remove(run.one("harness", "exited", peer="p1"))


def leak(what: str, count: int) -> Callable[[Lines], None]:
    def change(run: Lines) -> None:
        run.all("p1.0", "resources")[-1][what] += count

    return change


MUTANTS = (
    Mutant("one survivor has other bits", "outcomes", another_result),
    Mutant("one survivor names other contributors", "outcomes", a_contributor_less),
    Mutant("an error for one, success for the others", "outcomes", error_against_success),
    Mutant("another error for one", "outcomes", another_error),
    Mutant("the error names another peer at one", "outcomes", another_name_in_the_error),
    Mutant("success though one called something else", "outcomes", success_of_different_calls),
    Mutant("success of an attempt that was repeated", "outcomes", success_of_an_older_attempt),
    Mutant("a mismatch for one, a sync for the others", "outcomes", sync_against_mismatch),
    Mutant("a resumed one has other ranges at one", "outcomes", other_ranges),
    Mutant("something else is received than was sent", "outcomes", something_else_received),
    Mutant("what was sent raises where it is received", "outcomes", sent_and_not_received),
    Mutant("a send and a receive of another count", "outcomes", more_received_than_sent),
    Mutant("same inputs, other bits for one", "determinism", same_inputs_other_bits_of_its_own),
    Mutant("a timeout leaves the input changed", "atomicity", input_changed_by_a_timeout),
    Mutant("a death leaves the input changed", "atomicity", input_changed_by_a_death),
    Mutant("a call returns past its bound", "liveness", a_call_past_its_bound),
    Mutant("a call hangs until the run is over", "liveness", a_call_that_never_ends),
    Mutant("a call neither returns nor raises", "liveness", a_call_forgotten),
    Mutant("all are in a sync, and it does not end", "standstill", a_sync_that_all_wait_in),
    Mutant("a killed peer is missed after 5 s", "detection", a_death_noticed_late),
    Mutant("a stopped peer is missed too late", "detection", a_silence_noticed_late),
    Mutant("a short stop is taken for a death", "false_deaths", lost_after_a_short_stop),
    Mutant("slowness is taken for a death", "false_deaths", lost_because_it_was_slow),
    Mutant("same inputs, other bits on all", "determinism", same_inputs_other_bits),
    Mutant("a member holds another state", "parity", a_member_with_another_state),
    Mutant("a newcomer holds another state", "parity", a_newcomer_with_another_state),
    Mutant("a restart costs a member", "failover", lost_to_the_coordinator),
    Mutant("a restarted coordinator keeps its term", "failover", a_term_that_stays),
    Mutant("nothing succeeds after the restart", "failover", a_run_that_stands_still),
    Mutant("a view comes twice", "order", a_view_seen_twice),
    Mutant("a view has another order at one", "order", a_view_with_two_lists),
    Mutant("a member is back under its old id", "order", back_under_the_same_id),
    Mutant("a contributor is no member", "order", a_contributor_from_outside),
    Mutant("the workload finds a wrong value", "values", a_wrong_value),
    Mutant("a stranger crashes a peer", "bad_input", ended_by_a_stranger),
    Mutant("a stranger is not counted", "bad_input", not_counted("p3.0")),
    Mutant("flipped bits are not counted", "bad_input", not_counted("p0.0", "p1.0")),
    Mutant("a process crashes", "endings", a_crash),
    Mutant("a program ends with an exception", "endings", an_exception),
    Mutant("a process outlives the run", "endings", a_process_left_over),
    Mutant("descriptors leak", "leaks", leak("fds", 40)),
    Mutant("threads leak", "leaks", leak("threads", 9)),
    Mutant("mappings leak", "leaks", leak("mappings", 500)),
    Mutant("a child is left", "leaks", leak("children", 1)),
)
