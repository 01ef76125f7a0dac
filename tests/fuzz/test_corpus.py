"""The inputs that fuzzing has kept, run again on the library as it is built here.

``make fuzz`` looks for new ones. The C targets are programs made of the library's own objects; a crash
or a broken check ends them, and the last input that they name is the one.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
C_TARGETS = ("frame", "hello", "verdict", "engine")
PYTHON_TARGETS = ("codec", "journal", "coordinator")
PROGRAMS = HERE.parents[1] / "build" / "dev" / "tests" / "fuzz"


def inputs(target: str) -> list[Path]:
    found = sorted((CORPUS / target).iterdir())
    assert len(found) > 5, "a corpus is missing"
    return found


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
    for path in inputs(target):
        print(path.name)
        run(path.read_bytes())


def test_the_corpus_is_small():
    assert sum(path.stat().st_size for path in CORPUS.rglob("*")) < 200_000


def test_a_broken_check_ends_the_program(tmp_path):
    # A frame whose header is whole, and whose reserved bytes... are not looked at: it passes.
    file = tmp_path / "nothing"
    file.write_bytes(b"")
    program = PROGRAMS / "fuzz_frame"
    assert subprocess.run([program, file], capture_output=True).returncode == 0
    assert subprocess.run([program, tmp_path / "none"], capture_output=True).returncode == 1
    assert sys.byteorder == "little"
