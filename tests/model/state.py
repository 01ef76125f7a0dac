"""What a state of the world is made of: immutable tuples of integers.

Peers are numbered from 0, sets of peers are bit masks, operations are counted from 0 and have
numbers from 1. A view is known by (term, number). No message is lost: what is never delivered
is as good as lost, and what is current would be sent again.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from model import core
from model.core import Agree, Epoch, Seal
from model.rules import Told


class Kind(NamedTuple):
    """What an operation is: ``root`` is a peer or -1.

    One that is ``empty`` moves nothing (a barrier), so that who issues it is complete. One that
    ``gathers`` moves everything to the root, so that all others are. Of a ``pair`` the first sends
    to the second, and nobody else calls it.
    """

    retained: bool
    repeatable: bool = True
    root: int = -1
    empty: bool = False
    gathers: bool = False
    pair: tuple[int, ...] = ()

    def takes_part(self, peer: int) -> bool:
        return not self.pair or peer in self.pair

    def root_for(self, peer: int) -> int:
        """Without whom the peer cannot go on, or -1."""
        return self.pair[1 - self.pair.index(peer)] if self.pair else self.root

    @property
    def may_idle(self) -> bool:
        """Whether somebody can be complete of whom, and to whom, nothing has come."""
        return self.empty or self.gathers

    def is_idle(self, peer: int) -> bool:
        """Whether nothing comes to the peer."""
        return self.empty or (self.gathers and peer != self.root)

    def needs(self, members: int, peer: int) -> int:
        """Of whom the peer's result is made; these must have issued it."""
        if self.is_idle(peer):
            return 0
        if self.pair:
            return 1 << self.pair[0] if peer == self.pair[1] else 0
        if self.gathers:
            return members
        return members & 1 << self.root if self.root >= 0 and not self.retained else members


class Faults(NamedTuple):
    """How many of each there may be, and of all together. ``rounds``: for no reason at all;
    ``leaves``: they are no fault, but none has to come."""

    deaths: int = 0
    evictions: int = 0
    restarts: int = 0
    vetoes: int = 0
    rounds: int = 0
    total: int = 9
    leaves: int = 0

    def less(self, kind: str) -> Faults | None:
        left = getattr(self, kind)
        if not left or not self.total:
            return None
        return self._replace(**{kind: left - 1, "total": self.total - 1})


class Configuration(NamedTuple):
    name: str
    peers: int
    ops: tuple[Kind, ...]
    faults: Faults
    min_size: int = 1


GONE, ALIVE, LEFT = range(3)
"""LEFT: dead, or told that it is out; what it did before may still reach others. GONE: nothing of
it can matter any more."""

TOKEN, SUPPLY = range(2)
Frame = tuple[int, int, int, int, int]
"""(TOKEN, term, view, number, round) or (SUPPLY, term, view, number, attempt)."""


class Op(NamedTuple):
    agree: Agree
    attempt: int  # the view in which it runs, or in which its result was made
    error: int = 0  # that the caller was told
    veto: int = 0
    supplier: int = -1
    kept: int = 0


class Peer(NamedTuple):
    life: int
    dead: int  # which only the coordinator can tell from GONE or LEFT
    seal: Seal
    members: int  # of its view
    issued: int
    broken: int
    base: int  # what a mutant subtracts from numbers
    ops: tuple[Op, ...]
    inbox: tuple[Frame, ...]
    leaving: int = 0  # it has called leave(), and the others need nothing of it any more


class Coordinator(NamedTuple):
    term: int
    view: tuple[int, int]  # (term, number)
    members: int
    round: int  # of this term
    open: int
    gone: int  # members who went or were evicted; the next verdict leaves them out
    broken: int
    void: tuple[int, ...]  # by operation: attempts up to here were discarded


class Verdict(NamedTuple):
    epoch: Epoch
    stands: tuple[tuple[int, int], ...]
    error: int
    view: tuple[int, int]
    members: int


class Messages(NamedTuple):
    seals: tuple[Epoch, ...] = ()
    reports: tuple[tuple[Epoch, int, Told], ...] = ()
    verdicts: tuple[Verdict, ...] = ()


class State(NamedTuple):
    peers: tuple[Peer, ...]
    coordinator: Coordinator
    messages: Messages
    faults: Faults


class Disagreement(Exception):
    """The text says which rule a step broke."""


@functools.cache
def orders_of(config: Configuration) -> tuple[tuple[int, ...], ...]:
    """In which operations are numbered: those of pairs, and () for what all call."""
    return tuple(sorted({kind.pair for kind in config.ops} | {()}))


@functools.cache
def members_of(mask: int) -> tuple[int, ...]:
    """By rank."""
    return tuple(peer for peer in range(mask.bit_length()) if mask >> peer & 1)


def epoch_of(coordinator: Coordinator) -> Epoch | None:
    """Of the round that is open."""
    if not coordinator.open:
        return None
    return (coordinator.term, *coordinator.view, coordinator.round)


def survivors_of(state: State) -> list[int]:
    """Whose outcomes count."""
    coordinator = state.coordinator
    staying = coordinator.members & ~coordinator.gone
    return [p for p in members_of(staying) if state.peers[p].life == ALIVE]


def outstanding(op: Op) -> bool:
    """Issued, and its caller was told nothing yet."""
    return not op.error and op.agree[0] in (core.RUNNING, core.COMPLETE, core.AWAITING)


def initial(config: Configuration) -> State:
    everybody = (1 << config.peers) - 1
    ops = (Op(core.fresh(config.peers), 1),) * len(config.ops)
    peer = Peer(ALIVE, 0, (1, 1, core.NO_EPOCH, 0), everybody, 0, 0, 0, ops, ())
    coordinator = Coordinator(1, (1, 1), everybody, 0, 0, 0, 0, (0,) * len(config.ops))
    peers = (skip(config, peer, p) for p in range(config.peers))
    return State(tuple(peers), coordinator, Messages(), config.faults)


def skip(config: Configuration, peer: Peer, p: int) -> Peer:
    """Go on to what it calls next: of what two others do it knows nothing."""
    issued = peer.issued
    while issued < len(peer.ops) and not config.ops[issued].takes_part(p):
        issued += 1
    return peer if issued == peer.issued else peer._replace(issued=issued)
