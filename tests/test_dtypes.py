"""Every dtype is kept: 64-bit mode, parameters of other types, no silent rank promotion."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from probes import Recall

from jax_a3c import envs, networks, normalization, objectives, optimizers
from jax_a3c.runners.asynchronous import AsynchronousRunner
from jax_a3c.runners.synchronous import synchronous
from jax_a3c.settings.parts import AsynchronousConfig, SynchronousConfig


@pytest.fixture
def strict():
    """Set JAX to 64-bit mode and to refuse rank promotion, like the environment variables do."""
    values = {"jax_enable_x64": True, "jax_numpy_rank_promotion": "raise"}
    before = {name: getattr(jax.config, name) for name in values}
    for name, value in values.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def feed_forward(env):
    network = networks.actor_critic(env, hidden=(8,))
    return network, objectives.actor_critic(
        network, objectives.ActorCriticConfig(normalize_advantages=True)
    )


def recurrent(env):
    network = networks.actor_critic(env, hidden=(8,), lstm=4, shared=False)
    return network, objectives.actor_critic(network, objectives.ActorCriticConfig(gae_lambda=0.9))


def normalized(env):
    network = networks.actor_critic(env, hidden=(8,))
    network = normalization.normalized_network(network, env, observations=True, rewards=True)
    objective = objectives.actor_critic(network, objectives.ActorCriticConfig())
    return network, normalization.normalized_objective(objective, network)


def images(env):
    network = networks.actor_critic(env, torso="minatar")
    return network, objectives.actor_critic(network, objectives.ActorCriticConfig())


def n_step_q(env):
    network = networks.q_network(env, hidden=(8,), dueling=True)
    return network, objectives.n_step_q(network, objectives.ActionValueConfig(double_q=True))


def one_step_sarsa(env):
    network = networks.q_network(env, hidden=(8,), lstm=4)
    return network, objectives.one_step_sarsa(
        network, objectives.ActionValueConfig(huber_delta=1.0)
    )


CASES = [
    ("gymnax:CartPole-v1", feed_forward, "shared_rmsprop"),
    ("gymnax:CartPole-v1", recurrent, "adam"),
    ("gymnax:Pendulum-v1", normalized, "adam"),
    ("gymnax:Breakout-MinAtar", images, "shared_rmsprop"),
    ("gymnax:CartPole-v1", n_step_q, "momentum_sgd"),
    ("gymnax:CartPole-v1", one_step_sarsa, "shared_rmsprop"),
]


def optimizer_of(name, learning_rate=1e-3):
    rate = optimizers.linear_schedule(learning_rate, 10_000)
    if name == "adam":
        return optax.chain(optax.scale_by_adam(), optimizers.scale_by_learning_rate(rate))
    return getattr(optimizers, name)(rate)


def kinds(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def check_finite(tree):
    assert all(np.isfinite(np.asarray(leaf, np.float64)).all() for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("env_id", "parts", "optimizer"), CASES, ids=lambda part: getattr(part, "__name__", part)
)
def test_both_runners_train_in_strict_modes(strict, env_id, parts, optimizer):
    env = envs.make(env_id)
    network, objective = parts(env)

    runner = synchronous(
        env, network, optimizer_of(optimizer), objective, SynchronousConfig(num_envs=2, num_steps=3)
    )
    state = jax.jit(runner.init)(jax.random.key(0))
    expected = kinds((state.params, state.opt_state))
    state, _ = jax.lax.scan(lambda state, _: runner.step(state), state, length=2)
    assert kinds((state.params, state.opt_state)) == expected
    check_finite(state.params)

    config = AsynchronousConfig(num_workers=1, num_steps=3, total_timesteps=6)
    result = AsynchronousRunner(env, network, optimizer_of(optimizer), objective, config).run(0)
    assert kinds(result.params) == kinds(state.params)
    check_finite(result.params)


@pytest.mark.parametrize(
    ("dtype", "optimizer"), [(jnp.bfloat16, "shared_rmsprop"), (jnp.float16, "adam")]
)
def test_parameters_of_half_precision_keep_their_dtype_on_both_runners(dtype, optimizer):
    class Torso(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(16, dtype=dtype, param_dtype=dtype)(x)

    env = Recall()
    network = networks.actor_critic(env, torso=Torso())
    objective = objectives.actor_critic(network, objectives.ActorCriticConfig())
    rule = optimizer_of(optimizer, learning_rate=0.1)  # smaller steps are lost in 8 bits
    runner = synchronous(env, network, rule, objective, SynchronousConfig(num_envs=4))
    state = jax.jit(runner.init)(jax.random.key(0))
    before = state.params
    state, _ = jax.lax.scan(lambda state, _: runner.step(state), state, length=3)
    assert kinds(state.params) == kinds(before)
    torso = state.params["params"]["trunk"]["torso"]["Dense_0"]["kernel"]
    assert torso.dtype == dtype
    assert not np.array_equal(torso, before["params"]["trunk"]["torso"]["Dense_0"]["kernel"]), (
        "it learns"
    )

    config = AsynchronousConfig(num_workers=1, num_steps=3, total_timesteps=30)
    runner = AsynchronousRunner(env, network, rule, objective, config)
    assert kinds(runner.run(0).params) == kinds(before)


@pytest.mark.parametrize(
    ("lstm", "value_based", "jitted"), [(0, True, False), (4, False, False), (4, True, True)]
)
def test_a_fresh_state_may_be_donated(lstm, value_based, jitted):
    """No two leaves share a buffer with each other, the environment or the network."""

    class Shared(Recall):
        start = jnp.zeros(2)

        def reset(self, key):
            return super().reset(key)[0], self.start

    env = Shared()
    if value_based:
        network = networks.q_network(env, hidden=(4,), lstm=lstm)
        objective = objectives.n_step_q(network, objectives.ActionValueConfig())
    else:
        network = networks.actor_critic(env, hidden=(4,), lstm=lstm, shared=False)
        objective = objectives.actor_critic(network, objectives.ActorCriticConfig())
    algorithm = synchronous(
        env,
        network,
        optimizers.shared_rmsprop(1e-3),
        objective,
        SynchronousConfig(num_envs=2, num_steps=2),
    )
    init = jax.jit(algorithm.init) if jitted else algorithm.init
    step = jax.jit(algorithm.step, donate_argnums=0)
    state, _ = step(init(jax.random.key(0)))
    state, _ = step(state)
    assert int(state.env_steps) == 8
    init(jax.random.key(1))  # donating the first state left the environment's buffers intact
