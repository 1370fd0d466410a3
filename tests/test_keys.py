"""Random keys: `unrolled` ones give JAX's own bits without a loop, and no state holds one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_a3c import a2c, envs, networks, optimizers
from jax_a3c.errors import InputError
from jax_a3c.evaluation.play import evaluator
from jax_a3c.keys import as_key, original, unrolled

KEY = jax.random.key(2**40 + 3)
CARTPOLE = envs.make("gymnax:CartPole-v1")


def bits(key):
    """Return what the functions of `jax.random` draw from a key."""
    keys = jax.random.split(key, (3, 2))
    drawn = {
        "split": jax.random.key_data(keys),
        "fold_in": jax.random.key_data(jax.random.fold_in(key, 2**32 - 1)),
        "folded batch": jax.random.key_data(
            jax.vmap(jax.random.fold_in)(keys[:, 0], jnp.arange(3))
        ),
        "vmap": jax.vmap(lambda k: jax.random.bits(k, (4,)))(keys[0]),
        "normal": jax.random.normal(key, (33,)),
        "categorical": jax.random.categorical(key, jnp.zeros((50, 7))),
        "permutation": jax.random.permutation(key, 100),
        "scalar": jax.random.uniform(key),
        "nothing": jax.random.bits(key, (0, 3)),
    }
    for width in (8, 16, 32):
        drawn[f"uint{width}"] = jax.random.bits(key, (5, 7), f"uint{width}")
    return drawn


def test_unrolled_keys_draw_the_bits_of_jax():
    draw = jax.jit(bits)
    jax.tree.map(np.testing.assert_array_equal, draw(unrolled(KEY)), draw(KEY))


def test_64_bits_and_seeds_are_those_of_jax():
    with jax.enable_x64(True):
        draw = lambda key: jax.random.bits(key, (5, 3), "uint64")  # noqa: E731
        np.testing.assert_array_equal(draw(unrolled(KEY)), draw(KEY))
    kind = jax.random.key_impl(unrolled(KEY))
    for seed in (0, -1, 2**31):
        ours = jax.random.key_data(jax.random.key(seed, impl=kind))
        np.testing.assert_array_equal(ours, jax.random.key_data(jax.random.key(seed)))


def lowered(convert, platform):
    """Return the text of a program that draws, for a platform that need not be there."""
    draw = jax.jit(lambda key: jax.random.normal(convert(key), (8,)))
    return draw.trace(KEY).lower(lowering_platforms=(platform,)).as_text()


def test_only_programs_for_the_cpu_are_written_out():
    assert "stablehlo.while" in lowered(lambda key: key, "cpu")
    assert "stablehlo.while" not in lowered(unrolled, "cpu")
    for platform in ("cuda", "tpu"):
        assert "func.func private @threefry2x32" in lowered(unrolled, platform)
    jax.config.update("jax_threefry_gpu_kernel_lowering", True)
    try:
        assert "cu_threefry2x32_ffi" in lowered(unrolled, "cuda")
    finally:
        jax.config.update("jax_threefry_gpu_kernel_lowering", False)


def test_keys_of_other_kinds_stay_as_they_are():
    tree = {
        "rbg": jax.random.key(0, impl="rbg"),
        "raw": jax.random.PRNGKey(0),
        "number": 3,
        "array": np.ones(2),
        "none": None,
    }
    same = unrolled(tree)
    assert all(same[name] is tree[name] for name in tree)
    with jax.threefry_partitionable(False):  # another order of bits
        assert unrolled(KEY) is KEY


def test_there_and_back():
    tree = {"key": KEY, "batch": jax.random.split(KEY, 3), "number": jnp.float32(1)}
    back = original(unrolled(tree))
    assert jax.tree.map(lambda x: x.dtype, back) == jax.tree.map(lambda x: x.dtype, tree)
    assert unrolled(tree)["batch"].dtype != tree["batch"].dtype == original(tree)["batch"].dtype
    np.testing.assert_array_equal(*(jax.random.key_data(t["batch"]) for t in (back, tree)))


@pytest.mark.parametrize("seed", [0, -1, 2**31 - 1])
def test_seeds_raw_and_typed_keys_are_the_same_key(seed):
    raw = jax.random.PRNGKey(seed)
    for key in (seed, np.int64(seed), raw, jax.random.wrap_key_data(raw)):
        assert as_key(key).dtype == KEY.dtype
        np.testing.assert_array_equal(jax.random.key_data(as_key(key)), raw)


def test_what_is_no_key_is_refused():
    for wrong in (jax.random.split(KEY), 1.5, "0", 2**64, jnp.zeros(2), None):
        with pytest.raises(InputError, match="key"):
            as_key(wrong)


class KeepsItsKey:
    """A JAX environment with a key in its state, and one that it makes itself."""

    spec = CARTPOLE.spec

    def reset(self, key):
        state, observation = CARTPOLE.reset(key)
        return (state, jax.random.key(7)), observation

    def step(self, key, state, action):
        state, own = state
        own, drawn = jax.random.split(own)
        state, timestep = CARTPOLE.step(key, state, action)
        reward = timestep.reward + jax.random.uniform(drawn)
        return (state, own), timestep._replace(reward=reward)


def test_states_and_environments_hold_keys_of_jax():
    env = KeepsItsKey()
    network = networks.actor_critic(env, hidden=(8,))
    algorithm = a2c(env, network, optimizers.rmsprop(1e-3))
    state = jax.jit(algorithm.init)(jax.random.PRNGKey(0))
    after, _ = jax.jit(algorithm.step)(state)
    for held in (state, after):
        assert held.actor.key.dtype == held.actor.env_state[1].dtype == KEY.dtype
    result = evaluator(env, network, num_episodes=2, policy="sampled", max_episode_steps=5)(
        after.params, jax.random.PRNGKey(0)
    )
    assert np.isfinite(result.returns).all()
