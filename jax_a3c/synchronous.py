"""The synchronous runner, A2C: rollout, gradient and update as one pure function."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jax_a3c.checks import check_choice, check_integer, check_number
from jax_a3c.envs.base import JaxEnvironment
from jax_a3c.objectives import ActorCriticConfig, Network, Objective, actor_critic, gradient
from jax_a3c.rollouts import AutoReset, init_actor, unroll
from jax_a3c.types import ActorState, Array, Metrics, Params


@dataclass(frozen=True, kw_only=True)
class A2CConfig(ActorCriticConfig):
    """Settings of the synchronous runner, on top of those of its objective.

    Attributes:
      num_envs: N, environments that step together, at least 1.
      num_steps: T, steps of each between two updates, the paper's t_max.
      max_grad_norm: bound of the gradient's global norm, above 0; None for none.
      auto_reset: `"pooled"` or `"exact"`, see `rollouts.unroll`.
      loss_reduction: as in `ActorCriticConfig`; the mean, as is usual for A2C.
    """

    num_envs: int = 16
    num_steps: int = 5
    max_grad_norm: float | None = 0.5
    auto_reset: AutoReset = "pooled"
    loss_reduction: Literal["sum", "mean"] = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("num_envs", self.num_envs, 1)
        check_integer("num_steps", self.num_steps, 1)
        check_choice("auto_reset", self.auto_reset, ("pooled", "exact"))
        if self.max_grad_norm is not None:
            check_number("max_grad_norm", self.max_grad_norm, above=0.0)


class A2CState(NamedTuple):
    """All that a run is at one moment.

    Attributes:
      params: variables of the network.
      opt_state: state of the optimizer.
      actor: the environments and what acting needs.
      updates: `[]` int32. Updates so far; each took `num_envs * num_steps` environment steps.
    """

    params: Params
    opt_state: Any
    actor: ActorState
    updates: Array


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
    config: A2CConfig,
) -> A2C:
    """The runner itself: any objective, its gradient applied by Optax after each rollout.

    Args:
      env: the environment, as pure functions of one instance.
      network: gives parameters and carries their initial values.
      optimizer: any Optax transformation.
      objective: how to act and what to minimise.
      config: sizes and the clipping norm.

    Returns:
      The pair `init, step`.
    """
    optimizer = optax.with_extra_args_support(optimizer)
    steps_per_update = config.num_envs * config.num_steps

    def init(key: Array) -> A2CState:
        params_key, actor_key = jax.random.split(key)
        carry = network.initial_carry((config.num_envs,))
        actor = init_actor(env, carry, actor_key, config.num_envs)
        params = network.init(params_key, carry, actor.observation[None], actor.reset[None])
        return A2CState(params, optimizer.init(params), actor, jnp.zeros((), jnp.int32))

    def step(state: A2CState) -> tuple[A2CState, Metrics]:
        params, opt_state, actor, updates = state
        actor, rollout, episodes = unroll(
            env,
            lambda *args: objective.act(params, *args),
            actor,
            config.num_steps,
            auto_reset=config.auto_reset,
        )
        grads, metrics = gradient(objective, params, rollout, config.max_grad_norm)
        env_steps = (updates + 1).astype(jnp.float32) * steps_per_update
        changes, opt_state = optimizer.update(grads, opt_state, params, env_steps=env_steps)
        params = optax.apply_updates(params, changes)
        return A2CState(params, opt_state, actor, updates + 1), {**metrics, **episodes._asdict()}

    return A2C(init, step)
