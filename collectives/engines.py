"""The engines of this process, and which groups share one.

The groups of a run that talk by the same options have one engine, and so one port, one progress
thread, one connection to each peer, one UUID: whoever is lost is lost in all of them at once. A
group that was left is never joined again under the same UUID, so whoever comes back to it has
another engine.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Hashable

from collectives._native.engine import Engine
from collectives._native.fetch import Server
from collectives.errors import CollectiveError
from collectives.options import Options

_lock = threading.Lock()  # guards the list, and who uses the engines in it
_engines: list[SharedEngine] = []


class SharedEngine:
    """An engine and who uses it; made by ``take``, given back by ``release``.

    Attributes:
        engine: closed with the last group that uses it.
    """

    def __init__(self, key: object, options: Options) -> None:
        self.engine = Engine(options, uuid.uuid4())
        self._key = key
        self._users = 0
        self._groups: set[str] = set()  # that it is, or was, a member of
        self._server: Server | None = None

    def server(self) -> Server:
        """What gets the requests of other peers; the first call starts it."""
        with _lock:
            if self._server is None:
                self._server = Server(self.engine)
            return self._server

    def take(self, group: str) -> None:
        """One more group uses it.

        Raises:
            CollectiveError: all that used it were left.
        """
        with _lock:
            if self._users == 0:
                raise CollectiveError("this group was left; call collectives.join() again")
            self._use(group)

    def _use(self, group: str) -> None:
        self._users += 1
        self._groups.add(group)

    def release(self) -> None:
        """A group that used it is closed."""
        with _lock:
            self._users -= 1
            if self._users > 0:
                return
            _engines.remove(self)
        # Whoever joins meanwhile has an engine of its own.
        if self._server is not None:
            self._server.close()
        self.engine.close()


def take(run: Hashable, options: Options, group: str) -> SharedEngine:
    """The engine for a group of a run: one of that run's, or a new one.

    Args:
        run: what groups that may share an engine have in common.
        options: likewise.
        group: its name, of which there is no other in the run.
    """
    key = (run, options, options.chosen_transport)
    with _lock:
        for shared in _engines:
            if shared._key == key and group not in shared._groups:
                break
        else:
            shared = SharedEngine(key, options)
            _engines.append(shared)
        shared._use(group)
        return shared


def _forget() -> None:
    # A forked child has nothing of its parent's.
    global _lock
    _lock = threading.Lock()
    _engines.clear()


os.register_at_fork(after_in_child=_forget)
