"""Start and watch runs of `jax-a3c`, in child processes or in this one."""

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from concurrency import PATIENCE

from jax_a3c.experiment import plots
from jax_a3c.experiment.build import build
from jax_a3c.experiment.run_directory import RunDirectory
from jax_a3c.settings.run import RunOptions, resolve
from jax_a3c.training import train as training

ROOT = Path(__file__).parents[2]
_COMPILED = tempfile.TemporaryDirectory(prefix="compiled-")
SHARED_PROGRAMS = {
    "JAX_COMPILATION_CACHE_DIR": _COMPILED.name,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
}
"""Environment variables with which all child processes of the tests share compiled programs."""
for _number in (signal.SIGINT, signal.SIGHUP):
    # A test suite in the background ignores these signals, and child processes inherit that.
    # They do not inherit handlers.
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, lambda *_: None)


def start(*words, script=None, first=None, shares_programs=True, **more):
    """Start `jax-a3c WORDS` or another script, with its output in a pipe; run `first` before it."""
    shared = SHARED_PROGRAMS if shares_programs else {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    program = ["-m", "jax_a3c.cli"] if script is None else [str(script)]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path, **shared, **more.pop("env", {})}
    env.pop("PYTHONUNBUFFERED", None)  # unwritten output at the end is a case to test
    options = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
        "env": env,
        **more,
    }
    command = [sys.executable, *program, *map(str, words)]
    if first is not None:  # in the new program: JAX' threads do not survive a fork
        first = f"import os, sys; {first}; os.execv(sys.argv[1], sys.argv[1:])"
        command = [sys.executable, "-c", first, *command]
    return subprocess.Popen(command, **options)


def finish(process):
    """Return exit code and output of a process; kill it if it does not end."""
    try:
        output, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        raise AssertionError(
            f"the process did not end within {PATIENCE:g} seconds: {output}"
        ) from None
    return process.returncode, output


def await_checkpoint(process, run_dir, after=0):
    """Wait until a run has a checkpoint of more than `after` steps; return its steps."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        paths = RunDirectory(run_dir).checkpoints.paths()
        if paths and int(paths[0].stem) > after:
            return int(paths[0].stem)
        assert process.poll() is None, f"the run ended: {process.communicate()[0]}"
        time.sleep(0.01)
    raise AssertionError(f"no checkpoint within {PATIENCE:g} seconds")


class FailingRuns:
    """Runs of one experiment, compiled once; record the state and when the trainer raised."""

    def __init__(self, monkeypatch, folder, method, env_id, **settings):
        settings = {"total_timesteps": 10**12, "hidden": (8,), **settings}
        self._method, self._env_id, self._folder = method, env_id, folder
        self._settings = resolve(method, env_id, **settings)
        self._experiment = build(method, env_id, self._settings)
        self._numbers = itertools.count()
        self.runner = self._experiment.runner
        self._init, self._run = self.runner.init, self.runner.run
        monkeypatch.setattr(training, "_prepare", lambda *args: self._experiment)
        monkeypatch.setattr(plots, "learning_curves", lambda *args: None)
        monkeypatch.setattr(self.runner, "init", self._remembering)
        monkeypatch.setattr(self.runner, "run", self._timed)

    def train(self, error):
        """Train until an error is raised; return the exception and the run directory."""
        run = RunDirectory(self._folder / str(next(self._numbers)))
        with pytest.raises(error) as caught:
            training.train(
                self._method, self._env_id, self._settings, run.path, options=RunOptions(quiet=True)
            )
        summary = run.summary()
        assert summary["status"] == "failed" and summary["error"].startswith(error.__name__)
        return caught.value, run

    def _remembering(self, key):
        self.state = self._init(key)
        return self.state

    def _timed(self, *args, **kwargs):
        try:
            return self._run(*args, **kwargs)
        finally:
            self.ended_at = time.perf_counter()


def saved_updates(run):
    """Return the number of updates of each worker in the newest checkpoint."""
    return run.checkpoints.load("last").arrays["state/shared/updates"].tolist()


def worker_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("a3c-worker")]
