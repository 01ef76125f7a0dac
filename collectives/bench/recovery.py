"""How long a death costs: from a SIGKILL to the end of the all-reduce that it interrupted.

Two members stay; a third one is killed again and again in the middle of a 16 MiB all-reduce, and a
new one is admitted in its place.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

import collectives
from collectives.errors import CollectiveError

BYTES = 16 << 20
_DEADLINE = 60.0


def measure(
    kills: int = 50, progress: Callable[[int], None] = lambda done: None
) -> tuple[list[float], int]:
    """Kill so many members.

    Returns:
        For each kill the seconds until the last survivor had finished, and how many of the results
        were wrong.

    Raises:
        CollectiveError: a process failed.
    """
    context = multiprocessing.get_context("spawn")
    found: list[float] = []
    wrong = 0
    with contextlib.ExitStack() as stack:
        coordinator = stack.enter_context(collectives.Coordinator("127.0.0.1:0"))

        def start(*arguments: Any) -> tuple[Connection, Any]:
            mine, theirs = context.Pipe()
            process = context.Process(
                target=_member, args=(theirs, coordinator.address, *arguments), daemon=True
            )
            process.start()
            theirs.close()
            stack.callback(process.join, 5)
            stack.callback(process.kill)
            return mine, process

        survivors = [start(index, kills) for index in range(2)]
        victim = start(2, 0)
        for kill in range(kills):
            # Started early, so that its start-up is nobody's waiting time; it joins when told to.
            following = start(3 + kill, 0)
            victim[0].send("go")
            killed = _last_words(victim[0])
            victim = following
            ends = [_answer(pipe) for pipe, _ in survivors]
            found.append(max(when for when, _ in ends) - killed)
            wrong += sum(bad for _, bad in ends)
            progress(kill + 1)
    return found, wrong


def _last_words(pipe: Connection) -> float:
    """When the victim, at the moment of its death, wrote a line straight into its pipe."""
    if not pipe.poll(_DEADLINE) or not os.read(pipe.fileno(), 64):
        raise CollectiveError("a victim ended before its time")
    return time.monotonic()


def _answer(pipe: Connection) -> tuple[float, int]:
    if not pipe.poll(_DEADLINE):
        raise CollectiveError(f"a member did not answer within {_DEADLINE:g} s")
    try:
        answer: tuple[float, int] = pipe.recv()
    except EOFError:
        raise CollectiveError("a member ended without an answer; its words are above") from None
    return answer


def _member(pipe: Connection, address: str, index: int, rounds: int) -> None:
    options = collectives.Options(bind=("127.0.0.1",))
    array = np.empty(BYTES // 4, np.float32)
    if not rounds:
        pipe.recv()
    group = collectives.join(address, name=f"m{index}", min_size=2, options=options)
    if rounds:
        for _ in range(rounds):
            pipe.send(_survive(group, array))
        group.leave()
        return
    while group.size < 3:
        group.sync()
    group.barrier()
    array[:] = 1
    group._fault_at("all_gather", 0, journal_fd=pipe.fileno(), after_slices=5)
    group.all_reduce(array)


def _survive(group: collectives.Group, array: Any) -> tuple[float, int]:
    """Wait for the third member, and finish the all-reduce in which it dies."""
    while group.size < 3:
        group.sync()
    group.barrier()
    array[:] = 1
    result = group.all_reduce(array)
    when = time.monotonic()
    wrong = np.count_nonzero(array != len(result.contributors))
    if len(result.contributors) != 2:
        raise CollectiveError(f"{len(result.contributors)} took part, though one had died")
    return when, int(wrong)
