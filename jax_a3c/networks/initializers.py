"""Initialisers of weights and biases: orthogonal, common today, or Torch's default of 2016."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_a3c.errors import InputError
from jax_a3c.networks.products import product
from jax_a3c.types import Array

INITS = ("orthogonal", "torch")


def initializers(init: str, *, scale: float, fan_in: int) -> dict[str, Any]:
    """Return the initialisers of one layer as keyword arguments of a Flax layer.

    Args:
      init: "orthogonal" for orthogonal weights times `scale` and zero biases. "torch" for weights
        and biases from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), as in the paper.
      scale: gain of the orthogonal weights; "torch" ignores it.
      fan_in: number of inputs of one output unit.

    Returns:
      `{"kernel_init": ..., "bias_init": ...}`.

    Raises:
      InputError: if `init` is unknown.

    References:
      "torch": e-mail of V. Mnih, in the wiki of muupan/async-rl (2016).
    """
    if init == "orthogonal":
        return {
            "kernel_init": nn.initializers.orthogonal(scale),
            "bias_init": nn.initializers.zeros,
        }
    if init != "torch":
        raise InputError(f"unknown init {init!r}; choose one of {', '.join(INITS)}")

    # U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for weights and biases alike.
    bound = 1.0 / math.sqrt(fan_in)

    def uniform(key: Array, shape: Any, dtype: Any = jnp.float32, **_: Any) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return {"kernel_init": uniform, "bias_init": uniform}


def dense(
    inputs: Array,
    features: int,
    *,
    init: str,
    scale: float,
    dtype: Any = jnp.float32,
    name: str | None = None,
) -> Array:
    """Apply a new `nn.Dense`, `[..., F]` -> `[..., features]`, inside a compact module.

    Args:
      inputs: `[..., F]` float.
      features: number of output units.
      init: "orthogonal" or "torch".
      scale: gain of the orthogonal weights.
      dtype: dtype of the computation. Parameters are float32.
      name: name of the layer in the parameter tree.

    Returns:
      `[..., features]` of `dtype`.
    """
    starts = initializers(init, scale=scale, fan_in=inputs.shape[-1])
    return nn.Dense(features, dtype=dtype, name=name, dot_general=product, **starts)(inputs)
