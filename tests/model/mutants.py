"""Each rule of the agreement, left out: the model must find what goes wrong.

``MUTANTS`` pairs each with a small configuration that shows it, and in which all rules together
hold.
"""

from __future__ import annotations

from model import core
from model.core import Epoch, Seal
from model.rules import Decision, Rules
from model.state import Configuration, Faults, Kind

SMALL = Kind(retained=True)
LARGE = Kind(retained=False)
FROM_2 = Kind(retained=True, root=2)
BARRIER = Kind(retained=False, empty=True)
PAIR = Kind(retained=False, pair=(0, 1))
TO_2 = Kind(retained=False, root=2, gathers=True, repeatable=False)


class NoSealing(Rules):
    """A peer reports, and goes on with what is outstanding."""

    name = "no sealing"

    def fence(self, seal: Seal, term: int, view: int) -> int:
        return super().fence((*seal[:3], 0), term, view)


class VetoAnswers(Rules):
    """Who gives up raises at once."""

    name = "a veto answered at once"
    vetoes_answer = True


class ErrorBreaksAll(Rules):
    """A verdict with an error is for the operations that stand, too."""

    name = "an error that breaks operations that stand"

    def judgement(self, phase: int, stands: bool, error: int) -> int:
        return super().judgement(phase, stands and not error, error)


class StandsIsFinal(Rules):
    """Who was promised a result waits for it, whatever a later verdict says."""

    name = "a 'stands' that is final"

    def judgement(self, phase: int, stands: bool, error: int) -> int:
        return super().judgement(phase, stands or phase == core.AWAITING, error)


class SupplyOfAnyRound(Rules):
    name = "a re-supply without an epoch"

    def supply_fence(self, seal: Seal, term: int, view: int) -> int:
        return core.NOW


class ReportOfAnyRound(Rules):
    name = "a report without an epoch"

    def counts(self, epoch: Epoch, current: Epoch | None) -> bool:
        return True


class VerdictOfAnyRound(Rules):
    name = "a verdict without an epoch"

    def takes(self, seal: Seal, epoch: Epoch) -> bool:
        return bool(seal[3])

    def may_take(self, seal: Seal, epoch: Epoch) -> bool:
        return True


class ErrorsAreTold(Rules):
    """Who is asked for an outcome says that it raised."""

    name = "an asked peer that tells errors"
    errors_are_told = True


class WatermarkSkips(Rules):
    """The last that is settled, whatever is open before it."""

    name = "a watermark that skips"

    def watermark(self, oldest: int, following: int, last: int) -> int:
        return last


class ResumesQuietly(Rules):
    """A restarted coordinator does not care who is sealed."""

    name = "a restart that resumes without a round"
    resumes_quietly = True


class AsksOnce(Rules):
    """A restarted coordinator asks who is sealed when they register, and never again."""

    name = "a restart that is deaf to later reports"
    asks_once = True


class RootlessRaises(Rules):
    """Who issues an operation whose root has gone raises by itself, and breaks the group."""

    name = "a root that has gone, raised without a round"
    rootless_raises = True


class AttemptsByHand(Rules):
    """A verdict leaves the attempt of what was not issued as it was."""

    name = "attempts not set by the verdict"

    def attempt(self, view: int, before: int) -> int:
        return before


class NumbersAnew(Rules):
    """After a death each peer counts from its first operation that is not settled."""

    name = "ids reset by a death"

    def base(self, before: int, settled: int, died: bool) -> int:
        return before + settled if died else before


class TokensOfAnyView(Rules):
    """Tokens are not fenced by the view."""

    name = "tokens without a view"

    def fence(self, seal: Seal, term: int, view: int) -> int:
        return core.LATER if seal[3] else core.NOW


class OneCompleteStands(Rules):
    """An operation with tokens stands if anybody is complete."""

    name = "a verdict that trusts one who is complete"

    def decide(self, reports, order, lost, too_few, broken) -> Decision:
        stands, error = super().decide(reports, order, lost, too_few, broken)
        complete = {
            entry[0] for _, told in reports for entry in told[1] if entry[1] == core.COMPLETE
        }
        more = tuple((number, -1) for number in sorted(complete - set(dict(stands))))
        return stands + more, error


class SettledFalls(Rules):
    """An operation with tokens stands only if all are complete, also if one has settled it."""

    name = "a verdict that overlooks who has settled"

    def decide(self, reports, order, lost, too_few, broken) -> Decision:
        stands, error = super().decide(reports, order, lost, too_few, broken)
        incomplete = set(dict(stands))
        for number in dict(stands):
            if all((number, core.COMPLETE) in {e[:2] for e in told[1]} for _, told in reports):
                incomplete.discard(number)
        return tuple(one for one in stands if one[1] >= 0 or one[0] not in incomplete), error


