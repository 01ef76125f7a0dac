from __future__ import annotations

import pytest

from collectives.errors import InvalidArgument
from collectives.membership.address import Address, parse_address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.0.0.3:41873", "10.0.0.3", 41873),
        ("coordinator.example", "coordinator.example", 7077),
        ("coordinator.example:1", "coordinator.example", 1),
        (" localhost:0 ", "localhost", 0),
        ("[::1]:7078", "::1", 7078),
        ("[fe80::1%eth0]", "fe80::1%eth0", 7077),
        ("tcp://host:9", "host", 9),
        ("*:7077", "*", 7077),
    ],
)
def test_an_address_is_taken_apart(text, host, port):
    assert parse_address(text) == Address(host, port)
    assert parse_address(str(Address(host, port))) == Address(host, port)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "host is missing"),
        (":7077", "host is missing"),
        ("host:", "port is ''"),
        ("host:http", "port is 'http'"),
        ("host:65536", "port is '65536'"),
        ("host:-1", "port is '-1'"),
        ("host:٣", "port is"),
        ("::1:7077", "in brackets"),
        ("[::1:7077", "not closed"),
        ("[::1]7077", "follows the bracket"),
        ("[host]:1", "for IPv6"),
        ("udp://host:1", "only TCP"),
        ("ho st:1", "no host"),
        ("host/path:1", "no host"),
    ],
)
def test_what_is_no_address_is_refused_with_the_reason(text, why):
    with pytest.raises(InvalidArgument, match="is not a usable address") as caught:
        parse_address(text)
    assert why in str(caught.value)
    assert "HOST:PORT" in str(caught.value)


def test_the_port_is_asked_for_where_there_is_no_default():
    with pytest.raises(InvalidArgument, match="the port is missing"):
        parse_address("host", default_port=None)
