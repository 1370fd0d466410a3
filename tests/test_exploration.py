"""Epsilon-greedy frequencies, the paper's mixture and its schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_a3c import exploration

NUM_DRAWS = 100_000
# Jitted once, so that hypothesis does not compile every example.
JITTED_EPSILON_GREEDY = jax.jit(exploration.epsilon_greedy)


def within_five_standard_errors(frequencies, probabilities, num_draws=NUM_DRAWS):
    probabilities = np.asarray(probabilities)
    errors = 5 * np.sqrt(probabilities * (1 - probabilities) / num_draws)
    return (np.abs(frequencies - probabilities) <= errors).all()


def test_epsilon_zero_is_greedy_and_the_first_of_equals_wins():
    q_values = jnp.array([[0.0, 2.0, 2.0], [-1.0, -1.0, -3.0]])
    for seed in range(5):
        actions = exploration.epsilon_greedy(jax.random.key(seed), q_values, 0.0)
        np.testing.assert_array_equal(actions, [1, 0])
        assert actions.dtype == jnp.int32


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.0])
def test_epsilon_greedy_frequencies(epsilon):
    q_values = jnp.broadcast_to(jnp.array([0.0, 5.0, 1.0, 2.0]), (NUM_DRAWS, 4))
    actions = exploration.epsilon_greedy(jax.random.key(0), q_values, epsilon)
    expected = np.full(4, epsilon / 4) + (1 - epsilon) * np.array([0, 1, 0, 0])
    assert within_five_standard_errors(np.bincount(actions, minlength=4) / NUM_DRAWS, expected)


def test_every_batch_element_has_its_epsilon():
    q_values = jnp.broadcast_to(jnp.array([1.0, 0.0]), (NUM_DRAWS, 3, 2))
    epsilon = jnp.broadcast_to(jnp.array([0.0, 0.4, 1.0]), (NUM_DRAWS, 3))
    actions = exploration.epsilon_greedy(jax.random.key(0), q_values, epsilon)
    assert actions.shape == (NUM_DRAWS, 3)
    assert within_five_standard_errors(np.mean(actions, axis=0), [0.0, 0.2, 0.5])


@settings(max_examples=15)
@given(st.integers(0, 2**31 - 1), st.floats(0, 1, width=32))
def test_epsilon_greedy_actions_exist(seed, epsilon):
    actions = JITTED_EPSILON_GREEDY(jax.random.key(seed), jnp.zeros((50, 3)), epsilon)
    assert ((actions >= 0) & (actions < 3)).all()


def test_epsilon_greedy_without_batch_and_under_vmap():
    keys, q_values = jax.random.split(jax.random.key(0), 3), jnp.eye(3)
    epsilon = jnp.zeros(3)
    mapped = jax.jit(jax.vmap(exploration.epsilon_greedy))(keys, q_values, epsilon)
    np.testing.assert_array_equal(mapped, [0, 1, 2])
    assert exploration.epsilon_greedy(keys[0], q_values[1], 0.0).shape == ()


def test_the_mixture_is_the_papers():
    """A public implementation drew 0.01 with the probability of 0.1."""
    draws = np.asarray(exploration.sample_final_epsilons(jax.random.key(0), (NUM_DRAWS,)))
    frequencies = [np.mean(draws == np.float32(epsilon)) for epsilon in (0.1, 0.01, 0.5)]
    assert within_five_standard_errors(frequencies, [0.4, 0.3, 0.3])
    assert sum(frequencies) == pytest.approx(1.0)


def test_the_mixture_has_any_shape():
    assert exploration.sample_final_epsilons(jax.random.key(0)).shape == ()
    assert exploration.sample_final_epsilons(jax.random.key(0), (2, 3)).shape == (2, 3)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (np.float64, 1e-12)])
def test_annealing_is_linear_and_clamped(dtype, tolerance):
    steps = np.array([-5, 0, 1_000_000, 2_000_000, 4_000_000, 4_000_001, 2_000_000_000])
    with jax.enable_x64(dtype is np.float64):
        epsilon = exploration.annealed_epsilon(jnp.asarray(steps, jnp.int32), dtype(0.1), 4_000_000)
        np.testing.assert_allclose(epsilon, [1.0, 1.0, 0.775, 0.55, 0.1, 0.1, 0.1], rtol=tolerance)
        assert epsilon[-1] == dtype(0.1)  # exactly


def test_annealing_takes_an_array_of_finals():
    finals = jnp.array([0.1, 0.01, 0.5])
    np.testing.assert_allclose(
        exploration.annealed_epsilon(50, finals, 100), [0.55, 0.505, 0.75], rtol=1e-6
    )
    np.testing.assert_array_equal(exploration.annealed_epsilon(100, finals, 100), finals)
    np.testing.assert_allclose(exploration.annealed_epsilon(50, 0.0, 100, initial=0.5), 0.25)
    jitted = jax.jit(exploration.annealed_epsilon)(jnp.array([0, 50, 100]), finals, 100)
    np.testing.assert_allclose(jitted, [1.0, 0.505, 0.5], rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda key, q: exploration.epsilon_greedy(key, q, jnp.zeros((4, 1))),
            r"q_values.*\(4, 2\).*\(4, 1\)",
        ),
        (lambda key, q: exploration.epsilon_greedy(key, 1.0, 0.1), r"q_values has shape \(\)"),
        (lambda key, q: exploration.epsilon_greedy(key, q, 1.5), r"epsilon is 1.5.*\[0, 1\]"),
        (lambda key, q: exploration.annealed_epsilon(1, 0.1, 0), "anneal_steps is 0.*above 0"),
        (lambda key, q: exploration.annealed_epsilon(1, -0.1, 10), "final is -0.1"),
        (lambda key, q: exploration.annealed_epsilon(1, 0.1, 10, initial=2.0), "initial is 2.0"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(jax.random.key(0), jnp.zeros((4, 2)))
