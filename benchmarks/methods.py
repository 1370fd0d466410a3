"""How do the four asynchronous methods compare, against steps and against seconds?

    python benchmarks/methods.py [--only a3c gymnax:CartPole-v1] [--seeds 3] [--short]
    python benchmarks/methods.py --plot-only    draw the result that exists
    python benchmarks/methods.py --table        print it

This is the paper's Figure 1 in small. During a run the script copies the parameters and evaluates
the copies after the run, so that the workers are not slowed down. The returns of training itself
contain the exploration, whose epsilon ends at 0.5 for some workers of the value-based methods. A
row that exists for the same settings and seed is kept; a row of other settings is replaced. The
file is written after each run, so that the script can be stopped and started again.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from tqdm import tqdm

from benchmarks.frame.learners import INTERVAL, Curve
from benchmarks.frame.pictures import plot_mean_and_range, save
from benchmarks.frame.results import (
    Rows,
    matching,
    parser_of,
    plain_settings,
    print_result,
    print_tables,
    result_path,
    rows_that_hold,
    write_result,
)
from benchmarks.frame.summaries import short_commit, short_id, with_range
from benchmarks.frame.tables import Column, Table
from jax_a3c.evaluation.play import Evaluation, evaluator
from jax_a3c.experiment.build import Experiment, build
from jax_a3c.experiment.run_directory import environment
from jax_a3c.runners.asynchronous import use_worker_threads
from jax_a3c.runners.base import Progress
from jax_a3c.settings.run import Settings, resolve
from jax_a3c.types import Params

ENVS = ("gymnax:CartPole-v1", "gymnax:Breakout-MinAtar")
LABELS = {
    "async-one-step-q": "one-step Q",
    "async-one-step-sarsa": "one-step Sarsa",
    "async-n-step-q": "n-step Q",
    "a3c": "A3C",
}
# The value-based presets have 8 environments per worker. A3C gets as many: seconds then compare.
SAME_LAYOUT = {"num_envs": 8, "stop_at_episode_end": False, "num_steps": 10}
OVERRIDES = {("a3c", "gymnax:CartPole-v1"): SAME_LAYOUT}
COPIES = 20
"""Copies of the parameters that are evaluated for the curve of a run."""
EPISODES = 20
"""Episodes of the evaluation of a copy; the settings give the number for the final parameters."""

Play = Callable[[Params, jax.Array], Evaluation]


def main() -> None:
    """Train, evaluate, write the result, draw it and print a table."""
    parser = parser_of(__doc__, short="one short run of each method on CartPole")
    parser.add_argument(
        "--only", nargs="+", default=[], help="a method, an environment id, or both"
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each case")
    parser.add_argument(
        "--total-timesteps", type=int, help="environment steps of a run; default: the preset's"
    )
    parser.add_argument("--workers", type=int, help="number of workers; default: the preset's")
    parser.add_argument("--plot-only", action="store_true", help="draw the result that exists")
    args = parser.parse_args()
    if args.short:
        args.only = [ENVS[0]]
        args.seeds = 1
        args.total_timesteps = 20_000
        args.workers = 2

    out = result_path("methods", args.out, args.short)
    if args.table:
        return print_result(out, tables)
    rows = json.loads(out.read_text())["rows"] if args.plot_only or out.exists() else []
    if not args.plot_only:
        rows = train_all(rows, out, args)
    print_tables(rows, tables)
    plot(rows, out.with_suffix(".png"))


def train_all(rows: Rows, out: Path, args: argparse.Namespace) -> Rows:
    """Return the rows that still hold and a new one for each missing run; write after each run."""
    use_worker_threads()
    commit = environment()["git_commit"]
    given = {"total_timesteps": args.total_timesteps, "num_workers": args.workers}
    overrides = {name: value for name, value in given.items() if value is not None}
    cases = [
        (method, env_id)
        for env_id in ENVS
        for method in LABELS
        if set(args.only) <= {method, env_id}
    ]

    with tqdm(total=len(cases) * args.seeds) as bar:
        for method, env_id in cases:
            bar.set_description(f"{method} {env_id}")
            settings = resolve(method, env_id, **OVERRIDES.get((method, env_id), {}), **overrides)
            case = {"method": method, "env": env_id}
            rows, done = rows_that_hold(rows, case, settings)
            bar.update(len(done & set(range(args.seeds))))

            # Compile what all seeds share.
            experiment = build(method, env_id, settings)
            play, play_final = (
                evaluator(
                    experiment.env, experiment.network, num_episodes=n, policy=settings.eval_policy
                )
                for n in (EPISODES, settings.eval_episodes)
            )

            for seed in sorted(set(range(args.seeds)) - done):
                measured = train(experiment, settings, seed, play, play_final)
                row = {**case, "seed": seed, "commit": commit, **measured}
                rows.append({**row, "settings": plain_settings(settings)})
                write_result(out, rows, episodes_per_point=EPISODES)
                bar.update()
    return rows


def train(
    experiment: Experiment, settings: Settings, seed: int, play: Play, play_final: Play
) -> dict[str, Any]:
    """Train once; return the counts, the two learning curves and the final return."""
    runner = experiment.runner
    total = settings.total_timesteps
    state: Any = runner.init(seed)
    training = Curve(total)
    copies = [(training.moments[0], runner.params(state))]

    # Called by the main thread while the workers train.
    def keep(progress: Progress) -> None:
        training(progress)
        if progress.env_steps >= len(copies) * total / COPIES:
            copies.append((progress, runner.params(state)))

    # Train; the workers do not wait for the callback.
    result = runner.run(state, until=total, callback=keep, interval=INTERVAL)
    curve = [(row["env_steps"], row["seconds"], row["episode_return"]) for row in training.rows()]

    # Evaluate when the workers have ended.
    key = jax.random.key(10_000 + seed)
    evaluated = [
        (at.env_steps, at.seconds, play(params, key).returns.mean()) for at, params in copies
    ]
    final = play_final(result.params, key).returns
    return {
        "eval_policy": settings.eval_policy,
        "eval_return_mean": round(float(final.mean()), 3),
        "eval_return_std": round(float(final.std()), 3),
        "env_steps": result.progress.env_steps,
        "seconds": round(result.progress.seconds, 2),
        "compile_seconds": round(result.compile_seconds, 2),
        "training": columns(curve),
        "evaluations": columns(evaluated),
    }


def columns(points: list[tuple[int, float, float]]) -> dict[str, list[float]]:
    """Return a curve column by column."""
    return {
        "env_steps": [steps for steps, _, _ in points],
        "seconds": [round(seconds, 3) for _, seconds, _ in points],
        "return": [round(float(mean), 3) for _, _, mean in points],
    }


COLUMNS = (
    Column("environment", lambda runs: f"`{runs[0]['env']}`"),
    Column("method", lambda runs: LABELS[runs[0]["method"]]),
    Column("seeds", lambda runs: str(len(runs))),
    Column("steps", lambda runs: f"{runs[0]['env_steps'] / 1e6:.1f} M"),
    Column("policy", lambda runs: runs[0]["eval_policy"]),
    Column("mean return (range)", lambda runs: with_range(*_mean_and_range(runs))),
    Column("seconds, mean", lambda runs: f"{np.mean([run['seconds'] for run in runs]):.0f}"),
    Column("commit", lambda runs: short_commit(runs[0]["commit"])),
)


def _mean_and_range(runs: Rows) -> tuple[float, float, float]:
    scores = [run["eval_return_mean"] for run in runs]
    return float(np.mean(scores)), min(scores), max(scores)


def tables(rows: Rows) -> list[Table]:
    """Return the table of final returns over seeds, and the mean time of a run."""
    cases = [matching(rows, method=method, env=env) for env in ENVS for method in LABELS]
    return [Table(COLUMNS, [runs for runs in cases if runs])]


def plot(rows: Rows, path: Path) -> None:
    """Draw the evaluated return against steps and seconds, two pictures per environment."""
    env_ids = [env_id for env_id in ENVS if any(row["env"] == env_id for row in rows)]
    figure = Figure(figsize=(9, 0.8 + 3 * len(env_ids)), layout="constrained")
    all_axes = figure.subplots(len(env_ids), 2, sharey="row", squeeze=False)
    names = {"env_steps": "environment steps of all workers", "seconds": "seconds of training"}

    # One row of two pictures per environment.
    for env_id, axes in zip(env_ids, all_axes, strict=True):
        for axis, (x, name) in zip(axes, names.items(), strict=True):
            for number, method in enumerate(LABELS):
                runs = [row["evaluations"] for row in matching(rows, method=method, env=env_id)]
                if runs:
                    plot_mean_and_range(axis, runs, x, "return", f"C{number}", linewidth=2)
            axis.set_xlabel(name)
            axis.set_xlim(left=0)
            axis.grid(alpha=0.3)
        axes[0].xaxis.set_major_formatter(EngFormatter(sep=""))
        axes[0].set_ylabel(f"{short_id(env_id)}\nevaluated return")

    # One legend for all axes, with every method.
    seeds = len({row["seed"] for row in rows})
    lines = [
        all_axes[0][0].plot([], [], color=f"C{number}", linewidth=2)[0]
        for number in range(len(LABELS))
    ]
    meaning = f"mean over {seeds} seeds; shaded: from the lowest to the highest"
    figure.legend(
        lines, list(LABELS.values()), loc="outside upper center", ncols=len(LABELS), title=meaning
    )
    save(figure, path)


if __name__ == "__main__":
    main()
