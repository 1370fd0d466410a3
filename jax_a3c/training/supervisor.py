"""A process that watches another one train: what native code kills is started anew, and goes on."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from jax_a3c.machine import searches_current_folder
from jax_a3c.training.checkpoints import Checkpoints
from jax_a3c.training.signals import SUPERVISED, ExitCode, handling, tell

MAX_FUTILE = 3
"""Deaths in a row without a newer checkpoint between them, after which the run is given up."""


def supervise(words: list[str], run_dir: Path, *, resume: bool = False) -> int:
    """Train in a process of its own, and start it anew when it dies without a word.

    A process that is killed by a signal, a segmentation fault in an environment say, or that is ended because
    a call holds the interpreter's lock, says nothing. One that failed for a reason that it could tell, or
    that somebody interrupted, is not started anew.

    Args:
      words: of the command line, `["train", ...]`.
      run_dir: folder of the run.
      resume: whether it goes on, and does not begin.

    Returns:
      The exit code of the last process; 1 if it died too often without getting on.
    """
    flags = _without(words, "--supervise", "--run-dir", "--resume")
    first = [*flags, "--run-dir", str(run_dir)]  # refuses a folder that holds a run
    going_on = [*_without(flags, "--initial-params"), "--resume", str(run_dir)]
    command, newest, futile = going_on if resume else first, _newest(run_dir), 0
    # `-m` puts the current folder first on the path, `-P` leaves that to how we were started.
    own_path = [] if searches_current_folder() else ["-P"]
    while True:
        code, told, stopped = _run([sys.executable, *own_path, "-m", "jax_a3c.cli", *command])
        if told is not None:
            return told
        if stopped or not (run_dir / "config.json").exists():
            return code if code >= 0 else 128 - code
        before, newest = newest, _newest(run_dir)
        futile = futile + 1 if newest == before else 1
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if futile >= MAX_FUTILE:
            tell(
                f"jax-a3c: the run died {futile} times without a newer checkpoint ({cause}); given up"
            )
            return ExitCode.FAILED
        tell(f"jax-a3c: the run died of {cause}; it goes on from {newest or 'its start'}")
        command = going_on


def _run(command: list[str]) -> tuple[int, int | None, bool]:
    """How a process ended.

    Returns:
      Its exit code, negative if a signal killed it; the code that it told, None if it died before; whether
      somebody asked for its end.
    """
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
        os.set_blocking(listening, False)  # a process of the environment's may outlive it
        told = words.read(1)
    return code, told[0] if told else None, bool(passed_on)


def _newest(run_dir: Path) -> str | None:
    """Name of the newest checkpoint."""
    paths = Checkpoints(run_dir / "checkpoints").paths()
    return paths[0].name if paths else None


def _without(words: list[str], *flags: str) -> list[str]:
    """The words without some flags, be they written as `--run-dir` or `--run_dir`, and their values."""
    kept, skip = [], False
    for word in words:
        flag, equals, _ = word.partition("=")
        if skip:
            skip = False
        elif flag.replace("_", "-") not in flags:
            kept.append(word)
        else:
            skip = not equals and flag != "--supervise"
    return kept
