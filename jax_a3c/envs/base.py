"""Protocols and descriptions of environments: pure functions in JAX, and host environments."""

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeGuard, runtime_checkable

import numpy as np

from jax_a3c.checks import check_integer, check_number, check_tuple
from jax_a3c.errors import HostEnvironmentError as HostEnvironmentError
from jax_a3c.errors import InputError
from jax_a3c.messages import shown
from jax_a3c.types import Array, TimeStep


@dataclass(frozen=True, kw_only=True)
class Discrete:
    """Integer actions 0, 1, ..., num_actions - 1."""

    num_actions: int

    def __post_init__(self) -> None:
        check_integer("num_actions", self.num_actions, 1)


@dataclass(frozen=True, kw_only=True)
class Box:
    """Real action vectors of `size` entries. `low` and `high` bound each entry."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        # `not low <= high` also rejects NaN.
        if not 0 < len(self.low) == len(self.high) or any(
            not low <= high for low, high in zip(self.low, self.high, strict=True)
        ):
            raise InputError(
                "low and high of a Box must have the same length of at least 1, and low <= high in "
                f"each entry, got low={shown(self.low)} and high={shown(self.high)}"
            )

    @property
    def size(self) -> int:
        """Number of entries of an action vector, A."""
        return len(self.low)


ActionSpace = Discrete | Box

UNBOUNDED = 1e30
"""Magnitude from which a bound counts as infinite. Libraries use the largest float32."""


def to_bounds(space: ActionSpace, action: Any) -> Any:
    r"""Map an action of a policy to the action that the environment takes.

    A policy acts in normalized units. An entry of a `Box` with two finite bounds is mapped from
    [-1, 1] to its bounds:

        environment's = (low + high) / 2 + (high - low) / 2 * clip(policy's, -1, 1)

    An entry with an infinite bound is only clipped. Discrete actions are not changed. Losses use
    the action of the policy, environments the result of this function.

    Args:
      space: action space of the environment.
      action: `[*B]` integers for `Discrete`, `[*B, A]` reals for `Box`; an array of NumPy or JAX.

    Returns:
      The action in the units of the environment, with the same shape and dtype.

    References:
      Tianshou (Weng et al., 2022), `map_action` with `action_scaling`.

    Example:
      >>> space = Box(low=(0.0, 100.0), high=(1.0, 200.0))
      >>> to_bounds(space, np.array([[0.0, -5.0]], np.float32)).tolist()
      [[0.5, 100.0]]
    """
    if isinstance(space, Discrete):
        return action

    # [A] -> [1, ..., 1, A]
    scaling = _scaling(tuple(space.low), tuple(space.high), np.dtype(action.dtype))
    batch = (1,) * (action.ndim - 1)
    low, high, centre, half_width, smallest, largest = (x.reshape(*batch, -1) for x in scaling)

    # Clip twice, because rounding may push the result out of the bounds.
    scaled = centre + half_width * action.clip(smallest, largest)
    return scaled.clip(low, high)


class _Scaling(NamedTuple):
    """Constants of `to_bounds`, each `[A]`. `smallest` and `largest` bound the policy's action."""

    low: np.ndarray
    high: np.ndarray
    centre: np.ndarray
    half_width: np.ndarray
    smallest: np.ndarray
    largest: np.ndarray


@functools.lru_cache(maxsize=64)
def _scaling(low: tuple[float, ...], high: tuple[float, ...], dtype: np.dtype) -> _Scaling:
    """Compute the constants of `to_bounds`. They are cached, because each host step needs them."""
    bounded = is_bounded(Box(low=low, high=high))

    # Replace very large bounds by infinity.
    bottom = np.where(np.abs(low) < UNBOUNDED, low, -np.inf)
    top = np.where(np.abs(high) < UNBOUNDED, high, np.inf)

    # Infinite bounds give NaN here, which `where` discards.
    with np.errstate(invalid="ignore"):
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
    """Return which entries of an action have two finite bounds, `[A]` bool."""
    return (np.abs(space.low) < UNBOUNDED) & (np.abs(space.high) < UNBOUNDED)


