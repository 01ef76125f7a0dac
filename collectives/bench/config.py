"""What to measure: the settings of one run, and the sizes as people write them."""

from __future__ import annotations

import dataclasses
import re

from collectives.bench.collective import COLLECTIVES, SIDES, Collective
from collectives.errors import InvalidArgument

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_MOST_BYTES = 1 << 34

TRANSPORTS = ("auto", "shm", "tcp")
PEERS = {"gloo": "Gloo", "mpi": "Open MPI"}


def parse_bytes(text: str) -> int:
    """Return the number of bytes in ``"64"``, ``"1K"``, ``"4M"`` or ``"1G"`` (powers of 1024).

    Raises:
        InvalidArgument: the text is not a size, or one above 16 GiB.
    """
    match = re.fullmatch(r"(\d{1,12})\s*([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise InvalidArgument(f"{text!r} is no size; write for example 512, 64K or 4M")
    size = int(match[1]) * _UNITS[match[2].upper()]
    if not 1 <= size <= _MOST_BYTES:
        raise InvalidArgument(f"{text!r} is out of range; allowed are 1 byte to 16G")
    return size


def parse_count(text: str) -> int:
    """Return the number in the text.

    Raises:
        InvalidArgument: it is no number from 1 to 99999.
    """
    if not re.fullmatch(r"[1-9][0-9]{0,4}", text.strip()):
        raise InvalidArgument(f"{text!r} is no number from 1 to 99999")
    return int(text)


def parse_sizes(text: str) -> tuple[int, ...]:
    """Return the sizes in ``"1K:256M"`` (each 4 times the last), ``"1K:1M:2"`` or ``"1K,64K"``.

    Raises:
        InvalidArgument: the text is not a range or list of sizes.
    """
    if ":" not in text:
        return tuple(parse_bytes(part) for part in text.split(","))
    first, last, *rest = text.split(":")
    factor = rest[0] if rest else "4"
    if len(rest) > 1 or not factor.isdigit() or int(factor) < 2:
        raise InvalidArgument(
            f"{text!r} is no range of sizes; write FIRST:LAST or FIRST:LAST:FACTOR"
        )
    size, end = parse_bytes(first), parse_bytes(last)
    if size > end:
        raise InvalidArgument(f"{text!r} starts above its end")
    sizes = []
    while size <= end:
        sizes.append(size)
        size *= int(factor)
    return tuple(sizes)


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    """The settings of one run of the bench.

    Attributes:
        operation: a name of `COLLECTIVES`.
        ranks: how many processes take part.
        sizes: bytes of the buffer, which is the larger of input and output; one row each.
        dtype: a name of `pattern.DTYPES`.
        op: reduction: ``"sum"``, ``"avg"``, ``"prod"``, ``"min"``, ``"max"``, ``"band"``,
            ``"bor"`` or ``"bxor"``; ``"none"`` if the operation does not reduce.
        transport: ``"shm"`` or ``"tcp"`` between ranks on one host, for ours and MPI (Gloo has TCP
            only); ``"auto"``: as they choose.
        connections: TCP connections per pair of ranks (ours; Gloo has one).
        congestion: TCP congestion control of all libraries; None: the library's choice for ours,
            the system's default for the others.
        out_of_place: whether to measure with ``out=``, if the operation has that.
        in_place: whether to measure in place, likewise.
        compare: libraries to measure beside ours in the same run: ``"gloo"``, ``"mpi"`` (Open MPI).
        iterations: timed calls per figure; None: as many as fit `seconds`.
        seconds: time to spend per figure where `iterations` is None.
        blocks: into how many blocks the calls of a figure are cut; the libraries take turns, so
            that a disturbance of the machine hits them alike.
        algorithm: how ours is carried out, ``"ring"`` ...; None: as the engine chooses.
        slice_bytes: bytes of payload per frame; None: chosen by size.
        checksums: whether payloads carry a CRC.
        timeout: seconds after which a run that does not go on is given up.
        plant_wrong: elements that rank 0 gets wrong, to test that the bench sees them.

    Raises:
        InvalidArgument: a value is out of its range.
    """

    ranks: int = 2
    sizes: tuple[int, ...] = parse_sizes("1K:256M")
    dtype: str = "float32"
    op: str = "sum"
    operation: str = "all_reduce"
    transport: str = "auto"
    connections: int = 1
    congestion: str | None = "cubic"
    out_of_place: bool = True
    in_place: bool = True
    compare: tuple[str, ...] = ()
    iterations: int | None = None
    seconds: float = 1.0
    blocks: int = 5
    algorithm: str | None = None
    slice_bytes: int | None = None
    checksums: bool = True
    timeout: float = 120.0
    plant_wrong: int = 0

    def __post_init__(self) -> None:
        if self.operation not in COLLECTIVES:
            raise InvalidArgument(
                f"unknown operation {self.operation!r}; known are {', '.join(COLLECTIVES)}"
            )
        if (self.op == "none") == self.collective.reduces:
            need = "a reduction" if self.collective.reduces else "'none': it reduces nothing"
            raise InvalidArgument(f"op is {self.op!r}; {self.operation} needs {need}")
        if not 1 <= self.ranks <= 64:
            raise InvalidArgument(f"{self.ranks} ranks; the bench can start 1 to 64")
        if not self.sizes:
            raise InvalidArgument("there is no size to measure")
        if not self.sides("collectives"):
            raise InvalidArgument(
                f"neither out of place nor in place is left to measure of {self.operation}"
            )
        if self.iterations is not None and self.iterations < 1:
            raise InvalidArgument(f"{self.iterations} iterations; at least 1 is needed")
        if self.blocks < 1:
            raise InvalidArgument(f"{self.blocks} blocks; at least 1 is needed")
        for name in ("seconds", "timeout"):
            if not getattr(self, name) > 0:
                raise InvalidArgument(f"{name} is {getattr(self, name)}; it has to be above 0")
        if self.transport not in TRANSPORTS:
            raise InvalidArgument(
                f"unknown transport {self.transport!r}; known are {', '.join(TRANSPORTS)}"
            )
        unknown = set(self.compare) - set(PEERS)
        if unknown:
            raise InvalidArgument(
                f"cannot compare with {', '.join(sorted(unknown))}; the bench knows"
                f" {' and '.join(PEERS)}"
            )
        for name in self.compare:
            if self.op == "avg":
                raise InvalidArgument(f"{PEERS[name]} has no avg; compare with --op sum")
            if self.dtype == "bool":
                raise InvalidArgument(f"{PEERS[name]} has no bool; compare with --dtype uint8")
        if "mpi" in self.compare and self.dtype in ("float16", "bfloat16"):
            raise InvalidArgument(f"{PEERS['mpi']} has no {self.dtype}; compare with gloo")

    @property
    def collective(self) -> Collective:
        """The operation."""
        return COLLECTIVES[self.operation]

    def sides(self, library: str) -> tuple[bool, ...]:
        """Whether a library is measured out of place (False) and in place (True)."""
        if library == "gloo":
            # torch offers one way: with a buffer for the result where that is of another size.
            return (not self.collective.has_blocks,)
        return tuple(side for side in self.collective.sides if getattr(self, SIDES[side]))

    @property
    def libraries(self) -> tuple[str, ...]:
        """All that are measured, ours first."""
        return ("collectives", *dict.fromkeys(self.compare))
