"""Presets: which one an environment uses, and its settings."""

import pytest

from jax_a3c import cli
from jax_a3c.settings import presets
from jax_a3c.settings.methods import METHODS, A2CSettings
from jax_a3c.settings.presets import ATARI, LIBRARIES, PRESETS, Preset, preset_id, preset_of
from jax_a3c.settings.run import resolve


@pytest.mark.parametrize(
    ("env_id", "found"),
    [
        ("gymnax:CartPole-v1", "gymnax:CartPole-v1"),
        ("gymnasium:CartPole-v1", "gymnax:CartPole-v1"),
        ("envpool:CartPole-v1", "gymnax:CartPole-v1"),
        ("gymnasium:HalfCheetah-v5", "envpool:HalfCheetah-v5"),
        ("gymnasium:LunarLander-v3", "gymnasium:LunarLander-v3"),
        ("envpool:LunarLander-v3", "envpool:LunarLander-v3"),
        ("envpool:Pong-v5", ATARI),
        # Another version, a user's module, another library or options of a library: other tasks.
        ("gymnasium:HalfCheetah-v4", None),
        ("gymnasium:CartPole-v0", None),
        ("gymnasium:my_module:CartPole-v1", None),
        ("gymnasium:mine/CartPole-v1", None),
        ("other:CartPole-v1", None),
        ("CartPole-v1", None),
        ("gymnasium:CarRacing-v3", None),
        ("gymnasium:Pong-v5", None),
        ("gymnasium:Catch-v0", None),
    ],
)
def test_a_preset_serves_the_same_task_in_every_library(env_id, found):
    assert preset_id("a2c", env_id) == found
    assert preset_of("a2c", env_id) is (None if found is None else PRESETS["a2c", found])


def test_the_settings_are_those_of_the_preset():
    settings = resolve("a3c", "gymnasium:CartPole-v1", seed=3)
    assert (settings.learning_rate, settings.num_workers, settings.reward_scale) == (5e-3, 2, 0.1)
    assert settings == resolve("a3c", "gymnax:CartPole-v1", seed=3)
    assert resolve("a2c", "gymnasium:CarRacing-v3") == A2CSettings()


@pytest.mark.parametrize(("method", "env_id"), PRESETS)
def test_every_preset_is_valid_in_every_library(method, env_id):
    for library in LIBRARIES:
        assert isinstance(
            resolve(method, f"{library}:{env_id.partition(':')[2]}"), METHODS[method].settings
        )


def test_what_only_jax_environments_have_stays_with_them(monkeypatch):
    preset = Preset(settings={"auto_reset": "exact", "num_steps": 9}, result="1")
    monkeypatch.setitem(presets.PRESETS, ("a2c", "gymnax:Mine-v0"), preset)
    assert resolve("a2c", "gymnax:Mine-v0") == A2CSettings(auto_reset="exact", num_steps=9)
    for library in ("gymnasium", "envpool"):
        assert resolve("a2c", f"{library}:Mine-v0") == A2CSettings(num_steps=9)


@pytest.mark.parametrize(
    ("env_id", "line"),
    [
        ("gymnasium:CartPole-v1", "settings of the preset for a3c gymnax:CartPole-v1"),
        ("gymnax:CartPole-v1", "settings of the preset for a3c gymnax:CartPole-v1"),
        ("gymnax:FrozenLake-misc", None),
    ],
)
def test_the_command_says_whose_settings_it_takes(env_id, line, tmp_path, capsys):
    if env_id.startswith("gymnasium:"):
        pytest.importorskip("gymnasium")
    assert cli.main(["train", "a3c", env_id, "--dry-run"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"a3c on {env_id}"
    assert [text for text in printed if "preset" in text] == ([] if line is None else [line])

    # A run names its preset on stderr; a resumed run uses its stored settings.
    words = ["--total-timesteps", "200", "--eval-episodes", "0", "--quiet", "--hidden", "4"]
    assert cli.main(["train", "a3c", env_id, *words, "--run-dir", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().err.splitlines() == ([] if line is None else [line])
    assert cli.main(["train", "a3c", env_id, *words, "--run-dir", str(tmp_path / "run")]) == 2
    assert "preset" not in capsys.readouterr().err, "a refusal is one sentence"
    assert cli.main(["train", "--resume", str(tmp_path / "run"), "--quiet"]) == 0
    assert "preset" not in capsys.readouterr().err


def test_the_list_says_that_presets_are_shared(capsys):
    assert cli.main(["presets"]) == 0
    assert (
        "gymnasium:CartPole-v1 uses the preset of gymnax:CartPole-v1"
        in capsys.readouterr().out.splitlines()[-1]
    )
