"""The text the demo trains on, cut into what each peer may see, and batches drawn from it.

torch is imported where it is used, so that the parent can check the text without it.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from collectives.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


def read(path: str | None) -> bytes:
    """The file at ``path``, or CPython's own documentation.

    Raises:
        InvalidArgument: the file cannot be read.
    """
    if path is None:
        from pydoc_data.topics import topics

        return "\n\n\n".join(topics.values()).encode()
    try:
        return pathlib.Path(path).read_bytes()
    except OSError as error:
        raise InvalidArgument(f"cannot read the text {path!r}: {error.strerror}") from error


def split(text: bytes, index: int, peers: int, context: int) -> tuple[slice, slice]:
    """Where the training shard of peer ``index`` of ``peers`` is, and where the validation text.

    The last tenth is for validation; the rest is cut into ``peers`` contiguous shards.

    Raises:
        InvalidArgument: a part is shorter than two windows of ``context`` bytes.
    """
    border = len(text) * 9 // 10
    shard = slice(border * index // peers, border * (index + 1) // peers)
    if min(shard.stop - shard.start, len(text) - border) < 2 * (context + 1):
        raise InvalidArgument(
            f"the text has {len(text)} bytes, too few for {peers} peers and windows of {context} "
            f"bytes; give one of at least {max(20, 3 * peers) * (context + 1)} bytes"
        )
    return shard, slice(border, len(text))


def as_tensor(text: bytes) -> Tensor:
    """The bytes as a 1-D uint8 tensor."""
    import torch

    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


def batches(shard: Tensor, batch: int, context: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (inputs, targets), both int64 [batch, context], from random places of ``shard``."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    window = torch.arange(context + 1)
    while True:
        starts = torch.randint(len(shard) - context, (batch, 1), generator=generator)
        rows = shard[starts + window].long()
        yield rows[:, :-1], rows[:, 1:]


def windows(text: Tensor, context: int, count: int | None = None) -> tuple[Tensor, Tensor]:
    """(inputs, targets), int64 [n, context]: windows side by side, or ``count`` spread evenly."""
    import torch

    available = (len(text) - 1) // context
    chosen = torch.arange(available)
    if count is not None and count < available:
        chosen = torch.arange(count) * available // count
    rows = text[chosen[:, None] * context + torch.arange(context + 1)].long()
    return rows[:, :-1], rows[:, 1:]
