"""Fault-tolerant collective communication: the public names, nothing else.

They come when the first of them is used. ``import torch`` imports this package wherever it is
installed, to register the process-group backend, and who uses neither is not to pay for both.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING

from collectives._version import __version__ as __version__

if TYPE_CHECKING:
    from collectives._public import *  # noqa: F403
else:

    def __getattr__(name: str) -> object:
        if name.startswith("__") and name != "__all__":
            raise AttributeError(name)
        # A part of the package, asked for by another one before any public name: no public name is
        # needed for it, and would need that other part.
        if name != "__all__" and importlib.util.find_spec(f"{__name__}.{name}"):
            return importlib.import_module(f"{__name__}.{name}")
        try:
            public = importlib.import_module("collectives._public")
        except ImportError as error:
            # `collectives doctor` lives in this package, and must run where the rest does not.
            raise ImportError(
                f"collectives cannot be used here: {error}. "
                "`python -m collectives.cli doctor` says what is wrong, and the cure"
            ) from error
        for public_name in getattr(public, "__all__", ()):  # none while it is imported itself
            globals().setdefault(public_name, getattr(public, public_name))
        if name not in globals():
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return globals()[name]
