"""The synchronous runner: rollout, gradient and update as one pure function, or around host environments."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_a3c.checks import check_kind
from jax_a3c.envs.base import HostFactory, JaxEnvironment
from jax_a3c.host_rollouts import Unroll, alternate, as_rollout, close_all, host_unroll, init_host_actors
from jax_a3c.objectives import ActorCriticConfig, Network, Objective, actor_critic, check_parts, gradient
from jax_a3c.rollouts import EpisodeSums, RunnerConfig, as_key, init_actor, unroll
from jax_a3c.types import ActorState, Array, Metrics, Params, Rollout


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
      actor: the environments and what acting needs; with host environments a list, one for each group.
      updates: `[]` int32. Updates so far, of `num_envs * num_steps` rows each.
      resets: `[]` int32. Rows so far that were no environment steps, but reset a host environment; 0 with
        others. After a resume with another number of rows the difference that keeps T exact.
      target: the target network; None if the objective has none.
    """

    params: Params
    opt_state: Any
    actor: Any
    updates: Array
    resets: Array
    target: Target | None = None


class A2C(NamedTuple):
    """A synchronous method: a pair of pure functions, for `jit`, `lax.scan` and `vmap` as the user likes.

    With host environments they are neither pure nor traceable: `step` is a loop around compiled programs, and
    the environments in its state go on with it.

    Attributes:
      init: `key -> state`.
      step: `state -> (state, metrics)`, one rollout and one update. The metrics are scalars: the
        objective's, `grad_norm`, `nonfinite_gradients`, and the sums `episodes, episode_return,
        episode_length` over the episodes that ended in the rollout.
      traceable: the two are pure functions; False with host environments.
    """

    init: Callable[[Array], A2CState]
    step: Callable[[A2CState], tuple[A2CState, Metrics]]
    traceable: bool = True


def a2c(
    env: JaxEnvironment | HostFactory,
    network: Network,
    optimizer: optax.GradientTransformation,
    config: A2CConfig | None = None,
) -> A2C:
    """Advantage actor-critic: N environments, T steps, one update.

    Args:
      env: the environment, as `envs.make` gives it.
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
    config = A2CConfig() if config is None else config
    check_kind("config", config, A2CConfig)
    return synchronous(env, network, optimizer, actor_critic(network, config), config)


def synchronous(
    env: JaxEnvironment | HostFactory,
    network: Network,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    config: SynchronousConfig | None = None,
) -> A2C:
    """The runner itself: any objective, its gradient applied by Optax after each rollout.

    Args:
      env: the environment, as `envs.make` gives it.
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
    config = SynchronousConfig() if config is None else config
    check_parts(env, network, optimizer, objective)
    check_kind("config", config, SynchronousConfig)
    learner = _learner(network, optax.with_extra_args_support(optimizer), objective, config)
    if isinstance(env, JaxEnvironment):
        return _on_device(env, network, objective, learner, config)
    return _on_host(env, network, objective, learner, config)


class _Learner(NamedTuple):
    """What both forms of the runner share.

    Attributes:
      init: `(key, observation [N, ...]) -> state`, without an actor.
      env_steps: `state -> []` float32. Environment steps so far.
      learn: `(state, rollout) -> (state, metrics)`.
    """

    init: Callable[[Array, Array], A2CState]
    env_steps: Callable[[A2CState], Array]
    learn: Callable[[A2CState, Rollout], tuple[A2CState, Metrics]]


