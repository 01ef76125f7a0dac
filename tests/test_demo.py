"""`collectives demo`: its verdict, its processes, and a small run of the real thing."""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from collectives.cli import main as cli
from collectives.cli._demo import messages, screen
from collectives.cli._demo.picture import draw
from collectives.cli._demo.processes import Peers
from collectives.cli._demo.report import Report
from collectives.cli._demo.run import run as run_demo
from collectives.errors import CollectiveError, InvalidArgument
from collectives.toy import text

DEADLINE = 120.0


# ---- the verdict ----------------------------------------------------------------------------


def round_end(number, digest, **more):
    values = {"view": 1, "size": 2, "loss": 2.0, "wire_bytes": 1000, "seconds": 0.1}
    values |= {"validation": 2.0, "validation_windows": 10}
    return messages.RoundEnd(number=number, digest=digest, **values | more)


def good_report(start=5.0, end=2.0):
    report = Report(expected_rounds=2, inner_steps=25)
    for name in ("a", "b"):
        report.add(name, messages.Evaluated("start", start, 10))
        report.add(name, round_end(1, "11"))
        report.add(name, round_end(2, "22"))
        report.add(name, messages.Evaluated("end", end, 10))
    return report


def test_a_run_with_equal_digests_and_a_falling_loss_passes():
    report = good_report()
    assert report.verdict() == []
    assert report.bit_identical


def test_one_differing_digest_fails_the_run_and_names_round_and_peers():
    report = good_report()
    report.add("b", round_end(1, "12"))
    assert not report.bit_identical
    assert report.identical_rounds == 1
    assert report.verdict() == ["the outer state after round 1 differs: a 11, b 12"]


@pytest.mark.parametrize("end", [5.0, 5.1, float("nan")])
def test_a_loss_that_did_not_fall_fails_the_run(end):
    assert "did not fall: 5.0000 before" in good_report(end=end).verdict()[0]


def test_a_peer_that_did_not_report_a_round_fails_the_run():
    report = good_report()
    del report.rounds[1].peers["a"]
    assert report.verdict() == ["1 of 2 peers did not report round 2"]
    assert not report.bit_identical


def test_who_died_in_a_round_need_not_report_it_and_all_others_must():
    report = good_report()
    report.add("c", messages.Dying(2))
    assert report.add_end("c", -signal.SIGKILL, 0.0)
    for name in ("a", "b"):
        told = report.rounds[1].peers[name]
        report.add(name, dataclasses.replace(told, size=3))
    assert report.verdict() == []
    assert report.bit_identical
    del report.rounds[1].peers["a"]
    assert report.verdict() == ["1 of 3 peers did not report round 2"]
    report = good_report()
    report.add("c", messages.Dying(2))
    assert report.add_end("c", -signal.SIGKILL, 0.0)
    # A newer view, of which it is no member: a third one owes its word.
    report.add("a", dataclasses.replace(report.rounds[1].peers["a"], size=3, view=9))
    assert report.verdict() == ["1 of 3 peers did not report round 2"]


def test_missing_rounds_and_missing_measurements_fail_the_run():
    reasons = Report(expected_rounds=3, inner_steps=25).verdict()
    assert reasons == ["only 0 of 3 rounds were done", "the validation loss was not measured"]
    assert not Report(3, 25).bit_identical


def test_losses_are_weighted_by_what_each_peer_measured():
    report = Report(1, 25)
    report.add("a", messages.Evaluated("start", 1.0, 30))
    report.add("b", messages.Evaluated("start", 5.0, 10))
    assert report.validation_start == 2.0


def check_schema(report, peers, rounds):
    """``peers``: how many there are in every round; a set: in one or another."""
    assert set(report) == {"rounds", "events", "validation_loss", "bit_identical"}
    assert [entry["round"] for entry in report["rounds"]] == list(range(1, rounds + 1))
    for entry in report["rounds"]:
        assert set(entry) == {"round", "view", "size", "loss", "wire_bytes", "digests"}
        assert isinstance(entry["view"], int)
        assert entry["size"] == len(entry["digests"])
        assert entry["size"] in (peers if isinstance(peers, set) else {peers})
        assert isinstance(entry["loss"], float)
        assert isinstance(entry["wire_bytes"], int)
        assert entry["wire_bytes"] > 0
        assert all(int(digest, 16) >= 0 for digest in entry["digests"].values())
    assert set(report["validation_loss"]) == {"start", "end"}
    assert isinstance(report["bit_identical"], bool)


