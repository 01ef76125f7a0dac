"""The scripts behind ``make`` and ``.ci/run``: each must be able to fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import strip

TOOLS = strip.ROOT / "tools"


def check_system(python: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the check of what make cannot install."""
    return subprocess.run(
        ["/bin/sh", TOOLS / "check_system.sh", python], capture_output=True, text=True, timeout=60,
        env={**os.environ, **environment},
    )  # fmt: skip


def test_a_machine_that_has_everything_passes_without_a_word() -> None:
    ran = check_system(sys.executable)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_a_missing_compiler_is_named_with_the_packages_of_both_families() -> None:
    ran = check_system(sys.executable, CC="/nonexistent/cc")
    assert ran.returncode == 1
    assert "a C compiler: `/nonexistent/cc` cannot build a program" in ran.stderr
    assert "apt-get install build-essential python3-dev python3-venv" in ran.stderr
    assert "dnf install gcc gcc-c++ make python3-devel" in ran.stderr
    assert "Python" not in ran.stderr.split("Install it")[0]


def test_a_compiler_without_the_headers_of_the_c_library_is_none(tmp_path: Path) -> None:
    ran = check_system(sys.executable, CC=f"cc -nostdinc -isystem {tmp_path}")
    assert ran.returncode == 1
    assert "cannot build a program" in ran.stderr


def fake_python(folder: Path, version: str, missing: str = "", include: str = "/") -> Path:
    """Make a Python that claims a version, lacks a module or has its headers elsewhere."""
    path = folder / "python"
    path.write_text(
        f"#!{sys.executable}\n"
        "import sys, sysconfig\n"
        f"if {missing!r}: sys.modules[{missing!r}] = None\n"
        f"sys.version_info = {tuple(map(int, version.split('.')))}\n"
        f"if {include!r} != '/': sysconfig.get_path = lambda name: {include!r}\n"
        f"if sys.argv[1] == '-V': print('Python {version}')\n"
        "else: exec(sys.argv[2])\n"
    )
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"version": "3.9.2"}, "is Python 3.9.2; name another one with PYTHON=..."),
        ({"version": "3.11.7", "missing": "ensurepip"}, "the Python modules venv and ensurepip"),
        ({"version": "3.11.7", "include": "/nowhere"}, "there is no /nowhere/Python.h"),
    ],
)
def test_a_python_that_will_not_do_is_named(
    tmp_path: Path, options: dict[str, str], says: str
) -> None:
    ran = check_system(fake_python(tmp_path, **options))
    assert ran.returncode == 1
    assert says in ran.stderr
    assert "C compiler" not in ran.stderr.split("Install it")[0]


def test_a_missing_python_is_named() -> None:
    ran = check_system("python-that-is-not-there")
    assert ran.returncode == 1
    assert "`python-that-is-not-there` is not there" in ran.stderr


def junit(folder: Path, *names: str) -> Path:
    """Write a report in which one test ran, and the named ones were skipped."""
    skipped = "".join(
        f'<testcase classname="tests.test_x" name="{name}">'
        '<skipped type="pytest.skip" message="no reason"/></testcase>'
        for name in names
    )
    report = folder / "junit.xml"
    report.write_text(
        "<testsuites><testsuite>"
        '<testcase classname="tests.test_x" name="test_ran"/>'
        '<testcase classname="tests.test_x" name="test_known">'
        '<skipped type="pytest.xfail" message="known"/></testcase>'
        f"{skipped}</testsuite></testsuites>"
    )
    return report


@pytest.mark.parametrize(
    ("skipped", "allowed", "status"),
    [
        ((), "# nothing\n", 0),
        (("test_gpu",), "tests.test_x::test_gpu: there is no GPU here\n", 0),
        (("test_on[3.10]",), "tests.test_x::test_on[*: no such Python\n", 0),
        (("test_gpu",), "", 1),
        (("test_gpu", "test_other"), "tests.test_x::test_gpu*: there is no GPU here\n", 1),
    ],
)
def test_a_skip_that_is_not_listed_fails(
    tmp_path: Path, skipped: tuple[str, ...], allowed: str, status: int
) -> None:
    listed = tmp_path / "allowed.txt"
    listed.write_text(allowed)
    command = [sys.executable, TOOLS / "check_skips.py", junit(tmp_path, *skipped), listed]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == status, ran.stdout
    assert f"{len(skipped)} skipped tests" in ran.stdout


def test_a_listed_skip_without_reason_is_refused(tmp_path: Path) -> None:
    listed = tmp_path / "allowed.txt"
    listed.write_text("tests.test_x::test_gpu\n")
    command = [sys.executable, TOOLS / "check_skips.py", junit(tmp_path), listed]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1
    assert "line 1: expected 'PATTERN: reason'" in ran.stderr


def test_an_include_that_points_upwards_is_found(tmp_path: Path) -> None:
    shutil.copytree(strip.ROOT / "native", tmp_path / "native")
    shutil.copytree(TOOLS, tmp_path / "tools")
    (tmp_path / "transport" / "tcp").mkdir(parents=True)
    command = [sys.executable, tmp_path / "tools" / "check_c_includes.py"]
    assert subprocess.run(command, timeout=60).returncode == 0

    (tmp_path / "native" / "plan" / "up.c").write_text('#include "engine/engine.h"\n')
    (tmp_path / "transport" / "tcp" / "up.c").write_text('#include "plan/plan.h"\n')
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1
    assert ran.stdout.splitlines() == [
        "native/plan/up.c:1: native/plan must not include native/engine/engine.h",
        "transport/tcp/up.c:1: transport/tcp must not include native/plan/plan.h",
    ]


def test_the_list_of_requirements_follows_the_extras() -> None:
    def listed(*extras: str) -> list[str]:
        command = [sys.executable, TOOLS / "dependencies.py", *extras]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return ran.stdout.splitlines()

    own = listed()
    assert "pyzmq>=25" in own
    assert not [line for line in own if line.startswith(("torch", "collectives"))]
    everything = listed("dev")
    assert {"torch>=2.11", "pytest>=8", "cmake>=3.26"} <= set(everything)
    assert len(everything) == len(set(everything))
