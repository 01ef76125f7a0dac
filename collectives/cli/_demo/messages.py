"""What the demo's parent and its peers tell each other, one JSON object a line.

The parent sends ``Settings`` to a peer's standard input and keeps that open; end of file there
means that the parent is gone. A peer answers on its standard output with the other messages.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any


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


@dataclasses.dataclass(frozen=True)
class Joined:
    """The peer is in the run and about to train."""

    rank: int
    view: int
    size: int
    parameters: int
    shard: tuple[int, int]
    """First byte of the peer's training text and the one after its last."""


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


Message = Joined | Progress | RoundEnd | Evaluated | Finished | Failed

_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (Settings, Joined, Progress, RoundEnd, Evaluated, Finished, Failed)
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
        return _KINDS[fields.pop("kind")](**fields)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not a message of the demo: {line!r}") from error
