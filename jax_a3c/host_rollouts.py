"""Unrolling a policy on environments of the host: the policy is a compiled program, called at each step.

The environments reset themselves in the step after an episode's end, which is `ignored`. That step stays in
the rollout as a masked row, whose observation is the final one of the episode: so the row that follows a step
always holds s_{t+1}, cut episodes included, and nothing has to be kept twice.
"""

import contextlib
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_a3c import rollouts, types
from jax_a3c.checks import InputError
from jax_a3c.envs.base import Box, EnvSpec, HostEnvironment, HostFactory, HostStep, to_bounds
from jax_a3c.envs.host import check_observation, check_step
from jax_a3c.objectives import Network
from jax_a3c.rollouts import NONE_CHOSEN
from jax_a3c.types import Array, Carry, Rollout

HostAct = Callable[[Array, np.int32, Carry, Any, np.ndarray], tuple]
"""`(key, t, carry, observation [N, ...], reset [N]) -> (carry, action [N, ...])`, and perhaps the layers, as
`rollouts.Act`; t tells the steps apart."""
# For type checkers: the same tuples with NumPy's arrays in them.
Transition: Any = types.Transition
ActorState: Any = types.ActorState
EpisodeSums: Any = rollouts.EpisodeSums


NOT_TRACEABLE = (
    "a host environment steps outside of JAX, so that jit, vmap and scan cannot run it; call init and step "
    "in a Python loop: for _ in range(n): state, metrics = agent.step(state)"
)


class HostRollout(NamedTuple):
    """A rollout as it was gathered; `as_rollout` makes of it what an objective takes.

    Attributes:
      carry: `[N, ...]`. Recurrent state before the first step.
      last_carry: `[N, ...]`. That after the last one.
      observations: T + 1 arrays `[N, ...]` on the device where the policy acted.
      steps: the rest, a `Transition` of NumPy arrays `[T, N]` without observations and layers.
      layers: T times what the network's layers gave, `[N, ...]` on that device; empty if nobody asked.
    """

    carry: Carry
    last_carry: Carry
    observations: tuple[Array, ...]
    steps: Any
    layers: tuple[Any, ...] = ()


class Finished(NamedTuple):
    """What `host_unroll` returns in the end.

    Attributes:
      actor: where to go on.
      rollout: of T rows.
      episodes: sums over the games that ended.
    """

    actor: ActorState
    rollout: HostRollout
    episodes: EpisodeSums


Unroll = Generator[np.ndarray, HostStep, Finished]


def init_host_actors(
    factory: HostFactory,
    network: Network,
    key: Array,
    sizes: Sequence[int],
    *,
    num_threads: int | None = None,
    **needs: Any,
) -> list[ActorState]:
    """Start groups of environments that share no seed, each with an actor of its own.

    Args:
      factory: makes the groups.
      network: gives carries their initial values.
      key: random key.
      sizes: number of environments of each group.
      num_threads: of each group, see `HostFactory.make`.
      **needs: as for `init_host_actor`.

    Returns:
      The acting states. If one cannot be started, none is left open.
    """
    seed_key, *keys = jax.random.split(key, 1 + len(sizes))
    seed = int(jax.random.randint(seed_key, (), 0, 2**30))
    actors = []
    with contextlib.ExitStack() as started:
        for size, actor_key in zip(sizes, keys, strict=True):
            group = factory.make(size, seed=seed, num_threads=num_threads)
            started.callback(group.close)
            actors.append(
                init_host_actor(group, network.initial_carry((size,)), actor_key, **needs)
            )
            seed += size
        started.pop_all()
    return actors


def init_host_actor(
    group: HostEnvironment,
    carry: Carry,
    key: Array,
    *,
    explore: Callable[[Array, int], Any] | None = None,
    looks_ahead: bool = False,
    sums_discounted: bool = False,
) -> ActorState:
    """Start the environments of a group; as `rollouts.init_actor`.

    Args:
      group: the environments, which belong to this actor from now on.
      carry: initial recurrent state, `[N, ...]`.
      key: random key.
      explore: of the objective, `(key, num_envs) -> exploration`.
      looks_ahead: of the objective: its rollouts need `next_action`.
      sums_discounted: rollouts need `discounted_return`.

    Returns:
      The acting state before the first step; all but carry, key and exploration is NumPy's.
    """
    _refuse_tracing(type(group))
    explore_key, key = jax.random.split(key)
    num_envs = group.num_envs
    observation = group.reset()
    check_observation(group.spec, num_envs, observation, "reset")
    return ActorState(
        env_state=group,
        observation=observation,
        reset=np.ones(num_envs, bool),
        carry=carry,
        key=key,
        episode_return=np.zeros(num_envs, np.float32),
        episode_length=np.zeros(num_envs, np.int32),
        exploration=None if explore is None else explore(explore_key, num_envs),
        next_action=np.full(num_envs, NONE_CHOSEN, np.int32) if looks_ahead else None,
        discounted_return=np.zeros(num_envs, np.float32) if sums_discounted else None,
    )


