"""Print what pyproject.toml asks for: ``dependencies.py [EXTRA...]``, one requirement a line.

The Makefile installs from this instead of installing the package itself, because the checkout is
used in place; the requirements stay written in one file.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

try:
    import tomllib
except ImportError:  # Python 3.10; every environment that the Makefile makes has pip
    from pip._vendor import tomli as tomllib  # type: ignore[no-redef]


def requirements(project: dict, extras: list[str]) -> list[str]:
    """Return the requirements of the extras; ``""`` stands for those of the package itself."""
    found: list[str] = []
    for extra in extras:
        listed = project["optional-dependencies"][extra] if extra else project["dependencies"]
        for requirement in listed:
            own = re.fullmatch(rf"{project['name']}\[(.*)\]", requirement)
            found += requirements(project, own[1].split(",")) if own else [requirement]
    return found


if __name__ == "__main__":
    text = Path(__file__).parent.parent.joinpath("pyproject.toml").read_text(encoding="utf-8")
    print(
        "\n".join(dict.fromkeys(requirements(tomllib.loads(text)["project"], ["", *sys.argv[1:]])))
    )
