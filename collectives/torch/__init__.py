"""The PyTorch backend: ``torch.distributed.init_process_group("collectives")``.

DDP, FSDP2, DTensor and the rest of ``torch.distributed`` work on it as on Gloo. torch finds it by
its entry point, so programs need not import this module; it has the options and what can be asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from collectives._autoload import register
from collectives.errors import CollectiveError, InvalidArgument
from collectives.torch.options import Options

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from collectives.torch._member import Member

__all__ = ["Options", "counts", "error", "register", "trace"]


def counts(group: ProcessGroup | None = None) -> dict[str, int]:
    """How many operations this process has issued in a process group.

    Args:
        group: a process group with this backend; None: the default one.

    Returns:
        By kind (``"all_reduce"``, ``"barrier"``, ``"send"`` ...); kinds without one are left out.

    Raises:
        InvalidArgument: the group has another backend, or was destroyed.
    """
    found: dict[str, int] = _in(group).backend.counts()
    return found


def trace(group: ProcessGroup | None = None) -> list[dict[str, Any]]:
    """What this process has issued in a process group lately.

    Args:
        group: a process group with this backend; None: the default one.

    Returns:
        The last 1024 operations, the oldest first: ``sequence`` (of the call of c10d; one call may
        be several operations), ``number`` (of the operation in its tag), ``tag``, ``kind``,
        ``dtype``, ``bytes`` (of one block, where there are several), ``status``, and when it was
        ``entered``, its ``first_byte`` and ``last_byte`` arrived and it was ``done``: seconds of
        CLOCK_MONOTONIC (``time.monotonic()``), None: not (yet).

    Raises:
        InvalidArgument: the group has another backend, or was destroyed.
    """
    found: list[dict[str, Any]] = _in(group).backend.trace()
    return found


def error(group: ProcessGroup | None = None) -> CollectiveError | None:
    """Why a process group is broken.

    Args:
        group: a process group with this backend; None: the default one.

    Returns:
        What ended all of its operations: a ``PeerLost`` (``.peer`` is ``"rank 3"``), ``Timeout``,
        ``MismatchError``, ``Cancelled``; None: the group is whole.

    Raises:
        InvalidArgument: the group has another backend, or was destroyed.
    """
    return _in(group).error()


def _in(group: ProcessGroup | None) -> Member:
    import torch
    from torch.distributed import distributed_c10d

    asked = distributed_c10d._get_default_group() if group is None else group
    backend = asked._get_backend(torch.device("cpu"))
    member: Member | None = getattr(backend, "owner", None)
    if member is None or member.backend is None:
        raise InvalidArgument(
            f"process group {asked.group_name!r} has the backend {backend.name()!r}; this is about"
            " groups of 'collectives' that were not destroyed"
        )
    return member
