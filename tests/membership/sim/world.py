"""One history: the clock, the network, the coordinator, and what happens to them all."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import random
import uuid
from collections.abc import Callable

from collectives.membership import codec, ledger, peer, plane, wire
from collectives.membership.coordinator import decide
from collectives.membership.durable import durable, restore
from collectives.membership.report import Epoch, decode_epoch
from collectives.membership.restart import resume
from collectives.membership.view import Choice, View

from .checks import Checks
from .coverage import Coverage
from .faults import Chances, Faults
from .operation import Frame
from .process import Process


@dataclasses.dataclass
class Link:
    """One direction of a pair: in order, and nothing lost while both live."""

    last: float = 0.0
    sent: int = 0
    arrived: int = 0
    cut_off: int = 2**60  # what was sent later than this many frames never arrives
    held: list[Frame] = dataclasses.field(default_factory=list)


def _site(index: int) -> str:
    """Two peers a host; the second host's are at two sites."""
    return "" if index < 3 else "far"


class World:
    """All that there is, and the order in which it happens."""

    def __init__(
        self,
        seed: int,
        *,
        peers: int = 4,
        min_size: int = 2,
        chances: Chances | None = None,
        token: bytes = b"",
        active: float = 6.0,
        calm: float = 60.0,
        wire: bool = True,
        units: bool = False,
        coverage: Coverage | None = None,
    ) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.chances = chances or Chances()
        self.now = 0.0
        self.active, self.end = active, active + calm
        self.wire = wire
        self.lines: list[str] = []
        self.sequence = itertools.count()
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        self.token, self.min_size = token, min_size
        self.coordinator: ledger.CoordinatorState | None = self.new_coordinator()
        self.remembered = self.coordinator
        self.links: dict[tuple[uuid.UUID, uuid.UUID], Link] = {}
        self.coverage = coverage or Coverage()
        self.checks = Checks(self)
        self.processes: list[Process] = []
        for index in range(peers):
            unit = f"u{index // 2}" if units else ""
            self.add(index, unit)
        self.by_id = {p.id: p for p in self.processes}
        self.faults = Faults(self)
        self.later(0.0, self.tick)

    def new_coordinator(self) -> ledger.CoordinatorState:
        run, seed = uuid.UUID(int=self.random.getrandbits(128)), self.random.randbytes(32)
        plans = (Choice("all_reduce", 4096, "ring"),)
        return ledger.CoordinatorState(run=run, seed=seed, token=self.token, plans=plans)

    def add(self, index: int, unit: str) -> None:
        config = peer.PeerConfig(
            uuid.UUID(int=self.random.getrandbits(128), version=4),
            "g",
            f"p{index}",
            (f"h:{index + 1}",),
            self.min_size,
            unit,
            self.token,
            site=_site(index),
        )
        p = Process(self, index, config)
        self.processes.append(p)
        # Most are there from the beginning, some come later.
        at = 0.0 if index < self.min_size else self.random.uniform(0.0, self.active * 0.6)
        self.later(at + self.random.uniform(0.0, 0.3), lambda: self.start(p))

    # -- time --

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
            if self.calm and not any(p.alive or not p.started for p in self.processes):
                break
        self.checks.end()

    def start(self, p: Process) -> None:
        p.started = p.alive = True
        p.step(peer.Start())

    def tick(self) -> None:
        self.faults.tick()
        self.decide(ledger.Tick())
        for p in self.processes:
            if p.alive:
                p.tick()
        self.faults.observe()
        self.later(0.25, self.tick)

    def ended(self, p: Process) -> None:
        """A process is no more; of what it has sent last, some may still arrive."""
        p.alive = False
        for (sender, _), link in self.links.items():
            if sender == p.id:
                link.cut_off = self.random.randint(link.arrived, link.sent)

    # -- the control plane --

    def coded(self, message: wire.Message) -> wire.Message:
        return codec.decode(codec.encode(message)) if self.wire else message

    def lossy(self) -> list[float]:
        """When copies of a message arrive: none, one or two delays."""
        chances = self.chances
        if not self.calm and self.random.random() < chances.loss:
            return []
        copies = 2 if not self.calm and self.random.random() < chances.repeat else 1
        return [self.jitter() for _ in range(copies)]

    def to_coordinator(self, p: Process, message: wire.Message) -> None:
        message, route = self.coded(message), p.route
        for delay in self.lossy():
            self.later(delay, lambda: self.decide(ledger.Received(route, message)))

    def decide(self, event: ledger.Event) -> None:
        before = self.coordinator
        if before is None:
            return  # nobody listens
        self.coverage.coordinator(before, event)
        decision = decide(before, event, self.now)
        self.coordinator = self.remembered = decision.state
        self.checks.coordinator(before, decision.state)
        if decision.reason:
            self.log(f"coordinator: {decision.reason}")
        if self.faults.dies_before_it_speaks():
            return
        for send in decision.actions:
            message = self.coded(send.message)
            for delay in self.lossy():
                self.later(delay, lambda s=send, m=message: self.to_peer(s.route, m))

    def to_peer(self, route: bytes, message: wire.Message) -> None:
        for p in self.processes:
            if p.route == route:
                p.tell("agent", peer.Received(message))

    def restart(self, remembers: bool) -> None:
        """Another coordinator starts, from what is on the disk or with nothing."""
        self.log(f"a coordinator starts {'with' if remembers else 'without'} the journal")
        blank = dataclasses.replace(self.new_coordinator(), token=self.token)
        if remembers:
            blank = resume(restore(durable(self.remembered), blank), self.now)
        self.coordinator = self.remembered = blank

    # -- the data plane --

    def round_of(self, message: bytes) -> Epoch:
        return decode_epoch(message[:32])

    def link(self, here: uuid.UUID, there: uuid.UUID) -> Link:
        return self.links.setdefault((here, there), Link())

    def frame(self, p: Process, to: uuid.UUID, frame: Frame) -> None:
        link = self.link(p.id, to)
        if self.faults.apart(p.id, to):
            link.held.append(frame)
            return
        link.last = max(link.last, self.now + self.jitter())
        link.sent += 1
        number = link.sent
        self.later(link.last - self.now, lambda: self.arrive(p.id, to, frame, number))

    def arrive(self, here: uuid.UUID, there: uuid.UUID, frame: Frame, number: int) -> None:
        link = self.link(here, there)
        if number <= link.cut_off:
            link.arrived = number
            self.by_id[there].tell("engine", (here, frame))

    def heal(self, a: Process, b: Process) -> None:
        """The pair can talk again; what was not acknowledged is sent again."""
        for p, q in ((a, b), (b, a)):
            link = self.link(p.id, q.id)
            held, link.held = link.held, []
            for frame in held:
                if p.alive:
                    self.frame(p, q.id, frame)

    def connect(self, p: Process, view: View) -> None:
        if not p.alive or p.engine.prepared is not view:
            return
        if p.deaf:
            self.later(0.25, lambda: self.connect(p, view))
            return
        missing = []
        for other in view.peers:
            q = self.by_id[other.id]
            knows = [v.number for v in (q.engine.prepared, q.engine.view) if v is not None]
            apart = self.faults.apart(p.id, q.id) or q.stopped
            if q is not p and (not q.alive or apart or view.number not in knows):
                missing.append(q)
        if not missing:
            beside = [self.by_id[other.id].index // 2 == p.index // 2 for other in view.peers]
            nearby = tuple(rank for rank, near in enumerate(beside) if near)
            p.emit(plane.ViewReady(view.number, nearby))
            return
        for q in missing:
            p.emit(plane.Unreachable(view.number, q.id, "connection refused"))
        self.later(1.0 if self.now % 1 > 0.3 else 0.05, lambda: self.connect(p, view))


def run_history(seed: int, **options) -> World:
    """Run one history; on failure print what is needed to see it again."""
    world = World(seed, **options)
    try:
        world.run()
    except BaseException:
        shown = {k: v for k, v in options.items() if k != "coverage"}
        print(f"seed {seed}, options {shown}")
        print("\n".join(world.lines[-80:]))
        raise
    return world
