"""Scores of Atari games as the field reports them: human-normalised, over runs and games, with intervals.

NumPy on the host. The scores of several runs on several games are one array `[runs, games]`: a column is a
game, its rows are runs that differ in nothing but the seed. An aggregate takes any number of batch axes
before these two, `[*B, runs, games]`.
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

from jax_a3c.checks import InputError, check_choice, check_integer, check_number

# scipy.stats is imported where it is used: it loads for longer than all else here together.

COLUMNS = {
    "noop": ("random_noop", "human_noop"),
    "human": ("random_humanstart", "human_humanstart"),
}
"""By how an episode starts, the columns of the table."""
IMPLIED_RANDOM = {("VideoPinball", "human"): 0.0}
"""In place of the table's random score. The published one of Video Pinball from human starts, 20452, exceeds
the human tester's, 15641.1; Table 1 of Mnih et al. (2016) comes out of their Table S3 with 0."""
SPELLINGS = {"upanddown": "upndown", "montezumasrevenge": "montezumarevenge"}
"""Names in papers that differ from the environments' in more than case and punctuation."""
MAX_RESAMPLED = 4_000_000
"""Scores that `bootstrap_interval` draws at once, to bound its memory."""


class Reference(NamedTuple):
    """What the scores of a game are measured against, in points of the game.

    Attributes:
      random: score of a random agent, 0 %.
      human: score of a human tester, 100 %.
    """

    random: float
    human: float


class Interval(NamedTuple):
    """A confidence interval, in the unit of the scores.

    Attributes:
      low: its lower end.
      high: its upper end.
    """

    low: float
    high: float


def games() -> list[str]:
    """Names of the 57 games, as in the ids of environments without their version, sorted."""
    return sorted(_name(row) for row in _table().values())


def game_of(env_id: str) -> str | None:
    """Name of the game that an environment's id stands for, `envpool:Pong-v5`, None if for none of them."""
    name = env_id.removeprefix("envpool:").removesuffix("-v5")
    return name if env_id == f"envpool:{name}-v5" and name in games() else None


def reference_scores(game: str, *, starts: str = "noop") -> Reference:
    """Scores of a random agent and of a human tester on one game.

    Args:
      game: its name, as in the ids of environments or in papers: `SpaceInvaders`, `SpaceInvaders-v5`,
        `envpool:SpaceInvaders-v5`, `ALE/SpaceInvaders-v5`, `SpaceInvadersNoFrameskip-v4`, `space_invaders`
        and `Space Invaders` are the same.
      starts: `"noop"`, episodes that begin with up to 30 no-ops, or `"human"`, those that begin where a
        human had played to, as in the paper; those trajectories were never published.

    Returns:
      The two scores. From human starts the random score on Video Pinball is 0, as the paper's Table 1
      implies.

    Raises:
      InputError: if the game is none of `games()`, or `starts` is neither of the two.

    References:
      No-op starts: Wang et al. (2016), Table 2. Human starts: Table 3 there.

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
    r"""Scores in percent of the way from a random agent to a human tester.

        100 (score - random) / (human - random)

    Percent as in the paper; rliable and Dopamine call a hundredth of it by the same name.

    Args:
      game: a name as in `reference_scores`; or a sequence of them, one for each column of `score`.
      score: `[*B]` float, of one game; or `[*B, games]`, with as many columns as names. Undiscounted,
        unclipped, in points of the game.
      starts: `"noop"` or `"human"`, as in `reference_scores`: how the episodes began that gave `score`.

    Returns:
      float64 of the shape of `score`, in percent.

    Raises:
      InputError: if a game or `starts` is unknown, if a score is no finite number, or if there is not one
        column for each name.

    References:
      Mnih et al. (2015), Figure 3; from human starts: Mnih et al. (2016), Table 1.

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
    references = np.array([reference_scores(name, starts=starts) for name in game]).reshape(-1, 2)
    if score.shape[-1:] != references.shape[:1]:
        raise InputError(
            f"score must have a column for each game, [*B, {len(references)}], got shape {score.shape}"
        )
    return 100.0 * (score - references[:, 0]) / (references[:, 1] - references[:, 0])


def mean(scores: ArrayLike) -> Any:
    """Mean over runs and games.

    Args:
      scores: `[*B, runs, games]` float, in one unit for all games.

    Returns:
      `[*B]` float64, in the unit of the scores.

    Raises:
      InputError: if `scores` has another shape, is empty, or holds what is no finite number.

    References:
      Agarwal et al. (2021), 4.3.

    Example:
      >>> print(mean([[1.0, 2.0, 9.0]]))
      4.0
    """
    return _runs_by_games(scores).mean(axis=(-2, -1))


