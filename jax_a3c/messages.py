"""Messages: how values are shown in them, and where they are printed."""

import contextlib
import os
import sys
from typing import Any

SHOWN = 100
"""Largest number of characters of a value in a message."""


class Terminal:
    """Standard error as a file that ignores a closed terminal or a broken pipe."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        """Write the text if standard error is open."""
        # AttributeError: sys.stderr is None.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush standard error if it is open."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.flush()

    def fileno(self) -> int:
        """Return the file descriptor, for the terminal's width; raise OSError without one."""
        try:
            return sys.stderr.fileno()
        except AttributeError as error:  # sys.stderr is None
            raise OSError(str(error)) from error

    def isatty(self) -> bool:
        """Check whether standard error is a terminal."""
        with contextlib.suppress(OSError, ValueError):
            return os.isatty(self.fileno())
        return False


def tell(message: str) -> None:
    """Print a message as one line on standard error."""
    print(" ".join(message.splitlines()), file=Terminal(), flush=True)


def shown(value: Any) -> str:
    """Return `repr(value)` on one line of at most `SHOWN` characters, or the type if repr fails."""
    # Show scalars of NumPy and JAX as Python numbers.
    try:
        value = type(value)(map(plain, value)) if type(value) in (tuple, list) else plain(value)
        text = " ".join(repr(value).split("\n"))
    except Exception:
        # repr fails for integers of 5,000 digits and for broken classes.
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def plain(value: Any) -> Any:
    """Convert a scalar of NumPy or JAX to a Python number. Return other values unchanged."""
    return value.item() if hasattr(value, "dtype") and getattr(value, "ndim", None) == 0 else value
