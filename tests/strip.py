"""Environments that lack something, for tests of what the library says and does without it."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def make_venv(folder: Path, *paths: Path) -> Path:
    """Make an environment without pip that also sees ``paths``; return its interpreter."""
    venv.create(folder, with_pip=False, symlinks=True)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    site = folder / "lib" / version / "site-packages"
    (site / "paths.pth").write_text("".join(f"{path}\n" for path in paths))
    return folder / "bin" / "python"


def site_without(folder: Path, *missing: str) -> Path:
    """Fill a folder with links to all that is installed here, except the modules named."""
    folder.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        module = entry.name.split("-")[0].split(".")[0]
        # Not this package's own metadata either: where it lies differs.
        if module not in ("collectives", *missing) and entry.suffix != ".pth":
            (folder / entry.name).symlink_to(entry)
    return folder


def write_wheel(folder: Path, name: str, version: str, files: dict[str, bytes]) -> Path:
    """Write a wheel of the files given, for pip to install without an index."""
    info = f"{name}-{version}.dist-info"
    content = dict(files)
    content[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
    )
    content[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = ""
    for path, data in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(data)}\n"
    content[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, data in content.items():
            archive.writestr(path, data)
    return wheel


def repack(folder: Path, name: str) -> Path:
    """Write a wheel of a package that is installed here."""
    installed = importlib.metadata.distribution(name)
    files = {
        str(entry): Path(entry.locate()).read_bytes()
        for entry in installed.files or ()
        if ".dist-info" not in str(entry) and "__pycache__" not in str(entry)
    }
    return write_wheel(folder, name, installed.version, files)


def doctor(
    python: Path | str,
    *concerns: str,
    before: str = "",
    wrap: tuple[str, ...] = (),
    **environment: str,
) -> list[dict[str, dict[str, str]]]:
    """Run ``collectives doctor`` in a shell; return the findings of each run, by concern.

    ``before`` is shell text that runs first; each line ``DOCTOR`` in it is a run of its own, and
    there is one more at the end. ``wrap`` is what the shell itself is run under.
    """
    call = f"{python} -m collectives.cli doctor --json {' '.join(concerns)}; echo"
    script = f"{before}\nDOCTOR".replace("DOCTOR", f"{call} '%%'")
    ran = subprocess.run(
        [*wrap, "/bin/sh", "-c", script], cwd="/", timeout=60, capture_output=True, text=True,
        env={**os.environ, **environment},
    )  # fmt: skip
    runs = ran.stdout.split("%%\n")
    assert runs.pop() == "", f"doctor did not run to its end:\n{ran.stdout}\n{ran.stderr}"
    try:
        found = [json.loads(run[run.index("[\n") :]) for run in runs]
    except ValueError as error:
        raise AssertionError(f"{error}\n{ran.stdout}\n{ran.stderr}") from error
    return [{finding["name"]: finding for finding in run} for run in found]


def command(
    *arguments: str, python: Path | str = sys.executable
) -> subprocess.CompletedProcess[str]:
    """Run the ``collectives`` command outside of the checkout."""
    return subprocess.run(
        [python, "-m", "collectives.cli", *arguments], cwd="/", timeout=60, capture_output=True,
        text=True, env={**os.environ, "COLUMNS": "100"},
    )  # fmt: skip
