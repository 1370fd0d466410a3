"""The settings of whole runs, and the table of methods. No JAX here.

The settings of a run are the runner's and the objective's (`settings.parts`) and those of the
parts below: start, optimizer, normalization, network and evaluation.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from jax_a3c.checks import (
    MAX_EPISODES,
    MAX_STEPS,
    check_boolean,
    check_choice,
    check_integer,
    check_number,
    check_string,
    check_tuple,
)
from jax_a3c.errors import InputError
from jax_a3c.messages import plain
from jax_a3c.settings.parts import (
    A2CConfig,
    A3CConfig,
    AsyncQConfig,
    Config,
    LengthConfig,
    ObjectiveConfig,
    QConfig,
    RunnerConfig,
)

RunnerName = Literal["synchronous", "asynchronous"]
ObjectiveName = Literal["actor_critic", "one_step_q", "one_step_sarsa", "n_step_q"]

Schedule = Literal["linear", "constant"]
OptimizerName = Literal["shared-rmsprop", "rmsprop", "momentum-sgd", "adam"]
Torso = Literal["mlp", "minatar", "mnih2013", "nature"]
Initialization = Literal["orthogonal", "torch"]
Variance = Literal["parameter", "scalar", "per_dimension"]
ActorCriticPolicy = Literal["greedy", "sampled"]
ValueBasedPolicy = Literal["greedy", "epsilon-greedy"]


@dataclass(frozen=True, kw_only=True)
class StartConfig(LengthConfig):
    """The seed and the environment of a run.

    Attributes:
      seed: seed of all random numbers.
      env_options: options of the environment as NAME=VALUE. For Atari games, for example:
        repeat_action_probability=0.25 (sticky actions), full_action_space=true, episodic_life=true.
    """

    seed: int = 0
    env_options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the fields."""
        check_integer("seed", self.seed, 0)
        check_tuple("env_options", self.env_options, "strings")
        for option in self.env_options:
            check_string("env_options", option)
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Config):
    """Settings of the optimizer.

    Attributes:
      learning_rate: learning rate at the start of training, at least 0. Paper: drawn from the range
        from 1e-4 to 1e-2; its authors by e-mail: 7e-4.
      lr_schedule: schedule of the learning rate: linear falls to 0 at total_timesteps (paper),
        constant does not change.
      optimizer: optimizer of the parameters. shared-rmsprop is the paper's choice; rmsprop and
        momentum-sgd, which the paper compares it with, and adam keep their moments per worker.
      rmsprop_decay: decay rate of the mean squared gradient in both kinds of RMSProp, the paper's
        alpha, in [0, 1]. Paper: 0.99.
      rmsprop_eps: epsilon inside the square root in both kinds of RMSProp, above 0. The paper's
        authors by e-mail: 0.1, for summed losses; 1e-5 suits averaged losses.
      momentum: momentum of momentum-sgd, the paper's alpha, in [0, 1]; the gradient is multiplied
        by 1 - momentum.
    """

    learning_rate: float = 7e-4
    lr_schedule: Schedule = "linear"
    optimizer: OptimizerName = "shared-rmsprop"
    rmsprop_decay: float = 0.99
    rmsprop_eps: float = 1e-5
    momentum: float = 0.99

    def __post_init__(self) -> None:
        """Check the fields."""
        check_number("learning_rate", self.learning_rate, 0.0)
        check_choice("lr_schedule", self.lr_schedule, get_args(Schedule))
        check_choice("optimizer", self.optimizer, get_args(OptimizerName))
        check_number("rmsprop_decay", self.rmsprop_decay, 0.0, 1.0)
        check_number("rmsprop_eps", self.rmsprop_eps, above=0.0)
        check_number("momentum", self.momentum, 0.0, 1.0)
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class DeviceConfig(Config):
    """The devices of a run with a synchronous method.

    Attributes:
      devices: number of devices that share the environments, such as GPUs, or all that JAX finds;
        num_envs must be a multiple of it.
    """

    devices: int | Literal["all"] = 1

    def __post_init__(self) -> None:
        """Check the fields."""
        # An array has no single answer to "!=".
        if not isinstance(self.devices, str) or self.devices != "all":
            check_integer("devices", self.devices, 1)
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class NormalizationConfig(Config):
    """Whether a run keeps running statistics.

    Attributes:
      normalize_observations: whether observations are normalized by their running mean and standard
        deviation.
      normalize_rewards: whether rewards are divided by the running standard deviation of their
        discounted sum.
    """

    normalize_observations: bool = False
    normalize_rewards: bool = False

    def __post_init__(self) -> None:
        """Check the fields."""
        check_boolean("normalize_observations", self.normalize_observations)
        check_boolean("normalize_rewards", self.normalize_rewards)
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(Config):
    """Settings that all networks share.

    Attributes:
      network: torso of the network: mlp for vectors, minatar for MinAtar, mnih2013 (paper) or
        nature for images.
      hidden: number of units in each hidden layer of the mlp torso.
      lstm: whether an LSTM follows the torso.
      lstm_size: number of units of the LSTM. Paper: 256.
      init: initialization of the weights: orthogonal, or torch, the default of Torch (paper).
    """

    network: Torso = "mlp"
    hidden: tuple[int, ...] = (64, 64)
    lstm: bool = False
    lstm_size: int = 256
    init: Initialization = "orthogonal"

    def __post_init__(self) -> None:
        """Check the fields."""
        check_choice("network", self.network, get_args(Torso))
        check_tuple("hidden", self.hidden, "integers")
        for units in self.hidden:
            check_integer("hidden", units, 1)
        check_boolean("lstm", self.lstm)
        check_integer("lstm_size", self.lstm_size, 1)
        check_choice("init", self.init, get_args(Initialization))
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class ActorCriticNetworkConfig(NetworkConfig):
    """Settings of a policy and a value function, in addition to `NetworkConfig`.

    Attributes:
      shared_trunk: whether policy and value function share all layers but the last. Paper: shared
        on Atari.
      variance: parameterization of the variance of a continuous policy: one trainable parameter per
        action dimension (parameter), one network output for all dimensions (scalar, paper) or one
        network output per dimension (per_dimension).
      initial_stddev: standard deviation of a continuous policy at the start of training, if
        variance is parameter, above 0. In policy units: 1 reaches from the middle of the action
        range to its bounds.
    """

    shared_trunk: bool = True
    variance: Variance = "parameter"
    initial_stddev: float = 1.0

    def __post_init__(self) -> None:
        """Check the fields."""
        check_boolean("shared_trunk", self.shared_trunk)
        check_choice("variance", self.variance, get_args(Variance))
        check_number("initial_stddev", self.initial_stddev, above=0.0)
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class QNetworkConfig(NetworkConfig):
    """Settings of a network for action values, in addition to `NetworkConfig`.

    Attributes:
      dueling: whether the network adds a state value and advantages to get action values.
    """

    dueling: bool = False

    def __post_init__(self) -> None:
        """Check the fields."""
        check_boolean("dueling", self.dueling)
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Config):
    """Settings of the evaluation at the end of a run.

    Attributes:
      eval_episodes: episodes per policy in the evaluation at the end of the run, at most 1e6; 0
        skips the evaluation. The policies are greedy and sampled for actor-critic methods, greedy
        and epsilon-greedy (0.05) for value-based methods.
      eval_max_steps: environment steps of an evaluation, shared equally by the games of all
        policies; a longer game is cut and counted in eval_episodes_cut. None allows a tenth of
        total_timesteps, but at least 3,000 steps per game.
      eval_policy: policy whose evaluation counts as the result of the run.
    """

    POLICIES: ClassVar[tuple[str, ...]] = ()
    """Policies with which a method is evaluated."""

    eval_episodes: int = 100
    eval_max_steps: int | None = None
    eval_policy: str = "greedy"

    def __post_init__(self) -> None:
        """Check the fields."""
        check_integer("eval_episodes", self.eval_episodes, 0, MAX_EPISODES)
        check_choice("eval_policy", self.eval_policy, self.POLICIES)
        if self.eval_max_steps is not None:
            check_integer("eval_max_steps", self.eval_max_steps, 1, MAX_STEPS)
            self._check_games(self.eval_max_steps)
        super().__post_init__()

    def _check_games(self, max_steps: int) -> None:
        """Check that there is one step for each game: a game without a step has no return."""
        games = len(self.POLICIES) * self.eval_episodes
        if max_steps < games:
            raise InputError(
                f"eval_max_steps must be at least {games}, one step for each game (eval_episodes="
                f"{self.eval_episodes} times {len(self.POLICIES)} policies), got {max_steps}"
            )


