"""Sends and receives in a round: what judge makes of them, and how they travel."""

from __future__ import annotations

import itertools
import uuid

import pytest
from verdicts import decode_verdict

from collectives.membership.fields import MalformedError
from collectives.membership.report import (
    Entry,
    Epoch,
    Pair,
    Report,
    Stand,
    Standing,
    Veto,
    decode_report,
    encode_report,
    encode_verdict,
)
from collectives.membership.verdict import MISMATCH, PEER_LOST, judge

A, B, C = (uuid.UUID(int=n) for n in (1, 2, 3))
VIEW = (A, B, C)
EPOCH = Epoch(1, 1, 4, 1)
PAIR = Pair(7, A, B)


def sending(number: int = 5) -> Report:
    """What A says that waits for B's token: it is complete, whatever has come of it."""
    return Report({PAIR: number - 1}, (Entry(PAIR, number, Standing.COMPLETE, root=1),))


def receiving(number: int = 5, sender: uuid.UUID | None = A) -> Report:
    order = Pair(7, sender, B)
    root = None if sender is None else 0
    return Report({order: number - 1}, (Entry(order, number, Standing.RUNNING, root=root),))


def test_it_stands_iff_the_receiver_has_settled_it():
    settled = Report({PAIR: 5})
    ahead = Report({PAIR: 3}, (Entry(PAIR, 5, Standing.SETTLED),))
    for theirs in (settled, ahead):
        assert judge({A: sending(), B: theirs, C: Report()}, VIEW).stands == (Stand(PAIR, 5),)
    for theirs in (receiving(), Report({PAIR: 4}), Report()):
        verdict = judge({A: sending(), B: theirs, C: Report()}, VIEW)
        assert verdict.stands == () and verdict.error is None  # it is repeated


def test_the_senders_being_complete_counts_for_nothing_without_its_receiver():
    verdict = judge({A: sending(), C: Report()}, VIEW, lost="B is lost", culprit=B)
    assert verdict.stands == ()
    assert verdict.error is not None and verdict.error.status == PEER_LOST


def test_a_lost_sender_is_the_end_of_a_receive_from_it_but_not_from_any():
    lost = {"lost": "A is lost", "culprit": A}
    error = judge({B: receiving(), C: Report()}, VIEW, **lost).error
    assert error is not None and error.culprit == A
    assert judge({B: receiving(sender=None), C: Report()}, VIEW, **lost).error is None


def test_a_third_ones_death_repeats_it():
    verdict = judge({A: sending(), B: receiving()}, VIEW, lost="C is lost", culprit=C)
    assert verdict.stands == () and verdict.error is None


def test_orders_are_apart():
    """The same tag and number, of others: nothing of one is taken for another."""
    back = Pair(7, B, A)
    theirs = Report({7: 5, back: 5, Pair(8, A, B): 5, PAIR: 4}, (Entry(7, 6, Standing.COMPLETE),))
    mine = Report(
        {7: 5, PAIR: 4, back: 4},
        (
            Entry(7, 6, Standing.COMPLETE),
            Entry(PAIR, 5, Standing.COMPLETE, root=1),
            Entry(back, 5, Standing.COMPLETE, root=1),
        ),
    )
    verdict = judge({A: mine, B: theirs}, (A, B))
    assert set(verdict.stands) == {Stand(7, 6), Stand(back, 5)}


def test_a_mismatch_of_two_is_the_error_of_all_that_does_not_stand():
    vetoed = Report({PAIR: 4}, receiving().entries, (Veto(PAIR, 5, MISMATCH, 0, "differ"),))
    other = Report({0: 0}, (Entry(0, 1, Standing.RUNNING),))
    verdict = judge({A: sending(), B: vetoed, C: other}, VIEW)
    assert verdict.stands == ()
    assert verdict.error is not None and verdict.error.text == "differ"


def test_reports_and_verdicts_travel():
    orders = [3, PAIR, Pair(7, B, A), Pair(7, None, B)]
    mine = [
        order for order in orders if isinstance(order, int) or B in (order.sender, order.receiver)
    ]
    report = Report(
        {order: n for n, order in enumerate(mine)},
        tuple(Entry(order, n + 1, Standing.RUNNING, root=n % 3) for n, order in enumerate(mine)),
        tuple(Veto(order, n + 1, 2, None, f"veto {n}") for n, order in enumerate(mine)),
    )
    data = encode_report(EPOCH, B, report)
    assert decode_report(data) == (EPOCH, B, report)
    for end in range(len(data)):
        with pytest.raises(MalformedError):
            decode_report(data[:end])
    verdict = judge({A: sending(), B: Report({PAIR: 5}), C: Report()}, VIEW)
    for members in itertools.permutations(VIEW):
        found = decode_verdict(encode_verdict(EPOCH, verdict, 1, 5, bytes(32), members))
        assert found.verdict == verdict


def test_an_order_that_a_report_does_not_have_is_refused():
    data = bytearray(encode_report(EPOCH, B, receiving()))
    orders = 32 + 16 + 4
    entries = orders + 32 + 4
    for at in (orders + 4, entries):  # the role of the first, the place that an entry names
        broken = bytearray(data)
        broken[at] = 9
        with pytest.raises(MalformedError):
            decode_report(bytes(broken))
