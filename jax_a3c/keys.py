"""Random keys: seeds and keys of any kind as typed keys, and keys that are fast on the CPU.

On the CPU, XLA runs JAX's threefry hash as a loop of five iterations with a dozen small kernels
each. In a compiled update on a small environment these loops are more than half of all kernels.
The keys of `unrolled` run the same hash without a loop. They give the same bits, and XLA fuses the
hash into the code around it. On other platforms they run JAX's own kernel.

A compiled function of this package converts its keys with `unrolled` when it begins and with
`original` when it ends. So states and checkpoints hold JAX's keys only.
"""

import functools
import math
import numbers
from typing import Any

import jax
import jax.extend as jex
import jax.numpy as jnp
import numpy as np

from jax_a3c.checks import check_integer
from jax_a3c.errors import InputError
from jax_a3c.messages import shown
from jax_a3c.types import Array

ORIGINAL = "threefry2x32"
"""JAX's name of its default keys."""
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
"""Bits by which the rounds of the hash rotate a word, for even and for odd groups of rounds."""
PARITY = 0x1BD11BDA
"""Constant of the hash's key schedule."""
UINT_DTYPES = {8: jnp.uint8, 16: jnp.uint16, 32: jnp.uint32, 64: jnp.uint64}
"""Dtype of random bits of each width."""
MOST = 2**32
"""Largest number of entries of an array that `unrolled` keys number; JAX's own draw larger ones."""


def as_key(key: Array | int) -> Array:
    """Return a typed random key for a key or a seed.

    Args:
      key: a typed key, a raw uint32 key, or a seed, an integer of 64 bits.

    Returns:
      The key. A raw key gets the type of `jax_default_prng_impl`.

    Raises:
      InputError: if `key` is something else, such as a batch of keys.
    """
    if isinstance(key, numbers.Integral):
        check_integer("key", key, -(2**63), 2**63 - 1)
        return jax.random.key(int(key))

    if isinstance(key, jax.Array):
        if key.ndim == 0 and is_key(key):
            return key
        if key.ndim == 1 and key.dtype == jnp.uint32:
            return jax.random.wrap_key_data(key)

    raise InputError(
        f"key must be a random key or a seed, got {shown(key)}; a batch of keys needs jax.vmap"
    )


def unrolled(tree: Any) -> Any:
    """Replace each of JAX's default keys in a tree by one of the same bits without rolled loops.

    Args:
      tree: any tree. Leaves that are no keys, and keys of another kind, stay as they are.

    Returns:
      The tree. Use its keys within one compiled function only, and convert them with `original`.
    """
    # Without this option, JAX assigns other bits to the entries of an array.
    if not getattr(jax.config, "jax_threefry_partitionable", False):
        return tree
    return jax.tree.map(functools.partial(_converted, old=ORIGINAL, new=_unrolled_keys()), tree)


def original(tree: Any) -> Any:
    """Replace each key of `unrolled` in a tree by JAX's own key of the same bits."""
    return jax.tree.map(functools.partial(_converted, old=_unrolled_keys(), new=ORIGINAL), tree)


def _converted(leaf: Any, old: Any, new: Any) -> Any:
    """Return a leaf of a tree; a key of the kind `old` becomes one of the kind `new`."""
    if not is_key(leaf) or jax.random.key_impl(leaf) != old:
        return leaf
    return jax.random.wrap_key_data(jax.random.key_data(leaf), impl=new)


def is_key(leaf: Any) -> bool:
    """Check whether a leaf of a tree is a typed random key, or an array of them."""
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


@functools.cache
def _unrolled_keys() -> Any:
    """Register the keys with JAX, at their first use."""
    return jex.random.define_prng_impl(
        key_shape=(2,),
        seed=jex.random.threefry_prng_impl.seed,
        split=_split,
        random_bits=_random_bits,
        fold_in=_fold_in,
        name=f"{ORIGINAL}_unrolled",
        tag="fryu",
    )


def _split(key: Array, shape: tuple[int, ...]) -> Array:
    if math.prod(shape) > MOST:
        return jex.random.threefry_prng_impl.split(key, shape)
    return jnp.stack(_hash(key, *_counts(shape)), axis=-1)  # [*shape, 2]


def _fold_in(key: Array, data: Any) -> Array:
    data = jnp.asarray(data).astype(jnp.uint32)
    return jnp.stack(_hash(key, jnp.zeros_like(data), data))  # [2]


def _random_bits(key: Array, bit_width: int, shape: tuple[int, ...]) -> Array:
    if math.prod(shape) > MOST:
        return jex.random.threefry_prng_impl.random_bits(key, bit_width, shape)
    high, low = _hash(key, *_counts(shape))
    dtype = UINT_DTYPES[bit_width]
    if bit_width == 64:
        return (high.astype(dtype) << 32) | low.astype(dtype)
    return (high ^ low).astype(dtype)


def _counts(shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Number the entries of an array, as two words `[*shape]` uint32; the high word is 0."""
    low = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    return jnp.zeros(shape, jnp.uint32), low


def _hash(key: Array, high: Array, low: Array) -> tuple[Array, Array]:
    """Hash two words under a key `[2]`, on the CPU without a loop."""
    words = (key[0], key[1], *jnp.broadcast_arrays(high, low))
    return jax.lax.platform_dependent(*words, cpu=_threefry, default=_threefry_of_jax)


def _threefry_of_jax(k1: Array, k2: Array, x1: Array, x2: Array) -> tuple[Array, Array]:
    return tuple(jex.random.threefry2x32_p.bind(k1, k2, x1, x2))


def _threefry(k1: Array, k2: Array, x1: Array, x2: Array) -> tuple[Array, Array]:
    """Threefry-2x32 with 20 rounds (Salmon et al. 2011), written out."""
    keys = (k1, k2, k1 ^ k2 ^ np.uint32(PARITY))

    x1 = x1 + keys[0]
    x2 = x2 + keys[1]
    for group in range(5):
        # Four rounds of add, rotate and xor.
        for bits in ROTATIONS[group % 2]:
            x1 = x1 + x2
            x2 = x1 ^ ((x2 << np.uint32(bits)) | (x2 >> np.uint32(32 - bits)))

        # Add the next two words of the key schedule.
        x1 = x1 + keys[(group + 1) % 3]
        x2 = x2 + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x1, x2
