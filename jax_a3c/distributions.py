r"""Distributions over actions: `Categorical` and `DiagonalGaussian`.

Both are `NamedTuple`s of arrays and therefore pytrees, which pass through `jit`, `vmap` and
`scan`. Any number of batch axes `[*B]` precedes the last axis, A. Log-probabilities come from
`log_softmax`. The code never takes the logarithm of a probability, which gives NaN where the
probability is 0.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_a3c.types import Array

_HALF_LOG_2_PI = 0.5 * math.log(2.0 * math.pi)


class Categorical(NamedTuple):
    r"""Distribution over the actions 0, 1, ..., A - 1.

        p(a) = exp(logits_a) / sum_b exp(logits_b)

    Attributes:
      logits: `[*B, A]` float, of any scale and offset. `-inf` forbids an action. At least one
        logit of each row must be finite.

    References:
      Mnih et al. (2016), section 4: the softmax output of the policy.

    Example:
      >>> policy = Categorical(jnp.array([0.0, -jnp.inf, 0.0]))
      >>> [round(float(x), 4) for x in (policy.log_prob(jnp.array(0)), policy.entropy())]
      [-0.6931, 0.6931]
    """

    logits: Array

    def sample(self, key: Array) -> Array:
        """Draw actions by inverse transform sampling, with one uniform number per draw.

        The Gumbel trick needs A random numbers and A logarithms per draw. The uniform number has
        23 bits in float32, so probabilities below about 1e-7 are not resolved. An action of
        probability 0 is never drawn.

        Args:
          key: random key.

        Returns:
          `[*B]` int32 in [0, A).
        """
        logits = self.logits.astype(jnp.promote_types(self.logits.dtype, jnp.float32))
        # Probabilities up to a factor, which u below has as well.
        weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
        # XLA may add in any order, so the sum need not be monotone.
        cumulative = jnp.cumsum(weights, axis=-1)
        reachable = jnp.where(weights > 0, cumulative, 0.0)

        # Scale u below the largest reachable entry, so that some reachable entry exceeds it.
        total = jnp.max(reachable, axis=-1, keepdims=True)
        u = total * jax.random.uniform(key, total.shape, total.dtype)

        # Take the first entry above u.
        last = self.logits.shape[-1] - 1
        indices = jax.lax.broadcasted_iota(jnp.int32, self.logits.shape, self.logits.ndim - 1)
        return jnp.min(jnp.where(reachable > u, indices, last), axis=-1)  # [*B, A] -> [*B]

    def log_prob(self, action: Array) -> Array:
        """Return the log-probability of actions.

        Args:
          action: `[*B]` integer in [0, A).

        Returns:
          `[*B]` float, in nats. `-inf` for a forbidden action; NaN, with a gradient of 0, for an
          action outside [0, A).

        Raises:
          ValueError: if the shapes do not match or the actions are not integers.
        """
        action = jnp.asarray(action)
        if action.shape != self.logits.shape[:-1]:
            raise ValueError(
                f"action has shape {action.shape} and logits {self.logits.shape}; expected [*B] "
                f"and [*B, A]: action of shape {self.logits.shape[:-1]}."
            )
        if not jnp.issubdtype(action.dtype, jnp.integer):
            raise ValueError(
                f"action has dtype {action.dtype}; expected integers, the indices of actions."
            )

        # JAX returns NaN for an index of A or more, but counts a negative one from the end.
        log_probs = jnp.take_along_axis(
            jax.nn.log_softmax(self.logits), action[..., None], axis=-1
        )[..., 0]
        return jnp.where(action < 0, jnp.nan, log_probs)

    def entropy(self) -> Array:
        """Return the entropy, -sum_a p(a) log p(a). Forbidden actions add 0.

        Returns:
          `[*B]` float in [0, log A], in nats.
        """
        log_probs = jax.nn.log_softmax(self.logits)
        probs = jnp.exp(log_probs)
        # p log p is 0 for p = 0.
        return -jnp.sum(probs * _zero_where(probs == 0, log_probs), axis=-1)

    def mode(self) -> Array:
        """Return the most probable action, the first of equals.

        Returns:
          `[*B]` int32 in [0, A).
        """
        return jnp.argmax(self.logits, axis=-1).astype(jnp.int32)

    def kl_divergence(self, other: "Categorical") -> Array:
        """Return the divergence KL(self || other) = sum_a p(a) [log p(a) - log q(a)].

        Args:
          other: q, of the same shape.

        Returns:
          `[*B]` float >= 0, in nats; `inf` where p allows an action that q forbids.

        Raises:
          ValueError: if the shapes differ.
        """
        if self.logits.shape != other.logits.shape:
            raise ValueError(
                f"logits have shapes {self.logits.shape} and {other.logits.shape}; expected one "
                "shape, [*B, A]."
            )

        log_p = jax.nn.log_softmax(self.logits)
        log_q = jax.nn.log_softmax(other.logits)
        # Actions with p = 0 add 0, also where q = 0.
        p = jnp.exp(log_p)
        return jnp.sum(p * (_zero_where(p == 0, log_p) - _zero_where(p == 0, log_q)), axis=-1)


class DiagonalGaussian(NamedTuple):
    r"""Independent normal distributions of the A entries of an action vector.

        p(a) = prod_i N(a_i; mean_i, stddev_i^2)

    Attributes:
      mean: `[*B, A]` float, in policy units.
      stddev: float > 0, in policy units, of a shape that broadcasts to the shape of `mean`:
        `[*B, A]`, or `[*B, 1]` for the paper's spherical Gaussian with a single variance.

    References:
      Mnih et al. (2016), section 9.

    Example:
      >>> policy = DiagonalGaussian(jnp.array([1.0, 2.0]), jnp.array([1.0]))
      >>> [round(float(x), 4) for x in (policy.log_prob(policy.mode()), policy.entropy())]
      [-1.8379, 2.8379]
    """

    mean: Array
    stddev: Array

    def sample(self, key: Array) -> Array:
        """Draw action vectors: mean + stddev times one standard normal number per entry.

        The draw is differentiable with respect to mean and stddev. Stop that gradient when you use
        a score-function estimator.

        Args:
          key: random key.

        Returns:
          `[*B, A]` float, not bounded.

        Raises:
          ValueError: if `stddev` does not broadcast to the shape of `mean`.
        """
        stddev = self._full_stddev()
        return self.mean + stddev * jax.random.normal(key, self.mean.shape, stddev.dtype)

    def log_prob(self, action: Array) -> Array:
        """Return the log-density of action vectors, summed over their entries.

        Args:
          action: `[*B, A]` float.

        Returns:
          `[*B]` float, in nats.

        Raises:
          ValueError: if the shapes do not match.
        """
        stddev = self._full_stddev()
        action = jnp.asarray(action)
        if action.shape != self.mean.shape:
            raise ValueError(
                f"action has shape {action.shape} and mean {self.mean.shape}; expected one shape, "
                "[*B, A]."
            )

        # log N(a_i; mean_i, stddev_i^2), summed over the entries i.
        z = (action - self.mean) / stddev
        return jnp.sum(-0.5 * jnp.square(z) - jnp.log(stddev) - _HALF_LOG_2_PI, axis=-1)

    def entropy(self) -> Array:
        """Return the differential entropy, sum_i 0.5 (log(2 pi stddev_i^2) + 1), over A entries.

        The paper's formula gives the entropy of one entry. With a single variance, this method
        counts it A times.

        Returns:
          `[*B]` float, in nats; it may be negative.

        Raises:
          ValueError: if `stddev` does not broadcast to the shape of `mean`.
        """
        return jnp.sum(0.5 + _HALF_LOG_2_PI + jnp.log(self._full_stddev()), axis=-1)

    def mode(self) -> Array:
        """Return the most probable action vector, the mean.

        Returns:
          `[*B, A]` float.
        """
        return self.mean

    def kl_divergence(self, other: "DiagonalGaussian") -> Array:
        """Return the divergence KL(self || other), summed over the entries.

        Args:
          other: distribution whose mean has the same shape.

        Returns:
          `[*B]` float >= 0, in nats.

        Raises:
          ValueError: if the shapes do not match.
        """
        if self.mean.shape != other.mean.shape:
            raise ValueError(
                f"means have shapes {self.mean.shape} and {other.mean.shape}; expected one shape, "
                "[*B, A]."
            )

        # sum_i log(q_i / p_i) + (p_i^2 + (mean_p,i - mean_q,i)^2) / (2 q_i^2) - 1 / 2
        p = self._full_stddev()
        q = other._full_stddev()
        distance = jnp.square((self.mean - other.mean) / q)
        return jnp.sum(jnp.log(q) - jnp.log(p) + 0.5 * (jnp.square(p / q) + distance - 1), axis=-1)

    def _full_stddev(self) -> Array:
        """Return the stddev of every entry, `[*B, A]`, so that sums count all A entries."""
        shape = self.mean.shape
        given = jnp.shape(self.stddev)

        # Align the axes from the right, as broadcasting does.
        padded = (1,) * (len(shape) - len(given)) + given
        if (
            not shape
            or len(padded) > len(shape)
            or any(s not in (1, m) for s, m in zip(padded, shape, strict=True))
        ):
            raise ValueError(
                f"mean has shape {shape} and stddev {given}; expected [*B, A] and a shape that "
                "broadcasts to it, such as [*B, A] or [*B, 1]."
            )
        return jnp.broadcast_to(self.stddev, shape)


def _zero_where(condition: Array, array: Array) -> Array:
    """Return the array with 0 where the condition holds."""
    # Replace -inf before the product: the gradient of 0 * -inf is NaN.
    return jnp.where(condition, 0.0, array)
