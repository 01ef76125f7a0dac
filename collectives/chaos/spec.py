"""Values that a scenario is made of: what each may be, in a table row, and the error if it is not.

``faults``, ``rates`` and ``scenario`` describe their settings as ``Parameter``s; parsing, checking,
writing, drawing at random and the reference are all made from those rows. Nothing here knows what
a setting means.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from collectives.errors import InvalidArgument

EVERYBODY = "*"  # everybody else
RANDOM = "random"  # drawn by the seed
COORDINATOR = "coordinator"
# As in collectives.chaos.profiles, and "direct": no proxy at all. A test compares them.
PROFILES = ("direct", "unshaped", "lan", "gigabit", "wifi", "dsl", "transatlantic", "lossy", "5g")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
# type: what it is called in messages, least and greatest value, whether the least is allowed
_NUMBERS: dict[str, tuple[str, float, float, bool]] = {
    "seconds": ("a number of seconds above 0", 0, 1e7, False),
    "moment": ("a number of seconds, 0 or more", 0, 1e7, True),
    "share": ("a number above 0, at most 1", 0, 1, False),
    "portion": ("a number from 0 to 1", 0, 1, True),
    "bits": ("a number of bit/s above 0", 0, 1e13, False),
    "rate": ("a number per minute, 0 or more", 0, 1e5, True),
}


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One setting.

    Attributes:
        name: in TOML; the attribute has the same name, but for ``for``, which is ``lasting``.
        type: ``"seconds"``, ``"moment"``, ``"share"``, ``"portion"``, ``"bits"``, ``"rate"``
            (float); ``"count"``, ``"number"`` (int from 1, from 0); ``"flag"``; ``"text"``,
            ``"texts"``; ``"choice"``; ``"peer"`` (a name); ``"side"`` (one or several names).
        about: what it is, for the reference.
        default: if it is not given; None: it has none.
        required: whether it must be given.
        choices: of a choice.
        drawn: in a mix: from where to where, evenly on a logarithmic scale; None: it stays unset.
    """

    name: str
    type: str
    about: str
    default: Any = None
    required: bool = False
    choices: tuple[str, ...] = ()
    drawn: tuple[float, float] | None = None

    @property
    def attribute(self) -> str:
        """Its name in Python."""
        return "lasting" if self.name == "for" else self.name

    @property
    def is_number(self) -> bool:
        """Whether a mix can draw it from a range."""
        return self.type in _NUMBERS or self.type in ("count", "number")

    def take(self, value: Any) -> Any:
        """Return the value as it is kept: floats for times, tuples for lists.

        Raises:
            InvalidArgument: it is of another type, or out of its range.
        """
        if value is None:
            if self.required:
                raise InvalidArgument(f"{self.name} is missing: {self.about}")
            return self.default
        taken, wanted = self._convert(value)
        if taken is None:
            raise InvalidArgument(f"{self.name} is {value!r}; it must be {wanted} ({self.about})")
        return taken

    def _convert(self, value: Any) -> tuple[Any, str]:
        if self.type in _NUMBERS:
            wanted, low, high, closed = _NUMBERS[self.type]
            fits = is_number(value) and (low < value <= high or (closed and value == low))
            return (float(value) if fits else None), wanted
        if self.type in ("count", "number"):
            low = 1 if self.type == "count" else 0
            fits = isinstance(value, int) and not isinstance(value, bool) and low <= value < 2**31
            return (value if fits else None), f"a whole number, {low:g} or more"
        if self.type == "flag":
            return (value if isinstance(value, bool) else None), "true or false"
        if self.type == "choice":
            if isinstance(value, str) and value in self.choices:
                return value, ""
            hint = nearest(str(value), self.choices)
            return None, f"one of {listed(self.choices)}{hint}"
        if self.type == "peer":
            return (value if is_name(value) else None), "a name of letters, digits, - and _"
        if self.type == "side":
            names = (value,) if isinstance(value, str) else value
            fits = isinstance(names, (list, tuple)) and names
            fits = fits and all(name == EVERYBODY or is_name(name) for name in names)
            return (tuple(names) if fits else None), "a name or a list of names"
        if self.type == "texts":
            fits = isinstance(value, (list, tuple)) and all(map(is_text, value))
            return (tuple(value) if fits else None), "a list of texts"
        return (value if is_text(value) else None), "a text"


def settle(
    thing: Any, parameters: Iterable[Parameter], kind: str = "", apart: tuple[str, ...] = ()
) -> None:
    """Check a frozen dataclass's attributes by these rows, and set what is left out.

    Args:
        thing: where it has a kind, its attributes that are in no row must be None.
        parameters: of its kind.
        kind: for messages; empty: the class has one kind only.
        apart: attributes that are checked elsewhere.
    """
    rows = {row.attribute: row for row in parameters}
    for field in dataclasses.fields(thing):
        value = getattr(thing, field.name)
        if field.name in rows:
            object.__setattr__(thing, field.name, rows[field.name].take(value))
        elif kind and field.name not in apart and value is not None:
            key = "for" if field.name == "lasting" else field.name
            raise InvalidArgument(
                f"a {kind} has no {key!r}; it has {listed(row.name for row in rows.values())}"
            )


def known(table: Mapping[str, Any], names: Iterable[str]) -> None:
    """Check that a table has no key but these.

    Raises:
        InvalidArgument: it names the key, and the one that was probably meant.
    """
    names = tuple(names)
    for key in table:
        if key not in names:
            raise InvalidArgument(
                f"{key!r} is no key here{nearest(key, names)}; there are {listed(names)}"
            )


def plain(thing: Any, parameters: Iterable[Parameter]) -> dict[str, Any]:
    """Return what was set other than its default, as TOML has it."""
    found: dict[str, Any] = {}
    for row in parameters:
        value = getattr(thing, row.attribute)
        if value is None or (value == row.default and not row.required):
            continue
        if row.type == "side" and len(value) == 1:
            value = value[0]
        found[row.name] = list(value) if isinstance(value, tuple) else value
    return found


@contextlib.contextmanager
def within(where: str) -> Iterator[None]:
    """Say in every error in this block where it is."""
    try:
        yield
    except InvalidArgument as error:
        raise InvalidArgument(f"{where}: {error}") from None


def nearest(word: str, words: Iterable[str]) -> str:
    """Return ``, perhaps 'x'`` if one of the words is like this one, else nothing."""
    found = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f", perhaps {found[0]!r}" if found else ""


def listed(words: Iterable[str]) -> str:
    """Return words as a sentence has them."""
    return ", ".join(words) or "none"


def is_number(value: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_name(value: Any) -> bool:
    """Whether it can name a peer, a host or a site."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def is_text(value: Any) -> bool:
    """Whether a file can hold it."""
    return isinstance(value, str) and not re.search(r"[\ud800-\udfff]", value)
