"""The core's plans as arrays: the steps of all ranks of one operation, and what waits for what.

Called by `model`, which gives the steps their times, and by ``collectives explain``. What a plan
does is decided by the core alone (``coll_plan_make``); nothing here knows an algorithm.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collectives._native import engine, ffi, lib
from collectives._native.engine import ALGORITHMS, LEVEL_PLANS
from collectives.errors import InvalidArgument, UnsupportedError

Places = Sequence[Sequence[int]]
Integers = NDArray[np.int64]

SEND, RECV, RECV_REDUCE, RECV_KEEP, REDUCE = range(5)
ALL_SEGMENTS = 2**32 - 1
MOST_RANKS = 4096  # messages of more could not be numbered

# Kinds that move bytes by a plan.
KINDS = {
    kind: number
    for kind, number in engine.KINDS.items()
    if any(lib.coll_plan_does(number, algorithm) for algorithm in ALGORITHMS.values())
}

_FIELDS = ("kind", "peer", "segment", "message", "final", "after")
_STEP = np.dtype(
    {
        "names": list(_FIELDS),
        "formats": ["u4"] * (len(_FIELDS) - 1) + ["i4"],
        "offsets": [ffi.offsetof("struct coll_step", name) for name in _FIELDS],
        "itemsize": ffi.sizeof("struct coll_step"),
    }
)


def algorithms(kind: str) -> tuple[str, ...]:
    """Return the algorithms that do operations of a kind.

    Raises:
        InvalidArgument: there is no such kind.
    """
    number = _number(KINDS, kind, "operation")
    return tuple(name for name, one in ALGORITHMS.items() if lib.coll_plan_does(number, one))


def limit(algorithm: str) -> int:
    """Return for how many bytes at most an algorithm is."""
    return int(lib.coll_plan_limit(ALGORITHMS[algorithm]))


def choose(kind: str, nbytes: int, size: int, places: Places = (), *, local: bool = False) -> str:
    """Return the algorithm that the core takes if neither the call nor a table says which.

    Args:
        kind: of the operation.
        nbytes: of the larger of a rank's input and output.
        size: how many ranks.
        places: levels x size: in which group each rank is.
        local: whether all ranks are on one host, and speak through its memory.

    Raises:
        InvalidArgument: there is no such kind, or the places are of other ranks.
    """
    check_places(places, size)
    number = _number(KINDS, kind, "operation")
    held, topology = _topology(places)
    found = lib.coll_plan_choose(number, nbytes, size, local, topology)
    del held  # it had to live until here
    return next(name for name, code in ALGORITHMS.items() if code == found)


def _number(names: dict[str, int], name: str, what: str) -> int:
    if name not in names:
        raise InvalidArgument(f"{name!r} is no {what}; known are {', '.join(names)}")
    return names[name]


def check_places(places: Places, size: int) -> None:
    """Check that each level has a group for each rank, and lies within the next.

    Raises:
        InvalidArgument: it does not; the message says which level.
    """
    for level, groups in enumerate(places):
        if len(groups) != size:
            raise InvalidArgument(
                f"level {level} places {len(groups)} ranks, but the group has {size}"
            )
        if level and len(set(zip(places[level - 1], groups, strict=True))) != len(
            set(places[level - 1])
        ):
            raise InvalidArgument(
                f"a group of level {level - 1} is split at level {level}: ranks that share a"
                " group share one at every outer level, too"
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """The steps of all ranks, one rank's after the other's, each rank's in the order of its start.

    Attributes:
        kind: name of the operation.
        algorithm: its name.
        size: how many ranks.
        segments: into how many parts the buffer is cut.
        rank: of each step.
        step: of each step, the core's kind of it (`SEND` ...).
        segment: of each step; `ALL_SEGMENTS`: the whole buffer.
        after: of each step, the index of the one that comes before it; -1: none.
        sends: of each message, the index of the step that sends it.
        receives: likewise, the one that receives it.
        keeps: indices of the steps that keep something for a reduction.
        reductions: of each of those, the index of the reduction.
    """

    kind: str
    algorithm: str
    size: int
    segments: int
    rank: Integers
    step: Integers
    segment: Integers
    after: Integers
    sends: Integers
    receives: Integers
    keeps: Integers
    reductions: Integers

    @property
    def whole(self) -> bool:
        """Whether steps act on the whole buffer."""
        return bool((self.segment == ALL_SEGMENTS).any())

    @property
    def share(self) -> float:
        """The part of the buffer that a step moves."""
        # The blocks of an all_to_all are numbered across ranks: each has `size` in its buffer.
        parts = self.size if self.kind == "all_to_all" else self.segments
        return 1.0 if self.whole else 1.0 / parts


def plan_of(
    kind: str,
    algorithm: str,
    size: int,
    places: Places = (),
    root: int = 0,
    levels: Sequence[str] = (),
) -> Plan:
    """Return the plan of an operation.

    Args:
        kind: ``"all_reduce"``, ``"broadcast"`` ...
        algorithm: ``"ring"``, ``"direct"`` ...; see `algorithms`.
        size: how many ranks.
        places: levels x size: in which group each rank is, the innermost level (hosts) first.
        root: of operations that have one.
        levels: of each level its plan, one of ``LEVEL_PLANS``; of those that are left out "auto".

    Raises:
        InvalidArgument: an argument is none of these, or they do not fit together.
        UnsupportedError: the algorithm does not do the kind.
    """
    numbers = _number(KINDS, kind, "operation"), _number(ALGORITHMS, algorithm, "algorithm")
    if algorithm not in (known := algorithms(kind)):
        raise UnsupportedError(
            f"{algorithm!r} does no {kind}; choose from {', '.join(known) or 'nothing'}"
        )
    if not 1 <= size <= MOST_RANKS:
        raise InvalidArgument(f"{size} ranks; a plan is for 1 to {MOST_RANKS}")
    if not 0 <= root < size:
        raise InvalidArgument(f"root {root} is none of the ranks 0 to {size - 1}")
    check_places(places, size)
    held, topology = _topology(
        places, [_number(LEVEL_PLANS, name, "level plan") for name in levels]
    )
    ranks = [_steps(*numbers, rank, size, root, topology) for rank in range(size)]
    del held  # it had to live until here
    steps = np.concatenate([steps for steps, _ in ranks])
    return _joined(kind, algorithm, size, ranks[0][1], steps, [len(steps) for steps, _ in ranks])


def _topology(places: Places, plans: Sequence[int] = ()) -> tuple[Any, Any]:
    """Return what must live as long as the places are used, and these for the core."""
    flat = ffi.new("uint32_t[]", [group for level in places for group in level] or [0])
    settings = ffi.new("struct coll_level[]", [(plan,) for plan in plans])
    topology = {
        "levels": len(places),
        "places": flat,
        "settings": settings,
        "setting_count": len(plans),
    }
    return (flat, settings), ffi.new("struct coll_topology *", topology)


def _steps(
    kind: int, algorithm: int, rank: int, size: int, root: int, topology: Any
) -> tuple[NDArray[Any], int]:
    """Return a rank's steps, and the number of segments."""
    out, info = ffi.new("struct coll_plan **"), ffi.new("struct coll_plan_info *")
    status = lib.coll_plan_make(kind, algorithm, rank, size, root, topology, out)
    if status != lib.COLL_OK:
        raise InvalidArgument(
            f"there is no such plan: {ffi.string(lib.coll_status_text(status)).decode()}"
        )
    try:
        lib.coll_plan_get_info(out[0], info)
        where = lib.coll_plan_steps(out[0])
        raw = ffi.buffer(where, info.steps * _STEP.itemsize) if info.steps else b""
        return np.frombuffer(raw, _STEP).copy(), info.segments
    finally:
        lib.coll_plan_free(out[0])


