"""What does `jax-a3c train` cost beside the bare loop that it runs?

    python benchmarks/command.py [--repeats 5] [--timesteps 2000000]
    python benchmarks/command.py --short         one short round, into runs/bench
    python benchmarks/command.py --table         print the result that exists

The command writes metrics and checkpoints, draws a progress bar and looks for signals. The bare
loop of A2C is one `lax.scan` over all updates that drops the metrics, and that of A3C is `run`
without a callback. Both have the same settings and run in fresh processes, one after the other, in
each round. The steps per second are those of training, without compilation. Goal: at least 0.95 of
the bare loop.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from benchmarks.frame.processes import process
from benchmarks.frame.results import Rows, parser_of, print_result, publish, result_path
from benchmarks.frame.summaries import spread
from benchmarks.frame.tables import Table, field, spread_field
from jax_a3c.experiment.build import build
from jax_a3c.runners.asynchronous import use_worker_threads
from jax_a3c.settings.run import resolve

ENV = "gymnax:CartPole-v1"
SETTINGS: dict[str, dict[str, int]] = {
    "a2c": {"num_envs": 16, "num_steps": 5},
    "a3c": {"num_workers": 2},
}
GOAL = 0.95


def main() -> None:
    """Measure, write and print; or be the process of one bare loop."""
    parser = parser_of(__doc__, short="one short round")
    parser.add_argument("--repeats", type=int, default=5, help="number of rounds")
    parser.add_argument("--timesteps", type=int, default=2_000_000, help="steps of each run")
    parser.add_argument("--bare", choices=SETTINGS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.bare:
        print(bare(args.bare, args.timesteps))
        return
    if args.short:
        args.repeats = 1
        args.timesteps = 50_000

    out = result_path("command", args.out, args.short)
    if args.table:
        return print_result(out, tables)
    publish(out, measure(args.repeats, args.timesteps), tables, repeats=args.repeats)


def measure(repeats: int, timesteps: int) -> Rows:
    """Return the steps per second of both forms of each method, interleaved."""
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for method in SETTINGS:
            pairs = []
            for i in tqdm(range(repeats), desc=method):
                # Each form goes first in every other round: a machine may slow down under load.
                forms = (by_command, by_loop) if i % 2 else (by_loop, by_command)
                speeds = {form: form(method, timesteps, cache) for form in forms}
                pairs.append((speeds[by_command], speeds[by_loop]))
            rows.append(
                {
                    "method": method,
                    "env": ENV,
                    **SETTINGS[method],
                    "timesteps": timesteps,
                    "command": spread([command for command, _ in pairs], 0),
                    "bare": spread([alone for _, alone in pairs], 0),
                    "ratio": spread([command / alone for command, alone in pairs]),
                }
            )
    return rows


def bare(method: str, timesteps: int) -> float:
    """Return the steps per second of the loop alone."""
    if method == "a3c":
        use_worker_threads()
    settings = resolve(method, ENV, **SETTINGS[method], total_timesteps=timesteps)
    runner: Any = build(method, ENV, settings).runner
    if method == "a3c":
        return runner.run(0).env_steps_per_second

    algorithm = runner.algorithm
    sizes = SETTINGS[method]
    steps = sizes["num_envs"] * sizes["num_steps"]
    updates = -(-timesteps // steps)

    def loop(state: Any) -> Any:
        return jax.lax.scan(
            lambda state, _: (algorithm.step(state)[0], None), state, length=updates
        )[0]

    state = jax.jit(algorithm.init)(jax.random.key(0))
    program = jax.jit(loop, donate_argnums=(0,)).lower(state).compile()
    began = time.perf_counter()
    jax.block_until_ready(program(state))
    return updates * steps / (time.perf_counter() - began)


def by_loop(method: str, timesteps: int, cache: str) -> float:
    """Return the steps per second of the loop alone, in a process of its own."""
    words = [__file__, "--bare", method, "--timesteps", str(timesteps)]
    return float(process(words, cache).output)


def by_command(method: str, timesteps: int, cache: str) -> float:
    """Return the steps per second of a run, as its summary says."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--total-timesteps", str(timesteps), "--eval-episodes", "0", "--run-dir", folder]
        for name, value in SETTINGS[method].items():
            flags += [f"--{name.replace('_', '-')}", str(value)]
        process(["-m", "jax_a3c.cli", "train", method, ENV, *flags], cache)
        return json.loads(Path(folder, "summary.json").read_text())["env_steps_per_second"]


def tables(rows: Rows) -> list[Table]:
    """Return the table: a row for each method."""
    columns = [
        field("method", "method"),
        field("steps", "timesteps", ","),
        spread_field("bare loop, steps/s", "bare"),
        spread_field("`jax-a3c train`, steps/s", "command"),
        spread_field("command / bare", "ratio", ".2f"),
    ]
    return [Table(columns, rows)]


if __name__ == "__main__":
    main()
