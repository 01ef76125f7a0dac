"""What the core says of process groups when nobody waits for it: one thread that listens."""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import threading
from typing import Protocol

logger = logging.getLogger("collectives.torch")


class Listener(Protocol):
    """A process group, as far as this thread knows it."""

    @property
    def event_fd(self) -> int:
        """Readable while there is something to heed."""

    def heed(self) -> None:
        """Take it in."""


_lock = threading.Lock()  # guards what follows
_selector: selectors.DefaultSelector | None = None
_wake = -1  # an eventfd: somebody came or went


def listen(listener: Listener) -> None:
    """Have it heed what comes, from now on."""
    global _selector, _wake
    with _lock:
        if _selector is None:
            _selector = selectors.DefaultSelector()
            _wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            _selector.register(_wake, selectors.EVENT_READ)
            thread = threading.Thread(
                target=_run, args=(_selector, _wake), name="collectives-torch", daemon=True
            )
            thread.start()
        _selector.register(listener.event_fd, selectors.EVENT_READ, listener)
    os.eventfd_write(_wake, 1)


def forget(listener: Listener) -> None:
    """It is about to close its descriptor."""
    with _lock:
        if _selector is not None:
            with contextlib.suppress(KeyError, ValueError):  # it has never listened
                _selector.unregister(listener.event_fd)


def _run(selector: selectors.DefaultSelector, wake: int) -> None:
    while True:
        try:
            ready = selector.select()
        except OSError:
            logger.warning("events of process groups are not heard any more", exc_info=True)
            return  # all descriptors were closed, by what makes a daemon for example
        for key, _ in ready:
            try:
                if key.fd == wake:
                    os.eventfd_read(wake)
                else:
                    key.data.heed()
            except BlockingIOError:
                pass
            except Exception:
                logger.exception("an event of a process group could not be handled")


def _fresh() -> None:
    # A forked child has neither the thread nor anything to listen to.
    global _lock, _selector, _wake
    _lock, _selector, _wake = threading.Lock(), None, -1


os.register_at_fork(after_in_child=_fresh)
