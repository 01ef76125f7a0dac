"""Runs a scenario: processes, a clock and a folder around what the other modules decide.

One thread does everything: it waits for peers that speak, processes that end and times that come.
What it does and sees is written to ``harness.jsonl`` in the run's folder, beside the peers'
journals; what that means for the guarantees is decided afterwards, by ``checkers``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import heapq
import itertools
import secrets
import selectors
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from collectives.chaos import afflict, control, crowd, peer
from collectives.chaos.crowd import CoordinatorProcess, Life, Process, Script
from collectives.chaos.emulated import EmulatedNetwork, SwitchedNetwork
from collectives.chaos.faults import Fault
from collectives.chaos.journal import Journal
from collectives.chaos.network import COORDINATOR, Network, ProxyNetwork, Share, Side
from collectives.chaos.nursery import Nursery
from collectives.chaos.profiles import PROFILES
from collectives.chaos.scenario import Scenario
from collectives.chaos.shaper import Shaper
from collectives.chaos.veth import Switch
from collectives.chaos.wan import Wan
from collectives.errors import CollectiveError
from collectives.options import Options

_FORMING = 60.0
_LOOK = 0.2
_GRACE = 20.0
_LEAVING = 45.0  # who is out of the run when it ends may be in the middle of a try to come back
_SETTLING = 2.0


class Harness:
    """One run of a scenario; a context manager.

    Args:
        scenario: concrete: nothing is left to be drawn.
        seed: of the data and of what the proxy damages.
        folder: where the run's files go; made if it is not there.
        look: called a few times a second with the harness, to show how things are.

    Attributes:
        journal: its own.
        network: who reaches whom.
        coordinator: its process.
        lives: the newest life of each place.
        added: places that came by a join.
        since: when the run was formed, by CLOCK_MONOTONIC; 0: not yet.
        faults: how many were begun.
        latest: the fault that began last, for people.
    """

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        folder: Path,
        look: Callable[[Harness], None] | None = None,
    ) -> None:
        self.scenario = scenario
        self.seed = seed
        self.folder = folder
        self.lives: dict[str, Life] = {}
        self.added: list[str] = []
        self.since = 0.0
        self.faults = 0
        self.latest = ""
        self._look = look
        self._all: list[Life] = []
        self._agenda: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._buckets: dict[tuple[str, Side, str], str] = {}  # by place, side and profile
        self._under_way: set[int] = set()
        self._applied: dict[int, Callable[[], int]] = {}
        self._stopping = False
        self._selector = selectors.DefaultSelector()
        self._stack = contextlib.ExitStack()

    # -- life --

    def __enter__(self) -> Harness:
        with contextlib.ExitStack() as stack:
            for part in ("peers", "logs", "moments"):
                (self.folder / part).mkdir(parents=True, exist_ok=True)
            (self.folder / "scenario.toml").write_text(self.scenario.to_toml(), encoding="utf-8")
            self.journal = stack.enter_context(Journal(self.folder / "harness.jsonl"))
            modules = ["numpy", "collectives._public", "collectives.chaos.peer"]
            kind = self.scenario.workload.kind
            if kind != "script":
                modules.append(f"collectives.chaos.workloads.{kind}")
            self._nursery = stack.enter_context(Nursery(*modules))
            self.network = self._make_network(stack)
            # A Unix socket's path is short; the folder's may be long.
            short = stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-"))
            self._control = f"{short}/control"
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.enter_context(listener)
            listener.bind(self._control)
            listener.listen(128)
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ, self._accept)
            stack.callback(self._selector.close)
            self._token = secrets.token_hex(16)
            self.coordinator = CoordinatorProcess(
                self._nursery,
                self.folder,
                self._token,
                self.network.where(COORDINATOR),
                self.scenario.journal,
            )
            stack.callback(self.coordinator.kill)
            stack.callback(self._end_all)
            self.network.register(COORDINATOR, [self.coordinator.address])
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _make_network(self, stack: contextlib.ExitStack) -> Network:
        if self.scenario.links.kind == "namespaces":
            return EmulatedNetwork(stack.enter_context(Wan(seed=self.seed)), self.share_of)
        if self.scenario.links.kind == "veth":
            return SwitchedNetwork(stack.enter_context(Switch()), self.share_of)
        return ProxyNetwork(stack.enter_context(Shaper(seed=self.seed)), self.share_of)

    def run(self) -> None:
        """Form the run, let the timeline happen, and end it.

        Raises:
            CollectiveError: the run did not form; no fault had begun.
        """
        scenario = self.scenario
        self.journal.write(
            "begin",
            scenario=scenario.name,
            seed=self.seed,
            peers=[place.name for place in scenario.peers],
            detection=scenario.options.detection,
            recovery=scenario.options.recovery,
            timeout=scenario.options.timeout,
            min_size=scenario.min_size,
            duration=scenario.duration,
            workload=scenario.workload.kind,
            proxied=scenario.proxied,
            hosts={
                place.name: (place.host or place.name) if scenario.proxied else ""
                for place in scenario.peers
            },
        )
        self.journal.write("coordinator", what="started", pid=self.coordinator.pid)
        for number, place in enumerate(scenario.peers, 1):
            life = self.start(place.name)
            # One after another as far as that goes, so that ranks are the same in every run.
            if scenario.workload.kind != "script" and number >= scenario.min_size:
                self._go_on(_FORMING, functools.partial(_is_in, life))
        self._go_on(_FORMING, lambda: all(life.ready for life in self.lives.values()))
        late = [life.place for life in self.lives.values() if not life.ready]
        if late:
            raise CollectiveError(
                f"the run did not form within {_FORMING:.0f} s: {', '.join(late)} did not begin to"
                f" work; see {self.folder / 'logs'}"
            )
        self.since = time.monotonic()
        self.journal.write("formed")
        for number, fault in enumerate(scenario.faults):
            self.later(fault.time, functools.partial(afflict.afflict, self, number, fault))
        self._go_on(scenario.duration, self._is_over)
        self._go_on(_GRACE, lambda: not self._under_way)
        self._go_on(_SETTLING, self._is_over)
        self._stop()
        self.journal.write("finish")

    def _is_over(self) -> bool:
        rounds = self.scenario.rounds
        alive = [life for life in self.lives.values() if not life.ended]
        if not alive and not self._agenda:
            return True
        done = [life.progress.get("work") or 0 for life in alive]
        return rounds is not None and bool(done) and min(done) >= rounds

    def _stop(self) -> None:
        """Have all leave; who does not is a finding."""
        for number, applied in self._applied.items():
            self.journal.write("applied", fault=number, count=applied())
        self._stopping = True
        self.journal.write("stopping")
        self._agenda.clear()
        for life in self._all:
            life.restart = None
            if not life.ended:
                life.stopped = 0
                life.process.signal(signal.SIGCONT)
                self.say(life, "stop")
                if self.scenario.workload.kind == "script":
                    life.expected = True
                    life.process.signal(signal.SIGTERM)
        self._go_on(_LEAVING, lambda: all(life.ended for life in self._all))

    def _end_all(self) -> None:
        for life in self._all:
            if not life.ended:
                life.process.signal(signal.SIGCONT)
                life.process.close()
                self.journal.write(
                    "exited", peer=life.place, life=life.number, pid=life.process.pid,
                    status=-signal.SIGKILL, expected=life.expected and self._stopping,
                )  # fmt: skip

    # -- what faults use --

    def now(self) -> float:
        """Seconds of CLOCK_MONOTONIC."""
        return time.monotonic()

    def later(self, seconds: float, do: Callable[[], object]) -> None:
        """Call ``do()`` after so many seconds."""
        heapq.heappush(self._agenda, (self.now() + seconds, next(self._order), do))

    def begun(self, number: int, fault: Fault, peers: list[str]) -> None:
        """A fault has begun."""
        self.faults += 1
        self.latest = f"{fault.kind} {' '.join(peers)}"
        fields: dict[str, Any] = fault.plain()
        fields.pop("peers", None)
        lasts = fault.lasting is not None and fault.moment is None
        until = time.monotonic_ns() + int((fault.lasting or 0) * 1e9) if lasts else None
        if lasts and fault.kind != "join":
            self._under_way.add(number)
        self.journal.write("fault", fault=number, peers=peers, until=until, **fields)

    def healed(self, number: int) -> None:
        """A fault has ended."""
        if number in self._under_way:
            self._under_way.discard(number)
            self.journal.write("healed", fault=number)

    def ask_later(self, number: int, applied: Callable[[], int]) -> None:
        """When the run ends, write down how much of a fault came to somebody."""
        self._applied[number] = applied

    def start(self, place: str) -> Life:
        """Begin the next life in a place."""
        before = self.lives.get(place)
        number = 0 if before is None else before.number + 1
        scenario = self.scenario
        first = [one.name for one in scenario.peers]
        if place not in first and place not in self.added:
            self.added.append(place)
        key = f"{place}.{number}"
        moments = self.folder / "moments" / key
        where = self.network.where(place)
        settings = peer.Settings(
            peer=place,
            life=number,
            index=(first + self.added).index(place),
            seed=self.seed,
            peers=len(first),
            min_size=scenario.min_size,
            newcomer=number > 0 or place not in first,
            address=self.network.dial(place, self.coordinator.address),
            token=self._token,
            control=self._control,
            journal=str(self.folder / "peers" / f"{key}.jsonl"),
            moments=str(moments),
            routed=scenario.proxied,
            bind=where.host,
            namespace=where.namespace,
            options=self._options(),
            workload=scenario.workload.plain(),
        )
        told, log = dataclasses.asdict(settings), self.folder / "logs" / f"{key}.log"
        process: Process
        if scenario.workload.kind == "script":
            assert scenario.workload.script is not None
            arguments = list(scenario.workload.arguments or ())
            process = Script(scenario.workload.script, arguments, told, log)
        else:
            process = self._nursery.child(peer.live, told, str(log))
        life = self.lives[place] = Life(place, number, process, moments)
        self._all.append(life)
        self._selector.register(process, selectors.EVENT_READ, lambda: self._ended(life))
        self.journal.write("started", peer=place, life=number, pid=process.pid)
        return life

    def _options(self) -> dict[str, Any]:
        """Of every peer: what can be shaped or damaged is TCP, also on one host."""
        given = _given(self.scenario.options)
        return {"transport": "tcp", **given} if self.scenario.proxied else given

    def free_place(self) -> str:
        """A name that no place has."""
        return next(n for n in map("p{}".format, itertools.count()) if n not in self.lives)

    def say(self, life: Life, kind: str, **fields: Any) -> None:
        """Tell a peer, as soon as it listens."""
        if life.line is None:
            life.waiting.append({"kind": kind, **fields})
        else:
            control.send(life.line, kind, **fields)

    def ask_to_leave(self, life: Life) -> None:
        """Have a peer leave the run properly."""
        if life.ended:
            return
        life.expected = True
        if self.scenario.workload.kind == "script":
            life.process.signal(signal.SIGTERM)
        else:
            self.say(life, "leave")

    def arm(self, life: Life, number: int, fault: Fault, action: str) -> None:
        """Have a peer be hit at a moment."""
        assert fault.moment is not None
        moment = fault.moment
        self.say(
            life, "arm", phase=moment.phase, operation=moment.operation, slices=moment.slices,
            action=action,
        )  # fmt: skip
        life.armed[number] = action
        if action == "stop":
            self._wait_for_stop(life, number, fault)

    def burn(self, count: int, share: float, seconds: float) -> None:
        """Start processes that compute, and end by themselves."""
        for _ in range(count):
            child = self._nursery.child(crowd.burn, share, seconds)
            self.later(seconds + 1.0, child.close)

    def share_of(self, x: str, y: str) -> Share | None:
        """What the direction from x to y is like while nothing is wrong; None: it has no route."""
        if not self.scenario.proxied:
            return None
        name, uplink = self.scenario.profile(x, y)
        if name == "direct":
            return None
        profile = PROFILES[name]
        direction = profile.up if uplink else profile.down
        if not direction.rate:
            return Share(direction)
        # The narrow side is a place's, and all its links of this profile share it.
        narrow: tuple[str, Side, str] = (x, "up", name) if uplink else (y, "down", name)
        if narrow not in self._buckets:
            place, side, _ = narrow
            self._buckets[narrow] = self.network.bucket(place, side, direction)
        return Share(dataclasses.replace(direction, rate=0.0), (self._buckets[narrow],))

    # -- the loop --

    def _go_on(self, seconds: float, enough: Callable[[], bool]) -> None:
        """Handle whatever comes, for so long or until it is enough."""
        end = self.now() + seconds
        looked = 0.0
        while (now := self.now()) < end and not enough():
            if self._look is not None and now - looked > _LOOK:
                looked = now
                self._look(self)
            due = min(end, now + _LOOK, *(at for at, _, _ in self._agenda[:1]))
            for key, _ in self._selector.select(max(0.0, due - now)):
                key.data()
            while self._agenda and self._agenda[0][0] <= self.now():
                _, _, do = heapq.heappop(self._agenda)
                do()

    def _accept(self) -> None:
        listener = next(
            key.fileobj for key in self._selector.get_map().values() if key.data == self._accept
        )
        assert isinstance(listener, socket.socket)
        line, _ = listener.accept()
        self._stack.enter_context(line)
        self._selector.register(line, selectors.EVENT_READ, lambda: self._hear(line))

    def _hear(self, line: socket.socket) -> None:
        message = control.receive(line)
        if message is None:
            self._selector.unregister(line)
            line.close()
            return
        kind = message.pop("kind")
        if kind == "hello":
            life = next(x for x in reversed(self._all) if x.process.pid == message["pid"])
            life.line = line
            for waiting in life.waiting:
                control.send(line, **waiting)
            return
        life = next(x for x in reversed(self._all) if x.line is line)
        if kind == "listens":
            self.network.register(life.place, message["addresses"])
        elif kind == "dial":
            addresses = message["addresses"]
            dialled = [self.network.dial(life.place, address) for address in addresses]
            far = any(self.network.is_far(life.place, address) for address in addresses)
            control.send(line, "dial", addresses=dialled, far=far)
        elif kind == "joined":
            life.joined = True
        elif kind == "progress":
            life.progress = message
            script = self.scenario.workload.kind == "script"
            life.ready = life.ready or (life.joined and (script or message["work"] is not None))

    def _ended(self, life: Life) -> None:
        self._selector.unregister(life.process)
        status = life.process.wait(5)
        life.process.close()
        life.ended = True
        self.network.bury(life.place)
        if life.line is not None:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(life.line)
            life.line.close()
        self._say_moment(life)
        well = self._stopping or life.expected or self.scenario.workload.kind == "script"
        died = status == -signal.SIGKILL and life.expected
        self.journal.write(
            "exited", peer=life.place, life=life.number, pid=life.process.pid, status=status,
            expected=died or (well and (status == 0 or status == -signal.SIGTERM)),
        )  # fmt: skip
        if life.restart is not None and not self._stopping:
            self.later(life.restart, lambda: self._again(life.place))

    def _again(self, place: str) -> None:
        if self.lives[place].ended and not self._stopping:
            self.start(place)

    def _say_moment(self, life: Life) -> None:
        """If it was hit at its moment, the file that it left says in which."""
        with contextlib.suppress(FileNotFoundError):
            words = life.moments.read_text().split()
            if words:
                self.journal.write(
                    "died", peer=life.place, life=life.number, phase=words[0], words=words
                )

    def _wait_for_stop(self, life: Life, number: int, fault: Fault) -> None:
        """A process that stops itself at a moment is to go on later."""

        def go_on() -> None:
            life.go_on()
            self.healed(number)

        def look() -> None:
            if life.ended or self._stopping:
                return
            stopped = False
            with contextlib.suppress(FileNotFoundError):
                stopped = bool(life.moments.read_text())
            if not stopped:
                self.later(_LOOK / 4, look)
                return
            life.stopped += 1
            self.journal.write("stopped", fault=number, peer=life.place, life=life.number)
            self.later(fault.lasting or 0.0, go_on)

        self._under_way.add(number)
        look()


def _is_in(life: Life) -> bool:
    return life.joined or life.ended


def _given(options: Options) -> dict[str, Any]:
    """What differs from the defaults, ready for JSON."""
    usual = Options()
    return {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(Options)
        if getattr(options, field.name) != getattr(usual, field.name)
    }
