"""How do the four asynchronous methods compare, against steps and against seconds?

    python benchmarks/methods.py [--only a3c gymnax:CartPole-v1] [--seeds 3] [--short] [--plot-only]

The paper's Figure 1 in small. During a run copies of the parameters are taken, and evaluated when it has
ended, so that the workers are not slowed: the returns of training itself hold the exploration, which for some
workers of the value-based methods ends at 0.5. A row that exists for the same settings and seed is kept, one
of other settings replaced; the file is written after each run, so that the script can be ended and started
again.
"""

import argparse
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from measure import RESULTS, plain_settings, rows_that_hold, write_result
from tqdm import tqdm

from jax_a3c.asynchronous import use_worker_threads
from jax_a3c.training.evaluation import Evaluation, evaluator
from jax_a3c.training.experiment import Experiment, build
from jax_a3c.training.recorder import interval_metrics
from jax_a3c.training.run_directory import environment
from jax_a3c.training.settings import Settings, resolve
from jax_a3c.types import Params, Progress

ENVS = ("gymnax:CartPole-v1", "gymnax:Breakout-MinAtar")
LABELS = {
    "async-one-step-q": "one-step Q",
    "async-one-step-sarsa": "one-step Sarsa",
    "async-n-step-q": "n-step Q",
    "a3c": "A3C",
}
# The value-based presets have 8 environments to a worker; so that seconds compare, A3C has them here too.
SAME_LAYOUT = {"num_envs": 8, "stop_at_episode_end": False, "num_steps": 10}
OVERRIDES = {("a3c", "gymnax:CartPole-v1"): SAME_LAYOUT}
POINTS, COPIES = 100, 20  # of a run: of the returns of its training, and parameters to evaluate
EPISODES = 20  # of the evaluation of a copy; the settings say how many for the final parameters

Play = Callable[[Params, jax.Array], Evaluation]


