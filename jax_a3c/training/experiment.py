"""From settings to the parts of a run: environment, network, optimizer and runner."""

import dataclasses
import json
import math
import os
from typing import Any, NamedTuple

import jax
import optax

from jax_a3c import envs, networks, objectives, optimizers
from jax_a3c.asynchronous import Asynchronous, AsynchronousConfig
from jax_a3c.checks import InputError
from jax_a3c.envs.base import HostFactory, JaxEnvironment
from jax_a3c.methods import METHODS
from jax_a3c.normalization import normalized_network, normalized_objective
from jax_a3c.synchronous import SynchronousConfig, synchronous
from jax_a3c.training.loop import Synchronous
from jax_a3c.training.settings import Settings, check_method
from jax_a3c.types import Params


class Experiment(NamedTuple):
    """The parts of a run.

    Attributes:
      env: the environment.
      network: the network.
      trainer: runs the method; `init`, `run` and `params` on both runners.
    """

    env: JaxEnvironment | HostFactory
    network: Any
    trainer: Synchronous | Asynchronous

    def parameters_like(self) -> Params:
        """Shapes and dtypes of the network's variables, in their tree; nothing is computed."""
        return objectives.parameters_like(self.network, self.env.spec)


def build(method: str, env_id: str, settings: Settings) -> Experiment:
    """Build the parts of a run; nothing is compiled yet.

    Args:
      method: a name of `methods.METHODS`.
      env_id: such as `gymnax:CartPole-v1`.
      settings: as `resolve` gives them.

    Returns:
      The parts.

    Raises:
      InputError: if a setting, the id, or their combination is of no use; the message names it.
    """
    check_method(method, settings)
    asynchronous, value_based = (
        METHODS[method].runner == "asynchronous",
        METHODS[method].value_based,
    )
    # What the parts refuse by themselves, before the environment and the network take their time.
    config = _pick(AsynchronousConfig if asynchronous else SynchronousConfig, settings)
    objective_config = _pick(
        objectives.ActionValueConfig if value_based else objectives.ActorCriticConfig, settings
    )
    if isinstance(objective_config, objectives.ActorCriticConfig):
        objectives.check_rows(objective_config, settings.num_envs, settings.num_steps)
    optimizer = _optimizer(settings)
    env = envs.make(env_id, **_env_options(settings.env_options))
    if not isinstance(env, JaxEnvironment) and settings.auto_reset != Settings.auto_reset:
        raise InputError(
            f"auto_reset is a setting of JAX environments; {env_id!r} resets itself: leave it out"
        )
    network = _network(value_based, env, settings)
    observations, rewards = settings.normalize_observations, settings.normalize_rewards
    if observations or rewards:
        network = normalized_network(network, env, observations=observations, rewards=rewards)
    workers = settings.num_workers if asynchronous else 1
    _check_sizes(env, network, settings, workers)
    objective = getattr(objectives, METHODS[method].objective)(network, objective_config)
    if observations or rewards:
        objective = normalized_objective(
            objective, network, gamma=settings.gamma, num_workers=workers
        )
    if asynchronous:
        return Experiment(env, network, Asynchronous(env, network, optimizer, objective, config))
    agent = synchronous(env, network, optimizer, objective, config)
    return Experiment(env, network, Synchronous(agent, config, settings.total_timesteps))


def evaluation_env(experiment: Experiment, settings: Settings) -> JaxEnvironment | HostFactory:
    """The environment of a run as it is evaluated: a lost life ends no episode, since scores are of games."""
    options = _env_options(settings.env_options)
    if not options.pop("episodic_life", False):
        return experiment.env
    return envs.make(experiment.env.spec.id, **options)


def _env_options(options: tuple[str, ...]) -> dict[str, Any]:
    """From NAME=VALUE, where the value is written as in JSON or is a plain word, to keyword arguments."""
    parsed = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not (name.isidentifier() and equals) or name in parsed:
            raise InputError(
                f"env_options must be NAME=VALUE, each name once, such as frame_skip=4, got {option!r}"
            )
        try:
            parsed[name] = json.loads(value)
        except (ValueError, RecursionError):
            parsed[name] = value
    return parsed


def _check_sizes(
    env: JaxEnvironment | HostFactory, network: Any, settings: Settings, num_workers: int
) -> None:
    """Refuse a network that cannot take the observations, and what exceeds the memory of this machine."""
    spec, shape = (
        env.spec,
        {name: getattr(settings, name) for name in ("network", "hidden", "lstm_size")},
    )
    try:
        parameters = objectives.parameters_like(network, spec)
    except InputError as error:
        raise InputError(
            f"network {settings.network!r} does not fit {spec.id!r}: {error}"
        ) from error
    except (OverflowError, TypeError, ValueError) as error:  # of sizes that no array can have
        raise InputError(f"no network can be made of {shape}: {error}") from error
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    needed = sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(parameters)
    )
    if needed > memory:
        raise InputError(
            f"a network of {shape} needs {_gib(needed)} for its parameters alone, and this machine has "
            f"{_gib(memory)}; take smaller layers"
        )
    rows = settings.num_envs * settings.num_steps * num_workers
    needed = (
        rows * math.prod(spec.observation_shape) * jax.numpy.dtype(spec.observation_dtype).itemsize
    )
    if needed > memory:
        workers = f" times num_workers={num_workers}" if num_workers > 1 else ""
        raise InputError(
            f"num_envs={settings.num_envs} times num_steps={settings.num_steps}{workers} observations of "
            f"{spec.id!r} need {_gib(needed)}, and this machine has {_gib(memory)}; take fewer"
        )


def _gib(count: int) -> str:
    return f"{count / 2**30:,.0f} GiB"


def _network(value_based: bool, env: JaxEnvironment | HostFactory, settings: Settings) -> Any:
    shape: dict[str, Any] = {
        "torso": settings.network,
        "hidden": settings.hidden,
        "lstm": settings.lstm_size if settings.lstm else 0,
        "init": settings.init,
    }
    if value_based:
        return networks.q_network(env, **shape, dueling=settings.dueling)
    gaussian: dict[str, Any] = {
        "variance": settings.variance,
        "initial_stddev": settings.initial_stddev,
    }
    return networks.actor_critic(env, **shape, shared=settings.shared_trunk, **gaussian)


def _pick(config: type, settings: Settings) -> Any:
    """The settings of a part among all of them; the names are the same."""
    names = [field.name for field in dataclasses.fields(config)]
    return config(**{name: getattr(settings, name) for name in names})


def _optimizer(settings: Settings) -> optax.GradientTransformation:
    rate: optimizers.Schedule | float = settings.learning_rate
    if settings.lr_schedule == "linear":
        rate = optimizers.linear_schedule(settings.learning_rate, settings.total_timesteps)
    if settings.optimizer == "adam":
        return optax.chain(optax.scale_by_adam(), optimizers.scale_by_learning_rate(rate))
    if settings.optimizer == "momentum-sgd":
        return optimizers.momentum_sgd(rate, momentum=settings.momentum)
    rmsprop = optimizers.rmsprop if settings.optimizer == "rmsprop" else optimizers.shared_rmsprop
    return rmsprop(rate, decay=settings.rmsprop_decay, eps=settings.rmsprop_eps)
