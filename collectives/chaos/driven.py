"""A program of the package that is driven by lines of text: one command, one reply.

``native/driven`` is its other side. Here are its process and the calls that send a command and wait
for the reply; what the commands are is for ``shaper`` and ``wan`` to know.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from pathlib import Path
from typing import ClassVar, TypeVar

import collectives._native
from collectives.errors import CollectiveError, Timeout, UnsupportedError

_Program = TypeVar("_Program", bound="Driven")


class Driven:
    """The program's process; a context manager. All calls are safe from any thread.

    Args:
        seed: of all that is random in it.
        patience: seconds to wait for a reply, which takes microseconds.

    Attributes:
        PROGRAM: its file's name.
        NAME: what it is called in messages.
        REFUSAL: raised when it refuses a command, or is no more.

    Raises:
        UnsupportedError: the program is not installed.
    """

    PROGRAM: ClassVar[str]
    NAME: ClassVar[str]
    REFUSAL: ClassVar[type[CollectiveError]]

    def __init__(self, *, seed: int = 0, patience: float = 10.0) -> None:
        program: Path = Path(collectives._native.__file__).with_name(self.PROGRAM)
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [program, "--seed", str(seed)], stdin=theirs.fileno(), stdout=theirs.fileno()
                )
            except OSError as error:
                ours.close()
                raise UnsupportedError(
                    f"{self.NAME} cannot be started: {error}; reinstall collectives"
                ) from error
        self._socket = ours
        self._socket.settimeout(patience)
        self._lock = threading.Lock()
        self._received = b""

    def __enter__(self: _Program) -> _Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def close(self) -> None:
        """End the process; may be called again."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # heard although a forked child holds a copy
        self._socket.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def ask(self, command: str) -> str:
        """Send one command line, and return what follows ``ok`` in the reply.

        Raises:
            CollectiveError: ``REFUSAL``: it was refused, or the program is no more.
            Timeout: there was no reply; the program is of no use any more.
        """
        with self._lock:
            try:
                self._socket.sendall(command.encode() + b"\n")
                while b"\n" not in self._received:
                    got = self._socket.recv(1 << 16)
                    if not got:
                        raise ConnectionResetError("it closed its end")
                    self._received += got
            except TimeoutError:
                self._process.kill()  # a late reply would be taken for that of the next command
                raise Timeout(f"{self.NAME} did not answer {command!r}") from None
            except OSError as error:
                raise self.REFUSAL(f"{self.NAME} is gone: {error}") from error
            line, _, self._received = self._received.partition(b"\n")
        word, _, rest = line.decode().partition(" ")
        if word != "ok":
            raise self.REFUSAL(f"{self.NAME} refused {command!r}: {rest}")
        return rest
