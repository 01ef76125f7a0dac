"""``Engine`` and ``EngineGroup``: the C core's handles with Python types and errors.

What lives here translates; it decides nothing. Membership drives it through
``collectives.membership.plane``, ``collectives.issue`` issues operations on ``EngineGroup.handle``.
"""

from __future__ import annotations

import dataclasses
import math
import uuid
from collections.abc import Sequence
from typing import Any, NoReturn

from collectives import errors
from collectives._native import ffi, lib
from collectives.options import Options

_ISA = {"auto": lib.COLL_ISA_AUTO, "scalar": lib.COLL_ISA_SCALAR, "avx2": lib.COLL_ISA_AVX2}
TRANSPORTS: dict[str, int] = {
    "auto": lib.COLL_TRANSPORT_AUTO,
    "shm": lib.COLL_TRANSPORT_SHM,
    "tcp": lib.COLL_TRANSPORT_TCP,
}
"""What links can be made of (``enum coll_transport``), by name."""


_PHASES = {
    "issued": lib.COLL_PHASE_ISSUED,
    "reduce_scatter": lib.COLL_PHASE_REDUCE_SCATTER,
    "between": lib.COLL_PHASE_BETWEEN,
    "all_gather": lib.COLL_PHASE_ALL_GATHER,
    "complete": lib.COLL_PHASE_COMPLETE,
    "tokens": lib.COLL_PHASE_TOKENS,
    "sealed": lib.COLL_PHASE_SEALED,
    "judged": lib.COLL_PHASE_JUDGED,
}


_PROGRESS = {
    lib.COLL_PROGRESS_NOT_ISSUED: "not called here",
    lib.COLL_PROGRESS_RUNNING: "running",
    lib.COLL_PROGRESS_COMPLETE: "complete",
    lib.COLL_PROGRESS_SETTLED: "settled",
    lib.COLL_PROGRESS_AWAITING: "awaiting its result",
}


VISITS = 1 << 31
"""Set in the core's number of a group that has links for visits; the coordinator's are below it."""


def text(pointer: Any) -> str:
    """A C string as str; bytes that are no UTF-8 (a truncated name) are replaced."""
    raw: bytes = ffi.string(pointer)
    return raw.decode("utf-8", "replace")


def nanoseconds(seconds: float) -> int:
    """Seconds as the core wants them; what is too long for it is for ever."""
    return int(min(seconds * 1e9, 2.0**63))


def raise_status(status: int, message: str, *, peer: str = "", unknown: bool = False) -> NoReturn:
    """Raise the error that a status of the core stands for."""
    if status == lib.COLL_PEER_LOST:
        raise errors.PeerLost(message, peer=peer, outcome_unknown=unknown)
    kinds: dict[int, type[errors.CollectiveError]] = {
        lib.COLL_TIMEOUT: errors.Timeout,
        lib.COLL_MISMATCH: errors.MismatchError,
        lib.COLL_CANCELLED: errors.Cancelled,
        lib.COLL_EVICTED: errors.Evicted,
        lib.COLL_INVALID_ARGUMENT: errors.InvalidArgument,
        lib.COLL_UNSUPPORTED: errors.UnsupportedError,
        lib.COLL_TOO_FEW_PEERS: errors.TooFewPeers,
        lib.COLL_UNDECIDED: errors.CoordinatorUnreachable,
    }
    kind = kinds.get(status, errors.CollectiveError)
    raise kind(message or text(lib.coll_status_text(status)), outcome_unknown=unknown)


def check(status: int) -> None:
    """Raise the last error of this thread unless ``status`` is a success."""
    if status not in (lib.COLL_OK, lib.COLL_IN_PROGRESS):
        raise_status(status, text(lib.coll_last_error()))


def process_identity() -> str:
    """What names this process to others on its host; empty where the system does not tell."""
    buffer = ffi.new("char[]", lib.COLL_PROCESS_IDENTITY_MAX + 1)
    if lib.coll_process_identity(buffer, len(buffer)) != lib.COLL_OK:
        return ""
    return text(buffer)


