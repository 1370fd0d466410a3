"""Workers that raise, start and stop: the caller learns it at once, and no thread remains."""

import contextlib
import threading
import time

import numpy as np
import pytest
from concurrency import PATIENCE
from probes import EndlessReward
from reliability.runs import FailingRuns, saved_updates

from jax_a3c import A3CConfig, a3c, networks, optimizers
from jax_a3c.runners.base import Progress

MAX_WORKERS = 40
FOREVER = 10**12


class TimedError(RuntimeError):
    """Error that records when it was raised."""

    def __init__(self):
        super().__init__("the cat pulled the plug")
        self.raised_at = time.perf_counter()


class Unplugged:
    """Optimizer rule that raises in one update of one worker."""

    def __init__(self, rule, worker, fail_at):
        self._rule, self._name, self._left = rule, f"a3c-worker-{worker}", fail_at

    def __call__(self, *args):
        if threading.current_thread().name == self._name:
            self._left -= 1
            if self._left < 0:
                raise TimedError
        self._rule(*args)


def test_exceptions_in_workers(count, figure, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    total, num_workers, seconds = count(10, 100), 5, []
    runs = FailingRuns(monkeypatch, tmp_path, "a3c", "gymnax:CartPole-v1", num_workers=num_workers)
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)  # no monitor thread
    rule, before = runs.runner._rule, set(threading.enumerate())
    for _ in range(total):
        worker = int(rng.integers(num_workers))
        runs.runner._rule = Unplugged(rule, worker, int(rng.geometric(0.01)))
        error, run = runs.train(TimedError)
        seconds.append(runs.ended_at - error.raised_at)
        assert f"raised in worker {worker} of {num_workers}" in error.__notes__[0]
        assert not set(threading.enumerate()) - before
        assert (
            saved_updates(run) == runs.state.shared.updates_per_worker and runs.state.shared.updates
        )
        assert run.summary()["updates"] == runs.state.shared.updates
        # Most runs fail before the first report, so their metrics are empty.
        rows = run.metrics() if (run.path / "metrics.jsonl").exists() else []
        assert all(row["interval_updates"] and "episodes" in row for row in rows)
    figure(
        f"{total} of {total} exceptions in a random update of one of {num_workers} workers were "
        f"raised in the main thread, the slowest after {max(seconds):.3f} s; what was learned "
        "before was saved, and no thread was left",
        raised=total,
        slowest_seconds=round(max(seconds), 4),
    )
    assert max(seconds) < count(PATIENCE, 1.0)  # the default suite allows for a busy machine


def test_starts_and_stops(count, figure):
    """Runs end by their number of steps, by the callback, or by an exception in a worker."""
    rng, total = np.random.default_rng(2), count(60, 1000)
    env, sizes = EndlessReward(), [1, 2, 7, 40] if count(1, 0) else range(1, MAX_WORKERS + 1)
    network, before = networks.actor_critic(env, hidden=(4,)), set(threading.enumerate())
    agents, ways = {}, {"by steps": 0, "by callback": 0, "by exception": 0}
    segments, slowest = None, 0.0
    for cycle in range(total):
        num_workers = int(rng.choice(sizes))
        if num_workers not in agents:
            config = A3CConfig(num_workers=num_workers, num_steps=5)
            runner = a3c(lambda: env, network, optimizers.shared_rmsprop(1e-3), config)
            segments = runner._segments = segments or runner._segments
            runner._packing = segments._packing
            agents[num_workers] = runner, runner.init(num_workers), runner._rule
        runner, state, rule = agents[num_workers]
        until, state.shared._rule, way = FOREVER, rule, list(ways)[cycle % 3]
        began, expected, callback = time.monotonic(), contextlib.nullcontext(), None
        if way == "by steps":
            until = state.shared.env_steps + int(rng.integers(1, 1000))
        elif way == "by callback":
            end = began + rng.exponential(0.01)
            callback = lambda progress: time.monotonic() > end  # noqa: E731, B023
        else:
            state.shared._rule = Unplugged(
                rule, int(rng.integers(num_workers)), int(rng.integers(0, 20))
            )
            expected = pytest.raises(TimedError)
        with expected:
            result = runner.run(state, until=until, callback=callback, interval=0.001)
            assert isinstance(result.progress, Progress)
        ways[way] += 1
        slowest = max(slowest, time.monotonic() - began)
        assert not set(threading.enumerate()) - before
    figure(
        f"{total:,} starts and stops of 1 to {max(sizes)} workers, no hang, no thread left: "
        f"{', '.join(f'{number} {way}' for way, number in ways.items())}; "
        f"the slowest {slowest:.1f} s",
        cycles=total,
        workers=[min(sizes), max(sizes)],
        ways=ways,
        slowest_seconds=round(slowest, 2),
    )
    for _, state, _ in agents.values():
        assert sum(state.shared.updates_per_worker) == state.shared.updates > 0
