"""Unrolls on the device against a plain Python loop: resets, early stop, episode sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import EitherEnd, EndlessReward, TerminalReward

from jax_a3c import envs
from jax_a3c.acting.actor import init_actor
from jax_a3c.acting.unroll import UnrollConfig, unroll


def random_act(params, key, carry, observation, reset, exploration, env_steps):
    return carry, jax.random.bernoulli(key, 0.4, reset.shape).astype(jnp.int32), ()


def remembering_act(params, key, carry, observation, reset, exploration, env_steps):
    """Act with a carry that counts the steps of the episode."""
    carry = jnp.where(reset, 0.0, carry) + 1.0
    return carry, jnp.zeros(reset.shape, jnp.int32), ()


def play(env, act, actor, num_steps, **settings):
    """Unroll a behaviour without parameters."""
    return unroll(env, act, None, actor, UnrollConfig(num_steps, **settings))


def python_unroll(env, act, actor, num_steps, auto_reset):
    """Unroll one environment and one step at a time: the specification."""
    num_envs = len(actor.reset)
    action_key, env_key, reset_key, _ = jax.random.split(actor.key, 4)
    keys = zip(
        *(jax.random.split(k, num_steps) for k in (action_key, env_key, reset_key)), strict=True
    )
    pool = jax.random.split(reset_key, num_envs)
    states = [jax.tree.map(lambda x, i=i: x[i], actor.env_state) for i in range(num_envs)]
    observations, resets = list(actor.observation), list(actor.reset)
    carry, rows = actor.carry, []
    for action_key, env_key, step_reset_key in keys:
        seen = jnp.stack(observations), jnp.stack(resets)
        carry, actions, _ = act(None, action_key, carry, *seen, None, 0.0)
        row = []
        for i in range(num_envs):
            states[i], step = env.step(
                jax.random.split(env_key, num_envs)[i], states[i], actions[i]
            )
            row.append((observations[i], resets[i], actions[i], *step[1:], step.observation))
            resets[i] = step.terminated | step.truncated
            observations[i] = step.observation
            if resets[i]:
                fresh = (
                    jax.random.split(step_reset_key, num_envs) if auto_reset == "exact" else pool
                )
                states[i], observations[i] = env.reset(fresh[i])
        rows.append([jnp.stack(column) for column in zip(*row, strict=True)])
    return [np.stack(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("auto_reset", ["pooled", "exact"])
@pytest.mark.parametrize(
    "env", [EitherEnd(), envs.make("gymnax:Catch-bsuite")], ids=lambda env: env.spec.id
)
def test_equals_a_plain_loop(env, auto_reset):
    actor = init_actor(env, (), jax.random.key(3), 3)
    _, rollout, _ = jax.jit(lambda a: play(env, random_act, a, 12, auto_reset=auto_reset))(actor)
    expected = python_unroll(env, random_act, actor, 12, auto_reset)
    steps = rollout.steps
    names = (
        "observation",
        "reset",
        "action",
        "reward",
        "terminated",
        "truncated",
        "next_observation",
    )
    for name, column in zip(names, expected, strict=True):
        np.testing.assert_allclose(getattr(steps, name), column, rtol=1e-6, err_msg=name)
    assert steps.mask.all() and steps.extras == ()


def test_two_calls_equal_the_stream_they_cut():
    env = TerminalReward()
    actor = init_actor(env, jnp.zeros(2), jax.random.key(0), 2)
    actor, first, _ = play(env, remembering_act, actor, 4)
    _, second, _ = play(env, remembering_act, actor, 4)
    times = np.concatenate([first.steps.observation, second.steps.observation])[:, 0, 0]
    assert times.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    np.testing.assert_array_equal(second.carry, first.steps.next_carry[-1])
    np.testing.assert_array_equal(second.steps.next_carry[:, 0], [2, 3, 1, 2])


def test_the_final_observation_is_kept_and_not_the_next_episodes():
    env = EndlessReward()
    env.observe = lambda state: jnp.array([state.time, 0.0], jnp.float32)
    _, rollout, _ = play(env, random_act, init_actor(env, (), jax.random.key(0), 1), 6)
    steps = jax.tree.map(lambda x: np.asarray(x)[:, 0], rollout.steps)
    assert steps.next_observation[:, 0].tolist() == [1, 2, 3, 4, 1, 2]
    assert steps.observation[:, 0].tolist() == [0, 1, 2, 3, 0, 1]
    assert steps.truncated.tolist() == [False, False, False, True, False, False]
    assert steps.reset.tolist() == [True, False, False, False, True, False]
    assert not steps.terminated.any()


def test_episode_sums_and_running_returns():
    env = TerminalReward()
    actor, _, sums = play(env, random_act, init_actor(env, (), jax.random.key(0), 5), 7)
    assert tuple(map(float, sums)) == (5 * 7, 10, 10, 30) and sums.env_steps.dtype == jnp.uint32
    assert actor.episode_length.tolist() == [1] * 5 and actor.episode_return.tolist() == [0.0] * 5


@pytest.mark.parametrize("num_steps", [2, 3, 8])
def test_a_segment_ends_with_the_episode(num_steps):
    env = TerminalReward()
    actor = init_actor(env, (), jax.random.key(0), 1)
    last, rollout, sums = jax.jit(
        lambda a: play(env, random_act, a, num_steps, stop_at_episode_end=True)
    )(actor)
    taken = min(num_steps, 3)
    assert rollout.steps.mask[:, 0].tolist() == [True] * taken + [False] * (num_steps - taken)
    assert bool(last.reset[0]) == (taken == 3) and float(sums.episodes) == (taken == 3)
    assert int(sums.env_steps) == taken
    _, whole, _ = play(env, random_act, actor, num_steps)
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a[:taken], b[:taken]), rollout.steps, whole.steps
    )


def test_start_states_of_the_pool_have_the_environments_distribution():
    env = envs.make("gymnax:CartPole-v1", max_steps_in_episode=2)
    starts = {}
    for auto_reset in ("pooled", "exact"):
        actor = init_actor(env, (), jax.random.key(0), 500)
        _, rollout, _ = play(env, random_act, actor, 6, auto_reset=auto_reset)
        starts[auto_reset] = np.sort(
            np.asarray(rollout.steps.observation[2]).ravel()
        )  # only first observations
        assert rollout.steps.reset[2].all()
    # Two-sample Kolmogorov-Smirnov: with 2,000 values each, chance exceeds 0.06 in 1 of 700 cases.
    grid = np.linspace(-0.05, 0.05, 200)
    cdfs = [np.searchsorted(values, grid) / values.size for values in starts.values()]
    assert np.abs(cdfs[0] - cdfs[1]).max() < 0.06
    assert np.abs(cdfs[0] - np.linspace(0, 1, 200)).max() < 0.06


@pytest.mark.parametrize("stop_at_episode_end", [True, False])
def test_the_behaviour_gets_its_parameters_its_exploration_and_the_steps_so_far(
    stop_at_episode_end,
):
    """Its extras are stored beside the steps on which it acted."""

    def act(params, key, carry, observation, reset, exploration, env_steps):
        told = {"told": params + exploration + env_steps, "seen": 2.0 * observation}
        return carry, jnp.zeros(reset.shape, jnp.int32), told

    env = TerminalReward()
    actor = init_actor(
        env, (), jax.random.key(0), 2, explore=lambda key, num_envs: 10.0 * jnp.arange(num_envs)
    )
    config = UnrollConfig(5, stop_at_episode_end=stop_at_episode_end)
    last, rollout, sums = unroll(env, act, 1.0, actor, config, 100.0)
    extras, taken = rollout.steps.extras, 3 if stop_at_episode_end else 5
    np.testing.assert_array_equal(extras["told"][:taken], [[101.0, 111.0]] * taken)
    np.testing.assert_array_equal(extras["seen"][:taken], 2.0 * rollout.steps.observation[:taken])
    np.testing.assert_array_equal(last.exploration, actor.exploration)
    assert int(sums.env_steps) == 2 * taken
