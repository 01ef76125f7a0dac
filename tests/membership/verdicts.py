"""Reads what only the core reads in production: verdicts. For fakes and simulations."""

from __future__ import annotations

import dataclasses
import struct
import uuid

from collectives.membership.report import NONE, Epoch, Error, Pair, Stand, Verdict, decode_epoch


@dataclasses.dataclass(frozen=True)
class Judgement:
    """A verdict and the view that it issues: term, number, key and members by rank."""

    epoch: Epoch
    term: int
    number: int
    key: bytes
    members: tuple[uuid.UUID, ...]
    verdict: Verdict


def decode_verdict(data: bytes) -> Judgement:
    """The inverse of ``report.encode_verdict``; the table is in ``native/wire/round.h``."""
    at = 80

    def take(form: str) -> tuple:
        nonlocal at
        found = struct.unpack_from(form, data, at)
        at += struct.calcsize(form)
        return found

    term, number, key = struct.unpack_from("<QQ32s", data, 32)
    members = tuple(uuid.UUID(bytes=take("<16s")[0]) for _ in range(take("<I")[0]))
    stands = []
    for _ in range(take("<I")[0]):
        tag, operation, supplier, sender, receiver = take("<IQIII")
        order = tag if sender == NONE else Pair(tag, members[sender], members[receiver])
        stands.append(Stand(order, operation, None if supplier == NONE else members[supplier]))
    status, culprit, length = take("<I16sI")
    assert at + length == len(data)
    who = uuid.UUID(bytes=culprit) if any(culprit) else None
    error = Error(status, who, data[at:].decode()) if status else None
    verdict = Verdict(tuple(stands), error)
    return Judgement(decode_epoch(data[:32]), term, number, key, members, verdict)
