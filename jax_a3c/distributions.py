r"""Distributions over actions: `Categorical` and `DiagonalGaussian`.

They are `NamedTuple`s of arrays, hence pytrees: they pass through `jit`, `vmap` and `scan` as they are. Any
number of batch axes `[*B]` precedes the last one, A. Probabilities are only ever handled as logarithms of a
softmax, never as the logarithm of a probability, which is where other implementations met NaN.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_a3c.types import Array

_HALF_LOG_2_PI = 0.5 * math.log(2.0 * math.pi)


class Categorical(NamedTuple):
    r"""A distribution over the actions 0, 1, ..., A - 1.

        p(a) = exp(logits_a) / sum_b exp(logits_b)

    Attributes:
      logits: `[*B, A]` float, of any scale and offset. `-inf` forbids an action; one at least must be finite.

    References:
      Mnih et al. (2016), section 4: the softmax output of the policy.

    Example:
      >>> policy = Categorical(jnp.array([0.0, -jnp.inf, 0.0]))
      >>> [round(float(x), 4) for x in (policy.log_prob(jnp.array(0)), policy.entropy())]
      [-0.6931, 0.6931]
    """

    logits: Array

    def sample(self, key: Array) -> Array:
        """Draw actions by inverting the distribution function, with one uniform number each.

        One number per draw, where the Gumbel trick takes A of them and as many logarithms. The uniform number
        has 23 bits in float32: probabilities below about 1e-7 are not resolved, but a probability of 0 is
        never drawn.

        Args:
          key: a random key.

        Returns:
          `[*B]` int32 in [0, A).
        """
        probs = jax.nn.softmax(
            self.logits.astype(jnp.promote_types(self.logits.dtype, jnp.float32))
        )
        cumulative = jnp.cumsum(
            probs, axis=-1
        )  # summed in any order: it need not end in 1, nor be monotone
        reachable = jnp.where(probs > 0, cumulative, 0.0)
        # Scaled by the largest reachable entry, u stays below that entry, so some reachable one always
        # exceeds it.
        total = jnp.max(reachable, axis=-1, keepdims=True)
        u = total * jax.random.uniform(key, total.shape, total.dtype)
        last = self.logits.shape[-1] - 1
        indices = jax.lax.broadcasted_iota(jnp.int32, self.logits.shape, self.logits.ndim - 1)
        return jnp.min(jnp.where(reachable > u, indices, last), axis=-1)  # the first entry above u

    def log_prob(self, action: Array) -> Array:
        """Log-probability of actions.

        Args:
          action: `[*B]` integer in [0, A).

        Returns:
          `[*B]` float, in nats; `-inf` for a forbidden action, NaN with a gradient of 0 for one outside of
          [0, A).

        Raises:
          ValueError: if the shapes do not match or the actions are no integers.
        """
        action = jnp.asarray(action)
        if action.shape != self.logits.shape[:-1]:
            raise ValueError(
                f"action has shape {action.shape} and logits {self.logits.shape}; expected [*B] and [*B, A]: "
                f"action of shape {self.logits.shape[:-1]}."
            )
        if not jnp.issubdtype(action.dtype, jnp.integer):
            raise ValueError(
                f"action has dtype {action.dtype}; expected integers, the indices of actions."
            )
        log_probs = jnp.take_along_axis(
            jax.nn.log_softmax(self.logits), action[..., None], axis=-1
        )[..., 0]
        # An index of A or more gives NaN already, a negative one counts from the end.
        return jnp.where(action < 0, jnp.nan, log_probs)

    def entropy(self) -> Array:
        """Entropy, -sum_a p(a) log p(a); forbidden actions add 0.

        Returns:
          `[*B]` float in [0, log A], in nats.
        """
        log_probs = jax.nn.log_softmax(self.logits)
        probs = jnp.exp(log_probs)
        return -jnp.sum(probs * _zero_where(probs == 0, log_probs), axis=-1)

    def mode(self) -> Array:
        """The most probable action, the first among equals.

        Returns:
          `[*B]` int32 in [0, A).
        """
        return jnp.argmax(self.logits, axis=-1).astype(jnp.int32)

    def kl_divergence(self, other: "Categorical") -> Array:
        """Divergence KL(self || other) = sum_a p(a) [log p(a) - log q(a)].

        Args:
          other: q, of the same shape.

        Returns:
          `[*B]` float >= 0, in nats; `inf` where p allows an action that q forbids.

        Raises:
          ValueError: if the shapes differ.
        """
        if self.logits.shape != other.logits.shape:
            raise ValueError(
                f"logits have shapes {self.logits.shape} and {other.logits.shape}; expected one, [*B, A]."
            )
        log_p, log_q = jax.nn.log_softmax(self.logits), jax.nn.log_softmax(other.logits)
        p = jnp.exp(log_p)
        return jnp.sum(p * (_zero_where(p == 0, log_p) - _zero_where(p == 0, log_q)), axis=-1)


class DiagonalGaussian(NamedTuple):
    r"""Independent normal distributions of the A entries of an action vector.

        p(a) = prod_i N(a_i; mean_i, stddev_i^2)

    Attributes:
      mean: `[*B, A]` float, in units of the policy.
      stddev: float > 0, in units of the policy, of a shape that broadcasts to that of `mean`: `[*B, A]`,
        or `[*B, 1]` for the paper's spherical Gaussian with a single variance.

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
        """Draw action vectors, mean + stddev times a standard normal number for each entry.

        The draw is differentiable in both parameters; a score-function estimator stops that gradient.

        Args:
          key: a random key.

        Returns:
          `[*B, A]` float, not bounded.

        Raises:
          ValueError: if `stddev` does not broadcast to the shape of `mean`.
        """
        stddev = self._full_stddev()
        return self.mean + stddev * jax.random.normal(key, self.mean.shape, stddev.dtype)

    def log_prob(self, action: Array) -> Array:
        """Log-density of action vectors, summed over their entries.

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
                f"action has shape {action.shape} and mean {self.mean.shape}; expected the same, [*B, A]."
            )
        z = (action - self.mean) / stddev
        return jnp.sum(-0.5 * jnp.square(z) - jnp.log(stddev) - _HALF_LOG_2_PI, axis=-1)

    def entropy(self) -> Array:
        """Differential entropy, sum_i 0.5 (log(2 pi stddev_i^2) + 1), over all A entries.

        The paper's formula is that of one entry; a single variance counts A times here.

        Returns:
          `[*B]` float, in nats; it may be negative.

        Raises:
          ValueError: if `stddev` does not broadcast to the shape of `mean`.
        """
        return jnp.sum(0.5 + _HALF_LOG_2_PI + jnp.log(self._full_stddev()), axis=-1)

    def mode(self) -> Array:
        """The most probable action vector, the mean.

        Returns:
          `[*B, A]` float.
        """
        return self.mean

    def kl_divergence(self, other: "DiagonalGaussian") -> Array:
        """Divergence KL(self || other), summed over the entries.

        Args:
          other: a distribution whose mean has the same shape.

        Returns:
          `[*B]` float >= 0, in nats.

        Raises:
          ValueError: if the shapes do not match.
        """
        if self.mean.shape != other.mean.shape:
            raise ValueError(
                f"means have shapes {self.mean.shape} and {other.mean.shape}; expected one, [*B, A]."
            )
        p, q = self._full_stddev(), other._full_stddev()
        distance = jnp.square((self.mean - other.mean) / q)
        return jnp.sum(jnp.log(q) - jnp.log(p) + 0.5 * (jnp.square(p / q) + distance - 1), axis=-1)

    def _full_stddev(self) -> Array:
        """The stddev of every entry, `[*B, A]`: sums over the last axis must count all A of them."""
        shape, given = self.mean.shape, jnp.shape(self.stddev)
        padded = (1,) * (len(shape) - len(given)) + given
        if (
            not shape
            or len(padded) > len(shape)
            or any(s not in (1, m) for s, m in zip(padded, shape, strict=True))
        ):
            raise ValueError(
                f"mean has shape {shape} and stddev {given}; expected [*B, A], and a shape that broadcasts "
                "to it, such as [*B, A] or [*B, 1]."
            )
        return jnp.broadcast_to(self.stddev, shape)


def _zero_where(condition: Array, array: Array) -> Array:
    """Keep the gradient of `0 * -inf` from being NaN: the infinite entry must go before the product."""
    return jnp.where(condition, 0.0, array)
