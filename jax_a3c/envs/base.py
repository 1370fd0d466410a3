"""The protocols of environments: a description, and two pure functions or a group that steps on the host."""

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from jax_a3c.checks import HostEnvironmentError as HostEnvironmentError
from jax_a3c.checks import InputError, check_integer, check_number, check_tuple, shown
from jax_a3c.types import Array, TimeStep


@dataclass(frozen=True, kw_only=True)
class Discrete:
    """Actions 0, 1, ..., num_actions - 1."""

    num_actions: int

    def __post_init__(self) -> None:
        check_integer("num_actions", self.num_actions, 1)


@dataclass(frozen=True, kw_only=True)
class Box:
    """Real action vectors of `size` entries between `low` and `high`, tuples of floats."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.low) == len(self.high) or any(
            not low <= high for low, high in zip(self.low, self.high, strict=True)
        ):
            raise InputError(
                "low and high of a Box must be as long as each other, at least 1, and low at most high, "
                f"got {shown(self.low)} and {shown(self.high)}"
            )

    @property
    def size(self) -> int:
        """Number of entries of an action vector, A."""
        return len(self.low)


ActionSpace = Discrete | Box

UNBOUNDED = 1e30
"""Magnitude from which a bound counts as infinite: libraries write the largest float32 for it."""


def to_bounds(space: ActionSpace, action: Any) -> Any:
    r"""Map an action of a policy to the action that the environment takes.

    A policy acts in units of its own. For each entry of a `Box` with two finite bounds they are [-1, 1]:

        environment's = (low + high) / 2 + (high - low) / 2 * clip(policy's, -1, 1)

    An entry with an infinite bound is only clipped. Discrete actions stay as they are. Losses see the action
    of the policy, environments the result of this function.

    Args:
      space: of the actions.
      action: `[*B]` integers for `Discrete`, `[*B, A]` reals for `Box`; an array of NumPy or JAX.

    Returns:
      The action in the units of the environment, of the same kind, shape and dtype.

    References:
      Tianshou (Weng et al., 2022), `map_action` with `action_scaling`.

    Example:
      >>> to_bounds(Box(low=(0.0, 100.0), high=(1.0, 200.0)), np.array([[0.0, -5.0]], np.float32)).tolist()
      [[0.5, 100.0]]
    """
    if isinstance(space, Discrete):
        return action

    scaling = _scaling(tuple(space.low), tuple(space.high), np.dtype(action.dtype))
    batch = (1,) * (action.ndim - 1)
    low, high, centre, half_width, smallest, largest = (x.reshape(*batch, -1) for x in scaling)

    scaled = centre + half_width * action.clip(smallest, largest)
    return scaled.clip(low, high)  # rounding may have left the bounds


class _Scaling(NamedTuple):
    """Constants of `to_bounds`, each `[A]`; `smallest` and `largest` are in units of the policy."""

    low: np.ndarray
    high: np.ndarray
    centre: np.ndarray
    half_width: np.ndarray
    smallest: np.ndarray
    largest: np.ndarray


@functools.lru_cache(maxsize=64)
def _scaling(low: tuple[float, ...], high: tuple[float, ...], dtype: np.dtype) -> _Scaling:
    """Make the constants once: host environments ask for them in each step."""
    bounded = is_bounded(Box(low=low, high=high))
    bottom = np.where(np.abs(low) < UNBOUNDED, low, -np.inf)
    top = np.where(np.abs(high) < UNBOUNDED, high, np.inf)
    with np.errstate(invalid="ignore"):  # what infinite bounds give is not used
        scaling = _Scaling(
            low=bottom,
            high=top,
            centre=np.where(bounded, (bottom + top) / 2, 0.0),
            half_width=np.where(bounded, (top - bottom) / 2, 1.0),
            smallest=np.where(bounded, -1.0, bottom),
            largest=np.where(bounded, 1.0, top),
        )
    return _Scaling(*(constant.astype(dtype) for constant in scaling))


def is_bounded(space: Box) -> np.ndarray:
    """Tell which entries of an action have two finite bounds, `[A]` bool."""
    return (np.abs(space.low) < UNBOUNDED) & (np.abs(space.high) < UNBOUNDED)


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
      observation_high: the largest value of uint8 observations, by which networks divide them; None means
        255. Other dtypes are not scaled.
    """

    id: str
    observation_shape: tuple[int, ...]
    observation_dtype: Any
    action_space: ActionSpace
    max_episode_steps: int | None = None
    num_categories: int | None = None
    observation_high: float | None = None

    def __post_init__(self) -> None:
        check_tuple(f"observation_shape of {self.id!r}", self.observation_shape, "integers")
        for size in self.observation_shape:
            check_integer(
                f"observation_shape {self.observation_shape} of {self.id!r}, each entry,", size, 1
            )
        if np.dtype(self.observation_dtype).kind in "OSUcMm":
            raise InputError(
                f"observations of {self.id!r} have the dtype {self.observation_dtype}; a network needs real "
                "numbers: convert them in the environment"
            )
        if self.num_categories is not None:
            check_integer(f"num_categories of {self.id!r}", self.num_categories, 1)
        if self.observation_high is not None:
            check_number(f"observation_high of {self.id!r}", self.observation_high, above=0.0)


