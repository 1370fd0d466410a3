"""The shared buffer: exact counters, the lock, alignment."""

import sys
import threading

import numpy as np
import pytest

from jax_a3c.hogwild import SharedParameters, aligned_empty


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
    assert (shared.parameters == 4000.0).all()


def test_without_the_lock_no_word_is_torn(eager_switching):
    shared = SharedParameters(np.zeros(4096, np.float32), 8)
    run_threads(8, lambda worker: add_ones(shared, worker, 500))
    # Additions may be lost, but what is there is a whole number of them.
    assert (shared.parameters == np.round(shared.parameters)).all()
    assert shared.parameters.max() <= 4000.0 and shared.parameters.min() > 0.0


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
    shared.apply(0, version, nothing)  # nobody came between
    shared.apply(1, version, nothing)  # worker 0 did
    assert (shared.mean_staleness, shared.max_staleness) == (0.5, 1)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_buffers_are_aligned(size):
    buffer = aligned_empty(size)
    assert buffer.ctypes.data % 64 == 0
    assert buffer.shape == (size,) and buffer.dtype == np.float32
