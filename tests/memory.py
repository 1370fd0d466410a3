"""The memory of the suite's processes: programs are dropped between modules, and the peak is checked."""

import contextlib
import ctypes
import gc
from collections.abc import Iterator
from pathlib import Path

import jax

from jax_a3c import programs

MAX_BYTES = 2 * 10**9
"""Resident memory that a process may take at any time."""


RELEASED_ABOVE = 10**9
"""Resident memory after a test from which compiled programs are dropped, before their module has ended."""


@contextlib.contextmanager
def bounded(what: str, max_bytes: int = MAX_BYTES) -> Iterator[None]:
    """Start and end without compiled programs, and fail if the process took more meanwhile.

    Args:
      what: is running, for the message.
      max_bytes: of resident memory.
    """
    release()
    reset_peak()
    yield
    peak = peak_bytes()
    release()

    assert peak <= max_bytes, (
        f"the process took up to {peak / 1e9:.2f} GB in {what}; expected at most {max_bytes / 1e9:.2f} GB: "
        "compile smaller programs, or keep fewer of them"
    )


def release_above(max_bytes: int = RELEASED_ABOVE) -> None:
    """Drop all compiled programs if the process has grown beyond a number of bytes."""
    if resident_bytes() > max_bytes:
        release()


def release() -> None:
    """Drop all compiled programs and give free memory back to the system."""
    programs.forget_programs()
    jax.clear_caches()
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # only the C library of GNU has it
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def reset_peak() -> None:
    """Let the peak begin at what is in use, where the system can do that."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """Return the peak of the resident memory, 0 where the system has no `/proc`."""
    return _status("VmHWM")


def resident_bytes() -> int:
    """Return the resident memory, 0 where the system has no `/proc`."""
    return _status("VmRSS")


def _status(name: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0
