"""``collectives explain``: what it prints, draws and refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.image
import numpy as np
import pytest

import strip
from collectives.cli._explain import reading
from collectives.cli._explain.draw import draw
from collectives.cli.main import main
from collectives.errors import CollectiveError, InvalidArgument
from collectives.topology import MEMORY, LevelRow, Network, Table, algorithms, usual
from collectives.topology.explain import explain
from collectives.topology.plans import KINDS, limit

Run = Callable[..., str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*arguments: str) -> str:
        with pytest.raises(SystemExit) as left:
            main(["explain", *arguments])
        told = capsys.readouterr()
        assert left.value.code == 0, told.err
        return told.out

    return command


def test_a_plan_is_told_in_rounds() -> None:
    options = "--size 3 --bytes 12K --algorithm ring"
    ran = strip.command("explain", "all_reduce", *options.split())
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert lines[0] == "all_reduce of 12 KiB by 3 ranks: ring"
    assert re.match(r"  chosen +asked for; by the model \w+ is [\d.]+ times as quick", lines[1])
    assert re.match(r"  predicted +\d+ us: the longest way through the steps", lines[2])
    # As the drawing in native/plan/ring.c has it.
    assert lines[-5:] == [
        "plan: 12 messages of 4 KiB in 4 rounds; from rank > to rank, #segment",
        "     1  0>1 #0, 1>2 #1, 2>0 #2",
        "     2  0>1 #2, 1>2 #0, 2>0 #1",
        "     3  0>1 #1, 1>2 #2, 2>0 #0",
        "     4  0>1 #0, 1>2 #1, 2>0 #2",
    ]


def test_a_rank_is_told_what_it_does(run: Run) -> None:
    told = run("broadcast", "--size", "3", "--algorithm", "chain", "--rank", "1", "--root", "0")
    assert told.splitlines()[-3:] == [
        "rank 1, 2 steps, each on 64 MiB",
        "     0  round 1   receive #0 from 0",
        "     1  round 2   send #0 to 2, after step 0",
    ]


def test_programs_get_all_of_it(run: Run) -> None:
    told = json.loads(run("all_reduce", "--hosts", "2,1", "--bytes", "3M", "--json"))
    assert (told["operation"], told["bytes"], told["size"]) == ("all_reduce", 3 << 20, 3)
    assert told["places"] == [[0, 0, 1]]
    assert len(told["levels"]) == 2
    assert set(told["alternatives"]) | {told["algorithm"]} == set(algorithms("all_reduce"))
    assert told["alternatives"]["whole"] is None  # not for so many bytes
    assert told["seconds"] > 0
    assert {message["from"] for message in told["messages"]} == {0, 1, 2}
    assert min(message["round"] for message in told["messages"]) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nbytes", [512, 1 << 26])
def test_the_engines_choice_is_explained(kind: str, nbytes: int) -> None:
    for network in (usual(), usual(((0, 0, 1, 1, 1),)), usual(local=True)):
        found = explain(kind, nbytes, 5, network, root=0)
        assert "by the engine" in found.reason
        assert nbytes <= limit(found.plan.algorithm)
        assert (found.rounds >= 1).all()
        times = [one.seconds for one in found.alternatives if one.seconds is not None]
        assert times == sorted(times)


def test_what_bounds_the_time_has_a_name() -> None:
    slow, idle = usual(((0, 1, 1),)), Network(overhead=0.0)
    assert "level 0's group" in explain("broadcast", 1 << 30, 3, slow, algorithm="star").bound
    assert "longest way" in explain("broadcast", 1, 3, idle, algorithm="chain").bound
    busy = Network((MEMORY,), overhead=1.0)
    assert explain("broadcast", 1, 3, busy, root=2, algorithm="star").bound == (
        "what rank 2 has to do itself"
    )


def test_pictures_are_drawn(run: Run, tmp_path: Path) -> None:
    def shapes(size: int) -> int:
        file = tmp_path / "ring.svg"
        draw(explain("all_reduce", 1 << 20, size, usual(), algorithm="ring"), file)
        return sum("patch_" in e.get("id", "") for e in ElementTree.parse(file).iter())

    assert shapes(4) - shapes(3) == 24 - 12  # an arrow for each message
    png = tmp_path / "ring.png"
    run("all_reduce", "--size", "4", "--draw", str(png))
    image = matplotlib.image.imread(png)
    assert image.shape[0] > 100 and image.shape[1] > 100
    assert len(np.unique(image.reshape(-1, image.shape[2]), axis=0)) > 20  # arrows in colors


def test_a_table_is_written_and_read(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "plans.json"
    links = "--size", "8", "--latency", "20ms", "--bandwidth", "1Gbit"
    told = run("all_reduce", *links, "--bytes", "1M", "--write-table", str(file))
    assert "by the engine" in told
    network = reading.adapted(usual(), None, "20ms", "1Gbit")
    assert Table.from_json(file.read_text()) == Table.of(network, 8)
    told = run("all_reduce", *links, "--bytes", "1M", "--table", str(file))
    assert "by the table; nothing is quicker by the model" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("all_reduce", "how many ranks? give --size, or --hosts"),
        ("all_red --size 3", "'all_red' is no operation; known are all_reduce"),
        ("all_reduce --size 3 --algorithm star", "'star' does no all_reduce; choose from ring"),
        ("all_reduce --size 3 --algorithm whole", "up to 65536 bytes, and here are 67108864"),
        ("all_reduce --size 3 --rank 3", "--rank 3, but the ranks are 0 to 2"),
        ("all_reduce --size 3 --draw picture.bmpx", "cannot be written to picture.bmpx"),
        ("all_reduce --size 99 --draw F.png", "a picture of 99 ranks"),
        ("all_reduce --size 3 --table NONE", "the plan table NONE cannot be read"),
        ("all_reduce --size 3 --bytes 1Q", "'1Q' is no size"),
    ],
)
def test_what_makes_no_sense_is_refused(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", *arguments.split()]) == 1
    told = capsys.readouterr()
    assert message in told.err
    assert told.out == ""


@pytest.mark.parametrize(
    ("size", "hosts", "sites", "message"),
    [
        (3, "2,2", None, "--size 3, but the hosts have 4 ranks"),
        (None, "2,x", None, "hosts are '2,x'"),
        (None, "2,0", None, "hosts are '2,0'"),
        (None, "2,2", "3", "the sites have 3 hosts, but there are 2"),
    ],
)
def test_hosts_and_sites_fit_together(
    size: int | None, hosts: str | None, sites: str | None, message: str
) -> None:
    with pytest.raises(InvalidArgument, match=message):
        reading.groups(size, hosts, sites)


def test_levels_that_say_nothing_are_left_out() -> None:
    def places(size: int | None, hosts: str | None = None, sites: str | None = None) -> object:
        return reading.groups(size, hosts, sites)[1].places

    assert places(4) == places(None, "4") == places(None, "1,1,1,1") == ()
    assert reading.groups(None, "4", None)[1].local
    assert not reading.groups(4, None, None)[1].local
    assert places(None, "2,1,1", "1,2") == ((0, 0, 1, 2), (0, 0, 1, 1))
    assert places(None, "2,1", "2") == ((0, 0, 1),)
    assert places(3, None, "2,1") == ((0, 0, 1),)


def test_figures_are_read_as_people_write_them() -> None:
    assert reading.seconds("50us") == pytest.approx(5e-5)
    assert reading.seconds("1.5 ms") == pytest.approx(1.5e-3)
    assert reading.seconds("2") == 2.0
    assert reading.rate("1.2G") == pytest.approx(1.2e9)
    assert reading.rate("10Gbit") == pytest.approx(1.25e9)
    network = reading.adapted(usual(((0, 0, 1),)), "memory,wan", ",1ms", "1G,")
    assert network.levels[0].bandwidth == 1e9
    assert network.levels[0].fabric == pytest.approx(MEMORY.fabric / 9)
    assert network.levels[1].latency == 1e-3
    for call in (
        lambda: reading.seconds("fast"),
        lambda: reading.rate("1.2.3G"),
        lambda: reading.adapted(usual(), "lan,wan", None, None),
        lambda: reading.adapted(usual(), "wifi", None, None),
        lambda: reading.adapted(usual(), None, None, "0"),
    ):
        with pytest.raises(CollectiveError):
            call()


PAGE = (strip.ROOT / "docs" / "plans.md").read_text()
EXAMPLES = re.findall(r"```console\n\$ collectives explain (.*)\n([^`]*)```", PAGE)


@pytest.mark.parametrize(("arguments", "told"), EXAMPLES)
def test_the_page_shows_what_is_printed(run: Run, arguments: str, told: str) -> None:
    assert len(EXAMPLES) == PAGE.count("```console")
    assert run(*arguments.split()) == told


def test_what_a_table_says_of_levels_is_shown(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "plans.json"
    levels = (LevelRow("ring", "shm"), LevelRow("direct", codec="call"), LevelRow("ring", "tcp"))
    file.write_text(Table((), levels).to_json())
    how = "all_reduce --hosts 3,3 --bytes 16M --algorithm hierarchical --table"
    told = run(*how.split(), str(file))
    assert "settings  0  plan ring, transport shm, codec auto" in told
    assert "          1  plan direct, transport auto, codec call" in told
    assert told.count("transport") == 2, "there is no third level here"
    made = json.loads(run(*how.split(), str(file), "--json"))
    assert made["settings"] == [
        {"plan": "ring", "transport": "shm", "codec": "auto"},
        {"plan": "direct", "transport": "auto", "codec": "call"},
    ]
    # In a ring no rank of a host of three hears two of it; as the engine does it, owners do.
    first = [(one["to"], one["segment"]) for one in made["messages"] if one["round"] == 1]
    assert len(first) == len(set(first))


def test_the_tables_of_the_page_are_such() -> None:
    rows, levels = re.findall(r"```json\n(.*?)```", PAGE, flags=re.DOTALL)
    assert Table.from_json(rows).algorithm("all_reduce", 1 << 20) == "ring"
    assert Table.from_json(levels).levels == (
        LevelRow("direct", "shm", "none"),
        LevelRow("ring", "tcp", "call"),
    )
