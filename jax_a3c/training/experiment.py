"""From settings to the parts of a run: environment, network, optimizer and runner."""

import dataclasses
from typing import Any, NamedTuple

import jax
import optax

from jax_a3c import envs, networks, optimizers
from jax_a3c.asynchronous import A3CConfig, Asynchronous
from jax_a3c.envs.base import JaxEnvironment
from jax_a3c.methods import METHODS
from jax_a3c.objectives import actor_critic
from jax_a3c.synchronous import A2CConfig, synchronous
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

    env: JaxEnvironment
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
    env = envs.make(env_id)
    network = networks.actor_critic(
        env,
        torso=settings.network,
        hidden=settings.hidden,
        lstm=settings.lstm_size if settings.lstm else 0,
        shared=settings.shared_trunk,
        variance=settings.variance,
        init=settings.init,
    )
    trainer: Synchronous | Asynchronous
    if METHODS[method].runner == "synchronous":
        config = _pick(A2CConfig, settings)
        agent = synchronous(env, network, _optimizer(settings), actor_critic(network, config), config)
        trainer = Synchronous(agent, config, settings.total_timesteps)
    else:
        config = _pick(A3CConfig, settings)
        trainer = Asynchronous(env, network, _optimizer(settings), actor_critic(network, config), config)
    experiment = Experiment(env, network, trainer)
    experiment.parameters_like()  # a network that cannot take these observations says so here
    return experiment


def _pick(config: type, settings: Settings) -> Any:
    """The runner's own settings among all of them; the names are the same."""
    names = [field.name for field in dataclasses.fields(config)]
    return config(**{name: getattr(settings, name) for name in names})


def _optimizer(settings: Settings) -> optax.GradientTransformation:
    rate: optimizers.Schedule | float = settings.learning_rate
    if settings.lr_schedule == "linear":
        rate = optimizers.linear_schedule(settings.learning_rate, settings.total_timesteps)
    if settings.optimizer == "adam":
        return optax.chain(optax.scale_by_adam(), optimizers.scale_by_learning_rate(rate))
    return optimizers.shared_rmsprop(rate, decay=settings.rmsprop_decay, eps=settings.rmsprop_eps)
