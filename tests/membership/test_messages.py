from __future__ import annotations

import dataclasses
import uuid

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collectives.membership import codec, messages, wire
from collectives.membership.codec import OtherVersionError, UnknownKindError, decode, encode
from collectives.membership.fields import (
    Bytes,
    Field,
    Flag,
    Int,
    ListOf,
    MalformedError,
    Record,
    Text,
    Uuid,
)
from collectives.membership.messages import Alive, Commit, Hello, Proof
from collectives.membership.wire import clip

ALL = [cls for cls, _ in codec.KINDS.values()]
PLAIN = st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"))
HELLO = Hello(uuid.UUID(int=1), "default", "lab-3", ("127.0.0.1:1",), 2)


def values(field: Field) -> st.SearchStrategy:
    """Everything that a field may carry, kept small."""
    if isinstance(field, Int):
        return st.integers(field.low, field.high)
    if isinstance(field, Flag):
        return st.booleans()
    if isinstance(field, Text):
        short = st.text(PLAIN, min_size=0 if field.empty else 1, max_size=20)
        return short.filter(lambda text: len(text.encode()) <= field.limit)
    if isinstance(field, Bytes):
        return st.binary(min_size=field.low, max_size=min(field.high, field.low + 50))
    if isinstance(field, Uuid):
        return st.uuids()
    if isinstance(field, ListOf):
        return st.lists(values(field.item), max_size=3).map(tuple)
    assert isinstance(field, Record)
    return st.tuples(*(values(part) for part in field.parts)).map(lambda v: field.build(*v))


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.kind)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_every_message_survives_the_wire(cls, data):
    fields = {f.name: data.draw(values(f.metadata["wire"])) for f in dataclasses.fields(cls)}
    message = cls(**fields)
    assert decode(encode(message)) == message


def tampered(message, **body) -> bytes:
    envelope = msgpack.unpackb(encode(message))
    for key, value in body.items():
        if value is ...:
            del envelope["b"][key]
        else:
            envelope["b"][key] = value
    return msgpack.packb(envelope)


def test_fields_from_the_future_are_ignored():
    assert decode(tampered(HELLO, colour="blue", weights={"a": [1]})) == HELLO
    view_like = msgpack.unpackb(encode(HELLO))
    view_like["x"] = 1
    assert decode(msgpack.packb(view_like)) == HELLO


def test_a_missing_field_takes_its_default_if_it_has_one():
    assert decode(tampered(HELLO, unit=...)) == HELLO
    with pytest.raises(MalformedError, match=r"hello\.min_size is missing"):
        decode(tampered(HELLO, min_size=...))


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("min_size", 0, "outside 1 to 1024"),
        ("min_size", 1025, "outside"),
        ("min_size", True, "not an integer"),
        ("min_size", 2.0, "not an integer"),
        ("min_size", None, "not an integer"),
        ("peer", b"short", "outside 16 to 16"),
        ("peer", "x" * 16, "not bytes"),
        ("name", "", "is empty"),
        ("name", "x" * 64, "more than 63"),
        ("name", "ü" * 32, "64 bytes"),
        ("name", "a\nb", "control characters"),
        ("name", "a\x1b[31m", "control characters"),
        ("addresses", "127.0.0.1:1", "not a list"),
        ("addresses", ["a:1"] * 17, "more than 16"),
        ("addresses", ["a" * 129], "more than 128"),
        ("features", -1, "outside"),
        ("term", 2**64 - 1, ""),
    ],
)
def test_a_field_out_of_its_bounds_is_refused_by_name(field, value, why):
    data = tampered(HELLO, **{field: value})
    if not why:
        assert getattr(decode(data), field) == value
        return
    with pytest.raises(MalformedError, match=rf"hello\.{field} ") as caught:
        decode(data)
    assert why in str(caught.value)