@dataclass(frozen=True, kw_only=True)
class EnvSpec:
    """Description of an environment for networks and runners.

    Attributes:
      id: name that `envs.make` takes, such as `gymnax:CartPole-v1`.
      observation_shape: shape of one observation.
      observation_dtype: dtype of one observation.
      action_space: `Discrete` or `Box`.
      max_episode_steps: time limit in environment steps, None for no limit.
      num_categories: number of values of an integer observation, None for other observations.
      observation_high: largest value of uint8 observations, by which networks divide them. None
        means 255. Other dtypes are not scaled.
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
                f"each entry of observation_shape {self.observation_shape} of {self.id!r}", size, 1
            )

        # Objects, strings, complex numbers, dates and durations.
        if np.dtype(self.observation_dtype).kind in "OSUcMm":
            raise InputError(
                f"observations of {self.id!r} have the dtype {self.observation_dtype}, but a "
                "network needs real numbers; convert them in the environment"
            )

        if self.num_categories is not None:
            check_integer(f"num_categories of {self.id!r}", self.num_categories, 1)
        if self.observation_high is not None:
            check_number(f"observation_high of {self.id!r}", self.observation_high, above=0.0)


@runtime_checkable
class JaxEnvironment(Protocol):
    """One environment as two pure functions without auto-reset. Rollouts `vmap` and reset it.

    Real actions lie within the bounds of `spec.action_space`, see `to_bounds`.
    """

    spec: EnvSpec

    def reset(self, key: Array) -> tuple[Any, Array]:
        """Start an episode. Return the state and the first observation."""

    def step(self, key: Array, state: Any, action: Array) -> tuple[Any, TimeStep]:
        """Act once. The step that ends an episode returns its final observation."""


def on_device(env: Any) -> TypeGuard[JaxEnvironment]:
    """Return whether an environment steps on the device; False for host environments."""
    return isinstance(env, JaxEnvironment)


class HostStep(NamedTuple):
    """Results of one step of N environments, as NumPy arrays that later steps do not overwrite.

    Attributes:
      observation: `[N, ...]`. s_{t+1}. At the end of an episode it is the final observation.
      reward: `[N]` float32. r_t as the learner sees it, for example clipped.
      terminated: `[N]` bool. The episode ended in a terminal state, so the value of s_{t+1} is 0.
      truncated: `[N]` bool. The episode was cut, for example by a time limit. Bootstrap from
        s_{t+1}. If both flags are set, the episode terminated.
      reset_step: `[N]` bool. The step only reset this environment: its action was ignored, its
        observation begins an episode, its reward is 0, and both flags are False. The row is not a
        transition, so the learner masks it. Such a step follows every terminated or truncated one.
      raw_reward: `[N]` float32. Reward before clipping, 0 where `reset_step`.
      game_over: `[N]` bool. The whole game ended, and with it the sum of the scores. It is
        `terminated | truncated`, except that it is False where only a lost life terminated the
        episode.
    """

    observation: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    reset_step: np.ndarray
    raw_reward: np.ndarray
    game_over: np.ndarray


@runtime_checkable
class HostEnvironment(Protocol):
    """Group of N host environments that step together. Only one thread at a time may use it."""

    spec: EnvSpec
    num_envs: int

    def reset(self) -> np.ndarray:
        """Start an episode in every environment and return the observations, `[N, ...]`."""

    def step(self, action: np.ndarray) -> HostStep:
        """Act with `[N]` integers, or with `[N, A]` reals, which are clipped to their bounds."""

    def close(self) -> None:
        """Release the resources of the environments. A second call does nothing."""


@runtime_checkable
class HostFactory(Protocol):
    """Description of host environments and a constructor of groups, as `envs.make` returns it.

    Each worker needs its own group, so a runner makes one per worker.
    """

    spec: EnvSpec

    def make(
        self, num_envs: int, *, seed: int | Sequence[int] = 0, num_threads: int | None = None
    ) -> HostEnvironment:
        """Start a group of `num_envs` environments.

        Args:
          num_envs: number of environments, N.
          seed: one seed per environment, or the first of N consecutive seeds. Space the seeds of
            workers by N: with the seeds s and s + 1 they would share N - 1 environments.
          num_threads: number of threads that step the environments, for a library with threads.
            None leaves the choice to the library.

        Raises:
          InputError: if a number is out of range or the library refuses the settings.
          HostEnvironmentError: if the environment raises or hangs while it is made.
        """


@runtime_checkable
class DrawableEnvironment(Protocol):
    """JaxEnvironment that may support drawing."""

    def renderer(self) -> Callable[[Any, Array], np.ndarray]:
        """Return a function `(state, observation) -> frame`, `[H, W, 3]` uint8 on the host.

        Raises:
          InputError: if the environment has no picture, or if a library for drawing is missing.
        """


@runtime_checkable
class RenderedEnvironment(HostEnvironment, Protocol):
    """Group of host environments whose first one can be drawn."""

    def render(self) -> np.ndarray:
        """Draw the first environment, `[H, W, 3]` uint8. Call `reset` before."""


@runtime_checkable
class DrawableFactory(Protocol):
    """HostFactory that may support drawing."""

    def make_rendered(self, *, seed: int = 0) -> RenderedEnvironment:
        """Start a group of one environment that can be drawn.

        Raises:
          InputError: if the environment has no picture, or if a library for drawing is missing.
          HostEnvironmentError: if the environment raises or hangs while it is made.
        """


def available_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class UnknownEnvironmentError(InputError):
    """An adapter has no environment of that name. `envs.make` turns this into nearest names."""
