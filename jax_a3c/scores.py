"""Human-normalised Atari scores, their aggregates over runs and games, and confidence intervals.

All functions use NumPy. The scores of several runs on several games are one array `[runs, games]`.
Each column is a game. Each row is a run, and runs differ only in their seed. Aggregates accept any
number of batch axes before these two, `[*B, runs, games]`.
"""

import csv
import difflib
import functools
import importlib.resources
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jax_a3c.checks import check_choice, check_integer, check_number
from jax_a3c.errors import InputError

# Functions import scipy.stats where they use it, because it loads slower than all other imports
# here.

COLUMNS = {
    "noop": ("random_noop", "human_noop"),
    "human": ("random_humanstart", "human_humanstart"),
}
"""Columns of the table, by how an episode starts."""
IMPLIED_RANDOM = {("VideoPinball", "human"): 0.0}
"""Random scores that replace the published ones.

For Video Pinball from human starts, the published random score, 20452, is above the human score,
15641.1. With a random score of 0, Table S3 of Mnih et al. (2016) gives their Table 1.
"""
SPELLINGS = {"upanddown": "upndown", "montezumasrevenge": "montezumarevenge"}
"""Names in papers that differ from the environment ids in more than case and punctuation."""
MAX_RESAMPLED = 4_000_000
"""Number of scores that `bootstrap_interval` draws at once, which limits its memory."""


class Reference(NamedTuple):
    """Reference scores of a game, in points of the game.

    Attributes:
      random: score of a random agent, which counts as 0 %.
      human: score of a human tester, which counts as 100 %.
    """

    random: float
    human: float


class Interval(NamedTuple):
    """Confidence interval, in the unit of the scores.

    Attributes:
      low: lower end.
      high: upper end.
    """

    low: float
    high: float


def games() -> list[str]:
    """Return the sorted names of the 57 games, as in environment ids without the version."""
    return sorted(_name(row) for row in _table().values())


def game_of(env_id: str) -> str | None:
    """Return the game of an environment id such as `envpool:Pong-v5`; None for other ids."""
    name = env_id.removeprefix("envpool:").removesuffix("-v5")
    return name if env_id == f"envpool:{name}-v5" and name in games() else None


def reference_scores(game: str, *, starts: str = "noop") -> Reference:
    """Return the scores of a random agent and of a human tester on one game.

    Args:
      game: name of the game, as in environment ids or in papers. `SpaceInvaders`,
        `SpaceInvaders-v5`, `envpool:SpaceInvaders-v5`, `ALE/SpaceInvaders-v5`,
        `SpaceInvadersNoFrameskip-v4`, `space_invaders` and `Space Invaders` are the same game.
      starts: `"noop"` for episodes that begin with up to 30 no-ops. `"human"` for episodes that
        begin at a state from a human game, as in the paper; these starts were never published.

    Returns:
      The two scores. The random score of Video Pinball from human starts is 0, as Table 1 of the
      paper implies.

    Raises:
      InputError: if `games()` does not list the game, or `starts` is unknown.

    References:
      Wang et al. (2016), Table 2 for no-op starts and Table 3 for human starts.

    Example:
      >>> reference_scores("Pong-v5")
      Reference(random=-20.7, human=14.6)
    """
    check_choice("starts", starts, COLUMNS)
    row = _table().get(_key(game))
    if row is None:
        raise InputError(f"unknown game {game!r}; {_suggestion(game)}")
    random, human = (float(row[column]) for column in COLUMNS[starts])
    return Reference(IMPLIED_RANDOM.get((_name(row), starts), random), human)


