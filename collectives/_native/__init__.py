"""The binding to the C core: thin, typed, no policy.

``ffi`` and ``lib`` are the cffi module as generated from ``collectives.h``; ``engine`` wraps the
handles that membership drives, ``Engine`` and ``EngineGroup``. Operations are issued by
``collectives.work`` on ``lib`` directly, since every wrapper costs microseconds there.
"""

from __future__ import annotations

from collectives._native._binding import ffi, lib

ABI_VERSION = 1
if lib.coll_abi_version() != ABI_VERSION:
    raise ImportError(
        f"libcollectives has ABI {lib.coll_abi_version()}, this package needs {ABI_VERSION};"
        " reinstall collectives"
    )

__all__ = ["ABI_VERSION", "ffi", "lib"]
