"""The shared buffer: exact counters, the lock, the target, alignment."""

import sys
import threading

import numpy as np
import pytest

from jax_a3c.runners import shared_parameters
from jax_a3c.runners.shared_parameters import SharedParameters, Update, aligned_empty


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


def adding(step, env_steps=0, metrics=()):
    """Return an update that adds a step, `[P]`, to parameters without a rule."""
    return Update(
        np.asarray(step, np.float32), np.empty(0, np.float32), env_steps, np.array(metrics)
    )


def ones(shared, env_steps=0):
    """Return an update that adds 1 to every parameter."""
    return adding(np.ones(shared.flat_params.size), env_steps)


def add_ones(shared, worker, updates):
    update = ones(shared, 3)
    for _ in range(updates):
        shared.apply(worker, shared.updates, update)


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
    shared.apply(1, 0, ones(shared))
    assert copy.tolist() == [0, 1, 2, 3, 4]
    assert shared.read(copy) == 1
    assert copy.tolist() == [1, 2, 3, 4, 5]


def test_the_initial_array_is_not_shared():
    initial = np.zeros(3, np.float32)
    shared = SharedParameters(initial, 1)
    shared.apply(0, 0, ones(shared))
    assert initial.tolist() == [0, 0, 0]


def test_staleness_counts_updates_by_others():
    shared = SharedParameters(np.zeros(1, np.float32), 2)
    version = shared.read(aligned_empty(1))
    shared.apply(0, version, adding([0.0]))  # no other update came between
    shared.apply(1, version, adding([0.0]))  # the update of worker 0 came between
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
        shared._env_steps[0] += env_steps  # worker 0 counts, and worker 1 overtakes it
        assert shared.target is held[-1], "counting alone copies nothing"
        shared.apply(1, update - 1, ones(shared))
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
    shared.apply(1, shared.updates, adding([5.0, 5.0]))
    shared.apply(0, version, adding(first + 1.0, env_steps=4))
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
    copies, copy = [], shared_parameters._aligned_copy

    def remembering(vector):
        copies.append(copy(vector))
        return copies[-1]

    monkeypatch.setattr(shared_parameters, "_aligned_copy", remembering)
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
    shared._env_steps[3] += interval
    shared.apply(5, shared.updates, ones(shared))
    assert len(copies) == made + 2
    np.testing.assert_array_equal(shared.target, shared.flat_params)


def test_an_update_counts_its_own_steps_before_the_target_follows():
    shared = SharedParameters(np.zeros(3, np.float32), 2, target_update_interval=10)
    for env_steps, expected in ((9, 0), (1, 2), (5, 2), (14, 4)):
        shared.apply(1, shared.updates, ones(shared, env_steps))
        assert (shared.target == expected).all()
    assert shared.env_steps == 29 and shared.updates_per_worker == [0, 4]


def test_metrics_of_all_workers_are_summed_until_they_start_anew():
    shared = SharedParameters(np.zeros(3, np.float32), 2)
    shared.start_metrics(2)
    for worker, metrics in ((0, [1.0, 2.0]), (1, [3.0, 4.0]), (1, [5.0, 0.5])):
        shared.apply(worker, shared.updates, adding(np.zeros(3), 7, metrics))
    assert shared.metric_sums.tolist() == [9.0, 6.5] and shared.env_steps == 21
    shared.start_metrics(2)
    assert not shared.metric_sums.any() and shared.env_steps == 21


@pytest.mark.parametrize("shares_moments", [True, False])
def test_a_rule_changes_weights_and_moments_and_statistics_are_added(shares_moments):
    """The last two of five parameters are running statistics, which no rule may touch."""
    told = []

    def rule(flat_params, moments, gradient, scratch, env_steps):
        told.append(env_steps)
        assert flat_params.shape == moments.shape == gradient.shape == scratch.shape == (3,)
        moments += gradient
        np.multiply(moments, 10.0, out=scratch)
        flat_params -= scratch

    initial = np.arange(5, dtype=np.float32)
    shared = SharedParameters(initial, 2, rule=rule, shares_moments=shares_moments)
    gradient = np.array([1, 2, 3, 0, 0], np.float32)
    statistics, nothing = np.array([0.5, 0.25], np.float32), np.empty(0, np.float32)
    for worker in (0, 1):
        shared.apply(worker, worker, Update(gradient, statistics, 4, nothing))
    assert told == [4, 8], "steps of all workers, those of this update included"
    assert shared.flat_params[3:].tolist() == [4.0, 4.5]
    times = 3 if shares_moments else 2
    np.testing.assert_array_equal(shared.flat_params[:3], initial[:3] - 10 * times * gradient[:3])
    if shares_moments:
        assert shared.worker_moments is None
        np.testing.assert_array_equal(shared.moments, 2 * gradient)
    else:
        assert not shared.moments.any() and len(shared.worker_moments) == 2
        np.testing.assert_array_equal(shared.worker_moments, [gradient, gradient])


def test_without_a_rule_there_are_no_moments_of_workers():
    assert SharedParameters(np.zeros(3, np.float32), 2, shares_moments=False).worker_moments is None


def test_the_state_of_the_buffers_is_restored():
    def rule(flat_params, moments, gradient, scratch, env_steps):
        moments += gradient
        flat_params -= gradient

    def new():
        return SharedParameters(np.zeros(3, np.float32), 2, rule=rule, target_update_interval=10)

    first, restored = new(), new()
    for worker in (0, 1, 1):
        first.apply(worker, 0, ones(first, 6))
    arrays = first.snapshot()
    restored.restore(first.flat_params, arrays)
    first.apply(0, 3, ones(first, 1))  # the arrays are copies
    assert restored.flat_params.tolist() == [-3.0] * 3 and restored.moments.tolist() == [3.0] * 3
    assert restored.target.tolist() == [-2.0] * 3 and restored.env_steps == 18
    assert restored.updates_per_worker == [1, 2] and restored.max_staleness == 2
    restored.apply(0, 3, ones(first, 1))
    assert restored.target.tolist() == [-2.0] * 3, "it was copied at this multiple already"
    for name, array in first.snapshot().items():
        np.testing.assert_array_equal(array, restored.snapshot()[name], err_msg=name)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_buffers_are_aligned(size):
    buffer = aligned_empty(size)
    assert buffer.ctypes.data % 64 == 0
    assert buffer.shape == (size,) and buffer.dtype == np.float32
