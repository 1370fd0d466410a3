"""Torsos: map one merged batch of observations `[M, *obs_shape]` to features `[M, F]`."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_a3c.errors import InputError
from jax_a3c.networks.convolutions import Conv
from jax_a3c.networks.initializers import dense, initializers
from jax_a3c.types import Array

GAIN = 2.0**0.5
"""Gain of orthogonal weights in hidden layers."""
BYTE = 255.0
"""Largest value of uint8 observations if the environment declares none."""


def as_real(
    observations: Array, num_categories: int | None = None, observation_high: float | None = None
) -> Array:
    """Convert observations of any dtype to real numbers.

    Args:
      observations: `[M, *obs_shape]`. uint8 (pixels, RAM, boards) is divided by `observation_high`.
        bool and other integers are cast to float32. Floats do not change.
      num_categories: if given, observations are integers below this number and become one-hot.
      observation_high: largest value of uint8 observations, above 0; None means 255.

    Returns:
      Float array, `[M, *obs_shape]`, or `[M, *obs_shape, num_categories]` for one-hot.
    """
    if num_categories is not None:
        return jax.nn.one_hot(observations, num_categories, dtype=jnp.float32)
    if observations.dtype == jnp.uint8:
        return observations.astype(jnp.float32) / (
            BYTE if observation_high is None else observation_high
        )
    if not jnp.issubdtype(observations.dtype, jnp.floating):
        return observations.astype(jnp.float32)
    return observations


class MLP(nn.Module):
    """Fully connected layers on the flattened observation.

    Attributes:
      features: number of units of each layer.
      activation: activation after each layer. For continuous control the paper uses one layer of
        200 units with `nn.relu`.
      initialization: "orthogonal" or "torch".
      dtype: dtype of the computation.
    """

    features: tuple[int, ...] = (64, 64)
    activation: Callable[[Array], Array] = nn.tanh
    initialization: str = "orthogonal"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, observations: Array) -> Array:
        """Map `[M, *obs_shape]` to `[M, features[-1]]`."""
        x = observations.reshape(observations.shape[0], -1)
        for units in self.features:
            x = self.activation(
                dense(x, units, init=self.initialization, scale=GAIN, dtype=self.dtype)
            )
        return x


class Mnih2013(nn.Module):
    """Network of Mnih et al. (2013): conv 16 8x8/4, conv 32 4x4/2, FC 256.

    The paper uses it for its Figures 1-4.

    Attributes:
      initialization: "orthogonal" or "torch".
      dtype: dtype of the computation.
    """

    initialization: str = "orthogonal"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, observations: Array) -> Array:
        """Map `[M, H, W, C]` to `[M, 256]`; 84x84 gives 2,592 features before the last layer."""
        return _convolutions(self, observations, layers=((16, 8, 4), (32, 4, 2)), units=256)


class Nature(nn.Module):
    """Network of Mnih et al. (2015): conv 32 8x8/4, conv 64 4x4/2, conv 64 3x3, FC 512.

    The paper uses it for its Table 1.

    Attributes:
      initialization: "orthogonal" or "torch".
      dtype: dtype of the computation.
    """

    initialization: str = "orthogonal"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, observations: Array) -> Array:
        """Map `[M, H, W, C]` to `[M, 512]`; 84x84 gives 3,136 features before the last layer."""
        return _convolutions(
            self, observations, layers=((32, 8, 4), (64, 4, 2), (64, 3, 1)), units=512
        )


class MinAtarConv(nn.Module):
    """Network of MinAtar (Young & Tian, 2019): conv 16 3x3, FC 128.

    Attributes:
      initialization: "orthogonal" or "torch".
      dtype: dtype of the computation.
    """

    initialization: str = "orthogonal"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, observations: Array) -> Array:
        """Map `[M, H, W, C]` to `[M, 128]`."""
        return _convolutions(self, observations, layers=((16, 3, 1),), units=128)


def _convolutions(
    torso: Mnih2013 | Nature | MinAtarConv,
    observations: Array,
    *,
    layers: tuple[tuple[int, int, int], ...],
    units: int,
) -> Array:
    """Apply convolutions and a dense layer, each with ReLU, inside a compact method.

    Args:
      torso: module that the layers belong to.
      observations: `[M, H, W, C]`.
      layers: (channels, kernel size, stride) of each convolution, without padding.
      units: units of the dense layer.

    Returns:
      Features `[M, units]`.
    """
    _check_image(type(torso).__name__, observations.shape[1:], layers)
    x = observations
    for channels, size, stride in layers:
        starts = initializers(torso.initialization, scale=GAIN, fan_in=size * size * x.shape[-1])
        x = nn.relu(Conv(channels, (size, size), (stride, stride), dtype=torso.dtype, **starts)(x))

    x = x.reshape(x.shape[0], -1)  # [M, H', W', C'] -> [M, H' * W' * C']
    return nn.relu(dense(x, units, init=torso.initialization, scale=GAIN, dtype=torso.dtype))


def _check_image(
    name: str, shape: tuple[int, ...], layers: tuple[tuple[int, int, int], ...]
) -> None:
    """Check that `shape` is an image that is large enough for every layer."""
    if len(shape) != 3:
        raise InputError(
            f"{name} needs image observations [height, width, channels], got shape {shape}; "
            'use torso="mlp" (--network mlp) for vectors, or add the missing axis in the '
            "environment"
        )

    # Go back from one output pixel to the smallest input.
    smallest = 1
    for _, size, stride in reversed(layers):
        smallest = (smallest - 1) * stride + size
    if min(shape[:2]) < smallest:
        raise InputError(
            f"{name} needs images of at least {smallest}x{smallest} pixels, got observation shape "
            f"{shape} [height, width, channels]; move the channels last if they are first, "
            'or use a smaller torso such as "minatar" or "mlp"'
        )
