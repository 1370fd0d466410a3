"""What do more workers of A3C bring, with and without a lock, and what do lock-free updates lose?

    python benchmarks/scaling.py [--env gymnax:CartPole-v1] [--workers 1 2] [--repeats 15]
    python benchmarks/scaling.py --short     does it work? 1 and 2 workers, few short rounds
    python benchmarks/scaling.py --table     print the result that exists

Each round runs every number of workers, lock-free and locked, one after the other, each from fresh
parameters. A ratio compares two runs of the same round. Compilation and the start of the
environments are not timed. Learning is on: the script stops if parameters do not move or are not
finite. The settings are the presets', except for the number of workers: on CartPole t_max 20, one
environment, an MLP of 2 x 64 units and Shared RMSProp; on Pong 16 environments, t_max 5, the
network of Mnih et al. (2013) and Adam.

Lost updates are counted in a separate pass that is not timed. A second vector has the size of the
parameters, and each update also adds 1 to all of it, by the same statement that adds to the
parameters. An element that ends below the number of updates lost the difference to other workers.

The paper's Table 2 is shown next to the ratios, but measures something else: how much sooner more
threads reach a score, on Atari with a core for each thread. Steps per second cannot scale beyond
the number of cores.
"""

import json
import statistics
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from benchmarks.frame.learners import check_learned, copy_of_weights
from benchmarks.frame.results import PAPER, Rows, parser_of, print_result, publish, result_path
from benchmarks.frame.summaries import short_id, spread
from benchmarks.frame.tables import Column, Table, field, spread_field
from jax_a3c.envs.base import available_cores
from jax_a3c.experiment.build import build
from jax_a3c.runners.asynchronous import AsynchronousRunner, AsynchronousState, use_worker_threads
from jax_a3c.runners.base import TrainingResult
from jax_a3c.runners.shared_parameters import SharedParameters, aligned_empty
from jax_a3c.settings.run import resolve

# Environment steps of each run: a second or more on two cores.
TIMESTEPS = {"gymnax:CartPole-v1": 100_000, "envpool:Pong-v5": 8_000}
WORKERS = [1, 2, 4, 8, 16]


class Goal(NamedTuple):
    """A figure that a number of lock-free workers should reach.

    Attributes:
      figure: the field of the row.
      workers: number of workers.
      at_least: the goal.
      cores: number of cores that the goal assumes.
      env: id of the environment; empty for all.
    """

    figure: str
    workers: int
    at_least: float
    cores: int
    env: str = ""

    def concerns(self, row: dict[str, Any]) -> bool:
        """Return whether a row of the result is the one that the goal speaks of."""
        same_env = self.env in ("", row["env"])
        return not row["lock"] and row["workers"] == self.workers and same_env


GOALS = (
    Goal("ratio_to_one_worker", 2, 1.85, 2),
    Goal("ratio_to_one_worker", 8, 1.6, 2, "gymnax:CartPole-v1"),
    Goal("ratio_to_one_worker", 16, 1.6, 2, "gymnax:CartPole-v1"),
    Goal("lock_free_to_locked", 2, 1.0, 2),
    Goal("ratio_to_one_worker", 16, 12.5, 16, "envpool:Pong-v5"),
    Goal("env_steps_per_second", 16, 10_000, 16, "envpool:Pong-v5"),
)


def count_updates(shared: SharedParameters) -> np.ndarray:
    """Let each update also add 1 to a second vector, under the same lock if there is one.

    Returns:
      The vector, `[P]` float32, exact up to 2^24 updates.
    """
    ones = aligned_empty(shared.flat_params.size)
    ones[:] = 0.0
    change = shared._change

    def counted(*args: Any) -> None:
        change(*args)
        np.add(ones, 1, out=ones)

    shared._change = counted  # type: ignore[method-assign]
    return ones


def main() -> None:
    """Measure, write the result, print its table and the goals."""
    parser = parser_of(__doc__, short="1 and 2 workers, two short rounds")
    parser.add_argument("--env", nargs="+", choices=list(TIMESTEPS), default=list(TIMESTEPS))
    parser.add_argument(
        "--workers",
        type=int,
        nargs="+",
        help=f"numbers of workers; default: {WORKERS}, on Pong at most two for each core",
    )
    parser.add_argument("--repeats", type=int, default=15, help="number of rounds")
    parser.add_argument(
        "--timesteps", type=int, help=f"environment steps of each run; default: {TIMESTEPS}"
    )
    args = parser.parse_args()
    partial = args.short or args.workers or args.timesteps or set(args.env) != set(TIMESTEPS)
    out = result_path("scaling", args.out, partial)
    if args.table:
        return print_result(out, tables)
    if args.short:
        args.workers = [1, 2]
        args.repeats = 2

    use_worker_threads()
    rows = []
    for env_id in args.env:
        timesteps = args.timesteps or TIMESTEPS[env_id] // (4 if args.short else 1)
        rows += measure(env_id, args.workers or default_workers(env_id), timesteps, args.repeats)
    publish(out, rows, tables, repeats=args.repeats, cores=available_cores())
    print(f"\n{goals(rows)}")


