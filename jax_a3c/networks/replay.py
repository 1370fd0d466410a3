"""A forward pass taken again from what its layers gave before, without their products and convolutions."""

from typing import Any

import flax.linen as nn
import jax
from flax.traverse_util import flatten_dict

from jax_a3c.networks.convolutions import Conv
from jax_a3c.types import Array, Params

LAYERS = (nn.Dense, Conv)
"""Modules whose outputs are kept. What lies between, such as activations, is computed again."""

Layers = dict[tuple[str, ...], Array]
"""Outputs of layers, by the path of the module."""


def record(network: nn.Module, params: Params, *args: Any) -> tuple[Any, Layers]:
    """`network.apply(params, *args)`, and what its layers gave.

    Args:
      network: a module whose layers see one merged batch, `[T * B, ...]`, and are called once each.
      params: its variables.
      *args: of its `__call__`.

    Returns:
      The result of `apply`, and the outputs of its layers.
    """
    result, state = network.apply(params, *args, capture_intermediates=_is_layer)
    kept = flatten_dict(state["intermediates"])
    return result, {
        path[:-1]: outputs for path, (outputs,) in kept.items()
    }  # the last is the method


def replay(network: nn.Module, params: Params, layers: Layers, *args: Any) -> Any:
    """`network.apply(params, *args)` with the same derivatives, from what `record` kept.

    Args:
      network: as for `record`.
      params: those with which it was recorded.
      layers: outputs, of any shape with as many elements; rows are in the order of the merged batch.
      *args: those with which it was recorded.

    Returns:
      The result of `apply`.
    """

    def give(call: Any, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        outputs = call(*args, **kwargs)
        if not _is_layer(context.module, context.method_name):
            return outputs
        return _instead(outputs, layers[context.module.path].reshape(outputs.shape))

    with nn.intercept_methods(give):
        return network.apply(params, *args)


@jax.custom_jvp
def _instead(outputs: Array, known: Array) -> Array:
    """`known`, with the derivatives of `outputs`, whose own value nobody needs: XLA leaves it out."""
    del outputs
    return known


@_instead.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return primals[1], tangents[0]


def _is_layer(module: nn.Module, method: str) -> bool:
    return isinstance(module, LAYERS) and method == "__call__"
