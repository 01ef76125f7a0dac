"""Reading an input as a script: numbers that are small or famous, and zeros past its end.

Also values for the fields of messages, most of them as they should be.
"""

from __future__ import annotations

import uuid
from typing import Any

from collectives.membership.fields import Bytes, Field, Flag, Int, ListOf, Record, Text, Uuid

BORDERS = (
    2**64 - 1, 2**64, 2**63, 2**63 - 1, 2**32 - 1, 2**32, 2**31, -1,
    2**16 - 1, 2**16, 1024, 1025, 20_000, 255, 256, 0,
)  # fmt: skip
ODD = (None, True, -1, 1.5, "", b"", [], {}, "a\x1b", "\ud800", [[]], {"a": 1})
IDS = tuple(uuid.UUID(int=i + 1) for i in range(6))


class Script:
    """What is left of an input."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def __bool__(self) -> bool:
        return self.at < len(self.data)

    def byte(self) -> int:
        if self.at >= len(self.data):
            return 0
        self.at += 1
        return self.data[self.at - 1]

    def number(self) -> int:
        first = self.byte()
        if first < 0xE0:
            return first
        if first < 0xF0:
            return (first & 15) << 8 | self.byte()
        return BORDERS[first & 15]

    def near(self, base: int) -> int:
        """The base, most often; else a number near to it, or any."""
        first = self.byte()
        if first < 0xC0:
            return base
        return base + first - 0xD8 if first < 0xF0 else max(0, BORDERS[first & 15])

    def bytes(self, length: int) -> bytes:
        part = self.data[self.at : self.at + length]
        self.at += length
        return part.ljust(length, b"\0")

    def peer(self) -> uuid.UUID:
        return IDS[self.byte() % len(IDS)]


def raw(field: Field, script: Script, odd: bool = True) -> Any:
    """A value of a field as it travels; with ``odd`` sometimes one that must be refused."""
    if odd and script.byte() >= 0xF0:
        return ODD[script.byte() % len(ODD)]
    if isinstance(field, Int):
        number = script.number()
        return number if odd else min(max(number, field.low), field.high)
    if isinstance(field, Flag):
        return script.byte() % 2 == 1
    if isinstance(field, Text):
        length = script.number() if odd else script.byte() % 8 + (not field.empty)
        return "n" + "abc é\u2028"[script.byte() % 6] * (min(length, 2000) - 1) if length else ""
    if isinstance(field, Bytes):
        length = field.low + (script.number() if odd else 0)
        return script.bytes(min(length, 2000))
    if isinstance(field, Uuid):
        return script.peer().bytes
    if isinstance(field, ListOf):
        return [raw(field.item, script, odd) for _ in range(script.byte() % 5)]
    assert isinstance(field, Record)
    shorter = odd and script.byte() >= 0xF8
    return [raw(part, script, odd) for part in field.parts[: -1 if shorter else None]]
