"""Policy heads: map features `[..., F]` to a distribution over actions, with float32 parameters."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_a3c.distributions import Categorical, DiagonalGaussian
from jax_a3c.errors import InputError
from jax_a3c.networks.initializers import dense
from jax_a3c.types import Array

VARIANCES = ("parameter", "scalar", "per_dimension")


class CategoricalHead(nn.Module):
    """Linear layer from features to logits.

    Attributes:
      num_actions: A.
      initialization: "orthogonal" (gain 0.01, so the first policy is nearly uniform) or "torch".
    """

    num_actions: int
    initialization: str = "orthogonal"

    @nn.compact
    def __call__(self, features: Array) -> Categorical:
        """Map features `[..., F]` to logits `[..., A]`."""
        return Categorical(
            dense(features, self.num_actions, init=self.initialization, scale=0.01, name="logits")
        )


class GaussianHead(nn.Module):
    r"""Linear layer from features to the mean, with one of three forms of the variance.

    Mean and variance are in policy units. For actions with finite bounds, `envs.base.to_bounds`
    maps [-1, 1] in policy units to the bounds, so a standard deviation of 1 means the same for all
    bounds.

        "scalar"          sigma^2 = softplus(w x + b) + min_variance,  one for all entries (paper)
        "per_dimension"   sigma_k^2 = softplus(w_k x + b_k) + min_variance
        "parameter"       sigma_k^2 = exp(2 log_stddev_k) + min_variance,  independent of the state

    Attributes:
      size: number of entries of an action vector, A.
      variance: "parameter" (common today), "scalar" or "per_dimension".
      min_variance: lower bound of the variance, in squared policy units. It keeps `log_prob` and
        its gradient finite.
      initialization: "orthogonal" (gain 0.01) or "torch".
      initial_stddev: initial exp(log_stddev), above 0, in policy units. Used by "parameter".

    References:
      Mnih et al. (2016), section 9 of the supplement.
    """

    size: int
    variance: str = "parameter"
    min_variance: float = 1e-4
    initialization: str = "orthogonal"
    initial_stddev: float = 1.0

    @nn.compact
    def __call__(self, features: Array) -> DiagonalGaussian:
        """Map features `[..., F]` to mean `[..., A]` and stddev, `[..., A]` or `[..., 1]`."""
        mean = dense(features, self.size, init=self.initialization, scale=0.01, name="mean")

        # sigma^2 without its lower bound.
        if self.variance == "parameter":
            # One parameter per entry, for all states.
            start = nn.initializers.constant(math.log(self.initial_stddev))
            log_stddev = self.param("log_stddev", start, (self.size,), jnp.float32)
            variance = jnp.broadcast_to(jnp.exp(2.0 * log_stddev), mean.shape)
        elif self.variance in ("scalar", "per_dimension"):
            entries = 1 if self.variance == "scalar" else self.size
            variance = jax.nn.softplus(
                dense(features, entries, init=self.initialization, scale=0.01, name="variance")
            )
        else:
            raise InputError(
                f"unknown variance {self.variance!r}; choose one of {', '.join(VARIANCES)}"
            )

        return DiagonalGaussian(mean, jnp.sqrt(variance + self.min_variance))
