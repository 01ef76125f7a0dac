"""One presence of this peer in the run, from its admission to its end.

A peer that was put out comes back as a new incarnation: another UUID, another engine, other links;
nothing of the old one is taken for the new one. Until then the groups of a process share an engine,
and thereby a UUID and links (``engines``). ``Group`` goes from one to the next, while
operations of an old one can still be asked how they ended.
"""

from __future__ import annotations

import dataclasses
import itertools
import uuid
from collections.abc import Callable
from typing import ClassVar

from collectives import engines
from collectives._native import ffi, lib
from collectives._native.engine import Counters, EngineGroup, process_identity
from collectives.data_plane import EnginePlane, advertised, choices_of
from collectives.dump import Dumps
from collectives.errors import CollectiveError
from collectives.membership.address import parse_addresses
from collectives.membership.agent import Agent
from collectives.membership.view import Choice, View
from collectives.options import Options
from collectives.state.filling import Fetched, Filling
from collectives.state.service import Service
from collectives.state.shared import SharedState


@dataclasses.dataclass(frozen=True)
class Application:
    """How a peer asks to be admitted: what ``join`` was called with.

    ``among``: who form the group's first view, by rank; empty: whoever comes.
    """

    address: str
    group: str
    name: str
    min_size: int
    unit: str
    token: str | None = dataclasses.field(repr=False)
    options: Options
    among: tuple[uuid.UUID, ...] = ()


class Incarnation:
    """A member; what its operations ask when they have ended.

    Args:
        application: how it asks to be admitted.
        timeout: seconds to wait for that; None: ``Options.timeout``.
        state: what it fetches into before it is admitted; None: nothing.
        beside: whose engine it uses; None: that of any group of the same run and options, or a new
            one.

    Attributes:
        plane_type: of its data plane; the chaos harness puts in one whose links it can shape.
        view: that of the last call that has returned; ``number``, ``rank``, ``size`` and ``names``
            (by rank) are of it.
        told: whether the caller knows that the group is broken.
        newcomer: admitted to a view that had operations before: its state does not count yet.
        service: what answers the other peers when they ask for its state; None: it has none.
        fetched: what came of the members' state before the admission; None: nothing was to come.
        changed: called with every new view.

    Raises:
        CollectiveError: it was not admitted; nothing is left behind.
    """

    plane_type: ClassVar[type[EnginePlane]] = EnginePlane

    def __init__(
        self,
        application: Application,
        timeout: float | None,
        state: SharedState | None = None,
        beside: Incarnation | None = None,
    ) -> None:
        options = application.options
        if beside is None:
            run = tuple(parse_addresses(application.address))
            self._shared = engines.take(run, options, application.group)
        else:
            self._shared = beside._shared
            self._shared.take(application.group)
        engine = self._shared.engine
        self.id = engine.peer_id
        self._plane = plane = self.plane_type(engine)
        filling = None
        if state is not None and state.role != "send_only":
            filling = Filling(state, self.id, lambda: plane.visiting)
        agent: Agent | None = None
        try:
            agent = Agent(
                application.address,
                group=application.group,
                name=application.name,
                min_size=application.min_size,
                unit=application.unit,
                token=application.token,
                options=options,
                plane=plane,
                peer_id=self.id,
                addresses=advertised(options, engine.addresses),
                process=process_identity(),
                visits=filling is not None,
                site=options.chosen_site,
                tunes=options.tune,
                among=application.among,
            )
            view = agent.join(timeout, None if filling is None else filling.run)
        except BaseException:
            if agent is not None:
                agent.close()
            plane.close()
            self._shared.release()
            raise
        assert plane.group is not None
        self.agent = agent
        self.native: EngineGroup = plane.group
        self.handle = plane.group.handle
        self.told = False
        self.closed = False
        self.newcomer = view.first_operation > 1
        self.service: Service | None = None
        self.fetched: Fetched | None = None if filling is None else filling.fetched
        self.changed: Callable[[View], None] = _nobody_listens
        self._history: dict[int, tuple[str, ...]] = {}  # names by view
        self._known: dict[bytes, str] = {}
        self._dumps = Dumps.of(options)
        self._set_view(view)

    @property
    def name(self) -> str:
        """This peer's name, as the coordinator made it unique."""
        return self.names[self.rank]

    def _set_view(self, view: View) -> None:
        rank = view.rank_of(self.id)
        assert rank is not None
        self._known.update((peer.id.bytes, peer.name) for peer in view.peers)
        self.view = view
        self.number = view.number
        self.rank = rank
        self.size = view.size
        self.names = tuple(peer.name for peer in view.peers)
        self.ids = ffi.from_buffer(b"".join(peer.id.bytes for peer in view.peers))
        self._history[view.number] = self.names

    def regroup(self, timeout: float) -> None:
        """Have the coordinator admit and drop peers, as every member does; the group is whole.

        Raises:
            CollectiveError: as ``Agent.sync``.
        """
        view = self.agent.sync(self.native.last_operation(), timeout).view
        self.told = False
        if view != self.view:
            self._set_view(view)
            self.changed(view)

    def choose(self, table: tuple[Choice, ...]) -> None:
        """Use a plan table from the next operation on, as all members do at this moment."""
        self.native.choose(choices_of(table))
        self.agent.tuned(table)
        self.view = dataclasses.replace(self.view, table=table)

    def ended_in(self, view: int) -> tuple[str, ...]:
        """The names of a view's members; the caller's view becomes this one if it is newer."""
        names = self._history.get(view)
        if names is None:
            found = self.agent.view_of(view)
            names = self._history[view] = tuple(peer.name for peer in found.peers)
            if found.number > self.number and not self.closed:
                self._set_view(found)
                self.changed(found)
        return names

    def has_failed(self, error: BaseException) -> None:
        """The caller knows that the group is broken, by this error."""
        first, self.told = not self.told, True
        if first and self._dumps is not None and isinstance(error, CollectiveError):
            self._dumps.write(error, self.view, self.rank, self.native.operations())

    def counters(self) -> Counters:
        """What its engine has counted; all zero once it was closed."""
        return Counters() if self.closed else self._shared.engine.counters()

    def serve(self) -> Service:
        """Answer the other peers when they ask for its state."""
        if self.service is None:
            self.service = Service(self._shared.server(), self.native.id)
        return self.service

    def culprit(self) -> str:
        """The name of the peer because of which the group is broken; "": nobody in particular."""
        if self.closed:
            return ""
        status, peer = self.native.state()
        if status == lib.COLL_PEER_LOST and not any(peer):
            # Somebody called what needs a peer that a verdict before had left out: the first one.
            for before, after in itertools.pairwise(self.agent.state.views):
                for lost in before.peers:
                    if after.rank_of(lost.id) is None:
                        return lost.name
        return self._known.get(peer, "")

    @property
    def out(self) -> bool:
        """Whether this peer was put out of the run: it takes a new incarnation to come back."""
        if self.closed or self.agent.state.error is not None:
            return True
        # The core may know it before the agent.
        return self.native.state()[0] in (lib.COLL_EVICTED, lib.COLL_UNDECIDED)

    def close(self, why: str = "") -> None:
        """End it at once; the others are told ``why`` if they still count on it."""
        if self.closed:
            return
        self.closed = True
        self.agent.close(why)
        self._plane.close()
        if self.service is not None:
            self.service.close()
        self._shared.release()


def _nobody_listens(_: View) -> None:
    pass
