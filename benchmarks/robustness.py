"""How much does the learning rate matter, for each method and optimizer?

    python benchmarks/robustness.py [--methods a3c] [--optimizers rmsprop] [--short]
    python benchmarks/robustness.py --plot-only    draw the result that exists
    python benchmarks/robustness.py --table        print it

This is the paper's Figure 2 and its comparison of optimizers in small, on CartPole: one run for
each of 20 learning rates, drawn log-uniformly and the same for all methods. The final parameters
play 100 episodes greedily. The synchronous runner trains with all rates under one `vmap`, as one
program; the asynchronous runner trains with one after the other. Rows of a method and an optimizer
that exist for the same settings are kept, others are replaced. The file is written after each of
them, so that the script can be stopped and started again.
"""

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from benchmarks.frame.pictures import save
from benchmarks.frame.results import (
    Rows,
    matching,
    own_settings,
    parser_of,
    plain_settings,
    print_result,
    print_tables,
    result_path,
    write_result,
)
from benchmarks.frame.summaries import ranged, spread
from benchmarks.frame.tables import Column, Table
from benchmarks.frame.timing import interleaved_seconds
from jax_a3c.evaluation.play import evaluator
from jax_a3c.experiment.build import build
from jax_a3c.experiment.run_directory import environment
from jax_a3c.runners.asynchronous import use_worker_threads
from jax_a3c.runners.loop import SynchronousRunner
from jax_a3c.settings.methods import METHODS
from jax_a3c.settings.run import Settings, resolve

ENV = "gymnax:CartPole-v1"
BEST = 500.0
ROWS = ("synchronous", "asynchronous")
COLUMNS = {
    "one_step_q": "one-step Q",
    "one_step_sarsa": "one-step Sarsa",
    "n_step_q": "n-step Q",
    "actor_critic": "actor-critic",
}
RANGES = {
    ("synchronous", "shared-rmsprop"): (1e-4, 1e-1),  # with a single learner the same as rmsprop
    ("synchronous", "momentum-sgd"): (1e-2, 10.0),  # most of these presets average over steps
    ("asynchronous", "shared-rmsprop"): (1e-4, 1e-1),
    ("asynchronous", "rmsprop"): (1e-4, 1e-1),
    ("asynchronous", "momentum-sgd"): (1e-4, 1e-1),
}


class Optimizer(NamedTuple):
    """How tables and the picture show an optimizer."""

    head: str
    colour: str
    marker: str
    label: str


OPTIMIZERS = {
    "shared-rmsprop": Optimizer(
        "Shared RMSProp", "C0", "o", "Shared RMSProp (synchronous: RMSProp)"
    ),
    "rmsprop": Optimizer("RMSProp per worker", "C1", "s", "RMSProp for each worker"),
    "momentum-sgd": Optimizer("momentum SGD", "C2", "^", "momentum SGD"),
}


def main() -> None:
    """Train, write the result, draw it and print a table."""
    parser = parser_of(__doc__, short="two methods, three short runs each")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    parser.add_argument(
        "--rates", type=int, default=20, help="learning rates for each method and optimizer"
    )
    parser.add_argument(
        "--range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="learning rates from, to"
    )
    parser.add_argument(
        "--repeats", type=int, default=5, help="timed repeats on the synchronous runner"
    )
    parser.add_argument(
        "--total-timesteps", type=int, default=300_000, help="environment steps of a run"
    )
    parser.add_argument(
        "--workers", type=int, help="number of workers on threads; default: the preset's"
    )
    parser.add_argument("--plot-only", action="store_true", help="draw the result that exists")
    args = parser.parse_args()
    if args.short:
        args.methods = ["one-step-q", "a3c"]
        args.optimizers = ["shared-rmsprop"]
        args.rates = 3
        args.total_timesteps = 20_000
        args.workers = 2
        args.repeats = 1

    out = result_path("robustness", args.out, args.short)
    if args.table:
        return print_result(out, tables)
    result: dict[str, Any] = {"rows": [], "settings": {"cases": {}}}
    if args.plot_only or out.exists():
        result = json.loads(out.read_text())
    rows = result["rows"]

    if not args.plot_only:
        # An asynchronous program is the same for all rates: compile it once.
        with tempfile.TemporaryDirectory() as cache:
            jax.config.update("jax_compilation_cache_dir", cache)
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
            rows = train_all(rows, result["settings"]["cases"], out, args)
    print_tables(rows, tables)
    plot(rows, out.with_suffix(".png"))


def train_all(rows: Rows, cases: dict[str, dict], out: Path, args: argparse.Namespace) -> Rows:
    """Return the rows that still hold and new ones; `cases` gets the settings of both."""
    use_worker_threads()
    commit = environment()["git_commit"]
    # One draw from each of as many equal parts of the range: so few plain draws would leave gaps.
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

            # Skip what was measured with the same settings.
            plain = {**plain_settings(settings), "learning_rate": rates}
            stored = cases.get(f"{method} {name}", {})
            own = {**own_settings(stored, settings), "learning_rate": stored.get("learning_rate")}
            if own == plain:
                bar.update(len(rates))
                continue
            cases[f"{method} {name}"] = plain
            bar.set_description(f"{method} {name}")
            rows = [row for row in rows if (row["method"], row["optimizer"]) != (method, name)]

            # Train with all rates, then evaluate.
            built = build(method, ENV, settings)
            play = evaluator(
                built.env, built.network, num_episodes=settings.eval_episodes, policy="greedy"
            )
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
            write_result(out, rows, env=ENV, summary=summary(rows), cases=cases)
    return rows


