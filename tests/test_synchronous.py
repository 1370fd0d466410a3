"""The synchronous runner: purity, transformations, exact steps and the probes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from probes import (
    ConstantReward,
    EndlessReward,
    MatchingAction,
    ObservedReward,
    Recall,
    RightAction,
    TerminalReward,
)

from jax_a3c import A2CConfig, a2c, a3c, envs, networks, optimizers
from jax_a3c.acting.unroll import UnrollConfig, unroll
from jax_a3c.envs.base import to_bounds
from jax_a3c.errors import InputError
from jax_a3c.objectives import ActionValueConfig, actor_critic, gradient, guarded, n_step_q
from jax_a3c.runners.loop import SynchronousRunner
from jax_a3c.runners.synchronous import synchronous
from jax_a3c.settings.parts import SynchronousConfig


def make_agent(env, *, optimizer=None, network=None, **settings):
    network = network or networks.actor_critic(env, hidden=(16,))
    return network, a2c(
        env, network, optimizer or optimizers.shared_rmsprop(3e-3, eps=1e-5), A2CConfig(**settings)
    )


def train(algorithm, updates, seed=0):
    @jax.jit
    def run(key):
        return jax.lax.scan(
            lambda state, _: algorithm.step(state), algorithm.init(key), length=updates
        )

    return run(jax.random.key(seed))


def outputs(network, params, observations):
    """Return values and action probabilities for a batch of first observations."""
    observations = jnp.asarray(observations, jnp.float32)[None]
    reset = jnp.ones(observations.shape[:2], bool)
    carry = network.initial_carry(observations.shape[1:2])
    _, policy, values = network.apply(params, carry, observations, reset)
    return np.asarray(values[0]), np.exp(policy.log_prob(jnp.ones(reset.shape, jnp.int32)))[0]


def test_constant_reward_has_value_one():
    network, algorithm = make_agent(ConstantReward())
    values, _ = outputs(network, train(algorithm, 500)[0].params, [[0, 1], [0, -1]])
    np.testing.assert_allclose(values, 1.0, atol=0.05)


def test_the_value_follows_the_observation():
    network, algorithm = make_agent(ObservedReward())
    values, _ = outputs(network, train(algorithm, 500)[0].params, [[0, 1], [0, -1]])
    np.testing.assert_allclose(values, [1, -1], atol=0.1)


def test_a_single_terminal_reward_is_discounted_back():
    network, algorithm = make_agent(TerminalReward(), gamma=0.5, num_steps=2)
    values, _ = outputs(network, train(algorithm, 1500)[0].params, [[0, 1], [1, 1], [2, 1]])
    np.testing.assert_allclose(values, [0.25, 0.5, 1.0], atol=0.06)


def test_a_time_limit_is_not_an_end():
    network, algorithm = make_agent(EndlessReward(), gamma=0.8, num_steps=3)
    values, _ = outputs(network, train(algorithm, 1500)[0].params, [[0, 0]])
    np.testing.assert_allclose(values, 5.0, atol=0.2)


@pytest.mark.parametrize("env", [RightAction(), MatchingAction()], ids=lambda env: env.spec.id)
def test_the_better_action_is_taken(env):
    network, algorithm = make_agent(env)
    _, probabilities = outputs(network, train(algorithm, 500)[0].params, [[0, 1], [0, -1]])
    assert probabilities[0] > 0.9
    assert probabilities[1] > 0.9 if isinstance(env, RightAction) else probabilities[1] < 0.1


def test_the_lstm_remembers_and_without_it_nothing_can():
    env, returns = Recall(), {}
    for lstm in (16, 0):
        network = networks.actor_critic(env, hidden=(16,), lstm=lstm)
        _, algorithm = make_agent(env, network=network, num_steps=6, num_envs=32)
        _, metrics = train(algorithm, 800)
        recent = {name: float(values[-100:].sum()) for name, values in metrics.items()}
        returns[lstm] = recent["episode_return"] / recent["episodes"]
    assert returns[16] > 0.9
    assert abs(returns[0]) < 0.2


def test_continuous_actions_find_the_optimum():
    class Target(ConstantReward):
        """Environment with reward -(a - 0.5)^2."""

        def __init__(self):
            super().__init__()
            self.spec = envs.EnvSpec(
                **{**vars(self.spec), "action_space": envs.Box(low=(-2.0,), high=(2.0,))}
            )

        def reward(self, state, action):
            return -jnp.square(action[0] - 0.5)

    env = Target()
    for variance in ("parameter", "scalar", "per_dimension"):
        network = networks.actor_critic(env, hidden=(16,), variance=variance, shared=False)
        _, algorithm = make_agent(
            env, network=network, optimizer=optax.adam(3e-3), ent_coef=1e-4, num_envs=64
        )
        params = train(algorithm, 600)[0].params
        _, policy, _ = network.apply(params, (), jnp.array([[[0.0, 1.0]]]), jnp.ones((1, 1), bool))
        action = to_bounds(env.spec.action_space, policy.mode())
        np.testing.assert_allclose(action, 0.5, atol=0.1, err_msg=variance)


def test_step_is_unroll_gradient_update():
    """A step equals its parts, with a recurrent network and truncations."""
    env = envs.make("gymnax:CartPole-v1", max_steps_in_episode=7)
    network = networks.actor_critic(env, hidden=(8,), lstm=4)
    optimizer = optimizers.shared_rmsprop(optimizers.linear_schedule(1e-2, 1000))
    config = A2CConfig(num_envs=3, num_steps=5)
    algorithm, objective = a2c(env, network, optimizer, config), actor_critic(network, config)

    @jax.jit
    def written_out(state, env_steps):
        _, rollout, _ = unroll(env, objective.act, state.params, state.actor, UnrollConfig(5))
        grads, _ = guarded(*gradient(objective, state.params, rollout), 0.5)
        changes, _ = optimizer.update(grads, state.opt_state, env_steps=env_steps)
        return optax.apply_updates(state.params, changes)

    state = jax.jit(algorithm.init)(jax.random.key(0))
    for update in range(1, 4):
        expected = written_out(state, 15.0 * update)
        state, _ = jax.jit(algorithm.step)(state)
        leaves = zip(jax.tree.leaves(state.params), jax.tree.leaves(expected), strict=True)
        for ours, theirs in leaves:
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_compiles_once_and_is_deterministic():
    _, algorithm = make_agent(MatchingAction())
    traces = []

    @jax.jit
    def step(state):
        traces.append(1)
        return algorithm.step(state)

    finals = []
    for _ in range(2):
        state = algorithm.init(jax.random.key(5))
        for _ in range(20):
            state, _ = step(state)
        finals.append(state.params)
    assert len(traces) == 1
    jax.tree.map(np.testing.assert_array_equal, *finals)


def test_vmap_over_seeds_and_hyper_parameters():
    env = MatchingAction()
    network = networks.actor_critic(env, hidden=(8,))

    def final_entropy(key, learning_rate, ent_coef):
        optimizer = optimizers.shared_rmsprop(learning_rate, eps=1e-5)
        algorithm = a2c(env, network, optimizer, A2CConfig(ent_coef=ent_coef))
        return jax.lax.scan(lambda s, _: algorithm.step(s), algorithm.init(key), length=200)[1][
            "entropy"
        ][-1]

    keys = jax.random.split(jax.random.key(0), 3)
    rates, costs = jnp.array([0.0, 1e-2, 1e-2]), jnp.array([0.0, 0.0, 5.0])
    entropies = jax.jit(jax.vmap(final_entropy))(keys, rates, costs)
    assert entropies[0] > 0.6, "without a learning rate nothing is learned"
    assert entropies[1] < 0.1
    assert entropies[2] > 0.6, "the entropy cost keeps the policy random"


def test_every_optax_optimizer_serves():
    _, algorithm = make_agent(
        RightAction(), optimizer=optax.chain(optax.clip(1.0), optax.adamw(1e-2))
    )
    assert float(train(algorithm, 200)[1]["episode_return"][-1]) > 60


def test_host_loop_counts_and_stops():
    _, runner = make_agent(ConstantReward(), num_envs=4, num_steps=5)
    runner = SynchronousRunner(runner, A2CConfig(num_envs=4, num_steps=5))
    reports = []
    result = runner.run(0, until=1001, callback=reports.append)
    assert result.progress.env_steps == 1020 and result.progress.updates == 51
    assert result.progress.metric_sums["episodes"] == 1020
    assert result.progress.metric_sums["env_steps"] == 1020
    assert [report.updates for report in reports] == list(range(1, 52))
    assert [report.env_steps for report in reports] == list(range(20, 1021, 20))
    times = [report.seconds for report in reports]
    assert times == sorted(times) and times[0] > 0
    assert reports[-1] == result.progress
    stopped = runner.run(0, until=1001, callback=lambda progress: progress.updates >= 7)
    assert 7 <= stopped.progress.updates < 51


def test_wrong_arguments_of_a_run_are_refused():
    _, runner = make_agent(ConstantReward(), num_envs=4)
    runner = SynchronousRunner(runner, A2CConfig(num_envs=4))
    for arguments, message in (
        ({"state": 1.5}, "key must be a random key or a seed, got 1.5"),
        ({"state": (0, 1)}, r"key must be a random key or a seed, got \(0, 1\)"),
        ({"until": 0}, "until must be an integer of at least 1, got 0"),
        ({"until": 1e6}, "until must be an integer of at least 1, got 1000000.0"),
        ({"callback": 5}, "callback must be a function, got 5"),
    ):
        with pytest.raises(InputError, match=message):
            runner.run(**{"until": 2000} | arguments)
    with pytest.raises(InputError, match="key must be a random key or a seed, got None"):
        runner.init(None)


def test_host_loop_compiles_once_and_can_go_on():
    _, algorithm = make_agent(ConstantReward(), num_envs=4)
    traces = []
    counting = algorithm._replace(step=lambda state: traces.append(1) or algorithm.step(state))
    runner = SynchronousRunner(counting, A2CConfig(num_envs=4))
    first = runner.run(0, until=2000)
    traced = len(traces)
    kept = jax.tree.map(np.asarray, first.params)
    runner.run(1, until=2000)
    second = runner.run(first.state, until=4000)
    assert len(traces) == traced, "one program serves every run and every number of updates"
    assert second.progress.env_steps == 4000
    jax.tree.map(np.testing.assert_array_equal, first.params, kept)


def test_a_saved_run_goes_on_as_if_it_had_not_ended():
    env = EndlessReward()
    network = networks.q_network(env, hidden=(8,))
    objective = n_step_q(network, ActionValueConfig(target_update_interval=130))
    config = SynchronousConfig(num_envs=4, num_steps=5)
    optimizer = optimizers.shared_rmsprop(1e-2)
    runner = SynchronousRunner(synchronous(env, network, optimizer, objective, config), config)
    state = runner.run(0, until=200).state
    tree = runner.save(state)
    assert set(tree) == {"variables", "state"} and tree["variables"] is state.params
    expected = runner.run(state, until=400).state
    restored = runner.restore(tree)
    assert runner.counts(restored) == (200, 10)
    ours = runner.run(restored, until=400).state
    jax.tree.map(
        np.testing.assert_array_equal,
        *(jax.tree.map(np.asarray, plain(x)) for x in (ours, expected)),
    )


def plain(state):
    """Return a state with its random key as integers."""
    return state._replace(actor=state.actor._replace(key=jax.random.key_data(state.actor.key)))


def test_host_loop_equals_the_steps_one_by_one():
    _, runner = make_agent(MatchingAction(), num_envs=4)
    loop = SynchronousRunner(runner, A2CConfig(num_envs=4))
    result = loop.run(jax.random.key(2), until=4 * 5 * 30)
    state = runner.init(jax.random.key(2))
    for _ in range(30):
        state, _ = jax.jit(runner.step)(state)
    leaves = zip(jax.tree.leaves(result.params), jax.tree.leaves(state.params), strict=True)
    for ours, theirs in leaves:
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_envs": 0}, "num_envs must be an integer of at least 1, got 0"),
        ({"num_steps": 2.5}, "num_steps must be an integer of at least 1, got 2.5"),
        ({"max_grad_norm": 0}, "max_grad_norm must be a number above 0, got 0"),
        (
            {"auto_reset": "poold"},
            "auto_reset must be one of pooled, exact, got 'poold'; did you mean 'pooled'",
        ),
        ({"gamma": 2}, "gamma must be a number between 0 and 1, got 2"),
    ],
)
def test_bad_settings_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        A2CConfig(**settings)


ENV, PENDULUM = envs.make("gymnax:CartPole-v1"), envs.make("gymnax:Pendulum-v1")
PARTS = {
    "env": ENV,
    "network": networks.actor_critic(ENV),
    "optimizer": optimizers.shared_rmsprop(1e-3),
    "config": None,
}


@pytest.mark.parametrize("method", [a2c, a3c])
@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            {"env": "gymnax:CartPole-v1"},
            "env must be an environment, as envs.make gives it, got 'gymnax",
        ),
        ({"network": "mlp"}, "network must be a network, such as networks.actor_critic"),
        ({"optimizer": 1e-3}, "optimizer must be an optimizer, such as optimizers.shared_rmsprop"),
        ({"config": {"num_envs": 3}}, "config must be A[23]CConfig"),
        (
            {"env": PENDULUM},
            "network has the actions .*Discrete.*, but gymnax:Pendulum-v1 has Box",
        ),
    ],
)
def test_parts_that_are_none_are_refused(method, part, message):
    env, *others = (PARTS | part).values()
    with pytest.raises(InputError, match=message):
        method(env if method is a2c else lambda: env, *others)


def test_a3c_takes_a_function_that_makes_the_environment():
    with pytest.raises(InputError, match="make_env must be a function, such as lambda: env"):
        a3c(*PARTS.values())
    with pytest.raises(InputError, match="spec must be an environment"):
        networks.actor_critic("gymnax:CartPole-v1")
