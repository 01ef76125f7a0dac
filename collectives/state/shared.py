"""``SharedState``: named tensors, scalars and bytes that ``Group.sync`` keeps identical."""

from __future__ import annotations

import contextlib
import importlib
import sys
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np

from collectives.errors import CollectiveError, InvalidArgument, UnsupportedError
from collectives.state.content import MAX_NAME, Entry, Manifest, Scalar, digests_of

Role = Literal["auto", "receive_only", "send_only"]
"""``auto``: gives or takes, as it turns out. ``receive_only``: takes, and its own state never
counts. ``send_only``: gives, and raises if it would have to take."""

ROLES: tuple[Role, ...] = ("auto", "receive_only", "send_only")


class SharedState(Mapping[str, Any]):
    """What all members of a group hold identically: named tensors, scalars and bytes.

    Pass it to ``group.sync(state)``. Tensors are shared by reference: keep using and updating
    them in place; ``sync`` writes into them where this peer is behind. Scalars and bytes are kept
    here: ``state["step"] += 1``. Call ``advance()`` whenever the state has made a step: the state
    with the highest revision wins.

    Args:
        values: contiguous numpy arrays and torch CPU tensors of any dtype, ``int``, ``float``,
            ``bool`` and ``bytes``, by name. What a peer does not have when it first takes the
            state is allocated: a numpy array, or a torch tensor for a dtype that numpy lacks.
        role: what it does when states differ; see ``Role``.
        revision: of what ``values`` are, for example from a checkpoint.
        run: whose state this is; states of different runs never mix. None: that of the first
            group it is synced in.

    Raises:
        InvalidArgument: a value cannot be shared.
        UnsupportedError: its dtype or device cannot.
    """

    def __init__(
        self,
        values: Mapping[str, Any] | None = None,
        *,
        role: Role = "auto",
        revision: int = 0,
        run: uuid.UUID | None = None,
    ) -> None:
        if role not in ROLES:
            raise InvalidArgument(f"role is {role!r}; known are {', '.join(ROLES)}")
        if not 0 <= revision < 2**63:
            raise InvalidArgument(f"revision is {revision}; allowed are 0 to 2**63 - 1")
        self.role: Role = role
        self._revision = revision
        self._run = run
        self._values: dict[str, Any] = {}
        self._complete = True
        for name, value in (values or {}).items():
            self.add(name, value)

    # -- what users do --

    @property
    def revision(self) -> int:
        """How many steps the state has made."""
        return self._revision

    @property
    def run(self) -> uuid.UUID | None:
        """The run that the state belongs to; None before its first ``sync``."""
        return self._run

    @property
    def complete(self) -> bool:
        """False after a transfer was interrupted: then the tensors hold parts of two states."""
        return self._complete

    def advance(self) -> None:
        """The state has made a step: count ``revision`` up. All members must do so alike."""
        self._revision += 1

    def add(self, name: str, value: Any) -> None:
        """Share one more value. All members must do so before the same ``sync``.

        Raises:
            InvalidArgument: the name is taken, or the value cannot be shared.
            UnsupportedError: its dtype or device cannot.
        """
        if not isinstance(name, str) or not 1 <= len(name.encode()) <= MAX_NAME:
            raise InvalidArgument(f"name is {name!r}; names are str of 1 to {MAX_NAME} bytes")
        if name in self._values:
            raise InvalidArgument(f"{name!r} is in the state already; remove() it first")
        self._values[name] = _checked(name, value, self.role)

    def remove(self, name: str) -> None:
        """Do not share a value any more. All members must do so before the same ``sync``."""
        del self._values[name]

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __setitem__(self, name: str, value: Any) -> None:
        before = self._values[name]
        if not isinstance(before, bytes | Scalar):
            raise InvalidArgument(
                f"{name!r} is a tensor, which is shared by reference: write into it,"
                f" state[{name!r}][...] = value"
            )
        if not isinstance(value, bytes | Scalar):
            raise InvalidArgument(
                f"{name!r} is {type(before).__name__} and cannot become {type(value).__name__};"
                " remove() it and add() it anew"
            )
        self._values[name] = _checked(name, value, self.role)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"SharedState({', '.join(self._values)}; revision {self._revision})"

    # -- what a sync does --

    def view(self, name: str) -> memoryview:
        """The live bytes of a tensor or of ``bytes``.

        Raises:
            KeyError: there is no such, or it is a scalar.
        """
        value = self._values[name]
        if isinstance(value, bytes):
            return memoryview(value)
        if isinstance(value, Scalar):
            raise KeyError(name)
        return memory_of(value)

    def manifest(self, known: Mapping[str, bytes] | None = None) -> Manifest:
        """Describe the whole state; reads every byte but those of entries with known digests."""
        known = known or {}
        entries = {}
        for name, value in self._values.items():
            if isinstance(value, Scalar):
                entries[name] = Entry(name, "value", value=value)
                continue
            view = self.view(name)
            digests = known.get(name) or digests_of(view)
            if isinstance(value, bytes):
                entries[name] = Entry(name, "bytes", size=view.nbytes, digests=digests)
            else:
                shape = tuple(int(length) for length in value.shape)
                entries[name] = Entry(
                    name, "tensor", dtype_of(value), shape, None, view.nbytes, digests
                )
        return Manifest(self._revision, entries)

    def begin(self) -> None:
        """From now until ``finish`` the content is a mixture."""
        self._complete = False

    def allocate(self, entry: Entry) -> None:
        """Make the tensor that an entry describes, with undefined content."""
        self._values[entry.name] = _allocated(entry)

    def finish(
        self, run: uuid.UUID | None, revision: int, values: Mapping[str, bytes | Scalar]
    ) -> None:
        """The content is that of ``revision``; take over its scalars and bytes, too."""
        self._values.update(values)
        self._revision = revision
        self._run = run
        self._complete = True


