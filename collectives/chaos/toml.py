"""TOML in and out, for the few shapes that a scenario has."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from collectives.errors import InvalidArgument

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def loads(text: str) -> dict[str, Any]:
    """Return what the text says.

    Raises:
        InvalidArgument: it is not TOML; the message names line and column.
    """
    try:
        found: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgument(f"this is not TOML: {error}") from None
    return found


def dumps(document: Mapping[str, Any]) -> str:
    """Write values first, then tables, then tables of tables."""
    lines: list[str] = []
    _table(lines, "", document)
    return "\n".join(lines).strip() + "\n"


def _table(lines: list[str], path: str, table: Mapping[str, Any]) -> None:
    inner = {key: value for key, value in table.items() if _own_header(path, value)}
    for key, value in table.items():
        if key not in inner:
            lines.append(f"{key} = {_value(value)}")
    for key, value in inner.items():
        name = f"{path}.{key}" if path else key
        for element in value if isinstance(value, list) else [value]:
            lines += ["", f"[[{name}]]" if isinstance(value, list) else f"[{name}]"]
            _table(lines, name, element)


def _own_header(path: str, value: Any) -> bool:
    # Tables within tables are short, and stay in their line.
    if isinstance(value, Mapping):
        return not path
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)


def _value(value: Any) -> str:
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for DEL, which JSON leaves as it is.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(each)}" for key, each in value.items()) + " }"
    return "[" + ", ".join(map(_value, value)) + "]"
