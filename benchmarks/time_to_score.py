"""How long do the presets train until they reach a score?

    python benchmarks/time_to_score.py [--only a2c gymnax:CartPole-v1] [--seeds 20]
    python benchmarks/time_to_score.py --only a2c gymnax:Breakout-MinAtar --with learning_rate=1e-3
    python benchmarks/time_to_score.py --table     print the result that exists

The script trains until the score is reached, or until the run ends. The clock counts training only:
it stands still while programs compile and while the score is measured. JAX environments are
evaluated over 100 complete episodes after each part of the run, with the policy of the preset. On
Atari the score is the mean of the latest 100 games of training, as an evaluation would take longer
than the training.

`--with` tries other settings, on seeds that the presets' rows do not have. The result keeps these
rows too, so that a reader sees what was tried. Rows that exist for the same settings and seed are
kept, and the file is written after each run.
"""

import ast
import dataclasses
import json
from collections import deque
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from benchmarks.frame.results import (
    Rows,
    parser_of,
    plain_settings,
    print_result,
    print_tables,
    result_path,
    rows_that_hold,
    write_result,
)
from benchmarks.frame.summaries import short_commit, spread, with_range
from benchmarks.frame.tables import Column, Table
from benchmarks.learning import cases_in, flags_of
from jax_a3c.errors import InputError
from jax_a3c.evaluation.play import evaluator
from jax_a3c.evaluation.score import episode_limit
from jax_a3c.experiment.build import Experiment, build, evaluation_env
from jax_a3c.experiment.run_directory import environment
from jax_a3c.runners.asynchronous import use_worker_threads
from jax_a3c.runners.base import Progress
from jax_a3c.settings.run import Settings, resolve

GAMES = 100
"""Episodes of an evaluation, and games of training whose mean counts."""
SEARCH_SEEDS = 1_000
"""First seed of the settings that are tried; the presets have the seeds from 0."""


class Case(NamedTuple):
    """A preset and the score that it should reach.

    Attributes:
      score: mean return.
      within: the goal, in seconds of training.
      every: environment steps between two evaluations; None for the games of training.
      seeds: number of runs.
    """

    score: float
    within: float
    every: int | None
    seeds: int


CASES = {
    ("a2c", "gymnax:CartPole-v1"): Case(475, 1, 20_000, 20),
    ("a3c", "gymnax:CartPole-v1"): Case(475, 4, 20_000, 20),
    ("a2c", "gymnax:Breakout-MinAtar"): Case(50, 300, 1_000_000, 3),
    ("a3c", "envpool:Pong-v5"): Case(18, 3_600, None, 1),
}


def main() -> None:
    """Train what is missing, write the result and print its tables."""
    parser = parser_of(__doc__)
    parser.add_argument(
        "--only", nargs="+", default=[], help="a method, an environment id, or both"
    )
    parser.add_argument("--seeds", type=int, help="runs of each case; by default its own number")
    parser.add_argument(
        "--with",
        dest="variant",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="settings to try instead of those of the preset",
    )
    args = parser.parse_args()
    out = result_path("time_to_score", args.out)
    if args.table:
        return print_result(out, tables)

    use_worker_threads()
    rows = json.loads(out.read_text())["rows"] if out.exists() else []
    variant = dict(map(setting_of, args.variant))
    for (method, env_id), case in CASES.items():
        if set(args.only) <= {method, env_id}:
            first = SEARCH_SEEDS if variant else 0
            seeds = range(first, first + (args.seeds or case.seeds))
            settings = resolve(method, env_id, **variant, eval_episodes=GAMES)
            rows, done = rows_that_hold(
                rows, {"method": method, "env": env_id, "variant": variant}, settings
            )
            for seed in tqdm(sorted(set(seeds) - done), desc=f"{method} {env_id} {variant or ''}"):
                rows.append(row_of(method, env_id, variant, settings, seed))
                write_result(out, rows)
    print_tables(rows, tables)


def setting_of(word: str) -> tuple[str, Any]:
    """Return name and value of `NAME=VALUE`."""
    name, equals, value = word.partition("=")
    if not equals:
        raise InputError(f"--with needs NAME=VALUE, got {word!r}")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value


def row_of(
    method: str, env_id: str, variant: dict[str, Any], settings: Settings, seed: int
) -> dict[str, Any]:
    """Train once, and return the row of the result."""
    case = CASES[method, env_id]
    experiment = build(method, env_id, settings)
    train = by_evaluations if case.every else by_training_games
    seconds, env_steps, curve = train(experiment, settings, case, seed)
    best = max((score for _, score in curve), default=float("nan"))
    return {
        "method": method,
        "env": env_id,
        "variant": variant,
        "seed": seed,
        "commit": environment()["git_commit"],
        "score": case.score,
        "reached": bool(curve) and curve[-1][1] >= case.score,
        "seconds": round(seconds, 3),
        "env_steps": env_steps,
        "best": round(best, 2),
        "curve": [(round(at, 2), round(score, 2)) for at, score in curve],
        "settings": plain_settings(dataclasses.replace(settings, seed=0)),
    }


