"""Worker threads: exceptions, hangs, and no thread left behind."""

import threading
import time

import pytest
from concurrency import Clock, wait_until

from jax_a3c.errors import WorkerHangError
from jax_a3c.runners.workers import Workers


def alive():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("a3c-worker")]


def test_all_work_and_the_caller_is_told_meanwhile():
    workers, done, reports = Workers(5), [], []

    def work(worker):
        while len(reports) < 2:
            assert workers.go_on(worker)
            time.sleep(0.005)
        done.append(worker)

    workers.run(work, interval=0.01, report=lambda: reports.append(1))
    assert sorted(done) == list(range(5)) and len(reports) >= 2 and not alive()


def test_a_report_ends_the_work():
    workers, pieces, reports = Workers(3), [], []

    def work(worker):
        while workers.go_on(worker):
            pieces.append(worker)
            time.sleep(0.001)

    def report():
        reports.append(set(pieces) == {0, 1, 2})
        return reports[-1]

    workers.run(work, interval=0.02, report=report)
    assert reports.index(True) == len(reports) - 1 and not alive()


def test_the_first_error_is_raised_here_and_ends_the_others():
    workers = Workers(3)

    def work(worker):
        while workers.go_on(worker):
            if worker == 1:
                raise KeyError("lost")
            time.sleep(0.001)

    with pytest.raises(KeyError, match="lost") as raised:
        workers.run(work, interval=10.0, report=lambda: False)
    assert "raised in worker 1 of 3" in raised.value.__notes__[0] and not alive()


@pytest.fixture
def clock(monkeypatch):
    """Replace the clock of the workers, so that the load of the machine does not matter."""
    clock = Clock()
    monkeypatch.setattr("jax_a3c.runners.workers.time", clock)
    return clock


def test_a_silent_worker_is_named_with_all_stacks(capfd, clock):
    workers, release = Workers(2, timeout=30.0), threading.Event()

    def work(worker):
        while workers.go_on(worker):
            if worker == 1:
                release.wait()
            clock.now += 1.0  # after each sign of life of the other worker
            time.sleep(0.001)

    try:
        with pytest.raises(
            WorkerHangError, match="worker 1 of 2 hangs: no segment ended within 30 seconds"
        ):
            workers.run(work, interval=0.05, report=lambda: False)
        assert alive() == ["a3c-worker-1"]  # a thread cannot be ended from outside
    finally:
        release.set()
    assert "in work" in capfd.readouterr().err


def test_one_that_has_ended_does_not_hang(clock):
    workers, reports = Workers(2, timeout=30.0), []

    def work(worker):
        if worker == 0:
            return
        wait_until(lambda: alive() == ["a3c-worker-1"])
        for _ in range(8):
            seen = len(reports)
            wait_until(lambda seen=seen: len(reports) >= seen + 2)  # the caller checked in between
            assert workers.go_on(worker)
            clock.now += 10.0

    workers.run(work, interval=0.0, report=lambda: reports.append(clock.now))
    assert reports[-1] >= 70.0 and not alive()
