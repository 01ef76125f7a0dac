"""``python -m collectives.cli``: the same as the ``collectives`` command."""

from __future__ import annotations

import sys

from collectives.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
