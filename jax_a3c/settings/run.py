"""Resolve the settings of a run from the method's defaults, the preset and the user's values."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jax_a3c.checks import (
    MAX_EPISODES,
    MAX_STEPS,
    check_boolean,
    check_choice,
    check_integer,
    check_number,
    check_string,
)
from jax_a3c.errors import InputError
from jax_a3c.messages import shown
from jax_a3c.settings.methods import (
    METHODS,
    ActorCriticNetworkConfig,
    OptimizerConfig,
    QNetworkConfig,
    Settings,
    make_plain,
)
from jax_a3c.settings.presets import preset_of

__all__ = [
    "RunOptions",
    "Settings",
    "check_method",
    "check_names",
    "check_options",
    "check_unused",
    "differences",
    "resolve",
    "stored_settings",
]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of a run that do not change what it learns.

    Attributes:
      quiet: whether to hide the progress bar.
      tensorboard: whether to write TensorBoard events too; needs the extra `tensorboard`.
      wandb: whether to log to Weights & Biases too; needs the extra `wandb`. The variable
        WANDB_MODE=offline keeps the log in the run directory.
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
    wandb: bool = False
    checkpoint_interval: float = 60.0
    keep_checkpoints: int = 3
    eval_interval: int | None = None

    def __post_init__(self) -> None:
        """Check types and ranges."""
        check_boolean("quiet", self.quiet)
        check_boolean("tensorboard", self.tensorboard)
        check_boolean("wandb", self.wandb)
        check_number("checkpoint_interval", self.checkpoint_interval, above=0.0)
        check_integer("keep_checkpoints", self.keep_checkpoints, 1, MAX_EPISODES)
        if self.eval_interval is not None:
            check_integer("eval_interval", self.eval_interval, 1, MAX_STEPS)
        make_plain(self)


def resolve(method: str, env_id: str, **overrides: Any) -> Settings:
    """Return the settings of a run.

    The method's defaults are replaced by the settings of the preset, if there is one, and these by
    `overrides`.

    Args:
      method: a name in `METHODS`.
      env_id: environment id, such as `gymnax:CartPole-v1`.
      **overrides: fields of the method's settings.

    Returns:
      The settings, of the class `METHODS[method].settings`.

    Raises:
      InputError: if the method or a field is unknown, or a value is invalid.
    """
    check_choice("method", method, METHODS)
    check_string("env", env_id)
    check_names(method, overrides)

    # Later values replace earlier ones.
    preset = preset_of(method, env_id)
    values = {**(preset.settings if preset else {}), **overrides}
    return METHODS[method].settings(**values)


def stored_settings(method: str, stored: Mapping[str, Any]) -> Settings:
    """Return settings that a run has written.

    Version 0.1 also wrote the defaults of settings that only other methods have. They are left out.

    Args:
      method: a name in `METHODS`.
      stored: value by name.

    Returns:
      The settings. A setting that is newer than the run has the method's default.

    Raises:
      InputError: if the method or a name is unknown, or a value is invalid.
    """
    check_choice("method", method, METHODS)
    for name in stored:
        check_choice("a setting", name, _all_names())
    names = METHODS[method].fields
    return METHODS[method].settings(
        **{name: value for name, value in stored.items() if name in names}
    )


def check_method(method: str, settings: Settings) -> None:
    """Check that settings belong to the method.

    Args:
      method: a name in `METHODS`.
      settings: settings of a run with that method.

    Raises:
      InputError: if the method is unknown, or the settings are not of its class.
    """
    check_choice("method", method, METHODS)
    wanted = METHODS[method].settings
    if not isinstance(settings, wanted):
        raise InputError(
            f"settings must be {wanted.__name__}, as resolve({method!r}, ...) gives them, got "
            f"{shown(settings)}"
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


def check_unused(names: Iterable[str], own_parts: Iterable[str]) -> None:
    """Check that no given setting describes a part that the user hands in.

    Args:
      names: names of the settings that the user gives.
      own_parts: names of the parts that the user hands in.

    Raises:
      InputError: if a setting would have no effect.
    """
    described = {
        "network": (ActorCriticNetworkConfig, QNetworkConfig),
        "optimizer": (OptimizerConfig,),
    }
    for part in own_parts:
        fields = {f.name for config in described.get(part, ()) for f in dataclasses.fields(config)}
        if unused := sorted(fields.intersection(names)):
            raise InputError(
                f"{', '.join(unused)} would have no effect, because {part} is given; leave one out"
            )


def differences(before: Settings, after: Settings) -> dict[str, str]:
    """Return a phrase for each setting that differs, with both values, by name."""
    pairs = {
        field.name: (getattr(before, field.name), getattr(after, field.name))
        for field in dataclasses.fields(before)
    }
    return {
        name: f"{name} was {old!r} and is now {new!r}"
        for name, (old, new) in pairs.items()
        if old != new
    }


def check_names(method: str, given: Mapping[str, Any]) -> None:
    """Check that a method has the given settings.

    Args:
      method: a name in `METHODS`.
      given: value by name.

    Raises:
      InputError: if a name is unknown, or only other methods have it. The message names them.
    """
    for name, value in given.items():
        if name in METHODS[method].fields:
            continue
        check_choice("a setting", name, _all_names())
        raise InputError(
            f"{name} is not a setting of {method}, but of {methods_with(name)}; leave it out, got "
            f"{shown(value)}"
        )


def methods_with(name: str) -> str:
    """Return the names of the methods that have a setting, as a phrase."""
    return ", ".join(method for method, entry in METHODS.items() if name in entry.fields)


def _all_names() -> list[str]:
    """Return the names of the settings of all methods, each once."""
    return list(dict.fromkeys(name for entry in METHODS.values() for name in entry.fields))
