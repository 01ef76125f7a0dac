"""What the package offers where it cannot be used: the reason, and where to find the cure."""

from __future__ import annotations

from collections.abc import Callable


def explain(error: ImportError) -> Callable[[str], object]:
    """Return a module's ``__getattr__`` that raises ImportError, with the reason, for any name."""
    reason = str(error)

    def __getattr__(name: str) -> object:  # noqa: N807 - becomes the package's own
        if name.startswith("__"):
            raise AttributeError(name)
        raise ImportError(
            f"collectives cannot be used here: {reason}. "
            "`python -m collectives.cli doctor` says what is wrong, and the cure"
        )

    return __getattr__
