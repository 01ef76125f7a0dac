"""What the demo found out: gathered from the peers' messages, judged, written as JSON.

Pure apart from ``write_json``: messages go in, the report and its verdict come out.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import signal
from typing import Any

from collectives.cli._demo.messages import (
    Dying,
    Evaluated,
    Fault,
    Finished,
    Joined,
    Message,
    Progress,
    RoundEnd,
)


@dataclasses.dataclass(frozen=True)
class Event:
    """A peer died or came.

    Attributes:
        round: in whose all-reduce it died; at whose end it came.
        kind: ``"killed"`` or ``"joined"``.
        peer: its name.
        seconds_to_recover: from its death until every survivor had finished the round; from its
            admission until it had the state.
    """

    round: int
    kind: str
    peer: str
    seconds_to_recover: float


@dataclasses.dataclass
class RoundReport:
    """One round, as every peer told it."""

    number: int
    peers: dict[str, RoundEnd] = dataclasses.field(default_factory=dict)
    dead: set[str] = dataclasses.field(default_factory=set)
    before: RoundReport | None = None

    @property
    def accounted(self) -> int:
        """Members that reported, or that died in the round and are of its view all the same.

        What they had sent before may have been all that the others needed of them.
        """
        same_view = not self.before or not self.before.peers or self.before.view == self.view
        return len(self.peers.keys() | (self.dead if same_view else set()))

    @property
    def view(self) -> int:
        """Number of the view, the newest if the peers' words differ."""
        return max(end.view for end in self.peers.values())

    @property
    def size(self) -> int:
        """Members of the view."""
        return max((end.size for end in self.peers.values()), default=0)

    @property
    def complete(self) -> bool:
        """Whether every member has reported that lived to do so."""
        return bool(self.peers) and self.size <= self.accounted

    @property
    def loss(self) -> float:
        """Mean training loss of the peers, nats per byte."""
        return sum(end.loss for end in self.peers.values()) / len(self.peers)

    @property
    def validation(self) -> float:
        """Loss on some validation text, nats per byte."""
        parts = [(end.validation, end.validation_windows) for end in self.peers.values()]
        return _mean(parts)

    @property
    def wire_bytes(self) -> int:
        """Bytes all peers together sent."""
        return sum(end.wire_bytes for end in self.peers.values())

    @property
    def identical(self) -> bool:
        """Whether every member has reported, and the same outer state."""
        return self.complete and len({end.digest for end in self.peers.values()}) == 1


