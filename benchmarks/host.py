"""What share of the environment's own speed is left with a learner?

    python benchmarks/host.py [--env envpool:Pong-v5] [--cores 1 2] [--only "2 workers"]
    python benchmarks/host.py --short     does it work? A few short windows
    python benchmarks/host.py --table     print the result that exists

The ceiling is envpool itself: `envpool.make_gymnasium`, 8 environments, actions drawn in advance,
as many threads as cores, and results that nobody reads. It is compared with the same environments
behind `envs.make`, and with A3C and A2C that learn. All run in one process that is confined to one
core, then to two, before JAX or envpool starts. Everything is compiled and warmed up first. Then
each case gets a window of a few seconds, A B C A B C, and its share is relative to the ceiling in
the same round. The script stops if parameters do not move or are not finite.

Networks: on Atari the network of Mnih et al. (2013); on MuJoCo two MLPs of 64 x 64 units, one for
the policy and one for the value, and normalised observations. All other settings are presets and
defaults. Steps are agent steps, on Atari of four frames each. A row in which an environment only
resets, one for each episode, counts as a step for envpool and not for a learner.

A call of envpool costs some time in Python, which 8 environments share and a single one does not.
With more than 8 of them a learner makes fewer calls for its steps than the ceiling does. JAX's
asynchronous dispatch is off for all cases, as in the command line for A3C (`use_worker_threads`).
The command line leaves it on for A2C: `--asynchronous-dispatch --only a2c` measures that.
"""

import argparse
import functools
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from benchmarks.frame.learners import FOREVER, Learning
from benchmarks.frame.processes import confined, write_part
from benchmarks.frame.results import (
    Rows,
    parser_of,
    plain_settings,
    print_result,
    publish,
    result_path,
)
from benchmarks.frame.summaries import short_id, spread
from benchmarks.frame.tables import Column, Table, field, spread_field
from benchmarks.frame.timing import Window, watched
from jax_a3c import envs
from jax_a3c.runners.asynchronous import use_worker_threads
from jax_a3c.settings.run import Settings, resolve

ENVS: dict[str, dict[str, Any]] = {
    "envpool:Pong-v5": {"network": "mnih2013"},
    "envpool:HalfCheetah-v5": {
        "network": "mlp",
        "hidden": (64, 64),
        "shared_trunk": False,
        "normalize_observations": True,
    },
}
CORES = [1, 2]
RAW_ENVS = 8
DRAWN = 1009
"""Rows of random actions, which are used in a cycle."""

GOAL = {"env": "envpool:Pong-v5", "cores": 2, "case": "A3C, 2 workers x 16 envs, T=5"}
GOAL_SHARE = 0.48
"""Share of raw envpool that this case should keep."""

Run = Callable[[float], int]
"""Continues for some seconds; returns the number of environment steps."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing to measure.

    Attributes:
      kind: envpool alone, envpool behind our adapter, or a method.
      threads: threads of envpool; for A3C the number of workers. A2C's environments have as many
        threads as there are cores.
      num_envs: environments of each worker.
      num_steps: T, for a method.
    """

    kind: Literal["raw", "adapter", "a3c", "a2c"]
    threads: int
    num_envs: int
    num_steps: int = 0

    @property
    def name(self) -> str:
        """The name in tables and for `--only`."""
        plural = "s" * (self.threads > 1)
        if self.kind == "a3c":
            return f"A3C, {self.threads} worker{plural} x {self.num_envs} envs, T={self.num_steps}"
        if self.kind == "a2c":
            return f"A2C, {self.num_envs} envs, T={self.num_steps}"
        title = "raw envpool" if self.kind == "raw" else "our adapter"
        return f"{title}, {self.num_envs} envs, {self.threads} thread{plural}"


class Measured(NamedTuple):
    """One window of one case.

    Attributes:
      steps: steps of all environments.
      share: steps per second, relative to raw envpool in the same round.
      window: readings of the clocks.
    """

    steps: int
    share: float
    window: Window

    @property
    def rate(self) -> float:
        """Environment steps per second."""
        return self.steps / self.window.seconds


