"""How much does the learning rate matter, for each method and optimizer?

    python benchmarks/robustness.py [--methods a3c] [--optimizers rmsprop] [--short] [--plot-only]

The paper's Figure 2 and its comparison of optimizers in small, on CartPole: one run for each of 20 learning
rates, drawn log-uniformly and the same for all methods; the final parameters play 100 episodes greedily. The
synchronous runner trains with all rates under one `vmap`, as one program, the asynchronous one with one after
the other. Rows of a method and an optimizer that exist for the same settings are kept, others are replaced;
the file is written after each of them, so that the script can be ended and started again.
"""

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from measure import RESULTS, interleaved_seconds, plain_settings, spread, write_result
from tqdm import tqdm

from jax_a3c.asynchronous import use_worker_threads
from jax_a3c.methods import METHODS
from jax_a3c.training.evaluation import evaluator
from jax_a3c.training.experiment import build
from jax_a3c.training.loop import Synchronous
from jax_a3c.training.run_directory import environment
from jax_a3c.training.settings import Settings, resolve

ENV, BEST = "gymnax:CartPole-v1", 500.0
ROWS = ("synchronous", "asynchronous")
COLUMNS = {
    "one_step_q": "one-step Q",
    "one_step_sarsa": "one-step Sarsa",
    "n_step_q": "n-step Q",
    "actor_critic": "actor-critic",
}
RANGES = {
    ("synchronous", "shared-rmsprop"): (1e-4, 1e-1),  # a single learner: the same as rmsprop
    ("synchronous", "momentum-sgd"): (1e-2, 10.0),  # most of these presets average over steps
    ("asynchronous", "shared-rmsprop"): (1e-4, 1e-1),
    ("asynchronous", "rmsprop"): (1e-4, 1e-1),
    ("asynchronous", "momentum-sgd"): (1e-4, 1e-1),
}
OPTIMIZERS = {
    "shared-rmsprop": ("C0", "o", "Shared RMSProp (synchronous: RMSProp)"),
    "rmsprop": ("C1", "s", "RMSProp for each worker"),
    "momentum-sgd": ("C2", "^", "momentum SGD"),
}


