"""The WAN emulator as a process: what is left of it, when it ends, and what it refuses."""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import shaped
import strip
from collectives.chaos.profiles import Direction
from collectives.chaos.wan import WanError
from collectives.errors import InvalidArgument
from far_hosts import Hosts, held, making, needs_root

PROGRAM = strip.ROOT / "collectives" / "_native" / "wan"


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with making() as found:
        yield found


# -- what is left --


@needs_root
def test_nothing_is_left_of_the_namespaces() -> None:
    devices = Path("/proc/net/dev").read_text().count(":")
    with making() as hosts:
        assert len(held()) == 2
        pid = hosts.wan.pid
        hosts.pair()
    assert held() == []
    assert is_gone(pid)
    assert Path("/proc/net/dev").read_text().count(":") == devices


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}/stat").exists()


@needs_root
def test_the_emulator_ends_with_its_owner() -> None:
    owner = (
        "import signal\n"
        "from collectives.chaos.wan import Wan\n"
        "wan = Wan()\n"
        "wan.host('a')\n"
        "print(wan.pid, flush=True)\n"
        "signal.pause()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", owner], stdout=subprocess.PIPE, text=True, cwd=strip.ROOT
    )
    assert process.stdout is not None
    with process.stdout:
        emulator = int(process.stdout.readline())
        watch = os.pidfd_open(emulator)
        process.kill()
        process.wait(shaped.PATIENCE)
    with os.fdopen(watch):
        assert select.select([watch], [], [], shaped.PATIENCE)[0]


@needs_root
def test_an_emulator_that_is_gone_is_an_error_and_leaves_nothing() -> None:
    with making() as hosts:
        watch = os.pidfd_open(hosts.wan.pid)
        os.kill(hosts.wan.pid, signal.SIGKILL)
        with os.fdopen(watch):
            assert select.select([watch], [], [], shaped.PATIENCE)[0]
        with pytest.raises(WanError, match="the WAN emulator is gone"):
            hosts.there()
    assert held() == []


# -- what is refused --

COMMANDS = {
    "": "there is no command ''",
    "fly": "there is no command 'fly'",
    "host 10.99.0.1": "it is: host ADDRESS NAMESPACE",
    "host 10.99.0.1 /proc/self/ns/net": "there is a host of this address",
    "host 10.98.0.9 /proc/self/ns/net": "the first three bytes",
    "host 10.99.0.9 /proc/self/ns/nothing": "No such file",
    "host 10.99.0.9 /dev/null": "Invalid argument",
    "host ten /proc/self/ns/net": "'ten' is no IPv4 address",
    "line - 1 1": "is no name for a line",
    f"line {'x' * 64} 1 1": "is no name for a line",
    "line x -1 1": "the rate is '-1'",
    "line x 1 1 1": "it is: line NAME",
    "shape 10.99.0.1 10.99.0.9 loss=1": "there is no host '10.99.0.9'",
    "shape 10.99.0.1 10.99.0.2": "it is: shape FROM TO",
    "shape 10.99.0.1 10.99.0.2 loss=1000001": "loss is '1000001'",
    "shape 10.99.0.1 10.99.0.2 rate_bit_s=x": "rate_bit_s is 'x'",
    "shape 10.99.0.1 10.99.0.2 delay_ns=": "delay_ns is ''",
    "shape 10.99.0.1 10.99.0.2 line=none": "there is no line 'none'",
    "shape 10.99.0.1 10.99.0.2 speed=1": "there is no setting 'speed=1'",
    "cut 10.99.0.1 10.99.0.2 maybe": "'maybe' is not on or off",
    "stats 10.99.0.1": "'' is no IPv4 address",
    "x " * 40: "at most 12 words",
}


@needs_root
def test_bad_commands_are_refused_with_what_is_wrong(hosts: Hosts) -> None:
    for command, why in COMMANDS.items():
        with pytest.raises(WanError) as caught:
            hosts.wan.ask(command)
        assert why in str(caught.value), command
    hosts.wan.shape("a", "b", Direction(delay=1e-3))
    with pytest.raises(WanError):  # all of it, or nothing
        hosts.wan.ask("shape 10.99.0.1 10.99.0.2 loss=1000000 speed=1")
    assert hosts.send(3) == [0, 1, 2]


WORDS = (
    "host line shape cut stats fly 10.99.0.1 10.99.0.2 10.99.0.9 10.98.0.1 1 - on off up delay_ns=1"
    " rate_bit_s=9 rate_bit_s=0 queue_bytes=5 jitter_ns=7 loss=3 burst=4 reorder=5 duplicate=6"
    " line=up line=- = , 18446744073709551616 /proc/self/ns/nothing"
)


@needs_root
def test_random_lines_get_a_reply_each_and_packets_pass_after_them(hosts: Hosts) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    generator = random.Random(seed)
    understood = 0
    for _ in range(2000):
        words = generator.choices(WORDS.split(), k=generator.randrange(1, 9))
        if generator.random() < 0.8:
            words[:3] = [generator.choice(["shape", "cut", "stats"]), "10.99.0.1", "10.99.0.2"]
        with contextlib.suppress(WanError):
            hosts.wan.ask(" ".join(words))
            understood += 1
    assert understood > 100
    hosts.wan.shape("a", "b", Direction())
    hosts.wan.cut("a", "b", False)
    assert hosts.send(3) == [0, 1, 2]


@needs_root
def test_packets_for_nobody_are_counted_and_dropped(hosts: Hosts) -> None:
    near = hosts.packets("a")
    for last in (0, 77, 254):
        with contextlib.suppress(OSError):  # the kernel refuses a broadcast itself
            near.sendto(b"x", (f"10.99.0.{last}", 9))
    shaped.until(lambda: "foreign=0" not in hosts.wan.ask("stats"), "they were seen")


@needs_root
def test_names_and_figures_that_make_no_sense_are_refused(hosts: Hosts) -> None:
    for wrong in (Direction(loss=-0.1), Direction(delay=float("nan"))):
        with pytest.raises(InvalidArgument):
            hosts.wan.shape("a", "b", wrong)
    with pytest.raises(WanError, match="loss is '2000000'"):
        hosts.wan.shape("a", "b", Direction(loss=2.0))
    with pytest.raises(InvalidArgument, match="there is no host 'z'"):
        hosts.wan.cut("a", "z", True)
    with pytest.raises(InvalidArgument, match="there is a host 'a'"):
        hosts.wan.host("a")
    with pytest.raises(InvalidArgument, match="no name for a line"):
        hosts.wan.line("two words", 1, 1)


def test_without_rights_it_says_what_it_takes() -> None:
    code = (
        "import os\n"
        "from collectives.chaos.wan import Wan\n"
        "from collectives.errors import UnsupportedError\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "try: Wan()\n"
        "except UnsupportedError as error: print(error)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, cwd=strip.ROOT
    )
    assert "it takes root" in ran.stdout, ran.stderr


@pytest.mark.parametrize("arguments", [["--seed"], ["--seed", "x"], ["-h"]])
def test_wrong_arguments_of_the_program_are_refused(arguments: list[str]) -> None:
    ran = subprocess.run([PROGRAM, *arguments], capture_output=True, timeout=20, text=True)
    assert ran.returncode == 2
    assert "usage: wan [--seed NUMBER]" in ran.stderr
