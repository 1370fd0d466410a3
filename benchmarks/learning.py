"""What return do the presets reach, over seeds, and in how many seconds?

    python benchmarks/learning.py [--only a3c gymnax:CartPole-v1] [--seeds 10] [--episodes 100]
    python benchmarks/learning.py --only random     the return of an agent that has learned nothing
    python benchmarks/learning.py --runs runs/mine  evaluate runs of `jax-a3c train` that have ended
    python benchmarks/learning.py --table           print the result that exists

The script trains every preset. It evaluates the final parameters over complete episodes, greedy and
exploring, on new environments, and writes one row per run. A row that exists for the same settings
and seed is kept; a row of other settings is replaced. The row of a run given by `--runs` replaces
the row of the same case and seed. The file is written after each run, so that the script can be
stopped and started again.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
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
from benchmarks.frame.summaries import short_commit, with_range
from benchmarks.frame.tables import Column, Table
from jax_a3c.evaluation.score import evaluate, evaluate_run
from jax_a3c.experiment.build import Experiment, build
from jax_a3c.experiment.run_directory import RunDirectory, environment
from jax_a3c.runners.asynchronous import use_worker_threads
from jax_a3c.runners.base import Progress
from jax_a3c.settings.methods import A2CSettings
from jax_a3c.settings.presets import ATARI, PRESETS
from jax_a3c.settings.run import Settings, resolve
from jax_a3c.types import Params

RANDOM = "random"
"""Method of a network whose parameters are all zero: every action is equally likely."""
ACTOR_CRITIC = ("a2c", "a3c")
GOALS = {
    "gymnax:CartPole-v1": 475,
    "gymnax:Acrobot-v1": -100,
    "gymnax:Catch-bsuite": 0.95,
    "gymnax:MemoryChain-bsuite": 0.9,
    "gymnax:Pendulum-v1": -250,
    "gymnax:Breakout-MinAtar": 25,
    "envpool:HalfCheetah-v5": 1_500,
    "gymnasium:LunarLander-v3": 150,
    "envpool:LunarLander-v3": 150,
}
"""The return at which A2C and A3C count as having learned an environment."""
ACTION_VALUE_GOALS = {"gymnax:CartPole-v1": 400, "gymnax:Catch-bsuite": 0.95}
"""The same for the value-based methods; n-step Q has the higher goal on CartPole."""

# The paper's Gaussian policy; its entropy cost and separate networks are the preset's.
PAPER_CONTROL = {"variance": "scalar", "hidden": (200,)}
LARGER_STEPS = {"total_timesteps": 400_000, "learning_rate": 1e-3}
# Settings other than the presets that a claim of the documentation needs.
VARIANTS: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("a3c", "gymnax:CartPole-v1"): [{"num_workers": 8}],
    ("a2c", "gymnax:MemoryChain-bsuite"): [{"lstm": False}],
    ("a3c", "gymnax:MemoryChain-bsuite"): [{"lstm": False}],
    ("a3c", "gymnax:Pendulum-v1"): [
        PAPER_CONTROL,
        {**PAPER_CONTROL, "lstm": True, "lstm_size": 128},
    ],
    ("a2c", "gymnasium:LunarLander-v3"): [LARGER_STEPS],
}


def main() -> None:
    """Train what is missing, write the result and print its tables."""
    parser = parser_of(__doc__)
    parser.add_argument(
        "--only", nargs="+", default=[], help="a method or 'random', an environment id, or both"
    )
    parser.add_argument("--seeds", type=int, default=10, help="runs of each case")
    parser.add_argument("--episodes", type=int, default=100, help="episodes of an evaluation")
    parser.add_argument(
        "--runs", type=Path, nargs="+", default=[], help="train nothing; evaluate these runs"
    )
    args = parser.parse_args()
    out = result_path("learning", args.out)
    if args.table:
        return print_result(out, tables)

    use_worker_threads()
    rows = json.loads(out.read_text())["rows"] if out.exists() else []
    if args.runs:
        for path in args.runs:
            rows = with_run(rows, row_of_run(RunDirectory(path), args.episodes))
            write_result(out, rows, episodes=args.episodes)
    else:
        rows = train_all(rows, out, args)
    print_tables(rows, tables)


def cases_of(only: set[str]) -> list[tuple[str, str, dict[str, Any]]]:
    """Return method, environment id and variant of each case that `only` selects."""
    cases = [
        (method, env_id, variant)
        for (method, env_id) in PRESETS
        if env_id != ATARI  # the subject of atari.py
        for variant in ({}, *VARIANTS.get((method, env_id), []))
        if only <= {method, env_id}
    ]

    # Random play is a baseline for the host environments.
    on_the_host = {env_id for _, env_id in PRESETS if not env_id.startswith("gymnax:")} - {ATARI}
    cases += [(RANDOM, env_id, {}) for env_id in sorted(on_the_host) if only <= {RANDOM, env_id}]
    return cases


def train_all(rows: Rows, out: Path, args: argparse.Namespace) -> Rows:
    """Return the rows that still hold and a new one for each missing run; write after each run."""
    commit = environment()["git_commit"]
    cases = cases_of(set(args.only))
    with tqdm(total=len(cases) * args.seeds) as bar:
        for method, env_id, variant in cases:
            bar.set_description(f"{method} {env_id} {variant or ''}")
            settings = settings_of(method, env_id, variant, args.episodes)
            case = {"method": method, "env": env_id, "variant": variant}
            rows, done = rows_that_hold(rows, case, settings)
            bar.update(len(done & set(range(args.seeds))))

            experiment = None
            learner = "a2c" if method == RANDOM else method
            for seed in sorted(set(range(args.seeds)) - done):
                experiment = experiment or build(learner, env_id, settings)
                if method == RANDOM:
                    params, costs = untrained(experiment)
                else:
                    params, costs = trained(experiment, seed, settings.total_timesteps, bar)

                # Evaluate with keys that training has not used.
                key = jax.random.key(10_000 + seed)
                scores = evaluate(experiment, settings, params, key)
                rows.append(row_of(case, seed, commit, scores, costs, settings))
                write_result(out, rows, episodes=args.episodes)
                bar.update()
    return rows


def row_of(
    case: dict, seed: int, commit: str, scores: dict, costs: dict, settings: Settings
) -> dict:
    """Return a row of the result."""
    return {
        **case,
        "seed": seed,
        "commit": commit,
        **{name: round(x, 3) if isinstance(x, float) else x for name, x in scores.items()},
        **costs,
        "settings": plain_settings(settings),
    }


def row_of_run(run: RunDirectory, episodes: int) -> dict:
    """Return the row of a run directory that was trained with the settings of a preset."""
    method, env_id, settings = run.config()
    seed = settings.seed
    scores = evaluate_run(run, num_episodes=episodes, seed=10_000 + seed, quiet=False)
    settings = dataclasses.replace(settings, seed=0, eval_episodes=episodes)

    # Take the counts from the metrics: a summary may be missing.
    last = run.metrics()[-1]
    costs = {"env_steps": last["env_steps"], "seconds": round(last["seconds"], 2)}
    case = {"method": method, "env": env_id, "variant": {}}
    commit = json.loads((run.path / "env.json").read_text())["git_commit"]
    return row_of(case, seed, commit, scores, costs, settings)


def with_run(rows: Rows, new: dict) -> Rows:
    """Return the rows with a new one, which replaces a row of the same case and seed."""
    names = ("method", "env", "variant", "seed")
    return [row for row in rows if any(row[name] != new[name] for name in names)] + [new]


def settings_of(method: str, env_id: str, variant: dict, episodes: int) -> Settings:
    """Return the settings of a case; a random agent needs only its environment's."""
    if method != RANDOM:
        return resolve(method, env_id, **variant, eval_episodes=episodes)
    preset = next(preset for (_, name), preset in PRESETS.items() if name == env_id)
    options = preset.settings.get("env_options", ())
    return A2CSettings(env_options=options, eval_episodes=episodes, eval_policy="sampled")


