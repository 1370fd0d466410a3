"""Vectors instead of trees: parameters, updates of the shared parameters, acting states.

Each array that a compiled program takes or returns costs time under the interpreter lock. So all
parts of an update cross as one vector, and so do all parts of an acting state. Only this module
knows their order.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jax_a3c.keys import is_key
from jax_a3c.runners.shared_parameters import Update
from jax_a3c.types import Array, Metrics, Params

WORD = 4
"""Bytes of a word of a packed tree."""


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
          grads: d theta, the tree or its vector `[P]`.
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


class TreePacking:
    """A tree of arrays as one vector of 32-bit words, which keeps every bit.

    A call of a compiled program with the ten small arrays of an acting state costs about 50 us more
    than a call with one vector, most of it under the interpreter lock.
    """

    def __init__(self, like: Any):
        """Store the structure.

        Args:
          like: a tree of arrays.
        """
        leaves, self._structure = jax.tree.flatten(like)
        # A key has no dtype of numbers, but a kind.
        self._kinds = [jax.random.key_impl(leaf) if is_key(leaf) else leaf.dtype for leaf in leaves]
        self._words = [jax.eval_shape(_as_words, leaf) for leaf in leaves]

    def pack(self, tree: Any) -> Array:
        """Return the leaves of a tree as one vector `[W]` uint32, under `jit`."""
        leaves = jax.tree.leaves(tree)
        return jnp.concatenate([_as_words(leaf).reshape(-1) for leaf in leaves])

    def unpack(self, vector: Array) -> Any:
        """Return the tree that was packed, under `jit`."""
        ends = np.cumsum([words.size for words in self._words])
        parts = jnp.split(vector, ends[:-1])
        leaves = [
            _from_words(part.reshape(words.shape), kind)
            for part, words, kind in zip(parts, self._words, self._kinds, strict=True)
        ]
        return jax.tree.unflatten(self._structure, leaves)


def _as_words(leaf: Array) -> Array:
    """Return the bits of an array as uint32: one word for each entry, or two for 64 bits."""
    if is_key(leaf):
        return jax.random.key_data(leaf)
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint32)
    if leaf.dtype.itemsize < WORD:
        unsigned = jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")
        return jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)
    return jax.lax.bitcast_convert_type(leaf, jnp.uint32)


def _from_words(words: Array, kind: Any) -> Array:
    """Return the array that `_as_words` converted, of this dtype or this kind of keys."""
    if not isinstance(kind, np.dtype):
        return jax.random.wrap_key_data(words, impl=kind)
    if kind == jnp.bool_:
        return words != 0
    if kind.itemsize < WORD:
        words = words.astype(jnp.dtype(f"uint{8 * kind.itemsize}"))
    return jax.lax.bitcast_convert_type(words, kind)


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
