"""The package as others get it: sdist, wheel, ``pip install .`` and ``-e .``.

The wheel is built from an sdist of what git knows, so that a file that nobody added is missed
here. In ``make test`` it is installed beside links to the dependencies at hand, which needs no
index; ``make test-wheel`` (``--all-pythons``) makes clean environments from the index.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import strip

VERSIONS = ("3.10", "3.11", "3.12", "3.13")
# Nothing to compile with, and nothing of the checkout.
BARE = {"PATH": "/nonexistent", "HOME": "/nonexistent", "LANG": "C.UTF-8"}


def run(*command: str | Path, cwd: Path, timeout: float = 100, **options: object) -> str:
    """Run a command that must succeed; return what it printed."""
    ran = subprocess.run(
        command, cwd=cwd, timeout=timeout, capture_output=True, text=True, **options
    )  # type: ignore[call-overload]
    assert ran.returncode == 0, f"{command}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout


def build_environment() -> dict[str, str]:
    """Return the environment of a build: cmake and ninja are those of this environment."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


pytestmark = pytest.mark.full


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git knows or would add: no build, no environment."""
    folder = tmp_path_factory.mktemp("source") / "collectives"
    listed = run("git", "ls-files", "-co", "--exclude-standard", cwd=strip.ROOT).splitlines()
    for name in listed:
        if (strip.ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(strip.ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def sdist(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution."""
    folder = tmp_path_factory.mktemp("sdist")
    command = (sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", folder, ".")
    run(*command, cwd=source, env=build_environment())
    return next(folder.glob("*.tar.gz"))


@pytest.fixture(scope="session")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "source")
    [unpacked] = (folder / "source").iterdir()
    command = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ".")
    run(*command, cwd=unpacked, env=build_environment())
    return next(folder.glob("*.whl"))


def interpreter(version: str) -> Path | None:
    """Find a Python of this version: on PATH, or one of pyenv's."""
    name = f"python{version}"
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = sorted((root / "versions").glob(f"{version}.*/bin/{name}"), reverse=True)
    on_path = shutil.which(name)
    for candidate in ([Path(on_path)] if on_path else []) + candidates:
        # A shim of pyenv is there for versions that are not selected, and refuses to run.
        probe = subprocess.run([candidate, "-c", "import ensurepip"], capture_output=True)
        if probe.returncode == 0:
            return candidate
    return None


def test_the_wheel_holds_the_libraries_and_the_header_and_no_tests(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "collectives/__init__.py",
        "collectives/py.typed",
        "collectives/include/collectives.h",
        "collectives/_native/libcollectives.so",
        "collectives/_native/_binding.abi3.so",
        "collectives/_native/shaper",
        "collectives/_native/wan",
    } <= names
    shim = {path.name for path in (strip.ROOT / "native" / "torch_shim").glob("*.[ch]pp")}
    assert len(shim) > 2
    assert {f"collectives/torch/native/{name}" for name in shim} <= names
    points = next(name for name in names if name.endswith(".dist-info/entry_points.txt"))
    assert "[torch.backends]" in zipfile.ZipFile(wheel).read(points).decode()
    roots = {name.split("/")[0] for name in names}
    assert {root for root in roots if not root.endswith(".dist-info")} == {"collectives"}
    assert not [name for name in names if "build_binding" in name]
    assert re.fullmatch(r"collectives-[\d.]+-cp310-abi3-linux_\w+\.whl", wheel.name), wheel.name
    metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
    assert "License-Expression: Apache-2.0" in zipfile.ZipFile(wheel).read(metadata).decode()
    assert [name for name in names if name.endswith("/licenses/LICENSE")]


def test_the_library_exports_what_the_headers_declare_and_nothing_else(wheel: Path) -> None:
    if shutil.which("nm") is None:
        pytest.fail("nm is part of every C tool chain; how was this built?")
    library = strip.ROOT / "collectives" / "_native" / "libcollectives.so"
    listed = run("nm", "-D", "--defined-only", library, cwd=wheel.parent).splitlines()
    # The public header, and the pure agreement, which the model and the simulation call.
    headers = ["include/collectives.h", "engine/agree.h", "wire/epoch.h"]
    text = "".join((strip.ROOT / "native" / header).read_text() for header in headers)
    declared = set(re.findall(r"COLL_API[^;]*?\b(coll_\w+)\(", text))
    assert {line.split()[-1] for line in listed} == declared


