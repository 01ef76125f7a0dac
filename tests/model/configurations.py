"""Who takes part, in what, and how many faults there may be.

``QUICK`` is for each ``make test``, ``FULL`` for ``make model``: half an hour on one core.
"""

from __future__ import annotations

from model.state import Configuration, Faults, Kind

KINDS = {
    "small": Kind(retained=True),
    "large": Kind(retained=False),
    "small broadcast": Kind(retained=True, root=0),
    "broadcast": Kind(retained=False, root=0),
    "barrier": Kind(retained=False, empty=True),
    "reduce": Kind(retained=False, root=0, gathers=True),
    "gather": Kind(retained=False, root=0, gathers=True, repeatable=False),
    "small raise": Kind(retained=True, repeatable=False),
    "raise": Kind(retained=False, repeatable=False),
    "pair": Kind(retained=False, pair=(0, 1)),
    "back": Kind(retained=False, pair=(1, 0)),
}


def any_faults(total: int) -> Faults:
    """So many in all, at most two of a kind, and one round for no reason."""
    each = min(2, total)
    return Faults(each, each, each, each, min(1, total), total)


def leaving(total: int) -> Faults:
    """One or two leave beside so many faults."""
    return any_faults(total)._replace(leaves=2, total=total + 1)


def of(
    peers: int, *kinds: str, faults: int | Faults, min_size: int = 1, name: str = ""
) -> Configuration:
    """Of so many peers, with operations of these kinds issued in this order."""
    if isinstance(faults, int):
        name = f"any {faults} fault{'s' * (faults > 1)}"
        faults = any_faults(faults)
    name = f"{peers} peers, {' then '.join(kinds)}, {name}"
    if min_size > 1:
        name += f", at least {min_size}"
    return Configuration(name, peers, tuple(KINDS[kind] for kind in kinds), faults, min_size)


QUICK = (
    of(3, "small", faults=2),
    of(3, "large", faults=1),
    of(3, "broadcast", faults=1),
    of(3, "barrier", faults=1),
    of(3, "reduce", faults=1),
    of(3, "raise", faults=1, min_size=3),
    of(3, "small", "small", faults=1),
    of(3, "small", "large", faults=Faults(deaths=1), name="a death"),
    of(4, "small", faults=1),
    of(3, "pair", faults=1),
    of(3, "pair", "small", faults=1),
    of(3, "barrier", faults=Faults(leaves=1), name="a leave"),
    of(3, "small", "gather", faults=Faults(leaves=1), name="a leave"),
)

TWO_DEATHS = Faults(deaths=2)

FULL = (
    *QUICK,
    of(3, "small", faults=4),
    of(3, "large", faults=3),
    of(3, "small raise", faults=3),
    of(3, "raise", faults=3, min_size=2),
    of(3, "small broadcast", faults=3),
    of(3, "broadcast", faults=2),
    of(3, "barrier", faults=2),
    of(3, "reduce", faults=2),
    of(3, "gather", faults=2),
    of(3, "reduce", "small", faults=1),
    of(3, "small", "small", faults=2),
    of(3, "small", "broadcast", faults=1),
    of(3, "broadcast", "small", faults=1),
    of(3, "small", "barrier", faults=1),
    of(3, "barrier", "small", faults=1),
    of(3, "raise", "large", faults=1),
    of(4, "small", faults=3),
    of(4, "large", faults=2),
    of(4, "raise", faults=2, min_size=3),
    of(4, "broadcast", faults=1),
    of(4, "barrier", faults=2),
    of(4, "small", "small", faults=1),
    of(4, "small", "small", faults=TWO_DEATHS, name="two deaths"),
    of(4, "small", "large", faults=1),
    of(3, "small", "large", faults=2),
    of(3, "large", "small", faults=2),
    of(3, "large", "large", faults=2),
    of(2, "pair", faults=4),
    of(3, "pair", faults=3),
    of(2, "pair", "pair", faults=3),
    of(2, "pair", "back", faults=3),
    of(3, "pair", "back", faults=2),
    of(3, "pair", "small", faults=2),
    of(3, "small", "pair", faults=2),
    of(3, "large", "pair", faults=1),
    of(3, "pair", "large", faults=1),
    of(3, "pair", "barrier", faults=1),
    of(4, "pair", faults=2),
    of(3, "small", faults=leaving(2), name="any 2 faults and a leave"),
    of(3, "large", faults=leaving(1), name="any fault and a leave"),
    of(3, "barrier", faults=leaving(1), name="any fault and a leave"),
    of(3, "gather", faults=leaving(1), name="any fault and a leave"),
    of(3, "pair", faults=leaving(1), name="any fault and a leave"),
    of(3, "small", "barrier", faults=Faults(leaves=2), name="two leaves"),
    of(4, "barrier", faults=Faults(leaves=2), name="two leaves"),
)
