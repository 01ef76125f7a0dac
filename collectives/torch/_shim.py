"""The C++ part of the backend: compiled once for the torch at hand, kept, and loaded.

What lives here knows compilers, caches and locks, and nothing of process groups. c10d's C++ classes
are no stable interface, so no binary fits two versions of torch: the sources come with the package
and are compiled for the torch, the Python and the C library that run. The result lies in
``$COLLECTIVES_CACHE``, else ``$XDG_CACHE_HOME/collectives``, else ``~/.cache/collectives``, in a
folder whose name has a hash of all it depends on: what lies there fits, and is never made again.
``collectives.torch`` calls `load` when the first process group is created, ``collectives
build-torch`` and ``collectives doctor`` the rest.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import functools
import hashlib
import importlib.machinery
import importlib.util
import logging
import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from collectives.errors import UnsupportedError

NAME = "_collectives_torch"
MODULE = f"{NAME}.so"
MINIMUM_TORCH = (2, 11)
COMPILERS = ("c++", "g++", "clang++")
PATIENCE = 900.0
"""Seconds to wait for another process that compiles: several times what a slow machine takes."""

SILENCE = 3.0
"""Seconds of waiting after which the log says for whom."""

_STANDARD = ("-std=c++20", "-O2", "-DNDEBUG", "-fPIC", "-fvisibility=hidden", "-Wall")
_LIBRARIES = ("-ltorch", "-ltorch_cpu", "-ltorch_python", "-lc10")
_SUFFIXES = (".cpp", ".h", ".hpp")

logger = logging.getLogger(__name__)
_loading = threading.Lock()


def load() -> ModuleType:
    """Return the extension module, compiled first where that was not done before.

    Raises:
        UnsupportedError: torch is missing, too old or without ``torch.distributed``; there is no
            compiler, or it fails; or what was built does not load.
    """
    with _loading:
        return _load()


@functools.cache
def _load() -> ModuleType:
    path = build()
    # Its library is loaded by the binding already, and found by its name: nothing else says where.
    import collectives._native  # noqa: F401

    loader = importlib.machinery.ExtensionFileLoader(NAME, str(path))
    spec = importlib.util.spec_from_file_location(NAME, path, loader=loader)
    assert spec is not None
    try:
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    except ImportError as error:
        raise UnsupportedError(
            f"the backend's C++ part does not load: {error}; `collectives build-torch --force`"
            f" makes {path} anew"
        ) from error
    return module


def build(*, force: bool = False) -> Path:
    """Return where the extension module lies, compiled first where that was not done before.

    Of several processes that call this at once one compiles, and the others wait for it.

    Args:
        force: compile although there is one.

    Raises:
        UnsupportedError: see `load`.
    """
    found = None if force else built()
    if found is not None:
        return found
    try:
        with _locked(home()) as others_failed:
            if not force and (found := built()) is not None:
                return found
            if others_failed:
                raise _failure(home())
            return _compile(home())
    except OSError as error:
        private = Path(tempfile.mkdtemp(prefix="collectives-torch-"))
        logger.warning(
            "%s cannot be written (%s): the C++ part of the backend is compiled into %s, for this "
            "process alone; set COLLECTIVES_CACHE to a folder that can be written",
            error.filename or home(), error.strerror, private,
        )  # fmt: skip
        path = _compile(private)
        atexit.register(shutil.rmtree, private, ignore_errors=True)
        return path


def built() -> Path | None:
    """Return where the extension module lies if it was compiled before, else None.

    Raises:
        UnsupportedError: torch is missing, too old or without ``torch.distributed``.
    """
    path = home() / MODULE
    return path if path.is_file() else None


def compiled_by(path: Path) -> str:
    """Return the first line of what the compiler of an extension module says of its version."""
    try:
        with (path.parent / "build.log").open(encoding="utf-8", errors="replace") as log:
            return log.readline().strip()
    except OSError:
        return "an unknown compiler"


def compiler() -> list[str]:
    """Return the command of the C++ compiler: ``$CXX``, else what is in PATH.

    Raises:
        UnsupportedError: there is none.
    """
    wanted = shlex.split(os.environ.get("CXX", ""))
    for command in [wanted] if wanted else [[name] for name in COMPILERS]:
        if (path := shutil.which(command[0])) is not None:
            return [path, *command[1:]]
    missing = f"CXX={wanted[0]}, which is not there" if wanted else "no C++ compiler in PATH"
    raise UnsupportedError(
        f"the PyTorch backend has a C++ part that is compiled once for each version of torch, and "
        f"there is {missing}: install one (Debian: apt-get install g++), or run `collectives "
        "build-torch` where there is one, with COLLECTIVES_CACHE=FOLDER, and take the folder along"
    )


def sources() -> Path:
    """Return the folder of the C++ sources: in the package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "native"
    return installed if installed.is_dir() else package.parents[1] / "native" / "torch_shim"


