"""Running statistics against float64 sums, and their protection from gradients and threads."""

import dataclasses
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from probes import EitherEnd, Probe, State

from jax_a3c import networks, objectives, optimizers
from jax_a3c.acting.actor import init_actor
from jax_a3c.acting.unroll import UnrollConfig, unroll
from jax_a3c.envs.base import Box, Discrete, EnvSpec
from jax_a3c.normalization import (
    FADING_COUNT,
    MAX_COUNT,
    normalized_network,
    normalized_objective,
    num_statistics,
    observe,
)
from jax_a3c.rollouts import Rollout, Transition
from jax_a3c.runners.asynchronous import AsynchronousRunner
from jax_a3c.runners.loop import SynchronousRunner
from jax_a3c.runners.synchronous import synchronous
from jax_a3c.settings.parts import AsynchronousConfig, SynchronousConfig

KEY = jax.random.key(0, impl="rbg")
SPEC = EnvSpec(
    id="test:v0",
    observation_shape=(3,),
    observation_dtype=np.float32,
    action_space=Discrete(num_actions=2),
)
LOCATION, SCALE = np.array([5.0, -30.0, 0.2]), np.array([2.0, 10.0, 0.5])
both = partial(normalized_network, observations=True, rewards=True)


def make_network(spec=SPEC, *, lstm=0, observations=True, rewards=True):
    network = networks.actor_critic(spec, hidden=(8,), lstm=lstm, init="torch")
    return normalized_network(network, spec, observations=observations, rewards=rewards)


def make_variables(network, key=KEY, shape=(3,)):
    return network.init(
        key, network.initial_carry((2,)), jnp.zeros((1, 2, *shape)), jnp.ones((1, 2), bool)
    )


def make_rollout(rng, *, num_steps=5, num_envs=4, masked=True, shape=(3,)):
    """Return observations and returns far from 0 +- 1; masked rows hold NaN and infinities."""
    rows = (num_steps, num_envs)
    mask = rng.random(rows) < 0.7 if masked else np.ones(rows, bool)
    observation = rng.normal(LOCATION[: shape[-1]], SCALE[: shape[-1]], (*rows, *shape))
    observation[~mask] = np.nan
    flags = jnp.zeros(rows, bool)
    steps = Transition(
        observation=jnp.asarray(observation, jnp.float32),
        reset=flags,
        action=jnp.zeros(rows, jnp.int32),
        reward=jnp.asarray(rng.normal(3.0, 20.0, rows), jnp.float32),
        terminated=flags,
        truncated=flags,
        next_observation=jnp.asarray(observation, jnp.float32),
        next_carry=(),
        mask=jnp.asarray(mask),
        running_return=jnp.asarray(
            np.where(mask, rng.normal(40.0, 7.0, rows), np.inf), jnp.float32
        ),
    )
    return Rollout((), steps)


def add(variables, *changes):
    for change in changes:
        variables = {
            **variables,
            "statistics": jax.tree.map(jnp.add, variables["statistics"], change),
        }
    return variables


def reference(rollouts, field, shape):
    """Compute the statistics of all recorded steps in float64."""
    fields = [np.asarray(getattr(rollout.steps, field), np.float64) for rollout in rollouts]
    masks = [np.asarray(rollout.steps.mask) for rollout in rollouts]
    x = np.concatenate([values[mask] for values, mask in zip(fields, masks, strict=True)])
    assert x.shape[1:] == shape
    return {"count": len(x), "mean": x.mean(0), "variance": x.var(0)}


def assert_close(moments, expected, rtol):
    for name, value in expected.items():
        np.testing.assert_allclose(moments[name], value, rtol=rtol, err_msg=name)


def with_a_history(network, key=KEY, shape=(3,)):
    """Return variables whose statistics have left their start; no entry is 0."""
    rng = np.random.default_rng(0)
    variables = make_variables(network, key, shape)
    for _ in range(3):
        variables = add(variables, observe(variables, make_rollout(rng, shape=shape)))
    return variables


def play(env, network, variables, *, num_envs=4, num_steps=6):
    """Return a rollout of a real environment with the fields that are normalised."""
    actor = init_actor(env, network.initial_carry((num_envs,)), jax.random.key(1), num_envs)
    act = objectives.actor_critic(network, objectives.ActorCriticConfig()).act
    config = UnrollConfig(num_steps)
    run = jax.jit(lambda actor: unroll(env, act, variables, actor, config)[1])
    rollout = run(actor)
    returns = jnp.cumsum(rollout.steps.reward, axis=0)
    return rollout._replace(steps=rollout.steps._replace(running_return=returns))


# The statistics.


