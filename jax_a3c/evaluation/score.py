"""What runs achieved: the evaluation of one run, and the aggregate over several."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from jax_a3c import scores
from jax_a3c.checks import MAX_EPISODES, MAX_STEPS, check_integer, check_kind
from jax_a3c.errors import InputError
from jax_a3c.evaluation.play import Evaluation, Standing, evaluator_of_policies
from jax_a3c.experiment.build import (
    NO_PARTS,
    Parts,
    Player,
    build_player,
    check_own_parts,
    evaluation_env,
)
from jax_a3c.experiment.run_directory import RunDirectory
from jax_a3c.messages import Terminal, tell
from jax_a3c.settings.run import Settings
from jax_a3c.types import Params

AGGREGATES = {
    "mean": scores.mean,
    "median": scores.median,
    "interquartile_mean": scores.interquartile_mean,
}
"""Aggregates of human-normalized scores, by name."""

SAME_TASK = frozenset({"episodic_life", "reward_clip", "timeout", "processes"})
"""Environment options that change how an agent learns but not how it is scored."""
SAME_GAME = frozenset({"repeat_action_probability", "full_action_space"})
"""Environment options under which Atari scores are still compared with human scores."""
EVALUATION_SHARE = 0.1
"""Steps of an evaluation without `eval_max_steps`, as a share of the steps of training."""
MIN_EPISODE_STEPS = 3_000
"""Steps that each game may take in any case; except on Atari most episodes are shorter."""
BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


class EvaluationStopped(Exception):
    """Raised when an evaluation is stopped before all episodes were played."""


def evaluate(
    player: Player,
    settings: Settings,
    params: Any,
    key: jax.Array,
    *,
    quiet: bool = True,
    stopped: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Evaluate the greedy and the exploring policy over episodes on new environments.

    Args:
      player: environment and network of the run.
      settings: settings of the run, which give the number of episodes, their step limit (see
        `episode_limit`) and the policy that counts.
      params: variables of the network.
      key: random key.
      quiet: show no progress bar. Otherwise a bar with the remaining time appears after a second.
      stopped: function that returns whether to stop. It is called after each step of host
        environments, and about four times a second on JAX environments.

    Returns:
      `eval_policy`, the policy that counts, and for it `eval_return_mean`, `eval_return_std`,
      `eval_episodes`, `eval_episodes_cut` and `eval_return_interval`: the 95 % bootstrap interval
      of the mean over episodes, None for a single episode. For each policy by name: mean and
      standard deviation of the return, mean length, and the number of cut episodes. For Atari games
      also `eval_human_normalized`, and the same for each policy: percent of a human tester's score
      from no-op starts. Means include the cut episodes, with the return they had.

    Raises:
      EvaluationStopped: if `stopped` returned True.
      InputError: if `settings.eval_episodes` is 0.
    """
    check_integer("eval_episodes of an evaluation", settings.eval_episodes, 1, MAX_EPISODES)
    env = evaluation_env(player, settings)
    results = _play(player, env, settings, params, key, quiet, stopped)
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

        # Every policy by name, and once more without a name the policy that counts.
        prefix = f"eval_{policy.replace('-', '_')}"
        summary |= {f"{prefix}_{name}": value for name, value in statistics.items()}
        summary[f"{prefix}_episode_length_mean"] = float(np.mean(result.lengths))
        if policy == settings.eval_policy:
            summary |= {f"eval_{name}": value for name, value in statistics.items()}
            summary["eval_return_interval"] = _interval(result.returns[:, None], scores.mean)
    return summary


def _play(
    player: Player,
    env: Any,
    settings: Settings,
    params: Any,
    key: jax.Array,
    quiet: bool,
    stopped: Callable[[], bool],
) -> dict[str, Evaluation]:
    """Play the episodes of an evaluation with a progress bar, and return the results by policy."""
    policies = settings.POLICIES
    count = settings.eval_episodes
    limit = episode_limit(settings)
    total = len(policies) * count
    results: dict[str, Evaluation] = {}

    # The bar counts policies, in fractions.
    with tqdm(
        total=len(policies),
        desc="evaluation",
        bar_format=BAR,
        smoothing=0,  # average over all steps: the bar jumps when a game ends
        delay=1.0,
        miniters=0,
        disable=quiet,
        file=Terminal(),
    ) as bar:

        def progress(standing: Standing) -> None:
            number = len(results)  # policies that have played
            if standing.steps == 1:  # the first step compiled: leave it out of the estimate
                bar.unpause()
            bar.set_postfix_str(
                f"{number * count + standing.ended} of {total} games", refresh=False
            )
            # The share of this policy that is done, estimated in steps.
            share = standing.steps / (standing.steps + standing.remaining)
            bar.update(number + share - bar.n)
            if stopped():
                raise EvaluationStopped

        play = evaluator_of_policies(
            env,
            player.network,
            num_episodes=count,
            policies=policies,
            progress=progress,
            max_episode_steps=limit,
        )
        for policy in policies:
            results[policy] = play(params, key, policy)
    return results


