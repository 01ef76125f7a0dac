"""The one place where ``HOST:PORT`` texts are taken apart.

Called by the agent, the server and the command line. ``parse_address`` opens and resolves
nothing; ``resolve`` does both where ZeroMQ cannot be left to it.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import socket

from collectives.errors import InvalidArgument

DEFAULT_PORT = 7077


@dataclasses.dataclass(frozen=True)
class Address:
    """A host (name, IPv4 or IPv6 without brackets; ``*`` for all interfaces) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def endpoint(self) -> str:
        """What ZeroMQ wants to be told."""
        return f"tcp://{self}"


def parse_address(text: str, *, default_port: int | None = DEFAULT_PORT) -> Address:
    """Take an address apart: ``HOST``, ``HOST:PORT``, ``[V6]`` or ``[V6]:PORT``.

    Args:
        text: the address.
        default_port: the port where the text names none; None: the text must name one.

    Raises:
        InvalidArgument: the text is no address; the message says what is wrong with it.
    """
    trimmed = text.strip()
    if "://" in trimmed:
        scheme, _, trimmed = trimmed.partition("://")
        if scheme != "tcp":
            raise _bad(text, f"{scheme}:// is not supported, only TCP is")
    if trimmed.startswith("["):
        host, bracket, rest = trimmed[1:].partition("]")
        if not bracket:
            raise _bad(text, "the bracket of the IPv6 address is not closed")
        if ":" not in host:
            raise _bad(text, "brackets are for IPv6 addresses")
        if rest and not rest.startswith(":"):
            raise _bad(text, f"{rest!r} follows the bracket")
        port_text = rest[1:] if rest else None
    elif trimmed.count(":") > 1:
        raise _bad(text, "an IPv6 address is written in brackets, as in [::1]:7077")
    else:
        host, colon, after = trimmed.partition(":")
        port_text = after if colon else None
    if not host or any(character.isspace() or character in "/@?#" for character in host):
        raise _bad(text, "the host is missing" if not host else f"{host!r} is no host")
    if port_text is None:
        if default_port is None:
            raise _bad(text, "the port is missing")
        return Address(host, default_port)
    if not (port_text.isascii() and port_text.isdigit()) or not 0 <= int(port_text[:6]) <= 65535:
        raise _bad(text, f"the port is {port_text!r}, it must be a number from 0 to 65535")
    return Address(host, int(port_text))


def parse_addresses(text: str) -> tuple[Address, ...]:
    """Take a list of addresses apart: ``HOST:PORT,HOST:PORT``; those named twice count once.

    Raises:
        InvalidArgument: one of them is no address, or has port 0.
    """
    found = tuple(dict.fromkeys(parse_address(part) for part in text.split(",")))
    for address in found:
        if address.port == 0:
            raise InvalidArgument(f"address {str(address)!r} has port 0; name the coordinator's")
    return found


def is_numeric(address: Address) -> bool:
    """Whether the host is an IP address, so that there is nothing to resolve."""
    try:
        ipaddress.ip_address(address.host.partition("%")[0])
    except ValueError:
        return False
    return True


def resolve(address: Address, patience: float = 1.0) -> Address:
    """The numeric address to dial for a host name.

    ZeroMQ takes the first address of a name, and for ``localhost`` that may be ``::1`` where the
    other side listens on ``127.0.0.1``. So of several addresses the first that accepts a
    connection is taken, or the first of all if none does.

    Args:
        address: any address.
        patience: seconds for each connection attempt.

    Raises:
        OSError: the name is unknown.
    """
    if is_numeric(address):
        return address
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    hosts = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if len(hosts) > 1:
        for host in hosts:
            try:
                socket.create_connection((host, address.port), patience).close()
            except OSError:
                continue
            return Address(host, address.port)
    return Address(hosts[0], address.port)


def _bad(text: str, why: str) -> InvalidArgument:
    return InvalidArgument(f"{text!r} is not a usable address: {why}; write HOST:PORT")
