"""The real control plane in one process, under a simulated clock, network and data plane.

``World`` wires ``coordinator.decide`` and ``peer.step`` together, every message through its wire
form. The network delays, reorders, loses and repeats; peers start late, die, leave, break their
group and lose their connection. All of it follows from one seed. What must hold is asserted as
it happens (``_committed``, ``_resolved``, ``_failed``) and at the end (``check_end``).
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import random
import uuid
from collections.abc import Callable

from collectives.errors import Evicted
from collectives.membership import ledger, messages, peer, plane
from collectives.membership.coordinator import decide
from collectives.membership.durable import durable, restore
from collectives.membership.restart import resume
from collectives.membership.view import View


@dataclasses.dataclass
class Chances:
    """How bad a history is."""

    loss: float = 0.0
    repeat: float = 0.0
    delay: float = 0.02
    reconnect: float = 0.0  # of a peer, per second
    death: float = 0.0  # of a peer, per second
    leave: float = 0.1  # of a peer, after each sync
    broken: float = 0.1  # of a peer, before each sync
    restart: float = 0.0  # of the coordinator, from its journal, per second
    blocked: float = 0.0  # of each pair, for the whole history


class SimPeer:
    """A process: its membership machine, its data plane and its program."""

    def __init__(self, world: World, index: int, min_size: int, token: bytes) -> None:
        self.world = world
        self.name = f"p{index}"
        self.id = uuid.UUID(int=world.random.getrandbits(128), version=4)
        config = peer.PeerConfig(self.id, "g", self.name, (f"h:{index + 1}",), min_size)
        self.state = peer.PeerState(dataclasses.replace(config, token=token))
        self.route = b"%d.0" % index
        self.alive = False
        self.gone_by_will = False
        self.error: BaseException | None = None
        self.operations = 0
        self.coming: View | None = None
        self.view: View | None = None
        self.commits: list[tuple[int, int]] = []
        self.in_sync = False
        self.said_broken = False
        self.outcomes: dict[tuple[int, int], tuple] = {}

    def step(self, event: peer.Event) -> None:
        if not self.alive:
            return
        before = self.state
        result = peer.step(self.state, event, self.world.now)
        self.state = result.state
        if result.reason:
            self.world.log(f"{self.name}: {result.reason}")
        for action in result.actions:
            self.act(action, before)

    def act(self, action: peer.Action, before: peer.PeerState) -> None:
        world = self.world
        if isinstance(action, peer.Send):
            world.to_coordinator(self, action.message)
        elif isinstance(action, peer.PreparePlane):
            assert action.view.peers[action.rank].id == self.id
            self.coming = action.view
            world.later(world.jitter(), lambda: world.connect(self, action.view))
        elif isinstance(action, peer.CommitPlane):
            assert self.coming is not None
            assert action.number == self.coming.number
            self.view = dataclasses.replace(self.coming, first_operation=action.first_operation)
            self.coming = None
            world.committed(self, self.view, before)
        elif isinstance(action, peer.DiscardPlane):
            self.coming = None
        elif isinstance(action, peer.FailPlane):
            world.failed(self, action)
        elif isinstance(action, peer.Resolve):
            world.resolved(self, action, before)
        elif isinstance(action, peer.Reject):
            if not self.gone_by_will:
                self.error = action.error
                world.log(f"{self.name} is out: {action.error}")
            self.alive = False
            world.died(self)


class World:
    """One history."""

    def __init__(
        self,
        seed: int,
        *,
        peers: int = 4,
        min_size: int = 2,
        chances: Chances | None = None,
        token: bytes = b"",
        active: float = 20.0,
        calm: float = 60.0,
    ) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.chances = chances or Chances()
        self.now = 0.0
        self.active = active
        self.end = active + calm
        self.lines: list[str] = []
        self.sequence = itertools.count()
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        self.coordinator = ledger.CoordinatorState(
            run=uuid.UUID(int=self.random.getrandbits(128)),
            seed=self.random.randbytes(32),
            token=token,
        )
        self.min_size = min_size
        self.peers = [SimPeer(self, i, min_size, token) for i in range(peers)]
        self.by_id = {p.id: p for p in self.peers}
        self.views: dict[int, View] = {}
        self.blocked = {
            frozenset((a.id, b.id))
            for a, b in itertools.combinations(self.peers, 2)
            if self.random.random() < self.chances.blocked
        }
        self.synced = 0
        self.deaths: set[uuid.UUID] = set()
        for p in self.peers:
            self.later(self.random.uniform(0, active / 3), lambda p=p: self.start(p))
        self.later(0.0, self.tick)

    # -- the machinery --

    @property
    def calm(self) -> bool:
        """After the bad times: nobody dies any more, programs end, the network is fair."""
        return self.now >= self.active

    def log(self, line: str) -> None:
        self.lines.append(f"{self.now:8.3f} {line}")

    def later(self, delay: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.queue, (self.now + delay, next(self.sequence), what))

    def jitter(self) -> float:
        # Mostly quick, now and then slow enough to overtake several others.
        slow = self.random.random() < 0.05 and not self.calm
        return self.random.uniform(0.0, self.chances.delay * (50 if slow else 1))

    def run(self) -> None:
        while self.queue and self.queue[0][0] <= self.end:
            self.now, _, what = heapq.heappop(self.queue)
            what()
            if self.calm and not any(p.alive for p in self.peers):
                break
        self.check_end()

    def start(self, p: SimPeer) -> None:
        p.alive = True
        p.step(peer.Start())

    def restart(self) -> None:
        """The coordinator is killed, and another one starts from what is on the disk."""
        self.log("the coordinator is restarted")
        blank = dataclasses.replace(
            ledger.CoordinatorState(uuid.UUID(int=1), b""), token=self.coordinator.token
        )
        self.coordinator = resume(restore(durable(self.coordinator), blank), self.now)

    def tick(self) -> None:
        if not self.calm and self.random.random() < self.chances.restart * 0.25:
            self.restart()
        self.decide(ledger.Tick())
        for p in self.peers:
            if not p.alive:
                continue
            mortal = not self.calm and p.view is not None
            if mortal and self.random.random() < self.chances.death * 0.25:
                self.kill(p)
                continue
            if not self.calm and self.random.random() < self.chances.reconnect * 0.25:
                p.route = b"%d.%d" % (self.peers.index(p), next(self.sequence))
            p.step(peer.Tick())
        self.later(0.25, self.tick)

    def kill(self, p: SimPeer) -> None:
        self.log(f"{p.name} is killed")
        self.deaths.add(p.id)
        p.alive = False
        self.died(p)

    def lossy(self) -> list[float]:
        """When copies of a message arrive: none, one or two delays."""
        chances = self.chances
        if not self.calm and self.random.random() < chances.loss:
            return []
        copies = 2 if not self.calm and self.random.random() < chances.repeat else 1
        return [self.jitter() for _ in range(copies)]

    def to_coordinator(self, p: SimPeer, message: messages.Message) -> None:
        data, route = messages.encode(message), p.route
        for delay in self.lossy():
            self.later(delay, lambda: self.decide(ledger.Received(route, messages.decode(data))))

    def decide(self, event: ledger.Event) -> None:
        decision = decide(self.coordinator, event, self.now)
        self.coordinator = decision.state
        if decision.reason:
            self.log(f"coordinator: {decision.reason}")
        for send in decision.actions:
            data = messages.encode(send.message)
            for delay in self.lossy():
                self.later(delay, lambda send=send, data=data: self.to_peer(send.route, data))

    def to_peer(self, route: bytes, data: bytes) -> None:
        for p in self.peers:
            if p.route == route:
                p.step(peer.Received(messages.decode(data)))

    # -- the simulated data plane --

    def connect(self, p: SimPeer, view: View) -> None:
        if not p.alive or p.coming is not view:
            return
        missing = []
        for other in view.peers:
            q = self.by_id[other.id]
            knows = [v.number for v in (q.coming, q.view) if v is not None]
            apart = frozenset((p.id, q.id)) in self.blocked
            if q is not p and (not q.alive or apart or view.number not in knows):
                missing.append(q)
        if not missing:
            p.step(plane.ViewReady(view.number))
            return
        for q in missing:
            p.step(plane.Unreachable(view.number, q.id, "connection refused"))
        self.later(1.0 if self.now % 1 > 0.3 else 0.05, lambda: self.connect(p, view))

    def died(self, dead: SimPeer) -> None:
        for p in self.peers:
            if p.alive and p.view is not None and p.view.rank_of(dead.id) is not None:
                self.suspect(p, dead)

    def suspect(self, p: SimPeer, dead: SimPeer) -> None:
        number = p.view.number if p.view is not None else 0
        event = plane.PeerSuspected(number, dead.id, "connection reset")
        self.later(self.jitter(), lambda: p.step(event))

    # -- what must hold --

    def committed(self, p: SimPeer, view: View, before: peer.PeerState) -> None:
        assert not p.commits or p.commits[-1] < (view.term, view.number), "views go backwards"
        p.commits.append((view.term, view.number))
        known = self.views.setdefault(view.number, view)
        assert known == view, "two views of one number"
        assert known.key == view.key
        names = [member.name for member in view.peers]
        assert len(set(names)) == len(names), "two peers of one name"
        assert before.view is None or before.sync is not None, "a view changed outside sync()"
        assert p.operations < view.first_operation, "an operation number is used twice"
        for a, b in itertools.combinations(view.peers, 2):
            assert frozenset((a.id, b.id)) not in self.blocked, "a view of peers that cannot talk"
        if before.view is not None:
            old = [m.id for m in before.view.peers if view.rank_of(m.id) is not None]
            assert [m.id for m in view.peers][: len(old)] == old, "members changed their order"
        for member in view.peers:
            q = self.by_id[member.id]
            if not q.alive:
                self.suspect(p, q)

    def failed(self, p: SimPeer, action: peer.FailPlane) -> None:
        q = self.by_id[action.peer]
        if q is p:
            return
        assert not q.alive or q.state.phase is peer.Phase.LEAVING or self.blocked, (
            f"{q.name} lives and was announced as gone to {p.name}"
        )
        if not self.blocked:
            assert q.gone_by_will if action.left else q.id in self.deaths

    def resolved(self, p: SimPeer, action: peer.Resolve, before: peer.PeerState) -> None:
        if action.call is peer.Call.LEAVE:
            return
        if action.call is peer.Call.SYNC:
            assert p.in_sync, "a sync ended that nobody called"
            p.in_sync = False
            self.synced += 1
            outcome = action.result
            assert isinstance(outcome, peer.SyncOutcome)
            assert before.view is not None
            same = outcome.view.number == before.view.number
            assert not (same and p.said_broken), "a broken group was not mended"
            mine = (outcome.view.number, outcome.joined, outcome.left)
            for q in self.peers:
                key = (before.view.number, before.syncs)
                assert q.outcomes.get(key, mine) == mine, "one sync, two outcomes"
            p.outcomes[(before.view.number, before.syncs)] = mine
        p.said_broken = False
        self.later(self.random.uniform(0.0, 1.0), lambda: self.program(p))

    def program(self, p: SimPeer) -> None:
        """What a user's program does between syncs."""
        if not p.alive or p.in_sync:
            return
        if self.calm or self.random.random() < self.chances.leave:
            p.gone_by_will = True
            p.step(peer.CallLeave())
            return
        assert p.view is not None
        p.operations = max(p.operations, p.view.first_operation - 1) + self.random.randrange(4)
        if self.random.random() < self.chances.broken:
            p.said_broken = True
            p.step(plane.Broken(p.view.number, "an operation failed"))
        p.in_sync = True
        p.step(peer.CallSync(p.operations))

    def check_end(self) -> None:
        for p in self.peers:
            if p.error is not None:
                assert isinstance(p.error, Evicted), p.error
                assert self.blocked, f"{p.name} was evicted without a cause: {p.error}"
        stuck = [p for p in self.peers if p.alive]
        if stuck:
            # Only too few to go on may still wait, and they must have been told so.
            group = self.coordinator.groups["g"]
            assert len(stuck) < self.min_size, [peer.waits_for(p.state) for p in stuck]
            assert len(group.peers) == len(stuck)
            for p in stuck:
                assert p.state.note is not None
                assert p.state.note.missing > 0, peer.waits_for(p.state)


def run_history(seed: int, **options) -> World:
    """Run one history; on failure print what is needed to see it again."""
    world = World(seed, **options)
    try:
        world.run()
    except BaseException:
        print(f"seed {seed}, options {options}")
        print("\n".join(world.lines[-60:]))
        raise
    return world
