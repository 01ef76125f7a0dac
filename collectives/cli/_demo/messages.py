"""What the demo's parent and its peers tell each other, one JSON object a line.

The parent sends ``Settings`` to a peer's standard input and keeps that open; end of file there
means that the parent is gone. A peer answers on its standard output with the other messages.
"""

from __future__ import annotations

import dataclasses
import json
import random
from typing import Any


@dataclasses.dataclass(frozen=True)
class Fault:
    """A peer kills itself in the middle of a round's all-reduce, and another takes its place.

    Attributes:
        rank: of the peer that dies.
        round: in which it dies.
        phase: of the all-reduce: ``"reduce_scatter"`` or ``"all_gather"``.
        joins: the round at whose end the newcomer is admitted.
    """

    rank: int
    round: int
    phase: str
    joins: int

    @staticmethod
    def drawn(seed: int, peers: int, rounds: int) -> Fault | None:
        """The fault of a seed; None where there is too little of a run for one."""
        if peers < 2 or rounds < 4:
            return None
        chance = random.Random(seed)
        dies = chance.randint(max(1, rounds // 4), rounds // 2)
        later = chance.randint(1, max(1, rounds // 4))
        phase = chance.choice(["reduce_scatter", "all_gather"])
        return Fault(chance.randrange(peers), dies, phase, dies + later)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything a peer needs to know.

    Attributes:
        address: of the coordinator.
        name: the peer's own.
        peers: how many start together.
        rounds: outer steps to take.
        seed: of everything random; what a peer draws depends on its rank as well.
        text: path of the text; None: CPython's documentation.
        device: ``"cpu"`` or ``"cuda"``.
        inner_steps: H.
        context: bytes the model sees at once.
        batch: windows in one inner step's batch.
        inner_lr: highest learning rate of the inner AdamW.
        outer_lr: η.
        outer_momentum: β.
        sample_bytes: length of the text that rank 0 writes at the end.
        fault: who dies when; None: nobody.
        codec: of the pseudo-gradients; None: they travel as they are.
        shard: whose part of the text a peer trains on that comes later; None: that of its rank.
    """

    address: str
    name: str
    peers: int
    rounds: int
    seed: int
    text: str | None = None
    device: str = "cpu"
    inner_steps: int = 25
    context: int = 64
    batch: int = 16
    inner_lr: float = 3e-3
    outer_lr: float = 0.7
    outer_momentum: float = 0.7
    sample_bytes: int = 480
    fault: Fault | None = None
    codec: str | None = None
    shard: int | None = None


@dataclasses.dataclass(frozen=True)
class Joined:
    """The peer is in the run and about to train."""

    rank: int
    view: int
    size: int
    parameters: int
    shard: tuple[int, int]
    """First byte of the peer's training text and the one after its last."""
    round: int = 0
    """Rounds that the run had done; above 0 for a newcomer."""
    seconds: float = 0.0
    """From its admission until it had the state."""


@dataclasses.dataclass(frozen=True)
class Dying:
    """The peer kills itself in the middle of this round's all-reduce."""

    round: int


@dataclasses.dataclass(frozen=True)
class Progress:
    """Some inner steps were done."""

    step: int
    """Inner steps since the start of the run."""
    loss: float


@dataclasses.dataclass(frozen=True)
class RoundEnd:
    """A round ended; ``validation`` is the loss on the peer's part of some validation text."""

    number: int
    view: int
    size: int
    loss: float
    """Mean training loss over the round's inner steps, nats per byte."""
    wire_bytes: int
    seconds: float
    digest: str
    validation: float
    validation_windows: int
    ended: float = 0.0
    """When the round was finished here, by the host's CLOCK_MONOTONIC."""


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """Loss on the peer's part of the whole validation text, before or after training."""

    when: str
    """``"start"`` or ``"end"``."""
    loss: float
    windows: int


@dataclasses.dataclass(frozen=True)
class Finished:
    """The peer has left the group; ``sample`` is text it wrote (rank 0 only)."""

    sample: str


@dataclasses.dataclass(frozen=True)
class Failed:
    """The peer gave up; its standard error has the details."""

    error: str


Message = Joined | Dying | Progress | RoundEnd | Evaluated | Finished | Failed

_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (Settings, Joined, Dying, Progress, RoundEnd, Evaluated, Finished, Failed)
}


def encode(message: Settings | Message) -> str:
    """The message as one line."""
    return json.dumps({"kind": type(message).__name__, **dataclasses.asdict(message)}) + "\n"


def decode(line: str) -> Any:
    """The message in a line that ``encode`` made.

    Raises:
        ValueError: the line is something else.
    """
    try:
        fields = json.loads(line)
        kind = _KINDS[fields.pop("kind")]
        if fields.get("fault") is not None:
            fields["fault"] = Fault(**fields["fault"])
        return kind(**fields)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not a message of the demo: {line!r}") from error
