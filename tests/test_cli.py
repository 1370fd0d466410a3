"""The command line: flags, lists, and what a run prints before it trains."""

import json

import pytest

from jax_a3c import cli
from jax_a3c.settings.presets import PRESETS


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["train", "a2c", "gymnax:CartPole-v1", "--lerning-rate", "1e-3"],
            "unknown flag --lerning-rate of jax-a3c train; did you mean --learning-rate?",
        ),
        (
            ["eval", "runs/run", "--episode=3"],
            "unknown flag --episode of jax-a3c eval; did you mean --episodes?",
        ),
        (
            ["plot", "runs/run", "--xyz"],
            "unknown flag --xyz of jax-a3c plot; --help lists the flags",
        ),
    ],
)
def test_an_unknown_flag_is_refused_in_one_line_with_the_nearest_one(words, line, capsys):
    assert cli.main(words) == 2
    assert capsys.readouterr().err.splitlines() == [f"jax-a3c: error: {line}"]


@pytest.mark.parametrize("flag", ["--num_envs=4", "--no-lock", "--lstm", "--keep-checkpoints=1"])
def test_known_flags_pass_in_every_spelling(flag, capsys):
    words = ["train", "a3c", "gymnax:CartPole-v1", "--dry-run", flag]
    assert cli.main(words) == 0
    assert "parameters" in capsys.readouterr().out


def test_presets_are_filtered_by_method_and_environment(capsys):
    assert cli.main(["presets", "a2c", "pong", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    expected = [env for method, env in PRESETS if method == "a2c" and "pong" in env.lower()]
    assert [(row["method"], row["env"]) for row in rows] == [("a2c", env) for env in expected]

    assert cli.main(["presets", "a2c", "cartpole"]) == 0
    printed = capsys.readouterr().out
    assert "a2c gymnax:CartPole-v1" in printed
    assert "a3c gymnax" not in printed


def test_environments_are_filtered(capsys):
    assert cli.main(["envs", "gymnax:", "cartpole", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["id"] == "gymnax:CartPole-v1"
    assert row["actions"] == "2 discrete"


def test_a_run_says_that_it_compiles_and_its_bar_starts_with_training(tmp_path, capsys):
    words = ["train", "a2c", "gymnax:CartPole-v1", "--total-timesteps", "4000"]
    words += ["--eval-episodes", "0", "--run-dir", str(tmp_path / "run")]
    assert cli.main(words) == 0
    before, _, after = capsys.readouterr().err.partition("compiling ...")
    assert before.splitlines()[-4:] == [
        "training a2c on gymnax:CartPole-v1",
        "  network: 4,675 parameters",
        "  device: cpu",
        f"  run directory: {tmp_path / 'run'}",
    ]
    assert "steps/s" not in before
    assert "4.00k/4.00k" in after
