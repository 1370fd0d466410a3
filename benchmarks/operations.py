"""Costs of a program: operations of the network's matrix products, and XLA's own count."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax.extend import core

from jax_a3c.networks import Conv


class Layer(NamedTuple):
    """A layer that is a matrix product.

    Attributes:
      flops: operations of its forward pass for one observation: a multiplication and an addition
        for each weight of each output.
      is_first: its input is the observation, which needs no gradient.
    """

    flops: int
    is_first: bool


class Cost(NamedTuple):
    """XLA's count.

    Attributes:
      flops: floating-point operations.
      bytes: bytes that all kernels read and write; a cache may serve them.
    """

    flops: float
    bytes: float


def layers_of(network: Any, spec: Any) -> list[Layer]:
    """Return the layers of a feed-forward network with one trunk, in order; compute nothing."""
    # [T, N, ...] with T = N = 1
    observation = jax.ShapeDtypeStruct((1, 1, *spec.observation_shape), spec.observation_dtype)
    reset = jax.ShapeDtypeStruct((1, 1), bool)
    layers: list[Layer] = []

    def note(following: Callable, args: Any, kwargs: Any, context: Any) -> Any:
        output = following(*args, **kwargs)
        if isinstance(context.module, nn.Dense | Conv) and context.method_name == "__call__":
            kernel = context.module.variables["params"]["kernel"].shape
            layers.append(Layer(2 * math.prod(output.shape) * math.prod(kernel[:-1]), not layers))
        return output

    # Trace the initialisation with shapes only.
    with nn.intercept_methods(note):
        jax.eval_shape(
            network.init, jax.random.key(0), network.initial_carry((1,)), observation, reset
        )
    return layers


def forward_flops(layers: list[Layer]) -> int:
    """Return the operations of a forward pass for one observation."""
    return sum(layer.flops for layer in layers)


def gradient_flops(layers: list[Layer]) -> int:
    """Return the operations of a forward and a backward pass for one observation.

    The backward pass has one product for the weights of each layer and one for its input.
    """
    return sum(layer.flops * (2 if layer.is_first else 3) for layer in layers)


def update_flops(layers: list[Layer], num_steps: int) -> float:
    """Return the operations of an update of A2C for each environment step.

    They are one pass to act, one with its gradient to learn, and the value of the last observation.
    The second pass over a rollout in which an episode was truncated is left out: it is rare.
    """
    return forward_flops(layers) * (1 + 1 / num_steps) + gradient_flops(layers)


def counted_cost(function: Callable, *args: Any) -> Cost:
    """Return XLA's count of a function, with the body of a scan counted as often as it runs.

    `compiled.cost_analysis()` counts the body of every loop once. Each scan's body is therefore
    compiled separately too, and its cost is added for the other iterations. The loops inside random
    numbers stay at one iteration. XLA counts the more expensive branch of a condition, taken or
    not.

    Args:
      function: traceable.
      *args: arrays, or their shapes.

    Returns:
      The cost of one call.
    """
    found = jax.jit(function).lower(*args).compile().cost_analysis() or {}
    flops = found.get("flops", math.nan)
    size = found.get("bytes accessed", math.nan)

    # Add the iterations that XLA did not count.
    for scan in _scans(jax.make_jaxpr(function)(*args).jaxpr):
        body = scan.params["jaxpr"]
        shapes = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in body.in_avals]
        counted = min(int(scan.params["unroll"]), scan.params["length"])
        if counted < scan.params["length"]:
            each = counted_cost(core.jaxpr_as_fun(body), *shapes)
            flops += (scan.params["length"] - counted) * each.flops
            size += (scan.params["length"] - counted) * each.bytes
    return Cost(flops, size)


def _scans(jaxpr: Any) -> Iterator[Any]:
    """Yield the outermost scans of a program."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation
            continue
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program):
            if _is_program(value):
                yield from _scans(value.jaxpr if isinstance(value, core.ClosedJaxpr) else value)


def _is_program(value: Any) -> bool:
    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)