def _refuse_tracing(kind: type) -> None:
    """Let `jit`, `vmap`, `scan` and `tree.map` refuse a state that holds such a group, in one sentence.

    JAX takes states apart before it calls anything of ours; only a node of its trees is asked.
    """

    def refuse(*_: Any) -> Any:
        raise InputError(NOT_TRACEABLE)

    with contextlib.suppress(ValueError):  # it is registered
        jax.tree_util.register_pytree_node(kind, refuse, refuse)


def refuse_tracer(key: Any) -> None:
    """Refuse a key that JAX traces: host environments cannot step inside a compiled program."""
    if isinstance(key, jax.core.Tracer):
        raise InputError(NOT_TRACEABLE)


def lasting(actor: ActorState) -> tuple[Array, Any]:
    """What outlives the environments of an actor, which cannot be saved: its key, and how it explores."""
    return actor.key, actor.exploration


def resumed(actor: ActorState, kept: tuple[Array, Any]) -> ActorState:
    """A fresh actor that goes on with the key and the exploration of another."""
    key, exploration = kept
    return actor._replace(key=key, exploration=exploration)


def host_unroll(
    act: HostAct,
    actor: ActorState,
    num_steps: int,
    *,
    device: jax.Device | None = None,
    stop_at_episode_end: bool = False,
    discount: float = 1.0,
) -> Unroll:
    """Act for `num_steps` steps; a generator that yields actions and is sent what they led to.

    It yields the environments' actions, within their bounds; the rollout keeps those of the policy.

    Args:
      act: the policy.
      actor: where to go on.
      num_steps: T, at least 1.
      device: where the policy acts; JAX's default if None.
      stop_at_episode_end: end the rollout after a step that ended the episode in every environment; the
        remaining rows have `mask` False.
      discount: gamma of `discounted_return`, if the actor has one.

    Returns:
      When it stops, the next acting state, the rollout, and the sums over the games that ended in it, in
      unclipped reward.
    """
    state: Any = actor  # of NumPy arrays
    observation, reset, carry = jax.device_put(state.observation, device), state.reset, state.carry
    spec = state.env_state.spec
    looks_ahead, next_action = state.next_action is not None, state.next_action
    episode_return, episode_length = state.episode_return, state.episode_length
    discounted = state.discounted_return
    observations, layers, rows, episodes = [observation], [], [], np.zeros(3)
    for t in range(num_steps):
        start = reset
        carry, chosen, *kept = act(state.key, np.int32(t), carry, observation, reset)
        layers += kept
        action = np.asarray(chosen)
        if next_action is not None:
            action = np.where(next_action == NONE_CHOSEN, action, next_action)
            next_action = None
        step = yield to_bounds(spec.action_space, action)
        if t == 0 and start.all():  # the first step of the group, and few others
            check_step(spec, len(start), step)
        taken, ended = ~step.ignored, step.terminated | step.truncated
        if discounted is not None:
            # A reset row forgets: what ended is then behind, and its own reward is 0.
            discounted = np.where(
                taken, np.float32(discount) * discounted + step.reward, np.float32(0)
            )
        row = Transition(
            observation=None,  # they are in `observations`
            reset=start,
            action=action,
            reward=step.reward,
            terminated=step.terminated,
            truncated=step.truncated,
            next_observation=None,
            next_carry=None,
            mask=taken,
            discounted_return=discounted,
        )
        rows.append(row)
        episode_return = episode_return + step.score
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
        observation, reset = jax.device_put(step.observation, device), step.ignored
        observations.append(observation)
        if stop_at_episode_end and ended.all():
            break
    count = len(rows)
    steps: Any = jax.tree.map(lambda *column: _padded(np.stack(column), num_steps), *rows)
    if looks_ahead:
        next_action = np.asarray(act(state.key, np.int32(num_steps), carry, observation, reset)[1])
        following = np.concatenate([steps.action[1:], next_action[None]])
        following[count - 1] = next_action
        steps = steps._replace(next_action=following)
    if (
        layers and count < num_steps
    ):  # the row behind the last one has the value of the final observation
        layers += [act(state.key, np.int32(num_steps), carry, observation, reset)[2]] * (
            num_steps - count
        )
    observations += [observation] * (num_steps - count)
    last = state._replace(
        observation=step.observation,
        reset=reset,
        carry=carry,
        key=_next_key(state.key),
        episode_return=episode_return,
        episode_length=episode_length,
        next_action=next_action,
        discounted_return=discounted,
    )
    rollout = HostRollout(state.carry, carry, tuple(observations), steps, tuple(layers))
    return Finished(last, rollout, EpisodeSums(*episodes.astype(np.float32)))


