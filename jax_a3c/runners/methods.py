"""The methods as functions: each objective on both runners.

The synchronous ones return a pair of pure functions, the asynchronous ones a runner with threads.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import optax
from jax.sharding import Mesh

from jax_a3c.checks import check_callable, check_kind
from jax_a3c.envs.base import HostFactory, JaxEnvironment
from jax_a3c.networks.base import Network
from jax_a3c.objectives.action_values import n_step_q as n_step_q_objective
from jax_a3c.objectives.action_values import one_step_q as one_step_q_objective
from jax_a3c.objectives.action_values import one_step_sarsa as one_step_sarsa_objective
from jax_a3c.objectives.actor_critic import actor_critic
from jax_a3c.objectives.base import Objective
from jax_a3c.runners.asynchronous import AsynchronousRunner
from jax_a3c.runners.synchronous import Algorithm, synchronous
from jax_a3c.settings.parts import (
    A2CConfig,
    A3CConfig,
    AsynchronousConfig,
    AsyncQConfig,
    QConfig,
)

Env = JaxEnvironment | HostFactory
MakeEnv = Callable[..., Env]
Built = TypeVar("Built")


def a2c(
    env: Env,
    network: Network,
    optimizer: optax.GradientTransformation,
    config: A2CConfig | None = None,
    *,
    mesh: Mesh | None = None,
) -> Algorithm:
    """Build synchronous advantage actor-critic (A2C): T steps in N environments, then one update.

    Args:
      env: the environment, from `envs.make`.
      network: policy and value function, see `networks.actor_critic`.
      optimizer: any Optax transformation. Optimizers of `jax_a3c.optimizers` schedule the learning
        rate in environment steps; Optax' own schedule it in updates.
      config: settings; the defaults if None.
      mesh: devices that share the environments, see `synchronous`; None for the default device.

    Returns:
      The pair `init, step`.

    References:
      Mnih et al. (2016), Algorithm S3, with the workers' gradients averaged into one update.

    Example:
      >>> import jax
      >>> from jax_a3c import a2c, envs, networks, optimizers
      >>> env = envs.make("gymnax:CartPole-v1")
      >>> optimizer = optimizers.shared_rmsprop(7e-4, eps=1e-5)
      >>> algorithm = a2c(env, networks.actor_critic(env), optimizer)
      >>> state = jax.jit(algorithm.init)(jax.random.key(0))
      >>> state, metrics = jax.lax.scan(lambda s, _: algorithm.step(s), state, length=3)
      >>> metrics["loss"].shape
      (3,)
    """
    return _method(synchronous, actor_critic, A2CConfig, env, network, optimizer, config, mesh=mesh)


def a3c(
    make_env: MakeEnv,
    network: Network,
    optimizer: optax.GradientTransformation,
    config: A3CConfig | None = None,
) -> AsynchronousRunner:
    """Build asynchronous advantage actor-critic (A3C) on CPU threads.

    Args:
      make_env: function that builds the environment, `() -> env`. A JAX environment is pure and
        serves all workers. For a host environment each worker starts a separate group.
      network: policy and value function, see `networks.actor_critic`.
      optimizer: an optimizer of `jax_a3c.optimizers` is applied in place; with `shared_rmsprop` all
        workers share its moments. Any other Optax transformation keeps a state per worker, and its
        updates are added without a lock.
      config: settings; the defaults if None.

    Returns:
      The runner; its `run` trains.

    References:
      Mnih et al. (2016), Algorithm S3.

    Example:
      >>> import jax
      >>> from jax_a3c import a3c, A3CConfig, envs, networks, optimizers
      >>> env = envs.make("gymnax:CartPole-v1")
      >>> optimizer = optimizers.shared_rmsprop(7e-4)
      >>> config = A3CConfig(total_timesteps=1000)
      >>> runner = a3c(lambda: env, networks.actor_critic(env), optimizer, config)
      >>> runner.run(jax.random.key(0)).progress.env_steps >= 1000
      True
    """
    return _method(asynchronous, actor_critic, A3CConfig, make_env, network, optimizer, config)


def one_step_q(
    env: Env,
    network: Network,
    optimizer: optax.GradientTransformation,
    config: QConfig | None = None,
    *,
    mesh: Mesh | None = None,
) -> Algorithm:
    """Build one-step Q-learning on the synchronous runner.

    Args:
      env: the environment, with discrete actions.
      network: action values, see `networks.q_network`.
      optimizer: as for `a2c`.
      config: settings; the defaults if None.
      mesh: as for `a2c`.

    Returns:
      The pair `init, step`.

    References:
      Mnih et al. (2016), Algorithm 1, with the workers' gradients averaged into one update.
    """
    return _method(
        synchronous, one_step_q_objective, QConfig, env, network, optimizer, config, mesh=mesh
    )


def one_step_sarsa(
    env: Env,
    network: Network,
    optimizer: optax.GradientTransformation,
    config: QConfig | None = None,
    *,
    mesh: Mesh | None = None,
) -> Algorithm:
    """Build one-step Sarsa on the synchronous runner; the arguments are those of `one_step_q`.

    References:
      Mnih et al. (2016), section 4.
    """
    return _method(
        synchronous, one_step_sarsa_objective, QConfig, env, network, optimizer, config, mesh=mesh
    )


def n_step_q(
    env: Env,
    network: Network,
    optimizer: optax.GradientTransformation,
    config: QConfig | None = None,
    *,
    mesh: Mesh | None = None,
) -> Algorithm:
    """Build n-step Q-learning on the synchronous runner; the arguments are those of `one_step_q`.

    References:
      Mnih et al. (2016), Algorithm S2.
    """
    return _method(
        synchronous, n_step_q_objective, QConfig, env, network, optimizer, config, mesh=mesh
    )


def async_one_step_q(
    make_env: MakeEnv,
    network: Network,
    optimizer: optax.GradientTransformation,
    config: AsyncQConfig | None = None,
) -> AsynchronousRunner:
    """Build asynchronous one-step Q-learning on CPU threads.

    Args:
      make_env: function that builds the environment, with discrete actions, as for `a3c`.
      network: action values, see `networks.q_network`.
      optimizer: as for `a3c`.
      config: settings; the defaults if None.

    Returns:
      The runner; its `run` trains.

    References:
      Mnih et al. (2016), Algorithm 1.
    """
    return _method(
        asynchronous, one_step_q_objective, AsyncQConfig, make_env, network, optimizer, config
    )


def async_one_step_sarsa(
    make_env: MakeEnv,
    network: Network,
    optimizer: optax.GradientTransformation,
    config: AsyncQConfig | None = None,
) -> AsynchronousRunner:
    """Build asynchronous one-step Sarsa; the arguments are those of `async_one_step_q`.

    References:
      Mnih et al. (2016), section 4.
    """
    return _method(
        asynchronous, one_step_sarsa_objective, AsyncQConfig, make_env, network, optimizer, config
    )


def async_n_step_q(
    make_env: MakeEnv,
    network: Network,
    optimizer: optax.GradientTransformation,
    config: AsyncQConfig | None = None,
) -> AsynchronousRunner:
    """Build asynchronous n-step Q-learning; the arguments are those of `async_one_step_q`.

    References:
      Mnih et al. (2016), Algorithm S2.
    """
    return _method(
        asynchronous, n_step_q_objective, AsyncQConfig, make_env, network, optimizer, config
    )


def asynchronous(
    make_env: MakeEnv,
    network: Network,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    config: AsynchronousConfig | None = None,
) -> AsynchronousRunner:
    """Build the asynchronous runner for any objective; `synchronous` is its counterpart.

    Args:
      make_env: function that builds the environment, as for `a3c`.
      network: provides the initial parameters and the initial carry.
      optimizer: as for `a3c`.
      objective: how to act and what to minimise.
      config: settings of the runner; the defaults if None.

    Returns:
      The runner; its `run` trains.
    """
    check_callable("make_env", make_env, example="lambda: envs.make('gymnax:CartPole-v1')")
    return AsynchronousRunner(make_env(), network, optimizer, objective, config)


def _method(
    build: Callable[..., Built],
    make_objective: Callable[..., Objective],
    kind: type,
    env: Env | MakeEnv,
    network: Network,
    optimizer: optax.GradientTransformation,
    config: Any,
    **options: Any,
) -> Built:
    """Build a method; `build` is `synchronous` or `asynchronous`, `kind` the class of its settings.

    The asynchronous runner takes a function that makes the environment.
    """
    config = kind() if config is None else config
    check_kind("config", config, kind)
    return build(env, network, optimizer, make_objective(network, config), config, **options)
