"""The kinds of faults: one table, by which they are parsed, checked, drawn, listed, explained.

What a fault does to processes and links is the conductor's; this is only what it is called and what
it takes.
"""

from __future__ import annotations

import dataclasses

from collectives.chaos.spec import EVERYBODY, PROFILES, Parameter, listed, nearest
from collectives.errors import InvalidArgument

# Of an operation; then of a round about a view, in which an operation's outcome is decided.
OPERATION_PHASES = ("issued", "reduce_scatter", "between", "all_gather", "complete", "tokens")
ROUND_PHASES = ("sealed", "judged")

_AT = Parameter("at", "moment", "when, in seconds after the run has formed")
_PEER = Parameter("peer", "peer", 'a peer, or "random"', required=True)
_A = Parameter("a", "side", 'peers, hosts, sites, or "random"', required=True)
_B = Parameter("b", "side", 'the same; "*": everybody else', default=(EVERYBODY,))
_DAMAGE = Parameter("count", "count", "how many pieces of data", default=1, drawn=(1, 5))
_RESTART = Parameter("restart", "seconds", "until its next life begins; else never", drawn=(0.5, 3))


def _for(low: float, high: float, *, required: bool = True, about: str = "") -> Parameter:
    about = about or "seconds until it ends by itself"
    return Parameter("for", "seconds", about, required=required, drawn=(low, high))


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        about: a sentence.
        parameters: what it takes besides ``at`` and ``moment``.
        proxied: whether it needs links that can be shaped.
        proxy_only: whether the proxy alone can do it: to the bytes, or the ends, of a connection.
        momentary: whether it can be aimed at a moment of an operation.
        absence: whether whom it hits may be lost to the others while it lasts.
    """

    name: str
    about: str
    parameters: tuple[Parameter, ...] = ()
    proxied: bool = False
    proxy_only: bool = False
    momentary: bool = False
    absence: bool = False

    @property
    def rows(self) -> tuple[Parameter, ...]:
        """All that it takes but ``moment``."""
        return (_AT, *self.parameters)

    def has(self, name: str) -> bool:
        """Whether it takes this parameter."""
        return any(row.name == name for row in self.parameters)


_ALL = (
    Kind(
        "kill",
        "SIGKILL: the process is gone without a word.",
        (_PEER, _RESTART),
        momentary=True,
        absence=True,
    ),
    Kind(
        "stop",
        "SIGSTOP, later SIGCONT: the process stands still, its connections stay.",
        (_PEER, _for(0.1, 8)),
        momentary=True,
        absence=True,
    ),
    Kind(
        "leave",
        "The peer leaves the run properly, between two steps.",
        (_PEER, _RESTART),
        absence=True,
    ),
    Kind(
        "join",
        "A process that was not there before joins the run.",
        (
            Parameter("peer", "peer", "its name; by default the next number"),
            Parameter("count", "count", "how many at once", default=1),
            _for(2, 10, required=False, about="seconds until it leaves again; else it stays"),
        ),
    ),
    Kind(
        "slow",
        "The process gets a share of its CPU time only, in short turns.",
        (
            _PEER,
            _for(1, 6),
            Parameter("share", "share", "of the time it runs", default=0.2, drawn=(0.05, 0.5)),
        ),
    ),
    Kind("coordinator_kill", "SIGKILL to the coordinator.", (_RESTART,)),
    Kind("coordinator_stop", "The coordinator stands still.", (_for(0.2, 6),)),
    Kind(
        "partition",
        "Nothing passes between two sides; all still reach the coordinator.",
        (
            _A,
            _B,
            Parameter(
                "way",
                "choice",
                "which bytes are lost: from a to b (there), from b to a (back), or both",
                default="both",
                choices=("both", "there", "back"),
            ),
            _for(0.5, 10),
        ),
        proxied=True,
        absence=True,
    ),
    Kind(
        "isolate",
        "The peer reaches nobody, the coordinator neither.",
        (_PEER, _for(0.5, 10)),
        proxied=True,
        absence=True,
    ),
    Kind(
        "cut_off",
        "These peers do not reach the coordinator, but one another.",
        (Parameter("peers", "side", 'who; "random" for one', required=True), _for(0.5, 8)),
        proxied=True,
        absence=True,
    ),
    Kind(
        "link",
        "A link becomes another one: slower, later, less even.",
        (
            _A,
            _B,
            _for(1, 8, required=False),
            Parameter("profile", "choice", "as this one", choices=PROFILES[1:]),
            Parameter("rate_up", "bits", "bit/s from a to b"),
            Parameter("rate_down", "bits", "bit/s from b to a"),
            Parameter("delay", "moment", "seconds one way", drawn=(0.001, 0.1)),
            Parameter("jitter", "moment", "seconds at most on top", drawn=(0.0005, 0.03)),
        ),
        proxied=True,
    ),
    Kind(
        "reset",
        "Every connection between the two is reset.",
        (_A, _B),
        proxied=True,
        proxy_only=True,
    ),
    Kind(
        "black_hole",
        "What is sent between the two vanishes; no connection ends.",
        (_A, _B, _for(0.5, 8)),
        proxied=True,
        absence=True,
    ),
    Kind(
        "half_open",
        "Connections end for b; a is not told, and talks to nobody.",
        (_A, _B),
        proxied=True,
        proxy_only=True,
    ),
    Kind(
        "flip",
        "A bit of a piece of data is flipped.",
        (_A, _B, _DAMAGE),
        proxied=True,
        proxy_only=True,
    ),
    Kind(
        "truncate",
        "Bytes of a piece of data are missing.",
        (_A, _B, _DAMAGE),
        proxied=True,
        proxy_only=True,
    ),
    Kind(
        "duplicate",
        "Bytes of a piece of data come twice.",
        (_A, _B, _DAMAGE),
        proxied=True,
        proxy_only=True,
    ),
    Kind(
        "stranger",
        "Somebody without the token talks nonsense on the peer's data port.",
        (
            _PEER,
            Parameter("count", "count", "connections, one after another", default=5, drawn=(1, 20)),
        ),
    ),
    Kind(
        "flood",
        "Many connections at once to the peer's data port, which say nothing.",
        (
            _PEER,
            Parameter("count", "count", "connections", default=100, drawn=(20, 300)),
            _for(0.5, 3),
        ),
    ),
    Kind(
        "exhaust",
        "The peer's process can open no more files.",
        (_PEER, _for(0.5, 3)),
        absence=True,
    ),
    Kind(
        "load",
        "Another program computes on the machine.",
        (
            Parameter("count", "count", "processes", default=1),
            Parameter("share", "share", "of a core that each takes", default=1.0),
            _for(1, 6),
        ),
    ),
)
KINDS: dict[str, Kind] = {kind.name: kind for kind in _ALL}


def kind_of(name: object) -> Kind:
    """Return the kind of this name.

    Raises:
        InvalidArgument: there is none.
    """
    if not isinstance(name, str) or name not in KINDS:
        raise InvalidArgument(
            f"{name!r} is no kind of fault{nearest(str(name), KINDS)}; there are {listed(KINDS)}"
        )
    return KINDS[name]
