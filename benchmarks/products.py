"""Which order of operands makes the gradient of a narrow matrix product fast on the CPU?

    python benchmarks/products.py [--repeats 7] [--out benchmarks/results/products.json]

For `rows` [M, F] and `grad` [M, G]: `rows^T @ grad`, what JAX derives; `(grad^T @ rows)^T`; the same with a
barrier between product and transposition, without which XLA takes both orders for one; and `chosen`, the
gradient of `networks.products.product`. Each in a `lax.scan`, as in a training loop.
"""

import argparse
import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import lax
from measure import RESULTS, interleaved_seconds, spread, table, write_result

from jax_a3c.networks.products import product
from jax_a3c.types import Array

SCAN_LENGTH = 20
# M, F, G: heads on the default MLP, the layers before the heads of "minatar" and "mnih2013", a square one.
SHAPES = (
    (80, 64, 2),
    (16384, 64, 2),
    (16384, 64, 1),
    (1024, 1024, 128),
    (80, 2592, 256),
    (16384, 64, 64),
)

FORMS: dict[str, Callable[[Array, Array], Array]] = {
    "rows^T @ grad": lambda rows, grad: rows.T @ grad,
    "(grad^T @ rows)^T": lambda rows, grad: (grad.T @ rows).T,
    "with a barrier": lambda rows, grad: lax.optimization_barrier(grad.T @ rows).T,
    "chosen": lambda rows, grad: jax.vjp(
        lambda kernel: product(rows, kernel), jnp.zeros((rows.shape[1], grad.shape[1]))
    )[1](grad)[0],
}


def loop(form: Callable[[Array, Array], Array], rows: Array, grad: Array) -> Array:
    """Many gradients, each from inputs that the one before has changed."""

    def step(kernel: Array, _: None) -> tuple[Array, None]:
        return kernel + form(rows + kernel[0, 0], grad), None

    start = jnp.zeros((rows.shape[1], grad.shape[1]))
    return lax.scan(step, start, length=SCAN_LENGTH)[0]


def main() -> None:
    """Measure, print a table and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS / "products.json")
    args = parser.parse_args()
    rows = []
    for m, f, g in SHAPES:
        keys = jax.random.split(jax.random.key(0))
        data = 1e-3 * jax.random.normal(keys[0], (m, f)), 1e-3 * jax.random.normal(keys[1], (m, g))
        programs = {
            name: functools.partial(jax.jit(functools.partial(loop, form)), *data)
            for name, form in FORMS.items()
        }
        times = interleaved_seconds(programs, args.repeats)
        for name, seconds in times.items():
            each = spread([1e6 * s / SCAN_LENGTH for s in seconds], 1)
            rows.append({"rows": m, "inputs": f, "outputs": g, "form": name, "microseconds": each})
    heads = ("M, F, G", *FORMS)
    lines = [
        (
            f"{m:,}, {f:,}, {g}",
            *(
                f"{row['microseconds']['median']:,.0f}"
                for row in rows
                if shape_of(row) == (m, f, g)
            ),
        )
        for m, f, g in SHAPES
    ]
    print(table(heads, lines))
    write_result(args.out, rows, repeats=args.repeats)


def shape_of(row: dict) -> tuple[int, int, int]:
    """M, F, G of a row."""
    return row["rows"], row["inputs"], row["outputs"]


if __name__ == "__main__":
    main()
