"""Our update equals the update of the plain references of the benchmarks."""

import jax
import numpy as np
import optax
import pytest

from benchmarks import references
from jax_a3c import A2CConfig, a2c, envs, networks, optimizers
from jax_a3c.acting.unroll import UnrollConfig, unroll
from jax_a3c.objectives import actor_critic

TASKS = [("CartPole-v1", "mlp", 16, 5), ("Breakout-MinAtar", "minatar", 8, 16)]
RATE, EPS = 7e-4, 1e-5
UPDATES = 3


def renamed(variables):
    """Return our parameters or moments with the names of the reference."""
    ours = variables["params"]
    return {
        "params": {
            **ours["trunk"]["torso"],
            "logits": ours["policy"]["logits"],
            "value": ours["value"],
        }
    }


def transitions_of(steps, plain, params):
    """Convert our rollout to the format of the reference."""
    observations = steps.observation.reshape(-1, *steps.observation.shape[2:])
    values = plain.apply(params, observations)[1].reshape(steps.action.shape)
    unused = np.zeros(
        steps.action.shape, np.float32
    )  # only the gradient through the rollout reads it
    return references.Transition(
        steps.observation, steps.action, steps.reward, steps.terminated, values, unused, unused
    )


def assert_equal_to_rounding(ours, expected, before):
    """Compare each array to 1e-5 of its values or of the update's largest change to it."""
    expected = dict(jax.tree.leaves_with_path(expected))
    before = dict(jax.tree.leaves_with_path(before))
    leaves = jax.tree.leaves_with_path(ours)
    assert {path for path, _ in leaves} == set(expected)
    for path, leaf in leaves:
        change = np.abs(expected[path] - before[path]).max()
        assert change > 0
        np.testing.assert_allclose(
            leaf, expected[path], rtol=1e-5, atol=1e-5 * change, err_msg=str(path)
        )


@pytest.mark.parametrize(("name", "torso", "num_envs", "num_steps"), TASKS)
def test_our_update_is_the_plain_one(name, torso, num_envs, num_steps):
    env = envs.make(f"gymnax:{name}")
    config = A2CConfig(num_envs=num_envs, num_steps=num_steps)
    network = networks.actor_critic(env, torso=torso)
    objective = actor_critic(network, config)
    agent = a2c(env, network, optimizers.shared_rmsprop(RATE, eps=EPS), config)
    plain = references.ActorCritic(torso, env.spec.action_space.num_actions)
    rule = references.optimizer(RATE, EPS, config.max_grad_norm)

    @jax.jit
    def both(state, opt_state):
        """Return our next state, the reference's parameters and moments, and the ended episodes."""
        unroll_config = UnrollConfig(config.num_steps)
        _, rollout, _ = unroll(env, objective.act, state.params, state.actor, unroll_config)
        steps, params = rollout.steps, renamed(state.params)
        last_value = plain.apply(params, steps.next_observation[-1])[1]
        transitions = transitions_of(steps, plain, params)
        expected = references.learn(plain, rule, config, params, opt_state, transitions, last_value)
        return agent.step(state)[0], expected, steps.terminated.sum(), steps.truncated.sum()

    state = jax.jit(agent.init)(jax.random.key(0))
    opt_state, ends = rule.init(renamed(state.params)), 0
    for _ in range(UPDATES):
        before, statistics = renamed(state.params), optax.tree.get(opt_state, "nu")
        state, (params, opt_state), terminated, truncated = both(state, opt_state)
        assert truncated == 0  # the reference treats a time limit as a termination
        assert_equal_to_rounding(renamed(state.params), params, before)
        ours = renamed(state.opt_state.moments)
        assert_equal_to_rounding(ours, optax.tree.get(opt_state, "nu"), statistics)
        ends += int(terminated)
    assert ends > 0


@pytest.mark.parametrize(("name", "torso", "num_envs", "num_steps"), TASKS)
def test_the_gradient_through_the_rollout_is_that_of_a_second_pass(
    name, torso, num_envs, num_steps
):
    config = A2CConfig(num_envs=num_envs, num_steps=num_steps)
    rule = references.optimizer(RATE, EPS, config.max_grad_norm)
    once, through = (
        make(name, torso, rule, config)
        for make in (references.second_pass, references.through_rollout)
    )
    start = jax.jit(once.init)(jax.random.key(0))
    train = [jax.jit(reference.train, static_argnums=1) for reference in (once, through)]
    (expected, logged), (actual, _) = (run(start, 2) for run in train)
    assert_equal_to_rounding(actual.params, expected.params, start.params)
    assert logged["returned_episode"].shape == (2, num_steps, num_envs)
    np.testing.assert_array_equal(actual.observation, expected.observation)
