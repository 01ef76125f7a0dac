"""Journals: a killed writer costs at most the line it was writing, other damage is an error."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import synthetic

from collectives.chaos.history import History
from collectives.chaos.journal import DamagedJournal, Journal, View, digest, read


def test_what_was_written_is_read(tmp_path: Path) -> None:
    view = View(2, 7, (("ab", "p0"), ("cd", "naïve \n name")))
    with Journal(tmp_path / "j") as journal:
        journal.write("view", group="g", view=view)
        journal.write("fault", t=5, kind="kill")
    first, second = read(tmp_path / "j")
    assert View.from_json(first.fields["view"]) == view and first.t > 0
    assert View.from_json(first.fields["view"]).members == view.members
    assert (second.number, second.t, second.kind, second.fields["kind"]) == (2, 5, "fault", "kill")


def test_a_kill_while_writing_loses_at_most_the_last_line(tmp_path: Path) -> None:
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        with Journal(tmp_path / "j") as journal:
            for number in range(1_000_000):
                journal.write("call", n=number)
                if number == 100:
                    os.write(into, b"x")
        os._exit(0)
    os.read(out, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(out), os.close(into)
    numbers = [line.fields["n"] for line in read(tmp_path / "j")]
    assert numbers == list(range(len(numbers))) and len(numbers) > 100


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_an_unfinished_last_line_is_left_out(tmp_path: Path, cut: int) -> None:
    with Journal(tmp_path / "j") as journal:
        for number in range(3):
            journal.write("call", n=number)
    data = (tmp_path / "j").read_bytes()
    (tmp_path / "j").write_bytes(data[:-cut])
    assert [line.fields["n"] for line in read(tmp_path / "j")] == [0, 1]


@pytest.mark.parametrize("damage", [b"{", b"[1]\n", b'{"t":1}\n', b"\xff\xfe\n", b"\n"])
def test_any_other_damage_is_an_error_that_names_the_line(tmp_path: Path, damage: bytes) -> None:
    with Journal(tmp_path / "j") as journal:
        journal.write("call", n=0)
    whole = (tmp_path / "j").read_bytes()
    (tmp_path / "j").write_bytes(whole + damage + whole)
    with pytest.raises(DamagedJournal, match="line 2"):
        list(read(tmp_path / "j"))


def test_threads_share_a_journal(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:

        def work(which: int) -> None:
            for number in range(200):
                journal.write("call", which=which, n=number, padding="x" * 500)

        threads = [threading.Thread(target=work, args=(which,)) for which in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = list(read(tmp_path / "j"))
    assert len(lines) == 800
    for which in range(4):
        mine = [line.fields["n"] for line in lines if line.fields["which"] == which]
        assert mine == list(range(200))


def test_digests_are_of_the_bytes() -> None:
    array = np.arange(6, dtype=np.float32)
    assert digest(array) == digest(array.tobytes()) == digest(array.reshape(2, 3))
    assert digest(array) != digest(array[::-1].copy())


def test_lines_that_contradict_each_other_are_an_error(tmp_path: Path) -> None:
    synthetic.write(tmp_path / "run")
    lines = synthetic.Lines(tmp_path / "run")
    lines.all("p0.0", "return")[0]["n"] = 77
    lines.write(tmp_path / "run")
    with pytest.raises(DamagedJournal, match=r"p0\.0\.jsonl, line \d+"):
        History.read(tmp_path / "run")
