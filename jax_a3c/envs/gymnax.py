"""Adapter for gymnax (>= 1.0.1): environments written in JAX, stepped inside the jitted program."""

import dataclasses
import difflib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_a3c.checks import InputError
from jax_a3c.envs.base import ActionSpace, Box, Discrete, EnvSpec, UnknownEnvironmentError
from jax_a3c.types import Array, TimeStep

EXCLUDED = frozenset({"MNISTBandit-bsuite"})
"""Registered, but fetches its data set from the network when it is built."""


class GymnaxEnvironment:
    """One gymnax environment as the pure functions `reset` and `step`, without auto-reset.

    Attributes:
      spec: its description. Observation shape and dtype are those that the environment really returns;
        what it declares differs in places (Catch declares int32 and returns float32).
    """

    def __init__(self, name: str, env: Any, params: Any):
        self._env = env
        self._params = params
        self._structure = jax.eval_shape(lambda key: env.reset_env(key, params), jax.random.key(0))
        observation = self._structure[0]
        declared = env.observation_space(params)
        self.spec = EnvSpec(
            id=f"gymnax:{name}",
            observation_shape=observation.shape,
            observation_dtype=observation.dtype,
            action_space=_action_space(name, env.action_space(params)),
            max_episode_steps=int(params.max_steps_in_episode),
            num_categories=declared.n if type(declared).__name__ == "Discrete" else None,
        )

    def reset(self, key: Array) -> tuple[Any, Array]:
        """Start an episode: `key -> (state, observation)`."""
        observation, state = _cast(self._env.reset_env(key, self._params), self._structure)
        return state, observation

    def step(self, key: Array, state: Any, action: Array) -> tuple[Any, TimeStep]:
        """Act once; a real-valued action is clipped to the bounds of its space."""
        space = self.spec.action_space
        if isinstance(space, Box):
            action = jnp.clip(action, jnp.array(space.low), jnp.array(space.high))
        # `step_env` and `is_truncated` are gymnax' step less its auto-reset, which resets every
        # environment on every step.
        observation, state, reward, terminated, _ = self._env.step_env(key, state, action, self._params)
        truncated = self._env.is_truncated(state, self._params)
        observation, state = _cast((observation, state), self._structure)
        reward = jnp.asarray(reward, jnp.float32).reshape(())
        return state, TimeStep(
            observation, reward, jnp.asarray(terminated, bool), jnp.asarray(truncated, bool)
        )


def available() -> list[str]:
    """Names of the environments that gymnax has registered and that can be built here."""
    import gymnax

    return sorted(set(gymnax.registered_envs) - EXCLUDED)


def make(name: str, **options: Any) -> GymnaxEnvironment:
    """Build the environment `name`; `options` replace fields of its gymnax parameters."""
    import gymnax

    if name not in available():
        raise UnknownEnvironmentError(name)
    env, params = gymnax.make(name)
    fields = [field.name for field in dataclasses.fields(params)]
    for option in options:
        if option not in fields:
            near = difflib.get_close_matches(option, fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(fields)}"
            raise InputError(f"'gymnax:{name}' has no setting {option!r}; {hint}")
    return GymnaxEnvironment(name, env, dataclasses.replace(params, **options))


def _action_space(name: str, space: Any) -> ActionSpace:
    """The protocol's action space for gymnax' one."""
    kind = type(space).__name__
    if kind == "Discrete":
        return Discrete(num_actions=int(space.n))
    if kind == "Box" and len(space.shape) == 1:
        low, high = (np.broadcast_to(np.asarray(b, float), space.shape) for b in (space.low, space.high))
        return Box(low=tuple(low.tolist()), high=tuple(high.tolist()))
    raise InputError(
        f"'gymnax:{name}' has the action space {space!r}; supported are Discrete and Box of one axis"
    )


def _cast(tree: Any, structure: Any) -> Any:
    """Give each leaf the dtype that it has after a reset: a loop's state must not change its type."""
    return jax.tree.map(lambda leaf, like: jnp.asarray(leaf, like.dtype), tree, structure)
