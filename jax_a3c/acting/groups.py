"""Groups of host environments: start them, step them in turn, close them."""

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from jax_a3c.acting.actor import NONE_CHOSEN
from jax_a3c.acting.host_unroll import ActorState, Finished, Unroll
from jax_a3c.envs.base import HostEnvironment, HostFactory
from jax_a3c.envs.host import check_observation
from jax_a3c.errors import InputError
from jax_a3c.networks.base import Network
from jax_a3c.types import Array, Carry

NOT_TRACEABLE = (
    "a host environment steps outside of JAX, so jit, vmap and scan cannot run it; call init and "
    "step in a Python loop: for _ in range(n): state, metrics = algorithm.step(state)"
)


def init_host_actors(
    factory: HostFactory,
    network: Network,
    key: Array,
    sizes: Sequence[int],
    *,
    num_threads: int | None = None,
    **needs: Any,
) -> list[ActorState]:
    """Start groups of environments with different seeds, and an actor for each.

    If one group fails to start, the others are closed.

    Args:
      factory: makes the groups.
      network: provides the initial carry.
      key: random key.
      sizes: number of environments of each group.
      num_threads: threads of each group, see `HostFactory.make`.
      **needs: keyword arguments for `init_host_actor`.

    Returns:
      The acting states, one for each group.
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
            seed += size  # each environment of a group takes one seed
        started.pop_all()  # all started: keep them open
    return actors


def init_host_actor(
    group: HostEnvironment,
    carry: Carry,
    key: Array,
    *,
    explore: Callable[[Array, int], Any] | None = None,
    needs_next_action: bool = False,
    needs_running_return: bool = False,
) -> ActorState:
    """Start the environments of a group; the counterpart of `actor.init_actor`.

    Args:
      group: the environments. Only this actor may step them from now on.
      carry: `[N, ...]`. Initial recurrent state.
      key: random key.
      explore: the objective's `(key, num_envs) -> exploration`; None if it draws nothing.
      needs_next_action: whether the objective's rollouts need `next_action`.
      needs_running_return: whether rollouts need `running_return`.

    Returns:
      The acting state before the first step. Its arrays are NumPy's, except carry, key and
      exploration.
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
        next_action=np.full(num_envs, NONE_CHOSEN, np.int32) if needs_next_action else None,
        running_return=np.zeros(num_envs, np.float32) if needs_running_return else None,
    )


def _refuse_tracing(kind: type) -> None:
    """Make `jit`, `vmap`, `scan` and `tree.map` refuse a state that holds such a group.

    JAX flattens a state before it calls our code, so only a registered pytree node can raise the
    error.
    """

    def refuse(*_: Any) -> Any:
        raise InputError(NOT_TRACEABLE)

    with contextlib.suppress(ValueError):  # already registered
        jax.tree_util.register_pytree_node(kind, refuse, refuse)


def refuse_tracer(key: Any) -> None:
    """Refuse a traced key: host environments cannot step inside a compiled program."""
    if isinstance(key, jax.core.Tracer):
        raise InputError(NOT_TRACEABLE)


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
    """Step several groups in turn: while the policy acts for one, the others step.

    When this function returns or raises, no environment is stepping.

    Args:
      unrolls: a `host_unroll` for each group, all with the same number of steps.
      groups: groups of environments, each used by one thread at a time.

    Returns:
      The results of the unrolls.
    """
    finished: list[Finished] = []
    with ThreadPoolExecutor(len(groups), thread_name_prefix="environments") as threads:
        # Start a step of every group; then wait for each group in turn and start its next step.
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
