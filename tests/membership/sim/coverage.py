"""Which pairs of (state, event) the histories have gone through, and which they cannot."""

from __future__ import annotations

import re
from collections import Counter

from collectives.membership import ledger, peer
from collectives.membership.peer import PeerState, Phase

NEW = "connecting|challenged|waiting.*"
MEMBER = "leaving|member.*"
NEVER = (
    # (states, events, why not), as regular expressions of whole names: of a peer ...
    (f"{NEW}|.*in sync", "CallLeave", "the program of a member leaves between its calls"),
    ("leaving", "CallLeave|CallSync", "the program has made its last call"),
    (f"{NEW}|.*in sync", "CallSync", "one sync at a time, of a member"),
    ("(?!connecting).*", "Start", "a process starts once"),
    (NEW, "PeerSuspected|Reported|Vetoed|VerdictTaken", "it has no view yet"),
    (".*in sync", "Vetoed", "none may be outstanding at sync(); what is told late is rare"),
    ("(?!.*view coming).*", "ViewReady|Unreachable", "no view is coming; told late it is rare"),
    (NEW, "check|sync_done|sync_waiting|verdict", "it has no view yet; not said to newcomers"),
    ("connecting|challenged|waiting", "seal|commit", "it has no view and none is coming"),
    ("connecting|challenged", "abandon|noted|evicted|recall|prepare", "nobody knows it yet"),
    (NEW, "recall", "only a member has something to recall"),
    (f"{NEW}|member.*", "leave_done", "it did not leave"),
    # ... and of the coordinator's group.
    ("no group|no view|first view coming|recalling", "suspect|veto|taken|report|sync_reached",
     "they come from members, late and rarely"),
    ("first view coming|recalling|no group", "leave", "who has left was a member before"),
    ("(?!recalling|no view|returning).*", "recollect", "who asked for it has no view"),
    ("recalling|no group", "unreachable|prepared", "nothing is being prepared; late and rare"),
    ("round|returning|first view coming", "taken", "a verdict is out, and no other round begun"),
)  # fmt: skip
"""Pairs that need not be met."""
RARE = (
    # Met in thousands of histories, not surely in hundreds: a fault has to fall into a moment.
    ("member, sealed.*|member, view coming.*|leaving", ".*"),
)


class Coverage:
    """Counts, for the peer's machine and for the coordinator's."""

    def __init__(self) -> None:
        self.peers: Counter[tuple[str, str]] = Counter()
        self.coordinators: Counter[tuple[str, str]] = Counter()

    def peer(self, state: PeerState, event: peer.Event) -> None:
        self.peers[where(state), what(event)] += 1

    def coordinator(self, state: ledger.CoordinatorState, event: ledger.Event) -> None:
        self.coordinators[situation(state), what(event)] += 1

    def table(self) -> str:
        """All counts: events down, states across."""
        lines = []
        for counts in (self.peers, self.coordinators):
            states, events = _names(counts)
            lines += [f"{number}: {state}" for number, state in enumerate(states)]
            lines.append(" " * 16 + "".join(f"{number:>8}" for number in range(len(states))))
            for event in events:
                cells = (f"{counts[state, event]:>8}" for state in states)
                lines.append(f"{event:<16}" + "".join(cells))
        return "\n".join(lines)

    def missed(self, *, rare: bool = False) -> list[tuple[str, str]]:
        """Pairs that were not met and are not known to be impossible; with ``rare``: or rare."""
        excused = [(states, events) for states, events, _ in NEVER] + ([] if rare else [*RARE])
        return [
            (state, event)
            for counts in (self.peers, self.coordinators)
            for states, events in [_names(counts)]
            for state in states
            for event in events
            if not counts[state, event]
            and not any(re.fullmatch(s, state) and re.fullmatch(e, event) for s, e in excused)
        ]


def _names(counts: Counter[tuple[str, str]]) -> tuple[list[str], list[str]]:
    return sorted({state for state, _ in counts}), sorted({event for _, event in counts})


def what(event: object) -> str:
    """The kind of a message or an event."""
    message = getattr(event, "message", event)
    return str(getattr(message, "kind", type(message).__name__))


def where(state: PeerState) -> str:
    """A peer's state, as far as its machine tells cases apart."""
    if state.phase is Phase.WAITING:
        return "waiting" if state.coming is None else "waiting, view coming"
    if state.phase is not Phase.MEMBER:
        return state.phase.name.lower()
    doing = "sealed" if state.sealed else "view coming" if state.coming is not None else "running"
    return f"member, {doing}" + (", in sync" if state.sync is not None else "")


def situation(state: ledger.CoordinatorState) -> str:
    """A group's situation at the coordinator."""
    group = state.groups.get("g")
    if group is None:
        return "no group"
    if group.recollections:
        return "recalling"
    if group.view is None:
        return "first view coming" if group.preparing is not None else "no view"
    if group.returning is not None:
        return "returning"
    if group.round is not None:
        return "round"
    if group.preparing is not None:
        return "view coming"
    return "in sync" if group.reached else "view"