class IdleCounts(Rules):
    """That all survivors are complete is enough, also if nothing had to come to any of them."""

    name = "a verdict that trusts the idle"

    def decide(self, reports, order, lost, too_few, broken) -> Decision:
        busy = tuple(
            (peer, (settled, tuple((*e[:5], False, *e[6:]) for e in entries), vetoes))
            for peer, (settled, entries, vetoes) in reports
        )
        return super().decide(busy, order, lost, too_few, broken)


class LeavesAtOnce(Rules):
    """Who leaves waits for nobody to be told of what it was told of."""

    name = "a leave that waits for nobody"

    def may_leave(self, settled: int, others: tuple[int, ...]) -> bool:
        return True


class SenderSettles(Rules):
    """A send returns when it is sent."""

    name = "a send that waits for no token"

    def issue_pair(self, op: core.Agree, sends: bool) -> core.Agree:
        issued = super().issue_pair(op, sends)
        return core.told(issued) if sends else issued


class SenderCounts(Rules):
    """A pair's operation stands if all of the two that survive are complete."""

    name = "a verdict that trusts a sender"

    def decide(self, reports, order, lost, too_few, broken) -> Decision:
        stands, error = super().decide(reports, order, lost, too_few, broken)
        sent = {
            entry[0]
            for _, told in reports
            for entry in told[1]
            if entry[6] and entry[1] == core.COMPLETE
        }
        more = tuple((number, -1) for number in sorted(sent - set(dict(stands))))
        return stands + more, error


class ReceiverIsForgotten(Rules):
    """What the receiver has settled is not looked for in its watermark."""

    name = "a verdict that overlooks a receiver's watermark"

    def decide(self, reports, order, lost, too_few, broken) -> Decision:
        deaf = tuple(
            (peer, (tuple((pair, 0 if pair else mark) for pair, mark in settled), *rest))
            for peer, (settled, *rest) in reports
        )
        return super().decide(deaf, order, lost, too_few, broken)


class PairsAmongAll(Rules):
    """What two do is numbered and judged with what all do."""

    name = "a pair in the order of all"

    def decide(self, reports, order, lost, too_few, broken) -> Decision:
        alike = tuple(
            (
                peer,
                (
                    tuple((pair, mark) for pair, mark in settled if not pair),
                    tuple((*entry[:6], ()) for entry in entries),
                    tuple((number, ()) for number, _ in vetoes),
                ),
            )
            for peer, (settled, entries, vetoes) in reports
        )
        return super().decide(alike, order, lost, too_few, broken)


class PairsFailAlone(Rules):
    """The error of two breaks the group for them alone."""

    name = "an error of two that breaks the group for these only"
    breaks_all = False


def _of(*ops: Kind, peers: int = 2, **faults: int) -> Configuration:
    return Configuration("", peers, ops, Faults(**faults))


MUTANTS: tuple[tuple[Rules, Configuration], ...] = (
    (NoSealing(), _of(SMALL, rounds=1)),
    (VetoAnswers(), _of(SMALL, vetoes=1)),
    (ErrorBreaksAll(), _of(SMALL, SMALL, vetoes=1)),
    (StandsIsFinal(), _of(SMALL, peers=3, deaths=1, rounds=1)),
    (SupplyOfAnyRound(), _of(SMALL, peers=3, deaths=1, rounds=1)),
    (ReportOfAnyRound(), _of(SMALL, rounds=2)),
    (VerdictOfAnyRound(), _of(SMALL, rounds=2)),
    (ErrorsAreTold(), _of(SMALL, peers=3, evictions=1)),
    (WatermarkSkips(), _of(SMALL, SMALL, rounds=1)),
    (ResumesQuietly(), _of(SMALL, rounds=1, restarts=1)),
    (AsksOnce(), _of(SMALL, rounds=1, restarts=1)),
    (AttemptsByHand(), _of(SMALL, rounds=1)),
    (NumbersAnew(), _of(SMALL, SMALL, peers=3, deaths=1)),
    (TokensOfAnyView(), _of(LARGE, rounds=2)),
    (OneCompleteStands(), _of(LARGE, rounds=1)),
    (SettledFalls(), _of(LARGE, rounds=1)),
    (IdleCounts(), _of(TO_2, peers=3, deaths=1)),
    (LeavesAtOnce(), _of(BARRIER, peers=3, leaves=1)),
    (SenderSettles(), _of(PAIR, vetoes=1)),
    (SenderCounts(), _of(PAIR, rounds=1)),
    (ReceiverIsForgotten(), _of(PAIR, rounds=1)),
    (PairsAmongAll(), _of(PAIR, peers=3, rounds=1)),
    (PairsFailAlone(), _of(PAIR, SMALL, peers=3, vetoes=1)),
    (RootlessRaises(), _of(SMALL, FROM_2, peers=3, deaths=1, vetoes=1)),
)
