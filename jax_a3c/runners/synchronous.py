"""The synchronous runner: one rollout, one gradient and one update per step.

With JAX environments the step is a pure function. With host environments it is a Python loop around
compiled programs. On a mesh each device steps a part of the environments, and all learn together.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jax_a3c.acting.actor import ActorState, init_actor
from jax_a3c.acting.groups import alternate, close_all, init_host_actors, refuse_tracer
from jax_a3c.acting.host_unroll import (
    HostRollout,
    Unroll,
    as_rollout,
    compile_host_act,
    host_unroll,
    rollout_like,
    total,
)
from jax_a3c.acting.unroll import EpisodeSums, UnrollConfig, no_episodes, unroll
from jax_a3c.checks import check_kind
from jax_a3c.envs.base import HostFactory, JaxEnvironment, on_device
from jax_a3c.keys import as_key
from jax_a3c.networks.base import Network
from jax_a3c.objectives import Objective, average, gradient, guarded
from jax_a3c.programs import compile_program, shared_jit
from jax_a3c.rollouts import Rollout
from jax_a3c.runners import mesh as meshes
from jax_a3c.runners.counters import Counter
from jax_a3c.runners.parts import check_parts
from jax_a3c.settings.parts import SynchronousConfig
from jax_a3c.types import Array, Metrics, Params


class Target(NamedTuple):
    """The target network.

    Attributes:
      params: theta^-, the network's variables when the step count last crossed a multiple of the
        interval.
      env_steps: `[]` uint32. Environment steps since that multiple.
    """

    params: Params
    env_steps: Array


class SynchronousState(NamedTuple):
    """The whole state of a run.

    Attributes:
      params: theta, the network's variables.
      opt_state: state of the optimizer.
      actor: the acting state (`ActorState`). With host environments, a list with one for each
        group. On a mesh, JAX environments have a key for each device.
      updates: updates so far, each on `num_envs * num_steps` rows. Read it with
        `int(state.updates)`.
      env_steps: T, environment steps so far. Rows that only reset a host environment do not count.
      target: the target network; None if the objective has none.
    """

    params: Params
    opt_state: Any
    actor: Any
    updates: Counter
    env_steps: Counter
    target: Target | None = None


PARTITION = SynchronousState(
    params=meshes.EVERYWHERE,
    opt_state=meshes.EVERYWHERE,
    actor=meshes.BY_ENVIRONMENT,
    updates=meshes.EVERYWHERE,
    env_steps=meshes.EVERYWHERE,
    target=meshes.EVERYWHERE,
)
"""What the devices of a mesh hold: all of them the same, except the environments."""


class Algorithm(NamedTuple):
    """A synchronous method as a pair of pure functions, ready for `jit`, `lax.scan` and `vmap`.

    With host environments the functions are neither pure nor traceable. `step` is then a loop
    around compiled programs, and it changes the environments in the state in place.

    Attributes:
      init: `key -> state`.
      step: `state -> (state, metrics)`, one rollout and one update. The metrics are scalars: the
        objective's, the ones `objectives.gradient` adds, and the sums `episodes, episode_return,
        episode_length` over the episodes that ended in the rollout.
      compile_for: `state -> None`, compiles the programs of `step` for host environments. Without
        this call the first `step` compiles them. None if `init` and `step` are pure functions.
      mesh: the devices of the run, with one axis; None for one device.
    """

    init: Callable[[Array], SynchronousState]
    step: Callable[[SynchronousState], tuple[SynchronousState, Metrics]]
    compile_for: Callable[[SynchronousState], None] | None = None
    mesh: Mesh | None = None

    @property
    def traceable(self) -> bool:
        """Whether `init` and `step` are pure functions; False with host environments."""
        return self.compile_for is None


def synchronous(
    env: JaxEnvironment | HostFactory,
    network: Network,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    config: SynchronousConfig | None = None,
    *,
    mesh: Mesh | None = None,
) -> Algorithm:
    """Build the synchronous runner for any objective.

    Optax applies one gradient after each rollout. On a mesh of several devices each steps an equal
    part of the environments, with random keys of its own. The gradients are averaged before they
    are clipped, so that the update equals that of one device with all environments, up to rounding.

    Args:
      env: the environment, from `envs.make`.
      network: provides the initial parameters and the initial carry.
      optimizer: any Optax transformation.
      objective: how to act and what to minimise.
      config: sizes and the clipping norm; the defaults if None.
      mesh: devices to share the environments; `num_envs` is the number of all devices together. Any
        axes will do. None for the default device.

    Returns:
      The pair `init, step`.

    Raises:
      InputError: if a part does not fit, or if `num_envs` is not a multiple of the devices.

    Example:
      >>> from jax_a3c import envs, networks, objectives, optimizers
      >>> env = envs.make("gymnax:Catch-bsuite")
      >>> network = networks.q_network(env)
      >>> settings = objectives.ActionValueConfig(loss_reduction="mean")
      >>> objective = objectives.n_step_q(network, settings)
      >>> algorithm = synchronous(env, network, optimizers.rmsprop(2e-3, eps=1e-5), objective)
      >>> state = jax.jit(algorithm.init)(jax.random.key(0))
      >>> state, metrics = jax.jit(algorithm.step)(state)
      >>> int(state.target.env_steps)
      80
    """
    config = SynchronousConfig() if config is None else config
    check_parts(env, network, optimizer, objective)
    check_kind("config", config, SynchronousConfig)
    mesh = meshes.check_mesh(mesh, config.num_envs)
    learner = _learner(network, optax.with_extra_args_support(optimizer), objective, config)
    build = _on_device if on_device(env) else _on_host
    return build(env, network, objective, learner, config, mesh)


class _Learner(NamedTuple):
    """The learning half of the runner, the same for JAX and host environments.

    Attributes:
      init: `(key, observation [N, ...]) -> state`, a state without an actor.
      learn: `(state, rollout, episodes) -> (state, metrics)`, one update.
    """

    init: Callable[[Array, Array], SynchronousState]
    learn: Callable[[SynchronousState, Rollout, EpisodeSums], tuple[SynchronousState, Metrics]]


def _learner(
    network: Network,
    optimizer: optax.GradientTransformationExtraArgs,
    objective: Objective,
    config: SynchronousConfig,
) -> _Learner:
    def init(key: Array, observation: Array) -> SynchronousState:
        carry = network.initial_carry((config.num_envs,))
        reset = jnp.ones((1, config.num_envs), bool)
        params = network.init(key, carry, observation[None], reset)  # [N, ...] -> [T=1, N, ...]

        # theta^- <- theta; T <- 0.
        target = None
        if objective.target_update_interval is not None:
            target = Target(params, jnp.zeros((), jnp.uint32))
        return SynchronousState(
            params, optimizer.init(params), None, Counter.of(0), Counter.of(0), target
        )

    def learn(
        state: SynchronousState, rollout: Rollout, episodes: EpisodeSums
    ) -> tuple[SynchronousState, Metrics]:
        target_params = None if state.target is None else state.target.params

        # d theta, over all steps and environments, of all devices.
        grads, metrics = gradient(objective, state.params, rollout, target_params)
        grads, metrics, episodes = average(objective, rollout, grads, metrics, episodes)
        grads, metrics = guarded(grads, metrics, config.max_grad_norm)

        # T <- T + t; theta <- theta - step(d theta).
        env_steps = state.env_steps.add(episodes.env_steps)
        updates, opt_state = optimizer.update(
            grads, state.opt_state, state.params, env_steps=env_steps.as_float()
        )
        if objective.statistics is not None:
            # Running statistics have no gradient: add what this rollout contributes.
            updates = {**updates, **objective.statistics.update(state.params, rollout)}
        params = optax.apply_updates(state.params, updates)

        learned = state._replace(
            params=params,
            opt_state=opt_state,
            updates=state.updates.add(1),
            env_steps=env_steps,
            target=_follow(objective, state.target, params, episodes.env_steps),
        )
        return learned, {**metrics, **episodes._asdict()}

    return _Learner(init, learn)


def _on_device(
    env: Any,
    network: Network,
    objective: Objective,
    learner: _Learner,
    config: SynchronousConfig,
    mesh: Mesh | None,
) -> Algorithm:
    """Build the runner for JAX environments: two pure functions."""
    unroll_config = UnrollConfig(config.num_steps, config.auto_reset, discount=objective.discount)
    num_envs = config.num_envs if mesh is None else config.num_envs // mesh.size  # of a device

    def start(key: Array) -> ActorState:
        carry = network.initial_carry((num_envs,))
        return init_actor(env, carry, key, num_envs, **objective.actor_needs)

    def step(state: SynchronousState) -> tuple[SynchronousState, Metrics]:
        # Take t_max steps in each environment with the current theta.
        env_steps = state.env_steps.as_float()
        actor, rollout, episodes = unroll(
            env, objective.act, state.params, state.actor, unroll_config, env_steps
        )

        # Compute d theta on the rollout and apply it to theta.
        return learner.learn(state._replace(actor=actor), rollout, episodes)

    start_all: Callable = start if mesh is None else meshes.spread_start(start, mesh)
    step_all: Callable = step if mesh is None else meshes.spread_step(step, mesh, PARTITION)

    def init(key: Array) -> SynchronousState:
        params_key, actor_key = jax.random.split(as_key(key))

        # Running statistics start at the first observation, so reset the environments first.
        actor = start_all(actor_key)
        state = meshes.put(learner.init(params_key, actor.observation), mesh)
        return _with_own_buffers(state._replace(actor=actor))

    return Algorithm(init, step_all, mesh=mesh)


def _on_host(
    env: Any,
    network: Network,
    objective: Objective,
    learner: _Learner,
    config: SynchronousConfig,
    mesh: Mesh | None,
) -> Algorithm:
    """Build the runner for host environments.

    The environments form two groups that take turns. While the policy acts for one group, the other
    steps. On a mesh the policy acts on the first device, and all devices learn.
    """
    half = config.num_envs // 2
    sizes = [config.num_envs - half] + [half] * (half > 0)
    unroll_config = UnrollConfig(config.num_steps, discount=objective.discount)
    init_learner = shared_jit(learner.init)
    programs: dict[str, Callable] = {}
    learn_all = learner.learn
    if mesh is not None:
        learn_all = meshes.spread_learn(learner.learn, mesh, PARTITION)

    def learn(
        state: SynchronousState, rollouts: list[HostRollout], episodes: EpisodeSums
    ) -> tuple[SynchronousState, Metrics]:
        return learn_all(state, as_rollout(rollouts), episodes)

    def compile_for(state: SynchronousState) -> None:
        rollouts = []
        params = meshes.one_copy(state.params, mesh)

        # Compile one acting program for each size of group.
        for actor in state.actor:
            program, extras = compile_host_act(objective.act, params, actor, compile_program)
            programs[f"act {len(actor.reset)}"] = program
            rollouts.append(rollout_like(actor, env.spec, config.num_steps, extras))

        # Compile one learning program for the rollouts of all groups.
        programs["learn"] = compile_program(
            learn, state._replace(actor=None), *meshes.put((rollouts, no_episodes()), mesh)
        )

    def init(key: Array) -> SynchronousState:
        refuse_tracer(key)
        params_key, actors_key = jax.random.split(as_key(key))

        # Running statistics start at the first observation, so reset the environments first.
        actors = init_host_actors(env, network, actors_key, sizes, **objective.actor_needs)
        observation = np.concatenate([actor.observation for actor in actors])
        state = meshes.put(init_learner(params_key, observation), mesh)
        return state._replace(actor=actors)

    def step(state: SynchronousState) -> tuple[SynchronousState, Metrics]:
        if not programs:
            compile_for(state)
        env_steps = np.float32(int(state.env_steps))
        params = meshes.one_copy(state.params, mesh)

        def play(actor: ActorState) -> Unroll:
            program = programs[f"act {len(actor.reset)}"]
            return host_unroll(program, params, actor, unroll_config, env_steps)

        # Take t_max steps in each environment with the current theta.
        groups = [actor.env_state for actor in state.actor]
        try:
            ends = alternate([play(actor) for actor in state.actor], groups)
        except BaseException:
            # The environments stopped inside a rollout, so no state can continue with them.
            close_all(groups)
            raise
        actors, rollouts, episodes = map(list, zip(*ends, strict=True))

        # Compute d theta on the joined rollouts and apply it to theta.
        collected = meshes.put((rollouts, total(episodes)), mesh)
        learned, metrics = programs["learn"](state._replace(actor=None), *collected)
        return learned._replace(actor=actors), metrics

    return Algorithm(init, step, compile_for, mesh)


def _follow(
    objective: Objective, target: Target | None, params: Params, env_steps: Array
) -> Target | None:
    """Return the target network after `env_steps` more steps: theta^- <- theta every I_target.

    The parameters are copied once if these steps cross one or more multiples of the interval.
    """
    interval = objective.target_update_interval
    if target is None or interval is None:
        return None
    since = target.env_steps + env_steps
    copied = jax.tree.map(
        lambda old, new: jnp.where(since >= interval, new, old), target.params, params
    )
    return Target(copied, since % interval)


def _with_own_buffers(state: SynchronousState) -> SynchronousState:
    """Copy each leaf to a separate buffer, so that the state may be donated to a program."""
    return jax.tree.map(jnp.copy, state)