@runtime_checkable
class JaxEnvironment(Protocol):
    """One environment as pure functions. The rollouts `vmap` it and reset it; it never resets itself.

    Real actions arrive within the bounds of `spec.action_space`; see `to_bounds`.
    """

    spec: EnvSpec

    def reset(self, key: Array) -> tuple[Any, Array]:
        """Start an episode: `key -> (state, observation)`."""

    def step(self, key: Array, state: Any, action: Array) -> tuple[Any, TimeStep]:
        """Act once. At the end of an episode the observation is the final one."""


class HostStep(NamedTuple):
    """What one action of each of N environments led to, as NumPy arrays of their own.

    Attributes:
      observation: `[N, ...]`. s_{t+1}, the true one: at the end of an episode it is the final observation.
      reward: `[N]` float32. r_t as the settings give it to the learner, for example clipped.
      terminated: `[N]` bool. The task ended: nothing follows, the value of s_{t+1} is 0.
      truncated: `[N]` bool. The episode was cut, by a time limit for example: bootstrap from s_{t+1}.
        Where both flags are set the episode terminated.
      ignored: `[N]` bool. This step only reset that environment: its action was ignored, its observation
        begins an episode, its reward is 0 and both flags are False. It is no transition: the learner
        masks the row. It follows every step that terminated or truncated.
      score: `[N]` float32. The reward before any clipping, 0 where ignored.
      game_over: `[N]` bool. The whole game ended, and with it the sum of the scores; where a lost life
        terminates an episode this is False at a lost life, elsewhere it is `terminated | truncated`.
    """

    observation: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    ignored: np.ndarray
    score: np.ndarray
    game_over: np.ndarray


@runtime_checkable
class HostEnvironment(Protocol):
    """N environments that step together on the host. Used by one thread at a time."""

    spec: EnvSpec
    num_envs: int

    def reset(self) -> np.ndarray:
        """Begin an episode in every environment: observations `[N, ...]`. Before the first step."""

    def step(self, action: np.ndarray) -> HostStep:
        """Act in every environment: `[N]` integers, or `[N, A]` reals, which are clipped to their bounds."""

    def close(self) -> None:
        """Give back what the environments hold; a second call does nothing."""


@runtime_checkable
class HostFactory(Protocol):
    """What `envs.make` returns for an environment of the host: its description, and groups of it on demand.

    A worker must own its group, so a runner makes one for each of them.
    """

    spec: EnvSpec

    def make(
        self, num_envs: int, *, seed: int | Sequence[int] = 0, num_threads: int | None = None
    ) -> HostEnvironment:
        """Start `num_envs` environments.

        Args:
          num_envs: N.
          seed: one for each environment, or the first of N consecutive ones. Two workers with the seeds
            s and s + 1 would share N - 1 environments: space them by N.
          num_threads: that step the environments, where the library has threads; None is its own choice.

        Raises:
          InputError: if a number is out of range or the library refuses the settings.
          HostEnvironmentError: if the environment raises or hangs while it is made.
        """


@runtime_checkable
class DrawableEnvironment(Protocol):
    """A JaxEnvironment that may be able to show itself."""

    def renderer(self) -> Callable[[Any, Array], np.ndarray]:
        """Prepare to draw: `(state, observation) -> frame [H, W, 3]` uint8, on the host.

        Raises:
          InputError: if this environment cannot be drawn, or not with what is installed.
        """


@runtime_checkable
class RenderedEnvironment(HostEnvironment, Protocol):
    """Environments of the host that can show the first of them."""

    def render(self) -> np.ndarray:
        """What its last observation looks like to a person: `[H, W, 3]` uint8. After `reset`."""


@runtime_checkable
class DrawableFactory(Protocol):
    """A HostFactory that may be able to show its environments."""

    def make_rendered(self, *, seed: int = 0) -> RenderedEnvironment:
        """Start one environment that can be drawn.

        Raises:
          InputError: if this environment cannot be drawn, or not with what is installed.
          HostEnvironmentError: if the environment raises or hangs while it is made.
        """


def available_cores() -> int:
    """Cores of the processor that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class UnknownEnvironmentError(InputError):
    """An adapter has no environment of that name; `envs.make` answers with the nearest ones."""
