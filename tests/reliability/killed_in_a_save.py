"""`jax-a3c`, killed by itself inside a save: killed_in_a_save.py STAGE NUMBER WORDS...

It dies at one of `STAGES` of its NUMBER-th checkpoint, counted from 1.
"""

import os
import signal
import sys
from pathlib import Path

from jax_a3c.cli import main
from jax_a3c.training.checkpoints import SUFFIX
from jax_a3c.training.files import PARTIAL

STAGES = ("opened", "half", "written", "flushed", "renamed", "in the folder", "removing")
"""Nothing of the file is written; half of it; all; all is on the disk; it has its name; the name is on the
disk; the first of the files that it makes superfluous is about to be removed."""


def install(stage, number):
    """Die at the stage of that save."""
    saves = 0
    path_open, path_replace, path_unlink, fsync = Path.open, Path.replace, Path.unlink, os.fsync

    def die_at(*stages):
        if stage in stages and saves == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def opened(path, mode="r", *more, **options):
        nonlocal saves
        file = path_open(path, mode, *more, **options)
        if path.name.endswith(SUFFIX + PARTIAL) and "w" in mode:
            saves += 1
            die_at("opened")
            return Partial(file)
        return file

    class Partial:
        """The file of a checkpoint."""

        def __init__(self, file):
            self._file = file

        def write(self, content):
            self._file.write(content[: len(content) // 2])
            self._file.flush()
            die_at("half")
            self._file.write(content[len(content) // 2 :])
            self._file.flush()
            die_at("written")

        def __getattr__(self, name):
            return getattr(self._file, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self._file.close()

    def synchronised(descriptor):
        fsync(descriptor)
        die_at("flushed" if os.path.isfile(f"/proc/self/fd/{descriptor}") else "in the folder")

    def replaced(path, target):
        path_replace(path, target)
        if path.name.endswith(SUFFIX + PARTIAL):
            die_at("renamed")

    def unlinked(path, *more, **options):
        if path.name.endswith(SUFFIX):
            die_at("removing")
        path_unlink(path, *more, **options)

    Path.open, Path.replace, Path.unlink, os.fsync = opened, replaced, unlinked, synchronised


if __name__ == "__main__":
    install(sys.argv[1], int(sys.argv[2]))
    sys.exit(main(sys.argv[3:]))
