"""Breadth first through all states; a counter-example is a shortest one."""

from __future__ import annotations

import contextlib
import dataclasses
import time

from model.rules import Rules
from model.state import Configuration, Disagreement, State
from model.world import World

END = 0
"""The key of all states in which every survivor knows all."""


@dataclasses.dataclass
class Outcome:
    """What was found.

    Attributes:
        problem: what is wrong, in words; "": nothing.
        trace: the steps that lead to it.
        complete: False if the exploration gave up at its limit of states.
        hopeless: states from which no end can be reached without a fault; None: not counted.
    """

    config: Configuration
    rules: str
    states: int = 0
    steps: int = 0
    seconds: float = 0.0
    problem: str = ""
    trace: tuple[str, ...] = ()
    complete: bool = True
    hopeless: int | None = None

    def __str__(self) -> str:
        rate = self.states / max(self.seconds, 1e-9)
        text = (
            f"{self.config.name}: {self.states:,} states, {self.steps:,} steps,"
            f" {self.seconds:.1f} s, {rate:,.0f} states/s"
        )
        if not self.complete:
            text += ", NOT COMPLETE"
        if self.hopeless is not None:
            text += f", {self.hopeless} states without a fair end"
        if self.problem:
            text += f"\n  rules broken: {self.rules}\n  {self.problem}"
            text += "".join(f"\n  {i:3}. {step}" for i, step in enumerate(self.trace, 1))
        return text


def explore(
    config: Configuration, rules: Rules | None = None, *, limit: int = 0, ends: bool = False
) -> Outcome:
    """Walk through all states.

    Args:
        limit: give up after so many states; 0: never.
        ends: also find the states from which no fair end can be reached (costs memory).
    """
    rules = rules or Rules()
    world = World(config, rules)
    found = Outcome(config, rules.name)
    began = time.process_time()
    start = world.names.key(world.start())
    parents = {start: start}
    back: dict[int, list[int]] = {}
    frontier = [start]
    while frontier and not found.problem:
        found.complete = not limit or len(parents) < limit
        if not found.complete:
            break
        following: list[int] = []
        for key in frontier:
            problem = _expand(world, key, parents, following, back if ends else None, found)
            if problem:
                found.problem = problem
                found.trace = _trace(world, parents, key)
                break
        frontier = following
    found.states = len(parents)
    found.seconds = time.process_time() - began
    if ends and found.complete and not found.problem:
        found.hopeless = len(parents) - _reaching(back)
    return found


def _expand(
    world: World,
    key: int,
    parents: dict[int, int],
    following: list[int],
    back: dict[int, list[int]] | None,
    found: Outcome,
) -> str:
    """Add what comes after a state; say what is wrong with one of them."""
    state = world.names.state(key)
    moved = False
    try:
        for step in world.steps(state):
            moved = True
            child = _key(world, world.after(step))
            found.steps += 1
            if back is not None:
                back.setdefault(child, []).append(key)
            if child != END and child not in parents:
                parents[child] = key
                following.append(child)
        for step in world.faults(state):
            child = _key(world, world.after(step))
            found.steps += 1
            if child != END and child not in parents:
                parents[child] = key
                following.append(child)
    except Disagreement as problem:
        return f"disagreement: {problem}"
    return "" if moved else f"stuck: {world.undecided(state)}"


def _key(world: World, state: State | None) -> int:
    return END if state is None else world.names.key(state)


def _reaching(back: dict[int, list[int]]) -> int:
    """How many states can reach an end."""
    reached = {END}
    frontier = [END]
    while frontier:
        following = []
        for key in frontier:
            for before in back.get(key, ()):
                if before not in reached:
                    reached.add(before)
                    following.append(before)
        frontier = following
    return len(reached) - 1


def _trace(world: World, parents: dict[int, int], key: int) -> tuple[str, ...]:
    """The steps to a state and the one that is wrong, walked again under the first names."""
    keys = [key]
    while parents[keys[-1]] != keys[-1]:
        keys.append(parents[keys[-1]])
    state = world.start()
    texts = []
    for wanted in reversed(keys[:-1]):
        for step in (*_valid(world, world.steps(state)), *_valid(world, world.faults(state))):
            after = world.after(step)
            if after is not None and world.names.key(after) == wanted:
                texts.append(step[0])
                state = after
                break
        else:
            raise AssertionError("a step that was taken is not found again")
    texts += _last(world, state)
    return tuple(texts)


def _valid(world: World, steps):
    """Those that break no rule."""
    while True:
        try:
            step = next(steps)
            world.after(step)
        except StopIteration:
            return
        except Disagreement:
            continue
        yield step


def _last(world: World, state: State) -> list[str]:
    """The step that breaks a rule; none if it cannot even be made."""
    for steps in (world.steps(state), world.faults(state)):
        with contextlib.suppress(Disagreement):
            for step in steps:
                try:
                    world.after(step)
                except Disagreement:
                    return [step[0]]
    return []
