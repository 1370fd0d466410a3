"""How far is a step of training from what the machine allows?

    python benchmarks/limits.py [--repeats 7] [--seconds 2]
    python benchmarks/limits.py --short     two short rounds, into runs/bench
    python benchmarks/limits.py --table     print the result that exists

The time of an environment step, with learning, is compared with four lower bounds, each measured in
the same rounds:

- arithmetic: the operations of the network's matrix products at the speed of a product of two
  large matrices. Each step needs one forward and one backward pass.
- memory: the observation, action, reward and end of a step, and the parameters and moments of an
  update, each written once and read once, at the speed of the copy of a large array. What a cache
  serves costs less, so this is a bound only for what fits in none.
- launches: the kernels of a step, counted in the compiled programs, at the time of a kernel that
  does next to nothing. Workers launch theirs side by side.
- environment: raw envpool with random actions on all cores. JAX environments are kernels, which the
  launches count.

The first two use all cores. A worker of A3C cannot launch a kernel and compute at the same time, so
the sum of the bounds is what it could reach.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from benchmarks.frame.learners import FOREVER, Learning
from benchmarks.frame.results import (
    Rows,
    parse_windows,
    parser_of,
    print_result,
    publish,
    result_path,
)
from benchmarks.frame.summaries import short_id, spread
from benchmarks.frame.tables import Column, Table, spread_field
from benchmarks.frame.timing import fitting_count, interleaved_seconds, rate_of
from benchmarks.host import Case as HostCase
from benchmarks.host import stepping
from benchmarks.kernels import count, program_of
from benchmarks.operations import forward_flops, gradient_flops, layers_of
from benchmarks.throughput import COPIED, MATRIX, peak_programs
from jax_a3c.envs.base import on_device
from jax_a3c.experiment.build import build
from jax_a3c.runners.asynchronous import use_worker_threads
from jax_a3c.runners.segments import Segments
from jax_a3c.settings.run import Settings, resolve

RAW_ENVS = 8
CHAIN = 16
"""Kernels of one iteration of the loop that measures a launch."""
CARRIED = 1024
"""Numbers that this loop carries: XLA runs a loop over fewer as a single kernel."""
FLOAT = 4
"""Bytes of a float32."""


class Case(NamedTuple):
    """A learner to measure.

    Attributes:
      title: for tables.
      method: name of the method.
      env: id of the environment.
      settings: those that differ from the preset.
    """

    title: str
    method: str
    env: str
    settings: dict[str, Any]

    @property
    def key(self) -> tuple[str, str]:
        """Method and environment."""
        return self.method, self.env


CARTPOLE = "gymnax:CartPole-v1"
BREAKOUT = "gymnax:Breakout-MinAtar"
PONG = "envpool:Pong-v5"
CASES = (
    Case("A2C, 16 envs, T=5", "a2c", CARTPOLE, {"num_envs": 16, "num_steps": 5}),
    Case("A2C, 64 envs, T=16", "a2c", BREAKOUT, {"num_envs": 64, "num_steps": 16}),
    Case("A3C, 2 workers", "a3c", CARTPOLE, {"num_workers": 2}),
    Case("A3C, 2 workers, 16 envs, T=5", "a3c", PONG, {"num_workers": 2}),
)


class Needs(NamedTuple):
    """What one environment step needs at least.

    Attributes:
      flops: floating-point operations of the matrix products.
      bytes: bytes that are written or read.
      launches: kernels, of one worker after the other.
    """

    flops: float
    bytes: float
    launches: float


def main() -> None:
    """Measure, write and print."""
    parser = parser_of(__doc__, short="two short rounds")
    args = parse_windows(parser)

    out = result_path("limits", args.out, args.short)
    if args.table:
        return print_result(out, tables)
    rows = measure(args.repeats, args.seconds)
    publish(out, rows, tables, repeats=args.repeats, seconds=args.seconds)


def measure(repeats: int, seconds: float) -> Rows:
    """Return a row for each case; learners and peaks take turns in each round."""
    use_worker_threads()

    # Build and warm up the learners, and count what they need.
    learners = {}
    needs = {}
    for case in tqdm(CASES, desc="compilation"):
        settings = resolve(case.method, case.env, **case.settings, total_timesteps=FOREVER)
        needs[case.key] = needs_of(case, settings)
        learners[case.key] = Learning(case.title, case.method, case.env, settings)
        learners[case.key](seconds)
    raw = stepping(PONG, HostCase(kind="raw", threads=2, num_envs=RAW_ENVS))
    peaks = peak_programs("cpu", ["float32"])
    peaks["launch"], launches = launching(seconds / 10)

    # A round has a window of each learner, of raw envpool and of each peak.
    rates: dict[Any, list[float]] = {key: [] for key in (*learners, "raw")}
    costs: dict[str, list[float]] = {name: [] for name in peaks}
    for number in tqdm(range(repeats + 1), desc="rounds"):
        racers: dict[Any, Callable[[float], int]] = {**learners, "raw": raw}
        found = {key: rate_of(functools.partial(racer, seconds)) for key, racer in racers.items()}
        times = interleaved_seconds(peaks, 1)
        if number:  # the first round warms up
            for key, rate in found.items():
                rates[key].append(rate)
            for name in peaks:
                costs[name] += times[name]
    for learner in learners.values():
        learner.close()

    # Microseconds of one operation, byte and launch in each round.
    per_flop = [1e6 * s / (2 * MATRIX["cpu"] ** 3) for s in costs["float32"]]
    per_byte = [1e6 * s / (2 * COPIED["cpu"]) for s in costs["copy"]]
    per_launch = [1e6 * s / launches for s in costs["launch"]]
    units = list(zip(per_flop, per_byte, per_launch, rates["raw"], strict=True))
    return [row_of(case, needs[case.key], rates[case.key], units) for case in CASES]


def row_of(case: Case, needs: Needs, rates: list[float], units: list[tuple]) -> dict[str, Any]:
    """Return the time of a step and its bounds, in microseconds, and their ratios by round."""
    rounds = []
    for rate, (per_flop, per_byte, per_launch, raw) in zip(rates, units, strict=True):
        bounds = {
            "arithmetic": needs.flops * per_flop,
            "memory": needs.bytes * per_byte,
            "launches": needs.launches * per_launch / case.settings.get("num_workers", 1),
            "environment": 1e6 / raw if case.env == PONG else 0.0,
        }
        rounds.append({**bounds, "step": 1e6 / rate, "over_sum": 1e6 / rate / sum(bounds.values())})
    return {
        "case": case.title,
        "env": case.env,
        **{f"{name}_per_step": round(value, 2) for name, value in needs._asdict().items()},
        "launch_us": spread([unit[2] for unit in units]),
        "peak_gflops": spread([1e-3 / unit[0] for unit in units], 1),
        "copy_gbytes": spread([1e-3 / unit[1] for unit in units], 1),
        **{name: spread([one[name] for one in rounds], 4) for name in rounds[0]},
    }


def needs_of(case: Case, settings: Settings) -> Needs:
    """Return what a step of a learner needs at least."""
    experiment = build(case.method, case.env, settings)
    spec = experiment.env.spec
    rows = settings.num_envs * settings.num_steps

    # One forward pass, which acts and learns, one backward pass, and the bootstrap.
    layers = layers_of(experiment.network, spec)
    flops = gradient_flops(layers) + forward_flops(layers) / settings.num_steps

    # Rows of a rollout, and the parameters and moments of an update.
    observation = math.prod(spec.observation_shape) * np.dtype(spec.observation_dtype).itemsize
    sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(experiment.params_like())]
    moments = 2 if settings.optimizer == "adam" else 1
    copies = 1 + moments + (2 if case.method == "a3c" else 0)  # theta' and its gradient
    moved = 2 * (observation + 3 * FLOAT) + 2 * copies * FLOAT * sum(sizes) / rows

    if case.method == "a2c":
        return Needs(flops, moved, count(case.env)["launches"] / rows)
    return Needs(flops, moved, launches_of_worker(experiment, settings) / rows)


def launches_of_worker(experiment: Any, settings: Settings) -> float:
    """Return the kernels of a worker's whole segment."""
    calls = {"act_and_learn": 1, "act_at": settings.num_steps, "learn_from": 1, "optax_step": 1}
    found: dict[str, int] = {}
    compile_ = Segments.on_one_core

    def on_one_core(segments: Segments, function: Callable, *args: Any) -> Callable:
        program: Any = compile_(segments, function, *args)
        name = getattr(function, "__name__", "")
        if name in calls:
            found[name] = calls[name] * program_of(program.as_text()).launches
        return program

    # The parameters as a tree need one call more, whose kernels only copy.
    runner: Any = experiment.runner
    state = runner.init(0)
    with mock.patch.object(Segments, "on_one_core", on_one_core):
        runner.run(state, until=1)
    if not on_device(experiment.env):
        runner.close(state)
    assert found, "no program of a worker was compiled"
    return sum(found.values())


