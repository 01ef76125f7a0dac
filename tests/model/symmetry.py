"""States that differ in the names of peers only are taken for one.

Tokens go from rank r to r + 2^i, so the peers of a view may be rotated; where no operation of all
has tokens they may be permuted at will. A root keeps its name, and so do two of a pair. The
verdict names the first holder of a result, by rank, as its supplier: which is first is left open in
the same way (``orders``), so that no choice is lost.
"""

from __future__ import annotations

import itertools

from model.state import Configuration, Messages, Peer, State

Order = tuple[int, ...]
Rest = tuple[object, ...]


def orders(config: Configuration) -> tuple[Order, ...]:
    """Peer p is called ``order[p]`` instead."""
    everybody = tuple(range(config.peers))
    if all(kind.retained or kind.pair for kind in config.ops):
        found = list(itertools.permutations(everybody))
    else:
        found = [everybody[by:] + everybody[:by] for by in everybody]
    roots = {kind.root for kind in config.ops if kind.root >= 0}
    roots.update(*(kind.pair for kind in config.ops))
    return tuple(order for order in found if all(order[root] == root for root in roots))


def _renamed_set(mask: int, order: Order) -> int:
    return sum(1 << to for p, to in enumerate(order) if mask >> p & 1)


def _renamed_peer(peer: Peer, order: Order) -> Peer:
    ops = tuple(
        op if op.supplier < 0 else op._replace(supplier=order[op.supplier]) for op in peer.ops
    )
    return peer._replace(members=_renamed_set(peer.members, order), ops=ops)


def _renamed_rest(state: State, order: Order) -> Rest:
    coordinator = state.coordinator
    coordinator = coordinator._replace(
        members=_renamed_set(coordinator.members, order),
        gone=_renamed_set(coordinator.gone, order),
    )
    seals, reports, verdicts = state.messages
    renamed = Messages(
        seals,
        tuple(sorted((epoch, order[p], told) for epoch, p, told in reports)),
        tuple(
            sorted(
                verdict._replace(
                    members=_renamed_set(verdict.members, order),
                    stands=tuple(
                        (number, order[supplier] if supplier >= 0 else -1)
                        for number, supplier in verdict.stands
                    ),
                )
                for verdict in verdicts
            )
        ),
    )
    return (coordinator, renamed, state.faults)


class Names:
    """Gives each state a number, the same to those that differ in names only."""

    def __init__(self, config: Configuration) -> None:
        self.orders = orders(config)
        self._sources = [
            tuple(order.index(p) for p in range(config.peers)) for order in self.orders
        ]
        self._numbers: dict[object, int] = {}
        self._parts: list[object] = []
        self._peers: list[list[int]] = []
        self._rests: list[list[int]] = []

    def _number(self, part: object) -> int:
        number = self._numbers.get(part)
        if number is None:
            number = self._numbers[part] = len(self._parts)
            self._parts.append(part)
            self._peers.append([])
            self._rests.append([])
        return number

    def key(self, state: State) -> int:
        rows = []
        for peer in state.peers:
            number = self._number(peer)
            row = self._peers[number]
            if not row:
                row += [self._number(_renamed_peer(peer, order)) for order in self.orders]
            rows.append(row)
        number = self._number((state.coordinator, state.messages, state.faults))
        rest = self._rests[number]
        if not rest:
            rest += [self._number(_renamed_rest(state, order)) for order in self.orders]
        best = 0
        for i, sources in enumerate(self._sources):
            key = rest[i] + 1
            for p in sources:
                key = key << 32 | rows[p][i]
            if not best or key < best:
                best = key
        return best

    def state(self, key: int) -> State:
        """The state that has this number, under one of its names."""
        parts = []
        for _ in self._sources[0]:
            parts.append(self._parts[key & 0xFFFFFFFF])
            key >>= 32
        coordinator, messages, faults = self._parts[key - 1]
        return State(tuple(reversed(parts)), coordinator, messages, faults)
