"""A simulated process: its membership machine, its data plane and its program."""

from __future__ import annotations

import random
import uuid
from typing import TYPE_CHECKING

from collectives.membership import peer, plane
from collectives.membership.view import View

from .engine import Engine
from .operation import Call, Frame, Kind, Operation

if TYPE_CHECKING:
    from .world import World

FLUSH = 2.0
_MOMENT = 0.001


class Process:
    """Machines and program of one peer. What it is told while it stands still waits for it."""

    def __init__(self, world: World, index: int, config: peer.PeerConfig) -> None:
        self.world, self.name, self.id, self.index = world, config.name, config.id, index
        self.state = peer.PeerState(config)
        self.engine = Engine(self.id, lambda: world.now, self.send_frame, self.emit, self.over)
        self.route = b"%d.0" % index
        self.started = self.alive = False
        self.left = False
        self.error: BaseException | None = None
        self.stopped_until = 0.0  # all of it
        self.deaf_until = 0.0  # the agent alone
        self.resumed = 0.0
        self.waiting: list[tuple[str, object]] = []
        self.handed: View | None = None
        self.todo: list[tuple[int, Call]] = []
        self.pending: set[Operation] = set()
        self.syncing = False
        self.in_sync = False
        self.upset = False

    # -- being told things --

    @property
    def stopped(self) -> bool:
        return self.world.now < self.stopped_until

    @property
    def deaf(self) -> bool:
        return self.world.now < max(self.stopped_until, self.deaf_until)

    def tell(self, who: str, what: object) -> None:
        """Something for the agent, the engine or the program; it waits if they stand still."""
        if not self.alive:
            return
        still = self.stopped if who == "engine" else self.deaf
        if still or (self.waiting and any(entry[0] == who for entry in self.waiting)):
            self.waiting.append((who, what))
            return
        if who == "agent":
            self.step(what)
        elif who == "engine":
            self.engine.deliver(*what)
            self.world.checks.engine(self)
        else:
            what()

    def wake(self) -> None:
        """Catch up with what waited; called when it goes on."""
        if not self.alive:
            return
        waiting, self.waiting = self.waiting, []
        for who, what in waiting:
            self.tell(who, what)

    def step(self, event: peer.Event) -> None:
        before = self.state
        self.world.coverage.peer(before, event)
        result = peer.step(before, event, self.world.now)
        self.state = result.state
        if result.reason:
            self.world.log(f"{self.name}: {result.reason}")
        for action in result.actions:
            self.act(action)
        self.world.checks.peer(self, before)

    def act(self, action: peer.Action) -> None:
        world, engine = self.world, self.engine
        if isinstance(action, peer.Send):
            world.to_coordinator(self, action.message)
        elif isinstance(action, peer.PreparePlane):
            assert action.view.peers[action.rank].id == self.id
            engine.prepared = action.view
            world.later(world.jitter(), lambda: world.connect(self, action.view))
        elif isinstance(action, peer.CommitPlane):
            engine.commit(action.view)
        elif isinstance(action, peer.DiscardPlane):
            engine.prepared = None
        elif isinstance(action, peer.SealPlane):
            if engine.seal(action.epoch):
                self.emit(plane.Reported(engine.report))
        elif isinstance(action, peer.JudgePlane):
            assert engine.judge(action.verdict), "the verdict of a round that did not seal it"
        elif isinstance(action, peer.RelayPlane):
            kind = "verdict" if action.verdict else "seal"
            about = world.round_of(action.message)
            frame = Frame(kind, 0, 0, about.view_term, about.view, 0, payload=action.message)
            self.send_frame(action.peer, frame)
        elif isinstance(action, peer.EndPlane):
            engine.out(action.text)
        elif isinstance(action, peer.Resolve):
            self.resolved(action)
        elif isinstance(action, peer.Reject):
            if not self.left:
                self.error = action.error
                world.log(f"{self.name} is out: {action.error}")
            world.ended(self)

    # -- the data plane's side --

    def send_frame(self, to: uuid.UUID, frame: Frame) -> None:
        self.world.frame(self, to, frame)

    def emit(self, event: plane.PlaneEvent) -> None:
        self.world.later(_MOMENT, lambda: self.tell("agent", event))

    def tick(self) -> None:
        if not self.stopped:
            self.engine.tick()
        if not self.deaf and self.alive:
            self.step(peer.Tick())

    # -- the program --

    def soon(self, what, delay: float | None = None) -> None:
        wait = self.world.random.uniform(0.0, 0.05) if delay is None else delay
        self.world.later(wait, lambda: self.tell("program", what))

    def resolved(self, action: peer.Resolve) -> None:
        if action.call is peer.Call.LEAVE:
            return
        result = action.result
        self.world.checks.resolved(self, action)
        self.handed = result if isinstance(result, View) else result.view
        self.soon(self.next_step)

    def next_step(self) -> None:
        """Between two syncs: some operations, the same on all members, or a departure."""
        world, view = self.world, self.handed
        self.in_sync = self.upset = False
        if world.calm or world.random.random() < world.chances.leave:
            self.leave(world.now + FLUSH)
            return
        assert view is not None
        following = self.engine.tag(0).following
        plan = random.Random(f"{world.seed} {view.term} {view.number} {following}")
        self.todo = []
        for _ in range(plan.randrange(5)):
            kind = plan.choice([Kind.SMALL, Kind.SMALL, Kind.LARGE, Kind.BROADCAST, Kind.BARRIER])
            root = plan.choice(view.peers).id if kind is Kind.BROADCAST else None
            call = Call(kind, root, plan.random() < 0.85)
            self.todo.append((plan.randrange(2), call))
        self.go_on()

    def go_on(self) -> None:
        """Issue the next operation, or call sync() once none is outstanding."""
        world = self.world
        if self.syncing or self.in_sync or self.left:
            return
        if self.todo and not self.upset:
            tag, call = self.todo.pop(0)
            if world.random.random() < world.chances.mismatch:
                call = Call(call.kind, call.root, call.repeatable, salt=1)
            self.issue(tag, call)
            if len(self.pending) < 3:
                self.soon(self.go_on)
        elif not self.pending:
            self.todo, self.syncing = [], True
            self.issue(0, Call(Kind.SYNC))

    def issue(self, tag: int, call: Call) -> None:
        operation = self.engine.issue(tag, call)
        if operation.number == 0:
            self.over(operation)
        elif not operation.finished:
            self.pending.add(operation)

    def over(self, operation: Operation) -> None:
        """An operation has ended."""
        self.world.checks.over(self, operation)
        self.pending.discard(operation)
        self.upset = self.upset or operation.error is not None
        if operation.call.kind is Kind.SYNC:
            self.soon(self.call_sync)
        else:
            self.soon(self.go_on)

    def call_sync(self) -> None:
        if self.syncing and not self.in_sync and not self.left:
            self.syncing, self.in_sync = False, True
            self.step(peer.CallSync(self.engine.last_operation))

    def leave(self, until: float) -> None:
        """Leave, once the others need nothing any more or have had their time."""
        if self.world.now < until and not self.engine.flushed():
            self.soon(lambda: self.leave(until), 0.1)
            return
        if self.engine.flushed() and self.engine.view is not None:
            self.world.checks.gracefully[self] = self.engine.view
        self.left = True
        self.world.faults.blame(self, "a peer of its unit left")
        self.step(peer.CallLeave())
