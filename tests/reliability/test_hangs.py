"""Hanging environments, segments and updates are detected and named, and nothing waits."""

import itertools
import sys
import threading
import time

import jax
import numpy as np
import pytest
from concurrency import PATIENCE, patient, wait_until
from probes import EndlessReward
from reliability.runs import FailingRuns, finish, saved_updates, start, worker_threads

from jax_a3c import A3CConfig, a3c, networks, optimizers
from jax_a3c.errors import HostEnvironmentError, WorkerHangError
from jax_a3c.experiment.run_directory import RunDirectory

WHILE_BUSY = 20.0
"""Seconds of tolerance for the machine that runs the full counts."""
HANGS = {
    # method, environment options, error
    "a2c": ("a2c", ("timeout=2",), HostEnvironmentError),
    "a3c": ("a3c", ("timeout=2",), HostEnvironmentError),
    "a3c without a time-out": ("a3c", ("timeout=null",), WorkerHangError),
    "a3c with a longer time-out": ("a3c", ("timeout=1000",), WorkerHangError),
}


@pytest.fixture
def hanging():
    """Yield the module with the hanging environment; release it afterwards."""
    pytest.importorskip("gymnasium")
    import breaking

    breaking.released.clear()
    yield breaking
    breaking.released.set()
    wait_until(lambda: not worker_threads())


def test_environments_that_hang(count, figure, tmp_path, monkeypatch, hanging):
    rng, total, seconds = np.random.default_rng(1), count(1, 5), {}
    stderr = (tmp_path / "stderr").open("a")
    monkeypatch.setattr(sys, "__stderr__", stderr)  # receives the stacks of all threads
    for name in count(("a2c", "a3c without a time-out"), tuple(HANGS)):
        method, options, error = HANGS[name]
        settings = {"env_options": (f"last={rng.integers(60, 300)}", *options), "num_envs": 2}
        if method == "a3c":
            settings |= {"num_workers": 2, "worker_timeout": 2.0}
            if error is HostEnvironmentError:
                settings["worker_timeout"] = None
        (tmp_path / name).mkdir()
        runs = FailingRuns(
            monkeypatch, tmp_path / name, method, "gymnasium:breaking:Hanging-v0", **settings
        )
        for _ in range(total):
            hanging.hung_at.clear()
            if count(1, 0):
                patient(lambda: hanging.hung_at, monkeypatch.setattr)
            raised, run = runs.train(error)
            seconds.setdefault(name, []).append(time.monotonic() - hanging.hung_at[0])
            assert "hang" in str(raised)
            if error is WorkerHangError:
                assert "in _hang" in (tmp_path / "stderr").read_text(), (
                    "the stack of the one that hangs"
                )
                (tmp_path / "stderr").write_text("")
                assert saved_updates(run) == runs.state.shared.updates_per_worker
            steps = run.checkpoints.load("last").facts["progress"]["updates"]
            assert steps > 0, name
    slowest = {name: round(max(values), 2) for name, values in seconds.items()}
    cases = sum(map(len, seconds.values()))
    figure(
        f"{cases} of {cases} hanging environments named, at most {max(slowest.values()):.1f} s "
        "after they began to hang, with time-outs of 2 s; what was learned before was saved",
        cases=cases,
        slowest_seconds=slowest,
    )
    assert max(slowest.values()) < count(PATIENCE, 2.0 + WHILE_BUSY)


class Blocking(EndlessReward):
    """JAX environment whose step calls back to Python, which may block."""

    def __init__(self, wait):
        super().__init__()
        self._wait = wait

    def reward(self, state, action):
        return jax.pure_callback(
            lambda time: np.float32(self._wait()), jax.ShapeDtypeStruct((), "float32"), 0
        )


def blocking_agent(wait, **settings):
    """Return A3C on `Blocking`."""
    env = Blocking(wait)
    config = A3CConfig(total_timesteps=10**12, num_steps=5, worker_timeout=2.0, **settings)
    network = networks.actor_critic(env, hidden=(8,))
    return a3c(lambda: env, network, optimizers.shared_rmsprop(1e-2), config)


