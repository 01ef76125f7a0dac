"""How the PyTorch backend gets to its users: found by ``import torch``, compiled once, and kept.

What is compiled here is a module of a few lines, as compiling c10d's headers takes most of a
minute; the real one is compiled by ``make test`` itself, before the tests that use it.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import multiprocessing
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.distributed
import torch.utils.cpp_extension  # once, before the processes that need it are forked

import strip
from collectives import UnsupportedError, _autoload
from collectives.torch import _shim


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


# ---- compiled once, and kept ------------------------------------------------------------------

MODULE = """
#include <Python.h>
#include <collectives.h>

const char *word();

static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_collectives_torch", nullptr, -1, nullptr};

PyMODINIT_FUNC PyInit__collectives_torch(void)
{
    if (coll_abi_version() != EXPECTED) {
        PyErr_Format(PyExc_ImportError, "made for ABI %d", EXPECTED);
        return nullptr;
    }
    PyObject *module = PyModule_Create(&definition);
    PyModule_AddStringConstant(module, "WORD", word());
    return module;
}
"""
WORD = 'extern const char *word();\nconst char *word() { return "compiled"; }\n'

# A compiler that counts, and waits at a gate, but not for ever: nobody may be left to end it.
COMPILER = """#!/bin/sh
case "$*" in *--version*) exec c++ --version;; esac
echo "$*" >> {folder}/calls
tries=600
while [ -e {folder}/gate ] && [ $tries -gt 0 ]; do sleep 0.05; tries=$((tries - 1)); done
exec c++ "$@"
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of the test's own, and sources that compile in a moment."""
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "module.cpp").write_text(MODULE.replace("EXPECTED", "COLL_ABI_VERSION"))
    (sources / "word.cpp").write_text(WORD)
    monkeypatch.setattr(_shim, "sources", lambda: sources)
    monkeypatch.setenv("COLLECTIVES_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    _shim._load.cache_clear()
    yield tmp_path / "cache"
    _shim._load.cache_clear()


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which the compiler in use writes its calls, a line each."""
    compiler = tmp_path / "compiler"
    compiler.write_text(COMPILER.format(folder=tmp_path))
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    return tmp_path / "calls"


def until(condition: Callable[[], Any], what: str, deadline: float = 60.0) -> Any:
    """Wait for a condition, and return what it gave."""
    end = time.monotonic() + deadline
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {deadline} s for {what}"
        time.sleep(0.01)
    return value


class Builder:
    """A process that builds: what it warned of, and what came of it."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("fork")
        self.receiver, sender = context.Pipe(duplex=False)
        self.process = context.Process(target=self._main, args=(sender,))
        self.process.start()
        sender.close()

    @staticmethod
    def _main(sender: Any) -> None:
        handler = logging.Handler(logging.WARNING)
        handler.emit = lambda record: sender.send(record.getMessage())  # type: ignore[method-assign]
        _shim.logger.addHandler(handler)
        _shim.SILENCE = 0.1
        try:
            sender.send(_shim.build())
        except UnsupportedError as error:
            sender.send(error)

    def next(self) -> Any:
        """Return what the process says next."""
        assert self.receiver.poll(60), "the builder says nothing"
        return self.receiver.recv()


@contextlib.contextmanager
def builders(number: int) -> Iterator[list[Builder]]:
    """Start processes that build; none outlives the block."""
    started = [Builder() for _ in range(number)]
    try:
        yield started
    finally:
        for builder in started:
            builder.process.kill()
            builder.process.join(10)


def test_of_several_processes_one_compiles_and_the_others_wait(
    tmp_path: Path, cache: Path, counted: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    with builders(1) as [first]:
        until(counted.exists, "the compiler")
        with builders(3) as others:
            for other in others:
                said = other.next()
                assert said.startswith(f"Waiting for process {first.process.pid} on "), said
            gate.unlink()
            paths = {builder.next() for builder in [first, *others]}
    [path] = paths
    assert path.parent.parent == cache
    calls = counted.read_text().splitlines()
    assert len(calls) == 2, calls  # both sources at once, and the link
    assert {entry.name for entry in path.parent.iterdir()} == {path.name, "build.log", "lock"}
    assert _shim.built() == path
    assert "c++" in _shim.compiled_by(path) or "g++" in _shim.compiled_by(path)
    module = _shim.load()
    assert (module.WORD, module.__file__) == ("compiled", str(path))
    assert _shim.load() is module
    assert len(counted.read_text().splitlines()) == 2
    assert _shim.build(force=True) == path
    assert len(counted.read_text().splitlines()) == 4
    dynamic = subprocess.run(["readelf", "-d", path], capture_output=True, text=True, check=True)
    assert "[libcollectives.so]" in dynamic.stdout
    assert "RUNPATH" not in dynamic.stdout and "RPATH" not in dynamic.stdout


def test_a_killed_builder_leaves_nothing_to_wait_for_or_to_take_for_whole(
    tmp_path: Path, counted: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    with builders(1) as [killed]:
        until(counted.exists, "the compiler")
        with builders(1) as [waiting]:
            assert waiting.next().startswith("Waiting for process ")
            os.kill(killed.process.pid, signal.SIGKILL)
            killed.process.join(10)
            # The compiler of the killed one still runs, and will write where nobody looks any more.
            until(lambda: len(counted.read_text().splitlines()) == 2, "the next compiler")
            assert _shim.built() is None
            gate.unlink()
            path = waiting.next()
    assert _shim.load().__file__ == str(path)
    assert not list(path.parent.glob("building-*"))


def test_a_builder_that_hangs_is_named_and_not_waited_for_for_ever(
    tmp_path: Path, counted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_shim, "PATIENCE", 0.1)
    gate = tmp_path / "gate"
    gate.touch()
    with builders(1) as [hanging]:
        until(counted.exists, "the compiler")
        os.kill(hanging.process.pid, signal.SIGSTOP)
        said = rf"process {hanging.process.pid} on .* has been compiling .* end it, or set"
        with pytest.raises(UnsupportedError, match=said):
            _shim.build()
    gate.unlink()


def test_what_does_not_compile_is_said_once_for_all_who_wait(tmp_path: Path, counted: Path) -> None:
    (_shim.sources() / "word.cpp").write_text("#error this is wrong\n")
    gate = tmp_path / "gate"
    gate.touch()
    with builders(1) as [first]:
        until(counted.exists, "the compiler")
        with builders(1) as [second]:
            assert second.next().startswith("Waiting for process ")
            gate.unlink()
            errors = [first.next(), second.next()]
    assert len(counted.read_text().splitlines()) == 1, "the second did not try"
    for error in errors:
        assert isinstance(error, UnsupportedError)
        assert "this is wrong" in str(error)
        assert str(_shim.home() / "build.log") in str(error)
    assert _shim.built() is None
    with pytest.raises(UnsupportedError, match="this is wrong"):
        _shim.build()
    assert len(counted.read_text().splitlines()) == 2, "who comes later tries"


def test_without_a_compiler_what_was_compiled_elsewhere_is_used(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(UnsupportedError, match=r"no C\+\+ compiler in PATH.*install g\+\+"):
        _shim.build()
    monkeypatch.setenv("CXX", "/nonexistent/clang++ -stdlib=x")
    with pytest.raises(UnsupportedError, match=r"CXX=/nonexistent/clang\+\+, which is not there"):
        _shim.build()
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", path)
    _shim.build()
    carried = tmp_path / "carried"
    cache.rename(carried)
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setenv("COLLECTIVES_CACHE", str(carried))
    assert _shim.build().is_relative_to(carried)
    assert _shim.load().WORD == "compiled"


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, counted: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Of a kind that refuses root too: below something that is no folder.
    (tmp_path / "file").touch()
    monkeypatch.setenv("COLLECTIVES_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    leaving: list[Any] = []
    monkeypatch.setattr(atexit, "register", lambda *call, **_: leaving.append(call))
    module = _shim.load()
    private = Path(module.__file__ or "").parent
    assert private.parent == tmp_path
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    [record] = caplog.records
    assert "set COLLECTIVES_CACHE to a folder that can be written" in record.getMessage()
    assert _shim.load() is module
    assert len(counted.read_text().splitlines()) == 2, "compiled once in this process"
    assert leaving == [(shutil.rmtree, private)]


def test_a_module_made_for_another_core_is_not_loaded() -> None:
    (_shim.sources() / "module.cpp").write_text(MODULE.replace("EXPECTED", "COLL_ABI_VERSION + 1"))
    with pytest.raises(UnsupportedError, match=r"does not load: made for ABI .* --force"):
        _shim.load()


def test_a_torch_that_will_not_do_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(torch, "__version__", "2.10.1+cpu")
        with pytest.raises(UnsupportedError, match=r"torch 2\.10\.1.* needs 2\.11 or newer"):
            _shim.build()
    with monkeypatch.context() as patched:
        patched.setattr(torch.distributed, "is_available", lambda: False)
        with pytest.raises(UnsupportedError, match=r"built without torch\.distributed"):
            _shim.build()
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "torch", None)
        with pytest.raises(UnsupportedError, match=r"needs torch, .*pip install"):
            _shim.build()


def test_what_the_module_depends_on_is_in_its_folders_name(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _shim.home()
    assert first.parent == cache
    assert first.name.startswith(f"torch-{torch.__version__.split('+')[0]}-")
    seen = {first}

    def differs() -> bool:
        found = _shim.home()
        fresh = found not in seen
        seen.add(found)
        return fresh

    assert not differs()
    (_shim.sources() / "notes.txt").write_text("is not compiled")
    assert not differs()
    (_shim.sources() / "word.cpp").write_text(WORD.replace("compiled", "compiled again"))
    assert differs()
    (_shim.sources() / "more.h").write_text("")
    assert differs()
    (tmp_path / "collectives.h").write_text("#define COLL_ABI_VERSION 7\n")
    monkeypatch.setattr(_shim, "header", lambda: tmp_path / "collectives.h")
    assert differs()
    monkeypatch.setattr(torch, "__version__", "2.99.0+cpu")
    assert differs()
    monkeypatch.setattr(torch.version, "git_version", "another")
    assert differs()
    monkeypatch.setenv("CXX", "clang++")
    assert differs()


def test_the_cache_is_where_the_user_keeps_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLLECTIVES_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert _shim.home().parent == tmp_path / "home" / ".cache" / "collectives"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert _shim.home().parent == tmp_path / "xdg" / "collectives"
