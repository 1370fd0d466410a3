"""A runner checks its parts before it compiles anything, and refuses them in one sentence."""

import functools
from typing import NamedTuple

import flax.linen as nn
import gymnasium
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from probes import MatchingAction, Probe
from scripted import ScriptedFactory

from jax_a3c import A2CConfig, A3CConfig, a2c, a3c, distributions, envs, networks, optimizers
from jax_a3c.errors import InputError
from jax_a3c.objectives import ActorCriticConfig, actor_critic
from jax_a3c.runners.asynchronous import AsynchronousRunner
from jax_a3c.runners.synchronous import synchronous
from jax_a3c.types import TimeStep

ENV = MatchingAction()
NETWORK = networks.actor_critic(ENV, hidden=(4,))
OPTIMIZER = optimizers.shared_rmsprop(1e-3)


def build(runner, env=ENV, network=NETWORK, optimizer=OPTIMIZER):
    """Make a runner, which checks its parts."""
    if runner == "a2c":
        return a2c(env, network, optimizer, A2CConfig(num_envs=2))
    return a3c(lambda: env, network, optimizer, A3CConfig(num_workers=1))


def refusal(runner, **parts):
    """Return the error message, one line, with which a runner refuses its parts."""
    with pytest.raises(InputError) as refused:
        build(runner, **parts)
    message = str(refused.value)
    assert "\n" not in message
    return message


both = pytest.mark.parametrize("runner", ["a2c", "a3c"])


class Own(nn.Module):
    """User network with any number of logits and values, and an optional layer."""

    logits: int = 2
    values: int = 0
    layer: nn.Module | None = None

    def initial_carry(self, batch_shape):
        return ()

    @nn.compact
    def __call__(self, carry, observation, reset):
        hidden = nn.Dense(4)(observation)
        if self.layer is not None:
            hidden = self.layer(hidden)
        values = nn.Dense(self.values or 1)(hidden)
        values = values if self.values else values[..., 0]
        return carry, distributions.Categorical(nn.Dense(self.logits)(hidden)), values


@both
def test_a_network_with_too_many_logits_is_refused(runner):
    assert "3 logits for the 2 actions of 'probe:MatchingAction'" in refusal(
        runner, network=Own(logits=3)
    )
    build(runner, network=Own())


@both
def test_a_network_for_other_real_actions_is_refused(runner):
    class Reals(Own):
        @nn.compact
        def __call__(self, carry, observation, reset):
            mean = nn.Dense(3)(observation)
            return carry, distributions.DiagonalGaussian(mean, jnp.ones(3)), mean[..., 0]

    class Two(Probe):
        def __init__(self):
            super().__init__()
            box = envs.Box(low=(-1.0, -1.0), high=(1.0, 1.0))
            self.spec = envs.EnvSpec(**{**vars(self.spec), "action_space": box})

        def reward(self, state, action):
            return action.sum()

    message = refusal(runner, env=Two(), network=Reals())
    assert (
        "sample is float32 of shape (1, 1, 3)" in message
        and "expected float32 of shape (1, 1, 2)" in message
    )
    assert "int32" in refusal(runner, network=Reals()) or "actions" in refusal(
        runner, network=Reals()
    )


@both
def test_values_of_a_wrong_shape_are_refused(runner):
    assert "values must be [T, *B]" in refusal(runner, network=Own(values=3))


@both
def test_a_carry_that_changes_its_type_is_refused(runner):
    class Drifting(Own):
        def initial_carry(self, batch_shape):
            return jnp.zeros((*batch_shape, 2), jnp.int32)

        @nn.compact
        def __call__(self, carry, observation, reset):
            _, policy, values = Own(parent=None).clone(parent=self, name="own")(
                (), observation, reset
            )
            return carry + 0.5, policy, values

    assert "the network's carry is int32 of shape (1, 2) after initial_carry" in refusal(
        runner, network=Drifting()
    )


