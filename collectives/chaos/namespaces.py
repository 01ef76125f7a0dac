"""Network namespaces of one's own, each with a stack, addresses and ports of its own.

A namespace here has no name and no file: it lives as long as a descriptor or a process holds it, so
that nothing is left of it however its maker ends. A thread can be in one; what it forks, and what
sockets it makes, belongs there. Root is needed, or CAP_SYS_ADMIN and CAP_NET_ADMIN.

    with Namespace() as there:
        listener = there.run(lambda: socket.create_server(("10.99.0.1", 0)))
        ...                       # another process: enter(there.path)
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable
from typing import TypeVar

from collectives.errors import UnsupportedError

_CLONE_NEWNET = 0x40000000
_DEVICE = "/dev/net/tun"
# ioctls of <linux/sockios.h> and flags of <linux/if.h>
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCSIFTXQLEN = 0x8916, 0x891C, 0x8943
_SIOCSIFMTU = 0x8922
_IFF_UP = 1
_WAITING = 10_000  # packets that a device keeps for a reader that is late: none is lost there

_Found = TypeVar("_Found")


class Namespace:
    """A network namespace, whose loopback is up; a context manager.

    Attributes:
        path: by which another process can ``enter`` it, while this one keeps it.

    Raises:
        UnsupportedError: this process may not make one; the message says what would help.
    """

    def __init__(self) -> None:
        def make() -> int:
            _call("unshare", _CLONE_NEWNET)
            descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            _raise_up("lo")
            return descriptor

        try:
            self._descriptor = _in_a_thread(make)
        except OSError as error:
            raise UnsupportedError(
                f"cannot make a network namespace: {error.strerror}; it takes root, and a container"
                " must have CAP_SYS_ADMIN and CAP_NET_ADMIN"
            ) from error
        self.path = f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def __enter__(self) -> Namespace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it: it ends with the last process that is in it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def run(self, do: Callable[[], _Found]) -> _Found:
        """Return what ``do()`` returns, called by a thread that is in the namespace."""

        def there() -> _Found:
            _call("setns", self._descriptor, _CLONE_NEWNET)
            return do()

        return _in_a_thread(there)

    def configure(self, device: str, address: str, mask: str = "255.255.255.0") -> None:
        """Give a device of the namespace its address in a network, and switch it on."""

        def do() -> None:
            _request(_SIOCSIFADDR, device, _address(address))
            _request(_SIOCSIFNETMASK, device, _address(mask))
            _request(_SIOCSIFTXQLEN, device, struct.pack("i", _WAITING))
            _raise_up(device)

        self.run(do)


def enter(path: str) -> None:
    """Have the calling thread, and those that it starts, be in the namespace from now on.

    Raises:
        OSError: it is no more, or this process may not.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call("setns", descriptor, _CLONE_NEWNET)
    finally:
        os.close(descriptor)


def set_mtu(device: str, size: int) -> None:
    """Let packets on a device of the namespace that this thread is in have up to so many bytes."""
    _request(_SIOCSIFMTU, device, struct.pack("i", size))


def require() -> None:
    """Check that namespaces can be had, and devices in them.

    Raises:
        UnsupportedError: they cannot; the message says what would help.
    """
    Namespace().close()
    try:
        os.close(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise UnsupportedError(
            f"cannot open {_DEVICE}: {error.strerror}; load the kernel's module tun (modprobe tun),"
            f" and let a container have the device (docker run --device {_DEVICE})"
        ) from error


def _in_a_thread(do: Callable[[], _Found]) -> _Found:
    """Of its own, as a thread that has gone elsewhere is of no use to others."""
    found: list[_Found] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(do())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="chaos-namespace")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]


def _call(name: str, *arguments: int) -> None:
    """A function of libc that returns 0; Python has these two from 3.12 on."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _address(text: str) -> bytes:
    return struct.pack("@HH4s8x", socket.AF_INET, 0, socket.inet_aton(text))


def _request(number: int, device: str, data: bytes) -> bytes:
    """Ask about a device of the namespace that this thread is in; what struct ifreq then has."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as any_socket:
        request = struct.pack("16s24s", device.encode(), data)
        return fcntl.ioctl(any_socket.fileno(), number, request)[16:]


def _raise_up(device: str) -> None:
    (flags,) = struct.unpack_from("h", _request(_SIOCGIFFLAGS, device, b""))
    _request(_SIOCSIFFLAGS, device, struct.pack("h", flags | _IFF_UP))