Runs = Iterator[tuple[Any, dict[str, Any]]]
"""The final parameters and counts for each learning rate, whose index is the seed."""


def train_one_by_one(method: str, settings: Settings, rates: list[float]) -> Runs:
    """Train with one learning rate after the other, each on all threads."""
    for seed, rate in enumerate(rates):
        runner = build(method, ENV, dataclasses.replace(settings, learning_rate=rate)).runner
        result = runner.run(seed, until=settings.total_timesteps)
        seconds = round(result.progress.seconds, 2)
        yield result.params, {"env_steps": result.progress.env_steps, "seconds": seconds}


def train_together(method: str, settings: Settings, rates: list[float], repeats: int) -> Runs:
    """Train with all learning rates as one program; time it against a run with one of them."""
    updates = -(-settings.total_timesteps // (settings.num_envs * settings.num_steps))

    def run(seed: Any, rate: Any) -> Any:
        runner = build(method, ENV, dataclasses.replace(settings, learning_rate=rate)).runner
        assert isinstance(runner, SynchronousRunner)
        algorithm = runner.algorithm

        def update(_: Any, state: Any) -> Any:
            return algorithm.step(state)[0]

        state = algorithm.init(jax.random.key(seed))
        return jax.lax.fori_loop(0, updates, update, state).params

    seeds = np.arange(len(rates))
    values = np.array(rates, np.float32)
    together = jax.jit(jax.vmap(run))
    alone = jax.jit(run)
    programs = {
        "together": lambda: together(seeds, values),
        "alone": lambda: alone(seeds[0], values[0]),
    }

    # Time all runs together against one run.
    times = interleaved_seconds(programs, repeats)
    pairs = zip(times["together"], times["alone"], strict=True)
    ratio = spread([all_ / one for all_, one in pairs], 1)
    tqdm.write(
        f"{method} {settings.optimizer}: {len(rates)} runs took {ratio['median']} times as long as "
        f"one ({ratio['min']} to {ratio['max']})"
    )

    counts: dict[str, Any] = {"env_steps": updates * settings.num_envs * settings.num_steps}
    counts |= {"seconds_of_all": spread(times["together"], 2), "ratio_to_one_alone": ratio}

    # One more run gives the parameters of all seeds.
    params = programs["together"]()
    for seed in seeds:
        yield jax.tree.map(lambda x, seed=seed: x[seed], params), counts


def summary(rows: Rows) -> Rows:
    """Return the share of learning rates that reach half and 90 % of the best return.

    Returns:
      One row for each method and optimizer, as the result file stores it.
    """
    lines = []
    for method, name in dict.fromkeys((row["method"], row["optimizer"]) for row in rows):
        runs = matching(rows, method=method, optimizer=name)
        scores = np.array([run["eval_return_mean"] for run in runs]) / BEST
        half, most = (float(np.mean(scores >= share)) for share in (0.5, 0.9))
        line = {"method": method, "optimizer": name, "rates": len(scores)}
        lines.append({**line, "reach_half": round(half, 3), "reach_90_percent": round(most, 3)})
    return lines


def tables(rows: Rows) -> list[Table]:
    """Return the table of shares: a row per method, a column per optimizer."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    lines = {(line["method"], line["optimizer"]): line for line in summary(rows)}

    def shares(name: str) -> Column:
        def cell(method: str) -> str:
            line = lines.get((method, name))
            if line:
                return f"{line['reach_half']:.0%} / {line['reach_90_percent']:.0%}"
            # A single learner has one set of moments, so both kinds of RMSProp are one.
            same = name == "rmsprop" and METHODS[method].runner == "synchronous"
            return "the same" if same else ""

        return Column(OPTIMIZERS[name].head, cell)

    def vmap_cost(method: str) -> str:
        runs = matching(rows, method=method, optimizer="shared-rmsprop")
        return (
            ranged(runs[0]["ratio_to_one_alone"], ".1f") if "ratio_to_one_alone" in runs[0] else ""
        )

    return [
        Table(
            (
                Column("method", lambda method: f"`{method}`"),
                *map(shares, OPTIMIZERS),
                Column("time of all rates under `vmap` / of one", vmap_cost),
            ),
            methods,
        )
    ]


def plot(rows: Rows, path: Path) -> None:
    """Draw final return against learning rate: a column per objective, a row per runner."""
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    axes = figure.subplots(len(ROWS), len(COLUMNS), sharex=True, sharey=True)
    for key, method in METHODS.items():
        axis = axes[ROWS.index(method.runner), list(COLUMNS).index(method.objective)]
        for name, (_, colour, marker, _) in OPTIMIZERS.items():
            runs = matching(rows, method=key, optimizer=name)
            points = sorted((run["learning_rate"], run["eval_return_mean"]) for run in runs)
            x, y = np.reshape(points, (-1, 2)).T
            axis.plot(x, y, color=colour, marker=marker, markersize=4, linestyle="none", alpha=0.8)
        axis.set_xscale("log")
        axis.grid(alpha=0.3)

    # Titles and labels at the edges only.
    for axis, runner in zip(axes[:, 0], ROWS, strict=True):
        axis.set_ylabel(f"{runner}\nfinal return")
    for column, title in zip(axes.T, COLUMNS.values(), strict=True):
        column[0].set_title(title, fontsize="medium")
        column[-1].set_xlabel("learning rate")
    labels = [optimizer.label for optimizer in OPTIMIZERS.values()]
    figure.legend(axes[0, 0].get_lines(), labels, loc="outside upper center", ncols=len(labels))
    save(figure, path)


if __name__ == "__main__":
    main()
