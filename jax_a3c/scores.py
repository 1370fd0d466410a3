"""Scores of Atari games as the field reports them: human-normalised. NumPy on the host."""

import csv
import difflib
import functools
import importlib.resources
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jax_a3c.checks import InputError, check_choice

COLUMNS = {"noop": ("random_noop", "human_noop"), "human": ("random_humanstart", "human_humanstart")}
"""By how an episode starts, the columns of the table."""
IMPLIED_RANDOM = {("VideoPinball", "human"): 0.0}
"""In place of the table's random score. The published one of Video Pinball from human starts, 20452, exceeds
the human tester's, 15641.1; Table 1 of Mnih et al. (2016) comes out of their Table S3 with 0."""
SPELLINGS = {"upanddown": "upndown", "montezumasrevenge": "montezumarevenge"}
"""Names in papers that differ from the environments' in more than case and punctuation."""


class Reference(NamedTuple):
    """What the scores of a game are measured against, in points of the game.

    Attributes:
      random: score of a random agent, 0 %.
      human: score of a human tester, 100 %.
    """

    random: float
    human: float


def games() -> list[str]:
    """Names of the 57 games, as in the ids of environments without their version, sorted."""
    return sorted(_name(row) for row in _table().values())


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
