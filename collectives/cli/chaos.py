"""``collectives chaos``: put a run through what goes wrong elsewhere, and get a verdict."""

from __future__ import annotations

import dataclasses
import enum
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from collectives.cli._chaos.screen import Screen

if TYPE_CHECKING:
    from collectives.chaos.links import Measurement
    from collectives.chaos.scenario import Scenario

_SUMMARY = "Put a run through kills, hangs, partitions and bad links, and get a verdict."

app = typer.Typer(no_args_is_help=True, help=_SUMMARY)


class LinkKind(str, enum.Enum):
    """How links are made."""

    PROXY = "proxy"
    NAMESPACES = "namespaces"
    VETH = "veth"


Seed = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Of everything random: same seed, same faults. Else the scenario's own, or 0.",
    ),
]
Peers = Annotated[
    int | None, typer.Option(min=1, help="So many, instead of the scenario's number.")
]
Out = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where the run's files go; else chaos-runs/NAME-SEED."),
]
Json = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the report here, too.")
]


@app.callback()
def _chaos() -> None:
    """Put a run through kills, hangs, partitions and bad links, and get a verdict."""


@app.command("run")
def run(
    scenario: Annotated[str, typer.Argument(help="Name of a scenario (see list), or a file.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[ARGUMENTS]...", help="Of the script.")
    ] = None,
    seed: Seed = None,
    script: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Have the peers run this script, which joins."),
    ] = None,
    peers: Peers = None,
    links: Annotated[
        LinkKind | None,
        typer.Option(
            "--links",
            help="How links are made. The others than proxy take root; veth has rates alone.",
        ),
    ] = None,
    duration: Annotated[
        float | None, typer.Option(min=1.0, help="Seconds, instead of the scenario's.")
    ] = None,
    out: Out = None,
    as_json: Json = None,
    shrink: Annotated[
        int, typer.Option(min=0, help="Runs to spend on making a scenario that fails smaller.")
    ] = 10,
) -> None:
    """Run one scenario. Exit status 1 if a promise was broken, 2 if the run did not come about."""
    from collectives.chaos import trial
    from collectives.chaos.parts import Workload

    chosen, seed = _scenario(scenario, seed)
    chosen = chosen.scaled(peers=peers, duration=duration)
    if links is not None:
        kind = dataclasses.replace(chosen.links, kind=links.value)
        chosen = dataclasses.replace(chosen, links=kind)
    if script is not None:
        if not script.is_file():
            raise typer.BadParameter(f"there is no file {script}")
        work = Workload("script", script=str(script.resolve()), arguments=tuple(arguments or ()))
        chosen = dataclasses.replace(chosen, workload=work)
    elif arguments:
        raise typer.BadParameter("arguments are for a --script, and there is none")
    folder = out or Path("chaos-runs") / f"{chosen.name}-{seed}"
    console = Console()
    with Screen(console) as screen:
        report = trial.run(chosen, seed, folder, screen.look)
    console.print(report.table())
    _say_where(console, folder)
    if as_json is not None:
        report.write_json(as_json)
    if report.violations and shrink and script is None:
        console.print(f"looking for fewer faults that do the same, in up to {shrink} runs")
        with Screen(console) as screen:
            found = trial.smaller(report, folder, shrink, screen.look)
        console.print(
            f"{len(found.scenario.faults)} faults are enough, after {found.runs} runs:"
            f" collectives chaos run {folder / 'shrunk.toml'}",
            soft_wrap=True,
        )
    raise typer.Exit(report.exit_status)


@app.command("replay")
def replay(
    report: Annotated[Path, typer.Argument(help="Folder of a run, or its report.json.")],
    out: Out = None,
) -> None:
    """Run what a report is of once more: the same peers, faults and seed."""
    folder = report if report.is_dir() else report.parent
    path = folder / "scenario.toml"
    if not path.exists():
        raise typer.BadParameter(f"{folder} holds no scenario.toml: it is no folder of a run")
    run(str(path), out=out or folder.with_name(f"{folder.name}-replay"))


