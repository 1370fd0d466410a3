"""Write files atomically, append lines and lock folders."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from jax_a3c.errors import InputError

PARTIAL = ".partial"
"""Suffix of the temporary file during a write."""


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically: temporary file, fsync, rename.

    Args:
      path: path of the file. The old content stays until all of the new content is on the disk.
      content: the new content.

    Raises:
      OSError: if the file cannot be written. The temporary file is removed then.
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

    # The rename reaches the disk only when the folder is flushed too.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def append_line(path: Path, line: str) -> None:
    """Append a line to a file, or nothing if a part of it cannot be written.

    Args:
      path: path of the file; created if it is missing.
      line: the line without its newline.

    Raises:
      OSError: if the line cannot be written.
    """
    with path.open("ab", buffering=0) as file:
        end = file.tell()
        left = memoryview(f"{line}\n".encode())

        # A full disk may take a part of the line: cut that off again.
        try:
            while left:
                left = left[file.write(left) :]
        except OSError:
            file.truncate(end)
            raise


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a run against other processes; the system releases the lock if this process crashes.

    Raises:
      InputError: if another process holds the lock, or if the folder cannot be written.
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
                f"another process trains in {str(folder)!r}; wait until it ends or stop it"
            ) from None
        yield
