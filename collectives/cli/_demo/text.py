"""The text the demo trains on, cut into what each peer may see, and batches drawn from it."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

import torch

from collectives.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


def load(path: str | None) -> Tensor:
    """The bytes of the file at ``path``, or of CPython's own documentation; 1-D uint8.

    Raises:
        InvalidArgument: there is no such file.
    """
    if path is None:
        from pydoc_data.topics import topics

        data = "\n\n\n".join(topics.values()).encode()
    else:
        try:
            data = pathlib.Path(path).read_bytes()
        except OSError as error:
            raise InvalidArgument(f"cannot read the text {path!r}: {error.strerror}") from error
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0)


def split(text: Tensor, index: int, peers: int, context: int) -> tuple[Tensor, Tensor]:
    """Training shard of peer ``index`` of ``peers``, and the validation text all share.

    The last tenth is for validation; the rest is cut into ``peers`` contiguous shards.

    Raises:
        InvalidArgument: a part is shorter than two windows of ``context`` bytes.
    """
    border = len(text) * 9 // 10
    shard = text[border * index // peers : border * (index + 1) // peers]
    validation = text[border:]
    if min(len(shard), len(validation)) < 2 * (context + 1):
        raise InvalidArgument(
            f"the text has {len(text)} bytes, too few for {peers} peers and windows of {context} "
            f"bytes; give one of at least {20 * max(peers, 2) * (context + 1)} bytes"
        )
    return shard, validation


def batches(shard: Tensor, batch: int, context: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (inputs, targets), both int64 [batch, context], from random places of ``shard``."""
    generator = torch.Generator().manual_seed(seed)
    window = torch.arange(context + 1)
    while True:
        starts = torch.randint(len(shard) - context, (batch, 1), generator=generator)
        rows = shard[starts + window].long()
        yield rows[:, :-1], rows[:, 1:]


def windows(text: Tensor, context: int, count: int | None = None) -> tuple[Tensor, Tensor]:
    """(inputs, targets), int64 [n, context]: windows side by side, or ``count`` spread evenly."""
    available = (len(text) - 1) // context
    chosen = torch.arange(available)
    if count is not None and count < available:
        chosen = torch.arange(count) * available // count
    rows = text[chosen[:, None] * context + torch.arange(context + 1)].long()
    return rows[:, :-1], rows[:, 1:]
