"""What runs achieved: the evaluation of one in numbers, and the aggregate over several."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from jax_a3c import scores
from jax_a3c.checks import MAX_EPISODES, InputError, check_integer, check_kind
from jax_a3c.training.evaluation import Evaluation, evaluator
from jax_a3c.training.experiment import Experiment, build, evaluation_env
from jax_a3c.training.run_directory import RunDirectory
from jax_a3c.training.settings import POLICIES, Settings, kind_of
from jax_a3c.training.signals import Terminal

AGGREGATES = {
    "mean": scores.mean,
    "median": scores.median,
    "interquartile_mean": scores.interquartile_mean,
}


SAME_TASK = frozenset({"episodic_life", "reward_clip", "timeout", "processes"})
"""Options of an environment that change how an agent learns, but not how it is scored."""
SAME_GAME = frozenset({"repeat_action_probability", "full_action_space"})
"""Options with which scores of Atari games are still compared with a human's."""


class EvaluationStopped(Exception):
    """Somebody asked for an end before all episodes were played."""


def evaluate(
    experiment: Experiment,
    method: str,
    settings: Settings,
    params: Any,
    key: jax.Array,
    *,
    quiet: bool = True,
    stopped: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Evaluate greedy and exploring actions over complete episodes on environments of their own.

    Args:
      experiment: the parts of the run.
      method: of the run.
      settings: how many episodes, and which policy counts.
      params: variables of the network.
      key: random key.
      quiet: no progress bar; there is one where it takes longer than 5 seconds.
      stopped: whether to give up, asked after each step on the host, in JAX about four times a second.

    Returns:
      `eval_return_mean`, `eval_return_std` and `eval_episodes` for the policy that counts, `eval_policy`, and
      mean, deviation and mean length for each policy by name. `eval_return_interval`, the two ends of the
      95 % bootstrap interval of the mean over episodes, or None for a single one. For a game of Atari also
      `eval_human_normalized` and the same for each policy: percent of a human tester from no-op starts.

    Raises:
      EvaluationStopped: if `stopped` said so.
    """
    results: dict[str, Evaluation] = {}
    env = evaluation_env(experiment, settings)
    count, policies = settings.eval_episodes, POLICIES[kind_of(method)]
    total = count * len(policies)
    with tqdm(total=total, unit=" episodes", delay=5.0, disable=quiet, file=Terminal()) as bar:

        def progress(ended: int) -> None:
            bar.update(ended)
            if stopped():
                raise EvaluationStopped

        for policy in policies:
            play = evaluator(env, experiment.network, num_episodes=count, policy=policy, progress=progress)
            results[policy] = play(params, key)
    summary: dict[str, Any] = {"eval_policy": settings.eval_policy, "eval_episodes": settings.eval_episodes}
    game = atari_game(task_of(env.spec.id, settings))
    for policy, result in results.items():
        mean = float(np.mean(result.returns, dtype=np.float64))
        statistics = {
            "return_mean": mean,
            "return_std": float(np.std(result.returns, dtype=np.float64)),
        }
        if game is not None:
            statistics["human_normalized"] = float(scores.human_normalized(game, mean))
        prefix = f"eval_{policy.replace('-', '_')}"
        summary |= {f"{prefix}_{name}": value for name, value in statistics.items()}
        summary[f"{prefix}_episode_length_mean"] = float(np.mean(result.lengths))
        if policy == settings.eval_policy:
            summary |= {f"eval_{name}": value for name, value in statistics.items()}
            summary["eval_return_interval"] = _interval(result.returns[:, None], scores.mean)
    return summary


def evaluate_run(
    run: RunDirectory, *, num_episodes: int, seed: int, quiet: bool = True, which: str = "last"
) -> dict[str, Any]:
    """Evaluate the final parameters of a run.

    Args:
      run: whose training ended.
      num_episodes: complete episodes for each policy, at least 1.
      seed: of start states and sampled actions.
      quiet: no progress bar.
      which: of its checkpoints, `"last"` or `"best"`.

    Returns:
      As `evaluate`.

    Raises:
      InputError: if the folder holds no run that ended, or `num_episodes` is out of range.
    """
    check_kind("run", run, RunDirectory)
    check_integer("episodes", num_episodes, 1, MAX_EPISODES)
    check_integer("seed", seed, 0)
    experiment, method, settings, params = load(run, which)
    settings = dataclasses.replace(settings, eval_episodes=num_episodes)
    return evaluate(experiment, method, settings, params, jax.random.key(seed), quiet=quiet)


def evaluate_runs(
    paths: Sequence[Path], *, num_episodes: int, seed: int, quiet: bool = True, which: str = "last"
) -> dict[str, Any]:
    """Evaluate several runs, and what they achieved together.

    Args:
      paths: folders of runs whose training ended, each once.
      num_episodes: as in `evaluate_run`.
      seed: as in `evaluate_run`.
      quiet: no progress bar.
      which: as in `evaluate_run`.

    Returns:
      `runs`, what `evaluate_run` gives by path; `aggregate`, what `aggregate` makes of them by method.

    Raises:
      InputError: as `evaluate_run`; all folders are looked at before the first is evaluated.
    """
    runs = [RunDirectory(path) for path in paths]
    configs = [run.config() for run in runs]
    made_by = [(method, task_of(env_id, settings)) for method, env_id, settings in configs]
    options: Any = {"num_episodes": num_episodes, "seed": seed, "quiet": quiet, "which": which}
    results = [evaluate_run(run, **options) for run in runs]
    aggregates: dict[str, Any] = {}
    for method in dict.fromkeys(method for method, _ in made_by):
        returns: dict[str, list[float]] = {}
        for (made_with, task), result in zip(made_by, results, strict=True):
            if made_with == method:
                returns.setdefault(task, []).append(result["eval_return_mean"])
        aggregates[method] = aggregate(returns)
    named = {str(path): result for path, result in zip(paths, results, strict=True)}
    return {"runs": named, "aggregate": aggregates}


def aggregate(returns: dict[str, list[float]]) -> dict[str, Any]:
    """What runs of one method achieved together.

    Args:
      returns: by task, see `task_of`, the mean return of each run, finite.

    Returns:
      `environments`: for each the number of runs and the interquartile mean of their returns with its 95 %
      bootstrap interval. If all are games of Atari with equally many runs, `human_normalized`: mean, median
      and interquartile mean of the scores in percent over runs and games, with stratified intervals.
      An interval is None where there is but one run.

    References:
      Agarwal et al. (2021), "Deep Reinforcement Learning at the Edge of the Statistical Precipice".

    Example:
      >>> both = aggregate({"envpool:Pong-v5": [14.6], "envpool:Breakout-v5": [1.7]})
      >>> both["human_normalized"]["mean"], both["environments"]["envpool:Pong-v5"]["runs"]
      (50.0, 1)
    """
    environments = {}
    for env_id, of_runs in returns.items():
        column = np.array(of_runs)[:, None]  # [runs, 1]
        environments[env_id] = {
            "runs": len(of_runs),
            "return_interquartile_mean": float(scores.interquartile_mean(column)),
            "return_interval": _interval(column, scores.interquartile_mean),
        }
    result: dict[str, Any] = {"environments": environments}
    games = [game for game in map(atari_game, returns) if game is not None]
    if len(games) < len(returns) or len({len(of_runs) for of_runs in returns.values()}) > 1:
        return result
    percent = scores.human_normalized(games, np.array(list(returns.values())).T)  # [runs, games]
    result["human_normalized"] = {"games": len(games), "runs": len(percent)}
    for name, function in AGGREGATES.items():
        result["human_normalized"][name] = float(function(percent))
        result["human_normalized"][f"{name}_interval"] = _interval(percent, function)
    return result


def load(run: RunDirectory, which: str = "last") -> tuple[Experiment, str, Settings, Any]:
    """The parts of a run, its method, its settings and the network's variables of a checkpoint."""
    method, env_id, settings = run.config()
    try:
        experiment = build(method, env_id, settings)
    except InputError as error:  # another version's, or another machine's
        raise InputError(f"{run.path / 'config.json'} cannot be built here: {error}") from error
    return experiment, method, settings, run.load_params(experiment.parameters_like(), which)


def task_of(env_id: str, settings: Settings) -> str:
    """The environment's id, and after it those of its options on which scores depend, sorted."""
    options = (option for option in settings.env_options if option.partition("=")[0] not in SAME_TASK)
    return " ".join([env_id, *sorted(options)])


def atari_game(task: str) -> str | None:
    """Name of the game whose scores the field compares with a human's, None for another task."""
    env_id, *options = task.split()
    same = all(option.partition("=")[0] in SAME_GAME for option in options)
    return scores.game_of(env_id) if same else None


def _interval(columns: np.ndarray, function: Any) -> list[float] | None:
    """The two ends of the 95 % bootstrap interval over rows, if there are several and all are finite."""
    if len(columns) < 2 or not np.isfinite(columns).all():
        return None
    return [float(end) for end in scores.bootstrap_interval(columns, function)]
