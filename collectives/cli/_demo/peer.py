"""One peer of the demo, a process of its own: ``python -m collectives.cli._demo.peer``.

Reads ``Settings`` from standard input, trains, and reports on standard output. It reads like any
training script with DiLoCo, apart from the reporting.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, TextIO

from collectives.cli._demo.messages import (
    Dying,
    Evaluated,
    Failed,
    Finished,
    Joined,
    Message,
    Progress,
    RoundEnd,
    Settings,
    decode,
    encode,
)

if TYPE_CHECKING:
    from collectives.diloco import Round

WARM_UP_STEPS = 30
REPORT_EVERY = 5
# Of the whole validation text, so that a look at it each round costs little.
VALIDATION_SHARE = 4
PROMPT = "The "


def main() -> int:
    """Run the peer; returns the exit status."""
    # Messages go where standard output went; whatever else prints goes to the log.
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    importlib.import_module("torch")  # seconds; a newcomer spends them before it is asked in
    settings = decode(sys.stdin.readline())
    threading.Thread(target=_leave_with_the_parent, daemon=True).start()
    try:
        train(settings, channel)
    except Exception as error:
        traceback.print_exc()
        _send(channel, Failed(f"{type(error).__name__}: {error}"))
        return 1
    return 0


def train(settings: Settings, channel: TextIO) -> None:
    """Join, train for ``settings.rounds`` rounds, report, leave."""
    import torch

    import collectives
    from collectives.diloco import DiLoCo
    from collectives.toy import model as models
    from collectives.toy import text as texts

    torch.set_num_threads(1)  # peers share the machine's cores
    shape = models.Shape(context=settings.context)
    text = texts.read(settings.text)
    with collectives.join(
        settings.address,
        group="demo",
        name=settings.name,
        min_size=settings.peers - (settings.fault is not None),  # one may go
        timeout=120,
    ) as group:
        admitted = time.monotonic()
        while group.size < settings.peers:  # the first view forms without one
            group.sync()
        # By rank, not by name: who gets which rank is the coordinator's choice, and the same
        # seed must give the same run.
        shard = group.rank if settings.shard is None else settings.shard
        seed = settings.seed * 1000 + shard
        mine, last = texts.split(text, shard, settings.peers, shape.context)
        validation = texts.as_tensor(text[last])
        batches = texts.batches(texts.as_tensor(text[mine]), settings.batch, shape.context, seed)
        torch.manual_seed(seed)
        model = models.ByteTransformer(shape).to(settings.device)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings.inner_lr, betas=(0.9, 0.95), weight_decay=0.1
        )
        diloco = DiLoCo(
            model,
            optimizer,
            group,
            inner_steps=settings.inner_steps,
            outer_lr=settings.outer_lr,
            outer_momentum=settings.outer_momentum,
            codec=settings.codec,
        )
        _send(
            channel,
            Joined(
                rank=group.rank,
                view=group.view.number,
                size=group.size,
                parameters=sum(p.numel() for p in model.parameters()),
                shard=(mine.start, mine.stop),
                round=diloco.round,
                seconds=time.monotonic() - admitted,
            ),
        )
        first = diloco.round * settings.inner_steps
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: _rate(step, first, settings.rounds * settings.inner_steps)
        )
        fault = settings.fault if settings.shard is None else None
        dies = fault.round if fault is not None and group.rank == fault.rank else None

        def evaluate(share: int) -> tuple[float, int]:
            available = (len(validation) - 1) // shape.context
            inputs, targets = texts.windows(
                validation, shape.context, max(available // share, group.size)
            )
            part = slice(group.rank, None, group.size)
            inputs, targets = inputs[part].to(settings.device), targets[part].to(settings.device)
            return models.evaluate(model, inputs, targets), len(inputs)

        if diloco.round == 0:
            _send(channel, Evaluated("start", *evaluate(1)))
        losses: list[float] = []
        while diloco.round < settings.rounds:
            inputs, targets = (part.to(settings.device) for part in next(batches))
            loss = models.loss_of(model, inputs, targets)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            if len(losses) % REPORT_EVERY == 0:
                step = diloco.round * settings.inner_steps + len(losses)
                _send(channel, Progress(step, sum(losses[-REPORT_EVERY:]) / REPORT_EVERY))
            if fault and dies == diloco.round + 1 and len(losses) == settings.inner_steps:
                _send(channel, Dying(dies))
                group._fault_at(fault.phase, 0)  # the next operation is the round's all-reduce
            done = diloco.step()
            if done is not None:
                ended = time.monotonic()
                if fault and done.number == fault.joins:
                    # It comes in this round and no other, so that a seed gives the same run.
                    while group.size < settings.peers:
                        time.sleep(0.02)
                        diloco.sync()
                _send(channel, _round_end(done, losses, evaluate(VALIDATION_SHARE), ended))
                losses.clear()
        _send(channel, Evaluated("end", *evaluate(1)))
        leader = group.rank == 0
    sample = ""
    if leader:
        sample = models.generate(model, PROMPT, settings.sample_bytes, settings.seed)
    _send(channel, Finished(sample))


def _round_end(
    done: Round, losses: list[float], validation: tuple[float, int], ended: float
) -> RoundEnd:
    return RoundEnd(
        number=done.number,
        view=done.view,
        size=done.size,
        loss=sum(losses) / len(losses),
        wire_bytes=done.wire_bytes,
        seconds=done.seconds,
        digest=done.digest,
        validation=validation[0],
        validation_windows=validation[1],
        ended=ended,
    )


def _rate(step: int, first: int, steps: int) -> float:
    """Share of the highest learning rate: linear up, then half a cosine down to a tenth.

    A newcomer warms up, too, and follows the run's cosine from its ``first`` step.
    """
    cosine = 0.5 * (1 + math.cos(math.pi * min((first + step) / steps, 1.0)))
    return min((step + 1) / WARM_UP_STEPS, 1.0) * (0.1 + 0.9 * cosine)


def _send(channel: TextIO, message: Message) -> None:
    channel.write(encode(message))


def _leave_with_the_parent() -> None:
    """End this process when the parent is gone, however it went."""
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
