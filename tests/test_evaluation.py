"""Evaluation on scripted host environments with known results, and aggregates over runs."""

import json
import re

import jax
import numpy as np
import pytest
from probes import EndlessReward, TerminalReward
from scripted import Games, Spy
from tqdm import tqdm

from jax_a3c import cli, envs, networks, scores
from jax_a3c.errors import InputError
from jax_a3c.evaluation import play as evaluation
from jax_a3c.evaluation import score as results
from jax_a3c.evaluation.play import evaluator
from jax_a3c.evaluation.score import (
    EvaluationStopped,
    aggregate,
    atari_game,
    episode_limit,
    evaluate,
)
from jax_a3c.experiment.build import Player
from jax_a3c.settings.run import resolve

KEY = jax.random.key(0)


def play(env, num_episodes, network=None, params=None, **options):
    """Evaluate the greedy policy."""
    options = {"num_episodes": num_episodes, "policy": "greedy", **options}
    return evaluator(env, network or Spy(), **options)(
        np.float32(0) if params is None else params, KEY
    )


def test_an_episode_is_a_whole_game_and_its_score_is_unclipped():
    result = play(Games("..L.L..T"), 1)
    assert result.returns.tolist() == [80.0] and result.lengths.tolist() == [8]
    assert result.returns.dtype == np.float32 and result.lengths.dtype == np.int32


def test_a_cut_game_counts_and_ignored_steps_do_not():
    result = play(
        Games("...C.T", limit=100), 10
    )  # two games for the first two of eight environments
    assert sorted(result.lengths.tolist()) == [2, 2] + [4] * 8
    np.testing.assert_array_equal(result.returns, 10.0 * result.lengths)


def test_short_games_are_not_favoured():
    """Each environment plays its share; the first 16 games to end would all be short."""
    factory = Games("T", "." * 99 + "T")
    result = play(factory, 16)
    assert sorted(result.lengths.tolist()) == [1] * 8 + [100] * 8
    result = play(factory, 19)  # 3, 3, 3, then 2 each
    assert sorted(result.lengths.tolist()) == [1] * (3 + 3 + 2 + 2) + [100] * (3 + 2 + 2 + 2)


def test_the_carry_is_reset_where_an_episode_begins_and_nowhere_else():
    network = Spy()
    play(Games("..L.T", ".......T"), 4, network)
    jax.effects_barrier()
    for time, reset, carry in network.seen:
        np.testing.assert_array_equal(reset, time == 0)
        np.testing.assert_array_equal(carry, time + 1)
    assert {0, 1, 2, 3} <= {float(time[0]) for time, _, _ in network.seen}


def test_a_game_without_an_end_is_cut_and_the_next_one_begins_afresh(monkeypatch):
    monkeypatch.setattr(evaluation, "MAX_EPISODE_STEPS", 5)
    network, factory = Spy(), Games(".")
    result = play(factory, 16, network)
    assert result.lengths.tolist() == [5] * 16 and result.returns.tolist() == [50.0] * 16
    assert result.cut.tolist() == [True] * 16
    assert factory.groups[0].resets == 2
    jax.effects_barrier()
    for time, reset, _ in network.seen:
        np.testing.assert_array_equal(reset, time == 0)


def test_what_a_cut_game_still_scores_belongs_to_no_game(monkeypatch):
    monkeypatch.setattr(evaluation, "MAX_EPISODE_STEPS", 5)
    result = play(Games("......T..T", "...T"), 16)  # the first game is cut
    assert sorted(result.lengths.tolist()) == [3] * 4 + [4] * 8 + [5] * 4
    np.testing.assert_array_equal(result.cut, result.lengths == 5)


def test_a_time_limit_of_the_environment_ends_a_whole_game():
    for result in (play(Games("...C", limit=100), 8), play(Games("...C", limit=4), 8)):
        assert result.lengths.tolist() == [4] * 8 and not result.cut.any()
    result = play(Games("...C", limit=100), 8, max_episode_steps=3)
    assert result.lengths.tolist() == [3] * 8 and result.cut.all()


