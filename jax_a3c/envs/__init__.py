"""Make environments by name, for example `make("gymnax:CartPole-v1")`."""

from typing import Any

from jax_a3c.checks import check_string
from jax_a3c.envs import envpool, gymnasium, gymnax
from jax_a3c.envs.base import (
    ActionSpace,
    Box,
    Discrete,
    DrawableEnvironment,
    DrawableFactory,
    EnvSpec,
    HostEnvironment,
    HostEnvironmentError,
    HostFactory,
    HostStep,
    JaxEnvironment,
    RenderedEnvironment,
    UnknownEnvironmentError,
)
from jax_a3c.envs.host import nearest_names
from jax_a3c.errors import InputError
from jax_a3c.messages import shown

__all__ = [
    "ActionSpace",
    "Box",
    "Discrete",
    "DrawableEnvironment",
    "DrawableFactory",
    "EnvSpec",
    "HostEnvironment",
    "HostEnvironmentError",
    "HostFactory",
    "HostStep",
    "JaxEnvironment",
    "RenderedEnvironment",
    "available",
    "make",
]

BACKENDS: dict[str, Any] = {"gymnax": gymnax, "envpool": envpool, "gymnasium": gymnasium}
"""Adapters by the prefix of the id. Each has `available()` and `make(name, **options)`."""


def available() -> list[str]:
    """List the ids that `make` can build with the installed libraries, sorted in each backend."""
    return [f"{backend}:{name}" for backend in BACKENDS for name in BACKENDS[backend].available()]


def make(env_id: str, /, **options: Any) -> JaxEnvironment | HostFactory:
    """Make an environment from its id.

    Args:
      env_id: `backend:name`, for example `gymnax:CartPole-v1`, `envpool:Pong-v5`,
        `gymnasium:LunarLander-v3`, or `gymnasium:module:Id-v0` for an environment that the Python
        module `module` registers. `available()` lists the ids.
      **options: settings of the environment. For gymnax these are the fields of its parameters,
        such as `max_steps_in_episode`; for envpool the settings of its configuration; for Gymnasium
        the arguments of the environment's constructor, and `max_episode_steps`. See `make` in
        `jax_a3c.envs.envpool` and `jax_a3c.envs.gymnasium` for the settings of the adapters.

    Returns:
      For gymnax, the environment as two pure functions. For envpool and Gymnasium, a factory: each
      call of its `make(num_envs, seed=...)` starts a group of host environments. Both have a
      description of the environment in `.spec`.

    Raises:
      InputError: if the id or an option is unknown, or if a library is not installed. The message
        suggests the nearest names, or the command that installs the library.

    Example:
      >>> make("gymnax:CartPole-v1").spec.action_space
      Discrete(num_actions=2)
    """
    check_string("env", env_id)

    # gymnasium:module:Id-v0 -> backend "gymnasium", name "module:Id-v0"
    backend, _, name = env_id.partition(":")
    if backend not in BACKENDS:
        raise InputError(
            f"unknown environment {shown(env_id)}; {_suggestion(env_id, tuple(BACKENDS))}"
        )

    try:
        return BACKENDS[backend].make(name, **options)
    except UnknownEnvironmentError:
        raise InputError(
            f"unknown environment {shown(env_id)}; {_suggestion(env_id, (backend,))}"
        ) from None


def _suggestion(env_id: str, backends: tuple[str, ...]) -> str:
    """Suggest the nearest ids, compared without regard to case. Return the end of a sentence."""
    wanted = env_id.rpartition(":")[2]

    # The same name may exist in several backends.
    ids_by_name: dict[str, list[str]] = {}
    for backend in backends:
        for name in BACKENDS[backend].available():
            ids_by_name.setdefault(name, []).append(f"{backend}:{name}")

    matches = nearest_names(wanted, ids_by_name)
    if not matches:
        return "`jax-a3c envs` lists the available ids"
    return (
        f"did you mean {', '.join(repr(near) for match in matches for near in ids_by_name[match])}?"
    )
