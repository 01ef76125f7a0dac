"""A document as TOML has it, read into what ``Scenario`` is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from collectives.chaos.faults import fault_from
from collectives.chaos.parts import BETWEEN, LINKS, PLACE, Between, Links, Place, Workload, places
from collectives.chaos.rates import Mix
from collectives.chaos.spec import Parameter, known, within
from collectives.errors import InvalidArgument
from collectives.options import Options

SETTINGS = (
    Parameter("name", "peer", "by which the scenario is found", required=True),
    Parameter("about", "text", "a sentence: what it is modelled on", default=""),
    Parameter("min_size", "count", "fewer peers than this end the run", default=1),
    Parameter("duration", "seconds", "how long the work goes on", default=20.0),
    Parameter("rounds", "count", "steps of the work after which it ends earlier"),
    Parameter("seed", "number", "of what is drawn; else the caller's"),
    Parameter("journal", "flag", "whether the coordinator keeps one", default=True),
)
_TABLES = ("peers", "peer", "workload", "options", "links", "fault", "mix")
_PEERS = Parameter("peers", "count", "how many there are", default=4)


def arguments(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``Scenario``.

    Raises:
        InvalidArgument: it says at which key, and what would be right.
    """
    known(document, [*(row.name for row in SETTINGS), *_TABLES])
    given: dict[str, Any] = {
        row.name: document[row.name] for row in SETTINGS if row.name in document
    }
    if "name" not in given:
        raise InvalidArgument('name is missing; write name = "..." in the first line')
    given["peers"] = _peers(document)
    with within("[workload]"):
        given["workload"] = Workload.from_table(_table(document, "workload"))
    with within("[options]"):
        given["options"] = _options(_table(document, "options"))
    with within("[links]"):
        table = _table(document, "links")
        known(table, [*(row.name for row in LINKS), "between"])
        between = []
        for number, each in enumerate(_tables(table, "between"), 1):
            with within(f"between, number {number}"):
                between.append(Between(**_all(each, BETWEEN)))
        settings: dict[str, Any] = {row.attribute: table.get(row.name) for row in LINKS}
        given["links"] = Links(between=tuple(between), **settings)
    faults = []
    for number, each in enumerate(_tables(document, "fault"), 1):
        with within(f"[[fault]] number {number}"):
            faults.append(fault_from(each))
    given["faults"] = tuple(faults)
    if "mix" in document:
        with within("[mix]"):
            given["mix"] = Mix.from_table(_table(document, "mix"))
    return given


def _peers(document: Mapping[str, Any]) -> tuple[Place, ...]:
    if "peer" in document:
        if "peers" in document:
            raise InvalidArgument("there are 'peers' and [[peer]]; only one of them can say who")
        found = []
        for number, each in enumerate(_tables(document, "peer"), 1):
            with within(f"[[peer]] number {number}"):
                found.append(Place(**_all(each, PLACE)))
        return tuple(found)
    return places(_PEERS.take(document.get("peers")))


def plain_options(options: Options) -> dict[str, Any]:
    """Return what is set other than its default, as TOML has it."""
    usual = Options()
    return {
        field.name: False if value is None else list(value) if type(value) is tuple else value
        for field in dataclasses.fields(Options)
        if (value := getattr(options, field.name)) != getattr(usual, field.name)
    }


def _options(table: Mapping[str, Any]) -> Options:
    annotations = {field.name: str(field.type) for field in dataclasses.fields(Options)}
    known(table, annotations)
    given: dict[str, Any] = {}
    for name, value in table.items():
        wanted = annotations[name]
        if "tuple" in wanted:
            fits = isinstance(value, list)
        elif "bool" in wanted:
            fits = isinstance(value, bool)
        elif "str" in wanted:
            fits = isinstance(value, str)
        else:
            kinds = (int, float) if "float" in wanted else (int,)
            fits = isinstance(value, kinds) and not isinstance(value, bool)
        if value is False and "None" in wanted:  # TOML has no word for nothing
            given[name] = None
        elif not fits:
            raise InvalidArgument(f"{name} is {value!r}; it must be {wanted}, as in Options")
        else:
            given[name] = tuple(value) if isinstance(value, list) else value
    return Options(**given)


def _all(table: Mapping[str, Any], rows: tuple[Parameter, ...]) -> dict[str, Any]:
    known(table, [row.name for row in rows])
    return {row.attribute: table.get(row.name) for row in rows}


def _table(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    table = document.get(key, {})
    if not isinstance(table, dict):
        raise InvalidArgument(f"{key} is {table!r}; it must be a table, [{key}]")
    return table


def _tables(document: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    tables = document.get(key, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise InvalidArgument(f"{key} must be a list of tables; write [[{key}]]")
    return tables
