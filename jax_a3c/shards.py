"""The shards of a synchronous run: devices that each step a part of its environments.

The runner names the axis of the shards `SHARDS` while it traces an update for a mesh. The functions
here change nothing where that axis does not exist, so the same code serves one device.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

Tree = TypeVar("Tree")

SHARDS = "shards"
"""Name of the axis of the shards."""


def exist() -> bool:
    """Return whether the code that is traced now runs on the shards of a mesh."""
    try:
        jax.lax.axis_size(SHARDS)
    except NameError:  # JAX's error for an axis that does not exist
        return False
    return True


def total(tree: Tree) -> Tree:
    """Return the sums over all shards of the arrays of a tree; `tree` itself without shards.

    The arrays travel as one vector of floating-point numbers: a device exchanges one large array
    faster than many small ones.
    """
    if not exist():
        return tree
    floats = jax.tree.map(lambda x: x.astype(jnp.result_type(x, jnp.float32)), tree)
    flat, unravel = ravel_pytree(floats)
    sums = unravel(jax.lax.psum(flat, SHARDS))
    return jax.tree.map(lambda x, like: x.astype(like.dtype), sums, tree)


def on_first(tree: Tree) -> Tree:
    """Return `tree` on the first shard and zeros on the others; `tree` itself without shards."""
    if not exist():
        return tree
    first = jax.lax.axis_index(SHARDS) == 0
    return jax.tree.map(lambda x: jnp.where(first, x, jnp.zeros_like(x)), tree)
