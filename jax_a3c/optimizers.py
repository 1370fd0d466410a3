"""The paper's optimizers, each twice with the same arithmetic: for Optax, and in place on shared buffers."""

import numbers
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_a3c.checks import MAX_STEPS, check_integer, check_number, plain
from jax_a3c.types import Array

Schedule = Callable[[Any], Any]
"""From the number of environment steps taken so far, a float or an array, to a learning rate."""


SMALLEST = np.float32(1e-30)
"""What keeps statistics in place from turning denormal; XLA flushes such numbers to 0, NumPy does not."""


class InPlaceRule(Protocol):
    """The update of an optimizer on flat float32 buffers that other threads may be writing as well."""

    def __call__(
        self,
        parameters: np.ndarray,
        statistics: np.ndarray,
        gradient: np.ndarray,
        scratch: np.ndarray,
        env_steps: int,
        /,
    ) -> None:
        """Change `parameters` and `statistics` in place; `gradient` and `scratch` are the caller's own."""


class InPlaceTransformation(optax.GradientTransformationExtraArgs):
    """An Optax transformation that can also be applied without a lock to shared buffers.

    Its `update` takes the keyword `env_steps`, the number of environment steps so far, in which learning
    rates are scheduled on both runners; without it, under plain Optax, updates are counted instead.

    Attributes:
      in_place: the same update on flat buffers; its statistics start at 0.
      shares_statistics: all workers use one buffer of statistics; otherwise each has one of its own.
    """

    in_place: InPlaceRule
    shares_statistics: bool

    def __new__(
        cls, init: Callable, update: Callable, in_place: InPlaceRule, *, shares_statistics: bool
    ) -> "InPlaceTransformation":
        """Pair the functions of an Optax transformation with a rule of the same arithmetic."""
        transformation = super().__new__(cls, init, update)
        transformation.in_place = in_place
        transformation.shares_statistics = shares_statistics
        return transformation


class OptimizerState(NamedTuple):
    """State of the paper's optimizers under Optax.

    Attributes:
      updates: `[]` int32. Number of updates so far.
      statistics: like the parameters, float32. g, the moving average of the squared gradient, or m, that of
        the gradient.
    """

    updates: Array
    statistics: Any


def linear_schedule(initial_value: float | Array, total_env_steps: float | Array) -> Schedule:
    r"""Learning rate that falls linearly to exactly 0, as in the paper.

        eta(T) = eta_0 max(0, 1 - T / T_max)

    Args:
      initial_value: eta_0, at least 0.
      total_env_steps: T_max, in environment steps, above 0: a number, a scalar of NumPy or JAX, or a traced
        one, such as of `jax.vmap` over several budgets. The value of a traced one is not checked.

    Returns:
      The schedule; it takes a Python number or an array and returns the same kind, or a traced array if an
      argument above is one.

    Raises:
      InputError: if an argument is out of range.

    References:
      Mnih et al. (2016), section 8; that it is linear, and ends at 0, the authors confirmed by e-mail.

    Example:
      >>> [round(linear_schedule(0.1, 100)(steps), 3) for steps in (0, 50, 100, 120)]
      [0.1, 0.05, 0.0, 0.0]
    """
    check_number("initial_value", initial_value, 0.0)
    total = _total(total_env_steps)

    def schedule(env_steps: Any) -> Any:
        remaining = (
            1.0 - 1.0 * env_steps / total
        )  # as a float first: an integer may have more than 32 bits
        # max(0, x) = (x + |x|) / 2, for host numbers and traced arrays alike. Threads overshoot T_max.
        return initial_value * (remaining + abs(remaining)) / 2

    return schedule


def _total(total_env_steps: Any) -> Any:
    """Return T_max as Python's float, or as a floating-point array if it is traced."""
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


