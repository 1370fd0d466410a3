"""Returns against the episode-by-episode specification, rlax and hand-computed numbers."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import rlax
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_a3c import returns

GAMMA = 0.9
SHAPES = [(1,), (7,), (4, 2, 2)]
PRECISIONS = [
    pytest.param(np.float32, 1e-5, id="float32"),
    pytest.param(np.float64, 1e-10, id="float64"),
]


class Rollout(NamedTuple):
    """Random data whose episodes terminate or are truncated, float64 arrays `[T, *B]`."""

    rewards: np.ndarray
    values: np.ndarray
    next_values: np.ndarray
    log_rhos: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray

    @property
    def discounts(self) -> np.ndarray:
        return GAMMA * (1.0 - self.terminated)

    def lambdas(self, lambda_: float) -> np.ndarray:
        """Return lambda_t as `returns` expects it: 0 where the episode was truncated."""
        return lambda_ * (1.0 - self.truncated)


def make_rollout(shape, seed=0, end_probability=0.3) -> Rollout:
    rng = np.random.default_rng(seed)
    terminated = rng.random(shape) < end_probability / 2
    truncated = (rng.random(shape) < end_probability / 2) & ~terminated
    values = rng.normal(size=shape)
    next_values = np.concatenate([values[1:], rng.normal(size=(1, *shape[1:]))])
    # At the end of an episode values[t + 1] belongs to the next one, so draw the final value.
    next_values = np.where(terminated | truncated, rng.normal(size=shape), next_values)
    return Rollout(
        rng.normal(size=shape), values, next_values, rng.normal(size=shape), terminated, truncated
    )


# For each function: how to call it, and its specification, given the rollout and lambda.
def call_lambda_returns(x, lambdas):
    return returns.lambda_returns(x.rewards, x.discounts, x.next_values, lambdas)


def spec_lambda_returns(x, lambda_):
    ends = (x.terminated, x.truncated)
    return reference.per_stream(
        reference.lambda_returns, x.rewards, x.next_values, *ends, gamma=GAMMA, lambda_=lambda_
    )


def call_n_step_returns(x, lambdas):
    del lambdas
    return returns.n_step_returns(x.rewards, x.discounts, x.next_values, 3, lambda_=x.lambdas(1.0))


def spec_n_step_returns(x, lambda_):
    del lambda_
    ends = (x.terminated, x.truncated)
    return reference.per_stream(
        reference.n_step_returns, x.rewards, x.next_values, *ends, gamma=GAMMA, n=3
    )


def call_gae(x, lambdas):
    return returns.generalized_advantage_estimation(
        x.rewards, x.discounts, x.values, x.next_values, lambdas
    )


def spec_gae(x, lambda_):
    arrays = (x.rewards, x.values, x.next_values, x.terminated, x.truncated)
    return reference.per_stream(
        reference.generalized_advantages, *arrays, gamma=GAMMA, lambda_=lambda_
    )


def call_vtrace(x, lambdas):
    return returns.vtrace(
        x.rewards,
        x.discounts,
        x.values,
        x.next_values,
        x.log_rhos,
        lambdas,
        clip_rho=1.5,
        clip_pg_rho=2.0,
    )


def spec_vtrace(x, lambda_):
    arrays = (x.rewards, x.values, x.next_values, np.exp(x.log_rhos), x.terminated, x.truncated)
    common = {"gamma": GAMMA, "lambda_": lambda_, "clip_rho": 1.5}
    targets = reference.per_stream(reference.vtrace_targets, *arrays, **common)
    return targets, reference.per_stream(
        reference.vtrace_advantages, *arrays, **common, clip_pg_rho=2.0
    )


def call_retrace(x, lambdas):
    return returns.retrace(x.rewards, x.discounts, x.values, x.next_values, x.log_rhos, lambdas)


def spec_retrace(x, lambda_):
    arrays = (x.rewards, x.values, x.next_values, np.exp(x.log_rhos), x.terminated, x.truncated)
    return reference.per_stream(reference.retrace, *arrays, gamma=GAMMA, lambda_=lambda_)


FUNCTIONS = {
    "lambda_returns": (call_lambda_returns, spec_lambda_returns),
    "n_step_returns": (call_n_step_returns, spec_n_step_returns),
    "generalized_advantage_estimation": (call_gae, spec_gae),
    "vtrace": (call_vtrace, spec_vtrace),
    "retrace": (call_retrace, spec_retrace),
}
EVERY_FUNCTION = pytest.mark.parametrize("name", FUNCTIONS)
# Jitted once, so that hypothesis compiles per shape and not per example.
JITTED = {name: jax.jit(call) for name, (call, _) in FUNCTIONS.items()}


class Arguments(NamedTuple):
    """A `Rollout` with discounts in place of flags, as the functions expect it."""

    rewards: jax.Array
    discounts: jax.Array
    values: jax.Array
    next_values: jax.Array
    log_rhos: jax.Array
    continues: jax.Array

    def lambdas(self, lambda_: float) -> jax.Array:
        return lambda_ * self.continues


def arguments(x: Rollout, dtype=np.float32) -> Arguments:
    arrays = (x.rewards, x.discounts, x.values, x.next_values, x.log_rhos, 1.0 - x.truncated)
    return Arguments(*(jnp.asarray(array, dtype) for array in arrays))


def assert_close(actual, expected, tolerance):
    """Compare arrays with a tolerance relative to the largest number of each array."""
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.shape == e.shape
        assert np.abs(np.asarray(a) - e).max() <= tolerance * max(1.0, np.abs(e).max())


@EVERY_FUNCTION
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_specification(name, dtype, tolerance, shape):
    rollout = make_rollout(shape, seed=len(shape))
    with jax.enable_x64(dtype is np.float64):
        x = arguments(rollout, dtype)
        for lambda_ in (0.0, 0.7, 1.0):
            actual = JITTED[name](x, x.lambdas(lambda_))
            assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(actual))
            assert_close(actual, FUNCTIONS[name][1](rollout, lambda_), tolerance)


@settings(max_examples=25)
@given(
    name=st.sampled_from(sorted(FUNCTIONS)),
    shape=st.sampled_from(SHAPES),
    seed=st.integers(0, 2**32 - 1),
    end_probability=st.sampled_from([0.0, 0.2, 0.6, 1.0]),
    lambda_=st.floats(0, 1),
)
def test_random_episodes_equal_the_specification(name, shape, seed, end_probability, lambda_):
    rollout = make_rollout(shape, seed, end_probability)
    x = arguments(rollout)
    assert_close(JITTED[name](x, x.lambdas(lambda_)), FUNCTIONS[name][1](rollout, lambda_), 1e-5)


@settings(max_examples=15)
@given(name=st.sampled_from(sorted(FUNCTIONS)), seed=st.integers(0, 1000), cut=st.integers(0, 5))
def test_nothing_leaks_back_across_the_end_of_an_episode(name, seed, cut):
    """Results up to the end of an episode do not depend on later steps, for either kind of end."""
    rollout = make_rollout((7,), seed)
    (rollout.terminated if seed % 2 else rollout.truncated)[cut] = True
    other = make_rollout((7,), seed + 1)
    mixed = Rollout(
        *(np.concatenate([a[: cut + 1], b[cut + 1 :]]) for a, b in zip(rollout, other, strict=True))
    )
    results = []
    for x in map(arguments, (rollout, mixed)):
        results.append(jax.tree.map(lambda g: g[: cut + 1], JITTED[name](x, x.lambdas(0.9))))
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_array_equal(a, b)


def test_hand_worked_returns_with_termination_and_truncation():
    # Four steps: the second truncated, the third terminated; gamma 0.5, lambda 0.5.
    rewards, values = np.array([1.0, 2.0, 3.0, 4.0]), np.array([10.0, 20.0, 30.0, 40.0])
    next_values = np.array([20.0, 8.0, 99.0, 16.0])
    discounts, lambdas = np.array([0.5, 0.5, 0.0, 0.5]), np.array([0.5, 0.0, 0.5, 0.5])
    # G3 = 4 + .5*16 = 12; G2 = 3; G1 = 2 + .5*8 = 6; G0 = 1 + .5*(.5*20 + .5*6) = 7.5
    expected = [7.5, 6.0, 3.0, 12.0]
    np.testing.assert_array_equal(
        returns.lambda_returns(rewards, discounts, next_values, lambdas), expected
    )
    advantages = returns.generalized_advantage_estimation(
        rewards, discounts, values, next_values, lambdas
    )
    np.testing.assert_array_equal(advantages, expected - values)


def test_hand_worked_vtrace_and_retrace():
    rewards, discounts = np.array([1.0, 1.0]), np.array([0.5, 0.5])
    values, next_values = np.array([2.0, 4.0]), np.array([4.0, 6.0])
    log_rhos = np.log([0.5, 4.0])
    # clip 1: delta = [.5 (1 + 2 - 2), 1 (1 + 3 - 4)] = [.5, 0], so vs = [2.5, 4]
    # clip 2: A = [.5 (1 + .5*4 - 2), 2 (1 + .5*6 - 4)] = [.5, 0]
    targets, advantages = returns.vtrace(
        rewards, discounts, values, next_values, log_rhos, clip_pg_rho=2.0
    )
    np.testing.assert_allclose(targets, [2.5, 4.0], rtol=1e-6)
    np.testing.assert_allclose(advantages, [0.5, 0.0], rtol=1e-6)
    # G1 = 1 + .5*6 = 4; G0 = 1 + .5 (4 + min(1, 4) (4 - 3)) = 3.5, with q(s1, a1) = 3
    targets = returns.retrace(rewards, discounts, np.array([0.0, 3.0]), next_values, log_rhos)
    np.testing.assert_allclose(targets, [3.5, 4.0], rtol=1e-6)


def test_the_terminal_reward_counts():
    """GA3C drops it, so it cannot learn a task whose only reward comes last."""
    rewards, discounts = np.array([0.0, 0.0, 1.0]), np.array([0.5, 0.5, 0.0])
    np.testing.assert_array_equal(
        returns.discounted_returns(rewards, discounts, 7.0), [0.25, 0.5, 1.0]
    )


def test_a_long_rollout_which_is_a_loop_equals_the_specification():
    rollout = make_rollout((40, 2), end_probability=0.1)
    x = arguments(rollout)
    assert_close(
        JITTED["lambda_returns"](x, x.lambdas(0.9)), spec_lambda_returns(rollout, 0.9), 1e-5
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_discounted_returns_are_lambda_returns_with_lambda_one(shape):
    x = arguments(make_rollout(shape))
    np.testing.assert_array_equal(
        returns.discounted_returns(x.rewards, x.discounts, x.next_values[-1]),
        returns.lambda_returns(x.rewards, x.discounts, x.next_values),
    )


def test_n_of_one_is_td_and_a_large_n_is_the_segment_return():
    x = arguments(make_rollout((6, 2)))
    terms = (x.rewards, x.discounts, x.next_values)
    np.testing.assert_allclose(
        returns.n_step_returns(*terms, 1), returns.lambda_returns(*terms, 0.0), rtol=1e-6
    )
    for n in (6, 7, np.int64(1000)):
        np.testing.assert_array_equal(
            returns.n_step_returns(*terms, n), returns.lambda_returns(*terms)
        )


def test_on_policy_vtrace_is_the_lambda_return_and_gae():
    x = arguments(make_rollout((6, 2)))
    lambdas = x.lambdas(0.8)
    targets, advantages = returns.vtrace(
        x.rewards, x.discounts, x.values, x.next_values, jnp.zeros((6, 2)), lambdas
    )
    assert_close(targets, np.asarray(call_lambda_returns(x, lambdas)), 1e-6)
    assert_close(advantages, np.asarray(call_gae(x, lambdas)), 1e-6)


def test_a_scalar_lambda_equals_an_array_of_it():
    x = arguments(make_rollout((5, 3)))
    for call, _ in (FUNCTIONS[name] for name in ("lambda_returns", "vtrace", "retrace")):
        scalar, array = call(x, 0.7), call(x, jnp.full((5, 3), 0.7))
        assert_close(scalar, jax.tree.map(np.asarray, array), 1e-6)


@pytest.mark.parametrize("lambda_", [0.0, 0.6, 1.0])
def test_equals_rlax(lambda_):
    rollout = make_rollout((6,), seed=3)
    next_values = np.append(rollout.values[1:], 0.5)  # rlax has no truncation
    x = arguments(rollout._replace(next_values=next_values, truncated=np.zeros(6, bool)))
    common = (x.rewards, x.discounts)
    rhos = jnp.exp(x.log_rhos)

    ours = returns.lambda_returns(*common, x.next_values, lambda_)
    assert_close(ours, np.asarray(rlax.lambda_returns(*common, x.next_values, lambda_)), 1e-6)
    ours = returns.discounted_returns(*common, x.next_values[-1])
    assert_close(ours, np.asarray(rlax.discounted_returns(*common, x.next_values)), 1e-6)
    ours = returns.n_step_returns(*common, x.next_values, 3, lambda_=lambda_)
    assert_close(
        ours, np.asarray(rlax.n_step_bootstrapped_returns(*common, x.next_values, 3, lambda_)), 1e-6
    )
    ours = returns.generalized_advantage_estimation(*common, x.values, x.next_values, lambda_)
    all_values = jnp.append(x.values, x.next_values[-1])
    theirs = rlax.truncated_generalized_advantage_estimation(*common, lambda_, all_values)
    assert_close(ours, np.asarray(theirs), 1e-6)

    targets, advantages = returns.vtrace(
        *common, x.values, x.next_values, x.log_rhos, lambda_, 1.5, 2.0
    )
    for theirs in (
        rlax.vtrace_td_error_and_advantage(
            x.values, x.next_values, *common, rhos, lambda_, 1.5, 2.0
        ),
        rlax.leaky_vtrace_td_error_and_advantage(
            x.values, x.next_values, *common, rhos, 1.0, lambda_, 1.5, 2.0
        ),
    ):
        assert_close(targets - x.values, np.asarray(theirs.errors), 1e-6)
        assert_close(advantages, np.asarray(theirs.pg_advantage), 1e-6)

    ours = returns.retrace(*common, x.values, x.next_values, x.log_rhos, lambda_)
    traces = lambda_ * jnp.minimum(1.0, rhos[1:])
    theirs = rlax.general_off_policy_returns_from_q_and_v(
        x.values[1:], x.next_values, *common, traces
    )
    assert_close(ours, np.asarray(theirs), 1e-6)


@EVERY_FUNCTION
def test_vmap_over_a_batch_axis_equals_the_batch(name):
    x = arguments(make_rollout((5, 3)))
    batched = JITTED[name](x, x.lambdas(0.7))
    mapped = jax.jit(jax.vmap(FUNCTIONS[name][0], in_axes=1, out_axes=1))(x, x.lambdas(0.7))
    assert_close(mapped, jax.tree.map(np.asarray, batched), 1e-6)


@EVERY_FUNCTION
def test_gradient_equals_finite_differences(name):
    def scalar(x: Arguments):
        leaves = jax.tree.leaves(FUNCTIONS[name][0](x, x.lambdas(0.7)))
        return sum(jnp.sum(jnp.cos(jnp.arange(1.0, 6.0)) * leaf) for leaf in leaves)

    with jax.enable_x64(True):
        x = arguments(make_rollout((5,), seed=4), np.float64)
        direction = arguments(make_rollout((5,), seed=5), np.float64)
        shifted = [jax.tree.map(lambda a, d, e=e: a + e * d, x, direction) for e in (-1e-6, 1e-6)]
        value = jax.jit(scalar)
        numeric = (value(shifted[1]) - value(shifted[0])) / 2e-6
        gradient = jax.jit(jax.grad(scalar))(x)
        analytic = sum(jnp.vdot(g, d) for g, d in zip(gradient, direction, strict=True))
        np.testing.assert_allclose(analytic, numeric, rtol=1e-6)


def test_extreme_importance_weights_stay_finite():
    x = arguments(make_rollout((4,)))._replace(log_rhos=jnp.array([1e4, -1e4, -jnp.inf, 200.0]))
    for call in (call_vtrace, call_retrace):

        def total(x, call=call):
            result = call(x, 0.9)
            return sum(map(jnp.sum, jax.tree.leaves(result))), result

        leaves = jax.tree.leaves(jax.jit(jax.grad(total, has_aux=True))(x))
        assert all(np.isfinite(leaf).all() for leaf in leaves)


def test_integers_and_low_precision_are_computed_in_float32():
    ones = np.ones(3, np.int32)
    for dtype in (np.int32, jnp.bfloat16, np.float16):
        result = returns.lambda_returns(jnp.asarray(ones, dtype), jnp.asarray(ones, dtype), ones)
        assert result.dtype == jnp.float32
        np.testing.assert_array_equal(result, [4.0, 3.0, 2.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda a: returns.lambda_returns(a, a, a[:, 0]),
            r"rewards \(4, 2\).*next_values \(4,\).*\[T, \*B\]",
        ),
        (lambda a: returns.lambda_returns(a, 0.9, a), r"discounts \(\).*\[T, \*B\]"),
        (lambda a: returns.lambda_returns(a, a, a[..., None]), r"next_values \(4, 2, 1\)"),
        (lambda a: returns.lambda_returns(a[:0], a[:0], a[:0]), r"\(0, 2\).*T >= 1"),
        (lambda a: returns.lambda_returns(1.0, 1.0, 1.0), r"rewards \(\).*T >= 1"),
        (lambda a: returns.lambda_returns(a, a, a, a[:, 0]), r"lambda_ has shape \(4,\)"),
        (lambda a: returns.lambda_returns(a, a, a, 1.5), r"lambda_ is 1.5.*\[0, 1\]"),
        (lambda a: returns.lambda_returns(a, a, a, np.float32(-0.5)), r"lambda_ is -0.5"),
        (lambda a: returns.lambda_returns(a, a, a, float("nan")), r"lambda_ is nan"),
        (lambda a: returns.discounted_returns(a, a, a), r"bootstrap_value \(4, 2\).*shape \(2,\)"),
        (lambda a: returns.discounted_returns(a, a, 0.0), r"bootstrap_value \(\)"),
        (lambda a: returns.n_step_returns(a, a, a, 0), "n is 0.*integer >= 1"),
        (lambda a: returns.n_step_returns(a, a, a, 2.0), r"n is 2.0"),
        (lambda a: returns.n_step_returns(a, a, a, True), "n is True"),
        (
            lambda a: returns.n_step_returns(a, a, a, jnp.array(2)),
            "known when the function is traced",
        ),
        (
            lambda a: returns.generalized_advantage_estimation(a, a, a[:3], a, 1.0),
            r"values \(3, 2\)",
        ),
        (lambda a: returns.vtrace(a, a, a, a, a[0]), r"log_rhos \(2,\)"),
        (lambda a: returns.vtrace(a, a, a, a, a, clip_rho=0.0), "clip_rho is 0.0.*above 0"),
        (lambda a: returns.vtrace(a, a, a, a, a, clip_pg_rho=a), r"clip_pg_rho has shape \(4, 2\)"),
        (lambda a: returns.retrace(a, a, a[None], a, a), r"q_values \(1, 4, 2\)"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.zeros((4, 2)))


def test_shapes_are_checked_under_jit():
    with pytest.raises(ValueError, match=r"next_values \(3,\)"):
        jax.jit(returns.lambda_returns)(jnp.zeros(4), jnp.zeros(4), jnp.zeros(3))
