# ruff: noqa: D102  (encode and decode are documented once, at Field)
"""Types of message fields: how each travels in msgpack and what of it is believed.

Everything decoded comes from outside, so each field type checks type, length and range before
a value leaves it. Used by ``messages`` alone.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable
from typing import Any, Protocol


class MalformedError(Exception):
    """Bytes that are no message of this protocol; the text says which rule they break."""


class Field(Protocol):
    """One field type."""

    def encode(self, value: Any) -> Any:
        """Value to what msgpack packs. Raises MalformedError if the value is out of bounds."""

    def decode(self, raw: Any) -> Any:
        """What msgpack unpacked to a value. Raises MalformedError."""


@dataclasses.dataclass(frozen=True)
class Int:
    """An integer within [low, high]."""

    low: int = 0
    high: int = 2**64 - 1

    def encode(self, value: Any) -> Any:
        return self.decode(value)

    def decode(self, raw: Any) -> int:
        if type(raw) is not int:  # bool is an int to isinstance
            raise MalformedError(f"is {type(raw).__name__}, not an integer")
        if not self.low <= raw <= self.high:
            raise MalformedError(f"is {raw}, outside {self.low} to {self.high}")
        return raw


@dataclasses.dataclass(frozen=True)
class Flag:
    """True or False."""

    def encode(self, value: Any) -> Any:
        return self.decode(value)

    def decode(self, raw: Any) -> bool:
        if type(raw) is not bool:
            raise MalformedError(f"is {type(raw).__name__}, not a flag")
        return raw


@dataclasses.dataclass(frozen=True)
class Text:
    """A text whose UTF-8 form has at most ``limit`` bytes.

    Control characters are refused, as these texts end up in terminals and logs.
    """

    limit: int
    empty: bool = True

    def encode(self, value: Any) -> Any:
        return self.decode(value)

    def decode(self, raw: Any) -> str:
        if type(raw) is not str:
            raise MalformedError(f"is {type(raw).__name__}, not a text")
        try:
            length = len(raw.encode())
        except UnicodeEncodeError:
            raise MalformedError("is not valid Unicode") from None
        if length > self.limit:
            raise MalformedError(f"has {length} bytes, more than {self.limit}")
        if not raw and not self.empty:
            raise MalformedError("is empty")
        if any(ord(character) < 32 or ord(character) == 127 for character in raw):
            raise MalformedError("has control characters")
        return raw


@dataclasses.dataclass(frozen=True)
class Bytes:
    """Between ``low`` and ``high`` bytes."""

    low: int
    high: int

    def encode(self, value: Any) -> Any:
        return self.decode(value)

    def decode(self, raw: Any) -> bytes:
        if type(raw) is not bytes:
            raise MalformedError(f"is {type(raw).__name__}, not bytes")
        if not self.low <= len(raw) <= self.high:
            raise MalformedError(f"has {len(raw)} bytes, outside {self.low} to {self.high}")
        return raw


@dataclasses.dataclass(frozen=True)
class Uuid:
    """A UUID, 16 bytes on the wire."""

    def encode(self, value: Any) -> Any:
        if not isinstance(value, uuid.UUID):
            raise MalformedError(f"is {type(value).__name__}, not a UUID")
        return value.bytes

    def decode(self, raw: Any) -> uuid.UUID:
        return uuid.UUID(bytes=Bytes(16, 16).decode(raw))


@dataclasses.dataclass(frozen=True)
class ListOf:
    """At most ``limit`` values of one type; a tuple in Python."""

    item: Field
    limit: int

    def encode(self, value: Any) -> Any:
        if len(value) > self.limit:
            raise MalformedError(f"has {len(value)} entries, more than {self.limit}")
        return [self.item.encode(entry) for entry in value]

    def decode(self, raw: Any) -> tuple[Any, ...]:
        if type(raw) is not list:
            raise MalformedError(f"is {type(raw).__name__}, not a list")
        if len(raw) > self.limit:
            raise MalformedError(f"has {len(raw)} entries, more than {self.limit}")
        return tuple(self.item.decode(entry) for entry in raw)


@dataclasses.dataclass(frozen=True)
class Record:
    """A fixed sequence of fields; more of them, from a newer version, are ignored.

    An older version sends at least the first ``required`` (None: all); ``build`` has defaults for
    the others.
    """

    parts: tuple[Field, ...]
    take: Callable[[Any], tuple[Any, ...]]
    build: Callable[..., Any]
    required: int | None = None

    def encode(self, value: Any) -> Any:
        values = self.take(value)
        return [part.encode(entry) for part, entry in zip(self.parts, values, strict=True)]

    def decode(self, raw: Any) -> Any:
        required = len(self.parts) if self.required is None else self.required
        if type(raw) is not list or len(raw) < required:
            raise MalformedError(f"is not a list of at least {required} entries")
        return self.build(
            *(part.decode(entry) for part, entry in zip(self.parts, raw, strict=False))
        )