def momentum_sgd(
    learning_rate: float | Array | Schedule, *, momentum: float = 0.99
) -> InPlaceTransformation:
    r"""SGD along a moving average of the gradient, damped: the average has the gradient's own size.

        m <- momentum m + (1 - momentum) grad,    theta <- theta - eta m

    m starts at 0. Each asynchronous worker has an m of its own.

    Args:
      learning_rate: eta, at least 0, or a schedule of it over environment steps.
      momentum: the paper's alpha, in [0, 1].

    Returns:
      The transformation. Under Optax it equals
      `optax.chain(optax.ema(momentum, debias=False), optax.scale(-eta))`.

    Raises:
      InputError: if an argument is out of range.

    References:
      Mnih et al. (2016), section 4 and supplement 7. `optax.sgd(eta, momentum)` has no (1 - momentum), and
      so steps that are 1 / (1 - momentum) times as long.

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
        np.multiply(gradient, np.float32(1.0 - momentum), out=scratch)
        m *= np.float32(momentum)
        m += scratch
        # Decaying on without a gradient, m would turn denormal, and each operation on it slow.
        m += SMALLEST
        np.multiply(m, np.float32(schedule(env_steps)), out=scratch)
        parameters -= scratch

    return _transformation(schedule, average, step, in_place, shares_statistics=False)


def rmsprop(
    learning_rate: float | Array | Schedule, *, decay: float = 0.99, eps: float = 0.1
) -> InPlaceTransformation:
    r"""RMSProp with epsilon inside the root, whose statistics each worker has for itself.

    As `shared_rmsprop` but for that; for the synchronous runner, which is one worker, they are the same.

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
      >>> rmsprop(7e-4).shares_statistics, shared_rmsprop(7e-4).shares_statistics
      (False, True)
    """
    return _rmsprop(learning_rate, decay, eps, shares_statistics=False)


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
    return _rmsprop(learning_rate, decay, eps, shares_statistics=True)


def _rmsprop(
    learning_rate: float | Array | Schedule, decay: float, eps: float, *, shares_statistics: bool
) -> InPlaceTransformation:
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
        # Each line is one pass of NumPy, which drops the interpreter lock within: between any two
        # elements another worker may write. That is the paper's lock-free update.
        np.multiply(gradient, gradient, out=scratch)
        scratch *= np.float32(1.0 - decay)
        g *= np.float32(decay)
        g += scratch
        # Decaying on without a gradient, g would turn denormal, and each operation on it slow.
        np.maximum(g, SMALLEST, out=g)
        np.add(g, np.float32(eps), out=scratch)
        np.sqrt(scratch, out=scratch)
        np.divide(gradient, scratch, out=scratch)
        scratch *= np.float32(schedule(env_steps))
        parameters -= scratch

    return _transformation(schedule, average, step, in_place, shares_statistics=shares_statistics)


def _transformation(
    schedule: Schedule,
    average: Callable[[Any, Any], Any],
    step: Callable[[Any, Any, Any], Any],
    in_place: InPlaceRule,
    *,
    shares_statistics: bool,
) -> InPlaceTransformation:
    """The Optax form of an optimizer from its formulas for one array, with the in-place form beside it."""

    def init(params: Any) -> OptimizerState:
        return OptimizerState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(
        updates: Any, state: OptimizerState, params: Any = None, *, env_steps: Any = None, **_: Any
    ) -> tuple[Any, OptimizerState]:
        del params
        statistics = jax.tree.map(average, state.statistics, updates)
        eta = schedule(state.updates if env_steps is None else env_steps)
        updates = jax.tree.map(lambda s, grad: step(eta, s, grad), statistics, updates)
        return updates, OptimizerState(optax.safe_increment(state.updates), statistics)

    return InPlaceTransformation(init, update, in_place, shares_statistics=shares_statistics)


def _as_schedule(learning_rate: float | Array | Schedule) -> Schedule:
    """A schedule as it is, a number as the constant one."""
    if callable(learning_rate):
        return learning_rate
    check_number("learning_rate", learning_rate, 0.0)
    return lambda env_steps: learning_rate
