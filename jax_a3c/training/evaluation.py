"""Evaluation: complete episodes on environments of their own."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_a3c.checks import check_choice
from jax_a3c.envs.base import JaxEnvironment
from jax_a3c.exploration import epsilon_greedy
from jax_a3c.objectives import Network
from jax_a3c.types import Array, Carry, Params

EPSILON = 0.05
"""Of the epsilon-greedy policy (Mnih et al. 2015)."""
ACTIONS: dict[str, Callable[[Array, Any, Array], Array]] = {
    "greedy": lambda key, distribution, values: distribution.mode(),
    "sampled": lambda key, distribution, values: distribution.sample(key),
    "epsilon-greedy": lambda key, distribution, values: epsilon_greedy(key, values, EPSILON),
}
"""From a key and what the network returned, its distribution and values, to actions."""
MAX_EPISODE_STEPS = 27_000
"""Cap on an episode of an environment without a time limit: 30 minutes of Atari at 4 frames a step."""


class Evaluation(NamedTuple):
    """Results of complete episodes.

    Attributes:
      returns: `[episodes]` float32. Undiscounted, in reward units.
      lengths: `[episodes]` int32. In environment steps.
    """

    returns: np.ndarray
    lengths: np.ndarray


class _Loop(NamedTuple):
    key: Array
    env_state: Any
    observation: Array
    carry: Carry
    reset: Array
    running: Array
    returns: Array
    lengths: Array


def evaluator(
    env: JaxEnvironment, network: Network, *, num_episodes: int, policy: str
) -> Callable[[Params, Array], Evaluation]:
    """Build the function that plays `num_episodes` complete episodes; it compiles at its first call.

    Each episode has an environment of its own and only the first of each counts: to take the first
    `num_episodes` that end would favour short ones.

    Args:
      env: the environment.
      network: the policy.
      num_episodes: at least 1.
      policy: `"greedy"` takes the mode of the policy, or the action of the largest value; `"sampled"` draws
        from the policy; `"epsilon-greedy"` takes a random action in 1 of 20 steps, by a network of action
        values.

    Returns:
      `(params, key) -> Evaluation`; the key is for start states and sampled actions.
    """
    check_choice("policy", policy, ACTIONS)
    limit = env.spec.max_episode_steps or MAX_EPISODE_STEPS

    def step(params: Params, loop: _Loop) -> _Loop:
        key, action_key, env_key = jax.random.split(loop.key, 3)
        carry, distribution, values = network.apply(
            params, loop.carry, loop.observation[None], loop.reset[None]
        )
        action = ACTIONS[policy](action_key, distribution, values)
        env_keys = jax.random.split(env_key, num_episodes)
        env_state, timestep = jax.vmap(env.step)(env_keys, loop.env_state, action[0])
        return _Loop(
            key,
            env_state,
            timestep.observation,
            carry,
            jnp.zeros_like(loop.reset),
            loop.running & ~(timestep.terminated | timestep.truncated),
            loop.returns + jnp.where(loop.running, timestep.reward, 0.0),
            loop.lengths + loop.running,
        )

    @jax.jit
    def play(params: Params, key: Array) -> tuple[Array, Array]:
        key, reset_key = jax.random.split(key)
        env_state, observation = jax.vmap(env.reset)(jax.random.split(reset_key, num_episodes))
        true = jnp.ones(num_episodes, bool)
        zeros = jnp.zeros(num_episodes)
        carry = network.initial_carry((num_episodes,))
        start = _Loop(key, env_state, observation, carry, true, true, zeros, zeros.astype(jnp.int32))

        def unfinished(loop: _Loop) -> Array:
            return jnp.any(loop.running) & (loop.lengths.max() < limit)

        end = jax.lax.while_loop(unfinished, lambda loop: step(params, loop), start)
        return end.returns, end.lengths

    return lambda params, key: Evaluation(*jax.device_get(play(params, key)))
