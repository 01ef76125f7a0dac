"""Real peer processes for tests: each runs functions of the test modules on its own Group.

    with Crew(3) as crew:
        outcomes = crew.run(some_function, argument)   # some_function(group, argument) everywhere
        assert [o.value for o in outcomes] == [...]

A process is forked from an interpreter that has imported everything (nursery.py), and told what to
call over a socket pair. Every wait has a deadline, and leaving the block ends every process by its
id.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import logging
import multiprocessing.connection
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import collectives
from nursery import Nursery, shared

DEADLINE = 30.0


@dataclasses.dataclass
class Outcome:
    """What a call returned or raised in one process."""

    value: Any = None
    error: str = ""  # the exception's class name, "" if none
    message: str = ""
    trace: str = ""
    seconds: float = 0.0

    def get(self) -> Any:
        assert not self.error, self.trace
        return self.value


class Member:
    """One process of a crew."""

    def __init__(
        self,
        index: int,
        environment: dict[str, str] | None = None,
        nursery: Nursery | None = None,
    ) -> None:
        self.index = index
        self.process = (nursery or shared()).child(serve, environment=environment)
        self._pipe = self.process.connection
        self._owed = 0

    @property
    def pid(self) -> int:
        return self.process.pid

    def start(self, function: Callable[..., Any] | str, *arguments: Any) -> None:
        """Have ``function(group, *arguments)`` called; ``result`` gets its outcome."""
        if not isinstance(function, str):
            function = f"{function.__module__}:{function.__qualname__}"
        self._pipe.send((function, arguments))
        self._owed += 1

    def result(self, timeout: float = DEADLINE) -> Outcome:
        """The outcome of the oldest call that was started and not fetched."""
        if not self._pipe.poll(timeout):
            raise AssertionError(f"process {self.index} did not answer within {timeout} s")
        self._owed -= 1
        try:
            return self._pipe.recv()
        except EOFError:
            return Outcome(error="Died", message=f"exit status {self.process.wait(5)}")

    def signal(self, number: int) -> None:
        self.process.signal(number)

    def kill(self) -> None:
        self.process.kill()

    def end(self) -> None:
        """Wait until it has left, or make it."""
        self._pipe.close()
        self.process.gone(5)
        self.process.close()


class Crew:
    """``size`` processes in one group, with a coordinator in this process.

    Args:
        size: how many.
        options: keyword arguments of ``collectives.Options``; a sequence: one per process.
        join: further keyword arguments of ``collectives.join``.
        token: the run's.
        environment: further variables of the processes.
        joiner: what each process calls to join; as ``crew:join``.
        modules: what the processes have imported from the start.
    """

    def __init__(
        self,
        size: int,
        options: dict[str, Any] | Sequence[dict[str, Any]] | None = None,
        join: dict[str, Any] | None = None,
        token: str | None = None,
        environment: dict[str, str] | None = None,
        joiner: str = "crew:join",
        modules: tuple[str, ...] = (),
    ) -> None:
        self.size = size
        self._joiner = joiner
        self._options = options or {}
        self._join = join or {}
        self._environment = environment
        self._nursery = shared(*modules)
        self.coordinator = collectives.Coordinator("127.0.0.1:0", token=token)
        self._token = token
        self.members: list[Member] = []

    def add(self, **join: Any) -> Member:
        """Start one more process and have it join; ``result()`` of the member tells the rank."""
        member = Member(len(self.members), self._environment, self._nursery)
        self.members.append(member)
        options = self._options
        if not isinstance(options, dict):
            options = options[member.index]
        arguments = {
            "name": f"p{member.index}",
            "min_size": self.size,
            "timeout": DEADLINE,
            "token": self._token,
            **self._join,
            **join,
        }
        member.start(self._joiner, self.coordinator.address, arguments, options)
        return member

    def __enter__(self) -> Crew:
        self.coordinator.__enter__()
        try:
            for _ in range(self.size):
                self.add()
            ranks = [member.result().get() for member in self.members]
            # Processes are indexed by rank from here on.
            self.members = [self.members[ranks.index(rank)] for rank in range(self.size)]
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members:
            with contextlib.suppress(OSError):
                member.signal(signal.SIGCONT)
        for member in self.members:
            member._pipe.close()  # all at once: they leave together
        for member in self.members:
            member.end()
        self.coordinator.__exit__(None, None, None)

    def run(
        self, function: Callable[..., Any] | str, *arguments: Any, timeout: float = DEADLINE
    ) -> list[Outcome]:
        """Call ``function(group, *arguments)`` in every process at once; outcomes by rank."""
        for member in self.members:
            member.start(function, *arguments)
        deadline = time.monotonic() + timeout
        return [member.result(max(0.0, deadline - time.monotonic())) for member in self.members]

    def get(self, function: Callable[..., Any] | str, *arguments: Any, **options: Any) -> list[Any]:
        """As ``run``, but the values; an error anywhere fails the test."""
        return [outcome.get() for outcome in self.run(function, *arguments, **options)]


# ---- the process -----------------------------------------------------------------------------

_group: collectives.Group | None = None


def join(_: None, address: str, arguments: dict[str, Any], options: dict[str, Any]) -> int:
    global _group
    _group = collectives.join(address, options=collectives.Options(**options), **arguments)
    return _group.rank


def sync(group: collectives.Group, *arguments: Any) -> collectives.SyncOutcome:
    return group.sync(*arguments)


def leave(group: collectives.Group) -> None:
    group.leave()


def serve(pipe: multiprocessing.connection.Connection) -> None:
    logging.basicConfig(level=os.environ.get("CREW_LOG", "WARNING"))
    while True:
        try:
            where, arguments = pipe.recv()
        except EOFError:
            break
        module, _, name = where.partition(":")
        began = time.monotonic()
        outcome = Outcome()
        try:
            function: Any = importlib.import_module(module)
            for part in name.split("."):
                function = getattr(function, part)
            outcome.value = function(_group, *arguments)
        except BaseException as error:
            outcome.error = type(error).__name__
            outcome.message = str(error)
            outcome.trace = traceback.format_exc()
        outcome.seconds = time.monotonic() - began
        with contextlib.suppress(BrokenPipeError):
            pipe.send(outcome)
    if _group is not None:
        _group.leave(timeout=2.0)
