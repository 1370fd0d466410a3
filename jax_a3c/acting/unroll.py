"""Unroll a policy on the device: `num_steps` steps of `N` JAX environments."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jax_a3c.acting.actor import NONE_CHOSEN, ActorState
from jax_a3c.envs.base import JaxEnvironment, to_bounds
from jax_a3c.keys import original, unrolled
from jax_a3c.objectives.bootstrap import row_after_each_step
from jax_a3c.rollouts import Rollout, Transition, select_rows
from jax_a3c.settings.parts import AutoReset
from jax_a3c.types import Array, Carry, Params

Act = Callable[[Params, Array, Carry, Array, Array, Any, Array | float], tuple[Carry, Array, Any]]
"""`(params, key, carry, observation, reset, exploration, env_steps) -> (carry, action, extras)`.

See `Objective.act`.
"""


class UnrollConfig(NamedTuple):
    """How a rollout is collected.

    Attributes:
      num_steps: T, the paper's t_max, at least 1.
      auto_reset: how the next episode gets its start state, on JAX environments. `"exact"` draws a
        new start state for each environment at each step and uses it if the episode ended.
        `"pooled"` draws one start state for each environment and rollout, T times less work. The
        distribution of start states is the same, but an environment that ends two episodes within a
        rollout starts the next two in the same state.
      stop_at_episode_end: end the rollout after a step that ended the episode in every environment.
        The paper's segments do so with one environment. The remaining rows have `mask` False.
      discount: gamma of `running_return`, if the actor has one.
    """

    num_steps: int
    auto_reset: AutoReset = "pooled"
    stop_at_episode_end: bool = False
    discount: float = 1.0


class EpisodeSums(NamedTuple):
    """What acting counts, so that no per-step data has to leave the device.

    An episode whose return is not finite does not count.

    Attributes:
      env_steps: `[]` uint32. Environment steps taken: the unmasked rows of the rollout.
      episodes: `[]` float32. Number of episodes that ended.
      episode_return: `[]` float32. Sum of their returns, in reward units, undiscounted.
      episode_length: `[]` float32. Sum of their lengths, in environment steps.
    """

    env_steps: Array
    episodes: Array
    episode_return: Array
    episode_length: Array


def unroll(
    env: JaxEnvironment,
    act: Act,
    params: Params,
    actor: ActorState,
    config: UnrollConfig,
    env_steps: Array | float = 0.0,
) -> tuple[ActorState, Rollout, EpisodeSums]:
    """Act for `num_steps` steps in all environments, in one loop on the device.

    Args:
      env: the environment; its functions step one instance.
      act: the behaviour, as `Objective.act`. It receives the actor's `exploration`.
      params: theta', parameters of the behaviour.
      actor: acting state to continue from.
      config: number of steps, resets, and when to stop.
      env_steps: T, environment steps of all environments so far, for the exploration schedule.

    Returns:
      The next acting state, the rollout `[T, N, ...]`, and what acting counted.

    References:
      Mnih et al. (2016), Algorithm S3, the inner loop.
    """
    actor = unrolled(actor)
    num_envs = actor.reset.shape[0]
    num_steps = config.num_steps
    exploration = actor.exploration

    def choose(key: Array, carry: Carry, observation: Array, reset: Array) -> tuple:
        return act(params, key, carry, observation, reset, exploration, env_steps)

    # Draw the keys of all steps at once: inside the loop each draw would cost a kernel.
    action_key, env_key, reset_key, key = jax.random.split(actor.key, 4)
    step_keys = tuple(jax.random.split(k, num_steps) for k in (action_key, env_key, reset_key))

    # Draw one start state per environment for the whole rollout, unless resets are exact.
    def start(keys: Array) -> Any:
        return unrolled(jax.vmap(env.reset)(keys))

    pool = start(jax.random.split(reset_key, num_envs)) if config.auto_reset == "pooled" else None

    def step(state: tuple[ActorState, EpisodeSums], keys: tuple[Array, Array, Array]) -> Any:
        actor, sums = state
        action_key, env_key, reset_key = keys

        # a_t ~ pi(.|s_t; theta'), unless the rollout before has already chosen it.
        carry, action, extras = choose(action_key, actor.carry, actor.observation, actor.reset)
        if actor.next_action is not None:
            action = jnp.where(actor.next_action == NONE_CHOSEN, action, actor.next_action)

        # Receive r_t and s_{t+1}.
        env_keys = jax.random.split(env_key, num_envs)
        taken = to_bounds(env.spec.action_space, action)
        env_state, timestep = unrolled(jax.vmap(env.step)(env_keys, actor.env_state, taken))
        timestep = timestep._replace(reward=timestep.reward.astype(jnp.float32))
        ended = timestep.terminated | timestep.truncated

        # Reset the environments whose episode ended.
        fresh = start(jax.random.split(reset_key, num_envs)) if pool is None else pool
        next_state, observation = select_rows(ended, fresh, (env_state, timestep.observation))

        # Add this step to the running episodes.
        episode_return = actor.episode_return + timestep.reward
        episode_length = actor.episode_length + 1
        running_return = actor.running_return
        if running_return is not None:
            running_return = config.discount * running_return + timestep.reward

        # The transition keeps s_{t+1} from before the reset.
        transition = Transition(
            observation=actor.observation,
            reset=actor.reset,
            action=action,
            reward=timestep.reward,
            terminated=timestep.terminated,
            truncated=timestep.truncated,
            next_observation=timestep.observation,
            next_carry=carry,
            mask=jnp.ones(num_envs, bool),
            running_return=running_return,
            extras=extras,
        )

        # Count the episodes that ended.
        counted = ended & jnp.isfinite(episode_return)
        sums = sums._replace(
            episodes=sums.episodes + counted.sum(),
            episode_return=sums.episode_return + jnp.sum(episode_return, where=counted),
            episode_length=sums.episode_length + jnp.sum(episode_length, where=counted),
        )

        # Restart the sums where the episode ended; `reset` makes the network reset its carry.
        actor = actor._replace(
            env_state=next_state,
            observation=observation,
            reset=ended,
            carry=carry,
            episode_return=jnp.where(ended, 0.0, episode_return),
            episode_length=jnp.where(ended, 0, episode_length),
            next_action=None
            if actor.next_action is None
            else jnp.full_like(actor.next_action, NONE_CHOSEN),
            running_return=None
            if running_return is None
            else jnp.where(ended, 0.0, running_return),
        )
        return (actor, sums), transition

    # t_start <- t; repeat until t - t_start = t_max, or until the episode ends.
    loop: Callable = _scan_until_episode_end if config.stop_at_episode_end else jax.lax.scan
    (last, sums), steps = loop(step, (actor, no_episodes()), step_keys)
    last = last._replace(key=key)
    sums = sums._replace(env_steps=steps.mask.sum(dtype=jnp.uint32))

    # Choose the action after the last step now, so that Sarsa's target uses the action then taken.
    if actor.next_action is not None:
        next_action = _next_actions(choose, jax.random.fold_in(action_key, num_steps), steps)
        steps = steps._replace(next_action=next_action)
        last = last._replace(next_action=jnp.where(last.reset, NONE_CHOSEN, next_action[-1]))
    return original((last, Rollout(actor.carry, steps), sums))


def no_episodes() -> EpisodeSums:
    """Return the sums before the first step."""
    zero = jnp.zeros((), jnp.float32)
    return EpisodeSums(jnp.zeros((), jnp.uint32), zero, zero, zero)


def _next_actions(choose: Callable[..., tuple], key: Array, steps: Transition) -> Array:
    """Return a_{t+1} for every step, `[T, N]`.

    Within an episode it is the action of the next row. After the last row, and for the final
    observation of a truncated episode, it is drawn from the behaviour. The next rollout takes the
    action drawn after the last row, unless the episode ended there.
    """

    def draw(key: Array, row: Transition) -> Array:
        return choose(key, row.next_carry, row.next_observation, jnp.zeros_like(row.reset))[1]

    last_key, key = jax.random.split(key)
    last = draw(last_key, jax.tree.map(lambda x: x[-1], steps))
    return row_after_each_step(
        steps, steps.action, last, lambda row, i: draw(jax.random.fold_in(key, i), row)
    )


def _scan_until_episode_end(step: Callable, state: Any, xs: Any) -> tuple[Any, Transition]:
    """Run `lax.scan` of `step`, but stop after a step that ended every environment's episode."""
    # Rows that are not reached stay 0, so their `mask` is False.
    length = jax.tree.leaves(xs)[0].shape[0]
    _, shapes = jax.eval_shape(step, state, jax.tree.map(lambda x: x[0], xs))
    rows = jax.tree.map(lambda s: jnp.zeros((length, *s.shape), s.dtype), shapes)

    def unfinished(loop: tuple) -> Array:
        t, _, _, ended = loop
        return (t < length) & ~ended

    def body(loop: tuple) -> tuple:
        t, state, rows, _ = loop
        state, row = step(state, jax.tree.map(lambda x: x[t], xs))
        rows = jax.tree.map(lambda buffer, x: buffer.at[t].set(x), rows, row)
        return t + 1, state, rows, jnp.all(row.terminated | row.truncated)

    _, state, rows, _ = jax.lax.while_loop(unfinished, body, (0, state, rows, False))
    return state, rows
