"""Torsos: one merged batch of observations `[M, *obs_shape]` -> features `[M, F]`."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_a3c.checks import InputError
from jax_a3c.networks.convolutions import Conv
from jax_a3c.networks.initializers import dense, initializers
from jax_a3c.types import Array

GAIN = 2.0**0.5
"""Gain of orthogonal weights in hidden layers."""
BYTE = 255.0
"""The largest value of uint8 observations where the environment declares none."""


def as_real(
    observations: Array, num_categories: int | None = None, observation_high: float | None = None
) -> Array:
    """Turn any observation into real numbers.

    Args:
      observations: `[M, *obs_shape]`. uint8 (pixels, RAM, boards) is divided by `observation_high`, bool and
        other integers are cast to float32, floats stay.
      num_categories: the observations are integers below this number, encoded one-hot.
      observation_high: the largest value of uint8 observations, above 0; None means 255.

    Returns:
      Float array, `[M, *obs_shape]`, with one more axis of `num_categories` for one-hot.
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
      features: units of every layer.
      activation: after every layer; the paper's continuous control has one layer of 200 with `nn.relu`.
      initialization: "orthogonal" or "torch".
      dtype: of the computation.
    """

    features: tuple[int, ...] = (64, 64)
    activation: Callable[[Array], Array] = nn.tanh
    initialization: str = "orthogonal"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, observations: Array) -> Array:
        """`[M, *obs_shape]` -> `[M, features[-1]]`."""
        x = observations.reshape(observations.shape[0], -1)
        for units in self.features:
            x = self.activation(
                dense(x, units, init=self.initialization, scale=GAIN, dtype=self.dtype)
            )
        return x


class Mnih2013(nn.Module):
    """The network of Mnih et al. (2013), of the paper's Figures 1-4: conv 16 8x8/4, conv 32 4x4/2, FC 256.

    Attributes:
      initialization: "orthogonal" or "torch".
      dtype: of the computation.
    """

    initialization: str = "orthogonal"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, observations: Array) -> Array:
        """`[M, H, W, C]` -> `[M, 256]`; 84x84 gives 2,592 features before the last layer."""
        return _convolutions(self, observations, layers=((16, 8, 4), (32, 4, 2)), units=256)


class Nature(nn.Module):
    """The network of Mnih et al. (2015), of the paper's Table 1: conv 32 8x8/4, 64 4x4/2, 64 3x3, FC 512.

    Attributes:
      initialization: "orthogonal" or "torch".
      dtype: of the computation.
    """

    initialization: str = "orthogonal"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, observations: Array) -> Array:
        """`[M, H, W, C]` -> `[M, 512]`; 84x84 gives 3,136 features before the last layer."""
        return _convolutions(
            self, observations, layers=((32, 8, 4), (64, 4, 2), (64, 3, 1)), units=512
        )


class MinAtarConv(nn.Module):
    """The network of MinAtar (Young & Tian, 2019): conv 16 3x3, FC 128.

    Attributes:
      initialization: "orthogonal" or "torch".
      dtype: of the computation.
    """

    initialization: str = "orthogonal"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, observations: Array) -> Array:
        """`[M, H, W, C]` -> `[M, 128]`."""
        return _convolutions(self, observations, layers=((16, 3, 1),), units=128)


def _convolutions(
    torso: Mnih2013 | Nature | MinAtarConv,
    observations: Array,
    *,
    layers: tuple[tuple[int, int, int], ...],
    units: int,
) -> Array:
    """Layers (channels, size, stride) without padding, then a dense one, ReLU each; for compact methods."""
    _check_image(type(torso).__name__, observations.shape[1:], layers)
    x = observations
    for channels, size, stride in layers:
        starts = initializers(torso.initialization, scale=GAIN, fan_in=size * size * x.shape[-1])
        x = nn.relu(Conv(channels, (size, size), (stride, stride), dtype=torso.dtype, **starts)(x))
    x = x.reshape(x.shape[0], -1)
    return nn.relu(dense(x, units, init=torso.initialization, scale=GAIN, dtype=torso.dtype))


def _check_image(
    name: str, shape: tuple[int, ...], layers: tuple[tuple[int, int, int], ...]
) -> None:
    """Raise an InputError unless `shape` is an image on which every layer has room."""
    if len(shape) != 3:
        raise InputError(
            f"{name} needs image observations [height, width, channels], got shape {shape}; "
            'use torso="mlp" (--network mlp) for vectors, or add the missing axis in the environment'
        )
    smallest = 1
    for _, size, stride in reversed(layers):
        smallest = (smallest - 1) * stride + size
    if min(shape[:2]) < smallest:
        raise InputError(
            f"{name} needs images of at least {smallest}x{smallest} pixels, got observation shape {shape} "
            "[height, width, channels]; move the channels last if they are first, "
            'or use a smaller torso such as "minatar" or "mlp"'
        )
