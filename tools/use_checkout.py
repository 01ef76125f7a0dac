"""Make this Python import the checkout, and give it the ``collectives`` command.

A path file does what an editable install would, without building anything a second time: the
libraries lie in the source tree, where ``make build`` puts them. What others find by the package's
metadata (``import torch`` its entry point, pip the package) is written beside it.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
from pathlib import Path

try:
    import tomllib
except ImportError:  # Python 3.10; every environment that the Makefile makes has pip
    from pip._vendor import tomli as tomllib  # type: ignore[no-redef]

COMMAND = """#!{python}
import sys

from collectives.cli.main import main

# The bench's ranks import this file again.
if __name__ == "__main__":
    sys.exit(main())
"""

ROOT = Path(__file__).resolve().parent.parent
INSTALLER = "tools/use_checkout.py\n"


def write(path: Path, text: str) -> None:
    """Write the file if its content differs."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


def metadata(project: dict, version: str) -> dict[str, str]:
    """Return the files of the package's metadata that other programs read, by name."""
    groups = {"console_scripts": project["scripts"], **project.get("entry-points", {})}
    points = "\n".join(
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in groups.items()
    )
    name = project["name"]
    return {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        "entry_points.txt": points,
        "INSTALLER": INSTALLER,
    }


def use_metadata(site: Path, written: list[Path]) -> None:
    """Write the metadata into an environment, unless the package is installed there besides."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    source = (ROOT / "collectives" / "_version.py").read_text(encoding="utf-8")
    [version] = re.findall(r'__version__ = "(.+)"', source)
    folder = site / f"collectives-{version}.dist-info"
    for installer in site.glob("collectives-*.dist-info/INSTALLER"):
        if installer.read_text(encoding="utf-8") != INSTALLER:
            return
        if installer.parent != folder:  # of an earlier version of this checkout
            shutil.rmtree(installer.parent)
    for file, content in metadata(tomllib.loads(text)["project"], version).items():
        write(folder / file, content)
        written.append(folder / file)
    # By which pip takes all of it away again.
    names = "".join(f"{os.path.relpath(path, site)},,\n" for path in written)
    write(folder / "RECORD", f"{names}{folder.name}/RECORD,,\n")


def main() -> None:
    """Write the path file, the command and the metadata into the environment of this Python."""
    site = Path(sysconfig.get_path("purelib"))
    paths = site / "collectives_checkout.pth"
    write(paths, f"{ROOT}\n")
    command = Path(sysconfig.get_path("scripts")) / "collectives"
    write(command, COMMAND.format(python=sys.executable))
    command.chmod(0o755)
    use_metadata(site, [paths, command])


if __name__ == "__main__":
    main()
