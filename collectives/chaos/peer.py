"""A peer process of the harness: everything it joins is written down and routed.

Built-in workloads run in forks of a nursery (``live``), a user's script in an interpreter of its
own (``python -m collectives.chaos.peer SCRIPT ARGUMENTS``, settings in ``$COLLECTIVES_CHAOS``).
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import resource
import runpy
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from collectives.chaos import namespaces
from collectives.chaos.control import Control
from collectives.chaos.journal import Journal
from collectives.chaos.plane import RoutedPlane
from collectives.chaos.recorder import Recorder, install
from collectives.incarnation import Application, Incarnation

VARIABLE = "COLLECTIVES_CHAOS"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a peer process is told; all fields are ready for JSON.

    Attributes:
        peer: its place's name.
        life: the how-manieth process in that place, from 0.
        index: the place's number, from 0.
        seed: of the run.
        peers: how many places there were at the beginning.
        min_size: what ``join`` is called with.
        newcomer: whether the run has begun already.
        address: the coordinator's, as this peer reaches it.
        token: the run's.
        control: path of the harness's socket.
        journal: path of its journal.
        moments: path of the file in which a fault that was aimed says that it hit.
        routed: whether its links are the harness's to shape.
        bind: the address that it listens on.
        namespace: path of the network namespace that it enters; empty: none.
        options: of ``collectives.Options``.
        workload: kind, and what else it takes.
    """

    peer: str
    life: int
    index: int
    seed: int
    peers: int
    min_size: int
    newcomer: bool
    address: str
    token: str
    control: str
    journal: str
    moments: str
    routed: bool
    bind: str
    namespace: str
    options: dict[str, Any]
    workload: dict[str, Any]

    @property
    def name(self) -> str:
        """The name to join with; unique in the run."""
        return f"{self.peer}.{self.life}" if self.life else self.peer


class Seat:
    """What a workload gets: its settings, the line to the harness, and its journal."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        if settings.namespace:  # first, as a thread stays where it began
            namespaces.enter(settings.namespace)
        self.recorder = Recorder(Journal(settings.journal))
        who: dict[str, Any] = {"peer": settings.peer, "life": settings.life, "pid": os.getpid()}
        self.recorder.journal.write("start", **who)
        self.control = Control(settings.control, who, self._progress)
        self.control.arm = self._arm
        self._armed: list[dict[str, Any]] = []
        self._arming = threading.Lock()
        self.recorder.adjust, self.recorder.entered = self._adjust, self._entered
        install(self.recorder)
        if settings.routed:
            RoutedPlane.control = self.control
            Incarnation.plane_type = RoutedPlane

    def _adjust(self, application: Application) -> Application:
        """Whatever the program asked for, its coordinator and its network are the harness's."""
        options = dataclasses.replace(
            application.options,
            bind=(self.settings.bind,),
            advertise=(),
            **self.settings.options,
        )
        return dataclasses.replace(
            application,
            address=self.settings.address,
            token=self.settings.token,
            options=options,
        )

    def _entered(self) -> None:
        self.control.tell("joined")
        with self._arming:
            waiting, self._armed = self._armed, []
        for message in waiting:
            self._arm(message)

    def _arm(self, message: dict[str, Any]) -> None:
        with self._arming:
            groups = self.recorder.groups
            if not groups:
                self._armed.append(message)
                return
        fd = os.open(self.settings.moments, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        groups[-1]._fault_at(
            message["phase"],
            message["operation"],
            action=message["action"],
            journal_fd=fd,
            after_slices=message["slices"],
        )

    def _progress(self) -> dict[str, Any]:
        groups = self.recorder.groups
        view = groups[-1].view if groups else None
        return {
            "work": self.recorder.work,
            "calls": self.recorder.calls,
            "view": None if view is None else [view.term, view.number, view.size],
        }

    def end(self, status: str) -> None:
        """The last line."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        self.recorder.journal.write("end", status=status, cpu=used.ru_utime + used.ru_stime)


def live(_: Connection, settings: dict[str, Any], log: str) -> None:
    """Run a built-in workload: in a fork of a nursery."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    seat = Seat(Settings(**settings))
    workload = importlib.import_module(
        f"collectives.chaos.workloads.{seat.settings.workload['kind']}"
    )
    try:
        workload.run(seat)
    except BaseException as error:
        seat.end(f"{type(error).__name__}: {error}")
        raise
    seat.end("ok")


def main() -> None:
    """Run a user's script, as ``python SCRIPT ARGUMENTS`` would."""
    seat = Seat(Settings(**json.loads(os.environ.pop(VARIABLE))))
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    os.environ["COLLECTIVES_COORDINATOR"] = seat.settings.address
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as leaving:
        seat.end("ok" if not leaving.code else f"SystemExit: {leaving.code}")
        raise
    except BaseException as error:
        seat.end(f"{type(error).__name__}: {error}")
        raise
    seat.end("ok")


if __name__ == "__main__":
    # The one that others import must be the one that runs.
    importlib.import_module("collectives.chaos.peer").main()