@dataclass(frozen=True, kw_only=True)
class Settings(
    EvaluationConfig,
    NetworkConfig,
    NormalizationConfig,
    OptimizerConfig,
    RunnerConfig,
    StartConfig,
    ObjectiveConfig,
):
    """The settings on which the result of every run depends. `METHODS` has the class of each."""

    def __post_init__(self) -> None:
        """Check the fields, and make NumPy's numbers plain ones and lists tuples, for JSON."""
        super().__post_init__()
        make_plain(self)


@dataclass(frozen=True, kw_only=True)
class ActorCriticSettings(ActorCriticNetworkConfig, Settings):
    """The settings of every run of an actor-critic method."""

    POLICIES: ClassVar[tuple[str, ...]] = get_args(ActorCriticPolicy)

    eval_policy: ActorCriticPolicy = "greedy"


@dataclass(frozen=True, kw_only=True)
class ValueBasedSettings(QNetworkConfig, Settings):
    """The settings of every run of a value-based method."""

    POLICIES: ClassVar[tuple[str, ...]] = get_args(ValueBasedPolicy)

    eval_policy: ValueBasedPolicy = "greedy"


@dataclass(frozen=True, kw_only=True)
class A2CSettings(A2CConfig, DeviceConfig, ActorCriticSettings):
    """The settings of a run of A2C. The defaults are those of OpenAI Baselines."""


