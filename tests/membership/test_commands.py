"""``collectives coordinator`` and ``collectives status`` as a user types them."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys

import pytest
from fakes import FakePlane
from test_agent import eventually
from typer.testing import CliRunner

from collectives import errors
from collectives.cli.main import build
from collectives.membership.agent import Agent
from collectives.membership.server import Coordinator
from collectives.membership.view import Choice
from collectives.topology import Row, Table

LIMIT = 20.0


def command(*arguments: str, **variables: str) -> tuple[list[str], dict[str, str]]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("COLLECTIVES_")}
    return [sys.executable, "-m", "collectives.cli", *arguments], {**env, **variables}


def run(monkeypatch, *arguments: str, **variables: str):
    """The command in this process: starting one takes longer than all that it does."""
    for name in ("COLLECTIVES_COORDINATOR", "COLLECTIVES_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return CliRunner().invoke(build(arguments[0]), arguments)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_coordinator_says_where_it_listens_and_ends_cleanly(number):
    line, env = command("coordinator", "--bind", "127.0.0.1:0", COLLECTIVES_TOKEN="secret")
    with subprocess.Popen(
        line, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            first = process.stdout.readline()
            address = re.fullmatch(
                r"coordinator at (127\.0\.0\.1:\d+), with a run token\n", first
            ).group(1)
            if number == signal.SIGTERM:
                plane = FakePlane()
                agent = Agent(address, name="lab-1", token="secret", plane=plane)
                assert agent.join(LIMIT).size == 1
                agent.close()
                plane.close()
            process.send_signal(number)
            out, err = process.communicate(timeout=LIMIT)
        finally:
            process.kill()
    assert (out, err, process.returncode) == ("coordinator stopped\n", "", 0)


def test_a_plan_table_is_given_to_the_coordinator_in_a_file(tmp_path):
    path, plane = tmp_path / "plans.json", FakePlane()
    path.write_text(Table((Row("all_reduce", 4096, "whole"),)).to_json())
    line, env = command("coordinator", "--bind", "127.0.0.1:0", COLLECTIVES_PLANS=str(path))
    with subprocess.Popen(line, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = process.stdout.readline().split()[2].rstrip(",")
            assert process.stdout.readline() == "views get a plan table of 1 rows\n"
            agent = Agent(address, name="lab-1", plane=plane)
            assert agent.join(LIMIT).table == (Choice("all_reduce", 4096, "whole"),)
            agent.close()
        finally:
            process.terminate()
            process.communicate(timeout=LIMIT)
    plane.close()


def test_a_plan_table_that_is_none_is_refused_by_name(tmp_path, monkeypatch):
    path = tmp_path / "plans.json"
    for text, why in ((None, "No such file"), ("{", "a plan table is JSON")):
        if text is not None:
            path.write_text(text)
        result = run(monkeypatch, "coordinator", "--plans", str(path))
        assert type(result.exception) is errors.InvalidArgument
        assert str(path) in str(result.exception)
        assert why in str(result.exception)


def test_an_address_in_use_is_told(monkeypatch):
    with Coordinator("127.0.0.1:0") as taken:
        result = run(monkeypatch, "coordinator", "--bind", taken.address)
    assert type(result.exception) is errors.CollectiveError
    assert f"cannot listen on {taken.address}: Address already in use" in str(result.exception)


def test_the_status_shows_who_waits_for_whom(monkeypatch):
    planes = [FakePlane(), FakePlane()]
    with Coordinator("127.0.0.1:0", token="secret") as coordinator:
        agent = Agent(
            coordinator.address,
            name="lab-1",
            token="secret",
            plane=planes[0],
            addresses=("10.0.0.3:41873",),
        )
        agent.join(LIMIT)
        waiting = Agent(
            coordinator.address, group="other", name="w", min_size=3, token="secret",
            plane=planes[1],
        )  # fmt: skip
        with pytest.raises(TimeoutError):
            waiting.join(0.3)
        shown = run(
            monkeypatch, "status", coordinator.address, COLLECTIVES_TOKEN="secret", COLUMNS="120"
        )
        assert shown.exit_code == 0, shown.output
        for text in (
            "2 groups, run token required",
            "group default: view 1, running",
            "lab-1",
            "10.0.0.3:41873",
            "group other: waiting for peers",
            "waiting: the group waits for 2 more peers",
            "view 1 is committed: lab-1",
        ):
            assert text in shown.stdout, shown.stdout
        machine = run(
            monkeypatch,
            "status",
            "--json",
            "--token",
            "secret",
            COLLECTIVES_COORDINATOR=coordinator.address,
        )
        picture = json.loads(machine.stdout)
        assert [g["waits_for"] for g in picture["groups"]] == [
            [],
            ["the group waits for 2 more peers"],
        ]
        planes[0].veto(1, 1, "gave up after 3 s")
        eventually(lambda: planes[0].verdicts)
        shown = run(monkeypatch, "status", coordinator.address, COLLECTIVES_TOKEN="secret")
        assert "broken: gave up after 3 s" in shown.stdout, shown.stdout
        denied = run(monkeypatch, "status", coordinator.address)
        assert isinstance(denied.exception, errors.NotAuthorized)
        assert "--token or in $COLLECTIVES_TOKEN" in str(denied.exception)
        for one in (agent, waiting):
            one.close()
    for plane in planes:
        plane.close()


def test_the_status_of_nothing_says_what_to_do(monkeypatch):
    nowhere = run(monkeypatch, "status")
    assert isinstance(nowhere.exception, errors.InvalidArgument)
    assert "$COLLECTIVES_COORDINATOR" in str(nowhere.exception)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        nobody = run(monkeypatch, "status", "--timeout", "0.3", address)
    assert isinstance(nobody.exception, errors.CoordinatorUnreachable)
    assert f"no coordinator answered at {address}" in str(nobody.exception)