def main() -> None:
    """Measure each environment on each number of cores in a child process; write and print."""
    parser = parser_of(__doc__, short="few cases, two short rounds", part=True)
    parser.add_argument("--env", nargs="+", choices=list(ENVS), default=list(ENVS))
    parser.add_argument("--cores", type=int, nargs="+", default=CORES, help="numbers of cores")
    parser.add_argument(
        "--only", default="", help="part of a name in the table, such as 'a3c, 2 workers'"
    )
    parser.add_argument("--repeats", type=int, default=5, help="number of rounds")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each window")
    parser.add_argument(
        "--asynchronous-dispatch", action="store_true", help="leave JAX's own default on"
    )
    args = parser.parse_args()
    if args.short:
        args.repeats = 2
        args.seconds = 0.3

    selected = args.short or args.only or args.asynchronous_dispatch or args.cores != CORES
    out = result_path("host", args.out, selected or set(args.env) != set(ENVS))
    if args.table:
        print_result(out, tables)
    elif args.part:
        rows = measure(args.env[0], cases_of(args.cores[0], args.only, args.short), args)
        write_part(args.part, [{"cores": args.cores[0], **row} for row in rows])
    else:
        rows = [
            row
            for env_id in args.env
            for cores in args.cores
            for row in rows_of(env_id, cores, args)
        ]
        names = ("repeats", "seconds", "asynchronous_dispatch")
        publish(out, rows, tables, **{name: getattr(args, name) for name in names})


def cases_of(cores: int, only: str, short: bool) -> list[Case]:
    """Return the ceiling and what `only` selects on so many cores; empty if that is nothing."""
    threads = range(1, cores + 1)
    # Raw envpool with all threads is the ceiling; fewer threads come after it.
    ceiling, *others = [
        Case(kind="raw", threads=number, num_envs=RAW_ENVS) for number in reversed(threads)
    ]
    others += [Case(kind="adapter", threads=number, num_envs=RAW_ENVS) for number in threads]

    # The learners: A3C with each number of workers, A2C with all threads.
    others += [
        Case(kind="a3c", threads=workers, num_envs=num_envs, num_steps=num_steps)
        for workers in threads
        for num_envs, num_steps in ([(16, 5)] if short else [(1, 20), (8, 20), (16, 5)])
    ]
    others += [
        Case(kind="a2c", threads=cores, num_envs=16, num_steps=num_steps)
        for num_steps in ([5] if short else [5, 20])
    ]

    # The ceiling belongs to every selection.
    chosen = [case for case in others if only.lower() in case.name.lower()]
    return [ceiling, *chosen] if chosen or only.lower() in ceiling.name.lower() else []


def rows_of(env_id: str, cores: int, args: argparse.Namespace) -> Rows:
    """Run this script for one environment in a child process that has so many cores."""
    if not cases_of(cores, args.only, args.short):
        return []
    print(f"{env_id} on {cores} core{'s' * (cores > 1)}", flush=True)
    return confined(cores, __file__, [*sys.argv[1:], "--env", env_id, "--cores", str(cores)])


def measure(env_id: str, cases: list[Case], args: argparse.Namespace) -> Rows:
    """Build and warm up all cases, then measure them in turn; the first case is the ceiling."""
    if not args.asynchronous_dispatch:
        use_worker_threads()

    # Build, compile and warm up everything before the first window.
    runs: dict[Case, Run] = {}
    for case in cases:
        start = time.perf_counter()
        runs[case] = (
            stepping(env_id, case) if case.kind in ("raw", "adapter") else learning(env_id, case)
        )
        # JAX may compile once more for the second call, whose arguments come from the first.
        for _ in range(2):
            runs[case](min(1.0, args.seconds))
        print(f"  {case.name}: ready after {time.perf_counter() - start:.1f} s", flush=True)

    # Take turns; the share is relative to the ceiling in the same round.
    measured: dict[Case, list[Measured]] = {case: [] for case in cases}
    for round_ in range(args.repeats):
        ceiling = None
        for case, run in runs.items():
            steps, window = watched(functools.partial(run, args.seconds))
            ceiling = ceiling or steps / window.seconds
            share = steps / window.seconds / ceiling
            measured[case].append(Measured(steps, share, window))
            rate = f"{measured[case][-1].rate:9,.0f} steps/s, {share:5.0%}"
            print(f"  round {round_ + 1} of {args.repeats}  {case.name:34s} {rate}", flush=True)

    for run in runs.values():
        if isinstance(run, Learning):
            run.close()
    return [row_of(env_id, case, windows) for case, windows in measured.items()]


