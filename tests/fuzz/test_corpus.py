"""The inputs that fuzzing has kept, run again on the library as it is built here.

``make fuzz`` looks for new ones. The C targets are programs made of the library's own objects; a
crash or a broken check ends them, and the last input that they name is the one.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from collectives.membership import durable, rounds
from collectives.membership.fields import ListOf, MalformedError

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
C_TARGETS = ("frame", "hello", "verdict", "engine")
PYTHON_TARGETS = ("codec", "journal", "coordinator")
PROGRAMS = HERE.parents[1] / "build" / "dev" / "tests" / "fuzz"


def inputs(target: str) -> list[Path]:
    found = sorted((CORPUS / target).iterdir())
    assert len(found) > 5, "a corpus is missing"
    return found


def replay(run: Callable[[bytes], None], target: str) -> None:
    for path in inputs(target):
        print(path.name)
        run(path.read_bytes())


@pytest.mark.parametrize("target", C_TARGETS)
def test_no_input_of_the_corpus_harms_the_core(target):
    program = PROGRAMS / f"fuzz_{target}"
    # Where the tests run on a sanitized library its run time is preloaded, which is not for others.
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    done = subprocess.run(
        [program, *inputs(target)], capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == f"{len(inputs(target))} inputs\n"


@pytest.mark.parametrize("target", PYTHON_TARGETS)
def test_no_input_of_the_corpus_harms_the_control_plane(target, monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    run = importlib.import_module(f"fuzz_{target}").run
    replay(run, target)


def test_the_corpus_is_small():
    assert sum(path.stat().st_size for path in CORPUS.rglob("*")) < 200_000


def test_an_input_that_is_not_there_is_no_success(tmp_path):
    program = PROGRAMS / "fuzz_frame"
    assert subprocess.run([program, tmp_path / "none"], capture_output=True).returncode == 1


def test_without_clang_it_is_said_what_to_install():
    tool = HERE.parents[1] / "tools" / "fuzz.py"
    done = subprocess.run(
        [sys.executable, tool, "frame"], capture_output=True, text=True, env={"PATH": ""}
    )
    assert done.returncode == 1
    assert "apt-get install clang" in done.stderr


def careless_list(self, raw):
    return tuple(self.item.decode(entry) for entry in raw)


MUTANTS = {
    "a list that may be anything": ("codec", ListOf, "decode", careless_list),
    "texts that travel as they came": ("coordinator", rounds, "clip", lambda text: text),
    "views of any number": ("coordinator", durable, "_exactly", lambda kind, raw: None),
    "values of any type": ("journal", durable, "_exactly", lambda kind, raw: raw),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_corpus_finds(mutant, monkeypatch):
    target, where, name, careless = MUTANTS[mutant]
    monkeypatch.syspath_prepend(str(HERE))
    run = importlib.import_module(f"fuzz_{target}").run
    monkeypatch.setattr(where, name, careless)
    durable._decoder.cache_clear()
    with pytest.raises((AssertionError, TypeError, MalformedError)):
        replay(run, target)
