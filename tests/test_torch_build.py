"""How the PyTorch backend gets to its users: found by ``import torch``, compiled once, and kept.

What is compiled here is a module of a few lines, as compiling c10d's headers takes most of a
minute; the real one is compiled by ``make test`` itself, before the tests that use it.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed

import strip
from collectives import _autoload


def python(executable: str | Path, source: str, **environment: str) -> str:
    """Run a program outside of the checkout; return what it printed."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(
        [executable, "-c", source], cwd="/", capture_output=True, text=True, timeout=60,
        env={**kept, **environment},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_import_torch_makes_the_backend_known_without_the_core(tmp_path: Path) -> None:
    checkout = strip.make_venv(tmp_path / "venv", strip.site_without(tmp_path / "site"))
    for _ in range(2):  # a second `make build` finds what the first one wrote
        subprocess.run([checkout, strip.ROOT / "tools" / "use_checkout.py"], check=True, timeout=60)
    source = (
        "import sys, torch\n"
        "print(*(name for name in sys.modules if name.startswith('collectives')))\n"
        "print('collectives' in torch.distributed.Backend.backend_list)\n"
        "print(torch.distributed.Backend.default_device_backend_map['cpu'])\n"
        "import collectives, importlib.metadata\n"
        "print(collectives.join.__module__)\n"
        "print(len([*importlib.metadata.distributions(name='collectives')]))\n"
    )
    loaded, known, default, joined, installed = python(checkout, source).splitlines()
    assert set(loaded.split()) == {"collectives", "collectives._version", "collectives._autoload"}
    assert known == "True"
    assert default == "gloo", "who names no backend gets what torch gives"
    assert joined == "collectives.joining"
    assert installed == "1"


def test_a_package_that_is_installed_besides_keeps_its_metadata(tmp_path: Path) -> None:
    checkout = strip.make_venv(tmp_path / "venv", strip.site_without(tmp_path / "site"))
    [site] = (tmp_path / "venv").rglob("site-packages")
    installed = site / "collectives-0.0.1.dist-info"
    installed.mkdir()
    (installed / "INSTALLER").write_text("pip\n")
    subprocess.run([checkout, strip.ROOT / "tools" / "use_checkout.py"], check=True, timeout=60)
    assert [path.name for path in site.glob("*.dist-info")] == [installed.name]
    # An earlier version of the checkout itself goes.
    (installed / "INSTALLER").write_text("tools/use_checkout.py\n")
    subprocess.run([checkout, strip.ROOT / "tools" / "use_checkout.py"], check=True, timeout=60)
    [left] = site.glob("*.dist-info")
    assert left != installed
    assert "[torch.backends]" in (left / "entry_points.txt").read_text()


def test_what_goes_wrong_while_registering_does_not_fail_the_import_of_torch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("another signature")

    monkeypatch.setattr(torch.distributed.Backend, "register_backend", refuse)
    _autoload.register()
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "cannot be registered with torch" in record.getMessage()
    assert "another signature" in caplog.text


def test_public_names_come_when_the_first_is_used_from_any_thread() -> None:
    source = (
        "import sys, threading, collectives\n"
        "assert 'numpy' not in sys.modules\n"
        "found = []\n"
        "names = ['join', 'Options', 'Group', 'Coordinator'] * 2\n"
        "look = lambda name: found.append(getattr(collectives, name).__name__)\n"
        "threads = [threading.Thread(target=look, args=(name,)) for name in names]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()\n"
        "assert sorted(found) == sorted(names), found\n"
        "collectives.join = 'replaced'\n"
        "collectives.Work\n"
        "assert collectives.join == 'replaced'\n"
        "scope = {}\n"
        "exec('from collectives import *', scope)\n"
        "assert scope['Options'] is collectives.Options\n"
        "try: collectives.nothing_of_that_name\n"
        "except AttributeError as error: print(error)\n"
    )
    printed = python(sys.executable, source, PYTHONPATH=str(strip.ROOT))
    assert printed == "module 'collectives' has no attribute 'nothing_of_that_name'\n"
