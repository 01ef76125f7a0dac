"""The model of the demo: a byte-level transformer small enough for four peers on two cores."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

if TYPE_CHECKING:
    from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Shape:
    """Size of the transformer; ``context`` is in bytes."""

    layers: int = 2
    width: int = 96
    heads: int = 4
    context: int = 64


class _Block(nn.Module):
    """Attention, then a feed-forward layer, each on a normalised copy added back."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.norm_attention = nn.LayerNorm(shape.width)
        self.qkv = nn.Linear(shape.width, 3 * shape.width)
        self.mix = nn.Linear(shape.width, shape.width)
        self.norm_feed = nn.LayerNorm(shape.width)
        self.up = nn.Linear(shape.width, 4 * shape.width)
        self.down = nn.Linear(4 * shape.width, shape.width)

    def forward(self, x: Tensor) -> Tensor:
        """int64 [batch, length] -> logits [batch, length, 256]."""
        batch, length, width = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(batch, length, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.mix(attended.transpose(1, 2).reshape(batch, length, width))
        y: Tensor = x + self.down(F.gelu(self.up(self.norm_feed(x)), approximate="tanh"))
        return y


class ByteTransformer(nn.Module):
    """Predicts the next byte: int64 [batch, length] -> logits [batch, length, 256]."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.byte = nn.Embedding(256, shape.width)
        self.position = nn.Embedding(shape.context, shape.width)
        self.blocks = nn.ModuleList(_Block(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        self.head = nn.Linear(shape.width, 256, bias=False)
        self.head.weight = self.byte.weight
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.05)

    def forward(self, x: Tensor) -> Tensor:
        """int64 [batch, length] -> logits [batch, length, 256]."""
        h = self.byte(x) + self.position.weight[: x.shape[1]]
        for block in self.blocks:
            h = block(h)
        logits: Tensor = self.head(self.norm(h))
        return logits


def loss_of(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats per byte."""
    return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


@torch.no_grad()
def evaluate(model: nn.Module, inputs: Tensor, targets: Tensor, batch: int = 64) -> float:
    """Mean loss over all windows, in nats per byte; 0 if there are none."""
    model.eval()
    total = 0.0
    for start in range(0, len(inputs), batch):
        part = slice(start, start + batch)
        total += loss_of(model, inputs[part], targets[part]).item() * len(inputs[part])
    model.train()
    return total / max(len(inputs), 1)


@torch.no_grad()
def generate(model: ByteTransformer, prompt: str, length: int, seed: int) -> str:
    """``prompt`` continued by ``length`` bytes, drawn at temperature 0.7."""
    generator = torch.Generator().manual_seed(seed)
    model.eval()
    text = torch.tensor([list(prompt.encode())])
    for _ in range(length):
        logits = model(text[:, -model.shape.context :])[0, -1] / 0.7
        following = torch.multinomial(logits.softmax(-1), 1, generator=generator)
        text = torch.cat([text, following[None]], dim=1)
    model.train()
    written = bytes(text[0].tolist()).decode(errors="replace")
    # An untrained model writes control characters, which a terminal would obey.
    return "".join(
        c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in written
    )
