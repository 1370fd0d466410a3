"""Workers that raise, hang, start and stop: the caller knows at once, and nothing stays behind."""

import contextlib
import dataclasses
import itertools
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import EndlessReward
from reliability.runs import finish, start

from jax_a3c import A3CConfig, a3c, networks, optimizers
from jax_a3c.checks import HostEnvironmentError, WorkerHangError
from jax_a3c.training import train as training
from jax_a3c.training.experiment import build
from jax_a3c.training.run_directory import RunDirectory
from jax_a3c.training.settings import RunOptions, resolve
from jax_a3c.types import Progress

pytestmark = pytest.mark.unoptimized
MAX_WORKERS = 40
FOREVER = 10**12
WHILE_BUSY = 20.0
"""Seconds that this machine may need for what takes milliseconds."""


def worker_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("a3c-worker")]


class TimedError(RuntimeError):
    """Knows when it was raised."""

    def __init__(self):
        super().__init__("the cat pulled the plug")
        self.raised_at = time.perf_counter()


class Unplugged:
    """An optimizer's rule that raises in an update of one worker."""

    def __init__(self, rule, worker, fail_at):
        self._rule, self._name, self._left = rule, f"a3c-worker-{worker}", fail_at

    def __call__(self, *args):
        if threading.current_thread().name == self._name:
            self._left -= 1
            if self._left < 0:
                raise TimedError
        self._rule(*args)


class Runs:
    """Runs of one experiment, compiled once; remembers the state and when the trainer raised."""

    def __init__(self, monkeypatch, folder, method, env_id, **settings):
        settings = {"total_timesteps": FOREVER, "hidden": (8,), **settings}
        self._method, self._env_id, self._folder = method, env_id, folder
        self._settings = resolve(method, env_id, **settings)
        self._experiment = build(method, env_id, self._settings)
        self._numbers = itertools.count()
        self.trainer = self._experiment.trainer
        self._init, self._run = self.trainer.init, self.trainer.run
        monkeypatch.setattr(training, "_prepare", lambda *args: self._experiment)
        monkeypatch.setattr(training.plots, "learning_curves", lambda *args: None)
        monkeypatch.setattr(self.trainer, "init", self._remembering)
        monkeypatch.setattr(self.trainer, "run", self._timed)

    def train(self, error):
        """Train until that error; what was raised, and the directory."""
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

    def _timed(self, **kwargs):
        try:
            return self._run(**kwargs)
        finally:
            self.ended_at = time.perf_counter()


def saved_updates(run):
    """The newest checkpoint's number of updates by each worker."""
    return run.checkpoints.load("last").arrays["state/shared/updates"].tolist()


def test_exceptions_in_workers(count, figure, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    total, num_workers, seconds = count(10, 100), 5, []
    runs = Runs(monkeypatch, tmp_path, "a3c", "gymnax:CartPole-v1", num_workers=num_workers)
    rule, before = runs.trainer._in_place, threading.active_count()
    for _ in range(total):
        worker = int(rng.integers(num_workers))
        runs.trainer._in_place = Unplugged(rule, worker, int(rng.geometric(0.01)))
        error, run = runs.train(TimedError)
        seconds.append(runs.ended_at - error.raised_at)
        assert f"raised in worker {worker} of {num_workers}" in error.__notes__[0]
        assert threading.active_count() == before
        assert saved_updates(run) == runs.state.shared.updates_per_worker and runs.state.shared.updates
    figure(
        f"{total} of {total} exceptions in a random update of one of {num_workers} workers were raised in the "
        f"main thread, the slowest after {max(seconds):.3f} s; what was learned till then was saved, and no "
        "thread was left",
        raised=total,
        slowest_seconds=round(max(seconds), 4),
    )
    assert max(seconds) < 1.0


HANGS = {
    # method, settings of the environment, error
    "a2c": ("a2c", ("timeout=2",), HostEnvironmentError),
    "a3c": ("a3c", ("timeout=2",), HostEnvironmentError),
    "a3c without a time-out": ("a3c", ("timeout=null",), WorkerHangError),
    "a3c with a longer time-out": ("a3c", ("timeout=1000",), WorkerHangError),
}


@pytest.fixture
def hanging():
    """The module whose environment hangs; in the end it does no more."""
    pytest.importorskip("gymnasium")
    import breaking

    breaking.released.clear()
    yield breaking
    breaking.released.set()
    deadline = time.monotonic() + WHILE_BUSY
    while worker_threads() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_environments_that_hang(count, figure, tmp_path, monkeypatch, hanging, capfd):
    rng, total, seconds = np.random.default_rng(1), count(1, 5), {}
    for name, (method, options, error) in HANGS.items():
        settings = {"env_options": (f"last={rng.integers(60, 300)}", *options), "num_envs": 2}
        if method == "a3c":
            settings |= {"num_workers": 2, "worker_timeout": 2.0}
            if error is HostEnvironmentError:
                settings["worker_timeout"] = None
        (tmp_path / name).mkdir()
        runs = Runs(monkeypatch, tmp_path / name, method, "gymnasium:breaking:Hanging-v0", **settings)
        for _ in range(total):
            hanging.hung_at.clear()
            raised, run = runs.train(error)
            seconds.setdefault(name, []).append(time.monotonic() - hanging.hung_at[0])
            assert "hang" in str(raised)
            told = capfd.readouterr().err
            if error is WorkerHangError:
                assert "breaking.py" in told and "in _hang" in told, "the stack of the one that hangs"
                assert saved_updates(run) == runs.state.shared.updates_per_worker
            steps = run.checkpoints.load("last").facts["progress"]["updates"]
            assert steps > 0, name
    slowest = {name: round(max(values), 2) for name, values in seconds.items()}
    cases = sum(map(len, seconds.values()))
    figure(
        f"{cases} of {cases} hanging environments named, {max(slowest.values()):.1f} s after they began to "
        "hang at the latest, with time-outs of 2 s; what was learned till then was saved",
        cases=cases,
        slowest_seconds=slowest,
    )
    assert max(slowest.values()) < 2.0 + WHILE_BUSY