@dataclasses.dataclass(frozen=True)
class Counters:
    """What an engine refused and repaired since it was made; ``coll_counters`` of the C API.

    Attributes:
        refused_hello: handshakes that failed the key check or were malformed.
        refused_silent: connections that sent no hello in time.
        refused_version: hellos of another protocol version.
        refused_view: hellos meant for another peer, or of a view that is unknown here (yet).
        corrupt_frames: frames with a bad CRC or with fields that make no sense.
        connections_lost: connections that broke.
        reconnects: links that came back after all their connections had broken.
        resent_slices: frames sent a second time.
        duplicate_slices: frames that came a second time and were dropped.
        encoded_slices: pieces of operations that a codec has encoded here.
        decoded_slices: the same, decoded.
        sent_bytes: on the wire, headers included.
        received_bytes: on the wire, headers included.
        open_connections: at the moment.
    """

    refused_hello: int = 0
    refused_silent: int = 0
    refused_version: int = 0
    refused_view: int = 0
    corrupt_frames: int = 0
    connections_lost: int = 0
    reconnects: int = 0
    resent_slices: int = 0
    duplicate_slices: int = 0
    encoded_slices: int = 0
    decoded_slices: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    open_connections: int = 0


@dataclasses.dataclass(frozen=True)
class Event:
    """One event of the core; ``kind`` is a ``COLL_EVENT_`` constant."""

    kind: int
    view: int
    peer: uuid.UUID
    text: str
    certain: int = 0


class Engine:
    """A listening data plane with its progress thread.

    Args:
        options: where to listen and how to talk.
        peer_id: this process's UUID.

    Raises:
        CollectiveError: the core refused; the message says why.
    """

    def __init__(self, options: Options, peer_id: uuid.UUID) -> None:
        c = ffi.new("struct coll_engine_options *")
        keep = []

        def string(value: str | None) -> Any:
            if not value:
                return ffi.NULL
            keep.append(ffi.new("char[]", value.encode()))
            return keep[-1]

        c.bind = string(",".join(options.bind))
        c.interface = string(options.interface)
        c.congestion = string(options.congestion)
        if options.port_range is not None:
            c.port_low, c.port_high = options.port_range
        c.connections = options.connections
        c.slice_bytes = options.slice_bytes or 0
        c.isa = _ISA[options.isa]
        c.transport = TRANSPORTS[options.chosen_transport]
        c.no_checksums = not options.checksums
        c.no_agreement = not options.agreement
        c.no_detection = options.detection is None
        c.heartbeat_ns = nanoseconds(options.heartbeat)
        c.detection_ns = nanoseconds(options.detection or 5.0)
        c.recovery_ns = nanoseconds(options.recovery)
        c.stall_ns = nanoseconds(options.stall_warning or math.inf)
        out = ffi.new("struct coll_engine **")
        check(lib.coll_engine_create(c, peer_id.bytes, out))
        self.handle = out[0]
        self.peer_id = peer_id

    @property
    def addresses(self) -> tuple[str, ...]:
        """``HOST:PORT`` at which other peers may reach the engine."""
        found: list[str] = []
        buffer = ffi.new("char[128]")
        while lib.coll_engine_address(self.handle, len(found), buffer, 128) == lib.COLL_OK:
            found.append(text(buffer))
        return tuple(found)

    def counters(self) -> Counters:
        """A snapshot of the counters."""
        c = ffi.new("struct coll_counters *")
        if self.handle is not None:
            lib.coll_engine_get_counters(self.handle, c)
        return Counters(*(getattr(c, field.name) for field in dataclasses.fields(Counters)))

    def close(self) -> None:
        """Close every connection and end the progress thread. The groups must be closed."""
        handle, self.handle = self.handle, None
        if handle is not None:
            lib.coll_engine_destroy(handle)


ALGORITHMS: dict[str, int] = {
    text(lib.coll_algorithm_name(code)): code for code in range(lib.COLL_ALGORITHM_COUNT)
}
"""How operations can be carried out (``enum coll_algorithm``), by name."""

LEVEL_PLANS: dict[str, int] = {
    "auto": 0,
    **{name: 1 + ALGORITHMS[name] for name in ("direct", "ring")},
}
"""How those who meet at one level of a hierarchical operation speak to each other, by name."""

