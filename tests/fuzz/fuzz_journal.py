"""The coordinator's journal: a file that a power cut, a disk or a stranger has changed.

Reading raises ``JournalError`` or gives entries, and of these ``restore`` makes a state or raises
``UnreadableError``; what it makes can be written down and read again.
"""

from __future__ import annotations

import logging
import os
import tempfile
import uuid
from pathlib import Path

import msgpack
from script import Script

from collectives.membership import journal as journals
from collectives.membership.durable import UnreadableError, durable, restore
from collectives.membership.journal import Journal, JournalError
from collectives.membership.ledger import CoordinatorState, Departure, Group, Issued
from collectives.membership.report import Epoch, Error
from collectives.membership.restart import resume
from collectives.membership.view import Peer, View

logging.getLogger("collectives").setLevel(logging.CRITICAL)

PEER = Peer(uuid.UUID(int=1), "p", ("h:1",))
BLANK = CoordinatorState(run=uuid.UUID(int=9), seed=b"s" * 32)
FULL = CoordinatorState(
    run=uuid.UUID(int=7),
    seed=b"t" * 32,
    groups={
        "g": Group(
            1,
            "g",
            number=2,
            view=View("g", 1, 1, 2, (PEER,), b"k" * 32),
            issued=Issued(Epoch(1, 1, 1, 1), 1, 1, b"v", "text"),
            broken=Error(2, PEER.id, "it failed"),
        )
    },
    departed={("g", uuid.UUID(int=2)): Departure(PEER, left=True, text="left")},
)
RECORDS = [{key: value} for key, value in durable(FULL).items()]
VALUES = (None, 0, -1, 2**64 - 1, 1.5, "g", b"", b"k" * 16, (), ("group",), {}, {"id": 1}, (1, 2))
_FOLDER = tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)


def run(data: bytes) -> None:
    if not data:
        return
    how, script = data[0], Script(data[1:])
    if how < 0x40:
        content = data[1:]
    elif how < 0x80:
        content = journals._MAGIC + journals._record({("k",): 1}) + data[1:]
    else:
        content = _assemble(how, script)
    entries = _read(content)
    if entries is None:
        return
    try:
        state = restore(entries, BLANK)
    except UnreadableError:
        return
    assert restore(durable(state), BLANK) == state
    resume(state, 1.0)


def _assemble(how: int, script: Script) -> bytes:
    """Records that are whole, with values that are almost right; then some bytes changed."""
    content = bytearray(journals._MAGIC)
    while script:
        what = script.byte()
        if what < 0x80:
            content += journals._record(_tampered(RECORDS[what % len(RECORDS)], script))
        elif what < 0xC0:
            content += _framed(script.bytes(what & 31))
        else:
            content += journals._record({_value(script): _value(script)})
    if how >= 0xC0:
        del content[len(content) - min(script.number() + how % 16, len(content)) :]
    if how % 2:
        content[how % max(1, len(content)) if content else 0 : 1] = b""
    return bytes(content)


def _value(script: Script) -> object:
    found = VALUES[script.byte() % len(VALUES)]
    return found if not isinstance(found, dict) else tuple(found)


def _tampered(record: dict, script: Script) -> dict:
    """The record with one value, at some depth, replaced; or as it is."""
    if script.byte() < 0x60:
        return record
    (key, value), node = next(iter(record.items())), script.byte()
    if node < 0x40 or not isinstance(value, dict):
        return {key: VALUES[script.byte() % len(VALUES)]}
    value = dict(value)
    name = sorted(value)[script.byte() % len(value)]
    inner = value[name]
    if isinstance(inner, dict) and node >= 0xA0:
        inner = dict(inner)
        inner[sorted(inner)[script.byte() % len(inner)]] = VALUES[script.byte() % len(VALUES)]
        value[name] = inner
    else:
        value[name] = VALUES[script.byte() % len(VALUES)]
    return {key: value}


def _framed(payload: bytes) -> bytes:
    """Any bytes as the payload of a whole record."""
    whole = journals._record({(0,): 0})
    head = journals._LENGTH.pack(len(payload), journals.zlib.crc32(payload))
    assert len(whole) > journals._HEADER
    return head + journals._CHECK.pack(journals.zlib.crc32(head)) + payload


def _read(content: bytes) -> dict | None:
    path = Path(_FOLDER.name) / "journal"
    path.write_bytes(content)
    try:
        journal = Journal(path)
    except JournalError:
        return None
    entries = dict(journal.entries)
    journal.close()
    # What was read is what the next coordinator reads.
    again = Journal(path)
    assert again.entries == entries or _has_nan(entries)
    again.close()
    return entries


def _has_nan(entries: dict) -> bool:
    return b"nan" in msgpack.packb(repr(entries))