def header() -> Path:
    """Return the public header of the core: in the package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "include" / "collectives.h"
    if installed.is_file():
        return installed
    return package.parent / "native" / "include" / "collectives.h"


# ---- where it lies ----------------------------------------------------------------------------


def home() -> Path:
    """Return the folder where the extension module that fits this process lies, or would lie.

    Raises:
        UnsupportedError: torch is missing, too old or without ``torch.distributed``.
    """
    release, identity = _torch()
    # Not which compiler: one that is updated makes no other module, and where there is none at all
    # the module of another machine is to be found. Its ABI is torch's, or it does not load.
    parts = [
        identity,
        os.environ.get("CXX", ""),
        sysconfig.get_config_var("SOABI") or sysconfig.get_platform(),
        os.confstr("CS_GNU_LIBC_VERSION") or "",
        *_STANDARD,
    ]
    digest = hashlib.sha256("\0".join(parts).encode())
    for path in [header(), *_sources()]:
        digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    return _cache() / f"torch-{release}-{digest.hexdigest()[:16]}"


def _cache() -> Path:
    if folder := os.environ.get("COLLECTIVES_CACHE"):
        return Path(folder).absolute()
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder).absolute() / "collectives"
    try:
        return Path("~/.cache/collectives").expanduser().absolute()
    except RuntimeError:  # a user without a home, as in containers
        return Path("/.cache/collectives")


def _sources() -> list[Path]:
    return sorted(path for path in sources().iterdir() if path.suffix in _SUFFIXES)


def _torch() -> tuple[str, str]:
    """Return torch's release, and all that tells this build of it from others."""
    try:
        import torch
    except ImportError as error:
        raise UnsupportedError(
            f"the PyTorch backend needs torch, which does not import: {error}; install it with"
            " pip install 'collectives[torch]'"
        ) from error
    version = str(torch.__version__)
    release = version.split("+")[0]
    if tuple(int(part) for part in release.split(".")[:2]) < MINIMUM_TORCH:
        wanted = ".".join(map(str, MINIMUM_TORCH))
        raise UnsupportedError(
            f"this is torch {version}, and the PyTorch backend needs {wanted} or newer; "
            f"pip install 'torch>={wanted}'"
        )
    if not torch.distributed.is_available():
        raise UnsupportedError(f"this torch {version} was built without torch.distributed")
    abi = int(torch._C._GLIBCXX_USE_CXX11_ABI)
    return release, f"{version} {torch.version.git_version} cxx11={abi}"


# ---- one builds, the others wait --------------------------------------------------------------


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold the lock of a folder; yield True if who held it before tried to build, and failed.

    The kernel lets go of the lock of who dies, so nothing has to be cleaned up to go on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = _written(folder)
    with (folder / "lock").open("a+", encoding="ascii") as lock:
        _acquire(lock.fileno(), folder)
        lock.truncate(0)
        lock.write(f"{os.getpid()} on {os.uname().nodename}")
        lock.flush()
        yield _written(folder) != before and not (folder / MODULE).exists()


