"""``collectives doctor`` in environments that lack something: the line it prints, and its cure.

Where a stripped environment can be made, the cure is carried out in it and the doctor asked again.
"""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import strip
from collectives.cli._doctor import PROBES, Finding, Status, accelerators, library, system
from collectives.cli.doctor import render


def may_unshare(*flags: str) -> bool:
    """Tell whether this process may make namespaces of its own."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    return subprocess.run(["unshare", *flags, "true"], capture_output=True).returncode == 0


needs_net_namespace = pytest.mark.skipif(
    not may_unshare("-n"), reason="may not make a network namespace here"
)
needs_mount_namespace = pytest.mark.skipif(
    not may_unshare("-m"), reason="may not make a mount namespace here"
)


def test_this_machine_has_a_finding_for_every_concern_and_works() -> None:
    [found] = strip.doctor(sys.executable)
    assert list(found) == list(PROBES)
    assert {name for name, finding in found.items() if finding["status"] == "broken"} == set()
    assert "libcollectives, ABI 1" in found["core"]["detail"]
    assert "kernels used: " in found["cpu"]["detail"]


def test_a_package_that_is_missing_is_named_and_its_cure_installs_it(tmp_path: Path) -> None:
    links = strip.site_without(tmp_path / "site", "xxhash")
    python = strip.make_venv(tmp_path / "venv", links, strip.ROOT)
    strip.repack(tmp_path, "xxhash")
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}

    [found] = strip.doctor(python, "dependencies")
    assert found["dependencies"]["status"] == "broken"
    assert found["dependencies"]["detail"] == "not installed: xxhash"
    cure = found["dependencies"]["cure"]
    assert cure == f"{python} -m pip install xxhash"

    *_, found = strip.doctor(python, "dependencies", before=cure, **offline)
    assert found["dependencies"]["status"] == "ok"


def test_without_torch_the_rest_works_and_the_cure_installs_it(tmp_path: Path) -> None:
    links = strip.site_without(tmp_path / "site", "torch", "functorch", "torchgen")
    python = strip.make_venv(tmp_path / "venv", links, strip.ROOT)
    source = b"class version:\n  cuda = None\nclass cuda:\n  is_available = lambda: False\n"
    source += b"__version__ = '2.13.0+cpu'\n"
    strip.write_wheel(tmp_path, "torch", "2.13.0", {"torch/__init__.py": source})
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}

    [found] = strip.doctor(python, "torch", "core")
    assert found["core"]["status"] == "ok"
    assert found["torch"]["status"] == "absent"
    assert "numpy arrays work" in found["torch"]["detail"]

    *_, found = strip.doctor(python, "torch", before=found["torch"]["cure"], **offline)
    assert found["torch"]["status"] == "ok"
    assert found["torch"]["detail"] == "torch 2.13.0+cpu, CPU build"


def test_a_torch_that_does_not_import_is_told_from_one_that_is_not_there(tmp_path: Path) -> None:
    links = strip.site_without(tmp_path / "site", "torch")
    (links / "torch.py").write_text("raise ImportError('libgomp.so.1: no such file')\n")
    python = strip.make_venv(tmp_path / "venv", links, strip.ROOT)
    [found] = strip.doctor(python, "torch")
    assert found["torch"]["status"] == "limited"
    assert "does not import: ImportError: libgomp.so.1" in found["torch"]["detail"]
    assert "--force-reinstall" in found["torch"]["cure"]


def test_an_old_torch_is_named_with_what_is_needed() -> None:
    finding = accelerators.torch_finding('["2.4.1+cpu", null, false]')
    assert finding.status is Status.LIMITED
    assert finding.detail == "torch 2.4.1+cpu, but 2.11 or newer is needed"
    assert finding.cure.endswith("-m pip install 'torch>=2.11'")


@pytest.mark.parametrize(
    ("probed", "status", "detail"),
    [
        (
            {"module": "/cache/module.so", "compiler": "g++ 12.2", "problem": ""},
            Status.OK, "compiled with g++ 12.2, /cache/module.so",
        ),
        (
            {"module": None, "compiler": "/usr/bin/c++", "problem": ""},
            Status.ABSENT, "not compiled yet; the first process group has /usr/bin/c++ do it",
        ),
        (
            {"module": None, "compiler": None, "problem": "there is no C++ compiler in PATH"},
            Status.ABSENT, "there is no C++ compiler in PATH",
        ),
    ],
)  # fmt: skip
def test_the_backend_of_torch_is_compiled_or_will_be_or_cannot(
    probed: dict[str, str | None], status: Status, detail: str
) -> None:
    finding = accelerators.backend_finding(json.dumps(probed))
    assert (finding.status, finding.detail) == (status, detail)
    compilable = probed["compiler"] is not None and not probed["module"]
    assert finding.cure == (f"{sys.executable} -m collectives.cli build-torch" * compilable)


def test_a_backend_of_torch_without_compiler_says_what_to_do(tmp_path: Path) -> None:
    nowhere = {"PATH": "/nonexistent", "COLLECTIVES_CACHE": str(tmp_path)}
    [found] = strip.doctor(sys.executable, "torch-backend", **nowhere)
    assert found["torch-backend"]["status"] == "absent"
    assert "apt-get install g++" in found["torch-backend"]["detail"]


def test_a_core_that_does_not_load_is_broken_and_the_exit_status_says_so(tmp_path: Path) -> None:
    package = tmp_path / "tree" / "collectives"
    shutil.copytree(strip.ROOT / "collectives", package, ignore=shutil.ignore_patterns("libcoll*"))
    links = strip.site_without(tmp_path / "site")
    python = strip.make_venv(tmp_path / "venv", package.parent, links)
    ran = subprocess.run(
        [python, "-m", "collectives.cli", "doctor", "core", "--json"],
        cwd="/", capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 1, ran.stderr
    [found] = json.loads(ran.stdout)
    assert found["status"] == "broken"
    assert "libcollectives.so" in found["detail"]
    assert "--force-reinstall" in found["cure"]


def test_the_cure_for_the_core_of_a_checkout_is_to_build_it() -> None:
    assert library.reinstall_command() == f"make -C {strip.ROOT} build"


@pytest.mark.skipif(not Path("/usr/bin/cc").exists(), reason="the compiler is not /usr/bin/cc")
def test_a_compiler_outside_of_path_is_found_and_the_cure_brings_it_back() -> None:
    nowhere = {"PATH": "/nonexistent"}
    [found] = strip.doctor(sys.executable, "compiler", **nowhere)
    assert found["compiler"]["status"] == "absent"
    assert "no `cc` in PATH; needed only to build from source" in found["compiler"]["detail"]

    *_, found = strip.doctor(
        sys.executable, "compiler", before=found["compiler"]["cure"], **nowhere
    )
    assert found["compiler"]["detail"].startswith("/usr/bin/cc, with Python headers")


@pytest.mark.parametrize(
    ("os_release", "cure"),
    [
        # Carried out on a Debian from which the compilers had been removed.
        ("ID=debian\n", "apt-get install -y build-essential"),
        ('ID=pop\nID_LIKE="ubuntu debian"\n', "apt-get install -y build-essential"),
        ("# comment\nID=fedora\n", ""),
        ("", ""),
    ],
)
def test_where_no_compiler_is_the_cure_installs_one(os_release: str, cure: str) -> None:
    found = library.compiler_cure("cc", os_release, ("/nonexistent",))
    assert found.endswith(cure)
    assert bool(found) == bool(cure)


def test_a_low_file_limit_is_named_and_the_cure_raises_it() -> None:
    [found] = strip.doctor(sys.executable, "open-files", before="ulimit -S -n 64")
    assert found["open-files"]["status"] == "limited"
    assert found["open-files"]["detail"].startswith("64 per process; ")
    cure = found["open-files"]["cure"]
    before = f"ulimit -S -n 64\n{cure} || exit"
    *_, found = strip.doctor(sys.executable, "open-files", before=before)
    assert found["open-files"]["status"] == "ok"


def test_a_hard_limit_that_this_user_may_not_raise_has_no_cure_but_says_who_sets_it() -> None:
    finding = system.open_files((64, 64), may_raise=False)
    assert (finding.status, finding.cure) == (Status.LIMITED, "")
    assert "the hard limit is 64" in finding.detail


def test_the_cure_stays_within_a_hard_limit_that_is_enough() -> None:
    assert system.open_files((64, 2048), may_raise=False).cure == "ulimit -n 2048"
    assert system.open_files((64, 1 << 20), may_raise=False).cure == "ulimit -n 4096"
    assert system.open_files((64, resource.RLIM_INFINITY), False).cure == "ulimit -n 4096"
    assert system.open_files((resource.RLIM_INFINITY, resource.RLIM_INFINITY)).detail.startswith(
        "no"
    )


@needs_net_namespace
def test_a_loopback_that_is_down_is_broken_and_the_cure_brings_it_up() -> None:
    first, second = strip.doctor(
        sys.executable, "loopback", before="DOCTOR\nip link set lo up", wrap=("unshare", "-n")
    )
    assert first["loopback"]["status"] == "broken"
    assert first["loopback"]["cure"].removeprefix("sudo ") == "ip link set lo up"
    assert second["loopback"]["status"] == "ok"


@needs_net_namespace
@pytest.mark.skipif(
    not Path("/proc/sys/net/ipv6").exists() or shutil.which("sysctl") is None,
    reason="no IPv6 to switch off here",
)
def test_ipv6_that_is_switched_off_is_named_and_the_cure_switches_it_on() -> None:
    cure = "sysctl -w net.ipv6.conf.all.disable_ipv6=0"
    off = "ip link set lo up\nsysctl -w net.ipv6.conf.all.disable_ipv6=1 >/dev/null || exit"
    before = f"{off}\nDOCTOR\n{cure} >/dev/null || exit"
    first, second = strip.doctor(sys.executable, "ipv6", before=before, wrap=("unshare", "-n"))
    assert first["ipv6"]["status"] == "absent"
    assert first["ipv6"]["cure"].removeprefix("sudo ") == cure
    assert second["ipv6"]["status"] == "ok"


@needs_mount_namespace
def test_a_small_dev_shm_is_named_and_the_cure_enlarges_it() -> None:
    cure = "mount -o remount,size=1g /dev/shm"
    before = f"mount -t tmpfs -o size=1m tmpfs /dev/shm || exit\nDOCTOR\n{cure} || exit"
    first, second = strip.doctor(
        sys.executable, "shared-memory", before=before, wrap=("unshare", "-m")
    )
    assert first["shared-memory"]["status"] == "limited"
    assert "/dev/shm has 1 MiB" in first["shared-memory"]["detail"]
    assert first["shared-memory"]["cure"].removeprefix("sudo ") == cure
    assert second["shared-memory"]["status"] == "ok"
    assert "/dev/shm has 1024 MiB" in second["shared-memory"]["detail"]


ALLOWED = "net.ipv4.tcp_allowed_congestion_control"


def settings(folder: Path, available: str, allowed: str) -> Path:
    """Write the files of /proc/sys/net/ipv4 that the probe reads."""
    (folder / "tcp_available_congestion_control").write_text(available)
    (folder / "tcp_allowed_congestion_control").write_text(allowed)
    (folder / "tcp_congestion_control").write_text("bbr\n")
    return folder


@pytest.mark.parametrize(
    ("may_use", "available", "status", "cure"),
    [
        ({"cubic", "reno", "bbr"}, "reno cubic bbr\n", Status.OK, ""),
        # Carried out on a kernel that allowed only "reno bbr" to others than root.
        (
            {"reno", "bbr"}, "reno bbr cubic\n", Status.LIMITED,
            f'sudo sysctl -w {ALLOWED}="reno bbr cubic"',
        ),
        ({"reno"}, "reno\n", Status.LIMITED, ""),
    ],
)  # fmt: skip
def test_a_congestion_control_that_only_root_may_use_can_be_allowed(
    tmp_path: Path, may_use: set[str], available: str, status: Status, cure: str
) -> None:
    folder = settings(tmp_path, available, "reno bbr\n")
    finding = system.congestion_control(usable=may_use.__contains__, settings=folder)
    assert (finding.status, finding.cure) == (status, cure)
    assert "default: bbr" in finding.detail


def test_a_machine_without_gpu_gets_no_advice_about_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(accelerators.ctypes, "CDLL", refuse)
    assert accelerators.cuda().status is Status.ABSENT
    assert (accelerators.nccl().status, accelerators.nccl().cure) == (Status.ABSENT, "")


def test_nccl_versions_are_written_as_people_do() -> None:
    assert accelerators.nccl_version(23004) == "2.30.4"
    assert accelerators.nccl_version(2708) == "2.7.8"


def test_cpu_flags_are_read_of_x86_and_of_arm() -> None:
    assert "avx2" in library.cpu_flags("processor : 0\nflags\t\t: fpu sse4_2 avx2\n")
    assert "asimd" in library.cpu_flags("processor\t: 0\nFeatures\t: fp asimd evtstrm\n")
    assert library.cpu_flags("") == frozenset()


def test_every_cure_is_printed_whole_on_a_narrow_terminal() -> None:
    cure = f"{sys.executable} -m pip install " + "x" * 120
    console = Console(width=40, record=True, file=io.StringIO())
    render([Finding("core", Status.BROKEN, "does not load", cure)], console)
    text = console.export_text()
    assert f"cure: {cure}\n" in text
    assert "collectives does not work here: core" in text


def test_an_unknown_concern_is_refused_by_name() -> None:
    ran = strip.command("doctor", "warp-drive")
    assert ran.returncode == 2
    assert "no such concern: warp-drive" in ran.stderr


def test_the_package_without_its_core_says_why_and_names_the_doctor(tmp_path: Path) -> None:
    package = tmp_path / "tree" / "collectives"
    shutil.copytree(strip.ROOT / "collectives", package, ignore=shutil.ignore_patterns("libcoll*"))
    source = "import collectives\nprint(collectives.__version__)\ncollectives.join('127.0.0.1:1')"
    environment = {**os.environ, "PYTHONPATH": str(package.parent)}
    ran = subprocess.run(
        [sys.executable, "-c", source], cwd="/", capture_output=True, text=True, timeout=60,
        env=environment,
    )  # fmt: skip
    assert ran.returncode == 1
    last = ran.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: collectives cannot be used here: libcollectives.so")
    assert "`python -m collectives.cli doctor`" in last
