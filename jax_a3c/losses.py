r"""Elementwise losses of policies, state values and action values.

Every function is pure and works for any batch shape `[*B]`, including none; in a rollout it is
`[T, *B]`. Minimise the losses to learn. They return one number per row and do not average or sum.
Array shapes must agree exactly and are never broadcast: `[T]` against `[T, 1]` would silently
become `[T, T]`.

If an action is outside [0, A), the loss of its row is NaN. The gradient of that row is 0 if the
action is `a_tm1` and NaN if it is `a_t`.

The suffix `tm1` (t minus 1) marks the state and action whose value is learned. The suffix `t` marks
what followed.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient
from jax.typing import ArrayLike

from jax_a3c.types import Array

Transform = Callable[[Array], Array]
"""Elementwise function from a TD error to its loss: `half_square`, `huber`."""


def policy_gradient_loss(log_probs: ArrayLike, advantages: ArrayLike) -> Array:
    r"""Return the loss whose gradient is minus the policy gradient.

        l = - log pi(a | s) A,    A held constant

    Args:
      log_probs: `[*B]` float. log pi(a | s), of the action taken.
      advantages: `[*B]` float. A, in reward units; no gradient flows into it.

    Returns:
      `[*B]` float.

    Raises:
      ValueError: if the arrays differ in shape.

    References:
      Mnih et al. (2016), Algorithm S3: d theta <- d theta + grad log pi (R - V).

    Example:
      >>> policy_gradient_loss(np.array([-0.5, -1.0]), np.array([2.0, -3.0])).tolist()
      [1.0, -3.0]
    """
    log_probs, advantages = _same_shape(log_probs=log_probs, advantages=advantages)
    # Gradient: - A grad log pi.
    return -log_probs * stop_gradient(advantages)


def value_loss(values: ArrayLike, targets: ArrayLike) -> Array:
    r"""Return half the squared error of the state values.

        l = 0.5 (G - v(s))^2,    G held constant

    The gradient is v - G. The paper's pseudo-code has no factor 0.5, so its gradient is 2 (v - G).
    By e-mail the authors reported that they halve the gradient, which gives v - G. If you read the
    e-mail as 0.5 (v - G), set `vf_coef` to 0.5.

    Args:
      values: `[*B]` float. v(s), in reward units.
      targets: `[*B]` float. G, in reward units; no gradient flows into it.

    Returns:
      `[*B]` float.

    Raises:
      ValueError: if the arrays differ in shape.

    References:
      Mnih et al. (2016), Algorithm S3.

    Example:
      >>> value_loss(np.array([1.0, 5.0]), np.array([3.0, 4.0])).tolist()
      [2.0, 0.5]
    """
    values, targets = _same_shape(values=values, targets=targets)
    # Gradient: v - G.
    return half_square(stop_gradient(targets) - values)


def entropy_loss(entropy: ArrayLike) -> Array:
    r"""Return minus the entropy, so that minimising it encourages exploration.

        l = - H(pi(. | s))

    Args:
      entropy: `[*B]` float. H, in nats.

    Returns:
      `[*B]` float.

    References:
      Mnih et al. (2016), section 4, which adds beta grad H to the ascent direction.

    Example:
      >>> entropy_loss(np.array([0.5, 0.25])).tolist()
      [-0.5, -0.25]
    """
    return -jnp.asarray(entropy)


def half_square(td_error: ArrayLike) -> Array:
    r"""Return half the square of an error, the default transform of the action-value losses.

        l = 0.5 x^2

    Args:
      td_error: `[*B]` float. x.

    Returns:
      `[*B]` float.

    Example:
      >>> half_square(np.array([-2.0, 1.0])).tolist()
      [2.0, 0.5]
    """
    return 0.5 * jnp.square(jnp.asarray(td_error))


def huber(td_error: ArrayLike, delta: ArrayLike = 1.0) -> Array:
    r"""Return the Huber loss: half the square for small errors, linear for large ones.

        l = 0.5 x^2 if |x| <= delta, else delta (|x| - 0.5 delta)

    The gradient is the error clipped to [-delta, delta].

    Args:
      td_error: `[*B]` float. x.
      delta: scalar > 0, in the unit of the error.

    Returns:
      `[*B]` float.

    Raises:
      ValueError: if `delta` is not above 0 or not a scalar.

    References:
      Huber (1964). delta = 1 is the "clipped error" of Mnih et al. (2015).

    Example:
      >>> huber(np.array([-3.0, 0.5])).tolist()
      [2.5, 0.125]
    """
    if isinstance(delta, int | float | np.integer | np.floating) and not delta > 0:
        raise ValueError(f"delta is {delta}; expected a number above 0.")
    if np.shape(delta) != ():
        raise ValueError(f"delta has shape {np.shape(delta)}; expected a scalar.")
    td_error = jnp.asarray(td_error)
    delta = jnp.asarray(delta)

    # With c = clip(x), c (x - 0.5 c) covers both cases without a branch.
    clipped = jnp.clip(td_error, -delta, delta)
    return clipped * (td_error - 0.5 * clipped)


def q_learning_loss(
    q_tm1: ArrayLike,
    a_tm1: ArrayLike,
    r_t: ArrayLike,
    discount_t: ArrayLike,
    q_t: ArrayLike,
    *,
    transform: Transform = half_square,
) -> Array:
    r"""Return the loss of one-step Q-learning.

        l = 0.5 (y - Q(s, a))^2,    y = r + gamma max_a' Q(s', a'; theta^-) held constant

    Args:
      q_tm1: `[*B, A]` float. Q(s, .), in reward units.
      a_tm1: `[*B]` integer in [0, A). a, the action taken.
      r_t: `[*B]` float. r, received after a.
      discount_t: `[*B]` float in [0, 1]. gamma; 0 where the episode terminated.
      q_t: `[*B, A]` float. Q(s', .) of the target network, s' the true next observation. No
        gradient flows into it.
      transform: maps the error y - Q(s, a) to its loss; for example `huber`.

    Returns:
      `[*B]` float.

    Raises:
      ValueError: if the shapes do not match or the actions are not integers.

    References:
      Watkins (1989); Mnih et al. (2016), Algorithm 1, which has no 0.5.

    Example:
      >>> q = np.array([[1.0, 2.0]])
      >>> q_learning_loss(q, np.array([0]), np.array([1.0]), np.array([0.5]), 4.0 * q).tolist()
      [8.0]
    """
    q_tm1, q_t = _same_shape(q_tm1=q_tm1, q_t=q_t)
    r_t, discount_t = _per_row("q_tm1", q_tm1, r_t=r_t, discount_t=discount_t)

    # y = r + gamma max_a' Q(s', a'; theta^-)
    targets = r_t + discount_t * jnp.max(q_t, axis=-1)
    return transform(stop_gradient(targets) - _chosen("q_tm1", q_tm1, a_tm1=a_tm1))


def sarsa_loss(
    q_tm1: ArrayLike,
    a_tm1: ArrayLike,
    r_t: ArrayLike,
    discount_t: ArrayLike,
    q_t: ArrayLike,
    a_t: ArrayLike,
    *,
    transform: Transform = half_square,
) -> Array:
    r"""Return the loss of one-step Sarsa, which values the next action that was really taken.

        l = 0.5 (y - Q(s, a))^2,    y = r + gamma Q(s', a'; theta^-) held constant

    Args:
      q_tm1: `[*B, A]` float. Q(s, .), in reward units.
      a_tm1: `[*B]` integer in [0, A). a, the action taken.
      r_t: `[*B]` float. r, received after a.
      discount_t: `[*B]` float in [0, 1]. gamma; 0 where the episode terminated.
      q_t: `[*B, A]` float. Q(s', .) of the target network, s' the true next observation. No
        gradient flows into it.
      a_t: `[*B]` integer in [0, A). a', the action taken in s', not a second draw.
      transform: maps the error y - Q(s, a) to its loss; for example `huber`.

    Returns:
      `[*B]` float.

    Raises:
      ValueError: if the shapes do not match or the actions are not integers.

    References:
      Rummery & Niranjan (1994); Mnih et al. (2016), section 4.

    Example:
      >>> q, one, action = np.array([[1.0, 2.0]]), np.ones(1), np.array([0])
      >>> sarsa_loss(q, action, one, 0.5 * one, 4.0 * q, action).tolist()
      [2.0]
    """
    q_tm1, q_t = _same_shape(q_tm1=q_tm1, q_t=q_t)
    r_t, discount_t = _per_row("q_tm1", q_tm1, r_t=r_t, discount_t=discount_t)

    # y = r + gamma Q(s', a'; theta^-)
    targets = r_t + discount_t * _chosen("q_t", q_t, a_t=a_t)
    return transform(stop_gradient(targets) - _chosen("q_tm1", q_tm1, a_tm1=a_tm1))


def double_q_learning_loss(
    q_tm1: ArrayLike,
    a_tm1: ArrayLike,
    r_t: ArrayLike,
    discount_t: ArrayLike,
    q_t_value: ArrayLike,
    q_t_selector: ArrayLike,
    *,
    transform: Transform = half_square,
) -> Array:
    r"""Return the loss of double Q-learning.

        l = 0.5 (y - Q(s, a))^2
        y = r + gamma Q(s', argmax_a' Q(s', a'; theta); theta^-) held constant

    The online network chooses the best next action, and the target network values it.

    Args:
      q_tm1: `[*B, A]` float. Q(s, .), in reward units.
      a_tm1: `[*B]` integer in [0, A). a, the action taken.
      r_t: `[*B]` float. r, received after a.
      discount_t: `[*B]` float in [0, 1]. gamma; 0 where the episode terminated.
      q_t_value: `[*B, A]` float. Q(s', .) of the target network, which values the action. No
        gradient flows into it.
      q_t_selector: `[*B, A]` float. Q(s', .) of the online network, which chooses the action. The
        first of equal values wins. No gradient flows into it.
      transform: maps the error y - Q(s, a) to its loss; for example `huber`.

    Returns:
      `[*B]` float.

    Raises:
      ValueError: if the shapes do not match or the actions are not integers.

    References:
      van Hasselt, Guez & Silver (2016).

    Example:
      >>> q, selector = np.array([[1.0, 2.0]]), np.array([[1.0, 0.0]])
      >>> one = np.ones(1)
      >>> double_q_learning_loss(q, np.array([0]), one, 0.5 * one, 4.0 * q, selector).tolist()
      [2.0]
    """
    q_tm1, q_t_value, q_t_selector = _same_shape(
        q_tm1=q_tm1, q_t_value=q_t_value, q_t_selector=q_t_selector
    )
    r_t, discount_t = _per_row("q_tm1", q_tm1, r_t=r_t, discount_t=discount_t)

    # y = r + gamma Q(s', argmax_a' Q(s', a'; theta); theta^-)
    a_t = jnp.argmax(q_t_selector, axis=-1)
    targets = r_t + discount_t * _chosen("q_t_value", q_t_value, a_t=a_t)
    return transform(stop_gradient(targets) - _chosen("q_tm1", q_tm1, a_tm1=a_tm1))


def n_step_q_loss(
    q_tm1: ArrayLike, a_tm1: ArrayLike, targets: ArrayLike, *, transform: Transform = half_square
) -> Array:
    r"""Return the loss of action values against given returns.

        l = 0.5 (G - Q(s, a))^2,    G held constant

    Use it for n-step Q-learning and Retrace.

    Args:
      q_tm1: `[*B, A]` float. Q(s, .), in reward units.
      a_tm1: `[*B]` integer in [0, A). a, the action taken.
      targets: `[*B]` float. G, for example `returns.lambda_returns` with max_a Q(s', a; theta^-) as
        next values. No gradient flows into it.
      transform: maps the error G - Q(s, a) to its loss; for example `huber`.

    Returns:
      `[*B]` float.

    Raises:
      ValueError: if the shapes do not match or the actions are not integers.

    References:
      Mnih et al. (2016), Algorithm S2, which has no 0.5.

    Example:
      >>> n_step_q_loss(np.array([[1.0, 2.0]]), np.array([1]), np.array([5.0])).tolist()
      [4.5]
    """
    q_tm1 = jnp.asarray(q_tm1)
    (targets,) = _per_row("q_tm1", q_tm1, targets=targets)

    # G - Q(s, a)
    return transform(stop_gradient(targets) - _chosen("q_tm1", q_tm1, a_tm1=a_tm1))


def _same_shape(**arrays: ArrayLike) -> list[Array]:
    """Return the arguments as arrays; check that they have one shape."""
    converted = {name: jnp.asarray(array) for name, array in arrays.items()}
    if len({array.shape for array in converted.values()}) > 1:
        given = ", ".join(f"{name} {array.shape}" for name, array in converted.items())
        raise ValueError(
            f"shapes are {given}; expected one shape for all of them: nothing is broadcast."
        )
    return list(converted.values())


def _per_row(q_name: str, q_values: Array, **arrays: ArrayLike) -> list[Array]:
    """Return the arguments as arrays; check that each is `[*B]` where `q_values` is `[*B, A]`."""
    if q_values.ndim == 0:
        raise ValueError(f"{q_name} is a scalar; expected action values of shape [*B, A].")

    converted = {name: jnp.asarray(array) for name, array in arrays.items()}
    for name, array in converted.items():
        if array.shape != q_values.shape[:-1]:
            raise ValueError(
                f"{name} has shape {array.shape} and {q_name} {q_values.shape}; expected [*B] and "
                f"[*B, A]: {name} of shape {q_values.shape[:-1]}."
            )
    return list(converted.values())


def _chosen(q_name: str, q_values: Array, **action: ArrayLike) -> Array:
    """Return Q(s, a) of the one named action, `[*B, A]` -> `[*B]`; NaN for one outside [0, A)."""
    ((name, _),) = action.items()
    (actions,) = _per_row(q_name, q_values, **action)
    if not jnp.issubdtype(actions.dtype, jnp.integer):
        raise ValueError(
            f"{name} has dtype {actions.dtype}; expected integers, the indices of actions."
        )

    # JAX returns NaN for an index of A or more, but counts a negative one from the end.
    chosen = jnp.take_along_axis(q_values, actions[..., None], axis=-1)[..., 0]
    return jnp.where(actions < 0, jnp.nan, chosen)
