"""The shared buffer: exact counters, the lock, the target, alignment."""

import sys
import threading

import numpy as np
import pytest

from jax_a3c.runners import shared_parameters as hogwild
from jax_a3c.runners.shared_parameters import SharedParameters, aligned_empty


def run_threads(count, target):
    threads = [threading.Thread(target=target, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.fixture
def eager_switching():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def add_ones(shared, worker, updates):
    for _ in range(updates):
        shared.count(worker, 3)
        shared.apply(worker, shared.updates, lambda p, s: np.add(p, 1.0, out=p))


@pytest.mark.parametrize("lock", [True, False])
def test_counters_are_exact(lock, eager_switching):
    shared = SharedParameters(np.zeros(4096, np.float32), 8, lock=lock)
    run_threads(8, lambda worker: add_ones(shared, worker, 500))
    assert shared.env_steps == 8 * 500 * 3
    assert shared.updates_per_worker == [500] * 8


def test_with_the_lock_no_update_is_lost(eager_switching):
    shared = SharedParameters(np.zeros(4096, np.float32), 8, lock=True)
    run_threads(8, lambda worker: add_ones(shared, worker, 500))
    assert (shared.flat_params == 4000.0).all()


def test_without_the_lock_no_word_is_torn(eager_switching):
    shared = SharedParameters(np.zeros(4096, np.float32), 8)
    run_threads(8, lambda worker: add_ones(shared, worker, 500))
    # Additions may get lost, but the sum is a whole number of them.
    assert (shared.flat_params == np.round(shared.flat_params)).all()
    assert shared.flat_params.max() <= 4000.0 and shared.flat_params.min() > 0.0


def test_read_is_a_copy_with_a_version():
    shared = SharedParameters(np.arange(5, dtype=np.float32), 2)
    copy = aligned_empty(5)
    assert shared.read(copy) == 0
    shared.apply(1, 0, lambda p, s: np.add(p, 1.0, out=p))
    assert copy.tolist() == [0, 1, 2, 3, 4]
    assert shared.read(copy) == 1
    assert copy.tolist() == [1, 2, 3, 4, 5]


def test_the_initial_array_is_not_shared():
    initial = np.zeros(3, np.float32)
    shared = SharedParameters(initial, 1)
    shared.apply(0, 0, lambda p, s: np.add(p, 1.0, out=p))
    assert initial.tolist() == [0, 0, 0]


def test_staleness_counts_updates_by_others():
    shared = SharedParameters(np.zeros(1, np.float32), 2)
    nothing = lambda p, s: None  # noqa: E731
    version = shared.read(aligned_empty(1))
    shared.apply(0, version, nothing)  # no other update came between
    shared.apply(1, version, nothing)  # the update of worker 0 came between
    assert (shared.mean_staleness, shared.max_staleness) == (0.5, 1)


def test_the_target_follows_with_the_first_update_after_each_crossing():
    shared = SharedParameters(np.zeros(5, np.float32), 3, target_update_interval=10)
    assert shared.target.tolist() == [0.0] * 5 and not np.shares_memory(
        shared.target, shared.flat_params
    )
    held = [shared.target]
    # Steps counted by worker 0, updates by worker 1: the value of the target after each update.
    for update, (env_steps, expected) in enumerate(
        [(9, 0), (0, 0), (1, 3), (0, 3), (9, 3), (35, 6), (5, 6), (1, 8), (30, 9), (9, 9), (1, 11)],
        start=1,
    ):
        shared.count(0, env_steps)
        assert shared.target is held[-1], "counting alone copies nothing"
        shared.apply(1, update - 1, lambda p, s: np.add(p, 1.0, out=p))
        assert (shared.flat_params == update).all()
        assert (shared.target == expected).all() and shared.target.ctypes.data % 64 == 0
        if shared.target is not held[-1]:
            held.append(shared.target)
    assert [vector.tolist() for vector in held] == [
        [value] * 5 for value in (0.0, 3.0, 6.0, 8.0, 9.0, 11.0)
    ]


def test_the_target_is_a_copy_of_the_shared_parameters_and_not_of_a_workers():
    shared = SharedParameters(np.zeros(2, np.float32), 2, target_update_interval=4)
    first = np.empty(2, np.float32)
    version = shared.read(first)
    shared.apply(1, shared.updates, lambda p, s: np.add(p, 5.0, out=p))
    shared.count(0, 4)
    shared.apply(0, version, lambda p, s: np.add(p, first + 1.0, out=p))
    assert shared.target.tolist() == [6.0, 6.0], (
        "the shared parameters, not those that the worker had read"
    )


def test_without_an_interval_there_is_no_target():
    shared = SharedParameters(np.zeros(2, np.float32), 1)
    add_ones(shared, 0, 3)
    assert shared.target is None


@pytest.mark.parametrize("lock", [True, False])
@pytest.mark.parametrize("interval", [1, 7, 100])
def test_threads_copy_the_target_at_most_once_for_each_multiple(
    interval, lock, eager_switching, monkeypatch
):
    copies, copy = [], hogwild._aligned_copy

    def remembering(vector):
        copies.append(copy(vector))
        return copies[-1]

    monkeypatch.setattr(hogwild, "_aligned_copy", remembering)
    shared = SharedParameters(
        np.zeros(64, np.float32), 8, lock=lock, target_update_interval=interval
    )
    run_threads(8, lambda worker: add_ones(shared, worker, 300))
    assert shared.env_steps == 8 * 300 * 3
    made = len(copies) - 1
    assert 0 < made <= min(shared.env_steps // interval, shared.updates)
    assert any(shared.target is vector for vector in copies)
    values = np.stack(copies)
    assert (values == np.round(values)).all(), "no word is torn"
    if lock:
        assert (values == values[:, :1]).all(), "each copy is of one version"
        assert (np.diff(values[:, 0]) > 0).all()
    shared.count(3, interval)
    shared.apply(5, shared.updates, lambda p, s: np.add(p, 1.0, out=p))
    assert len(copies) == made + 2
    np.testing.assert_array_equal(shared.target, shared.flat_params)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_buffers_are_aligned(size):
    buffer = aligned_empty(size)
    assert buffer.ctypes.data % 64 == 0
    assert buffer.shape == (size,) and buffer.dtype == np.float32
