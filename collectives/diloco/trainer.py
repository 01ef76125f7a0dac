"""``DiLoCo``: when peers talk to each other during training, and what they say.

The inner loop belongs to the user. Every ``inner_steps`` steps a round ends it: average the
pseudo-gradients, take the outer step, then let ``group.sync()`` admit newcomers and give them the
outer state. The sync comes last, so that a newcomer starts its inner steps together with everybody
else. The arithmetic is in ``outer.py``, the memory in ``state.py``.
"""

from __future__ import annotations

import hashlib
import logging
import time
from typing import TYPE_CHECKING, Any

import torch

from collectives.codec import Codec
from collectives.diloco.round import Round
from collectives.diloco.state import OuterState
from collectives.errors import InvalidArgument, PeerLost

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

    from collectives.diloco.state import Block
    from collectives.group import Group
    from collectives.membership.view import Peer
    from collectives.work import Result

_log = logging.getLogger(__name__)

# Who gives the state is agreed by one maximum over `round * _RANKS + (_RANKS - 1 - rank)`: the
# highest round wins, then the lowest rank.
_RANKS = 1 << 20
_NO_STATE = -1


class DiLoCo:
    """Train ``module`` on every peer by itself, and agree every ``inner_steps`` steps.

    With Θ the outer parameters and θ_m those of peer m after its inner steps, a round averages the
    pseudo-gradients Δ_m = Θ − θ_m and applies Nesterov momentum to the mean: v ← βv + Δ,
    Θ ← Θ − η(Δ + βv). Θ and v are bit-identical on all peers after every round; the state of the
    inner optimizer stays local (Douillard et al. 2023, algorithm 1)::

        import collectives
        from collectives.diloco import DiLoCo

        with collectives.join(min_size=2) as group:
            diloco = DiLoCo(model, optimizer, group, inner_steps=100)
            for batch in batches:
                optimizer.zero_grad()
                model(batch).loss.backward()
                optimizer.step()
                diloco.step()

    Making it is collective: the members give their module's values to those who have none yet (in
    a new run, rank 0 to all), so peers may initialise their modules as they like. Newcomers make it
    too, right after ``join``; the others meet them at the end of a round. Every peer's model and
    settings must be the same.

    A member that dies costs the others no round: the average is that of the peers that are left.
    When a round raises all the same (``TooFewPeers``, or ``PeerLost`` because the peer that gave
    its state is gone), Θ, v and the module are as before it; ``recover()`` syncs with those who
    are left and takes the round again.

    Args:
        module: any module, on any device; ``OuterState`` says what happens to which tensor.
        inner_optimizer: steps the module's parameters; its own state is not communicated.
        group: the peers to train with.
        inner_steps: H, inner steps between rounds.
        outer_lr: η. Not portable between problems; published configurations use 0.3 to 0.9.
        outer_momentum: β. Short runs (some tens of rounds) want less than the usual 0.9.
        nesterov: whether the outer step looks ahead along the momentum.
        codec: what pseudo-gradients of parameters travel in, as in ``Group.all_reduce``, for
            example ``"int8"`` or ``"e3m0"``. With ``error_feedback=True`` what this peer's encoding
            has lost is added in the next round; it is this peer's own, and in ``state_dict``. None:
            as they are.

    Attributes:
        last_round: record of the last round that this peer took part in, None before the first.

    Raises:
        InvalidArgument: a setting is out of its range, the optimizer steps other parameters than
            the module's, or the peers' models or settings differ.
        UnsupportedError: a trained parameter is no real floating-point tensor.
        CollectiveError: sharing the state failed, as for every collective.
    """

    def __init__(
        self,
        module: nn.Module,
        inner_optimizer: torch.optim.Optimizer,
        group: Group,
        *,
        inner_steps: int = 500,
        outer_lr: float = 0.7,
        outer_momentum: float = 0.9,
        nesterov: bool = True,
        codec: str | Codec | None = None,
    ) -> None:
        if inner_steps < 1:
            raise InvalidArgument(f"inner_steps is {inner_steps}; it counts steps, 1 or more")
        if not outer_lr >= 0:
            raise InvalidArgument(f"outer_lr is {outer_lr}; it must be 0 or more")
        if not 0 <= outer_momentum < 1:
            raise InvalidArgument(f"outer_momentum is {outer_momentum}; it must be in [0, 1)")
        mine = {id(parameter) for parameter in module.parameters()}
        stepped = [p for entry in inner_optimizer.param_groups for p in entry["params"]]
        if not any(id(parameter) in mine for parameter in stepped):
            raise InvalidArgument(
                "inner_optimizer steps none of the module's parameters; make it from "
                "module.parameters(), after moving or wrapping the module"
            )
        self.group = group
        self.inner_steps = inner_steps
        self.last_round: Round | None = None
        self._lr = outer_lr
        self._beta = outer_momentum
        self._nesterov = nesterov
        self._codec = None if codec is None else Codec.of(codec)
        self._state = OuterState(module)
        if self._codec is not None and self._codec.error_feedback:
            self._state.keep_residuals()
        self._round = _NO_STATE
        self._inner_step = 0
        # A share that raised is owed: whoever waits for the state still waits.
        self._share_owed = True
        self.share()

    @property
    def round(self) -> int:
        """Rounds the run has done; newcomers start with that of the run."""
        return self._round

    @property
    def inner_step(self) -> int:
        """Inner steps since the last round."""
        return self._inner_step

    def step(self) -> Round | None:
        """Call after every ``optimizer.step()``; each ``inner_steps``-th call ends a round.

        Returns:
            The round's record if one ended, else None.

        Raises:
            CollectiveError: the round failed; nothing of it happened. Call ``recover()``.
        """
        self._inner_step += 1
        if self._inner_step < self.inner_steps:
            return None
        return self.outer_step()

    def outer_step(self) -> Round:
        """End the round now: average, take the outer step, sync. Collective.

        ``step()`` calls it; call it yourself only to end a round early, on all peers.
        """
        self._average_and_apply()
        assert self.last_round is not None
        record = self.last_round
        self.sync()
        return record

    def recover(self) -> Round | None:
        """Go on after a round raised: sync with those who are left, then take the round again.

        Returns:
            The round's record; None if the round had been done, here or by a peer whose state was
            taken over, and only the sync was missing.
        """
        self.sync()
        if self._inner_step < self.inner_steps:
            return None
        return self.outer_step()

    def sync(self) -> None:
        """Admit newcomers and drop who left; whoever lacks the outer state gets it. Collective."""
        outcome = self.group.sync()
        if not (self._share_owed or outcome.joined or outcome.left):
            return
        before = self._round
        if self._share() and self._round == before:
            _log.warning(
                "[%s/%d @%d] the outer state of round %d differed from the group's: replaced",
                self.group.view.group,
                self.group.rank,
                self.group.view.number,
                self._round,
            )

    def share(self) -> None:
        """Make the outer state that of the peer with the most rounds (then lowest rank).

        Collective. Peers that are behind take over Θ, v, the buffers, the frozen parameters and
        the number of rounds, and copy Θ into their module; inner steps they had not yet
        contributed are dropped. Called when DiLoCo is made and when the members change. Call it
        on all peers after ``load_state_dict`` on one.

        Raises:
            InvalidArgument: the peers' models or settings differ; raised on all of them.
        """
        self._share()

    def _share(self) -> bool:
        """``share``, returning whether this peer's state changed; if it raises, nothing did."""
        self._share_owed = True
        source = self._agree_on_source()
        rounds = torch.tensor([max(self._round, 0)], dtype=torch.int64)
        self._copy_from(source, rounds)
        before = (self._round, self.digest())
        received: list[tuple[Tensor, Tensor]] = []
        for mine in self._state.shared():
            theirs = mine.detach().cpu().clone(memory_format=torch.contiguous_format)
            self._copy_from(source, theirs)
            received.append((mine, theirs))
        with torch.no_grad():
            for mine, theirs in received:
                mine.copy_(theirs)
        self._round = int(rounds)
        self._share_owed = False
        if before == (self._round, self.digest()):
            return False
        self._state.copy_to_module()
        self._inner_step = 0
        return True

    def digest(self) -> str:
        """Fingerprint of Θ, v, the buffers and the round number; equal on all members."""
        return self._state.digest(max(self._round, 0))

    def state_dict(self) -> dict[str, Any]:
        """Θ, v, the shared buffers, the counters and, with error feedback, what this peer owes.

        Tensors on the CPU, and numbers.

        Save it with the module's and the inner optimizer's own state.
        """
        return {
            "round": self._round,
            "inner_step": self._inner_step,
            **self._state.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` returned; the module is not touched, load it too.

        Load the same on all peers, or load it on one and call ``share()`` on all.

        Raises:
            InvalidArgument: the state is of another model; nothing was changed.
        """
        missing = {"round", "inner_step", "theta", "momentum", "copied"} - state.keys()
        if missing:
            raise InvalidArgument(f"not a state of DiLoCo: {sorted(missing)} missing")
        self._state.load_state_dict(state)
        self._round = state["round"]
        self._inner_step = state["inner_step"]

    def _average_and_apply(self) -> None:
        """One round without the sync: everything that may fail comes before anything changes."""
        started = time.perf_counter()
        self._state.check_module()
        owed = self._state.residuals()
        try:
            average, wire_bytes = self._average()
            copied = self._state.pack_copied()
            if copied.numel():
                wire_bytes += self.group.broadcast(copied, root=0).wire_bytes
        except BaseException:
            self._state.set_residuals(owed)
            raise
        self._state.apply(copied=copied, lr=self._lr, beta=self._beta, nesterov=self._nesterov)
        self._state.copy_to_module()
        self._round += 1
        self._inner_step = 0
        self.last_round = Round(
            number=self._round,
            view=average.view,
            size=len(average.contributors),
            wire_bytes=wire_bytes,
            seconds=time.perf_counter() - started,
            digest=self.digest(),
        )

    def _average(self) -> tuple[Result, int]:
        """Average the pseudo-gradients of those who are there at its end; the bytes sent for it.

        A member that dies is left out by every reduction that it did not finish. All see in which
        ones it is, and if it is in some only, they all begin again.
        """
        wire_bytes = 0
        owed = self._state.residuals()
        while True:
            self._state.compute_delta()
            results = [result for block in self._state.blocks for result in self._reduce(block)]
            wire_bytes += sum(result.wire_bytes for result in results)
            if len({result.contributors for result in results}) == 1:
                return results[0], wire_bytes
            self._state.set_residuals(owed)

    def _reduce(self, block: Block) -> Iterator[Result]:
        """Average a block; where a codec is used, buffers are not among what it may change."""
        if self._codec is None:
            yield self.group.all_reduce(block.delta, op="avg")
            return
        trained, others = block.parts_of_delta()
        if trained.numel():
            yield self.group.all_reduce(
                trained, op="avg", codec=self._codec, residual=block.residual
            )
        if others.numel():
            yield self.group.all_reduce(others, op="avg")

    def _copy_from(self, source: Peer, tensor: Tensor) -> None:
        """Broadcast; the ranks may have changed in the call before."""
        root = self.group.view.rank_of(source.id)
        if root is None:
            raise PeerLost(
                f"{source.name!r} is gone, in the middle of giving its outer state; call recover()",
                peer=source.name,
            )
        self.group.broadcast(tensor, root=root)

    def _agree_on_source(self) -> Peer:
        """Whose state counts; raises on all peers alike if models or settings differ."""
        layout = self._state.layout()
        mine = self.inner_steps, self._lr, self._beta, self._nesterov, self._codec
        described = repr(mine).encode()
        settings = int.from_bytes(hashlib.sha256(described).digest()[:8], "little") >> 2
        # A member may be lost in the call, and the ranks of the others change with that.
        peers, rank = self.group.peers, self.group.rank
        claim = self._round * _RANKS + _RANKS - 1 - rank
        # A maximum of x and of -x gives the range over all peers.
        word = torch.tensor([claim, layout, -layout, settings, -settings], dtype=torch.int64)
        self.group.all_reduce(word, op="max")
        best, layout_high, layout_low, settings_high, settings_low = (int(x) for x in word)
        if layout_high != -layout_low:
            raise InvalidArgument(
                "the peers' models differ in the name, shape, dtype or requires_grad of a "
                f"parameter or buffer; this peer is {self.group.name!r}"
            )
        if settings_high != -settings_low:
            raise InvalidArgument(
                "the peers' settings differ; inner_steps, outer_lr, outer_momentum, nesterov and "
                f"codec must be equal, and this peer, {self.group.name!r}, has "
                f"{self.inner_steps}, {self._lr}, {self._beta}, {self._nesterov} and {self._codec}"
            )
        return peers[_RANKS - 1 - best % _RANKS]
