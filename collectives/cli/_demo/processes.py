"""The demo's peer processes: started, listened to, and never left behind."""

from __future__ import annotations

import contextlib
import logging
import pathlib
import queue
import subprocess
import sys
import tempfile
import threading
import time
from typing import TYPE_CHECKING

from collectives.cli._demo.messages import Message, Settings, decode, encode

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

_log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "collectives.cli._demo.peer")

# Seconds between asking a peer to end and ending it.
_GRACE = 2.0
_LOG_LINES = 12


class PeerProcess:
    """A peer and what it wrote to standard error."""

    def __init__(self, name: str, folder: pathlib.Path, command: Sequence[str]) -> None:
        self.name = name
        self.ended = 0.0
        """When its end was seen, by CLOCK_MONOTONIC."""
        self._log = folder / f"{name}.log"
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C reaches the parent alone, which then ends the peers.
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def tell(self, settings: Settings) -> None:
        """Let it begin."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once: its exit status tells
            self.process.stdin.write(encode(settings))
            self.process.stdin.flush()

    def last_words(self) -> str:
        """The last lines of the peer's log."""
        lines = self._log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-_LOG_LINES:])


class Peers:
    """The peers of one demo, as a context manager: leaving it ends every one of them.

    Args:
        command: what a peer is, other than in tests the demo's.
    """

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._command = command
        self._folder = tempfile.TemporaryDirectory(prefix="collectives-demo-")
        self._peers: dict[str, PeerProcess] = {}
        self._readers: list[threading.Thread] = []
        self._messages: queue.Queue[tuple[str, Message | None]] = queue.Queue()

    def __enter__(self) -> Peers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for peer in self._peers.values():
            if peer.process.poll() is None:
                peer.process.terminate()
        deadline = time.monotonic() + _GRACE
        for peer in self._peers.values():
            try:
                peer.process.wait(timeout=max(deadline - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                peer.process.kill()
                peer.process.wait()
        for reader in self._readers:
            reader.join(timeout=_GRACE)
        for peer in self._peers.values():
            for pipe in (peer.process.stdin, peer.process.stdout):
                assert pipe is not None
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._folder.cleanup()

    def start(self, settings: Settings) -> None:
        """Start one more peer."""
        self.ready(settings.name).tell(settings)

    def ready(self, name: str) -> PeerProcess:
        """Start one more peer that begins when it is told to."""
        peer = PeerProcess(name, pathlib.Path(self._folder.name), self._command)
        self._peers[name] = peer
        reader = threading.Thread(target=self._read, args=(peer,), daemon=True)
        self._readers.append(reader)
        reader.start()
        return peer

    def __getitem__(self, name: str) -> PeerProcess:
        return self._peers[name]

    def next_message(self, timeout: float) -> tuple[str, Message | None] | None:
        """The oldest message and who sent it; None in its place when that peer has ended.

        Returns None when nothing came within ``timeout`` seconds.
        """
        try:
            return self._messages.get(timeout=timeout)
        except queue.Empty:
            return None

    def _read(self, peer: PeerProcess) -> None:
        assert peer.process.stdout is not None
        for line in peer.process.stdout:
            try:
                self._messages.put((peer.name, decode(line)))
            except ValueError as error:
                _log.warning("%s: %s", peer.name, error)
        peer.process.wait()
        peer.ended = time.monotonic()
        self._messages.put((peer.name, None))
