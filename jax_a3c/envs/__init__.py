"""Environments by name: `make("gymnax:CartPole-v1")`."""

import difflib
from typing import Any

from jax_a3c.checks import InputError
from jax_a3c.envs import gymnax
from jax_a3c.envs.base import ActionSpace, Box, Discrete, EnvSpec, JaxEnvironment

__all__ = ["ActionSpace", "Box", "Discrete", "EnvSpec", "JaxEnvironment", "available", "make"]

BACKENDS = {"gymnax": gymnax}
"""Adapters by the part of the id before the colon; each has `available()` and `make(name, **options)`."""


def available() -> list[str]:
    """Ids of all environments that `make` builds here, sorted within each backend."""
    return [f"{backend}:{name}" for backend, adapter in BACKENDS.items() for name in adapter.available()]


def make(env_id: str, /, **options: Any) -> JaxEnvironment:
    """Build an environment from its id.

    Args:
      env_id: `backend:name`, for example `gymnax:CartPole-v1`. `available()` lists them.
      **options: settings of that environment; for gymnax the fields of its parameters, such as
        `max_steps_in_episode`.

    Returns:
      The environment, with its description in `.spec`.

    Raises:
      InputError: if the id or an option is unknown; the message holds the nearest matches.

    Example:
      >>> make("gymnax:CartPole-v1").spec.action_space
      Discrete(num_actions=2)
    """
    backend, _, name = env_id.partition(":")
    if backend not in BACKENDS or name not in BACKENDS[backend].available():
        raise InputError(f"unknown environment {env_id!r}; {_suggestion(env_id)}")
    return BACKENDS[backend].make(name, **options)


def _suggestion(env_id: str) -> str:
    """What the user may have meant: the nearest ids, compared without regard to case."""
    by_lower_case = {known.lower(): known for known in available()}
    candidates = [env_id.lower(), *(f"{backend}:{env_id}".lower() for backend in BACKENDS)]
    matches = [m for c in candidates for m in difflib.get_close_matches(c, by_lower_case, n=3, cutoff=0.6)]
    if not matches:
        return "`jax-a3c envs` lists those that can be made"
    return "did you mean " + ", ".join(repr(by_lower_case[m]) for m in dict.fromkeys(matches)) + "?"
