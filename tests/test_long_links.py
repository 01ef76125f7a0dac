"""As many connections as a long link needs, and no more. On the emulator, so it takes root."""

from __future__ import annotations

import pytest

from collectives.bench import link
from collectives.errors import InvalidArgument
from far_hosts import needs_root


@pytest.mark.full  # a minute each, and rates are to be measured on a machine that has time
@needs_root
def test_connections_are_added_where_one_does_not_fill_the_link() -> None:
    found = link.measure(
        link.parse("40M", 20, 0.01), size=1 << 20, seconds=2, warm_up=11, send_buffer=32 << 10
    )
    print("\n".join(found.lines()))
    assert found.one.connections == 1
    assert found.adaptive.connections > 2
    assert found.adaptive.payload > 1.5 * found.one.payload
    assert found.wrong == found.adaptive.broken == 0


@pytest.mark.full  # a minute each, and rates are to be measured on a machine that has time
@needs_root
def test_connections_that_do_not_help_are_let_go_and_nothing_is_lost_with_them() -> None:
    found = link.measure(link.parse("10M", 20, 0), size=1 << 19, seconds=2, warm_up=6)
    print("\n".join(found.lines()))
    # One of them for small operations; two that share a narrow link may look a little better.
    assert 2 <= found.adaptive.connections <= 3
    assert found.adaptive.payload > 0.7 * found.one.payload
    assert found.wrong == found.adaptive.broken == 0


@pytest.mark.parametrize("rate", ["", "fast", "0", "1T", "-5M"])
def test_what_is_no_rate_is_refused(rate: str) -> None:
    with pytest.raises(InvalidArgument, match="is no rate"):
        link.parse(rate, 10, 0)
