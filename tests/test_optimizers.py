"""Optimizers against Optax and against their in-place form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_a3c import optimizers
from jax_a3c.runners.shared_parameters import SharedParameters, Update


def gradients(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, size)).astype(np.float32)


PAPERS = [optimizers.momentum_sgd, optimizers.rmsprop, optimizers.shared_rmsprop]


def optax_form(build):
    """Return the Optax chain that the docstring names, with learning rate 0.01."""
    if build is optimizers.momentum_sgd:
        return optax.chain(optax.ema(0.99, debias=False), optax.scale(-0.01))
    return optax.rmsprop(0.01, decay=0.99, eps=0.1, eps_in_sqrt=True, initial_scale=0.0)


@pytest.mark.parametrize("build", PAPERS)
def test_equals_the_chain_of_optax_over_1000_updates(build):
    @functools.partial(jax.jit, static_argnums=0)
    def train(optimizer, params, grads):
        def step(loop, grads):
            params, state = loop
            changes, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, changes), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), grads)[0][0]

    params, grads = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}, jnp.asarray(gradients(1000, 8))
    grads = {"w": grads[:, :6].reshape(-1, 3, 2), "b": grads[:, 6:]}
    ours, theirs = (
        train(optimizer, params, grads) for optimizer in (build(0.01), optax_form(build))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, theirs)


def test_by_hand():
    optimizer = optimizers.shared_rmsprop(0.5, decay=0.75, eps=1.0)
    state = optimizer.init(jnp.zeros(1))
    change, state = optimizer.update(jnp.array([2.0]), state)  # g = 0.25 * 4 = 1
    np.testing.assert_allclose(change, [-0.5 * 2 / np.sqrt(2.0)], rtol=1e-6)
    change, state = optimizer.update(jnp.array([-4.0]), state)  # g = 0.75 + 0.25 * 16 = 4.75
    np.testing.assert_allclose(change, [0.5 * 4 / np.sqrt(5.75)], rtol=1e-6)


def test_momentum_by_hand():
    optimizer = optimizers.momentum_sgd(0.5, momentum=0.75)
    state = optimizer.init(jnp.zeros(1))
    change, state = optimizer.update(jnp.array([2.0]), state)  # m = 0.25 * 2 = 0.5
    np.testing.assert_allclose(change, [-0.25], rtol=1e-6)
    change, state = optimizer.update(jnp.array([-4.0]), state)  # m = 0.75 * 0.5 - 0.25 * 4 = -0.625
    np.testing.assert_allclose(change, [0.3125], rtol=1e-6)


@pytest.mark.parametrize("build", PAPERS)
def test_in_place_equals_optax_form_over_1000_updates(build):
    optimizer = build(optimizers.linear_schedule(0.01, 900))
    initial = np.random.default_rng(1).normal(size=64).astype(np.float32)
    shared = SharedParameters(
        initial, 1, rule=optimizer.in_place, shares_moments=optimizer.shares_moments
    )
    nothing = np.empty(0, np.float32)
    params, state = jnp.asarray(initial), optimizer.init(jnp.asarray(initial))
    update = jax.jit(lambda g, s, t: optimizer.update(g, s, env_steps=t))
    for t, grad in enumerate(gradients(1000, 64)):
        shared.apply(0, t, Update(grad, nothing, int(t > 0), nothing))  # T = t
        changes, state = update(grad, state, np.float32(t))
        params = optax.apply_updates(params, changes)
    np.testing.assert_allclose(shared.flat_params, params, rtol=2e-5, atol=1e-6)
    moments = shared.moments if optimizer.shares_moments else shared.worker_moments[0]
    np.testing.assert_allclose(moments, state.moments, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("start", [1.0, -1.0, 0.0])
@pytest.mark.parametrize(
    "build",
    [
        lambda: optimizers.momentum_sgd(0.1, momentum=0.5),
        lambda: optimizers.rmsprop(0.1, decay=0.5),
        lambda: optimizers.shared_rmsprop(0.1, decay=0.5),
    ],
    ids=["momentum_sgd", "rmsprop", "shared_rmsprop"],
)
def test_statistics_never_turn_denormal(build, start):
    optimizer, nothing = build(), np.zeros(4, np.float32)
    theta, scratch, statistics = (np.full(4, x, np.float32) for x in (1.0, 0.0, start))
    optimizer.in_place(theta, statistics, nothing, scratch, 0)
    for _ in range(300):
        optimizer.in_place(theta, statistics, nothing, scratch, 0)
        magnitudes = np.abs(statistics[statistics != 0.0])
        assert (magnitudes >= np.finfo(np.float32).tiny).all()
    assert (np.abs(statistics) < 1e-28).all()
    before = theta.copy()
    optimizer.in_place(theta, statistics, nothing, scratch, 0)
    np.testing.assert_array_equal(theta, before)


def test_only_shared_rmsprop_shares_its_statistics():
    assert [build(0.1).shares_moments for build in PAPERS] == [False, False, True]


def test_linear_schedule_ends_at_exactly_zero_and_stays():
    schedule = optimizers.linear_schedule(7e-4, 1000)
    assert schedule(0) == 7e-4
    assert schedule(500) == pytest.approx(3.5e-4)
    assert schedule(1000) == 0.0 and schedule(5000) == 0.0
    np.testing.assert_allclose(schedule(jnp.array([0.0, 1000.0, 2000.0])), [7e-4, 0.0, 0.0])


def rates_and_step(total, env_steps):
    """Return a schedule's rate at a number and at an array, and a step of an optimizer with it."""
    schedule = optimizers.linear_schedule(1.0, total)
    optimizer = optimizers.shared_rmsprop(schedule, eps=1.0, decay=1.0)
    change, _ = optimizer.update(jnp.ones(()), optimizer.init(jnp.ones(())), env_steps=env_steps)
    return schedule(50), schedule(env_steps), -change


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.float32])
def test_the_total_of_a_linear_schedule_can_be_traced(dtype):
    totals, expected = (
        jnp.array([100, 200, 400], dtype),
        ([0.5, 0.75, 0.875], *2 * ([0.0, 0.25, 0.625],)),
    )
    batched = jax.vmap(rates_and_step, (0, None))(totals, jnp.float32(150))
    one_by_one = np.transpose([jax.jit(rates_and_step)(total, 150) for total in totals])
    np.testing.assert_allclose(batched, expected, rtol=1e-6)
    np.testing.assert_allclose(one_by_one, expected, rtol=1e-6)


