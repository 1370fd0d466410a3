"""How long do our return functions take beside those of rlax, and do the two agree?

    python benchmarks/returns.py [--device cpu gpu] [--only vtrace] [--repeats 7] [--short]
    python benchmarks/returns.py --table                 # the committed result, as Markdown

Needs rlax (`pip install 'jax-a3c[test]'`). Both compute the same from the same arrays `[T, B]`, ours as it
is, rlax's functions, which are for one sequence, under `vmap` over B; both are jitted. V-trace and Retrace
begin at the logarithm of the ratios for both. rlax knows no truncation, so there is none. A window calls one
of the two again and again for 5 ms or more, and the two take turns; the time of a call is what a caller sees,
dispatch included, which is most of it where the arrays are small. Each device has a process of its own.
"""

import argparse
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from measure import (
    PLATFORMS,
    fitting_count,
    interleaved_seconds,
    parser_of,
    print_committed,
    ranged,
    require_device,
    result_path,
    rows_of_devices,
    spread,
    table,
    write_result,
)
from tqdm import tqdm

from jax_a3c import returns
from jax_a3c.types import Array

NUM_STEPS = (5, 20, 128, 1024)
BATCHES = (1, 16, 256, 4096)
SHORT = ((5,), (16,))
LAMBDA = 0.95
N = 5
"""Of the n-step returns."""
TOLERANCE = 1e-4
"""Of the largest difference, as a share of the largest number, or of 1 if that is smaller."""


class Data(NamedTuple):
    """A rollout, `[T, B]` float32 each; discounts are 0 where an episode terminated."""

    rewards: Array
    discounts: Array
    values: Array
    next_values: Array
    log_rhos: Array


class Pair(NamedTuple):
    """One function of ours and its counterpart, from the same data to the same arrays.

    Attributes:
      ours: for `[T, B]`.
      theirs: for `[T]`; its first argument is the module rlax.
    """

    ours: Callable[[Data], Any]
    theirs: Callable[[Any, Data], Any]


def vtrace_of_rlax(rlax: Any, x: Data) -> tuple[Array, Array]:
    """Targets and advantages."""
    both = rlax.vtrace_td_error_and_advantage(
        x.values, x.next_values, x.rewards, x.discounts, jnp.exp(x.log_rhos), LAMBDA
    )
    return both.errors + x.values, both.pg_advantage


def retrace_of_rlax(rlax: Any, x: Data) -> Array:
    """Targets of action values."""
    traces = LAMBDA * jnp.minimum(1.0, jnp.exp(x.log_rhos[1:]))
    return rlax.general_off_policy_returns_from_q_and_v(
        x.values[1:], x.next_values, x.rewards, x.discounts, traces
    )


PAIRS: dict[str, Pair] = {
    "lambda_returns": Pair(
        lambda x: returns.lambda_returns(x.rewards, x.discounts, x.next_values, LAMBDA),
        lambda rlax, x: rlax.lambda_returns(x.rewards, x.discounts, x.next_values, LAMBDA),
    ),
    "discounted_returns": Pair(
        lambda x: returns.discounted_returns(x.rewards, x.discounts, x.next_values[-1]),
        lambda rlax, x: rlax.discounted_returns(x.rewards, x.discounts, x.next_values),
    ),
    "n_step_returns": Pair(
        lambda x: returns.n_step_returns(x.rewards, x.discounts, x.next_values, N),
        lambda rlax, x: rlax.n_step_bootstrapped_returns(x.rewards, x.discounts, x.next_values, N),
    ),
    "generalized_advantage_estimation": Pair(
        lambda x: returns.generalized_advantage_estimation(
            x.rewards, x.discounts, x.values, x.next_values, LAMBDA
        ),
        lambda rlax, x: rlax.truncated_generalized_advantage_estimation(
            x.rewards, x.discounts, LAMBDA, jnp.append(x.values, x.next_values[-1])
        ),
    ),
    "vtrace": Pair(
        lambda x: tuple(
            returns.vtrace(x.rewards, x.discounts, x.values, x.next_values, x.log_rhos, LAMBDA)
        ),
        vtrace_of_rlax,
    ),
    "retrace": Pair(
        lambda x: returns.retrace(
            x.rewards, x.discounts, x.values, x.next_values, x.log_rhos, LAMBDA
        ),
        retrace_of_rlax,
    ),
}


