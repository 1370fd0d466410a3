"""2D convolution with a gradient that is fast inside a loop on the CPU."""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jax_a3c.types import Array

PATCHES_UP_TO = 64
"""Largest number of weights per output unit for which the CPU multiplies patches by a matrix."""

CHUNK = 16
"""Number of images per step of the CPU gradient. Intermediate results then fit into the caches."""

_LAYOUT = ("NHWC", "HWIO", "NHWC")


class Conv(nn.Module):
    """2D convolution with the parameters and results of `nn.Conv(..., padding="VALID")`.

    XLA's fast CPU kernel accepts one order of the axes. XLA transposes convolutions into that
    order, but not in the body of a `lax.scan`. There the weight gradient that JAX derives falls
    back to a naive loop, which is 5 to 39 times slower (`benchmarks/convolutions.py`). This module
    writes the gradient in the fast order and computes it for a few images at a time. Like every
    `jax.custom_vjp`, it supports reverse-mode derivatives only.

    Attributes:
      features: number of output channels.
      kernel_size: height and width of the kernel.
      strides: vertical and horizontal stride.
      kernel_init: initialiser of the kernel.
      bias_init: initialiser of the bias.
      dtype: dtype of the computation and of the result. Parameters are float32.
    """

    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    kernel_init: Any = nn.initializers.lecun_normal()
    bias_init: Any = nn.initializers.zeros
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Convolve `[M, H, W, C]` -> `[M, H', W', features]`."""
        shape = (*self.kernel_size, images.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
        outputs = convolve(images.astype(self.dtype), kernel.astype(self.dtype), self.strides)
        return outputs + bias.astype(self.dtype).reshape(1, 1, 1, -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(images: Array, kernel: Array, strides: tuple[int, int]) -> Array:
    """Convolve without padding, in the form that is fast on the compilation target.

    Args:
      images: `[M, H, W, C]` float.
      kernel: `[h, w, C, O]` float.
      strides: vertical and horizontal stride.

    Returns:
      `[M, H', W', O]` with H' = (H - h) // stride + 1, and W' likewise.
    """
    cpu = as_patches if _is_small(kernel) else direct
    return by_platform(cpu, direct, images, kernel, strides=strides)


def _forward(
    images: Array, kernel: Array, strides: tuple[int, int]
) -> tuple[Array, tuple[Array, Array]]:
    return convolve(images, kernel, strides), (images, kernel)


def _backward(
    strides: tuple[int, int], saved: tuple[Array, Array], grad: Array
) -> tuple[Array, Array]:
    return by_platform(chunked_gradient, direct_gradient, *saved, grad, strides=strides)


convolve.defvjp(_forward, _backward)


def direct(images: Array, kernel: Array, strides: tuple[int, int]) -> Array:
    """Convolve with XLA's convolution; same arguments and result as `convolve`."""
    return lax.conv_general_dilated(images, kernel, strides, "VALID", dimension_numbers=_LAYOUT)


def as_patches(images: Array, kernel: Array, strides: tuple[int, int]) -> Array:
    """Convolve by a product of patches and kernel; same arguments and result as `convolve`."""
    height, width, _, features = kernel.shape
    rows = range(0, images.shape[1] - height + 1, strides[0])
    columns = range(0, images.shape[2] - width + 1, strides[1])

    # Position (i, j) of every patch, as one strided slice each: [M, H', W', C].
    slices = [
        images[:, i : i + rows[-1] + 1 : strides[0], j : j + columns[-1] + 1 : strides[1]]
        for i in range(height)
        for j in range(width)
    ]

    # [M, H', W', h * w * C] @ [h * w * C, O] -> [M, H', W', O]
    return jnp.concatenate(slices, axis=-1) @ kernel.reshape(-1, features)


def canonical_gradient(
    images: Array, kernel: Array, grad: Array, strides: tuple[int, int]
) -> tuple[Array, Array]:
    """Return the gradient of `direct`, computed by NHWC convolutions with explicit transpositions.

    Args:
      images: `[M, H, W, C]` float.
      kernel: `[h, w, C, O]` float.
      grad: `[M, H', W', O]` float. Gradient with respect to the result.
      strides: vertical and horizontal stride.

    Returns:
      The gradients with respect to images and kernel.
    """
    sizes = kernel.shape[:2]
    # Count the rows and columns at the end that no patch covers.
    unused = [images.shape[k + 1] - strides[k] * (grad.shape[k + 1] - 1) - sizes[k] for k in (0, 1)]

    # Images: convolve the dilated gradient with the flipped kernel.
    images_grad = lax.conv_general_dilated(
        grad,
        lax.rev(kernel, (0, 1)).swapaxes(2, 3),
        (1, 1),
        [(size - 1, size - 1 + rest) for size, rest in zip(sizes, unused, strict=True)],
        lhs_dilation=strides,
        dimension_numbers=_LAYOUT,
    )

    # Kernel: the sum runs over the images, so M takes the place of the channels: [C, h, w, O].
    kernel_grad = lax.conv_general_dilated(
        images.transpose(3, 1, 2, 0),
        grad.transpose(1, 2, 0, 3),
        (1, 1),
        [(0, -rest) for rest in unused],
        rhs_dilation=strides,
        dimension_numbers=_LAYOUT,
    )
    return images_grad, kernel_grad.transpose(1, 2, 0, 3)


def chunked_gradient(
    images: Array, kernel: Array, grad: Array, strides: tuple[int, int]
) -> tuple[Array, Array]:
    """Compute `canonical_gradient` in chunks of images; same arguments and results."""
    if images.shape[0] <= CHUNK:
        return canonical_gradient(images, kernel, grad, strides)
    num_chunks, rest = divmod(images.shape[0], CHUNK)
    whole = images.shape[0] - rest

    def add(kernel_grad: Array, chunk: tuple[Array, Array]) -> tuple[Array, Array]:
        images_grad, change = canonical_gradient(chunk[0], kernel, chunk[1], strides)
        return kernel_grad + change, images_grad

    def split(x: Array) -> Array:
        return x[:whole].reshape(num_chunks, CHUNK, *x.shape[1:])

    # Add up the kernel's gradient over the chunks; stack the images' gradients.
    kernel_grad, images_grad = lax.scan(add, jnp.zeros_like(kernel), (split(images), split(grad)))
    images_grad = images_grad.reshape(whole, *images.shape[1:])
    if not rest:
        return images_grad, kernel_grad

    # The images after the last whole chunk.
    kernel_grad, last = add(kernel_grad, (images[whole:], grad[whole:]))
    return jnp.concatenate([images_grad, last]), kernel_grad


def direct_gradient(
    images: Array, kernel: Array, grad: Array, strides: tuple[int, int]
) -> tuple[Array, Array]:
    """Return the gradient that JAX derives from `direct`; interface of `canonical_gradient`."""
    return jax.vjp(functools.partial(direct, strides=strides), images, kernel)[1](grad)


def _is_small(kernel: Array) -> bool:
    """Return whether the CPU is faster with patches than with XLA's convolution."""
    return math.prod(kernel.shape[:3]) <= PATCHES_UP_TO


def by_platform(
    cpu: Callable[..., Any], default: Callable[..., Any], *args: Array, **settings: Any
) -> Any:
    """Call `cpu(*args, **settings)` if the compilation target is a CPU, else `default`."""
    cpu = functools.partial(cpu, **settings)
    default = functools.partial(default, **settings)
    return lax.platform_dependent(*args, cpu=cpu, default=default)