def episode_limit(settings: Settings) -> int:
    """Return the number of steps after which an evaluation cuts a game.

    The games of all policies share `eval_max_steps` equally. If it is None they share
    `EVALUATION_SHARE` of the steps of training, but each game may take `MIN_EPISODE_STEPS`. A short
    run on Atari is thus not evaluated for longer than it trained, and on most other tasks no game
    is cut. The limit counts steps, not seconds, so that every machine gives the same result.

    Args:
      settings: settings of the run.

    Returns:
      The limit in environment steps, at least 1.
    """
    games = max(1, settings.eval_episodes) * len(settings.POLICIES)
    if settings.eval_max_steps is not None:
        return max(1, settings.eval_max_steps // games)
    return max(MIN_EPISODE_STEPS, int(EVALUATION_SHARE * settings.total_timesteps) // games)


def _tell_nonfinite(env_id: str, results: dict[str, Evaluation]) -> None:
    """Warn of returns that are not finite; the summary has null for their mean."""
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
            f"warning: {env_id} returned rewards that are not finite in {' and '.join(found)} "
            "games; these policies have no mean return"
        )


def evaluate_run(
    run: RunDirectory,
    *,
    num_episodes: int,
    seed: int,
    quiet: bool = True,
    which: str = "last",
    max_steps: int | None = None,
    parts: Parts = NO_PARTS,
) -> dict[str, Any]:
    """Evaluate the parameters of a run.

    Args:
      run: directory of a run that has ended.
      num_episodes: complete episodes for each policy, at least 1.
      seed: seed of start states and sampled actions.
      quiet: show no progress bar.
      which: checkpoint to evaluate, `"last"` or `"best"`.
      max_steps: environment steps of the whole evaluation, shared equally by its games; None plays
        whole games.
      parts: the user's own environment and network, if the run was trained with them.

    Returns:
      As `evaluate`.

    Raises:
      InputError: if the folder holds no run that has ended, or an argument is out of range.
    """
    check_kind("run", run, RunDirectory)
    check_integer("episodes", num_episodes, 1, MAX_EPISODES)
    check_integer("seed", seed, 0)
    if max_steps is not None:
        check_integer("max_steps", max_steps, 1, MAX_STEPS)

    player, settings, params = load(run, which, parts)

    # Replace the limits of the training run: its `eval_max_steps` would cut games.
    most = MAX_STEPS if max_steps is None else max_steps
    settings = dataclasses.replace(settings, eval_episodes=num_episodes, eval_max_steps=most)
    return evaluate(player, settings, params, jax.random.key(seed), quiet=quiet)


def evaluate_runs(
    paths: Sequence[Path],
    *,
    num_episodes: int,
    seed: int,
    quiet: bool = True,
    which: str = "last",
    max_steps: int | None = None,
) -> dict[str, Any]:
    """Evaluate several runs and aggregate their results.

    Args:
      paths: folders of runs that have ended, without duplicates.
      num_episodes: as in `evaluate_run`.
      seed: as in `evaluate_run`.
      quiet: show no progress bar.
      which: as in `evaluate_run`.
      max_steps: as in `evaluate_run`, for each run.

    Returns:
      `runs`: the result of `evaluate_run` by path. `aggregate`: the result of `aggregate` by
      method.

    Raises:
      InputError: as `evaluate_run`. The configurations of all folders are read before the first
        evaluation.
    """
    # Read every configuration first, so that a wrong folder is refused at once.
    runs = [RunDirectory(path) for path in paths]
    configs = [run.config() for run in runs]
    made_by = [(method, task_of(env_id, settings)) for method, env_id, settings in configs]
    options: Any = {"num_episodes": num_episodes, "seed": seed, "quiet": quiet, "which": which}
    options["max_steps"] = max_steps
    results = [evaluate_run(run, **options) for run in runs]

    # Aggregate over the runs of each method, grouped by task.
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
    """Aggregate the returns of several runs of one method.

    Args:
      returns: for each task (see `task_of`), the mean return of each run.

    Returns:
      `environments`: for each task, the number of runs and the interquartile mean of their returns
      with its 95 % bootstrap interval. If all tasks are Atari games with the same number of runs,
      also `human_normalized`: mean, median and interquartile mean of the scores in percent over
      runs and games, with stratified intervals. An interval is None if there is only one run. If a
      return is not finite, the figures of its task are None and `human_normalized` is missing.

    References:
      Agarwal et al. (2021), "Deep Reinforcement Learning at the Edge of the Statistical Precipice".

    Example:
      >>> both = aggregate({"envpool:Pong-v5": [14.6], "envpool:Breakout-v5": [1.7]})
      >>> both["human_normalized"]["mean"], both["environments"]["envpool:Pong-v5"]["runs"]
      (50.0, 1)
    """
    # Interquartile mean over the runs of each task.
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

    # Human-normalized scores need Atari games only, equally many runs of each and finite returns.
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


def load(
    run: RunDirectory, which: str = "last", parts: Parts = NO_PARTS
) -> tuple[Player, Settings, Params]:
    """Return what plays in a run, its settings and the variables of a checkpoint."""
    _, env_id, settings = run.config()
    check_own_parts(run, parts, ("env", "network"))
    try:
        player = build_player(env_id, settings, parts)
    except InputError as error:  # the run may come from another version or machine
        raise InputError(f"{run.path / 'config.json'} cannot be built here: {error}") from error
    return player, settings, run.load_params(player.params_like(), which)


def task_of(env_id: str, settings: Settings) -> str:
    """Return the environment id, followed by the sorted options on which scores depend."""
    options = (
        option for option in settings.env_options if option.partition("=")[0] not in SAME_TASK
    )
    return " ".join([env_id, *sorted(options)])


def atari_game(task: str) -> str | None:
    """Return the name of the Atari game if its scores are compared with human scores, else None."""
    env_id, *options = task.split()
    same = all(option.partition("=")[0] in SAME_GAME for option in options)
    return scores.game_of(env_id) if same else None


def _interval(columns: np.ndarray, function: Any) -> list[float] | None:
    """Return the 95 % bootstrap interval over rows; None for one row or values not finite."""
    if len(columns) < 2 or not np.isfinite(columns).all():
        return None
    return [float(end) for end in scores.bootstrap_interval(columns, function)]
