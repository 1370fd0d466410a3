r"""Returns and advantages of a rollout, all computed by one backward recursion.

    G_t = a_t + b_t G_{t+1}

All functions are pure and time-major: arrays are `[T, *B]` with any number of batch axes (the
legend is in `types.py`). They compute in the dtype of their arguments, and at least in float32.
Two arrays mark the ends of episodes:

    discounts  gamma_t. 0 where the episode *terminated* at t: no reward follows.
    lambda_    lambda_t. 0 where the episode was *truncated* at t: the return bootstraps from
               `next_values[t]`, the value of the final observation, and ignores the next episode.

`next_values[t]` is v(s_{t+1}), the value of the observation before any reset. It equals
`values[t + 1]` where no episode ends. These functions do not stop gradients; the losses do.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jax_a3c.types import Array

# A scan iteration costs microseconds on an accelerator, and its body here is one multiply-add.
# Segments up to the longest in the paper are therefore fully unrolled. Longer rollouts stay a loop,
# because unrolling slows them on the CPU: at [128, 256], blocks of 16 steps ran 7 times slower and
# took 3 times as long to compile.
_LONGEST_UNROLLED = 20


class VTrace(NamedTuple):
    """Result of `vtrace`.

    Attributes:
      targets: `[T, *B]`. vs_t, the regression target of v(s_t).
      advantages: `[T, *B]`. A_t, the weight of grad log pi(a_t | s_t). It includes the importance
        weight.
    """

    targets: Array
    advantages: Array


def lambda_returns(
    rewards: ArrayLike, discounts: ArrayLike, next_values: ArrayLike, lambda_: ArrayLike = 1.0
) -> Array:
    r"""Compute the lambda-returns of a rollout.

        G_t = r_t + gamma_t [(1 - lambda_t) v(s_{t+1}) + lambda_t G_{t+1}],    G_T = v(s_T)

    With lambda = 1 this is the paper's return over a segment: each step sums all rewards that are
    left in the segment, then bootstraps. With lambda = 0 it is the one-step TD target.

    Args:
      rewards: `[T, *B]` float. r_t, received after acting in s_t, in reward units.
      discounts: `[T, *B]` float in [0, 1]. gamma_t; 0 where the episode terminated at t.
      next_values: `[T, *B]` float. v(s_{t+1}), of the true next observation, before any reset.
      lambda_: scalar or `[T, *B]` float in [0, 1]. lambda_t; 0 where the episode was truncated at
        t.

    Returns:
      `[T, *B]` float. G_t, in reward units.

    Raises:
      ValueError: if the arrays differ in shape, if T is 0, or if `lambda_` is a number outside
        [0, 1].

    References:
      Sutton & Barto (2018) 12.1; lambda = 1: Mnih et al. (2016), Algorithms S2 and S3.

    Example:
      >>> rewards, discounts, next_values = np.ones(2), np.full(2, 0.5), np.array([2.0, 4.0])
      >>> lambda_returns(rewards, discounts, next_values, 1.0).tolist()
      [2.5, 3.0]
      >>> lambda_returns(rewards, discounts, next_values, 0.0).tolist()
      [2.0, 3.0]
    """
    rewards, discounts, next_values = _prepare(
        rewards=rewards, discounts=discounts, next_values=next_values
    )
    return _lambda_recursion(rewards, discounts, next_values, _prepare_lambda(lambda_, rewards))


def discounted_returns(
    rewards: ArrayLike, discounts: ArrayLike, bootstrap_value: ArrayLike
) -> Array:
    r"""Compute the discounted sum of the rewards from each step to the end of the rollout.

        G_t = r_t + gamma_t G_{t+1},    G_T = bootstrap_value

    It equals `lambda_returns` with lambda = 1 and `next_values[T - 1] = bootstrap_value`. It takes
    only the last value, so it cannot represent an episode that was truncated inside the rollout.
    Use `lambda_returns` for such episodes.

    Args:
      rewards: `[T, *B]` float. r_t, received after acting in s_t, in reward units.
      discounts: `[T, *B]` float in [0, 1]. gamma_t; 0 where the episode terminated at t.
      bootstrap_value: `[*B]` float. v(s_T), of the observation after the last step; 0 for
        Monte-Carlo returns.

    Returns:
      `[T, *B]` float. G_t, in reward units.

    Raises:
      ValueError: if the shapes do not match or T is 0.

    References:
      Mnih et al. (2016), Algorithm S3.

    Example:
      >>> discounted_returns(np.array([1.0, 2.0, 4.0]), np.array([0.5, 0.0, 0.5]), 8.0).tolist()
      [2.0, 2.0, 8.0]
    """
    rewards, discounts = _prepare(rewards=rewards, discounts=discounts)
    bootstrap_value = jnp.asarray(bootstrap_value, rewards.dtype)
    if bootstrap_value.shape != rewards.shape[1:]:
        raise ValueError(
            f"rewards has shape {rewards.shape} and bootstrap_value {bootstrap_value.shape}; "
            f"expected [T, *B] and [*B]: bootstrap_value of shape {rewards.shape[1:]}."
        )

    # a_t = r_t, b_t = gamma_t
    return _backward_recursion(rewards, discounts, bootstrap_value)


def n_step_returns(
    rewards: ArrayLike,
    discounts: ArrayLike,
    next_values: ArrayLike,
    n: int,
    *,
    lambda_: ArrayLike = 1.0,
) -> Array:
    r"""Compute returns of n rewards and one bootstrap value; fewer rewards near the rollout's end.

        G_t = r_t + gamma_t r_{t+1} + ... + gamma_t ... gamma_{t+m-1} v(s_{t+m}),
        m = min(n, T - t)

    A termination inside the window ends the sum, because its zero discount multiplies every later
    term. A truncation inside the window must end the sum with the value of the final observation.
    Set `lambda_` to 0 at that step, as in `lambda_returns`. The default assumes that no episode is
    truncated before the last step of the rollout.

    Args:
      rewards: `[T, *B]` float. r_t, received after acting in s_t, in reward units.
      discounts: `[T, *B]` float in [0, 1]. gamma_t; 0 where the episode terminated at t.
      next_values: `[T, *B]` float. v(s_{t+1}), of the true next observation, before any reset.
      n: Python int >= 1, static under `jit`. Number of steps before the bootstrap.
      lambda_: scalar or `[T, *B]` float in [0, 1]. lambda_t; 0 where the episode was truncated at
        t. Values between 0 and 1 average the returns of 1 to n steps.

    Returns:
      `[T, *B]` float. G_t, in reward units.

    Raises:
      ValueError: if the arrays differ in shape, if T is 0, if `n` is not an integer >= 1, or if
        `lambda_` is a number outside [0, 1].

    References:
      Sutton & Barto (2018) 7.1. The "n-step" return of Mnih et al. (2016) runs to the end of the
      segment: n >= T.

    Example:
      >>> rewards, next_values = np.array([1.0, 2.0, 4.0]), np.array([8.0, 16.0, 32.0])
      >>> n_step_returns(rewards, np.full(3, 0.5), next_values, 2).tolist()
      [6.0, 12.0, 20.0]
    """
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(
            f"n is {n!r}; expected a Python integer >= 1, known when the function is traced."
        )
    rewards, discounts, next_values = _prepare(
        rewards=rewards, discounts=discounts, next_values=next_values
    )
    lambda_ = _prepare_lambda(lambda_, rewards)
    num_steps = rewards.shape[0]

    # Every window reaches the end of the rollout.
    if n >= num_steps:
        return _lambda_recursion(rewards, discounts, next_values, lambda_)

    # Pad with a = 0, b = 1: G = 0 + 1 G passes the bootstrap on unchanged.
    constants, factors = _lambda_terms(rewards, discounts, next_values, lambda_)
    beyond = (n - 1, *rewards.shape[1:])
    constants = jnp.concatenate([constants, jnp.zeros(beyond, constants.dtype)])
    factors = jnp.concatenate([factors, jnp.ones(beyond, factors.dtype)])

    # Gather the T windows that start at each step; step[k, t] = t + k.
    start = np.arange(num_steps)
    step = np.arange(n)[:, None] + start  # [n, T]
    bootstraps = next_values[np.minimum(start + n, num_steps) - 1]  # v(s_{t+m})

    # Recur along the windows, all T at once: [n, T, *B] -> [T, *B].
    return _backward_recursion(constants[step], factors[step], bootstraps)[0]


def generalized_advantage_estimation(
    rewards: ArrayLike,
    discounts: ArrayLike,
    values: ArrayLike,
    next_values: ArrayLike,
    lambda_: ArrayLike,
) -> Array:
    r"""Compute generalized advantage estimates, GAE(gamma, lambda).

        delta_t = r_t + gamma_t v(s_{t+1}) - v(s_t)
        A_t = delta_t + gamma_t lambda_t A_{t+1},    A_T = 0

    It equals `lambda_returns - values`. Summing TD errors loses fewer digits than subtracting two
    large numbers.

    Args:
      rewards: `[T, *B]` float. r_t, received after acting in s_t, in reward units.
      discounts: `[T, *B]` float in [0, 1]. gamma_t; 0 where the episode terminated at t.
      values: `[T, *B]` float. v(s_t).
      next_values: `[T, *B]` float. v(s_{t+1}), of the true next observation, before any reset.
      lambda_: scalar or `[T, *B]` float in [0, 1]. lambda_t; 0 where the episode was truncated at
        t.

    Returns:
      `[T, *B]` float. A_t, in reward units.

    Raises:
      ValueError: if the arrays differ in shape, if T is 0, or if `lambda_` is a number outside
        [0, 1].

    References:
      Schulman et al. (2016), eq. 16. lambda = 1: the advantage of Mnih et al. (2016), section 4.

    Example:
      >>> rewards, discounts, values = np.ones(2), np.array([0.5, 0.0]), np.array([1.0, 2.0])
      >>> next_values = np.array([2.0, 9.0])
      >>> generalized_advantage_estimation(rewards, discounts, values, next_values, 0.5).tolist()
      [0.75, -1.0]
    """
    rewards, discounts, values, next_values = _prepare(
        rewards=rewards, discounts=discounts, values=values, next_values=next_values
    )
    lambda_ = _prepare_lambda(lambda_, rewards)

    # A_t = delta_t + gamma_t lambda_t A_{t+1}
    td_errors = rewards + discounts * next_values - values  # delta_t
    return _backward_recursion(td_errors, discounts * lambda_, jnp.zeros_like(td_errors[-1]))


def vtrace(
    rewards: ArrayLike,
    discounts: ArrayLike,
    values: ArrayLike,
    next_values: ArrayLike,
    log_rhos: ArrayLike,
    lambda_: ArrayLike = 1.0,
    clip_rho: ArrayLike = 1.0,
    clip_pg_rho: ArrayLike = 1.0,
) -> VTrace:
    r"""Compute V-trace value targets and advantages from the actions of an older policy.

        rho_t = min(clip_rho, pi(a_t | s_t) / mu(a_t | s_t)),    c_t = lambda_t min(1, pi / mu)
        delta_t = rho_t (r_t + gamma_t v(s_{t+1}) - v(s_t))
        vs_t = v(s_t) + delta_t + gamma_t c_t (vs_{t+1} - v(s_{t+1})),    vs_T = v(s_T)
        A_t = min(clip_pg_rho, pi / mu) (r_t + gamma_t u_{t+1} - v(s_t))
        u_{t+1} = (1 - lambda_t) v(s_{t+1}) + lambda_t vs_{t+1}

    On-policy all ratios are 1. Then the targets equal `lambda_returns`, and the advantages equal
    `generalized_advantage_estimation`. With lambda_t = 1, u_{t+1} is vs_{t+1} as in the IMPALA
    paper. At a truncation, lambda_t = 0, u_{t+1} is the value of the final observation.

    Args:
      rewards: `[T, *B]` float. r_t, received after acting in s_t, in reward units.
      discounts: `[T, *B]` float in [0, 1]. gamma_t; 0 where the episode terminated at t.
      values: `[T, *B]` float. v(s_t).
      next_values: `[T, *B]` float. v(s_{t+1}), of the true next observation, before any reset.
      log_rhos: `[T, *B]` float. log pi(a_t | s_t) - log mu(a_t | s_t). pi is the policy that
        learns, mu the policy that acted.
      lambda_: scalar or `[T, *B]` float in [0, 1]. lambda_t; 0 where the episode was truncated at
        t.
      clip_rho: scalar > 0. Upper bound of the ratio in the TD errors; `inf` clips nothing.
      clip_pg_rho: scalar > 0. Upper bound of the ratio in the advantages; `inf` clips nothing.

    Returns:
      `VTrace(targets, advantages)`, both `[T, *B]` float, in reward units.

    Raises:
      ValueError: if the arrays differ in shape, if T is 0, if `lambda_` is a number outside [0, 1],
        or if a clip is not above 0.

    References:
      Espeholt et al. (2018), section 4.1 and remark 2.

    Example:
      >>> one = np.ones(1)
      >>> targets, advantages = vtrace(one, 0.5 * one, one, 4.0 * one, np.log(0.5 * one))
      >>> targets.tolist(), advantages.tolist()
      ([2.0], [1.0])
    """
    rewards, discounts, values, next_values, log_rhos = _prepare(
        rewards=rewards,
        discounts=discounts,
        values=values,
        next_values=next_values,
        log_rhos=log_rhos,
    )
    lambda_ = _prepare_lambda(lambda_, rewards)
    clip_rho, clip_pg_rho = _positive_scalars(rewards, clip_rho=clip_rho, clip_pg_rho=clip_pg_rho)

    # Value targets: recur over the differences vs_t - v(s_t), which start at 0.
    td_errors = _clipped_ratios(log_rhos, clip_rho) * (rewards + discounts * next_values - values)
    traces = lambda_ * _clipped_ratios(log_rhos, 1.0)  # c_t
    errors = _backward_recursion(td_errors, discounts * traces, jnp.zeros_like(td_errors[-1]))
    targets = values + errors  # vs_t

    # Advantages: bootstrap from the next target, or from the value at a truncation.
    next_targets = _from_next_step(targets, next_values[-1])  # vs_{t+1}
    bootstraps = (1 - lambda_) * next_values + lambda_ * next_targets  # u_{t+1}
    advantages = _clipped_ratios(log_rhos, clip_pg_rho) * (
        rewards + discounts * bootstraps - values
    )
    return VTrace(targets, advantages)


def retrace(
    rewards: ArrayLike,
    discounts: ArrayLike,
    q_values: ArrayLike,
    next_state_values: ArrayLike,
    log_rhos: ArrayLike,
    lambda_: ArrayLike = 1.0,
) -> Array:
    r"""Compute Retrace(lambda) targets of action values, safe for actions of any other policy.

        G_t = r_t + gamma_t [v(s_{t+1}) + c_{t+1} (G_{t+1} - q(s_{t+1}, a_{t+1}))],    c_T = 0
        c_{t+1} = lambda_t min(1, pi(a_{t+1} | s_{t+1}) / mu(a_{t+1} | s_{t+1}))

    Row t of every array belongs to the step from s_t to s_{t+1}. The function reads a_{t+1} from
    row t + 1, so the target of the last row is r + gamma v(s_T). lambda_t weighs the link from t
    to t + 1; 0 cuts the link where the episode was truncated at t.

    Args:
      rewards: `[T, *B]` float. r_t, received after acting in s_t, in reward units.
      discounts: `[T, *B]` float in [0, 1]. gamma_t; 0 where the episode terminated at t.
      q_values: `[T, *B]` float. q(s_t, a_t), of the action taken. Row 0 is not used.
      next_state_values: `[T, *B]` float. v(s_{t+1}) = sum_a pi(a | s_{t+1}) q(s_{t+1}, a), of the
        true next observation, before any reset.
      log_rhos: `[T, *B]` float. log pi(a_t | s_t) - log mu(a_t | s_t). pi is the policy to
        evaluate, mu the policy that acted. Row 0 is not used.
      lambda_: scalar or `[T, *B]` float in [0, 1]. lambda_t; 0 where the episode was truncated at
        t.

    Returns:
      `[T, *B]` float. G_t, the target of q(s_t, a_t), in reward units.

    Raises:
      ValueError: if the arrays differ in shape, if T is 0, or if `lambda_` is a number outside
        [0, 1].

    References:
      Munos et al. (2016), section 3: the general operator with the c of Retrace(lambda).

    Example:
      >>> rewards, discounts, log_rhos = np.ones(2), np.full(2, 0.5), np.log(np.array([1.0, 0.5]))
      >>> q_values, next_state_values = np.array([7.0, 1.0]), np.array([2.0, 4.0])
      >>> retrace(rewards, discounts, q_values, next_state_values, log_rhos).tolist()
      [2.5, 3.0]
    """
    rewards, discounts, q_values, next_state_values, log_rhos = _prepare(
        rewards=rewards,
        discounts=discounts,
        q_values=q_values,
        next_state_values=next_state_values,
        log_rhos=log_rhos,
    )
    lambda_ = _prepare_lambda(lambda_, rewards)
    nothing = jnp.zeros_like(rewards[-1])

    next_q_values = _from_next_step(q_values, nothing)  # q(s_{t+1}, a_{t+1})
    next_traces = lambda_ * _from_next_step(_clipped_ratios(log_rhos, 1.0), nothing)  # c_{t+1}

    # a_t = r_t + gamma_t (v(s_{t+1}) - c_{t+1} q(s_{t+1}, a_{t+1})), b_t = gamma_t c_{t+1}
    constants = rewards + discounts * (next_state_values - next_traces * next_q_values)
    return _backward_recursion(constants, discounts * next_traces, nothing)


def _backward_recursion(constants: Array, factors: Array, final: Array) -> Array:
    """Compute G_t = a_t + b_t G_{t+1} along the leading axis, from G_T = `final`."""
    return _recursion_of_terms(lambda a, b: (a, b), (constants, factors), final)


def _lambda_recursion(
    rewards: Array, discounts: Array, next_values: Array, lambda_: Array
) -> Array:
    """Compute the recursion of `lambda_returns`, with its terms inside the loop if faster.

    Terms that are computed before the loop are written to memory and read again. On the CPU that
    took half of the time of a large batch. The exception is an unrolled loop of 20 steps with one
    lambda per step: there, computing the terms inside took 2 to 4 times as long.
    """
    rows = (rewards, discounts, next_values)
    final = next_values[-1]

    if lambda_.ndim == 0:
        return _recursion_of_terms(
            lambda r, gamma, v: _lambda_terms(r, gamma, v, lambda_), rows, final
        )
    if rewards.shape[0] <= _LONGEST_UNROLLED:
        return _backward_recursion(*_lambda_terms(*rows, lambda_), final)
    return _recursion_of_terms(_lambda_terms, (*rows, lambda_), final)


def _recursion_of_terms(
    terms: Callable[..., tuple[Array, Array]], rows: tuple[Array, ...], final: Array
) -> Array:
    """Compute the recursion with (a_t, b_t) = `terms` of the rows at t."""

    def step(following: Array, row: tuple[Array, ...]) -> tuple[Array, Array]:
        constant, factor = terms(*row)
        current = constant + factor * following  # G_t = a_t + b_t G_{t+1}
        return current, current

    unroll = rows[0].shape[0] <= _LONGEST_UNROLLED
    _, results = jax.lax.scan(step, final, rows, reverse=True, unroll=unroll)
    return results


def _lambda_terms(
    rewards: Array, discounts: Array, next_values: Array, lambda_: Array
) -> tuple[Array, Array]:
    """Return a_t and b_t of the lambda-return."""
    return rewards + discounts * (1 - lambda_) * next_values, discounts * lambda_


def _from_next_step(array: Array, final: Array) -> Array:
    """Return x_{t+1} in place of x_t, with `final` in the last row."""
    return jnp.concatenate([array[1:], final[None]])


def _clipped_ratios(log_rhos: Array, clip: ArrayLike) -> Array:
    """Return min(clip, pi / mu)."""
    # Clip the logarithm: exp would overflow, and its gradient would become NaN.
    return jnp.exp(jnp.minimum(log_rhos, jnp.log(jnp.asarray(clip, log_rhos.dtype))))


def _prepare(**arrays: ArrayLike) -> list[Array]:
    """Return the arrays in one float dtype; check that all have one shape `[T, *B]`, T >= 1."""
    converted = {name: jnp.asarray(array) for name, array in arrays.items()}
    shapes = [array.shape for array in converted.values()]
    if len(set(shapes)) > 1 or not shapes[0] or shapes[0][0] == 0:
        given = ", ".join(f"{name} {array.shape}" for name, array in converted.items())
        raise ValueError(
            f"shapes are {given}; expected one shape [T, *B] for all of them, with T >= 1."
        )

    # Promote integers and half precision to float32; keep float64.
    dtype = jnp.result_type(jnp.float32, *converted.values())
    return [array.astype(dtype) for array in converted.values()]


def _prepare_lambda(lambda_: ArrayLike, rewards: Array) -> Array:
    """Return lambda_ as a scalar or `[T, *B]`; check its range if its value is known."""
    # A traced value has no range to check.
    if isinstance(lambda_, int | float | np.integer | np.floating) and not 0 <= lambda_ <= 1:
        raise ValueError(f"lambda_ is {lambda_}; expected a number in [0, 1].")

    lambda_ = jnp.asarray(lambda_, rewards.dtype)
    if lambda_.shape not in ((), rewards.shape):
        raise ValueError(
            f"lambda_ has shape {lambda_.shape} and rewards {rewards.shape}; expected a scalar, or "
            "[T, *B] like rewards."
        )
    return lambda_


def _positive_scalars(rewards: Array, **scalars: ArrayLike) -> list[Array]:
    """Return the scalars in the dtype of the rewards; check that known values are above 0."""
    for name, scalar in scalars.items():
        if isinstance(scalar, int | float | np.integer | np.floating) and not scalar > 0:
            raise ValueError(f"{name} is {scalar}; expected a number above 0 (inf clips nothing).")
        if np.shape(scalar) != ():
            raise ValueError(f"{name} has shape {np.shape(scalar)}; expected a scalar.")
    return [jnp.asarray(scalar, rewards.dtype) for scalar in scalars.values()]
