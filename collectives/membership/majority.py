"""What members remember of a run whose coordinator does not: which view is theirs, and whose word.

Pure functions of the recollections of one group; ``recall`` acts on them. One member's word is
not enough to go on: it may be the cut-off half of a group whose other half goes on elsewhere.
More than half of the newest view cannot be in two places.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Mapping

from collectives.membership.ledger import Recollection
from collectives.membership.messages import Recollect
from collectives.membership.view import View


@dataclasses.dataclass(frozen=True)
class Standing:
    """How far a run is from being restored: its newest known view and who is there to vouch.

    Attributes:
        verdict: the word of a member that has taken the verdict which issued the view; None: no
            verdict did.
    """

    run: uuid.UUID
    view: View
    present: frozenset[uuid.UUID]
    verdict: Recollect | None = None

    @property
    def needed(self) -> int:
        """More than half of the view's members."""
        return self.view.size // 2 + 1

    @property
    def text(self) -> str:
        """What is missing, for people."""
        return (
            f"{len(self.present)} of {self.view.size} members are back, a majority of"
            f" {self.needed} is needed to restore view {self.view.number}, which the coordinator"
            " does not remember"
        )


def standing(
    recollections: Mapping[uuid.UUID, Recollection], now: float, patience: float
) -> Standing | None:
    """Where the run stands that is nearest to being restored; None if nobody remembers one.

    Args:
        recollections: of one group, by member.
        now: on the clock of ``Recollection.at``.
        patience: seconds after which a member that said nothing is not there.
    """
    found = [_of_run(recollections, run, now, patience) for run in _runs(recollections)]
    return max(found, key=lambda s: (len(s.present) >= s.needed, len(s.present)), default=None)


def highest_term(recollections: Mapping[uuid.UUID, Recollection], run: uuid.UUID) -> int:
    """The highest term of a run that anybody heard of."""
    words = [entry.word for entry in recollections.values() if entry.run == run]
    return max(max(word.term, word.view.term, word.prepared_term) for word in words)


def highest_number(recollections: Mapping[uuid.UUID, Recollection], run: uuid.UUID) -> int:
    """The highest view number of a run that anybody heard of, also of views that never came."""
    words = [entry.word for entry in recollections.values() if entry.run == run]
    return max(max(word.view.number, word.prepared) for word in words)


def _runs(recollections: Mapping[uuid.UUID, Recollection]) -> list[uuid.UUID]:
    return sorted({entry.run for entry in recollections.values()})


def _of_run(
    recollections: Mapping[uuid.UUID, Recollection], run: uuid.UUID, now: float, patience: float
) -> Standing:
    words = {peer: entry for peer, entry in recollections.items() if entry.run == run}
    views = {entry.word.view.key: entry.word.view for entry in words.values()}
    standings = []
    for view in views.values():
        taken = [entry.word for entry in words.values() if entry.word.view.key == view.key]
        verdict = next((word for word in taken if word.verdict), None)
        present = frozenset(
            peer
            for peer, entry in words.items()
            if now - entry.at <= patience
            and view.rank_of(peer) is not None
            and _holds(entry, view, verdict)
        )
        standings.append(Standing(run, view, present, verdict))
    # Two views of one number exist if two coordinators were forced; the larger half counts.
    return max(standings, key=lambda s: (s.view.term, s.view.number, len(s.present)))


def _holds(entry: Recollection, view: View, verdict: Recollect | None) -> bool:
    """Whether a member is in the view, or can follow into it.

    It has connected for it and missed the Commit, or it is in the view that was judged and missed
    the verdict.
    """
    word = entry.word
    if word.view.key == view.key:
        return True
    if verdict and (word.view.term, word.view.number) == (verdict.judged_term, verdict.judged):
        return True
    return (word.prepared_term, word.prepared) == (view.term, view.number)
