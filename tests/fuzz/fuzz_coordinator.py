"""The coordinator, fed with a story made of the input: what peers say, restarts, and time.

``decide`` must raise nothing, whatever is said; all that it answers can be sent; views of a group
only go up, and are made of peers that it knows; what it would keep on disk can be read again.
"""

from __future__ import annotations

import dataclasses
import uuid

import msgpack
from script import IDS, Script, raw

from collectives.membership import ledger
from collectives.membership.codec import KINDS, decode, encode
from collectives.membership.coordinator import decide
from collectives.membership.durable import durable, restore
from collectives.membership.fields import MalformedError
from collectives.membership.messages import (
    Alive,
    Hello,
    Leave,
    Prepared,
    Proof,
    Recollect,
    Report,
    StatusQuery,
    Suspect,
    SyncReached,
    Taken,
    Unreachable,
    Veto,
)
from collectives.membership.report import Entry, Standing, decode_issued, encode_report
from collectives.membership.report import Report as Found
from collectives.membership.report import Veto as FoundVeto
from collectives.membership.restart import resume
from collectives.membership.view import View
from collectives.membership.wire import MAX_TO_PEER, Message

NAMES = sorted(KINDS)
GROUPS = ("g", "h")
STEPS = 50


class Story:
    """One coordinator, six peers and their routes."""

    def __init__(self, script: Script) -> None:
        self.script = script
        how = script.byte()
        self.token = b"secret" if how & 1 else b""
        self.force = how & 2 == 2
        self.now = 100.0
        self.runs = 0
        self.state = self.blank()
        self.newest: dict[str, tuple[int, int]] = {}

    def blank(self) -> ledger.CoordinatorState:
        self.runs += 1
        run = uuid.UUID(int=1000 + self.runs)
        return ledger.CoordinatorState(run=run, seed=b"s" * 32, token=self.token, force=self.force)

    # -- what is checked --

    def event(self, event: ledger.Event) -> None:
        decision = decide(self.state, event, self.now)
        for send in decision.actions:
            assert send.route
            data = encode(send.message)
            assert len(data) <= MAX_TO_PEER
            assert decode(data) == send.message
        before, self.state = self.state, decision.state
        for name, group in self.state.groups.items():
            if before.groups.get(name) is not group:
                self.check(name, group)

    def check(self, name: str, group: ledger.Group) -> None:
        view = group.view
        if view is not None:
            order = (view.term, view.number)
            assert order >= self.newest.get(name, (0, 0)), "a view went back"
            self.newest[name] = order
            assert group.number >= view.number
            self.check_view(view)
            for peer in view.peers:
                assert peer.id in group.peers or (name, peer.id) in self.state.departed
        members = {peer.id for peer in group.members}
        assert set(group.reached) <= members
        if group.preparing is not None:
            self.check_view(group.preparing.view)
            assert group.preparing.ready.keys() <= {peer.id for peer in group.preparing.view.peers}
            assert group.preparing.view.number <= group.number
        if group.round is not None:
            assert view is not None and set(group.round.reports) <= members
        issued = group.issued
        if issued is not None and view is not None and not issued.text.startswith("by the word"):
            assert decode_issued(issued.data)[1:3] <= (view.term, group.number)

    @staticmethod
    def check_view(view: View) -> None:
        assert view.peers
        assert len({peer.id for peer in view.peers}) == len(view.peers)
        assert len({peer.name for peer in view.peers}) == len(view.peers)

    # -- what is told --

    def step(self) -> None:
        script = self.script
        what = script.byte()
        if what < 0x28:
            self.pass_time()
        elif what < 0x30:
            self.restart(what)
        elif what < 0x38:
            self.anything()
        else:
            who, odd = script.byte(), script.byte()
            peer = IDS[who % len(IDS)]
            name = GROUPS[odd >= 0xF0]
            message = self.message(what, peer, name)
            # Nearly always over its own connection.
            speaks_for = peer if odd < 0xE0 else script.peer()
            self.event(ledger.Received(self.route(speaks_for, name, who >= 0xE0), message))

    def route(self, peer: uuid.UUID, name: str, other: bool) -> bytes:
        return b"%d%s%d" % (peer.int, name.encode(), other)

    def pass_time(self) -> None:
        spent = self.script.byte()
        jump = 10.0 if spent >= 0xF8 else 0.25
        for _ in range(1 + spent % 5):
            self.now += jump
            self.event(ledger.Tick())

    def restart(self, what: int) -> None:
        if what & 1:  # it forgets everything
            self.state, self.newest = self.blank(), {}
            return
        blank = self.blank()
        restored = restore(durable(self.state), blank)
        assert durable(restored) == durable(self.state)
        self.state = resume(restored, self.now)

    def anything(self) -> None:
        script = self.script
        kind = script.byte() % len(NAMES)
        body = {name: raw(field, script, odd=False) for name, field, _ in KINDS[NAMES[kind]][1]}
        data = msgpack.packb({"p": [1, 1], "k": NAMES[kind], "b": body})
        try:
            message = decode(data)
        except MalformedError:
            return
        self.event(ledger.Received(self.route(script.peer(), "g", False), message))

    def message(self, what: int, peer: uuid.UUID, name: str) -> Message:
        script, group = self.script, self.state.groups.get(name)
        view = group.view if group else None
        coming = group.preparing.view if group and group.preparing else None
        number = script.near(view.number if view else 0)
        term = script.near(view.term if view else 0)
        about = (group.id if group else 1, _u64(term), _u64(number))
        kind = what % 16
        if kind in (0, 1):
            return self.hello(peer, name, what, about)
        if kind in (2, 3):
            at = (about[0], coming.term, coming.number) if coming else about
            return Prepared(*at, tuple(range(what >> 4)))
        if kind == 4:
            at = (about[0], coming.term, coming.number) if coming else about
            others = tuple((script.peer(), "refused") for _ in range(what >> 4))
            return Unreachable(*at, others)
        if kind in (5, 6):
            shape = script.byte()
            prepared = coming.number if coming and shape & 1 else 0
            visit = group.visit if group and shape & 4 else 0
            return Alive(*about, prepared, shape & 2 == 2, visit, shape & 8 == 8)
        if kind in (7, 8):
            return SyncReached(*about, _u64(script.near(group.sync if group else 1)), what >> 4)
        if kind == 9:
            return Suspect(*about, script.peer(), "killed", what % 3)
        if kind == 10:
            return Veto(*about, "gave up")
        if kind in (11, 12):
            return self.report(peer, group)
        if kind == 13:
            return self.recollect(peer, name, view)
        if kind == 14:
            return Leave(about[0], "done", what >= 0x80)
        return self.rest(what, peer, group)

    def hello(self, peer: uuid.UUID, name: str, what: int, about: tuple[int, int, int]) -> Hello:
        shape = self.script.byte()
        unit = "u" if shape & 8 else ""
        hello = Hello(peer, name, f"p{shape & 1}", ("h:1",), 1 + (shape >> 1 & 3), unit)
        if shape & 16:
            run = self.state.run if shape & 32 else uuid.UUID(int=1000 + (shape >> 6))
            hello = dataclasses.replace(hello, run=run, term=about[1], number=about[2])
        return dataclasses.replace(hello, visits=what >= 0xD0)

    def report(self, peer: uuid.UUID, group: ledger.Group | None) -> Report:
        script = self.script
        shape = script.byte()
        if group is None or group.round is None or shape == 255:
            return Report(group.id if group else 1, script.bytes(script.byte()))
        entries, vetoes = [], []
        for _ in range(shape & 3):
            entry = script.byte()
            root = script.number() if entry & 128 else None
            entries.append(
                Entry(0, entry & 3, Standing(entry >> 2 & 3), entry & 16 > 0, entry & 32 > 0, root)
            )
        for _ in range(shape >> 2 & 1):
            culprit = script.number() % 2**32
            text = "it failed" + chr(script.byte())
            vetoes.append(FoundVeto(0, script.byte() & 3, script.byte(), culprit, text))
        settled = {0: script.byte() & 3} if shape & 8 else {}
        found = Found(settled, tuple(entries), tuple(vetoes))
        whose = script.peer() if shape & 0xF0 == 0xF0 else peer
        return Report(group.id, encode_report(group.round.epoch, whose, found))

    def recollect(self, peer: uuid.UUID, name: str, view: View | None) -> Recollect:
        script = self.script
        shape = script.byte()
        if view is None or shape & 1:
            known = {registered.id: registered.peer for registered in self.known(name)}
            peers = tuple(known[one] for one in IDS if one in known) or self.strangers()
            peers += peers[:1] if shape & 8 else ()
            view = View(name, 1 + (shape >> 6), 1, _u64(script.near(1)), peers, b"k" * 32)
        run = uuid.UUID(int=1000 + script.byte() % 4)
        return Recollect(
            peer, run, _u64(script.near(view.term)), view, _u64(script.near(1)),
            view.term if shape & 2 else 0, view.number + 1 if shape & 2 else 0,
            script.bytes(script.byte()) if shape & 4 else b"", 1, 1 if shape & 4 else 0,
        )  # fmt: skip

    def known(self, name: str) -> list[ledger.Registered]:
        group = self.state.groups.get(name)
        return list(group.peers.values()) if group else []

    def strangers(self) -> tuple[ledger.Peer, ...]:
        count = 1 + self.script.byte() % len(IDS)
        return tuple(ledger.Peer(one, f"s{one.int}", ("h:1",)) for one in IDS[:count])

    def rest(self, what: int, peer: uuid.UUID, group: ledger.Group | None) -> Message:
        if what & 16:
            return StatusQuery(peer)
        if what & 32:
            data = group.issued.data if group and group.issued else b""
            return Taken(group.id if group else 1, data[:32].ljust(32, b"\0"), self.script.peer())
        pending = list(self.state.challenges.items())
        if not pending:
            return Proof(b"m" * 32)
        _, challenge = pending[self.script.byte() % len(pending)]
        request = challenge.request
        who = request.peer if isinstance(request, Hello) else request.client
        return Proof(ledger.prove(self.token, challenge.nonce, who), challenge.nonce)


def _u64(number: int) -> int:
    return min(max(number, 0), 2**64 - 1)


def run(data: bytes) -> None:
    script = Script(data)
    story = Story(script)
    for _ in range(STEPS):
        if not script:
            break
        story.step()