def main() -> None:
    """Measure on each device, in a process of its own; write and print."""
    parser = parser_of(__doc__, short="one shape, three windows, into runs/bench")
    parser.add_argument("--device", nargs="+", choices=list(PLATFORMS), default=["cpu"])
    parser.add_argument("--only", nargs="+", choices=list(PAIRS), default=list(PAIRS))
    parser.add_argument("--repeats", type=int, default=7, help="windows of each function")
    parser.add_argument(
        "--seconds", type=float, default=0.01, help="of each window, at least 0.005"
    )
    parser.add_argument(
        "--part", type=Path, help=argparse.SUPPRESS
    )  # a device's process writes here
    args = parser.parse_args()
    if args.short:
        args.repeats = 3
    partial = args.short or set(args.only) != set(PAIRS)
    out = result_path("returns", args.out, partial)
    if args.table:
        print_committed(out, markdown)
    elif args.part:
        args.part.write_text(json.dumps(measure(args.device[0], args)))
    else:
        rlax_module()
        rows = rows_of_devices(args.device)
        write_result(out, rows, repeats=args.repeats, seconds=args.seconds)
        print(f"\n{markdown(rows)}\n\nwrote {out}")


def rlax_module() -> Any:
    """rlax; SystemExit with the way to it if it is missing."""
    try:
        import rlax
    except ImportError as error:
        raise SystemExit(
            f"this compares with rlax: pip install 'jax-a3c[test]' ({error})"
        ) from None
    return rlax


def measure(device: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of one device."""
    kind, rlax = require_device(device), rlax_module()
    all_steps, batches = SHORT if args.short else (NUM_STEPS, BATCHES)
    cases = [(name, steps, batch) for name in args.only for steps in all_steps for batch in batches]
    rows = []
    for name, num_steps, batch in (bar := tqdm(cases, desc=device)):
        bar.set_postfix_str(f"{name} [{num_steps}, {batch}]")
        data = make_data(num_steps, batch)
        row = compare(PAIRS[name], rlax, data, args.repeats, args.seconds)
        rows.append(
            {"device_kind": kind, "function": name, "num_steps": num_steps, "batch": batch, **row}
        )
    return rows


def make_data(num_steps: int, batch: int) -> Data:
    """Random numbers, with an end in one of fifty steps."""
    rewards, log_rhos, ends = jax.random.normal(jax.random.key(0), (3, num_steps, batch))
    values = jax.random.normal(jax.random.key(1), (num_steps + 1, batch))
    return Data(rewards, jnp.where(ends > 2.05, 0.0, 0.99), values[:-1], values[1:], 0.3 * log_rhos)


def compare(pair: Pair, rlax: Any, data: Data, repeats: int, seconds: float) -> dict[str, Any]:
    """Times of both, their ratio in each round, and how far their results differ."""
    programs = {
        "ours": jax.jit(pair.ours),
        "rlax": jax.jit(jax.vmap(functools.partial(pair.theirs, rlax), in_axes=1, out_axes=1)),
    }
    results = {name: program(data) for name, program in programs.items()}
    difference = largest_difference(results["ours"], results["rlax"])

    def calls(program: Callable[[Data], Any], count: int) -> Any:
        for _ in range(count):
            result = program(data)
        return result

    windows = {name: functools.partial(calls, program) for name, program in programs.items()}
    counts = {name: fitting_count(window, seconds) for name, window in windows.items()}
    times = interleaved_seconds(
        {name: functools.partial(window, counts[name]) for name, window in windows.items()}, repeats
    )
    each = {name: [1e6 * s / counts[name] for s in values] for name, values in times.items()}
    return {
        **{f"{name}_us": spread(values, 2) for name, values in each.items()},
        "rlax_over_ours": spread([b / a for a, b in zip(each["ours"], each["rlax"], strict=True)]),
        "max_difference": difference,
    }


def largest_difference(ours: Any, theirs: Any) -> float:
    """Between two trees of arrays; AssertionError if it is more than rounding."""
    largest = 0.0
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.shape == b.shape, (a.shape, b.shape)
        difference = float(np.abs(np.asarray(a) - np.asarray(b)).max())
        scale = max(1.0, float(np.abs(b).max()))
        assert difference <= TOLERANCE * scale, f"results differ by {difference} of {scale}"
        largest = max(largest, difference)
    return largest


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table of the README: medians, and the range over the windows in brackets."""
    heads = (
        "device",
        "function",
        "T, B",
        "ours, us",
        "rlax, us",
        "rlax / ours",
        "largest difference",
    )
    lines = [
        (
            row["device"],
            row["function"],
            f"{row['num_steps']:,}, {row['batch']:,}",
            ranged(row["ours_us"], ",.1f"),
            ranged(row["rlax_us"], ",.1f"),
            ranged(row["rlax_over_ours"], ".2f"),
            f"{row['max_difference']:.1e}",
        )
        for row in rows
    ]
    return table(heads, lines)


if __name__ == "__main__":
    main()
