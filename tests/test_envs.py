"""The gymnax adapter against gymnax itself, and environment ids."""

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_a3c import envs

IDS = [env_id for env_id in envs.available() if env_id.startswith("gymnax:")]


def sample_action(space, key):
    if isinstance(space, envs.Discrete):
        return jax.random.randint(key, (), 0, space.num_actions)
    return jax.random.uniform(
        key, (space.size,), minval=jnp.array(space.low), maxval=jnp.array(space.high)
    )


def test_every_registered_environment_can_be_made_but_the_one_that_downloads():
    assert {env_id.removeprefix("gymnax:") for env_id in IDS} == set(gymnax.registered_envs) - {
        "MNISTBandit-bsuite"
    }
    assert len(IDS) >= 25


@pytest.mark.parametrize("env_id", IDS)
def test_every_environment_runs_in_a_loop_with_the_shapes_it_declares(env_id):
    env = envs.make(env_id)

    def step(state, key):
        return env.step(key, state, sample_action(env.spec.action_space, key))

    state, observation = jax.eval_shape(env.reset, jax.random.key(0))
    last, steps = jax.eval_shape(
        lambda key: jax.lax.scan(step, env.reset(key)[0], jax.random.split(key, 3)),
        jax.random.key(0),
    )
    assert jax.tree.structure(last) == jax.tree.structure(state)
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(last)] == [
        (x.shape, x.dtype) for x in jax.tree.leaves(state)
    ]
    assert (observation.shape, observation.dtype) == (
        env.spec.observation_shape,
        env.spec.observation_dtype,
    )
    assert steps.observation.shape == (3, *env.spec.observation_shape)
    assert (steps.reward.shape, steps.reward.dtype) == ((3,), jnp.float32)
    assert (steps.terminated.dtype, steps.truncated.dtype) == (bool, bool)


@pytest.mark.parametrize("name", ["CartPole-v1", "Catch-bsuite", "Pendulum-v1"])
def test_step_equals_gymnax_less_its_auto_reset(name):
    env, (theirs, params) = envs.make(f"gymnax:{name}"), gymnax.make(name)
    state, observation = env.reset(jax.random.key(0))
    their_observation, their_state = theirs.reset_env(jax.random.key(0), params)
    np.testing.assert_array_equal(observation, their_observation)
    for key in jax.random.split(jax.random.key(1), 12):
        action = sample_action(env.spec.action_space, key)
        state, timestep = env.step(key, state, action)
        their_observation, their_state, reward, terminated, _ = theirs.step_env(
            key, their_state, action, params
        )
        np.testing.assert_array_equal(timestep.observation, their_observation)
        np.testing.assert_allclose(timestep.reward, np.squeeze(reward))
        assert bool(timestep.terminated) == bool(terminated)
        assert bool(timestep.truncated) == bool(theirs.is_truncated(their_state, params))


def test_the_time_limit_truncates_and_does_not_terminate():
    env = envs.make("gymnax:Pendulum-v1", max_steps_in_episode=3)
    assert env.spec.max_episode_steps == 3
    state, _ = env.reset(jax.random.key(0))
    flags = []
    for _ in range(3):
        state, timestep = env.step(jax.random.key(0), state, jnp.zeros(1))
        flags.append((bool(timestep.terminated), bool(timestep.truncated)))
    assert flags == [(False, False), (False, False), (False, True)]


def test_real_actions_are_clipped_to_their_bounds():
    env = envs.make("gymnax:Pendulum-v1")
    assert env.spec.action_space == envs.Box(low=(-2.0,), high=(2.0,))
    state, _ = env.reset(jax.random.key(0))
    far, bound = (env.step(jax.random.key(0), state, jnp.array([a]))[1] for a in (50.0, 2.0))
    np.testing.assert_array_equal(far.observation, bound.observation)
    np.testing.assert_array_equal(far.reward, bound.reward)


