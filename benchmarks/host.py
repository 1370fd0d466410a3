"""What share of the environment's own speed is left with a learner?

    python benchmarks/host.py [--env envpool:Pong-v5] [--cores 1 2] [--only "2 workers"] [--repeats 5]
    python benchmarks/host.py --short     does it work? A few short windows, into runs/bench
    python benchmarks/host.py --table     the result that exists, as Markdown

The ceiling is envpool itself: `envpool.make_gymnasium`, 8 environments, actions drawn before, as many threads
as cores, nobody looking at what comes back. Beside it the same through `envs.make`, and A3C and A2C with
learning on, all in one process that is confined to one core, then to two, before JAX or envpool starts.
Everything is compiled and warmed up first; then each has a window of a few seconds, A B C A B C, and its
share is that of the ceiling in the same round. Parameters that do not move, or are not finite, end it all.

Networks: for Atari that of Mnih et al. (2013); for MuJoCo two MLPs of 64 x 64 units, one for the policy and
one for the value, and normalised observations. The rest are presets and defaults. Steps are agent steps, on
Atari of four frames each. The rows in which an environment only resets, one for each episode, count as steps
for envpool and not for a learner.

A call of envpool costs some time in Python, which 8 environments share and a single one does not: with
more than 8 of them a learner makes fewer calls for its steps than the ceiling does. JAX' asynchronous
dispatch is off for all, as in the command line for A3C (`use_worker_threads`), which has it on for A2C:
`--asynchronous-dispatch --only a2c` measures that.
"""

import argparse
import functools
import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from measure import (
    FOREVER,
    Learning,
    Window,
    confined,
    parser_of,
    plain_settings,
    print_committed,
    ranged,
    result_path,
    spread,
    table,
    watched,
    write_result,
)

from jax_a3c import envs
from jax_a3c.asynchronous import use_worker_threads
from jax_a3c.training.settings import Settings, resolve

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
DRAWN = 1009  # rows of random actions, which come round again

Run = Callable[[float], int]
"""Goes on for some seconds; returns how many environment steps it took."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing to measure.

    Attributes:
      kind: envpool alone, envpool behind our adapter, or a method.
      threads: of envpool; for A3C its workers. A2C's environments have as many as there are cores.
      num_envs: of each worker.
      num_steps: T, for a method.
    """

    kind: Literal["raw", "adapter", "a3c", "a2c"]
    threads: int
    num_envs: int
    num_steps: int = 0

    @property
    def name(self) -> str:
        """What tables and `--only` call it."""
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
      steps: of all its environments.
      share: steps per second, as a share of those of raw envpool in the same round.
      window: its clocks.
    """

    steps: int
    share: float
    window: Window

    @property
    def rate(self) -> float:
        """Environment steps per second."""
        return self.steps / self.window.seconds


def main() -> None:
    """Measure each environment on each number of cores, in processes of their own; write and print."""
    parser = parser_of(__doc__, short="few cases, two short rounds, into runs/bench")
    parser.add_argument("--env", nargs="+", choices=list(ENVS), default=list(ENVS))
    parser.add_argument("--cores", type=int, nargs="+", default=CORES)
    parser.add_argument(
        "--only", default="", help="part of a name in the table, such as 'a3c, 2 workers'"
    )
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each window")
    parser.add_argument("--asynchronous-dispatch", action="store_true", help="JAX' own default")
    parser.add_argument(
        "--part", type=Path, help=argparse.SUPPRESS
    )  # the confined process writes here
    args = parser.parse_args()
    if args.short:
        args.repeats, args.seconds = 2, 0.3
    selected = args.short or args.only or args.asynchronous_dispatch or args.cores != CORES
    partial = bool(selected) or set(args.env) != set(ENVS)
    out = result_path("host", args.out, partial)
    if args.table:
        print_committed(out, markdown)
    elif args.part:
        rows = measure(args.env[0], cases_of(args.cores[0], args.only, args.short), args)
        args.part.write_text(json.dumps([{"cores": args.cores[0], **row} for row in rows]))
    else:
        rows = [
            row
            for env_id in args.env
            for cores in args.cores
            for row in rows_of(env_id, cores, args)
        ]
        names = ("repeats", "seconds", "asynchronous_dispatch")
        write_result(out, rows, **{name: getattr(args, name) for name in names})
        print(f"\n{markdown(rows)}\n\nwrote {out}")


def cases_of(cores: int, only: str, short: bool) -> list[Case]:
    """What is measured on so many cores: the ceiling, then what `only` selects; empty if that is nothing."""
    threads = range(1, cores + 1)
    ceiling, *others = [
        Case(kind="raw", threads=number, num_envs=RAW_ENVS) for number in reversed(threads)
    ]
    others += [Case(kind="adapter", threads=number, num_envs=RAW_ENVS) for number in threads]
    others += [
        Case(kind="a3c", threads=workers, num_envs=num_envs, num_steps=num_steps)
        for workers in threads
        for num_envs, num_steps in ([(16, 5)] if short else [(1, 20), (8, 20), (16, 5)])
    ]
    others += [
        Case(kind="a2c", threads=cores, num_envs=16, num_steps=num_steps)
        for num_steps in ([5] if short else [5, 20])
    ]
    chosen = [case for case in others if only.lower() in case.name.lower()]
    return [ceiling, *chosen] if chosen or only.lower() in ceiling.name.lower() else []


def rows_of(env_id: str, cores: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run this script for one environment in a process that has so many cores from its start."""
    if not cases_of(cores, args.only, args.short):
        return []
    print(f"{env_id} on {cores} core{'s' * (cores > 1)}", flush=True)
    return confined(cores, __file__, [*sys.argv[1:], "--env", env_id, "--cores", str(cores)])


