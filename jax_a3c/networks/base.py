"""The protocol of a network."""

from collections.abc import Callable
from typing import Any, Protocol

from jax_a3c.types import Carry, Params


class Network(Protocol):
    """The interface of a network. A Flax module with these methods satisfies it.

    Arrays are time-major: `observation [T, *B, ...]`, `reset [T, *B]`, `carry [*B, ...]`. Where
    `reset` is True the network resets its carry before it reads that observation.

    A network may also store its activations while acting, so that the loss of an actor-critic
    method saves a forward pass. It then has a true `stores_activations`, and `apply_and_store` and
    `apply_stored` as in `networks.ActorCritic`.
    """

    @property
    def init(self) -> Callable[..., Params]:
        """Return the function `(key, carry, observation, reset) -> params`."""

    @property
    def apply(self) -> Callable[..., Any]:
        """Return `(params, carry, observation, reset) -> (carry, distribution, values)`."""

    def initial_carry(self, batch_shape: tuple[int, ...]) -> Carry:
        """Return the recurrent state at the start of an episode, `[*batch_shape, ...]`."""
