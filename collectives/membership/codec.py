"""Messages as bytes, every field checked.

A message is a msgpack map ``{"p": [low, high], "k": kind, "b": {field: value}}``. This envelope
never changes: ``p`` is the range of protocol versions that the sender speaks, so that two sides
of any age can tell each other that they have none in common. Fields that a receiver does not
know are ignored; fields that it misses take their default or make the message malformed.
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import msgpack  # type: ignore[import-untyped,unused-ignore]

from collectives.membership import messages
from collectives.membership.fields import Field, ListOf, MalformedError
from collectives.membership.wire import MAX_TO_PEER, VERSION, VERSIONS, Message

_Fields = tuple[tuple[str, Field, bool], ...]


def _fields(cls: Any) -> _Fields:
    """Names, wire forms, and whether they have a default."""
    return tuple(
        (field.name, field.metadata["wire"], field.default is not dataclasses.MISSING)
        for field in dataclasses.fields(cls)
    )


KINDS: dict[str, tuple[type[Message], _Fields]] = {
    cls.kind: (cls, _fields(cls))
    for cls in vars(messages).values()
    if isinstance(cls, type) and issubclass(cls, Message) and hasattr(cls, "kind")
}
"""All kinds of messages."""


class OtherVersionError(MalformedError):
    """A well-formed envelope from a side that speaks none of our versions."""

    def __init__(self, low: int, high: int) -> None:
        super().__init__(f"speaks protocol versions {low} to {high}")
        self.low = low
        self.high = high


class UnknownKindError(MalformedError):
    """A kind of message that this build does not know."""


def encode(message: Message, *, versions: tuple[int, int] = VERSIONS) -> bytes:
    """The wire form of a message.

    Raises:
        MalformedError: a field is out of its bounds; the text names it.
    """
    _, fields = KINDS[message.kind]
    body = {}
    for name, field, _ in fields:
        try:
            body[name] = field.encode(getattr(message, name))
        except MalformedError as error:
            raise MalformedError(f"{message.kind}.{name} {error}") from None
    envelope = {"p": list(versions), "k": message.kind, "b": body}
    return cast(bytes, msgpack.packb(envelope, use_bin_type=True))


def decode(
    data: bytes, *, limit: int = MAX_TO_PEER, versions: tuple[int, int] = VERSIONS
) -> Message:
    """The message in ``data``, every field checked.

    Raises:
        OtherVersionError: the sender speaks none of ``versions``; carries the range it speaks.
        UnknownKindError: well-formed, but no kind of message that this build knows.
        MalformedError: anything else that is wrong; the text says what.
    """
    if len(data) > limit:
        raise MalformedError(f"the message has {len(data)} bytes, more than {limit}")
    try:
        envelope = msgpack.unpackb(data, raw=False, use_list=True, strict_map_key=True)
    except Exception as error:  # msgpack documents no complete list of what bad input raises
        raise MalformedError(f"not msgpack: {type(error).__name__}") from None
    if type(envelope) is not dict:
        raise MalformedError("the envelope is not a map")
    try:
        low, high = ListOf(VERSION, 2).decode(envelope.get("p"))
    except (MalformedError, ValueError):
        raise MalformedError("the envelope has no version range") from None
    if low > high:
        raise MalformedError("the version range is empty")
    if high < versions[0] or low > versions[1]:
        raise OtherVersionError(low, high)
    kind, body = envelope.get("k"), envelope.get("b")
    if type(kind) is not str or type(body) is not dict:
        raise MalformedError("the envelope has no kind or no body")
    if kind not in KINDS:
        raise UnknownKindError(f"unknown kind {kind[:40]!r}")
    cls, fields = KINDS[kind]
    values: dict[str, Any] = {}
    for name, field, has_default in fields:
        if name not in body:
            if has_default:
                continue
            raise MalformedError(f"{kind}.{name} is missing")
        try:
            values[name] = field.decode(body[name])
        except MalformedError as error:
            raise MalformedError(f"{kind}.{name} {error}") from None
    return cls(**values)
