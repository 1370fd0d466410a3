"""Scores against the paper's own tables and hand-worked numbers."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from jax_a3c import scores
from jax_a3c.checks import InputError

# Of Mnih et al. (2016): column of Table S3 -> mean and median of Table 1, in percent. The rows of DQN and
# Gorila are over 49 games with reference scores of their own.
TABLE_1 = {
    "Double": (332.9, 110.9),
    "Dueling": (343.8, 117.1),
    "Prioritized": (463.6, 127.6),
    "A3C_FF_1day": (344.1, 68.2),
    "A3C_FF_4day": (496.8, 116.6),
    "A3C_LSTM_4day": (623.0, 112.6),
}


def table_s3():
    lines = (Path(__file__).parent / "data" / "a3c_table_s3.csv").read_text().splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def paper_scores(column):
    """Names of the 57 games as the paper spells them, and its scores on them as one run."""
    rows = table_s3()
    return [row["game"] for row in rows], np.array([[float(row[column]) for row in rows]])


# The table.


@pytest.mark.parametrize("column", TABLE_1)
def test_table_1_of_the_paper_follows_from_its_table_s3(column):
    percent = scores.human_normalized(*paper_scores(column), starts="human")
    assert percent.shape == (1, 57)
    mean, median = TABLE_1[column]
    assert np.mean(percent) == pytest.approx(mean, abs=0.2)
    assert np.median(percent) == pytest.approx(median, abs=0.2)


@pytest.mark.parametrize("column", [column for column in TABLE_1 if column.startswith("A3C")])
def test_with_the_published_random_score_of_video_pinball_table_1_would_not_follow(column, monkeypatch):
    monkeypatch.setattr(scores, "IMPLIED_RANDOM", {})
    percent = scores.human_normalized(*paper_scores(column), starts="human")
    assert abs(np.mean(percent) - TABLE_1[column][0]) > 50
    assert abs(np.median(percent) - TABLE_1[column][1]) > 1


def test_video_pinball_differs_from_its_published_scores_in_one_number():
    assert scores.reference_scores("VideoPinball", starts="human") == (0.0, 15641.1)
    assert scores.reference_scores("VideoPinball", starts="noop") == (16256.9, 17667.9)
    assert scores.human_normalized("Video Pinball", 15641.1 / 2, starts="human") == pytest.approx(50.0)


def test_the_human_start_references_are_those_printed_beside_table_s3():
    for row in table_s3():
        if row["game"] != "Video Pinball":
            printed = (float(row["random_humanstart"]), float(row["human_humanstart"]))
            assert scores.reference_scores(row["game"], starts="human") == printed


@pytest.mark.parametrize("starts", ["noop", "human"])
def test_every_human_is_better_than_random(starts):
    assert len(scores.games()) == 57
    for game in scores.games():
        random, human = scores.reference_scores(game, starts=starts)
        assert human > random
        assert scores.human_normalized(game, [random, human], starts=starts) == pytest.approx([0.0, 100.0])


@pytest.mark.parametrize(
    ("game", "same"),
    [
        ("Pong-v5", "Pong"),
        ("pong", "Pong"),
        ("PongNoFrameskip-v4", "Pong"),
        ("PongDeterministic-v4", "Pong"),
        ("envpool:SpaceInvaders-v5", "SpaceInvaders"),
        ("gymnasium:ALE/SpaceInvaders-v5", "SpaceInvaders"),
        ("space_invaders", "SpaceInvaders"),
        ("Q*bert", "Qbert"),
        ("H.E.R.O.", "Hero"),
        ("Up and Down", "UpNDown"),
        ("Montezuma's Revenge", "MontezumaRevenge"),
    ],
)
def test_the_spellings_of_the_field_are_one_game(game, same):
    assert same in scores.games()
    assert scores.reference_scores(game) == scores.reference_scores(same)


@pytest.mark.parametrize(
    ("game", "message"),
    [
        ("Pnog", "unknown game 'Pnog'; did you mean 'Pong'?"),
        ("envpool:SpaceInvader-v5", "unknown game 'envpool:SpaceInvader-v5'; did you mean 'SpaceInvaders'?"),
        ("gymnax:Breakout-MinAtar", "unknown game 'gymnax:Breakout-MinAtar'"),  # another game, other points
        ("CartPole-v1", r"unknown game 'CartPole-v1'; `scores.games\(\)` lists"),
        ("", "unknown game ''"),
        (5, "game must be a name such as 'Pong', got 5"),
        (["Pong", "Pnog"], "unknown game 'Pnog'"),
    ],
)
def test_an_unknown_game_is_refused_with_the_nearest(game, message):
    with pytest.raises(InputError, match=message):
        scores.human_normalized([5] if game == 5 else game, [1.0, 2.0])


def test_normalised_scores_keep_their_shape():
    assert scores.human_normalized("Pong", 14.6) == 100.0
    assert scores.human_normalized("Pong", np.zeros((3, 2), np.float32)).shape == (3, 2)
    columns = scores.human_normalized(["Pong", "Breakout"], [[14.6, 1.7], [-20.7, 30.5], [14.6, 59.3]])
    np.testing.assert_allclose(columns, [[100.0, 0.0], [0.0, 100.0], [100.0, 200.0]], atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("Pong", 1.0, "noops"), "starts must be one of noop, human, got 'noops'; did you mean 'noop'?"),
        (("Pong", math.nan), "score must be finite, got nan$"),
        (("Pong", [1.0, math.inf]), r"score must be finite, got inf at \(1,\)"),
        (("Pong", "many"), "score must be numbers, got 'many'"),
        (("Pong", [[1.0], [1.0, 2.0]]), "score must be numbers"),
        ((["Pong", "Qbert"], [1.0, 2.0, 3.0]), r"a column for each game, \[\*B, 2\], got shape \(3,\)"),
        ((["Pong", "Qbert"], 1.0), r"got shape \(\)"),
    ],
)
def test_normalising_refuses_by_name(arguments, message):
    game, score, *starts = arguments
    with pytest.raises(InputError, match=message):
        scores.human_normalized(game, score, **({"starts": starts[0]} if starts else {}))
