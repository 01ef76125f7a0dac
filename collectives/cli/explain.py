"""``collectives explain``: how an operation is carried out, how long it should take, and why so."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collectives.errors import InvalidArgument

if TYPE_CHECKING:
    from collectives.topology import Table


def explain(
    operation: Annotated[str, typer.Argument(help="all_reduce, broadcast, all_gather ...")],
    nbytes: Annotated[
        str, typer.Option("--bytes", help="Of the larger of input and output, with K, M, G.")
    ] = "64M",
    size: Annotated[int | None, typer.Option(help="How many ranks; or --hosts.")] = None,
    hosts: Annotated[
        str | None, typer.Option(help="Ranks on each host, in their order, as in 2,2,4.")
    ] = None,
    sites: Annotated[str | None, typer.Option(help="Hosts at each site, as in 2,1.")] = None,
    links: Annotated[
        str | None,
        typer.Option(help="Of each level, the innermost first: memory, loopback, lan, wan."),
    ] = None,
    latency: Annotated[
        str | None, typer.Option(help="Of each level, one way, as in 3us,50us,15ms.")
    ] = None,
    bandwidth: Annotated[
        str | None, typer.Option(help="Of each level, bytes a second, as in 9G,1.2G or 10Gbit.")
    ] = None,
    algorithm: Annotated[
        str | None, typer.Option(help="As the call asks for; by default as the engine chooses.")
    ] = None,
    table: Annotated[Path | None, typer.Option(help="Choose by the plan table in a file.")] = None,
    write_table: Annotated[
        Path | None, typer.Option(help="Write the table that the model makes for these links.")
    ] = None,
    root: Annotated[int, typer.Option(help="Of operations that have one.")] = 0,
    rank: Annotated[int | None, typer.Option(help="Show the steps of this rank.")] = None,
    draw: Annotated[
        Path | None, typer.Option(help="Draw the messages into this file, F.png or F.svg.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Say how an operation is carried out, how long it should take, and why so."""
    # Here and not above: `collectives explain --help` needs neither NumPy nor the core.
    from collectives.bench.config import parse_bytes
    from collectives.cli._explain import reading, text
    from collectives.topology import Table
    from collectives.topology.explain import explain as find

    ranks, network = reading.groups(size, hosts, sites)
    network = reading.adapted(network, links, latency, bandwidth)
    if rank is not None and not 0 <= rank < ranks:
        raise InvalidArgument(f"--rank {rank}, but the ranks are 0 to {ranks - 1}")
    rows = None if table is None else _read(table)
    found = find(
        operation,
        parse_bytes(nbytes),
        ranks,
        network,
        root=root,
        algorithm=algorithm,
        table=rows,
    )
    if draw is not None:
        from collectives.cli._explain.draw import draw as paint

        paint(found, draw)
    if write_table is not None:
        write_table.write_text(Table.of(network, ranks).to_json())
    if json:
        typer.echo(text.to_json(found))
    else:
        for line in text.lines(found, rank):
            typer.echo(line)


def _read(path: Path) -> Table:
    from collectives.topology import Table

    try:
        content = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"the plan table {path} cannot be read: {error}") from None
    return Table.from_json(content)
