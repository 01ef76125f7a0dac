"""The engine's pure code (``native/engine/agree.h``) on immutable tuples, with a memory.

An operation is ``(phase, rounds, sent, heard)``, a seal ``(term, view, epoch, sealed)`` with an
epoch ``(term, view_term, view, round)``. The C functions are called once for each argument.
"""

from __future__ import annotations

import functools

from collectives._native import ffi, lib

Agree = tuple[int, int, int, int]
Epoch = tuple[int, int, int, int]
Seal = tuple[int, int, Epoch, int]

ABSENT, RUNNING, COMPLETE, SETTLED, AWAITING = range(5)
STANDS, FAILS, REPEATS = range(3)
SUCCEED, AWAIT, RAISE, REPEAT = range(4)
NOW, VOID, LATER = range(3)
NO_EPOCH: Epoch = (0, 0, 0, 0)


def _load(op: Agree, rank: int = 0, size: int = 1):
    agree = ffi.new("struct coll__agree *")
    agree.phase, agree.rounds, agree.sent, agree.heard = op
    agree.rank, agree.size = rank, size
    # Only what is retained has no tokens in a view of more than one.
    agree.retained = op[1] == 0
    return agree


def _store(agree) -> Agree:
    return (agree.phase, agree.rounds, agree.sent, agree.heard)


@functools.cache
def fresh(size: int) -> Agree:
    agree = ffi.new("struct coll__agree *")
    lib.coll__agree_init(agree, 0, size)
    return _store(agree)


@functools.cache
def issue(op: Agree, retained: bool) -> Agree:
    agree = _load(op)
    lib.coll__agree_issue(agree, retained)
    return _store(agree)


@functools.cache
def issue_pair(op: Agree, sends: bool) -> Agree:
    agree = _load(op)
    lib.coll__agree_issue_pair(agree, sends)
    return _store(agree)


@functools.cache
def complete(op: Agree) -> Agree:
    agree = _load(op)
    lib.coll__agree_complete(agree)
    return _store(agree)


@functools.cache
def hear(op: Agree, round_: int) -> Agree:
    """It may not be a round of this view, if a mutant lets a token of another one in."""
    agree = _load(op)
    lib.coll__agree_hear(agree, round_)
    return _store(agree)


@functools.cache
def send(op: Agree, rank: int, size: int) -> tuple[Agree, tuple[tuple[int, int], ...]]:
    """Send every token that is due: (round, rank to whom)."""
    agree = _load(op, rank, size)
    number, peer = ffi.new("uint32_t *"), ffi.new("uint32_t *")
    tokens = []
    while lib.coll__agree_next(agree, number, peer):
        tokens.append((number[0], peer[0]))
    return _store(agree), tuple(tokens)


@functools.cache
def told(op: Agree) -> Agree:
    agree = _load(op)
    lib.coll__agree_told(agree)
    return _store(agree)


@functools.cache
def supplied(op: Agree) -> Agree:
    agree = _load(op)
    lib.coll__agree_supplied(agree)
    return _store(agree)


@functools.cache
def judge(op: Agree, judgement: int, size: int) -> tuple[Agree, int]:
    agree = _load(op)
    consequence = lib.coll__agree_judge(agree, judgement, 0, size)
    return _store(agree), consequence


watermark = functools.cache(lib.coll__watermark)


def _load_seal(seal: Seal):
    found = ffi.new("struct coll__seal *")
    found.term, found.view, _, found.sealed = seal
    _fill(found.epoch, seal[2])
    return found


def _fill(target, epoch: Epoch) -> None:
    target.term, target.view_term, target.view, target.round = epoch


def _store_seal(seal) -> Seal:
    epoch = seal.epoch
    last = (epoch.term, epoch.view_term, epoch.view, epoch.round)
    return (seal.term, seal.view, last, seal.sealed)


def _epoch(epoch: Epoch):
    found = ffi.new("struct coll__epoch *")
    _fill(found, epoch)
    return found


@functools.cache
def seal_open(seal: Seal, term: int, view: int) -> Seal:
    found = _load_seal(seal)
    lib.coll__seal_open(found, term, view)
    return _store_seal(found)


@functools.cache
def seal_fence(seal: Seal, term: int, view: int) -> int:
    return lib.coll__seal_fence(_load_seal(seal), term, view)


@functools.cache
def seal_close(seal: Seal, epoch: Epoch) -> Seal | None:
    """As it is sealed after this; None: the engine refuses the epoch."""
    found = _load_seal(seal)
    return _store_seal(found) if lib.coll__seal_close(found, _epoch(epoch)) else None


@functools.cache
def seal_judges(seal: Seal, epoch: Epoch) -> bool:
    return lib.coll__seal_judges(_load_seal(seal), _epoch(epoch))
