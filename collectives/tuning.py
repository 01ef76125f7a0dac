"""Plan tables from measured links: what ``Options.tune`` asks for.

When a view has been formed, and before anything else runs in it, its members exchange some messages
in pairs, put together what each has seen, and agree on the table that the cost model
(``collectives.topology``) makes of it. ``Group`` and ``council`` call it wherever a view is formed.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import math
import time

import numpy as np

from collectives import blocks, errors
from collectives.issue import STATE_TAG, Issuer
from collectives.membership.view import Choice, View
from collectives.topology import LevelRow, Table, network_of

logger = logging.getLogger("collectives.tuning")

_SIZES = _SHORT, _MIDDLE, _LONG = 8, 16 << 10, 256 << 10
# Each is sent between all pairs before the next; the first of each kind tell most.
_PASSES = (_SHORT, _MIDDLE, _LONG, _SHORT, _SHORT, _LONG, _SHORT, _SHORT)
_SECONDS = 0.3  # that it may take, as long as one message does not take more
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
    """What all members have seen: by bytes, seconds by [repeat, round, rank]; NaN: not measured.

    In each round every member has one partner, and no link is used by two pairs. Both send at
    once, and each sees for how long it waits after its own call; that the calls were not at one
    moment is in both, with opposite signs.

    Members go by the slowest of them: after each exchange they agree on how long it has taken, and
    leave out what would take too long by that.
    """
    mine = issuer.mine
    rounds = (mine.size - 1).bit_length()
    seen = np.zeros((len(_PASSES), rounds, mine.size))
    made = np.zeros((len(_PASSES), rounds, 1), bool)
    source, target = np.zeros(_LONG, np.uint8), np.zeros(_LONG, np.uint8)
    taken = np.zeros(1 + len(_SIZES))  # in all, and by one exchange of each size at most
    _agree(issuer, taken, deadline)  # all are there: waiting for them is no measurement
    begun = time.monotonic()
    for (number, nbytes), turn in itertools.product(enumerate(_PASSES), range(rounds)):
        if taken[0] + expected(taken[1:], nbytes) > _SECONDS:
            continue
        partner = mine.rank ^ (1 << turn)
        size = nbytes if partner < mine.size else 0
        called = time.monotonic()
        waited = _exchange(issuer, partner, source[:size], target[:size], deadline)
        seen[number, turn, mine.rank] = waited
        made[number, turn] = True
        now = time.monotonic()
        slot = 1 + _SIZES.index(nbytes)
        taken[0], taken[slot] = now - begun, max(taken[slot], now - called)
        _agree(issuer, taken, deadline)
    issuer.reduction(seen, "sum", None, None, _left(deadline), 0, reserved=STATE_TAG)
    issuer.blocking(seen)
    short = np.array(_PASSES) == _SHORT
    if not made.all():
        logger.warning(
            "[%s @%d] measuring the links was cut short after %.2f s: of %d of %d sets of pairs the"
            " latency is known, of %d the bandwidth; the rest is taken to be as usual",
            mine.view.group,
            mine.view.number,
            taken[0],
            made[short].any(axis=0).sum(),
            rounds,
            made[~short].any(axis=0).sum(),
        )
    seen[~np.broadcast_to(made, seen.shape)] = np.nan
    return {size: seen[[one == size for one in _PASSES]] for size in _SIZES}


def expected(slowest: np.ndarray, nbytes: int) -> float:
    """How long an exchange should take, by the slowest of each of the three sizes; 0: none yet."""
    short, middle, _ = slowest
    known = slowest[_SIZES.index(nbytes)]
    if known > 0 or nbytes == _SHORT:
        return float(known)
    if nbytes == _MIDDLE:
        return float(short)
    if middle == 0:
        return math.inf  # it was too long already
    return float(middle + max(0.0, middle - short) * (_LONG - _MIDDLE) / (_MIDDLE - _SHORT))


def _agree(issuer: Issuer, taken: np.ndarray, deadline: float) -> None:
    issuer.reduction(taken, "max", None, None, _left(deadline), 0, reserved=STATE_TAG)
    issuer.blocking(taken)


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
        seen: seconds by [repeat, round, rank], for messages of so many bytes; NaN: not measured.
        size: how many ranks.
    """
    latencies = [[0.0] * size for _ in range(size)]
    rates = [[0.0] * size for _ in range(size)]
    for turn in range(seen[_SHORT].shape[1]):
        for rank in range(size):
            partner = rank ^ (1 << turn)
            if partner >= size:
                continue
            times = {
                nbytes: float(np.nanmin(both)) / 2
                for nbytes, found in seen.items()
                if not np.isnan(both := found[:, turn, rank] + found[:, turn, partner]).all()
            }
            short, most = times.get(_SHORT, 0.0), max(times, default=_SHORT)
            long = times.get(most, 0.0)
            latencies[rank][partner] = max(0.0, short)
            rates[rank][partner] = (most - _SHORT) / (long - short) if long > short > 0 else 0.0
    return latencies, rates


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise errors.Timeout(_OVERTIME)
    return left