@pytest.mark.parametrize(("most", "expected"), [(None, (4.0, 4)), (4, (4.0, 4)), (3, (3.0, 3))])
def test_a_limit_cuts_games_in_jax_too(most, expected):
    env = EndlessReward()  # truncates an episode after 4 steps
    network = networks.actor_critic(env, hidden=())
    params = network.init(KEY, (), np.zeros((1, 1, 2), np.float32), np.ones((1, 1), bool))
    result = play(env, 3, network, params=params, max_episode_steps=most)
    assert (
        result.returns.tolist() == [expected[0]] * 3
        and result.lengths.tolist() == [expected[1]] * 3
    )
    assert result.cut.tolist() == [most == 3] * 3


def test_an_evaluation_in_jax_tells_how_far_it_is():
    heard, env = [], TerminalReward()
    network = networks.actor_critic(env, hidden=())
    params = network.init(KEY, (), np.zeros((1, 1, 2), np.float32), np.ones((1, 1), bool))
    play(env, 5, network, params=params, progress=heard.append)
    assert heard[0] == (0, 1, 2.0) and heard[-1] == (5, 3, 0.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_episodes": 0}, "num_episodes must be an integer of at least 1, got 0"),
        ({"max_episode_steps": 0}, "max_episode_steps must be an integer of at least 1, got 0"),
    ],
)
def test_an_evaluation_of_nothing_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        evaluator(Games("T"), Spy(), **{"num_episodes": 1, "policy": "greedy", **arguments})


def test_environments_are_closed_after_an_error_too():
    factory = Games("T")
    play(factory, 3)

    def broken(*_):
        raise RuntimeError("broken")

    factory.make = lambda *a, make=factory.make, **k: (
        setattr(group := make(*a, **k), "step", broken) or group
    )
    with pytest.raises(RuntimeError, match="broken"):
        play(factory, 3)
    assert [group.closed for group in factory.groups] == [1, 1]


def test_progress_hears_of_every_episode_and_may_end_it():
    heard, factory = [], Games("..T", ".T")
    evaluator(factory, Spy(), num_episodes=5, policy="greedy", progress=heard.append)(
        np.float32(0), KEY
    )
    # No game ended: up to the limit. Two ended and two are as old: twice that.
    assert heard == [(0, 1, 26_999.0), (2, 2, 2.0), (5, 3, 0.0)]
    settings = resolve("a2c", "envpool:Pong-v5", eval_episodes=5)
    with pytest.raises(EvaluationStopped):
        experiment = Player(factory, Spy())
        evaluate(experiment, settings, np.float32(0), KEY, stopped=lambda: True)
    assert factory.groups[-1].closed == 1 and len(factory.groups) == 2


def test_the_key_decides_and_it_compiles_once(monkeypatch):
    traced = []
    network, factory = Spy(), Games("..T")
    original = network.apply
    monkeypatch.setattr(network, "apply", lambda *args: traced.append(1) or original(*args))
    play = evaluator(factory, network, num_episodes=3, policy="sampled")
    for seed in (0, 1, 0):
        play(np.float32(seed), jax.random.key(seed))
    assert len(traced) == 1
    first, second, third = factory.seeds
    assert first == third != second
    with pytest.raises(ValueError, match="policy must be one of"):
        evaluator(factory, network, num_episodes=3, policy="random")


def test_one_episode_is_played_by_one_environment():
    factory = Games("T")
    play(factory, 1)
    play(factory, 100)
    assert [group.num_envs for group in factory.groups] == [1, 8]


def test_a_random_policy_loses_at_pong():
    pytest.importorskip("envpool", reason="pip install 'jax-a3c[envpool]'")
    factory = envs.make("envpool:Pong-v5")
    network = networks.actor_critic(factory, torso="mlp", hidden=(), lstm=2)
    observation = np.zeros((1, 1, *factory.spec.observation_shape), np.uint8)
    params = network.init(KEY, network.initial_carry((1,)), observation, np.ones((1, 1), bool))
    params = jax.tree.map(np.zeros_like, params)
    result = evaluator(factory, network, num_episodes=8, policy="sampled")(params, KEY)
    assert len(result.returns) == 8 and -21 <= result.returns.mean() < -19
    assert (result.lengths > 700).all()


# --- Results of runs


