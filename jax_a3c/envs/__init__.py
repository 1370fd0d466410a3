"""Environments by name: `make("gymnax:CartPole-v1")`."""

from typing import Any

from jax_a3c.checks import InputError, check_string, shown
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
"""Adapters by the part of the id before the colon; each has `available()` and `make(name, **options)`."""


def available() -> list[str]:
    """Ids that `make` builds here, sorted within each backend; those of a missing library are left out."""
    return [f"{backend}:{name}" for backend in BACKENDS for name in BACKENDS[backend].available()]


def make(env_id: str, /, **options: Any) -> JaxEnvironment | HostFactory:
    """Build an environment from its id.

    Args:
      env_id: `backend:name`, for example `gymnax:CartPole-v1`, `envpool:Pong-v5`, `gymnasium:LunarLander-v3`,
        or `gymnasium:module:Id-v0` for one that `module` registers. `available()` lists them.
      **options: settings of that environment: for gymnax the fields of its parameters, such as
        `max_steps_in_episode`; for envpool those of its configuration; for Gymnasium what the environment's
        constructor takes, and `max_episode_steps`. `help()` on `make` in `jax_a3c.envs.envpool` and
        `jax_a3c.envs.gymnasium` names those of the adapters.

    Returns:
      For gymnax the environment, two pure functions. For the others a factory: each of its
      `make(num_envs, seed=...)` starts environments that step together on the host. Both describe the
      environment in `.spec`.

    Raises:
      InputError: if the id or an option is unknown, the message holds the nearest matches; if the library is
        not installed, it says how to install it.

    Example:
      >>> make("gymnax:CartPole-v1").spec.action_space
      Discrete(num_actions=2)
    """
    check_string("env", env_id)
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
    """What the user may have meant: the nearest ids, compared without regard to case."""
    wanted = env_id.rpartition(":")[2]
    ids_by_name: dict[str, list[str]] = {}
    for backend in backends:
        for name in BACKENDS[backend].available():
            ids_by_name.setdefault(name, []).append(f"{backend}:{name}")

    matches = nearest_names(wanted, ids_by_name)
    if not matches:
        return "`jax-a3c envs` lists those that can be made"
    return (
        f"did you mean {', '.join(repr(near) for match in matches for near in ids_by_name[match])}?"
    )