def by_evaluations(
    experiment: Experiment, settings: Settings, case: Case, seed: int
) -> tuple[float, int, list[tuple[float, float]]]:
    """Train in parts with an evaluation after each.

    Returns:
      Seconds and environment steps of training, and the scores by seconds.
    """
    assert case.every is not None
    runner = experiment.runner
    play = evaluator(
        evaluation_env(experiment, settings),
        experiment.network,
        num_episodes=GAMES,
        policy=settings.eval_policy,
        max_episode_steps=episode_limit(settings),
    )

    state: Any = seed
    seconds = 0.0
    env_steps = 0
    curve: list[tuple[float, float]] = []
    while env_steps < settings.total_timesteps:
        result = runner.run(state, until=min(env_steps + case.every, settings.total_timesteps))
        state = result.state
        env_steps = result.progress.env_steps
        seconds += result.progress.seconds

        key = jax.random.fold_in(jax.random.key(10_000 + seed), env_steps)
        curve.append((seconds, float(np.mean(play(result.params, key).returns))))
        if curve[-1][1] >= case.score:
            break
    return seconds, env_steps, curve


def by_training_games(
    experiment: Experiment, settings: Settings, case: Case, seed: int
) -> tuple[float, int, list[tuple[float, float]]]:
    """Train until the latest games of training have the score; see `by_evaluations`."""
    latest: deque[tuple[float, float]] = deque([(0.0, 0.0)])  # games so far, sum of their returns
    curve: list[tuple[float, float]] = []

    def report(progress: Progress) -> bool:
        games = progress.metric_sums.get("episodes", 0.0)
        total = progress.metric_sums.get("episode_return", 0.0)
        if games > latest[-1][0]:
            latest.append((games, total))
        while len(latest) > 1 and games - latest[1][0] >= GAMES:
            latest.popleft()

        first_games, first_total = latest[0]
        if games - first_games < GAMES:
            return False
        score = (total - first_total) / (games - first_games)
        # A point for each half minute is enough for the curve.
        reached = score >= case.score
        if reached or not curve or progress.seconds - curve[-1][0] >= 30:
            curve.append((progress.seconds, score))
        return reached

    result = experiment.runner.run(seed, until=settings.total_timesteps, callback=report)
    experiment.runner.close(result.state)
    return result.progress.seconds, result.progress.env_steps, curve


def times_of(runs: Rows) -> str:
    """Return median and range of the seconds of the runs that reached the score."""
    seconds = [run["seconds"] for run in runs if run["reached"]]
    if not seconds:
        return ""
    times = spread(seconds)
    return with_range(times["median"], times["min"], times["max"])


def in_time(runs: Rows) -> str:
    """Return how many runs reached the score within the time that was asked."""
    within = CASES[runs[0]["method"], runs[0]["env"]].within
    count = sum(run["reached"] and run["seconds"] <= within for run in runs)
    return f"{count} of {len(runs)}"


def best_of(runs: Rows) -> str:
    """Return the best score, and its range over the seeds."""
    scores = [run["best"] for run in runs]
    if len(scores) == 1:
        return f"{scores[0]:.1f}"
    best = spread(scores)
    return with_range(best["median"], best["min"], best["max"], ".1f")


def tables(rows: Rows) -> list[Table]:
    """Return two tables: the presets, and what was tried."""

    def case_of(runs: Rows) -> Case:
        return CASES[runs[0]["method"], runs[0]["env"]]

    first = [
        Column("environment", lambda runs: f"`{runs[0]['env']}`"),
        Column("method", lambda runs: f"`{runs[0]['method']}`"),
    ]
    goal = [
        Column("score", lambda runs: f"{case_of(runs).score:g}"),
        Column("asked", lambda runs: f"{case_of(runs).within:g} s"),
    ]
    rest = [
        Column("in time", in_time),
        Column("reached", lambda runs: f"{sum(run['reached'] for run in runs)} of {len(runs)}"),
        Column("seconds (range)", times_of),
        Column("best score", best_of),
        Column("steps", lambda runs: f"{max(run['env_steps'] for run in runs) / 1e6:.1f} M"),
        Column("commit", lambda runs: short_commit(runs[0]["commit"])),
    ]
    groups = cases_in(rows)
    presets = [runs for runs in groups if not runs[0]["variant"]]
    tried = [runs for runs in groups if runs[0]["variant"]]
    variant = Column("settings", lambda runs: flags_of(runs[0]["variant"]))
    return [
        Table([*first, *goal, *rest], presets),
        Table([*first, variant, *rest], tried),
    ]


if __name__ == "__main__":
    main()
