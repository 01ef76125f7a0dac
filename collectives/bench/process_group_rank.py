"""One rank of `process_group`: it carries out what the conductor asks, and checks all results.

Everything that is reduced is made of small integers, on which float32 is exact in any order, so the
checks are for equal bits: calls have the patterns of `pattern`, and the model's weights and inputs
are such that its gradients are integers too.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import signal
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import collectives.torch as ours
from collectives.bench.libraries import Array
from collectives.bench.pattern import Pattern, poison
from collectives.bench.process_group import (
    OPERATIONS,
    OURS,
    Answer,
    Bucket,
    Calls,
    Command,
    Config,
    Operation,
    Steps,
)

LAYERS = 6
BATCH = 8
_clock = time.monotonic_ns


def main(pipe: Connection, config: Config, rank: int, store: str) -> None:
    """Carry out commands until the conductor is content or gone; what fails is told to it."""
    # The terminal sends Ctrl-C to all processes; the conductor ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Gloo prints to standard output, which is the conductor's table or JSON.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    try:
        bench = _Rank(config, rank, store)
        pipe.send(Answer([], [], 0, 0))
        while True:
            pipe.send(bench.carry_out(pipe.recv()))
    except EOFError:
        return
    except BaseException:
        with contextlib.suppress(OSError):
            pipe.send(traceback.format_exc())


class _Rank:
    """The process groups of a rank, its buffers and its models."""

    def __init__(self, config: Config, rank: int, store: str) -> None:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        torch.set_num_threads(1)
        self._config, self._rank = config, rank
        limit = timedelta(seconds=config.timeout)
        meeting = dist.FileStore(store, config.ranks)  # type: ignore[attr-defined]
        # Beside those that are measured, one that the ranks agree by.
        dist.init_process_group(
            "gloo", store=meeting, rank=rank, world_size=config.ranks, timeout=limit
        )
        chosen: Any = {} if config.transport == "auto" else {"transport": config.transport}
        options = ours.Options(bind=("127.0.0.1",), **chosen)
        self._groups: dict[str, Any] = {
            name: dist.new_group(
                backend=name, timeout=limit, pg_options=options if name == OURS else None
            )
            for name in config.backends
        }
        self._pattern = Pattern("float32", "sum", config.ranks)
        # Kept for the whole run: faulting in a fresh buffer would be what is measured.
        most = max(operation.bytes for operation in config.operations) // 4
        self._whole, self._block = np.empty(most, "<f4"), np.empty(most // config.ranks, "<f4")
        self._trainings: dict[str, _Training] = {}

    def carry_out(self, command: Command) -> Answer:
        """Carry out a command."""
        if isinstance(command, Calls):
            return self._calls(self._groups[command.backend], command.operation, command.calls)
        training = self._trainings.get(command.backend)
        if training is None:
            training = _Training(
                self._config, self._rank, command.backend, self._groups[command.backend]
            )
            self._trainings[command.backend] = training
        if isinstance(command, Steps):
            return training.steps(command.steps, sync=command.sync)
        return training.buckets(self._pattern, command.calls)

    def _calls(self, group: Any, operation: Operation, calls: int) -> Answer:
        answer = Answer([], [], 0, 0)
        collective = OPERATIONS[operation.name]
        if collective is None:
            _timed(lambda: dist.barrier(group), calls, answer)
            return answer
        whole = self._whole[: operation.bytes // 4]
        block = self._block[: len(whole) // self._config.ranks]
        if not collective.has_blocks:
            source = target = whole
        else:
            source, target = (whole, block) if collective.splits else (block, whole)
        call = _call(operation.name, group, source, target)
        checked = wrong = 0
        # In place each call finds the last one's result, so a chain ends before sums are inexact.
        longest = self._pattern.chain() if source is target else calls + 1
        inputs = collective.inputs(self._rank, self._config.ranks)
        outputs = collective.outputs(self._rank, self._config.ranks)
        while calls > 0:
            timed = min(calls, longest - 1)
            poison(target)
            for number, piece in zip(inputs, source.reshape(len(inputs), -1), strict=True):
                self._pattern.fill(piece, self._rank, number)
            if self._rank == 0:
                source[: self._config.plant_wrong] += 1
            dist.barrier(group)
            call()  # one to settle: the ranks come from somewhere else
            _timed(call, timed, answer)
            for part, piece in zip(outputs, target.reshape(len(outputs), -1), strict=True):
                checked += len(piece)
                made = timed + 1 if source is target else 1
                wrong += self._pattern.count_wrong(piece, part, made)
            calls -= timed
        return Answer(answer.started, answer.took, checked, wrong)


def _call(name: str, group: Any, source: Array, target: Array) -> Callable[[], object]:
    given, to = torch.from_numpy(source), torch.from_numpy(target)
    if name == "all_reduce":
        return lambda: dist.all_reduce(to, group=group)
    # New names since torch 2.13, where the old ones warn.
    newer = {
        "all_gather_into_tensor": "all_gather_single",
        "reduce_scatter_tensor": "reduce_scatter_single",
    }
    function = getattr(dist, newer[name], None) or getattr(dist, name)
    return lambda: function(to, given, group=group)


def _timed(call: Callable[[], object], calls: int, into: Answer) -> None:
    gc.disable()
    try:
        for _ in range(calls):
            started = _clock()
            call()
            into.took.append(_clock() - started)
            into.started.append(started)
    finally:
        gc.enable()


# ---- training ---------------------------------------------------------------------------------


def _divided(ranks: int, bucket: Any) -> torch.futures.Future[torch.Tensor]:
    """A communication hook that does what is left without communication."""
    future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    future.set_result(bucket.buffer().div_(ranks))
    return future


class _Training:
    """A model in DDP over one backend, and what its gradients have to be."""

    def __init__(self, config: Config, rank: int, backend: str, group: Any) -> None:
        self._config, self._rank, self._backend, self._group = config, rank, backend, group
        width = max(2, math.isqrt(config.parameters // LAYERS))
        self._model = model(width)
        self._ddp = DistributedDataParallel(
            self._model, process_group=group, gradient_as_bucket_view=True
        )
        # Different on every rank, so that gradients are, too.
        numbers = torch.Generator().manual_seed(rank)
        self._input = torch.randint(0, 4, (BATCH, width), generator=numbers).float()
        self._computed = 0  # when backward had computed the last gradient, ns
        first = next(self._model.parameters())
        first.register_post_accumulate_grad_hook(self._note)  # type: ignore[no-untyped-call]
        # All that DDP does, but that nothing is reduced.
        self._silent = DistributedDataParallel(
            model(width), process_group=group, gradient_as_bucket_view=True
        )
        # DDP looks at annotations, and takes none that are strings.
        self._silent.register_comm_hook(config.ranks, lambda ranks, bucket: _divided(ranks, bucket))
        with self._ddp.no_sync():
            self._step(self._ddp)
        self._own = self._gradients(self._ddp)
        # By the group that the ranks agree by, on integers.
        self._own = [gradient / config.ranks for gradient in self._own]
        self._mean = [gradient.clone() for gradient in self._own]
        for gradient in self._mean:
            dist.all_reduce(gradient)
            assert (
                bool((gradient == gradient.round()).all()) and float(gradient.abs().max()) < 2**24
            )
        if rank == 0:
            self._input[0, : config.plant_wrong] += 1
        self._buffers: list[Array] = []

    def _note(self, _: object) -> None:
        self._computed = _clock()

    def _gradients(self, ddp: DistributedDataParallel) -> list[Any]:
        found = [parameter.grad for parameter in ddp.parameters()]
        return [gradient.clone() for gradient in found if gradient is not None]

    def _step(self, ddp: DistributedDataParallel) -> None:
        # So much that what DDP has by dividing by the number of ranks is an integer.
        (ddp(self._input).sum() * self._config.ranks).backward()

    def steps(self, steps: int, *, sync: bool) -> Answer:
        """Take steps; the answer has the buckets of each if the backend tells of them."""
        answer = Answer([], [], 0, 0)
        checked = wrong = 0
        ddp = self._ddp if sync else self._silent
        for _ in range(steps):
            ddp.zero_grad(set_to_none=False)
            dist.barrier(self._group)
            _timed(lambda: self._step(ddp), 1, answer)
            if sync and self._backend == OURS:
                answer.buckets.append(self._timeline(answer.started[-1]))
            wanted = self._mean if sync else self._own
            for gradient, right in zip(self._gradients(ddp), wanted, strict=True):
                checked += gradient.numel()
                wrong += int((gradient != right).sum())
        return Answer(answer.started, answer.took, checked, wrong, answer.buckets)

    def _timeline(self, started: int) -> list[Bucket]:
        def after(when: float | None) -> float | None:
            return None if when is None else when - end

        end = self._computed / 1e9
        return [
            Bucket(one["bytes"], one["entered"] - end, after(one["first_byte"]), after(one["done"]))
            for one in ours.trace(self._group)
            if one["kind"] == "all_reduce" and one["entered"] >= started / 1e9
        ]

    def buckets(self, pattern: Pattern, calls: int) -> Answer:
        """Reduce buffers of the buckets' sizes as DDP does: all are issued, then waited for."""
        if not self._buffers:
            sizes = self._ddp.reducer._get_zeros_like_grad_buckets()
            self._buffers = [np.empty(bucket.buffer().numel(), "<f4") for bucket in sizes]
        tensors = [torch.from_numpy(buffer) for buffer in self._buffers]
        answer = Answer([], [], 0, 0)
        checked = wrong = 0

        def reduce() -> None:
            works = [dist.all_reduce(t, group=self._group, async_op=True) for t in tensors]
            for work in works:
                assert work is not None
                work.wait()

        for _ in range(calls):
            for buffer in self._buffers:
                pattern.fill(buffer, self._rank)
            if self._rank == 0:
                self._buffers[0][: self._config.plant_wrong] += 1
            dist.barrier(self._group)
            _timed(reduce, 1, answer)
            for buffer in self._buffers:
                checked += len(buffer)
                wrong += pattern.count_wrong(buffer)
        return Answer(answer.started, answer.took, checked, wrong)


def model(width: int) -> torch.nn.Sequential:
    """Return layers that are dense to the computer, and have two weights of 1 or -1 in each row.

    And at most two in each column: so activations and gradients are integers that double at most
    from layer to layer.
    """
    numbers = torch.Generator().manual_seed(1)
    layers: list[torch.nn.Module] = []
    for _ in range(LAYERS):
        layer = torch.nn.Linear(width, width, bias=False)
        with torch.no_grad():
            layer.weight.zero_()
            for _ in range(2):
                columns = torch.randperm(width, generator=numbers)
                signs = torch.randint(0, 2, (width,), generator=numbers) * 2.0 - 1
                layer.weight[torch.arange(width), columns] += signs
        layers += [layer, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers)
