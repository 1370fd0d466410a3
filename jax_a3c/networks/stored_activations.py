"""Repeat a forward pass from stored layer outputs, without its products and convolutions."""

from typing import Any

import flax.linen as nn
import jax
from flax.traverse_util import flatten_dict

from jax_a3c.networks.convolutions import Conv
from jax_a3c.types import Array, Params

LAYERS = (nn.Dense, Conv)
"""Modules whose outputs are stored. Everything between them, such as activations, is recomputed."""

Activations = dict[tuple[str, ...], Array]
"""Outputs of layers, by the path of their module."""


def apply_and_store(network: nn.Module, params: Params, *args: Any) -> tuple[Any, Activations]:
    """Call `network.apply(params, *args)` and store the outputs of its layers.

    Args:
      network: module whose layers receive one merged batch, `[T * B, ...]`, and are called once
        each.
      params: variables of the network.
      *args: arguments of its `__call__`.

    Returns:
      The result of `apply`, and the outputs of its layers.
    """
    result, state = network.apply(params, *args, capture_intermediates=_is_layer)
    kept = flatten_dict(state["intermediates"])
    # The last part of a path is the method, `__call__`.
    return result, {path[:-1]: outputs for path, (outputs,) in kept.items()}


def apply_stored(network: nn.Module, params: Params, activations: Activations, *args: Any) -> Any:
    """Return `network.apply(params, *args)`, with its derivatives, from stored outputs.

    Args:
      network: as for `apply_and_store`.
      params: the same variables as for `apply_and_store`.
      activations: stored outputs, with rows in the order of the merged batch. Any shape with the
        right number of elements is accepted.
      *args: the same arguments as for `apply_and_store`.

    Returns:
      The result of `apply`.
    """

    def give(call: Any, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        outputs = call(*args, **kwargs)
        if not _is_layer(context.module, context.method_name):
            return outputs

        # [T, *B, ...] as stored -> [T * B, ...] as the layer gives it.
        return _instead(outputs, activations[context.module.path].reshape(outputs.shape))

    with nn.intercept_methods(give):
        return network.apply(params, *args)


@jax.custom_jvp
def _instead(outputs: Array, known: Array) -> Array:
    """Return `known` with the derivatives of `outputs`.

    XLA does not compute the value of `outputs`, because nothing uses it.
    """
    del outputs
    return known


@_instead.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return primals[1], tangents[0]


def _is_layer(module: nn.Module, method: str) -> bool:
    """Return whether this call gives an output that is stored."""
    return isinstance(module, LAYERS) and method == "__call__"
