"""The synchronous runner: rollout, gradient and update as one pure function."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jax_a3c.envs.base import JaxEnvironment
from jax_a3c.objectives import ActorCriticConfig, Network, Objective, actor_critic, gradient
from jax_a3c.rollouts import RunnerConfig, init_actor, unroll
from jax_a3c.types import ActorState, Array, Metrics, Params


@dataclass(frozen=True, kw_only=True)
class SynchronousConfig(RunnerConfig):
    """Settings of the synchronous runner: those of `rollouts.RunnerConfig`, as is usual for A2C.

    The clipping norm belongs to losses that are averaged over steps, `loss_reduction="mean"`, and to an
    epsilon of RMSProp of 1e-5; for sums, the default of the value-based objectives, it is 40 and 0.1.
    """

    num_envs: int = 16
    num_steps: int = 5
    max_grad_norm: float | None = 0.5


@dataclass(frozen=True, kw_only=True)
class A2CConfig(SynchronousConfig, ActorCriticConfig):
    """Settings of A2C: those of the synchronous runner and those of the actor-critic objective.

    Attributes:
      loss_reduction: as in `ObjectiveConfig`; the mean, as is usual for A2C.
    """

    loss_reduction: Literal["sum", "mean"] = "mean"

    def __post_init__(self) -> None:
        SynchronousConfig.__post_init__(self)
        ActorCriticConfig.__post_init__(self)


class Target(NamedTuple):
    """The target network.

    Attributes:
      params: variables of the network, as they were when the step count last crossed a multiple of the
        interval.
      env_steps: `[]` int32. Environment steps since that multiple.
    """

    params: Params
    env_steps: Array


class A2CState(NamedTuple):
    """All that a run is at one moment.

    Attributes:
      params: variables of the network.
      opt_state: state of the optimizer.
      actor: the environments and what acting needs.
      updates: `[]` int32. Updates so far; each took `num_envs * num_steps` environment steps.
      target: the target network; None if the objective has none.
    """

    params: Params
    opt_state: Any
    actor: ActorState
    updates: Array
    target: Target | None = None


class A2C(NamedTuple):
    """A synchronous method: a pair of pure functions, for `jit`, `lax.scan` and `vmap` as the user likes.

    Attributes:
      init: `key -> state`.
      step: `state -> (state, metrics)`, one rollout and one update. The metrics are scalars: the
        objective's, `grad_norm`, `nonfinite_gradients`, and the sums `episodes, episode_return,
        episode_length` over the episodes that ended in the rollout.
    """

    init: Callable[[Array], A2CState]
    step: Callable[[A2CState], tuple[A2CState, Metrics]]


def a2c(
    env: JaxEnvironment,
    network: Network,
    optimizer: optax.GradientTransformation,
    config: A2CConfig | None = None,
) -> A2C:
    """Advantage actor-critic: N environments, T steps, one update.

    Args:
      env: the environment, as pure functions of one instance.
      network: policy and value function, see `networks.actor_critic`.
      optimizer: any Optax transformation. One of `jax_a3c.optimizers` schedules its learning rate in
        environment steps, Optax' own in updates.
      config: settings; the defaults if None.

    Returns:
      The pair `init, step`.

    References:
      Mnih et al. (2016), Algorithm S3, with the workers' gradients averaged instead of interleaved.

    Example:
      >>> from jax_a3c import a2c, envs, networks, optimizers
      >>> env = envs.make("gymnax:CartPole-v1")
      >>> agent = a2c(env, networks.actor_critic(env), optimizers.shared_rmsprop(7e-4, eps=1e-5))
      >>> state, metrics = jax.lax.scan(lambda s, _: agent.step(s), agent.init(jax.random.key(0)), length=3)
      >>> metrics["loss"].shape
      (3,)
    """
    config = config or A2CConfig()
    return synchronous(env, network, optimizer, actor_critic(network, config), config)


def synchronous(
    env: JaxEnvironment,
    network: Network,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    config: SynchronousConfig | None = None,
) -> A2C:
    """The runner itself: any objective, its gradient applied by Optax after each rollout.

    Args:
      env: the environment, as pure functions of one instance.
      network: gives parameters and carries their initial values.
      optimizer: any Optax transformation.
      objective: how to act and what to minimise.
      config: sizes and the clipping norm; the defaults if None.

    Returns:
      The pair `init, step`.

    Example:
      >>> from jax_a3c import envs, networks, objectives, optimizers
      >>> env = envs.make("gymnax:Catch-bsuite")
      >>> network = networks.q_network(env)
      >>> settings = objectives.ActionValueConfig(epsilon_anneal_steps=10_000, loss_reduction="mean")
      >>> optimizer = optimizers.rmsprop(2e-3, eps=1e-5)
      >>> agent = synchronous(env, network, optimizer, objectives.n_step_q(network, settings))
      >>> state, metrics = jax.jit(agent.step)(agent.init(jax.random.key(0)))
      >>> int(state.target.env_steps)
      80
    """
    config = config or SynchronousConfig()
    optimizer = optax.with_extra_args_support(optimizer)
    steps_per_update, interval = config.num_envs * config.num_steps, objective.target_update_interval

    def init(key: Array) -> A2CState:
        params_key, actor_key = jax.random.split(key)
        carry = network.initial_carry((config.num_envs,))
        actor = init_actor(
            env,
            carry,
            actor_key,
            config.num_envs,
            explore=objective.explore,
            looks_ahead=objective.looks_ahead,
        )
        params = network.init(params_key, carry, actor.observation[None], actor.reset[None])
        zero = jnp.zeros((), jnp.int32)
        target = None
        if interval is not None:
            target = Target(jax.tree.map(jnp.copy, params), zero)
        return A2CState(params, optimizer.init(params), actor, zero, target)

    def step(state: A2CState) -> tuple[A2CState, Metrics]:
        params, opt_state, actor, updates, target = state
        env_steps = updates.astype(jnp.float32) * steps_per_update
        actor, rollout, episodes = unroll(
            env,
            lambda *args: objective.act(params, *args, actor.exploration, env_steps),
            actor,
            config.num_steps,
            auto_reset=config.auto_reset,
        )
        target_params = None if target is None else target.params
        grads, metrics = gradient(objective, params, rollout, config.max_grad_norm, target_params)
        changes, opt_state = optimizer.update(
            grads, opt_state, params, env_steps=env_steps + steps_per_update
        )
        params = optax.apply_updates(params, changes)
        if target is not None and interval is not None:
            target = _follow(target, params, steps_per_update, interval)
        return A2CState(params, opt_state, actor, updates + 1, target), {**metrics, **episodes._asdict()}

    return A2C(init, step)


def _follow(target: Target, params: Params, env_steps: int, interval: int) -> Target:
    """Copy the parameters if `env_steps` more steps cross a multiple of `interval`, one or several."""
    since = target.env_steps + env_steps
    copied = jax.tree.map(lambda old, new: jnp.where(since >= interval, new, old), target.params, params)
    return Target(copied, since % interval)
