"""Unrolls on the device against a plain Python loop: resets, early stop, episode sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import EitherEnd, EndlessReward, TerminalReward

from jax_a3c import envs
from jax_a3c.acting.actor import init_actor
from jax_a3c.acting.unroll import unroll

pytestmark = pytest.mark.unoptimized


def random_act(key, carry, observation, reset):
    return carry, jax.random.bernoulli(key, 0.4, reset.shape).astype(jnp.int32)


def remembering_act(key, carry, observation, reset):
    """Act with a carry that counts the steps of the episode."""
    carry = jnp.where(reset, 0.0, carry) + 1.0
    return carry, jnp.zeros(reset.shape, jnp.int32)


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
        carry, actions = act(action_key, carry, jnp.stack(observations), jnp.stack(resets))
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
    _, rollout, _ = jax.jit(lambda a: unroll(env, random_act, a, 12, auto_reset=auto_reset))(actor)
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
    assert steps.mask.all()


def test_two_calls_equal_the_stream_they_cut():
    env = TerminalReward()
    actor = init_actor(env, jnp.zeros(2), jax.random.key(0), 2)
    actor, first, _ = unroll(env, remembering_act, actor, 4)
    _, second, _ = unroll(env, remembering_act, actor, 4)
    times = np.concatenate([first.steps.observation, second.steps.observation])[:, 0, 0]
    assert times.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    np.testing.assert_array_equal(second.carry, first.steps.next_carry[-1])
    np.testing.assert_array_equal(second.steps.next_carry[:, 0], [2, 3, 1, 2])


def test_the_final_observation_is_kept_and_not_the_next_episodes():
    env = EndlessReward()
    env.observe = lambda state: jnp.array([state.time, 0.0], jnp.float32)
    _, rollout, _ = unroll(env, random_act, init_actor(env, (), jax.random.key(0), 1), 6)
    steps = jax.tree.map(lambda x: np.asarray(x)[:, 0], rollout.steps)
    assert steps.next_observation[:, 0].tolist() == [1, 2, 3, 4, 1, 2]
    assert steps.observation[:, 0].tolist() == [0, 1, 2, 3, 0, 1]
    assert steps.truncated.tolist() == [False, False, False, True, False, False]
    assert steps.reset.tolist() == [True, False, False, False, True, False]
    assert not steps.terminated.any()


def test_episode_sums_and_running_returns():
    env = TerminalReward()
    actor, _, sums = unroll(env, random_act, init_actor(env, (), jax.random.key(0), 5), 7)
    assert (float(sums.episodes), float(sums.episode_return), float(sums.episode_length)) == (
        10,
        10,
        30,
    )
    assert actor.episode_length.tolist() == [1] * 5 and actor.episode_return.tolist() == [0.0] * 5


@pytest.mark.parametrize("num_steps", [2, 3, 8])
def test_a_segment_ends_with_the_episode(num_steps):
    env = TerminalReward()
    actor = init_actor(env, (), jax.random.key(0), 1)
    last, rollout, sums = jax.jit(
        lambda a: unroll(env, random_act, a, num_steps, stop_at_episode_end=True)
    )(actor)
    taken = min(num_steps, 3)
    assert rollout.steps.mask[:, 0].tolist() == [True] * taken + [False] * (num_steps - taken)
    assert bool(last.reset[0]) == (taken == 3) and float(sums.episodes) == (taken == 3)
    _, whole, _ = unroll(env, random_act, actor, num_steps)
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a[:taken], b[:taken]), rollout.steps, whole.steps
    )


def test_start_states_of_the_pool_have_the_environments_distribution():
    env = envs.make("gymnax:CartPole-v1", max_steps_in_episode=2)
    starts = {}
    for auto_reset in ("pooled", "exact"):
        actor = init_actor(env, (), jax.random.key(0), 500)
        _, rollout, _ = unroll(env, random_act, actor, 6, auto_reset=auto_reset)
        starts[auto_reset] = np.sort(
            np.asarray(rollout.steps.observation[2]).ravel()
        )  # only first observations
        assert rollout.steps.reset[2].all()
    # Two-sample Kolmogorov-Smirnov: with 2,000 values each, chance exceeds 0.06 in 1 of 700 cases.
    grid = np.linspace(-0.05, 0.05, 200)
    cdfs = [np.searchsorted(values, grid) / values.size for values in starts.values()]
    assert np.abs(cdfs[0] - cdfs[1]).max() < 0.06
    assert np.abs(cdfs[0] - np.linspace(0, 1, 200)).max() < 0.06
