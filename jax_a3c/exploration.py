r"""Exploration of the value-based methods: epsilon-greedy actions with a final epsilon per worker.

Each worker draws a final epsilon from the paper's mixture and anneals epsilon from 1 to that value:

    final = sample_final_epsilons(key, (num_workers,))
    epsilon = annealed_epsilon(step, final, anneal_steps)
    action = epsilon_greedy(key, q_values, epsilon)
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jax_a3c.settings.parts import FINAL_EPSILON_PROBABILITIES, FINAL_EPSILONS, check_final_epsilons
from jax_a3c.types import Array


def epsilon_greedy(key: Array, q_values: ArrayLike, epsilon: ArrayLike) -> Array:
    r"""Choose the best action, or with probability epsilon one drawn uniformly from all A actions.

        pi(a | s) = 1 - epsilon + epsilon / A  if a = argmax Q(s, .),  else epsilon / A

    Args:
      key: random key.
      q_values: `[*B, A]` float. The first of equal values counts as the best.
      epsilon: scalar or `[*B]` float in [0, 1].

    Returns:
      `[*B]` int32 in [0, A).

    Raises:
      ValueError: if the shapes do not match, or if `epsilon` is a number outside [0, 1].

    References:
      Mnih et al. (2016), Algorithms 1 and S2.

    Example:
      >>> q_values = np.array([[0.0, 2.0, 2.0], [3.0, 0.0, 0.0]])
      >>> epsilon_greedy(jax.random.key(0), q_values, 0.0).tolist()
      [1, 0]
    """
    q_values = jnp.asarray(q_values)
    batch = q_values.shape[:-1]
    if q_values.ndim == 0 or np.shape(epsilon) not in ((), batch):
        raise ValueError(
            f"q_values has shape {q_values.shape} and epsilon {np.shape(epsilon)}; expected "
            "[*B, A], and a scalar or [*B]."
        )
    _check_probability("epsilon", epsilon)

    # Decide whether to explore, then draw an action from all A.
    explore_key, action_key = jax.random.split(key)
    # Uniform in [0, 1): never true for epsilon = 0, always true for epsilon = 1.
    explore = jax.random.uniform(explore_key, batch) < epsilon
    random_actions = jax.random.randint(action_key, batch, 0, q_values.shape[-1], jnp.int32)
    return jnp.where(explore, random_actions, jnp.argmax(q_values, axis=-1).astype(jnp.int32))


def sample_final_epsilons(
    key: Array,
    shape: tuple[int, ...] = (),
    epsilons: Sequence[float] = FINAL_EPSILONS,
    probabilities: Sequence[float] = FINAL_EPSILON_PROBABILITIES,
) -> Array:
    r"""Draw the final epsilons of workers, by default from the paper's mixture.

        P(0.1) = 0.4,    P(0.01) = 0.3,    P(0.5) = 0.3

    Args:
      key: random key.
      shape: shape of the result, one entry per worker or environment.
      epsilons: values to draw from, each in [0, 1].
      probabilities: one for each of `epsilons`, with the sum 1.

    Returns:
      Float array of the given shape, with entries from `epsilons`.

    Raises:
      InputError: if `epsilons` or `probabilities` do not pass `check_final_epsilons`.

    References:
      Mnih et al. (2016), section 8.

    Example:
      >>> sample_final_epsilons(jax.random.key(0), (4,)).shape
      (4,)
    """
    check_final_epsilons(epsilons, probabilities)
    return jax.random.choice(key, jnp.array(epsilons), shape, p=jnp.array(probabilities))


def annealed_epsilon(
    step: ArrayLike, final: ArrayLike, anneal_steps: ArrayLike, initial: ArrayLike = 1.0
) -> Array:
    r"""Return epsilon, which moves linearly from `initial` to `final` and then stays there.

        epsilon = (1 - f) initial + f final,    f = min(max(step / anneal_steps, 0), 1)

    Args:
      step: scalar or array. Steps taken by all workers together, in the unit of `anneal_steps`.
      final: scalar or array float in [0, 1], for example from `sample_final_epsilons`.
      anneal_steps: scalar > 0. Number of steps after which epsilon is `final`.
      initial: scalar or array float in [0, 1].

    Returns:
      Float, of the shape to which the arguments broadcast.

    Raises:
      ValueError: if `anneal_steps` is a number not above 0, or if `initial` or `final` is a number
        outside [0, 1].

    References:
      Mnih et al. (2016), section 8: from 1 over the first 4 million frames.

    Example:
      >>> annealed_epsilon(np.array([0, 50, 100, 999]), 0.5, 100).tolist()
      [1.0, 0.75, 0.5, 0.5]
    """
    if isinstance(anneal_steps, int | float | np.integer | np.floating) and not anneal_steps > 0:
        raise ValueError(f"anneal_steps is {anneal_steps}; expected a number above 0.")
    _check_probability("final", final)
    _check_probability("initial", initial)

    # This form gives exactly `initial` and `final` at the ends.
    fraction = jnp.clip(jnp.asarray(step) / anneal_steps, 0.0, 1.0)
    return (1 - fraction) * initial + fraction * final


def _check_probability(name: str, value: ArrayLike) -> None:
    """Check that a plain number is in [0, 1]. Arrays and traced values pass."""
    if isinstance(value, int | float | np.integer | np.floating) and not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}; expected a number in [0, 1].")
