"""Journals: what each process of a run writes down, one JSON object a line, and how it is read.

A line is one ``write`` to a file opened for appending, so a process that is killed loses at most
the line that it was writing, and threads of one process may share a journal. Every line has ``t``,
nanoseconds of CLOCK_MONOTONIC (one clock for all processes of a machine), and ``k``, its kind.
Which kinds there are, and their fields, is in ``docs/chaos.md``; ``history`` gives them types.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from collectives.errors import CollectiveError

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


class DamagedJournal(CollectiveError):
    """A journal holds a line that no writer wrote; the message names file and line."""


@dataclasses.dataclass(frozen=True, order=True)
class View:
    """A view as a peer saw it. Views of a run are ordered by (term, number).

    Attributes:
        term: of the coordinator that issued it.
        number: raised by every change of members.
        members: (id as hexadecimal digits, name in the group), by rank.
    """

    term: int
    number: int
    members: tuple[tuple[str, str], ...] = dataclasses.field(compare=False)

    @property
    def ids(self) -> frozenset[str]:
        """The members' ids."""
        return frozenset(member for member, _ in self.members)

    @property
    def names(self) -> tuple[str, ...]:
        """The members' names, by rank."""
        return tuple(name for _, name in self.members)

    def to_json(self) -> dict[str, Any]:
        """As a line holds it."""
        members = [list(member) for member in self.members]
        return {"term": self.term, "number": self.number, "members": members}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> View:
        """From what a line holds."""
        members = tuple((member, name) for member, name in fields["members"])
        return cls(fields["term"], fields["number"], members)


class Line(NamedTuple):
    """One line of a journal.

    Attributes:
        number: in its file, from 1.
        t: nanoseconds of the machine's monotonic clock.
        kind: what the other fields are.
        fields: all of them, ``t`` and ``k`` too.
    """

    number: int
    t: int
    kind: str
    fields: dict[str, Any]


class Journal:
    """A journal being written.

    Args:
        path: the file; it is made if it is not there, and appended to if it is.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o644)

    def write(self, kind: str, /, *, t: int | None = None, **fields: Any) -> None:
        """Append a line.

        Args:
            kind: its ``k``.
            t: nanoseconds of CLOCK_MONOTONIC; None: now.
            fields: the rest; a ``View`` is written as its JSON.

        Raises:
            OSError: the disk did not take all of it.
        """
        line: dict[str, Any] = {"t": time.monotonic_ns() if t is None else t, "k": kind}
        for key, value in fields.items():
            line[key] = value.to_json() if isinstance(value, View) else value
        data = (_encode(line) + "\n").encode()
        written = os.write(self._fd, data)
        if written != len(data):
            raise OSError(f"{self.path}: the disk took {written} of {len(data)} bytes of a line")

    def close(self) -> None:
        """Close the file; the journal is not to be written to any more."""
        os.close(self._fd)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read(path: str | os.PathLike[str]) -> Iterator[Line]:
    """The lines of a journal, in order.

    A last line without its end is left out: its writer was killed.

    Raises:
        DamagedJournal: another line is no JSON object with ``t`` and ``k``.
    """
    with Path(path).open("rb") as file:
        for number, data in enumerate(file, 1):
            if not data.endswith(b"\n"):
                return
            try:
                fields = json.loads(data)
                line = Line(number, fields["t"], fields["k"], fields)
            except (ValueError, KeyError, TypeError) as error:
                raise DamagedJournal(
                    f"{path}, line {number} is damaged ({error!r}); a killed writer leaves at most"
                    " an unfinished last line, so the run folder was changed or the disk is bad"
                ) from None
            yield line


AND_MORE = " and more"
"""At the end of a codec: bits depend on what was lost earlier, or on the operation's number."""


def digest(data: Any) -> str:
    """XXH3-64 of contiguous bytes (``bytes``, a numpy array), 16 hexadecimal digits."""
    return xxhash.xxh3_64_hexdigest(data)


def digest_of_all(digests: Sequence[str]) -> str:
    """One digest of several, in their order."""
    return digest("\n".join(digests).encode())
