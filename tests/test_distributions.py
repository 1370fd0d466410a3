"""Distributions against the specification: densities, entropies, divergences, frequencies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jax_a3c.distributions import Categorical, DiagonalGaussian

PRECISIONS = [
    pytest.param(np.float32, 1e-5, id="float32"),
    pytest.param(np.float64, 1e-10, id="float64"),
]
INF = np.inf
LOGITS = np.array([[0.5, -1.0, 2.0, 0.0], [100.0, 0.0, -200.0, 99.0], [-INF, 1.0, -INF, 1.0]])
OTHER = np.array([[0.0, 0.0, 1.0, -1.0], [50.0, 50.0, 50.0, 50.0], [0.0, 0.0, -INF, 2.0]])

# Jitted once, so that hypothesis does not compile every example.
JITTED_PROPERTIES = jax.jit(lambda p, key: ((a := p.sample(key)), p.entropy(), p.log_prob(a)))


def rows(function, *arrays):
    """Apply a function of rows to each row of `[N, A]` arrays."""
    return np.array([function(*row) for row in zip(*arrays, strict=True)])


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_categorical_equals_the_specification(dtype, tolerance):
    with jax.enable_x64(dtype is np.float64):
        policy, other = (
            Categorical(jnp.asarray(LOGITS, dtype)),
            Categorical(jnp.asarray(OTHER, dtype)),
        )
        close = {"rtol": tolerance, "atol": tolerance}
        probs = rows(reference.softmax, LOGITS)
        for action in range(4):
            log_prob = policy.log_prob(jnp.full(3, action))
            assert log_prob.dtype == dtype
            np.testing.assert_allclose(np.exp(log_prob), probs[:, action], **close)
        np.testing.assert_allclose(
            policy.entropy(), rows(reference.categorical_entropy, LOGITS), **close
        )
        expected = rows(reference.categorical_kl, LOGITS, OTHER)
        np.testing.assert_allclose(policy.kl_divergence(other), expected, **close)
        np.testing.assert_array_equal(policy.mode(), [2, 0, 1])  # ties go to the first action
        assert policy.mode().dtype == policy.sample(jax.random.key(0)).dtype == jnp.int32


def test_categorical_log_prob_of_unlikely_and_forbidden_actions():
    policy = Categorical(jnp.array([0.0, -500.0, -INF]))
    assert policy.log_prob(jnp.array(1)) == -500.0  # log of the softmax would be -inf
    assert policy.log_prob(jnp.array(2)) == -INF


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("action", [-1, -4, -5, 4, 100])
def test_categorical_log_prob_of_an_action_that_does_not_exist_is_nan_without_a_gradient(
    action, dtype
):
    """Other rows and their gradients do not change."""
    logits = jnp.asarray(OTHER, dtype).at[2].set(0.0)

    def log_prob(logits, actions):
        return Categorical(logits).log_prob(actions)

    actions = jnp.array([0, action, 2])
    by_logits = jax.grad(lambda logits, actions: jnp.sum(log_prob(logits, actions)))
    found, gradient = jax.jit(log_prob)(logits, actions), by_logits(logits, actions)
    expected, its_gradient = (
        log_prob(logits, jnp.array([0, 0, 2])),
        by_logits(logits, jnp.array([0, 0, 2])),
    )

    assert found.dtype == gradient.dtype == dtype
    found, expected, gradient, its_gradient = (
        np.asarray(x, np.float32) for x in (found, expected, gradient, its_gradient)
    )
    np.testing.assert_allclose(found, [expected[0], np.nan, expected[2]], rtol=1e-2)
    np.testing.assert_array_equal(gradient, [its_gradient[0], np.zeros(4), its_gradient[2]])


def test_categorical_divergence_to_a_distribution_that_forbids_an_action_is_infinite():
    p, q = Categorical(jnp.array([0.0, 0.0])), Categorical(jnp.array([0.0, -INF]))
    assert p.kl_divergence(q) == INF
    assert np.isclose(q.kl_divergence(p), np.log(2))


def test_categorical_gradients_are_finite_with_forbidden_actions():
    logits, other = jnp.array(LOGITS, jnp.float32), jnp.array(OTHER, jnp.float32)
    for function in (
        lambda x: Categorical(x).log_prob(jnp.array([0, 1, 3])),
        lambda x: Categorical(x).entropy(),
        lambda x: Categorical(x).kl_divergence(Categorical(other)),
        lambda x: Categorical(other).kl_divergence(Categorical(jnp.maximum(x, -300.0))),
    ):
        gradient = jax.grad(lambda x, f=function: jnp.sum(f(x)))(logits)
        assert np.isfinite(gradient).all()


def test_categorical_entropy_gradient_is_the_analytic_one():
    # dH/dlogit_i = -p_i (log p_i + H)
    logits = jnp.array(LOGITS[0], jnp.float32)
    log_probs = jax.nn.log_softmax(logits)
    expected = -jnp.exp(log_probs) * (log_probs + Categorical(logits).entropy())
    np.testing.assert_allclose(
        jax.grad(lambda x: Categorical(x).entropy())(logits), expected, rtol=1e-4
    )


def test_categorical_frequencies():
    """Frequencies are within 5 standard errors; forbidden actions are never drawn."""
    num_draws = 200_000
    probs = np.array([0.0, 0.1, 0.0, 0.6, 0.299, 0.001, 0.0])
    logits = jnp.log(jnp.asarray(probs)) + 7.0
    draws = Categorical(jnp.broadcast_to(logits, (num_draws, 7))).sample(jax.random.key(0))
    frequencies = np.bincount(draws, minlength=7) / num_draws
    errors = 5 * np.sqrt(probs * (1 - probs) / num_draws)
    assert (np.abs(frequencies - probs) <= errors).all()


def test_categorical_draws_of_a_batch_are_independent():
    draws = Categorical(jnp.zeros((20_000, 2, 2))).sample(jax.random.key(1))
    assert draws.shape == (20_000, 2)
    assert abs(np.corrcoef(draws.T)[0, 1]) < 0.04


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_categorical_rounding_never_draws_a_forbidden_action(monkeypatch, dtype):
    """Test extreme uniform numbers and sums as inexact as those of a parallel prefix sum."""
    extremes = np.resize([0.0, 0.5, 1 - 2**-23], (900, 1))
    monkeypatch.setattr(
        jax.random, "uniform", lambda key, shape, dtype: jnp.asarray(extremes, dtype)
    )
    exact, noise = jnp.cumsum, np.random.default_rng(0).uniform(0.99, 1.01, (900, 300))
    monkeypatch.setattr(
        jnp, "cumsum", lambda x, axis: exact(x, axis) * jnp.asarray(noise[:, : x.shape[1]], x.dtype)
    )
    for num_actions in (1, 18, 300):
        rng = np.random.default_rng(num_actions)
        logits = rng.normal(scale=3.0, size=(900, num_actions))
        logits[rng.random(logits.shape) < 0.5] = -INF
        logits[:, num_actions // 2] = 0.0
        draws = np.asarray(Categorical(jnp.asarray(logits, dtype)).sample(jax.random.key(0)))
        assert ((draws >= 0) & (draws < num_actions)).all()
        assert np.isfinite(logits[np.arange(900), draws]).all()


@settings(max_examples=20)
@given(
    hnp.arrays(
        np.float32,
        (3, 5),
        elements=st.one_of(st.floats(-(2.0**100), 2.0**100, width=32), st.just(-np.inf)),
    ).filter(lambda x: np.isfinite(x).any(axis=1).all()),
    st.integers(0, 2**31 - 1),
)
def test_categorical_properties(logits, seed):
    policy = Categorical(jnp.asarray(logits))
    action, entropy, log_prob = JITTED_PROPERTIES(policy, jax.random.key(seed))
    assert (log_prob > -INF).all()
    assert (logits[np.arange(3), action] > -INF).all()
    assert (entropy >= -1e-6).all()
    assert (entropy <= np.log(5) + 1e-6).all()


MEAN = np.array([[0.5, -1.0, 2.0], [0.0, 3.0, -0.25]])
STDDEVS = {
    "full": np.array([[0.5, 1.0, 2.0], [0.1, 3.0, 1.0]]),
    "spherical": np.array([[0.5], [2.0]]),
    "shared": np.array([0.5, 1.0, 2.0]),
    "scalar": np.array(0.7),
}
EVERY_STDDEV = pytest.mark.parametrize("kind", STDDEVS)


@EVERY_STDDEV
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_gaussian_equals_the_specification(kind, dtype, tolerance):
    stddev, action = np.broadcast_to(STDDEVS[kind], MEAN.shape), MEAN[::-1] + 0.3
    with jax.enable_x64(dtype is np.float64):
        policy = DiagonalGaussian(jnp.asarray(MEAN, dtype), jnp.asarray(STDDEVS[kind], dtype))
        other = DiagonalGaussian(jnp.asarray(action, dtype), jnp.full(MEAN.shape, 1.3, dtype))
        close = {"rtol": tolerance, "atol": tolerance}
        log_prob = policy.log_prob(jnp.asarray(action, dtype))
        assert log_prob.dtype == policy.sample(jax.random.key(0)).dtype == dtype
        expected = np.vectorize(reference.normal_log_density)(action, MEAN, stddev).sum(-1)
        np.testing.assert_allclose(log_prob, expected, **close)
        expected = np.vectorize(reference.normal_entropy)(stddev).sum(-1)  # all A entries count
        np.testing.assert_allclose(policy.entropy(), expected, **close)
        expected = np.vectorize(reference.normal_kl)(MEAN, stddev, action, 1.3).sum(-1)
        np.testing.assert_allclose(policy.kl_divergence(other), expected, **close)
        np.testing.assert_allclose(policy.kl_divergence(policy), 0.0, atol=1e-6)
        np.testing.assert_array_equal(policy.mode(), jnp.asarray(MEAN, dtype))


def test_gaussian_draws_have_its_moments():
    stddev = jnp.array([0.5, 2.0])
    policy = DiagonalGaussian(jnp.broadcast_to(jnp.array([1.0, -3.0]), (50_000, 2)), stddev)
    draws = policy.sample(jax.random.key(0))
    np.testing.assert_allclose(draws.mean(axis=0), [1.0, -3.0], atol=0.05)
    np.testing.assert_allclose(draws.std(axis=0), stddev, rtol=0.02)
    assert abs(np.corrcoef(draws.T)[0, 1]) < 0.03


def test_gaussian_gradients_are_the_analytic_ones():
    mean, stddev, action = jnp.array([1.0, 2.0]), jnp.array([0.5]), jnp.array([1.5, 0.0])
    by_mean, by_stddev = jax.grad(lambda m, s: DiagonalGaussian(m, s).log_prob(action), (0, 1))(
        mean, stddev
    )
    np.testing.assert_allclose(by_mean, (action - mean) / stddev**2, rtol=1e-6)
    distance = jnp.sum((action - mean) ** 2)
    np.testing.assert_allclose(by_stddev, -2 / stddev + distance / stddev**3, rtol=1e-6)
    entropy_by_stddev = jax.grad(lambda s: DiagonalGaussian(mean, s).entropy())(stddev)
    np.testing.assert_allclose(
        entropy_by_stddev, 2 / stddev, rtol=1e-6
    )  # a wider policy has more entropy


@pytest.mark.parametrize(
    "policy",
    [
        Categorical(jnp.asarray(LOGITS, jnp.float32)),
        DiagonalGaussian(
            jnp.asarray(MEAN, jnp.float32), jnp.asarray(STDDEVS["spherical"], jnp.float32)
        ),
    ],
    ids=lambda policy: type(policy).__name__,
)
def test_distributions_are_pytrees_that_pass_through_transformations(policy):
    keys = jax.random.split(jax.random.key(0), policy[0].shape[0])

    def use(policy, key):
        action = policy.sample(key)
        return policy, action, policy.log_prob(action), policy.entropy()

    returned, action, log_prob, entropy = jax.jit(jax.vmap(use))(policy, keys)
    assert type(returned) is type(policy)
    np.testing.assert_allclose(policy.log_prob(action), log_prob, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(policy.entropy(), entropy, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda c, g: c.log_prob(jnp.zeros((4, 1), int)),
            r"action has shape \(4, 1\) and logits \(4, 2\)",
        ),
        (lambda c, g: c.log_prob(jnp.zeros(4)), r"action has dtype float32; expected integers"),
        (lambda c, g: c.kl_divergence(Categorical(jnp.zeros(2))), r"\(4, 2\) and \(2,\)"),
        (
            lambda c, g: g.log_prob(jnp.zeros((4, 1))),
            r"action has shape \(4, 1\) and mean \(4, 2\)",
        ),
        (
            lambda c, g: g.kl_divergence(DiagonalGaussian(jnp.zeros(2), jnp.ones(2))),
            r"\(4, 2\) and \(2,\)",
        ),
        (lambda c, g: g._replace(stddev=jnp.ones(4)).entropy(), r"stddev \(4,\).*\[\*B, 1\]"),
        (
            lambda c, g: g._replace(stddev=jnp.ones((3, 4, 2))).log_prob(g.mean),
            r"stddev \(3, 4, 2\)",
        ),
        (
            lambda c, g: g._replace(mean=jnp.zeros((4, 1))).sample(jax.random.key(0)),
            r"mean has shape \(4, 1\)",
        ),
    ],
)
def test_wrong_arguments_are_named(call, message):
    policies = Categorical(jnp.zeros((4, 2))), DiagonalGaussian(jnp.zeros((4, 2)), jnp.ones((4, 2)))
    with pytest.raises(ValueError, match=message):
        call(*policies)