def _acquire(lock: int, folder: Path) -> None:
    began = time.monotonic()
    told = False
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EINTR):
                raise
        waited = time.monotonic() - began
        holder = os.pread(lock, 200, 0).decode("ascii", "replace") or "another process"
        if waited > PATIENCE:
            raise UnsupportedError(
                f"process {holder} has been compiling the C++ part of the backend in {folder} "
                f"for {waited:.0f} s; end it, or set COLLECTIVES_CACHE to another folder"
            )
        if waited > SILENCE and not told:
            logger.warning(
                "Waiting for process %s, which compiles the C++ part of the backend", holder
            )
            told = True
        time.sleep(0.05)


def _written(folder: Path) -> int:
    """Return when the log of a folder was written, 0 if never."""
    try:
        return (folder / "build.log").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


# ---- compiling --------------------------------------------------------------------------------


def _compile(folder: Path) -> Path:
    """Compile into a folder that nobody else writes to, and return where the module lies."""
    command = compiler()
    for abandoned in folder.glob("building-*"):  # by who was killed: the lock is ours
        shutil.rmtree(abandoned, ignore_errors=True)
    said = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    version = (said.stdout or said.stderr).partition("\n")[0]
    logger.info("Compiling the C++ part of the backend with %s in %s", version, folder)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="building-", dir=folder) as name:
        building = Path(name)
        printed, succeeded = _run(command, building)
        log = building / "build.log"
        log.write_text("\n".join([version, *printed, ""]), encoding="utf-8")
        log.replace(folder / log.name)  # first: who finds the module finds it too
        if not succeeded:
            raise _failure(folder)
        module = building / MODULE
        with module.open("rb") as file:  # a power cut must not leave its name and half of it
            os.fsync(file.fileno())
        module.replace(folder / MODULE)
    logger.info("Compiled in %.1f s", time.monotonic() - began)
    return folder / MODULE


def _run(command: Sequence[str], folder: Path) -> tuple[list[str], bool]:
    """Compile and link in a folder; return what was printed, and whether that succeeded."""
    from torch._C import _GLIBCXX_USE_CXX11_ABI
    from torch.utils import cpp_extension

    log: list[str] = []
    includes = [*cpp_extension.include_paths(), sysconfig.get_path("include")]
    flags = [
        *_STANDARD,
        f"-D_GLIBCXX_USE_CXX11_ABI={int(_GLIBCXX_USE_CXX11_ABI)}",
        f"-DTORCH_EXTENSION_NAME={NAME}",
        f"-I{header().parent}",
        *(part for path in includes for part in ("-isystem", path)),
    ]
    # As one unit: the headers of torch cost most of the time, and are read once.
    unit = folder / "unit.cpp"
    included = [f'#include "{path}"' for path in _sources() if path.suffix == ".cpp"]
    unit.write_text("\n".join(included) + "\n", encoding="utf-8")

    def run(arguments: Sequence[str | Path]) -> bool:
        line = shlex.join(map(str, arguments))
        logger.info("%s", line)
        done = subprocess.run(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", check=False,
        )  # fmt: skip
        log.append(f"{line}\n{done.stdout}".rstrip())
        return done.returncode == 0

    core = Path(__file__).resolve().parents[1] / "_native"
    compiled = folder / "unit.o"
    succeeded = run([*command, *flags, "-c", unit, "-o", compiled]) and run([
        *command, "-shared", compiled, "-o", folder / MODULE, f"-L{core}", "-lcollectives",
        *(f"-L{path}" for path in cpp_extension.library_paths()), *_LIBRARIES,
    ])  # fmt: skip
    return log, succeeded


def _failure(folder: Path) -> UnsupportedError:
    log = folder / "build.log"
    end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
    return UnsupportedError(
        f"the C++ part of the backend does not compile; all that the compiler said is in {log}, "
        f"which ends\n{end}"
    )
