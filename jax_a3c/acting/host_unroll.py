"""Unroll a policy on host environments: each step calls a compiled program.

A host environment resets in the step after an episode's end, and that step is a `reset_step`. It
stays in the rollout as a masked row whose observation is the final one of the episode. So the row
after a step always holds s_{t+1}, also at the end of an episode, and no observation is stored
twice.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_a3c import rollouts
from jax_a3c.acting import actor as acting_actor
from jax_a3c.acting import unroll as device_unroll
from jax_a3c.acting.actor import NONE_CHOSEN
from jax_a3c.acting.unroll import Act, UnrollConfig
from jax_a3c.envs.base import Box, EnvSpec, HostStep, to_bounds
from jax_a3c.envs.host import check_step
from jax_a3c.keys import original, unrolled
from jax_a3c.rollouts import Rollout
from jax_a3c.types import Array, Carry, Params

HostAct = Callable[..., tuple[Carry, Array, Any]]
"""`Objective.act` with the number of the step, which makes the key of each step different.

`(params, key, t, carry, observation, reset, exploration, env_steps) -> (carry, action, extras)`.
"""

# Aliases for type checkers: the same tuples, but with NumPy arrays.
Transition: Any = rollouts.Transition
ActorState: Any = acting_actor.ActorState
EpisodeSums: Any = device_unroll.EpisodeSums


class HostRollout(NamedTuple):
    """A rollout as collected; `as_rollout` converts it to the form that an objective takes.

    Attributes:
      carry: `[N, ...]`. Recurrent state before the first step.
      last_carry: `[N, ...]`. Recurrent state after the last step.
      observations: T + 1 arrays `[N, ...]` on the device where the policy acted.
      steps: a `Transition` of NumPy arrays `[T, N]` without observations and extras.
      extras: the policy's extras `[N, ...]` of each of the T steps, on that device; empty if it
        stores none.
    """

    carry: Carry
    last_carry: Carry
    observations: tuple[Array, ...]
    steps: Any
    extras: tuple[Any, ...] = ()


class Finished(NamedTuple):
    """The result of `host_unroll`.

    Attributes:
      actor: acting state to continue from.
      rollout: the rollout of T rows.
      episodes: what acting counted; for games, not for lost lives.
    """

    actor: ActorState
    rollout: HostRollout
    episodes: EpisodeSums


Unroll = Generator[np.ndarray, HostStep, Finished]


def host_unroll(
    act: HostAct,
    params: Params,
    actor: ActorState,
    config: UnrollConfig,
    env_steps: np.float32 | float = 0.0,
    *,
    device: jax.Device | None = None,
) -> Unroll:
    """Act for `num_steps` steps, as a generator that yields actions and receives `HostStep`s.

    It yields actions within the bounds of the environments. The rollout keeps the policy's actions.

    Args:
      act: the compiled behaviour.
      params: theta', parameters of the behaviour.
      actor: acting state to continue from.
      config: number of steps, and when to stop.
      env_steps: T, environment steps of all environments so far, for the exploration schedule.
      device: device where the policy acts; JAX's default if None.

    Returns:
      At the end, the next acting state, the rollout, and what acting counted, in unclipped reward.

    References:
      Mnih et al. (2016), Algorithm S3, the inner loop.
    """
    state: Any = actor  # of NumPy arrays
    num_steps = config.num_steps
    discount = np.float32(config.discount)

    def choose(t: int, carry: Carry, observation: Any, reset: np.ndarray) -> tuple:
        return act(
            params, state.key, np.int32(t), carry, observation, reset, state.exploration, env_steps
        )

    spec = state.env_state.spec
    observation = jax.device_put(state.observation, device)
    reset = state.reset
    carry = state.carry
    next_action = state.next_action
    needs_next_action = next_action is not None

    # Running sums of the episodes, and what the rollout collects.
    episode_return = state.episode_return
    episode_length = state.episode_length
    discounted = state.running_return
    observations = [observation]
    extras: list[Any] = []
    rows: list[Any] = []
    episodes = np.zeros(3)  # number, returns and lengths of the games that end

    # Repeat until t - t_start = t_max, or until the episode ends.
    for t in range(num_steps):
        start = reset

        # a_t ~ pi(.|s_t; theta'), unless the rollout before has already chosen it.
        carry, chosen, kept = choose(t, carry, observation, reset)
        extras.append(kept)
        action = np.asarray(chosen)
        if next_action is not None:
            action = np.where(next_action == NONE_CHOSEN, action, next_action)
            next_action = None

        # Receive r_t and s_{t+1}. Check the group's first step, and few others.
        step = yield to_bounds(spec.action_space, action)
        if t == 0 and start.all():
            check_step(spec, len(start), step)
        taken = ~step.reset_step
        ended = step.terminated | step.truncated

        if discounted is not None:
            # A row that resets starts the sum at 0; it has no reward.
            discounted = np.where(taken, discount * discounted + step.reward, np.float32(0))

        row = Transition(
            observation=None,  # kept in `observations`
            reset=start,
            action=action,
            reward=step.reward,
            terminated=step.terminated,
            truncated=step.truncated,
            next_observation=None,
            next_carry=None,
            mask=taken,
            running_return=discounted,
        )
        rows.append(row)

        # Count the games that ended. A game has several episodes where a lost life ends one.
        episode_return = episode_return + step.raw_reward
        episode_length = episode_length + taken
        over = step.game_over & taken
        if over.any():
            counted = over & np.isfinite(episode_return)
            episodes += (
                counted.sum(),
                episode_return[counted].sum(),
                episode_length[counted].sum(),
            )
            episode_return = np.where(over, np.float32(0), episode_return)
            episode_length = np.where(over, 0, episode_length)

        # An ignored step only reset the environment: its observation begins an episode.
        observation = jax.device_put(step.observation, device)
        reset = step.reset_step
        observations.append(observation)
        if config.stop_at_episode_end and ended.all():
            break

    # Stack the rows, [N, ...] -> [T, N, ...], with zeros after an early end.
    count = len(rows)
    steps: Any = jax.tree.map(lambda *column: _padded(np.stack(column), num_steps), *rows)

    # Choose the action after the last step now, so that Sarsa's target uses the action then taken.
    if needs_next_action:
        next_action = np.asarray(choose(num_steps, carry, observation, reset)[1])
        following = np.concatenate([steps.action[1:], next_action[None]])
        following[count - 1] = next_action
        steps = steps._replace(next_action=following)

    # The row after the last step gives the value of the final observation; repeat it up to T rows.
    if not jax.tree.leaves(extras):
        extras = []
    elif count < num_steps:
        extras += [choose(num_steps, carry, observation, reset)[2]] * (num_steps - count)
    observations += [observation] * (num_steps - count)

    last = state._replace(
        observation=step.observation,
        reset=reset,
        carry=carry,
        key=_next_key(state.key),
        episode_return=episode_return,
        episode_length=episode_length,
        next_action=next_action,
        running_return=discounted,
    )
    rollout = HostRollout(state.carry, carry, tuple(observations), steps, tuple(extras))
    taken_steps = steps.mask.sum(dtype=np.uint32)
    return Finished(last, rollout, EpisodeSums(taken_steps, *episodes.astype(np.float32)))


def total(episodes: Sequence[EpisodeSums]) -> EpisodeSums:
    """Add what acting counted in several groups."""
    env_steps, *sums = np.sum(episodes, axis=0)
    return EpisodeSums(np.uint32(env_steps), *map(np.float32, sums))


def compile_host_act(
    act: Act, params: Params, actor: ActorState, compile_: Callable[..., Callable]
) -> tuple[HostAct, Any]:
    """Compile the programs that `host_unroll` calls for an actor.

    Args:
      act: the behaviour, `Objective.act`.
      params: parameters with the shapes to compile for.
      actor: acting state with the shapes to compile for.
      compile_: `(function, *args) -> program`.

    Returns:
      The compiled behaviour, and the shapes of its extras.
    """

    def act_at(params: Params, key: Array, t: Array, *args: Any) -> tuple[Carry, Array, Any]:
        return original(act(params, jax.random.fold_in(unrolled(key), t), *args))

    observed = (actor.carry, actor.observation, actor.reset, actor.exploration)
    arguments = (params, actor.key, np.int32(0), *observed, np.float32(0))
    program = compile_(act_at, *arguments)
    _next_key(actor.key)  # its first call compiles it
    return program, jax.eval_shape(act_at, *arguments)[2]


def rollout_like(actor: ActorState, spec: EnvSpec, num_steps: int, extras: Any = ()) -> HostRollout:
    """Return a rollout of zeros, with the shapes and dtypes to compile for.

    `extras` are those of one step.
    """
    # Discrete actions are [T, N], real actions [T, N, A].
    space = spec.action_space
    batch = (num_steps, len(actor.reset))  # [T, N]
    action = np.zeros(batch, np.int32)
    if isinstance(space, Box):
        action = np.zeros((*batch, space.size), np.float32)
    flags = np.zeros(batch, bool)
    reals = np.zeros(batch, np.float32)

    steps = Transition(
        observation=None,
        reset=flags,
        action=action,
        reward=reals,
        terminated=flags,
        truncated=flags,
        next_observation=None,
        next_carry=None,
        mask=flags,
        next_action=None if actor.next_action is None else action,
        running_return=None if actor.running_return is None else reals,
    )
    observations = (actor.observation,) * (num_steps + 1)
    kept = (extras,) * num_steps if jax.tree.leaves(extras) else ()
    return HostRollout(actor.carry, actor.carry, observations, steps, kept)


def as_rollout(rollouts: Sequence[HostRollout]) -> Rollout:
    """Join the rollouts of all groups into one for an objective, `[T, N, ...]`, under `jit`."""
    joined = rollouts[0]

    # Join the groups along the axis of their environments.
    if len(rollouts) > 1:
        carries, last_carries, observations, steps, extras = zip(*rollouts, strict=True)
        joined = HostRollout(
            _concatenated(carries, 0),
            _concatenated(last_carries, 0),
            _concatenated(observations, 0),
            _concatenated(steps, 1),
            _concatenated(extras, 0),
        )

    # T + 1 arrays [N, ...] -> s_0, ..., s_{T-1} as [T, N, ...], and s_T.
    *rows, last = joined.observations
    steps = joined.steps._replace(observation=jnp.stack(rows))
    if joined.extras:
        steps = steps._replace(
            extras=jax.tree.map(lambda *column: jnp.stack(column), *joined.extras)
        )
    return Rollout(joined.carry, steps, last, joined.last_carry)


_next_key = jax.jit(lambda key: original(jax.random.fold_in(unrolled(key), 2**31 - 1)))


def _padded(column: np.ndarray, length: int) -> np.ndarray:
    """Append zeros to a column `[k, N, ...]` up to `length` rows."""
    if len(column) == length:
        return column
    return np.concatenate(
        [column, np.zeros((length - len(column), *column.shape[1:]), column.dtype)]
    )


def _concatenated(parts: Sequence[Any], axis: int) -> Any:
    """Return trees of arrays joined leaf by leaf along `axis`, the environments."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis), *parts)
