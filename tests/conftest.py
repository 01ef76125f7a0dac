"""What all tests share."""

from __future__ import annotations

import signal

from torch_ranks import ranks as ranks

# Whoever starts the tests in the background may have had SIGINT ignored, which every process
# inherits; the tests of Ctrl-C are about what a user's terminal does.
signal.signal(signal.SIGINT, signal.default_int_handler)