def main() -> None:
    """Train, evaluate, write the result, draw it and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--only", nargs="+", default=[], help="a method, an environment id, or both"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--total-timesteps", type=int, help="of each run, instead of the preset's")
    parser.add_argument("--workers", type=int, help="instead of the preset's")
    parser.add_argument(
        "--short", action="store_true", help="CartPole, one short run each, into runs/bench"
    )
    parser.add_argument("--plot-only", action="store_true", help="draw the result that exists")
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "methods.json", help="the picture lies beside"
    )
    args = parser.parse_args()
    if args.short:
        args.only, args.seeds, args.total_timesteps, args.workers = [ENVS[0]], 1, 20_000, 2
        args.out = Path("runs", "bench", "methods.json")  # the committed result stays
    found = args.plot_only or args.out.exists()
    rows = json.loads(args.out.read_text())["rows"] if found else []
    if not args.plot_only:
        rows = train_all(args, rows)
    print_table(rows)
    plot(rows, args.out.with_suffix(".png"))


def train_all(args: argparse.Namespace, rows: list[dict]) -> list[dict]:
    """All rows, those of `rows` that still hold and new ones."""
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
            settings = resolve(method, env_id, **OVERRIDES.get((method, env_id), {}), **overrides)
            case = {"method": method, "env": env_id}
            rows, done = rows_that_hold(rows, case, settings)
            bar.update(len(done & set(range(args.seeds))))
            experiment = build(method, env_id, settings)
            play, play_final = (
                evaluator(
                    experiment.env, experiment.network, num_episodes=n, policy=settings.eval_policy
                )
                for n in (EPISODES, settings.eval_episodes)
            )
            for seed in sorted(set(range(args.seeds)) - done):
                bar.set_description(f"{method} {env_id}")
                measured = train(experiment, settings, seed, play, play_final)
                rows.append(
                    {
                        **case,
                        "seed": seed,
                        "commit": commit,
                        **measured,
                        "settings": plain_settings(settings),
                    }
                )
                write_result(args.out, rows, episodes_per_point=EPISODES)
                bar.update()
    return rows


def train(
    experiment: Experiment, settings: Settings, seed: int, play: Play, play_final: Play
) -> dict[str, Any]:
    """One run: its counts, its two learning curves and the return that it ends with."""
    trainer, total = experiment.trainer, settings.total_timesteps
    state: Any = trainer.init(seed)
    moments = [Progress(0, 0, 0.0, {}, [])]
    copies = [(moments[0], trainer.params(state))]

    def keep(progress: Progress) -> None:
        if progress.env_steps - moments[-1].env_steps >= total / POINTS:
            moments.append(progress)
        if progress.env_steps >= len(copies) * total / COPIES:
            copies.append((progress, trainer.params(state)))

    result = trainer.run(state=state, callback=keep, interval=0.05)
    key = jax.random.key(10_000 + seed)
    intervals = [interval_metrics(*pair) for pair in itertools.pairwise(moments)]
    curve = [
        (row["env_steps"], row["seconds"], row["episode_return"])
        for row in intervals
        if row["episodes"]
    ]
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
    """A curve, column by column."""
    return {
        "env_steps": [steps for steps, _, _ in points],
        "seconds": [round(seconds, 3) for _, seconds, _ in points],
        "return": [round(float(mean), 3) for _, _, mean in points],
    }


def of(rows: list[dict], method: str, env_id: str) -> list[dict]:
    """The runs of one method on one environment."""
    return [row for row in rows if (row["method"], row["env"]) == (method, env_id)]


def print_table(rows: list[dict]) -> None:
    """Final return, mean, lowest and highest over seeds, and the time of a run."""
    for env_id in ENVS:
        for method in LABELS:
            if runs := of(rows, method, env_id):
                scores, seconds = (
                    [run[x] for run in runs] for x in ("eval_return_mean", "seconds")
                )
                print(
                    f"{env_id} {method}: {np.mean(scores):.1f} ({min(scores):.1f} to {max(scores):.1f}; "
                    f"{runs[0]['eval_policy']}) over {len(runs)} seeds, {runs[0]['env_steps']:,} steps, "
                    f"{np.mean(seconds):.1f} s"
                )


def plot(rows: list[dict], path: Path) -> None:
    """Evaluated return against steps and seconds, a row of two pictures for each environment."""
    env_ids = [env_id for env_id in ENVS if any(row["env"] == env_id for row in rows)]
    figure = Figure(figsize=(9, 0.8 + 3 * len(env_ids)), layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(len(env_ids), 2, sharey="row", squeeze=False)
    names = {"env_steps": "environment steps of all workers", "seconds": "seconds of training"}
    for env_id, axes in zip(env_ids, all_axes, strict=True):
        for axis, (x, name) in zip(axes, names.items(), strict=True):
            for number, method in enumerate(LABELS):
                if runs := [run["evaluations"] for run in of(rows, method, env_id)]:
                    grid = np.linspace(0, min(run[x][-1] for run in runs), 200)
                    curves = np.array([np.interp(grid, run[x], run["return"]) for run in runs])
                    axis.plot(grid, curves.mean(axis=0), color=f"C{number}", linewidth=2)
                    low, high = curves.min(axis=0), curves.max(axis=0)
                    axis.fill_between(grid, low, high, color=f"C{number}", alpha=0.15, linewidth=0)
            axis.set_xlabel(name)
            axis.set_xlim(left=0)
            axis.grid(alpha=0.3)
        axes[0].xaxis.set_major_formatter(EngFormatter(sep=""))
        axes[0].set_ylabel(f"{env_id.partition(':')[2]}\nevaluated return")
    seeds = len({row["seed"] for row in rows})
    lines = [
        all_axes[0][0].plot([], [], color=f"C{number}", linewidth=2)[0]
        for number in range(len(LABELS))
    ]
    meaning = f"mean over {seeds} seeds; shaded: from the lowest to the highest"
    figure.legend(
        lines, list(LABELS.values()), loc="outside upper center", ncols=len(LABELS), title=meaning
    )
    figure.savefig(path, dpi=130, format="png")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