def test_moments_are_those_of_all_recorded_steps():
    rng = np.random.default_rng(1)
    rollouts = [make_rollout(rng, num_steps=1 + i % 7) for i in range(300)]
    variables, update = make_variables(make_network()), jax.jit(lambda v, r: add(v, observe(v, r)))
    for rollout in rollouts:
        variables = update(variables, rollout)
    statistics = variables["statistics"]
    assert_close(statistics["observations"], reference(rollouts, "observation", (3,)), 1e-5)
    assert_close(statistics["returns"], reference(rollouts, "running_return", ()), 1e-5)


def test_a_large_offset_costs_no_digits_of_the_variance():
    rng, rollouts = np.random.default_rng(2), []
    variables, update = make_variables(make_network()), jax.jit(lambda v, r: add(v, observe(v, r)))
    for _ in range(300):
        rollout = make_rollout(rng, num_steps=50)
        steps = rollout.steps._replace(running_return=1e5 + rollout.steps.running_return / 7.0)
        rollouts.append(rollout._replace(steps=steps))
        variables = update(variables, rollouts[-1])
    assert_close(
        variables["statistics"]["returns"], reference(rollouts, "running_return", ()), 1e-4
    )


def test_two_workers_that_take_turns_with_old_statistics_agree_with_one():
    """Each update is computed before the other worker adds, so the staleness is always 1."""
    rng = np.random.default_rng(3)
    rollouts = [make_rollout(rng) for _ in range(600)]
    change = jax.jit(partial(observe, num_workers=2))
    variables = make_variables(make_network())
    pending = change(variables, rollouts[0])
    for rollout in rollouts[1:]:
        following = change(variables, rollout)
        variables, pending = add(variables, pending), following
    statistics = add(variables, pending)["statistics"]
    assert_close(statistics["observations"], reference(rollouts, "observation", (3,)), 0.02)
    assert_close(statistics["returns"], reference(rollouts, "running_return", ()), 0.02)


@pytest.mark.parametrize("num_workers", [1, 4, 64])
def test_workers_that_start_together_come_to_the_moments_of_all_their_steps(num_workers):
    """All workers read a count of 0 before any worker adds."""
    rng = np.random.default_rng(4)
    rollouts = [make_rollout(rng, num_steps=250, masked=False) for _ in range(num_workers)]
    variables, change = (
        make_variables(make_network()),
        jax.jit(partial(observe, num_workers=num_workers)),
    )
    statistics = add(variables, *(change(variables, rollout) for rollout in rollouts))["statistics"]
    expected = reference(rollouts, "observation", (3,))
    assert_close(statistics["observations"], {k: expected[k] for k in ("count", "mean")}, 1e-5)
    # The means of the rollouts differ, which the tolerance covers.
    np.testing.assert_allclose(
        statistics["observations"]["variance"], expected["variance"], rtol=0.01
    )


def test_the_count_saturates_and_the_moments_go_on_moving():
    rng, network = np.random.default_rng(5), make_network()
    variables, update = make_variables(network), jax.jit(lambda v, r: add(v, observe(v, r)))
    full = jax.tree.map(lambda x: x, variables)
    full["statistics"]["observations"]["count"] = jnp.float32(MAX_COUNT - 3)
    full["statistics"]["returns"]["count"] = jnp.float32(MAX_COUNT + 40)  # threads added at once
    for _ in range(20):
        full = update(full, make_rollout(rng, num_steps=50, masked=False))
    for moments in full["statistics"].values():
        assert moments["count"] == MAX_COUNT
    expected = LOCATION * 20 * 200 / MAX_COUNT  # the mean starts at 0
    np.testing.assert_allclose(full["statistics"]["observations"]["mean"], expected, rtol=0.2)


def test_what_is_not_finite_leaves_its_moments_alone():
    variables = make_variables(make_network())
    rollout = make_rollout(np.random.default_rng(6), masked=False)
    spoilt = rollout.steps.observation.at[1, 0, 0].set(jnp.nan).at[2, 1, 1].set(1e30)
    returns = rollout.steps.running_return.at[0, 0].set(-jnp.inf)
    steps = rollout.steps._replace(observation=spoilt, running_return=returns)
    changes, good = observe(variables, rollout._replace(steps=steps)), observe(variables, rollout)
    assert all((x == 0).all() for x in jax.tree.leaves(changes["returns"])), "its count included"
    for name in ("mean", "variance"):
        np.testing.assert_array_equal(changes["observations"][name][:2], 0.0)
        np.testing.assert_array_equal(
            changes["observations"][name][2:],
            good["observations"][name][2:],
            err_msg="the entry beside them",
        )


def test_a_rollout_without_recorded_steps_changes_nothing():
    rollout = make_rollout(np.random.default_rng(7))
    rollout = rollout._replace(
        steps=rollout.steps._replace(mask=jnp.zeros_like(rollout.steps.mask))
    )
    for change in jax.tree.leaves(observe(make_variables(make_network()), rollout)):
        np.testing.assert_array_equal(change, 0.0)