def test_the_wheel_works_without_compiler_and_source_tree(wheel: Path, tmp_path: Path) -> None:
    python = strip.make_venv(tmp_path / "venv", strip.site_without(tmp_path / "site", "torch"))
    run(python, "-m", "pip", "install", "--no-index", "--no-deps", wheel, cwd=tmp_path)
    script = shutil.copy(Path(__file__).parent / "selfcheck.py", tmp_path)
    assert "works: " in run(python, script, cwd=tmp_path, env=BARE)

    # A core that was lost comes back by the doctor's cure.
    [core] = (tmp_path / "venv").rglob("libcollectives.so")
    core.unlink()
    [found] = strip.doctor(python, "core")
    assert found["core"]["status"] == "broken"
    before = f"{found['core']['cure']} --no-index >/dev/null 2>&1 || exit"
    *_, found = strip.doctor(python, "core", before=before)
    assert found["core"]["status"] == "ok"


@pytest.mark.timeout(900)
def test_the_wheel_compiles_its_backend_for_the_torch_at_hand(wheel: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    python = strip.make_venv(tmp_path / "venv", strip.site_without(tmp_path / "site"))
    run(python, "-m", "pip", "install", "--no-index", "--no-deps", wheel, cwd=tmp_path)
    cache = {"COLLECTIVES_CACHE": str(tmp_path / "cache")}
    compiling = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **cache}
    command = python.parent / "collectives"
    printed = run(command, "build-torch", cwd=tmp_path, env=compiling, timeout=800)
    assert f"{tmp_path}/cache/torch-" in printed
    script = shutil.copy(Path(__file__).parent / "torchcheck.py", tmp_path)
    printed = run(python, script, tmp_path, cwd=tmp_path, env={**BARE, **cache})
    assert "works: torch" in printed
    assert f"{tmp_path}/venv/" in printed


@pytest.fixture
def from_index(request: pytest.FixtureRequest) -> None:
    """Leave out what downloads packages, unless it was asked for."""
    if not request.config.getoption("--all-pythons", default=False):
        pytest.skip("make test-wheel does this")


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("from_index")
@pytest.mark.parametrize("version", VERSIONS)
def test_the_wheel_installs_into_a_clean_environment(
    wheel: Path, tmp_path: Path, version: str
) -> None:
    base = interpreter(version)
    if base is None:
        pytest.skip(f"there is no Python {version} here")
    run(base, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    environment = {**os.environ, "PATH": "/nonexistent"}
    command = (python, "-m", "pip", "install", "-q", "--only-binary", ":all:", wheel)
    run(*command, cwd=tmp_path, env=environment, timeout=400)
    script = shutil.copy(Path(__file__).parent / "selfcheck.py", tmp_path)
    assert f"works: {version}." in run(python, script, cwd=tmp_path, env=BARE)
    printed = run(tmp_path / "venv" / "bin" / "collectives", "doctor", cwd=tmp_path, env=BARE)
    assert "collectives works here" in printed


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("from_index")
@pytest.mark.parametrize("editable", [False, True], ids=["plain", "editable"])
def test_pip_installs_the_source_tree_into_a_clean_environment(
    source: Path, tmp_path: Path, editable: bool
) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(source, tree)
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    flag = ("-e",) if editable else ()
    run(python, "-m", "pip", "install", "-q", *flag, ".", cwd=tree, timeout=500)
    if not editable:
        shutil.rmtree(tree)
        script = shutil.copy(Path(__file__).parent / "selfcheck.py", tmp_path)
        assert "works: " in run(python, script, cwd=tmp_path, env=BARE)
        return
    # What is edited in the tree is what is imported.
    version = tree / "collectives" / "_version.py"
    version.write_text(version.read_text().replace("__version__ = ", '__version__ = "edited" + '))
    printed = run(tmp_path / "venv" / "bin" / "collectives", "--version", cwd=tmp_path)
    assert printed.startswith("collectives edited")
    printed = run(python, "-m", "collectives.cli", "doctor", "core", cwd=tmp_path)
    assert "libcollectives, ABI 1" in printed
