"""Ranks of torch.distributed: processes forked, for each run, from an interpreter that has imported
torch, which costs seconds.

    def sums(rank, world, count):                      # of a test module
        tensor = torch.ones(count)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def test_sums(ranks):
        assert ranks.run(sums, 3, world=2) == [[2.0] * 3] * 2

This module does not import torch, nor should test modules before a function of theirs runs in a
rank; so pytest's own processes need not.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import faulthandler
import importlib.util
import multiprocessing.connection
import os
import pickle
import resource
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest

import nursery

# What is tested; with "gloo" instead the tests show what they take for granted.
BACKEND = os.environ.get("COLLECTIVES_TEST_BACKEND") or "collectives"
# Some of torch's own functions import these when they are first called: a second for each rank.
PRELOADED = (
    "torch.distributed",
    "torch._dynamo",
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.optim",
    "torch.distributed.pipelining",
    "collectives.torch._member",
    "torch_ranks",
)
# What the others have, once one has failed, before they are ended.
PATIENCE = 10.0
PR_SET_PDEATHSIG = 1
COMPILING = 110.0
SHOWN = 20_000


class RankError(AssertionError):
    """A rank raised, died or was not done in time; the message has what all ranks came to."""


class Run:
    """A function under way in processes of its own, one per rank.

    Attributes:
        pids: of the processes, by rank.
    """

    def __init__(self, what: str, children: list[nursery.Child], folder: Any, until: float) -> None:
        self._what = what
        self._children = children
        self._folder = folder
        self._until = until
        self.pids = [child.pid for child in children]

    def signal(self, rank: int, number: int) -> None:
        """Send one of them a signal, if it still lives."""
        self._children[rank].signal(number)

    def hear(self, rank: int) -> Any:
        """What the rank says next by ``tell``."""
        connection = self._children[rank].connection
        in_time = connection.poll(max(0.0, self._until - time.monotonic()))
        kind, value = _read(connection) if in_time else ("late", None)
        if kind != "told":
            self.signal(rank, signal.SIGABRT)
            self._children[rank].gone(5)
            said = f"rank {rank} said nothing more ({kind})\n{value or ''}\n{self._log(rank)}"
            self.close()
            raise RankError(said)
        return value

    def results(self, may_die: Collection[int] = ()) -> list[Any]:
        """What the function returned, by rank; None of those in ``may_die`` that died."""
        __tracebackhide__ = True
        results: dict[int, Any] = {}
        wrong: dict[int, str] = {}
        waiting = {child.connection: rank for rank, child in enumerate(self._children)}
        while waiting:
            left = max(0.0, self._until - time.monotonic())
            ready = multiprocessing.connection.wait(list(waiting), left)
            for connection in ready:
                kind, value = _read(connection)
                if kind == "told":
                    continue
                rank = waiting.pop(connection)
                if kind == "value" or (kind == "ended" and rank in may_die):
                    results[rank] = value
                else:
                    wrong[rank] = value or f"died: {self._children[rank].wait(5)}"
                    # The others may wait for it in vain.
                    self._until = min(self._until, time.monotonic() + PATIENCE)
            if not ready:
                break
        for rank in waiting.values():
            wrong[rank] = "was not done in time"
            self.signal(rank, signal.SIGCONT)
            self.signal(rank, signal.SIGABRT)  # which has it write down where it is
        for rank in waiting.values():
            self._children[rank].gone(5)
        said = [f"{self._what} failed in ranks {sorted(wrong)}"]
        for rank in range(len(self.pids)):
            came = wrong.get(rank) or f"returned {results[rank]!r:.200}"
            said.append(f"---- rank {rank}: {came}\n{self._log(rank)}")
        self.close()
        if wrong:
            raise RankError("\n".join(said))
        return [results[rank] for rank in range(len(self.pids))]

    def close(self) -> None:
        """End those that live."""
        for child in self._children:
            child.close()
        self._folder.cleanup()

    def _log(self, rank: int) -> str:
        """The end of what it wrote."""
        with contextlib.suppress(FileNotFoundError):
            return Path(self._folder.name, f"{rank}.log").read_text(errors="replace")[-SHOWN:]
        return ""


def _read(connection: multiprocessing.connection.Connection) -> tuple[str, Any]:
    with contextlib.suppress(EOFError, ConnectionResetError):
        return pickle.loads(connection.recv_bytes())
    return "ended", None


class Ranks:
    """Starts them; one interpreter with torch per process that runs tests."""

    def __init__(self) -> None:
        self._compiled = False

    def start(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        world: int = 2,
        backend: str = BACKEND,
        timeout: float = 30.0,
        init: bool = True,
        store: str = "file",
        group_timeout: float | None = None,
        options: dict[str, Any] | None = None,
        environment: dict[str, str] | None = None,
        **how: Any,
    ) -> Run:
        """Begin what ``run`` does."""
        folder = tempfile.TemporaryDirectory(prefix="ranks-")
        where = f"{function.__module__}:{function.__qualname__}"
        zygote = nursery.shared(*PRELOADED)
        if group_timeout is not None:
            how["timeout"] = datetime.timedelta(seconds=group_timeout)
        job = (where, arguments, world, backend, init, store, options, how, folder.name)
        if backend == "collectives" and not self._compiled:
            # Before the clock of the ranks runs; it has been, but after a change of its sources.
            compiler = zygote.child(compile_backend)
            assert compiler.connection.poll(COMPILING), "the backend's C++ part is not compiled"
            assert _read(compiler.connection) == ("value", None)
            compiler.close()
            self._compiled = True
        children: list[nursery.Child] = []
        try:
            for rank in range(world):
                children.append(zygote.child(live, rank, environment=environment))
                children[rank].connection.send_bytes(pickle.dumps(job))
        except BaseException:
            Run(where, children, folder, 0.0).close()
            raise
        what = f"{where} with {world} ranks, {backend}"
        return Run(what, children, folder, time.monotonic() + timeout)

    def run(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        may_die: Collection[int] = (),
        **how: Any,
    ) -> list[Any]:
        """Call ``function(rank, world, *arguments)`` in each of some processes.

        Args:
            function: of a module, by whose name it is imported there.
            arguments: pickled, as is what it returns: lists or numpy arrays rather than tensors,
                which have this process import torch.
            may_die: ranks that may end before they return anything.
            world: how many ranks.
            backend: what the default process group is of.
            timeout: seconds until all must be done; whoever is not shows its threads' stacks.
            init: whether it is called inside of ``init_process_group``, ``destroy_process_group``;
                else it may do so by ``initialize``.
            store: "file", or "tcp": by which the ranks meet.
            group_timeout: the process group's, in seconds; torch's default otherwise.
            options: of ``collectives.torch.Options``, for ``pg_options``.
            environment: further variables.
            **how: further arguments of ``init_process_group``.

        Returns:
            What it returned, by rank.

        Raises:
            RankError: a rank raised, died or hung; with what all of them wrote.
        """
        return self.start(function, *arguments, **how).results(may_die)


@pytest.fixture(scope="session")
def ranks() -> Ranks:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    return Ranks()


# ---- in the rank -----------------------------------------------------------------------------

_connection: multiprocessing.connection.Connection
_job: dict[str, Any] = {}


def tell(value: Any) -> None:
    """Say something to the test, which gets it by ``Run.hear``."""
    _connection.send_bytes(pickle.dumps(("told", value)))


def store(prefix: str = "again") -> Any:
    """A store that the ranks of this run share."""
    import torch.distributed as dist

    # Both are kept until the process ends: the last one to close a FileStore removes the file,
    # which another may be about to open again.
    if "file" not in _job:
        _job["file"] = dist.FileStore(f"{_job['folder']}/store")
    if _job["store"] == "tcp" and "tcp" not in _job:
        if _job["rank"] == 0:
            _job["tcp"] = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
            _job["file"].set("port", str(_job["tcp"].port))
        else:
            port = int(_job["file"].get("port"))
            _job["tcp"] = dist.TCPStore("127.0.0.1", port, None, False)
    return dist.PrefixStore(prefix, _job[_job["store"]])


def initialize(prefix: str = "again", **how: Any) -> None:
    """``init_process_group`` as ``run`` has it done, in a part of the store that goes by a name.

    Args:
        prefix: the name, which the ranks have not used before.
        how: arguments in which it differs from what ``run`` was called with.
    """
    import torch.distributed as dist

    given = {"backend": _job["backend"], **_job["how"], **how}
    if _job["options"] is not None and "pg_options" not in how:
        import collectives.torch

        given["pg_options"] = collectives.torch.Options(**_job["options"])
    given.setdefault("store", store(prefix))
    dist.init_process_group(rank=_job["rank"], world_size=_job["world"], **given)


def compile_backend(connection: multiprocessing.connection.Connection) -> None:
    """See that the backend's C++ part is there."""
    from collectives.torch import _shim

    _shim.load()
    connection.send_bytes(pickle.dumps(("value", None)))


def live(connection: multiprocessing.connection.Connection, rank: int) -> None:
    """Be a rank: do what comes over the connection, and end."""
    global _connection
    import torch
    import torch.distributed as dist

    _connection = connection
    where, arguments, world, backend, init, kind, options, how, folder = pickle.loads(
        connection.recv_bytes()
    )
    log = os.open(f"{folder}/{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A test run that is killed takes the interpreter that forked this with it, and that this.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # A crash, or SIGABRT of a test that has waited long enough, ends up in the log.
    faulthandler.enable(2, all_threads=True)
    torch.set_num_threads(1)
    _job.update(
        rank=rank, world=world, backend=backend, store=kind, options=options, how=how, folder=folder
    )
    try:
        if init:
            initialize("first")
        value = nursery.nursery.run_here(where, rank, world, *arguments)
        if init and dist.is_initialized():
            dist.destroy_process_group()
        data = pickle.dumps(("value", value))
    except BaseException:
        data = pickle.dumps(("raised", traceback.format_exc()))
    connection.send_bytes(data)
