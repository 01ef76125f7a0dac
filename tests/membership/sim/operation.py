"""Operations, tags and frames of the simulated data plane: what ``engine`` keeps of them."""

from __future__ import annotations

import dataclasses
import enum
import uuid
from typing import Any

from collectives._native import ffi, lib
from collectives.membership.report import Entry, Standing
from collectives.membership.view import View

TIMEOUT, PEER_LOST, MISMATCH = lib.COLL_TIMEOUT, lib.COLL_PEER_LOST, lib.COLL_MISMATCH
CANCELLED, UNDECIDED = lib.COLL_CANCELLED, lib.COLL_UNDECIDED
_FOREVER = 2**64 - 1


class Kind(enum.Enum):
    """What an operation is, as far as agreement goes."""

    SMALL = "small all-reduce"  # its result is retained
    LARGE = "large all-reduce"  # tokens
    BROADCAST = "broadcast"
    BARRIER = "barrier"
    SYNC = "sync"


@dataclasses.dataclass(frozen=True)
class Call:
    """What a program has called; ``salt`` makes two that differ."""

    kind: Kind
    root: uuid.UUID | None = None
    repeatable: bool = True
    salt: int = 0


@dataclasses.dataclass(frozen=True)
class Frame:
    """What travels over a link. Kinds: those of ``wire/frame.h``; done, absent: flags of OPEN."""

    kind: str
    tag: int
    number: int
    term: int
    view: int
    watermark: int
    call: Call | None = None
    payload: Any = None
    supply: bool = False


class Operation:
    """``struct coll_operation``."""

    def __init__(
        self,
        tag: int,
        number: int,
        view: View | None,
        rank: int,
        call: Call | None = None,
        error: tuple[int, str] | None = None,
    ) -> None:
        assert view is not None
        self.tag, self.number, self.key = tag, number, (tag, number)
        self.call = call
        self.issued = False
        self.finished = error is not None
        self.error = error
        self.veto: tuple[int, str] | None = None
        self.vetoed_at = 0.0
        self.unknown = False
        self.value: Any = None
        self.ran_in = 0
        self.retries = 0
        self.supplier: int | None = None
        self.agree = ffi.new("struct coll__agree *")
        lib.coll__agree_init(self.agree, rank, view.size)
        self.me = view.peers[rank].id
        self.reset(view, rank)

    def reset(self, view: View, rank: int) -> None:
        """As new, for another attempt in this view."""
        self.view, self.rank = view, rank
        self.started = False
        self.pending: set[int] = set()
        self.early: list[tuple[int, Any]] = []
        self.calls: dict[int, Call] = {}
        self.wants_open: set[int] = set()
        self.inputs: dict[int, Any] = {rank: f"{view.peers[rank].name}'s {self.name}"}

    @property
    def name(self) -> str:
        return f"operation {self.number} of tag {self.tag}"

    def plan(self) -> tuple[list[int], set[int]]:
        """To whom this rank sends its input, and from whom it has to receive."""
        others = [rank for rank in range(self.view.size) if rank != self.rank]
        assert self.call is not None
        if self.call.kind in (Kind.SMALL, Kind.LARGE):
            return others, set(others)
        if self.call.kind is Kind.BROADCAST:
            root = self.view.rank_of(self.call.root)
            assert root is not None
            return (others, set()) if root == self.rank else ([], {root})
        return [], set()

    def result(self) -> tuple:
        """What the caller gets: the inputs that are in it, and the contributors."""
        assert self.call is not None
        if self.call.kind is Kind.BROADCAST:
            root = self.view.rank_of(self.call.root)
            inputs = (self.inputs.get(root),)
        else:
            inputs = tuple(self.inputs[rank] for rank in sorted(self.inputs))
            if self.call.kind in (Kind.SMALL, Kind.LARGE):
                assert len(inputs) == self.view.size
            else:
                inputs = ()
        return inputs, tuple(peer.name for peer in self.view.peers)

    def succeed(self, ran_in: int, value: Any) -> None:
        self.ran_in, self.value = ran_in, value

    def entry(self) -> Entry:
        """What is reported of it; ``write_operation`` of ``report.c``."""
        assert self.call is not None
        standing = Standing(self.agree.phase)
        idle = self.call.kind in (Kind.BARRIER, Kind.SYNC)
        root = self.view.rank_of(self.call.root) if self.call.kind is Kind.BROADCAST else None
        retained = bool(self.agree.retained)
        return Entry(*self.key, standing, retained, self.call.repeatable, root, idle)


class Tag:
    """``struct coll__tag``."""

    def __init__(self, tag: int, first: int, view: View, rank: int) -> None:
        self.tag = tag
        self.following = first
        self.settled = self.told = first - 1
        self.operations: list[Operation] = []
        self.ahead: set[int] = set()
        self.retained: dict[int, tuple[int, Any]] = {}
        self.heard = [self.settled] * view.size
        self.heard[rank] = _FOREVER

    def settle(self, operation: Operation) -> None:
        self.operations.remove(operation)
        oldest = self.operations[0].number if self.operations else 0
        self.settled = lib.coll__watermark(oldest, self.following)
        if operation.error is None:
            self.ahead.add(operation.number)
        self.ahead = {number for number in self.ahead if number > self.settled}

    def hear(self, rank: int, watermark: int) -> None:
        self.heard[rank] = max(self.heard[rank], watermark)
        least = min(self.settled, *self.heard)
        self.retained = {n: held for n, held in self.retained.items() if n > least}

    def enter(self, view: View, rank: int, first: int) -> None:
        """Another view: by a sync if ``first`` is not 0, else by a verdict."""
        self.heard = [max(0, first - 1)] * view.size
        self.heard[rank] = _FOREVER
        if first:
            self.retained, self.ahead = {}, set()
            self.following = first
            self.settled = self.told = first - 1
        else:
            self.told = 0
        if view.size == 1:
            self.retained = {}

    def entries(self) -> list[Entry]:
        """What is reported of operations that are over here."""
        over = [
            Entry(self.tag, number, Standing.SETTLED)
            for number in sorted(self.ahead)
            if number not in self.retained
        ]
        held = [Entry(self.tag, n, Standing.SETTLED, True) for n in sorted(self.retained)]
        return over + held
