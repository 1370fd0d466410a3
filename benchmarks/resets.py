"""Does a start state drawn once per rollout, the pooled reset, learn as one drawn at each step, the exact?

    python benchmarks/resets.py [--only gymnax:CartPole-v1] [--seeds 30] [--short]
    python benchmarks/resets.py --table                  # the committed result, as Markdown

Trains A2C with the preset of each environment, both ways from the same seeds. A point of the learning curve
is the mean return, while training, of the episodes that ended within a hundredth of the run; the final
parameters play complete episodes on environments of their own. The intervals hold 95 % of what the bootstrap
over seeds draws, for `exact - pooled` from both samples apart; of three seeds they are too narrow.
"""

import argparse
import itertools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from measure import parser_of, plain_settings, print_committed, result_path, table, write_result
from tqdm import tqdm

from jax_a3c.training.evaluation import evaluator
from jax_a3c.training.experiment import build
from jax_a3c.training.recorder import interval_metrics
from jax_a3c.training.settings import resolve
from jax_a3c.types import Progress

RESETS = ("pooled", "exact")
POINTS = 100
"""Of a learning curve."""
RESAMPLES = 10_000


class Case(NamedTuple):
    """An environment: the return that counts as learned, seeds, and steps if they are not the preset's."""

    threshold: float
    seeds: int
    overrides: dict[str, Any]


CASES = {
    "gymnax:CartPole-v1": Case(475.0, 30, {}),
    "gymnax:Breakout-MinAtar": Case(10.0, 3, {"total_timesteps": 2_000_000}),
}


def main() -> None:
    """Train, write the result, draw it and print a table."""
    parser = parser_of(__doc__, short="two seeds of short runs of CartPole, into runs/bench")
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--seeds", type=int, help="of each environment, at least 2")
    args = parser.parse_args()
    out = result_path("resets", args.out, args.short or args.seeds or set(args.only) != set(CASES))
    if args.table:
        return print_committed(out, markdown)
    rows, cases = train_all(args)
    write_result(out, rows, cases=cases)
    plot(rows, out.with_suffix(".png"))
    print(f"\n{markdown(rows)}\n\nwrote {out}")


def train_all(args: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row for each run, and the settings of each environment; the resets take turns, seed by seed."""
    rows, cases = [], {}
    for env_id in args.only[:1] if args.short else args.only:
        case = CASES[env_id]
        overrides = {"total_timesteps": 20_000} if args.short else case.overrides
        cases[env_id] = plain_settings(resolve("a2c", env_id, **overrides))
        settings = {name: resolve("a2c", env_id, auto_reset=name, **overrides) for name in RESETS}
        built = {name: build("a2c", env_id, settings[name]) for name in RESETS}
        seeds = range(2 if args.short else args.seeds or case.seeds)
        plays = {
            name: evaluator(
                built[name].env,
                built[name].network,
                num_episodes=x.eval_episodes,
                policy=x.eval_policy,
            )
            for name, x in settings.items()
        }
        for seed, name in tqdm([*itertools.product(seeds, RESETS)], desc=env_id):
            ours = settings[name]
            params, curve = train(built[name].trainer, seed, ours.total_timesteps)
            final = plays[name](params, jax.random.key(10_000 + seed)).returns
            row = {"env": env_id, "auto_reset": name, "seed": seed, "threshold": case.threshold}
            row |= {"steps_to_threshold": steps_to(case.threshold, curve), **curve}
            row |= {
                "eval_policy": ours.eval_policy,
                "eval_return_mean": round(float(final.mean()), 3),
            }
            rows.append({**row, "total_timesteps": ours.total_timesteps})
    return rows, cases


def train(trainer: Any, seed: int, total_timesteps: int) -> tuple[Any, dict[str, list[float]]]:
    """The final parameters, and the learning curve."""
    moments = [Progress(0, 0, 0.0, {}, [])]

    def keep(progress: Progress) -> None:
        if progress.env_steps - moments[-1].env_steps >= total_timesteps / POINTS:
            moments.append(progress)

    params = trainer.run(seed, callback=keep, interval=0.05).params
    points = [interval_metrics(*pair) for pair in itertools.pairwise(moments)]
    points = [point for point in points if point["episodes"]]
    returns = [round(point["episode_return"], 2) for point in points]
    return params, {
        "env_steps": [point["env_steps"] for point in points],
        "episode_return": returns,
    }


def steps_to(threshold: float, curve: dict[str, list[float]]) -> float | None:
    """Steps at the first point of the curve that is no lower; None if there is none."""
    points = zip(curve["env_steps"], curve["episode_return"], strict=True)
    return next((steps for steps, mean in points if mean >= threshold), None)


def figures(row: dict[str, Any]) -> dict[str, float]:
    """What a run is compared by; one that never reached the threshold counts with all of its steps."""
    reached = row["steps_to_threshold"] or row["total_timesteps"]
    return {
        f"median of steps to a return of {row['threshold']:g}": reached,
        "mean return of the curve": float(np.mean(row["episode_return"])),
        f"mean final return, {row['eval_policy']}": row["eval_return_mean"],
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """Of both resets and their difference what `figures` names, over seeds, with 95 % intervals."""
    lines = []
    for env_id in dict.fromkeys(row["env"] for row in rows):
        runs = {
            n: [figures(r) for r in rows if (r["env"], r["auto_reset"]) == (env_id, n)]
            for n in RESETS
        }
        for what in runs[RESETS[0]][0]:
            rng = np.random.default_rng(0)
            samples = [np.array([run[what] for run in runs[name]]) for name in RESETS]
            statistic = np.median if what.startswith("median") else np.mean
            drawn = [statistic(rng.choice(x, (RESAMPLES, len(x))), axis=1) for x in samples]
            middle = [statistic(x) for x in samples]
            cells = [
                cell(at, values, 0 if middle[0] > 1000 else 1)
                for at, values in [
                    *zip(middle, drawn, strict=True),
                    (middle[1] - middle[0], drawn[1] - drawn[0]),
                ]
            ]
            lines.append((env_id.partition(":")[2], str(len(samples[0])), what, *cells))
    return table(("environment", "seeds", "what", *RESETS, "exact - pooled"), lines)


def cell(at: float, drawn: np.ndarray, digits: int) -> str:
    """A figure with the interval of what the bootstrap drew."""
    low, high = np.quantile(drawn, (0.025, 0.975))
    return f"{at:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """The learning curves: means over seeds, and from the lowest to the highest."""
    env_ids = list(dict.fromkeys(row["env"] for row in rows))
    figure = Figure(figsize=(5 * len(env_ids), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, env_id in zip(
        figure.subplots(1, len(env_ids), squeeze=False)[0], env_ids, strict=True
    ):
        for number, name in enumerate(RESETS):
            runs = [row for row in rows if (row["env"], row["auto_reset"]) == (env_id, name)]
            grid = np.linspace(0, min(run["env_steps"][-1] for run in runs), 200)
            curves = np.array(
                [np.interp(grid, run["env_steps"], run["episode_return"]) for run in runs]
            )
            label = f"{name}: mean and range of {len(runs)} seeds"
            axis.plot(grid, curves.mean(axis=0), color=f"C{number}", label=label)
            low, high = curves.min(axis=0), curves.max(axis=0)
            axis.fill_between(grid, low, high, color=f"C{number}", alpha=0.15, linewidth=0)
        axis.set(
            title=env_id.partition(":")[2],
            xlabel="environment steps",
            ylabel="return while training",
        )
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.legend(fontsize="small")
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=130, format="png")


if __name__ == "__main__":
    main()
