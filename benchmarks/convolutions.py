"""Which form of a convolution is fast on the CPU, alone and inside a loop?

    python benchmarks/convolutions.py [--repeats 7]
    python benchmarks/convolutions.py --table        print the result that exists

The forms: `direct`, XLA's convolution with the gradient that JAX derives; `patches`, strided slices
times a matrix; `canonical`, XLA forward, and a gradient whose convolutions have their axes in the
only order that XLA's fast CPU kernel accepts; `chosen`, what `networks.Conv` runs: patches forward
where the kernel is small, and the canonical gradient in chunks of 16 images. `docs/speed.md` has
the result and its explanation.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from tqdm import tqdm

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
from jax_a3c.networks import convolutions
from jax_a3c.types import Array

Form = Callable[[Array, Array, tuple[int, int]], Array]

SCAN_LENGTH = 4
# Name, image shape, kernel size, output channels, stride, batches.
LAYERS = (
    ("minatar 3x3/1", (10, 10, 4), 3, 16, 1, (64, 1024)),
    ("minatar 3x3/1 c10", (10, 10, 10), 3, 16, 1, (64, 1024)),
    ("mnih2013 8x8/4", (84, 84, 4), 8, 16, 4, (20, 128)),
    ("mnih2013 4x4/2", (20, 20, 16), 4, 32, 2, (20, 128)),
    ("nature 8x8/4", (84, 84, 4), 8, 32, 4, (20, 128)),
    ("nature 4x4/2", (20, 20, 32), 4, 64, 2, (20, 128)),
    ("nature 3x3/1", (9, 9, 64), 3, 64, 1, (20, 128)),
)
# These layers need no gradient of the images.
FIRST_LAYERS = ("minatar 3x3/1", "minatar 3x3/1 c10", "mnih2013 8x8/4", "nature 8x8/4")


def with_gradient(gradient: Callable[..., tuple[Array, Array]]) -> Form:
    """Give XLA's forward pass a backward pass `(images, kernel, grad, strides) -> gradients`."""

    @functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
    def form(images: Array, kernel: Array, strides: tuple[int, int]) -> Array:
        return convolutions.direct(images, kernel, strides)

    form.defvjp(
        lambda images, kernel, strides: (form(images, kernel, strides), (images, kernel)),
        lambda strides, saved, grad: gradient(*saved, grad, strides),
    )
    return form


FORMS: dict[str, Form] = {
    "direct": convolutions.direct,
    "patches": convolutions.as_patches,
    "canonical": with_gradient(convolutions.canonical_gradient),
    "chosen": convolutions.convolve,
}


def programs(
    form: Form, strides: tuple[int, int], first: bool
) -> dict[str, Callable[[Array, Array], object]]:
    """Return forward pass and gradient of a form, alone and in a scan.

    Returns:
      Functions of `batches [SCAN_LENGTH, M, H, W, C]` and a kernel, by name.
    """

    def cost(kernel: Array, images: Array) -> Array:
        return 0.5 * jnp.mean(form(images, kernel, strides) ** 2)

    gradient = jax.grad(cost, argnums=0 if first else (0, 1))

    # The next iteration depends on this one, so that XLA cannot drop or reorder any.
    def step_forward(kernel: Array, images: Array) -> tuple[Array, None]:
        return kernel * (1.0 + 1e-6 * cost(kernel, images)), None

    def step_gradient(kernel: Array, images: Array) -> tuple[Array, Array | None]:
        if first:
            return kernel - 1e-3 * gradient(kernel, images), None
        kernel_grad, images_grad = gradient(kernel, images)
        return kernel - 1e-3 * kernel_grad, images_grad.sum(axis=(1, 2, 3))

    return {
        "forward": lambda batches, kernel: cost(kernel, batches[0]),
        "forward in scan": lambda batches, kernel: lax.scan(step_forward, kernel, batches),
        "gradient": lambda batches, kernel: gradient(kernel, batches[0]),
        "gradient in scan": lambda batches, kernel: lax.scan(step_gradient, kernel, batches),
    }


def measure(layer: tuple, batch: int, repeats: int) -> Rows:
    """Time every form of a layer, interleaved; milliseconds per batch without compilation."""
    name, shape, size, features, stride, _ = layer
    image_key, kernel_key = jax.random.split(jax.random.key(0))
    batches = jax.random.uniform(image_key, (SCAN_LENGTH, batch, *shape))
    kernel = 0.05 * jax.random.normal(kernel_key, (size, size, shape[-1], features))

    # Compile everything before the first measurement.
    compiled = {}
    for form_name, form in FORMS.items():
        for program_name, program in programs(form, (stride, stride), name in FIRST_LAYERS).items():
            compiled[form_name, program_name] = jax.jit(program).lower(batches, kernel).compile()

    programs_ = {key: functools.partial(run, batches, kernel) for key, run in compiled.items()}
    # A scan runs the program once per batch.
    times = {
        key: [1e3 * seconds / (SCAN_LENGTH if key[1].endswith("scan") else 1) for seconds in values]
        for key, values in interleaved_seconds(programs_, repeats).items()
    }
    return [
        {
            "layer": name,
            "batch": batch,
            "form": form_name,
            "program": program_name,
            **{f"{name}_ms": value for name, value in spread(values).items()},
        }
        for (form_name, program_name), values in times.items()
    ]


def main() -> None:
    """Measure, write the result and print its tables."""
    parser = parser_of(__doc__)
    parser.add_argument("--repeats", type=int, default=7, help="timed repeats of each program")
    args = parser.parse_args()
    out = result_path("convolutions", args.out)
    if args.table:
        return print_result(out, tables)

    rows: Rows = []
    cases = [(layer, batch) for layer in LAYERS for batch in layer[-1]]
    for layer, batch in (bar := tqdm(cases)):
        bar.set_postfix_str(f"{layer[0]}, batch {batch}")
        rows += measure(layer, batch, args.repeats)
    publish(out, rows, tables, repeats=args.repeats)


def tables(rows: Rows) -> list[Table]:
    """Return the tables of the forward pass and of the gradient: alone / in a scan, medians."""
    cases = list(dict.fromkeys((row["layer"], row["batch"]) for row in rows))

    def column(form: str, program: str) -> Column:
        def cell(case: tuple[str, int]) -> str:
            of_form = matching(rows, layer=case[0], batch=case[1], form=form)
            alone, in_scan = (
                matching(of_form, program=name)[0]["median_ms"]
                for name in (program, f"{program} in scan")
            )
            return f"{_digits(alone)} / {_digits(in_scan)}"

        return Column(form, cell)

    return [
        Table(
            (
                Column(f"{program}, ms", lambda case: f"{case[0]}, batch {case[1]:,}"),
                *(column(form, program) for form in FORMS),
            ),
            cases,
        )
        for program in ("forward", "gradient")
    ]


def _digits(milliseconds: Any) -> str:
    return f"{milliseconds:,.0f}" if milliseconds >= 100 else f"{milliseconds:.1f}"


if __name__ == "__main__":
    main()
