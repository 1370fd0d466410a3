"""The paper's optimizers: momentum SGD, RMSProp and Shared RMSProp.

Each optimizer has two forms with the same arithmetic. The first is an Optax transformation. The
second is a NumPy rule that updates the flat vectors of the asynchronous runner in place and
without a lock.

The `moments` of an optimizer are its moving averages, one number per parameter. Momentum SGD
averages the gradient (m), RMSProp the squared gradient (g). The paper calls them statistics.
"""

import numbers
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_a3c.checks import MAX_STEPS, check_integer, check_number
from jax_a3c.messages import plain
from jax_a3c.types import Array

Schedule = Callable[[Any], Any]
"""Function from the environment steps taken so far, a float or an array, to a learning rate."""


# Without gradients a moment decays into the denormal range of float32, where NumPy computes slowly.
# XLA needs no such bound, because it flushes denormal numbers to 0.
SMALLEST = np.float32(1e-30)
"""Number that keeps the moments of the in-place rules out of the denormal range."""


class InPlaceRule(Protocol):
    """Update of an optimizer on flat float32 vectors that other threads may write concurrently."""

    def __call__(
        self,
        parameters: np.ndarray,
        moments: np.ndarray,
        gradient: np.ndarray,
        scratch: np.ndarray,
        env_steps: int,
        /,
    ) -> None:
        """Update `parameters` and `moments` in place.

        Args:
          parameters: `[P]` float32, shared by all workers.
          moments: `[P]` float32, shared by all workers or private to the caller.
          gradient: `[P]` float32, private to the caller.
          scratch: `[P]` float32, private to the caller; its content is overwritten.
          env_steps: environment steps taken so far, for the learning-rate schedule.
        """


class InPlaceTransformation(optax.GradientTransformationExtraArgs):
    """Optax transformation that can also be applied to shared vectors without a lock.

    `update` takes the keyword `env_steps`, the number of environment steps so far. Both runners
    pass it, so schedules of the learning rate run over environment steps. Without it, as in a
    plain Optax loop, the schedule runs over updates.

    Attributes:
      in_place: the same update on flat vectors, with moments that start at 0.
      shares_moments: True if all workers update one vector of moments; False if each worker has
        a vector for itself.
    """

    in_place: InPlaceRule
    shares_moments: bool

    def __new__(
        cls, init: Callable, update: Callable, in_place: InPlaceRule, *, shares_moments: bool
    ) -> "InPlaceTransformation":
        """Combine the functions of an Optax transformation with a rule of the same arithmetic."""
        transformation = super().__new__(cls, init, update)
        transformation.in_place = in_place
        transformation.shares_moments = shares_moments
        return transformation


class OptimizerState(NamedTuple):
    """State of the paper's optimizers under Optax.

    Attributes:
      updates: `[]` int32. Number of updates so far.
      moments: tree like the parameters, float32: g, the moving average of the
        squared gradient, or m, the moving average of the gradient.
    """

    updates: Array
    moments: Any


def linear_schedule(initial_value: float | Array, total_env_steps: float | Array) -> Schedule:
    r"""Return a learning rate that falls linearly to exactly 0, as in the paper.

        eta(T) = eta_0 max(0, 1 - T / T_max)

    Args:
      initial_value: eta_0, at least 0.
      total_env_steps: T_max, in environment steps, above 0. A number, a scalar array, or a traced
        array, for example under `jax.vmap` over several budgets. A traced value is not checked.

    Returns:
      The schedule. It maps a Python number to a number and an array to an array. If an argument of
      `linear_schedule` is traced, the result is traced.

    Raises:
      InputError: if an argument is out of range.

    References:
      Mnih et al. (2016), section 8. The authors confirmed by e-mail that the schedule is linear and
      ends at 0.

    Example:
      >>> [round(linear_schedule(0.1, 100)(steps), 3) for steps in (0, 50, 100, 120)]
      [0.1, 0.05, 0.0, 0.0]
    """
    check_number("initial_value", initial_value, 0.0)
    total = _total(total_env_steps)

    def schedule(env_steps: Any) -> Any:
        # Multiply by 1.0 first: the step count may be an integer of more than 32 bits.
        remaining = 1.0 - 1.0 * env_steps / total

        # max(0, x) = (x + |x|) / 2 works for Python numbers and traced arrays. x is negative when
        # threads step beyond T_max.
        return initial_value * (remaining + abs(remaining)) / 2

    return schedule


