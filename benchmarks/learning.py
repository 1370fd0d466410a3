"""What return do the presets reach, over seeds, and in how many seconds?

    python benchmarks/learning.py [--only a3c gymnax:CartPole-v1] [--seeds 10] [--episodes 100]
    python benchmarks/learning.py --only random         what an agent gets that has learned nothing
    python benchmarks/learning.py --runs runs/mine      of runs of `jax-a3c train`, which ended before
    python benchmarks/learning.py --table               what is measured so far

Trains every preset with the final weights evaluated over complete episodes, greedy and exploring, on
environments of their own, and writes one row for each run. A row that exists for the same settings and seed
is kept, one of other settings replaced; the row of a run given by `--runs` replaces that of the same case and
seed. The file is written after each run, so that the script can be ended and started again.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from measure import RESULTS, plain_settings, rows_that_hold, write_result
from tqdm import tqdm

from jax_a3c.asynchronous import use_worker_threads
from jax_a3c.presets import ATARI, PRESETS
from jax_a3c.training.experiment import Experiment, build
from jax_a3c.training.results import evaluate, evaluate_run
from jax_a3c.training.run_directory import RunDirectory, environment
from jax_a3c.training.settings import Settings, resolve
from jax_a3c.types import Params, Progress

RANDOM = "random"  # a network whose weights are all zero: every action is equally likely
# The paper's Gaussian policy; its entropy cost and separate networks are the preset's.
PAPER_CONTROL = {"variance": "scalar", "hidden": (200,)}
LARGER_STEPS = {"total_timesteps": 400_000, "learning_rate": 1e-3}
# Beside the presets: settings that a claim of the README needs too.
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
    """Train, print a table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--only", nargs="+", default=[], help="a method or 'random', an environment id, or both"
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--out", type=Path, default=RESULTS / "learning.json")
    parser.add_argument(
        "--runs", type=Path, nargs="+", default=[], help="train nothing, play these on"
    )
    parser.add_argument("--table", action="store_true", help="train nothing")
    args = parser.parse_args()
    use_worker_threads()
    rows = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
    if args.table:
        return print_table(rows)
    if args.runs:
        for path in args.runs:
            rows = with_run(rows, row_of_run(RunDirectory(path), args.episodes))
            write_result(args.out, rows, episodes=args.episodes)
        return print_table(rows)
    commit = environment()["git_commit"]
    cases = [
        (method, env_id, variant)
        for (method, env_id) in PRESETS
        if env_id != ATARI  # the script of that name
        for variant in ({}, *VARIANTS.get((method, env_id), []))
        if set(args.only) <= {method, env_id}
    ]
    on_the_host = sorted(
        {env_id for _, env_id in PRESETS if not env_id.startswith("gymnax:")} - {ATARI}
    )
    cases += [(RANDOM, env_id, {}) for env_id in on_the_host if set(args.only) <= {RANDOM, env_id}]
    with tqdm(total=len(cases) * args.seeds) as bar:
        for method, env_id, variant in cases:
            bar.set_description(f"{method} {env_id} {variant or ''}")
            settings = settings_of(method, env_id, variant, args.episodes)
            case = {"method": method, "env": env_id, "variant": variant}
            rows, done = rows_that_hold(rows, case, settings)
            experiment = None
            for seed in range(args.seeds):
                if seed not in done:
                    learner = "a2c" if method == RANDOM else method
                    experiment = experiment or build(learner, env_id, settings)
                    params, costs = (
                        untrained(experiment)
                        if method == RANDOM
                        else trained(experiment, seed, bar)
                    )
                    scores = evaluate(
                        experiment, learner, settings, params, jax.random.key(10_000 + seed)
                    )
                    rows.append(row_of(case, seed, commit, scores, costs, settings))
                    write_result(args.out, rows, episodes=args.episodes)
                bar.update()
    print_table(rows)


def row_of(
    case: dict, seed: int, commit: str, scores: dict, costs: dict, settings: Settings
) -> dict:
    """A row of the result."""
    return {
        **case,
        "seed": seed,
        "commit": commit,
        **{name: round(x, 3) if isinstance(x, float) else x for name, x in scores.items()},
        **costs,
        "settings": plain_settings(settings),
    }


def row_of_run(run: RunDirectory, episodes: int) -> dict:
    """The row of a run with the settings of a preset, of which parameters and metrics are left."""
    method, env_id, settings = run.config()
    scores = evaluate_run(run, num_episodes=episodes, seed=10_000 + settings.seed, quiet=False)
    seed, settings = settings.seed, dataclasses.replace(settings, seed=0, eval_episodes=episodes)
    last = run.metrics()[-1]
    costs = {"env_steps": last["env_steps"], "seconds": round(last["seconds"], 2)}
    case = {"method": method, "env": env_id, "variant": {}}
    commit = json.loads((run.path / "env.json").read_text())["git_commit"]
    return row_of(case, seed, commit, scores, costs, settings)


def with_run(rows: list[dict], new: dict) -> list[dict]:
    """The rows with that of a run, in place of one of the same case and seed."""
    names = ("method", "env", "variant", "seed")
    return [row for row in rows if any(row[name] != new[name] for name in names)] + [new]


def settings_of(method: str, env_id: str, variant: dict, episodes: int) -> Settings:
    """Settings of a case; of a random agent only those that say what it acts in."""
    if method != RANDOM:
        return resolve(method, env_id, **variant, eval_episodes=episodes)
    options = next(p.settings for (_, name), p in PRESETS.items() if name == env_id).get(
        "env_options", ()
    )
    return Settings(env_options=options, eval_episodes=episodes, eval_policy="sampled")


def trained(experiment: Experiment, seed: int, bar: tqdm) -> tuple[Params, dict]:
    """Parameters after a whole run, and what it took."""

    def show(progress: Progress) -> None:
        ended, total = (
            progress.metric_sums.get(name, 0.0) for name in ("episodes", "episode_return")
        )
        bar.set_postfix(seed=seed, steps=progress.env_steps, return_so_far=total / max(1.0, ended))

    result = experiment.trainer.run(seed, callback=show)
    experiment.trainer.close(result.state)
    return result.params, {
        "env_steps": result.progress.env_steps,
        "seconds": round(result.progress.seconds, 2),
        "compile_seconds": round(result.compile_seconds, 2),
    }


def untrained(experiment: Experiment) -> tuple[Params, dict]:
    """Parameters of zero."""
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), experiment.parameters_like())
    return zeros, {"env_steps": 0, "seconds": 0.0, "compile_seconds": 0.0}


def print_table(rows: list[dict]) -> None:
    """Over seeds: mean, lowest and highest return of the policy that counts, steps, longest time."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["env"], json.dumps(row["variant"])), []).append(row)
    for (method, env_id, variant), runs in groups.items():
        scores = np.array([run["eval_return_mean"] for run in runs])
        ends = [run.get("eval_return_interval") for run in runs]
        intervals = [f"{low:.2f} to {high:.2f}" for low, high in filter(None, ends)]
        print(
            f"{method} {env_id} {variant if variant != '{}' else ''}: {scores.mean():.2f} "
            f"(lowest {scores.min():.2f}, highest {scores.max():.2f}; {runs[0]['eval_policy']}) "
            f"over {len(runs)} seeds, {runs[0]['env_steps']:,} steps, "
            f"at most {max(run['seconds'] for run in runs):.1f} s"
            + (f"; 95 % intervals {', '.join(intervals)}" if intervals else "")
        )


if __name__ == "__main__":
    main()
