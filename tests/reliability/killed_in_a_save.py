"""Run `jax-a3c` and kill it inside a save: killed_in_a_save.py STAGE NUMBER WORDS...

The process dies at one of `STAGES` of checkpoint NUMBER, counted from 1.
"""

import os
import signal
import sys
from pathlib import Path

from jax_a3c.cli import main
from jax_a3c.experiment.checkpoints import SUFFIX
from jax_a3c.experiment.files import PARTIAL

STAGES = ("opened", "half", "written", "flushed", "renamed", "in the folder", "removing")
"""Stages of a save, in order.

opened: nothing is written. half: half of the file is written. written: all of it is written.
flushed: it is on the disk. renamed: it has its name. in the folder: the name is on the disk.
removing: the first old checkpoint is about to be removed.
"""


def install(stage, number):
    """Patch the file functions so that the process dies at a stage of one save."""
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
        """File of a checkpoint that is written in two halves."""

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