def trained(
    experiment: Experiment, seed: int, total_timesteps: int, bar: tqdm
) -> tuple[Params, dict]:
    """Train; return the final parameters and the cost of the run."""

    def show(progress: Progress) -> None:
        ended = progress.metric_sums.get("episodes", 0.0)
        total = progress.metric_sums.get("episode_return", 0.0)
        bar.set_postfix(seed=seed, steps=progress.env_steps, return_so_far=total / max(1.0, ended))

    result = experiment.runner.run(seed, until=total_timesteps, callback=show)
    experiment.runner.close(result.state)
    return result.params, {
        "env_steps": result.progress.env_steps,
        "seconds": round(result.progress.seconds, 2),
        "compile_seconds": round(result.compile_seconds, 2),
    }


def untrained(experiment: Experiment) -> tuple[Params, dict]:
    """Return parameters of zero, and no cost."""
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), experiment.params_like())
    return zeros, {"env_steps": 0, "seconds": 0.0, "compile_seconds": 0.0}


Runs = list[dict[str, Any]]
"""The rows of one case, over its seeds."""


def cases_in(rows: Rows) -> list[Runs]:
    """Group the rows of a result by method, environment and variant."""
    groups: dict[tuple, Runs] = {}
    for row in rows:
        key = (row["method"], row["env"], json.dumps(row["variant"]))
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def return_of(runs: Runs) -> str:
    """Return the mean return and its range over seeds.

    One seed has the 95 % interval of its mean over episodes instead, which older rows lack.
    """
    # Over seeds: mean, lowest and highest.
    scores = [run["eval_return_mean"] for run in runs]
    if len(runs) > 1:
        return with_range(float(np.mean(scores)), min(scores), max(scores))
    low, high = runs[0].get("eval_return_interval", scores * 2)
    return with_range(scores[0], low, high)