def test_statistics_are_the_tail_of_the_flat_vector():
    variables = make_variables(make_network())
    marked = {
        **variables,
        "statistics": jax.tree.map(lambda x: jnp.full_like(x, 7), variables["statistics"]),
    }
    count = num_statistics(variables)
    assert count == num_statistics(jax.eval_shape(lambda: variables)) == 1 + 3 + 3 + 3
    before, after = ravel_pytree(variables)[0], ravel_pytree(marked)[0]
    np.testing.assert_array_equal(after[-count:], 7.0)
    np.testing.assert_array_equal(after[:-count], before[:-count])
    assert num_statistics(make_variables(make_network(observations=False, rewards=False))) == 0


# The start, and data of any scale.

FEATURES = np.array([(101_325, 100), (-1e5, 10), (1e5, 1), (0, 1e-3), (1, 1e-3), (0, 1e4)])
"""Offset and standard deviation of each feature."""
OFFSETS, DEVIATIONS = FEATURES.T
SCALES = np.array([1e-5, 1e-2, 1.0, 1e4, 1e5])
"""Scales of the rewards."""
FEATURES_SPEC = dataclasses.replace(SPEC, observation_shape=(len(FEATURES),))
NUM_STEPS = 80_000


class Echo:
    """Network that returns its observation as the policy."""

    def init(self, key, carry, obs, reset):
        return {"weight": jnp.zeros(())}

    def apply(self, params, carry, obs, reset):
        return carry, obs, jnp.zeros(reset.shape)

    def initial_carry(self, batch_shape):
        return ()


def seen_observations(spec, variables, obs):
    """Return the inputs of the inner network, `[N, *observation_shape]`."""
    network = normalized_network(Echo(), spec, observations=True, rewards=False)
    obs = jnp.asarray(obs, jnp.float32)[None]
    return np.asarray(network.apply(variables, (), obs, jnp.zeros(obs.shape[:2], bool))[1][0])


def seen_rewards(variables, rewards):
    """Return the rewards that the learner sees, `[N]`."""
    seen, network = [], normalized_network(Echo(), SPEC, observations=False, rewards=True)
    plain = objectives.Objective(act=lambda: None, loss=lambda p, r, t: seen.append(r) or (0.0, {}))
    rewards = jnp.asarray(rewards, jnp.float32)
    rollout = make_rollout(
        np.random.default_rng(0), num_steps=len(rewards), num_envs=1, masked=False
    )
    rollout = rollout._replace(steps=rollout.steps._replace(reward=rewards[:, None]))
    normalized_objective(plain, network).loss(variables, rollout, None)
    return np.asarray(seen[0].steps.reward[:, 0])


def rollout_of(observation, running_return):
    """Return a rollout of one environment from observations `[T, ...]` and returns `[T]`."""
    rollout = make_rollout(
        np.random.default_rng(0), num_steps=len(observation), num_envs=1, masked=False
    )
    steps = rollout.steps._replace(
        observation=jnp.asarray(observation, jnp.float32)[:, None],
        running_return=jnp.asarray(running_return, jnp.float32)[:, None],
    )
    return rollout._replace(steps=steps)


class Waves:
    """Sine waves with a period of 400 steps, whose first rollouts resemble each other."""

    def __init__(self, rng, offsets, deviations):
        self._time, self._phases = 0, rng.uniform(0.0, 2.0 * np.pi, len(offsets))
        self._offsets, self._deviations = offsets, deviations

    def __call__(self, num_steps):
        times = np.arange(self._time, self._time + num_steps)[:, None] / 400 * 2 * np.pi
        self._time += num_steps
        return self._offsets + np.sqrt(2.0) * self._deviations * np.sin(times + self._phases)


class Sums:
    """Discounted sums of positive rewards around `scales` / 2: they rise from 0 to 50 `scales`."""

    def __init__(self, rng, scales):
        self._rewards, self._last = Waves(rng, 0.5 * scales, 0.25 * scales), 0.0 * scales
        self.all = []

    def __call__(self, num_steps):
        sums = []
        for reward in self._rewards(num_steps):
            self._last = 0.99 * self._last + reward
            sums.append(self._last)
        self.all += sums
        return np.array(sums)


def in_turn(num_workers):
    """Each worker reads after the previous one added."""
    return itertools.repeat([0])


def together(num_workers):
    """All workers read, then all add."""
    return itertools.repeat(range(num_workers))


def at_random(num_workers):
    """A random worker adds the change that it computed at its previous turn."""
    rng = np.random.default_rng(0)
    return ([rng.integers(num_workers)] for _ in itertools.count())


def late(num_workers):
    """One worker adds 100 times before the first changes of the others, which read a count of 0."""
    return itertools.chain(
        itertools.repeat([0], 100), ([i % num_workers] for i in itertools.count())
    )