@both
def test_layers_with_variables_or_randomness_of_their_own_are_refused(runner):
    batch_norm = Own(layer=nn.BatchNorm(use_running_average=False))
    assert "variables 'batch_stats'" in refusal(runner, network=batch_norm)
    dropout = Own(layer=nn.Dropout(0.5, deterministic=False))
    assert "nn.Dropout" in refusal(runner, network=dropout)
    build(runner, network=Own(layer=nn.Dropout(0.5, deterministic=True)))
    build(runner, network=Own(layer=nn.LayerNorm()))


class Foreign(NamedTuple):
    """Distribution with the interface of another library: `sample(*, seed)`."""

    logits: jax.Array

    def sample(self, *, seed):
        return jax.random.categorical(seed, self.logits)

    def log_prob(self, action):
        return distributions.Categorical(self.logits).log_prob(action)

    def entropy(self):
        return distributions.Categorical(self.logits).entropy()

    def mode(self):
        return jnp.argmax(self.logits, axis=-1)


@both
def test_a_distribution_of_another_library_is_refused(runner):
    class Other(Own):
        @nn.compact
        def __call__(self, carry, observation, reset):
            return carry, Foreign(nn.Dense(2)(observation)), nn.Dense(1)(observation)[..., 0]

    class Bare(Own):
        @nn.compact
        def __call__(self, carry, observation, reset):
            logits = nn.Dense(2)(observation)
            return carry, logits, logits[..., 0]

    message = refusal(runner, network=Other())
    assert "policy is a Foreign" in message and "sample(key)" in message
    assert "without sample(key), log_prob(action), entropy(), mode()" in refusal(
        runner, network=Bare()
    )


@both
def test_an_optimizer_that_asks_for_the_loss_is_refused(runner):
    plateau = optax.chain(optax.adam(1e-3), optax.contrib.reduce_on_plateau(patience=3))
    message = refusal(runner, optimizer=plateau)
    assert "value" in message and "reduce_on_plateau" in message


@pytest.mark.parametrize("build", [synchronous, AsynchronousRunner])
@pytest.mark.parametrize("env", [ENV, ScriptedFactory()], ids=["jax", "host"])
def test_an_objective_acts_with_three_results(env, build):
    network = networks.actor_critic(env, hidden=(4,))
    objective = actor_critic(network, ActorCriticConfig())
    build(env, network, OPTIMIZER, objective)
    for act, count in (
        (lambda *args: objective.act(*args)[:2], 2),
        (lambda *args: (*objective.act(*args), ()), 4),
        (lambda *args: objective.act(*args)[1], 1),
    ):
        with pytest.raises(InputError) as refused:
            build(env, network, OPTIMIZER, objective._replace(act=act))
        assert str(refused.value) == (
            f"objective.act must return (carry, action, extras), got {count} results; "
            "return () as extras if the loss needs none"
        )


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ("gymnax:CartPole-v1", "write envs.make('gymnax:CartPole-v1')"),
        (
            functools.partial(gymnasium.make, "CartPole-v1"),
            "write envs.make('gymnasium:CartPole-v1')",
        ),
        (
            functools.partial(gymnasium.make_vec, "CartPole-v1", num_envs=2),
            "write envs.make('gymnasium:CartPole-v1')",
        ),
        (functools.partial(gymnax.make, "CartPole-v1"), "write envs.make('gymnax:CartPole-v1')"),
        (functools.partial(ScriptedFactory().make, 2), "pass the factory that envs.make returns"),
        (MatchingAction, "a class; pass an instance: MatchingAction(...)"),
        (lambda: lambda: ENV, "a function; call it"),
    ],
)
@both
def test_what_is_no_environment_of_this_library_is_answered_with_the_line_to_write(
    runner, env, words
):
    env = env() if callable(env) and not isinstance(env, type) else env
    message = refusal(runner, env=env)
    assert (
        message.startswith("env must be an environment, as envs.make gives it, got ")
        and words in message
    )


def test_host_environments_refuse_jit_vmap_and_scan():
    factory = ScriptedFactory()
    algorithm = a2c(
        factory, networks.actor_critic(factory, hidden=(4,)), OPTIMIZER, A2CConfig(num_envs=2)
    )
    state = algorithm.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(0), 2)
    for traced in (
        lambda: jax.jit(algorithm.init)(keys[0]),
        lambda: jax.vmap(algorithm.init)(keys),
        lambda: jax.jit(algorithm.step)(state),
        lambda: jax.lax.scan(lambda state, _: algorithm.step(state), state, length=2),
    ):
        with pytest.raises(InputError, match=r"steps outside of JAX.* in a Python loop"):
            traced()
    assert int(algorithm.step(state)[0].updates) == 1


