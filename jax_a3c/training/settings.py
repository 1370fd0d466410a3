"""All settings of a run, resolved from the method's defaults, the preset, and what the user gave."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from jax_a3c.checks import InputError, check_boolean, check_choice, check_integer, check_number
from jax_a3c.methods import METHODS
from jax_a3c.presets import PRESETS


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that the result of a run depends on.

    Attributes:
      total_timesteps: environment steps to train for, those of all environments and workers together.
      seed: of all random numbers.
      num_envs: environments that step together; for an asynchronous method those of each worker.
      num_steps: steps of each environment between two updates, the paper's t_max.
      num_workers: threads of an asynchronous method.
      stop_at_episode_end: asynchronous: a segment ends with the episode, as in the paper.
      lock: asynchronous: reads and updates of the shared parameters exclude each other.
      auto_reset: start states, one per environment and rollout (pooled) or per step (exact).
      learning_rate: at the start.
      lr_schedule: linear, to 0 at total_timesteps, or constant.
      optimizer: shared-rmsprop is the paper's; adam keeps its moments per worker.
      rmsprop_decay: decay of the mean squared gradient, the paper's alpha.
      rmsprop_eps: epsilon inside the root.
      max_grad_norm: bound of the gradient's global norm; None for none.
      gamma: discount per environment step.
      gae_lambda: lambda of the advantages; 1 gives the paper's n-step returns.
      ent_coef: weight of the entropy.
      vf_coef: weight of the value loss 0.5 (R - V)^2.
      loss_reduction: over the steps of a rollout.
      normalize_advantages: to mean 0 and deviation 1 in each rollout.
      reward_scale: factor on the rewards that the learner sees; scores are unscaled.
      reward_clip: bound on their magnitude; None for none.
      network: the torso.
      hidden: units of the layers of an mlp.
      lstm: an LSTM after the torso.
      lstm_size: its units.
      shared_trunk: policy and value function share all but their last layers.
      variance: of a continuous policy; scalar is the paper's.
      init: of the weights; torch is the paper's.
      eval_episodes: complete episodes of the evaluation at the end, for each of greedy and sampled actions.
      eval_policy: the actions whose evaluation counts as the run's result.
    """

    total_timesteps: int = 500_000
    seed: int = 0
    num_envs: int = 16
    num_steps: int = 5
    num_workers: int = 1
    stop_at_episode_end: bool = False
    lock: bool = False
    auto_reset: Literal["pooled", "exact"] = "pooled"
    learning_rate: float = 7e-4
    lr_schedule: Literal["linear", "constant"] = "linear"
    optimizer: Literal["shared-rmsprop", "adam"] = "shared-rmsprop"
    rmsprop_decay: float = 0.99
    rmsprop_eps: float = 1e-5
    max_grad_norm: float | None = 0.5
    gamma: float = 0.99
    gae_lambda: float = 1.0
    ent_coef: float = 0.01
    vf_coef: float = 1.0
    loss_reduction: Literal["sum", "mean"] = "mean"
    normalize_advantages: bool = False
    reward_scale: float = 1.0
    reward_clip: float | None = None
    network: Literal["mlp", "minatar", "mnih2013", "nature"] = "mlp"
    hidden: tuple[int, ...] = (64, 64)
    lstm: bool = False
    lstm_size: int = 256
    shared_trunk: bool = True
    variance: Literal["parameter", "scalar", "per_dimension"] = "parameter"
    init: Literal["orthogonal", "torch"] = "orthogonal"
    eval_episodes: int = 100
    eval_policy: Literal["greedy", "sampled"] = "greedy"

    def __post_init__(self) -> None:
        """Refuse what no run can use; the runners check the settings that are theirs."""
        for name in ("total_timesteps", "num_envs", "num_steps", "num_workers", "lstm_size", "eval_episodes"):
            check_integer(name, getattr(self, name), 1)
        check_integer("seed", self.seed, 0)
        check_number("seed", self.seed, 0, 2**31 - 1)
        for name in ("stop_at_episode_end", "lock", "normalize_advantages", "lstm", "shared_trunk"):
            check_boolean(name, getattr(self, name))
        check_number("learning_rate", self.learning_rate, 0.0)
        check_number("rmsprop_decay", self.rmsprop_decay, 0.0, 1.0)
        check_number("rmsprop_eps", self.rmsprop_eps, above=0.0)
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        for units in self.hidden:
            check_integer("hidden", units, 1)


_CHOICES = {
    name: get_args(hint) for name, hint in get_type_hints(Settings).items() if get_origin(hint) is Literal
}

SYNCHRONOUS = {"num_workers": 1, "stop_at_episode_end": False, "lock": False}
"""What the settings of the asynchronous runner are for the synchronous one, which has no use for others."""


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
    names = [field.name for field in dataclasses.fields(Settings)]
    for name in overrides:
        check_choice("a setting", name, names)
    preset = PRESETS.get((method, env_id))
    settings = Settings(**{**METHODS[method].defaults, **(preset.settings if preset else {}), **overrides})
    check_method(method, settings)
    return settings


def check_method(method: str, settings: Settings) -> None:
    """Refuse settings that contradict the method.

    Args:
      method: a name of `METHODS`.
      settings: of a run with that method.

    Raises:
      InputError: if a setting of the asynchronous runner is given to a synchronous method.
    """
    check_choice("method", method, METHODS)
    if METHODS[method].runner == "asynchronous":
        return
    for name, neutral in SYNCHRONOUS.items():
        if getattr(settings, name) != neutral:
            raise InputError(
                f"{name} is a setting of the asynchronous methods; {method} is synchronous: leave it out"
            )
