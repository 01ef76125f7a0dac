"""A data plane that runs operations over simulated links, with the real agreement of the C core.

It mirrors ``native/engine/{round,operation,tag,exchange}.c``: what is sealed, reported, judged,
retained, supplied and asked is decided as there, by the same functions. What it leaves out moves
bytes: an all-reduce sends every rank's input to every other, a broadcast the root's to all.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable
from typing import Any

from verdicts import Judgement, decode_verdict

from collectives._native import ffi, lib
from collectives.membership import plane, report
from collectives.membership.view import View

from .operation import CANCELLED, MISMATCH, PEER_LOST, UNDECIDED, Call, Frame, Kind, Operation, Tag

RECOVERY = 10.0
STALL = 0.25


class Engine:
    """One peer's data plane in the one group."""

    def __init__(
        self,
        me: uuid.UUID,
        now: Callable[[], float],
        send: Callable[[uuid.UUID, Frame], None],
        emit: Callable[[plane.PlaneEvent], None],
        finished: Callable[[Operation], None],
    ) -> None:
        self.me, self.now, self.send, self.emit, self.finished = me, now, send, emit, finished
        self.seal_state = ffi.new("struct coll__seal *")
        self.view: View | None = None
        self.prepared: View | None = None
        self.rank = 0
        self.tags: dict[int, Tag] = {}
        self.heard_of: dict[tuple[int, int], Operation] = {}
        self.broken: tuple[int, str] | None = None
        self.later: list[tuple[uuid.UUID, Frame]] = []
        self.report = b""
        self.reported_epoch = b""
        self.last_operation = 0

    # -- views --

    def tag(self, number: int) -> Tag:
        assert self.view is not None
        if number not in self.tags:
            self.tags[number] = Tag(number, self.view.first_operation, self.view, self.rank)
        return self.tags[number]

    def install(self, view: View) -> None:
        rank = view.rank_of(self.me)
        assert rank is not None
        self.view, self.rank, self.broken = view, rank, None
        lib.coll__seal_open(self.seal_state, view.term, view.number)

    def commit(self, view: View) -> None:
        coming = self.prepared
        assert coming is not None and (coming.term, coming.number) == (view.term, view.number)
        self.end_all((CANCELLED, "the view changed"))
        self.prepared = None
        self.install(view)
        for tag in self.tags.values():
            tag.enter(view, self.rank, view.first_operation)
        self.last_operation = max(self.last_operation, view.first_operation - 1)
        self.take_later()

    def end_all(self, error: tuple[int, str]) -> None:
        for operation in list(self.heard_of.values()):
            self.finish(operation, error)

    def out(self, text: str) -> None:
        self.broken = (UNDECIDED, text)
        self.seal_state.sealed = 1
        self.end_all(self.broken)

    def flushed(self) -> bool:
        """Whether the others need nothing of this peer; ``all_drained``, as nobody says goodbye."""
        if self.broken is not None:
            return True
        return not any(tag.retained or min(tag.heard) < tag.settled for tag in self.tags.values())

    # -- operations --

    def issue(self, tag_number: int, call: Call) -> Operation:
        """Begin an operation; one of a broken group is over at once."""
        tag = self.tag(tag_number)
        if self.broken is not None:
            return Operation(tag_number, 0, self.view, self.rank, call, error=self.broken)
        operation = self.heard_of.get((tag_number, tag.following))
        if operation is None:
            operation = self.hear_of(tag_number, tag.following)
        operation.call, operation.issued = call, True
        tag.operations.append(operation)
        tag.following += 1
        self.last_operation = max(self.last_operation, operation.number)
        if not self.seal_state.sealed:
            self.start(operation)
        return operation

    def hear_of(self, tag: int, number: int) -> Operation:
        assert self.view is not None
        operation = Operation(tag, number, self.view, self.rank)
        self.heard_of[tag, number] = operation
        return operation

    def start(self, operation: Operation) -> None:
        view, call = operation.view, operation.call
        operation.started = True
        if call.kind is Kind.BROADCAST and view.rank_of(call.root) is None:
            self.veto(operation, PEER_LOST, f"the root of {operation.name} is gone")
            return
        lib.coll__agree_issue(operation.agree, call.kind is Kind.SMALL)
        for rank, other in operation.calls.items():
            if other != call:
                self.mismatch(operation, rank)
                return
        sends, operation.pending = operation.plan()
        for rank in sends:
            self.tell(operation, rank, "data", payload=operation.inputs[operation.rank])
        for rank in sorted(operation.wants_open):
            self.tell(operation, rank, "open")
        early, operation.early = operation.early, []
        for rank, payload in early:
            self.take_data(operation, rank, payload)
        self.progress(operation)

    def tell(self, operation: Operation, rank: int, kind: str, **fields: Any) -> None:
        view = operation.view
        frame = self.frame(kind, operation.tag, operation.number, call=operation.call, **fields)
        self.send(view.peers[rank].id, frame)

    def frame(self, kind: str, tag: int, number: int, **fields: Any) -> Frame:
        assert self.view is not None
        settled = self.tags[tag].settled if tag in self.tags else 0
        return Frame(kind, tag, number, self.view.term, self.view.number, settled, **fields)

    def take_data(self, operation: Operation, rank: int, payload: Any) -> None:
        if rank in operation.pending:
            operation.pending.discard(rank)
            operation.inputs[rank] = payload

    def mismatch(self, operation: Operation, rank: int) -> None:
        name = operation.view.peers[rank].name
        self.veto(operation, MISMATCH, f"{name} called something else as {operation.name}")

    def veto(self, operation: Operation, status: int, text: str) -> None:
        before = operation.veto
        if operation.finished or (before is not None and status != MISMATCH):
            return
        if before is not None and before[0] == status:
            return
        operation.vetoed_at = operation.vetoed_at or self.now()
        if status == MISMATCH and operation.agree.phase == lib.COLL__COMPLETE:
            operation.agree.phase = lib.COLL__RUNNING
        operation.veto = (status, text)
        assert self.view is not None
        self.emit(plane.Vetoed(self.view.number, text))

    def progress(self, operation: Operation) -> None:
        agree = operation.agree
        mismatched = operation.veto is not None and operation.veto[0] == MISMATCH
        if operation.finished or self.seal_state.sealed or mismatched or not operation.started:
            return
        if agree.phase == lib.COLL__RUNNING and not operation.pending:
            lib.coll__agree_complete(agree)
        if agree.phase < lib.COLL__COMPLETE or agree.phase == lib.COLL__AWAITING:
            return
        round_, peer = ffi.new("uint32_t *"), ffi.new("uint32_t *")
        while lib.coll__agree_next(agree, round_, peer):
            self.tell(operation, peer[0], "token", payload=round_[0])
        if agree.phase == lib.COLL__SETTLED:
            operation.succeed(operation.view.number, operation.result())
            self.finish(operation)

    def finish(self, operation: Operation, error: tuple[int, str] | None = None) -> None:
        if operation.finished:
            return
        operation.finished, operation.error = True, error
        del self.heard_of[operation.tag, operation.number]
        if not operation.issued:
            return
        tag = self.tags[operation.tag]
        if error is None and operation.agree.retained and operation.view.size > 1:
            tag.retained[operation.number] = (operation.ran_in, operation.value)
        tag.settle(operation)
        self.finished(operation)

    # -- frames --

    def deliver(self, sender: uuid.UUID, frame: Frame) -> None:
        if self.view is None and self.prepared is None:
            return
        if frame.kind == "report":
            self.emit(plane.Reported(frame.payload))
            return
        if frame.kind == "taken":
            self.emit(plane.VerdictTaken(*frame.payload))
            return
        fence = lib.coll__seal_fence(self.seal_state, frame.term, frame.view)
        if fence == lib.COLL__FENCE_LATER:
            self.later.append((sender, frame))
            return
        rank = None if self.view is None else self.view.rank_of(sender)
        if rank is None:
            return
        if frame.kind == "seal":
            if self.seal(frame.payload):
                self.send(sender, self.frame("report", 0, 0, payload=self.report))
        elif frame.kind == "verdict":
            before = self.seal_state.view
            if self.judge(frame.payload):
                if self.seal_state.view != before:
                    self.emit(plane.VerdictHeard(frame.payload))
                taken = (frame.payload[:32], self.me)
                self.send(sender, self.frame("taken", 0, 0, payload=taken))
        elif fence == lib.COLL__FENCE_NOW:
            self.hear(rank, sender, frame)

    def take_later(self) -> None:
        later, self.later = self.later, []
        for sender, frame in later:
            self.deliver(sender, frame)

    def hear(self, rank: int, sender: uuid.UUID, frame: Frame) -> None:
        tag = self.tag(frame.tag)
        tag.hear(rank, frame.watermark)
        if frame.kind == "watermark":
            return
        operation = self.heard_of.get((frame.tag, frame.number))
        over = operation is None and frame.number < tag.following
        if over or (operation is None and self.broken is not None):
            if frame.kind == "query" and over:
                self.answer(tag, sender, frame, over=True)
            return
        if frame.kind == "supply":
            if operation is not None and operation.agree.phase == lib.COLL__AWAITING:
                lib.coll__agree_supplied(operation.agree)
                operation.succeed(*frame.payload)
                self.finish(operation)
            return
        if frame.kind == "absent":
            return
        if operation is None:
            operation = self.hear_of(frame.tag, frame.number)
        if frame.kind == "done":
            lib.coll__agree_told(operation.agree)
            self.progress(operation)
            return
        if frame.kind == "query" and frame.supply:
            return
        operation.calls[rank] = frame.call
        if operation.started and frame.call != operation.call:
            self.mismatch(operation, rank)
        elif frame.kind == "query":
            if operation.started:
                self.tell(operation, rank, "open")
            else:
                operation.wants_open.add(rank)
                self.answer(tag, sender, frame, over=False)
        elif frame.kind == "data":
            if operation.started:
                self.take_data(operation, rank, frame.payload)
                self.progress(operation)
            else:
                operation.early.append((rank, frame.payload))
        elif frame.kind == "token":
            assert lib.coll__agree_hear(operation.agree, frame.payload)
            self.progress(operation)

    def answer(self, tag: Tag, sender: uuid.UUID, asked: Frame, *, over: bool) -> None:
        if not asked.supply:
            self.send(sender, self.frame("done" if over else "absent", tag.tag, asked.number))
        elif asked.number in tag.retained:
            held = tag.retained[asked.number]
            self.send(sender, self.frame("supply", tag.tag, asked.number, payload=held))

    def tick(self) -> None:
        view = self.view
        if view is None or self.broken is not None:
            return
        for tag in self.tags.values():
            for operation in list(tag.operations):
                self.tick_operation(operation)
                if self.broken is not None:
                    return
            if tag.settled > tag.told and not self.seal_state.sealed:
                tag.told = tag.settled
                for peer in view.peers:
                    if peer.id != self.me:
                        self.send(peer.id, self.frame("watermark", tag.tag, 0))

    def tick_operation(self, operation: Operation) -> None:
        assert self.view is not None
        if operation.veto is not None and self.now() >= operation.vetoed_at + RECOVERY:
            text = f"{operation.veto[1]}; and the coordinator did not decide about it"
            operation.unknown = True
            self.finish(operation, (operation.veto[0], text))
            self.out(text)
            self.emit(plane.GivenUp(self.view.number, text))
            return
        if self.seal_state.sealed:
            return
        awaiting = operation.agree.phase == lib.COLL__AWAITING
        if operation.veto is not None and not awaiting:
            self.emit(plane.Vetoed(self.view.number, operation.veto[1]))
        if not operation.started:
            return
        if operation.agree.phase == lib.COLL__AWAITING:
            assert operation.supplier is not None
            self.tell(operation, operation.supplier, "query", supply=True)
            return
        for rank in range(operation.view.size):
            complete = operation.agree.phase == lib.COLL__COMPLETE
            if rank != operation.rank and (rank not in operation.calls or complete):
                self.tell(operation, rank, "query")

    # -- rounds --

    def seal(self, epoch: bytes) -> bool:
        """True: there is a report, in ``report``."""
        named = ffi.new("struct coll__epoch *", dataclasses.astuple(report.decode_epoch(epoch)))
        before = bool(self.seal_state.sealed)
        if self.view is None or not lib.coll__seal_close(self.seal_state, named):
            return False
        if not before:
            for operation in list(self.heard_of.values()):
                if not operation.issued:
                    self.finish(operation, (CANCELLED, ""))
        if not before or epoch != self.reported_epoch:
            self.reported_epoch = epoch
            self.report = self.make_report(report.decode_epoch(epoch))
        return True

    def make_report(self, epoch: report.Epoch) -> bytes:
        entries, vetoes = [], []
        for tag in self.tags.values():
            for operation in tag.operations:
                if operation.started or operation.veto is not None:
                    entries.append(operation.entry())
                if operation.veto is not None:
                    status, text = operation.veto
                    vetoes.append(report.Veto(tag.tag, operation.number, status, None, text))
            entries += tag.entries()
        settled = {tag.tag: tag.settled for tag in self.tags.values()}
        found = report.Report(settled, tuple(entries), tuple(vetoes))
        return report.encode_report(epoch, self.me, found)

    def judge(self, data: bytes) -> bool:
        """True: the verdict is taken, now or before."""
        said = decode_verdict(data)
        named = ffi.new("struct coll__epoch *", dataclasses.astuple(said.epoch))
        if self.view is None:
            return False
        if not lib.coll__seal_judges(self.seal_state, named):
            fence = lib.coll__seal_fence(self.seal_state, said.term, said.number)
            return bool(fence != lib.COLL__FENCE_LATER)
        present = {peer.id: peer for peer in self.view.peers}
        if self.me not in said.members:
            return False
        peers = tuple(present[member] for member in said.members)
        ranks = [self.view.rank_of(member) for member in said.members]
        following = dataclasses.replace(
            self.view,
            term=said.term,
            number=said.number,
            peers=peers,
            key=said.key,
            places=tuple(tuple(level[rank] for rank in ranks) for level in self.view.places),
        )
        self.prepared = None
        self.install(following)
        for tag in self.tags.values():
            tag.enter(following, self.rank, 0)
        operations = [op for tag in self.tags.values() for op in tag.operations]
        for operation in operations:
            self.judge_operation(operation, said)
        error = said.verdict.error
        if error is not None:
            self.broken = (error.status, error.text)
        else:
            for tag in self.tags.values():
                for operation in list(tag.operations):
                    if not operation.started:
                        self.start(operation)
        self.take_later()
        return True

    def judge_operation(self, operation: Operation, said: Judgement) -> None:
        stand = next((s for s in said.verdict.stands if (s.tag, s.number) == operation.key), None)
        error = said.verdict.error
        assert self.view is not None
        what = lib.COLL__STANDS if stand else lib.COLL__FAILS if error else lib.COLL__REPEATS
        ran_in = operation.view.number
        here = operation.agree.phase in (lib.COLL__COMPLETE, lib.COLL__SETTLED)
        result = operation.result() if here else None
        follows = lib.coll__agree_judge(operation.agree, what, self.rank, self.view.size)
        if follows == lib.COLL__SUCCEED:
            operation.succeed(ran_in, result)
            self.finish(operation)
        elif follows == lib.COLL__RAISE:
            assert error is not None
            self.finish(operation, (error.status, error.text))
        else:
            operation.retries += operation.started
            operation.reset(self.view, self.rank)
            if follows == lib.COLL__AWAIT:
                operation.started = True
                supplier = 0 if stand.supplier is None else self.view.rank_of(stand.supplier)
                operation.supplier = supplier
                self.tell(operation, supplier, "query", supply=True)