def default_workers(env_id: str) -> list[int]:
    """Return numbers of workers up to 16; on Pong, whose steps take long, up to two per core."""
    most = 2 * available_cores() if env_id.startswith("envpool:") else max(WORKERS)
    return [workers for workers in WORKERS if workers <= most]


def measure(env_id: str, workers: list[int], timesteps: int, repeats: int) -> Rows:
    """Run the timed rounds and then the passes that count, for one environment."""
    # Build a runner for each number of workers, lock-free and locked.
    runners: dict[tuple[int, bool], AsynchronousRunner] = {}
    for number in sorted({1, *workers}):
        for lock in (False, True):
            settings = resolve(
                "a3c", env_id, num_workers=number, lock=lock, total_timesteps=timesteps
            )
            runner: Any = build("a3c", env_id, settings).runner
            runners[number, lock] = runner

    rounds = []
    for round_ in tqdm(range(-1, repeats), desc=f"{env_id}: rounds"):
        results = {key: train(runner, runner.init(round_ + 1)) for key, runner in runners.items()}
        if round_ >= 0:  # the first round compiles and warms up
            rounds.append(results)

    # Count lost updates in runs that are not timed.
    lost = {}
    for key, runner in tqdm(runners.items(), desc=f"{env_id}: lost updates"):
        lost[key] = lost_updates(runner)

    sizes = {
        "env": env_id,
        "timesteps": timesteps,
        "num_parameters": lost[1, False].pop("elements"),
    }
    return [{**sizes, **row_of(*key, rounds), "lost_updates": lost[key]} for key in runners]


def train(runner: AsynchronousRunner, state: AsynchronousState) -> TrainingResult:
    """Train from a fresh state, check that it learned, and close the environments."""
    before = copy_of_weights(runner.params(state))
    result = runner.run(state)
    after = copy_of_weights(result.params)
    check_learned(f"A3C with {runner.config.num_workers} workers", before, after)
    runner.close(state)
    return result


def lost_updates(runner: AsynchronousRunner) -> dict[str, Any]:
    """Return the share of updates that elements lost: the mean, and the worst element's."""
    state = runner.init(0)
    shared = state.shared
    ones = count_updates(shared)
    train(runner, state)
    lost = 1.0 - ones.astype(np.float64) / shared.updates
    if runner.config.lock and lost.any():
        raise RuntimeError("updates were lost under the lock")
    shares = {"mean": float(lost.mean()), "worst": float(lost.max())}
    return {**shares, "updates": shared.updates, "elements": lost.size}


def row_of(
    workers: int, lock: bool, rounds: list[dict[tuple[int, bool], TrainingResult]]
) -> dict[str, Any]:
    """Return medians, and the range over the rounds."""

    def ratios(reference: tuple[int, bool]) -> dict[str, float]:
        pairs = [(results[workers, lock], results[reference]) for results in rounds]
        return spread([a.env_steps_per_second / b.env_steps_per_second for a, b in pairs], 2)

    results = [results[workers, lock] for results in rounds]
    update_rates = [result.progress.updates / result.progress.seconds for result in results]
    staleness = [result.progress.mean_staleness for result in results]
    row = {
        "workers": workers,
        "lock": lock,
        "env_steps_per_second": spread([result.env_steps_per_second for result in results], 0),
        "updates_per_second": round(statistics.median(update_rates)),
        "ratio_to_one_worker": ratios((1, False)),
        "mean_staleness": round(statistics.median(staleness), 2),
        "max_staleness": max(result.progress.max_staleness for result in results),
    }
    return row if lock else {**row, "lock_free_to_locked": ratios((workers, True))}


def paper_speedups() -> dict[int, float]:
    """Return the speed-up of A3C over one thread in the paper's Table 2, by number of threads."""
    paper = json.loads((PAPER / "table2.json").read_text())
    return dict(zip(paper["threads"], paper["speedups"]["A3C"], strict=True))


def _lost(row: dict[str, Any]) -> str:
    counted = row.get("lost_updates")
    if counted is None:  # a row that is older than the count
        return ""
    return f"{counted['mean']:.4%} ({counted['worst']:.3%})" if counted["worst"] else "none"


COLUMNS = (
    Column("environment", lambda row: short_id(row["env"])),
    field("workers", "workers"),
    Column("lock", lambda row: "yes" if row["lock"] else "no"),
    Column("steps/s", lambda row: f"{row['env_steps_per_second']['median']:,.0f}"),
    field("updates/s", "updates_per_second", ","),
    spread_field("ratio to one lock-free worker", "ratio_to_one_worker", ".2f"),
    spread_field("lock-free / locked", "lock_free_to_locked", ".2f"),
    Column(
        "staleness, mean (max)",
        lambda row: f"{row['mean_staleness']:.2f} ({row['max_staleness']})",
    ),
    Column("lost updates, mean (worst element)", _lost),
    Column("paper's Table 2", lambda row: str(paper_speedups().get(row["workers"], ""))),
)


def tables(rows: Rows) -> list[Table]:
    """Return the table of all numbers of workers: medians, and the range over the rounds."""
    return [Table(COLUMNS, rows)]


def goals(rows: Rows) -> str:
    """Return which goals were met, and which ask for more cores than there are."""
    lines = []
    for row in rows:
        for goal in GOALS:
            if not goal.concerns(row):
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