class Returns(Probe):
    """Environment that returns given values as its observation, state or time step fields."""

    length = 10

    def __init__(self, first=None, state=None, step=None, **fields):
        super().__init__()
        self._first, self._state, self._step, self._fields = first, state, step, fields

    def reward(self, state, action):
        return 1.0

    def reset(self, key):
        state, observation = super().reset(key)
        return state, observation if self._first is None else self._first

    def step(self, key, state, action):
        state, timestep = super().step(key, state, action)
        if self._step is not None:
            return self._step(state, timestep)
        return self._state or state, timestep._replace(**self._fields)


WRONG = {
    "reward of one entry": (
        {"reward": jnp.ones(1)},
        "reward of 'probe:Returns' must be a real number of shape (), got float32 of shape (1,)",
    ),
    "complex reward": (
        {"reward": jnp.ones((), jnp.complex64)},
        "reward of 'probe:Returns' must be a real number",
    ),
    "float flag": (
        {"terminated": jnp.zeros(())},
        "terminated of 'probe:Returns' must be bool of shape (), got float32 of shape ()",
    ),
    "integer flag": (
        {"truncated": 0},
        "truncated of 'probe:Returns' must be bool of shape (), got int32",
    ),
    "dict observation": (
        {"observation": {"position": jnp.zeros(2)}},
        "observation of 'probe:Returns' from step must be one array, got a dict",
    ),
    "another shape": (
        {"observation": jnp.zeros(3)},
        "from step is float32 of shape (3,); its spec says float32 of shape (2,)",
    ),
    "reset of another kind": (
        {"first": jnp.zeros(2, jnp.int32)},
        "observation of 'probe:Returns' from reset is int32 of shape (2,); its spec says float32",
    ),
    "reset of another width": (
        {"first": jnp.zeros(2, jnp.bfloat16)},
        "observation of 'probe:Returns' is bfloat16 from reset and float32 from step",
    ),
    "another state": (
        {"state": (jnp.zeros(3),)},
        "the state of 'probe:Returns' has another structure after step",
    ),
    "plain tuple": (
        {"step": lambda state, timestep: (state, tuple(timestep))},
        "step of 'probe:Returns' must return (state, TimeStep(",
    ),
    "five results": (
        {"step": lambda state, timestep: (state, *timestep)},
        "step of 'probe:Returns' must return (state, TimeStep), got 5 results",
    ),
}


@pytest.mark.parametrize("name", WRONG)
@both
def test_what_an_environment_returns_is_named(runner, name):
    fields, words = WRONG[name]
    assert words in refusal(runner, env=Returns(**fields))


@both
def test_an_environment_may_return_any_real_reward_and_plain_flags(runner):
    for reward in (1, True, jnp.bfloat16(1.0), np.float32(1.0)):
        build(runner, env=Returns(reward=reward, truncated=False))


def test_an_integer_reward_is_trained_on_as_a_number():
    algorithm = a2c(
        Returns(reward=jnp.int32(3)), NETWORK, OPTIMIZER, A2CConfig(num_envs=2, num_steps=10)
    )
    _, metrics = jax.jit(algorithm.step)(algorithm.init(jax.random.key(0)))
    assert metrics["episodes"] == 2 and metrics["episode_return"] == 2 * 10 * 3


def test_what_an_environment_raises_is_told_to_be_its_own():
    class Broken(Returns):
        def step(self, key, state, action):
            if action > 0:  # a traced array
                return super().step(key, state, action)

    with pytest.raises(jax.errors.TracerBoolConversionError) as raised:
        build("a2c", env=Broken())
    assert (
        raised.value.__notes__[-1]
        == "raised in step of 'probe:Broken', which JAX must be able to trace"
    )
    assert TimeStep._fields == ("observation", "reward", "terminated", "truncated")
