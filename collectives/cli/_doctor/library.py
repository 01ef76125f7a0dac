"""Probes of what the library itself stands on: Python, packages, the C core, CPU, compiler."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shlex
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from collectives._version import __version__
from collectives.cli._doctor.finding import Finding, Status, as_root, pip_install

MINIMUM_PYTHON = (3, 10)

# What `import collectives` needs: the module's name, and the package that brings it.
REQUIRED_MODULES = {
    "numpy": "numpy",
    "cffi": "cffi",
    "zmq": "pyzmq",
    "msgpack": "msgpack",
    "xxhash": "xxhash",
    "zstandard": "zstandard",
    "typer": "typer",
    "rich": "rich",
}


def python() -> Finding:
    """The interpreter and its version."""
    found = f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}"
    if sys.version_info < MINIMUM_PYTHON:
        return Finding("python", Status.BROKEN, f"{found}; 3.10 or newer is needed")
    return Finding("python", Status.OK, found)


def dependencies(is_there: Callable[[str], bool] | None = None) -> Finding:
    """The packages that the library cannot work without."""
    is_there = is_there or (lambda module: importlib.util.find_spec(module) is not None)
    missing = [package for module, package in REQUIRED_MODULES.items() if not is_there(module)]
    if missing:
        detail = f"not installed: {', '.join(missing)}"
        return Finding("dependencies", Status.BROKEN, detail, pip_install(*missing))
    return Finding("dependencies", Status.OK, f"all {len(REQUIRED_MODULES)} installed")


def reinstall_command() -> str:
    """Return the command that puts the core back to where this package was installed from."""
    root = Path(__file__).resolve().parents[3]
    if (root / "CMakeLists.txt").is_file() and (root / "Makefile").is_file():
        return f"make -C {shlex.quote(str(root))} build"
    source = f"collectives=={__version__}"
    try:
        origin = importlib.metadata.distribution("collectives").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        origin = None
    if origin:
        source = f"collectives @ {json.loads(origin)['url']}"
    return pip_install("--force-reinstall", "--no-deps", source)


def core() -> Finding:
    """The C core: whether it loads and fits the Python part."""
    try:
        native: Any = importlib.import_module("collectives._native")
        built, loaded = native.lib.COLL_ABI_VERSION, native.lib.coll_abi_version()
    except Exception as error:  # any failure to load is the finding
        return Finding("core", Status.BROKEN, f"does not load: {error}", reinstall_command())
    if built != loaded:
        detail = f"the binding was made for ABI {built}, the library has {loaded}"
        return Finding("core", Status.BROKEN, detail, reinstall_command())
    where = Path(str(native.__file__)).parent
    return Finding("core", Status.OK, f"libcollectives, ABI {loaded}, in {where}")


def cpu_flags(cpuinfo: str) -> frozenset[str]:
    """Return the feature flags in the text of /proc/cpuinfo (x86 ``flags``, Arm ``Features``)."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def processor() -> Finding:
    """Which vector instructions the CPU has, and which kernels are therefore used."""
    try:
        flags = cpu_flags(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        flags = frozenset()
    known = ("sse4_2", "avx2", "f16c", "fma", "avx512f", "avx512bw", "asimd", "asimdhp", "sve")
    features = ", ".join(flag for flag in known if flag in flags) or "no known vector features"
    try:
        native: Any = importlib.import_module("collectives._native")
        avx2 = bool(native.lib.coll_isa_available(native.lib.COLL_ISA_AVX2))
    except Exception:  # core() reports it
        return Finding("cpu", Status.OK, f"{platform.machine()}: {features}; kernels: unknown")
    kernels = "avx2" if avx2 else "scalar"
    detail = f"{platform.machine()}, {os.cpu_count()} cores: {features}; kernels used: {kernels}"
    if avx2 or platform.machine() not in ("x86_64", "AMD64"):
        return Finding("cpu", Status.OK, detail)
    return Finding("cpu", Status.LIMITED, f"{detail} (same results, slower)")


def is_debian(os_release: str) -> bool:
    """Tell from the text of /etc/os-release whether this is Debian or made from it."""
    fields = dict(
        line.split("=", 1) for line in os_release.splitlines() if "=" in line and line[0] != "#"
    )
    names = f"{fields.get('ID', '')} {fields.get('ID_LIKE', '')}".replace('"', "").split()
    return bool({"debian", "ubuntu"} & set(names))


def compiler_cure(name: str, os_release: str, folders: Iterable[str]) -> str:
    """Return how to get a compiler: by PATH when one is installed, else by the package manager."""
    for folder in folders:
        if os.access(Path(folder) / name, os.X_OK):
            return f'export PATH="$PATH:{folder}"'
    if is_debian(os_release):
        return as_root("apt-get update") + " && " + as_root("apt-get install -y build-essential")
    return ""


def compiler(environment: Mapping[str, str] | None = None) -> Finding:
    """The C compiler, which only a build from source needs."""
    environment = os.environ if environment is None else environment
    name = environment.get("CC", "cc").split()[0]
    path = shutil.which(name, path=environment.get("PATH", ""))
    if path is None:
        try:
            os_release = Path("/etc/os-release").read_text(encoding="utf-8")
        except OSError:
            os_release = ""
        cure = compiler_cure(name, os_release, ("/usr/bin", "/usr/local/bin"))
        detail = f"no `{name}` in PATH; needed only to build from source"
        if not cure:
            detail += " (Fedora: the packages gcc, gcc-c++ and make)"
        return Finding("compiler", Status.ABSENT, detail, cure)
    header = Path(sysconfig.get_path("include")) / "Python.h"
    headers = "with Python headers" if header.is_file() else f"but there is no {header}"
    status = Status.OK if header.is_file() else Status.ABSENT
    return Finding("compiler", status, f"{path}, {headers}")
