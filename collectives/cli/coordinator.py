"""``collectives coordinator``: run the process that decides who is in the run."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collectives.errors import InvalidArgument

if TYPE_CHECKING:
    from collectives.topology import Table

_PLANS = "COLLECTIVES_PLANS"
_LOOK = 0.5  # seconds between looks whether the coordinator ended by itself


def coordinator(
    bind: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT", help="Where to listen; * for all interfaces, port 0: any."
        ),
    ] = "127.0.0.1:7077",
    token: Annotated[
        str | None,
        typer.Option(
            help="Run token that every peer must prove to know. Other users of this machine can"
            " read it in the list of processes: prefer --token-env.",
        ),
    ] = None,
    token_env: Annotated[
        str,
        typer.Option(metavar="NAME", help="Environment variable that holds the run token."),
    ] = "COLLECTIVES_TOKEN",
    journal: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="File from which a coordinator that is started again goes on with the run. It"
            " holds the run's secrets. Without one, a successor needs a majority of the members.",
        ),
    ] = None,
    plans: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Plan table (JSON) for the views that are formed: which algorithm carries out"
            f" which operation. Default: ${_PLANS}; without one engines choose.",
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Restore a run without its journal by the word of a single member. If the other"
            " members can still go on elsewhere, the group is split in two halves that both"
            " believe to be the whole.",
        ),
    ] = False,
) -> None:
    """Run the process that decides who is in the run, until SIGINT or SIGTERM."""
    from collectives.membership.server import Coordinator

    secret = token if token is not None else os.environ.get(token_env)
    if secret is None and token_env != "COLLECTIVES_TOKEN":
        raise InvalidArgument(f"${token_env} holds no run token; set it, or leave out --token-env")
    table = _table(plans or os.environ.get(_PLANS))
    with (
        stop_signal() as stopped,
        Coordinator(
            bind, token=secret or None, journal=journal, force=force, plans=table
        ) as running,
    ):
        kind = "with a run token" if secret else "without a run token: anybody may join"
        typer.echo(f"coordinator at {running.listens_on}, {kind}")
        if table is not None:
            typer.echo(f"views get a plan table of {len(table.rows)} rows")
        if running.state.term > 1:
            typer.echo(f"going on with run {running.state.run}, term {running.state.term}")
        elif force:
            typer.echo("will restore a run by the word of one member: this may split a group")
        while running.running and not select.select([stopped], [], [], _LOOK)[0]:
            pass
        if running.error is not None:
            raise running.error
        typer.echo("coordinator stopped")


def _table(path: str | None) -> Table | None:
    """The plan table in a file; None if there is no file."""
    if not path:
        return None
    from collectives.topology import Table

    try:
        text = Path(path).read_text(encoding="utf-8")
        return Table.from_json(text)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"cannot read the plan table {path}: {error}") from error
    except InvalidArgument as error:
        raise InvalidArgument(f"{path}: {error}") from None


@contextlib.contextmanager
def stop_signal() -> Iterator[socket.socket]:
    """A socket that can be read once SIGINT or SIGTERM came, to whichever thread it came."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    wanted = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: None) for number in wanted]
    wakeup = signal.set_wakeup_fd(writer.fileno())
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in zip(wanted, before, strict=True):
            signal.signal(number, handler)
        reader.close()
        writer.close()
