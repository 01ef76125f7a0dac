"""Coordinators in processes of their own that die at exact steps, and can be started again.

with Ruler(nursery, step="verdict recorded", journal=path) as ruler:
    ...                 # a member dies
    ruler.fell()        # waits until the coordinator has died in that step
    ruler.again()
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from collectives.membership import ledger, messages
from collectives.membership.query import query_status
from collectives.membership.server import Coordinator
from crew import DEADLINE
from nursery import Nursery
from proxy import free_port

STEPS = {
    "first seal sent": "one member is sealed, and has reported",
    "verdict decided": "all have reported, nothing is on the disk",
    "verdict recorded": "on the disk, told to nobody",
    "first verdict sent": "one member has taken it",
}


class Falling(Coordinator):
    """A coordinator that dies in a step of the first round."""

    def __init__(self, step: str, say: Callable[[str], None], **how: Any) -> None:
        assert not step or step in STEPS, step
        self._step = step
        self._say = say
        self._told: bytes = b""  # the route of the member that was told, alone
        super().__init__(**how)

    def _fall(self, step: str) -> None:
        if step == self._step:
            self._say(step)
            os.kill(os.getpid(), signal.SIGKILL)

    async def _decide(self, socket: Any, event: ledger.Event) -> None:
        if self._told and isinstance(event, ledger.Received) and event.route == self._told:
            if isinstance(event.message, messages.Report):
                self._fall("first seal sent")
            if isinstance(event.message, messages.Alive):
                self._fall("first verdict sent")
        await super()._decide(socket, event)

    def _record(self, decision: ledger.Decision) -> None:
        judged = any(isinstance(send.message, messages.Verdict) for send in decision.actions)
        if judged:
            self._fall("verdict decided")
        super()._record(decision)
        if judged:
            self._fall("verdict recorded")

    async def _deliver(self, socket: Any, send: ledger.Send, packet: bytes) -> None:
        only = {"first seal sent": messages.Seal, "first verdict sent": messages.Verdict}
        kind = only.get(self._step)
        if kind is not None and isinstance(send.message, kind):
            self._told = self._told or send.route
            if send.route != self._told:
                return
        await super()._deliver(socket, send, packet)


def rule(connection: Any, step: str, how: dict[str, Any]) -> None:
    """In the process: coordinate until the connection ends."""
    how["timing"] = ledger.Timing(**how.pop("timing", {}))
    with Falling(step, connection.send, **how) as coordinator:
        connection.send(coordinator.address)
        try:
            connection.recv()
        except EOFError:
            return


class Ruler:
    """The coordinator of a run, in a process; a context manager.

    Args:
        nursery: forks it.
        address: where it listens; "": a free port.
        step: of ``STEPS``, in which it dies; "": it lives.
        how: arguments of ``Coordinator``; ``timing`` as a dict.
    """

    def __init__(self, nursery: Nursery, *, address: str = "", step: str = "", **how: Any) -> None:
        self.nursery = nursery
        self.address = address or f"127.0.0.1:{free_port()}"
        self._how = how
        self._step = step

    def __enter__(self) -> Ruler:
        self._start(self._step)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.signal(signal.SIGCONT)
        self.process.kill()

    def _start(self, step: str) -> None:
        how = {"bind": self.address, **self._how}
        self.process = self.nursery.child(rule, step, how)
        assert self._heard() == self.address

    def _heard(self) -> str:
        assert self.process.connection.poll(DEADLINE), "the coordinator says nothing"
        return self.process.connection.recv()

    def fell(self) -> None:
        """Wait until it has died in its step."""
        assert self._heard() == self._step
        self.process.wait(5)

    def kill(self) -> None:
        self.process.kill()

    def again(self, **how: Any) -> None:
        """Start it again at the same address."""
        self._how.update(how)
        self._start("")

    def signal(self, number: int) -> None:
        self.process.signal(number)

    def status(self) -> dict[str, Any]:
        return query_status(self.address, timeout=DEADLINE)
