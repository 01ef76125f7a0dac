"""What fuzzing has found, told as a claim each; the inputs that showed it are in the corpus."""

from __future__ import annotations

import uuid

import numpy as np
import pytest

from collectives._native import lib
from collectives._native.engine import EnginePeer
from collectives.membership.fields import MalformedError
from collectives.membership.report import (
    Epoch,
    Error,
    Report,
    Verdict,
    Veto,
    decode_report,
    encode_epoch,
    encode_report,
    encode_verdict,
)
from raw_peer import (
    EAGER,
    OPEN,
    QUERY,
    Call,
    Frame,
    Hello,
    Pair,
    connect,
    greet,
    is_closed,
    open_group,
    read_frame,
)

ABSENT = 4
SEAL, REPORT, VERDICT = 10, 11, 12
EPOCH = Epoch(1, 1, 1, 1)


@pytest.fixture
def pair():
    with Pair(recovery=0.5) as made:
        yield made


def test_a_frame_before_the_first_view_is_ignored(pair):
    group = open_group(
        pair.a,
        3,
        0,
        [EnginePeer(pair.ids[0], "A", ()), EnginePeer(pair.raw, "raw", ())],
        pair.raw_key,
    )
    with connect(pair.a.addresses[0]) as connection:
        greet(connection, Hello(pair.raw, pair.ids[0], group=3).encode(), pair.raw_key)
        connection.sendall(Frame(group=3, term=0, view=0, payload=b"x" * 8, place=1).encode())
        connection.sendall(Frame(type=QUERY, sequence=2, place=2).encode())
        answer = read_frame(connection)
    assert answer is not None and (answer.type, answer.flags & ABSENT) == (OPEN, ABSENT)
    group.close()


def test_only_data_counts_against_the_eager_window(pair):
    with pair.member() as connection:
        connection.sendall(Frame(OPEN, EAGER, b"x" * 100, operation=0, place=1).encode())
        connection.sendall(Frame(flags=EAGER, payload=b"x" * 8, sequence=2, place=2).encode())
        connection.sendall(Frame(type=QUERY, sequence=3, place=3).encode())
        answer = read_frame(connection)
    assert answer is not None and answer.operation == 1
    assert pair.count("corrupt_frames") == 0


@pytest.mark.parametrize("members", [(0, 0), (0, 1, 1), (0, 1, 0)])
def test_a_verdict_that_names_a_member_twice_is_refused(pair, members):
    assert judged(pair, Verdict(), members) == lib.COLL_INVALID_ARGUMENT
    assert judged(pair, Verdict(), (0, 1)) == lib.COLL_OK


def test_a_verdict_whose_error_is_none_is_refused(pair):
    verdict = Verdict((), Error(lib.COLL_IN_PROGRESS, None, "soon"))
    assert judged(pair, verdict, (0, 1)) == lib.COLL_INVALID_ARGUMENT


def test_who_passes_on_a_verdict_that_puts_him_out_is_not_answered(pair):
    """Its link is closed by what comes over it. What could go wrong then, `make sanitize` sees."""
    with pair.member() as connection:
        seal = Frame(SEAL, payload=encode_epoch(EPOCH), place=1)
        data = encode_verdict(EPOCH, Verdict(), 1, 2, b"k" * 32, (pair.ids[0],))
        connection.sendall(seal.encode())
        report = read_frame(connection)
        connection.sendall(Frame(VERDICT, payload=data, sequence=2, place=2).encode())
        assert report is not None and report.type == REPORT
        assert is_closed(connection)
    alone = np.arange(10)
    assert Call(pair.raw_group, lib.COLL_ALL_REDUCE, alone).wait()[0] == lib.COLL_OK


def judged(pair: Pair, verdict: Verdict, members: tuple[int, ...]) -> int:
    """What A says to a verdict about the view that it shares with the raw peer."""
    handle = pair.raw_group.handle
    assert lib.coll_group_seal(handle, encode_epoch(EPOCH)) == lib.COLL_OK
    ids = [pair.ids[0], pair.raw]
    data = encode_verdict(EPOCH, verdict, 1, 2, b"k" * 32, tuple(ids[i] for i in members))
    return int(lib.coll_group_judge(handle, data, len(data)))


@pytest.mark.parametrize("status", [lib.COLL_OK, lib.COLL_IN_PROGRESS])
def test_a_veto_without_an_error_is_malformed(status):
    veto = Veto(0, 1, status, None, "no error")
    with pytest.raises(MalformedError, match="which is no error"):
        decode_report(encode_report(EPOCH, uuid.uuid4(), Report(vetoes=(veto,))))