def human_normalized(game: str | Sequence[str], score: ArrayLike, *, starts: str = "noop") -> Any:
    r"""Return human-normalised scores: 0 % is a random agent, 100 % a human tester.

        100 (score - random) / (human - random)

    The unit is percent, as in the paper. rliable and Dopamine use the same name for a fraction,
    which is a hundredth of it.

    Args:
      game: name as in `reference_scores`, or a sequence of names, one for each column of `score`.
      score: `[*B]` float for one game, or `[*B, games]` for a sequence of names. Undiscounted and
        unclipped returns, in points of the game.
      starts: how the episodes of `score` began, `"noop"` or `"human"` as in `reference_scores`.

    Returns:
      float64 array with the shape of `score`, in percent.

    Raises:
      InputError: if a game or `starts` is unknown, if a score is not a finite number, or if the
        columns do not match the names.

    References:
      Mnih et al. (2015), Figure 3; Mnih et al. (2016), Table 1, for human starts.

    Example:
      >>> print(human_normalized("Breakout", 30.5), human_normalized("Breakout", 1.7))
      100.0 0.0
      >>> human_normalized(["Pong", "Qbert"], [[14.6, 163.9], [-20.7, 13455.0]]).tolist()
      [[100.0, 0.0], [0.0, 100.0]]
    """
    score = _finite("score", score)
    if isinstance(game, str):
        random, human = reference_scores(game, starts=starts)
        return 100.0 * (score - random) / (human - random)

    # One row (random, human) for each game: [games, 2].
    references = np.array([reference_scores(name, starts=starts) for name in game]).reshape(-1, 2)
    if score.shape[-1:] != references.shape[:1]:
        raise InputError(
            f"score must have a column for each game, [*B, {len(references)}], "
            f"got shape {score.shape}"
        )
    return 100.0 * (score - references[:, 0]) / (references[:, 1] - references[:, 0])


def mean(scores: ArrayLike) -> Any:
    """Return the mean over runs and games.

    Args:
      scores: `[*B, runs, games]` float, in one unit for all games.

    Returns:
      `[*B]` float64, in the unit of the scores.

    Raises:
      InputError: if `scores` has another shape, is empty, or holds a value that is not finite.

    References:
      Agarwal et al. (2021), 4.3.

    Example:
      >>> print(mean([[1.0, 2.0, 9.0]]))
      4.0
    """
    return _runs_by_games(scores).mean(axis=(-2, -1))


def median(scores: ArrayLike) -> Any:
    """Return the median over games of the mean over runs.

    Args:
      scores: `[*B, runs, games]` float, in one unit for all games.

    Returns:
      `[*B]` float64, in the unit of the scores.

    Raises:
      InputError: as `mean`.

    References:
      Agarwal et al. (2021), 4.3; Mnih et al. (2016), Table 1, for human-normalised scores.

    Example:
      >>> print(median([[1.0, 2.0, 9.0], [3.0, 4.0, 9.0]]))
      3.0
    """
    return np.median(_runs_by_games(scores).mean(axis=-2), axis=-1)


def interquartile_mean(scores: ArrayLike) -> Any:
    r"""Return the interquartile mean (IQM): the mean of the middle half of all scores.

        1 / (n - 2k) sum_{i = k+1}^{n-k} x_(i),    n = runs * games,    k = floor(n / 4)

    x_(i) is the i-th smallest of the pooled scores. The IQM ignores outliers like the median, and
    needs fewer runs for an equally narrow interval.

    Args:
      scores: `[*B, runs, games]` float, in one unit for all games.

    Returns:
      `[*B]` float64, in the unit of the scores.

    Raises:
      InputError: as `mean`.

    References:
      Agarwal et al. (2021), "Deep Reinforcement Learning at the Edge of the Statistical
      Precipice", 4.3.

    Example:
      >>> print(interquartile_mean([[0.0, 1.0], [3.0, 100.0]]))
      2.0
    """
    from scipy.stats import trim_mean

    # [*B, runs, games] -> [*B, runs * games]
    scores = _runs_by_games(scores)
    return trim_mean(scores.reshape(*scores.shape[:-2], -1), 0.25, axis=-1)


