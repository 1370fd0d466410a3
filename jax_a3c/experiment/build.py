"""Build the parts of a run from its settings: environment, network, optimizer and runner."""

import dataclasses
import json
import math
import os
from typing import Any, NamedTuple

import jax
import optax

from jax_a3c import envs, networks, objectives, optimizers
from jax_a3c.envs.base import HostFactory, JaxEnvironment, on_device
from jax_a3c.errors import InputError
from jax_a3c.normalization import normalized_network, normalized_objective
from jax_a3c.runners.asynchronous import AsynchronousRunner
from jax_a3c.runners.base import Runner
from jax_a3c.runners.loop import SynchronousRunner
from jax_a3c.runners.parts import params_like
from jax_a3c.runners.synchronous import synchronous
from jax_a3c.settings.methods import METHODS
from jax_a3c.settings.parts import AsynchronousConfig, SynchronousConfig, check_rows
from jax_a3c.settings.run import Settings, check_method
from jax_a3c.types import Params


class Experiment(NamedTuple):
    """The parts of a run.

    Attributes:
      env: the environment.
      network: the network; it normalizes its inputs if the settings ask for that.
      runner: the runner of the method.
    """

    env: JaxEnvironment | HostFactory
    network: Any
    runner: Runner

    def params_like(self) -> Params:
        """Return the tree of the network's variables as shapes and dtypes; compute nothing."""
        return params_like(self.network, self.env.spec)


def build(method: str, env_id: str, settings: Settings) -> Experiment:
    """Build the parts of a run; compile nothing yet.

    Args:
      method: a name in `settings.methods.METHODS`.
      env_id: id of the environment, such as `gymnax:CartPole-v1`.
      settings: all settings, as `resolve` returns them.

    Returns:
      The parts.

    Raises:
      InputError: if a setting, the id or their combination is invalid; the message names it.
    """
    check_method(method, settings)
    asynchronous = METHODS[method].runner == "asynchronous"
    value_based = METHODS[method].value_based

    # Check the settings first: building the environment and the network is slow.
    config = _pick(AsynchronousConfig if asynchronous else SynchronousConfig, settings)
    objective_config = _pick(
        objectives.ActionValueConfig if value_based else objectives.ActorCriticConfig, settings
    )
    if isinstance(objective_config, objectives.ActorCriticConfig):
        check_rows(objective_config, settings.num_envs, settings.num_steps)
    optimizer = _optimizer(settings)

    # Only the rollouts of JAX environments choose how an episode restarts.
    env = envs.make(env_id, **_env_options(settings.env_options))
    if not on_device(env) and settings.auto_reset != Settings.auto_reset:
        raise InputError(
            f"auto_reset applies only to JAX environments, and {env_id!r} is a host environment; "
            f"leave auto_reset out"
        )

    # The network normalizes its inputs; the objective updates the running statistics.
    network = _network(value_based, env, settings)
    observations = settings.normalize_observations
    rewards = settings.normalize_rewards
    if observations or rewards:
        network = normalized_network(network, env, observations=observations, rewards=rewards)
    workers = settings.num_workers if asynchronous else 1
    _check_sizes(env, network, settings, workers)
    objective = getattr(objectives, METHODS[method].objective)(network, objective_config)
    if observations or rewards:
        objective = normalized_objective(
            objective, network, gamma=settings.gamma, num_workers=workers
        )

    runner: Runner
    if asynchronous:
        runner = AsynchronousRunner(env, network, optimizer, objective, config)
    else:
        algorithm = synchronous(env, network, optimizer, objective, config)
        runner = SynchronousRunner(algorithm, config)
    return Experiment(env, network, runner)


def evaluation_env(experiment: Experiment, settings: Settings) -> JaxEnvironment | HostFactory:
    """Return the environment for evaluation, where an episode is a whole game and not one life."""
    options = _env_options(settings.env_options)
    if not options.pop("episodic_life", False):
        return experiment.env
    return envs.make(experiment.env.spec.id, **options)


