"""Running statistics against sums in float64, and what neither gradients nor threads may do to them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from probes import EitherEnd

from jax_a3c import networks, objectives, optimizers
from jax_a3c.envs.base import Box, Discrete, EnvSpec
from jax_a3c.normalization import (
    MAX_COUNT,
    normalized_network,
    normalized_objective,
    num_statistics,
    observe,
)
from jax_a3c.rollouts import init_actor, unroll
from jax_a3c.types import Rollout, Transition

pytestmark = pytest.mark.unoptimized
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
    return network.init(key, network.initial_carry((2,)), jnp.zeros((1, 2, *shape)), jnp.ones((1, 2), bool))


def make_rollout(rng, *, num_steps=5, num_envs=4, masked=True, shape=(3,)):
    """Observations and returns far from 0 +- 1; the rows that were not recorded hold nonsense."""
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
        discounted_return=jnp.asarray(np.where(mask, rng.normal(40.0, 7.0, rows), np.inf), jnp.float32),
    )
    return Rollout((), steps)


def add(variables, *changes):
    for change in changes:
        variables = {**variables, "statistics": jax.tree.map(jnp.add, variables["statistics"], change)}
    return variables


def reference(rollouts, field, shape):
    """Moments of all recorded steps in float64."""
    fields = [np.asarray(getattr(rollout.steps, field), np.float64) for rollout in rollouts]
    masks = [np.asarray(rollout.steps.mask) for rollout in rollouts]
    x = np.concatenate([values[mask] for values, mask in zip(fields, masks, strict=True)])
    assert x.shape[1:] == shape
    return {"count": len(x), "mean": x.mean(0), "variance": x.var(0)}


def assert_close(moments, expected, rtol):
    for name, value in expected.items():
        np.testing.assert_allclose(moments[name], value, rtol=rtol, err_msg=name)


def with_a_history(network, key=KEY, shape=(3,)):
    """Variables whose statistics have moved away from their start, with no entry at 0."""
    rng = np.random.default_rng(0)
    variables = make_variables(network, key, shape)
    for _ in range(3):
        variables = add(variables, observe(variables, make_rollout(rng, shape=shape)))
    return variables


def play(env, network, variables, *, num_envs=4, num_steps=6):
    """A rollout of a real environment, with the fields that are normalised."""
    actor = init_actor(env, network.initial_carry((num_envs,)), jax.random.key(1), num_envs)
    act = objectives.actor_critic(network, objectives.ActorCriticConfig()).act
    run = jax.jit(lambda actor: unroll(env, lambda *args: act(variables, *args), actor, num_steps)[1])
    rollout = run(actor)
    returns = jnp.cumsum(rollout.steps.reward, axis=0)
    return rollout._replace(steps=rollout.steps._replace(discounted_return=returns))


# The statistics.


def test_moments_are_those_of_all_recorded_steps():
    rng = np.random.default_rng(1)
    rollouts = [make_rollout(rng, num_steps=1 + i % 7) for i in range(300)]
    variables, update = make_variables(make_network()), jax.jit(lambda v, r: add(v, observe(v, r)))
    for rollout in rollouts:
        variables = update(variables, rollout)
    statistics = variables["statistics"]
    assert_close(statistics["observations"], reference(rollouts, "observation", (3,)), 1e-5)
    assert_close(statistics["returns"], reference(rollouts, "discounted_return", ()), 1e-5)


def test_a_large_offset_costs_no_digits_of_the_variance():
    rng, rollouts = np.random.default_rng(2), []
    variables, update = make_variables(make_network()), jax.jit(lambda v, r: add(v, observe(v, r)))
    for _ in range(300):
        rollout = make_rollout(rng, num_steps=50)
        steps = rollout.steps._replace(discounted_return=1e5 + rollout.steps.discounted_return / 7.0)
        rollouts.append(rollout._replace(steps=steps))
        variables = update(variables, rollouts[-1])
    assert_close(variables["statistics"]["returns"], reference(rollouts, "discounted_return", ()), 1e-4)


def test_two_workers_that_take_turns_with_old_statistics_agree_with_one():
    """Each reads, the other adds, then it adds what it computed before: a staleness of 1 all the time."""
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
    assert_close(statistics["returns"], reference(rollouts, "discounted_return", ()), 0.02)


@pytest.mark.parametrize("num_workers", [1, 4, 64])
def test_workers_that_start_together_come_to_the_moments_of_all_their_steps(num_workers):
    """All read a count of 0, and all add."""
    rng = np.random.default_rng(4)
    rollouts = [make_rollout(rng, num_steps=250, masked=False) for _ in range(num_workers)]
    variables, change = make_variables(make_network()), jax.jit(partial(observe, num_workers=num_workers))
    statistics = add(variables, *(change(variables, rollout) for rollout in rollouts))["statistics"]
    expected = reference(rollouts, "observation", (3,))
    assert_close(statistics["observations"], {k: expected[k] for k in ("count", "mean")}, 1e-5)
    # Up to what the rollouts' means differ from each other.
    np.testing.assert_allclose(statistics["observations"]["variance"], expected["variance"], rtol=0.01)


def test_the_count_saturates_and_the_moments_go_on_moving():
    rng, network = np.random.default_rng(5), make_network()
    variables, update = make_variables(network), jax.jit(lambda v, r: add(v, observe(v, r)))
    full = jax.tree.map(lambda x: x, variables)
    full["statistics"]["observations"]["count"] = jnp.float32(MAX_COUNT - 3)
    full["statistics"]["returns"]["count"] = jnp.float32(MAX_COUNT + 40)  # threads came together
    for _ in range(20):
        full = update(full, make_rollout(rng, num_steps=50, masked=False))
    for moments in full["statistics"].values():
        assert moments["count"] == MAX_COUNT
    expected = LOCATION * 20 * 200 / MAX_COUNT  # from a start at 0
    np.testing.assert_allclose(full["statistics"]["observations"]["mean"], expected, rtol=0.2)


def test_what_is_not_finite_leaves_its_moments_alone():
    variables = make_variables(make_network())
    rollout = make_rollout(np.random.default_rng(6), masked=False)
    spoilt = rollout.steps.observation.at[1, 0, 0].set(jnp.nan).at[2, 1, 1].set(1e30)
    returns = rollout.steps.discounted_return.at[0, 0].set(-jnp.inf)
    steps = rollout.steps._replace(observation=spoilt, discounted_return=returns)
    changes, good = observe(variables, rollout._replace(steps=steps)), observe(variables, rollout)
    assert all((x == 0).all() for x in jax.tree.leaves(changes["returns"])), "its count included"
    for name in ("mean", "variance"):
        np.testing.assert_array_equal(changes["observations"][name][:2], 0.0)
        np.testing.assert_array_equal(
            changes["observations"][name][2:], good["observations"][name][2:], err_msg="the entry beside them"
        )


def test_a_rollout_without_recorded_steps_changes_nothing():
    rollout = make_rollout(np.random.default_rng(7))
    rollout = rollout._replace(steps=rollout.steps._replace(mask=jnp.zeros_like(rollout.steps.mask)))
    for change in jax.tree.leaves(observe(make_variables(make_network()), rollout)):
        np.testing.assert_array_equal(change, 0.0)


def test_statistics_are_the_tail_of_the_flat_vector():
    variables = make_variables(make_network())
    marked = {**variables, "statistics": jax.tree.map(lambda x: jnp.full_like(x, 7), variables["statistics"])}
    count = num_statistics(variables)
    assert count == num_statistics(jax.eval_shape(lambda: variables)) == 1 + 3 + 3 + 3
    before, after = ravel_pytree(variables)[0], ravel_pytree(marked)[0]
    np.testing.assert_array_equal(after[-count:], 7.0)
    np.testing.assert_array_equal(after[:-count], before[:-count])
    assert num_statistics(make_variables(make_network(observations=False, rewards=False))) == 0


# The network.


def test_the_network_sees_bounded_deviations():
    network = make_network()
    variables = with_a_history(network)
    moments = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["statistics"]["observations"])
    obs = np.random.default_rng(8).normal(0.0, 50.0, (5, 2, 3)).astype(np.float32)
    obs[0, 0] = 1e6, -1e6, np.inf
    widening = 1.0 + 100.0 / moments["count"]
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


@pytest.mark.parametrize(("dtype", "name"), [(np.uint8, "uint8"), (jnp.int32, "int32"), (bool, "bool")])
def test_images_and_categories_are_refused_but_their_rewards_are_not(dtype, name):
    spec = EnvSpec(
        id="test:v0", observation_shape=(4,), observation_dtype=dtype, action_space=Discrete(num_actions=2)
    )
    network = networks.actor_critic(spec)
    with pytest.raises(ValueError, match=f"'test:v0' are {name}, and only those of floating point"):
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
    np.testing.assert_array_equal(values, network.apply(variables, (), obs.astype(jnp.float32), reset)[2])


# The objective, its gradient, and the optimizers.


def test_rewards_are_scaled_but_not_centred():
    network = make_network()
    variables, seen = with_a_history(network), []
    plain = objectives.Objective(act=lambda: None, loss=lambda p, r, t: seen.extend((r, t)) or (0.0, {}))
    objective = normalized_objective(plain, network)
    rollout = make_rollout(np.random.default_rng(10))
    rollout = rollout._replace(steps=rollout.steps._replace(reward=rollout.steps.reward.at[0, 0].set(1e9)))
    objective.loss(variables, rollout, "target")
    count, mean, variance = (np.float64(x) for x in variables["statistics"]["returns"].values())
    deviation = np.sqrt((1.0 + 100.0 / count) * variance + (1e-6 * mean) ** 2 + 1e-16)
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
    rollout = rollout._replace(steps=rollout.steps._replace(discounted_return=None))
    assert set(objective.statistics.change(make_variables(network), rollout)["statistics"]) == {
        "observations"
    }


def test_rewards_cannot_be_normalised_without_returns():
    rollout = make_rollout(np.random.default_rng(12))
    rollout = rollout._replace(steps=rollout.steps._replace(discounted_return=None))
    with pytest.raises(ValueError, match="rollout has no discounted_return"):
        observe(make_variables(make_network()), rollout)


@pytest.mark.parametrize("num_workers", [0, 1.5, True])
def test_a_wrong_number_of_workers_is_refused(num_workers):
    network = make_network()
    plain = objectives.actor_critic(network, objectives.ActorCriticConfig())
    with pytest.raises(ValueError, match="num_workers must be an integer of at least 1"):
        normalized_objective(plain, network, num_workers=num_workers)


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
            objectives.gradient(objective, v, rollout, 40.0, target),
            objective.statistics.change(v, rollout)["statistics"],
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
    assert loss(variables, variables) == loss(variables, other_rewards), "rewards have the online unit"


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
    variables = with_a_history(network, shape=(2,)) if history else make_variables(network, shape=(2,))
    rollout, optimizer = play(env, network, variables), optax.with_extra_args_support(OPTIMIZERS[name])

    @jax.jit
    def step(variables, opt_state):
        grads, _ = objectives.gradient(objective, variables, rollout, 40.0)
        updates, opt_state = optimizer.update(grads, opt_state, variables, env_steps=1.0)
        return optax.apply_updates(variables, updates), opt_state

    after, _ = step(*step(variables, optimizer.init(variables)))
    jax.tree.map(np.testing.assert_array_equal, after["statistics"], variables["statistics"])
    assert not np.array_equal(ravel_pytree(after["params"])[0], ravel_pytree(variables["params"])[0])


@pytest.mark.parametrize("name", ["shared_rmsprop", "rmsprop", "momentum_sgd"])
def test_optimizers_in_place_leave_the_statistics_bit_for_bit(name):
    env, network, objective = env_network_objective("actor_critic")
    variables = with_a_history(network, shape=(2,))
    rollout, tail = play(env, network, variables), num_statistics(variables)
    flat = np.array(ravel_pytree(variables)[0])
    gradient = jax.jit(lambda v: objectives.gradient(objective, v, rollout, 40.0)[0])
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
            grads, _ = objectives.gradient(objective, variables, rollout, 40.0)
            changes = objective.statistics.change(variables, rollout)["statistics"]
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
