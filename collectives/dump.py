"""What was going on when a call raised, as a JSON file.

The operations in flight and who was seen in them. ``Group`` writes one for each error that breaks
it; reading them is left to people.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import re
from collections import deque
from pathlib import Path
from typing import Any

from collectives.errors import CollectiveError
from collectives.membership.view import View
from collectives.options import Options

DUMP_VARIABLE = "COLLECTIVES_DUMP"
KEPT = 16
"""Files that one group leaves behind at most."""

logger = logging.getLogger("collectives.dump")


class Dumps:
    """The dumps of one group in one process.

    Args:
        directory: where they go; made when the first is written.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._written: deque[Path] = deque()
        self._count = 0

    @classmethod
    def of(cls, options: Options) -> Dumps | None:
        """Those that the options or the environment ask for; None: nobody does."""
        directory = options.dump or os.environ.get(DUMP_VARIABLE)
        return cls(Path(directory)) if directory else None

    def write(
        self,
        error: CollectiveError,
        view: View,
        rank: int,
        operations: list[dict[str, Any]],
        history: list[dict[str, Any]] | None = None,
    ) -> None:
        """Write one, and remove this group's oldest beyond 16.

        ``operations`` are those in flight and those that failed, ``history`` what was called
        lately, where that is known.
        What goes wrong here is logged: the error that is being raised matters more.
        """
        me = view.peers[rank]
        self._count += 1
        stem = re.sub(r"[^\w.-]", "_", f"{view.group}-{me.name}-{os.getpid()}-{self._count}")
        path = self._directory / f"collectives-{stem}.json"
        content = {
            "time": datetime.datetime.now(datetime.timezone.utc).isoformat(),
            "error": type(error).__name__,
            "message": str(error),
            "outcome_unknown": error.outcome_unknown,
            "group": view.group,
            "peer": me.name,
            "pid": os.getpid(),
            "view": {
                "term": view.term,
                "number": view.number,
                "rank": rank,
                "peers": [peer.name for peer in view.peers],
            },
            "operations": operations,
            **({} if history is None else {"history": history}),
        }
        half = path.with_suffix(".part")
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            half.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            half.replace(path)  # nobody finds half a file
            self._written.append(path)
            while len(self._written) > KEPT:
                self._written.popleft().unlink(missing_ok=True)
        except OSError as problem:
            logger.warning("cannot write %s: %s", path, problem)
        else:
            logger.info("the operations in flight are in %s", path)
