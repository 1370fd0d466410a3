"""Updates and trees as one vector: the parts come back as they were, in their order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_a3c.runners.packing import Packing, TreePacking, ravel, unraveller

GRADS = {"b": jnp.arange(3.0), "a": {"w": jnp.linspace(-1e-20, 1e20, 4).reshape(2, 2)}}
METRICS = {
    "loss": jnp.float32(2.5),
    "nonfinite_gradients": jnp.float32(1.0),
    "episodes": jnp.float32(3.0),
    "env_steps": jnp.uint32(2**24 - 1),
}
STATISTICS = {"statistics": {"count": jnp.float32(7.0), "mean": jnp.array([0.1, -0.2])}}


@pytest.mark.parametrize("statistics", [(), STATISTICS], ids=["none", "some"])
def test_what_is_packed_is_unpacked_to_the_same_values(statistics):
    packing = Packing(num_params=7)
    vector = np.asarray(jax.jit(packing.pack)(GRADS, METRICS, statistics))
    assert vector.dtype == np.float32 and vector.ndim == 1
    update = packing.unpack(vector)

    np.testing.assert_array_equal(update.gradient, ravel(GRADS))
    np.testing.assert_array_equal(update.statistics, ravel(statistics))
    assert update.statistics.size == (3 if statistics else 0)
    assert type(update.env_steps) is int and update.env_steps == 2**24 - 1
    assert packing.names[0] == "env_steps" and set(packing.names) == set(METRICS)
    metrics = dict(zip(packing.names, update.metrics.tolist(), strict=True))
    assert metrics == {name: float(value) for name, value in METRICS.items()}
    parts = (update.gradient, update.metrics, update.statistics)
    assert all(np.shares_memory(vector, part) for part in parts if part.size)


def test_the_vector_of_a_tree_goes_back_to_its_dtypes():
    tree = {"a": jnp.array([1.5, -2.0], jnp.bfloat16), "b": jnp.ones((2, 1), jnp.float32)}
    back = unraveller(jax.eval_shape(lambda: tree))(ravel(tree))
    assert ravel(tree).dtype == jnp.float32 and jax.tree.structure(back) == jax.tree.structure(tree)
    for ours, theirs in zip(jax.tree.leaves(back), jax.tree.leaves(tree), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


TREE = {
    "key": jax.random.split(jax.random.key(1), 2),
    "rbg": jax.random.key(1, impl="rbg"),
    "bool": jnp.array([True, False, True]),
    "uint8": jnp.arange(250, 256, dtype=jnp.uint8),
    "int8": jnp.array([-128, -1, 127], jnp.int8),
    "int16": jnp.array([[-(2**15)], [2**15 - 1]], jnp.int16),
    "int32": jnp.array([-(2**31), -1, 2**31 - 1], jnp.int32),
    "bfloat16": jnp.array([1.5, -0.0, jnp.nan], jnp.bfloat16),
    "float16": jnp.float16(1e-7),
    "float32": jnp.array([jnp.nan, -jnp.inf, -0.0, 1e-45], jnp.float32),
    "empty": jnp.zeros((0, 3)),
    "none": None,
    "tuple": (),
}


@pytest.mark.parametrize("wide", [False, True], ids=["32 bits", "64 bits"])
def test_a_packed_tree_comes_back_bit_for_bit(wide):
    with jax.enable_x64(wide):
        tree = dict(TREE)
        if wide:
            tree |= {"float64": jnp.array([1e-300, jnp.nan]), "int64": jnp.int64(-(2**63))}
        packing = TreePacking(tree)
        vector = jax.jit(packing.pack)(tree)
        assert vector.dtype == jnp.uint32 and vector.ndim == 1
        back = jax.jit(packing.unpack)(vector)

        assert jax.tree.structure(back) == jax.tree.structure(tree)
        for ours, theirs in zip(jax.tree.leaves(back), jax.tree.leaves(tree), strict=True):
            assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
            if jax.dtypes.issubdtype(theirs.dtype, jax.dtypes.prng_key):
                ours, theirs = jax.random.key_data(ours), jax.random.key_data(theirs)
            assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()
