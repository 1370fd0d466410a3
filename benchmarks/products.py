"""Which order of operands makes the gradient of a narrow matrix product fast on the CPU?

    python benchmarks/products.py [--repeats 7]
    python benchmarks/products.py --table        print the result that exists

The forms, for `rows` [M, F] and `grad` [M, G]: `rows^T @ grad`, which JAX derives; `(grad^T @
rows)^T`; the same with a barrier between product and transposition, without which XLA treats both
orders as one; and `chosen`, the gradient of `networks.products.product`. Each runs in a `lax.scan`,
as in a training loop.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.frame.results import (
    Rows,
    matching,
    parser_of,
    print_result,
    publish,
    result_path,
)
from benchmarks.frame.summaries import spread
from benchmarks.frame.tables import Column, Table
from benchmarks.frame.timing import interleaved_seconds
from jax_a3c.networks.products import product
from jax_a3c.types import Array

SCAN_LENGTH = 20
# M, F, G: heads on the default MLP, the layers before the heads of "minatar" and "mnih2013", and a
# square one.
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
    """Compute many gradients; each depends on the one before."""

    def step(kernel: Array, _: None) -> tuple[Array, None]:
        return kernel + form(rows + kernel[0, 0], grad), None

    start = jnp.zeros((rows.shape[1], grad.shape[1]))
    return lax.scan(step, start, length=SCAN_LENGTH)[0]


def main() -> None:
    """Measure, write the result and print its table."""
    parser = parser_of(__doc__)
    parser.add_argument("--repeats", type=int, default=7, help="timed repeats of each form")
    args = parser.parse_args()
    out = result_path("products", args.out)
    if args.table:
        return print_result(out, tables)

    rows = [row for shape in SHAPES for row in measure(shape, args.repeats)]
    publish(out, rows, tables, repeats=args.repeats)


def measure(shape: tuple[int, int, int], repeats: int) -> Rows:
    """Time all forms for one shape, interleaved."""
    m, f, g = shape
    rows_key, grad_key = jax.random.split(jax.random.key(0))
    data = (
        1e-3 * jax.random.normal(rows_key, (m, f)),
        1e-3 * jax.random.normal(grad_key, (m, g)),
    )
    # One compiled loop per form.
    programs = {
        name: functools.partial(jax.jit(functools.partial(loop, form)), *data)
        for name, form in FORMS.items()
    }

    rows = []
    for name, seconds in interleaved_seconds(programs, repeats).items():
        each = spread([1e6 * s / SCAN_LENGTH for s in seconds], 1)
        rows.append({"rows": m, "inputs": f, "outputs": g, "form": name, "microseconds": each})
    return rows


def tables(rows: Rows) -> list[Table]:
    """Return the table of medians: a row per shape, a column per form."""

    def median_of(form: str) -> Column:
        def cell(shape: dict[str, Any]) -> str:
            (row,) = matching(rows, **shape, form=form)
            return f"{row['microseconds']['median']:,.0f}"

        return Column(f"`{form}`" if "@" in form else form, cell)

    names = ("rows", "inputs", "outputs")
    sizes = dict.fromkeys(tuple(row[name] for name in names) for row in rows)
    shapes = [dict(zip(names, values, strict=True)) for values in sizes]
    first = Column("M, F, G", lambda shape: ", ".join(f"{size:,}" for size in shape.values()))
    return [Table((first, *map(median_of, FORMS)), shapes)]


if __name__ == "__main__":
    main()
