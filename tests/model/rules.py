"""The rules of the agreement, one method each, so that a mutant can break one and nothing else.

Where production code decides, it is called: the engine's through ``core``, the coordinator's
``judge``. A flag stands for a rule that says what is *not* done.
"""

from __future__ import annotations

import functools
import uuid

from collectives.membership.report import Entry, Error, Order, Pair, Report, Standing, Veto
from collectives.membership.verdict import judge
from model import core
from model.core import Epoch, Seal

PeerOrder = tuple[int, ...]
"""(sender, receiver), or () of what all call."""
Entries = tuple[tuple[int, int, bool, bool, int, bool, PeerOrder], ...]
"""(number, standing, retained, repeatable, root or -1, idle, order) of each operation in a
report."""
Settled = tuple[tuple[PeerOrder, int], ...]
Told = tuple[Settled, Entries, tuple[tuple[int, PeerOrder], ...]]
"""A report: watermarks, entries, and (number, order) of the vetoed operations."""
Decision = tuple[tuple[tuple[int, int], ...], int]
"""A verdict: (number, supplier or -1) of each that stands, and the error of all else or 0."""

VETOED = 100
"""Added to the number of an operation: the error of who vetoed it."""
OUT = 99
"""The error of who was told that it is not a member any more."""


class Rules:
    """As they are in production."""

    name = "none"
    vetoes_answer = False
    errors_are_told = False
    resumes_quietly = False
    asks_once = False
    rootless_raises = False
    breaks_all = True

    def close(self, seal: Seal, epoch: Epoch) -> Seal | None:
        """The group is sealed in the round; None: its Seal is refused."""
        return core.seal_close(seal, epoch)

    def fence(self, seal: Seal, term: int, view: int) -> int:
        """What is done with a token of a view, and with progress in one's own."""
        return core.seal_fence(seal, term, view)

    def supply_fence(self, seal: Seal, term: int, view: int) -> int:
        return core.seal_fence(seal, term, view)

    def takes(self, seal: Seal, epoch: Epoch) -> bool:
        """Whether a peer takes the verdict of this round."""
        return core.seal_judges(seal, epoch)

    def may_take(self, seal: Seal, epoch: Epoch) -> bool:
        """Whether it may ever: a verdict is for who is sealed in its round when it is decided."""
        return self.takes(seal, epoch)

    def counts(self, epoch: Epoch, current: Epoch | None) -> bool:
        """Whether the coordinator counts a report in the round it holds."""
        return epoch == current

    def watermark(self, oldest: int, following: int, last: int) -> int:
        """Numbers from 1; ``last`` is the last that is settled, for the mutant."""
        return core.watermark(oldest, following)

    def issue_pair(self, op: core.Agree, sends: bool) -> core.Agree:
        """A send, which is complete as soon as it is issued, or a receive."""
        issued = core.issue_pair(op, sends)
        return core.complete(issued) if sends else issued

    def may_leave(self, settled: int, others: tuple[int, ...]) -> bool:
        """Whether one who wants to go does; watermarks of its own, and of those who stay."""
        return all(other >= settled for other in others)

    def judgement(self, phase: int, stands: bool, error: int) -> int:
        """What a verdict says of an operation that is outstanding here."""
        if stands:
            return core.STANDS
        return core.FAILS if error else core.REPEATS

    def attempt(self, view: int, before: int) -> int:
        """Of an operation that was not issued when a verdict issued a view."""
        return view

    def base(self, before: int, settled: int, died: bool) -> int:
        """What is subtracted from numbers after a verdict; ``settled`` is the watermark."""
        return 0

    def decide(
        self,
        reports: tuple[tuple[int, Told], ...],
        order: tuple[int, ...],
        lost: bool,
        too_few: bool,
        broken: int,
    ) -> Decision:
        """The verdict of ``judge``; ``order`` is the sealed view by rank."""
        return _decide(reports, order, lost, too_few, broken)


@functools.cache
def _name(peer: int) -> uuid.UUID:
    return uuid.UUID(int=peer)


@functools.cache
def _report(told: Told, order: tuple[int, ...]) -> Report:
    settled, entries, vetoes = told
    return Report(
        {_order(pair): watermark for pair, watermark in settled},
        tuple(
            Entry(
                _order(pair),
                number,
                Standing(standing),
                retained,
                repeatable,
                order.index(root) if root in order else None,
                idle,
            )
            for number, standing, retained, repeatable, root, idle, pair in entries
        ),
        tuple(Veto(_order(pair), number, VETOED + number, None, "") for number, pair in vetoes),
    )


def _order(pair: PeerOrder) -> Order:
    return Pair(0, _name(pair[0]), _name(pair[1])) if pair else 0


@functools.cache
def _decide(
    reports: tuple[tuple[int, Told], ...],
    order: tuple[int, ...],
    lost: bool,
    too_few: bool,
    broken: int,
) -> Decision:
    verdict = judge(
        {_name(peer): _report(told, order) for peer, told in reports},
        [_name(peer) for peer in order],
        lost="lost" if lost else "",
        too_few="too few" if too_few else "",
        broken=Error(broken, None, "") if broken else None,
    )
    stands = tuple(
        (stand.number, -1 if stand.supplier is None else stand.supplier.int)
        for stand in verdict.stands
    )
    return stands, 0 if verdict.error is None else verdict.error.status
