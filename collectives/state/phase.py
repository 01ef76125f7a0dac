"""The part of ``Group.sync`` that makes the state identical on all members.

Everybody tells everybody what it holds (an all-reduce of ballots) and counts alike; who lacks
something fetches it from those who have it, while these wait in the next round of ballots. It ends
when a round finds the same state everywhere. Whatever happens meanwhile (a death, a source that is
lost) just leads to another round, and what was fetched and verified is kept.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from typing import Protocol

import numpy as np

from collectives._native.engine import EngineGroup
from collectives.errors import Cancelled, CollectiveError, PeerLost, StateError, Timeout
from collectives.membership.view import View
from collectives.state.content import digest_of
from collectives.state.election import BALLOT, NO_RUN, Ballot, Election, elect
from collectives.state.intake import Intake
from collectives.state.service import Service
from collectives.state.shared import SharedState
from collectives.state.transfer import SourcesLostError, Transfer, missing

logger = logging.getLogger("collectives.state")

_TRIES = 3  # transfers after which a state must be the group's


class Council(Protocol):
    """What the phase needs of a group."""

    @property
    def view(self) -> View:
        """Its members now."""

    @property
    def rank(self) -> int:
        """This peer's rank in it."""

    @property
    def native(self) -> EngineGroup:
        """Whose links are used."""

    @property
    def service(self) -> Service:
        """What answers the others."""

    def exchange(self, slots: np.ndarray, timeout: float) -> None:
        """Sum ``slots`` (uint8) over all members, in place; may change the view."""

    def meet(self, timeout: float) -> None:
        """After ``PeerLost``: go on with those who are left."""

    def exchange_later(self, slots: np.ndarray) -> None:
        """Take part in the next exchange without waiting for it."""

    def go(self, reason: str) -> None:
        """Leave the group at once."""


@dataclasses.dataclass(frozen=True)
class Shared:
    """What the phase came to.

    Attributes:
        bytes_received: how much of others' state came here, as it travelled.
        sources: how much of that came from whom, by name.
    """

    bytes_received: int
    sources: dict[str, int]


def share(council: Council, state: SharedState, *, member: bool, deadline: float) -> Shared:
    """Make ``state`` identical on all members. Collective.

    Args:
        council: the group.
        state: this peer's state; changed if it is not the group's.
        member: whether this peer was in the group before; newcomers do not vote.
        deadline: on the monotonic clock.

    Raises:
        StateError: this peer's state cannot become the group's: then it has left the group. Or
            nobody has a state to give: then it raises on all.
        Timeout: it did not end in time.
        Cancelled: another peer was stopped while it took the state over.
    """
    phase = _Phase(council, state, member, deadline)
    try:
        return phase.run()
    finally:
        council.service.rest()


class _Phase:
    def __init__(self, council: Council, state: SharedState, member: bool, deadline: float) -> None:
        self._council = council
        self._state = state
        self._member = member
        self._deadline = deadline
        self._transfer = Transfer(council.native, {}, deadline)
        self._manifest = state.manifest()

    def run(self) -> Shared:
        tries = 0
        while True:
            election = self._vote()
            if election is None:
                continue
            winner = election.winner
            if winner is None:
                raise StateError(f"no state can be shared: {election.reason}")
            me = self._council.view.peers[self._council.rank].id
            if me in election.outside:
                self._leave(StateError(f"this peer left the group: {election.outside[me]}"))
            if election.settled:
                break
            if me in election.receivers:
                tries += 1
                if tries > _TRIES:
                    self._leave(
                        StateError(
                            f"this peer left the group: after {_TRIES} transfers its state is still"
                            " not the group's; is something writing into it during sync()?"
                        )
                    )
                self._receive(election, winner)
        self._state.finish(election.run, winner.revision, {})
        received = self._transfer.received
        return Shared(sum(received.values()), dict(received))

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            self._give_up()
            raise Timeout("the state was not identical in time; call sync() again")
        return left

    def _vote(self) -> Election | None:
        """Have all tell what they hold. None: a member was lost meanwhile, vote again."""
        council, state = self._council, self._state
        peers = council.view.peers
        encoded = self._manifest.encode()
        slots = self._slots(encoded)
        council.service.offer(state, encoded, slots[council.rank].tobytes())
        try:
            council.exchange(slots, self._left())
        except PeerLost:
            council.meet(self._left())
            return None
        # A member that died has none; then the view that follows is without it.
        ballots = [found for slot in slots if (found := Ballot.decode(slot.tobytes()))]
        gave_up = [ballot.peer for ballot in ballots if ballot.gives_up]
        if gave_up:
            names = ", ".join(repr(peer.name) for peer in peers if peer.id in gave_up)
            raise Cancelled(f"{names} gave up taking the state over; call sync() again")
        election = elect(ballots)
        logger.info("state of %r: %s", peers[council.rank].name, election.reason)
        self._transfer.names.update((peer.id, peer.name) for peer in peers)
        return election

    def _slots(self, manifest: bytes, gives_up: bool = False) -> np.ndarray:
        """Everybody's ballots, all but this peer's own still zero."""
        view, rank, state = self._council.view, self._council.rank, self._state
        ballot = Ballot(
            view.peers[rank].id,
            state.run or NO_RUN,
            state.revision,
            digest_of(manifest),
            len(manifest),
            state.role,
            self._member,
            state.complete,
            len(state) == 0,
            gives_up,
        )
        slots = np.zeros((view.size, BALLOT), np.uint8)
        slots[rank] = np.frombuffer(ballot.encode(), np.uint8)
        return slots

    def _give_up(self) -> None:
        """Have the others, who wait in the next round of ballots or will, raise."""
        self._council.exchange_later(self._slots(b"", gives_up=True))

    def _receive(self, election: Election, winner: Ballot) -> None:
        try:
            self._fetch(election, winner)
        except SourcesLostError:
            return  # another election finds who has it now
        except StateError as error:
            self._leave(error)
        except BaseException:
            self._give_up()
            raise

    def _fetch(self, election: Election, winner: Ballot) -> None:
        state, transfer = self._state, self._transfer
        names = transfer.names
        me = self._council.view.peers[self._council.rank].name
        wanted = transfer.manifest(election.sources, winner.digest, winner.length)
        try:
            pieces = missing(self._manifest, wanted, me, names[election.sources[0]])
        except StateError as error:
            raise StateError(f"this peer left the group: {error}") from None
        intake = Intake(state, self._manifest, wanted, pieces)
        self._council.service.rest()
        try:
            transfer.run(pieces, election.sources, intake.place, intake.verified)
            intake.finish(election.run)
        finally:
            # What came is kept: another try, or another sync(), fetches only the rest.
            self._manifest = intake.manifest()

    def _leave(self, error: CollectiveError) -> None:
        self._council.go(str(error))
        raise error
