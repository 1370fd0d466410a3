"""An update of the shared parameters as one vector, and parameters as one vector.

A segment computes the update on the device. Each array that crosses to NumPy costs time under the
interpreter lock, so all parts cross as one vector. Only this module knows its order.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jax_a3c.runners.shared_parameters import Update
from jax_a3c.types import Array, Metrics, Params


class Packing:
    """The order of an update's parts in one vector.

    Attributes:
      names: of the metrics, `env_steps` first; known once `pack` was traced.
    """

    def __init__(self, num_params: int):
        """Store P, the number of parameters, running statistics included."""
        self.names: tuple[str, ...] = ()
        self._num_params = num_params

    def pack(self, grads: Params, metrics: Metrics, statistics: Any) -> Array:
        """Join the parts to one vector `[P + M + S]` float32, under `jit`.

        Args:
          grads: d theta, the tree.
          metrics: scalars, one of them `env_steps`.
          statistics: a tree of changes, `()` without running statistics.
        """
        first = {"env_steps": metrics["env_steps"]}
        metrics = first | metrics
        self.names = tuple(metrics)

        scalars = jnp.stack([jnp.asarray(x, jnp.float32) for x in metrics.values()])
        return jnp.concatenate([ravel(grads), scalars, ravel(statistics)])

    def unpack(self, vector: np.ndarray) -> Update:
        """Return the parts of a packed vector, as views."""
        # Slices take a tenth of the time of `np.split`, all of it under the interpreter lock.
        size = self._num_params
        end = size + len(self.names)
        return Update(vector[:size], vector[end:], int(vector[size]), vector[size:end])


def ravel(tree: Any) -> Array:
    """Return the leaves of a tree as one vector `[P]` float32, the form that threads share."""
    return ravel_pytree(tree)[0].astype(jnp.float32)


def unraveller(like: Any) -> Callable[[Array], Any]:
    """Return the inverse of `ravel`, which gives each leaf the dtype of the leaf in `like`.

    Args:
      like: a tree of arrays or of shapes.

    Returns:
      A function from `[P]` float32 to a tree with the structure, shapes and dtypes of `like`.
    """
    flat, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like))
    return lambda vector: unravel(jnp.asarray(vector).astype(flat.dtype))
