"""One step of data, T of them, and the sums over the episodes that ended in them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jax_a3c.types import Array, Carry


def select_rows(condition: Array, new: Any, old: Any) -> Any:
    """Return `where` of each leaf, with `condition` `[*B]` against leaves `[*B, ...]`."""
    return jax.tree.map(lambda a, b: jnp.where(spread(condition, b), a, b), new, old)


def spread(x: Array, like: Array) -> Array:
    """Append axes of length 1 to `x` `[*B]` until it has as many axes as `like` `[*B, ...]`."""
    return x.reshape(x.shape + (1,) * (like.ndim - x.ndim))


class Transition(NamedTuple):
    """One step of data, `[*B]`.

    Attributes:
      observation: s_t.
      reset: bool. s_t is the first observation of an episode, so the network resets its carry.
      action: a_t.
      reward: r_t, as the environment returned it.
      terminated: bool. The step from s_t terminated the episode.
      truncated: bool. The step from s_t truncated the episode.
      next_observation: s_{t+1} before any reset; None in a rollout with `last_observation`.
      next_carry: recurrent state after s_t, with which s_{t+1} is valued; None in a rollout with
        `last_observation`.
      mask: bool. False where the row is not an environment step: in the rest of a segment after the
        episode's end, and where a host environment only resets.
      next_action: a_{t+1}, which the behaviour chose in s_{t+1}; None if the objective does not
        need it.
      running_return: r_t + gamma r_{t-1} + ..., back to the start of the episode; None if it is
        not needed.
      extras: what the policy stored for its loss when it acted on s_t, such as the activations of
        the network's layers; `()` if nothing. It belongs to the parameters that acted.
    """

    observation: Array
    reset: Array
    action: Array
    reward: Array
    terminated: Array
    truncated: Array
    next_observation: Any
    next_carry: Carry
    mask: Array
    next_action: Array | None = None
    running_return: Array | None = None
    extras: Any = ()


class Rollout(NamedTuple):
    """T steps of data, time-major.

    Attributes:
      carry: `[*B, ...]`. Recurrent state before the first step.
      steps: `[T, *B]`. The transitions, stacked over time.
      last_observation: `[*B, ...]`. s_T in a rollout from host environments, where s_{t+1} is
        always the observation of the next row: the final observation of an episode has a separate
        masked row, in which the environment resets. None in a rollout from JAX environments.
      last_carry: `[*B, ...]`. Recurrent state with which the last observation is valued; None in a
        rollout from JAX environments.
    """

    carry: Carry
    steps: Transition
    last_observation: Array | None = None
    last_carry: Carry = None
