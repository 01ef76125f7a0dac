"""``collectives doctor``: print what works on this machine, what does not, and the cure."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from collectives.cli._doctor import PROBES, Finding, Status, examine

COLOURS = {
    Status.OK: "green",
    Status.ABSENT: "dim",
    Status.LIMITED: "yellow",
    Status.BROKEN: "bold red",
}


def render(findings: list[Finding], console: Console) -> None:
    """Print the findings: a line each, and below it the cure, on a line of its own to copy."""
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        line = Text.assemble(
            (f"{finding.status.value:8}", COLOURS[finding.status]),
            (f"{finding.name:{width}}  ", "bold"),
            finding.detail,
        )
        console.print(line, soft_wrap=True)
        if finding.cure:
            cure = Text.assemble(" " * (10 + width), ("cure: ", "bold"), (finding.cure, "cyan"))
            console.print(cure, soft_wrap=True)
    broken = [finding.name for finding in findings if finding.status is Status.BROKEN]
    if broken:
        verdict = Text(f"collectives does not work here: {', '.join(broken)}", "bold red")
    else:
        verdict = Text("collectives works here", "bold green")
    console.print(verdict, soft_wrap=True)


def doctor(
    concerns: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CONCERN]...", help=f"Only these of: {', '.join(PROBES)}."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the findings as JSON, for programs.")
    ] = False,
) -> None:
    """Say what works on this machine, what does not, and the cure.

    Exit status 1 if something is broken that the library cannot work without.
    """
    unknown = [concern for concern in concerns or () if concern not in PROBES]
    if unknown:
        raise typer.BadParameter(f"no such concern: {', '.join(unknown)}; see --help")
    findings = examine(concerns or ())
    if as_json:
        typer.echo(json.dumps([finding.as_dict() for finding in findings], indent=2))
    else:
        render(findings, Console())
    if any(finding.status is Status.BROKEN for finding in findings):
        raise typer.Exit(1)