def _env_options(options: tuple[str, ...]) -> dict[str, Any]:
    """Parse NAME=VALUE options into keyword arguments; a value is JSON or a plain word."""
    parsed = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not (name.isidentifier() and equals) or name in parsed:
            raise InputError(
                f"env_options must be NAME=VALUE, each name once, such as frame_skip=4, "
                f"got {option!r}"
            )
        try:
            parsed[name] = json.loads(value)
        except (ValueError, RecursionError):  # a plain word
            parsed[name] = value
    return parsed


def _check_sizes(
    env: JaxEnvironment | HostFactory, network: Any, settings: Settings, num_workers: int
) -> None:
    """Check that the network fits the observations and that the run fits into memory."""
    spec = env.spec
    shape = {name: getattr(settings, name) for name in ("network", "hidden", "lstm_size")}

    # Trace the network without allocating its parameters.
    try:
        parameters = params_like(network, spec)
    except InputError as error:
        raise InputError(
            f"network {settings.network!r} does not fit {spec.id!r}: {error}"
        ) from error
    except (OverflowError, TypeError, ValueError) as error:  # sizes that no array can have
        raise InputError(f"cannot build a network with {shape}: {error}") from error

    # Compare the parameters with the physical memory.
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    needed = sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(parameters)
    )
    if needed > memory:
        raise InputError(
            f"a network with {shape} needs {_gib(needed)} for its parameters alone, "
            f"and this machine has {_gib(memory)}; take smaller layers"
        )

    # Compare the observations of one rollout per worker with the memory.
    rows = settings.num_envs * settings.num_steps * num_workers
    needed = (
        rows * math.prod(spec.observation_shape) * jax.numpy.dtype(spec.observation_dtype).itemsize
    )
    if needed > memory:
        workers = f" times num_workers={num_workers}" if num_workers > 1 else ""
        raise InputError(
            f"num_envs={settings.num_envs} times num_steps={settings.num_steps}{workers} "
            f"observations of {spec.id!r} need {_gib(needed)}, and this machine has "
            f"{_gib(memory)}; take fewer"
        )


def _gib(count: int) -> str:
    """Format a number of bytes in GiB."""
    return f"{count / 2**30:,.0f} GiB"


def _network(value_based: bool, env: JaxEnvironment | HostFactory, settings: Settings) -> Any:
    """Build the network of a method for an environment."""
    shape: dict[str, Any] = {
        "torso": settings.network,
        "hidden": settings.hidden,
        "lstm": settings.lstm_size if settings.lstm else 0,
        "init": settings.init,
    }
    if value_based:
        return networks.q_network(env, **shape, dueling=settings.dueling)

    # Networks for discrete actions ignore these two.
    gaussian: dict[str, Any] = {
        "variance": settings.variance,
        "initial_stddev": settings.initial_stddev,
    }
    return networks.actor_critic(env, **shape, shared=settings.shared_trunk, **gaussian)


def _pick(config: type, settings: Settings) -> Any:
    """Return the config of one part; its fields are named like the settings."""
    names = [field.name for field in dataclasses.fields(config)]
    return config(**{name: getattr(settings, name) for name in names})


def _optimizer(settings: Settings) -> optax.GradientTransformation:
    """Build the optimizer with its learning rate schedule."""
    rate: optimizers.Schedule | float = settings.learning_rate
    if settings.lr_schedule == "linear":
        rate = optimizers.linear_schedule(settings.learning_rate, settings.total_timesteps)

    if settings.optimizer == "adam":
        return optax.chain(optax.scale_by_adam(), optimizers.scale_by_learning_rate(rate))
    if settings.optimizer == "momentum-sgd":
        return optimizers.momentum_sgd(rate, momentum=settings.momentum)

    # In shared_rmsprop all workers update the same moments, as in the paper.
    rmsprop = optimizers.rmsprop if settings.optimizer == "rmsprop" else optimizers.shared_rmsprop
    return rmsprop(rate, decay=settings.rmsprop_decay, eps=settings.rmsprop_eps)
