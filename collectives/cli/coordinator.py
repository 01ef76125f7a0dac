"""``collectives coordinator``: run the process that decides who is in the run."""

from __future__ import annotations

import os
import signal
from typing import Annotated

import typer

from collectives.errors import InvalidArgument


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
) -> None:
    """Run the process that decides who is in the run, until SIGINT or SIGTERM."""
    from collectives.membership.server import Coordinator

    secret = token if token is not None else os.environ.get(token_env)
    if secret is None and token_env != "COLLECTIVES_TOKEN":
        raise InvalidArgument(f"${token_env} holds no run token; set it, or leave out --token-env")
    wanted = {signal.SIGINT, signal.SIGTERM}
    # Blocked before any thread starts, so that all of them inherit it and sigwait gets them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    try:
        with Coordinator(bind, token=secret or None) as running:
            kind = "with a run token" if secret else "without a run token: anybody may join"
            typer.echo(f"coordinator at {running.listens_on}, {kind}")
            signal.sigwait(wanted)
            typer.echo("coordinator stopped")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
