"""Small all-reduces: medians of several numbers of ranks and transports, side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from collectives.bench import sweep
from collectives.bench.config import BenchConfig
from collectives.bench.report import Report


def measure(
    config: BenchConfig,
    ranks: Sequence[int],
    transports: Sequence[str],
    on_progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> list[Report]:
    """Run the bench for every number of ranks with every transport; the rest is `config`.

    Raises:
        CollectiveError: as `sweep.run`.
    """
    runs = [
        dataclasses.replace(config, ranks=n, transport=transport)
        for n in ranks
        for transport in transports
    ]
    for run in runs:
        sweep.check(run)
    reports = []
    for done, run in enumerate(runs):
        on_progress(done, len(runs), f"{run.ranks} ranks, {run.transport}")
        reports.append(sweep.run(run))
    return reports


def lines(reports: Sequence[Report]) -> list[str]:
    """Return the table: a row per size, a column per run, medians in microseconds, with out=."""
    titles = [f"{r.options['ranks']} ranks {r.options['transport']}" for r in reports]
    text = [f"#{'size':>10}" + "".join(f" {title:>13}" for title in titles)]
    for rows in zip(*(report.sizes for report in reports), strict=True):
        medians = [row.out_of_place.median_us for row in rows if row.out_of_place is not None]
        text.append(f"{rows[0].bytes:>11}" + "".join(f" {median:13.2f}" for median in medians))
    text.append(f"# Wrong elements: {sum(report.wrong for report in reports)}")
    return text
