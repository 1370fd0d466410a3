"""The paper's optimizers, each twice with the same arithmetic: for Optax, and in place on shared buffers."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_a3c.checks import check_number
from jax_a3c.types import Array

Schedule = Callable[[Any], Any]
"""From the number of environment steps taken so far, a float or an array, to a learning rate."""


SMALLEST = np.float32(1e-30)
"""Floor of g in place; XLA flushes such numbers to 0, NumPy does not."""


class InPlaceRule(Protocol):
    """The update of an optimizer on flat float32 buffers that other threads may be writing as well."""

    def __call__(
        self,
        parameters: np.ndarray,
        statistics: np.ndarray,
        gradient: np.ndarray,
        scratch: np.ndarray,
        env_steps: int,
    ) -> None:
        """Change `parameters` and `statistics` in place; `gradient` and `scratch` are the caller's own."""


class InPlaceTransformation(optax.GradientTransformationExtraArgs):
    """An Optax transformation that can also be applied without a lock to shared buffers.

    Its `update` takes the keyword `env_steps`, the number of environment steps so far, in which learning
    rates are scheduled on both runners; without it, under plain Optax, updates are counted instead.

    Attributes:
      in_place: the same update on flat buffers.
    """

    in_place: InPlaceRule

    def __new__(cls, init: Callable, update: Callable, in_place: InPlaceRule) -> "InPlaceTransformation":
        """Pair the functions of an Optax transformation with a rule of the same arithmetic."""
        transformation = super().__new__(cls, init, update)
        transformation.in_place = in_place
        return transformation


class RMSPropState(NamedTuple):
    """State of `shared_rmsprop` under Optax.

    Attributes:
      updates: `[]` int32. Number of updates so far.
      g: like the parameters, float32. Moving average of the squared gradient.
    """

    updates: Array
    g: Any


def linear_schedule(initial_value: float, total_env_steps: int) -> Schedule:
    r"""Learning rate that falls linearly to exactly 0, as in the paper.

        eta(T) = eta_0 max(0, 1 - T / T_max)

    Args:
      initial_value: eta_0, at least 0.
      total_env_steps: T_max, in environment steps, above 0.

    Returns:
      The schedule; it takes a Python number or an array and returns the same kind.

    Raises:
      InputError: if an argument is out of range.

    References:
      Mnih et al. (2016), section 8; that it is linear, and ends at 0, the authors confirmed by e-mail.

    Example:
      >>> [round(linear_schedule(0.1, 100)(steps), 3) for steps in (0, 50, 100, 120)]
      [0.1, 0.05, 0.0, 0.0]
    """
    check_number("initial_value", initial_value, 0.0)
    check_number("total_env_steps", total_env_steps, above=0.0)

    def schedule(env_steps: Any) -> Any:
        remaining = 1.0 - env_steps / total_env_steps
        # max(0, x) = (x + |x|) / 2, for host numbers and traced arrays alike. Threads overshoot T_max.
        return initial_value * (remaining + abs(remaining)) / 2

    return schedule


def scale_by_learning_rate(learning_rate: float | Array | Schedule) -> optax.GradientTransformationExtraArgs:
    r"""The last link of an Optax chain: the step `-eta u`, with eta scheduled over environment steps.

    Args:
      learning_rate: eta, at least 0, or a schedule of it over environment steps.

    Returns:
      The transformation. Its `update` takes the keyword `env_steps`; without it updates are counted.

    Raises:
      InputError: if the learning rate is out of range.

    Example:
      >>> adam = optax.chain(optax.scale_by_adam(), scale_by_learning_rate(linear_schedule(1e-3, 10**6)))
    """
    schedule = _as_schedule(learning_rate)

    def init(params: Any) -> Array:
        del params
        return jnp.zeros((), jnp.int32)

    def update(
        updates: Any, count: Array, params: Any = None, *, env_steps: Any = None, **_: Any
    ) -> tuple[Any, Array]:
        del params
        eta = schedule(count if env_steps is None else env_steps)
        return jax.tree.map(lambda u: -eta * u, updates), optax.safe_increment(count)

    return optax.GradientTransformationExtraArgs(init, update)


def shared_rmsprop(
    learning_rate: float | Array | Schedule, *, decay: float = 0.99, eps: float = 0.1
) -> InPlaceTransformation:
    r"""RMSProp with epsilon inside the root, whose statistics all workers share.

        g <- decay g + (1 - decay) grad^2,    theta <- theta - eta grad / sqrt(g + eps)

    g starts at 0; there is neither momentum nor centering.

    Args:
      learning_rate: eta, at least 0, or a schedule of it over environment steps.
      decay: the paper's alpha, in [0, 1].
      eps: epsilon, above 0. The authors used 0.1, with losses summed over the steps of a segment.

    Returns:
      The transformation. Under Optax it equals
      `optax.rmsprop(eta, decay, eps, eps_in_sqrt=True)`.

    Raises:
      InputError: if an argument is out of range.

    References:
      Mnih et al. (2016), equations S2 and S3. PyTorch puts epsilon outside of the root, TensorFlow 1
      starts g at 1: both are different optimizers.

    Example:
      >>> optimizer = shared_rmsprop(1.0, decay=0.0, eps=3.0)
      >>> update, _ = optimizer.update(jnp.array([1.0]), optimizer.init(jnp.array([0.0])))
      >>> print(update)
      [-0.5]
    """
    check_number("decay", decay, 0.0, 1.0)
    check_number("eps", eps, above=0.0)
    schedule = _as_schedule(learning_rate)

    def init(params: Any) -> RMSPropState:
        return RMSPropState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(
        updates: Any, state: RMSPropState, params: Any = None, *, env_steps: Any = None, **_: Any
    ) -> tuple[Any, RMSPropState]:
        del params
        g = jax.tree.map(lambda g, grad: decay * g + (1.0 - decay) * grad * grad, state.g, updates)
        eta = schedule(state.updates if env_steps is None else env_steps)
        updates = jax.tree.map(lambda grad, g: -eta * grad / jnp.sqrt(g + eps), updates, g)
        return updates, RMSPropState(optax.safe_increment(state.updates), g)

    def in_place(
        parameters: np.ndarray,
        statistics: np.ndarray,
        gradient: np.ndarray,
        scratch: np.ndarray,
        env_steps: int,
    ) -> None:
        # Each line is one pass of NumPy, which drops the interpreter lock within: between any two
        # elements another worker may write. That is the paper's lock-free update.
        np.multiply(gradient, gradient, out=scratch)
        scratch *= np.float32(1.0 - decay)
        statistics *= np.float32(decay)
        statistics += scratch
        # Decaying on without a gradient, g would turn denormal, and each operation on it slow.
        np.maximum(statistics, SMALLEST, out=statistics)
        np.add(statistics, np.float32(eps), out=scratch)
        np.sqrt(scratch, out=scratch)
        np.divide(gradient, scratch, out=scratch)
        scratch *= np.float32(schedule(env_steps))
        parameters -= scratch

    return InPlaceTransformation(init, update, in_place)


def _as_schedule(learning_rate: float | Array | Schedule) -> Schedule:
    """A schedule as it is, a number as the constant one."""
    if callable(learning_rate):
        return learning_rate
    check_number("learning_rate", learning_rate, 0.0)
    return lambda env_steps: learning_rate