@app.command("soak")
def soak(
    minutes: Annotated[float, typer.Option(min=0.1, help="How long.")] = 30.0,
    seed: Seed = None,
    peers: Annotated[int, typer.Option(min=2, help="At the beginning of each run.")] = 8,
    scenario: Annotated[str, typer.Option(help="What is run again and again.")] = "everything",
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the runs' files go.")] = Path(
        "chaos-runs/soak"
    ),
    as_json: Json = None,
) -> None:
    """Run one seed after another. Exit status 1 if a promise was broken in any."""
    from collectives.chaos import soak as soaking

    console = Console()
    chosen, seed = _scenario(scenario, seed)
    with Screen(console) as screen:
        total = soaking.soak(chosen, minutes * 60, seed, peers, out, screen.look, screen.say)
    console.print(total.table())
    if as_json is not None:
        as_json.write_text(json.dumps(total.to_json(), indent=2) + "\n", encoding="utf-8")
    raise typer.Exit(total.exit_status)


@app.command("list")
def list_(
    faults: Annotated[bool, typer.Option("--faults", help="The kinds of faults.")] = False,
) -> None:
    """List the scenarios there are, or the kinds of faults."""
    from collectives.chaos import library
    from collectives.chaos.kinds import KINDS

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("kind" if faults else "scenario", style="bold", no_wrap=True)
    if faults:
        table.add_column("what happens")
        table.add_column("settings")
        for kind in KINDS.values():
            table.add_row(kind.name, kind.about, ", ".join(row.name for row in kind.rows))
    else:
        table.add_column("modelled on")
        for name in library.names():
            table.add_row(name, library.load(name).about)
    Console().print(table)


def _scenario(name: str, seed: int | None) -> tuple[Scenario, int]:
    """The scenario, and the seed to run it with: the one that was given, else its own."""
    from collectives.chaos import library
    from collectives.chaos.scenario import Scenario

    if name.endswith((".toml", ".py")):
        found = Scenario.from_file(name, seed or 0)
    else:
        found = library.load(name)
    return found, (found.seed or 0) if seed is None else seed


def _say_where(console: Console, folder: Path) -> None:
    console.print(
        f"journals, logs and the page: {folder / 'report.html'}\n"
        f"once more: collectives chaos replay {folder}",
        soft_wrap=True,
        highlight=False,
    )


@app.command("links")
def links(
    profiles: Annotated[
        list[str] | None, typer.Argument(metavar="[PROFILE]...", help="Only these; else all.")
    ] = None,
    seconds: Annotated[float, typer.Option("--time", min=0.05, help="Seconds per figure.")] = 1.0,
    namespaces: Annotated[
        bool,
        typer.Option(
            "--namespaces", help="Through packets instead of the proxy, with losses; takes root."
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the figures as JSON, for programs.")
    ] = False,
) -> None:
    """Measure what each link profile delivers, beside what it is meant to."""
    from collectives.chaos import links as measurement
    from collectives.chaos.profiles import PROFILES

    unknown = [name for name in profiles or () if name not in PROFILES]
    if unknown:
        raise typer.BadParameter(
            f"no such profile: {', '.join(unknown)}; there are {', '.join(PROFILES)}"
        )
    measured = []
    console = Console(stderr=True)
    for name in profiles or PROFILES:
        with console.status(f"measuring {name}"):
            measured.append(measurement.measure(PROFILES[name], seconds, namespaces))
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(one) for one in measured], indent=2))
    else:
        Console().print(_table(measured))


def _table(measured: list[Measurement]) -> Table:
    table = Table(
        box=SIMPLE_HEAD,
        padding=0,
        collapse_padding=True,
        caption="measured / nominal; a ping's nominal is its delays + at most its jitter",
    )
    table.add_column("profile", no_wrap=True)
    headings = ["up Mbit/s", "down Mbit/s", "ping ms, median", "99 %"]
    if any(one.packets is not None for one in measured):
        headings += ["lost %", "late %"]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for one in measured:
        profile = one.profile
        jitter = profile.up.jitter + profile.down.jitter
        table.add_row(
            profile.name,
            _rate(one.up, profile.up.rate),
            _rate(one.down, profile.down.rate),
            f"{one.ping_median * 1e3:.1f} / {profile.round_trip * 1e3:g} + {jitter * 1e3:g}",
            f"{one.ping_p99 * 1e3:.1f}",
            *_shares(one),
        )
    return table


def _shares(one: Measurement) -> list[str]:
    if one.packets is None:
        return []
    nominal = one.profile.up
    return [
        f"{one.packets.lost * 100:.2f} / {nominal.loss * 100:g}",
        f"{one.packets.reordered * 100:.2f}",
    ]


def _rate(measured: float, nominal: float) -> str:
    return f"{measured / 1e6:.{0 if measured >= 1e8 else 1}f} / {_mega(nominal)}"


def _mega(rate: float) -> str:
    return f"{rate / 1e6:g}" if rate else "-"
