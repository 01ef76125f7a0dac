"""The binding to the C core: thin, typed, no policy."""

from __future__ import annotations

from collectives._native._binding import ffi, lib

__all__ = ["ffi", "lib"]