LEVEL_CODECS: dict[str, int] = {
    "auto": lib.COLL_LEVEL_CODEC_AUTO,
    "none": lib.COLL_LEVEL_CODEC_NONE,
    "call": lib.COLL_LEVEL_CODEC_CALL,
}
"""Whether what passes a level in a hierarchical operation is encoded, by name."""

KINDS: dict[str, int] = {
    text(lib.coll_kind_name(code)): code for code in range(lib.COLL_KIND_COUNT)
}
"""Kinds of operations (``enum coll_kind``), by name."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """Who is near whom in a view, and what follows from that; ``struct coll_topology``.

    Attributes:
        places: per level, the innermost first, the group of each rank; any numbers.
        choices: rows of a kind (``COLL_ALL_REDUCE`` ...), the bytes up to which it holds, and a
            number of ``ALGORITHMS``; the first row that fits an operation decides.
        settings: per level, one each of ``LEVEL_PLANS``, ``TRANSPORTS`` and ``LEVEL_CODECS``.
    """

    places: tuple[tuple[int, ...], ...] = ()
    choices: tuple[tuple[int, int, int], ...] = ()
    settings: tuple[tuple[int, int, int], ...] = ()


@dataclasses.dataclass(frozen=True)
class EnginePeer:
    """A member of a view as the core wants it; addresses are numeric."""

    id: uuid.UUID
    name: str
    addresses: tuple[str, ...]
    process: str = ""


_REDUCE = (lib.COLL_ALL_REDUCE, lib.COLL_REDUCE, lib.COLL_REDUCE_SCATTER)
_ROOTED = (lib.COLL_BROADCAST, lib.COLL_REDUCE, lib.COLL_GATHER, lib.COLL_SCATTER)


def _described(state: Any, peers: Any) -> dict[str, Any]:
    moves = state.kind not in (lib.COLL_BARRIER, lib.COLL_SYNC)
    return {
        "number": state.number,
        "tag": None if state.tag == lib.COLL_UNTAGGED else state.tag,
        "view": state.view,
        "attempt": state.attempt,
        "kind": text(lib.coll_kind_name(state.kind)),
        "dtype": text(lib.coll_dtype_name(state.dtype)) if moves else None,
        "op": text(lib.coll_redop_name(state.op)) if state.kind in _REDUCE else None,
        "root": state.root if state.kind in _ROOTED else None,
        "count": state.count,
        "phase": _PROGRESS[state.progress],
        "status": text(lib.coll_status_text(state.status)),
        "seconds": state.age_ns * 1e-9,
        "pending_bytes": state.pending_bytes,
        "peers": [
            {
                "rank": rank,
                "name": text(peers[rank].name),
                "me": rank == state.rank,
                "seen": bool(peers[rank].seen),
                "absent_since": peers[rank].last_operation if peers[rank].said_absent else None,
                "sent_bytes": peers[rank].sent_bytes,
                "received_bytes": peers[rank].received_bytes,
            }
            for rank in range(state.size)
        ],
    }


def _topology(topology: Topology | None, size: int) -> tuple[Any, Any]:
    """As the core wants it, and what it points to."""
    if topology is None:
        return ffi.NULL, None
    if any(len(level) != size for level in topology.places):
        raise errors.InvalidArgument(f"a level of a topology places all {size} ranks of the view")
    c = ffi.new("struct coll_topology *")
    places = ffi.new("uint32_t[]", [place for level in topology.places for place in level])
    choices = ffi.new("struct coll_choice[]", list(topology.choices))
    c.levels, c.places = len(topology.places), places
    c.choice_count, c.choices = len(choices), choices
    settings = ffi.new("struct coll_level[]", list(topology.settings))
    c.setting_count, c.settings = len(settings), settings
    return c, (places, choices, settings)


class EngineGroup:
    """One group on an engine.

    Args:
        engine: the engine; it must outlive the group.
        group_id: the run's number for the group.
        name: for messages.
    """

    def __init__(self, engine: Engine, group_id: int, name: str) -> None:
        out = ffi.new("struct coll_group **")
        check(lib.coll_group_open(engine.handle, group_id, name.encode(), out))
        self.handle = out[0]
        self._prepared = 0  # the size of that view
        self.id = group_id
        self._event = ffi.new("struct coll_event *")

    @property
    def event_fd(self) -> int:
        """Readable while events wait; -1 once closed."""
        return -1 if self.handle is None else int(lib.coll_group_event_fd(self.handle))

    def next_event(self) -> Event | None:
        """The oldest event, None when there is none."""
        if self.handle is None:
            return None
        if lib.coll_group_next_event(self.handle, self._event) != lib.COLL_OK:
            return None
        event = self._event
        peer = uuid.UUID(bytes=bytes(ffi.buffer(event.peer)))
        return Event(event.kind, event.view, peer, text(event.text), event.certain)

    def prepare(
        self,
        *,
        term: int,
        number: int,
        first_operation: int,
        rank: int,
        peers: tuple[EnginePeer, ...],
        key: bytes,
        fixed: bool = False,
    ) -> None:
        """Start to connect to the peers of a view (coll_group_prepare).

        Args:
            term: orders views, before the number.
            number: of the view.
            first_operation: the least number that its operations get.
            rank: of this process among the peers.
            peers: the members, in the order of the ring.
            key: 32 bytes that only they know.
            fixed: nobody decides about the view: whatever goes wrong in it breaks the group.
        """
        keep = []
        c_peers = ffi.new("struct coll_peer[]", len(peers))
        for c_peer, peer in zip(c_peers, peers, strict=True):
            addresses = [ffi.new("char[]", a.encode()) for a in peer.addresses]
            array = ffi.new("const char *[]", addresses or [ffi.NULL])
            name = ffi.new("char[]", peer.name.encode())
            process = ffi.new("char[]", peer.process.encode())
            keep.append((addresses, array, name, process))
            c_peer.id = peer.id.bytes
            c_peer.name = name
            c_peer.addresses = array
            c_peer.address_count = len(addresses)
            c_peer.process = process
        view = ffi.new("struct coll_view *")
        view.term, view.number, view.first_operation = term, number, first_operation
        view.rank, view.size = rank, len(peers)
        view.peers = c_peers
        view.key = key
        view.fixed = fixed
        check(lib.coll_group_prepare(self.handle, view))
        self._prepared = len(peers)

    def commit(
        self, term: int, number: int, first_operation: int, topology: Topology | None = None
    ) -> None:
        """Make the prepared view the committed one (coll_group_commit).

        Raises:
            InvalidArgument: it was not prepared, or the topology makes no sense for it.
        """
        given, _keep = _topology(topology, self._prepared)
        check(lib.coll_group_commit(self.handle, term, number, first_operation, given))

    def choose(self, choices: Sequence[tuple[int, int, int]]) -> None:
        """Replace the choices of the committed view, as all ranks do now (coll_group_choose).

        Raises:
            InvalidArgument: there is no view, or no operation could be carried out so.
        """
        rows = ffi.new("struct coll_choice[]", list(choices))
        check(lib.coll_group_choose(self.handle, rows, len(rows)))

    def nearby(self, size: int) -> tuple[bool, ...]:
        """Which ranks of the prepared view are this process or reached by a local transport.

        Raises:
            InvalidArgument: no view of ``size`` peers is prepared.
        """
        flags = ffi.new("uint8_t[]", size)
        check(lib.coll_group_nearby(self.handle, flags, size))
        return tuple(bool(flag) for flag in flags)

    def discard(self) -> None:
        """Forget the prepared view (coll_group_discard)."""
        lib.coll_group_discard(self.handle)

    def out(self, message: str) -> None:
        """This peer was evicted: end everything (coll_group_out)."""
        lib.coll_group_out(self.handle, lib.COLL_EVICTED, message.encode())

    def break_(self, status: int, message: str) -> None:
        """End everything in a fixed view, at all of its members (coll_group_break).

        Args:
            status: a ``COLL_`` error; operations end with it.
            message: who asks for it, and why.

        Raises:
            InvalidArgument: the status is no error, or the committed view is not fixed.
            CollectiveError: there is no committed view.
        """
        check(lib.coll_group_break(self.handle, status, message.encode()))

    def seal(self, epoch: bytes) -> None:
        """Accept nothing of the view any more, and report (coll_group_seal)."""
        check(lib.coll_group_seal(self.handle, epoch))

    def judge(self, verdict: bytes) -> None:
        """Take the verdict of a round (coll_group_judge)."""
        check(lib.coll_group_judge(self.handle, verdict, len(verdict)))

    def relay(self, peer: uuid.UUID, message: bytes, verdict: bool) -> None:
        """Pass a seal or a verdict on to a member, if there is a link to it (coll_group_relay)."""
        kind = lib.COLL_ROUND_VERDICT if verdict else lib.COLL_ROUND_SEAL
        lib.coll_group_relay(self.handle, peer.bytes, kind, message, len(message))

    def next_message(self) -> tuple[int, bytes] | None:
        """The oldest message for the coordinator and its kind (coll_group_next_message)."""
        if self.handle is None:
            return None
        kind, length = ffi.new("uint32_t *"), ffi.new("size_t *")
        capacity = 4096
        while True:
            buffer = ffi.new("uint8_t[]", capacity)
            status = lib.coll_group_next_message(self.handle, kind, buffer, capacity, length)
            if status == lib.COLL_OK:
                return kind[0], bytes(ffi.buffer(buffer, length[0]))
            if status != lib.COLL_INVALID_ARGUMENT or length[0] <= capacity:
                return None
            capacity = length[0]

    def state(self) -> tuple[int, bytes]:
        """The status with which the group is broken, and the culprit (coll_group_state)."""
        culprit = ffi.new("uint8_t[16]")
        status = lib.coll_group_state(self.handle, culprit)
        return status, bytes(ffi.buffer(culprit))

    def last_operation(self) -> int:
        """The highest operation number issued so far."""
        return int(lib.coll_group_last_operation(self.handle))

    def idle(self, seconds: float) -> bool:
        """Whether no operation is outstanding (coll_group_idle); False: a verdict is to come.

        Raises:
            InvalidArgument: some are, and no verdict will end them; the message names them.
        """
        status = lib.coll_group_idle(self.handle, nanoseconds(seconds))
        check(status)
        return bool(status == lib.COLL_OK)

    def flush(self, seconds: float) -> bool:
        """Say goodbye and wait until the others have what this peer owes them."""
        status = lib.coll_group_flush(self.handle, nanoseconds(seconds))
        return bool(status == lib.COLL_OK)

    def operations(self) -> list[dict[str, Any]]:
        """The operations in flight and those that failed lately (coll_group_operations).

        Ready for JSON. Another thread's operation that starts or ends meanwhile may be missing.
        """
        state = ffi.new("struct coll_operation_state *")
        found: list[dict[str, Any]] = []
        capacity = 0
        peers = ffi.NULL
        while self.handle is not None:
            status = lib.coll_group_operations(self.handle, len(found), state, peers, capacity)
            if status != lib.COLL_OK:
                return found
            if state.size > capacity:
                capacity = state.size
                peers = ffi.new("struct coll_operation_peer[]", capacity)
                continue
            found.append(_described(state, peers))
        return found

    def fault_at(
        self,
        phase: str,
        operation: int,
        *,
        tag: int | None = None,
        action: str = "kill",
        journal_fd: int = -1,
        after_slices: int = 0,
    ) -> None:
        """Kill or stop this process when an operation reaches a phase (coll_fault_at).

        Args:
            phase: ``"issued"``, ``"reduce_scatter"``, ``"between"``, ``"all_gather"``,
                ``"complete"`` or ``"tokens"``, or of a round ``"sealed"`` or ``"judged"``; the
                header says what each is.
            operation: its number in its tag; 0: the first that gets there. Of a round: the number
                of the view that it is about.
            tag: None: untagged.
            action: ``"kill"`` or ``"stop"``.
            journal_fd: gets the line ``PHASE NUMBER`` right before; -1: none.
            after_slices: payloads of the phase to let pass first.
        """
        moment = ffi.new("struct coll_moment *")
        moment.phase = _PHASES[phase]
        moment.action = {"kill": lib.COLL_ACTION_KILL, "stop": lib.COLL_ACTION_STOP}[action]
        moment.tag = lib.COLL_UNTAGGED if tag is None else tag
        moment.operation = operation
        moment.after_slices = after_slices
        moment.journal_fd = journal_fd
        check(lib.coll_fault_at(self.handle, moment))

    def close(self) -> None:
        """Release the group; pending operations end with an error."""
        handle, self.handle = self.handle, None
        if handle is not None:
            lib.coll_group_close(handle)
