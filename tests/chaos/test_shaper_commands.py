"""The commands of the shaping proxy: each line gets one reply line, whatever it holds."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest

import collectives._native
from collectives.chaos.shaper import Shaper, ShaperError

PROGRAM = Path(collectives._native.__file__).with_name("shaper")


def talk(data: bytes, *arguments: str) -> list[str]:
    """Send all of it and the end; the replies."""
    ran = subprocess.run([PROGRAM, *arguments], input=data, capture_output=True, timeout=20)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.decode("ascii").splitlines()


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("", "there is no command ''"),
        ("frobnicate 1 2", "there is no command 'frobnicate'"),
        ("bucket", "it is: bucket NAME RATE_BIT_S"),
        ("bucket a b", "the rate is 'b', it must be a number from 0 to"),
        ("bucket a -1", "the rate is '-1'"),
        ("bucket a 99999999999999999999", "the rate is '99999999999999999999'"),
        ("bucket a 1 1e3", "the burst is '1e3'"),
        ("bucket a,b 1", "'a,b' is no name for a bucket"),
        ("bucket " + 32 * "a" + " 1", "is no name for a bucket: at most 31 bytes"),
        ("route", "it is: route TARGET [LISTEN]"),
        ("route here", "'here' is no address: it is not HOST:PORT"),
        ("route 127.0.0.1:0", "the port is not 1 to 65535"),
        ("route 127.0.0.1:99999", "the port is not 1 to 65535"),
        ("route ::1:80", "the host is neither IPv4 nor [IPv6]"),
        ("route [127.0.0.1]:80", "the host is neither IPv4 nor [IPv6]"),
        ("route [:80", "the host is neither IPv4 nor [IPv6]"),
        ("route 127.0.0.1:80 192.0.2.1:0", "cannot listen on 192.0.2.1:0: "),
        ("shape 9 up delay_ns=1", "there is no route '9'"),
        ("shape -1 up delay_ns=1", "there is no route '-1'"),
        ("shape 0 up", "it is: shape ID"),
        ("shape 0 left delay_ns=1", "'left' is not up, down or both"),
        ("shape 0 up delay=1", "there is no setting 'delay=1'"),
        ("shape 0 up delay_ns=", "delay_ns is ''"),
        ("shape 0 up delay_ns=3600000000001", "it must be a number from 0 to 3600000000000"),
        ("shape 0 both queue_bytes=1 buckets=none", "there is no bucket 'none'"),
        ("shape 0 both buckets=b,b,b,b,b", "a direction has at most 4 buckets"),
        ("fault 0 up flood", "there is no fault 'flood'"),
        ("fault 0 up flip", "there is no fault 'flip'"),
        ("fault 0 up flip=x", "flip is 'x'"),
        ("door 0 ajar", "'ajar' is not open, refuse or ignore"),
        ("reset 0 up", "'up' is not dialler, target or both"),
        ("heal", "it is: heal ID"),
        ("heal x\x7f\x01", "there is no route 'x??'"),
        ("remove 1", "there is no route '1'"),
        ("stats 0 0", "it is: stats [ID]"),
        ("stats" + 20 * " 1", "a command has at most 12 words"),
        ("stats " + 2000 * "1", "the line is too long"),
        ("sta\0ts", "the line has a zero byte"),
    ],
)
def test_what_is_wrong_with_a_command_is_said(command: str, says: str) -> None:
    with Shaper() as proxy:
        proxy.ask("bucket b 1000")
        proxy.ask("route 127.0.0.1:9")
        with pytest.raises(ShaperError) as caught:
            proxy.ask(command)
        assert says in str(caught.value)
        assert proxy.stats()["routes"] == 1


def test_a_command_that_is_half_wrong_changes_nothing() -> None:
    replies = talk(
        b"route 127.0.0.1:9\nfault 0 both hold flip=x\nshape 0 up delay_ns=5 jitter_ns=x\nstats\n"
    )
    assert [reply.split()[0] for reply in replies] == ["ok", "error", "error", "ok"]


def test_settings_at_their_bounds_are_taken() -> None:
    replies = talk(
        b"bucket big 1000000000000000 1073741824\nbucket small 1 1\nroute 127.0.0.1:9\n"
        b"shape 0 both rate_bit_s=1 burst_bytes=1073741824 delay_ns=3600000000000"
        b" jitter_ns=3600000000000 queue_bytes=0 buckets=big,small\n"
        b"fault 0 both flip=1000000000\ndoor 0 ignore\ndoor 0 ignore\ndoor 0 refuse\nheal 0\n"
        b"remove 0\n"
    )
    assert all(reply.startswith("ok") for reply in replies), replies


COMMANDS = "bucket route shape fault door reset half heal remove stats"
WORDS = (
    "0 1 2 up down both dialler target hold drop flip=3 truncate=2 duplicate=1 open refuse ignore"
    " delay_ns=1 jitter_ns=7 rate_bit_s=1 queue_bytes=5 burst_bytes=9 buckets=a,b buckets=- a b"
    " 1000 127.0.0.1:9 [::1]:9 127.0.0.1:0 = , - :"
)


def random_line(generator: random.Random) -> bytes:
    """Words that mean something, in any order, and bytes that mean nothing."""
    words = f"{COMMANDS} {WORDS}".split()
    if generator.random() < 0.2:
        return generator.randbytes(generator.randrange(3000)).replace(b"\n", b" ")
    line = " ".join(generator.choices(words, k=generator.randrange(1, 8))).encode()
    if generator.random() < 0.2:
        at = generator.randrange(len(line))
        line = line[:at] + bytes([generator.choice(b"\0\xff=,% ")]) + line[at + 1 :]
    return line


def test_random_lines_get_a_reply_each() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    generator = random.Random(seed)
    commands = COMMANDS.split()
    lines = [random_line(generator) for _ in range(3000)]
    lines += [b"%s %s" % (generator.choice(commands).encode(), line) for line in lines]
    replies = talk(b"\n".join(lines).replace(b"\r", b" ") + b"\nstats\n")
    assert len(replies) == len(lines) + 1
    assert all(reply.startswith(("ok", "error ")) for reply in replies)
    assert replies[-1].startswith("ok routes=")


def test_an_owner_that_reads_no_replies_is_not_heard_for_long_and_then_is() -> None:
    ours, theirs = os.pipe(), os.pipe()
    process = subprocess.Popen([PROGRAM], stdin=ours[0], stdout=theirs[1])
    os.close(ours[0])
    os.close(theirs[1])
    os.set_blocking(ours[1], False)
    sent = 0
    try:
        while sent < 10_000_000:
            sent += os.write(ours[1], b"stats\n" * 100)
            if sent % 600:
                break  # the pipe took a part: it is full
    except BlockingIOError:
        pass
    assert sent < 10_000_000
    complete, got = sent // 6, b""
    while got.count(b"\n") < complete:
        got += os.read(theirs[0], 1 << 16)
    os.close(ours[1])
    assert process.wait(10) == 0
    os.close(theirs[0])


@pytest.mark.parametrize("arguments", [["--seed"], ["--seed", "x"], ["--speed", "1"], ["-h"]])
def test_wrong_arguments_are_refused(arguments: list[str]) -> None:
    ran = subprocess.run([PROGRAM, *arguments], capture_output=True, timeout=20, text=True)
    assert ran.returncode == 2
    assert "usage: shaper [--seed NUMBER]" in ran.stderr


def test_without_pipes_it_says_so(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+") as file:
        ran = subprocess.run([PROGRAM], stdin=file, capture_output=True, timeout=20, text=True)
    assert ran.returncode == 1
    assert "must be pipes or sockets" in ran.stderr
