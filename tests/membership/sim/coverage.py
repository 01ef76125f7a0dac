"""Which pairs of (state, event) the histories have gone through, and which they cannot."""

from __future__ import annotations

import re
from collections import Counter

from collectives.membership import ledger, peer
from collectives.membership.peer import PeerState, Phase

NEW = "connecting|challenged|waiting.*"
STRANGER = "connecting|challenged"
NEVER = (
    # (states, events, why not), as regular expressions of whole names: of a peer ...
    (NEW, "CallLeave|CallSync", "the simulated program begins with its first view"),
    ("(?!connecting).*", "Start", "a process starts once"),
    (
        NEW,
        "PeerSuspected|Reported|Vetoed|VerdictHeard|VerdictTaken|GivenUp",
        "it has no view yet",
    ),
    (NEW, "sync_done|sync_waiting|verdict|recall", "said to members only"),
    (STRANGER, "seal|commit", "it has no view, and none is coming"),
    (f"{NEW}|member.*", "leave_done", "it did not leave"),
    # ... and of the coordinator's group.
)
"""Pairs that cannot be met."""
RARE = (
    # Pairs that are met a few times in hundreds of histories, or in thousands: a message has to be
    # overtaken by others, or a fault to fall into a moment.
    ("leaving", "abandon|challenge|check|commit|identify|prepare|recall|sync_done|sync_waiting"),
    ("leaving", "CallLeave|CallSync|VerdictHeard|VerdictTaken|Vetoed|waiting|welcome"),
    ("member, view coming", ".*"),
    ("member, sealed", "CallSync|VerdictTaken|abandon|challenge|commit|prepare|recall|sync_done"),
    ("member, sealed.*", "sync_waiting|waiting"),
    (
        "member, sealed, in sync",
        "VerdictHeard|VerdictTaken|challenge|check|commit|evicted|identify|prepare",
    ),
    ("member, sealed, in sync", "recall|sync_done|welcome"),
    (
        "member, view coming, in sync",
        "Reported|VerdictHeard|VerdictTaken|challenge|sync_done|waiting",
    ),
    ("member, running.*", "abandon|waiting|prepare"),
    (".*in sync", "CallLeave|CallSync|Vetoed"),
    ("(?!.*view coming).*", "ViewReady|Unreachable"),
    (".*", "GivenUp"),
    (NEW, "check"),
    ("waiting.*", "evicted|seal|commit"),
    (STRANGER, "abandon|noted|evicted|identify"),
    ("in sync|returning|view coming|no group|recalling|first view coming", "leave"),
    ("no group|in sync|round|returning|view.*|first view coming", "recollect"),
    ("returning", "report|veto|taken"),
    ("round", "proof|taken"),
    ("recalling", "proof"),
    ("view coming", "veto"),
    ("no group|no view|recalling", "suspect|veto|report|sync_reached|prepared|unreachable"),
    ("no group|no view|recalling", "taken"),
    ("first view coming", "suspect|veto|report|sync_reached|taken"),
)
"""Pairs that need not be met in a run of the tests; each was met in longer ones, or may be."""


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

    def missed(self) -> list[tuple[str, str]]:
        """Pairs that were not met, and of which it is not known why."""
        excused = [(states, events) for states, events, _ in NEVER] + [*RARE]
        return [
            (state, event)
            for counts in (self.peers, self.coordinators)
            for states, events in [_names(counts)]
            for state in states
            for event in events
            if not counts[state, event]
            and not any(re.fullmatch(s, state) and re.fullmatch(e, event) for s, e in excused)
        ]

    def impossible(self) -> list[tuple[str, str]]:
        """Pairs that were met, though it was said that they cannot be."""
        return [
            (state, event)
            for counts in (self.peers, self.coordinators)
            for state, event in counts
            if any(re.fullmatch(s, state) and re.fullmatch(e, event) for s, e, _ in NEVER)
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
