"""The actor-critic objective against a float64 loop, and the clipping of the gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from probes import EitherEnd, EndlessReward

from jax_a3c import A2CConfig, A3CConfig, envs, networks
from jax_a3c.acting.actor import init_actor
from jax_a3c.acting.unroll import UnrollConfig, unroll
from jax_a3c.errors import InputError
from jax_a3c.objectives import (
    ActorCriticConfig,
    Objective,
    actor_critic,
    gradients,
    next_values,
)
from jax_a3c.objectives.gradients import DATA_COUNTS
from jax_a3c.rollouts import Rollout

# Compiled: without it each operation is a program.
gradient = jax.jit(gradients.gradient, static_argnums=0)
guarded = jax.jit(gradients.guarded, static_argnums=2)
nonfinite_data = jax.jit(gradients.nonfinite_data)


def make_rollout(env, network, *, num_envs=4, num_steps=9, seed=0, stop_at_episode_end=False):
    start = jax.jit(lambda key: init_actor(env, network.initial_carry((num_envs,)), key, num_envs))
    actor = start(jax.random.key(seed))
    params = jax.jit(network.init)(
        jax.random.key(seed + 1), actor.carry, actor.observation[None], actor.reset[None]
    )
    # Heads far from zero, so that no term of the loss is small by accident.
    params = jax.tree.map(
        lambda x: x + 0.3 * jax.random.normal(jax.random.key(seed + 2), x.shape), params
    )
    act = actor_critic(network, ActorCriticConfig()).act
    config = UnrollConfig(num_steps, stop_at_episode_end=stop_at_episode_end)
    play = jax.jit(lambda actor: unroll(env, act, params, actor, config))
    return params, play(actor)[1]


def bootstrap(network, params, carry, observation):
    """Compute v(s) of one batch of states."""
    reset = jnp.zeros((1, observation.shape[0]), bool)
    return np.asarray(network.apply(params, carry, observation[None], reset)[2][0], np.float64)


def reference_loss(network, params, rollout, config):
    """Compute the loss per environment and step, backwards, in float64; mean over all steps."""
    steps = rollout.steps
    _, policy, values = network.apply(params, rollout.carry, steps.observation, steps.reset)
    values, log_probs = (
        np.asarray(values, np.float64),
        np.asarray(policy.log_prob(steps.action), np.float64),
    )
    length, num_envs = values.shape
    targets = np.zeros((length, num_envs))
    for t in reversed(range(length)):
        carry = jax.tree.map(lambda x, t=t: x[t], steps.next_carry)
        own = bootstrap(network, params, carry, steps.next_observation[t])
        for i in range(num_envs):
            reward = np.clip(float(steps.reward[t, i]) * config.reward_scale, -2.0, 2.0)
            if steps.terminated[t, i]:
                targets[t, i] = reward
            elif steps.truncated[t, i] or t == length - 1:
                targets[t, i] = reward + config.gamma * own[i]
            else:
                rest = (1 - config.gae_lambda) * values[t + 1, i] + config.gae_lambda * targets[
                    t + 1, i
                ]
                targets[t, i] = reward + config.gamma * rest
    advantages = targets - values
    policy_loss = -(log_probs * advantages).mean()
    value_loss = 0.5 * (advantages**2).mean()
    entropy = np.asarray(policy.entropy(), np.float64).mean()
    return policy_loss + config.vf_coef * value_loss - config.ent_coef * entropy, targets


@pytest.mark.parametrize("lstm", [0, 8])
@pytest.mark.parametrize("gae_lambda", [1.0, 0.9])
def test_loss_equals_a_plain_loop_through_terminations_and_truncations(lstm, gae_lambda):
    env = EitherEnd()
    network = networks.actor_critic(env, hidden=(8,), lstm=lstm)
    config = ActorCriticConfig(
        gamma=0.9,
        gae_lambda=gae_lambda,
        vf_coef=0.7,
        ent_coef=0.3,
        loss_reduction="mean",
        reward_scale=0.9,
        reward_clip=2.0,
    )
    params, rollout = make_rollout(env, network, num_envs=8, num_steps=12)
    cut = rollout.steps.truncated & ~rollout.steps.terminated
    assert cut[:-1].any() and rollout.steps.terminated.any()
    assert (rollout.steps.truncated & rollout.steps.terminated).any(), (
        "both flags at once: it terminated"
    )
    loss, metrics = jax.jit(actor_critic(network, config).loss)(params, rollout)
    expected, _ = reference_loss(network, params, rollout, config)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


def test_sum_is_the_mean_times_the_steps():
    env = EitherEnd()
    network = networks.actor_critic(env, hidden=(8,))
    params, rollout = make_rollout(env, network, num_steps=9)
    mean, total = (
        jax.jit(actor_critic(network, ActorCriticConfig(loss_reduction=reduction)).loss)(
            params, rollout
        )[0]
        for reduction in ("mean", "sum")
    )
    np.testing.assert_allclose(total, 9 * mean, rtol=1e-6)


def test_rows_after_the_end_of_a_segment_do_not_count():
    env = EitherEnd()
    network = networks.actor_critic(env, hidden=(8,))
    params, rollout = make_rollout(env, network, num_envs=1, stop_at_episode_end=True)
    taken = int(rollout.steps.mask.sum())
    assert 0 < taken < 9
    whole = rollout._replace(steps=jax.tree.map(lambda x: x[:taken], rollout.steps))
    objective = actor_critic(network, ActorCriticConfig(normalize_advantages=False))
    grads, metrics = guarded(*gradient(objective, params, rollout), None)
    expected, expected_metrics = guarded(*gradient(objective, params, whole), None)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), grads, expected
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        metrics,
        expected_metrics,
    )


def test_gradient_is_that_of_algorithm_s3():
    """Sum over steps of -(R - V) grad log pi + vf_coef (V - R) grad V - beta grad H.

    R and R - V are constant.
    """
    env = EitherEnd()
    network = networks.actor_critic(env, hidden=(8,))
    config = ActorCriticConfig(gamma=0.9, vf_coef=0.7, ent_coef=0.3)
    params, rollout = make_rollout(env, network, num_envs=1)
    _, targets = reference_loss(network, params, rollout, config)
    _, _, values = network.apply(params, (), rollout.steps.observation, rollout.steps.reset)
    advantages = jnp.asarray(targets, jnp.float32) - values

    def surrogate(params):
        _, policy, v = network.apply(params, (), rollout.steps.observation, rollout.steps.reset)
        log_probs = policy.log_prob(rollout.steps.action)
        return jnp.sum(-advantages * log_probs - 0.7 * advantages * v - 0.3 * policy.entropy())

    grads, _ = gradient(actor_critic(network, config), params, rollout)
    expected = jax.grad(surrogate)(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5), grads, expected
    )


def test_the_value_of_a_cut_episode_is_that_of_its_final_observation():
    env = EndlessReward()
    env.observe = lambda state: jnp.array([state.time, state.cue], jnp.float32)
    network = networks.actor_critic(env, hidden=(8,), lstm=4)
    params, rollout = make_rollout(env, network, num_steps=6)
    _, _, values = network.apply(
        params, rollout.carry, rollout.steps.observation, rollout.steps.reset
    )
    following = next_values(network, params, rollout, values)
    np.testing.assert_allclose(following[:3], values[1:4], rtol=1e-5)
    carry = jax.tree.map(lambda x: x[3], rollout.steps.next_carry)
    own = bootstrap(network, params, carry, rollout.steps.next_observation[3])
    np.testing.assert_allclose(following[3], own, rtol=1e-5)
    assert np.abs(np.asarray(following[3] - values[4])).min() > 1e-3, (
        "not the value of the next episode's start"
    )


@pytest.mark.parametrize("shared", [True, False])
def test_the_gradient_from_recorded_layers_is_that_of_a_second_pass(shared):
    env = envs.make("gymnax:Breakout-MinAtar", max_steps_in_episode=5)
    network = networks.actor_critic(env, torso="minatar", shared=shared)
    params, rollout = make_rollout(env, network, num_envs=3, num_steps=8)
    assert rollout.steps.extras
    assert rollout.steps.truncated.any()
    without = rollout._replace(steps=rollout.steps._replace(extras=()))
    objective = actor_critic(network, ActorCriticConfig(gae_lambda=0.9))
    ours, plain = (
        jax.jit(lambda r: guarded(*gradient(objective, params, r), 0.5))(r)
        for r in (rollout, without)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, plain)


def test_normalized_advantages_leave_the_value_loss_alone():
    env = EitherEnd()
    network = networks.actor_critic(env, hidden=(8,))
    params, rollout = make_rollout(env, network)
    plain, normal = (
        actor_critic(network, ActorCriticConfig(normalize_advantages=flag)).loss(params, rollout)[1]
        for flag in (False, True)
    )
    np.testing.assert_allclose(plain["value_loss"], normal["value_loss"], rtol=1e-6)
    assert not np.allclose(plain["policy_loss"], normal["policy_loss"])


def test_clipping_bounds_the_global_norm_and_keeps_the_direction():
    env = EitherEnd()
    network = networks.actor_critic(env, hidden=(8,))
    params, rollout = make_rollout(env, network)
    objective = actor_critic(network, ActorCriticConfig())
    plain, plain_metrics = gradient(objective, params, rollout)
    free, metrics = guarded(plain, plain_metrics, None)
    clipped, clipped_metrics = guarded(plain, plain_metrics, 0.5)
    jax.tree.map(np.testing.assert_array_equal, free, plain)
    norm = optax.tree.norm(free)
    assert norm > 0.5
    np.testing.assert_allclose(optax.tree.norm(clipped), 0.5, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a * 0.5 / norm, b, rtol=1e-4, atol=1e-7),
        free,
        clipped,
    )
    np.testing.assert_allclose(metrics["grad_norm"], clipped_metrics["grad_norm"], rtol=1e-6)


def test_a_gradient_that_is_not_finite_becomes_zero_and_is_counted():
    env = EitherEnd()
    network = networks.actor_critic(env, hidden=(8,))
    params, rollout = make_rollout(env, network)
    broken = rollout._replace(
        steps=rollout.steps._replace(reward=rollout.steps.reward.at[2, 1].set(jnp.nan))
    )
    objective = actor_critic(network, ActorCriticConfig())
    grads, metrics = guarded(*gradient(objective, params, broken), 40.0)
    assert all((x == 0).all() for x in jax.tree.leaves(grads))
    assert metrics["nonfinite_gradients"] == 1.0


def test_a_loss_that_is_not_finite_is_refused_even_if_its_gradient_is():
    env = EitherEnd()
    grads, metrics = gradient(
        Objective(None, lambda params, *_: (params["w"].sum(), {"loss": jnp.float32(jnp.inf)})),
        {"w": jnp.ones(3)},
        make_rollout(env, networks.actor_critic(env, hidden=(8,)))[1],
    )
    assert (grads["w"] == 1).all()
    grads, metrics = guarded(grads, metrics, 40.0)
    assert (grads["w"] == 0).all()
    counts = {"nonfinite_gradients": 1.0, "nonfinite_rewards": 0.0, "nonfinite_observations": 0.0}
    assert metrics == {"loss": 0.0, "grad_norm": 0.0, **counts}


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, 1.0])
def test_the_guard_keeps_the_counts_that_tell_the_cause(value):
    counts = dict(zip(DATA_COUNTS, (jnp.ones(()), jnp.zeros(())), strict=True))
    grads = {"w": jnp.array([value, 2.0])}
    guard = jax.jit(guarded, static_argnums=2)
    grads, metrics = guard(grads, {"loss": jnp.float32(3.0), **counts}, None)
    refused = not np.isfinite(value)
    assert grads["w"].tolist() == ([0.0, 0.0] if refused else [1.0, 2.0])
    assert {name: float(metrics.pop(name)) for name in DATA_COUNTS} == {
        "nonfinite_rewards": 1.0,
        "nonfinite_observations": 0.0,
    }
    assert float(metrics.pop("grad_norm")) == (0.0 if refused else pytest.approx(np.sqrt(5.0)))
    assert metrics == {"loss": 3.0 * (not refused), "nonfinite_gradients": refused}


def poisoned(rollout, name, value, row):
    """Replace one entry of one field of a rollout."""
    array = getattr(rollout.steps, name)
    array = array.at[(row, 1, *(0 for _ in array.shape[2:]))].set(value)
    return rollout._replace(steps=rollout.steps._replace(**{name: array}))


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize(
    ("field", "counts"),
    [("reward", (1.0, 0.0)), ("observation", (0.0, 1.0)), ("next_observation", (0.0, 1.0))],
)
def test_what_an_environment_returned_is_counted_where_it_is_not_finite(field, counts, value):
    env = EitherEnd()
    network = networks.actor_critic(env, hidden=(8,))
    params, rollout = make_rollout(env, network)
    broken = poisoned(rollout, field, value, 2)
    objective = actor_critic(network, ActorCriticConfig())
    metrics = guarded(*gradient(objective, params, broken), 40.0)[1]
    assert (metrics["nonfinite_rewards"], metrics["nonfinite_observations"]) == counts

    # The tanh of an infinite final observation is finite, and so are its value and the gradient.
    refused = field != "next_observation" or jnp.isnan(value)
    assert metrics["nonfinite_gradients"] == refused
    assert (metrics["grad_norm"] == 0.0) == refused

    # A masked row does not count, and integers of an image are always finite.
    mask = rollout.steps.mask.at[2].set(False)
    unseen = broken._replace(steps=broken.steps._replace(mask=mask))
    assert nonfinite_data(unseen) == {"nonfinite_rewards": 0.0, "nonfinite_observations": 0.0}
    whole = {
        "observation": jnp.zeros((9, 4, 2), jnp.uint8),
        "next_observation": jnp.zeros((9, 4, 2), jnp.uint8),
    }
    assert nonfinite_data(broken._replace(steps=broken.steps._replace(**whole))) == {
        "nonfinite_rewards": counts[0],
        "nonfinite_observations": 0.0,
    }


@pytest.mark.parametrize("row", range(4))
def test_the_final_observation_of_a_host_episode_is_data_though_its_row_is_masked(row):
    """The row after step 1 only resets: it holds the final observation and is not a step."""
    env = EitherEnd()
    steps = make_rollout(env, networks.actor_critic(env, hidden=(8,)), num_envs=2, num_steps=3)[
        1
    ].steps
    observations = jnp.zeros((4, 2, 2)).at[row, 0, 1].set(jnp.nan)
    mask = jnp.ones((3, 2), bool).at[2, 0].set(False)
    steps = steps._replace(next_observation=None, observation=observations[:3], mask=mask)
    found = nonfinite_data(Rollout((), steps, observations[3]))["nonfinite_observations"]
    assert found == (row < 3), (
        "the last one begins an episode, whose first step is in the next rollout"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": 1.5}, "gamma must be a number between 0 and 1, got 1.5"),
        ({"gae_lambda": -0.1}, "gae_lambda must be a number between 0 and 1, got -0.1"),
        ({"ent_coef": float("inf")}, "ent_coef must be a number of at least 0, got inf"),
        ({"vf_coef": "1"}, "vf_coef must be a number of at least 0, got '1'"),
        ({"loss_reduction": "max"}, "loss_reduction must be one of sum, mean, got 'max'"),
        ({"reward_clip": 0.0}, "reward_clip must be a number above 0, got 0.0"),
    ],
)
def test_bad_settings_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        ActorCriticConfig(**settings)


def test_a_single_advantage_is_not_normalised_away():
    """A single row, also among masked rows, keeps its advantage; two rows become -1 and 1."""
    from jax_a3c.objectives.actor_critic import _normalize

    advantages = jnp.array([[3.0, 5.0]])
    one, both = jnp.array([[True, False]]), jnp.array([[True, True]])
    assert float(_normalize(advantages[:, :1], one[:, :1])[0, 0]) == 3.0
    assert float(_normalize(advantages, one)[0, 0]) == 3.0
    np.testing.assert_allclose(_normalize(advantages, both), [[-1.0, 1.0]], rtol=1e-6)


@pytest.mark.parametrize("config", [A2CConfig, A3CConfig])
def test_normalised_advantages_need_more_than_one_row(config):
    with pytest.raises(
        InputError, match="normalize_advantages must be False with num_envs=1 and num_steps=1"
    ):
        config(num_envs=1, num_steps=1, normalize_advantages=True)
    config(num_envs=2, num_steps=1, normalize_advantages=True)
