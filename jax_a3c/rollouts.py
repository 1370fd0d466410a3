"""Unroll a policy on JAX environments: T steps of N environments, with resets between episodes."""

import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jax_a3c.checks import InputError, check_choice, check_integer, check_number, shown
from jax_a3c.envs.base import JaxEnvironment, to_bounds
from jax_a3c.types import ActorState, Array, Carry, Rollout, Transition

AutoReset = Literal["pooled", "exact"]
NONE_CHOSEN = -1
"""Value of `ActorState.next_action` where no action has been chosen yet."""
Act = Callable[[Array, Carry, Array, Array], tuple]
"""`(key, carry, observation [N, ...], reset [N]) -> (carry, action [N, ...])`.

A third result, `layers [N, ...]`, holds the activations of the network's layers if the loss uses
them.
"""


def as_key(key: Array | int) -> Array:
    """Return a random key for a key or a seed.

    Args:
      key: a typed key, a raw uint32 key, or a seed, an integer of 64 bits.

    Returns:
      The key.

    Raises:
      InputError: if `key` is something else, such as a batch of keys.
    """
    if isinstance(key, numbers.Integral):
        check_integer("key", key, -(2**63), 2**63 - 1)
        return jax.random.key(int(key))

    if isinstance(key, jax.Array):
        typed = jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key)
        if (key.ndim == 0 and typed) or (key.ndim == 1 and key.dtype == jnp.uint32):
            return key

    raise InputError(
        f"key must be a random key or a seed, got {shown(key)}; a batch of keys needs jax.vmap"
    )


class EpisodeSums(NamedTuple):
    """Sums over the episodes that ended, so that no per-step data has to leave the device.

    An episode whose return is not finite does not count.

    Attributes:
      episodes: `[]` float32. Number of episodes that ended.
      episode_return: `[]` float32. Sum of their returns, in reward units, undiscounted.
      episode_length: `[]` float32. Sum of their lengths, in environment steps.
    """

    episodes: Array
    episode_return: Array
    episode_length: Array


@dataclass(frozen=True, kw_only=True)
class RunnerConfig:
    """Settings that both runners share.

    Attributes:
      num_envs: N, number of environments that step together, at least 1.
      num_steps: T, the paper's t_max: the most steps of each environment between two updates, at
        least 1. Paper: 5; the authors by e-mail: 20.
      max_grad_norm: bound of the gradient's global norm, above 0; None for no bound. Authors: 40.
      auto_reset: `"pooled"` or `"exact"`, see `unroll`.
    """

    num_envs: int
    num_steps: int
    max_grad_norm: float | None
    auto_reset: AutoReset = "pooled"

    def __post_init__(self) -> None:
        check_integer("num_envs", self.num_envs, 1)
        check_integer("num_steps", self.num_steps, 1)
        check_integer("num_envs times num_steps", self.num_envs * self.num_steps, 1)
        check_choice("auto_reset", self.auto_reset, ("pooled", "exact"))
        if self.max_grad_norm is not None:
            check_number("max_grad_norm", self.max_grad_norm, above=0.0)


def init_actor(
    env: JaxEnvironment,
    carry: Carry,
    key: Array,
    num_envs: int,
    *,
    explore: Callable[[Array, int], Any] | None = None,
    looks_ahead: bool = False,
    sums_discounted: bool = False,
) -> ActorState:
    """Start `num_envs` environments, each with a separate episode.

    Args:
      env: the environment.
      carry: `[num_envs, ...]`. Initial recurrent state.
      key: random key.
      num_envs: N, at least 1.
      explore: the objective's `(key, num_envs) -> exploration`; None if it draws nothing.
      looks_ahead: whether the objective's rollouts need `next_action`.
      sums_discounted: whether rollouts need `discounted_return`.

    Returns:
      The acting state before the first step.
    """
    reset_key, key = jax.random.split(key)
    exploration = None
    if explore is not None:
        explore_key, key = jax.random.split(key)
        exploration = explore(explore_key, num_envs)

    env_state, observation = jax.vmap(env.reset)(jax.random.split(reset_key, num_envs))
    return ActorState(
        env_state=env_state,
        observation=observation,
        reset=jnp.ones(num_envs, bool),
        carry=carry,
        key=key,
        episode_return=jnp.zeros(num_envs, jnp.float32),
        episode_length=jnp.zeros(num_envs, jnp.int32),
        exploration=exploration,
        next_action=jnp.full(num_envs, NONE_CHOSEN, jnp.int32) if looks_ahead else None,
        discounted_return=jnp.zeros(num_envs, jnp.float32) if sums_discounted else None,
    )


