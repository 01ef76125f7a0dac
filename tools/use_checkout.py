"""Make this Python import the checkout, and give it the ``collectives`` command.

A path file does what an editable install would, without building anything a second time: the
libraries lie in the source tree, where ``make build`` puts them.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

COMMAND = """#!{python}
import sys

from collectives.cli.main import main

# The bench's ranks import this file again.
if __name__ == "__main__":
    sys.exit(main())
"""

ROOT = Path(__file__).resolve().parent.parent


def write(path: Path, text: str) -> None:
    """Write the file if its content differs."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def main() -> None:
    """Write the path file and the command into the running interpreter's environment."""
    write(Path(sysconfig.get_path("purelib")) / "collectives_checkout.pth", f"{ROOT}\n")
    command = Path(sysconfig.get_path("scripts")) / "collectives"
    write(command, COMMAND.format(python=sys.executable))
    command.chmod(0o755)


if __name__ == "__main__":
    main()
