"""The memory bound of the test processes."""

import jax
import memory
import numpy as np
import pytest

SIZE = 300_000_000


def test_a_peak_that_has_passed_is_noticed_and_the_next_one_begins_anew():
    memory.release()
    memory.reset_peak()
    bound = memory.peak_bytes() + SIZE // 2
    message = f"in here; expected at most {bound / 1e9:.2f} GB"
    with pytest.raises(AssertionError, match=message), memory.bounded("here", bound):
        np.ones(SIZE, np.uint8)
    with memory.bounded("there", bound):
        np.ones(SIZE // 10, np.uint8)


def test_compiled_programs_are_dropped():
    double = jax.jit(lambda x: 2 * x)
    assert double(1) == 2 and double._cache_size() == 1
    with memory.bounded("here"):
        assert double._cache_size() == 0
        assert double(1) == 2
    assert double._cache_size() == 0


def test_programs_are_dropped_early_where_they_are_many():
    double = jax.jit(lambda x: 2 * x)
    assert double(1) == 2
    memory.release_above(memory.resident_bytes() + SIZE)
    assert double._cache_size() == 1
    memory.release_above(memory.resident_bytes() // 2, growth=-memory.MAX_BYTES)
    assert double._cache_size() == 0


def test_programs_are_kept_where_the_rest_of_the_process_is_large():
    memory.release_above(0, growth=-memory.MAX_BYTES)
    double = jax.jit(lambda x: 2 * x)
    assert double(1) == 2
    memory.release_above(0, growth=memory.MAX_BYTES)
    assert double._cache_size() == 1
