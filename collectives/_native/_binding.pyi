"""The extension that the build makes of ``collectives.h``; what it holds is known to C only."""

from typing import Any

ffi: Any
lib: Any
