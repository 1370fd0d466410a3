"""Policies act in policy units; environments get actions within their bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from probes import Probe

from jax_a3c import A2CConfig, A3CConfig, a2c, a3c, envs, networks
from jax_a3c.acting.actor import init_actor
from jax_a3c.acting.groups import finish, init_host_actor
from jax_a3c.acting.host_unroll import host_unroll
from jax_a3c.acting.unroll import UnrollConfig, unroll
from jax_a3c.envs import Box, Discrete, EnvSpec, HostStep
from jax_a3c.envs.base import to_bounds
from jax_a3c.evaluation.play import evaluator

BOXES = [(-1.0, 1.0), (0.0, 1.0), (100.0, 200.0), (0.0, 1000.0), (-0.001, 0.001)]


@pytest.mark.parametrize("array", [np.array, jnp.array], ids=["numpy", "jax"])
def test_actions_are_mapped_entry_by_entry(array):
    inf = np.inf
    space = Box(
        low=(0.0, -1.0, 100.0, -inf, 0.0, -inf, -3.4e38, 2.0),
        high=(1.0, 1.0, 200.0, inf, inf, 5.0, 3.4e38, 2.0),
    )
    action = np.array([[-7.0] * 8, [0.0] * 8, [0.5] * 8, [7.0] * 8], np.float32)
    expected = [
        [0.0, -1.0, 100.0, -7.0, 0.0, -7.0, -7.0, 2.0],
        [0.5, 0.0, 150.0, 0.0, 0.0, 0.0, 0.0, 2.0],
        [0.75, 0.5, 175.0, 0.5, 0.5, 0.5, 0.5, 2.0],
        [1.0, 1.0, 200.0, 7.0, 7.0, 5.0, 7.0, 2.0],
    ]
    mapped = to_bounds(space, array(action))
    assert type(mapped) is type(array(action)) and mapped.dtype == np.float32
    np.testing.assert_array_equal(mapped, np.float32(expected))


def test_no_rounding_leaves_the_bounds():
    rng = np.random.default_rng(0)
    low = rng.normal(0, 1000, 500)
    high = low + rng.exponential(1e-3, 500)
    space = Box(low=tuple(low), high=tuple(high))
    mapped = to_bounds(space, rng.normal(0, 2, (50, 500)).astype(np.float32))
    assert (mapped >= low.astype(np.float32)).all() and (mapped <= high.astype(np.float32)).all()


def test_discrete_actions_and_those_of_the_unit_box_stay_as_they_are():
    discrete = np.array([0, 2], np.int32)
    assert to_bounds(Discrete(num_actions=3), discrete) is discrete
    action = np.random.default_rng(0).uniform(-1, 1, (100, 2)).astype(np.float32)
    np.testing.assert_array_equal(to_bounds(Box(low=(-1.0, -1.0), high=(1.0, 1.0)), action), action)


class Reach(Probe):
    """Reward minus the squared distance to 3/4 of the range, and -1000 outside of the range."""

    def __init__(self, low, high):
        super().__init__()
        self.low, self.high = low, high
        self.spec = EnvSpec(**{**vars(self.spec), "action_space": Box(low=(low,), high=(high,))})

    def reward(self, state, action):
        place = (action[0] - self.low) / (self.high - self.low)
        outside = (action[0] < self.low) | (action[0] > self.high)
        return jnp.where(outside, -1000.0, -jnp.square(place - 0.75))


def test_the_same_return_whatever_the_bounds():
    """One seed acts at the same place of every range, up to rounding."""
    returns = {}
    for low, high in BOXES:
        env = Reach(low, high)
        network = networks.actor_critic(env, hidden=(8,))
        algorithm = a2c(env, network, optax.adam(1e-2), A2CConfig(num_envs=16, ent_coef=0.0))
        train = jax.jit(
            lambda key, algorithm=algorithm: jax.lax.scan(
                lambda s, _: algorithm.step(s), algorithm.init(key), length=300
            )
        )
        state, metrics = train(jax.random.key(0))
        mean = metrics["episode_return"][-50:].sum() / metrics["episodes"][-50:].sum()
        play = evaluator(env, network, num_episodes=20, policy="greedy")
        returns[low, high] = (
            float(mean),
            float(play(state.params, jax.random.key(1)).returns.mean()),
        )
    first = returns[BOXES[0]]
    assert first[0] > -0.1 and first[1] > -0.01, returns
    for box in BOXES[1:]:
        np.testing.assert_allclose(returns[box], first, atol=0.02, err_msg=f"{box}: {returns}")


def test_threads_reach_it_too():
    env = Reach(100.0, 200.0)
    network = networks.actor_critic(env, hidden=(8,))
    config = A3CConfig(num_workers=2, num_envs=8, total_timesteps=40_000, ent_coef=0.0)
    result = a3c(lambda: env, network, optax.adam(3e-3), config).run(0)
    play = evaluator(env, network, num_episodes=20, policy="greedy")
    assert play(result.params, jax.random.key(1)).returns.mean() > -0.02


def test_the_rollout_keeps_the_policys_action_and_the_environment_gets_the_mapped_one():
    env = Reach(100.0, 200.0)
    drawn = jnp.array([[-3.0], [0.0], [0.5], [3.0]])
    actor = init_actor(env, (), jax.random.key(0), 4)
    act = lambda params, key, carry, *_: (carry, drawn, ())  # noqa: E731
    _, rollout, _ = unroll(env, act, None, actor, UnrollConfig(2))
    np.testing.assert_array_equal(rollout.steps.action, np.stack([drawn, drawn]))
    places = np.array([0.0, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(rollout.steps.reward[0], -np.square(places - 0.75), atol=1e-6)


class Group:
    """Host environments that record their actions."""

    def __init__(self, spec, num_envs):
        self.spec, self.num_envs, self.given = spec, num_envs, []

    def reset(self):
        return np.zeros((self.num_envs, 2), np.float32)

    def step(self, action):
        self.given.append(action)
        no, zero = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, np.float32)
        return HostStep(self.reset(), zero, no, no, no, zero, no)

    def close(self):
        pass


def test_host_environments_likewise():
    group = Group(Reach(100.0, 200.0).spec, 3)
    drawn = np.array([[-3.0], [0.0], [3.0]], np.float32)
    actor = init_host_actor(group, (), jax.random.key(0))
    act = lambda params, key, t, carry, *_: (carry, drawn, ())  # noqa: E731
    finished = finish(host_unroll(act, None, actor, UnrollConfig(2)), group)
    np.testing.assert_array_equal(finished.rollout.steps.action, np.stack([drawn, drawn]))
    np.testing.assert_array_equal(group.given, [[[100.0], [150.0], [200.0]]] * 2)


def test_pendulum_is_played_within_its_bounds_by_every_adapter():
    """The torque of Pendulum is in [-2, 2]: action 1 of a policy is the full torque."""
    spaces = [
        envs.make(f"{library}:Pendulum-v1").spec.action_space
        for library in ("gymnax", "gymnasium", "envpool")
    ]
    assert spaces == [Box(low=(-2.0,), high=(2.0,))] * 3
    assert to_bounds(spaces[0], np.ones((1, 1), np.float32)) == 2.0
