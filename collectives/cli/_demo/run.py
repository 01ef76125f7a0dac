"""The demo's parent: an embedded coordinator, the peers, and the loop that listens to them."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Protocol

import collectives
from collectives.cli._demo.messages import Failed, Settings
from collectives.cli._demo.processes import COMMAND, PeerProcess, Peers
from collectives.cli._demo.report import Report
from collectives.errors import CollectiveError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from collectives.cli._demo.messages import Message

# A peer sends something every few seconds; silence of all of them means that the run is stuck.
SILENCE = 180.0
AFTERMATH = 2.0


class DemoError(CollectiveError):
    """A peer ended before its time; the message has its last log lines."""


class Screen(Protocol):
    """Whoever shows the run while it goes on."""

    def update(self, peer: str, message: Message) -> None:
        """Called for every message, after the report has taken it in."""

    def tick(self) -> None:
        """Called several times a second."""


def run(
    settings: Settings, report: Report, screen: Screen, command: Sequence[str] = COMMAND
) -> None:
    """Train as ``settings`` say (address and name are filled in here) and fill ``report``.

    Raises:
        DemoError: a peer failed or the run got stuck; no process is left behind.
    """
    names = [f"peer-{number}" for number in range(settings.peers)]
    with collectives.Coordinator("127.0.0.1:0") as coordinator, Peers(command) as peers:
        for name in names:
            peers.start(dataclasses.replace(settings, address=coordinator.address, name=name))
        fault = settings.fault
        newcomer: PeerProcess | None = None
        ended: dict[str, int] = {}
        errors: dict[str, str] = {}
        deadline = time.monotonic() + SILENCE
        while len(ended) < len(names) and time.monotonic() < deadline:
            screen.tick()
            received = peers.next_message(timeout=0.1)
            if received is None:
                continue
            name, message = received
            if message is None:
                status = peers[name].process.returncode
                meant = report.add_end(name, status, peers[name].ended)
                ended[name] = 0 if meant else status
                if meant and status != 0:  # a fresh process for the one that died
                    names.append(f"peer-{settings.peers}")
                    newcomer = peers.ready(names[-1])
            elif isinstance(message, Failed):
                errors[name] = message.error
            else:
                report.add(name, message)
                screen.update(name, message)
            if fault and newcomer and len(report.rounds) >= fault.joins - 1:
                newcomer.tell(
                    dataclasses.replace(
                        settings,
                        address=coordinator.address,
                        name=newcomer.name,
                        shard=fault.rank,
                    )
                )
                newcomer = None
            # Once a peer has failed the others follow; wait for them, to find the first cause.
            if any(ended.values()):
                deadline = min(deadline, time.monotonic() + AFTERMATH)
            else:
                deadline = time.monotonic() + SILENCE
        if any(ended.values()):
            raise DemoError(_obituary(ended, errors, peers))
        if len(ended) < len(names):
            raise DemoError(f"no peer said anything for {SILENCE:.0f} s: the run is stuck")


def _obituary(ended: dict[str, int], errors: dict[str, str], peers: Peers) -> str:
    """Who failed and how; in full for the peer that is likeliest to be the cause."""

    def blame(name: str) -> tuple[bool, bool]:
        return ended[name] > 0, errors.get(name, "").startswith("PeerLost")

    failed = sorted((name for name, status in ended.items() if status), key=blame)
    told = [
        f"{name} "
        + (f"was killed by signal {-ended[name]}" if ended[name] < 0 else "failed")
        + (f": {errors[name]}" if name in errors else "")
        for name in failed
    ]
    words = "\n".join(f"    {line}" for line in peers[failed[0]].last_words().splitlines())
    return "\n".join([told[0], "  its last log lines:", words, *told[1:]])
