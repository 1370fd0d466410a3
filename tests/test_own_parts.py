"""`jax_a3c.train` with a user's own environment, network, objective and optimizer."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from probes import RightAction

import jax_a3c
from jax_a3c import cli, envs, networks, objectives
from jax_a3c.distributions import Categorical
from jax_a3c.errors import InputError
from jax_a3c.experiment.run_directory import RunDirectory
from jax_a3c.settings.run import RunOptions

QUIET = RunOptions(quiet=True)
SETTINGS = {"num_envs": 4, "num_steps": 4, "total_timesteps": 1_600, "eval_episodes": 4}


class Drawn(RightAction):
    """An environment of the user's that can be drawn."""

    def renderer(self):
        return lambda state, observation: np.full((8, 8, 3), 200, np.uint8)


class Small(nn.Module):
    """A network of the user's."""

    def initial_carry(self, batch_shape):
        return ()

    @nn.compact
    def __call__(self, carry, observations, resets):
        hidden = nn.tanh(nn.Dense(8)(observations))
        return carry, Categorical(nn.Dense(2)(hidden)), nn.Dense(1)(hidden)[..., 0]


def with_more_entropy(network):
    """Return an objective of the user's: actor-critic with more exploration."""
    config = objectives.ActorCriticConfig(ent_coef=0.05, loss_reduction="mean")
    inner = objectives.actor_critic(network, config)

    def loss(params, rollout, target_params):
        total, metrics = inner.loss(params, rollout, target_params)
        return total, {**metrics, "ours": jnp.float32(7.0)}

    return inner._replace(loss=loss)


PARTS = {
    "network": Small(),
    "objective": with_more_entropy,
    "optimizer": optax.adam(3e-2),
}
PLAYING = {"env": Drawn(), "network": PARTS["network"]}


@pytest.mark.parametrize("method", ["a2c", "a3c"])
def test_own_parts_get_all_that_a_run_has(method, tmp_path):
    more = {"num_workers": 1, "stop_at_episode_end": False} if method == "a3c" else {}
    path = tmp_path / "run"
    settings = {**SETTINGS, **more}
    options = RunOptions(quiet=True, eval_interval=800)
    summary = jax_a3c.train(method, Drawn(), settings, path, **PARTS, options=options)

    # The run directory, with our metric and our optimizer's learning.
    run = RunDirectory(path)
    assert summary == {**run.summary(), "run_dir": path}
    assert (summary["status"], summary["env_steps"]) == ("completed", 1_600)
    assert summary["eval_return_mean"] == 1.0, "it learned the right action"
    assert run.metrics()[-1]["ours"] == pytest.approx(7.0)
    assert (path / "learning_curve.png").stat().st_size > 1_000
    assert run.own_parts() == ["env", "network", "objective", "optimizer"]
    assert json.loads((path / "config.json").read_text())["env"] == "probe:Drawn"

    # Evaluation, a policy and a video.
    again = jax_a3c.evaluate(path, **PLAYING, episodes=5)
    assert (again["eval_episodes"], again["eval_return_mean"]) == (5, 1.0)
    loaded = jax_a3c.load(path, **PLAYING)
    cue = np.array([[0.0, -1.0], [0.0, 1.0]], np.float32)
    rewards = [
        float(Drawn().reward(Drawn().reset(jax.random.key(0))[0]._replace(cue=c), a))
        for (_, c), a in zip(cue, loaded.act(cue), strict=True)
    ]
    assert rewards == [1.0, 1.0]
    assert jax_a3c.record(path, **PLAYING, episodes=2).path.suffix == ".gif"
    assert cli.main(["plot", str(path), "--output", str(tmp_path / "plot.png")]) == 0


@pytest.mark.parametrize("method", ["a2c", "a3c"])
def test_a_resumed_run_of_own_parts_equals_one_that_never_stopped(method, tmp_path):
    more = {"num_workers": 1, "lr_schedule": "constant"} if method == "a3c" else {}
    settings = {**SETTINGS, **more, "eval_episodes": 0}
    longer = {"total_timesteps": 3_200}
    env = Drawn()
    jax_a3c.train(method, env, settings | longer, tmp_path / "whole", **PARTS, options=QUIET)
    jax_a3c.train(method, env, settings, tmp_path / "parts", **PARTS, options=QUIET)
    jax_a3c.resume(tmp_path / "parts", env=env, **PARTS, settings=longer, force=True, options=QUIET)
    whole, parts = (jax_a3c.load(tmp_path / name, **PLAYING).params for name in ("whole", "parts"))
    jax.tree.map(np.testing.assert_array_equal, whole, parts)


