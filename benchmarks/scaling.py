"""What do more workers of A3C bring, with and without a lock, and what do lock-free updates lose?

    python benchmarks/scaling.py [--env gymnax:CartPole-v1 envpool:Pong-v5] [--workers 1 2] [--repeats 15]
    python benchmarks/scaling.py --short     does it work? 1 and 2 workers, few short rounds, into runs/bench
    python benchmarks/scaling.py --table     the result that exists, as Markdown

Each round runs every number of workers, lock-free and locked, one after the other, each from fresh
parameters; a ratio compares two runs of the same round. Compilation and the start of the environments are
apart, learning is on: parameters that do not move, or are not finite, end it all. The settings are those of
the presets, but for the number of workers: on CartPole t_max 20, one environment, an MLP of 2 x 64 units and
Shared RMSProp; on Pong 16 environments, t_max 5, the network of Mnih et al. (2013) and Adam.

Lost updates are counted, in a pass of their own that is not timed: beside the parameters lies a vector of the
same size, and each update also adds 1 to all of it, by the same statement that adds to the parameters. An
element that ends below the number of updates lost the difference to other workers.

The paper's Table 2 stands beside, but means something else: how much sooner more threads reach a score, on
Atari and a core for each thread. Steps per second cannot go beyond the number of cores.
"""

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from measure import (
    check_learned,
    copy_of_weights,
    parser_of,
    print_committed,
    ranged,
    result_path,
    spread,
    table,
    write_result,
)
from tqdm import tqdm

from jax_a3c.asynchronous import A3CState, Asynchronous, use_worker_threads
from jax_a3c.envs.base import available_cores
from jax_a3c.hogwild import SharedParameters, aligned_empty
from jax_a3c.training.experiment import build
from jax_a3c.training.settings import resolve
from jax_a3c.types import TrainingResult

# Environment steps of each run: a second or more on two cores.
TIMESTEPS = {"gymnax:CartPole-v1": 100_000, "envpool:Pong-v5": 8_000}
WORKERS = [1, 2, 4, 8, 16]
TABLE_2 = Path(__file__).parent / "paper" / "table2.json"


class Goal(NamedTuple):
    """What a ratio of a number of workers, lock-free, should reach.

    Attributes:
      figure: the field of the row.
      workers: how many.
      at_least: the goal.
      cores: the machine needs at least so many.
      env: for which environment; empty for all.
    """

    figure: str
    workers: int
    at_least: float
    cores: int
    env: str = ""


GOALS = (
    Goal("ratio_to_one_worker", 2, 1.85, 2),
    Goal("lock_free_to_locked", 2, 1.0, 2),
    Goal("ratio_to_one_worker", 16, 12.5, 16, "envpool:Pong-v5"),
    Goal("env_steps_per_second", 16, 10_000, 16, "envpool:Pong-v5"),
)


class Counted(SharedParameters):
    """Shared parameters with a vector beside them to which each update adds 1.

    Attributes:
      ones: `[P]` float32, exact up to 2^24 updates.
    """

    def __init__(self, initial: np.ndarray, num_workers: int, *, lock: bool):
        super().__init__(initial, num_workers, lock=lock)
        self.ones = aligned_empty(initial.size)
        self.ones[:] = 0.0

    def apply(
        self, worker: int, version: int, change: Callable[[np.ndarray, np.ndarray], None]
    ) -> None:
        """The update, and directly after it, under the same lock if there is one, the one that counts."""

        def counted(parameters: np.ndarray, statistics: np.ndarray) -> None:
            change(parameters, statistics)
            np.add(self.ones, 1, out=self.ones)

        super().apply(worker, version, counted)


def main() -> None:
    """Measure, print a table and the goals, and write the result."""
    parser = parser_of(__doc__, short="1 and 2 workers, two short rounds")
    parser.add_argument("--env", nargs="+", choices=list(TIMESTEPS), default=list(TIMESTEPS))
    parser.add_argument(
        "--workers",
        type=int,
        nargs="+",
        help=f"default: {WORKERS}; on Pong at most two for each core",
    )
    parser.add_argument("--repeats", type=int, default=15, help="rounds")
    parser.add_argument("--timesteps", type=int, help=f"of each run; default: {TIMESTEPS}")
    args = parser.parse_args()
    partial = args.short or args.workers or args.timesteps or set(args.env) != set(TIMESTEPS)
    out = result_path("scaling", args.out, partial)
    if args.table:
        print_committed(out, markdown)
        return
    if args.short:
        args.workers, args.repeats = [1, 2], 2
    use_worker_threads()
    rows = []
    for env_id in args.env:
        timesteps = args.timesteps or TIMESTEPS[env_id] // (4 if args.short else 1)
        rows += measure(env_id, args.workers or default_workers(env_id), timesteps, args.repeats)
    settings = {"repeats": args.repeats, "cores": available_cores()}
    write_result(out, rows, **settings)
    print(f"\n{markdown(rows)}\n\n{goals(rows)}\n\nwrote {out}")


def default_workers(env_id: str) -> list[int]:
    """Up to 16; of Pong, whose steps take long, no more than two for each core."""
    most = 2 * available_cores() if env_id.startswith("envpool:") else max(WORKERS)
    return [workers for workers in WORKERS if workers <= most]


