"""``collectives bench``: measure, print the table, write the JSON."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from collectives.bench.collective import COLLECTIVES

app = typer.Typer(
    no_args_is_help=True, help="Measure operations, with every element checked in the same run."
)


def _measure(
    operation: str,
    ranks: Annotated[
        int | None,
        typer.Option("--ranks", help="Processes that take part; 2, or as many as were launched."),
    ] = None,
    sizes: Annotated[
        str, typer.Option(help="FIRST:LAST[:FACTOR] or a list with commas, in bytes, K, M, G.")
    ] = "1K:256M",
    dtype: Annotated[str, typer.Option(help="Type of the elements.")] = "float32",
    op: Annotated[str, typer.Option(help="sum, avg, prod, min, max, band, bor or bxor.")] = "sum",
    transport: Annotated[
        str, typer.Option(help="Between ranks on one host: shm, tcp or auto.")
    ] = "auto",
    connections: Annotated[int, typer.Option(help="TCP connections per pair of ranks.")] = 1,
    congestion: Annotated[
        str, typer.Option(help="TCP congestion control of all libraries; auto: as they choose.")
    ] = "cubic",
    in_place: Annotated[bool, typer.Option("--in-place", help="Measure in place only.")] = False,
    out_of_place: Annotated[
        bool, typer.Option("--out-of-place", help="Measure with out= only.")
    ] = False,
    compare: Annotated[
        str | None, typer.Option(help="Also measure these libraries, in turns: gloo, mpi.")
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(help="Timed calls per figure; by default as many as fit --time.")
    ] = None,
    seconds: Annotated[float, typer.Option("--time", help="Seconds of calls per figure.")] = 1.0,
    algorithm: Annotated[
        str | None,
        typer.Option(help="ring, direct ...: how ours is carried out; by default as chosen."),
    ] = None,
    slice_bytes: Annotated[
        int | None, typer.Option(help="Payload of one frame; by default chosen by size.")
    ] = None,
    checksums: Annotated[bool, typer.Option(help="CRC over the payload.")] = True,
    timeout: Annotated[float, typer.Option(help="Give up after this many seconds' silence.")] = 120,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write all figures to this file; - prints them.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the figures into this file, for example F.png.")
    ] = None,
    meet: Annotated[
        Path | None,
        typer.Option(
            help="Under torchrun, mpirun or srun: a file that all ranks see, to find each other"
            " by; by default they go by MASTER_ADDR and MASTER_PORT."
        ),
    ] = None,
) -> None:
    """Measure an operation over sizes."""
    # Here and not above: `collectives bench --help` needs neither NumPy nor the core.
    from collectives.bench import config as settings
    from collectives.bench import launcher, overhead, report, sweep, table
    from collectives.errors import InvalidArgument

    launch = launcher.find()
    if launch is not None and ranks not in (None, launch.size):
        raise InvalidArgument(
            f"--ranks {ranks}, but {launch.size} ranks were launched; leave the option out"
        )
    config = settings.BenchConfig(
        ranks=launch.size if launch is not None else ranks or 2,
        sizes=settings.parse_sizes(sizes),
        dtype=dtype,
        op=op,
        operation=operation,
        transport=transport,
        connections=connections,
        congestion=None if congestion == "auto" else congestion,
        out_of_place=out_of_place or not in_place,
        in_place=in_place or not out_of_place,
        compare=tuple(compare.split(",")) if compare else (),
        iterations=iterations,
        seconds=seconds,
        algorithm=algorithm,
        slice_bytes=slice_bytes,
        checksums=checksums,
        timeout=timeout,
    )
    sweep.check(config)
    meeting = None if launch is None else launcher.Meeting(meet, timeout)
    if launch is not None and meeting is not None and launch.rank:
        raise typer.Exit(launcher.follow(launch, config, meeting))
    if plot is not None:
        from collectives.bench.plot import draw
    shown = table.Table(config)
    quiet = json_path is not None and str(json_path) == "-"
    with _screen(quiet, bar=launch is None) as (show, progress):
        for line in shown.head():
            show(line)
        result = sweep.run(config, lambda row: show(shown.row(row)), progress, meeting)
        progress(1, 1, "cost of a call")
        result = report.with_overhead(result, overhead.measure(timeout=timeout))
    for line in table.foot(result):
        if not quiet:
            typer.echo(line)
    if quiet:
        typer.echo(result.to_json())
    elif json_path is not None:
        json_path.write_text(result.to_json() + "\n")
    if plot is not None:
        draw(result, plot)
    if result.wrong:
        raise typer.Exit(1)


def _command(operation: str, *, reduces: bool) -> Callable[..., None]:
    """Return the command of one operation: `_measure`, with --op only where it reduces."""
    fixed: dict[str, Any] = (
        {"operation": operation} if reduces else {"operation": operation, "op": "none"}
    )

    @wraps(_measure)
    def command(**options: Any) -> None:
        _measure(**fixed, **options)

    whole = inspect.signature(_measure, eval_str=True)
    options = [p for name, p in whole.parameters.items() if name not in fixed]
    vars(command)["__signature__"] = whole.replace(parameters=options)
    return command


for _name, _collective in COLLECTIVES.items():
    app.command(_name, help=f"Measure {_name} over sizes. Exit status 1 if any element was wrong.")(
        _command(_name, reduces=_collective.reduces)
    )


@app.command("torch")
def torch_command(
    ranks: Annotated[str, typer.Option("--ranks", help="Numbers of ranks, with commas.")] = "2,4",
    size: Annotated[str, typer.Option(help="Bytes of the large operations, with K, M, G.")] = "16M",
    parameters: Annotated[
        int, typer.Option(help="About how many the model that DDP trains has.")
    ] = 25_000_000,
    transport: Annotated[
        str, typer.Option(help="Between our ranks: shm, tcp or auto; Gloo has TCP.")
    ] = "auto",
    iterations: Annotated[
        int | None, typer.Option(help="Timed calls per figure; by default as many as fit --time.")
    ] = None,
    seconds: Annotated[float, typer.Option("--time", help="Seconds of calls per figure.")] = 1.0,
    steps: Annotated[int, typer.Option(help="Training steps of each kind.")] = 20,
    timeout: Annotated[float, typer.Option(help="Give up after this many seconds' silence.")] = 120,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write all figures to this file; - prints them.")
    ] = None,
) -> None:
    """Measure torch.distributed over this library beside Gloo: calls, and DDP's step.

    Exit status 1 if any element was wrong.
    """
    from collectives.bench import config as settings
    from collectives.bench import process_group

    configs = [
        process_group.Config(
            ranks=settings.parse_count(number),
            size=settings.parse_bytes(size),
            parameters=parameters,
            transport=transport,
            iterations=iterations,
            seconds=seconds,
            steps=steps,
            timeout=timeout,
        )
        for number in ranks.split(",")
    ]
    quiet = json_path is not None and str(json_path) == "-"
    reports = []
    with _screen(quiet) as (show, progress):
        for config in configs:
            reports.append(process_group.measure(config, progress))
            for line in process_group.lines(reports[-1]):
                show(line)
    if quiet:
        typer.echo(process_group.to_json(reports))
    elif json_path is not None:
        json_path.write_text(process_group.to_json(reports) + "\n")
    if any(report.wrong for report in reports):
        raise typer.Exit(1)


@app.command("state")
def state_command(
    size: Annotated[str, typer.Option(help="Bytes of the state, with K, M, G.")] = "1G",
    members: Annotated[int, typer.Option(help="Peers that hold it.")] = 3,
    connections: Annotated[int, typer.Option(help="TCP connections per pair of peers.")] = 1,
    background: Annotated[
        bool,
        typer.Option(
            "--background/--in-sync",
            help="The newcomer fetches before it is admitted, or in the sync that admits it.",
        ),
    ] = True,
) -> None:
    """Measure how a newcomer gets the state. Exit status 1 if a byte of it was wrong."""
    from collectives.bench import config as settings
    from collectives.bench import state

    result = state.measure(
        settings.parse_sizes(size)[0], members, connections, background=background
    )
    for line in result.lines():
        typer.echo(line)
    if result.wrong:
        raise typer.Exit(1)


@app.command("storm")
def storm_command(
    joins: Annotated[int, typer.Option(min=1, help="Processes that join and leave.")] = 60,
) -> None:
    """Measure what members pay for newcomers. Exit status 1 if a promise was broken."""
    from collectives.bench import storm

    result = storm.measure(joins)
    for line in result.lines():
        typer.echo(line)
    if result.violations:
        raise typer.Exit(1)


@app.command("link")
def link_command(
    rate: Annotated[str, typer.Option(help="bit/s, with K, M, G (powers of 1000).")] = "1G",
    rtt: Annotated[float, typer.Option(help="Milliseconds of a round trip.")] = 100.0,
    loss: Annotated[float, typer.Option(help="Percent of the packets that are lost.")] = 0.01,
    mtu: Annotated[int, typer.Option(help="Bytes of a packet at most.")] = 1500,
    seconds: Annotated[float, typer.Option("--time", help="Seconds of each figure.")] = 10.0,
) -> None:
    """Measure all-reduce over a long link that is emulated: it takes root."""
    from collectives.bench import link

    result = link.measure(link.parse(rate, rtt, loss), seconds=seconds, mtu=mtu)
    for line in result.lines():
        typer.echo(line)
    if result.wrong:
        raise typer.Exit(1)


@app.command("network")
def network_command(
    names: Annotated[
        list[str] | None, typer.Argument(help="Scenarios; all, if none is named.")
    ] = None,
    seconds: Annotated[float, typer.Option("--time", help="Seconds of calls per figure.")] = 3.0,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write all figures to this file; - prints them.")
    ] = None,
) -> None:
    """Measure plans on emulated hosts, beside what the model predicts: it takes root."""
    from collectives.bench import network

    scenarios = network.choose(names or [])
    quiet = json_path is not None and str(json_path) == "-"
    found = []
    with _screen(quiet) as (show, progress):
        for scenario in scenarios:
            found.append(network.measure(scenario, seconds, progress))
            for line in found[-1].lines():
                show(line)
    report = network.Report(found)
    if quiet:
        typer.echo(report.to_json())
    elif json_path is not None:
        json_path.write_text(report.to_json() + "\n")
    if report.wrong:
        raise typer.Exit(1)


@app.command("overhead")
def overhead_command() -> None:
    """Measure what Python adds to a call: a group of one, 4 bytes."""
    from collectives.bench import overhead, table

    for line in table.overhead_lines(overhead.measure()):
        typer.echo(line)


@app.command("kernels")
def kernels_command() -> None:
    """Measure reduction, codecs, checksum and copy on one core.

    Exit status 1 if an element was wrong.
    """
    from collectives.bench import kernels

    result = kernels.measure()
    for line in result.lines():
        typer.echo(line)
    if result.wrong:
        raise typer.Exit(1)


@app.command("accuracy")
def accuracy_command(
    seed: Annotated[int, typer.Option(help="Of the inputs and of the training.")] = 1,
) -> None:
    """Measure what codecs lose: of one encoding, and of an all-reduce, beside theory."""
    from collectives.bench import accuracy

    found = accuracy.measure(seed, lambda what: typer.echo(what, err=True))
    for line in found.lines():
        typer.echo(line)


@contextmanager
def _screen(quiet: bool, bar: bool = True) -> Iterator[tuple[Any, Any]]:
    """Give a function that prints a line, and one that moves the progress bar.

    The bar is for people: it is on the terminal if there is one, never in a file, and not under a
    launcher, which shows what its ranks say as if it were on one. Lines go to standard output,
    above the bar if both are on one terminal.
    """
    console = Console(stderr=not sys.stdout.isatty())
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        redirect_stdout=False,
        disable=not (bar and console.is_terminal),
    ) as shown:
        task = shown.add_task("", total=None)

        def show(line: str) -> None:
            if quiet:
                return
            if sys.stdout.isatty():
                # no_wrap: a row that is cut by the terminal is easier to read than two.
                console.print(line, markup=False, highlight=False, no_wrap=True, soft_wrap=True)
            else:
                typer.echo(line)
                sys.stdout.flush()

        def progress(done: int, total: int, what: str) -> None:
            shown.update(task, completed=done, total=total, description=what)

        yield show, progress


@app.command("agreement", hidden=True)
def agreement_command(
    ranks: Annotated[int, typer.Option("--ranks", help="Processes that take part.")] = 2,
    seconds: Annotated[float, typer.Option("--time", help="Seconds of calls per figure.")] = 2.0,
) -> None:
    """Measure what agreement and retention cost: the same calls without them, in turns."""
    from collectives.bench import agreement

    for cost in agreement.measure(ranks, seconds):
        typer.echo(
            f"{cost.bytes:>9} B  with {cost.with_us:9.1f} us  without {cost.without_us:9.1f} us"
            f"  ratio {cost.ratio:.3f}  wrong {cost.wrong}"
        )


@app.command("recovery")
def recovery_command(
    kills: Annotated[int, typer.Option(help="How many members are killed.")] = 50,
) -> None:
    """Measure how long a death costs: SIGKILL in the middle of a 16 MiB all-reduce of three."""
    import statistics

    from collectives.bench import recovery

    found, wrong = recovery.measure(kills)
    ordered = sorted(found)
    typer.echo(
        f"{kills} kills: median {statistics.median(found) * 1e3:.1f} ms,"
        f" 90 % {ordered[int(len(ordered) * 0.9) - 1] * 1e3:.1f} ms,"
        f" slowest {ordered[-1] * 1e3:.1f} ms; {wrong} elements wrong"
    )
    if wrong:
        raise typer.Exit(1)


@app.command("latency")
def latency_command(
    ranks: Annotated[str, typer.Option("--ranks", help="Numbers of ranks, with commas.")] = "2,4,8",
    transport: Annotated[str, typer.Option(help="Transports, with commas.")] = "shm,tcp",
    sizes: Annotated[str, typer.Option(help="As for all_reduce.")] = "8,1K,4K,16K,64K",
    seconds: Annotated[float, typer.Option("--time", help="Seconds of calls per figure.")] = 0.5,
    iterations: Annotated[int | None, typer.Option(help="Timed calls per figure.")] = None,
) -> None:
    """Measure small all-reduces: medians in us, side by side. Exit status 1 if one was wrong."""
    from collectives.bench import config as settings
    from collectives.bench import latency

    config = settings.BenchConfig(
        sizes=settings.parse_sizes(sizes), in_place=False, seconds=seconds, iterations=iterations
    )
    numbers = [settings.parse_count(number) for number in ranks.split(",")]
    with _screen(quiet=True) as (_, progress):
        reports = latency.measure(config, numbers, transport.split(","), progress)
    for line in latency.lines(reports):
        typer.echo(line)
    if any(report.wrong for report in reports):
        raise typer.Exit(1)


@app.command("concurrent")
def concurrent_command(
    small: Annotated[str, typer.Option(help="COUNTxSIZE of the small operations.")] = "64x4K",
    large: Annotated[str, typer.Option(help="Size of the large operation.")] = "256M",
    ranks: Annotated[int, typer.Option("--ranks", help="Processes that take part.")] = 2,
    transport: Annotated[str, typer.Option(help="shm, tcp or auto.")] = "auto",
    connections: Annotated[int, typer.Option(help="TCP connections per pair of ranks.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Large operations to measure beside.")] = 10,
    batches: Annotated[int, typer.Option(min=1, help="Of small ones, in each round.")] = 8,
) -> None:
    """Measure small operations beside a large one. Exit status 1 if an element was wrong."""
    from collectives.bench import config as settings
    from collectives.bench import crowd

    number, _, size = small.partition("x")
    config = settings.BenchConfig(
        ranks=ranks,
        sizes=(settings.parse_bytes(large),),
        transport=transport,
        connections=connections,
    )
    result = crowd.measure(
        config, settings.parse_count(number), settings.parse_bytes(size), rounds, batches
    )
    for line in result.lines():
        typer.echo(line)
    if result.wrong:
        raise typer.Exit(1)