def test_parts_that_are_missing_or_others_are_refused_by_name(tmp_path, capsys):
    path = tmp_path / "run"
    settings = SETTINGS | {"total_timesteps": 16, "eval_episodes": 0}
    jax_a3c.train("a2c", Drawn(), settings, path, **PARTS, options=QUIET)
    files = sorted(file.name for file in path.rglob("*"))

    with pytest.raises(InputError, match=r"from Python with env=\.\.\., network=\.\.\.; hand in"):
        jax_a3c.load(path)
    with pytest.raises(InputError, match=r"with objective=\.\.\., optimizer=\.\.\.; hand in the"):
        jax_a3c.resume(path, **PLAYING)
    with pytest.raises(InputError, match=r"is of probe:Drawn, but env is gymnax:CartPole-v1"):
        jax_a3c.evaluate(path, env=envs.make("gymnax:CartPole-v1"), network=Small())
    for words in (["eval"], ["record"], ["export"], ["train", "--resume"]):
        capsys.readouterr()
        assert cli.main([*words, str(path)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "was trained from Python with env=..., network=..." in line
    assert sorted(file.name for file in path.rglob("*")) == files

    # A run of ids takes no parts.
    jax_a3c.train("a2c", "gymnax:CartPole-v1", settings, tmp_path / "ids", options=QUIET)
    with pytest.raises(InputError, match=r"was trained without network=\.\.\.; leave it out"):
        jax_a3c.load(tmp_path / "ids", network=Small())


def test_only_what_plays_is_needed_to_play(tmp_path):
    settings = SETTINGS | {"total_timesteps": 16}
    parts = {"optimizer": optax.sgd(0.1), "objective": with_more_entropy}
    jax_a3c.train("a2c", "gymnax:CartPole-v1", settings, tmp_path / "run", **parts, options=QUIET)
    assert cli.main(["eval", str(tmp_path / "run"), "--episodes", "1", "--quiet"]) == 0


@pytest.mark.parametrize(
    ("arguments", "parts", "message"),
    [
        (("a2d", Drawn()), {}, "method must be one of"),
        (("a2c", Drawn), {}, "a class; pass an instance"),
        (("a2c", 3), {}, "env must be an environment"),
        (("a2c", Drawn(), {"num_env": 2}), {}, "did you mean 'num_envs'"),
        (("a2c", Drawn(), {"num_workers": 2}), {}, "num_workers is not a setting of a2c"),
        (
            ("a2c", Drawn(), {"env_options": ("a=1",)}),
            {},
            "env_options belong to an environment id",
        ),
        (("a2c", Drawn()), {"network": Small}, "network must be a network"),
        (("a2c", Drawn(), {"hidden": (4,)}), {"network": Small()}, "hidden would have no effect"),
        (
            ("a2c", Drawn(), {"learning_rate": 0.1}),
            {"optimizer": optax.sgd(0.1)},
            "learning_rate would have no effect, because optimizer is given",
        ),
        (("a2c", Drawn()), {"network": networks.q_network(Drawn())}, "an actor-critic method"),
        (("a2c", Drawn()), {"optimizer": 0.1}, "optimizer must be an optimizer"),
        (("a2c", Drawn()), {"objective": 0.1}, "objective must be an objective"),
        (
            ("a2c", Drawn(), {"normalize_observations": True}),
            {"network": Small(), "objective": with_more_entropy(Small())},
            "objective must be a function",
        ),
    ],
)
def test_bad_parts_are_refused_before_anything_is_written(
    arguments, parts, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        jax_a3c.train(*arguments, **parts, options=QUIET)
    assert not list(tmp_path.iterdir())


def test_a_function_of_the_network_works_with_normalization(tmp_path):
    settings = SETTINGS | {"normalize_observations": True, "total_timesteps": 160}
    parts = {"network": Small(), "objective": with_more_entropy}
    jax_a3c.train("a2c", Drawn(), settings, tmp_path / "run", **parts, options=QUIET)
    params = jax_a3c.load(tmp_path / "run", **PLAYING).params
    assert int(jax.tree.leaves(params["statistics"])[0].size) > 0


@pytest.mark.parametrize("name", ["one_step_q", "one_step_sarsa", "n_step_q"])
def test_value_based_methods_are_functions_on_both_runners(name):
    env = RightAction()
    network = networks.q_network(env, hidden=(4,))
    optimizer = optax.sgd(0.1)
    config = jax_a3c.QConfig(num_envs=2, num_steps=2)
    algorithm = getattr(jax_a3c, name)(env, network, optimizer, config)
    state, _ = jax.jit(algorithm.step)(algorithm.init(jax.random.key(0)))
    assert int(state.env_steps) == 4

    config = jax_a3c.AsyncQConfig(num_workers=1, num_steps=2, total_timesteps=8)
    runner = getattr(jax_a3c, f"async_{name}")(lambda: env, network, optimizer, config)
    assert runner.run(0).progress.env_steps >= 8
    with pytest.raises(InputError, match=r"config must be AsyncQConfig\(\.\.\.\)"):
        getattr(jax_a3c, f"async_{name}")(lambda: env, network, optimizer, jax_a3c.QConfig())
