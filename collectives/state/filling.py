"""What a newcomer fetches before it is admitted, so that the run waits only for what changed since.

The members go on and write into what they share: what comes is judged by the digests of their last
sync, and what has changed is left to the sync that admits the newcomer, which looks at all of it
once more. So nothing here has to succeed: whatever goes wrong, there is just more left to do.
"""

from __future__ import annotations

import dataclasses
import logging
import time
import uuid
from collections.abc import Callable, Sequence

from collectives._native.engine import EngineGroup
from collectives._native.fetch import Fetch, wait
from collectives.errors import CollectiveError, PeerLost, StateError, UnsupportedError
from collectives.membership.view import View
from collectives.state.content import Manifest, ManifestError
from collectives.state.election import BALLOT, NO_RUN, Ballot, elect
from collectives.state.intake import Intake
from collectives.state.plan import Piece
from collectives.state.service import Request
from collectives.state.shared import SharedState
from collectives.state.transfer import SourcesLostError, StoppedError, Transfer, missing

logger = logging.getLogger("collectives.state")

_SLICE = 0.1  # seconds between looks at ``stop``
_ANSWER = 2.0  # seconds in which a member says what it shares
_POLLS = 3  # how often they are asked until all say the same
_FAILURES = 10  # in a row, after which the rest is left to the sync
_HOPELESS = 16  # chunks that changed, and more than half of all: the members write into all of it


@dataclasses.dataclass(frozen=True)
class Fetched:
    """What a newcomer fetched before its admission.

    Attributes:
        bytes_received: how much of the members' state came here, as it travelled.
        sources: how much of that came from whom, by name.
        seconds: from the first look at what the members share until nothing was left to do.
    """

    bytes_received: int
    sources: dict[str, int]
    seconds: float


class Filling:
    """Fetches into ``state`` while this peer waits for its admission.

    Args:
        state: what to fetch into; a mixture until it has become one of the members' states.
        me: this peer.
        where: the members to ask, as the peers of a visit, and the core's group that has links to
            them; None while there are none.

    Attributes:
        received: bytes that came, by source.
        seconds: see ``Fetched``.
    """

    def __init__(
        self,
        state: SharedState,
        me: uuid.UUID,
        where: Callable[[], tuple[EngineGroup, View] | None],
    ) -> None:
        self._state = state
        self._me = me
        self._where = where
        self._mine: Manifest | None = None  # of what is there, once something may be
        self._last = b""  # digest of the manifest that was fetched last
        self._lacking: int | None = None  # chunks, before the last pass
        self.received: dict[str, int] = {}
        self.seconds = 0.0

    @property
    def fetched(self) -> Fetched:
        """What came of it."""
        return Fetched(sum(self.received.values()), dict(self.received), self.seconds)

    def run(self, stop: Callable[[], bool]) -> None:
        """Fetch until nothing is left that is worth it, or ``stop()`` is true."""
        failures = 0
        began: float | None = None
        try:
            while failures < _FAILURES and not stop():
                visit = self._where()
                if visit is None:
                    time.sleep(_SLICE / 4)
                    continue
                began = began or time.monotonic()
                had = sum(self.received.values())
                try:
                    if self._pass(*visit, stop):
                        break
                except (SourcesLostError, PeerLost):
                    failures = failures + 1 if sum(self.received.values()) == had else 0
                    time.sleep(_SLICE)
        except StoppedError:
            pass
        except (StateError, ManifestError, UnsupportedError) as error:
            logger.warning("fetches nothing before the admission: %s", error)
        finally:
            self.seconds = 0.0 if began is None else time.monotonic() - began

    def _pass(self, group: EngineGroup, visit: View, stop: Callable[[], bool]) -> bool:
        """Fetch what differs from the members' last common state. True: that is enough."""
        names = {peer.id: peer.name for peer in visit.peers}
        members = [peer for peer in names if peer != self._me]
        for _ in range(_POLLS):
            ballots = _ballots(group, members, stop)
            if len({ballot.digest for ballot in ballots}) <= 1:
                break  # else some are a sync ahead of others, who cannot give what these have
        if not ballots:
            return True  # they share nothing (yet)
        election = elect(ballots)
        winner, state = election.winner, self._state
        if winner is None or winner.empty or winner.digest == self._last:
            return True
        runs = {ballot.run for ballot in ballots} - {NO_RUN}
        if state.run is not None and runs and state.run not in runs:
            raise StateError(f"the state belongs to run {state.run}, the group's to {election.run}")
        transfer = Transfer(group, names, float("inf"), stop)
        transfer.received = self.received
        wanted = transfer.manifest(election.sources, winner.digest, winner.length)
        mine = self._mine or state.manifest()
        source = names[election.sources[0]]
        pieces = missing(mine, wanted, names[self._me], source)
        if self._lacking is not None and len(pieces) > self._lacking // 2:
            return True  # they change it as fast as it comes
        intake = Intake(state, mine, wanted, pieces)
        left = set(pieces)
        stale = 0

        def verified(piece: Piece) -> None:
            intake.verified(piece)
            left.discard(piece)

        def changed(_: Piece) -> None:
            nonlocal stale
            stale += 1
            if stale >= _HOPELESS and stale > len(pieces) - len(left):
                raise StoppedError

        try:
            transfer.run(pieces, election.sources, intake.place, verified, changed)
            self._last, self._lacking = winner.digest, len(pieces)
            if not left:
                intake.finish(state.run)
        finally:
            self._mine = intake.manifest()
            got = len(pieces) - len(left)
            logger.info("fetched %d of %d chunks before the admission", got, len(pieces))
        return not left


def _ballots(
    group: EngineGroup, members: Sequence[uuid.UUID], stop: Callable[[], bool]
) -> list[Ballot]:
    """What members say they share; of those who answer in time.

    Raises:
        SourcesLostError: nobody answers.
    """
    deadline = time.monotonic() + _ANSWER
    asked: list[tuple[Fetch, bytearray]] = []
    ballots = []
    answers = 0
    try:
        for member in members:
            place = bytearray(BALLOT)
            request = Request(None, 0, BALLOT).encode()
            try:
                asked.append((Fetch(group, member, request, memoryview(place)), place))
            except CollectiveError:
                continue
        while asked and time.monotonic() < deadline:
            if stop():
                raise StoppedError
            index = wait([fetch for fetch, _ in asked], _SLICE)
            if index is None:
                continue
            fetch, place = asked.pop(index)
            try:
                if fetch.result() == BALLOT and (ballot := Ballot.decode(bytes(place))):
                    ballots.append(ballot)
                answers += 1
            except UnsupportedError:
                answers += 1
            except PeerLost:
                pass
            finally:
                fetch.release()
    finally:
        for fetch, _ in asked:
            fetch.release()
    if not answers:
        raise SourcesLostError
    return ballots
