"""Scores against the paper's tables, hand-computed numbers, scipy, rliable, full bootstraps."""

import csv
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jax_a3c import scores
from jax_a3c.errors import InputError

AGGREGATES = [scores.mean, scores.median, scores.interquartile_mean]
MATRICES = hnp.arrays(
    np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.floats(-1e4, 1e4)
)
# Mnih et al. (2016): column of Table S3 -> mean and median of Table 1, in percent. DQN and Gorila
# are left out: their rows cover 49 games and use other reference scores.
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
    """Return the 57 games as the paper spells them, and the scores of one column as one run."""
    rows = table_s3()
    return [row["game"] for row in rows], np.array([[float(row[column]) for row in rows]])


# The table.


@pytest.mark.parametrize("column", TABLE_1)
def test_table_1_of_the_paper_follows_from_its_table_s3(column):
    percent = scores.human_normalized(*paper_scores(column), starts="human")
    assert percent.shape == (1, 57)
    mean, median = TABLE_1[column]
    assert scores.mean(percent) == pytest.approx(mean, abs=0.2)
    assert scores.median(percent) == pytest.approx(median, abs=0.2)


@pytest.mark.parametrize("column", [column for column in TABLE_1 if column.startswith("A3C")])
def test_with_the_published_random_score_of_video_pinball_table_1_would_not_follow(
    column, monkeypatch
):
    monkeypatch.setattr(scores, "IMPLIED_RANDOM", {})
    percent = scores.human_normalized(*paper_scores(column), starts="human")
    assert abs(scores.mean(percent) - TABLE_1[column][0]) > 50
    assert abs(scores.median(percent) - TABLE_1[column][1]) > 1


def test_video_pinball_differs_from_its_published_scores_in_one_number():
    assert scores.reference_scores("VideoPinball", starts="human") == (0.0, 15641.1)
    assert scores.reference_scores("VideoPinball", starts="noop") == (16256.9, 17667.9)
    assert scores.human_normalized("Video Pinball", 15641.1 / 2, starts="human") == pytest.approx(
        50.0
    )


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
        assert scores.human_normalized(game, [random, human], starts=starts) == pytest.approx(
            [0.0, 100.0]
        )


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
        (
            "envpool:SpaceInvader-v5",
            "unknown game 'envpool:SpaceInvader-v5'; did you mean 'SpaceInvaders'?",
        ),
        (
            "gymnax:Breakout-MinAtar",
            "unknown game 'gymnax:Breakout-MinAtar'",
        ),  # another game
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
    columns = scores.human_normalized(
        ["Pong", "Breakout"], [[14.6, 1.7], [-20.7, 30.5], [14.6, 59.3]]
    )
    np.testing.assert_allclose(columns, [[100.0, 0.0], [0.0, 100.0], [100.0, 200.0]], atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("Pong", 1.0, "noops"),
            "starts must be one of noop, human, got 'noops'; did you mean 'noop'?",
        ),
        (("Pong", math.nan), "score must be finite, got nan$"),
        (("Pong", [1.0, math.inf]), r"score must be finite, got inf at \(1,\)"),
        (("Pong", "many"), "score must be numbers, got 'many'"),
        (("Pong", [[1.0], [1.0, 2.0]]), "score must be numbers"),
        (
            (["Pong", "Qbert"], [1.0, 2.0, 3.0]),
            r"a column for each game, \[\*B, 2\], got shape \(3,\)",
        ),
        ((["Pong", "Qbert"], 1.0), r"got shape \(\)"),
    ],
)
def test_normalising_refuses_by_name(arguments, message):
    game, score, *starts = arguments
    with pytest.raises(InputError, match=message):
        scores.human_normalized(game, score, **({"starts": starts[0]} if starts else {}))


# Aggregates.


def test_aggregates_by_hand():
    #         A     B     C     D
    runs = [[0.0, 10.0, 20.0, 1000.0], [2.0, 30.0, 10.0, 3000.0]]
    assert scores.mean(runs) == 4072.0 / 8
    assert scores.median(runs) == (15.0 + 20.0) / 2  # middle two of 1, 20, 15, 2000
    assert scores.interquartile_mean(runs) == (10.0 + 10.0 + 20.0 + 30.0) / 4


