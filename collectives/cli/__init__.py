"""The ``collectives`` command: one module per sub-command, found by ``main``."""
