"""Processes that outlive a test, and a fresh group in them for each: starting an interpreter costs
half a second, joining some milliseconds.

    outcomes = pool.run(3, some_function, argument)   # some_function(group, argument) in 3 of them

Each call joins a group of its own name, so that nothing is left over from another test.
"""

from __future__ import annotations

import importlib
import itertools
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import collectives
from crew import DEADLINE, Crew, Outcome


class Pool:
    """``size`` processes and a coordinator; a context manager.

    Args:
        size: the largest group that can be asked for.
        modules: what the processes have imported from the start.
    """

    def __init__(self, size: int, *modules: str) -> None:
        self.crew = Crew(size, modules=modules)
        self._numbers = itertools.count(1)

    def __enter__(self) -> Pool:
        self.crew.__enter__()
        return self

    def __exit__(self, *what: object) -> None:
        self.crew.__exit__(*what)

    def start(
        self,
        size: int,
        function: Callable[..., Any],
        *arguments: Any,
        options: dict[str, Any] | Sequence[dict[str, Any]] | None = None,
        timeout: float = DEADLINE,
    ) -> None:
        """Have ``function(group, *arguments)`` called in ``size`` processes, in a new group."""
        name = f"g{next(self._numbers)}"
        for index, member in enumerate(self.crew.members[:size]):
            mine = options or {}
            if not isinstance(mine, dict):
                mine = mine[index]
            where = f"{function.__module__}:{function.__qualname__}"
            member.start(inside, self.crew.coordinator.address, name, size, mine, where, arguments)

    def results(self, size: int, timeout: float = DEADLINE) -> list[Outcome]:
        """What the calls that ``start`` began came to, by rank in the new group."""
        deadline = time.monotonic() + timeout
        outcomes: dict[int, Outcome] = {}
        for member in self.crew.members[:size]:
            rank, outcome = member.result(max(0.0, deadline - time.monotonic())).get()
            outcomes[rank] = outcome
        return [outcomes[rank] for rank in range(size)]

    def run(
        self,
        size: int,
        function: Callable[..., Any],
        *arguments: Any,
        options: dict[str, Any] | Sequence[dict[str, Any]] | None = None,
        timeout: float = DEADLINE,
    ) -> list[Outcome]:
        """``start`` and ``results``."""
        self.start(size, function, *arguments, options=options, timeout=timeout)
        return self.results(size, timeout)

    def get(
        self, size: int, function: Callable[..., Any], *arguments: Any, **how: Any
    ) -> list[Any]:
        """As ``run``, but the values; an error anywhere fails the test, and all are shown."""
        outcomes = self.run(size, function, *arguments, **how)
        traces = [f"rank {rank}: {outcome.trace}" for rank, outcome in enumerate(outcomes)]
        assert not any(outcome.error for outcome in outcomes), "\n".join(traces)
        return [outcome.value for outcome in outcomes]


# ---- in the process ----------------------------------------------------------------------------


def inside(
    _: collectives.Group,
    address: str,
    name: str,
    size: int,
    options: dict[str, Any],
    where: str,
    arguments: tuple[Any, ...],
) -> tuple[int, Outcome]:
    module, _, function = where.partition(":")
    call = importlib.import_module(module)
    for part in function.split("."):
        call = getattr(call, part)
    group = collectives.join(
        address,
        group=name,
        min_size=size,
        timeout=DEADLINE,
        options=collectives.Options(**options),
    )
    rank = group.rank
    outcome = Outcome()
    began = time.monotonic()
    try:
        outcome.value = call(group, *arguments)
    except BaseException as error:
        outcome.error = type(error).__name__
        outcome.message = str(error)
        outcome.trace = traceback.format_exc()
    outcome.seconds = time.monotonic() - began
    group.leave(timeout=3.0)
    return rank, outcome
