"""Which form of a convolution is fast on the CPU, alone and inside a loop?

    python benchmarks/convolutions.py [--repeats 7] [--out benchmarks/results/convolutions.json]

Forms: `direct`, XLA's convolution with the gradient that JAX derives; `patches`, strided slices times a
matrix; `canonical`, XLA forward and a gradient whose convolutions have the axes in the one order that XLA's
fast CPU kernel takes; `chosen`, what `networks.Conv` runs: patches forward where the kernel is small, and the
canonical gradient in chunks of 16 images.

Result on two shared cores of an AMD EPYC with AVX-512, jax 0.10.2, median of 5: gradient (with its forward)
in ms, alone / in a scan of 4.

    layer, batch            direct       patches      canonical    chosen
    minatar 3x3/1, 1024     4.7 / 61.9   2.3 / 2.2    4.8 / 4.4    2.3 / 1.8
    minatar 3x3/1 c10, 1024 20.0 / 267   36.4 / 20.2  15.4 / 21.1  7.0 / 7.5
    mnih2013 8x8/4, 20      2.6 / 45.1   5.4 / 4.9    2.5 / 2.2    2.0 / 2.3
    mnih2013 4x4/2, 20      0.8 / 17.3   1.3 / 1.5    1.2 / 0.9    1.2 / 1.0
    mnih2013 8x8/4, 128     37.8 / 187   47.8 / 29.2  41.1 / 37.8  11.7 / 11.4
    mnih2013 4x4/2, 128     7.6 / 263    14.9 / 20.1  11.4 / 8.2   7.9 / 7.2
    nature 8x8/4, 128       78.4 / 573   50.1 / 31.5  78.6 / 80.0  47.9 / 48.7
    nature 4x4/2, 128       28.0 / 1090  52.0 / 61.6  27.5 / 32.7  19.3 / 21.4
    nature 3x3/1, 128       13.8 / 278   11.6 / 10.1  12.4 / 15.8  14.2 / 14.3

The compiled programs show the cause of the first step. Alone, the weight gradient is transposed to
`b01f_01io->b01f`, the axes of the fast kernel; in the body of a loop it stays `f01b_i01o->01bf` (the pass
`ConvCanonicalization` seems to visit the entry computation only). Written canonically it is as fast in a scan
as alone. The second step, 16 images at a time, keeps what the kernel gathers in the caches; chunks of 8 to 20
images were the fastest of those tried.
Patches win forward if their matrix is narrow, 36 columns for four channels; at 90 they lose.
"""

import argparse
import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import lax
from measure import RESULTS, interleaved_seconds, spread, write_result

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
# They need no gradient of the images.
FIRST_LAYERS = ("minatar 3x3/1", "minatar 3x3/1 c10", "mnih2013 8x8/4", "nature 8x8/4")


def with_gradient(gradient: Callable[..., tuple[Array, Array]]) -> Form:
    """XLA's forward with another backward, `(images, kernel, grad, strides) -> gradients`."""

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
    """Forward and gradient, alone and in a scan, of `batches [SCAN_LENGTH, M, H, W, C]` and a kernel."""

    def cost(kernel: Array, images: Array) -> Array:
        return 0.5 * jnp.mean(form(images, kernel, strides) ** 2)

    gradient = jax.grad(cost, argnums=0 if first else (0, 1))

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


def measure(layer: tuple, batch: int, repeats: int) -> list[dict[str, object]]:
    """Milliseconds per batch of every form, the forms interleaved in every repeat, compilation excluded."""
    name, shape, size, features, stride, _ = layer
    image_key, kernel_key = jax.random.split(jax.random.key(0))
    batches = jax.random.uniform(image_key, (SCAN_LENGTH, batch, *shape))
    kernel = 0.05 * jax.random.normal(kernel_key, (size, size, shape[-1], features))
    compiled = {}
    for form_name, form in FORMS.items():
        for program_name, program in programs(form, (stride, stride), name in FIRST_LAYERS).items():
            compiled[form_name, program_name] = jax.jit(program).lower(batches, kernel).compile()
    programs_ = {key: functools.partial(run, batches, kernel) for key, run in compiled.items()}
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
    """Measure, print a table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS / "convolutions.json")
    args = parser.parse_args()
    rows = []
    for layer in LAYERS:
        for batch in layer[-1]:
            new = measure(layer, batch, args.repeats)
            rows += new
            print(f"{layer[0]}, batch {batch}: median ms of forward, in scan, gradient, in scan")
            for form in FORMS:
                cells = [f"{row['median_ms']:9.2f}" for row in new if row["form"] == form]
                print(f"  {form:10s}", *cells, flush=True)
    write_result(args.out, rows, repeats=args.repeats)


if __name__ == "__main__":
    main()