@pytest.mark.parametrize("n", range(1, 10))
def test_the_middle_half_of_a_number_that_four_does_not_divide(n):
    values = np.arange(n) ** 2.0
    kept = sorted(values)[n // 4 : n - n // 4]
    assert scores.interquartile_mean(values[None]) == pytest.approx(sum(kept) / len(kept))
    assert scores.interquartile_mean(values[:, None]) == pytest.approx(sum(kept) / len(kept))


@given(MATRICES)
def test_the_interquartile_mean_is_the_trimmed_mean_of_all_scores(matrix):
    expected = scipy.stats.trim_mean(matrix, 0.25, axis=None)  # as in rliable
    np.testing.assert_allclose(scores.interquartile_mean(matrix), expected, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_aggregates_take_batch_axes_and_leave_their_argument_alone(aggregate):
    batch = np.random.default_rng(0).normal(size=(2, 3, 5, 4))
    before = batch.copy()
    found = aggregate(batch)
    expected = [[aggregate(batch[i, j]) for j in range(3)] for i in range(2)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_array_equal(batch, before)


@pytest.mark.parametrize("aggregate", AGGREGATES)
@given(matrix=MATRICES, seed=st.integers(0, 100))
def test_aggregates_move_with_the_scores_and_do_not_know_the_order_of_runs(aggregate, matrix, seed):
    np.testing.assert_allclose(
        aggregate(3.0 * matrix + 2.0), 3.0 * aggregate(matrix) + 2.0, atol=1e-8
    )
    shuffled = np.random.default_rng(seed).permuted(matrix, axis=0)
    np.testing.assert_allclose(aggregate(shuffled), aggregate(matrix), atol=1e-8)


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, 2.0], r"scores must be \[\*B, runs, games\].*got shape \(2,\).*a single run"),
        (np.zeros((0, 3)), r"at least one of each, got shape \(0, 3\)"),
        (np.zeros((3, 0)), r"got shape \(3, 0\)"),
        ([[1.0, 2.0], [3.0, math.nan]], r"scores must be finite, got nan at \(1, 1\)"),
        ([["a"]], "scores must be numbers"),
    ],
)
def test_aggregates_refuse_by_name(aggregate, values, message):
    with pytest.raises(InputError, match=message):
        aggregate(values)


# The bootstrap.

# Five runs of four games with outliers, and the estimate and 95 % interval of rliable 1.2.0 from
# 200,000 resamples.
SKEWED = [
    [13.0, -4.0, 250.0, 0.0],
    [11.0, 7.0, 90.0, 0.5],
    [19.0, 2.0, 410.0, 0.1],
    [8.0, 5.0, 160.0, 3.0],
    [14.0, -1.0, 120.0, 0.2],
]
RLIABLE = {
    scores.interquartile_mean: (8.25, 6.27, 10.2),
    scores.mean: (55.39, 33.155, 82.81),
    scores.median: (7.4, 5.64, 9.8),
}


@pytest.mark.parametrize("aggregate", RLIABLE)
def test_estimates_and_intervals_are_those_of_rliable(aggregate):
    estimate, low, high = RLIABLE[aggregate]
    assert aggregate(SKEWED) == pytest.approx(estimate)
    # With 50,000 resamples an end varies between seeds by about 1 % of the width.
    interval = scores.bootstrap_interval(SKEWED, aggregate)
    np.testing.assert_allclose(interval, (low, high), atol=0.02 * (high - low))


def every_resample(matrix, aggregate):
    """Return the exact bootstrap distribution: all ways to redraw the runs of each game."""
    runs, games = matrix.shape
    draws = list(itertools.product(range(runs), repeat=runs))  # all draws of one game
    values = []
    for chosen in itertools.product(draws, repeat=games):  # games draw independently
        resample = [
            [matrix[chosen[game][run], game] for game in range(games)] for run in range(runs)
        ]
        values.append(float(aggregate(np.array(resample))))
    return np.array(values)


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95])
def test_the_interval_holds_the_quantiles_of_all_resamples(aggregate, confidence):
    matrix = np.array([[0.0, 5.3], [1.1, 2.0], [7.9, 3.2]])
    values = every_resample(matrix, aggregate)
    assert len(values) == (3**3) ** 2
    tail, slack = (
        (1 - confidence) / 2,
        0.005,
    )  # two standard errors of a quantile's level with 50,000 draws
    low, high = scores.bootstrap_interval(matrix, aggregate, confidence=confidence)
    assert (
        np.quantile(values, tail - slack) - 1e-9 <= low <= np.quantile(values, tail + slack) + 1e-9
    )
    assert (
        np.quantile(values, 1 - tail - slack) - 1e-9
        <= high
        <= np.quantile(values, 1 - tail + slack) + 1e-9
    )