def _joined(
    kind: str, algorithm: str, size: int, segments: int, steps: NDArray[Any], counts: list[int]
) -> Plan:
    """Put the steps of all ranks together: each message has two ends."""
    field = {name: steps[name].astype(np.int64) for name in _FIELDS}
    rank = np.repeat(np.arange(size), counts)
    begin = np.repeat(np.cumsum([0, *counts[:-1]]), counts)
    peer, segment = field["peer"], np.minimum(field["segment"], segments)  # whole: one more
    sent = field["kind"] == SEND
    received = ~sent & (field["kind"] != REDUCE)
    ends = np.where(sent, rank * size + peer, peer * size + rank)
    key = (ends * (segments + 1) + segment) * (int(field["message"].max(initial=0)) + 1)
    key += field["message"]
    sends, receives = np.flatnonzero(sent), np.flatnonzero(received)
    sends, receives = sends[np.argsort(key[sends])], receives[np.argsort(key[receives])]
    assert (key[sends] == key[receives]).all(), "a message has two ends"
    keeps = np.flatnonzero(field["kind"] == RECV_KEEP)
    reduces = np.flatnonzero(field["kind"] == REDUCE)
    # What is kept is for the next reduction of the segment among the rank's steps.
    place = (rank * (segments + 1) + segment) * (len(steps) + 1) + np.arange(len(steps))
    reduces = reduces[np.argsort(place[reduces])]
    return Plan(
        kind=kind,
        algorithm=algorithm,
        size=size,
        segments=segments,
        rank=rank,
        step=field["kind"],
        segment=field["segment"],
        after=np.where(field["after"] < 0, -1, field["after"] + begin),
        sends=sends,
        receives=receives,
        keeps=keeps,
        reductions=reduces[np.searchsorted(place[reduces], place[keeps])],
    )