def row_of(env_id: str, case: Case, measured: list[Measured]) -> dict[str, Any]:
    """Return median and range over the rounds."""
    others = [one.window.others for one in measured if one.window.others is not None]
    cpu_times = [1e6 * one.window.cpu_seconds / one.steps for one in measured]
    row = {
        "env": env_id,
        "case": case.name,
        "kind": case.kind,
        "threads": case.threads,
        "num_envs": case.num_envs,
        "env_steps_per_second": spread([one.rate for one in measured], 0),
        "share_of_raw": spread([one.share for one in measured]),
        "cpu_microseconds_per_step": spread(cpu_times, 1),
        "others_share_of_machine": spread(others) if others else None,
    }

    if case.kind in ("a3c", "a2c"):
        row["settings"] = plain_settings(settings_of(env_id, case))
    return row


def stepping(env_id: str, case: Case) -> Run:
    """Return a run of random actions: on envpool's own pool, or on the one behind our adapter."""
    factory: Any = envs.make(env_id)
    space = factory.spec.action_space
    random = np.random.default_rng(0)
    drawn: np.ndarray
    if isinstance(space, envs.Discrete):
        drawn = random.integers(space.num_actions, size=(DRAWN, case.num_envs), dtype=np.int32)
    else:
        drawn = random.uniform(space.low, space.high, (DRAWN, case.num_envs, space.size))

    # envpool takes float64 actions for MuJoCo; our adapter converts them.
    if case.kind == "raw":
        pool = raw_pool(env_id, case)
    else:
        pool = factory.make(case.num_envs, num_threads=case.threads)
        if drawn.dtype == np.float64:
            drawn = drawn.astype(np.float32)  # as a policy gives them; envpool takes float64
    actions = list(drawn)
    pool.reset()

    def run(seconds: float) -> int:
        calls = 0
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pool.step(actions[calls % DRAWN])
            calls += 1
        return calls * case.num_envs

    return run


def raw_pool(env_id: str, case: Case) -> Any:
    """Return envpool's own environments, with its defaults."""
    import envpool

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*precision lowered")
        return envpool.make_gymnasium(
            short_id(env_id), num_envs=case.num_envs, num_threads=case.threads, seed=0
        )


def learning(env_id: str, case: Case) -> Learning:
    """Return a method with its own environments."""
    return Learning(case.name, case.kind, env_id, settings_of(env_id, case))


def settings_of(env_id: str, case: Case) -> Settings:
    """Return all settings of a learner."""
    sizes: dict[str, Any] = {"num_envs": case.num_envs, "num_steps": case.num_steps}
    if case.kind == "a3c":
        sizes["num_workers"] = case.threads
    return resolve(case.kind, env_id, **ENVS[env_id], **sizes, total_timesteps=FOREVER)


def _others(row: dict[str, Any]) -> str:
    others = row["others_share_of_machine"]
    return "unknown" if others is None else f"{others['median']:.0%} (to {others['max']:.0%})"


COLUMNS = (
    Column("environment", lambda row: short_id(row["env"])),
    field("cores", "cores"),
    field("case", "case"),
    spread_field("steps/s", "env_steps_per_second"),
    spread_field("share of raw envpool", "share_of_raw", ".2f"),
    spread_field("CPU us per step", "cpu_microseconds_per_step", ".0f"),
    Column("other processes", _others),
)


def tables(rows: Rows) -> list[Table]:
    """Return the table of all cases: medians, and the range over the rounds."""
    return [Table(COLUMNS, rows)]


if __name__ == "__main__":
    main()
