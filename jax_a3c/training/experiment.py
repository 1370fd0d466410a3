"""From settings to the parts of a run: environment, network, optimizer and runner."""

import dataclasses
import json
from typing import Any, NamedTuple

import jax
import optax

from jax_a3c import envs, networks, objectives, optimizers
from jax_a3c.asynchronous import Asynchronous, AsynchronousConfig
from jax_a3c.checks import InputError
from jax_a3c.envs.base import HostFactory, JaxEnvironment
from jax_a3c.methods import METHODS, Method
from jax_a3c.normalization import normalized_network, normalized_objective
from jax_a3c.objectives import Objective
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
        spec = self.env.spec
        observation = jax.ShapeDtypeStruct((1, 1, *spec.observation_shape), spec.observation_dtype)
        reset = jax.ShapeDtypeStruct((1, 1), bool)
        return jax.eval_shape(
            self.network.init, jax.random.key(0), self.network.initial_carry((1,)), observation, reset
        )


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
    env = envs.make(env_id, **_env_options(settings.env_options))
    if not isinstance(env, JaxEnvironment) and settings.auto_reset != Settings.auto_reset:
        raise InputError(
            f"auto_reset is a setting of JAX environments; {env_id!r} resets itself: leave it out"
        )
    network = _network(METHODS[method].value_based, env, settings)
    observations, rewards = settings.normalize_observations, settings.normalize_rewards
    if observations or rewards:
        network = normalized_network(network, env, observations=observations, rewards=rewards)
    objective = _objective(METHODS[method], network, settings)
    if observations or rewards:
        workers = settings.num_workers if METHODS[method].runner == "asynchronous" else 1
        objective = normalized_objective(objective, network, gamma=settings.gamma, num_workers=workers)
    optimizer = _optimizer(settings)
    trainer: Synchronous | Asynchronous
    if METHODS[method].runner == "synchronous":
        config = _pick(SynchronousConfig, settings)
        agent = synchronous(env, network, optimizer, objective, config)
        trainer = Synchronous(agent, config, settings.total_timesteps)
    else:
        trainer = Asynchronous(env, network, optimizer, objective, _pick(AsynchronousConfig, settings))
    experiment = Experiment(env, network, trainer)
    experiment.parameters_like()  # a network that cannot take these observations says so here
    return experiment


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
        except ValueError:
            parsed[name] = value
    return parsed


def _network(value_based: bool, env: JaxEnvironment | HostFactory, settings: Settings) -> Any:
    shape: dict[str, Any] = {
        "torso": settings.network,
        "hidden": settings.hidden,
        "lstm": settings.lstm_size if settings.lstm else 0,
        "init": settings.init,
    }
    if value_based:
        return networks.q_network(env, **shape, dueling=settings.dueling)
    gaussian: dict[str, Any] = {"variance": settings.variance, "initial_stddev": settings.initial_stddev}
    return networks.actor_critic(env, **shape, shared=settings.shared_trunk, **gaussian)


def _objective(method: Method, network: Any, settings: Settings) -> Objective:
    config = objectives.ActionValueConfig if method.value_based else objectives.ActorCriticConfig
    return getattr(objectives, method.objective)(network, _pick(config, settings))


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
