"""The coordinator's journal: what a crash, a full disk or damage does to it, byte by byte."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import os
import random
import resource
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from collectives.errors import CollectiveError
from collectives.membership import journal as journal_module
from collectives.membership.durable import UnreadableError, changes, durable, restore
from collectives.membership.journal import Journal, JournalError
from collectives.membership.ledger import CoordinatorState, Departure, Group, Issued, Round
from collectives.membership.report import Epoch, Error
from collectives.membership.server import Coordinator
from collectives.membership.view import Peer, View

STEPS = [
    {("run",): {"term": 1}},
    {("group", "g"): {"number": 1}, ("group", "h"): {"number": 7}},
    {("group", "g"): {"number": 2}, ("departed", "g", b"x" * 16): "gone"},
    {("group", "h"): None},
]


def written(path: Path, steps=STEPS) -> list[dict]:
    """A journal of these steps; the entries after each, the empty one first."""
    stands: list[dict] = [{}]
    journal = Journal(path)
    for step in steps:
        journal.append(step)
        stands.append(dict(journal.entries))
    journal.close()
    return stands


def read(path: Path) -> dict:
    journal = Journal(path)
    journal.close()
    return journal.entries


def test_what_was_recorded_is_there_again(tmp_path):
    stands = written(tmp_path / "j")
    assert read(tmp_path / "j") == stands[-1]
    assert set(stands[-1]) == {("run",), ("group", "g"), ("departed", "g", b"x" * 16)}
    assert (tmp_path / "j").stat().st_mode & 0o777 == 0o600, "it holds the keys of views"


def test_a_record_cut_short_at_any_byte_is_as_if_it_had_never_been_written(tmp_path):
    path = tmp_path / "j"
    stands = written(path)
    data = path.read_bytes()
    before = len(data)
    for count in reversed(range(len(STEPS))):
        path.unlink()
        written(path, STEPS[:count])
        start = path.stat().st_size
        assert start < before
        for size in range(start, before):
            path.write_bytes(data[:size])
            assert read(path) == stands[count], f"cut at byte {size}"
            assert path.stat().st_size == start, "the rest is gone from the file too"
        before = start


def test_a_torn_record_may_hold_anything(tmp_path):
    """A power cut may leave the size of a record without its bytes."""
    path = tmp_path / "j"
    stands = written(path)
    data = path.read_bytes()
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rest = random.Random(seed)
    for tail in (b"\0" * 100, b"\xff" * 100, rest.randbytes(100), b"\0"):
        path.write_bytes(data + tail)
        assert read(path) == stands[-1]
    journal = Journal(path)
    journal.append({("after",): 1})
    journal.close()
    assert read(path) == {**stands[-1], ("after",): 1}


def test_a_flipped_bit_is_never_believed(tmp_path):
    """In the last record it looks like a torn one; anywhere before it is damage, and said so."""
    path = tmp_path / "j"
    stands = written(path)
    data = path.read_bytes()
    path.unlink()
    written(path, STEPS[:-1])
    last = path.stat().st_size
    magic = data.index(b"\n") + 1
    for at in range(len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 1 << at % 8
        path.write_bytes(flipped)
        if at >= last:
            assert read(path) == stands[-2]
            continue
        with pytest.raises(JournalError, match="damaged at byte" if at >= magic else "journal"):
            read(path)
        assert path.read_bytes() == flipped, "left as it was for whoever mends it"


def test_two_coordinators_cannot_have_one_journal(tmp_path):
    path = tmp_path / "j"
    (tmp_path / "link").symlink_to(path)
    with Coordinator(journal=path) as first:
        for name in ("j", "link"):
            with pytest.raises(JournalError) as caught:
                Coordinator(journal=tmp_path / name)
            assert str(path) in str(caught.value)
            assert f"process {os.getpid()};" in str(caught.value)
        assert first.running
    with Coordinator(journal=path) as second:
        assert (second.state.run, second.state.term) == (first.state.run, first.state.term + 1)


def test_a_forked_child_neither_holds_nor_releases_the_journal(tmp_path):
    path = tmp_path / "j"
    code = """
import os, sys
from collectives.membership.journal import Journal
journal = Journal(sys.argv[1])
journal.append({("a",): 1})
child = os.fork()
if child == 0:
    journal.close()
    os.write(1, b"child\\n")
    sys.stdin.read()
    os._exit(0)
