"""The programs of docs/deployment.md run and act like the trained network."""

import re
import shlex
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jax_a3c import cli, envs, networks
from jax_a3c.envs.base import Box, Discrete, EnvSpec
from jax_a3c.experiment.checkpoints import export_params
from jax_a3c.normalization import normalized_network

PAGE = (Path(__file__).parents[1] / "docs" / "deployment.md").read_text()
(COMMANDS,) = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
WITH_JAX, WITH_NUMPY, CONTINUOUS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
SHORT = ["--total-timesteps", "2000", "--eval-episodes", "1", "--quiet"]


def run(*programs):
    """Run programs of the page one after the other, and return the names that they define."""
    names = {}
    for program in programs:
        exec(compile(program, "docs/deployment.md", "exec"), names)
    return names


def own_spec(shape, dtype, actions):
    """Return the spec of a user's environment."""
    return EnvSpec(id="own", observation_shape=shape, observation_dtype=dtype, action_space=actions)


def exported(network, observations, *, scale=1.0):
    """Export random variables of a network, and return its policy on the observations."""
    reset = jnp.ones((1, len(observations)), bool)
    arguments = network.initial_carry((len(observations),)), observations[None], reset
    shapes = jax.eval_shape(network.init, jax.random.key(0), *arguments)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: rng.normal(0.0, scale, x.shape).astype(x.dtype), shapes)
    if "statistics" in variables:
        moments = variables["statistics"]["observations"]
        moments["count"] = np.float32(1e9)
        moments["variance"] = np.square(moments["variance"]) + np.float32(0.5)
    export_params(variables, Path("params.safetensors"))
    return network.apply(variables, *arguments)[1]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Run in a folder where the programs find `params.safetensors`."""
    monkeypatch.chdir(tmp_path)


def test_the_commands_and_both_ways_to_act_agree():
    for line in COMMANDS.splitlines():
        program, *words = shlex.split(line)
        assert program == "jax-a3c"
        assert cli.main([*words, *(SHORT if words[0] == "train" else [])]) == 0
    with_jax, with_numpy = run(WITH_JAX), run(WITH_NUMPY)
    observations = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)

    _, actions = with_jax["act"]((), observations, np.ones(50, bool))
    assert set(actions.tolist()) == {0, 1} == set(with_numpy["act"](observations).tolist())
    _, policy, _ = with_jax["network"].apply(
        with_jax["params"], (), observations[None], np.ones((1, 50), bool)
    )
    logits = with_numpy["dense"](with_numpy["features"](observations), "policy/logits")
    np.testing.assert_allclose(logits, policy.logits[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_numpy_gives_the_logits_of_any_actor_critic_of_layers(shared, normalized):
    env = envs.make("gymnax:Acrobot-v1")
    network = networks.actor_critic(env, hidden=(8, 7, 6), shared=shared)
    if normalized:
        network = normalized_network(network, env, observations=True, rewards=True)
    observations = np.random.default_rng(1).normal(size=(50, 6)).astype(np.float32)

    policy = exported(network, observations, scale=0.5)
    found = run(WITH_NUMPY)
    logits = found["dense"](found["features"](observations), "policy/logits")
    np.testing.assert_allclose(logits, policy.logits[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(found["act"](observations), policy.mode()[0])


def test_numpy_scales_bytes_and_flattens_images():
    spec = own_spec((2, 3, 1), np.uint8, Discrete(num_actions=3))
    observations = np.random.default_rng(2).integers(0, 256, (20, 2, 3, 1), np.uint8)
    policy = exported(networks.actor_critic(spec, hidden=(8,)), observations)
    np.testing.assert_array_equal(run(WITH_NUMPY)["act"](observations), policy.mode()[0])


def test_numpy_maps_continuous_actions_to_their_bounds():
    low = np.array([0.0, 100.0, -np.inf, -1.0, -np.inf])
    high = np.array([1.0, 200.0, np.inf, np.inf, 0.5])
    spec = own_spec((4,), np.float32, Box(low=tuple(low.tolist()), high=tuple(high.tolist())))
    observations = np.random.default_rng(3).normal(size=(200, 4)).astype(np.float32)
    policy = exported(networks.actor_critic(spec, hidden=(8,)), observations)
    mean = np.asarray(policy.mode()[0], np.float64)
    assert (np.abs(mean) > 1.0).any(axis=0).all() and (np.abs(mean) < 1.0).any(axis=0).all()

    actions = run(WITH_NUMPY, CONTINUOUS)["act"](observations, low, high)
    clipped = np.clip(mean, -1.0, 1.0)
    expected = [0.5 + 0.5 * clipped[:, 0], 150.0 + 50.0 * clipped[:, 1], mean[:, 2]]
    expected += [np.maximum(mean[:, 3], -1.0), np.minimum(mean[:, 4], 0.5)]
    np.testing.assert_allclose(actions, np.stack(expected, axis=-1), rtol=1e-4, atol=1e-5)
    assert ((actions >= low) & (actions <= high)).all()


def test_the_table_names_the_arrays_that_there_are():
    named = {
        name
        for row in re.findall(r"^\| (`(?:params|statistics).*?) \|", PAGE, flags=re.MULTILINE)
        for name in re.findall(r"`([\w/]+?)(?:/\.\.\.)?`", row)
    }
    cartpole, pendulum = envs.make("gymnax:CartPole-v1"), envs.make("gymnax:Pendulum-v1")
    built = [networks.q_network(cartpole), networks.actor_critic(cartpole, shared=False)]
    built += [networks.actor_critic(cartpole)]
    plain = networks.actor_critic(pendulum)
    built += [plain, normalized_network(plain, pendulum, observations=True, rewards=False)]
    there = set()
    for network, size in zip(built, (4, 4, 4, 3, 3), strict=True):
        exported(network, np.zeros((1, size), np.float32))
        there |= set(safetensors.numpy.load_file("params.safetensors"))
    assert len(named) == 9
    for name in named:
        assert any(name == array or array.startswith(f"{name}/") for array in there), name
