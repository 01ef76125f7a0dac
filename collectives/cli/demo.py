"""``collectives demo``: the main job, on one machine, judged.

Starts an embedded coordinator and peer processes that train a byte-level transformer with DiLoCo,
shows them at work, and exits with status 1 if their states ever differed or the loss did not fall.
The parts are in ``_demo``.
"""

from __future__ import annotations

import importlib.util
import signal
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from collectives.cli._demo.messages import Fault, Settings
from collectives.codec import Codec
from collectives.errors import InvalidArgument, UnsupportedError
from collectives.toy import text as texts

if TYPE_CHECKING:
    from collectives.cli._demo.report import Report


def demo(
    peers: Annotated[int, typer.Option(help="Peer processes to start.", min=1, max=64)] = 4,
    rounds: Annotated[int, typer.Option(help="Outer steps to take.", min=1)] = 28,
    seed: Annotated[int, typer.Option(help="Of everything random.", min=0)] = 0,
    text: Annotated[
        str | None,
        typer.Option(help="File to train on, instead of CPython's documentation.", metavar="FILE"),
    ] = None,
    device: Annotated[str, typer.Option(help="Where the peers train: cpu or cuda.")] = "cpu",
    codec: Annotated[
        str | None,
        typer.Option(
            help="What pseudo-gradients travel in: int8, e3m0, mxint8, ...", metavar="NAME"
        ),
    ] = None,
    json: Annotated[str | None, typer.Option(help="Write the report here.", metavar="PATH")] = None,
    png: Annotated[str, typer.Option(help="Draw the run here.", metavar="PATH")] = "demo.png",
    faults: Annotated[
        bool, typer.Option("--faults/--no-faults", help="Kill a peer, and have another come.")
    ] = True,
) -> None:
    """Train a small model on four peers, and show that they agree.

    One of them is killed in the middle of a round, which the others finish; another comes later.
    Exit status 1 if the peers' states ever differ, if the loss does not fall, or if a peer fails.
    """
    from rich.console import Console

    from collectives.cli._demo.report import Report
    from collectives.cli._demo.run import run
    from collectives.cli._demo.screen import LiveScreen, PlainScreen, summary

    fault = Fault.drawn(seed, peers, rounds) if faults else None
    settings = Settings(
        "", "", peers, rounds, seed, text=text, device=device, fault=fault, codec=codec
    )
    _check(settings)
    report = Report(rounds, settings.inner_steps, fault=fault)
    console = Console()
    console.print(
        f"{peers} peers train a byte-level transformer on "
        f"{text or 'the documentation that comes with CPython'}; "
        f"they talk every {settings.inner_steps} steps.",
        highlight=False,
        soft_wrap=True,
    )
    names = [f"peer-{number}" for number in range(peers)]
    screen = (
        LiveScreen(console, report, names) if console.is_terminal else PlainScreen(console, report)
    )
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with screen:
            run(settings, report, screen)
    finally:
        signal.signal(signal.SIGTERM, previous)
    console.print(summary(report))
    if json is not None:
        report.write_json(json)
    _draw(report, png)
    reasons = report.verdict()
    for reason in reasons:
        typer.echo(f"collectives demo: {reason}", err=True)
    if reasons:
        raise typer.Exit(1)


def _check(settings: Settings) -> None:
    """Refuse what cannot work before anything is started."""
    if settings.codec is not None:
        Codec.of(settings.codec)
    if settings.device not in ("cpu", "cuda"):
        raise InvalidArgument(f"--device {settings.device!r}; the demo trains on cpu or cuda")
    # Importing torch takes seconds, and the peers do it anyway: only ask whether it is there.
    if importlib.util.find_spec("torch") is None:
        raise UnsupportedError(
            "the demo trains a torch model and torch is not installed; install it with\n"
            f"  {sys.executable} -m pip install 'collectives[torch]'"
        )
    texts.split(texts.read(settings.text), 0, settings.peers, settings.context)
    if settings.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UnsupportedError(
                f"--device cuda: torch {torch.__version__} finds no CUDA device here; "
                "leave the option out to train on the CPU"
            )


def _draw(report: Report, path: str) -> None:
    try:
        from collectives.cli._demo.picture import draw
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        typer.echo(
            f"no picture without matplotlib; install it with\n"
            f"  {sys.executable} -m pip install 'collectives[plot]'",
            err=True,
        )
        return
    draw(report, path)
    typer.echo(f"picture: {path}")