def with_faults(ended=7.25):
    """Peer b dies in round 2 of 3, and c comes at the end of it."""
    report = Report(3, 25, fault=messages.Fault(1, 2, "all_gather", 2))
    for name in ("a", "b"):
        report.add(name, messages.Evaluated("start", 5.0, 10))
        report.add(name, round_end(1, "11"))
    report.add("b", messages.Dying(2))
    assert report.add_end("b", -signal.SIGKILL, 7.0)
    report.add("a", round_end(2, "22", size=1, ended=ended))
    report.add("c", messages.Joined(1, 3, 2, 10, (0, 1), round=2, seconds=0.125))
    for name in ("a", "c"):
        report.add(name, round_end(3, "33"))
        report.add(name, messages.Evaluated("end", 2.0, 10))
    return report


def test_a_death_and_an_arrival_are_events_with_the_time_they_took():
    report = with_faults()
    assert report.verdict() == []
    assert report.as_json()["events"] == [
        {"round": 2, "kind": "killed", "peer": "b", "seconds_to_recover": 0.25},
        {"round": 2, "kind": "joined", "peer": "c", "seconds_to_recover": 0.125},
    ]


def test_a_fault_that_does_not_happen_fails_the_run():
    report = good_report()
    report.fault = messages.Fault(1, 2, "all_gather", 2)
    assert report.verdict() == [
        "no peer died in round 2, as one should have",
        "no peer came for the one that died",
    ]


def test_only_a_death_that_was_announced_is_meant():
    report = good_report()
    assert not report.add_end("a", -signal.SIGKILL, 0.0)
    report.add("a", messages.Dying(1))
    assert not report.add_end("a", 1, 0.0)
    assert report.add_end("a", 0, 0.0)


def test_the_fault_is_the_seeds_and_leaves_time_for_both():
    for rounds in (4, 5, 28, 100):
        drawn = [messages.Fault.drawn(seed, 4, rounds) for seed in range(50)]
        assert drawn == [messages.Fault.drawn(seed, 4, rounds) for seed in range(50)]
        assert all(1 <= fault.round < fault.joins < rounds for fault in drawn if fault)
        assert {fault.rank for fault in drawn if fault} == {0, 1, 2, 3}
        assert {fault.phase for fault in drawn if fault} == {"reduce_scatter", "all_gather"}
    assert messages.Fault.drawn(0, 4, 3) is None
    assert messages.Fault.drawn(0, 1, 28) is None


def test_the_json_has_the_documented_form(tmp_path):
    path = tmp_path / "report.json"
    good_report().write_json(str(path))
    check_schema(json.loads(path.read_text()), peers=2, rounds=2)


# ---- text, messages, lines --------------------------------------------------------------------


