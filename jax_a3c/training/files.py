"""Files that are either whole or absent."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from jax_a3c.checks import InputError

PARTIAL = ".partial"
"""Ends the name of a file that is being written."""


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that its name never stands for half of it: beside it, flushed to the disk, renamed.

    Args:
      path: the file; what it held before stays until all of the new content is on the disk.
      content: of the file.

    Raises:
      OSError: if it cannot be written; nothing is left behind then.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)  # the name is on the disk when its folder is
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, or, if the disk refuses a part of it, nothing.

    Args:
      path: the file; it is made if it is missing.
      line: without its end.

    Raises:
      OSError: if it cannot be written.
    """
    with path.open("ab", buffering=0) as file:
        end, left = file.tell(), memoryview(f"{line}\n".encode())
        try:
            while left:
                left = left[file.write(left) :]
        except OSError:
            file.truncate(end)
            raise


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to a run; the lock ends with this process, however it ends.

    Raises:
      InputError: if another process has the lock, or the folder cannot be written.
    """
    try:
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise InputError(f"run_dir {str(folder)!r} cannot be written: {error}") from error
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another process trains in {str(folder)!r}; wait for its end, or end it"
            ) from None
        yield
