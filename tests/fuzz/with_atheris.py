"""Fuzz one of the Python targets: with_atheris.py TARGET [libFuzzer's options] [CORPUS...]."""

from __future__ import annotations

import importlib
import sys

import atheris

TARGET = sys.argv.pop(1)
with atheris.instrument_imports(include=["collectives.membership", f"fuzz_{TARGET}", "script"]):
    run = importlib.import_module(f"fuzz_{TARGET}").run

atheris.Setup(sys.argv, run)
atheris.Fuzz()
