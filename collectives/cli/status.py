"""``collectives status``: show a coordinator's views, its peers and who waits for whom."""

from __future__ import annotations

import json as json_module
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collectives.errors import InvalidArgument

if TYPE_CHECKING:
    from rich.console import Console

_ADDRESS = "COLLECTIVES_COORDINATOR"
_TOKEN = "COLLECTIVES_TOKEN"


def status(
    address: Annotated[
        str | None,
        typer.Argument(
            metavar="ADDRESS", help=f"The coordinator's HOST:PORT. Default: ${_ADDRESS}."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    token: Annotated[str | None, typer.Option(help=f"The run token. Default: ${_TOKEN}.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the answer.")] = 5.0,
) -> None:
    """Show a coordinator's views, its peers and who waits for whom."""
    from rich.console import Console

    from collectives.membership.query import query_status

    where = address or os.environ.get(_ADDRESS)
    if not where:
        raise InvalidArgument(f"whose status? give the coordinator's HOST:PORT, or set ${_ADDRESS}")
    picture = query_status(where, token=token or os.environ.get(_TOKEN), timeout=timeout)
    if json:
        typer.echo(json_module.dumps(picture, indent=2))
    else:
        render(picture, where, Console())


def render(picture: dict[str, Any], where: str, console: Console) -> None:
    """Print a ``status.snapshot`` for people: a table per group, and what is said about it."""
    from rich.markup import escape
    from rich.table import Table

    groups = picture["groups"]
    count = f"{len(groups)} group{'' if len(groups) == 1 else 's'}"
    console.print(
        f"[bold]coordinator at {escape(where)}[/], term {picture['term']}, {count},"
        f" {'run token required' if picture['token'] else 'no run token'}"
    )
    for group in groups:
        table = Table(
            title=f"group {escape(group['name'])}: {escape(group['situation'])}",
            title_justify="left",
        )
        table.add_column("rank", justify="right")
        table.add_column("name")
        sited = any(peer.get("site") for peer in group["peers"])  # older coordinators say none
        if sited:
            table.add_column("site")
        table.add_column("doing")
        table.add_column("heard", justify="right")
        table.add_column("addresses")
        for peer in group["peers"]:
            table.add_row(
                "-" if peer["rank"] is None else str(peer["rank"]),
                escape(peer["name"]),
                *([escape(peer["site"])] if sited else []),
                peer["doing"],
                f"{peer['heard']:.1f} s ago",
                escape(", ".join(peer["addresses"])),
            )
        console.print()
        console.print(table)
        for line in _levels(group):
            console.print(escape(line), soft_wrap=True, highlight=False)
        for sentence in group["waits_for"]:
            console.print(f"[yellow]waiting:[/] {escape(sentence)}", soft_wrap=True)
        if group["broken"]:
            console.print(f"[red]broken:[/] {escape(group['broken'])}", soft_wrap=True)
        for reason in group["reasons"][-5:]:
            console.print(
                f"[dim]{reason['at']:8.1f} s ago[/]  {escape(reason['text'])}",
                soft_wrap=True,
                highlight=False,
            )
    if picture["refused"]:
        refused = ", ".join(f"{reason}: {n}" for reason, n in picture["refused"].items())
        console.print(f"\nrefused traffic: {escape(refused)}", soft_wrap=True)


def _levels(group: dict[str, Any]) -> list[str]:
    """Who is beside whom, a line for each level of the view, and which table it has."""
    view = group["view"] or {}
    names = {peer["rank"]: peer["name"] for peer in group["peers"] if peer["rank"] is not None}
    lines = []
    for level, places in enumerate(view.get("places", [])):
        groups: dict[int, list[str]] = {}
        for rank, place in enumerate(places):
            groups.setdefault(place, []).append(names.get(rank, "?"))
        lines.append(f"level {level}: {' | '.join(', '.join(group) for group in groups.values())}")
    if view.get("table"):
        lines.append(f"plans: a table of {len(view['table'])} rows")
    for number, (plan, transport, codec) in enumerate(view.get("levels", [])):
        lines.append(f"at level {number}: plan {plan}, transport {transport}, codec {codec}")
    return lines
