"""The interpreters from which the tests' processes are forked."""

from __future__ import annotations

import atexit
import pathlib

from collectives.chaos import nursery
from collectives.chaos.nursery import Child

_shared: dict[tuple[str, ...], Nursery] = {}


class Nursery(nursery.Nursery):
    """One that has what all tests need, and finds their modules.

    Args:
        modules: what it imports besides.
    """

    def __init__(self, *modules: str) -> None:
        here = str(pathlib.Path(__file__).parent)
        super().__init__("numpy", "pytest", "collectives._public", "crew", *modules, path=here)


def shared(*modules: str) -> Nursery:
    """The nursery of this process that has imported them; it ends with the process."""
    if modules not in _shared:
        made = Nursery(*modules)
        made.__enter__()
        atexit.register(made.__exit__)
        _shared[modules] = made
    return _shared[modules]


__all__ = ["Child", "Nursery", "shared"]
