"""All settings of a run, resolved from the method's defaults, the preset, and what the user gave."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from jax_a3c.checks import (
    MAX_EPISODES,
    MAX_STEPS,
    InputError,
    check_boolean,
    check_choice,
    check_integer,
    check_number,
    check_string,
    check_tuple,
    plain,
    shown,
)
from jax_a3c.methods import METHODS
from jax_a3c.presets import preset_of


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that the result of a run depends on.

    Attributes:
      total_timesteps: environment steps to train for, those of all environments and workers together.
      seed: of all random numbers.
      env_options: settings of the environment, NAME=VALUE, such as repeat_action_probability=0.25 (sticky
        actions), full_action_space=true or episodic_life=true of Atari games.
      num_envs: environments that step together; for an asynchronous method those of each worker.
      num_steps: steps of each environment between two updates, the paper's t_max.
      num_workers: threads of an asynchronous method.
      stop_at_episode_end: asynchronous: a segment ends with the episode, as in the paper.
      lock: asynchronous: reads and updates of the shared parameters exclude each other.
      worker_timeout: asynchronous: seconds after which a segment counts as hung; None waits for ever.
      auto_reset: start states, one per environment and rollout (pooled) or per step (exact).
      learning_rate: at the start.
      lr_schedule: linear, to 0 at total_timesteps, or constant.
      optimizer: shared-rmsprop is the paper's; rmsprop and momentum-sgd, which it compares with, and adam
        keep their statistics per worker.
      rmsprop_decay: decay of the mean squared gradient, the paper's alpha.
      rmsprop_eps: epsilon inside the root.
      momentum: of momentum-sgd, damped by 1 - momentum.
      max_grad_norm: bound of the gradient's global norm; None for none.
      gamma: discount per environment step.
      gae_lambda: actor-critic: lambda of the advantages; 1 gives the paper's n-step returns.
      ent_coef: actor-critic: weight of the entropy.
      normalize_advantages: actor-critic: to mean 0 and deviation 1 in each rollout.
      target_update_interval: value-based: environment steps, of all workers, between two copies of the
        parameters to the target network.
      epsilon_anneal_steps: value-based: environment steps, of all workers, over which epsilon falls from 1.
      final_epsilons: value-based: where epsilon ends; each environment of each worker draws one of them.
      final_epsilon_probabilities: value-based: of drawing each of them.
      double_q: value-based: the online network chooses the action that the target network values.
      huber_delta: value-based: error from which the loss grows linearly; None for the plain square.
      vf_coef: weight of the value loss 0.5 (R - V)^2 or 0.5 (R - Q)^2.
      loss_reduction: over the steps of a rollout.
      reward_scale: factor on the rewards that the learner sees; scores are unscaled.
      reward_clip: bound on their magnitude; None for none.
      normalize_observations: by their running mean and deviation.
      normalize_rewards: by the running deviation of their discounted sum.
      network: the torso.
      hidden: units of the layers of an mlp.
      lstm: an LSTM after the torso.
      lstm_size: its units.
      shared_trunk: actor-critic: policy and value function share all but their last layers.
      variance: actor-critic: of a continuous policy; scalar is the paper's.
      initial_stddev: actor-critic: standard deviation of a continuous policy with variance=parameter at the
        start, in policy units: a deviation of 1 reaches from the middle of the action's range to its bounds.
      dueling: value-based: the network adds a state value and advantages up to action values.
      init: of the weights; torch is the paper's.
      eval_episodes: episodes of the evaluation at the end, at most 1e6, for each policy: greedy and sampled
        for actor-critic methods, greedy and epsilon-greedy (0.05) for value-based ones. 0 for no evaluation.
      eval_max_steps: environment steps of an evaluation, of which each game of each policy gets an equal
        share; a game that takes longer is cut, and counted in eval_episodes_cut. None for a tenth of
        total_timesteps, but at least 3,000 steps per game: few tasks but Atari have longer ones.
      eval_policy: the one of them whose evaluation counts as the run's result.
    """

    total_timesteps: int = 500_000
    seed: int = 0
    env_options: tuple[str, ...] = ()
    num_envs: int = 16
    num_steps: int = 5
    num_workers: int = 1
    stop_at_episode_end: bool = False
    lock: bool = False
    worker_timeout: float | None = 300.0
    auto_reset: Literal["pooled", "exact"] = "pooled"
    learning_rate: float = 7e-4
    lr_schedule: Literal["linear", "constant"] = "linear"
    optimizer: Literal["shared-rmsprop", "rmsprop", "momentum-sgd", "adam"] = "shared-rmsprop"
    rmsprop_decay: float = 0.99
    rmsprop_eps: float = 1e-5
    momentum: float = 0.99
    max_grad_norm: float | None = 0.5
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
    network: Literal["mlp", "minatar", "mnih2013", "nature"] = "mlp"
    hidden: tuple[int, ...] = (64, 64)
    lstm: bool = False
    lstm_size: int = 256
    shared_trunk: bool = True
    variance: Literal["parameter", "scalar", "per_dimension"] = "parameter"
    initial_stddev: float = 1.0
    dueling: bool = False
    init: Literal["orthogonal", "torch"] = "orthogonal"
    eval_episodes: int = 100
    eval_max_steps: int | None = None
    eval_policy: Literal["greedy", "sampled", "epsilon-greedy"] = "greedy"

    def __post_init__(self) -> None:
        """Refuse what no run can use: wrong types, and ranges; the parts check those that are theirs."""
        for name, hint in _HINTS.items():
            _check_type(name, hint, getattr(self, name))
        _make_plain(self)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What a run does beside training; nothing that it learns depends on it.

    Attributes:
      quiet: no progress bar.
      tensorboard: write TensorBoard events too.
      checkpoint_interval: seconds between two checkpoints, above 0; on a slow disk they take at most a
        twentieth of the time. One more is written at the end, and when the run is interrupted.
      keep_checkpoints: how many of the newest ones are kept, beside the best.
      eval_interval: environment steps between two evaluations during training; None for none but that at the
        end. Each of them may take as many steps as that at the end. The checkpoint with the highest result is
        kept as the best.
    """

    quiet: bool = False
    tensorboard: bool = False
    checkpoint_interval: float = 60.0
    keep_checkpoints: int = 3
    eval_interval: int | None = None

    def __post_init__(self) -> None:
        """Refuse wrong types and ranges."""
        check_boolean("quiet", self.quiet)
        check_boolean("tensorboard", self.tensorboard)
        check_number("checkpoint_interval", self.checkpoint_interval, above=0.0)
        check_integer("keep_checkpoints", self.keep_checkpoints, 1, MAX_EPISODES)
        if self.eval_interval is not None:
            check_integer("eval_interval", self.eval_interval, 1, MAX_STEPS)
        _make_plain(self)


def differences(before: Settings, after: Settings) -> dict[str, str]:
    """The names of the settings that differ, each with what it was and is."""
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
    """Numbers of Python for those of NumPy and JAX, tuples for lists: JSON may store them."""
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
"""Arguments of `check_integer` and `check_number` for what no configuration of a part checks."""
_KINDS = {int: "integers", float: "numbers", str: "strings"}


def _check_type(name: str, hint: Any, value: Any) -> None:
    """Refuse a value that is not of the type that its annotation says."""
    if type(None) in get_args(hint):
        if value is None:
            return
        (hint,) = (kind for kind in get_args(hint) if kind is not type(None))

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
            *("target_update_interval", "epsilon_anneal_steps", "final_epsilons"),
            *("final_epsilon_probabilities", "double_q", "huber_delta", "dueling"),
        ),
    ),
}
"""For each kind of method: whose settings it has no use for, and their names."""
POLICIES = {"value-based": ("greedy", "epsilon-greedy"), "actor-critic": ("greedy", "sampled")}
"""What each kind of method is evaluated with."""


def resolve(method: str, env_id: str, **overrides: Any) -> Settings:
    """Settings of a run: the method's defaults, then the preset's, then the user's.

    Args:
      method: a name of `METHODS`.
      env_id: such as `gymnax:CartPole-v1`.
      **overrides: fields of `Settings`.

    Returns:
      The settings.

    Raises:
      InputError: if the method or a field is unknown, or a value is refused.
    """
    check_choice("method", method, METHODS)
    check_string("env", env_id)
    names = [field.name for field in dataclasses.fields(Settings)]
    for name in overrides:
        check_choice("a setting", name, names)
    preset = preset_of(method, env_id)
    settings = Settings(
        **{**METHODS[method].defaults, **(preset.settings if preset else {}), **overrides}
    )
    check_method(method, settings)
    return settings


def check_method(method: str, settings: Settings) -> None:
    """Refuse settings that contradict the method.

    Args:
      method: a name of `METHODS`.
      settings: of a run with that method.

    Raises:
      InputError: if a setting differs from its default that the method has no use for, or `eval_max_steps`
        has not a step for each game.
    """
    check_choice("method", method, METHODS)
    if not isinstance(settings, Settings):
        raise InputError(
            f"settings must be Settings, as `resolve` gives them, got {shown(settings)}"
        )
    kinds = (METHODS[method].runner, kind_of(method))
    for kind in kinds:
        whose, names = FOREIGN.get(kind, ("", ()))
        for name in names:
            value = getattr(settings, name)
            if value != getattr(Settings, name):
                raise InputError(
                    f"{name} is a setting of {whose}; {method} is {kind}: leave it out, got {shown(value)}"
                )
    policies = POLICIES[kind_of(method)]
    check_choice(f"eval_policy of {method}", settings.eval_policy, policies)
    games = len(policies) * settings.eval_episodes
    if settings.eval_max_steps is not None and settings.eval_max_steps < games:
        raise InputError(
            f"eval_max_steps must be at least {games}, a step for each game of eval_episodes="
            f"{settings.eval_episodes} times {len(policies)} policies, got {settings.eval_max_steps}"
        )


def check_options(settings: Settings, options: RunOptions) -> None:
    """Refuse options that contradict the settings of a run.

    Args:
      settings: of the run.
      options: what it does besides training.

    Raises:
      InputError: if evaluations during training are asked for, and none of them has an episode.
    """
    if options.eval_interval is not None and settings.eval_episodes == 0:
        raise InputError(
            f"eval_interval={options.eval_interval} needs eval_episodes of at least 1, got 0: leave one of "
            "them out"
        )


def kind_of(method: str) -> str:
    """`"value-based"` or `"actor-critic"`, the keys of `POLICIES`."""
    return "value-based" if METHODS[method].value_based else "actor-critic"