def measure(env_id: str, cases: list[Case], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Build and warm up all cases, let them take turns, and make a row of each; the first is the ceiling."""
    if not args.asynchronous_dispatch:
        use_worker_threads()
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
    """Median and range over the rounds."""
    others = [one.window.others for one in measured if one.window.others is not None]
    row = {
        "env": env_id,
        "case": case.name,
        "kind": case.kind,
        "threads": case.threads,
        "num_envs": case.num_envs,
        "env_steps_per_second": spread([one.rate for one in measured], 0),
        "share_of_raw": spread([one.share for one in measured]),
        "cpu_microseconds_per_step": spread(
            [1e6 * one.window.cpu_seconds / one.steps for one in measured], 1
        ),
        "others_share_of_machine": spread(others) if others else None,
    }
    if case.kind in ("a3c", "a2c"):
        row["settings"] = plain_settings(settings_of(env_id, case))
    return row


def stepping(env_id: str, case: Case) -> Run:
    """Random actions, drawn before: for envpool's own pool, or for that behind our adapter."""
    factory: Any = envs.make(env_id)
    space, random = factory.spec.action_space, np.random.default_rng(0)
    drawn: np.ndarray
    if isinstance(space, envs.Discrete):
        drawn = random.integers(space.num_actions, size=(DRAWN, case.num_envs), dtype=np.int32)
    else:
        drawn = random.uniform(space.low, space.high, (DRAWN, case.num_envs, space.size))
    if case.kind == "raw":
        pool = raw_pool(env_id, case)
    else:
        pool = factory.make(case.num_envs, num_threads=case.threads)
        if drawn.dtype == np.float64:
            drawn = drawn.astype(np.float32)  # as a policy gives them; those of envpool are float64
    actions = list(drawn)
    pool.reset()

    def run(seconds: float) -> int:
        calls, end = 0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            pool.step(actions[calls % DRAWN])
            calls += 1
        return calls * case.num_envs

    return run


def raw_pool(env_id: str, case: Case) -> Any:
    """envpool's own, with its defaults."""
    import envpool

    name = env_id.partition(":")[2]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*precision lowered")
        return envpool.make_gymnasium(
            name, num_envs=case.num_envs, num_threads=case.threads, seed=0
        )


def learning(env_id: str, case: Case) -> Learning:
    """A method on environments of its own."""
    return Learning(case.name, case.kind, env_id, settings_of(env_id, case))


def settings_of(env_id: str, case: Case) -> Settings:
    """All settings of a learner."""
    sizes: dict[str, Any] = {"num_envs": case.num_envs, "num_steps": case.num_steps}
    if case.kind == "a3c":
        sizes["num_workers"] = case.threads
    return resolve(case.kind, env_id, **ENVS[env_id], **sizes, total_timesteps=FOREVER)


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table of the README: medians, and the range over the rounds in brackets."""
    heads = (
        "environment",
        "cores",
        "what",
        "steps/s",
        "share of raw envpool",
        "CPU us per step",
        "others",
    )
    lines = []
    for row in rows:
        others = row["others_share_of_machine"]
        cells = (
            row["env"].partition(":")[2],
            str(row["cores"]),
            row["case"],
            ranged(row["env_steps_per_second"]),
            ranged(row["share_of_raw"], ".2f"),
            ranged(row["cpu_microseconds_per_step"], ".0f"),
            "unknown" if others is None else f"{others['median']:.0%} (to {others['max']:.0%})",
        )
        lines.append(cells)
    return table(heads, lines)


if __name__ == "__main__":
    main()
