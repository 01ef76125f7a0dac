"""Turn the public C header into the C source of the cffi binding.

Run by CMake (``build_binding.py HEADER OUTPUT``), never imported at run time. The header is the
only description of the interface: what it declares is what Python sees, so the two cannot drift.
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


def main(header: Path, output: Path) -> None:
    """Write the binding's C source for ``header`` to ``output``."""
    ffi = cffi.FFI()
    ffi.cdef(declarations(header.read_text(encoding="utf-8")))
    ffi.set_source(MODULE, f'#include "{header.name}"')
    ffi.emit_c_code(str(output))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
