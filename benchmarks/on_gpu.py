"""What does a GPU bring, and does everything run there? All of it in one call of ten minutes.

    python benchmarks/on_gpu.py                 on a machine with a GPU, into results/gpu
    python benchmarks/on_gpu.py --rehearse      short forms on the CPU, into runs/bench/gpu
    python benchmarks/on_gpu.py --table         print the results that exist

The script runs other scripts one after the other, the most important first, each in its own
process. Each writes a result of its own, so an end before the last one loses little. When the time
is over, the script that runs is stopped. `pages.py` then fills the tables of the pages.

The first one is in this file. A2C on CartPole runs on the GPU and evaluates, A3C runs beside it on
the CPU, and some updates of A2C are compared with those of the CPU. A guard refuses every transfer
to the host during the updates.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.frame.processes import PLATFORMS, require_device
from benchmarks.frame.results import RESULTS, Rows, parser_of, print_result, publish
from benchmarks.frame.tables import Column, Table, field
from jax_a3c.evaluation.score import evaluate
from jax_a3c.experiment.build import build
from jax_a3c.settings.run import resolve

ENV = "gymnax:CartPole-v1"
SECONDS = 590
"""Time of all scripts together."""
UPDATES = 20
"""Updates that are compared with those of the CPU."""
FOLDER = Path(__file__).parent


class Job(NamedTuple):
    """A script and its result.

    Attributes:
      name: of the result file.
      script: name of the script.
      flags: for a GPU.
      short: flags of a rehearsal on the CPU.
    """

    name: str
    script: str
    flags: str
    short: str


LARGE = "--num-envs 2048 131072 --seconds 0.2"
JOBS = (
    Job("methods", "on_gpu.py", "--part gpu", "--part cpu --timesteps 20000"),
    Job(
        "throughput_cartpole",
        "throughput.py",
        f"--device gpu cpu --env {ENV} {LARGE}",
        f"--device cpu --env {ENV} --short",
    ),
    Job(
        "throughput_breakout",
        "throughput.py",
        f"--device gpu cpu --env gymnax:Breakout-MinAtar {LARGE}",
        "--device cpu --env gymnax:Breakout-MinAtar --short",
    ),
    Job(
        "peers",
        "peers.py",
        "--device gpu --only cartpole-1024 breakout-64 --seconds 0.5",
        "--device cpu --only cartpole-1024 --short",
    ),
    Job("kernels", "kernels.py", "", f"--env {ENV}"),
    Job("returns", "returns.py", "--device gpu", "--device cpu --short"),
)
"""The scripts, the most important first."""


def main() -> None:
    """Run all scripts; or be the one of the methods."""
    parser = parser_of(__doc__)
    parser.add_argument("--rehearse", action="store_true", help="short forms on the CPU")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time of all together")
    parser.add_argument("--timesteps", type=int, default=500_000, help=argparse.SUPPRESS)
    parser.add_argument("--part", choices=PLATFORMS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        publish(args.out, methods(args.part, args.timesteps), tables)
        return

    if args.table and args.out and args.out.suffix:
        return print_result(args.out, tables)
    folder = args.out or (Path("runs/bench/gpu") if args.rehearse else RESULTS / "gpu")
    if args.table:
        for path in sorted(folder.glob("*.json")):
            print(f"\n{path.stem}")
            script = next(job.script for job in JOBS if job.name == path.stem)
            subprocess.run([sys.executable, str(FOLDER / script), "--table", "--out", str(path)])
        return

    failed = run(JOBS, folder, args.seconds, rehearse=args.rehearse)
    if failed:
        raise SystemExit(f"without a result: {', '.join(failed)}")


def run(jobs: tuple[Job, ...], folder: Path, seconds: float, *, rehearse: bool) -> list[str]:
    """Run scripts until the time is over; return the names of those without a result."""
    end = time.monotonic() + seconds
    failed = []
    for job in jobs:
        left = end - time.monotonic()
        print(f"\n== {job.name}, {left:.0f} s left", flush=True)
        flags = job.short if rehearse else job.flags
        words = [
            str(FOLDER / job.script),
            *flags.split(),
            "--out",
            str(folder / f"{job.name}.json"),
        ]
        try:
            code = subprocess.run([sys.executable, *words], timeout=max(left, 0.1)).returncode
        except subprocess.TimeoutExpired:
            code = None
        if code != 0:
            failed.append(job.name)
    return failed


def methods(device: str, timesteps: int) -> Rows:
    """Return a row for A2C on the device and one for A3C beside it, on the CPU."""
    kind = require_device_beside_cpu(device)
    difference = difference_from_cpu()

    rows = []
    for method in ("a2c", "a3c"):
        settings = resolve(method, ENV, total_timesteps=timesteps)
        experiment = build(method, ENV, settings)
        result = experiment.runner.run(0, until=timesteps)
        scores = evaluate(experiment, settings, result.params, jax.random.key(1))
        place = jax.tree.leaves(result.params)[0].devices().pop()
        rows.append(
            {
                "device": device if method == "a2c" else "cpu",
                "device_kind": kind,
                "method": method,
                "env": ENV,
                "parameters_on": place.platform,
                "env_steps": result.progress.env_steps,
                "env_steps_per_second": round(result.env_steps_per_second),
                "compile_seconds": round(result.compile_seconds, 2),
                "eval_return_mean": scores["eval_return_mean"],
                "largest_difference": difference if method == "a2c" else None,
            }
        )
    return rows


def require_device_beside_cpu(device: str) -> str:
    """Return the kind of the default device; exit with a message if it is another one."""
    kind = require_device(device)
    if jax.default_backend() != {"cpu": "cpu", "gpu": "gpu"}[device]:
        raise SystemExit(f"JAX's default device is {kind}, not a {device}")
    return kind


def difference_from_cpu() -> float:
    """Return how far parameters are from those of the CPU after some updates.

    Every transfer from the device to the host during the updates is an error.
    """
    settings = resolve("a2c", ENV)

    def updates(state: Any) -> Any:
        return jax.lax.fori_loop(0, UPDATES, lambda _, state: algorithm.step(state)[0], state)

    found = []
    for device in (jax.devices()[0], jax.devices("cpu")[0]):
        with jax.default_device(device):
            runner: Any = build("a2c", ENV, settings).runner
            algorithm = runner.algorithm
            state = jax.jit(algorithm.init)(jax.random.key(0))
            program = jax.jit(updates, donate_argnums=0).lower(state).compile()
            with jax.transfer_guard_device_to_host("disallow"):
                state = jax.block_until_ready(program(state))
            found.append([np.asarray(leaf) for leaf in jax.tree.leaves(state.params)])
    return max(float(np.abs(a - b).max()) for a, b in zip(*found, strict=True))


def tables(rows: Rows) -> list[Table]:
    """Return the table of the methods."""
    columns = [
        field("method", "method"),
        field("device", "device"),
        field("parameters on", "parameters_on"),
        field("steps", "env_steps", ","),
        field("steps/s", "env_steps_per_second", ","),
        field("compilation, s", "compile_seconds", ".1f"),
        field("return", "eval_return_mean", ".1f"),
        Column(
            f"difference from the CPU after {UPDATES} updates",
            lambda row: (
                "" if row["largest_difference"] is None else f"{row['largest_difference']:.1e}"
            ),
        ),
    ]
    return [Table(columns, rows)]


if __name__ == "__main__":
    main()