@pytest.mark.parametrize("count", [10**12, np.int64(10**12)])
def test_a_traced_total_takes_counts_of_more_than_32_bits(count):
    rate = jax.jit(lambda total: optimizers.linear_schedule(1.0, total)(count))
    np.testing.assert_allclose(rate(4e12), 0.75, rtol=1e-6)


def test_a_traced_total_keeps_the_type_of_the_count():
    with jax.enable_x64(True):
        rate = jax.jit(lambda total, count: optimizers.linear_schedule(1.0, total)(count))
        assert rate(10**12, jnp.float32(0)).dtype == jnp.float32


@pytest.mark.parametrize(
    "total",
    [1000, np.int32(1000), np.int64(1000), np.float32(1000), np.array(1000), jnp.int32(1000), 1e3],
)
def test_the_total_of_a_linear_schedule_can_be_any_scalar(total):
    schedule = optimizers.linear_schedule(0.5, total)
    assert type(schedule(250)) is float and schedule(250) == 0.375
    assert type(schedule(np.float32(250))) is np.float32


def test_schedule_counts_environment_steps_and_without_them_updates():
    optimizer = optimizers.shared_rmsprop(optimizers.linear_schedule(1.0, 10), eps=1.0, decay=1.0)
    state, grad = optimizer.init(jnp.ones(1)), jnp.ones(1)
    by_steps, _ = optimizer.update(grad, state, env_steps=5.0)
    np.testing.assert_allclose(by_steps, [-0.5])
    _, state = optimizer.update(grad, state)
    by_updates, _ = optimizer.update(grad, state)
    np.testing.assert_allclose(by_updates, [-0.9], rtol=1e-6)


def test_scale_by_learning_rate_makes_adam():
    chain = optax.chain(optax.scale_by_adam(), optimizers.scale_by_learning_rate(0.1))
    adam, params = optax.adam(0.1), jnp.ones(4)
    grad = jnp.asarray(gradients(1, 4)[0])
    ours, _ = chain.update(grad, chain.init(params), params)
    theirs, _ = adam.update(grad, adam.init(params), params)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_learning_rate_can_be_vmapped():
    def first_change(rate):
        optimizer = optimizers.shared_rmsprop(rate, eps=1.0, decay=1.0)
        return optimizer.update(jnp.ones(()), optimizer.init(jnp.ones(())))[0]

    np.testing.assert_allclose(
        jax.vmap(first_change)(jnp.array([0.1, 0.2])), [-0.1, -0.2], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: optimizers.shared_rmsprop(-1.0),
            "learning_rate must be a number of at least 0, got -1.0",
        ),
        (lambda: optimizers.shared_rmsprop(0.1, eps=0.0), "eps must be a number above 0, got 0.0"),
        (
            lambda: optimizers.shared_rmsprop(0.1, decay=1.5),
            "decay must be a number between 0 and 1, got 1.5",
        ),
        (lambda: optimizers.rmsprop(0.1, eps=-1.0), "eps must be a number above 0, got -1.0"),
        (
            lambda: optimizers.momentum_sgd(0.1, momentum=1.5),
            "momentum must be a number between 0 and 1, got 1.5",
        ),
        (
            lambda: optimizers.momentum_sgd(-1.0),
            "learning_rate must be a number of at least 0, got -1.0",
        ),
        (
            lambda: optimizers.shared_rmsprop("fast"),
            "learning_rate must be a number of at least 0, got 'fast'",
        ),
        (lambda: optimizers.linear_schedule(float("nan"), 1), "initial_value must be a number"),
        (
            lambda: optimizers.linear_schedule(0.1, 0),
            "total_env_steps must be an integer of at least 1",
        ),
        (
            lambda: optimizers.linear_schedule(0.1, jnp.int32(0)),
            "total_env_steps must be an integer of at least 1, got 0",
        ),
        (
            lambda: optimizers.linear_schedule(0.1, jnp.array([1, 2])),
            r"total_env_steps must be a number above 0, got Array\(\[1, 2\]",
        ),
    ],
)
def test_bad_settings_are_refused_by_name(build, message):
    with pytest.raises(ValueError, match=message):
        build()