def test_categorical_observations_are_declared():
    assert envs.make("gymnax:FrozenLake-misc").spec.num_categories == 16
    assert envs.make("gymnax:CartPole-v1").spec.num_categories is None


@pytest.mark.parametrize(
    ("env_id", "hint"),
    [
        ("gymnax:CartPole-v2", "did you mean 'gymnax:CartPole-v1'"),
        ("gymnax:cartpole-v1", "did you mean 'gymnax:CartPole-v1'"),
        ("CartPole-v1", "did you mean 'gymnax:CartPole-v1'"),
        ("Breakout-MinAtar", "did you mean 'gymnax:Breakout-MinAtar'"),
        ("nothing like it", "`jax-a3c envs` lists the available ids"),
    ],
)
def test_an_unknown_id_gets_the_nearest_matches(env_id, hint):
    with pytest.raises(ValueError, match="unknown environment") as error:
        envs.make(env_id)
    assert hint in str(error.value)


def test_an_unknown_setting_is_refused():
    with pytest.raises(ValueError, match="no setting 'gravitty'; did you mean 'gravity'"):
        envs.make("gymnax:CartPole-v1", gravitty=1.0)


@pytest.mark.parametrize(
    ("env_id", "option", "message"),
    [
        (
            "CartPole-v1",
            {"max_steps_in_episode": 0},
            "max_steps_in_episode of .* an integer of at least 1, got 0",
        ),
        ("CartPole-v1", {"max_steps_in_episode": 7.5}, "an integer of at least 1, got 7.5"),
        (
            "CartPole-v1",
            {"gravity": True},
            "gravity of 'gymnax:CartPole-v1' must be a number, got True",
        ),
        (
            "Asterix-MinAtar",
            {"ramping": 1},
            "ramping of 'gymnax:Asterix-MinAtar' must be True or False, got 1",
        ),
        (
            "Acrobot-v1",
            {"available_torque": 1.0},
            "has no setting 'available_torque'",
        ),  # it is an array
    ],
)
def test_a_setting_of_another_type_is_refused(env_id, option, message):
    with pytest.raises(ValueError, match=message):
        envs.make(f"gymnax:{env_id}", **option)


def test_a_flag_of_an_environment_can_be_set():
    assert envs.make("gymnax:Asterix-MinAtar", ramping=False)._params.ramping is False


@pytest.mark.parametrize("env_id", [None, 3, b"gymnax:CartPole-v1", ["gymnax:CartPole-v1"]])
def test_an_id_that_is_no_string_is_refused(env_id):
    with pytest.raises(ValueError, match="env must be a string, got"):
        envs.make(env_id)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: envs.Discrete(num_actions=0),
            "num_actions must be an integer of at least 1, got 0",
        ),
        (lambda: envs.Box(low=(), high=()), "low and high of a Box must have"),
        (lambda: envs.Box(low=(0.0,), high=(1.0, 1.0)), "low and high of a Box must have"),
        (lambda: envs.Box(low=(1.0,), high=(0.0,)), "low and high of a Box must have"),
        (lambda: envs.Box(low=(float("nan"),), high=(0.0,)), "low and high of a Box must have"),
        (lambda: spec(observation_shape=(3, 0)), r"observation_shape \(3, 0\) of 'mine' must be"),
        (lambda: spec(observation_dtype="U4"), "observations of 'mine' have the dtype U4"),
        (lambda: spec(observation_dtype=object), "observations of 'mine' have the dtype"),
        (lambda: spec(observation_shape=(), num_categories=0), "num_categories of 'mine'"),
        (lambda: spec(observation_high=0.0), "observation_high of 'mine' must be a number above 0"),
    ],
)
def test_spaces_that_no_method_can_serve_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def spec(**given):
    """Return a valid spec with some fields replaced."""
    usual = {"id": "mine", "observation_shape": (3,), "observation_dtype": np.float32}
    return envs.EnvSpec(**{**usual, "action_space": envs.Discrete(num_actions=2), **given})
