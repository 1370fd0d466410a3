"""Facts about this process and the machine that it runs on. Standard library only."""

import os
import platform
import sys
from pathlib import Path


def current_folder() -> str | None:
    """Return the path of the current folder, or None if it was deleted."""
    try:
        return os.getcwd()
    except OSError:
        return None


def searches_current_folder() -> bool:
    """Return whether Python looks for modules in the current folder."""
    return "" in sys.path or current_folder() in sys.path


def has_interpreter_lock() -> bool:
    """Return whether threads take turns in Python; False on free-threaded builds of CPython."""
    return getattr(sys, "_is_gil_enabled", lambda: True)()


def cpu_model() -> str:
    """Return the name of the processor, from Linux if possible."""
    return _of_cpu("model name") or platform.processor() or "unknown"


def cpu_features() -> str:
    """Return the instruction sets of the processor; an empty text if they are not known."""
    return _of_cpu("flags") or _of_cpu("Features")  # on x86 and on ARM


def _of_cpu(field: str) -> str:
    """Return a field of the first processor in Linux's list; an empty text without it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")
