"""The acting state of a runner's environments: start, save, restore."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jax_a3c.envs.base import JaxEnvironment
from jax_a3c.keys import original, unrolled
from jax_a3c.types import Array, Carry


class ActorState(NamedTuple):
    """The acting state: what acting needs and learning does not. Each asynchronous worker has one.

    Attributes:
      env_state: `[N, ...]`. State of JAX environments; for host environments the group of N.
      observation: `[N, ...]`. The observation to act on next.
      reset: `[N]` bool. That observation begins an episode.
      carry: `[N, ...]`. Recurrent state.
      key: random key of the actor.
      episode_return: `[N]` float32. Sum of the unclipped rewards of the running episodes.
      episode_length: `[N]` int32. Steps of the running episodes.
      exploration: `[N, ...]`. A value that the objective drew once for each environment.
        Value-based methods draw the final epsilon. None if the objective draws nothing.
      next_action: `[N]` int32. The action already chosen for the observation, negative where none
        is chosen; None if the objective does not look ahead.
      running_return: `[N]` float32. As in `Transition`, of the running episodes; None if it is
        not needed.
    """

    env_state: Any
    observation: Array
    reset: Array
    carry: Carry
    key: Array
    episode_return: Array
    episode_length: Array
    exploration: Any = None
    next_action: Array | None = None
    running_return: Array | None = None


NONE_CHOSEN = -1
"""Value of `ActorState.next_action` where no action has been chosen yet."""


def init_actor(
    env: JaxEnvironment,
    carry: Carry,
    key: Array,
    num_envs: int,
    *,
    explore: Callable[[Array, int], Any] | None = None,
    needs_next_action: bool = False,
    needs_running_return: bool = False,
) -> ActorState:
    """Start `num_envs` environments, each with a separate episode.

    Args:
      env: the environment.
      carry: `[num_envs, ...]`. Initial recurrent state.
      key: random key.
      num_envs: N, at least 1.
      explore: the objective's `(key, num_envs) -> exploration`; None if it draws nothing.
      needs_next_action: whether the objective's rollouts need `next_action`.
      needs_running_return: whether rollouts need `running_return`.

    Returns:
      The acting state before the first step.
    """
    reset_key, key = jax.random.split(unrolled(key))
    exploration = None
    if explore is not None:
        explore_key, key = jax.random.split(key)
        exploration = explore(explore_key, num_envs)

    env_state, observation = jax.vmap(env.reset)(jax.random.split(reset_key, num_envs))
    actor = ActorState(
        env_state=env_state,
        observation=observation,
        reset=jnp.ones(num_envs, bool),
        carry=carry,
        key=key,
        episode_return=jnp.zeros(num_envs, jnp.float32),
        episode_length=jnp.zeros(num_envs, jnp.int32),
        exploration=exploration,
        next_action=jnp.full(num_envs, NONE_CHOSEN, jnp.int32) if needs_next_action else None,
        running_return=jnp.zeros(num_envs, jnp.float32) if needs_running_return else None,
    )
    return original(actor)


def actor_to_save(actor: ActorState) -> tuple[Array, Any]:
    """Return what can be saved of an actor without its environments: key and exploration."""
    return actor.key, actor.exploration


def restore_actor(actor: ActorState, kept: tuple[Array, Any]) -> ActorState:
    """Return `actor` with the key and the exploration that `actor_to_save` kept."""
    key, exploration = kept
    return actor._replace(key=key, exploration=exploration)
