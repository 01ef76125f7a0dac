"""The outer optimizer: Nesterov momentum on pseudo-gradients, as arithmetic on flat tensors.

Pure: no group, no module. Every peer must get the same bits from the same inputs, also when their
processors differ, so each multiplication and addition is a torch operation of its own: a fused
multiply-add (``add_`` with ``alpha``) rounds once on some machines and twice on others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

# Elements per pass: three tensors of this length stay in a core's L2 cache.
_CHUNK = 1 << 15


def outer_step(
    theta: Tensor,
    momentum: Tensor,
    delta: Tensor,
    *,
    lr: float,
    beta: float,
    nesterov: bool = True,
) -> None:
    """Apply one outer step in place : Nesterov SGD on the pseudo-gradient.

    ``v ← βv + Δ``, then ``Θ ← Θ − η(Δ + βv)``, or ``Θ ← Θ − ηv`` without Nesterov. The same as
    ``torch.optim.SGD(lr=η, momentum=β, nesterov=True)`` with Δ as the gradient, up to rounding.

    Args:
        theta: Θ, the outer parameters; 1-D, changed in place.
        momentum: v, of theta's shape and dtype; changed in place.
        delta: Δ, the mean pseudo-gradient, of theta's shape and dtype; left as it is.
        lr: η.
        beta: β.
        nesterov: whether to look ahead along the momentum.
    """
    for start in range(0, len(theta), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        part, velocity, gradient = theta[chunk], momentum[chunk], delta[chunk]
        velocity.mul_(beta).add_(gradient)
        if nesterov:
            part.sub_(torch.mul(velocity, beta).add_(gradient).mul_(lr))
        else:
            part.sub_(torch.mul(velocity, lr))
