"""Signals at random moments: a run ends in time, saves what it learned, and says that it was interrupted."""

import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from concurrency import PATIENCE, Clock
from reliability.runs import await_checkpoint, compiled_once, finish, start

from jax_a3c.training.run_directory import RunDirectory
from jax_a3c.training.signals import SAME_SIGNAL, stop_on_signal

IN_TIME = 5.0
"""Seconds from a signal to the end of the process."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
CARTPOLE = "gymnax:CartPole-v1"


def words(method, path, *, evaluating=False):
    """Of a run that trains, or evaluates, until somebody ends it."""
    flags = ["--total-timesteps", "2e4" if evaluating else "1e14", "--checkpoint-interval", "0.5"]
    flags += ["--eval-episodes", "2e5" if evaluating else "1", "--quiet", "--run-dir", path]
    return ["train", method, CARTPOLE, *flags, *(["--num-workers", "2"] * (method == "a3c"))]


def interrupted(process, run):
    """Seconds until the end of a process that has just been told to end, and that all is as it should be."""
    sent = time.monotonic()
    code, output = finish(process)
    seconds = time.monotonic() - sent
    assert code == 130, output
    assert "Traceback" not in output
    summary = run.summary()
    assert summary["status"] == "interrupted"
    newest = run.checkpoints.load("last")
    assert newest.path == run.checkpoints.paths()[0]
    assert newest.facts["progress"]["env_steps"] == summary["env_steps"]
    assert not list(run.path.rglob("*.partial"))
    assert (run.metrics()[-1]["env_steps"] if summary["env_steps"] else 0) == summary["env_steps"]
    return seconds


def once(number, folder, env, pause):
    """A signal during training or the evaluation of a run; the second of two at once changes nothing.

    On a busy machine, where a pause of 0.5 seconds may last a second and more, there is none.
    """
    rng = random.Random(number)
    path, evaluating, method = folder / str(number), number % 4 >= 2, ("a2c", "a3c")[number % 2]
    process = start(*words(method, path, evaluating=evaluating), env=env)
    await_checkpoint(process, path, after=19_999 if evaluating else 0)
    time.sleep(rng.uniform(0.0, 3.0))
    sent = SIGNALS[number // 4 % len(SIGNALS)]
    process.send_signal(sent)
    if rng.random() < 0.5:
        time.sleep(rng.uniform(0.0, pause))
        process.send_signal(sent)
    run = RunDirectory(path)
    seconds = interrupted(process, run)
    assert (run.summary()["env_steps"] >= 20_000) if evaluating else run.summary()["env_steps"] > 0
    return seconds


def test_signals(tmp_path, count, figure):
    env, cases = compiled_once(tmp_path), count(4, 100)
    for method in ("a2c", "a3c"):  # what compiles now, does not later
        path = tmp_path / f"compiles-{method}"
        process = start(*words(method, path, evaluating=True), env=env)
        await_checkpoint(process, path, after=19_999)
        time.sleep(count(1.0, 20.0))
        process.terminate()
        finish(process)
    with ThreadPoolExecutor(count(2, 3)) as pool:
        arguments = [tmp_path] * cases, [env] * cases, [count(0.0, 0.5)] * cases
        seconds = list(pool.map(once, range(cases), *arguments))
    late = sum(one > IN_TIME for one in seconds)
    median, last = np.median(seconds), max(seconds)
    figure(
        f"{cases} of {cases} runs ended with a valid checkpoint, exit code 130 and status interrupted, "
        f"{cases - late} of them within {IN_TIME:g} s; median {median:.2f} s, longest {last:.2f} s",
        **{"cases": cases, "late": late, "median_seconds": median, "longest_seconds": last},
        load_average=os.getloadavg()[1],  # of five minutes: seconds on a busy machine say little
    )
    assert last <= count(PATIENCE, IN_TIME)  # a busy machine is no failure of the default suite


@pytest.fixture
def came():
    """Signals that come to what handled them before."""
    found = []
    before = signal.signal(signal.SIGTERM, lambda number, _: found.append(number))
    yield found
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def clock(monkeypatch):
    """The clock of what handles signals, which a busy machine does not advance."""
    clock = Clock()
    monkeypatch.setattr("jax_a3c.training.signals.time", clock)
    return clock


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def test_what_comes_at_once_is_the_same_signal_even_if_nothing_is_left_to_end(
    came, clock, monkeypatch
):
    """Another signal comes while the context waits for just that."""
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        clock.now += 0.99 * seconds
        terminate()
        clock.now += 0.01 * seconds

    monkeypatch.setattr(clock, "sleep", sleep)
    with stop_on_signal() as stopped:
        terminate()
        stopped.wait()
    assert waits == [SAME_SIGNAL] and came == []
    terminate()
    assert came == [signal.SIGTERM]


def test_a_second_signal_goes_to_what_handled_it_before_and_a_third_ends_the_program(came, clock):
    with stop_on_signal() as stopped:
        terminate()
        assert stopped.wait(PATIENCE) and came == []
        clock.now += 1.01 * SAME_SIGNAL
        terminate()
        assert came == [signal.SIGTERM] and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("method", ["a2c", "a3c"])
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(method, sent, tmp_path):
    """Even if a step hangs."""
    pytest.importorskip("gymnasium", reason="pip install 'jax-a3c[gymnasium]'")
    flags = [
        "--num-envs",
        "2",
        "--total-timesteps",
        "20000",
        "--checkpoint-interval",
        "0.1",
        "--quiet",
    ]
    flags += ["--num-workers", "2"] * (method == "a3c")
    command = [
        "train",
        method,
        "gymnasium:tests.crashing:Stuck-v0",
        *flags,
        "--run-dir",
        tmp_path / "run",
    ]
    process = start(*command, env={"STUCK": str(tmp_path / "stuck")})
    while not (tmp_path / "stuck").exists():
        assert process.poll() is None, finish(process)
        time.sleep(0.01)
    process.send_signal(sent)
    time.sleep(5.0)  # on a busy machine too the two are further apart than `SAME_SIGNAL`
    assert process.poll() is None  # the step may yet end
    process.send_signal(sent)
    code, output = finish(process)  # the step does not
    assert code == -sent, output
    RunDirectory(tmp_path / "run").checkpoints.load("last")
