"""The ``collectives`` command itself: what it loads, lists and says when something is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import strip
from collectives._version import __version__
from collectives.cli.main import COMMANDS, requested_command


def test_help_names_every_command() -> None:
    ran = strip.command("--help")
    assert ran.returncode == 0
    assert all(f" {name} " in ran.stdout for name in COMMANDS)


def test_version_is_that_of_the_package() -> None:
    assert strip.command("--version").stdout == f"collectives {__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["doctor", "--help"], ["status", "--help"]])
def test_no_command_line_that_does_not_train_imports_torch(arguments: list[str]) -> None:
    source = (
        "import sys\n"
        "from collectives.cli.main import main\n"
        "try:\n"
        f"    main({arguments!r})\n"
        "except SystemExit as leaving:\n"
        "    assert not leaving.code, leaving.code\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    ran = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    ran = strip.command(name, "--help")
    assert ran.returncode == 0, ran.stderr
    assert f"collectives {name}" in ran.stdout


def test_an_unknown_command_is_refused_by_name() -> None:
    ran = strip.command("frobnicate")
    assert ran.returncode == 2
    assert "frobnicate" in ran.stderr


def test_the_command_is_found_behind_options() -> None:
    assert requested_command(["-v", "--verbose", "demo", "--peers", "3"]) == "demo"
    assert requested_command(["--help"]) is None


def test_a_command_without_torch_says_how_to_get_it(tmp_path: Path) -> None:
    links = strip.site_without(tmp_path / "site", "torch")
    python = strip.make_venv(tmp_path / "venv", links, strip.ROOT)
    ran = strip.command("demo", python=python)
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr
    assert f"{python} -m pip install" in ran.stderr
    assert "torch" in ran.stderr