@dataclasses.dataclass
class Report:
    """All that is known about the run.

    Attributes:
        expected_rounds: what was asked for.
        inner_steps: inner steps in a round.
        joined: what the peers said when they joined, by name.
        curves: (inner step, loss) of every peer.
        rounds: in order; entry i is round i + 1.
        fault: the death that was asked for, None: none was.
        sample: generated text.
    """

    expected_rounds: int
    inner_steps: int
    joined: dict[str, Joined] = dataclasses.field(default_factory=dict)
    curves: dict[str, list[tuple[int, float]]] = dataclasses.field(default_factory=dict)
    rounds: list[RoundReport] = dataclasses.field(default_factory=list)
    fault: Fault | None = None
    sample: str = ""
    _dying: dict[str, int] = dataclasses.field(default_factory=dict)
    _died: dict[str, float] = dataclasses.field(default_factory=dict)
    _evaluations: dict[str, list[tuple[float, int]]] = dataclasses.field(default_factory=dict)

    def add(self, peer: str, message: Message) -> None:
        """Take in what ``peer`` said."""
        if isinstance(message, Joined):
            self.joined[peer] = message
        elif isinstance(message, Progress):
            self.curves.setdefault(peer, []).append((message.step, message.loss))
        elif isinstance(message, RoundEnd):
            self._round(message.number).peers[peer] = message
        elif isinstance(message, Evaluated):
            self._evaluations.setdefault(message.when, []).append((message.loss, message.windows))
        elif isinstance(message, Finished):
            self.sample = message.sample or self.sample
        elif isinstance(message, Dying):
            self._dying[peer] = message.round

    def add_end(self, peer: str, status: int, when: float) -> bool:
        """A peer's process ended at ``when`` (CLOCK_MONOTONIC); whether it was meant to end so."""
        if status == -signal.SIGKILL and peer in self._dying:
            self._died[peer] = when
            self._round(self._dying[peer]).dead.add(peer)
            return True
        return status == 0

    def _round(self, number: int) -> RoundReport:
        while len(self.rounds) < number:
            before = self.rounds[-1] if self.rounds else None
            self.rounds.append(RoundReport(len(self.rounds) + 1, before=before))
        return self.rounds[number - 1]

    @property
    def events(self) -> list[Event]:
        """Deaths and arrivals, in the order of rounds."""
        found = [
            Event(message.round, "joined", name, message.seconds)
            for name, message in self.joined.items()
            if message.round > 0
        ]
        for name, when in self._died.items():
            number = self._dying[name]
            ends = self.rounds[number - 1].peers if number <= len(self.rounds) else {}
            if ends:
                last = max(end.ended for end in ends.values())
                found.append(Event(number, "killed", name, max(last - when, 0.0)))
        return sorted(found, key=lambda event: (event.round, event.kind != "killed"))

    @property
    def validation_start(self) -> float | None:
        """Loss on the validation text before training, nats per byte; None if nobody told."""
        return _mean(self._evaluations["start"]) if "start" in self._evaluations else None

    @property
    def validation_end(self) -> float | None:
        """The same after training."""
        return _mean(self._evaluations["end"]) if "end" in self._evaluations else None

    @property
    def identical_rounds(self) -> int:
        """Rounds after which all peers had the same outer state, to the bit."""
        return sum(entry.identical for entry in self.rounds)

    @property
    def bit_identical(self) -> bool:
        """Whether that holds for all rounds, and there were any."""
        return bool(self.rounds) and self.identical_rounds == len(self.rounds)

    def verdict(self) -> list[str]:
        """Why the run does not count as a success, one sentence each; empty if it does."""
        reasons = []
        if len(self.rounds) < self.expected_rounds:
            reasons.append(f"only {len(self.rounds)} of {self.expected_rounds} rounds were done")
        for entry in self.rounds:
            if not entry.complete:
                missing = entry.size - (entry.accounted if entry.peers else 0)
                reasons.append(
                    f"{missing} of {entry.size} peers did not report round {entry.number}"
                )
            elif not entry.identical:
                told = ", ".join(f"{name} {end.digest}" for name, end in entry.peers.items())
                reasons.append(f"the outer state after round {entry.number} differs: {told}")
        kinds = {event.kind for event in self.events}
        if self.fault is not None and "killed" not in kinds:
            reasons.append(f"no peer died in round {self.fault.round}, as one should have")
        if self.fault is not None and "joined" not in kinds:
            reasons.append("no peer came for the one that died")
        start, end = self.validation_start, self.validation_end
        if start is None or end is None:
            reasons.append("the validation loss was not measured")
        elif not end < start:
            reasons.append(f"the validation loss did not fall: {start:.4f} before, {end:.4f} after")
        return reasons

    def as_json(self) -> dict[str, Any]:
        """The report in the form ``--json`` documents."""
        return {
            "rounds": [
                {
                    "round": entry.number,
                    "view": entry.view,
                    "size": entry.size,
                    "loss": entry.loss,
                    "wire_bytes": entry.wire_bytes,
                    "digests": {name: end.digest for name, end in sorted(entry.peers.items())},
                }
                for entry in self.rounds
                if entry.peers
            ],
            "events": [dataclasses.asdict(event) for event in self.events],
            "validation_loss": {"start": self.validation_start, "end": self.validation_end},
            "bit_identical": self.bit_identical,
        }

    def write_json(self, path: str) -> None:
        """Write ``as_json`` to ``path``."""
        text = json.dumps(self.as_json(), indent=2) + "\n"
        pathlib.Path(path).write_text(text, encoding="utf-8")


def _mean(parts: list[tuple[float, int]]) -> float:
    return sum(value * weight for value, weight in parts) / max(sum(w for _, w in parts), 1)
