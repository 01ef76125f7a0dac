"""An explanation as text and as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from collectives.topology.explain import Explanation
from collectives.topology.network import Level
from collectives.topology.plans import (
    ALL_SEGMENTS,
    RECV,
    RECV_KEEP,
    RECV_REDUCE,
    REDUCE,
    SEND,
)

# So much of a plan is printed; --rank and --json tell the rest.
_ROUNDS, _MESSAGES = 16, 8

_WORDS = {
    SEND: "send {what} to {peer}",
    RECV: "receive {what} from {peer}",
    RECV_REDUCE: "receive {what} from {peer} and reduce it with its own",
    RECV_KEEP: "receive {what} from {peer} and keep it",
    REDUCE: "reduce {what} with all that was kept",
}


def size_of(nbytes: float) -> str:
    """Return a number of bytes for people: ``64 MiB``."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if nbytes >= factor:
            return f"{nbytes / factor:.4g} {unit}"
    return f"{nbytes:.4g} bytes"


def time_of(seconds: float) -> str:
    """Return a time for people: ``12.5 ms``."""
    for unit, factor in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def _level(level: Level) -> str:
    text = f"{time_of(level.latency)}, {level.bandwidth / 1e9:.3g} GB/s a link"
    if level.uplink < math.inf:
        text += f", {level.uplink / 1e9:.3g} GB/s out of and into a member"
    if level.fabric < math.inf:
        text += f", {level.fabric / 1e9:.3g} GB/s in all"
    return text


def lines(found: Explanation, rank: int | None = None) -> Iterator[str]:
    """Yield the lines for people; with a rank, its steps instead of the rounds of all."""
    plan, network = found.plan, found.network
    yield f"{plan.kind} of {size_of(found.bytes)} by {plan.size} ranks: {plan.algorithm}"
    yield f"  chosen       {found.reason}"
    yield f"  predicted    {time_of(found.seconds)}: {found.bound}"
    for i, level in enumerate(network.levels):
        yield f"  {'links' if i == 0 else '':<8} {i:>2}  {_level(level)}"
    for i, groups in enumerate(network.places):
        yield f"  {'groups' if i == 0 else '':<8} {i:>2}  {_groups(groups)}"
    for i, said in enumerate(found.levels):
        yield (
            f"  {'settings' if i == 0 else '':<8} {i:>2}  plan {said.plan}, transport"
            f" {said.transport}, codec {said.codec}"
        )
    if found.alternatives:
        yield ""
        yield "alternatives"
        wide = max(len(one.algorithm) for one in found.alternatives)
        for one in found.alternatives:
            time = "not for so many bytes" if one.seconds is None else time_of(one.seconds)
            yield f"  {one.algorithm:<{wide}}  {time}"
    yield ""
    yield from _rounds(found) if rank is None else _steps(found, rank)


def _groups(groups: tuple[int, ...]) -> str:
    members: dict[int, list[int]] = {}
    for rank, group in enumerate(groups):
        members.setdefault(group, []).append(rank)
    texts = [
        f"{found[0]}-{found[-1]}"
        if len(found) > 2 and found[-1] - found[0] == len(found) - 1
        else " ".join(map(str, found))
        for found in members.values()
    ]
    return " | ".join(texts)


def _what(found: Explanation, segment: int) -> str:
    return "all" if segment == ALL_SEGMENTS else f"#{segment}"


def _rounds(found: Explanation) -> Iterator[str]:
    plan = found.plan
    last = int(found.rounds.max(initial=0))
    part = size_of(found.bytes * plan.share)
    yield (
        f"plan: {len(plan.sends)} messages of {part} in {last} round{'' if last == 1 else 's'};"
        " from rank > to rank, #segment"
    )
    order = np.argsort(found.rounds, kind="stable")
    rank, segment = plan.rank, plan.segment
    begin = np.searchsorted(found.rounds[order], np.arange(1, last + 2))
    for number in range(1, min(last, _ROUNDS) + 1):
        some = order[begin[number - 1] : begin[number]]
        shown = [
            f"{rank[plan.sends[i]]}>{rank[plan.receives[i]]} {_what(found, segment[plan.sends[i]])}"
            for i in some[:_MESSAGES]
        ]
        more = f", and {len(some) - _MESSAGES} more" if len(some) > _MESSAGES else ""
        yield f"  {number:>4}  {', '.join(shown)}{more}"
    if last > _ROUNDS:
        yield f"        and {last - _ROUNDS} more rounds; --rank R has all that one rank does"


def _steps(found: Explanation, rank: int) -> Iterator[str]:
    plan = found.plan
    mine = np.flatnonzero(plan.rank == rank)
    yield f"rank {rank}, {len(mine)} steps, each on {size_of(found.bytes * plan.share)}"
    peers, rounds = _ends(found)
    for number, step in enumerate(mine):
        words = _WORDS[int(plan.step[step])].format(
            what=_what(found, int(plan.segment[step])), peer=peers.get(int(step))
        )
        waits = int(plan.after[step])
        after = f", after step {waits - int(mine[0])}" if waits >= 0 else ""
        when = f"round {rounds[int(step)]}" if int(step) in rounds else ""
        yield f"  {number:>4}  {when:<9} {words}{after}".rstrip()


def _ends(found: Explanation) -> tuple[dict[int, int], dict[int, int]]:
    """Return of each step that is an end of a message the other rank, and the round."""
    plan = found.plan
    peers: dict[int, int] = {}
    rounds: dict[int, int] = {}
    for ends, others in ((plan.sends, plan.receives), (plan.receives, plan.sends)):
        peers.update(zip(ends.tolist(), plan.rank[others].tolist(), strict=True))
        rounds.update(zip(ends.tolist(), found.rounds.tolist(), strict=True))
    return peers, rounds


def to_json(found: Explanation) -> str:
    """Return all of it as JSON text, for programs; times in seconds, rates in bytes/s."""
    plan = found.plan
    moved = found.bytes * plan.share
    columns = (
        found.rounds,
        plan.rank[plan.sends],
        plan.rank[plan.receives],
        plan.segment[plan.sends],
    )
    order = np.lexsort(columns[::-1])
    content: dict[str, Any] = {
        "operation": plan.kind,
        "bytes": found.bytes,
        "size": plan.size,
        "algorithm": plan.algorithm,
        "reason": found.reason,
        "seconds": found.seconds,
        "bound": found.bound,
        "alternatives": {one.algorithm: one.seconds for one in found.alternatives},
        "levels": [
            {
                name: None if value == math.inf else value
                for name, value in dataclasses.asdict(level).items()
            }
            for level in found.network.levels
        ],
        "places": found.network.places,
        "settings": [dataclasses.asdict(level) for level in found.levels],
        "message_bytes": moved,
        "messages": [
            {
                "round": number,
                "from": source,
                "to": target,
                "segment": None if segment == ALL_SEGMENTS else segment,
            }
            for number, source, target, segment in zip(
                *(column[order].tolist() for column in columns), strict=True
            )
        ],
    }
    return json.dumps(content, indent=2)