def goal_of(run: dict[str, Any]) -> str:
    """Return the goal of a method on an environment, or nothing."""
    goals = GOALS if run["method"] in ACTOR_CRITIC else ACTION_VALUE_GOALS
    goal = goals.get(run["env"])
    if goal == 400 and "n-step" in run["method"]:
        goal = GOALS[run["env"]]
    return "" if goal is None else f"{goal:,}"


def flags_of(variant: dict[str, Any]) -> str:
    """Return the settings of a variant as flags of the command line."""
    flags = []
    for name, value in variant.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            values = value if isinstance(value, list | tuple) else [value]
            flags.append(" ".join([f"--{flag}", *map(str, values)]))
    return " ".join(f"`{flag}`" for flag in flags)


def of_first(head: str, text: Callable[[dict[str, Any]], str]) -> Column:
    """Declare a column that is the same for all runs of a case."""
    return Column(head, lambda runs: text(runs[0]))


def longest(runs: Runs) -> str:
    """Return the seconds of the slowest run; nothing for an agent that was not trained."""
    seconds = max(run["seconds"] for run in runs)
    return f"{seconds:,.{1 if seconds < 10 else 0}f}" if seconds else ""


ENVIRONMENT = of_first("environment", lambda run: f"`{run['env']}`")
METHOD = of_first("method", lambda run: f"`{run['method']}`")
GOAL = of_first("goal", goal_of)
SETTINGS = of_first("settings", lambda run: flags_of(run["variant"]))
SEEDS = Column("seeds", lambda runs: str(len(runs)))
STEPS = of_first("steps", lambda run: f"{run['env_steps'] / 1e6:.1f} M" if run["env_steps"] else "")
POLICY = of_first("policy", lambda run: run["eval_policy"])
EPISODES = of_first("episodes", lambda run: str(run["eval_episodes"]))
RETURN = Column("mean return (range)", return_of)
SECONDS = Column("seconds", longest)
COMMIT = of_first("commit", lambda run: short_commit(run["commit"]))


def tables(rows: Rows) -> list[Table]:
    """Return two tables: the presets, and other settings with random play."""
    # Presets first, everything else in a second table.
    cases = cases_in(rows)
    presets = [runs for runs in cases if is_preset(runs)]
    others = [runs for runs in cases if not is_preset(runs)]
    shared = (SEEDS, STEPS, EPISODES, POLICY, RETURN, SECONDS, COMMIT)
    found = [
        Table((ENVIRONMENT, METHOD, GOAL, *shared), sorted(presets, key=_place)),
        Table((ENVIRONMENT, METHOD, SETTINGS, *shared), sorted(others, key=_place)),
    ]
    return [table for table in found if table.rows]


def is_preset(runs: Runs) -> bool:
    """Return whether a case has the settings of its preset."""
    return not runs[0]["variant"] and runs[0]["method"] != RANDOM


def _place(runs: Runs) -> tuple[int, str]:
    """Return the place of a case in a table: by environment, in the order of `GOALS`."""
    order = list(GOALS)
    env_id = runs[0]["env"]
    return order.index(env_id) if env_id in order else len(order), env_id


def actor_critic_table(rows: Rows) -> Table:
    """Return the table of the presets of A2C and A3C."""
    table = tables(rows)[0]
    return table._replace(rows=[runs for runs in table.rows if runs[0]["method"] in ACTOR_CRITIC])


def variants_table(rows: Rows) -> Table:
    """Return the table of other settings and of random play."""
    return tables(rows)[1]


VALUE_BASED = {
    "one-step-q": "one-step Q, loop",
    "async-one-step-q": "one-step Q, threads",
    "one-step-sarsa": "one-step Sarsa, loop",
    "async-one-step-sarsa": "one-step Sarsa, threads",
    "n-step-q": "n-step Q, loop",
    "async-n-step-q": "n-step Q, threads",
}


def action_values_table(rows: Rows) -> Table:
    """Return the presets of the value-based methods: a row per environment, a column per method."""
    by_case: dict[str, dict[str, Runs]] = {}
    for runs in tables(rows)[0].rows:
        if runs[0]["method"] in VALUE_BASED:
            by_case.setdefault(runs[0]["env"], {})[runs[0]["method"]] = runs

    def column(method: str, head: str) -> Column:
        return Column(
            head,
            lambda row: (
                f"{return_of(row[1][method])}, {longest(row[1][method])} s"
                if method in row[1]
                else "no preset"
            ),
        )

    first = Column("environment", lambda row: f"`{row[0]}`")
    columns = [column(method, head) for method, head in VALUE_BASED.items()]
    return Table((first, *columns), list(by_case.items()))


def commits_of(rows: Rows) -> str:
    """Return the commits that made some rows."""
    return ", ".join(dict.fromkeys(short_commit(row["commit"]) for row in rows))


if __name__ == "__main__":
    main()