os.write(1, b"parent\\n")
os.waitpid(child, 0)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert {process.stdout.readline().split()[0] for _ in "ab"} == {"parent", "child"}
            with pytest.raises(JournalError, match=f"process {process.pid};"):
                Journal(path)
        finally:
            process.kill()
        process.wait(10)
        # The child lives on until its input ends, which is when this block does.
        assert read(path) == {("a",): 1}


def test_the_lock_ends_with_its_process_however_it_ends(tmp_path):
    path = tmp_path / "j"
    code = (
        "import sys, signal; from collectives.membership.journal import Journal;"
        "j = Journal(sys.argv[1]); j.append({('a',): 1}); print('held', flush=True); signal.pause()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout.readline() == b"held\n"
            with pytest.raises(JournalError, match=f"process {process.pid};"):
                Journal(path)
        finally:
            process.kill()
        process.wait(10)
    assert read(path) == {("a",): 1}


def test_the_file_is_written_anew_when_it_has_grown(tmp_path):
    path = tmp_path / "j"
    journal = Journal(path, compact=4096)
    sizes = []
    for number in range(500):
        journal.append({("group", f"g{number % 3}"): {"number": number, "text": "x" * 50}})
        sizes.append(path.stat().st_size)
    entries = dict(journal.entries)
    with pytest.raises(JournalError, match="in use"):
        Journal(path)
    journal.close()
    assert max(sizes) < 4096 + 200
    assert sum(after < before for before, after in itertools.pairwise(sizes)) >= 5
    assert read(path) == entries
    assert sorted(p.name for p in tmp_path.iterdir()) == ["j", "j.lock"]


def test_a_compaction_that_was_cut_short_leaves_the_old_file(tmp_path):
    path = tmp_path / "j"
    stands = written(path)
    (tmp_path / "j.new").write_bytes(b"half of it")
    assert read(path) == stands[-1]
    assert not (tmp_path / "j.new").exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_refuses_a_compaction_loses_nothing(tmp_path, monkeypatch, code):
    path = tmp_path / "j"
    journal = Journal(path, compact=1)

    def refuse(self):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Journal, "_write_new", refuse)
    journal.append(STEPS[0])
    journal.append(STEPS[1])
    journal.close()
    monkeypatch.undo()
    assert read(path) == {**STEPS[0], **STEPS[1]}


