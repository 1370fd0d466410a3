"""Unrolling a policy: `num_steps` steps of `N` environments, with the resets between episodes."""

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
"""In `ActorState.next_action`: the action is still to be chosen."""
Act = Callable[[Array, Carry, Array, Array], tuple]
"""`(key, carry, observation [N, ...], reset [N]) -> (carry, action [N, ...])`, and a third if the loss wants
to know what the network's layers gave: `layers [N, ...]`."""


def as_key(key: Array | int) -> Array:
    """A random key, from one or from a seed.

    Args:
      key: a key, typed or of the old kind, or an integer of 64 bits.

    Returns:
      The key.

    Raises:
      InputError: if it is something else, such as a batch of keys.
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
    """Running sums over the episodes that ended, so that no per-step record has to leave the device.

    An episode whose return is not finite is left out.

    Attributes:
      episodes: `[]` float32. How many ended.
      episode_return: `[]` float32. Sum of their returns, in reward units, undiscounted.
      episode_length: `[]` float32. Sum of their lengths, in environment steps.
    """

    episodes: Array
    episode_return: Array
    episode_length: Array


@dataclass(frozen=True, kw_only=True)
class RunnerConfig:
    """Settings that both runners have.

    Attributes:
      num_envs: N, environments that step together, at least 1.
      num_steps: T, the paper's t_max: the longest rollout between two updates, in steps of each environment.
        Paper: 5; the authors by e-mail: 20.
      max_grad_norm: bound of the gradient's global norm, above 0; None for none. Authors: 40.
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
    """Start `num_envs` environments, each with an episode of its own.

    Args:
      env: the environment, as pure functions.
      carry: initial recurrent state, `[num_envs, ...]`.
      key: random key.
      num_envs: N, at least 1.
      explore: of the objective, `(key, num_envs) -> exploration`.
      looks_ahead: of the objective: its rollouts need `next_action`.
      sums_discounted: rollouts need `discounted_return`.

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
    """Act for `num_steps` steps in all environments, on the device, in one loop.

    Args:
      env: the environment, as pure functions of one instance.
      act: the policy, `(key, carry, observation, reset) -> (carry, action)`.
      actor: where to go on.
      num_steps: T, the paper's t_max, at least 1.
      auto_reset: where an episode's successor starts. `"exact"` draws a fresh start state for each
        environment at each step and uses those that are needed. `"pooled"` draws one start state for
        each environment and rollout: T times less work, the same distribution of start states; only an
        environment that ends two episodes within one rollout starts both successors alike.
      stop_at_episode_end: end the rollout after a step that ended the episode in every environment, as
        the paper's segments do (there is one environment then); the remaining rows have `mask` False.
      discount: gamma of `discounted_return`, if the actor has one.

    Returns:
      The next acting state, the rollout `[T, N, ...]`, and the sums over the episodes that ended in it.

    References:
      Mnih et al. (2016), Algorithm S3, the inner loop.
    """
    num_envs = actor.reset.shape[0]
    # The keys of all steps are drawn here, once: within the loop each draw would cost a kernel of its own.
    action_key, env_key, reset_key, key = jax.random.split(actor.key, 4)
    step_keys = tuple(jax.random.split(k, num_steps) for k in (action_key, env_key, reset_key))
    start = jax.vmap(env.reset)
    pool = start(jax.random.split(reset_key, num_envs)) if auto_reset == "pooled" else None

    def step(state: tuple[ActorState, EpisodeSums], keys: tuple[Array, Array, Array]) -> Any:
        actor, sums = state
        action_key, env_key, reset_key = keys
        carry, action, *layers = act(action_key, actor.carry, actor.observation, actor.reset)
        if actor.next_action is not None:
            action = jnp.where(actor.next_action == NONE_CHOSEN, action, actor.next_action)
        env_keys = jax.random.split(env_key, num_envs)
        taken = to_bounds(env.spec.action_space, action)
        env_state, timestep = jax.vmap(env.step)(env_keys, actor.env_state, taken)
        timestep = timestep._replace(reward=timestep.reward.astype(jnp.float32))
        ended = timestep.terminated | timestep.truncated
        fresh = start(jax.random.split(reset_key, num_envs)) if pool is None else pool
        next_state, observation = _where(ended, fresh, (env_state, timestep.observation))
        episode_return = actor.episode_return + timestep.reward
        episode_length = actor.episode_length + 1
        discounted_return = actor.discounted_return
        if discounted_return is not None:
            discounted_return = discount * discounted_return + timestep.reward
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
        counted = ended & jnp.isfinite(episode_return)
        sums = EpisodeSums(
            sums.episodes + counted.sum(),
            sums.episode_return + jnp.sum(episode_return, where=counted),
            sums.episode_length + jnp.sum(episode_length, where=counted),
        )
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

    loop: Callable = _scan_until_episode_end if stop_at_episode_end else jax.lax.scan
    zero = jnp.zeros((), jnp.float32)
    (last, sums), steps = loop(step, (actor, EpisodeSums(zero, zero, zero)), step_keys)
    last = last._replace(key=key)
    if actor.next_action is not None:
        next_action = _next_actions(act, jax.random.fold_in(action_key, num_steps), steps)
        steps = steps._replace(next_action=next_action)
        last = last._replace(next_action=jnp.where(last.reset, NONE_CHOSEN, next_action[-1]))
    return last, Rollout(actor.carry, steps), sums


def _next_actions(act: Act, key: Array, steps: Transition) -> Array:
    """The action that follows each step, `[T, N]`.

    Within an episode it is that of the next row. After the last row, and in the final observation of an
    episode that was cut, it is drawn from the behaviour; the former draw is then really taken.
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
    """What belongs to s_{t+1} of every step, from what belongs to each s_t.

    Within an episode it is the next row. Where an episode was cut by a time limit before the rollout's end,
    the next row is of another episode: there it is what the final observation itself gives. Those are few,
    and `own` is asked for one step of each environment at a time, until there are none left.

    Args:
      steps: of a rollout, `[T, *B]`.
      rows: `[T, *B, ...]`, of each s_t.
      last: `[*B, ...]`, of the observation after the last step.
      own: `(row [*B], i) -> [*B, ...]`, from the next observations of some steps, in the i-th call.

    Returns:
      `[T, *B, ...]`. Of no meaning where the episode terminated.
    """
    following = jnp.concatenate([rows[1:], last[None]])
    if (
        steps.next_observation is None
    ):  # a host environment: each final observation has a row of its own
        return following
    cut = (
        (steps.truncated & ~steps.terminated).at[-1].set(False)
    )  # the last row has its own already
    times = jnp.arange(len(cut)).reshape(-1, *[1] * (cut.ndim - 1))

    def replace(loop: tuple) -> tuple:
        i, cut, result = loop
        first = jnp.argmax(cut, axis=0)  # of each environment, 0 where none is left
        chosen = cut & (times == first[None])
        row = jax.tree.map(
            lambda x: jnp.take_along_axis(x, _spread(first[None], x), axis=0)[0], steps
        )
        return i + 1, cut & ~chosen, _where(chosen, own(row, i)[None], result)

    return jax.lax.while_loop(lambda loop: jnp.any(loop[1]), replace, (0, cut, following))[2]


def _where(condition: Array, new: Any, old: Any) -> Any:
    """Leafwise `where` with `condition` `[*B]` against leaves `[*B, ...]`."""

    return jax.tree.map(lambda a, b: jnp.where(_spread(condition, b), a, b), new, old)


def _spread(x: Array, like: Array) -> Array:
    """`x` `[*B]` with axes of length 1 at its end, as many as `like` `[*B, ...]` has more."""
    return x.reshape(x.shape + (1,) * (like.ndim - x.ndim))


def _scan_until_episode_end(step: Callable, state: Any, xs: Any) -> tuple[Any, Transition]:
    """`lax.scan` of `step` that stops after a transition which ended every environment's episode."""
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
