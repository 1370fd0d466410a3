"""After a signal at a random time a run ends soon, saves, and reports the interruption."""

import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from concurrency import PATIENCE, Clock
from reliability.runs import await_checkpoint, finish, start

from jax_a3c.experiment.run_directory import RunDirectory
from jax_a3c.training.signals import SAME_SIGNAL, stop_on_signal

IN_TIME = 5.0
"""Maximum seconds from a signal to the end of the process."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
CARTPOLE = "gymnax:CartPole-v1"


def words(method, path, *, evaluating=False):
    """Return the command of a run that trains or evaluates until a signal ends it."""
    flags = ["--total-timesteps", "2e4" if evaluating else "1e14", "--checkpoint-interval", "0.5"]
    flags += ["--eval-episodes", "2e5" if evaluating else "1", "--quiet", "--run-dir", path]
    return ["train", method, CARTPOLE, *flags, *(["--num-workers", "2"] * (method == "a3c"))]


def interrupted(process, run):
    """Check the files of a run that was just told to end; return the seconds until its end."""
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


def once(number, folder, pause):
    """Send a signal during training or evaluation; a second one at once must change nothing.

    `pause` is 0 on a busy machine, where a pause of 0.5 seconds may last more than a second.
    """
    rng = random.Random(number)
    path, evaluating, method = folder / str(number), number % 4 >= 2, ("a2c", "a3c")[number % 2]
    process = start(*words(method, path, evaluating=evaluating))
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
    cases = count(4, 100)
    for method in ("a2c", "a3c"):  # compile before the measurement
        path = tmp_path / f"compiles-{method}"
        process = start(*words(method, path, evaluating=True))
        await_checkpoint(process, path, after=19_999)
        time.sleep(count(1.0, 20.0))
        process.terminate()
        finish(process)
    with ThreadPoolExecutor(count(2, 3)) as pool:
        arguments = [tmp_path] * cases, [count(0.0, 0.5)] * cases
        seconds = list(pool.map(once, range(cases), *arguments))
    late = sum(one > IN_TIME for one in seconds)
    median, last = np.median(seconds), max(seconds)
    figure(
        f"{cases} of {cases} runs ended with a valid checkpoint, exit code 130 and status "
        f"interrupted, {cases - late} of them within {IN_TIME:g} s; median {median:.2f} s, "
        f"longest {last:.2f} s",
        **{"cases": cases, "late": late, "median_seconds": median, "longest_seconds": last},
        load_average=os.getloadavg()[1],  # of five minutes: a busy machine is slow
    )
    assert last <= count(PATIENCE, IN_TIME)  # the default suite allows for a busy machine


@pytest.fixture
def came():
    """Return the signals that reach the previous handler."""
    found = []
    before = signal.signal(signal.SIGTERM, lambda number, _: found.append(number))
    yield found
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def clock(monkeypatch):
    """Replace the clock of the signal handler, so that the load does not matter."""
    clock = Clock()
    monkeypatch.setattr("jax_a3c.training.signals.time", clock)
    return clock


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def test_what_comes_at_once_is_the_same_signal_even_if_nothing_is_left_to_end(
    came, clock, monkeypatch
):
    """Another signal arrives while the context waits for repeated ones."""
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


@pytest.mark.parametrize(("method", "sent"), [("a2c", signal.SIGTERM), ("a3c", signal.SIGINT)])
def test_a_second_signal_ends_it_at_once(method, sent, tmp_path):
    """A second signal ends the process even if a step hangs."""
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
        "gymnasium:tests.breaking:Hanging-v0",
        *flags,
        "--run-dir",
        tmp_path / "run",
    ]
    process = start(*command, env={"HUNG": str(tmp_path / "hung")})
    while not (tmp_path / "hung").exists():
        assert process.poll() is None, finish(process)
        time.sleep(0.01)
    process.send_signal(sent)
    time.sleep(5.0)  # more than `SAME_SIGNAL`, even on a busy machine
    assert process.poll() is None  # the step could still end
    process.send_signal(sent)
    code, output = finish(process)  # the step never ends
    assert code == -sent, output
    RunDirectory(tmp_path / "run").checkpoints.load("last")
