"""Data types that pass between environments, rollouts, objectives and runners.

Symbols in all docstrings of the package:

    T    time, always the leading axis of a rollout (time-major)
    *B   any number of batch axes, for example the environments of a runner
    A    number of actions, or the size of an action vector
    N    number of parallel environments, the batch axis of the runners
"""

from typing import Any, NamedTuple

import jax

Array = jax.Array
Params = Any
"""A pytree of arrays: the variables of a Flax module."""
Carry = Any
"""Recurrent state, a pytree of `[*B, ...]` arrays; `()` for a feed-forward network."""
Metrics = dict[str, Array]
"""A scalar for each name."""


class TimeStep(NamedTuple):
    """The result of one action, before any reset.

    Attributes:
      observation: `[*B, ...]`. s_{t+1}. At the end of an episode it is the final observation, never
        the first one of the next episode.
      reward: `[*B]` float32. r_t, in reward units.
      terminated: `[*B]` bool. The task ended, so the value of s_{t+1} is 0.
      truncated: `[*B]` bool. The episode was cut, for example by a time limit: bootstrap from
        s_{t+1}. Where both flags are set the episode terminated.
    """

    observation: Array
    reward: Array
    terminated: Array
    truncated: Array