def test_a_disk_error_of_the_flush_ends_the_journal(tmp_path, monkeypatch):
    path = tmp_path / "j"
    journal = Journal(path)
    journal.append(STEPS[0])

    def fail(_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(journal_module.os, "fdatasync", fail)
    with pytest.raises(JournalError, match=f"cannot write the journal {path}: Input/output"):
        journal.append(STEPS[1])
    monkeypatch.undo()
    # What the kernel does with the pages after that is anybody's guess: no second attempt.
    with pytest.raises(JournalError, match="closed"):
        journal.append(STEPS[1])


def test_a_full_disk_stops_the_coordinator_before_it_gives_its_word(tmp_path):
    """A process whose files may not grow: the kernel refuses the write in its middle."""
    path = tmp_path / "j"
    code = """
import resource, signal, sys, time
from collectives.errors import CollectiveError
from collectives.membership import codec, ledger, messages
from collectives.membership.server import Coordinator
import zmq, uuid, os
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Coordinator(journal=sys.argv[1]) as coordinator:
    limit = os.stat(sys.argv[1]).st_size + 30
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect("tcp://" + coordinator.address)
        socket.send(codec.encode(messages.Hello(uuid.uuid4(), "g", "a", ("h:1",), 1)))
        heard = []
        while coordinator.running:
            if socket.poll(50):
                heard.append(codec.decode(socket.recv()).kind)
        print(heard, coordinator.error, os.stat(sys.argv[1]).st_size - limit)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    assert "prepare" not in done.stdout
    assert f"cannot write the journal {path}: File too large" in done.stdout
    with Coordinator(journal=path) as again:
        assert again.state.term == 2


def test_the_command_ends_with_the_error_when_the_journal_does(tmp_path):
    path = tmp_path / "j"
    line = [sys.executable, "-m", "collectives.cli", "coordinator", "--bind", "127.0.0.1:0"]
    with subprocess.Popen(
        [*line, "--journal", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            address = process.stdout.readline().split()[2].rstrip(",")
            limit = (path.stat().st_size, resource.RLIM_INFINITY)
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, limit)
            joining = subprocess.Popen(
                [
                    *[sys.executable, "-c"],
                    "import sys, collectives; collectives.join(sys.argv[1], timeout=20)",
                    address,
                ],
                stderr=subprocess.DEVNULL,
            )
            try:
                _, err = process.communicate(timeout=20)
            finally:
                joining.kill()
                joining.wait(10)
        finally:
            process.kill()
    assert process.returncode not in (0, -signal.SIGXFSZ), "a signal says nothing to anybody"
    assert f"cannot write the journal {path}: File too large" in err


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"#!/bin/sh\necho precious\n", "is no journal"),
        (b"collectives journal 9\nwhatever", "a format that this release does not know"),
    ],
)
def test_a_file_that_is_something_else_is_not_touched(tmp_path, content, text):
    path = tmp_path / "j"
    path.write_bytes(content)
    with pytest.raises(CollectiveError, match=text):
        Coordinator(journal=path)
    assert path.read_bytes() == content
    with pytest.raises(CollectiveError, match=text):
        Coordinator(journal=path)  # and not because the first attempt holds it


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(JournalError, match="No such file or directory"):
        Coordinator(journal=tmp_path / "none" / "j")
    with pytest.raises(JournalError, match="Is a directory"):
        Coordinator(journal=tmp_path)


# ---- what is in it --------------------------------------------------------------------------


def peer(number: int) -> Peer:
    return Peer(uuid.UUID(int=number), f"p{number}", (f"h:{number}",), "unit")


def state() -> CoordinatorState:
    view = View("g", 3, 2, 5, (peer(1), peer(2), peer(3)), b"k" * 32, 17)
    gone = Departure(peer(3), left=True, text="it left")
    issued = Issued(Epoch(2, 1, 4, 7), 1, 4, b"verdict", "it left")
    error = Error(3, uuid.UUID(int=3), "it left")
    return CoordinatorState(
        run=uuid.UUID(int=9),
        seed=b"s" * 32,
        term=2,
        groups={
            "g": Group(3, "g", 6, view, issued=issued, broken=error, renew=True, sync=4),
            "h": Group(4, "h"),
        },
        departed={("g", uuid.UUID(int=3)): gone},
    )


def test_a_state_comes_back_from_its_entries(tmp_path):
    path = tmp_path / "j"
    journal = Journal(path)
    journal.append(durable(state()))
    journal.close()
    blank = CoordinatorState(run=uuid.UUID(int=1), seed=b"", token=b"t", counter=7)
    assert restore(read(path), blank) == dataclasses.replace(state(), token=b"t", counter=7)


def test_only_what_changed_is_recorded():
    before = state()
    assert not changes(before, dataclasses.replace(before, counter=8, refused={"x": 1}))
    group = before.groups["g"]
    issued = dataclasses.replace(group.issued, taken=frozenset((uuid.UUID(int=1),)), asked=3.0)
    group = dataclasses.replace(
        group, held=5.0, reached={}, peers={}, rounds=3, round=Round(Epoch(2, 2, 5, 3), 1.0, 1.0)
    )
    assert not changes(before, dataclasses.replace(before, groups={**before.groups, "g": group}))
    group = dataclasses.replace(group, issued=issued)
    assert not changes(before, dataclasses.replace(before, groups={**before.groups, "g": group}))
    group = dataclasses.replace(group, number=7)
    after = dataclasses.replace(
        before, groups={"g": group, "new": Group(9, "new")}, departed={}, term=3
    )
    found = changes(before, after)
    assert set(found) == {
        ("run",),
        ("group", "g"),
        ("group", "h"),
        ("group", "new"),
        ("departed", "g", uuid.UUID(int=3).bytes),
    }
    assert found["group", "h"] is None
    entries = {k: v for k, v in {**durable(before), **found}.items() if v is not None}
    assert restore(entries, before) == dataclasses.replace(
        after, groups={**after.groups, "g": dataclasses.replace(before.groups["g"], number=7)}
    )


def test_a_field_that_an_older_release_did_not_have_takes_its_default():
    entries = durable(state())
    del entries["group", "g"]["sync"]
    entries["group", "g"]["of the future"] = 1
    assert restore(entries, state()).groups["g"].sync == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (("version",), 999),
        (("version",), None),
        (("run",), {"run": b"short", "seed": b"", "term": 1}),
        (("run",), {"run": b"r" * 16, "seed": b"", "term": "1"}),
        (("group", "g"), {"name": "g"}),
    ],
)
def test_entries_that_make_no_sense_are_refused(key, value):
    with pytest.raises(UnreadableError):
        restore({**durable(state()), key: value}, state())
