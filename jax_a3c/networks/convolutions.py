"""A 2D convolution whose gradient stays fast inside a loop on the CPU."""

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
"""On the CPU, kernels with at most this many weights per output unit run as patches times a matrix."""

CHUNK = 16
"""Images of one step of the gradient on the CPU; its intermediate results then fit into the caches."""

_LAYOUT = ("NHWC", "HWIO", "NHWC")


class Conv(nn.Module):
    """2D convolution without padding; parameters and results of `nn.Conv(..., padding="VALID")`.

    XLA's CPU compiler reorders the axes of a convolution into the only order that its fast kernel takes,
    but not in the body of a `lax.scan`: there the weight gradient that JAX derives falls back to a naive
    loop, 5 to 39 times slower. Here the gradient is written in that order to
    begin with, and taken over a few images at a time. `benchmarks/convolutions.py` has the measurement.
    Reverse-mode derivatives only, as of every `jax.custom_vjp`.

    Attributes:
      features: number of output channels.
      kernel_size: height and width of the kernel.
      strides: steps down and across.
      dtype: of the computation and of the result; parameters are float32.
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
    """Convolution without padding, in the form that is fast on the device it is compiled for.

    Args:
      images: `[M, H, W, C]` float.
      kernel: `[h, w, C, O]` float.
      strides: steps down and across.

    Returns:
      `[M, H', W', O]` with H' = (H - h) // stride + 1, likewise W'.
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
    """XLA's convolution; arguments as of `convolve`."""
    return lax.conv_general_dilated(images, kernel, strides, "VALID", dimension_numbers=_LAYOUT)


def as_patches(images: Array, kernel: Array, strides: tuple[int, int]) -> Array:
    """Every patch as a row, by strided slices, times the kernel as a matrix; arguments as of `convolve`."""
    height, width, _, features = kernel.shape
    rows = range(0, images.shape[1] - height + 1, strides[0])
    columns = range(0, images.shape[2] - width + 1, strides[1])
    slices = [
        images[:, i : i + rows[-1] + 1 : strides[0], j : j + columns[-1] + 1 : strides[1]]
        for i in range(height)
        for j in range(width)
    ]
    # [M, H', W', h * w * C] @ [h * w * C, O]
    return jnp.concatenate(slices, axis=-1) @ kernel.reshape(-1, features)


def canonical_gradient(
    images: Array, kernel: Array, grad: Array, strides: tuple[int, int]
) -> tuple[Array, Array]:
    """Gradient of `direct` as convolutions of NHWC by HWIO into NHWC, all transpositions explicit.

    Args:
      images: `[M, H, W, C]` float.
      kernel: `[h, w, C, O]` float.
      grad: `[M, H', W', O]` float, with respect to the result.
      strides: steps down and across.

    Returns:
      The gradients with respect to images and kernel.
    """
    sizes = kernel.shape[:2]
    # Rows and columns at the end that no patch reached.
    unused = [images.shape[k + 1] - strides[k] * (grad.shape[k + 1] - 1) - sizes[k] for k in (0, 1)]
    images_grad = lax.conv_general_dilated(
        grad,
        lax.rev(kernel, (0, 1)).swapaxes(2, 3),
        (1, 1),
        [(size - 1, size - 1 + rest) for size, rest in zip(sizes, unused, strict=True)],
        lhs_dilation=strides,
        dimension_numbers=_LAYOUT,
    )
    # The sum runs over the images: they take the place of the channels. -> [C, h, w, O]
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
    """`canonical_gradient`, a chunk of images after the other; the same arguments and results."""
    if images.shape[0] <= CHUNK:
        return canonical_gradient(images, kernel, grad, strides)
    num_chunks, rest = divmod(images.shape[0], CHUNK)
    whole = images.shape[0] - rest

    def add(kernel_grad: Array, chunk: tuple[Array, Array]) -> tuple[Array, Array]:
        images_grad, change = canonical_gradient(chunk[0], kernel, chunk[1], strides)
        return kernel_grad + change, images_grad

    def split(x: Array) -> Array:
        return x[:whole].reshape(num_chunks, CHUNK, *x.shape[1:])

    kernel_grad, images_grad = lax.scan(add, jnp.zeros_like(kernel), (split(images), split(grad)))
    images_grad = images_grad.reshape(whole, *images.shape[1:])
    if not rest:
        return images_grad, kernel_grad
    kernel_grad, last = add(kernel_grad, (images[whole:], grad[whole:]))
    return jnp.concatenate([images_grad, last]), kernel_grad


def direct_gradient(
    images: Array, kernel: Array, grad: Array, strides: tuple[int, int]
) -> tuple[Array, Array]:
    """The gradient that JAX derives from `direct`; arguments and results as of `canonical_gradient`."""
    return jax.vjp(functools.partial(direct, strides=strides), images, kernel)[1](grad)


def _is_small(kernel: Array) -> bool:
    return math.prod(kernel.shape[:3]) <= PATCHES_UP_TO


def by_platform(
    cpu: Callable[..., Any], default: Callable[..., Any], *args: Array, **settings: Any
) -> Any:
    """What the program is compiled for decides: `cpu(*args, **settings)` there, else `default`."""
    cpu, default = functools.partial(cpu, **settings), functools.partial(default, **settings)
    return lax.platform_dependent(*args, cpu=cpu, default=default)
