"""Does the pooled reset, one start state per rollout, learn like the exact one, one at each step?

    python benchmarks/resets.py [--only gymnax:CartPole-v1] [--seeds 30] [--short]
    python benchmarks/resets.py --table                  print the result that exists

The script trains A2C with the preset of each environment, with both resets from the same seeds. A
point of the learning curve is the mean return of the training episodes that ended within a
hundredth of the run. The final parameters play complete episodes on new environments. The intervals
hold 95 % of the bootstrap samples over seeds; for `exact - pooled` both samples are drawn
independently. With three seeds they are too narrow.
"""

import argparse
import itertools
from pathlib import Path
from typing import Any, NamedTuple

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
    publish,
    result_path,
)
from benchmarks.frame.summaries import short_id
from benchmarks.frame.tables import Table, field
from jax_a3c.evaluation.play import evaluator
from jax_a3c.experiment.build import build
from jax_a3c.settings.run import resolve

RESETS = ("pooled", "exact")
RESAMPLES = 10_000


class Case(NamedTuple):
    """An environment.

    Attributes:
      threshold: return that counts as learned.
      seeds: number of runs with each reset.
      overrides: settings that differ from the preset's.
    """

    threshold: float
    seeds: int
    overrides: dict[str, Any]


CASES = {
    "gymnax:CartPole-v1": Case(475.0, 30, {}),
    "gymnax:Breakout-MinAtar": Case(10.0, 3, {"total_timesteps": 2_000_000}),
}


def main() -> None:
    """Train, write the result, draw it and print a table."""
    parser = parser_of(__doc__, short="two seeds of short runs of CartPole")
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--seeds", type=int, help="runs of each case, at least 2")
    args = parser.parse_args()
    out = result_path("resets", args.out, args.short or args.seeds or set(args.only) != set(CASES))
    if args.table:
        return print_result(out, tables)

    rows, cases = train_all(args)
    publish(out, rows, tables, cases=cases)
    plot(rows, out.with_suffix(".png"))


def train_all(args: argparse.Namespace) -> tuple[Rows, dict[str, Any]]:
    """Return a row per run and the settings of each environment; the resets alternate by seed."""
    rows = []
    cases = {}
    for env_id in args.only[:1] if args.short else args.only:
        case = CASES[env_id]
        overrides = {"total_timesteps": 20_000} if args.short else case.overrides
        cases[env_id] = plain_settings(resolve("a2c", env_id, **overrides))

        # Build both resets before the first run.
        settings = {name: resolve("a2c", env_id, auto_reset=name, **overrides) for name in RESETS}
        built = {name: build("a2c", env_id, settings[name]) for name in RESETS}
        plays = {
            name: evaluator(
                built[name].env,
                built[name].network,
                num_episodes=x.eval_episodes,
                policy=x.eval_policy,
            )
            for name, x in settings.items()
        }

        seeds = range(2 if args.short else args.seeds or case.seeds)
        for seed, name in tqdm([*itertools.product(seeds, RESETS)], desc=env_id):
            ours = settings[name]
            params, curve = train(built[name].runner, seed, ours.total_timesteps)
            final = plays[name](params, jax.random.key(10_000 + seed)).returns
            rows.append(
                {
                    "env": env_id,
                    "auto_reset": name,
                    "seed": seed,
                    "threshold": case.threshold,
                    "steps_to_threshold": steps_to(case.threshold, curve),
                    **curve,
                    "eval_policy": ours.eval_policy,
                    "eval_return_mean": round(float(final.mean()), 3),
                    "total_timesteps": ours.total_timesteps,
                }
            )
    return rows, cases


def train(runner: Any, seed: int, total_timesteps: int) -> tuple[Any, dict[str, list[float]]]:
    """Train; return the final parameters and the learning curve."""
    curve = Curve(total_timesteps)
    params = runner.run(seed, until=total_timesteps, callback=curve, interval=INTERVAL).params
    points = curve.rows()
    return params, {
        "env_steps": [point["env_steps"] for point in points],
        "episode_return": [round(point["episode_return"], 2) for point in points],
    }


def steps_to(threshold: float, curve: dict[str, list[float]]) -> float | None:
    """Return the steps when the curve first reaches the threshold; None if it never does."""
    points = zip(curve["env_steps"], curve["episode_return"], strict=True)
    return next((steps for steps, mean in points if mean >= threshold), None)


def figures(row: dict[str, Any]) -> dict[str, float]:
    """Return the figures of a run; one below the threshold counts with all of its steps."""
    reached = row["steps_to_threshold"] or row["total_timesteps"]
    return {
        f"median of steps to a return of {row['threshold']:g}": reached,
        "mean return of the curve": float(np.mean(row["episode_return"])),
        f"mean final return, {row['eval_policy']}": row["eval_return_mean"],
    }


COLUMNS = (
    field("environment", "env"),
    field("seeds", "seeds"),
    field("figure", "what"),
    *(field(name, name) for name in RESETS),
    field("exact - pooled", "difference"),
)


def tables(rows: Rows) -> list[Table]:
    """Return the table of what `figures` names, for both resets, with 95 % intervals."""
    lines = []
    for env_id in dict.fromkeys(row["env"] for row in rows):
        runs = {
            name: [figures(row) for row in matching(rows, env=env_id, auto_reset=name)]
            for name in RESETS
        }
        for what in runs[RESETS[0]][0]:
            line = {"env": short_id(env_id), "seeds": len(runs[RESETS[0]]), "what": what}
            samples = {name: np.array([run[what] for run in runs[name]]) for name in RESETS}
            lines.append({**line, **_compared(samples, median=what.startswith("median"))})
    return [Table(COLUMNS, lines)]


def _compared(samples: dict[str, np.ndarray], *, median: bool) -> dict[str, str]:
    """Return the cells of both resets and of their difference."""
    # A fixed seed: the same result gives the same table.
    rng = np.random.default_rng(0)
    statistic = np.median if median else np.mean
    middle = {name: statistic(x) for name, x in samples.items()}
    drawn = {
        name: statistic(rng.choice(x, (RESAMPLES, len(x))), axis=1) for name, x in samples.items()
    }
    # Both samples are drawn independently.
    middle["difference"] = middle["exact"] - middle["pooled"]
    drawn["difference"] = drawn["exact"] - drawn["pooled"]

    digits = 0 if middle["pooled"] > 1000 else 1
    return {name: _with_interval(middle[name], drawn[name], digits) for name in middle}


def _with_interval(at: float, drawn: np.ndarray, digits: int) -> str:
    """Return a figure with the 95 % interval of its bootstrap samples."""
    low, high = np.quantile(drawn, (0.025, 0.975))
    return f"{at:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def plot(rows: Rows, path: Path) -> None:
    """Draw the learning curves: means over seeds, and from the lowest to the highest."""
    env_ids = list(dict.fromkeys(row["env"] for row in rows))
    figure = Figure(figsize=(5 * len(env_ids), 3.4), layout="constrained")
    axes = figure.subplots(1, len(env_ids), squeeze=False)[0]
    for axis, env_id in zip(axes, env_ids, strict=True):
        for number, name in enumerate(RESETS):
            runs = matching(rows, env=env_id, auto_reset=name)
            label = f"{name}: mean and range of {len(runs)} seeds"
            plot_mean_and_range(
                axis, runs, "env_steps", "episode_return", f"C{number}", label=label
            )

        axis.set(
            title=short_id(env_id),
            xlabel="environment steps",
            ylabel="return while training",
        )
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.legend(fontsize="small")
        axis.grid(alpha=0.3)
    save(figure, path)


if __name__ == "__main__":
    main()
