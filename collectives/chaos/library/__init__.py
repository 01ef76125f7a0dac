"""The scenarios that come with the package, by name: one TOML file each in this folder."""

from __future__ import annotations

from pathlib import Path

from collectives.chaos.scenario import Scenario
from collectives.chaos.spec import listed, nearest
from collectives.errors import InvalidArgument

_FOLDER = Path(__file__).parent


def names() -> tuple[str, ...]:
    """Return the names, in alphabetical order."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def load(name: str) -> Scenario:
    """Return a scenario.

    Raises:
        InvalidArgument: there is none of this name.
    """
    if name not in names():
        raise InvalidArgument(
            f"there is no scenario {name!r}{nearest(name, names())}; there are {listed(names())}"
        )
    return Scenario.from_file(_FOLDER / f"{name}.toml")
