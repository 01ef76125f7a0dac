"""A scenario: peers, links, work and faults. Data only; TOML and Python files in, TOML out.

Every mistake in one is an ``InvalidArgument`` that says in which file, at which key, and what would
be right. ``mix.draw`` makes one with random faults concrete, ``harness`` runs it.
"""

from __future__ import annotations

import dataclasses
import runpy
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from collectives.chaos import toml
from collectives.chaos.document import SETTINGS, arguments, plain_options
from collectives.chaos.faults import Fault
from collectives.chaos.kinds import KINDS
from collectives.chaos.parts import Links, Place, Workload, places
from collectives.chaos.rates import Mix
from collectives.chaos.spec import (
    COORDINATOR,
    EVERYBODY,
    RANDOM,
    listed,
    nearest,
    plain,
    settle,
    within,
)
from collectives.errors import InvalidArgument
from collectives.options import Options


@dataclasses.dataclass(frozen=True)
class Scenario:
    """Who does what, on which links, and what goes wrong.

    Attributes:
        peers: places that have a peer from the beginning.
        duration: seconds, of the whole run from the first view on.
        rounds: steps of the work after which it ends earlier; None: the duration alone counts.
        seed: None: whoever runs it says.
        journal: whether the coordinator keeps a journal.
        faults: the timeline.
        mix: further faults at random; None: the timeline is all.
    """

    name: str
    about: str = ""
    peers: tuple[Place, ...] = dataclasses.field(default_factory=lambda: places(4))
    min_size: int = 1
    duration: float = 20.0
    rounds: int | None = None
    seed: int | None = None
    journal: bool = True
    workload: Workload = dataclasses.field(default_factory=Workload)
    options: Options = dataclasses.field(default_factory=Options)
    links: Links = dataclasses.field(default_factory=Links)
    faults: tuple[Fault, ...] = ()
    mix: Mix | None = None

    def __post_init__(self) -> None:
        settle(self, SETTINGS)
        names = [place.name for place in self.peers]
        for name in names:
            if names.count(name) > 1:
                raise InvalidArgument(f"two peers are called {name!r}")
        if not names:
            raise InvalidArgument("there are no peers")
        for place in self.peers:
            for other in (place.host, place.site):
                if other in (*names, RANDOM, COORDINATOR):
                    raise InvalidArgument(f"{other!r} cannot name a host or a site, too")
        if self.min_size > len(names):
            raise InvalidArgument(f"min_size is {self.min_size}, but there are {len(names)} peers")
        self._check_faults()
        for number, between in enumerate(self.links.between, 1):
            with within(f"[[links.between]] number {number}"):
                self._check_names(between.a, {*self._names, EVERYBODY})
                self._check_names(between.b, {*self._names, EVERYBODY, COORDINATOR})
        if self.mix is not None:
            with within("[mix]"):
                self._check_mix(self.mix)

    @property
    def proxied(self) -> bool:
        """Whether links are shaped, by the proxy or by the emulator."""
        if self.links.kind != "proxy":
            return True
        return self.default_profile != "direct" or any(
            between.profile != "direct" for between in self.links.between
        )

    @property
    def default_profile(self) -> str:
        """Name of the profile of links for which nothing else is said."""
        return self.links.default or ("unshaped" if self._needs_proxy() else "direct")

    @property
    def concrete(self) -> bool:
        """Whether nothing is left to be drawn, so that it says exactly what happens."""
        return self.mix is None and not any(
            RANDOM in fault.names or (fault.kind == "join" and fault.peer is None)
            for fault in self.faults
        )

    def resolve(self, side: Iterable[str], others: Iterable[str] = ()) -> tuple[str, ...]:
        """Return whom names of peers, hosts and sites mean, in order of the places.

        Args:
            side: ``"*"`` is all.
            others: names of places that were added through joins.
        """
        side = set(side)
        there = [*self.peers, *map(Place, others)]
        everybody = EVERYBODY in side
        found = [place.name for place in there if everybody or side & set(place.names)]
        return (*found, *([COORDINATOR] if COORDINATOR in side else []))

    def pairs(self, fault: Fault, others: Iterable[str] = ()) -> Iterator[tuple[str, str]]:
        """Yield the pairs (of a, of b) that a fault with two sides is about."""
        others = tuple(others)
        side = self.resolve(fault.a or (), others)
        for a in side:
            for b in self.resolve(fault.b or (), others):
                if b not in side:
                    yield a, b

    def profile(self, x: str, y: str) -> tuple[str, bool]:
        """Return the profile of the link between two places, and whether x has its uplink.

        Places on one host are linked ``"unshaped"`` (``"direct"`` where nothing is proxied),
        unless ``links.between`` names them.
        """
        by_name = {place.name: place for place in self.peers}
        x_names, y_names = (
            {name, EVERYBODY, *(by_name[name].names if name in by_name else ())} for name in (x, y)
        )
        for between in reversed(self.links.between):
            a, b = set(between.a), set(between.b)
            if a & x_names and b & y_names:
                return between.profile, True
            if a & y_names and b & x_names:
                return between.profile, False
        default = self.default_profile
        hosts = {by_name[name].host or name for name in (x, y) if name in by_name}
        if len(hosts) == 1 and x in by_name and y in by_name and default != "direct":
            default = "unshaped"
        return default, True

    def scaled(self, *, peers: int | None = None, duration: float | None = None) -> Scenario:
        """Return it with another number of peers, in another time.

        Places are taken away at the end, or added on the hosts and sites in turn. Faults come at
        the same share of the time; how long each lasts stays.

        Raises:
            InvalidArgument: a fault or a link names a place that is no more, or nobody is left.
        """
        found = self
        if duration is not None:
            duration = next(row for row in SETTINGS if row.name == "duration").take(duration)
            ratio = duration / self.duration
            faults = tuple(_stretched(fault, ratio) for fault in self.faults)
            found = dataclasses.replace(found, duration=duration, faults=faults)
        if peers is not None:
            kept = list(self.peers[:peers])
            taken = {place.name for place in self.peers}
            taken |= {fault.peer for fault in self.faults if fault.kind == "join" and fault.peer}
            free = (f"p{index}" for index in range(10**6) if f"p{index}" not in taken)
            while len(kept) < peers:
                model = self.peers[len(kept) % len(self.peers)]
                kept.append(Place(next(free), model.host, model.site))
            mix = self.mix
            if mix is not None and mix.most is not None:
                most = max(1, mix.most + peers - len(self.peers))
                mix = dataclasses.replace(mix, most=most)
            least = max(1, min(self.min_size, peers))
            found = dataclasses.replace(found, peers=tuple(kept), min_size=least, mix=mix)
        return found

    @classmethod
    def from_toml(cls, text: str, source: str = "scenario") -> Scenario:
        """Read a scenario.

        Args:
            text: TOML.
            source: name of the file, for messages.

        Raises:
            InvalidArgument: it says where, and what would be right.
        """
        with within(source):
            return cls(**arguments(toml.loads(text)))

    @classmethod
    def from_file(cls, path: str | Path, seed: int = 0) -> Scenario:
        """Read a TOML file, or a Python file that defines ``scenario``.

        Args:
            path: ends in ``.toml`` or ``.py``.
            seed: for a Python file in which ``scenario`` is a function of the seed.

        Raises:
            InvalidArgument: it cannot be read, or is no scenario.
        """
        path = Path(path)
        if path.suffix == ".py":
            return _run(path, seed)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidArgument(f"{path}: it cannot be read: {error}") from None
        return cls.from_toml(text, str(path))

    def to_toml(self) -> str:
        """Return it as TOML; ``from_toml`` makes an equal one of it."""
        document: dict[str, Any] = plain(self, SETTINGS)
        if self.peers == places(len(self.peers)):
            document["peers"] = len(self.peers)
        else:
            document["peer"] = [place.plain() for place in self.peers]
        document["workload"] = self.workload.plain()
        options = plain_options(self.options)
        tables = {"options": options, "links": self.links.plain()}
        document.update({name: table for name, table in tables.items() if table})
        if self.mix is not None:
            document["mix"] = self.mix.plain()
        if self.faults:
            document["fault"] = [fault.plain() for fault in self.faults]
        return toml.dumps(document)

    @property
    def _names(self) -> set[str]:
        return {name for place in self.peers for name in place.names}

    def _kinds(self) -> list[str]:
        kinds = [fault.kind for fault in self.faults]
        return kinds + ([rate.kind for rate in self.mix.rates if rate.rate] if self.mix else [])

    def _needs_proxy(self) -> bool:
        return any(KINDS[kind].proxied for kind in self._kinds())

    def _check_names(self, names: Iterable[str], allowed: set[str]) -> None:
        for name in names:
            if name not in allowed:
                raise InvalidArgument(
                    f"there is no {name!r} here{nearest(name, allowed)}; there are"
                    f" {listed(sorted(allowed))}"
                )

    def _check_faults(self) -> None:
        if self.links.default == "direct" and self._needs_proxy():
            raise InvalidArgument(
                "links.default is 'direct', but there are faults that need the proxy; write"
                " 'unshaped', or the name of a profile"
            )
        self._check_means()
        new = [fault for fault in self.faults if fault.kind == "join"]
        joining = {fault.peer for fault in new if fault.peer is not None}
        taken = {place.name for place in self.peers}
        for number, fault in enumerate(self.faults, 1):
            with within(f"[[fault]] number {number} ({fault.kind})"):
                if fault.time >= self.duration:
                    raise InvalidArgument(
                        f"it comes at {fault.time:g} s, but the run lasts {self.duration:g} s"
                    )
                if fault.kind == "join":
                    if fault.peer is not None and (fault.count or 1) > 1:
                        raise InvalidArgument(f"{fault.count} peers cannot all be {fault.peer!r}")
                    if fault.peer in taken or fault.peer in (RANDOM, COORDINATOR):
                        raise InvalidArgument(f"{fault.peer!r} is taken; a join needs a new name")
                    taken |= {fault.peer} if fault.peer is not None else set()
                    continue
                peers = {place.name for place in self.peers} | joining | {RANDOM}
                sides = self._names | joining | {RANDOM}
                self._check_names(() if fault.peer is None else (fault.peer,), peers)
                self._check_names((*(fault.peers or ()), *(fault.a or ())), sides)
                everybody = {EVERYBODY} if fault.kind in _DAMAGE else {EVERYBODY, COORDINATOR}
                self._check_names(fault.b or (), sides | everybody)
                both = set(self.resolve(fault.a or (), joining)) & set(
                    self.resolve(set(fault.b or ()) - {EVERYBODY}, joining)
                )
                if both:
                    raise InvalidArgument(f"{listed(sorted(both))} would be on both sides")

    def _check_means(self) -> None:
        """Not every way to make links can do every fault to them."""
        way, kinds = self.links.kind, set(self._kinds())
        beyond = sorted(kind for kind in kinds if KINDS[kind].proxy_only)
        if way != "proxy" and beyond:
            raise InvalidArgument(
                f"links.kind is {way!r}, but only the proxy can do {listed(beyond)}: in namespaces"
                " connections are the kernel's; leave these faults out, or write 'proxy'"
            )
        if way == "veth" and "link" in kinds:
            raise InvalidArgument(
                "links.kind is 'veth', where no link can change; write 'namespaces' or 'proxy'"
            )

    def _check_mix(self, mix: Mix) -> None:
        for rate in mix.rates:
            with within(rate.kind):
                settings = dict(rate.settings)
                self._check_names(settings.get("peers", ()), self._names)
                self._check_names(settings.get("a", ()), self._names | {RANDOM})
                sides = self._names | {RANDOM, EVERYBODY}
                self._check_names(settings.get("b", ()), sides)
        absent = [rate.kind for rate in mix.rates if rate.rate and KINDS[rate.kind].absence]
        least = max(2, self.min_size)
        if absent and (mix.spare < 1 or len(self.peers) - 1 < least):
            raise InvalidArgument(
                f"{absent[0]} needs a peer that can be spared, but spare is {mix.spare} and"
                f" {least} of {len(self.peers)} peers must stay"
            )


# The control plane's connections carry no checksums but TCP's: damage is for data connections.
_DAMAGE = ("flip", "truncate", "duplicate")


def _stretched(fault: Fault, ratio: float) -> Fault:
    if fault.moment is not None:
        moment = dataclasses.replace(fault.moment, at=fault.moment.at * ratio)
        return dataclasses.replace(fault, moment=moment)
    return dataclasses.replace(fault, at=fault.time * ratio)


def _run(path: Path, seed: int) -> Scenario:
    try:
        found = runpy.run_path(str(path)).get("scenario")
        if callable(found):
            found = found(seed)
    except InvalidArgument as error:
        raise InvalidArgument(f"{path}: {error}") from None
    except Exception as error:
        raise InvalidArgument(f"{path}: it failed: {type(error).__name__}: {error}") from error
    if not isinstance(found, Scenario):
        raise InvalidArgument(
            f"{path}: it defines no scenario; write scenario = Scenario(...), or a function"
            " scenario(seed) that returns one"
        )
    return found
