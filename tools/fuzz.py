"""Build the fuzzers and let each try its share of inputs; what is found new goes into its corpus.

The C targets (``tests/fuzz/*.c``) are built with clang, libFuzzer, ASan and UBSan into
``build/fuzz``; the Python ones (``tests/fuzz/fuzz_*.py``) run under atheris. New inputs are kept in
``build/fuzz/corpus``; ``--keep`` merges those that add coverage into ``tests/fuzz/corpus``.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "fuzz"
KEPT = ROOT / "tests" / "fuzz" / "corpus"
# Shares of the runs: a whole engine, or a coordinator's story, takes a hundred times as long as one
# message.
C_TARGETS = {"frame": 0.32, "hello": 0.32, "verdict": 0.31, "engine": 0.05}
PYTHON_TARGETS = {"codec": 0.92, "journal": 0.05, "coordinator": 0.03}
LENGTHS = {"frame": 128, "hello": 600, "verdict": 2000, "engine": 2000, "codec": 600,
           "journal": 400, "coordinator": 500}  # fmt: skip
OPTIONS = ("-print_final_stats=1", "-timeout=20", "-rss_limit_mb=2048", "-malloc_limit_mb=512")


def build() -> None:
    """Build the C fuzzers, or say what is missing."""
    clang = next((c for v in ("", "-19", "-18", "-17", "-16", "-15", "-14")
                  if (c := shutil.which(f"clang{v}"))), None)  # fmt: skip
    if clang is None:
        sys.exit(
            "The C fuzzers need clang and its run-time library; gcc has no fuzzer. Install them:\n"
            "  Debian, Ubuntu:  apt-get install clang libclang-rt-dev"
            " (Debian 12, Ubuntu 22.04: libclang-rt-14-dev)\n"
            "  Fedora, RHEL:    dnf install clang compiler-rt\n"
            'or fuzz the Python parts alone: make fuzz FUZZ="codec journal coordinator"'
        )
    tools = Path(sys.executable).parent
    configure = [
        str(tools / "cmake"), "-S", str(ROOT), "-B", str(BUILD), "-G", "Ninja",
        f"-DCMAKE_MAKE_PROGRAM={tools / 'ninja'}", f"-DPython_EXECUTABLE={sys.executable}",
        f"-DCMAKE_C_COMPILER={clang}", "-DCOLL_FUZZ=ON",
    ]  # fmt: skip
    targets = [f"fuzz_{name}" for name in C_TARGETS]
    make = [str(tools / "cmake"), "--build", str(BUILD), "--target", *targets]
    for command in (configure, make):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"the fuzzers do not build:\n{done.stdout}{done.stderr}")


def command(name: str) -> list[str]:
    """How a target is started."""
    if name in C_TARGETS:
        return [str(BUILD / "tests" / "fuzz" / f"fuzz_{name}")]
    return [sys.executable, str(ROOT / "tests" / "fuzz" / "with_atheris.py"), name]


def environment() -> dict[str, str]:
    """Sanitizers end at the first finding; the targets' own modules are found."""
    options = {"ASAN_OPTIONS": "abort_on_error=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
    return {**os.environ, **options, "PYTHONHASHSEED": "0"}


def fuzz(name: str, runs: int, seconds: int, seed: int) -> str:
    """Run one target; the line that says what came of it."""
    found, kept = BUILD / "corpus" / name, KEPT / name
    found.mkdir(parents=True, exist_ok=True)
    kept.mkdir(parents=True, exist_ok=True)
    crashes = BUILD / "crashes" / name
    crashes.mkdir(parents=True, exist_ok=True)
    arguments = [
        *command(name), *OPTIONS, f"-runs={runs}", f"-max_len={LENGTHS[name]}", f"-seed={seed}",
        f"-artifact_prefix={crashes}/", f"-max_total_time={seconds}", str(found), str(kept),
    ]  # fmt: skip
    began = time.monotonic()
    log = BUILD / f"{name}.log"
    with log.open("w") as file:
        status = subprocess.run(
            arguments, stdout=file, stderr=file, env=environment(), check=False, cwd=BUILD
        ).returncode
    spent = time.monotonic() - began
    text = log.read_text(errors="replace")
    if status:
        print(text[-6000:])
        sys.exit(f"{name} found something (seed {seed}): see {log} and {crashes}")
    executed = int(_last(r"stat::number_of_executed_units:\s*(\d+)", text))
    coverage = _last(r"cov: (\d+) ft: \d+", text)
    edges = sum(int(n) for n in re.findall(r"\((\d+) inline 8-bit counters\)", text)[:1])
    of = f" of {edges}" if edges and name in C_TARGETS else ""
    inputs = _last(r"corp: (\d+)", text)
    return (
        f"{name:12}{executed:>12,} runs{spent:8.0f} s   {coverage}{of} edges covered,"
        f" {inputs} inputs kept"
    )


def _last(pattern: str, text: str) -> str:
    found = re.findall(pattern, text)
    return str(found[-1]) if found else "0"


def keep(name: str) -> None:
    """Merge what adds coverage into the corpus of the repository."""
    target, source = KEPT / name, BUILD / "corpus" / name
    target.mkdir(parents=True, exist_ok=True)
    merge = [sys.executable, str(ROOT / "tests" / "fuzz" / "choose.py"), name, source, target]
    if name in C_TARGETS:
        # By edges alone: how often each was taken would keep five times as many.
        merge = [*command(name), "-merge=1", "-use_counters=0", f"-max_len={LENGTHS[name]}",
                 target, source]  # fmt: skip
    subprocess.run(merge, env=environment(), check=True, stderr=subprocess.DEVNULL, cwd=BUILD)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    every = [*C_TARGETS, *PYTHON_TARGETS]
    parser.add_argument(
        "targets", nargs="*", default=every, metavar="TARGET", help=", ".join(every)
    )
    parser.add_argument("--runs", type=int, default=10_000_000)
    parser.add_argument("--seconds", type=int, default=0, help="per target at most; 0: any time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="add what was found to the corpus")
    arguments = parser.parse_args()
    chosen = arguments.targets
    if unknown := [name for name in chosen if name not in every]:
        parser.error(f"there is no target {unknown[0]!r}; there are {', '.join(every)}")
    BUILD.mkdir(parents=True, exist_ok=True)
    if any(name in C_TARGETS for name in chosen):
        build()
    for name in chosen:
        share = C_TARGETS.get(name) or PYTHON_TARGETS[name] / 10
        if arguments.keep:
            keep(name)
        else:
            runs = max(1, round(arguments.runs * share))
            print(fuzz(name, runs, arguments.seconds, arguments.seed), flush=True)


if __name__ == "__main__":
    main()
