"""The option of ``make test-wheel``."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--all-pythons``, seen when this folder is named on the command line."""
    parser.addoption(
        "--all-pythons", action="store_true",
        help="install from the index into clean environments of every Python at hand",
    )  # fmt: skip