def test_another_protocol_version_is_told_by_its_range():
    with pytest.raises(OtherVersionError) as caught:
        decode(encode(HELLO, versions=(2, 3)))
    assert (caught.value.low, caught.value.high) == (2, 3)
    assert decode(encode(HELLO, versions=(1, 7))) == HELLO
    # The rest of such a message may be anything: only its envelope is ours to read.
    alien = msgpack.packb({"p": [9, 9], "k": 7, "b": None})
    with pytest.raises(OtherVersionError):
        decode(alien)


def test_an_unknown_kind_is_told_apart():
    with pytest.raises(UnknownKindError, match="unknown kind 'dance'"):
        decode(msgpack.packb({"p": [1, 1], "k": "dance", "b": {}}))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"GET / HTTP/1.1\r\n\r\n",
        msgpack.packb(7),
        msgpack.packb([]),
        msgpack.packb({"p": [1, 1]}),
        msgpack.packb({"p": [1], "k": "alive", "b": {}}),
        msgpack.packb({"p": [3, 2], "k": "alive", "b": {}}),
        msgpack.packb({"p": [1, 1], "k": "alive", "b": []}),
        msgpack.packb({"p": [1, 1], "k": b"alive", "b": {}}),
        msgpack.packb({1: 2}),
        b"\x91" * 100_000,
        b"\xdf\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff" + b"\xc0" * 100,
        msgpack.packb(msgpack.ExtType(5, b"x")),
        encode(HELLO)[:-3],
        encode(HELLO) + b"\0",
    ],
)
def test_what_is_no_message_is_malformed(data):
    with pytest.raises(MalformedError):
        decode(data)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=300))
def test_no_bytes_do_worse_than_being_malformed(data):
    with pytest.raises(MalformedError):
        decode(data)


@settings(max_examples=200, deadline=None)
@given(
    at=st.integers(0, 10**6),
    flip=st.integers(1, 255),
    message=st.sampled_from([HELLO, Proof(b"m" * 32), Alive(1, 1, 5, 6, True), Commit(1, 1, 2, 9)]),
)
def test_a_changed_byte_is_malformed_or_another_valid_message(at, flip, message):
    data = bytearray(encode(message))
    data[at % len(data)] ^= flip
    try:
        decoded = decode(bytes(data))
    except MalformedError:
        return
    assert decode(encode(decoded)) == decoded


def test_a_message_over_the_limit_is_refused_before_it_is_parsed():
    with pytest.raises(MalformedError, match="more than 1000"):
        decode(b"\x91" * 1001, limit=1000)


def test_nothing_out_of_bounds_can_be_sent():
    with pytest.raises(MalformedError, match=r"hello\.name has 64 bytes"):
        encode(dataclasses.replace(HELLO, name="x" * 64))
    with pytest.raises(MalformedError, match=r"hello\.min_size is 0"):
        encode(dataclasses.replace(HELLO, min_size=0))


def test_a_peer_without_the_fields_of_a_newer_version_has_their_defaults():
    from collectives.membership.view import Peer

    older = [uuid.UUID(int=3).bytes, "lab-3", ["h:1"], "unit"]
    assert wire.PEER.decode(older) == Peer(uuid.UUID(int=3), "lab-3", ("h:1",), "unit")
    with pytest.raises(MalformedError, match="at least 4 entries"):
        wire.PEER.decode(older[:3])


def test_the_largest_view_fits_a_message():
    from collectives.membership.view import Peer, View

    peers = tuple(
        Peer(uuid.uuid4(), "n" * 59 + f"{i:04d}", ("a" * 128,) * 16, "u" * 63, "p" * 127)
        for i in range(1024)
    )
    data = encode(messages.Prepare(View("g", 1, 1, 1, peers, b"k" * 32)))
    assert len(data) <= wire.MAX_TO_PEER
    assert decode(data).view.peers == peers


@given(text=st.text(st.characters(), max_size=400))
def test_clipped_text_is_fit_for_a_message(text):
    clipped = clip(text)
    assert decode(encode(messages.Denied(clipped))).text == clipped
