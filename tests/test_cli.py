"""The command line: flags, lists, and what a run prints before it trains."""

import json
import re

import jax
import pytest

from jax_a3c import cli
from jax_a3c.cli.tables import print_table
from jax_a3c.settings.methods import METHODS
from jax_a3c.settings.presets import ATARI, PRESETS


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
    assert cli.main(["presets", "a2c", "PONG", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["method"], row["env"]) for row in rows] == [("a2c", ATARI)]
    assert rows[0]["settings"] == PRESETS["a2c", ATARI].settings

    assert cli.main(["presets", "a2c", "cartpole"]) == 0
    head, _, row, note = capsys.readouterr().out.splitlines()
    assert head.split() == ["method", "env", "settings", "result"]
    assert row.split()[:2] == ["a2c", "gymnax:CartPole-v1"]
    assert PRESETS["a2c", "gymnax:CartPole-v1"].result in row
    assert "gymnasium:CartPole-v1 uses the preset of gymnax:CartPole-v1" in note


def test_info_is_a_table_or_json(capsys):
    assert cli.main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["packages"]["jax"] == jax.__version__

    assert cli.main(["info"]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["jax"].strip() == jax.__version__
    assert rows["python"].strip() == found["python"]


def test_a_table_in_a_pipe_has_one_line_per_row(capsys):
    print_table([{"a": 1, "b": "x" * 300}, {"a": None, "c": [1, 2]}])
    head, _, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["a", "b", "c"]
    assert first.split() == ["1", "x" * 300] and second.split() == ["1,", "2"]
    print_table([])
    assert not capsys.readouterr().out


def test_a_dry_run_lists_the_settings_of_the_method_and_no_others(capsys):
    assert cli.main(["train", "one-step-q", "gymnax:CartPole-v1", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    fields = METHODS["one-step-q"].fields
    assert [line.split()[0] for line in lines[2 : 2 + len(fields)]] == list(fields)
    assert "num_workers" not in fields and "ent_coef" not in fields


@pytest.mark.parametrize("method", METHODS)
def test_the_help_of_a_method_shows_the_flags_that_it_accepts(method, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["train", method, "gymnax:CartPole-v1", "--help"])
    shown = set(re.findall(r"--([a-z][a-z-]+)", capsys.readouterr().out))
    every = {name for other in METHODS.values() for name in other.fields}
    flags = {name.replace("_", "-") for name in METHODS[method].fields}
    others = {name.replace("_", "-") for name in every} - flags
    assert flags <= shown and not others & shown


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["train", "a2c", "gymnax:CartPole-v1", "--num-envs", "x"], "--num-envs: x is not an int"),
        (["train", "a2c", "gymnax:CartPole-v1", "--gamma", "y"], "--gamma: could not convert"),
        (["train", "a2c", "gymnax:CartPole-v1", "--network", "mpl"], "invalid choice 'mpl'"),
        (["train", "a2c", "gymnax:CartPole-v1", "--seed"], "Missing value for argument '--seed'"),
        (["train"], "METHOD and ENV come first"),
        (["record"], "Missing from jax-a3c record: PATH"),
        (["trian"], "the command must be one of train, eval, .* did you mean 'train'"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(words, line, capsys):
    assert cli.main(words) == 2
    (printed,) = capsys.readouterr().err.splitlines()
    assert re.search(line, printed)


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
