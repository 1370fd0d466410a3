r"""Exploration of the value-based methods: epsilon-greedy actions, and the paper's mixture of final epsilons.

Each worker draws the epsilon it will end at and anneals from 1 down to it:

    final = sample_final_epsilons(key, (num_workers,))
    epsilon = annealed_epsilon(step, final, anneal_steps)
    action = epsilon_greedy(key, q_values, epsilon)
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jax_a3c.checks import InputError, check_number, check_tuple, shown
from jax_a3c.types import Array

FINAL_EPSILONS = (0.1, 0.01, 0.5)
"""Where the exploration of a worker may end (Mnih et al. 2016, section 8), in the order of the next line."""
FINAL_EPSILON_PROBABILITIES = (0.4, 0.3, 0.3)
"""Probability of each of `FINAL_EPSILONS`. Not 0.01 but 0.1 is the frequent one; others swapped them."""
EPSILON_ANNEAL_FRAMES = 4_000_000
"""The paper's anneal time. It leaves open whether these are emulator frames, 4 to an action, or actions."""


def epsilon_greedy(key: Array, q_values: ArrayLike, epsilon: ArrayLike) -> Array:
    r"""The best action, or with probability epsilon one drawn uniformly from all A, the best included.

        pi(a | s) = 1 - epsilon + epsilon / A  if a = argmax Q(s, .),  else epsilon / A

    Args:
      key: a random key.
      q_values: `[*B, A]` float. Of equally good actions the first counts as the best.
      epsilon: scalar or `[*B]` float in [0, 1].

    Returns:
      `[*B]` int32 in [0, A).

    Raises:
      ValueError: if the shapes do not match, or if `epsilon` is a number outside [0, 1].

    References:
      Mnih et al. (2016), Algorithms 1 and S2.

    Example:
      >>> epsilon_greedy(jax.random.key(0), np.array([[0.0, 2.0, 2.0], [3.0, 0.0, 0.0]]), 0.0).tolist()
      [1, 0]
    """
    q_values = jnp.asarray(q_values)
    batch = q_values.shape[:-1]
    if q_values.ndim == 0 or np.shape(epsilon) not in ((), batch):
        raise ValueError(
            f"q_values has shape {q_values.shape} and epsilon {np.shape(epsilon)}; expected [*B, A], and a "
            "scalar or [*B]."
        )
    _check_probability("epsilon", epsilon)
    explore_key, action_key = jax.random.split(key)
    explore = (
        jax.random.uniform(explore_key, batch) < epsilon
    )  # uniform in [0, 1): never at 0, always at 1
    random_actions = jax.random.randint(action_key, batch, 0, q_values.shape[-1], jnp.int32)
    return jnp.where(explore, random_actions, jnp.argmax(q_values, axis=-1).astype(jnp.int32))


def sample_final_epsilons(
    key: Array,
    shape: tuple[int, ...] = (),
    epsilons: Sequence[float] = FINAL_EPSILONS,
    probabilities: Sequence[float] = FINAL_EPSILON_PROBABILITIES,
) -> Array:
    r"""Final epsilons of workers, by default drawn from the paper's mixture.

        P(0.1) = 0.4,    P(0.01) = 0.3,    P(0.5) = 0.3

    Args:
      key: a random key.
      shape: shape of the result, one entry per worker or environment.
      epsilons: the values to draw from.
      probabilities: of each of them, with the sum 1.

    Returns:
      `shape` float, of `epsilons`.

    Raises:
      InputError: if `check_final_epsilons` refuses them.

    References:
      Mnih et al. (2016), section 8.

    Example:
      >>> sample_final_epsilons(jax.random.key(0), (4,)).shape
      (4,)
    """
    check_final_epsilons(epsilons, probabilities)
    return jax.random.choice(key, jnp.array(epsilons), shape, p=jnp.array(probabilities))


def check_final_epsilons(epsilons: Sequence[float], probabilities: Sequence[float]) -> None:
    """Refuse what is no mixture of final epsilons.

    Args:
      epsilons: each in [0, 1].
      probabilities: one for each of them, with the sum 1.

    Raises:
      InputError: if they are anything else.
    """
    both = {"final_epsilons": epsilons, "final_epsilon_probabilities": probabilities}
    for name, values in both.items():
        check_tuple(name, values, "numbers")
        for value in values:
            check_number(name, value, 0.0, 1.0)
    if len(epsilons) != len(probabilities) or abs(sum(probabilities) - 1.0) > 1e-6:
        raise InputError(
            f"final_epsilon_probabilities must be one number for each of final_epsilons "
            f"{shown(tuple(epsilons))}, with the sum 1, got {shown(tuple(probabilities))}"
        )


def annealed_epsilon(
    step: ArrayLike, final: ArrayLike, anneal_steps: ArrayLike, initial: ArrayLike = 1.0
) -> Array:
    r"""Epsilon on the straight line from `initial` to `final`, which it then keeps.

        epsilon = (1 - f) initial + f final,    f = min(max(step / anneal_steps, 0), 1)

    Args:
      step: scalar or array, steps taken by all workers together; of any unit, that of `anneal_steps`.
      final: scalar or array float in [0, 1], such as `sample_final_epsilons` draws.
      anneal_steps: scalar > 0. Steps after which epsilon is `final`.
      initial: scalar or array float in [0, 1].

    Returns:
      float, of the shape to which the arguments broadcast.

    Raises:
      ValueError: if `anneal_steps` is a number not above 0, or `initial` or `final` one outside [0, 1].

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
    fraction = jnp.clip(jnp.asarray(step) / anneal_steps, 0.0, 1.0)
    return (1 - fraction) * initial + fraction * final  # exactly `initial` and `final` at the ends


def _check_probability(name: str, value: ArrayLike) -> None:
    """Raise where the value is known, a plain number, and outside [0, 1]."""
    if isinstance(value, int | float | np.integer | np.floating) and not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}; expected a number in [0, 1].")