@pytest.mark.parametrize(
    ("env_id", "game"),
    [
        ("envpool:Pong-v5", "Pong"),
        ("envpool:SpaceInvaders-v5", "SpaceInvaders"),
        ("envpool:CartPole-v1", None),
        ("envpool:CarRacing-v3", None),
        ("gymnax:Breakout-MinAtar", None),
        ("gymnax:Pong-v5", None),
        ("envpool:pong-v5", None),
    ],
)
def test_a_game_of_atari_is_known_by_its_id(env_id, game):
    assert atari_game(env_id) == game


def test_the_summary_of_a_game_is_in_percent_of_a_human():
    settings = resolve("a2c", "envpool:Pong-v5", eval_episodes=4, eval_policy="sampled")
    experiment = Player(Games("T", "..T"), Spy())
    summary = evaluate(experiment, settings, np.float32(0), KEY)
    assert summary["eval_return_mean"] == summary["eval_sampled_return_mean"] == 20.0
    assert summary["eval_return_std"] == 10.0 and summary["eval_episodes"] == 4
    percent = 100 * (20 + 20.7) / (14.6 + 20.7)
    assert summary["eval_human_normalized"] == summary["eval_greedy_human_normalized"]
    assert summary["eval_human_normalized"] == pytest.approx(percent)
    assert summary["eval_return_interval"] == [
        10.0,
        30.0,
    ]  # 1 of 16 resamples has only short games, 1 only long ones
    one = evaluate(
        experiment, resolve("a2c", "envpool:Pong-v5", eval_episodes=1), np.float32(0), KEY
    )
    assert one["eval_return_interval"] is None


def test_cut_games_are_counted_apart(capsys):
    settings = resolve(
        "a2c", "envpool:Pong-v5", eval_episodes=4, eval_max_steps=24
    )  # 3 steps for each of 8 games
    experiment = Player(Games("....T", "..T"), Spy())
    summary = evaluate(experiment, settings, np.float32(0), KEY)
    assert summary["eval_episodes"] == 4 and summary["eval_return_mean"] == 30.0
    names = ("eval_episodes_cut", "eval_greedy_episodes_cut", "eval_sampled_episodes_cut")
    assert [summary[name] for name in names] == [2, 2, 2]
    whole = evaluate(experiment, resolve("a2c", "envpool:Pong-v5"), np.float32(0), KEY)
    assert whole["eval_episodes_cut"] == 0 and capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("given", "limit"),
    [
        ({"total_timesteps": 1_200_000}, 6_000),  # a tenth: 120,000 steps for 20 games
        ({"total_timesteps": 100_000}, 3_000),  # at least 3,000 steps per game
        ({"total_timesteps": 10_000_000}, 50_000),  # more than the 27,000 steps of a game
        ({"eval_max_steps": 1_000}, 50),
        ({"eval_max_steps": 20}, 1),
        ({"eval_episodes": 0}, 500_000),
    ],
)
def test_games_share_a_budget_of_steps(given, limit):
    assert episode_limit(resolve("a3c", "envpool:Seaquest-v5", **given)) == limit


def test_a_budget_without_a_step_for_each_game_is_refused():
    with pytest.raises(
        InputError, match="eval_max_steps must be at least 20, one step for each game"
    ):
        resolve("a3c", "envpool:Seaquest-v5", eval_max_steps=19)
    assert (
        resolve("a3c", "envpool:Seaquest-v5", eval_max_steps=19, eval_episodes=0).eval_max_steps
        == 19
    )


def test_returns_that_are_not_finite_are_told(capsys):
    factory = Games("T")
    make = factory.make

    def poisoned(num_envs, **options):
        group = make(num_envs, **options)
        step = group.step
        group.step = lambda action: (result := step(action))._replace(
            raw_reward=result.raw_reward * np.nan
        )
        return group

    factory.make = poisoned
    settings = resolve("a2c", "envpool:Pong-v5", eval_episodes=3)
    summary = evaluate(Player(factory, Spy()), settings, np.float32(0), KEY)
    assert np.isnan([summary["eval_return_mean"], summary["eval_human_normalized"]]).all()
    told = capsys.readouterr().err
    assert (
        "envpool:Pong-v5 returned rewards that are not finite in 3 of 3 greedy and "
        "3 of 3 sampled games" in told
    )


