"""The protocol of environments: a description and two pure functions."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jax_a3c.types import Array, TimeStep


@dataclass(frozen=True, kw_only=True)
class Discrete:
    """Actions 0, 1, ..., num_actions - 1."""

    num_actions: int


@dataclass(frozen=True, kw_only=True)
class Box:
    """Real action vectors of `size` entries between `low` and `high`, tuples of floats."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def size(self) -> int:
        """Number of entries of an action vector, A."""
        return len(self.low)


ActionSpace = Discrete | Box


@dataclass(frozen=True, kw_only=True)
class EnvSpec:
    """What a network and a runner must know of an environment.

    Attributes:
      id: the name that `envs.make` takes, such as `gymnax:CartPole-v1`.
      observation_shape: shape of one observation.
      observation_dtype: dtype of one observation.
      action_space: `Discrete` or `Box`.
      max_episode_steps: the time limit in environment steps, None if there is none.
      num_categories: the observation is one of this many integers; None for real-valued ones.
    """

    id: str
    observation_shape: tuple[int, ...]
    observation_dtype: Any
    action_space: ActionSpace
    max_episode_steps: int | None = None
    num_categories: int | None = None


@runtime_checkable
class JaxEnvironment(Protocol):
    """One environment as pure functions. The rollouts `vmap` it and reset it; it never resets itself."""

    spec: EnvSpec

    def reset(self, key: Array) -> tuple[Any, Array]:
        """Start an episode: `key -> (state, observation)`."""

    def step(self, key: Array, state: Any, action: Array) -> tuple[Any, TimeStep]:
        """Act once. At the end of an episode the observation is the final one."""
