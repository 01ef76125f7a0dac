"""What a probe of ``collectives doctor`` returns, and how cures are written."""

from __future__ import annotations

import dataclasses
import enum
import os
import shlex
import sys


class Status(enum.Enum):
    """How much a finding matters."""

    OK = "ok"
    ABSENT = "absent"  # only what is optional is lost
    LIMITED = "limited"  # it works, slower or less well
    BROKEN = "broken"  # the library does not work


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one probe found.

    Attributes:
        name: the concern, for example ``"torch"``.
        status: how much it matters.
        detail: a sentence for people: what is there, or what is lost without it.
        cure: a shell command that mends it; empty if it needs none or there is none.
    """

    name: str
    status: Status
    detail: str
    cure: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return the finding as JSON takes it."""
        return {**dataclasses.asdict(self), "status": self.status.value}


def as_root(command: str) -> str:
    """Return the command as this user has to write it."""
    return command if os.geteuid() == 0 else f"sudo {command}"


def pip_install(*requirements: str) -> str:
    """Return the command that installs requirements into the running environment."""
    return shlex.join([sys.executable, "-m", "pip", "install", *requirements])
