"""``join``: from an address to a ``Group``."""

from __future__ import annotations

import os
import socket

from collectives.errors import InvalidArgument
from collectives.group import Group
from collectives.incarnation import Application
from collectives.options import Options
from collectives.state.shared import SharedState

COORDINATOR_VARIABLE = "COLLECTIVES_COORDINATOR"
TOKEN_VARIABLE = "COLLECTIVES_TOKEN"


def join(
    address: str | None = None,
    *,
    group: str = "default",
    name: str | None = None,
    min_size: int = 1,
    unit: str = "",
    token: str | None = None,
    timeout: float | None = None,
    options: Options | None = None,
    state: SharedState | None = None,
) -> Group:
    """Join a group and wait until this peer is in its view.

    The group's first view forms when ``min_size`` peers are there; later ones are admitted when
    all members call ``group.sync()``. While it waits it logs for whom.

    Args:
        address: the coordinator's ``HOST:PORT``; None: ``$COLLECTIVES_COORDINATOR``. Where it may
            be restarted elsewhere, all its addresses, separated by commas: the peer goes to the
            next one while the present one is silent or serves another run.
        group: name of the group.
        name: this peer's name, for people; None: made of host name and process id. The
            coordinator makes it unique.
        min_size: the group's first view forms when so many peers are there.
        unit: peers of the same unit are admitted together.
        token: the run token, if the run has one; None: ``$COLLECTIVES_TOKEN``.
        timeout: seconds to wait; None: ``options.timeout``.
        options: how to listen and talk; None: the defaults.
        state: what is passed to ``sync`` later. While this peer waits for its admission it fetches
            what the members share, without holding them up, and is not admitted before; its first
            ``sync(state)`` fetches what has changed since. It must not be used before ``join`` has
            returned; after an error it may hold parts of two states (``SharedState.complete``).

    Raises:
        CoordinatorUnreachable: nobody answers at the address.
        NotAuthorized: the token is wrong or missing.
        VersionSkew: no common protocol version.
        Evicted: not admitted; the message says why, for example which pair cannot connect.
        Timeout: the group is not complete; the message says who is missing.
        InvalidArgument: an argument makes no sense; nothing was sent.
    """
    if address is None:
        address = os.environ.get(COORDINATOR_VARIABLE)
    if not address:
        raise InvalidArgument(
            "no coordinator address; pass one to join() or set $" + COORDINATOR_VARIABLE
        )
    if token is None:
        token = os.environ.get(TOKEN_VARIABLE)
    options = options or Options()
    if timeout is not None and not timeout > 0:
        raise InvalidArgument(f"timeout is {timeout}; it is in seconds, above 0")
    name = name or f"{socket.gethostname()}-{os.getpid()}"
    application = Application(address, group, name, min_size, unit, token, options)
    return Group._joined_type(application, timeout, state)