def median(scores: ArrayLike) -> Any:
    """Median over games of the mean over runs.

    Args:
      scores: `[*B, runs, games]` float, in one unit for all games.

    Returns:
      `[*B]` float64, in the unit of the scores.

    Raises:
      InputError: as `mean`.

    References:
      Agarwal et al. (2021), 4.3; of human-normalised scores: Mnih et al. (2016), Table 1.

    Example:
      >>> print(median([[1.0, 2.0, 9.0], [3.0, 4.0, 9.0]]))
      3.0
    """
    return np.median(_runs_by_games(scores).mean(axis=-2), axis=-1)


def interquartile_mean(scores: ArrayLike) -> Any:
    r"""Mean of the middle half of all scores, runs and games pooled.

        1 / (n - 2k) sum_{i = k+1}^{n-k} x_(i),    n = runs * games,    k = floor(n / 4)

    It ignores outliers as the median does, and needs fewer runs for an equally narrow interval.

    Args:
      scores: `[*B, runs, games]` float, in one unit for all games.

    Returns:
      `[*B]` float64, in the unit of the scores.

    Raises:
      InputError: as `mean`.

    References:
      Agarwal et al. (2021), "Deep Reinforcement Learning at the Edge of the Statistical Precipice", 4.3.

    Example:
      >>> print(interquartile_mean([[0.0, 1.0], [3.0, 100.0]]))
      2.0
    """
    from scipy.stats import trim_mean

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
    r"""Interval for an aggregate over runs and games, by the stratified bootstrap.

        [q_(1-c)/2, q_(1+c)/2] of aggregate(x*),    x*_{r, g} drawn uniformly from x_{., g}

    Each game is a stratum: its runs are drawn again from its own, independently of the other games. It tells
    what other seeds on the same games would give, not what other games would. With few runs it is too
    narrow: of 1000 synthetic intervals with c = 0.9, 85 % held the true interquartile mean with 5 runs, 88 %
    with 10 and 89 % with 20.

    Args:
      scores: `[runs, games]` float, at least two runs, in one unit for all games.
      aggregate: from `[*B, runs, games]` to `[*B]`: `interquartile_mean`, `mean`, `median`, or your own.
      confidence: c, in (0, 1].
      num_resamples: at least 2.
      seed: integer of at least 0, which gives the same interval each time; or a generator, which is advanced.

    Returns:
      The interval, in the unit of the aggregate.

    Raises:
      InputError: if a value is refused, or `aggregate` returns another shape.

    References:
      Agarwal et al. (2021), 4.1; `get_interval_estimates` of rliable with its defaults.

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
        del axis  # the last of each column, [resamples, runs]
        resamples = np.stack(columns, axis=-1)
        values = np.asarray(aggregate(resamples))
        if values.shape != resamples.shape[:1]:
            raise InputError(
                "aggregate must map [*B, runs, games] to [*B]; "
                f"it mapped shape {resamples.shape} to {values.shape}"
            )
        return values

    interval = bootstrap(
        tuple(
            scores.T
        ),  # a sample for each game, and paired=False: drawn independently of each other
        statistic,
        paired=False,
        vectorized=True,
        method="percentile",
        confidence_level=confidence,
        n_resamples=num_resamples,
        batch=max(1, MAX_RESAMPLED // scores.size),
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(interval.low), float(interval.high))


@functools.cache
def _table() -> dict[str, dict[str, str]]:
    """Rows of the packaged table by the `_key` of their game."""
    file = importlib.resources.files("jax_a3c") / "data" / "atari_human_random.csv"
    lines = file.read_text(encoding="utf-8").splitlines()
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    return {_key(row["envpool_id"]): row for row in rows}


def _name(row: dict[str, str]) -> str:
    return row["envpool_id"].removesuffix("-v5")


def _key(game: str) -> str:
    """A name in lower case without back end, version and punctuation: one for all spellings."""
    if not isinstance(game, str):
        raise InputError(f"game must be a name such as 'Pong', got {game!r}")
    name = re.sub(r"^.*[:/]|(NoFrameskip|Deterministic)?-v\d+$", "", game)
    key = re.sub(r"[^a-z0-9]", "", name.lower())
    return SPELLINGS.get(key, key)


def _suggestion(game: str) -> str:
    near = difflib.get_close_matches(_key(game), _table(), n=1)
    if not near:
        return "`scores.games()` lists the 57 of the table"
    return f"did you mean {_name(_table()[near[0]])!r}?"


def _finite(name: str, values: ArrayLike) -> np.ndarray:
    """The values in float64; refuses what is no finite number."""
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be numbers, got {values!r}") from None
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        where = f" at {tuple(bad[0].tolist())}" if array.ndim else ""
        raise InputError(f"{name} must be finite, got {array[tuple(bad[0])]}{where}")
    return array


def _runs_by_games(scores: ArrayLike) -> np.ndarray:
    array = _finite("scores", scores)
    if array.ndim < 2 or not array.size:
        raise InputError(
            f"scores must be [*B, runs, games] with at least one of each, got shape {array.shape}; "
            "a single run of all games is [1, games]"
        )
    return array