def launching(seconds: float) -> tuple[Callable[[], Any], int]:
    """Return a program of very small kernels that runs for about that long, and their number."""

    def body(i: Any, carry: Any) -> Any:
        # XLA merges no maximum with what uses it.
        x, carried = carry
        for _ in range(CHAIN):
            x = x - 0.5 * x.max()
        return x, carried.at[i % CARRIED].set(x[0])

    loop = jax.jit(lambda carry, number: jax.lax.fori_loop(0, number, body, carry))
    carry = jnp.zeros(8), jnp.zeros(CARRIED)
    text = loop.lower(carry, 1).compile().as_text()
    (inner,) = program_of(text or "").loops
    number = fitting_count(lambda number: loop(carry, number), seconds)
    return functools.partial(loop, carry, number), number * inner.launches


def tables(rows: Rows) -> list[Table]:
    """Return two tables: the times of a step, and the speed of the machine."""

    def bound(name: str) -> Column:
        return Column(name, lambda row: f"{row[name]['median']:.3g}" if row[name]["max"] else "")

    times = [
        Column("environment", lambda row: short_id(row["env"])),
        Column("learner", lambda row: row["case"]),
        spread_field("step, us", "step", ".3g"),
        bound("arithmetic"),
        bound("memory"),
        bound("launches"),
        Column("raw envpool", bound("environment").cell),
        spread_field("step / sum of bounds", "over_sum", ".1f"),
    ]
    machine = [
        spread_field("product, Gflop/s", "peak_gflops", ",.0f"),
        spread_field("copy, GB/s", "copy_gbytes", ".1f"),
        spread_field("kernel, us", "launch_us", ".2f"),
    ]
    return [Table(times, rows), Table(machine, rows[:1])]


if __name__ == "__main__":
    main()
