"""Probes of torch, CUDA and NCCL: all optional, none needed to import the library."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

from collectives.cli._doctor.finding import Finding, Status, pip_install

MINIMUM_TORCH = (2, 11)
TORCH_PROBE = (
    "import json, torch;"
    "print(json.dumps([torch.__version__, torch.version.cuda, torch.cuda.is_available()]))"
)
BACKEND_PROBE = """
import json
from collectives.errors import UnsupportedError
from collectives.torch import _shim
found = {"module": None, "compiler": None, "problem": ""}
try:
    path = _shim.built()
    if path is not None:
        _shim.load()
        found.update(module=str(path), compiler=_shim.compiled_by(path))
    else:
        found.update(compiler=_shim.compiler()[0])
except UnsupportedError as error:
    found.update(problem=str(error))
print(json.dumps(found))
"""


def torch_finding(probed: str) -> Finding:
    """Judge what ``TORCH_PROBE`` printed."""
    version, cuda, usable = json.loads(probed)
    release = tuple(int(part) for part in version.split("+")[0].split(".")[:2])
    if release < MINIMUM_TORCH:
        wanted = ".".join(map(str, MINIMUM_TORCH))
        detail = f"torch {version}, but {wanted} or newer is needed"
        return Finding("torch", Status.LIMITED, detail, pip_install(f"torch>={wanted}"))
    kind = f"CUDA {cuda}" + ("" if usable else ", but it finds no GPU") if cuda else "CPU build"
    return Finding("torch", Status.OK, f"torch {version}, {kind}")


def torch() -> Finding:
    """PyTorch, which tensors, DiLoCo and the demo need.

    It is imported in a process of its own: an import that crashes is a finding like any other.
    """
    wanted = pip_install(f"torch>={'.'.join(map(str, MINIMUM_TORCH))}")
    if importlib.util.find_spec("torch") is None:
        detail = "not installed; numpy arrays work, tensors, DiLoCo and the demo do not"
        return Finding("torch", Status.ABSENT, detail, wanted)
    try:
        return torch_finding(_probe(TORCH_PROBE))
    except subprocess.CalledProcessError as error:
        why = (error.stderr.strip().splitlines() or [f"exit status {error.returncode}"])[-1]
        cure = wanted.replace(" install ", " install --force-reinstall ")
        return Finding("torch", Status.LIMITED, f"installed, but does not import: {why}", cure)
    except (subprocess.TimeoutExpired, OSError, ValueError) as error:
        return Finding("torch", Status.LIMITED, f"installed, but cannot be probed: {error}")


def backend_finding(probed: str) -> Finding:
    """Judge what ``BACKEND_PROBE`` printed."""
    found = json.loads(probed)
    if found["problem"]:
        return Finding("torch-backend", Status.ABSENT, found["problem"])
    if found["module"]:
        detail = f"compiled with {found['compiler']}, {found['module']}"
        return Finding("torch-backend", Status.OK, detail)
    detail = f"not compiled yet; the first process group has {found['compiler']} do it"
    cure = shlex.join([sys.executable, "-m", "collectives.cli", "build-torch"])
    return Finding("torch-backend", Status.ABSENT, detail, cure)


def torch_backend() -> Finding:
    """The C++ part of the PyTorch process-group backend: whether it is compiled, and loads."""
    if importlib.util.find_spec("torch") is None:
        return Finding("torch-backend", Status.ABSENT, "needs torch, which is not installed")
    try:
        return backend_finding(_probe(BACKEND_PROBE))
    except subprocess.CalledProcessError as error:
        why = (error.stderr.strip().splitlines() or [f"exit status {error.returncode}"])[-1]
        return Finding("torch-backend", Status.LIMITED, f"does not load: {why}")
    except (subprocess.TimeoutExpired, OSError, ValueError) as error:
        return Finding("torch-backend", Status.LIMITED, f"cannot be probed: {error}")


def _probe(source: str) -> str:
    """Run a program of this Python in a process of its own; return what it printed."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", source],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip


def cuda() -> Finding:
    """The NVIDIA driver and its GPUs."""
    without = "CPU arrays work, GPU arrays do not"
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Finding("cuda", Status.ABSENT, f"no NVIDIA driver (libcuda.so.1); {without}")
    count, version = ctypes.c_int(), ctypes.c_int()
    code = driver.cuInit(0)
    if code == 0:
        code = driver.cuDeviceGetCount(ctypes.byref(count))
    if code != 0:
        return Finding("cuda", Status.ABSENT, f"the driver reports error {code}; {without}")
    driver.cuDriverGetVersion(ctypes.byref(version))
    supported = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return Finding("cuda", Status.OK, f"{count.value} GPUs, driver for CUDA {supported}")


def has_driver() -> bool:
    """Tell whether the NVIDIA driver can be loaded."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def nccl_version(number: int) -> str:
    """Return NCCL's version number as people write it (23004 is 2.30.4; 2708 is 2.7.8)."""
    if number < 10000:
        return f"{number // 1000}.{number % 1000 // 100}.{number % 100}"
    return f"{number // 10000}.{number % 10000 // 100}.{number % 100}"


def nccl() -> Finding:
    """NCCL, which is loaded at run time when a level of the run is inside one GPU machine."""
    package = Path(sysconfig.get_path("purelib")) / "nvidia" / "nccl" / "lib" / "libnccl.so.2"
    for candidate in ("libnccl.so.2", str(package)):
        try:
            library = ctypes.CDLL(candidate)
        except OSError:
            continue
        version = ctypes.c_int()
        library.ncclGetVersion(ctypes.byref(version))
        return Finding("nccl", Status.OK, f"NCCL {nccl_version(version.value)}, {candidate}")
    detail = "no libnccl.so.2; only runs on GPUs would use it"
    cure = pip_install("nvidia-nccl-cu12") if has_driver() else ""
    return Finding("nccl", Status.ABSENT, detail, cure)
