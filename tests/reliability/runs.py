"""Runs of `jax-a3c` in processes of their own, to be killed, starved and watched."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from jax_a3c.training.run_directory import RunDirectory

ROOT = Path(__file__).parents[2]
for _number in (signal.SIGINT, signal.SIGHUP):
    # Of a suite in the background they are ignored, and a run would ignore them too. Not what handles them.
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, lambda *_: None)


def start(*words, script=None, **more):
    """A process of `jax-a3c WORDS`, or of another script; its output goes to a pipe."""
    program = ["-m", "jax_a3c.cli"] if script is None else [str(script)]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path, **more.pop("env", {})}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": env, **more}
    return subprocess.Popen([sys.executable, *program, *map(str, words)], **options)


def compiled_once(folder):
    """Variables of the environment by which processes share what they compile."""
    names = ("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES")
    return {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"), **dict.fromkeys(names, "0")}


def finish(process, timeout=300):
    """Exit code and output of a process."""
    output, _ = process.communicate(timeout=timeout)
    return process.returncode, output


def await_checkpoint(process, run_dir, after=0, timeout=120):
    """Wait until a run has a checkpoint of more than so many steps; its number of steps."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        paths = RunDirectory(run_dir).checkpoints.paths()
        if paths and int(paths[0].stem) > after:
            return int(paths[0].stem)
        assert process.poll() is None, f"the run ended: {process.communicate()[0]}"
        time.sleep(0.01)
    raise AssertionError(f"no checkpoint within {timeout} seconds")