def test_nine_of_ten_intervals_hold_the_truth():
    """Cover the true IQM with 90 % intervals: 20 runs on 5 games of different level and spread."""
    rng = np.random.default_rng(0)
    level, spread = np.array([0.0, 1.0, 1.5, 3.0, 50.0]), np.array([0.5, 1.0, 2.0, 1.0, 10.0])
    truth = scores.interquartile_mean(rng.normal(level, spread, size=(500_000, 5)))
    num_experiments = 200
    covered = 0
    for _ in range(num_experiments):
        low, high = scores.bootstrap_interval(
            rng.normal(level, spread, size=(20, 5)), confidence=0.9, num_resamples=1000, seed=rng
        )
        covered += low <= truth <= high
    # 1000 experiments gave 0.893; the standard error of 200 is 0.022.
    assert 0.83 <= covered / num_experiments <= 0.96


def test_games_without_spread_add_none():
    constant = np.tile([0.0, 10.0, 500.0], (4, 1))
    for aggregate in AGGREGATES:  # one pool for all games would give wide intervals
        low, high = scores.bootstrap_interval(constant, aggregate, num_resamples=500)
        assert low == high == aggregate(constant)


def test_a_game_without_spread_only_shifts_and_scales_the_mean():
    runs = np.random.default_rng(0).normal(size=(8, 1))
    alone = scores.bootstrap_interval(runs, scores.mean)
    beside = scores.bootstrap_interval(np.hstack([runs, np.full((8, 1), 1000.0)]), scores.mean)
    np.testing.assert_allclose(beside, 500.0 + np.array(alone) / 2, atol=0.01)


def test_a_seed_decides_the_interval_and_a_generator_goes_on():
    first = scores.bootstrap_interval(SKEWED, scores.mean, num_resamples=200, seed=3)
    assert first == scores.bootstrap_interval(SKEWED, scores.mean, num_resamples=200, seed=3)
    assert first != scores.bootstrap_interval(SKEWED, scores.mean, num_resamples=200, seed=4)
    rng = np.random.default_rng(3)
    assert first == scores.bootstrap_interval(SKEWED, scores.mean, num_resamples=200, seed=rng)
    assert first != scores.bootstrap_interval(SKEWED, scores.mean, num_resamples=200, seed=rng)


def test_the_bound_on_memory_changes_nothing_but_the_draws(monkeypatch):
    shapes = []

    def aggregate(resamples):
        shapes.append(resamples.shape)
        return scores.mean(resamples)

    monkeypatch.setattr(scores, "MAX_RESAMPLED", 20_000)
    low, high = scores.bootstrap_interval(SKEWED, aggregate, num_resamples=2500)
    assert shapes == [(1000, 5, 4), (1000, 5, 4), (500, 5, 4)]
    assert low < scores.mean(SKEWED) < high


def test_more_confidence_is_wider_and_all_of_it_the_range():
    narrow = scores.bootstrap_interval(SKEWED, confidence=0.5)
    wide = scores.bootstrap_interval(SKEWED, confidence=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high
    low, high = scores.bootstrap_interval([[0.0], [1.0]], scores.mean, confidence=1.0)
    assert (low, high) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        ([[1.0, 2.0]], {}, r"at least 2 runs, got shape \(1, 2\)"),
        (np.zeros((2, 3, 4)), {}, r"scores must be \[runs, games\].*got shape \(2, 3, 4\)"),
        ([[1.0], [math.nan]], {}, r"scores must be finite, got nan at \(1, 0\)"),
        (SKEWED, {"confidence": 0.0}, "confidence must be a number above 0 and at most 1, got 0.0"),
        (SKEWED, {"confidence": 95}, "confidence must be a number above 0 and at most 1, got 95"),
        (SKEWED, {"num_resamples": 1}, "num_resamples must be an integer of at least 2, got 1"),
        (SKEWED, {"num_resamples": 1e4}, "num_resamples must be an integer"),
        (SKEWED, {"seed": -1}, "seed must be an integer of at least 0, got -1"),
        (SKEWED, {"seed": None}, "seed must be an integer of at least 0, got None"),
        (
            SKEWED,
            {"aggregate": np.mean},
            r"aggregate must map \[\*B, runs, games\] to \[\*B\]; it mapped",
        ),
    ],
)
def test_the_bootstrap_refuses_by_name(values, settings, message):
    with pytest.raises(InputError, match=message):
        scores.bootstrap_interval(values, **settings)
