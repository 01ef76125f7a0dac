"""A report as one HTML page: verdicts, timeline, and for each violation the journals side by side.

The page needs nothing but itself, and whatever comes from a run is escaped.
"""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

from collectives.chaos.checkers import Violation
from collectives.chaos.history import History
from collectives.chaos.journal import Line
from collectives.chaos.records import SECOND
from collectives.chaos.report import Report

_NAMED = 200  # violations that are named
_SPELLED = 20  # those that get their journals
_BEFORE, _AFTER = 1.5, 0.5  # seconds of the journals around a violation
_LINES = 60  # of each journal, the nearest to the moment
_COLUMNS = 8

_CSS = """
:root { --ink: #1f2933; --muted: #7b8794; --line: #e4e7eb; --good: #0f766e; --bad: #dc2626; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); max-width: 1200px;
       margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.sub, dt { color: var(--muted); } .good { color: var(--good); } .bad { color: var(--bad); }
.none { color: var(--muted); } .bad, .good { font-weight: 600; }
table { border-collapse: collapse; } th { text-align: left; color: var(--muted); font-weight: 500; }
td, th { padding: .25rem 1.2rem .25rem 0; border-bottom: 1px solid var(--line); }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; }
dd { margin: 0; } svg { width: 100%; height: auto; }
details { border: 1px solid var(--line); border-radius: 6px; margin: .8rem 0; padding: .6rem 1rem; }
summary { cursor: pointer; } summary b { color: var(--bad); }
.scroll { overflow-x: auto; }
.journals td { font: 11.5px/1.35 ui-monospace, monospace; vertical-align: top; min-width: 13rem;
               padding: .1rem .8rem .1rem 0; overflow-wrap: anywhere; }
.journals td.t { min-width: 4.5rem; color: var(--muted); }
.journals td.hit { background: #fee2e2; } .journals b { font-weight: 600; }
"""


def write(report: Report, path: str | Path) -> None:
    """Write the page of a run."""
    Path(path).write_text(render(report), encoding="utf-8")


def render(report: Report) -> str:
    """The page of a run; without matplotlib it has no picture, and says so."""
    begin = report.history.begin
    name = f"{begin.get('scenario', 'run')}, seed {begin.get('seed')}"
    bad = len(report.violations)
    told = f'<span class="bad">{bad} violation{"s" if bad > 1 else ""}</span>'
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        f"<title>{_text(name)}</title><style>{_CSS}</style></head><body>",
        f"<h1>{_text(name)}</h1>",
        f"<p>{told if bad else '<span class=good>no violation</span>'}</p>",
        _picture(report),
        "<h2>Promises</h2>",
        _verdicts(report),
        "<h2>Figures</h2><dl>",
        *(f"<dt>{_text(label)}</dt><dd>{_text(text)}</dd>" for label, text in report.facts()),
        "</dl>",
    ]
    if bad:
        parts.append("<h2>Violations</h2>")
    spelled = report.violations[:_SPELLED]
    moments = [(violation.t, violation.lines) for violation in spelled]
    around = report.history.lines_around(moments, _BEFORE, _AFTER) if bad else []
    for number, violation in enumerate(report.violations[:_NAMED]):
        journals = ""
        if number < len(around):
            journals = _journals(report.history, violation, around[number])
        parts.append(_violation(report.history, violation, journals, opened=number == 0))
    if bad > _NAMED:
        parts.append(f"<p>and {bad - _NAMED} more; all are in the report as JSON</p>")
    parts.append("</body></html>\n")
    return "\n".join(parts)


def _picture(report: Report) -> str:
    try:
        from collectives.chaos.timeline import svg
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        return '<p class="sub">No timeline: matplotlib is not installed.</p>'
    return svg(report)


def _verdicts(report: Report) -> str:
    rows = ["<table><tr><th>rule<th>promise<th>checked<th><th>verdict</tr>"]
    styles = {"ok": "good", "violated": "bad", "nothing to check": "none"}
    for verdict in report.verdicts:
        checker, findings = verdict.checker, verdict.findings
        count = f"{len(findings.violations)} × " if findings.violations else ""
        rows.append(
            f"<tr><td>{_text(checker.rule)}<td>{_text(checker.title)}"
            f'<td class="n">{findings.checked}<td class="sub">{_text(checker.things)}'
            f'<td class="{styles[verdict.word]}">{count}{verdict.word}</tr>'
        )
    return "".join([*rows, "</table>"])


def _violation(history: History, violation: Violation, journals: str, *, opened: bool) -> str:
    at = history.seconds(violation.t)
    head = f"<b>{_text(violation.rule)}</b> at {at:.3f} s: {_text(violation.what)}"
    if not journals:
        return f"<p>{head}</p>"
    where = ", ".join(violation.lines)
    return (
        f"<details{' open' if opened else ''}><summary>{head}</summary>"
        f'<p class="sub">{_text(where)}</p>{journals}</details>'
    )


def _journals(history: History, violation: Violation, around: dict[str, list[Line]]) -> str:
    """The journals around a violation: a column for each, a row for each line, by time."""
    concerned = [name for name in violation.peers if name in around]
    others = [name for name in around if name not in concerned and name != "harness"]
    first = ["harness"] if "harness" in around else []
    columns = (first + concerned + others)[:_COLUMNS]
    rows: list[tuple[int, int, Line]] = []
    for column, name in enumerate(columns):
        nearest = sorted(around[name], key=lambda line: abs(line.t - violation.t))
        meant = [line for line in nearest if f"{name}:{line.number}" in violation.lines]
        lines = dict.fromkeys(line.number for line in [*meant, *nearest][:_LINES])
        rows += [(line.t, column, line) for line in nearest if line.number in lines]
    rows.sort(key=lambda row: (row[0], row[1], row[2].number))
    out = ['<div class="scroll"><table class="journals"><tr><th>seconds']
    out += [f"<th>{_text(name)}" for name in columns]
    out.append("</tr>")
    for t, column, line in rows:
        hit = f"{columns[column]}:{line.number}" in violation.lines
        cell = f'<td class="hit">{_line(line, history)}' if hit else f"<td>{_line(line, history)}"
        after = len(columns) - column - 1
        seconds = f"{history.seconds(t):.4f}"
        out.append(f'<tr><td class="t">{seconds}{"<td>" * column}{cell}{"<td>" * after}</tr>')
    out.append("</table></div>")
    return "".join(out)


def _line(line: Line, history: History) -> str:
    said = {key: value for key, value in line.fields.items() if key not in ("t", "k", "group")}
    said = {key: value for key, value in said.items() if value is not None}
    words = [f"{key}={_value(key, value, history)}" for key, value in said.items()]
    return f"<b>{_text(line.kind)}</b> {_text(' '.join(words))}"


def _value(key: str, value: Any, history: History) -> str:
    if key == "view" and isinstance(value, dict):
        names = "+".join(str(name) for _, name in value.get("members", ()))
        return f"{value.get('number')} (term {value.get('term')}: {names})"
    if key == "until" and isinstance(value, int | float):
        return f"{(value - history.start) / SECOND:.3f}"
    if key == "contributors":
        return "+".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)


def _text(value: object) -> str:
    return html.escape(str(value))
