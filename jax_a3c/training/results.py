"""What runs achieved: the evaluation of one in numbers, and the aggregate over several."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from jax_a3c import scores
from jax_a3c.checks import MAX_EPISODES, MAX_STEPS, InputError, check_integer, check_kind
from jax_a3c.training.evaluation import Evaluation, Standing, evaluator
from jax_a3c.training.experiment import Experiment, build, evaluation_env
from jax_a3c.training.run_directory import RunDirectory
from jax_a3c.training.settings import POLICIES, Settings, check_method, kind_of
from jax_a3c.training.signals import Terminal, tell

AGGREGATES = {
    "mean": scores.mean,
    "median": scores.median,
    "interquartile_mean": scores.interquartile_mean,
}


SAME_TASK = frozenset({"episodic_life", "reward_clip", "timeout", "processes"})
"""Options of an environment that change how an agent learns, but not how it is scored."""
SAME_GAME = frozenset({"repeat_action_probability", "full_action_space"})
"""Options with which scores of Atari games are still compared with a human's."""
EVALUATION_SHARE = 0.1
"""Steps of an evaluation after a run, as a share of those of its training, where no setting says more."""
MIN_EPISODE_STEPS = 3_000
"""Steps that this share leaves to each game: an episode of most tasks, Atari apart, is shorter."""
BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


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
      settings: how many episodes, of how many steps at most, see `episode_limit`; which policy counts.
      params: variables of the network.
      key: random key.
      quiet: no progress bar; there is one, with the remaining time, where it takes longer than a second.
      stopped: whether to give up, asked after each step on the host, in JAX about four times a second.

    Returns:
      `eval_return_mean`, `eval_return_std`, `eval_episodes` and `eval_episodes_cut` for the policy that
      counts, `eval_policy`, and mean, deviation, mean length and the number of episodes that were cut for
      each policy by name. `eval_return_interval`, the two ends of the 95 % bootstrap interval of the mean
      over episodes, or None for a single one. For a game of Atari also `eval_human_normalized` and the same
      for each policy: percent of a human tester from no-op starts. Means are over all episodes: one that was
      cut counts with the return that it had.

    Raises:
      EvaluationStopped: if `stopped` said so.
      InputError: if `settings` ask for no episode.
    """
    check_integer("eval_episodes of an evaluation", settings.eval_episodes, 1, MAX_EPISODES)
    env = evaluation_env(experiment, settings)
    results = _play(experiment, env, method, settings, params, key, quiet, stopped)
    _tell_nonfinite(env.spec.id, results)

    summary: dict[str, Any] = {
        "eval_policy": settings.eval_policy,
        "eval_episodes": settings.eval_episodes,
    }
    game = atari_game(task_of(env.spec.id, settings))
    for policy, result in results.items():
        mean = float(np.mean(result.returns, dtype=np.float64))
        statistics = {
            "return_mean": mean,
            "return_std": float(np.std(result.returns, dtype=np.float64)),
            "episodes_cut": int(result.cut.sum()),
        }
        if game is not None:
            percent = scores.human_normalized(game, mean) if np.isfinite(mean) else np.nan
            statistics["human_normalized"] = float(percent)
        prefix = f"eval_{policy.replace('-', '_')}"
        summary |= {f"{prefix}_{name}": value for name, value in statistics.items()}
        summary[f"{prefix}_episode_length_mean"] = float(np.mean(result.lengths))
        if policy == settings.eval_policy:
            summary |= {f"eval_{name}": value for name, value in statistics.items()}
            summary["eval_return_interval"] = _interval(result.returns[:, None], scores.mean)
    return summary


def _play(
    experiment: Experiment,
    env: Any,
    method: str,
    settings: Settings,
    params: Any,
    key: jax.Array,
    quiet: bool,
    stopped: Callable[[], bool],
) -> dict[str, Evaluation]:
    """Play the episodes of an evaluation under a progress bar; the results by policy."""
    policies, count = POLICIES[kind_of(method)], settings.eval_episodes
    limit = episode_limit(method, settings)
    total, results = len(policies) * count, {}
    with tqdm(
        total=len(policies),
        desc="evaluation",
        bar_format=BAR,
        smoothing=0,  # of all steps so far: a game's end is a jump
        delay=1.0,
        miniters=0,
        disable=quiet,
        file=Terminal(),
    ) as bar:
        for number, policy in enumerate(policies):

            def progress(standing: Standing, number: int = number) -> None:
                if standing.steps == 1:  # which compiled: no measure of those that follow
                    bar.unpause()
                bar.set_postfix_str(
                    f"{number * count + standing.ended} of {total} games", refresh=False
                )
                share = standing.steps / (standing.steps + standing.remaining)
                bar.update(number + share - bar.n)
                if stopped():
                    raise EvaluationStopped

            play = evaluator(
                env,
                experiment.network,
                num_episodes=count,
                policy=policy,
                progress=progress,
                max_episode_steps=limit,
            )
            results[policy] = play(params, key)
    return results


def episode_limit(method: str, settings: Settings) -> int:
    """Return after how many steps the evaluation of a run cuts a game; the environment may end it sooner.

    With `eval_max_steps` the games of all policies share that many steps equally. Without it they share
    `EVALUATION_SHARE` of the steps of training, but each may take `MIN_EPISODE_STEPS`. So a short run on
    Atari is not evaluated for longer than it trained, and of most other tasks no game is cut. The limit is
    in steps and not in seconds: an evaluation gives the same on every machine.

    Args:
      method: of the run.
      settings: of the run.

    Returns:
      Steps, at least 1.
    """
    games = max(1, settings.eval_episodes) * len(POLICIES[kind_of(method)])
    if settings.eval_max_steps is not None:
        return max(1, settings.eval_max_steps // games)
    return max(MIN_EPISODE_STEPS, int(EVALUATION_SHARE * settings.total_timesteps) // games)


def _tell_nonfinite(env_id: str, results: dict[str, Evaluation]) -> None:
    """Say which games have a return that is not finite: the summary has null for their mean."""
    broken = {
        policy: int((~np.isfinite(result.returns)).sum()) for policy, result in results.items()
    }
    found = [
        f"{count} of {len(results[policy].returns)} {policy}"
        for policy, count in broken.items()
        if count
    ]
    if found:
        tell(
            f"{env_id} returned rewards that are not finite in {' and '.join(found)} games: no mean return"
        )


def evaluate_run(
    run: RunDirectory,
    *,
    num_episodes: int,
    seed: int,
    quiet: bool = True,
    which: str = "last",
    max_steps: int | None = None,
) -> dict[str, Any]:
    """Evaluate the final parameters of a run.

    Args:
      run: whose training ended.
      num_episodes: complete episodes for each policy, at least 1.
      seed: of start states and sampled actions.
      quiet: no progress bar.
      which: of its checkpoints, `"last"` or `"best"`.
      max_steps: environment steps altogether, of which each game gets an equal share; None for whole games.

    Returns:
      As `evaluate`.

    Raises:
      InputError: if the folder holds no run that ended, or `num_episodes` is out of range.
    """
    check_kind("run", run, RunDirectory)
    check_integer("episodes", num_episodes, 1, MAX_EPISODES)
    check_integer("seed", seed, 0)
    if max_steps is not None:
        check_integer("max_steps", max_steps, 1, MAX_STEPS)
    experiment, method, settings, params = load(run, which)
    most = MAX_STEPS if max_steps is None else max_steps
    settings = dataclasses.replace(settings, eval_episodes=num_episodes, eval_max_steps=most)
    check_method(method, settings)
    return evaluate(experiment, method, settings, params, jax.random.key(seed), quiet=quiet)


def evaluate_runs(
    paths: Sequence[Path],
    *,
    num_episodes: int,
    seed: int,
    quiet: bool = True,
    which: str = "last",
    max_steps: int | None = None,
) -> dict[str, Any]:
    """Evaluate several runs, and what they achieved together.

    Args:
      paths: folders of runs whose training ended, each once.
      num_episodes: as in `evaluate_run`.
      seed: as in `evaluate_run`.
      quiet: no progress bar.
      which: as in `evaluate_run`.
      max_steps: as in `evaluate_run`, of each run.

    Returns:
      `runs`, what `evaluate_run` gives by path; `aggregate`, what `aggregate` makes of them by method.

    Raises:
      InputError: as `evaluate_run`; all folders are looked at before the first is evaluated.
    """
    runs = [RunDirectory(path) for path in paths]
    configs = [run.config() for run in runs]
    made_by = [(method, task_of(env_id, settings)) for method, env_id, settings in configs]
    options: Any = {"num_episodes": num_episodes, "seed": seed, "quiet": quiet, "which": which}
    options["max_steps"] = max_steps
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
      returns: by task, see `task_of`, the mean return of each run.

    Returns:
      `environments`: for each the number of runs and the interquartile mean of their returns with its 95 %
      bootstrap interval. If all are games of Atari with equally many runs, `human_normalized`: mean, median
      and interquartile mean of the scores in percent over runs and games, with stratified intervals.
      An interval is None where there is but one run. A return that is not finite leaves out the figures that
      depend on it: they are None, and `human_normalized` is missing.

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
        finite = np.isfinite(column).all()
        environments[env_id] = {
            "runs": len(of_runs),
            "return_interquartile_mean": float(scores.interquartile_mean(column))
            if finite
            else None,
            "return_interval": _interval(column, scores.interquartile_mean),
        }
    result: dict[str, Any] = {"environments": environments}
    games = [game for game in map(atari_game, returns) if game is not None]
    if len(games) < len(returns) or len({len(of_runs) for of_runs in returns.values()}) > 1:
        return result
    if any(one["return_interquartile_mean"] is None for one in environments.values()):
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
    options = (
        option for option in settings.env_options if option.partition("=")[0] not in SAME_TASK
    )
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
