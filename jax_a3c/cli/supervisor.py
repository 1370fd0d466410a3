"""Watch a training process and restart it when native code kills it."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from jax_a3c.experiment.checkpoints import Checkpoints
from jax_a3c.machine import searches_current_folder
from jax_a3c.messages import tell
from jax_a3c.training.signals import SUPERVISED, ExitCode, handling

MAX_FUTILE = 3
"""Number of crashes in a row without a newer checkpoint after which the supervisor gives up."""


def supervise(words: list[str], run_dir: Path, *, resume: bool = False) -> int:
    """Train in a child process, and resume the run in a new one when the child crashes.

    A crash is an end without a report of the exit code: a signal such as a segmentation fault in an
    environment, or a forced exit because a call holds the interpreter's lock. The child is not
    restarted if it reported an error or if the user interrupted it.

    Args:
      words: words of the command line, `["train", ...]`.
      run_dir: folder of the run.
      resume: resume the run instead of starting it.

    Returns:
      The exit code of the last child; 1 after `MAX_FUTILE` crashes without a newer checkpoint.
    """
    flags = _without(words, "--supervise", "--run-dir", "--resume")
    first = [*flags, "--run-dir", str(run_dir)]  # the child refuses a folder that holds a run
    restore_actor = [*_without(flags, "--initial-params"), "--resume", str(run_dir)]
    command = restore_actor if resume else first
    newest = _newest(run_dir)
    futile = 0

    # `-m` puts the current folder first on sys.path; pass `-P` if ours does not have it.
    own_path = [] if searches_current_folder() else ["-P"]
    while True:
        code, told, stopped = _run([sys.executable, *own_path, "-m", "jax_a3c.cli", *command])

        # Return if the child reported its end, was interrupted or never created the run.
        if told is not None:
            return told
        if stopped or not (run_dir / "config.json").exists():
            return code if code >= 0 else 128 - code

        # Count crashes without a newer checkpoint between them.
        before = newest
        newest = _newest(run_dir)
        futile = futile + 1 if newest == before else 1
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if futile >= MAX_FUTILE:
            tell(
                f"jax-a3c: the run died {futile} times without a newer checkpoint ({cause}); "
                f"not restarted"
            )
            return ExitCode.FAILED

        tell(f"jax-a3c: the run died of {cause}; it resumes from {newest or 'its start'}")
        command = restore_actor


def _run(command: list[str]) -> tuple[int, int | None, bool]:
    """Run a child process until it ends.

    Returns:
      Its exit code, negative if a signal killed it; the exit code that it reported, None if it
      crashed before; whether this process received a signal meanwhile.
    """
    # The child writes its exit code to a pipe, see `report_end`.
    listening, telling = os.pipe()
    env = {**os.environ, SUPERVISED: str(telling)}
    try:
        process = subprocess.Popen(command, pass_fds=[telling], env=env)
    finally:
        os.close(telling)

    passed_on = []

    def pass_on(number: int, frame: object) -> None:
        passed_on.append(number)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)

    with handling(pass_on), os.fdopen(listening, "rb") as words:
        code = process.wait()
        # A grandchild may keep the pipe open: do not wait for its end.
        os.set_blocking(listening, False)
        told = words.read(1)
    return code, told[0] if told else None, bool(passed_on)


def _newest(run_dir: Path) -> str | None:
    """Return the name of the newest checkpoint, None if there is none."""
    paths = Checkpoints(run_dir / "checkpoints").paths()
    return paths[0].name if paths else None


def _without(words: list[str], *flags: str) -> list[str]:
    """Return the words without some flags and their values; `--run_dir` counts as `--run-dir`."""
    kept = []
    skip = False
    for word in words:
        flag, equals, _ = word.partition("=")
        if skip:
            skip = False
        elif flag.replace("_", "-") not in flags:
            kept.append(word)
        else:
            # `--flag=value` is one word, and --supervise takes no value.
            skip = not equals and flag != "--supervise"
    return kept
