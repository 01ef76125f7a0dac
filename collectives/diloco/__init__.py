"""Training that communicates hundreds of times less, on top of a Group.

``DiLoCo`` wraps a training loop: each peer takes many steps of its own optimizer, then all of
them agree on one outer step (Douillard et al., "DiLoCo: Distributed Low-Communication Training of
Language Models", 2023). Only this package needs torch; it is imported when a name here is first
used, so that ``import collectives`` works without it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from collectives.diloco.round import Round
from collectives.errors import UnsupportedError

if TYPE_CHECKING:
    from collectives.diloco.trainer import DiLoCo

__all__ = ["DiLoCo", "Round"]


def __getattr__(name: str) -> Any:
    if name != "DiLoCo":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        importlib.import_module("torch")
    except ImportError as error:
        raise UnsupportedError(
            "collectives.diloco trains torch modules and torch cannot be imported "
            f"({error}); install it with: pip install 'collectives[torch]'"
        ) from error
    return importlib.import_module("collectives.diloco.trainer").DiLoCo
