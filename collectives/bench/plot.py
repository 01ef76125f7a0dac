"""A report as a picture: bandwidth and time over size, with the bound."""

from __future__ import annotations

from pathlib import Path

from collectives.bench.collective import COLLECTIVES
from collectives.bench.report import BEYOND_CACHE, Report

_LOOK = {
    "out_of_place": ("collectives, out=", "C0", "-"),
    "in_place": ("collectives, in place", "C0", "--"),
    "gloo": ("Gloo", "C1", "-"),
    "mpi_out_of_place": ("Open MPI", "C2", "-"),
    "mpi_in_place": ("Open MPI, in place", "C2", "--"),
}


def draw(report: Report, path: Path) -> None:
    """Write the picture, in the format that the file's name asks for."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    time, speed = figure.subplots(1, 2)
    for name, (label, color, line) in _LOOK.items():
        rows = [row for row in report.sizes if name in row.named]
        sizes = [row.bytes for row in rows]
        look = {"label": label, "color": color, "linestyle": line, "marker": "o", "markersize": 3}
        if rows:
            time.plot(sizes, [row.named[name].median_us for row in rows], **look)
            speed.plot(sizes, [row.named[name].median_algbw for row in rows], **look)
    far = [row.bytes for row in report.sizes if row.bytes >= BEYOND_CACHE]
    if report.bandwidth is not None and far:
        for name, bound in report.bandwidth.bounds(COLLECTIVES[report.operation]).items():
            label, _, style = _LOOK[name]
            look = {"label": label.replace("collectives", "bound"), "linestyle": style}
            speed.plot([far[0], far[-1]], [bound / 1e9] * 2, color="0.5", **look)
    time.set(yscale="log", ylabel="median time of a call (µs)")
    speed.set(ylabel="size / median time (GB/s)", ylim=(0, None))
    for axes in (time, speed):
        axes.set(xscale="log", xlabel="bytes of the buffer")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: _short(size)))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    options = report.options
    figure.suptitle(
        f"{report.operation}, {options['ranks']} ranks, {options['dtype']}"
        f"{'' if options['op'] == 'none' else ' ' + options['op']},"
        f" transport {options['transport']}, {report.machine['cores']} cores"
    )
    figure.savefig(path, dpi=120)


def _short(size: float) -> str:
    for unit, factor in (("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)):
        if size >= factor:
            return f"{size / factor:g}{unit}"
    return f"{size:g}"
