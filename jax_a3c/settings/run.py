"""All settings of a run, resolved from the method's defaults, the preset and the user's values."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

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
from jax_a3c.messages import plain, shown
from jax_a3c.settings.methods import METHODS
from jax_a3c.settings.presets import preset_of


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting that the result of a run depends on.

    Attributes:
      total_timesteps: environment steps to train for, summed over all environments and workers; the
        paper's T_max.
      seed: seed of all random numbers.
      env_options: options of the environment as NAME=VALUE. For Atari games, for example:
        repeat_action_probability=0.25 (sticky actions), full_action_space=true, episodic_life=true.
      num_envs: number of environments that step together; per worker for asynchronous methods.
        Paper: 1 per worker.
      num_steps: largest number of steps of each environment between two updates, the paper's
        t_max. Paper: 5; its authors by e-mail: 20.
      num_workers: number of threads of an asynchronous method. Paper: 16.
      stop_at_episode_end: whether a rollout ends when the episodes of all environments of the
        worker end, for asynchronous methods. Paper: it does.
      lock: whether a lock guards reads and updates of the shared parameters, for asynchronous
        methods. Paper: no lock.
      worker_timeout: seconds that a worker may take for one rollout before it counts as hung, for
        asynchronous methods; None waits forever.
      auto_reset: how many start states are made on JAX environments: one per environment and
        rollout (pooled) or one per environment and step (exact, slower).
      learning_rate: learning rate at the start of training. Paper: drawn from 1e-4 to 1e-2; its
        authors by e-mail: 7e-4.
      lr_schedule: schedule of the learning rate: linear falls to 0 at total_timesteps (paper),
        constant does not change.
      optimizer: optimizer of the parameters. shared-rmsprop is the paper's choice; rmsprop and
        momentum-sgd, which the paper compares it with, and adam keep their moments per worker.
      rmsprop_decay: decay rate of the mean squared gradient in both kinds of RMSProp, the paper's
        alpha. Paper: 0.99.
      rmsprop_eps: epsilon inside the square root in both kinds of RMSProp. The paper's authors by
        e-mail: 0.1, for summed losses; 1e-5 suits averaged losses.
      momentum: momentum of momentum-sgd, the paper's alpha; the gradient is scaled by 1 - momentum.
      max_grad_norm: largest global norm of the gradient, to which longer gradients are scaled down;
        None disables clipping. The paper's authors by e-mail: 40, for summed losses; 0.5 suits
        averaged losses.
      gamma: discount factor per environment step. Paper: 0.99.
      gae_lambda: lambda of generalized advantage estimation, for actor-critic methods; 1 gives the
        paper's n-step returns.
      ent_coef: weight of the entropy bonus, for actor-critic methods. Paper: 0.01 for discrete
        actions, 1e-4 for continuous ones.
      normalize_advantages: whether advantages are scaled to mean 0 and standard deviation 1 in each
        rollout, for actor-critic methods. Paper: they are not.
      target_update_interval: environment steps of all workers between two copies of the parameters
        to the target network, for value-based methods. Paper: 40,000 frames.
      epsilon_anneal_steps: environment steps of all workers over which epsilon falls from 1 to its
        final value, for value-based methods. Paper: the first 4 million frames.
      final_epsilons: possible final values of epsilon, for value-based methods; each environment of
        each worker draws one of them. Paper: 0.1, 0.01, 0.5.
      final_epsilon_probabilities: probability of each value of final_epsilons, for value-based
        methods. Paper: 0.4, 0.3, 0.3.
      double_q: whether to use double Q-learning, for value-based methods: the online network
        chooses the next action and the target network evaluates it. Paper: not used.
      huber_delta: size of the error, in scaled reward units, beyond which the loss grows linearly,
        for value-based methods; None keeps the paper's squared error.
      vf_coef: weight of the value loss, 0.5 (R - V)^2 for actor-critic methods and 0.5 (R - Q)^2
        for value-based methods. Paper's pseudo-code: 2; its authors by e-mail: 1.
      loss_reduction: whether the losses of a rollout's steps are summed (paper) or averaged.
      reward_scale: factor on the rewards that the learner sees; reported returns are unscaled.
      reward_clip: largest magnitude of the rewards that the learner sees; None disables clipping.
        The paper's authors, for Atari: 1.
      normalize_observations: whether observations are normalized by their running mean and standard
        deviation.
      normalize_rewards: whether rewards are divided by the running standard deviation of their
        discounted sum.
      network: torso of the network: mlp for vectors, minatar for MinAtar, mnih2013 (paper) or
        nature for images.
      hidden: number of units in each hidden layer of the mlp torso.
      lstm: whether an LSTM follows the torso.
      lstm_size: number of units of the LSTM. Paper: 256.
      shared_trunk: whether policy and value function share all layers but the last, for
        actor-critic methods. Paper: shared on Atari.
      variance: parameterization of the variance of a continuous policy, for actor-critic methods:
        one trainable parameter per action dimension (parameter), one network output for all
        dimensions (scalar, paper) or one network output per dimension (per_dimension).
      initial_stddev: standard deviation of a continuous policy at the start of training, if
        variance is parameter, for actor-critic methods. In policy units: 1 reaches from the middle
        of the action range to its bounds.
      dueling: whether the network adds a state value and advantages to get action values, for
        value-based methods.
      init: initialization of the weights: orthogonal, or torch, the default of Torch (paper).
      eval_episodes: episodes per policy in the evaluation at the end of the run, at most 1e6; 0
        skips the evaluation. The policies are greedy and sampled for actor-critic methods, greedy
        and epsilon-greedy (0.05) for value-based methods.
      eval_max_steps: environment steps of an evaluation, shared equally by the games of all
        policies; a longer game is cut and counted in eval_episodes_cut. None allows a tenth of
        total_timesteps, but at least 3,000 steps per game.
      eval_policy: policy whose evaluation counts as the result of the run.
    """

    # Length, seed and environment.
    total_timesteps: int = 500_000
    seed: int = 0
    env_options: tuple[str, ...] = ()

    # Runner.
    num_envs: int = 16
    num_steps: int = 5
    num_workers: int = 1
    stop_at_episode_end: bool = False
    lock: bool = False
    worker_timeout: float | None = 300.0
    auto_reset: Literal["pooled", "exact"] = "pooled"

    # Optimizer.
    learning_rate: float = 7e-4
    lr_schedule: Literal["linear", "constant"] = "linear"
    optimizer: Literal["shared-rmsprop", "rmsprop", "momentum-sgd", "adam"] = "shared-rmsprop"
    rmsprop_decay: float = 0.99
    rmsprop_eps: float = 1e-5
    momentum: float = 0.99
    max_grad_norm: float | None = 0.5

    # Objective.
    gamma: float = 0.99
    gae_lambda: float = 1.0
    ent_coef: float = 0.01
    normalize_advantages: bool = False
    target_update_interval: int = 40_000
    epsilon_anneal_steps: int = 4_000_000
    final_epsilons: tuple[float, ...] = (0.1, 0.01, 0.5)
    final_epsilon_probabilities: tuple[float, ...] = (0.4, 0.3, 0.3)
    double_q: bool = False
    huber_delta: float | None = None
    vf_coef: float = 1.0
    loss_reduction: Literal["sum", "mean"] = "mean"
    reward_scale: float = 1.0
    reward_clip: float | None = None
    normalize_observations: bool = False
    normalize_rewards: bool = False

    # Network.
    network: Literal["mlp", "minatar", "mnih2013", "nature"] = "mlp"
    hidden: tuple[int, ...] = (64, 64)
    lstm: bool = False
    lstm_size: int = 256
    shared_trunk: bool = True
    variance: Literal["parameter", "scalar", "per_dimension"] = "parameter"
    initial_stddev: float = 1.0
    dueling: bool = False
    init: Literal["orthogonal", "torch"] = "orthogonal"

    # Evaluation.
    eval_episodes: int = 100
    eval_max_steps: int | None = None
    eval_policy: Literal["greedy", "sampled", "epsilon-greedy"] = "greedy"

    def __post_init__(self) -> None:
        """Check types and general ranges; the parts of a run check their own settings."""
        for name, hint in _HINTS.items():
            _check_type(name, hint, getattr(self, name))
        _make_plain(self)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of a run that do not change what it learns.

    Attributes:
      quiet: whether to hide the progress bar.
      tensorboard: whether to write TensorBoard events too; needs the extra `tensorboard`.
      checkpoint_interval: seconds between two checkpoints, above 0. Checkpoints take at most a
        twentieth of the time and become less frequent on a slow disk. One is also written at the
        start, at the end and on an interruption.
      keep_checkpoints: number of newest checkpoints to keep, in addition to the best one.
      eval_interval: environment steps between two evaluations during training; None evaluates only
        at the end. Each may take as many steps as eval_max_steps allows. The checkpoint
        with the highest mean return is kept as the best.
    """

    quiet: bool = False
    tensorboard: bool = False
    checkpoint_interval: float = 60.0
    keep_checkpoints: int = 3
    eval_interval: int | None = None

    def __post_init__(self) -> None:
        """Check types and ranges."""
        check_boolean("quiet", self.quiet)
        check_boolean("tensorboard", self.tensorboard)
        check_number("checkpoint_interval", self.checkpoint_interval, above=0.0)
        check_integer("keep_checkpoints", self.keep_checkpoints, 1, MAX_EPISODES)
        if self.eval_interval is not None:
            check_integer("eval_interval", self.eval_interval, 1, MAX_STEPS)
        _make_plain(self)


def differences(before: Settings, after: Settings) -> dict[str, str]:
    """Return a phrase for each setting that differs, with both values, by name."""
    pairs = {
        field.name: (getattr(before, field.name), getattr(after, field.name))
        for field in dataclasses.fields(Settings)
    }
    return {
        name: f"{name} was {old!r} and is now {new!r}"
        for name, (old, new) in pairs.items()
        if old != new
    }


def _make_plain(settings: Settings | RunOptions) -> None:
    """Replace NumPy and JAX numbers by Python numbers and lists by tuples, for JSON."""
    # The dataclass is frozen, and this runs while it is being made.
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        value = tuple(map(plain, value)) if isinstance(value, tuple | list) else plain(value)
        object.__setattr__(settings, field.name, value)


_HINTS = get_type_hints(Settings)
_BOUNDS: dict[str, dict[str, Any]] = {
    "total_timesteps": {"low": 1, "high": MAX_STEPS},
    "seed": {"low": 0},
    "eval_episodes": {"low": 0, "high": MAX_EPISODES},
    "hidden": {"low": 1},
    "lstm_size": {"low": 1},
    "learning_rate": {"low": 0.0},
    "rmsprop_decay": {"low": 0.0, "high": 1.0},
    "rmsprop_eps": {"above": 0.0},
    "momentum": {"low": 0.0, "high": 1.0},
}
"""Ranges, as arguments of `check_integer` and `check_number`, that no part of a run checks."""
_KINDS = {int: "integers", float: "numbers", str: "strings"}
"""Names of the entries of a tuple in error messages."""


def _check_type(name: str, hint: Any, value: Any) -> None:
    """Check a value against the type annotation of its field."""
    # `T | None`: None is valid, and anything else is checked as T.
    if type(None) in get_args(hint):
        if value is None:
            return
        (hint,) = (kind for kind in get_args(hint) if kind is not type(None))

    # One check per kind of annotation.
    if hint is bool:
        check_boolean(name, value)
    elif hint is int:
        check_integer(name, value, **_BOUNDS.get(name, {"low": 1, "high": MAX_STEPS}))
    elif hint is str:
        check_string(name, value)
    elif get_origin(hint) is Literal:
        check_choice(name, value, get_args(hint))
    elif get_origin(hint) is tuple:
        entry = get_args(hint)[0]
        check_tuple(name, value, _KINDS[entry])
        for one in value:
            _check_type(name, entry, one)
    else:
        check_number(name, value, **_BOUNDS.get(name, {}))


FOREIGN = {
    "synchronous": (
        "the asynchronous methods",
        ("num_workers", "stop_at_episode_end", "lock", "worker_timeout"),
    ),
    "value-based": (
        "the actor-critic methods",
        (
            "gae_lambda",
            "ent_coef",
            "normalize_advantages",
            "shared_trunk",
            "variance",
            "initial_stddev",
        ),
    ),
    "actor-critic": (
        "the value-based methods",
        (
            "target_update_interval",
            "epsilon_anneal_steps",
            "final_epsilons",
            "final_epsilon_probabilities",
            "double_q",
            "huber_delta",
            "dueling",
        ),
    ),
}
"""For each kind of method: the settings it does not use, and the methods that do."""
POLICIES = {"value-based": ("greedy", "epsilon-greedy"), "actor-critic": ("greedy", "sampled")}
"""Policies with which each kind of method is evaluated."""


def resolve(method: str, env_id: str, **overrides: Any) -> Settings:
    """Return the settings of a run.

    The method's defaults are replaced by the settings of the preset, if there is one, and these by
    `overrides`.

    Args:
      method: a name in `METHODS`.
      env_id: environment id, such as `gymnax:CartPole-v1`.
      **overrides: fields of `Settings`.

    Returns:
      The settings.

    Raises:
      InputError: if the method or a field is unknown, or a value is invalid.
    """
    check_choice("method", method, METHODS)
    check_string("env", env_id)
    names = [field.name for field in dataclasses.fields(Settings)]
    for name in overrides:
        check_choice("a setting", name, names)

    # Later values replace earlier ones.
    preset = preset_of(method, env_id)
    settings = Settings(
        **{**METHODS[method].defaults, **(preset.settings if preset else {}), **overrides}
    )
    check_method(method, settings)
    return settings


def check_method(method: str, settings: Settings) -> None:
    """Check that settings fit the method.

    Args:
      method: a name in `METHODS`.
      settings: settings of a run with that method.

    Raises:
      InputError: if a setting that the method does not use differs from its default, `eval_policy`
        is not a policy of the method, or `eval_max_steps` is less than one step per game.
    """
    check_choice("method", method, METHODS)
    if not isinstance(settings, Settings):
        raise InputError(
            f"settings must be Settings, as `resolve` gives them, got {shown(settings)}"
        )

    # Refuse settings of other kinds of methods.
    kinds = (METHODS[method].runner, kind_of(method))
    for kind in kinds:
        whose, names = FOREIGN.get(kind, ("", ()))
        for name in names:
            value = getattr(settings, name)
            if value != getattr(Settings, name):
                raise InputError(
                    f"{name} is a setting of {whose}; {method} is {kind}; leave it out, got "
                    f"{shown(value)}"
                )

    # The evaluation plays each episode once with every policy.
    policies = POLICIES[kind_of(method)]
    check_choice(f"eval_policy of {method}", settings.eval_policy, policies)

    # A limit below one step per game would leave games without a step.
    games = len(policies) * settings.eval_episodes
    if settings.eval_max_steps is not None and settings.eval_max_steps < games:
        raise InputError(
            f"eval_max_steps must be at least {games}, one step for each game (eval_episodes="
            f"{settings.eval_episodes} times {len(policies)} policies), got "
            f"{settings.eval_max_steps}"
        )


def check_options(settings: Settings, options: RunOptions) -> None:
    """Check that options fit the settings of a run.

    Args:
      settings: settings of the run.
      options: options of the run.

    Raises:
      InputError: if `eval_interval` is set and `eval_episodes` is 0.
    """
    if options.eval_interval is not None and settings.eval_episodes == 0:
        raise InputError(
            f"eval_interval={options.eval_interval} needs eval_episodes of at least 1, got 0; "
            "leave one of them out"
        )


def kind_of(method: str) -> str:
    """Return `"value-based"` or `"actor-critic"`, the keys of `POLICIES`."""
    return "value-based" if METHODS[method].value_based else "actor-critic"