def test_an_evaluation_shows_its_remaining_time(monkeypatch, capsys):
    at_once = {"delay": 0, "mininterval": 0}
    monkeypatch.setattr(results, "tqdm", lambda **options: tqdm(**{**options, **at_once}))
    settings = resolve("a2c", "envpool:Pong-v5", eval_episodes=4)
    experiment = Player(Games("....T", "..T"), Spy())
    evaluate(experiment, settings, np.float32(0), KEY, quiet=False)
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    shown = [
        re.fullmatch(r"evaluation: +(\d+)%\|.*\| (\S+)<(\S+), (\d) of 8 games", x) for x in lines
    ]
    found = [(int(match[1]), int(match[4])) for match in shown if match]
    # Two of four games ended in step 3; the others should take 3 more steps: half of a half.
    assert (50, 4) in found and found[-1] == (100, 8) and (25, 2) in found
    times = [match[3] for match in shown if match]
    assert all(re.fullmatch(r"[\d:]+", time) for time in times[1:]) and times[-1] == "00:00"


def test_the_aggregate_is_over_runs_and_games():
    returns = {"envpool:Pong-v5": [0.0, 10.0, 20.0], "envpool:Breakout-v5": [100.0, 200.0, 400.0]}
    result = aggregate(returns)
    percent = scores.human_normalized(["Pong", "Breakout"], np.array(list(returns.values())).T)
    normalized = result["human_normalized"]
    assert (normalized["games"], normalized["runs"]) == (2, 3)
    for name in ("mean", "median", "interquartile_mean"):
        function = getattr(scores, name)
        assert normalized[name] == pytest.approx(function(percent))
        low, high = scores.bootstrap_interval(percent, function)
        assert normalized[f"{name}_interval"] == [low, high] and low < normalized[name] < high
    pong = result["environments"]["envpool:Pong-v5"]
    assert pong["runs"] == 3 and pong["return_interquartile_mean"] == 10.0
    assert pong["return_interval"][0] < 10.0 < pong["return_interval"][1]


def test_the_aggregate_of_a_return_that_is_not_finite_is_unknown():
    result = aggregate({"envpool:Pong-v5": [0.0, np.nan], "envpool:Breakout-v5": [1.0, 2.0]})
    assert set(result) == {"environments"}
    pong, breakout = result["environments"].values()
    assert pong == {"runs": 2, "return_interquartile_mean": None, "return_interval": None}
    assert breakout["return_interquartile_mean"] == 1.5


@pytest.mark.parametrize(
    "returns",
    [
        {"envpool:Pong-v5": [0.0], "gymnax:CartPole-v1": [500.0]},
        {"envpool:Pong-v5": [0.0, 1.0], "envpool:Breakout-v5": [1.0]},
    ],
)
def test_what_has_no_common_scale_is_not_averaged(returns):
    result = aggregate(returns)
    assert set(result) == {"environments"} and set(result["environments"]) == set(returns)
    for env_id, of_runs in returns.items():
        assert (result["environments"][env_id]["return_interval"] is None) == (len(of_runs) == 1)


def test_eval_of_several_runs_adds_the_aggregate(tmp_path, capsys):
    flags = ["--total-timesteps", "100", "--eval-episodes", "2", "--quiet", "--hidden", "4"]
    paths = [str(tmp_path / str(seed)) for seed in range(2)]
    for seed, path in enumerate(paths):
        command = ["train", "a2c", "gymnax:CartPole-v1", "--run-dir", path, "--seed", str(seed)]
        assert cli.main([*command, *flags]) == 0
    capsys.readouterr()
    assert cli.main(["eval", *paths, "--episodes", "3"]) == 0
    both = json.loads(capsys.readouterr().out)
    assert cli.main(["eval", paths[1], paths[1], "--episodes", "3"]) == 0
    one = json.loads(capsys.readouterr().out)
    assert list(both["runs"]) == paths and both["runs"][paths[1]] == one
    cartpole = both["aggregate"]["a2c"]["environments"]["gymnax:CartPole-v1"]
    means = [both["runs"][path]["eval_return_mean"] for path in paths]
    assert cartpole["runs"] == 2 and cartpole["return_interquartile_mean"] == pytest.approx(
        np.mean(means)
    )
    assert cartpole["return_interval"] == sorted(means)
    assert cli.main(["eval", *paths, str(tmp_path / "missing")]) == 2
    assert "missing" in capsys.readouterr().err
    assert cli.main(["eval"]) == 2
