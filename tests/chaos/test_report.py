"""The report: its words, figures and exit status, as table, JSON, picture and page."""

from __future__ import annotations

import html.parser
import io
import json
import re
from pathlib import Path

import mutants
import pytest
import synthetic
from rich.console import Console

from collectives.chaos import page
from collectives.chaos.history import History
from collectives.chaos.report import Report
from collectives.chaos.timeline import draw

EVIL = '<script>alert("p1")</script>'
VOID = ("meta", "br", "tr", "td", "th")  # need no end


class Strict(html.parser.HTMLParser):
    """Collects tags and what they refer to; elements must be closed in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for key, value in attrs if key in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("good") / "run"
    synthetic.write(folder)
    return Report.of(History.read(folder))


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("bad") / "run"
    synthetic.write(folder)
    lines = synthetic.Lines(folder)
    mutants.another_result(lines)
    mutants.input_changed_by_a_timeout(lines)
    lines.of("p1.0").append({"t": synthetic.ns(10), "k": "wrong", "work": 15, "what": EVIL})
    lines.write(folder)
    return Report.of(History.read(folder))


def test_a_report_names_what_was_done(good: Report) -> None:
    said = good.to_json()
    assert good.exit_status == 0 and said["passed"]
    assert said["faults"] == {
        "kill": 2, "stop": 2, "stranger": 1, "flip": 1, "slow": 1, "coordinator_kill": 1,
    }  # fmt: skip
    assert said["errors"] == 2 and said["operations"] == 64 and said["false_deaths"] == 0
    # Operation 12 was in flight at the first kill; the second kill was an error, and the next
    # operation of all, a sync, ended at 45.1 s.
    assert good.recovered("kill") == pytest.approx([0.0602, 1.08], abs=1e-3)
    assert said["recoveries_by_kind"]["stop"]["worst"] == pytest.approx(2.35, abs=1e-3)
    assert said["detection"]["killed"] == {"count": 2, "median": 0.065, "worst": 0.07}
    json.dumps(said)


def test_violations_are_told_with_their_lines(bad: Report) -> None:
    assert bad.exit_status == 1 and not bad.to_json()["passed"]
    console = Console(width=120, file=io.StringIO())
    with console.capture() as captured:
        console.print(bad.table())
    text = captured.get()
    assert re.search(r"one outcome for all survivors +\d+ operations +violated", text)
    assert "all_reduce 4 is not the same for all" in text and "see p0.0:" in text
    assert text.index("all_reduce 4") < text.index("Timeout"), "by time"


def test_nothing_to_check_is_not_ok(tmp_path: Path) -> None:
    (tmp_path / "peers").mkdir()
    with synthetic.Journal(tmp_path / "harness.jsonl") as journal:
        journal.write("begin", t=0, scenario="empty", seed=1)
        journal.write("finish", t=10)
    report = Report.of(History.read(tmp_path))
    assert {verdict.word for verdict in report.verdicts} == {"nothing to check"}
    assert report.exit_status == 2


def test_the_page_stands_alone_and_escapes_what_comes_from_the_run(bad: Report) -> None:
    text = page.render(bad)
    parser = Strict()
    parser.feed(text)
    parser.close()
    assert not parser.open and "script" not in parser.tags and EVIL not in text
    assert "&lt;script&gt;" in text and "svg" in parser.tags and "details" in parser.tags
    assert [link for link in parser.links if not link.startswith(("#", "data:"))] == []
    # The journals of the moment, the lines of the violation among them.
    assert text.count('class="hit"') >= 8 and "<th>p0.0" in text


def test_the_picture_is_drawn(good: Report, bad: Report, tmp_path: Path) -> None:
    draw(good, tmp_path / "good.png")
    draw(bad, tmp_path / "bad.svg")
    assert (tmp_path / "good.png").read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in (tmp_path / "bad.svg").read_text()
