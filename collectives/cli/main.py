"""The ``collectives`` command: finds the sub-command and hands over to its module.

Each sub-command lives in a module of its name in this package, which offers either a function of
that name (its signature is the command line, by typer) or a typer application ``app`` when it has
sub-commands itself. Only the module that is asked for is imported, so that ``collectives --help``
is quick and no command needs what another one depends on.
"""

from __future__ import annotations

import importlib
import logging
import sys
from typing import Annotated, Any

import typer

from collectives._version import __version__
from collectives.errors import CollectiveError

COMMANDS = {
    "demo": "Train a small model on four peers, and show that they agree.",
    "coordinator": "Run the process that decides who is in the run.",
    "status": "Show a coordinator's views, its peers and who waits for whom.",
    "bench": "Measure operations, with every element checked.",
    "explain": "Say how an operation is carried out, how long it should take, and why so.",
    "chaos": "Put a run through kills, hangs, partitions and bad links, and get a verdict.",
    "build-torch": "Compile the C++ part of the PyTorch backend ahead of its first use.",
    "doctor": "Say what works on this machine, what does not, and the cure.",
}

# What only some commands need, and the extra of the package that brings it.
OPTIONAL_MODULES = {"torch": "torch", "matplotlib": "plot"}


def _version(value: bool) -> None:
    if value:
        typer.echo(f"collectives {__version__}")
        raise typer.Exit


def _root(
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, help="Log more; twice: everything.")
    ] = 0,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Collective communication that keeps going when peers come, go and die."""
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    logging.basicConfig(level=level, format="%(asctime)s %(levelname).1s %(message)s")


def _placeholder() -> None:
    """Stand in for a sub-command in the list of them; never called."""


def build(requested: str | None) -> typer.Typer:
    """Return the application, with only the requested sub-command's module imported."""
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    app.callback()(_root)
    for name, summary in COMMANDS.items():
        if name != requested:
            app.command(name, help=summary)(_placeholder)
            continue
        identifier = name.replace("-", "_")
        module: Any = importlib.import_module(f"collectives.cli.{identifier}")
        if isinstance(getattr(module, "app", None), typer.Typer):
            app.add_typer(module.app, name=name)
        else:
            app.command(name)(getattr(module, identifier))
    return app


def requested_command(arguments: list[str]) -> str | None:
    """Return the sub-command in the arguments: the first one that is not an option.

    The options before it take no value, so nothing else can stand there.
    """
    return next((argument for argument in arguments if not argument.startswith("-")), None)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit status, or leave by ``SystemExit`` as typer does.

    An error of the library is a message for the user, not a traceback; ``-vv`` shows both.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        build(requested_command(arguments))(arguments, prog_name="collectives")
    except CollectiveError as error:
        return _fail(str(error), error)
    except ImportError as error:
        if error.name not in OPTIONAL_MODULES:
            return _fail(f"{error}\n`collectives doctor` says what is wrong, and the cure", error)
        extra = OPTIONAL_MODULES[error.name]
        return _fail(
            f"this command needs {error.name}, which is not installed; install it with\n"
            f"  {sys.executable} -m pip install 'collectives[{extra}]'",
            error,
        )
    return 0


def _fail(message: str, error: Exception) -> int:
    logging.getLogger(__name__).debug("The command failed", exc_info=error)
    typer.echo(f"collectives: {message}", err=True)
    return 1
