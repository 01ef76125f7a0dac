"""Asking a coordinator how its run is, without being a peer. Called by ``collectives status``."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

import zmq

from collectives.errors import CoordinatorUnreachable, NotAuthorized, VersionSkew
from collectives.membership import codec, messages, wire
from collectives.membership.address import Address, parse_addresses, resolve
from collectives.membership.fields import MalformedError
from collectives.membership.ledger import prove

_AGAIN = 0.5


def query_status(address: str, *, token: str | None = None, timeout: float = 5.0) -> dict[str, Any]:
    """The coordinator's ``status.snapshot``.

    Args:
        address: the coordinator's; of several, separated by commas, the first that answers counts.
        token: the run token, if the run has one.
        timeout: seconds to wait for the answer.

    Raises:
        CoordinatorUnreachable: nobody answered in time.
        NotAuthorized: the run token is wrong or missing.
        VersionSkew: no common protocol version.
        InvalidArgument: the address is none.
    """
    parsed_all = parse_addresses(address)
    failures = []
    for parsed in parsed_all:
        try:
            return _query(parsed, token, timeout / len(parsed_all))
        except CoordinatorUnreachable as error:
            failures.append(str(error))
    raise CoordinatorUnreachable("; ".join(failures))


def _query(parsed: Address, token: str | None, timeout: float) -> dict[str, Any]:
    try:
        target = resolve(parsed)
    except OSError as error:
        raise CoordinatorUnreachable(f"{parsed}: {error.strerror}; check the address") from None
    query = messages.StatusQuery(uuid.uuid4())
    deadline = time.monotonic() + timeout
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.IPV6, 1)
        socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_TO_PEER)
        socket.connect(target.endpoint)
        message: wire.Message = query
        while time.monotonic() < deadline:
            socket.send(codec.encode(message))
            answer = _receive(socket, min(deadline, time.monotonic() + _AGAIN), str(parsed))
            message = query
            if isinstance(answer, messages.StatusReply):
                picture: dict[str, Any] = json.loads(answer.json)
                return picture
            if isinstance(answer, messages.Challenge):
                mac = prove((token or "").encode(), answer.nonce, query.client)
                message = messages.Proof(mac, answer.nonce)
            elif isinstance(answer, messages.Denied):
                raise NotAuthorized(
                    f"the coordinator at {parsed} refused the query: {answer.text}; pass the run's"
                    " token with --token or in $COLLECTIVES_TOKEN"
                )
            elif isinstance(answer, messages.Skew):
                raise _skew(str(parsed), answer.low, answer.high)
    raise CoordinatorUnreachable(
        f"no coordinator answered at {parsed} within {timeout:g} s; check the address, and that"
        " `collectives coordinator` runs there"
    )


def _receive(socket: zmq.Socket[bytes], deadline: float, address: str) -> wire.Message | None:
    """The next answer, None if none comes until the deadline."""
    left = max(0, int((deadline - time.monotonic()) * 1000))
    if not socket.poll(left):
        return None
    try:
        return codec.decode(socket.recv_multipart()[-1])
    except codec.OtherVersionError as other:
        raise _skew(address, other.low, other.high) from None
    except MalformedError:
        return None


def _skew(address: str, low: int, high: int) -> VersionSkew:
    mine = wire.VERSIONS
    return VersionSkew(
        f"the coordinator at {address} speaks protocol versions {low} to {high}, this build"
        f" {mine[0]} to {mine[1]}; install the same release of collectives on both sides"
    )
