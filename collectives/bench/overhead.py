"""What Python adds to a call: `Group.all_reduce` in a group of one, and the C call below it.

In a group of one nothing is sent, so what is left is the way down: argument checks, array to
pointer, the call through cffi, the result object. The C call is measured from Python too (through
cffi, its arguments made once), so it contains what cffi costs and the difference does not.
"""

from __future__ import annotations

import statistics
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import collectives
from collectives._native import ffi, lib
from collectives.bench.report import Overhead
from collectives.errors import CollectiveError

_BATCH = 100
_SECOND_NS = 1_000_000_000


def measure(batches: int = 100, timeout: float = 30.0) -> Overhead:
    """Return the cost of a call: medians over `batches` batches of 100 calls each.

    Raises:
        CollectiveError: a group of one could not be made within `timeout` seconds.
    """
    options = collectives.Options(bind=("127.0.0.1",), timeout=timeout)
    array = np.ones(1, np.float32)
    with (
        collectives.Coordinator("127.0.0.1:0") as coordinator,
        collectives.join(
            coordinator.address,
            group="overhead",
            name="alone",
            min_size=1,
            timeout=timeout,
            options=options,
        ) as group,
        _raw_call(timeout) as c_call,
    ):
        python_us: list[float] = []
        c_us: list[float] = []
        for call in (lambda: group.all_reduce(array), c_call):
            _batch(call)
        for _ in range(batches):
            # In turns, so that a disturbance hits both.
            python_us.append(_batch(lambda: group.all_reduce(array)))
            c_us.append(_batch(c_call))
    if array[0] != 1:
        raise CollectiveError(f"a group of one reduced 1 to {array[0]}")
    python, c = statistics.median(python_us), statistics.median(c_us)
    return Overhead(python, c, python - c, batches * _BATCH)


def _batch(call: Callable[[], object]) -> float:
    """Return the microseconds that one call takes, as the mean of a batch."""
    begin = time.perf_counter_ns()
    for _ in range(_BATCH):
        call()
    return (time.perf_counter_ns() - begin) / _BATCH / 1e3


@contextmanager
def _raw_call(timeout: float) -> Iterator[Callable[[], object]]:
    """Give a call of `coll_run` in a group of one, made without the Python layers."""
    options = ffi.new("struct coll_engine_options *")
    bind = ffi.new("char[]", b"127.0.0.1")
    options.bind = bind
    engine_out = ffi.new("struct coll_engine **")
    identity = uuid.uuid4().bytes
    _check(lib.coll_engine_create(options, identity, engine_out))
    engine = engine_out[0]
    try:
        group_out = ffi.new("struct coll_group **")
        _check(lib.coll_group_open(engine, 1, b"overhead", group_out))
        group = group_out[0]
        try:
            _form_view(group, identity, timeout)
            buffer = ffi.new("float[1]", [1.0])
            call = ffi.new("struct coll_call *")
            call.kind = lib.COLL_ALL_REDUCE
            call.dtype = lib.COLL_F32
            call.op = lib.COLL_SUM
            call.count = 1
            call.input = call.output = buffer
            call.timeout_ns = int(timeout * _SECOND_NS)
            operation = ffi.new("struct coll_operation **")
            info = ffi.new("struct coll_info *")
            wait = int(timeout * _SECOND_NS)

            def run() -> None:
                if lib.coll_run(group, call, wait, operation, info) != lib.COLL_OK:
                    raise CollectiveError("coll_run failed in a group of one")

            yield run
        finally:
            lib.coll_group_close(group)
    finally:
        lib.coll_engine_destroy(engine)


def _form_view(group: Any, identity: bytes, timeout: float) -> None:
    """Prepare and commit a view of this peer alone."""
    peer = ffi.new("struct coll_peer *")
    name = ffi.new("char[]", b"alone")
    peer.id = identity
    peer.name = name
    view = ffi.new("struct coll_view *")
    view.term = view.number = view.first_operation = 1
    view.size = 1
    view.peers = peer
    _check(lib.coll_group_prepare(group, view))
    event = ffi.new("struct coll_event *")
    deadline = time.monotonic() + timeout
    while True:
        status = lib.coll_group_next_event(group, event)
        if status == lib.COLL_OK and event.kind == lib.COLL_EVENT_VIEW_READY:
            break
        if time.monotonic() > deadline:
            raise CollectiveError(f"a view of one peer was not ready within {timeout:g} s")
        if status == lib.COLL_IN_PROGRESS:
            time.sleep(0.001)
    _check(lib.coll_group_commit(group, 1, 1, 1, ffi.NULL))


def _check(status: int) -> None:
    if status != lib.COLL_OK:
        text = ffi.string(lib.coll_status_text(status)).decode()
        last = ffi.string(lib.coll_last_error()).decode()
        raise CollectiveError(f"the C core failed: {last or text}")
