"""Which part of the coordinator's state outlives it, as plain values for the journal. Pure.

All fields of ``CoordinatorState`` and ``Group`` are durable but those named here: what is not
listed is never lost by being forgotten. A restarted coordinator learns the rest from the peers,
who repeat every request until it is answered.

Values travel by the types of their fields: data classes as maps of their fields, so that a field
added later takes its default when an older journal is read, and one that was removed is ignored.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import types
import typing
import uuid
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from collectives.membership.ledger import CoordinatorState, Departure, Group, Issued

VERSION = 1
Key = tuple[Any, ...]

_VOLATILE: Mapping[Any, frozenset[str]] = {
    CoordinatorState: frozenset(
        # Given at each start; with entries of their own; of the moment.
        (
            "token",
            "timing",
            "force",
            "plans",
            "levels",
            "groups",
            "departed",
            "routes",
            "challenges",
        )
    )
    | {"refused", "counter", "ticked"},
    Group: frozenset(
        ("reached", "preparing", "peers", "reasons", "returning", "recollections", "held")
    )
    | {"round", "rounds", "suspects", "visits", "visit"},
    Issued: frozenset(("since", "asked", "taken")),
}
_T = TypeVar("_T")


class UnreadableError(Exception):
    """The entries are no durable state that this release understands."""


def durable(state: CoordinatorState) -> dict[Key, Any]:
    """The whole durable part: ``changes`` from nothing."""
    return changes(None, state)


def changes(before: CoordinatorState | None, after: CoordinatorState) -> dict[Key, Any]:
    """The entries in which the durable parts of two states differ; None: there is none any more.

    Cheap where nothing changed, since it is asked after every message: states share what they
    have in common, so that most comparisons end at an identity.
    """
    found: dict[Key, Any] = {}
    if before is None:
        found["version",] = VERSION
    if before is None or _parts(before) != _parts(after):
        found["run",] = _encode_fields(after)
    groups = {} if before is None else before.groups
    if groups is not after.groups:
        for name, group in after.groups.items():
            old = groups.get(name)
            if old is not group and (old is None or _parts(old) != _parts(group)):
                found["group", name] = _encode_fields(group)
        found.update({("group", name): None for name in groups if name not in after.groups})
    departed = {} if before is None else before.departed
    if departed is not after.departed:
        for (name, peer), departure in after.departed.items():
            if departed.get((name, peer)) != departure:
                found["departed", name, peer.bytes] = encode(departure)
        gone = departed.keys() - after.departed.keys()
        found.update({("departed", name, peer.bytes): None for name, peer in gone})
    return found


def restore(entries: Mapping[Key, Any], blank: CoordinatorState) -> CoordinatorState:
    """The state that ``entries`` describe, with ``blank``'s values for all that is not durable.

    Nobody is registered in it: who belongs to it is for ``restart`` to say.

    Raises:
        UnreadableError: the entries make no sense to this release; the text says why.
    """
    version = entries.get(("version",))
    if type(version) is not int or version > VERSION:
        raise UnreadableError(f"they have version {version}, this release knows {VERSION}")
    try:
        fields = _decode_fields(CoordinatorState, entries["run",])
        groups: dict[str, Group] = {}
        departed: dict[tuple[str, uuid.UUID], Departure] = {}
        for key, value in entries.items():
            if key[0] == "group":
                groups[key[1]] = Group(**_decode_fields(Group, value))
            elif key[0] == "departed":
                departed[key[1], uuid.UUID(bytes=key[2])] = decode(Departure, value)
        return dataclasses.replace(blank, **fields, groups=groups, departed=departed)
    except (LookupError, TypeError, ValueError) as error:
        raise UnreadableError(f"{type(error).__name__}: {error}") from error


def _parts(value: Any) -> tuple[Any, ...]:
    kind: Any = type(value)
    parts = (getattr(value, name) for name, _ in _fields(kind))
    # What has volatile fields itself is not to be written down because of them.
    return tuple(_parts(part) if type(part) in _VOLATILE else part for part in parts)


def _encode_fields(value: Any) -> dict[str, Any]:
    kind: Any = type(value)
    return {name: encode(getattr(value, name)) for name, _ in _fields(kind)}


def _decode_fields(cls: type, raw: Mapping[str, Any]) -> dict[str, Any]:
    return {name: decode(kind, raw[name]) for name, kind in _fields(cls) if name in raw}


@functools.cache
def _fields(cls: Any) -> tuple[tuple[str, Any], ...]:
    """Names and types of the durable fields of a data class."""
    hints = typing.get_type_hints(cls)
    skipped = _VOLATILE.get(cls, frozenset())
    names = [field.name for field in dataclasses.fields(cls)]
    return tuple((name, hints[name]) for name in names if name not in skipped)


def encode(value: Any) -> Any:
    """A value as msgpack takes it."""
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    if isinstance(value, uuid.UUID):
        return value.bytes
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value):
        return _encode_fields(value)
    if isinstance(value, Mapping):
        return [(encode(key), encode(entry)) for key, entry in value.items()]
    if isinstance(value, tuple | frozenset):
        return [encode(entry) for entry in value]
    raise TypeError(f"{type(value).__name__} has no durable form")


def decode(kind: Any, raw: Any) -> Any:
    """The value of type ``kind`` that ``encode`` turned into ``raw``.

    Raises:
        TypeError, ValueError, LookupError: it is none.
    """
    return _decoder(kind)(raw)


@functools.cache
def _decoder(kind: Any) -> Callable[[Any], Any]:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        (inner,) = (part for part in arguments if part is not type(None))
        return lambda raw: None if raw is None else decode(inner, raw)
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return lambda raw: tuple(decode(arguments[0], entry) for entry in raw)
    if origin is tuple:
        return lambda raw: tuple(
            decode(part, entry) for part, entry in zip(arguments, raw, strict=True)
        )
    if origin is frozenset:
        return lambda raw: frozenset(decode(arguments[0], entry) for entry in raw)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return lambda raw: {decode(arguments[0], k): decode(arguments[1], v) for k, v in raw}
    if kind is uuid.UUID:
        return lambda raw: uuid.UUID(bytes=raw)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return lambda raw: kind(**_decode_fields(kind, raw))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind
    if kind in (bool, int, float, str, bytes):
        return lambda raw: _exactly(kind, raw)
    raise TypeError(f"{kind} has no durable form")


def _exactly(kind: type[_T], raw: Any) -> _T:
    if type(raw) is not kind:
        raise TypeError(f"{type(raw).__name__} is no {kind.__name__}")
    return raw
