"""Facts about this process and the machine that it runs on. Standard library only."""

import os
import sys


def current_folder() -> str | None:
    """Return the path of the current folder, or None if it was deleted."""
    try:
        return os.getcwd()
    except OSError:
        return None


def searches_current_folder() -> bool:
    """Return whether Python looks for modules in the current folder."""
    return "" in sys.path or current_folder() in sys.path