def in_bursts(num_workers):
    """Each worker adds 20 times while the others keep old changes."""
    return ([i // 20 % num_workers] for i in itertools.count())


def simulate(schedule, num_workers, *, length=40, lossy=False):
    """Gather statistics of `FEATURES`, and of returns for each of `SCALES`, over `NUM_STEPS` steps.

    `lossy` drops one number in twenty of each change, as if two threads added at once.

    Returns:
      The variables, and the standard deviation of the returns.
    """
    rng = np.random.default_rng(0)
    features = [Waves(rng, OFFSETS, DEVIATIONS) for _ in range(num_workers)]
    returns = [Sums(rng, SCALES) for _ in range(num_workers)]

    network = make_network(FEATURES_SPEC)
    observation = jnp.asarray(features[0](1), jnp.float32)
    start = network.init(KEY, (), observation[None], jnp.ones((1, 1), bool))
    first = start["statistics"]
    scales = jax.tree.map(lambda x: jnp.zeros(len(SCALES)), first["returns"])
    variables = {**start, "statistics": {"observations": first["observations"], "returns": scales}}
    axes = {"observations": None, "returns": 0}

    def change(variables, observation, running_return):
        def of_one(statistics, sums):
            return observe(
                {"statistics": statistics}, rollout_of(observation, sums), num_workers=num_workers
            )

        return jax.vmap(of_one, (axes, 1), axes)(variables["statistics"], running_return)

    change, plus = jax.jit(change), jax.jit(add)
    gather = lambda k: change(variables, features[k](length), returns[k](length))  # noqa: E731
    pending = [gather(k) for k in range(num_workers)]
    done = 0
    for those in schedule(num_workers):
        for k in those:
            changes = pending[k]
            if lossy:
                changes = jax.tree.map(lambda x: x * (rng.random(x.shape) > 0.05), changes)
            variables = plus(variables, changes)
            done += length
        for k in those:
            pending[k] = gather(k)
        if done >= NUM_STEPS:
            return variables, np.concatenate([one.all for one in returns]).std(0)
    raise AssertionError


@pytest.mark.parametrize(
    ("schedule", "num_workers", "lossy"),
    [
        (in_turn, 1, False),
        (in_turn, 8, False),
        (together, 8, False),
        (at_random, 8, True),
        (late, 8, False),
        (in_bursts, 8, True),
    ],
)
def test_the_network_and_the_learner_see_units_whatever_the_data_are(schedule, num_workers, lossy):
    variables, of_returns = simulate(schedule, num_workers, lossy=lossy)
    samples = Waves(np.random.default_rng(1), OFFSETS, DEVIATIONS)(400)
    seen = seen_observations(FEATURES_SPEC, variables, samples)
    np.testing.assert_allclose(seen.std(0), 1.0, rtol=0.2)
    np.testing.assert_allclose(seen.mean(0), 0.0, atol=0.4)
    for i, scale in enumerate(SCALES):
        moments = jax.tree.map(lambda x, i=i: x[i], variables["statistics"]["returns"])
        rewards = seen_rewards(
            {**variables, "statistics": {"returns": moments}}, [scale, -2.0 * scale]
        )
        np.testing.assert_allclose(rewards, np.array([1.0, -2.0]) * scale / of_returns[i], rtol=0.3)


class Gauges(Probe):
    """Observe `FEATURES` as sine waves of 40 steps with a random phase; reward up to `scale`."""

    length = 100

    def __init__(self, scale):
        super().__init__()
        self.spec = dataclasses.replace(self.spec, observation_shape=(len(FEATURES),))
        self._scale = scale

    def reset(self, key):
        state = State(jnp.zeros((), jnp.int32), jax.random.uniform(key, maxval=2.0 * np.pi))
        return state, self.observe(state)

    def observe(self, state):
        wave = jnp.sin(state.cue + state.time / 40.0 * 2.0 * np.pi + jnp.arange(len(FEATURES)))
        return jnp.asarray(OFFSETS + np.sqrt(2.0) * DEVIATIONS * wave, jnp.float32)

    def reward(self, state, action):
        return self._scale * (0.5 + 0.5 * jnp.sin(state.cue + state.time / 40.0 * 2.0 * np.pi))

    def deviation_of_returns(self):
        """Compute it over many episodes in float64."""
        phases, sums, every = np.linspace(0.0, 2.0 * np.pi, 100), np.zeros(100), []
        for time in range(self.length):
            sums = 0.99 * sums + self._scale * (
                0.5 + 0.5 * np.sin(phases + time / 40.0 * 2.0 * np.pi)
            )
            every.append(sums)
        return np.std(every)


@pytest.mark.parametrize(("num_workers", "scale"), [(None, 1e4), (1, 1e-5), (8, 1e-5)])
def test_both_runners_reach_units_whatever_the_data_are(num_workers, scale):
    env = Gauges(scale)
    network = normalized_network(
        networks.actor_critic(env, hidden=(8,)), env, observations=True, rewards=True
    )
    plain = objectives.actor_critic(network, objectives.ActorCriticConfig())
    objective = normalized_objective(plain, network, num_workers=num_workers or 1)
    parts = env, network, optimizers.shared_rmsprop(1e-3), objective
    if num_workers is None:
        config = SynchronousConfig(num_envs=16)
        runner = SynchronousRunner(synchronous(*parts, config), config)
    else:
        config = AsynchronousConfig(num_workers=num_workers, num_envs=4, num_steps=5)
        runner = AsynchronousRunner(*parts, config)
    params = runner.run(0, until=NUM_STEPS).params
    phases = np.linspace(0.0, 2.0 * np.pi, 400)
    samples = jax.vmap(lambda phase: env.observe(State(0, phase)))(phases)
    seen = seen_observations(env.spec, params, samples)
    np.testing.assert_allclose(seen.std(0), 1.0, rtol=0.2)
    np.testing.assert_allclose(seen.mean(0), 0.0, atol=0.4)
    deviation = env.deviation_of_returns()
    assert 0.5 < seen_rewards(params, [scale])[0] * deviation / scale < 2.0


class Barometer(Probe):
    """Reward 1 for the action that tells whether the pressure is above 101,325."""

    def observe(self, state):
        return jnp.array([101_325.0 + 100.0 * state.cue, 3.0])

    def reward(self, state, action):
        return (action == 1) == (state.cue > 0)


@pytest.mark.optimized
def test_a_small_deviation_from_a_large_offset_is_learned():
    env, rewards = Barometer(), []
    network = normalized_network(
        networks.actor_critic(env, hidden=(16,)), env, observations=True, rewards=False
    )
    objective = normalized_objective(
        objectives.actor_critic(network, objectives.ActorCriticConfig()), network
    )
    config = SynchronousConfig(num_envs=16)
    runner = synchronous(env, network, optax.adam(1e-2), objective, config)

    def watch(progress):
        sums = progress.metric_sums
        rewards.append((sums["episode_return"], sums["episode_length"]))

    SynchronousRunner(runner, config).run(0, until=16_000, callback=watch)
    (early, before), (late, after) = rewards[len(rewards) // 2], rewards[-1]
    assert (late - early) / (after - before) > 0.95


def test_statistics_start_at_the_first_observation():
    obs = jnp.array([[[101_325.0, 2.0, jnp.nan], [3.0, 4.0, 5.0]]])
    network = make_network()
    statistics = network.init(KEY, (), obs, jnp.ones((1, 2), bool))["statistics"]
    np.testing.assert_array_equal(statistics["observations"]["mean"], [101_325.0, 2.0, 0.0])
    assert statistics["returns"]["mean"] == 0.0
    for moments in statistics.values():
        np.testing.assert_array_equal(moments["count"], 0.0)
        np.testing.assert_array_equal(moments["variance"], 0.0)


def test_before_the_first_step_what_is_seen_is_bounded():
    variables = make_variables(make_network())
    seen = seen_observations(SPEC, variables, [[0.5, -3.0, 1e5]])
    np.testing.assert_array_equal(seen, [[0.5, -3.0, 10.0]])
    np.testing.assert_array_equal(seen_rewards(variables, [0.0, 2.0, -1e6]), [0.0, 2.0, -10.0])


def test_the_first_rollouts_do_not_set_the_unit():
    """The first steps vary ten times less than later ones, so the deviation is widened."""
    first = np.array([[9.9, 0.0, 1.0], [10.0, 0.0, 1.0], [10.1, 0.0, 1.0]])
    variables = make_variables(make_network())
    variables = add(variables, observe(variables, rollout_of(first, np.zeros(3))))
    np.testing.assert_allclose(
        variables["statistics"]["observations"]["variance"][0], 0.02 / 3, rtol=1e-3
    )
    deviation = np.sqrt((1.0 + FADING_COUNT / 3.0) * 0.02 / 3.0)
    np.testing.assert_allclose(
        seen_observations(SPEC, variables, [[11.0, 0.0, 1.0]])[0, 0], 1.0 / deviation, rtol=1e-3
    )


@pytest.mark.parametrize("num_workers", [1, 3, 8])
@pytest.mark.parametrize("from_zeros", [True, False])
def test_a_constant_stays_near_zero(num_workers, from_zeros):
    """One constant is rounded in float32, and one has noise in its last bit."""
    constants, rng = np.array([101_325.3, 0.1, 101_325.0]), np.random.default_rng(0)
    network, change, plus = (
        make_network(),
        jax.jit(partial(observe, num_workers=num_workers)),
        jax.jit(add),
    )
    start = jnp.asarray(constants * (not from_zeros), jnp.float32)
    variables = network.init(KEY, (), start[None, None], jnp.ones((1, 1), bool))
    for _ in range(100):
        x = np.tile(constants, (20, 1))
        x[:, 2] += rng.integers(-1, 2, 20) / 128.0
        changes = [change(variables, rollout_of(x, np.ones(20)))] * num_workers
        variables = plus(variables, *changes)
    assert np.abs(seen_observations(SPEC, variables, x)).max() < 0.2


def test_rewards_of_zero_and_rare_rewards_are_bounded():
    """One step in a thousand has reward 1."""
    variables, update = make_variables(make_network()), jax.jit(lambda v, r: add(v, observe(v, r)))
    nothing = rollout_of(np.zeros((50, 3)), np.zeros(50))
    paid = rollout_of(np.zeros((50, 3)), 0.99 ** np.arange(50))
    for _ in range(20):
        variables = update(variables, nothing)
    np.testing.assert_array_equal(seen_rewards(variables, [0.0, 1.0]), [0.0, 10.0])

    for i in range(600):
        variables = update(variables, nothing if i % 20 else paid)
    deviation = np.std([*(0.99 ** np.arange(50)), *np.zeros(950)])
    np.testing.assert_allclose(
        seen_rewards(variables, [1.0, 0.0]), [1.0 / deviation, 0.0], rtol=0.05
    )


def test_statistics_of_older_versions_go_on():
    """Older versions started with a count of 100, mean 0 and variance 1."""
    rng, variables = np.random.default_rng(14), make_variables(make_network())
    old = variables["statistics"]["observations"]
    old |= {"count": jnp.float32(100.0), "variance": jnp.ones(3)}
    rollouts, update = (
        [make_rollout(rng) for _ in range(50)],
        jax.jit(lambda v, r: add(v, observe(v, r))),
    )
    for rollout in rollouts:
        variables = update(variables, rollout)
    new = reference(rollouts, "observation", (3,))
    count, mean = 100 + new["count"], new["count"] * new["mean"] / (100 + new["count"])
    squares = 100 + new["count"] * (new["variance"] + new["mean"] ** 2)
    expected = {"count": count, "mean": mean, "variance": squares / count - mean**2}
    assert_close(variables["statistics"]["observations"], expected, 1e-5)


@pytest.mark.parametrize(
    "mode",
    [partial(jax.enable_x64, True), partial(jax.numpy_rank_promotion, "raise")],
    ids=["x64", "ranks"],
)
def test_statistics_are_float32_and_nothing_is_broadcast_by_rank(mode):
    with mode():
        network = make_network()
        variables = make_variables(network)
        variables = add(variables, observe(variables, make_rollout(np.random.default_rng(15))))
        seen = seen_observations(SPEC, variables, np.ones((4, 3)))
        rewards = seen_rewards(variables, [1.0])
    assert {x.dtype for x in jax.tree.leaves(variables["statistics"])} == {jnp.dtype(jnp.float32)}
    assert seen.dtype == rewards.dtype == np.float32


# The network.


def test_the_network_sees_bounded_deviations():
    network = make_network()
    variables = with_a_history(network)
    moments = jax.tree.map(
        lambda x: np.asarray(x, np.float64), variables["statistics"]["observations"]
    )
    obs = np.random.default_rng(8).normal(0.0, 50.0, (5, 2, 3)).astype(np.float32)
    obs[0, 0] = 1e6, -1e6, np.inf
    widening = 1.0 + FADING_COUNT / moments["count"]
    deviation = np.sqrt(widening * moments["variance"] + (1e-6 * moments["mean"]) ** 2 + 1e-16)
    expected = np.clip((obs - moments["mean"]) / deviation, -10.0, 10.0)
    assert (expected[0, 0] == (10, -10, 10)).all()
    reset = jnp.zeros((5, 2), bool)
    _, policy, values = network.apply(variables, (), jnp.asarray(obs), reset)
    _, plain, plain_values = network.network.apply(
        variables["params"], (), expected.astype(np.float32), reset
    )
    np.testing.assert_allclose(policy.logits, plain.logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(values, plain_values, rtol=1e-4, atol=1e-5)


def test_a_negative_variance_stays_finite():
    network = make_network()
    variables = with_a_history(network)
    variables["statistics"]["observations"]["variance"] = jnp.full(3, -0.1)
    _, _, values = network.apply(variables, (), jnp.ones((1, 2, 3)), jnp.zeros((1, 2), bool))
    assert jnp.isfinite(values).all()


@pytest.mark.parametrize("lstm", [0, 4])
def test_without_statistics_it_is_the_network_within(lstm):
    network = make_network(lstm=lstm, observations=False, rewards=False)
    variables, carry = make_variables(network), network.initial_carry((2,))
    obs, reset = jax.random.normal(KEY, (3, 2, 3)), jnp.zeros((3, 2), bool)
    got = network.apply(variables, carry, obs, reset)
    expected = network.network.apply(variables["params"], carry, obs, reset)
    jax.tree.map(np.testing.assert_array_equal, got[2], expected[2])


@pytest.mark.parametrize(
    ("dtype", "name"), [(np.uint8, "uint8"), (jnp.int32, "int32"), (bool, "bool")]
)
def test_images_and_categories_are_refused_but_their_rewards_are_not(dtype, name):
    spec = EnvSpec(
        id="test:v0",
        observation_shape=(4,),
        observation_dtype=dtype,
        action_space=Discrete(num_actions=2),
    )
    network = networks.actor_critic(spec)
    with pytest.raises(ValueError, match=f"'test:v0' have dtype {name}, and only floating-point"):
        both(network, spec)
    assert normalized_network(network, spec, observations=False, rewards=True).rewards


def test_bfloat16_observations_are_normalised_in_float32():
    spec = EnvSpec(
        id="test:v0",
        observation_shape=(3,),
        observation_dtype=jnp.bfloat16,
        action_space=Box(low=(-1.0,), high=(1.0,)),
    )
    network = make_network(spec)
    changes = observe(make_variables(network), make_rollout(np.random.default_rng(9)))
    assert {x.dtype for x in jax.tree.leaves(changes)} == {jnp.dtype(jnp.float32)}
    variables, reset = with_a_history(network), jnp.zeros((4, 2), bool)
    obs = jnp.asarray(np.random.default_rng(9).normal(LOCATION, SCALE, (4, 2, 3)), jnp.bfloat16)
    values = network.apply(variables, (), obs, reset)[2]
    np.testing.assert_array_equal(
        values, network.apply(variables, (), obs.astype(jnp.float32), reset)[2]
    )


# The objective, its gradient, and the optimizers.


def test_rewards_are_scaled_but_not_centred():
    network = make_network()
    variables, seen = with_a_history(network), []
    plain = objectives.Objective(
        act=lambda: None, loss=lambda p, r, t: seen.extend((r, t)) or (0.0, {})
    )
    objective = normalized_objective(plain, network)
    rollout = make_rollout(np.random.default_rng(10))
    rollout = rollout._replace(
        steps=rollout.steps._replace(reward=rollout.steps.reward.at[0, 0].set(1e9))
    )
    objective.loss(variables, rollout, "target")
    moments = {name: np.float64(x) for name, x in variables["statistics"]["returns"].items()}
    widening = 1.0 + FADING_COUNT / moments["count"]
    deviation = np.sqrt(widening * moments["variance"] + (1e-6 * moments["mean"]) ** 2 + 1e-16)
    expected = np.clip(np.asarray(rollout.steps.reward, np.float64) / deviation, -10, 10)
    np.testing.assert_allclose(seen[0].steps.reward, expected, rtol=1e-5)
    assert expected[0, 0] == 10 and seen[1] == "target" and objective.act is plain.act
    np.testing.assert_array_equal(seen[0].steps.observation, rollout.steps.observation)


def test_without_rewards_the_loss_is_the_objectives_own():
    network = make_network(rewards=False)
    plain = objectives.actor_critic(network, objectives.ActorCriticConfig())
    objective = normalized_objective(plain, network)
    assert objective.loss is plain.loss
    rollout = make_rollout(np.random.default_rng(11))
    rollout = rollout._replace(steps=rollout.steps._replace(running_return=None))
    assert set(objective.statistics.update(make_variables(network), rollout)["statistics"]) == {
        "observations"
    }


def test_rewards_cannot_be_normalised_without_returns():
    rollout = make_rollout(np.random.default_rng(12))
    rollout = rollout._replace(steps=rollout.steps._replace(running_return=None))
    with pytest.raises(ValueError, match="rollout has no running_return"):
        observe(make_variables(make_network()), rollout)


@pytest.mark.parametrize("num_workers", [0, 1.5, True])
def test_a_wrong_number_of_workers_is_refused(num_workers):
    network = make_network()
    plain = objectives.actor_critic(network, objectives.ActorCriticConfig())
    with pytest.raises(ValueError, match="num_workers must be an integer of at least 1"):
        normalized_objective(plain, network, num_workers=num_workers)


def guarded_gradient(*arguments):
    """Return the gradient as a runner applies it."""
    return objectives.guarded(*objectives.gradient(*arguments), 40.0)


def env_network_objective(method, lstm=0):
    env = EitherEnd()
    if method == "actor_critic":
        network = both(networks.actor_critic(env, hidden=(8,), lstm=lstm, init="torch"), env)
        plain = objectives.actor_critic(network, objectives.ActorCriticConfig())
    else:
        network = both(networks.q_network(env, hidden=(8,), lstm=lstm, init="torch"), env)
        plain = objectives.n_step_q(network, objectives.ActionValueConfig())
    return env, network, normalized_objective(plain, network)


@pytest.mark.parametrize("method", ["actor_critic", "n_step_q"])
@pytest.mark.parametrize("lstm", [0, 4])
def test_the_gradient_of_the_statistics_is_zero_and_that_of_the_rest_is_not(method, lstm):
    env, network, objective = env_network_objective(method, lstm)
    variables = with_a_history(network, shape=(2,))
    rollout = play(env, network, variables)
    target = make_variables(network, jax.random.key(3, impl="rbg"), (2,))
    step = jax.jit(
        lambda v: (
            guarded_gradient(objective, v, rollout, target),
            objective.statistics.update(v, rollout)["statistics"],
        )
    )
    (grads, metrics), changes = step(variables)
    assert jax.tree.structure(changes) == jax.tree.structure(variables["statistics"])
    assert metrics["nonfinite_gradients"] == 0
    for leaf in jax.tree.leaves(grads["statistics"]):
        np.testing.assert_array_equal(leaf, 0.0)
    assert metrics["grad_norm"] > 0


def test_the_target_network_keeps_its_own_statistics_of_observations():
    env, network, objective = env_network_objective("n_step_q")
    variables = with_a_history(network, shape=(2,))
    rollout = play(env, network, variables)
    loss = jax.jit(lambda v, t: objective.loss(v, rollout, t)[0])
    fresh = {**variables, "statistics": make_variables(network, shape=(2,))["statistics"]}
    other_rewards = {
        **fresh,
        "statistics": {**variables["statistics"], "returns": fresh["statistics"]["returns"]},
    }
    assert loss(variables, variables) != loss(variables, fresh)
    assert loss(variables, variables) == loss(variables, other_rewards), (
        "rewards have the online unit"
    )


OPTIMIZERS = {
    "shared_rmsprop": optimizers.shared_rmsprop(0.1),
    "rmsprop": optimizers.rmsprop(0.1),
    "momentum_sgd": optimizers.momentum_sgd(0.1),
    "adam": optax.adam(0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("history", [True, False])
def test_optimizers_leave_the_statistics_bit_for_bit(name, history):
    env, network, objective = env_network_objective("actor_critic")
    variables = (
        with_a_history(network, shape=(2,)) if history else make_variables(network, shape=(2,))
    )
    rollout, optimizer = (
        play(env, network, variables),
        optax.with_extra_args_support(OPTIMIZERS[name]),
    )

    @jax.jit
    def step(variables, opt_state):
        grads, _ = guarded_gradient(objective, variables, rollout)
        updates, opt_state = optimizer.update(grads, opt_state, variables, env_steps=1.0)
        return optax.apply_updates(variables, updates), opt_state

    after, _ = step(*step(variables, optimizer.init(variables)))
    jax.tree.map(np.testing.assert_array_equal, after["statistics"], variables["statistics"])
    assert not np.array_equal(
        ravel_pytree(after["params"])[0], ravel_pytree(variables["params"])[0]
    )


@pytest.mark.parametrize("name", ["shared_rmsprop", "rmsprop", "momentum_sgd"])
def test_optimizers_in_place_leave_the_statistics_bit_for_bit(name):
    env, network, objective = env_network_objective("actor_critic")
    variables = with_a_history(network, shape=(2,))
    rollout, tail = play(env, network, variables), num_statistics(variables)
    flat = np.array(ravel_pytree(variables)[0])
    gradient = jax.jit(lambda v: guarded_gradient(objective, v, rollout)[0])
    grads = np.array(ravel_pytree(gradient(variables))[0])
    parameters, statistics, scratch = flat.copy(), np.zeros_like(flat), np.empty_like(flat)
    for _ in range(100):
        OPTIMIZERS[name].in_place(parameters, statistics, grads, scratch, 1)
    np.testing.assert_array_equal(parameters[-tail:], flat[-tail:])
    assert not np.array_equal(parameters[:-tail], flat[:-tail])


def test_seeds_under_vmap_are_those_on_their_own():
    env, network, objective = env_network_objective("actor_critic", lstm=4)

    def two_updates(key):
        variables = make_variables(network, key, (2,))
        for _ in range(2):
            rollout = play(env, network, variables)
            grads, _ = guarded_gradient(objective, variables, rollout)
            changes = objective.statistics.update(variables, rollout)["statistics"]
            variables = optax.apply_updates(variables, jax.tree.map(lambda g: -0.1 * g, grads))
            variables = add(variables, changes)
        return variables

    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.jit(jax.vmap(two_updates))(keys)
    alone = jax.jit(two_updates)
    for i in range(3):
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-5),
            together,
            alone(keys[i]),
        )
