"""How long do our return functions take compared with rlax's, and do the two agree?

    python benchmarks/returns.py [--device cpu gpu] [--only vtrace] [--repeats 7] [--short]
    python benchmarks/returns.py --table                 print the result that exists

The script needs rlax (`pip install 'jax-a3c[test]'`). Both sides compute the same from the same
arrays `[T, B]`: ours as it is, rlax's functions, which are for one sequence, under `vmap` over B;
both are jitted. V-trace and Retrace begin at the logarithm of the ratios on both sides. rlax has no
truncation, so there is none. A window calls one of the two repeatedly for 5 ms or more, and the two
take turns. The time of a call is what a caller sees, including dispatch, which is most of it where
the arrays are small. Each device has its own process.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from benchmarks.frame.processes import PLATFORMS, require_device, rows_of_devices, write_part
from benchmarks.frame.results import (
    Rows,
    matching,
    parser_of,
    print_result,
    publish,
    result_path,
)
from benchmarks.frame.summaries import spread
from benchmarks.frame.tables import Column, Table, field, spread_field
from benchmarks.frame.timing import fitting_count, interleaved_seconds
from jax_a3c import returns
from jax_a3c.types import Array

NUM_STEPS = (5, 20, 128, 1024)
BATCHES = (1, 16, 256, 4096)
SHORT = ((5,), (16,))
LAMBDA = 0.95
N = 5
"""Steps of the n-step returns."""
TOLERANCE = 1e-4
"""Largest allowed difference, as a share of the largest number, or of 1 if that is smaller."""


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
    """Return targets and advantages."""
    both = rlax.vtrace_td_error_and_advantage(
        x.values, x.next_values, x.rewards, x.discounts, jnp.exp(x.log_rhos), LAMBDA
    )
    return both.errors + x.values, both.pg_advantage


def retrace_of_rlax(rlax: Any, x: Data) -> Array:
    """Return targets of action values."""
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
    """Measure on each device in a child process; write and print."""
    parser = parser_of(__doc__, short="one shape, three windows", part=True)
    parser.add_argument("--device", nargs="+", choices=list(PLATFORMS), default=["cpu"])
    parser.add_argument("--only", nargs="+", choices=list(PAIRS), default=list(PAIRS))
    parser.add_argument("--repeats", type=int, default=7, help="windows of each function")
    parser.add_argument(
        "--seconds", type=float, default=0.01, help="length of each window, at least 0.005"
    )
    args = parser.parse_args()
    if args.short:
        args.repeats = 3

    out = result_path("returns", args.out, args.short or set(args.only) != set(PAIRS))
    if args.table:
        print_result(out, tables)
    elif args.part:
        write_part(args.part, measure(args.device[0], args))
    else:
        rlax_module()
        rows = rows_of_devices(args.device)
        publish(out, rows, tables, repeats=args.repeats, seconds=args.seconds)


def rlax_module() -> Any:
    """Return rlax; exit with the command that installs it if it is missing."""
    try:
        import rlax
    except ImportError as error:
        raise SystemExit(f"rlax is not installed: pip install 'jax-a3c[test]' ({error})") from None
    return rlax


def measure(device: str, args: argparse.Namespace) -> Rows:
    """Return the rows of one device."""
    kind = require_device(device)
    rlax = rlax_module()
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
    """Return random numbers, with an episode's end in one of fifty steps."""
    rewards, log_rhos, ends = jax.random.normal(jax.random.key(0), (3, num_steps, batch))
    values = jax.random.normal(jax.random.key(1), (num_steps + 1, batch))
    return Data(rewards, jnp.where(ends > 2.05, 0.0, 0.99), values[:-1], values[1:], 0.3 * log_rhos)


def compare(pair: Pair, rlax: Any, data: Data, repeats: int, seconds: float) -> dict[str, Any]:
    """Return the times of both, their ratio in each round, and how far their results differ."""
    programs = {
        "ours": jax.jit(pair.ours),
        "rlax": jax.jit(jax.vmap(functools.partial(pair.theirs, rlax), in_axes=1, out_axes=1)),
    }
    # Compile, and compare the results.
    results = {name: program(data) for name, program in programs.items()}
    difference = largest_difference(results["ours"], results["rlax"])

    def calls(program: Callable[[Data], Any], count: int) -> Any:
        for _ in range(count):
            result = program(data)
        return result

    windows = {name: functools.partial(calls, program) for name, program in programs.items()}
    # As many calls as fill a window, so that the clock is fine enough.
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
    """Return the largest difference of two trees; raise AssertionError beyond rounding."""
    largest = 0.0
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.shape == b.shape, (a.shape, b.shape)
        difference = float(np.abs(np.asarray(a) - np.asarray(b)).max())
        scale = max(1.0, float(np.abs(b).max()))
        assert difference <= TOLERANCE * scale, f"results differ by {difference} of {scale}"
        largest = max(largest, difference)
    return largest


def _shape(row: dict[str, Any]) -> str:
    return f"{row['num_steps']:,}, {row['batch']:,}"


COLUMNS = (
    field("device", "device"),
    field("function", "function"),
    Column("T, B", _shape),
    spread_field("ours, us", "ours_us", ",.1f"),
    spread_field("rlax, us", "rlax_us", ",.1f"),
    spread_field("rlax / ours", "rlax_over_ours", ".2f"),
    field("largest difference", "max_difference", ".1e"),
)


def tables(rows: Rows) -> list[Table]:
    """Return the table of all shapes: medians, and the range over the windows."""
    return [Table(COLUMNS, rows)]


SUMMARY = ((5, 16), (20, 1), (20, 16), (20, 256), (128, 256), (128, 4096), (1024, 16), (1024, 4096))
"""Shapes of the short table."""


def summary_table(rows: Rows) -> Table:
    """Return the medians of rlax / ours on the CPU: a row per function, a column per shape."""
    of_cpu = matching(rows, device="cpu")

    def ratio_at(num_steps: int, batch: int) -> Column:
        def cell(name: str) -> str:
            (row,) = matching(of_cpu, function=name, num_steps=num_steps, batch=batch)
            return f"{row['rlax_over_ours']['median']:.2f}"

        return Column(f"{num_steps:,}, {batch:,}", cell)

    first = Column("function", lambda name: f"`{name}`")
    names = list(dict.fromkeys(row["function"] for row in of_cpu))
    return Table((first, *(ratio_at(*shape) for shape in SUMMARY)), names)


if __name__ == "__main__":
    main()