def rollout_like(
    actor: ActorState, spec: EnvSpec, num_steps: int, layers: Sequence[Any] = ()
) -> HostRollout:
    """A rollout of the right shapes and dtypes to compile for, all zeros; `layers` are those of one step."""
    num_envs = len(actor.reset)
    space, batch = spec.action_space, (num_steps, num_envs)
    action = np.zeros(batch, np.int32)
    if isinstance(space, Box):
        action = np.zeros((*batch, space.size), np.float32)
    flags, reals = np.zeros(batch, bool), np.zeros(batch, np.float32)
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
        discounted_return=None if actor.discounted_return is None else reals,
    )
    observations = (actor.observation,) * (num_steps + 1)
    return HostRollout(actor.carry, actor.carry, observations, steps, tuple(layers) * num_steps)


def finish(unroll: Unroll, group: HostEnvironment) -> Finished:
    """Step the environments of one group until its rollout is complete."""
    action = next(unroll)
    while True:
        step = group.step(action)
        try:
            action = unroll.send(step)
        except StopIteration as end:
            return end.value


def alternate(unrolls: Sequence[Unroll], groups: Sequence[HostEnvironment]) -> list[Finished]:
    """Step several groups in turn: while the policy acts for one, the others' environments step.

    Args:
      unrolls: one of `host_unroll` for each group, all of as many steps.
      groups: environments, each used by one thread at a time.

    Returns:
      What each unroll returned. No step is under way any more, also if one raised.
    """
    finished: list[Finished] = []
    with ThreadPoolExecutor(len(groups), thread_name_prefix="environments") as threads:
        stepping = [threads.submit(g.step, next(u)) for g, u in zip(groups, unrolls, strict=True)]
        while not finished:
            for i, (group, unroll) in enumerate(zip(groups, unrolls, strict=True)):
                step = stepping[i].result()
                try:
                    stepping[i] = threads.submit(group.step, unroll.send(step))
                except StopIteration as end:
                    finished.append(end.value)
    return finished


def close_all(groups: Sequence[HostEnvironment]) -> None:
    """Close every group, also if closing one of them raises."""
    with contextlib.ExitStack() as stack:
        for group in groups:
            stack.callback(group.close)


def as_rollout(rollouts: Sequence[HostRollout]) -> Rollout:
    """What an objective takes, `[T, N, ...]`, from the rollouts of all groups; for use under `jit`."""
    joined = rollouts[0]
    if len(rollouts) > 1:
        carries, last_carries, observations, steps, layers = zip(*rollouts, strict=True)
        joined = HostRollout(
            _concatenated(carries, 0),
            _concatenated(last_carries, 0),
            _concatenated(observations, 0),
            _concatenated(steps, 1),
            _concatenated(layers, 0),
        )
    *rows, last = joined.observations
    steps = joined.steps._replace(observation=jnp.stack(rows))
    if joined.layers:
        steps = steps._replace(
            layers=jax.tree.map(lambda *column: jnp.stack(column), *joined.layers)
        )
    return Rollout(joined.carry, steps, last, joined.last_carry)


_next_key = jax.jit(lambda key: jax.random.fold_in(key, 2**31 - 1))


def _padded(column: np.ndarray, length: int) -> np.ndarray:
    """`[k, N, ...]` with zeros behind, up to `length` rows."""
    if len(column) == length:
        return column
    return np.concatenate(
        [column, np.zeros((length - len(column), *column.shape[1:]), column.dtype)]
    )


def _concatenated(parts: Sequence[Any], axis: int) -> Any:
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis), *parts)
