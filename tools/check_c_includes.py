"""Check that the C code includes downwards only: api -> engine -> plan, wire, reduce, codec.

A transport implements ``engine/transport.h``, runs on the engine's reactor, and may parse and
build frames (``wire``) and copy payloads; it knows nothing else of what is above it. Only the API,
which puts the parts together, names a transport.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

# Which folders a folder's files may include besides their own; "file.h" allows that file alone.
ALLOWED: dict[str, set[str]] = {
    "native/include": set(),
    "native/reduce": {"native/include"},
    "native/codec": {"native/include", "native/reduce", "native/engine/status.h"},
    "native/plan": {"native/include"},
    "native/wire": {"native/include"},
    "native/engine": {
        "native/include", "native/plan", "native/wire", "native/reduce", "native/codec",
    },
    "native/api": {
        "native/include", "native/plan", "native/wire", "native/reduce", "native/codec",
        "native/engine", "transport/tcp", "transport/shm", "transport/nccl",
    },
    "native/driven": set(),
    "native/shaper": {"native/driven"},
    "native/wan": {"native/driven"},
    "transport/*": {
        "native/include", "native/wire", "native/engine/transport.h", "native/engine/reactor.h",
        "native/reduce/copy.h",
    },
}  # fmt: skip


def allowed_for(folder: str) -> set[str] | None:
    """Return what files of ``folder`` may include, None if the folder is unknown."""
    if folder.startswith("transport/"):
        folder = "transport/*"
    return ALLOWED.get(folder)


def resolve(root: Path, file: Path, include: str) -> str | None:
    """Return the included file's path relative to the root, None if it is not one of ours."""
    for base in (file.parent, root / "native", root / "native" / "include", root):
        candidate = base / include
        if candidate.is_file():
            return candidate.resolve().relative_to(root).as_posix()
    return None


def violations(root: Path) -> list[str]:
    """Return one line for every include that points the wrong way."""
    found = []
    files = [p for top in ("native", "transport") for p in sorted((root / top).rglob("*.[ch]"))]
    for file in files:
        parts = file.relative_to(root).parts
        folder = "/".join(parts[:2])
        allowed = allowed_for(folder)
        if allowed is None:
            found.append(f"{file.relative_to(root)}: folder {folder} has no place in the order")
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            match = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
            target = resolve(root, file, match[1]) if match else None
            if target is None:
                continue
            target_folder = "/".join(target.split("/")[:2])
            if target_folder != folder and not {target, target_folder} & allowed:
                where = f"{file.relative_to(root)}:{number}"
                found.append(f"{where}: {folder} must not include {target}")
    return found


if __name__ == "__main__":
    lines = violations(Path(__file__).resolve().parent.parent)
    print("\n".join(lines) or "C includes point downwards")
    sys.exit(1 if lines else 0)
