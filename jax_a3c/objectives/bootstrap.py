"""The value after each step, v(s_{t+1}). No other module knows how final observations are stored.

A rollout of JAX environments stores s_{t+1} of every step in `next_observation`. A rollout of host
environments stores each final observation as a masked row, so s_{t+1} is always the next row, and
`last_observation` follows the last one.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jax_a3c.networks.base import Network
from jax_a3c.rollouts import Rollout, Transition, select_rows, spread
from jax_a3c.types import Array, Carry, Params


def row_after_each_step(
    steps: Transition, rows: Array, last: Array, own: Callable[[Transition, Array], Array]
) -> Array:
    """Return a quantity of s_{t+1} for every step, given the same quantity of every s_t.

    Within an episode it is the next row. Where an episode was truncated before the rollout's end,
    the next row belongs to another episode, so `own` computes the quantity from the final
    observation. Truncations are few: each call of `own` handles one step of each environment, until
    none is left.

    Args:
      steps: `[T, *B]`. Steps of a rollout.
      rows: `[T, *B, ...]`. The quantity of each s_t.
      last: `[*B, ...]`. The quantity of the observation after the last step.
      own: `(row [*B], i) -> [*B, ...]`, computes the quantity from the next observations of `row`
        in the i-th call.

    Returns:
      `[T, *B, ...]`. Meaningless where the episode terminated.
    """
    following = jnp.concatenate([rows[1:], last[None]])  # s_1, ..., s_T
    if steps.next_observation is None:
        # Host environments: each final observation has a separate row.
        return following

    # Find the truncated steps; `last` already covers the last row.
    cut = (steps.truncated & ~steps.terminated).at[-1].set(False)
    times = jnp.arange(len(cut)).reshape(-1, *[1] * (cut.ndim - 1))

    def replace(loop: tuple) -> tuple:
        i, cut, result = loop
        # Take the first truncated step of each environment; step 0 where none is left.
        first = jnp.argmax(cut, axis=0)
        chosen = cut & (times == first[None])
        row = jax.tree.map(
            lambda x: jnp.take_along_axis(x, spread(first[None], x), axis=0)[0], steps
        )
        return i + 1, cut & ~chosen, select_rows(chosen, own(row, i)[None], result)

    return jax.lax.while_loop(lambda loop: jnp.any(loop[1]), replace, (0, cut, following))[2]


def next_observations(rollout: Rollout) -> Array:
    """Return s_{t+1} of every step, `[T, *B, ...]`; at an episode's end the final observation."""
    steps = rollout.steps
    if steps.next_observation is not None:
        return steps.next_observation
    last: Any = rollout.last_observation
    return jnp.concatenate([steps.observation[1:], last[None]])


def last_observation_and_carry(rollout: Rollout) -> tuple[Array, Carry]:
    """Return s_T, the observation after the last step, `[*B, ...]`, and the carry to value it."""
    if rollout.last_observation is not None:
        return rollout.last_observation, rollout.last_carry
    steps = rollout.steps
    return jax.tree.map(lambda x: x[-1], (steps.next_observation, steps.next_carry))


def values_after_each_step(network: Network, params: Params, steps: Transition) -> Array:
    """Return v(s_{t+1}) of each step, from its stored next observation and next recurrent state.

    Because the recurrent state was stored, this is one pass without a loop over time.

    Args:
      network: the network with the values v.
      params: parameters of the network; no gradient flows into them.
      steps: `[*B]` or `[T, *B]`.

    Returns:
      `[*B, ...]` or `[T, *B, ...]`, as the network's values. Meaningless where the episode
      terminated.
    """
    return _values(network, params, steps.next_carry, steps.next_observation, steps.reset.shape)


def _values(
    network: Network, params: Params, carry: Carry, observation: Array, batch_shape: tuple[int, ...]
) -> Array:
    """Return v of observations `[*batch_shape, ...]` inside an episode, without a gradient."""
    never = jnp.zeros((1, *batch_shape), bool)
    return network.apply(jax.lax.stop_gradient(params), carry, observation[None], never)[2][0]


def next_target_values(
    network: Network, target_params: Params, rollout: Rollout, fill: Array | None = None
) -> Array:
    """Return v(s_{t+1}; theta^-) of every step.

    A recurrent target network computes its own recurrent states, starting from the behaviour's
    state at the start of the rollout. The final observation of a truncated episode is valued with
    the behaviour's state.

    Args:
      network: the network with the values v.
      target_params: theta^-, parameters of the target network.
      rollout: `[T, *B]`.
      fill: `[T, *B, ...]`. Values for the rows from which an n-step return does not bootstrap. A
        feed-forward network then computes only the other rows. None to compute all rows.

    Returns:
      `[T, *B, ...]`. Meaningless where the episode terminated.
    """
    steps = rollout.steps

    # A feed-forward network needs no pass over time.
    if not jax.tree.leaves(rollout.carry) and steps.next_observation is not None:
        if fill is None:
            return values_after_each_step(network, target_params, steps)
        return next_values(network, target_params, rollout, fill)

    carry, _, values = network.apply(target_params, rollout.carry, steps.observation, steps.reset)
    return next_values(network, target_params, rollout, values, carry)


def next_values(
    network: Network, params: Params, rollout: Rollout, values: Array, last_carry: Carry = None
) -> Array:
    """Return v(s_{t+1}) of every step; no gradient flows into it.

    Within an episode it is the next row of `values`. The last row is v of the last observation. A
    row where an episode was truncated is v of its final observation, with the carry of that
    episode. Truncated rows cost one pass over one step of each environment at a time, and no pass
    if there are none.

    Args:
      network: the network with the values v.
      params: parameters of the network.
      rollout: `[T, *B]`.
      values: `[T, *B, ...]`. v(s_t) of the rollout's observations.
      last_carry: `[*B, ...]`. Recurrent state with which to value the last observation; None for
        the behaviour's state.

    Returns:
      `[T, *B, ...]`. Meaningless where the episode terminated.

    References:
      Pardo et al. (2018), Time Limits in Reinforcement Learning.
    """
    values = jax.lax.stop_gradient(values)
    steps = rollout.steps

    # v(s_T), from the observation after the last step.
    observation, carry = last_observation_and_carry(rollout)
    if last_carry is not None:
        carry = jax.lax.stop_gradient(last_carry)
    last = _values(network, params, carry, observation, steps.reset.shape[1:])

    # The loop below has no reverse derivative, so stop the gradient outside of it.
    params = jax.lax.stop_gradient(params)
    return row_after_each_step(
        steps, values, last, lambda row, i: values_after_each_step(network, params, row)
    )