@pytest.mark.parametrize("lock", [False, True])
def test_a_segment_or_an_update_that_blocks(lock, count, figure, tmp_path, monkeypatch):
    """With the lock all workers wait for the one that hangs in an update."""
    stderr, release, blocked_at = (tmp_path / "stderr").open("w"), threading.Event(), []
    monkeypatch.setattr(sys, "__stderr__", stderr)
    calls, seconds = itertools.count(), []
    if count(1, 0):
        patient(lambda: blocked_at, monkeypatch.setattr)

    def wait():
        if next(calls) >= stop_at:
            blocked_at.append(time.monotonic())
            release.wait()
        return 1.0

    algorithm, stop_at = (
        blocking_agent(lambda: 1.0 if lock else wait(), num_workers=3, lock=lock),
        10**12,
    )
    rule = algorithm._rule
    if lock:
        algorithm._rule = lambda *args: wait() and rule(*args)
    state = algorithm.init(0)
    total = count(1, 5)
    try:
        for _ in range(total):
            release.clear()
            blocked_at.clear()
            calls, stop_at = itertools.count(), 500
            with pytest.raises(WorkerHangError, match="no segment ended within 2 seconds"):
                algorithm.run(state)
            seconds.append(time.monotonic() - blocked_at[0])
            release.set()
            wait_until(lambda: not worker_threads())  # abandoned threads end when they are released
            assert "in wait" in (tmp_path / "stderr").read_text()
            assert np.isfinite(state.shared.flat_params).all() and state.shared.updates
    finally:
        release.set()
    what = "updates under the lock" if lock else "segments of JAX"
    figure(
        f"{total} of {total} blocked {what} noticed, at most {max(seconds):.1f} s after they began",
        cases=total,
        slowest_seconds=round(max(seconds), 2),
    )
    assert max(seconds) < count(PATIENCE, 2 * 2.0 + WHILE_BUSY)


PATIENT = """
import os, sys, threading
from pathlib import Path
from concurrency import patient
from jax_a3c.cli import main

hung = Path(os.environ["HUNG"])
patient(hung.exists)
"""
BLOCKED = """
from jax_a3c.experiment import build as experiment
from reliability.test_hangs import Blocking

calls = iter(range(2000))

def wait():
    if next(calls, None) is None:
        hung.touch()
        threading.Event().wait()
    return 1.0

env = Blocking(wait)
experiment.envs.make = lambda *args, **kwargs: env
"""
GUARDED = """
if __name__ == "__main__":
    sys.exit(main())
"""


@pytest.mark.parametrize(
    ("env_id", "options", "message"),
    [
        (
            "gymnasium:breaking:Hanging-v0",
            ["timeout=2"],
            "hangs: step did not return within 2 seconds",
        ),
        ("gymnasium:breaking:Hanging-v0", ["timeout=null"], "no segment ended within 2 seconds"),
        (
            "gymnasium:breaking:Hanging-v0",
            ["timeout=null", "processes=true"],
            "no segment ended within",
        ),
        ("gymnax:CartPole-v1", [], "no segment ended within 2 seconds"),
    ],
    ids=["timed", "untimed", "processes", "blocked"],
)
def test_a_process_with_a_worker_that_hangs_ends(env_id, options, message, tmp_path):
    words = [
        "train",
        "a3c",
        env_id,
        "--total-timesteps",
        "1e9",
        "--quiet",
        "--hidden",
        "8",
        "--num-envs",
        "1",
    ]
    words += ["--num-workers", "2", "--worker-timeout", "None" if options == ["timeout=2"] else "2"]
    words += ["--run-dir", tmp_path / "run", *(["--env-options", *options] if options else [])]
    script = tmp_path / "patient.py"
    script.write_text(PATIENT + ("" if options else BLOCKED) + GUARDED)
    code, output = finish(start(*words, script=script, env={"HUNG": str(tmp_path / "hung")}))
    assert code == 1, output
    last = output.strip().splitlines()[-1]
    assert last.startswith("jax-a3c: error: ") and message in last, output
    assert "Traceback" not in output
    run = RunDirectory(tmp_path / "run")
    assert run.summary()["status"] == "failed"
    assert sum(saved_updates(run)) > 0