def bootstrap_interval(
    scores: ArrayLike,
    aggregate: Callable[[np.ndarray], Any] = interquartile_mean,
    *,
    confidence: float = 0.95,
    num_resamples: int = 50_000,
    seed: int | np.random.Generator = 0,
) -> Interval:
    r"""Return a confidence interval of an aggregate, by the stratified bootstrap.

        [q_(1-c)/2, q_(1+c)/2] of aggregate(x*),    x*_{r, g} drawn uniformly from x_{., g}

    Each game is a stratum: the bootstrap resamples the runs of each game independently. The
    interval covers other seeds on the same games, but not other games. It is too narrow with few
    runs. Of 1000 synthetic intervals with c = 0.9, the share that contained the true interquartile
    mean was 85 % with 5 runs, 88 % with 10 and 89 % with 20.

    Args:
      scores: `[runs, games]` float with at least 2 runs, in one unit for all games.
      aggregate: maps `[*B, runs, games]` to `[*B]`; `interquartile_mean`, `mean`, `median`, or your
        own function.
      confidence: c, in (0, 1]. Nominal coverage of the interval.
      num_resamples: number of resamples, at least 2.
      seed: integer of at least 0, for the same interval on each call; or a generator, which the
        call advances.

    Returns:
      The interval, in the unit of the aggregate.

    Raises:
      InputError: if an argument is out of range, or `aggregate` returns another shape.

    References:
      Agarwal et al. (2021), 4.1; rliable's `get_interval_estimates` with its default settings.

    Example:
      >>> low, high = bootstrap_interval([[10.0, 50.0], [12.0, 70.0], [14.0, 60.0]], mean)
      >>> low < 36.0 < high
      True
    """
    from scipy.stats import bootstrap

    scores = _runs_by_games(scores)
    if scores.ndim != 2 or len(scores) < 2:
        raise InputError(
            f"scores must be [runs, games] with at least 2 runs, got shape {scores.shape}"
        )
    check_number("confidence", confidence, above=0.0, high=1.0)
    check_integer("num_resamples", num_resamples, 2)
    if not isinstance(seed, np.random.Generator):
        check_integer("seed", seed, 0)

    def statistic(*columns: np.ndarray, axis: int) -> np.ndarray:
        del axis  # the last axis of each column, [resamples, runs]
        resamples = np.stack(columns, axis=-1)  # [resamples, runs, games]
        values = np.asarray(aggregate(resamples))
        if values.shape != resamples.shape[:1]:
            raise InputError(
                "aggregate must map [*B, runs, games] to [*B]; "
                f"it mapped shape {resamples.shape} to {values.shape}"
            )
        return values

    # One sample per game; with paired=False each game is resampled independently.
    interval = bootstrap(
        tuple(scores.T),
        statistic,
        paired=False,
        vectorized=True,
        method="percentile",
        confidence_level=confidence,
        n_resamples=num_resamples,
        batch=max(1, MAX_RESAMPLED // scores.size),
        rng=np.random.default_rng(seed),
    ).confidence_interval
    # Percentiles (1 - c) / 2 and (1 + c) / 2.
    return Interval(float(interval.low), float(interval.high))


@functools.cache
def _table() -> dict[str, dict[str, str]]:
    """Return the rows of the packaged table, by the `_key` of their game."""
    file = importlib.resources.files("jax_a3c") / "data" / "atari_human_random.csv"
    lines = file.read_text(encoding="utf-8").splitlines()
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    return {_key(row["envpool_id"]): row for row in rows}


def _name(row: dict[str, str]) -> str:
    """Return the name of the game of a row."""
    return row["envpool_id"].removesuffix("-v5")


def _key(game: str) -> str:
    """Return one key for all spellings: lower case, no library, version or punctuation."""
    if not isinstance(game, str):
        raise InputError(f"game must be a name such as 'Pong', got {game!r}")

    # "ALE/Pong-v5" and "PongNoFrameskip-v4" -> "Pong"
    name = re.sub(r"^.*[:/]|(NoFrameskip|Deterministic)?-v\d+$", "", game)
    key = re.sub(r"[^a-z0-9]", "", name.lower())
    return SPELLINGS.get(key, key)


def _suggestion(game: str) -> str:
    """Return the part of an error message that names the nearest game."""
    near = difflib.get_close_matches(_key(game), _table(), n=1)
    if not near:
        return "`scores.games()` lists the 57 of the table"
    return f"did you mean {_name(_table()[near[0]])!r}?"


def _finite(name: str, values: ArrayLike) -> np.ndarray:
    """Return the values in float64; check that all are finite numbers."""
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be numbers, got {values!r}") from None

    # Name the first value that is NaN or infinite, and its index.
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        where = f" at {tuple(bad[0].tolist())}" if array.ndim else ""
        raise InputError(f"{name} must be finite, got {array[tuple(bad[0])]}{where}")
    return array


def _runs_by_games(scores: ArrayLike) -> np.ndarray:
    """Return the scores in float64; check that they are `[*B, runs, games]` and not empty."""
    array = _finite("scores", scores)
    if array.ndim < 2 or not array.size:
        raise InputError(
            f"scores must be [*B, runs, games] with at least one of each, got shape {array.shape}; "
            "a single run of all games is [1, games]"
        )
    return array
