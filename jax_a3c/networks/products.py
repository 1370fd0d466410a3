"""A matrix product whose gradient is fast on the CPU where the result is narrow, as that of a head."""

from typing import Any

import jax
from jax import lax

from jax_a3c.networks.convolutions import by_platform
from jax_a3c.types import Array


def product(inputs: Array, kernel: Array, *_: Any, **__: Any) -> Array:
    """`inputs @ kernel`, as the `dot_general` of an `nn.Dense`.

    For the gradient of the kernel, `inputs^T @ grad`, XLA's CPU compiler moves the inputs into another order
    in memory. Where they are wide and `grad` is narrow, that takes ten times as long as `grad^T @ inputs`,
    which moves `grad` alone: `benchmarks/products.py`. Reverse-mode derivatives only, as of every
    `jax.custom_vjp`.

    Args:
      inputs: `[..., F]`.
      kernel: `[F, G]`.

    Returns:
      `[..., G]`.
    """
    if kernel.shape[1] >= kernel.shape[0]:
        return inputs @ kernel
    return _narrow(inputs, kernel)


@jax.custom_vjp
def _narrow(inputs: Array, kernel: Array) -> Array:
    return inputs @ kernel


def _forward(inputs: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return inputs @ kernel, (inputs, kernel)


def _backward(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    inputs, kernel = saved
    rows, columns = inputs.reshape(-1, kernel.shape[0]), grad.reshape(-1, kernel.shape[1])
    return grad @ kernel.T, by_platform(_moving_the_narrow, _as_it_comes, rows, columns)


_narrow.defvjp(_forward, _backward)


def _moving_the_narrow(rows: Array, columns: Array) -> Array:
    # Without the barrier XLA takes the two transpositions together, and moves the rows again.
    return lax.optimization_barrier(columns.T @ rows).T


def _as_it_comes(rows: Array, columns: Array) -> Array:
    return rows.T @ columns
