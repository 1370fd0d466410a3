"""Build the parts of a run from its settings: environment, network, optimizer and runner."""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import optax

from jax_a3c import envs, networks, objectives, optimizers
from jax_a3c.envs.base import EnvSpec, HostFactory, JaxEnvironment, on_device
from jax_a3c.errors import InputError
from jax_a3c.experiment.run_directory import RunDirectory
from jax_a3c.messages import shown
from jax_a3c.networks.base import Network
from jax_a3c.normalization import normalized_network, normalized_objective
from jax_a3c.objectives.base import Objective
from jax_a3c.runners.asynchronous import AsynchronousRunner
from jax_a3c.runners.base import Runner
from jax_a3c.runners.loop import SynchronousRunner
from jax_a3c.runners.mesh import mesh_of
from jax_a3c.runners.parts import check_env_kind, check_loss, check_network, params_like
from jax_a3c.runners.synchronous import synchronous
from jax_a3c.settings.methods import METHODS, Settings, ValueBasedSettings
from jax_a3c.settings.parts import AsynchronousConfig, RunnerConfig, SynchronousConfig
from jax_a3c.settings.run import check_method
from jax_a3c.types import Params


class Parts(NamedTuple):
    """The parts of a run that the user hands in; None where the settings choose the part.

    Attributes:
      env: an environment of the user's, or from `envs.make`.
      network: a network for the environment, see `objectives.Network`.
      objective: an `Objective`, or a function `network -> Objective`. With normalization it must be
        a function, which is called with the network that normalizes.
      optimizer: any Optax transformation.
    """

    env: JaxEnvironment | HostFactory | None = None
    network: Network | None = None
    objective: Objective | Callable[[Network], Objective] | None = None
    optimizer: optax.GradientTransformation | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the parts that the user hands in."""
        return tuple(name for name, part in self._asdict().items() if part is not None)


NO_PARTS = Parts()


@dataclass(frozen=True)
class Player:
    """The parts of a run that play.

    Attributes:
      env: the environment.
      network: the network; it normalizes its inputs if the settings ask for that.
    """

    env: JaxEnvironment | HostFactory
    network: Any

    def params_like(self) -> Params:
        """Return the tree of the network's variables as shapes and dtypes; compute nothing."""
        return params_like(self.network, self.env.spec)


@dataclass(frozen=True)
class Experiment(Player):
    """The parts of a run.

    Attributes:
      runner: the runner of the method.
      own_parts: names of the parts that the user handed in.
    """

    runner: Runner
    own_parts: tuple[str, ...] = ()


def build(method: str, env_id: str, settings: Settings, parts: Parts = NO_PARTS) -> Experiment:
    """Build the parts of a run; compile nothing yet.

    Args:
      method: a name in `settings.methods.METHODS`.
      env_id: id of the environment, such as `gymnax:CartPole-v1`.
      settings: all settings, as `resolve` returns them.
      parts: the user's own parts, which replace what the settings say.

    Returns:
      The parts.

    Raises:
      InputError: if a setting, the id, a part or their combination is invalid; the message names
        it.
    """
    check_method(method, settings)
    optimizer = _optimizer(settings) if parts.optimizer is None else parts.optimizer
    player = build_player(env_id, settings, parts)
    env = player.env
    network = player.network

    # Only the rollouts of JAX environments choose how an episode restarts.
    if not on_device(env) and settings.auto_reset != RunnerConfig.auto_reset:
        raise InputError(
            f"auto_reset applies only to JAX environments, and {env_id!r} is a host environment; "
            f"leave auto_reset out"
        )
    workers = settings.num_workers if isinstance(settings, AsynchronousConfig) else 1
    _check_rollouts(env.spec, settings, workers)

    # The objective updates the running statistics.
    objective = _objective(method, network, settings, parts)
    if settings.normalize_observations or settings.normalize_rewards:
        objective = normalized_objective(
            objective, network, gamma=settings.gamma, num_workers=workers
        )

    # The settings of a run are also its runner's and its objective's.
    runner: Runner
    if isinstance(settings, AsynchronousConfig):
        runner = AsynchronousRunner(env, network, optimizer, objective, settings)
    elif isinstance(settings, SynchronousConfig):
        mesh = _mesh(settings)
        algorithm = synchronous(env, network, optimizer, objective, settings, mesh=mesh)
        runner = SynchronousRunner(algorithm, settings)

    # The user's own parts may not fit each other: find out before the run directory is made.
    if (parts.network is not None or parts.objective is not None) and on_device(env):
        check_loss(env, network, objective, player.params_like())
    return Experiment(env, network, runner, parts.names)


def build_player(env_id: str, settings: Settings, parts: Parts = NO_PARTS) -> Player:
    """Build the environment and the network of a run.

    Args:
      env_id: id of the environment, such as `gymnax:CartPole-v1`.
      settings: settings of the run.
      parts: the user's own parts.

    Raises:
      InputError: if a setting, the id or a part is invalid; the message names it.
    """
    if parts.env is None:
        env = envs.make(env_id, **_env_options(settings.env_options))
    elif settings.env_options:
        raise InputError(
            f"env_options belong to an environment id, got {shown(settings.env_options)} with an "
            "environment object; leave them out"
        )
    else:
        env = parts.env
        check_env_kind(env)

    if parts.network is None:
        network = _network(env, settings)
    else:
        network = parts.network
        check_network(network, env.spec)

    # The network normalizes its inputs.
    observations = settings.normalize_observations
    rewards = settings.normalize_rewards
    if observations or rewards:
        network = normalized_network(network, env, observations=observations, rewards=rewards)
    player = Player(env, network)
    if parts.network is None:
        _check_network(player, settings)
    return player


