"""Complete runs on host environments, from the command line."""

import jax
import numpy as np
import pytest

from jax_a3c import cli
from jax_a3c.errors import InputError
from jax_a3c.evaluation.score import evaluate_run
from jax_a3c.experiment.build import build
from jax_a3c.experiment.run_directory import RunDirectory
from jax_a3c.settings.presets import ATARI, PRESETS, preset_of
from jax_a3c.settings.run import resolve

pytest.importorskip("gymnasium", reason="pip install 'jax-a3c[gymnasium]'")
pytest.importorskip("envpool", reason="pip install 'jax-a3c[envpool]'")
SMALL = ("--total-timesteps", "600", "--eval-episodes", "2", "--quiet")


@pytest.mark.parametrize("method", ["a2c", "a3c"])
def test_a_run_is_trained_recorded_and_evaluated(method, tmp_path):
    path = tmp_path / "run"
    flags = [
        "--run-dir",
        str(path),
        "--env-options",
        "max_episode_steps=30",
        "--normalize-observations",
    ]
    assert cli.main(["train", method, "gymnasium:CartPole-v1", *SMALL, *flags]) == 0
    run = RunDirectory(path)
    summary = run.summary()
    assert summary["status"] == "completed" and summary["env_steps"] >= 600
    assert summary["eval_episodes"] == 2 and summary["eval_sampled_episode_length_mean"] <= 30
    assert (path / "learning_curve.png").exists() and run.metrics()[-1]["env_steps"] == summary[
        "env_steps"
    ]
    *_, settings = run.config()
    assert settings.env_options == ("max_episode_steps=30",) and settings.normalize_observations
    params = run.load_params(build(*run.config()).params_like())
    count = float(params["statistics"]["observations"]["count"])
    assert count == summary["env_steps"]  # the statistics are saved with the run
    assert evaluate_run(run, num_episodes=2, seed=0)["eval_return_mean"] > 5


@pytest.mark.parametrize("method", ["a2c", "a3c"])
@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        ("Breaking-v0", "raised ValueError in step: the wheel came off"),
        ("Leaving-v0", "raised SystemExit in step: 0"),
    ],
)
def test_a_run_whose_environment_breaks_keeps_what_was_learned(
    method, breaking, message, tmp_path, capsys
):
    path = tmp_path / "run"
    flags = [
        "--run-dir",
        str(path),
        "--num-envs",
        "2",
        "--num-steps",
        "5",
        "--total-timesteps",
        "9000",
    ]
    flags += ["--num-workers", "2"] * (method == "a3c")
    assert cli.main(["train", method, f"gymnasium:tests.breaking:{breaking}", *SMALL, *flags]) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    run = RunDirectory(path)
    assert run.summary()["status"] == "failed" and message in run.summary()["error"]
    experiment = build(*run.config())
    params = run.load_params(experiment.params_like())
    start = experiment.network.init(
        jax.random.key(0), (), np.zeros((1, 1, 2), np.float32), np.ones((1, 1), bool)
    )
    bias = lambda tree: np.asarray(tree["params"]["value"]["bias"])  # noqa: E731
    assert abs(bias(params) - bias(start)).max() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["frame_skip"], "env_options must be NAME=VALUE"),
        (["=3"], "env_options must be NAME=VALUE"),
        (["frameskip=4"], "did you mean 'frame_skip'"),
        (["frame_skip=0"], "frame_skip of 'envpool:Pong-v5' must be"),
        (["episodic_life=perhaps"], "episodic_life of 'envpool:Pong-v5' must be"),
    ],
)
def test_wrong_options_of_an_environment_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        build(
            "a3c", "envpool:Pong-v5", resolve("a3c", "envpool:Pong-v5", env_options=tuple(options))
        )


def test_options_of_an_environment_arrive():
    settings = resolve(
        "a3c",
        "envpool:Pong-v5",
        env_options=(
            "full_action_space=true",
            "max_episode_steps=99",
            "repeat_action_probability=0.25",
        ),
    )
    spec = build("a3c", "envpool:Pong-v5", settings).env.spec
    assert spec.action_space.num_actions == 18 and spec.max_episode_steps == 99


@pytest.mark.parametrize("method", ["a2c", "a3c"])
def test_all_games_share_a_preset(method):
    shared = PRESETS[method, ATARI]
    for game in ("Pong", "Breakout", "VideoPinball"):
        assert preset_of(method, f"envpool:{game}-v5") is shared
    for env_id in ("envpool:HalfCheetah-v5", "gymnasium:Pong-v5", "envpool:CartPole-v1"):
        assert preset_of(method, env_id) is not shared


def test_integers_are_not_normalised(capsys):
    assert (
        cli.main(["train", "a2c", "envpool:Pong-v5", "--normalize-observations", "--dry-run"]) == 2
    )
    assert "uint8" in capsys.readouterr().err