def _total(total_env_steps: Any) -> Any:
    """Return T_max as a Python float, or as a floating-point array if it is traced."""
    if isinstance(total_env_steps, jax.core.Tracer):
        return 1.0 * total_env_steps

    number = plain(total_env_steps)
    if isinstance(number, numbers.Integral):
        check_integer("total_env_steps", number, 1, MAX_STEPS)
    else:
        check_number("total_env_steps", number, above=0.0)
    return float(number)


def scale_by_learning_rate(
    learning_rate: float | Array | Schedule,
) -> optax.GradientTransformationExtraArgs:
    r"""Scale updates by -eta, with eta scheduled over environment steps.

        u <- -eta(T) u

    Use it as the last part of an `optax.chain`.

    Args:
      learning_rate: eta, at least 0, or a schedule of it over environment steps.

    Returns:
      The transformation. Its `update` takes the keyword `env_steps`. Without it, the schedule runs
      over updates.

    Raises:
      InputError: if the learning rate is out of range.

    Example:
      >>> schedule = linear_schedule(1e-3, 10**6)
      >>> adam = optax.chain(optax.scale_by_adam(), scale_by_learning_rate(schedule))
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


def momentum_sgd(
    learning_rate: float | Array | Schedule, *, momentum: float = 0.99
) -> InPlaceTransformation:
    r"""Return SGD with momentum, where the momentum is a moving average of the gradient.

        m <- momentum m + (1 - momentum) grad,    theta <- theta - eta m

    m starts at 0. The factor (1 - momentum) keeps m in the scale of the gradient. In the
    asynchronous runner each worker has its own m.

    Args:
      learning_rate: eta, at least 0, or a schedule of it over environment steps.
      momentum: the paper's alpha, in [0, 1].

    Returns:
      The transformation. Under Optax it equals
      `optax.chain(optax.ema(momentum, debias=False), optax.scale(-eta))`.

    Raises:
      InputError: if an argument is out of range.

    References:
      Mnih et al. (2016), section 4 and supplement 7. `optax.sgd(eta, momentum)` has no factor
      (1 - momentum), so its steps are 1 / (1 - momentum) times as long.

    Example:
      >>> optimizer = momentum_sgd(1.0, momentum=0.5)
      >>> update, _ = optimizer.update(jnp.array([1.0]), optimizer.init(jnp.array([0.0])))
      >>> print(update)
      [-0.5]
    """
    check_number("momentum", momentum, 0.0, 1.0)
    schedule = _as_schedule(learning_rate)

    def average(m: Any, grad: Any) -> Any:
        return momentum * m + (1.0 - momentum) * grad

    def step(eta: Any, m: Any, grad: Any) -> Any:
        del grad
        return -eta * m

    def in_place(
        parameters: np.ndarray,
        m: np.ndarray,
        gradient: np.ndarray,
        scratch: np.ndarray,
        env_steps: int,
    ) -> None:
        # m <- momentum m + (1 - momentum) grad
        np.multiply(gradient, np.float32(1.0 - momentum), out=scratch)
        m *= np.float32(momentum)
        m += scratch
        m += SMALLEST  # avoids denormal numbers

        # theta <- theta - eta m
        np.multiply(m, np.float32(schedule(env_steps)), out=scratch)
        parameters -= scratch

    return _transformation(schedule, average, step, in_place, shares_moments=False)


def rmsprop(
    learning_rate: float | Array | Schedule, *, decay: float = 0.99, eps: float = 0.1
) -> InPlaceTransformation:
    r"""Return RMSProp with epsilon inside the root, where each worker has its own moments.

        g <- decay g + (1 - decay) grad^2,    theta <- theta - eta grad / sqrt(g + eps)

    It differs from `shared_rmsprop` only in the asynchronous runner, where each worker averages
    only the gradients that it computed. The synchronous runner has one g, so both are the same
    there.

    Args:
      learning_rate: eta, at least 0, or a schedule of it over environment steps.
      decay: the paper's alpha, in [0, 1].
      eps: epsilon, above 0.

    Returns:
      The transformation.

    Raises:
      InputError: if an argument is out of range.

    References:
      Mnih et al. (2016), section 4.

    Example:
      >>> rmsprop(7e-4).shares_moments, shared_rmsprop(7e-4).shares_moments
      (False, True)
    """
    return _rmsprop(learning_rate, decay, eps, shares_moments=False)


def shared_rmsprop(
    learning_rate: float | Array | Schedule, *, decay: float = 0.99, eps: float = 0.1
) -> InPlaceTransformation:
    r"""Return Shared RMSProp: epsilon is inside the root, and all workers share the moments.

        g <- decay g + (1 - decay) grad^2,    theta <- theta - eta grad / sqrt(g + eps)

    g starts at 0. The update has neither momentum nor centering. In the asynchronous runner every
    worker updates the same theta and the same g, without a lock. So g averages the squared
    gradients of all workers. The paper found this variant more robust than `rmsprop` and
    `momentum_sgd`.

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
      Mnih et al. (2016), equations S2 and S3. RMSProp of PyTorch (epsilon outside the root) and of
      TensorFlow 1 (g starts at 1) are different optimizers.

    Example:
      >>> optimizer = shared_rmsprop(1.0, decay=0.0, eps=3.0)
      >>> update, _ = optimizer.update(jnp.array([1.0]), optimizer.init(jnp.array([0.0])))
      >>> print(update)
      [-0.5]
    """
    return _rmsprop(learning_rate, decay, eps, shares_moments=True)


def _rmsprop(
    learning_rate: float | Array | Schedule, decay: float, eps: float, *, shares_moments: bool
) -> InPlaceTransformation:
    """Return RMSProp with shared or private moments; the arithmetic is the same."""
    check_number("decay", decay, 0.0, 1.0)
    check_number("eps", eps, above=0.0)
    schedule = _as_schedule(learning_rate)

    def average(g: Any, grad: Any) -> Any:
        return decay * g + (1.0 - decay) * grad * grad

    def step(eta: Any, g: Any, grad: Any) -> Any:
        return -eta * grad / jnp.sqrt(g + eps)

    def in_place(
        parameters: np.ndarray,
        g: np.ndarray,
        gradient: np.ndarray,
        scratch: np.ndarray,
        env_steps: int,
    ) -> None:
        # Each line is one NumPy pass over the vector. NumPy releases the interpreter lock during a
        # pass, so other workers may write between any two elements. The paper's update does the
        # same.

        # g <- decay g + (1 - decay) grad^2   (S2)
        np.multiply(gradient, gradient, out=scratch)
        scratch *= np.float32(1.0 - decay)
        g *= np.float32(decay)
        g += scratch
        np.maximum(g, SMALLEST, out=g)  # avoids denormal numbers

        # theta <- theta - eta grad / sqrt(g + eps)   (S3)
        np.add(g, np.float32(eps), out=scratch)
        np.sqrt(scratch, out=scratch)
        np.divide(gradient, scratch, out=scratch)
        scratch *= np.float32(schedule(env_steps))
        parameters -= scratch

    return _transformation(schedule, average, step, in_place, shares_moments=shares_moments)


def _transformation(
    schedule: Schedule,
    average: Callable[[Any, Any], Any],
    step: Callable[[Any, Any, Any], Any],
    in_place: InPlaceRule,
    *,
    shares_moments: bool,
) -> InPlaceTransformation:
    """Build the Optax form of an optimizer from its formulas for one array; attach `in_place`.

    Args:
      schedule: eta as a function of the environment steps.
      average: new moments from `(moments, grad)`.
      step: change of the parameters from `(eta, new moments, grad)`.
      in_place: the same update on flat vectors.
      shares_moments: all workers update one vector of moments.

    Returns:
      The transformation.
    """

    def init(params: Any) -> OptimizerState:
        return OptimizerState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(
        updates: Any, state: OptimizerState, params: Any = None, *, env_steps: Any = None, **_: Any
    ) -> tuple[Any, OptimizerState]:
        del params
        moments = jax.tree.map(average, state.moments, updates)
        eta = schedule(state.updates if env_steps is None else env_steps)
        updates = jax.tree.map(lambda s, grad: step(eta, s, grad), moments, updates)
        return updates, OptimizerState(optax.safe_increment(state.updates), moments)

    return InPlaceTransformation(init, update, in_place, shares_moments=shares_moments)


def _as_schedule(learning_rate: float | Array | Schedule) -> Schedule:
    """Return a schedule unchanged, and a number as a constant schedule."""
    if callable(learning_rate):
        return learning_rate
    check_number("learning_rate", learning_rate, 0.0)
    return lambda env_steps: learning_rate
