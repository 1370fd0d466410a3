"""A million updates of the shared buffer by eight threads: few are lost, no word is torn."""

import sys
import threading

import numpy as np
import pytest

from jax_a3c.runners.shared_parameters import SharedParameters, Update, aligned_empty

SIZE, NUM_THREADS = 4096, 8
MAX_LOST = 1e-3
"""Maximum share of lost updates without a lock, full counts; a busy machine loses more."""


@pytest.fixture(autouse=True)
def eager_switching():
    """Switch threads after 10 microseconds instead of 5 milliseconds."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def together(work):
    """Run `work(number)` in all threads at once, and raise the first exception."""
    barrier, errors = threading.Barrier(NUM_THREADS), []

    def guarded(number):
        barrier.wait()
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(NUM_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("lock", [True, False], ids=["lock", "lock_free"])
def test_unit_updates(lock, count, figure):
    updates = count(80_000, 1_000_000) // NUM_THREADS
    shared = SharedParameters(np.zeros(SIZE, np.float32), NUM_THREADS, lock=lock)
    sizes = [1 + number for number in range(NUM_THREADS)]  # environment steps per update

    one, nothing = np.ones(SIZE, np.float32), np.empty(0, np.float32)

    def work(number):
        update = Update(one, nothing, sizes[number], nothing)
        for _ in range(updates):
            shared.apply(number, shared.updates, update)

    together(work)
    total = NUM_THREADS * updates
    assert shared.updates_per_worker == [updates] * NUM_THREADS
    assert shared.env_steps == updates * sum(sizes)
    assert (
        shared.flat_params == np.round(shared.flat_params)
    ).all() and shared.flat_params.max() <= total
    lost = 1.0 - shared.flat_params.astype(np.float64) / total
    figure(
        f"{total:,} updates of {SIZE:,} parameters by {NUM_THREADS} threads, "
        f"{'with' if lock else 'without'} the lock: {lost.mean():.4%} lost, {lost.max():.4%} of "
        f"the element that lost most; updates and steps counted exactly, {shared.updates:,} and "
        f"{shared.env_steps:,}",
        updates=total,
        threads=NUM_THREADS,
        parameters=SIZE,
        lost=float(lost.mean()),
        lost_of_the_worst_element=float(lost.max()),
    )
    assert lost.max() == 0.0 if lock else lost.mean() <= count(100 * MAX_LOST, MAX_LOST)


def test_no_word_is_torn(count, figure):
    """Half of the threads write words that differ in every byte; the others read."""
    repeats = count(20_000, 500_000) // (NUM_THREADS // 2)
    words = np.array([0x3F9D1B2C, 0xC062E4D3], np.uint32)
    nothing = np.empty(0, np.float32)

    def overwrite(flat_params, moments, gradient, scratch, env_steps):
        np.copyto(flat_params, gradient)

    initial = np.full(SIZE, words.view(np.float32)[0])
    shared = SharedParameters(initial, NUM_THREADS, rule=overwrite)
    mixed = [0] * NUM_THREADS

    def work(number):
        if number % 2:
            whole = np.full(SIZE, words.view(np.float32)[number // 2 % 2])
            for _ in range(repeats):
                shared.apply(number, 0, Update(whole, nothing, 0, nothing))
            return
        seen = aligned_empty(SIZE)
        for _ in range(repeats):
            shared.read(seen)
            first = seen.view(np.uint32) == words[0]
            assert (first | (seen.view(np.uint32) == words[1])).all()
            mixed[number] += int(first.any() and not first.all())

    together(work)
    reads = repeats * NUM_THREADS // 2
    figure(
        f"{reads:,} reads and as many writes without the lock: no torn word; {sum(mixed):,} of the "
        "reads mixed two versions",
        reads=reads,
        writes=reads,
        mixed=sum(mixed),
    )
