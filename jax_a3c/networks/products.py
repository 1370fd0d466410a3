"""Matrix product with a gradient that is fast on the CPU for narrow results, such as a head."""

from typing import Any

import jax
from jax import lax

from jax_a3c.networks.convolutions import by_platform
from jax_a3c.types import Array


def product(inputs: Array, kernel: Array, *_: Any, **__: Any) -> Array:
    """Return `inputs @ kernel`, for use as the `dot_general` of an `nn.Dense`.

    The gradient of the kernel is `inputs^T @ grad`. For it, XLA's CPU compiler transposes the
    inputs in memory. If the inputs are wide and `grad` is narrow, this takes ten times as long as
    `grad^T @ inputs`, which transposes only `grad` (`benchmarks/products.py`). Like every
    `jax.custom_vjp`, the product supports reverse-mode derivatives only.

    Args:
      inputs: `[..., F]`.
      kernel: `[F, G]`.

    Returns:
      `[..., G]`.
    """
    # The derived gradient is fast for wide results.
    if kernel.shape[1] >= kernel.shape[0]:
        return inputs @ kernel
    return _narrow(inputs, kernel)


@jax.custom_vjp
def _narrow(inputs: Array, kernel: Array) -> Array:
    """Return `inputs @ kernel` for a kernel with fewer columns than rows."""
    return inputs @ kernel


def _forward(inputs: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return inputs @ kernel, (inputs, kernel)


def _backward(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    inputs, kernel = saved
    rows = inputs.reshape(-1, kernel.shape[0])  # [M, F]
    columns = grad.reshape(-1, kernel.shape[1])  # [M, G]
    return grad @ kernel.T, by_platform(_moving_the_narrow, _as_it_comes, rows, columns)


_narrow.defvjp(_forward, _backward)


def _moving_the_narrow(rows: Array, columns: Array) -> Array:
    """Return rows^T @ columns, with only the columns transposed in memory."""
    # Without the barrier, XLA merges the two transpositions and transposes the rows again.
    return lax.optimization_barrier(columns.T @ rows).T


def _as_it_comes(rows: Array, columns: Array) -> Array:
    """Return rows^T @ columns, in the form that JAX derives."""
    return rows.T @ columns