def count_devices(settings: Settings) -> Settings:
    """Return settings with a number of devices: that of all that JAX finds, in place of "all"."""
    if getattr(settings, "devices", 1) != "all":
        return settings
    changed: Any = {"devices": len(jax.devices())}
    return dataclasses.replace(settings, **changed)


def _mesh(settings: Settings) -> jax.sharding.Mesh | None:
    """Return the mesh of a run on several devices; None for one device.

    Raises:
      InputError: if there are fewer devices.
    """
    count: Any = getattr(count_devices(settings), "devices", 1)
    if count == 1:
        return None

    # A CPU is one device unless XLA is told otherwise.
    devices = jax.devices()
    if count > len(devices):
        way_out = "take fewer"
        if devices[0].platform == "cpu":
            way_out += (
                f", or set XLA_FLAGS=--xla_force_host_platform_device_count={count} to divide the "
                "CPU"
            )
        raise InputError(
            f"devices must be at most {len(devices)}, as many as JAX finds, got {count}; {way_out}"
        )
    return mesh_of(devices[:count])


def check_own_parts(run: RunDirectory, parts: Parts, needed: Sequence[str]) -> None:
    """Check that the user hands in the parts with which a run was trained, and no others.

    Args:
      run: the run.
      parts: what the user hands in.
      needed: names of the parts that are needed now.

    Raises:
      InputError: if a part is missing, was not handed in before, or is another environment.
    """
    stored = run.own_parts()
    where = f"the run in {str(run.path)!r}"
    missing = [name for name in stored if name in needed and getattr(parts, name) is None]
    if missing:
        given = ", ".join(f"{name}=..." for name in missing)
        raise InputError(
            f"{where} was trained from Python with {given}; hand in the same again, in Python: "
            f"jax_a3c.resume, load, evaluate and record take {' and '.join(missing)}"
        )
    if extra := [name for name in parts.names if name not in stored]:
        raise InputError(f"{where} was trained without {extra[0]}=...; leave it out")

    # Another environment would continue the run on another task.
    if parts.env is not None:
        check_env_kind(parts.env)
        if (env_id := run.config()[1]) != parts.env.spec.id:
            raise InputError(f"{where} is of {env_id}, but env is {parts.env.spec.id}")


def evaluation_env(player: Player, settings: Settings) -> JaxEnvironment | HostFactory:
    """Return the environment for evaluation, where an episode is a whole game and not one life."""
    options = _env_options(settings.env_options)
    if not options.pop("episodic_life", False):
        return player.env
    return envs.make(player.env.spec.id, **options)


def _objective(method: str, network: Any, settings: Settings, parts: Parts) -> Objective:
    """Build the objective of a run."""
    objective = parts.objective
    if objective is None:
        return getattr(objectives, METHODS[method].objective)(network, settings)
    if not isinstance(objective, Objective) and callable(objective):
        return objective(network)

    # An objective that was built already acts with a network that does not normalize.
    if settings.normalize_observations or settings.normalize_rewards:
        raise InputError(
            "with normalization, objective must be a function network -> Objective, such as "
            f"lambda network: objectives.actor_critic(network), got {shown(objective)}"
        )
    return objective


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


def _check_network(player: Player, settings: Settings) -> None:
    """Check that the network of the settings fits the observations and the memory."""
    spec = player.env.spec
    shape = {name: getattr(settings, name) for name in ("network", "hidden", "lstm_size")}

    # Trace the network without allocating its parameters.
    try:
        parameters = player.params_like()
    except InputError as error:
        raise InputError(
            f"network {settings.network!r} does not fit {spec.id!r}: {error}"
        ) from error
    except (OverflowError, TypeError, ValueError) as error:  # sizes that no array can have
        raise InputError(f"cannot build a network with {shape}: {error}") from error

    # Compare the parameters with the physical memory.
    memory = _memory()
    needed = sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(parameters)
    )
    if needed > memory:
        raise InputError(
            f"a network with {shape} needs {_gib(needed)} for its parameters alone, "
            f"and this machine has {_gib(memory)}; take smaller layers"
        )


def _check_rollouts(spec: EnvSpec, settings: Settings, num_workers: int) -> None:
    """Check that the observations of one rollout per worker fit into the memory."""
    memory = _memory()
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


def _memory() -> int:
    """Return the bytes of this machine's physical memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _gib(count: int) -> str:
    """Format a number of bytes in GiB."""
    return f"{count / 2**30:,.0f} GiB"


def _network(env: JaxEnvironment | HostFactory, settings: Settings) -> Any:
    """Build the network of a method for an environment."""
    shape: dict[str, Any] = {
        "torso": settings.network,
        "hidden": settings.hidden,
        "lstm": settings.lstm_size if settings.lstm else 0,
        "init": settings.init,
    }
    if isinstance(settings, ValueBasedSettings):
        return networks.q_network(env, **shape, dueling=settings.dueling)

    # Networks for discrete actions ignore the last two.
    names = {"shared": "shared_trunk", "variance": "variance", "initial_stddev": "initial_stddev"}
    policy = {argument: getattr(settings, name) for argument, name in names.items()}
    return networks.actor_critic(env, **shape, **policy)


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