@dataclass(frozen=True, kw_only=True)
class A3CSettings(A3CConfig, ActorCriticSettings):
    """The settings of a run of A3C. The defaults are the paper's."""

    rmsprop_eps: float = 0.1


@dataclass(frozen=True, kw_only=True)
class QSettings(QConfig, DeviceConfig, ValueBasedSettings):
    """The settings of a run of a synchronous value-based method."""


@dataclass(frozen=True, kw_only=True)
class AsyncQSettings(AsyncQConfig, ValueBasedSettings):
    """The settings of a run of an asynchronous value-based method. The defaults are the paper's."""

    rmsprop_eps: float = 0.1


@dataclass(frozen=True)
class Method:
    """One method: an objective on a runner.

    Attributes:
      objective: name of the function in `objectives`.
      runner: what applies the gradients: `"synchronous"` for one compiled loop, `"asynchronous"`
        for threads.
      settings: class of the settings of a run.
    """

    objective: ObjectiveName
    runner: RunnerName
    settings: type[Settings]

    @property
    def value_based(self) -> bool:
        """Return whether the method learns action values and explores epsilon-greedily."""
        return self.objective != "actor_critic"

    @property
    def fields(self) -> tuple[str, ...]:
        """Return the names of the settings."""
        return tuple(field.name for field in dataclasses.fields(self.settings))


# Every objective on both runners.
METHODS = {
    "a2c": Method("actor_critic", "synchronous", A2CSettings),
    "a3c": Method("actor_critic", "asynchronous", A3CSettings),
    "one-step-q": Method("one_step_q", "synchronous", QSettings),
    "async-one-step-q": Method("one_step_q", "asynchronous", AsyncQSettings),
    "one-step-sarsa": Method("one_step_sarsa", "synchronous", QSettings),
    "async-one-step-sarsa": Method("one_step_sarsa", "asynchronous", AsyncQSettings),
    "n-step-q": Method("n_step_q", "synchronous", QSettings),
    "async-n-step-q": Method("n_step_q", "asynchronous", AsyncQSettings),
}


def make_plain(config: Any) -> None:
    """Replace NumPy and JAX numbers by Python numbers and lists by tuples, for JSON."""
    # The dataclass is frozen, and this runs while it is being made.
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        value = tuple(map(plain, value)) if isinstance(value, tuple | list) else plain(value)
        object.__setattr__(config, field.name, value)
