"""A small operation that is like one before it allocates nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import collectives

COUNTER = """
    #include <stddef.h>
    unsigned long allocations;
    void *__libc_malloc(size_t);
    void *__libc_calloc(size_t, size_t);
    void *malloc(size_t size)
    {
        __atomic_add_fetch(&allocations, 1, __ATOMIC_RELAXED);
        return __libc_malloc(size);
    }
    void *calloc(size_t count, size_t size)
    {
        __atomic_add_fetch(&allocations, 1, __ATOMIC_RELAXED);
        return __libc_calloc(count, size);
    }
"""

PEER = """
    import ctypes, sys
    import numpy as np
    import collectives

    address, transport = sys.argv[1:]
    options = collectives.Options(transport=transport)
    with collectives.join(address, min_size=2, options=options) as group:
        array, result = np.ones(256, np.float32), np.empty(256, np.float32)
        count = ctypes.c_ulong.in_dll(ctypes.CDLL(None), "allocations")
        for _ in range(100):  # until all that is kept for others is acknowledged now and then
            group.all_reduce(array, out=result)
        before = count.value
        for _ in range(200):
            group.all_reduce(array, out=result)
        print(count.value - before)
        group.barrier()
"""


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_a_small_reduction_allocates_nothing(transport: str, tmp_path: Path) -> None:
    source, counter = tmp_path / "counter.c", tmp_path / "counter.so"
    source.write_text(COUNTER)
    compile_it = ["cc", "-shared", "-fPIC", "-o", str(counter), str(source)]
    subprocess.run(compile_it, check=True, timeout=60)
    with collectives.Coordinator("127.0.0.1:0") as coordinator:
        command = [sys.executable, "-c", textwrap.dedent(PEER), coordinator.address, transport]
        environment = {**os.environ, "LD_PRELOAD": str(counter)}
        peers = [
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        try:
            counts = [int(peer.communicate(timeout=60)[0]) for peer in peers]
        finally:
            for peer in peers:
                peer.kill()
                peer.wait()
    # The heartbeats' thread and the interpreter may now and then.
    assert all(count < 50 for count in counts), counts
