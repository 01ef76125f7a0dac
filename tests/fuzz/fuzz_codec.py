"""Control messages of both directions, reports and issued verdicts: bytes from anybody.

What is decoded must be encoded to the same again; nothing but ``MalformedError`` is raised.
"""

from __future__ import annotations

import msgpack
from script import Script, raw

from collectives.membership.codec import KINDS, decode, encode
from collectives.membership.fields import MalformedError
from collectives.membership.report import (
    MAX_TEXT,
    decode_issued,
    decode_report,
    encode_report,
)
from collectives.membership.wire import MAX_TO_COORDINATOR, MAX_TO_PEER

NAMES = sorted(KINDS)


def run(data: bytes) -> None:
    if not data:
        return
    how, data = data[0], data[1:]
    if how < 0x40:
        _message(data)
    elif how < 0xC0:
        _message(_assemble(how, Script(data)))
    elif how < 0xF0:
        _report(data)
    else:
        _issued(data)


def _assemble(how: int, script: Script) -> bytes:
    """A message of some kind, whose fields are mostly right; then some of its bytes changed."""
    name = NAMES[script.byte() % len(NAMES)]
    body = {}
    for field_name, field, _ in KINDS[name][1]:
        if script.byte() < 0xF8:
            body[field_name] = raw(field, script)
    envelope = {"p": [1, script.near(1)], "k": name, "b": body}
    try:
        packed = bytearray(msgpack.packb(envelope))
    except (OverflowError, UnicodeEncodeError):
        return b""
    for _ in range(max(0, how - 0xB8)):
        packed[script.number() % len(packed)] ^= script.byte()
    return bytes(packed)


def _message(data: bytes) -> None:
    for limit in (MAX_TO_COORDINATOR, MAX_TO_PEER):
        try:
            message = decode(data, limit=limit)
        except MalformedError:
            continue
        again = encode(message)
        assert decode(again, limit=limit) == message
        assert encode(decode(again)) == again


def _report(data: bytes) -> None:
    try:
        epoch, peer, report = decode_report(data)
    except MalformedError:
        return
    # A text with bytes that are no UTF-8 grows, and may be cut then.
    if all(len(veto.text.encode()) <= MAX_TEXT for veto in report.vetoes):
        assert decode_report(encode_report(epoch, peer, report)) == (epoch, peer, report)


def _issued(data: bytes) -> None:
    try:
        _, _, _, key, members = decode_issued(data)
    except MalformedError:
        return
    assert len(key) == 32 and 80 + 4 + 16 * len(members) <= len(data)
