"""``collectives build-torch``: compile the C++ part of the PyTorch backend before its first use."""

from __future__ import annotations

from typing import Annotated

import typer


def build_torch(
    force: Annotated[bool, typer.Option("--force", help="Compile although it is there.")] = False,
) -> None:
    """Compile the C++ part of the PyTorch backend for the torch that is installed.

    Without this the first process group does it. The result is kept in $COLLECTIVES_CACHE, else in
    $XDG_CACHE_HOME/collectives, else in ~/.cache/collectives, and fits other machines with the same
    torch, Python and C library.
    """
    # Here and not above: `collectives build-torch --help` needs no torch.
    from collectives.torch import _shim

    if force or _shim.built() is None:
        typer.echo("Compiling the C++ part of the PyTorch backend, which takes about a minute")
    path = _shim.build(force=force)
    typer.echo(f"{path}, by {_shim.compiled_by(path)}")
