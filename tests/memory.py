"""Bound the memory of the test processes: drop programs between modules, check the peak."""

import contextlib
import ctypes
import gc
from collections.abc import Iterator
from pathlib import Path

import jax

from jax_a3c import programs

MAX_BYTES = 2 * 10**9
"""Maximum resident memory of a process in bytes."""


RELEASED_ABOVE = 10**9
"""Resident memory in bytes after a test above which compiled programs are dropped at once."""

RELEASED_GROWTH = 300 * 10**6
"""Bytes by which the memory must have grown since the last time that they were dropped."""

_after_release = 0


@contextlib.contextmanager
def bounded(what: str, max_bytes: int = MAX_BYTES) -> Iterator[None]:
    """Drop compiled programs before and after, and fail if the peak memory exceeds a bound.

    Args:
      what: name of what runs, for the error message.
      max_bytes: maximum resident memory in bytes.
    """
    release()
    reset_peak()
    yield
    peak = peak_bytes()
    release()

    assert peak <= max_bytes, (
        f"the process took up to {peak / 1e9:.2f} GB in {what}; expected at most "
        f"{max_bytes / 1e9:.2f} GB: compile smaller programs, or keep fewer of them"
    )


def release_above(max_bytes: int = RELEASED_ABOVE, growth: int = RELEASED_GROWTH) -> None:
    """Drop all compiled programs if the process is large and has grown since the last time.

    Libraries and fragments alone may exceed `max_bytes`: dropping the programs after every test
    would then only compile them again.

    Args:
      max_bytes: resident memory above which programs are dropped.
      growth: bytes by which the memory must also have grown since programs were dropped.
    """
    global _after_release
    if resident_bytes() > max(max_bytes, _after_release + growth):
        release()
        _after_release = resident_bytes()


def release() -> None:
    """Drop all compiled programs and give free memory back to the system."""
    programs.forget_programs()
    jax.clear_caches()
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def reset_peak() -> None:
    """Reset the peak to the current resident memory, if the system supports it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """Return the peak of the resident memory in bytes, 0 without `/proc`."""
    return _status("VmHWM")


def resident_bytes() -> int:
    """Return the resident memory in bytes, 0 without `/proc`."""
    return _status("VmRSS")


def _status(name: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0
