"""Probes of the operating system: shared memory, descriptors, sockets, process death."""

from __future__ import annotations

import fcntl
import os
import resource
import socket
from collections.abc import Callable
from pathlib import Path

from collectives.cli._doctor.finding import Finding, Status, as_root

ENOUGH_FILES = 1024
MANY_FILES = 4096
ENOUGH_SHM = 64 << 20


def shared_memory(folder: str = "/dev/shm") -> Finding:
    """Sealed memory files, and the size of /dev/shm."""
    try:
        descriptor = os.memfd_create("collectives-doctor", os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(descriptor, 4096)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        finally:
            os.close(descriptor)
    except (OSError, AttributeError) as error:
        detail = f"no sealed memory files ({error}); peers on one host talk over TCP"
        return Finding("shared-memory", Status.LIMITED, detail)
    try:
        figures = os.statvfs(folder)
    except OSError:
        detail = f"memfd with seals; there is no {folder}, which torch's data loaders want"
        return Finding("shared-memory", Status.LIMITED, detail)
    size = figures.f_blocks * figures.f_frsize
    detail = f"memfd with seals; {folder} has {size >> 20} MiB"
    if size < ENOUGH_SHM:
        cure = as_root(f"mount -o remount,size=1g {folder}")
        detail += ", which torch's data loaders soon fill (in a container: --shm-size=1g)"
        return Finding("shared-memory", Status.LIMITED, detail, cure)
    return Finding("shared-memory", Status.OK, detail)


def can_use_congestion_control(name: str) -> bool:
    """Tell whether this process may set the congestion control on a socket of its own."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())
        except OSError:
            return False
    return True


def congestion_control(
    usable: Callable[[str], bool] = can_use_congestion_control,
    settings: Path = Path("/proc/sys/net/ipv4"),
) -> Finding:
    """Which TCP congestion controls this process may choose per connection."""

    def read(name: str) -> list[str]:
        try:
            return (settings / name).read_text(encoding="utf-8").split()
        except OSError:
            return []

    available = read("tcp_available_congestion_control")
    default = " ".join(read("tcp_congestion_control")) or "unknown"
    may = [name for name in ("cubic", "bbr", "reno") if usable(name)]
    detail = f"may use {', '.join(may) or 'only the default'} (default: {default})"
    if "cubic" in may:
        return Finding("congestion-control", Status.OK, detail)
    detail += "; cubic is the fastest on a LAN and within one host"
    if "cubic" in available:
        allowed = " ".join(dict.fromkeys([*read("tcp_allowed_congestion_control"), "cubic"]))
        key = "net.ipv4.tcp_allowed_congestion_control"
        return Finding(
            "congestion-control", Status.LIMITED, detail, f'sudo sysctl -w {key}="{allowed}"'
        )
    return Finding("congestion-control", Status.LIMITED, f"{detail}; this kernel lacks it")


def may_raise_limits() -> bool:
    """Tell whether this process has CAP_SYS_RESOURCE; root in a container may lack it."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return False
    effective = next((line for line in status.splitlines() if line.startswith("CapEff:")), "0:0")
    return bool(int(effective.split(":")[1], 16) >> 24 & 1)


def open_files(limits: tuple[int, int] | None = None, may_raise: bool | None = None) -> Finding:
    """How many descriptors the process may have: each peer costs one per connection."""
    soft, hard = limits or resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= ENOUGH_FILES:
        number = "no limit" if soft == resource.RLIM_INFINITY else str(soft)
        return Finding("open-files", Status.OK, f"{number} per process")
    detail = (
        f"{soft} per process; with 8 connections to each that is {max(0, soft - 40) // 8} peers"
    )
    may_raise = may_raise_limits() if may_raise is None else may_raise
    if may_raise or hard == resource.RLIM_INFINITY or hard >= MANY_FILES:
        cure = f"ulimit -n {MANY_FILES}"
    elif hard >= ENOUGH_FILES:
        cure = f"ulimit -n {hard}"
    else:
        cure = ""
        detail += f"; the hard limit is {hard}: LimitNOFILE=, limits.conf or --ulimit nofile set it"
    return Finding("open-files", Status.LIMITED, detail, cure)


def can_connect(family: socket.AddressFamily, host: str) -> str:
    """Connect to a listener on ``host``; return why that failed, or an empty string."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.bind((host, 0))
            listener.listen(1)
            with socket.socket(family, socket.SOCK_STREAM) as dialler:
                dialler.settimeout(2.0)
                dialler.connect(listener.getsockname()[:2])
    except OSError as error:
        return str(error)
    return ""


def loopback() -> Finding:
    """Whether processes on this host can reach each other over TCP."""
    problem = can_connect(socket.AF_INET, "127.0.0.1")
    if not problem:
        return Finding("loopback", Status.OK, "127.0.0.1 accepts connections")
    detail = f"127.0.0.1 cannot be connected to: {problem}"
    return Finding("loopback", Status.BROKEN, detail, as_root("ip link set lo up"))


def ipv6() -> Finding:
    """Whether IPv6 sockets work here."""
    problem = can_connect(socket.AF_INET6, "::1")
    if not problem:
        return Finding("ipv6", Status.OK, "::1 accepts connections")
    detail = f"::1 cannot be connected to: {problem}; IPv4 works without"
    try:
        disabled = Path("/proc/sys/net/ipv6/conf/lo/disable_ipv6").read_text(encoding="utf-8")
    except OSError:
        return Finding("ipv6", Status.ABSENT, f"{detail}; this kernel has no IPv6")
    cure = ""
    if disabled.strip() == "1":
        cure = as_root("sysctl -w net.ipv6.conf.all.disable_ipv6=0")
    return Finding("ipv6", Status.ABSENT, detail, cure)


def pidfd() -> Finding:
    """Whether the death of a process on this host can be seen by the kernel's own word."""
    without = "a killed peer on this host is noticed by its closed connections alone"
    if not hasattr(os, "pidfd_open"):
        return Finding("pidfd", Status.LIMITED, f"this Python has no pidfd_open; {without}")
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return Finding("pidfd", Status.LIMITED, f"{error} (Linux 5.3 or newer has it); {without}")
    return Finding("pidfd", Status.OK, "the kernel reports the death of local peers")
