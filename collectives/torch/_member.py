"""``Member``: this process in one process group, from its forming to its end."""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import select
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from collectives import engines
from collectives._native import ffi, lib
from collectives._native.engine import EngineGroup, Topology, process_identity, raise_status
from collectives.codec import Codec
from collectives.data_plane import advertised, prepare_view
from collectives.dump import Dumps
from collectives.errors import CollectiveError, PeerLost, Timeout
from collectives.membership.places import places_of
from collectives.membership.view import Peer, View
from collectives.torch import _events, _shim
from collectives.torch._meeting import Card, Meeting, check_cards
from collectives.torch.options import Options

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

CONNECT_SECONDS = 60.0
"""For how long ranks that have met try to connect to each other."""
FLUSH_SECONDS = 5.0
"""For how long a rank that leaves sees to it that the others have all that it owes them."""

logger = logging.getLogger("collectives.torch")

_members: set[Member] = set()


class Member:
    """One process group, as this process is in it.

    Args:
        store: through which the ranks find each other, the group's own.
        rank: this process's, in the group.
        ranks: the global rank of each rank of the group.
        name: the group's, for messages.
        timeout: seconds that a call may take, and the meeting of all ranks.
        options: how it talks.

    Attributes:
        backend: the ``c10d::Backend``; None once the group was closed.
        view: who is in it.

    Raises:
        Timeout: not all ranks came, or could connect; the message names who and why.
        PeerLost: another rank failed meanwhile.
        MismatchError: the ranks run different releases.
        UnsupportedError: the C++ part cannot be made; the message says what to do.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        ranks: Sequence[int],
        name: str,
        timeout: timedelta,
        options: Options,
    ) -> None:
        seconds = timeout.total_seconds()
        meeting = Meeting(store, [f"rank {one}" for one in ranks], rank, seconds)
        key = secrets.token_bytes(32)
        self.rank = rank
        self.options = options
        self._ranks = tuple(ranks)
        self._dumps = Dumps.of(options)
        self._error: CollectiveError | None = None
        # Guards _error, and the group against its closing; a signal's handler may come in between.
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._shared: engines.SharedEngine | None = None
        self.group: EngineGroup | None = None
        self.backend: Any = None
        topic = "who"
        try:
            shim = _load_shim()
            self._shared = engines.take(_RUN, options.of_engine, key.hex())
            mine = self._shared.engine
            card = Card(
                _peer(mine.peer_id, f"rank {ranks[rank]}", mine.addresses, options),
                key,
                lib.coll_abi_version(),
            )
            cards = [Card.unpacked(said) for said in meeting.exchange(topic, card.packed())]
            topic = "connected"
            check_cards(cards)
            # The number has to be free in all of these processes: nobody knows all of theirs, but
            # among two thousand million random ones no two are the same.
            number = int.from_bytes(cards[0].key[:4], "little") & 0x7FFFFFFF
            peers = tuple(card.peer for card in cards)
            self.view = View(name, number, 1, 1, peers, cards[0].key)
            self.group = EngineGroup(mine, number, name)
            prepare_view(self.group, self.view, rank, fixed=True)
            self._connect(min(seconds, CONNECT_SECONDS))
            nearby = [i for i, near in enumerate(self.group.nearby(len(peers))) if near]
            heard = meeting.exchange(topic, nearby, self._look)
            near = {peer.id: ranks for peer, ranks in zip(peers, heard, strict=True)}
            self.group.commit(1, 1, 1, Topology(places_of(peers, near)[0]))
            codec = None if options.codec is None else Codec.of(options.codec).struct()
            self.backend = shim.Backend(
                group=int(ffi.cast("uintptr_t", self.group.handle)),
                rank=rank,
                peers=b"".join(peer.id.bytes for peer in peers),
                name=name,
                timeout=timeout,
                codec=0 if codec is None else int(ffi.cast("uintptr_t", codec)),
                owner=self,
            )
            _events.listen(self)
        except BaseException as error:
            meeting.give_up(topic, error)
            self._release()
            self.backend = None
            raise
        _members.add(self)

    def _connect(self, seconds: float) -> None:
        """Wait until all links are up."""
        assert self.group is not None
        deadline = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self.group.event_fd, select.POLLIN)
        trouble: dict[str, str] = {}
        while True:
            while (event := self.group.next_event()) is not None:
                if event.kind == lib.COLL_EVENT_VIEW_READY:
                    return
                name = self._name(event.peer.bytes)
                if event.kind == lib.COLL_EVENT_PEER_LOST:
                    raise _lost(name, event.text)
                if event.kind == lib.COLL_EVENT_PEER_UNREACHABLE:
                    trouble[name] = event.text
            left = deadline - time.monotonic()
            if left <= 0:
                reasons = "; ".join(f"{name!r}: {text}" for name, text in trouble.items())
                raise Timeout(
                    f"rank {self._ranks[self.rank]} could not connect within {seconds:g} s to"
                    f" {reasons or 'the other ranks'}; see that each rank can reach the others"
                    " (firewalls; collectives.torch.Options(interface=..., bind=...))"
                )
            poll.poll(min(left, 0.1) * 1000)

    def _look(self) -> None:
        """Raise if a rank was lost since all links were up."""
        assert self.group is not None
        while (event := self.group.next_event()) is not None:
            if event.kind == lib.COLL_EVENT_PEER_LOST:
                raise _lost(self._name(event.peer.bytes), event.text)

    def _name(self, peer: bytes) -> str:
        return next((one.name for one in self.view.peers if one.id.bytes == peer), "")

    @property
    def event_fd(self) -> int:
        """Readable while the core has something to say."""
        return -1 if self.group is None else self.group.event_fd

    def heed(self) -> None:
        """Take in what the core says: log a stall, remember why the group is broken."""
        with self._lock:
            while self.group is not None and (event := self.group.next_event()) is not None:
                if event.kind == lib.COLL_EVENT_STALLED:
                    logger.warning("%s", event.text)
                if event.kind == lib.COLL_EVENT_BROKEN and self._error is None:
                    self._break(event.text)

    def _break(self, text: str) -> None:
        assert self.group is not None
        status, culprit = self.group.state()
        try:
            raise_status(status, text, peer=self._name(culprit), unknown=True)
        except CollectiveError as error:
            self._error = error
        logger.error("process group %s is broken: %s", self.view.group, text)
        if self._dumps is not None:
            backend = self.backend
            history = [] if backend is None else backend.trace()
            operations = self.group.operations()
            self._dumps.write(self._error, self.view, self.rank, operations, history)

    def error(self) -> CollectiveError | None:
        """Why the group is broken; None: it is whole."""
        self.heed()
        return self._error

    def split(self, store: Store, ranks: Sequence[int], timeout: timedelta) -> Any:
        """The backend of a group of some of the ranks (of this group), called by all of them."""
        mine, ranks = self.rank, list(ranks)
        name = f"{self.view.group}:split"
        chosen = [self._ranks[rank] for rank in ranks]
        return Member(store, ranks.index(mine), chosen, name, timeout, self.options).backend

    def close(self) -> None:
        """Leave the group; the C++ side calls it, once, when nothing is issued any more."""
        if os.getpid() != self._pid:
            return  # a forked child: it is the parent's
        try:
            self.heed()
            deadline = time.monotonic() + FLUSH_SECONDS
            # Signals interrupt it, and their handlers run in between.
            while self.group is not None and self._error is None:
                left = deadline - time.monotonic()
                if left <= 0 or self.group.flush(left):
                    break
                self.heed()
        finally:
            _events.forget(self)
            _members.discard(self)
            self._release()
            self.backend = None

    def _release(self) -> None:
        with self._lock:
            group, self.group = self.group, None
            shared, self._shared = self._shared, None
        if group is not None:
            group.close()
        if shared is not None:
            shared.release()


def create(given: Any, options: object) -> Any:
    """Make the backend of a process group; what ``register_backend`` is given.

    Args:
        given: ``c10d::DistributedBackendOptions``.
        options: what ``pg_options`` was.

    Raises:
        CollectiveError: see `Member`.
    """
    ranks = list(given.global_ranks_in_group) or range(given.group_size)
    return Member(
        given.store, given.group_rank, ranks, given.group_id, given.timeout, Options.of(options)
    ).backend


_RUN = "torch.distributed"  # its groups share engines with each other, and no others


def _peer(peer_id: Any, name: str, addresses: Sequence[str], options: Options) -> Peer:
    told = advertised(options, tuple(addresses))
    return Peer(peer_id, name, told, process=process_identity(), site=options.chosen_site)


def _lost(name: str, text: str) -> PeerLost:
    return PeerLost(f"{name!r} was lost while the process group was formed: {text}", peer=name)


_shim_loaded: Any = None


def _load_shim() -> Any:
    global _shim_loaded
    _shim_loaded = _shim.load()
    return _shim_loaded


def _close_all() -> None:
    """The program ends: the others are to know that nothing comes any more."""
    for member in list(_members):
        try:
            if member.backend is not None:
                member.backend.shutdown()
        except Exception:
            logger.exception("process group %s could not be left", member.view.group)
    # Callbacks of futures are Python's: none may run when the interpreter is gone.
    if _shim_loaded is not None:
        _shim_loaded.stop_completing()


def _fresh() -> None:
    _members.clear()  # a forked child is in no group


atexit.register(_close_all)
os.register_at_fork(after_in_child=_fresh)
