"""`jax_a3c.load`: a run in another program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_a3c
from jax_a3c import cli
from jax_a3c.errors import InputError

FLAGS = ["--total-timesteps", "2000", "--eval-episodes", "0", "--quiet"]


def trained(path, method, env, *flags):
    assert cli.main(["train", method, env, *FLAGS, *flags, "--run-dir", str(path)]) == 0
    return jax_a3c.load(path)


def test_it_acts_on_one_observation_and_on_a_batch_as_the_network_does(tmp_path):
    run = trained(tmp_path / "run", "a2c", "gymnax:CartPole-v1")
    batch = jax.random.normal(jax.random.key(0), (5, 4))
    _, policy, _ = run.network.apply(run.params, (), batch[None], jnp.ones((1, 5), bool))
    expected = np.asarray(policy.mode()[0])
    np.testing.assert_array_equal(run.act(batch), expected)
    assert [int(run.act(observation)) for observation in batch] == expected.tolist()
    assert run.env.spec.id == "gymnax:CartPole-v1"

    with pytest.raises(InputError, match=r"observation must have the shape \(4,\).*got \(3,\)"):
        run.act(np.zeros(3))
    with pytest.raises(InputError, match=r"reset must have the shape \(5,\), got \(2,\)"):
        run.act(batch, reset=[True, False])
    with pytest.raises(InputError, match="policy"):
        jax_a3c.load(tmp_path / "run", policy="random")
    with pytest.raises(InputError, match="nowhere"):
        jax_a3c.load(tmp_path / "nowhere")


def test_a_recurrent_policy_remembers_until_a_reset(tmp_path):
    run = trained(tmp_path / "run", "a2c", "gymnax:CartPole-v1", "--lstm", "--lstm-size", "4")
    observations = jax.random.normal(jax.random.key(1), (3, 4))

    def played(reset):
        policy = jax_a3c.load(tmp_path / "run").act
        for observation in observations:
            policy(observation)
        before = policy._carry
        policy(observations[0], reset=reset)
        return before, policy._carry

    fresh = jax_a3c.load(tmp_path / "run").act
    fresh(observations[0])
    _, forgotten = played(True)
    jax.tree.map(np.testing.assert_array_equal, forgotten, fresh._carry)
    before, remembered = played(None)
    for other in (before, forgotten):
        pairs = zip(jax.tree.leaves(other), jax.tree.leaves(remembered), strict=True)
        assert any((a != b).any() for a, b in pairs)
    assert run.env.spec.action_space.num_actions == 2


def test_real_actions_are_in_the_units_of_the_environment(tmp_path):
    run = trained(tmp_path / "run", "a2c", "gymnax:Pendulum-v1", "--initial-stddev", "30")
    sampled = jax_a3c.load(tmp_path / "run", policy="sampled", seed=1).act
    actions = sampled(np.zeros((50, 3), np.float32))
    assert actions.shape == (50, 1)
    assert np.abs(actions).max() == 2.0, "the bound of the torque"
    assert run.act(np.zeros(3)).shape == (1,)