def test_peers_get_contiguous_shards_that_share_nothing_and_leave_the_validation_text_alone():
    data = text.read(None)
    assert len(data) > 300_000
    shards = [text.split(data, index, 4, 64) for index in range(4)]
    validation = {(last.start, last.stop) for _, last in shards}
    assert validation == {(len(data) * 9 // 10, len(data))}
    borders = [(shard.start, shard.stop) for shard, _ in shards]
    assert borders[0][0] == 0
    assert borders[3][1] == len(data) * 9 // 10
    assert all(one[1] == other[0] for one, other in itertools.pairwise(borders))


def test_a_text_that_is_too_short_or_missing_is_refused(tmp_path):
    with pytest.raises(InvalidArgument, match="at least 1300 bytes"):
        text.split(b"x" * 1000, 0, 4, 64)
    for size in (1300, 3 * 64 * 65):
        peers = max(size // (3 * 65), 4) if size > 1300 else 4
        text.split(b"x" * size, peers - 1, peers, 64)  # what the message asks for is enough
    with pytest.raises(InvalidArgument, match="No such file"):
        text.read(str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    "message",
    [
        messages.Settings("127.0.0.1:1", "peer-0", 4, 32, 0),
        messages.Progress(5, 1.5),
        round_end(3, "ab"),
        messages.Evaluated("end", 1.25, 7),
        messages.Finished("The ’\n"),
        messages.Failed("PeerLost: x"),
    ],
)
def test_messages_survive_their_line(message):
    line = messages.encode(message)
    assert line.count("\n") == 1
    assert messages.decode(line) == message


@pytest.mark.parametrize("line", ["hello", "[]", "{}", '{"kind": "Finished"}', '{"kind": "X"}'])
def test_what_is_no_message_is_refused(line):
    with pytest.raises(ValueError):  # noqa: PT011 - JSONDecodeError is one, too
        messages.decode(line)


def test_spark_lines_and_bytes_are_for_people():
    assert screen.spark_line([3.0, 2.0, 1.0]) == "█▅▁"
    assert screen.spark_line([]) == ""
    assert len(screen.spark_line([float(i) for i in range(999)])) == 16
    assert [screen.human_bytes(n) for n in (0, 999, 1500, 2.5e6, 5e12)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "2.5 MB",
        "5000.0 GB",
    ]


def test_the_picture_shows_runs_of_any_length_and_events(tmp_path):
    report = good_report()
    report.add("a", messages.Progress(5, 3.0))
    report.add("b", messages.Dying(2))
    assert report.add_end("b", -signal.SIGKILL, 0.0)
    assert report.events
    for number, shown in enumerate((report, Report(1, 25))):
        path = tmp_path / f"{number}.png"
        draw(shown, str(path))
        assert path.read_bytes().startswith(b"\x89PNG")


# ---- processes --------------------------------------------------------------------------------


def alive(pid):
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until(condition, what):
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def settings(name, **more):
    return dataclasses.replace(messages.Settings("127.0.0.1:1", name, 2, 1, 0), **more)


def test_no_peer_survives_its_parent_by_whichever_way_the_block_is_left():
    stubborn = (
        sys.executable,
        "-c",
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        'print(\'{"kind": "Finished", "sample": ""}\', flush=True); time.sleep(600)',
    )
    pids = []
    with pytest.raises(KeyboardInterrupt), Peers(stubborn) as peers:  # noqa: PT012
        for name in ("a", "b"):
            peers.start(settings(name))
            pids.append(peers[name].process.pid)
        for _ in pids:
            assert peers.next_message(DEADLINE) is not None
        raise KeyboardInterrupt
    assert not any(alive(pid) for pid in pids)


def test_a_peer_whose_parent_is_gone_leaves_by_itself():
    peer = subprocess.Popen(
        [sys.executable, "-m", "collectives.cli._demo.peer"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert peer.stdin is not None
    peer.stdin.write(messages.encode(settings("a")))
    peer.stdin.close()
    assert peer.wait(DEADLINE) == 1


PEER_2_FAILS = """
import json, sys, time
name = json.loads(sys.stdin.readline())["name"]
if name == "peer-2":
    print("the disk is on fire", file=sys.stderr)
    time.sleep(0.2)  # the others' errors come first, and must not be taken for the cause
    error = "OSError: no space left"
else:
    print("what about peer-2?", file=sys.stderr)
    error = "PeerLost: peer-2 is gone"
print(json.dumps({"kind": "Failed", "error": error}), flush=True)
sys.exit(1)
"""


class Nothing:
    def update(self, peer, message):
        pass

    def tick(self):
        pass


def run_peers(script, peers=4):
    run_demo(settings("", peers=peers), Report(1, 25), Nothing(), (sys.executable, "-c", script))


def test_the_peer_that_failed_first_is_reported_with_its_last_log_lines():
    with pytest.raises(CollectiveError) as caught:
        run_peers(PEER_2_FAILS)
    lines = str(caught.value).splitlines()
    assert lines[:3] == [
        "peer-2 failed: OSError: no space left",
        "  its last log lines:",
        "    the disk is on fire",
    ]
    assert sorted(lines[3:]) == [
        f"peer-{number} failed: PeerLost: peer-2 is gone" for number in (0, 1, 3)
    ]


def test_a_peer_killed_by_a_signal_is_reported_as_such():
    with pytest.raises(CollectiveError, match="peer-0 was killed by signal 9"):
        run_peers("import os; os.kill(os.getpid(), 9)", peers=1)


# ---- the command ------------------------------------------------------------------------------


def command(folder, *arguments):
    return {
        "args": [sys.executable, "-m", "collectives.cli", "demo", "--peers", "2", *arguments],
        "cwd": folder,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }


def some_text(folder):
    """A part of the demo's text, so that measuring the validation loss takes less time."""
    path = folder / "text"
    path.write_bytes(text.read(None)[:60_000])
    return str(path)


def run(folder, *arguments):
    return subprocess.run(**command(folder, *arguments), timeout=2 * DEADLINE, check=False)


@pytest.mark.full
def test_a_small_demo_agrees_learns_and_reports(tmp_path):
    done = run(tmp_path, "--rounds", "2", "--json", "report.json", "--text", some_text(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "state bit-identical on all peers in 2 of 2 rounds" in done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    check_schema(report, peers=2, rounds=2)
    assert report["events"] == [], "so short a run has none"
    assert report["bit_identical"]
    assert report["validation_loss"]["end"] < report["validation_loss"]["start"] - 1.0
    assert (tmp_path / "demo.png").exists()


def test_a_peer_is_killed_in_a_round_that_the_others_finish_and_another_comes(tmp_path):
    arguments = ["--rounds", "4", "--peers", "3", "--json", "report.json"]
    done = run(tmp_path, *arguments, "--text", some_text(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    check_schema(report, peers={2, 3}, rounds=4)
    assert report["validation_loss"]["end"] < report["validation_loss"]["start"] - 1.0
    assert (tmp_path / "demo.png").exists()
    assert "state bit-identical on all peers in 4 of 4 rounds" in done.stdout
    fault = messages.Fault.drawn(0, 3, 4)
    killed, joined = report["events"]
    assert set(killed) == set(joined) == {"round", "kind", "peer", "seconds_to_recover"}
    assert (killed["kind"], killed["round"]) == ("killed", fault.round)
    assert (joined["kind"], joined["round"], joined["peer"]) == ("joined", fault.joins, "peer-3")
    assert 0 < killed["seconds_to_recover"] < DEADLINE
    assert 0 < joined["seconds_to_recover"] < DEADLINE
    for entry in report["rounds"]:
        present = set(entry["digests"])
        assert (killed["peer"] in present) == (entry["round"] < fault.round)
        assert ("peer-3" in present) == (entry["round"] > fault.joins)
        assert (
            entry["size"]
            == len(present)
            == (3 if "peer-3" in present or killed["peer"] in present else 2)
        )
        assert len(set(entry["digests"].values())) == 1
    assert report["bit_identical"]
    assert f"{killed['peer']} was killed in round {fault.round}" in done.stdout


@pytest.mark.full
@pytest.mark.timeout(6 * DEADLINE)  # three runs
def test_a_codec_costs_less_than_a_hundredth_of_the_loss_and_no_bit_of_agreement(tmp_path):
    """The same seed, and the same members in each round: one dies in a round, another comes."""
    ends, sent = {}, {}
    for codec in ("", "int8", "e3m0"):
        arguments = ["--rounds", "8", "--peers", "3", "--json", "report.json"]
        arguments += ["--codec", codec] if codec else []
        done = run(tmp_path, *arguments, "--text", some_text(tmp_path))
        assert done.returncode == 0, done.stdout + done.stderr
        report = json.loads((tmp_path / "report.json").read_text())
        assert report["bit_identical"]
        assert [event["kind"] for event in report["events"]] == ["killed", "joined"]
        ends[codec] = report["validation_loss"]["end"]
        sent[codec] = report["rounds"][0]["wire_bytes"]
    print(ends, sent)
    assert ends["int8"] == pytest.approx(ends[""], rel=0.01)
    assert ends["e3m0"] == pytest.approx(ends[""], rel=0.01)
    assert sent["int8"] < 0.30 * sent[""] and sent["e3m0"] < 0.17 * sent[""]


@pytest.mark.parametrize(
    ("end", "digest", "status", "told"),
    [
        (2.0, "22", 0, ""),
        (2.0, "23", 1, "the outer state after round 2 differs"),
        (5.0, "22", 1, "the validation loss did not fall"),
    ],
    ids=["good", "digests differ", "loss did not fall"],
)
def test_the_exit_status_is_the_verdict(tmp_path, monkeypatch, end, digest, status, told):
    def judge(_settings, report, _screen):
        vars(report).update(vars(good_report(end=end)))
        report.add("b", round_end(2, digest))

    monkeypatch.setattr("collectives.cli._demo.run.run", judge)
    path = tmp_path / "report.json"
    arguments = ["demo", "--no-faults", "--json", str(path), "--png", str(tmp_path / "demo.png")]
    done = CliRunner().invoke(cli.build("demo"), arguments)
    assert done.exit_code == status, done.output
    assert told in done.output
    check_schema(json.loads(path.read_text()), peers=2, rounds=2)
    assert json.loads(path.read_text())["bit_identical"] == (digest == "22")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ending_the_demo_ends_its_peers(tmp_path, number):
    with subprocess.Popen(**command(tmp_path)) as demo:

        def children():
            path = pathlib.Path(f"/proc/{demo.pid}/task")
            return [
                int(p) for task in path.iterdir() for p in (task / "children").read_text().split()
            ]

        wait_until(lambda: len(children()) == 2 or demo.poll() is not None, "no peers started")
        assert demo.poll() is None, demo.communicate()
        pids = children()
        demo.send_signal(number)
        assert demo.wait(DEADLINE) != 0
        # A peer that was being started just then sees its standard input end, and leaves.
        wait_until(lambda: not any(alive(pid) for pid in pids), f"still there: {pids}")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--device", "tpu"], "cpu or cuda"),
        (["--text", "/nonexistent/file"], "No such file"),
        (["--peers", "65"], "64"),
    ],
)
def test_bad_options_are_refused_at_once(tmp_path, arguments, told):
    done = run(tmp_path, *arguments)
    assert done.returncode != 0
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_device_that_is_not_there_is_refused_with_the_cure(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # also where there is one
    done = run(tmp_path, "--device", "cuda")
    assert done.returncode == 1
    assert "finds no CUDA device here; leave the option out" in done.stderr