def memory_of(tensor: Any) -> memoryview:
    """The bytes of a contiguous numpy array or CPU tensor."""
    if isinstance(tensor, np.ndarray):
        return tensor.reshape(-1).view(np.uint8).data
    torch = sys.modules["torch"]
    return memoryview(tensor.detach().reshape(-1).view(torch.uint8).numpy())


def dtype_of(tensor: Any) -> str:
    """The name that numpy or torch has for a tensor's dtype."""
    return str(tensor.dtype).removeprefix("torch.")


def _checked(name: str, value: Any, role: str) -> Any:
    if isinstance(value, bool | float | bytes):
        return value
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise InvalidArgument(f"{name!r} is {value}; integers must fit into 64 bits")
        return value
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject or not value.dtype.isnative or value.dtype.fields:
            raise UnsupportedError(
                f"{name!r} has dtype {value.dtype}; only plain dtypes in this machine's byte order"
                " can be shared"
            )
        if not value.flags.c_contiguous or isinstance(value, np.ma.MaskedArray):
            raise InvalidArgument(f"{name!r} must be a contiguous array without a mask")
        if not value.flags.writeable and role != "send_only":
            raise InvalidArgument(
                f"{name!r} is read-only; sync may have to write into it (a state of role"
                " 'send_only' may have such)"
            )
        return value
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        if value.device.type != "cpu" or value.layout is not torch.strided:
            raise UnsupportedError(
                f"{name!r} is a {value.layout} tensor on {value.device}; only dense CPU tensors can"
                " be shared yet"
            )
        if not value.is_contiguous():
            raise InvalidArgument(f"{name!r} is not contiguous; share a contiguous tensor")
        return value
    raise InvalidArgument(
        f"{name!r} is a {type(value).__name__}; numpy arrays, CPU tensors, int, float, bool and"
        " bytes can be shared"
    )


def _allocated(entry: Entry) -> Any:
    tensor: Any = None
    with contextlib.suppress(TypeError):
        tensor = np.empty(entry.shape, np.dtype(entry.dtype))
    if tensor is None:
        with contextlib.suppress(ImportError, AttributeError, TypeError):
            torch = importlib.import_module("torch")
            tensor = torch.empty(entry.shape, dtype=getattr(torch, entry.dtype))
    if tensor is None:
        raise UnsupportedError(
            f"{entry.name!r} has dtype {entry.dtype}, which neither numpy nor torch has here; add"
            " the tensor to the state before sync()"
        )
    if memory_of(tensor).nbytes != entry.size:
        raise CollectiveError(f"{entry.name!r}: {entry.describe()} cannot have {entry.size} bytes")
    return tensor