def _learner(
    network: Network,
    optimizer: optax.GradientTransformationExtraArgs,
    objective: Objective,
    config: SynchronousConfig,
) -> _Learner:
    steps_per_update, interval = config.num_envs * config.num_steps, objective.target_update_interval

    def init(key: Array, observation: Array) -> A2CState:
        carry, reset = network.initial_carry((config.num_envs,)), jnp.ones((1, config.num_envs), bool)
        params, zero = network.init(key, carry, observation[None], reset), jnp.zeros((), jnp.int32)
        target = None if interval is None else Target(jax.tree.map(jnp.copy, params), zero)
        return A2CState(params, optimizer.init(params), None, zero, zero, target)

    def env_steps(state: A2CState) -> Array:
        return state.updates.astype(jnp.float32) * steps_per_update - state.resets

    def learn(state: A2CState, rollout: Rollout) -> tuple[A2CState, Metrics]:
        params, target = state.params, state.target
        taken = rollout.steps.mask.sum()
        state = state._replace(updates=state.updates + 1, resets=state.resets + steps_per_update - taken)
        target_params = None if target is None else target.params
        grads, metrics = gradient(objective, params, rollout, config.max_grad_norm, target_params)
        changes, opt_state = optimizer.update(grads, state.opt_state, params, env_steps=env_steps(state))
        if objective.statistics is not None:
            changes = {**changes, **objective.statistics.change(params, rollout)}
        params = optax.apply_updates(params, changes)
        if target is not None and interval is not None:
            target = _follow(target, params, taken, interval)
        return state._replace(params=params, opt_state=opt_state, target=target), metrics

    return _Learner(init, env_steps, learn)


def _on_device(
    env: JaxEnvironment,
    network: Network,
    objective: Objective,
    learner: _Learner,
    config: SynchronousConfig,
) -> A2C:
    def init(key: Array) -> A2CState:
        params_key, actor_key = jax.random.split(as_key(key))
        carry = network.initial_carry((config.num_envs,))
        actor = init_actor(env, carry, actor_key, config.num_envs, **objective.actor_needs)
        return learner.init(params_key, actor.observation)._replace(actor=actor)

    def step(state: A2CState) -> tuple[A2CState, Metrics]:
        env_steps = learner.env_steps(state)
        actor, rollout, episodes = unroll(
            env,
            lambda *args: objective.act(state.params, *args, state.actor.exploration, env_steps),
            state.actor,
            config.num_steps,
            auto_reset=config.auto_reset,
            discount=objective.discount,
        )
        state, metrics = learner.learn(state._replace(actor=actor), rollout)
        return state, {**metrics, **episodes._asdict()}

    return A2C(init, step)


def _on_host(
    env: HostFactory, network: Network, objective: Objective, learner: _Learner, config: SynchronousConfig
) -> A2C:
    """Two groups of environments take turns: while the policy acts for one, the other steps."""
    half = config.num_envs // 2
    sizes = [config.num_envs - half] + [half] * (half > 0)
    init_learner, env_steps_of = jax.jit(learner.init), jax.jit(learner.env_steps)
    learn = jax.jit(lambda state, rollouts: learner.learn(state, as_rollout(rollouts)))
    act = jax.jit(lambda params, key, t, *args: objective.act(params, jax.random.fold_in(key, t), *args))

    def init(key: Array) -> A2CState:
        params_key, actors_key = jax.random.split(as_key(key))
        actors = init_host_actors(env, network, actors_key, sizes, **objective.actor_needs)
        observation = np.concatenate([actor.observation for actor in actors])
        return init_learner(params_key, observation)._replace(actor=actors)

    def step(state: A2CState) -> tuple[A2CState, Metrics]:
        on_device = state._replace(actor=None)
        env_steps = env_steps_of(on_device)

        def play(actor: ActorState) -> Unroll:
            return host_unroll(
                lambda *args: act(state.params, *args, actor.exploration, env_steps),
                actor,
                config.num_steps,
                discount=objective.discount,
            )

        groups = [actor.env_state for actor in state.actor]
        try:
            ends = alternate([play(actor) for actor in state.actor], groups)
        except BaseException:  # in the middle of a rollout: nobody can go on from there
            close_all(groups)
            raise
        actors, rollouts, episodes = map(list, zip(*ends, strict=True))
        learned, metrics = learn(on_device, rollouts)
        totals = EpisodeSums(*np.sum(episodes, axis=0))
        return learned._replace(actor=actors), {**metrics, **totals._asdict()}

    return A2C(init, step, traceable=False)


def _follow(target: Target, params: Params, env_steps: Array, interval: int) -> Target:
    """Copy the parameters if `env_steps` more steps cross a multiple of `interval`, one or several."""
    since = target.env_steps + env_steps
    copied = jax.tree.map(lambda old, new: jnp.where(since >= interval, new, old), target.params, params)
    return Target(copied, since % interval)
