"""How the ranks of a process group find each other: through the store that c10d hands them."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgpack  # type: ignore[import-untyped]

from collectives.errors import CollectiveError, MismatchError, PeerLost, Timeout
from collectives.membership.view import Peer

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

_SHORTEST, _LONGEST = 0.0005, 0.02  # seconds between two looks at the store


class Meeting:
    """An exchange among the ranks of a coming process group.

    Each rank counts how often it has come to this store under its rank, so that a group that is
    made anew after another was destroyed does not read what that one has left there.

    Args:
        store: the process group's own (a prefix of the program's).
        names: of the ranks, for messages; their number is the group's size.
        rank: this one's.
        timeout: seconds that all of it may take.

    Raises:
        CollectiveError: the store does not answer.
    """

    def __init__(self, store: Store, names: Sequence[str], rank: int, timeout: float) -> None:
        self._store = store
        self._names = names
        self._rank = rank
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        turn = self._ask(lambda: store.add(f"turn/{rank}", 1))
        self._prefix = f"{turn}"

    def exchange(
        self, topic: str, mine: Any, watch: Callable[[], None] = lambda: None
    ) -> list[Any]:
        """Tell all ranks something, and hear what they say, by rank.

        Args:
            topic: what it is about; once in a meeting.
            mine: what msgpack can pack.
            watch: called now and then while this waits; what it raises ends the meeting.

        Raises:
            PeerLost: another rank gave up; the message says why.
            Timeout: some did not come; the message names them.
        """
        self._tell(topic, {"said": mine})
        keys = [self._key(topic, rank) for rank in range(len(self._names))]
        for rank, key in enumerate(keys):
            pause = _SHORTEST
            while not self._ask(lambda key=key: self._store.check([key])):  # type: ignore[misc]
                watch()
                if time.monotonic() >= self._deadline:
                    raise self._absent(keys[rank:], rank)
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST)
        heard = [msgpack.unpackb(value) for value in self._ask(lambda: self._store.multi_get(keys))]
        for name, one in zip(self._names, heard, strict=True):
            if "failed" in one:
                raise PeerLost(
                    f"{name!r} could not form the process group: {one['failed']}", peer=name
                )
        return [one["said"] for one in heard]

    def give_up(self, topic: str, error: BaseException) -> None:
        """Tell the others, who wait for what this rank says about the topic, that it will not."""
        with contextlib.suppress(CollectiveError):  # the store is gone; the error at hand says more
            self._tell(topic, {"failed": str(error) or type(error).__name__})

    def _tell(self, topic: str, what: dict[str, Any]) -> None:
        self._ask(lambda: self._store.set(self._key(topic, self._rank), msgpack.packb(what)))

    def _key(self, topic: str, rank: int) -> str:
        return f"{self._prefix}/{topic}/{rank}"

    def _ask(self, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except RuntimeError as error:  # all that torch's stores raise
            raise CollectiveError(
                f"the store of the process group does not answer: {error}; see that the program"
                " with rank 0 (or torchrun's agent), which holds it, lives and can be reached"
            ) from error

    def _absent(self, keys: Sequence[str], first: int) -> Timeout:
        there = [self._ask(lambda key=key: self._store.check([key])) for key in keys]  # type: ignore[misc]
        absent = [self._names[first + i] for i, came in enumerate(there) if not came]
        names = ", ".join(map(repr, absent[:8])) + (" and others" if len(absent) > 8 else "")
        return Timeout(
            f"{names} did not come to form the process group within {self._timeout:g} s; see"
            " whether they run, and call the same there, or allow more time (timeout=)"
        )


@dataclasses.dataclass(frozen=True)
class Card:
    """What a rank tells the others of itself.

    Attributes:
        peer: it.
        key: of rank 0, the group's: 32 random bytes.
        abi: of the core that it runs.
    """

    peer: Peer
    key: bytes
    abi: int

    def packed(self) -> dict[str, Any]:
        """As it travels."""
        return {
            "id": self.peer.id.bytes,
            "name": self.peer.name,
            "addresses": list(self.peer.addresses),
            "process": self.peer.process,
            "site": self.peer.site,
            "key": self.key,
            "abi": self.abi,
        }

    @classmethod
    def unpacked(cls, said: dict[str, Any]) -> Card:
        """The reverse of ``packed``."""
        peer = Peer(
            uuid.UUID(bytes=said["id"]),
            said["name"],
            tuple(said["addresses"]),
            process=said["process"],
            site=said["site"],
        )
        return cls(peer, said["key"], said["abi"])


def check_cards(cards: Sequence[Card]) -> None:
    """See that those who have met can talk to each other.

    Raises:
        MismatchError: two run different releases, or are the same process.
    """
    first = cards[0]
    for card in cards:
        if card.abi != first.abi:
            raise MismatchError(
                f"{card.peer.name!r} runs a release of collectives with ABI {card.abi},"
                f" {first.peer.name!r} one with {first.abi}; install the same everywhere"
            )
    if len({card.peer.id for card in cards}) < len(cards):
        raise MismatchError("two ranks are one process; each rank of a process group needs its own")
