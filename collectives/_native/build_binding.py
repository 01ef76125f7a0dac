"""Turn C headers into the C source of the cffi binding.

Run by CMake (``build_binding.py OUTPUT HEADER...``), never imported at run time. The headers are
the only description of the interface: what they declare is what Python sees, so the two cannot
drift.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import cffi

MODULE = "collectives._native._binding"


def declarations(header: str) -> str:
    """Return what cffi's parser takes of a C header: no preprocessor, no linkage, no attributes.

    Integer constants (``#define NAME 1``) are kept, so that Python can compare the ABI version
    it was built for with the one that the loaded library reports.
    """
    text = re.sub(r"/\*.*?\*/", " ", header, flags=re.DOTALL)
    text = text.replace("\\\n", " ")
    # The linkage block holds a brace of its own, inside #ifdef __cplusplus: drop it as a whole.
    text = re.sub(r"^#ifdef __cplusplus\n.*?^#endif\n", "", text, flags=re.DOTALL | re.MULTILINE)
    lines = []
    for line in text.splitlines():
        if not line.lstrip().startswith("#") or re.fullmatch(r"#define \w+ \d+", line.strip()):
            lines.append(line)
    return re.sub(r"\bCOLL_API\b", "", "\n".join(lines))


def main(output: Path, headers: list[Path]) -> None:
    """Write the binding's C source for ``headers`` to ``output``."""
    ffi = cffi.FFI()
    for header in headers:
        ffi.cdef(declarations(header.read_text(encoding="utf-8")))
    ffi.set_source(MODULE, "\n".join(f'#include "{header.name}"' for header in headers))
    ffi.emit_c_code(str(output))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(header) for header in sys.argv[2:]])