def measure(env_id: str, workers: list[int], timesteps: int, repeats: int) -> list[dict[str, Any]]:
    """Rounds of timed runs, then the passes that count, for one environment."""
    trainers: dict[tuple[int, bool], Asynchronous] = {}
    for number in sorted({1, *workers}):
        for lock in (False, True):
            settings = resolve(
                "a3c", env_id, num_workers=number, lock=lock, total_timesteps=timesteps
            )
            trainers[number, lock] = build("a3c", env_id, settings).trainer  # type: ignore[assignment]
    rounds = []
    for round_ in tqdm(range(-1, repeats), desc=f"{env_id}: rounds"):
        results = {key: train(trainer, round_ + 1)[0] for key, trainer in trainers.items()}
        if round_ >= 0:  # the first round compiles and warms up
            rounds.append(results)
    lost = {}
    for key, trainer in tqdm(trainers.items(), desc=f"{env_id}: lost updates"):
        lost[key] = lost_updates(trainer)
    sizes = {
        "env": env_id,
        "timesteps": timesteps,
        "num_parameters": lost[1, False].pop("elements"),
    }
    return [{**sizes, **row_of(*key, rounds), "lost_updates": lost[key]} for key in trainers]


def train(
    trainer: Asynchronous, seed: int, *, counted: bool = False
) -> tuple[TrainingResult, A3CState]:
    """One run from fresh parameters; its environments are closed afterwards."""
    state = trainer.init(seed)
    if counted:
        config = trainer.config
        shared = Counted(state.shared.parameters, config.num_workers, lock=config.lock)
        state = state._replace(shared=shared)
    before = copy_of_weights(trainer.params(state))
    result = trainer.run(state=state)
    check_learned(
        f"A3C with {trainer.config.num_workers} workers", before, copy_of_weights(result.params)
    )
    trainer.close(state)
    return result, state


def lost_updates(trainer: Asynchronous) -> dict[str, Any]:
    """Which share of the updates of an element went missing: mean over the elements, and the worst one."""
    _, state = train(trainer, 0, counted=True)
    shared: Any = state.shared
    lost = 1.0 - shared.ones.astype(np.float64) / shared.updates
    if trainer.config.lock and lost.any():
        raise RuntimeError("updates were lost under the lock")
    shares = {"mean": float(lost.mean()), "worst": float(lost.max())}
    return {**shares, "updates": shared.updates, "elements": lost.size}


def row_of(
    workers: int, lock: bool, rounds: list[dict[tuple[int, bool], TrainingResult]]
) -> dict[str, Any]:
    """Medians, and the range over the rounds."""

    def ratios(reference: tuple[int, bool]) -> dict[str, float]:
        pairs = [(results[workers, lock], results[reference]) for results in rounds]
        return spread([a.env_steps_per_second / b.env_steps_per_second for a, b in pairs], 2)

    results = [results[workers, lock] for results in rounds]
    staleness = [result.progress.mean_staleness for result in results]
    row = {
        "workers": workers,
        "lock": lock,
        "env_steps_per_second": spread([result.env_steps_per_second for result in results], 0),
        "updates_per_second": round(
            statistics.median(
                result.progress.updates / result.progress.seconds for result in results
            )
        ),
        "ratio_to_one_worker": ratios((1, False)),
        "mean_staleness": round(statistics.median(staleness), 2),
        "max_staleness": max(result.progress.max_staleness for result in results),
    }
    return row if lock else {**row, "lock_free_to_locked": ratios((workers, True))}


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table of the README: medians, and the range over the rounds in brackets."""
    paper = json.loads(TABLE_2.read_text())
    speedups = dict(zip(paper["threads"], paper["speedups"]["A3C"], strict=True))
    heads = (
        "environment",
        "workers",
        "lock",
        "steps/s",
        "updates/s",
        "ratio to one lock-free worker",
        "lock-free / locked",
        "staleness, mean (max)",
        "lost updates, mean (worst element)",
        "paper's Table 2",
    )
    lines = []
    for row in rows:
        ratio, compared = row["ratio_to_one_worker"], row.get("lock_free_to_locked")
        counted, lost = row.get("lost_updates"), ""  # rows of before they were counted have none
        if counted is not None:
            lost = f"{counted['mean']:.4%} ({counted['worst']:.3%})" if counted["worst"] else "none"
        cells = (
            row["env"].partition(":")[2],
            str(row["workers"]),
            "yes" if row["lock"] else "no",
            f"{row['env_steps_per_second']['median']:,.0f}",
            f"{row['updates_per_second']:,}",
            ranged(ratio, ".2f"),
            "" if compared is None else ranged(compared, ".2f"),
            f"{row['mean_staleness']:.2f} ({row['max_staleness']})",
            lost,
            str(speedups.get(row["workers"], "")),
        )
        lines.append(cells)
    return table(heads, lines)


def goals(rows: list[dict[str, Any]]) -> str:
    """Which goals were met; those that ask for more cores than there are say so."""
    lines = []
    for row in rows:
        for goal in GOALS:
            if row["lock"] or row["workers"] != goal.workers or goal.env not in ("", row["env"]):
                continue
            measured = row[goal.figure]["median"]
            verdict = "met" if measured >= goal.at_least else "missed"
            if available_cores() < goal.cores:
                verdict = f"asks for {goal.cores} cores"
            what = f"{row['env']}, {goal.workers} workers, {goal.figure.replace('_', ' ')}"
            lines.append(f"{what}: {measured:,} (goal: {goal.at_least:,}), {verdict}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