def main() -> None:
    """Train, write the result, draw it and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    parser.add_argument(
        "--rates", type=int, default=20, help="learning rates for each method and optimizer"
    )
    parser.add_argument(
        "--range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="instead of RANGES"
    )
    parser.add_argument(
        "--repeats", type=int, default=5, help="of the timing on the synchronous runner"
    )
    parser.add_argument("--total-timesteps", type=int, default=300_000, help="of each run")
    parser.add_argument(
        "--workers", type=int, help="of the asynchronous methods, instead of the preset's"
    )
    parser.add_argument(
        "--short", action="store_true", help="two methods, 3 short runs, into runs/bench"
    )
    parser.add_argument("--plot-only", action="store_true", help="draw the result that exists")
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "robustness.json", help="the picture lies beside"
    )
    args = parser.parse_args()
    if args.short:
        args.methods, args.optimizers = ["one-step-q", "a3c"], ["shared-rmsprop"]
        args.rates, args.total_timesteps, args.workers, args.repeats = 3, 20_000, 2, 1
        args.out = Path("runs", "bench", "robustness.json")  # the committed result stays
    result: dict[str, Any] = {"rows": [], "settings": {"cases": {}}}
    if args.plot_only or args.out.exists():
        result = json.loads(args.out.read_text())
    rows = result["rows"]
    if not args.plot_only:
        with (
            tempfile.TemporaryDirectory() as cache
        ):  # an asynchronous program is the same for all rates
            jax.config.update("jax_compilation_cache_dir", cache)
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
            rows = train_all(args, rows, result["settings"]["cases"])
    for line in summary(rows):
        print(
            f"{line['method']} {line['optimizer']}: of {line['rates']} rates {line['reach_half']:.0%} "
            f"reach half of the best return, {line['reach_90_percent']:.0%} reach 90 % of it"
        )
    plot(rows, args.out.with_suffix(".png"))


def train_all(args: argparse.Namespace, rows: list[dict], cases: dict[str, dict]) -> list[dict]:
    """All rows, those of `rows` that still hold and new ones; `cases` has the settings of both."""
    use_worker_threads()
    commit = environment()["git_commit"]
    # One from each of as many equal parts of the range: so few draws would leave gaps.
    quantiles = (
        np.arange(args.rates) + np.random.default_rng(0).uniform(size=args.rates)
    ) / args.rates
    wanted = [
        (method, name)
        for method in args.methods
        for name in args.optimizers
        if (METHODS[method].runner, name) in RANGES
    ]
    with tqdm(total=len(wanted) * args.rates) as bar:
        for method, name in wanted:
            runner = METHODS[method].runner
            overrides: dict[str, Any] = {"optimizer": name, "total_timesteps": args.total_timesteps}
            if args.workers and runner == "asynchronous":
                overrides["num_workers"] = args.workers
            settings = resolve(method, ENV, **overrides)
            low, high = args.range or RANGES[runner, name]
            rates = [float(f"{low * (high / low) ** quantile:.4g}") for quantile in quantiles]
            plain = {**plain_settings(settings), "learning_rate": rates}
            if cases.get(f"{method} {name}") == plain:
                bar.update(len(rates))
                continue
            cases[f"{method} {name}"] = plain
            bar.set_description(f"{method} {name}")
            rows = [row for row in rows if (row["method"], row["optimizer"]) != (method, name)]
            env, network, _ = build(method, ENV, settings)
            play = evaluator(env, network, num_episodes=settings.eval_episodes, policy="greedy")
            if runner == "synchronous":
                runs = train_together(method, settings, rates, args.repeats)
            else:
                runs = train_one_by_one(method, settings, rates)
            for seed, (rate, (params, counts)) in enumerate(zip(rates, runs, strict=True)):
                score = float(play(params, jax.random.key(10_000 + seed)).returns.mean())
                row = {"method": method, "optimizer": name, "learning_rate": rate, "seed": seed}
                rows.append(
                    {**row, "commit": commit, "eval_return_mean": round(score, 3), **counts}
                )
                bar.update()
            write_result(args.out, rows, env=ENV, summary=summary(rows), cases=cases)
    return rows


Runs = Iterator[tuple[Any, dict[str, Any]]]
"""For each learning rate, whose place is the seed, the final parameters and counts."""


def train_one_by_one(method: str, settings: Settings, rates: list[float]) -> Runs:
    """One learning rate after the other, each on all threads."""
    for seed, rate in enumerate(rates):
        trainer = build(method, ENV, dataclasses.replace(settings, learning_rate=rate)).trainer
        result = trainer.run(seed)
        seconds = round(result.progress.seconds, 2)
        yield result.params, {"env_steps": result.progress.env_steps, "seconds": seconds}


def train_together(method: str, settings: Settings, rates: list[float], repeats: int) -> Runs:
    """All learning rates at once, as one program; timed together with a run of one of them alone."""
    updates = -(-settings.total_timesteps // (settings.num_envs * settings.num_steps))

    def run(seed: Any, rate: Any) -> Any:
        trainer = build(method, ENV, dataclasses.replace(settings, learning_rate=rate)).trainer
        assert isinstance(trainer, Synchronous)
        agent = trainer.agent
        state = agent.init(jax.random.key(seed))
        return jax.lax.fori_loop(0, updates, lambda _, state: agent.step(state)[0], state).params

    seeds, values = np.arange(len(rates)), np.array(rates, np.float32)
    together, alone = jax.jit(jax.vmap(run)), jax.jit(run)
    programs = {
        "together": lambda: together(seeds, values),
        "alone": lambda: alone(seeds[0], values[0]),
    }
    times = interleaved_seconds(programs, repeats)
    ratio = spread(
        [all_ / one for all_, one in zip(times["together"], times["alone"], strict=True)], 1
    )
    tqdm.write(
        f"{method} {settings.optimizer}: {len(rates)} runs in {ratio['median']} x the time of one "
        f"({ratio['min']} to {ratio['max']})"
    )
    counts: dict[str, Any] = {"env_steps": updates * settings.num_envs * settings.num_steps}
    counts |= {"seconds_of_all": spread(times["together"], 2), "ratio_to_one_alone": ratio}
    params = programs["together"]()
    for seed in seeds:
        yield jax.tree.map(lambda x, seed=seed: x[seed], params), counts


def of(rows: list[dict], method: str, optimizer: str) -> list[dict]:
    """The runs of one method and optimizer."""
    return [row for row in rows if (row["method"], row["optimizer"]) == (method, optimizer)]


def summary(rows: list[dict]) -> list[dict]:
    """For each method and optimizer the share of learning rates that reach half and 90 % of the best."""
    lines = []
    for method, name in dict.fromkeys((row["method"], row["optimizer"]) for row in rows):
        scores = [row["eval_return_mean"] / BEST for row in of(rows, method, name)]
        half, most = (float(np.mean(np.array(scores) >= share)) for share in (0.5, 0.9))
        line = {"method": method, "optimizer": name, "rates": len(scores)}
        lines.append({**line, "reach_half": round(half, 3), "reach_90_percent": round(most, 3)})
    return lines


def plot(rows: list[dict], path: Path) -> None:
    """Final return against learning rate: a column for each objective, a row for each runner."""
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(ROWS), len(COLUMNS), sharex=True, sharey=True)
    for key, method in METHODS.items():
        axis = axes[ROWS.index(method.runner), list(COLUMNS).index(method.objective)]
        for name, (colour, marker, _) in OPTIMIZERS.items():
            points = sorted(
                (run["learning_rate"], run["eval_return_mean"]) for run in of(rows, key, name)
            )
            x, y = np.reshape(points, (-1, 2)).T
            axis.plot(x, y, color=colour, marker=marker, markersize=4, linestyle="none", alpha=0.8)
        axis.set_xscale("log")
        axis.grid(alpha=0.3)
    for axis, runner in zip(axes[:, 0], ROWS, strict=True):
        axis.set_ylabel(f"{runner}\nreturn in the end")
    for column, title in zip(axes.T, COLUMNS.values(), strict=True):
        column[0].set_title(title, fontsize="medium")
        column[-1].set_xlabel("learning rate")
    lines, names = axes[0, 0].get_lines(), [name for *_, name in OPTIMIZERS.values()]
    figure.legend(lines, names, loc="outside upper center", ncols=len(names))
    figure.savefig(path, dpi=130, format="png")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