def unroll(
    env: JaxEnvironment,
    act: Act,
    actor: ActorState,
    num_steps: int,
    *,
    auto_reset: AutoReset = "pooled",
    stop_at_episode_end: bool = False,
    discount: float = 1.0,
) -> tuple[ActorState, Rollout, EpisodeSums]:
    """Act for `num_steps` steps in all environments, in one loop on the device.

    Args:
      env: the environment; its functions step one instance.
      act: the policy, `(key, carry, observation, reset) -> (carry, action)`.
      actor: acting state to continue from.
      num_steps: T, the paper's t_max, at least 1.
      auto_reset: how the next episode gets its start state. `"exact"` draws a new start state for
        each environment at each step and uses it if the episode ended. `"pooled"` draws one start
        state for each environment and rollout, T times less work. The distribution of start states
        is the same, but an environment that ends two episodes within a rollout starts the next two
        in the same state.
      stop_at_episode_end: end the rollout after a step that ended the episode in every environment.
        The paper's segments do so with one environment. The remaining rows have `mask` False.
      discount: gamma of `discounted_return`, if the actor has one.

    Returns:
      The next acting state, the rollout `[T, N, ...]`, and the sums over its ended episodes.

    References:
      Mnih et al. (2016), Algorithm S3, the inner loop.
    """
    num_envs = actor.reset.shape[0]

    # Draw the keys of all steps at once: inside the loop each draw would cost a kernel.
    action_key, env_key, reset_key, key = jax.random.split(actor.key, 4)
    step_keys = tuple(jax.random.split(k, num_steps) for k in (action_key, env_key, reset_key))

    # Draw one start state per environment for the whole rollout, unless resets are exact.
    start = jax.vmap(env.reset)
    pool = start(jax.random.split(reset_key, num_envs)) if auto_reset == "pooled" else None

    def step(state: tuple[ActorState, EpisodeSums], keys: tuple[Array, Array, Array]) -> Any:
        actor, sums = state
        action_key, env_key, reset_key = keys

        # a_t ~ pi(.|s_t; theta'), unless the rollout before has already chosen it.
        carry, action, *layers = act(action_key, actor.carry, actor.observation, actor.reset)
        if actor.next_action is not None:
            action = jnp.where(actor.next_action == NONE_CHOSEN, action, actor.next_action)

        # Receive r_t and s_{t+1}.
        env_keys = jax.random.split(env_key, num_envs)
        taken = to_bounds(env.spec.action_space, action)
        env_state, timestep = jax.vmap(env.step)(env_keys, actor.env_state, taken)
        timestep = timestep._replace(reward=timestep.reward.astype(jnp.float32))
        ended = timestep.terminated | timestep.truncated

        # Reset the environments whose episode ended.
        fresh = start(jax.random.split(reset_key, num_envs)) if pool is None else pool
        next_state, observation = _where(ended, fresh, (env_state, timestep.observation))

        # Add this step to the running episodes.
        episode_return = actor.episode_return + timestep.reward
        episode_length = actor.episode_length + 1
        discounted_return = actor.discounted_return
        if discounted_return is not None:
            discounted_return = discount * discounted_return + timestep.reward

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
            discounted_return=discounted_return,
            layers=layers[0] if layers else None,
        )

        # Count the episodes that ended.
        counted = ended & jnp.isfinite(episode_return)
        sums = EpisodeSums(
            sums.episodes + counted.sum(),
            sums.episode_return + jnp.sum(episode_return, where=counted),
            sums.episode_length + jnp.sum(episode_length, where=counted),
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
            discounted_return=None
            if discounted_return is None
            else jnp.where(ended, 0.0, discounted_return),
        )
        return (actor, sums), transition

    # t_start <- t; repeat until t - t_start = t_max, or until the episode ends.
    loop: Callable = _scan_until_episode_end if stop_at_episode_end else jax.lax.scan
    zero = jnp.zeros((), jnp.float32)
    (last, sums), steps = loop(step, (actor, EpisodeSums(zero, zero, zero)), step_keys)
    last = last._replace(key=key)

    # Choose the action after the last step now, so that Sarsa's target uses the action then taken.
    if actor.next_action is not None:
        next_action = _next_actions(act, jax.random.fold_in(action_key, num_steps), steps)
        steps = steps._replace(next_action=next_action)
        last = last._replace(next_action=jnp.where(last.reset, NONE_CHOSEN, next_action[-1]))
    return last, Rollout(actor.carry, steps), sums


def _next_actions(act: Act, key: Array, steps: Transition) -> Array:
    """Return a_{t+1} for every step, `[T, N]`.

    Within an episode it is the action of the next row. After the last row, and for the final
    observation of a truncated episode, it is drawn from the behaviour. The next rollout takes the
    action drawn after the last row, unless the episode ended there.
    """

    def draw(key: Array, row: Transition) -> Array:
        return act(key, row.next_carry, row.next_observation, jnp.zeros_like(row.reset))[1]

    last_key, key = jax.random.split(key)
    last = draw(last_key, jax.tree.map(lambda x: x[-1], steps))
    return row_after_each_step(
        steps, steps.action, last, lambda row, i: draw(jax.random.fold_in(key, i), row)
    )


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
            lambda x: jnp.take_along_axis(x, _spread(first[None], x), axis=0)[0], steps
        )
        return i + 1, cut & ~chosen, _where(chosen, own(row, i)[None], result)

    return jax.lax.while_loop(lambda loop: jnp.any(loop[1]), replace, (0, cut, following))[2]


def _where(condition: Array, new: Any, old: Any) -> Any:
    """Return `where` of each leaf, with `condition` `[*B]` against leaves `[*B, ...]`."""
    return jax.tree.map(lambda a, b: jnp.where(_spread(condition, b), a, b), new, old)


def _spread(x: Array, like: Array) -> Array:
    """Append axes of length 1 to `x` `[*B]` until it has as many axes as `like` `[*B, ...]`."""
    return x.reshape(x.shape + (1,) * (like.ndim - x.ndim))


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
