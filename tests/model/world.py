"""Everything that can happen next: the steps of peers and coordinator, and the faults."""

from __future__ import annotations

from collections.abc import Iterator

from model import coordinator, peers
from model.forget import forget
from model.peers import Step
from model.rules import Rules
from model.state import ALIVE, Configuration, State, initial, outstanding, survivors_of
from model.symmetry import Names


class World:
    """A configuration under rules."""

    def __init__(self, config: Configuration, rules: Rules) -> None:
        self.config, self.rules = config, rules
        self.names = Names(config)

    def start(self) -> State:
        return initial(self.config)

    def steps(self, state: State) -> Iterator[Step]:
        """What happens unless something else happens first, for ever: no faults."""
        config, rules = self.config, self.rules
        survivors = survivors_of(state)
        for p, peer in enumerate(state.peers):
            if peer.life != ALIVE:
                continue
            if peers.progresses(rules, peer):
                yield from peers.issue(config, rules, state, p)
                yield from peers.complete(config, state, p)
                yield from peers.ask(config, rules, state, p)
            if peer.inbox:
                yield from peers.hear(config, rules, state, p)
            yield from peers.supply(state, p)
            if p in survivors:
                yield from peers.seal(config, rules, state, p)
                yield from peers.take(config, rules, state, p)
            elif rules.errors_are_told:
                yield from peers.leave(state, p)
        yield from coordinator.notice(state)
        yield from coordinator.let_go(state)
        yield from coordinator.open_round(rules, state)
        yield from coordinator.decide(config, rules, self.names.orders, state)

    def faults(self, state: State) -> Iterator[Step]:
        if not state.faults.total:
            return
        for p in survivors_of(state):
            yield from peers.die(state, p)
            yield from peers.veto(self.rules, state, p)
            yield from peers.part(self.config, self.rules, state, p)
        yield from coordinator.evict(state)
        yield from coordinator.open_idly(state)
        yield from coordinator.restart(self.rules, state)

    def after(self, step: Step) -> State | None:
        """The state as it is kept; None: an end, nothing can go wrong any more."""
        return forget(self.config, self.rules, step[1])

    def undecided(self, state: State) -> str:
        """Who still waits, in words."""
        waiting = [
            f"peer {p} for operation {k + 1}"
            for p in survivors_of(state)
            for k, op in enumerate(state.peers[p].ops)
            if (outstanding(op) or k >= state.peers[p].issued) and self.config.ops[k].takes_part(p)
        ]
        return ", ".join(waiting)
