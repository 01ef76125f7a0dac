"""The outer state as flat tensors: what peers average, share and fingerprint.

``OuterState`` mirrors a module: Θ and v of the trained parameters, the buffers that ``state_dict``
saves, and views on both shaped like the module's own tensors. It does arithmetic and copies, and
never communicates; ``DiLoCo`` does that with the flat tensors found here. The outer state lives
in host memory, so that an accelerator holds only what the inner steps need.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import torch
import xxhash

from collectives.diloco.outer import outer_step
from collectives.errors import InvalidArgument, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn


class Block:
    """Θ, v and Δ of all tensors whose outer copies have one dtype.

    Parameters come first, buffers after them: momentum exists for the parameters alone, while one
    reduction of ``delta`` covers both.
    """

    def __init__(
        self, dtype: torch.dtype, parameters: dict[str, Tensor], buffers: dict[str, Tensor]
    ) -> None:
        self.parameters = parameters
        self.buffers = buffers
        trained = sum(tensor.numel() for tensor in parameters.values())
        total = trained + sum(tensor.numel() for tensor in buffers.values())
        self.theta = torch.zeros(total, dtype=dtype)
        self.delta = torch.zeros(total, dtype=dtype)
        self.momentum = torch.zeros(trained, dtype=dtype)
        self.residual: Tensor | None = None
        self.theta_of = self._views(self.theta, parameters | buffers)
        self.delta_of = self._views(self.delta, parameters | buffers)
        self.momentum_of = self._views(self.momentum, parameters)

    @staticmethod
    def _views(flat: Tensor, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        views = {}
        offset = 0
        for name, tensor in tensors.items():
            views[name] = flat[offset : offset + tensor.numel()].view(tensor.shape)
            offset += tensor.numel()
        return views

    def parts_of_delta(self) -> tuple[Tensor, Tensor]:
        """That of the parameters, and that of the buffers."""
        trained = self.momentum.numel()
        return self.delta[:trained], self.delta[trained:]

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """Name and module tensor of everything in the block."""
        yield from self.parameters.items()
        yield from self.buffers.items()


class OuterState:
    """Θ, v and the buffers of ``module``, flat.

    Trained parameters have a Θ in float32 (float64 if they are float64), so that a bfloat16
    module does not lose small outer steps. Tied parameters count once. What is shared depends on
    the tensor:

    - trained parameters: pseudo-gradients, averaged each round, outer step with momentum;
    - floating-point buffers (the running statistics of batch norm): averaged each round;
    - other buffers (counters): those of the source peer, each round;
    - frozen parameters (``requires_grad=False``): sent to newcomers, untouched by rounds;
    - buffers that ``state_dict`` leaves out: local, never shared.

    Raises:
        InvalidArgument: nothing in the module is trained.
        UnsupportedError: a parameter is trained whose dtype is no real floating-point type.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        saved = module.state_dict().keys()
        # named_parameters() and named_buffers() give tied tensors once, under their first name.
        parameters = dict(module.named_parameters())
        buffers = {name: buffer for name, buffer in module.named_buffers() if name in saved}
        self._parameters = parameters
        trained = {name: p for name, p in parameters.items() if p.requires_grad}
        self._trained = frozenset(trained)
        if not trained:
            raise InvalidArgument(
                f"{type(module).__name__} has no parameter with requires_grad=True: "
                "there is nothing for DiLoCo to train"
            )
        for name, parameter in trained.items():
            if not parameter.is_floating_point():
                raise UnsupportedError(
                    f"parameter {name!r} is {parameter.dtype}; DiLoCo averages real floating-point "
                    "parameters (a complex one can be stored as two real ones)"
                )
        averaged = {name: b for name, b in buffers.items() if b.is_floating_point()}
        self._frozen = {name: p for name, p in parameters.items() if not p.requires_grad}
        self._copied = {name: b for name, b in buffers.items() if not b.is_floating_point()}
        self.copied = torch.zeros(sum(b.nbytes for b in self._copied.values()), dtype=torch.uint8)
        self.blocks = [
            Block(dtype, mine, theirs)
            for dtype in (torch.float32, torch.float64)
            for mine, theirs in [(_with_outer(trained, dtype), _with_outer(averaged, dtype))]
            if mine or theirs
        ]
        self.take_from_module()

    def take_from_module(self) -> None:
        """Set Θ and the buffers to the module's values and the momentum to zero."""
        with torch.no_grad():
            for block in self.blocks:
                for name, tensor in block.items():
                    block.theta_of[name].copy_(tensor)
                block.momentum.zero_()
        self.copied.copy_(self.pack_copied())

    def keep_residuals(self) -> None:
        """Have a residual for each block's parameters, for codecs with error feedback."""
        for block in self.blocks:
            block.residual = torch.zeros(block.momentum.numel(), dtype=torch.float32)

    def residuals(self) -> list[Tensor]:
        """Copies of what this peer's encodings have lost, by block; none without error feedback."""
        return [block.residual.clone() for block in self.blocks if block.residual is not None]

    def set_residuals(self, residuals: list[Tensor]) -> None:
        """Go back to what ``residuals`` returned."""
        mine = [block.residual for block in self.blocks if block.residual is not None]
        for residual, earlier in zip(mine, residuals, strict=True):
            residual.copy_(earlier)

    def copy_to_module(self) -> None:
        """Set the module's parameters and buffers to Θ."""
        with torch.no_grad():
            for block in self.blocks:
                for name, tensor in block.items():
                    tensor.copy_(block.theta_of[name])
            offset = 0
            for tensor in self._copied.values():
                piece = self.copied[offset : offset + tensor.nbytes]
                # clone: a view with a wider dtype needs an aligned start.
                tensor.copy_(piece.clone().view(tensor.dtype).view(tensor.shape))
                offset += tensor.nbytes

    def compute_delta(self) -> None:
        """Write Δ = Θ − θ into every block's ``delta``.

        Θ is rounded to the module's dtype first: that is where the inner steps started from, and
        what rounding took away must not come back as a gradient. Equal values give 0 also where
        both are infinite, so constant buffers stay as they are.
        """
        with torch.no_grad():
            for block in self.blocks:
                for name, tensor in block.items():
                    delta, start = block.delta_of[name], block.theta_of[name]
                    delta.copy_(tensor.detach())
                    if tensor.dtype != start.dtype:
                        start = start.to(tensor.dtype).to(start.dtype)
                    if name in block.buffers:
                        delta.copy_(torch.where(delta == start, 0, start - delta))
                    else:
                        torch.sub(start, delta, out=delta)

    def pack_copied(self) -> Tensor:
        """The module's buffers that are copied, not averaged, as bytes in a new tensor."""
        pieces = [b.detach().cpu().reshape(-1).view(torch.uint8) for b in self._copied.values()]
        return torch.cat(pieces) if pieces else torch.zeros(0, dtype=torch.uint8)

    def apply(self, *, copied: Tensor, lr: float, beta: float, nesterov: bool) -> None:
        """Take the outer step with the Δ that is in the blocks, and keep ``copied``."""
        with torch.no_grad():
            for block in self.blocks:
                trained = block.momentum.numel()
                outer_step(
                    block.theta[:trained],
                    block.momentum,
                    block.delta[:trained],
                    lr=lr,
                    beta=beta,
                    nesterov=nesterov,
                )
                block.theta[trained:].sub_(block.delta[trained:])
            self.copied.copy_(copied)

    def shared(self) -> Iterator[Tensor]:
        """Everything a newcomer needs, in the same order on all peers."""
        for block in self.blocks:
            yield block.theta
            yield block.momentum
        yield self.copied
        yield from self._frozen.values()

    def digest(self, rounds: int) -> str:
        """Fingerprint of the round number, Θ, v and the buffers: 32 hexadecimal digits (XXH3)."""
        state = xxhash.xxh3_128(rounds.to_bytes(8, "little"))
        for block in self.blocks:
            state.update(block.theta.numpy().data)
            state.update(block.momentum.numpy().data)
        state.update(self.copied.numpy().data)
        return state.hexdigest()

    def layout(self) -> int:
        """Fingerprint of names, shapes and dtypes: 62 bits, equal on peers with equal models."""
        described = [
            (name, tuple(tensor.shape), str(tensor.dtype), name in self._trained)
            for name, tensor in [*self._parameters.items(), *self._copied.items()]
        ]
        described += [
            (name, tuple(tensor.shape), str(tensor.dtype), False)
            for block in self.blocks
            for name, tensor in block.buffers.items()
        ]
        return int.from_bytes(hashlib.sha256(repr(described).encode()).digest()[:8], "little") >> 2

    def check_module(self) -> None:
        """Raise if the module's parameters are no longer those the state was made for.

        Raises:
            InvalidArgument: a parameter was replaced, added, removed, frozen or unfrozen.
        """
        now = dict(self._module.named_parameters())
        for name in now.keys() | self._parameters.keys():
            if now.get(name) is not self._parameters.get(name):
                raise InvalidArgument(
                    f"parameter {name!r} was added, removed or replaced after DiLoCo was made; "
                    "change the module first (load_state_dict without assign=True keeps its "
                    "parameters), then make DiLoCo"
                )
            if now[name].requires_grad != (name in self._trained):
                raise InvalidArgument(
                    f"requires_grad of parameter {name!r} changed after DiLoCo was made; "
                    "freeze and unfreeze before"
                )

    def state_dict(self) -> dict[str, Any]:
        """Copies of Θ and v by the names of the module's parameters, and the buffers."""
        theta: dict[str, Tensor] = {}
        momentum: dict[str, Tensor] = {}
        for block in self.blocks:
            theta |= {name: view.clone() for name, view in block.theta_of.items()}
            momentum |= {name: view.clone() for name, view in block.momentum_of.items()}
        state = {"theta": theta, "momentum": momentum, "copied": self.copied.clone()}
        residuals = self.residuals()
        return {**state, "residuals": residuals} if residuals else state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` returned; nothing changes if it does not fit.

        Raises:
            InvalidArgument: a tensor is missing, unknown or has another shape.
        """
        copies: list[tuple[Tensor, Tensor]] = [(self.copied, state["copied"])]
        for part in ("theta", "momentum"):
            mine: dict[str, Tensor] = {}
            for block in self.blocks:
                mine |= block.theta_of if part == "theta" else block.momentum_of
            loaded: Mapping[str, Tensor] = state[part]
            for name in mine.keys() ^ loaded.keys():
                where = "the module" if name in loaded else "the saved state"
                raise InvalidArgument(f"{name!r} of {part} is not in {where}")
            copies += [(view, loaded[name]) for name, view in mine.items()]
        mine_owed = [block.residual for block in self.blocks if block.residual is not None]
        owed = state.get("residuals", [torch.zeros_like(residual) for residual in mine_owed])
        if len(owed) != len(mine_owed):
            raise InvalidArgument("the saved state has residuals, and this codec keeps none")
        copies += list(zip(mine_owed, owed, strict=True))
        for view, tensor in copies:
            if view.shape != tensor.shape:
                raise InvalidArgument(
                    f"saved tensor of shape {tuple(tensor.shape)} does not fit "
                    f"one of shape {tuple(view.shape)}"
                )
        for view, tensor in copies:
            view.copy_(tensor)


def _with_outer(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Those of ``tensors`` whose outer copy has ``dtype``: float64 stays, the rest is float32."""
    return {
        name: tensor
        for name, tensor in tensors.items()
        if (tensor.dtype == torch.float64) == (dtype == torch.float64)
    }
