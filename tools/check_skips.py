"""Fail if a test was skipped that nobody allowed: ``check_skips.py JUNIT_XML ALLOWED``.

A skipped test is a promise that nobody checks. Each line of ALLOWED is ``PATTERN: reason``; the
pattern (shell style) is matched with the test's id, ``tests.test_x::test_name[parameters]``.
"""

from __future__ import annotations

import fnmatch
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def read_allowed(text: str) -> dict[str, str]:
    """Return reason by pattern; every pattern must have a reason."""
    allowed = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        pattern, separator, reason = line.partition(": ")
        if not separator or not reason.strip():
            raise SystemExit(f"line {number}: expected 'PATTERN: reason', found {line!r}")
        allowed[pattern.strip()] = reason.strip()
    return allowed


def skipped_tests(junit: str) -> dict[str, str]:
    """Return what the report says about each skipped test, by id."""
    found = {}
    for case in ElementTree.fromstring(junit).iter("testcase"):
        for skipped in case.iter("skipped"):
            # An expected failure ran; it is listed as skipped all the same.
            if skipped.get("type") != "pytest.xfail":
                test = "::".join(filter(None, (case.get("classname"), case.get("name"))))
                found[test] = skipped.get("message", "")
    return found


def matches(test: str, pattern: str) -> bool:
    """Tell whether the pattern covers the test; brackets in ids are plain characters."""
    return fnmatch.fnmatchcase(test, pattern.replace("[", "[[]"))


def main(junit: Path, allowed_file: Path) -> int:
    """Print the skipped tests that are not allowed; return the exit status."""
    allowed = read_allowed(allowed_file.read_text(encoding="utf-8"))
    skipped = skipped_tests(junit.read_text(encoding="utf-8"))
    refused = {
        test: why
        for test, why in skipped.items()
        if not any(matches(test, pattern) for pattern in allowed)
    }
    for test, why in sorted(refused.items()):
        print(f"skipped, and not listed in {allowed_file}: {test}\n    {why}")
    print(f"{len(skipped)} skipped tests, {len(refused)} of them not allowed")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
