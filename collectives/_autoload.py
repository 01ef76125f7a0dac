"""What ``import torch`` calls: ``init_process_group("collectives")`` needs no import of ours.

It is called in every process that imports torch (the entry point ``torch.backends`` of this
package), whether anybody uses the backend or not. So it costs next to nothing: what makes a process
group is imported when the first one is made. And it never raises, which would fail the import of
torch.
"""

from __future__ import annotations

import importlib
import logging
from typing import Any

BACKEND = "collectives"

logger = logging.getLogger(__name__)


def register() -> None:
    """Make the backend known to ``torch.distributed``, as often as it is called."""
    try:
        import torch.distributed

        if torch.distributed.is_available():
            backends = torch.distributed.Backend
            backends.register_backend(BACKEND, _create, extended_api=True, devices=["cpu", "cuda"])
    except Exception:
        logger.warning("The process-group backend cannot be registered with torch", exc_info=True)


def _create(options: Any, backend_options: Any) -> Any:
    """Make the backend of a process group: see ``collectives.torch._member.create``."""
    return importlib.import_module("collectives.torch._member").create(options, backend_options)
