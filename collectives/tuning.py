"""Plan tables from measured links: what ``Options.tune`` asks for.

When a view has been formed, and before anything else runs in it, its members exchange some messages
in pairs, put together what each has seen, and agree on the table that the cost model
(``collectives.topology``) makes of it. ``Group`` and ``council`` call it wherever a view is formed.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import time

import numpy as np

from collectives import blocks, errors
from collectives.issue import STATE_TAG, Issuer
from collectives.membership.view import Choice, View
from collectives.topology import LevelRow, Table, network_of

logger = logging.getLogger("collectives.tuning")

_SHORT, _LONG = 8, 256 << 10
_REPEATS = {_SHORT: 5, _LONG: 2}
_ROOM = 16 << 10  # for the table as it travels
_OVERTIME = "the links were not measured in time; call sync() again"


def regroup(issuer: Issuer, deadline: float) -> None:
    """Have the coordinator admit and drop peers, and tune the view that comes of it. Collective.

    Args:
        issuer: of the group.
        deadline: on the monotonic clock.

    Raises:
        CollectiveError: as ``Agent.sync`` and ``tune``.
    """
    issuer.mine.regroup(max(0.0, deadline - time.monotonic()))
    tune(issuer, deadline)


def tune(issuer: Issuer, deadline: float) -> None:
    """Agree on a plan table if all members of the view want one and it has none. Collective.

    Args:
        issuer: of the group, in which no operation is outstanding.
        deadline: on the monotonic clock.

    Raises:
        CollectiveError: as any operation; on all members. After a death it begins again, with
            those who are left.
    """
    mine = issuer.mine
    while mine.view.untuned and mine.size > 1:
        view = mine.view
        try:
            seen = _measured(issuer, deadline)
            table = _agreed(issuer, seen, deadline) if mine.view is view else None
        except errors.PeerLost:
            mine.regroup(max(0.0, deadline - time.monotonic()))
            continue
        except errors.CollectiveError:
            raise
        except BaseException as interrupt:
            # The others may have the table, and would not follow the same plans as this peer.
            issuer.close(f"{type(interrupt).__name__} while it measured its links")
            raise
        if table is not None:
            if table:
                mine.choose(table)
            return


def _measured(issuer: Issuer, deadline: float) -> dict[int, np.ndarray]:
    """What all members have seen: by bytes, seconds by [repeat, round, rank].

    In each round every member has one partner, and no link is used by two pairs. Both send at
    once, and each sees for how long it waits after its own call; that the calls were not at one
    moment is in both, with opposite signs.
    """
    mine = issuer.mine
    rounds = (mine.size - 1).bit_length()
    shapes = {nbytes: (repeats, rounds, mine.size) for nbytes, repeats in _REPEATS.items()}
    seen = np.zeros(sum(int(np.prod(shape)) for shape in shapes.values()))
    at, views = 0, {}
    for nbytes, shape in shapes.items():
        end = at + int(np.prod(shape))
        views[nbytes], at = seen[at:end].reshape(shape), end
    source, target = np.zeros(_LONG, np.uint8), np.zeros(_LONG, np.uint8)
    for turn in range(rounds):
        partner = mine.rank ^ (1 << turn)
        for nbytes, repeats in _REPEATS.items():
            size = nbytes if partner < mine.size else 0
            for repeat in range(repeats):
                waited = _exchange(issuer, partner, source[:size], target[:size], deadline)
                views[nbytes][repeat, turn, mine.rank] = waited
    issuer.reduction(seen, "sum", None, None, _left(deadline), 0, reserved=STATE_TAG)
    issuer.blocking(seen)
    return views


def _exchange(
    issuer: Issuer, partner: int, source: np.ndarray, target: np.ndarray, deadline: float
) -> float:
    """Send to the partner, and return after how long all of what it sends was here."""
    counts = [source.size if rank == partner else 0 for rank in range(issuer.mine.size)]
    common = blocks.Common(0, _left(deadline))
    value = blocks.all_to_all(issuer, source, target, counts, counts, common)
    issuer.scratch.call.tag = STATE_TAG
    work = issuer.issue(value, (source, target))
    work.wait()
    seen = work.telemetry()
    return 0.0 if seen.last_byte is None else seen.last_byte - seen.entered


def _agreed(issuer: Issuer, seen: dict[int, np.ndarray], deadline: float) -> tuple[Choice, ...]:
    """The table that rank 0 makes of it: computed everywhere, it might differ in a last bit."""
    mine = issuer.mine
    buffer = np.full(_ROOM, ord(" "), np.uint8)
    if mine.rank == 0:
        try:
            table = _table(mine.view, seen, local=len(mine.agent.state.nearby) == mine.size)
            text = json.dumps([dataclasses.astuple(row) for row in table]).encode()
            buffer[: len(text)] = np.frombuffer(text, np.uint8)
        except BaseException as error:
            issuer.close(f"{type(error).__name__} while it made a plan table")  # the others wait
            raise
    issuer.copying(buffer, 0, 0, _left(deadline), 0)
    issuer.scratch.call.tag = STATE_TAG
    issuer.blocking(buffer)
    return tuple(Choice(*row) for row in json.loads(buffer.tobytes()))


def _table(view: View, seen: dict[int, np.ndarray], local: bool) -> tuple[Choice, ...]:
    network = network_of(*links_of(seen, view.size), view.places, local=local)
    for level, links in enumerate(network.levels):
        logger.info(
            "[%s @%d] level %d: %.1f us, %.3f GB/s",
            view.group,
            view.number,
            level,
            links.latency * 1e6,
            links.bandwidth * 1e-9,
        )
    levels = tuple(LevelRow(one.plan, one.transport, one.codec) for one in view.levels)
    rows = Table.of(network, view.size, levels=levels).rows
    return tuple(Choice(row.kind, row.bytes, row.algorithm) for row in rows)


def links_of(seen: dict[int, np.ndarray], size: int) -> tuple[list[list[float]], list[list[float]]]:
    """Latencies (s) and rates (bytes/s) of the pairs that were measured, by rank; 0: was not.

    Args:
        seen: seconds by [repeat, round, rank], for short and long messages.
        size: how many ranks.
    """
    latencies = [[0.0] * size for _ in range(size)]
    rates = [[0.0] * size for _ in range(size)]
    for turn in range(seen[_SHORT].shape[1]):
        for rank in range(size):
            partner = rank ^ (1 << turn)
            if partner >= size:
                continue
            short, long = (
                float((found[:, turn, rank] + found[:, turn, partner]).min()) / 2
                for found in (seen[_SHORT], seen[_LONG])
            )
            latencies[rank][partner] = max(0.0, short)
            rates[rank][partner] = _LONG / (long - short) if long > short > 0 else 0.0
    return latencies, rates


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise errors.Timeout(_OVERTIME)
    return left
