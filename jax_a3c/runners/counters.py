"""Exact counts on the device, where integers have 32 bits: two words that count to 2^64."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jax_a3c.types import Array

WORD = 2**32
"""Number of values of one word."""


class Counter(NamedTuple):
    """A count of up to 2^64 - 1 for `jit` and `scan`; `int(counter)` reads it outside of them.

    One environment with one step per update makes more than 2^31 updates in four hours, where an
    int32 would overflow.

    Attributes:
      high: `[]` uint32. The count divided by 2^32.
      low: `[]` uint32. The remainder of that division.

    Example:
      >>> counter = Counter.of(2**32 - 1).add(jnp.int32(2))
      >>> int(counter)
      4294967297
    """

    high: Array
    low: Array

    @classmethod
    def of(cls, count: int) -> "Counter":
        """Return a counter with the value `count`, an integer from 0 to 2^64 - 1."""
        high, low = divmod(int(count), WORD)
        return cls(jnp.asarray(np.uint32(high)), jnp.asarray(np.uint32(low)))

    def add(self, count: Any) -> "Counter":
        """Return the counter increased by `count`, `[]` integer from 0 to 2^31 - 1."""
        low = self.low + jnp.asarray(count).astype(jnp.uint32)  # wraps at 2^32
        carried = (low < self.low).astype(jnp.uint32)
        return Counter(self.high + carried, low)

    def as_float(self) -> Array:
        """Return the count as `[]` float32, rounded where it exceeds 2^24."""
        return self.high.astype(jnp.float32) * np.float32(WORD) + self.low.astype(jnp.float32)

    def __int__(self) -> int:
        """Return the count as a Python integer."""
        return int(self.high) * WORD + int(self.low)
