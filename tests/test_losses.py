"""Losses against the specification, rlax, hand-computed numbers and signs of gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import rlax

from jax_a3c import losses

BATCHES = [(), (4,), (3, 2)]
PRECISIONS = [
    pytest.param(np.float32, 1e-5, id="float32"),
    pytest.param(np.float64, 1e-10, id="float64"),
]
NUM_ACTIONS = 3


def make_batch(shape, seed=0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    q_shape = (*shape, NUM_ACTIONS)
    return {
        "q_tm1": rng.normal(size=q_shape),
        "a_tm1": np.asarray(rng.integers(0, NUM_ACTIONS, shape), np.int32),
        "r_t": np.asarray(rng.normal(size=shape)),
        "discount_t": np.asarray(0.9 * rng.integers(0, 2, shape)),
        "q_t": rng.normal(size=q_shape),
        "a_t": np.asarray(rng.integers(0, NUM_ACTIONS, shape), np.int32),
        "q_t_selector": rng.normal(size=q_shape),
    }


def as_dtype(batch, dtype):
    """Convert the batch to JAX arrays; actions stay integers."""
    return {k: jnp.asarray(v, np.int32 if k.startswith("a_") else dtype) for k, v in batch.items()}


def q_learning(x, **options):
    return losses.q_learning_loss(
        x["q_tm1"], x["a_tm1"], x["r_t"], x["discount_t"], x["q_t"], **options
    )


def sarsa(x, **options):
    return losses.sarsa_loss(
        x["q_tm1"], x["a_tm1"], x["r_t"], x["discount_t"], x["q_t"], x["a_t"], **options
    )


def double_q(x, **options):
    return losses.double_q_learning_loss(
        x["q_tm1"], x["a_tm1"], x["r_t"], x["discount_t"], x["q_t"], x["q_t_selector"], **options
    )


def n_step_q(x, **options):
    return losses.n_step_q_loss(x["q_tm1"], x["a_tm1"], x["r_t"], **options)


def next_value(call, x, index):
    """Return v' of the specification for one batch element."""
    if call is q_learning:
        return max(x["q_t"][index])
    if call is sarsa:
        return x["q_t"][index][x["a_t"][index]]
    if call is double_q:
        return x["q_t"][index][np.argmax(x["q_t_selector"][index])]
    return 0.0


Q_LOSSES = [q_learning, sarsa, double_q, n_step_q]
EVERY_Q_LOSS = pytest.mark.parametrize("call", Q_LOSSES)


@EVERY_Q_LOSS
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("shape", BATCHES)
def test_q_losses_equal_the_specification(call, dtype, tolerance, shape):
    x = make_batch(shape)
    expected = reference.q_loss(
        *(x[k] for k in ("q_tm1", "a_tm1", "r_t", "discount_t")),
        lambda index: next_value(call, x, index),
    )
    with jax.enable_x64(dtype is np.float64):
        actual = jax.jit(call)(as_dtype(x, dtype))
        assert actual.dtype == dtype
        assert actual.shape == shape
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_actor_critic_losses_equal_the_specification(dtype, tolerance):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5, 3))
    with jax.enable_x64(dtype is np.float64):
        x, y = jnp.asarray(a, dtype), jnp.asarray(b, dtype)
        np.testing.assert_allclose(losses.policy_gradient_loss(x, y), -a * b, rtol=tolerance)
        np.testing.assert_allclose(
            losses.value_loss(x, y), 0.5 * (b - a) ** 2, rtol=tolerance, atol=tolerance
        )
        np.testing.assert_allclose(losses.entropy_loss(x), -a, rtol=tolerance)
        huber = [reference.huber(e, 0.7) for e in a.ravel()]
        np.testing.assert_allclose(
            losses.huber(x, 0.7).ravel(), huber, rtol=tolerance, atol=tolerance
        )
        assert losses.policy_gradient_loss(x, y).dtype == losses.huber(x).dtype == dtype


def test_q_losses_equal_rlax():
    x = as_dtype(make_batch((6,)), np.float32)
    terms = [x[k] for k in ("q_tm1", "a_tm1", "r_t", "discount_t", "q_t")]
    for errors, loss in (
        (jax.vmap(rlax.q_learning)(*terms), q_learning(x)),
        (jax.vmap(rlax.sarsa)(*terms, x["a_t"]), sarsa(x)),
        (jax.vmap(rlax.double_q_learning)(*terms, x["q_t_selector"]), double_q(x)),
    ):
        np.testing.assert_allclose(loss, rlax.l2_loss(errors), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        losses.huber(x["r_t"], 0.5), rlax.huber_loss(x["r_t"], 0.5), rtol=1e-5
    )


@EVERY_Q_LOSS
def test_q_losses_move_only_the_value_of_the_action_taken(call):
    """The gradient is Q(s, a) - y at a_tm1, and 0 for target values, rewards and discounts."""
    x = as_dtype(make_batch((4,)), np.float32)
    floats = {k: v for k, v in x.items() if not k.startswith("a_")}
    gradient = jax.grad(lambda floats: jnp.sum(call({**x, **floats})))(floats)
    # The loss is half the square, so the error has the size sqrt(2 loss).
    taken = jnp.take_along_axis(gradient["q_tm1"], x["a_tm1"][:, None], axis=1)[:, 0]
    np.testing.assert_allclose(jnp.abs(taken), jnp.sqrt(2 * call(x)), rtol=1e-5)
    assert np.count_nonzero(gradient.pop("q_tm1")) == 4
    for name, leaf in gradient.items():
        np.testing.assert_array_equal(leaf, 0, err_msg=name)


def test_no_gradient_flows_into_advantages_and_targets():
    policy = jax.grad(losses.policy_gradient_loss, argnums=(0, 1))(-0.5, 3.0)
    np.testing.assert_array_equal(
        policy, (-3.0, 0.0)
    )  # descent raises log pi where the advantage is positive
    value = jax.grad(losses.value_loss, argnums=(0, 1))(2.0, 5.0)
    np.testing.assert_array_equal(value, (-3.0, 0.0))  # v - G


def test_a_step_down_the_entropy_loss_raises_the_entropy():
    """Some public implementations have this sign wrong."""
    logits = jnp.array([2.0, 0.0, -1.0])

    def entropy(logits):
        log_probs = jax.nn.log_softmax(logits)
        return -jnp.sum(jnp.exp(log_probs) * log_probs)

    gradient = jax.grad(lambda logits: losses.entropy_loss(entropy(logits)))(logits)
    assert entropy(logits - 0.1 * gradient) > entropy(logits)


def test_a_step_down_the_policy_loss_raises_good_actions():
    logits = jnp.zeros(3)
    for advantage, sign in ((1.0, 1), (-1.0, -1)):
        gradient = jax.grad(
            lambda x, a=advantage: losses.policy_gradient_loss(jax.nn.log_softmax(x)[1], a)
        )(logits)
        assert np.sign(-gradient[1]) == sign


def test_a_terminated_step_ignores_what_follows():
    q = jnp.array([1.0, 2.0])
    for loss in (
        losses.q_learning_loss(q, 1, 5.0, 0.0, 100 * q),
        losses.sarsa_loss(q, 1, 5.0, 0.0, 100 * q, 0),
        losses.double_q_learning_loss(q, 1, 5.0, 0.0, 100 * q, q),
    ):
        assert loss == 0.5 * (5.0 - 2.0) ** 2


def test_sarsa_uses_the_action_taken_next_and_double_q_the_selected_one():
    q, q_t, selector = jnp.zeros(3), jnp.array([1.0, 2.0, 4.0]), jnp.array([0.0, 1.0, 1.0])
    assert losses.q_learning_loss(q, 0, 0.0, 1.0, q_t) == 8.0
    assert losses.sarsa_loss(q, 0, 0.0, 1.0, q_t, 0) == 0.5
    assert (
        losses.double_q_learning_loss(q, 0, 0.0, 1.0, q_t, selector) == 2.0
    )  # ties go to the first action


@EVERY_Q_LOSS
def test_transform_replaces_the_half_square(call):
    x = as_dtype(make_batch((4,)), np.float32)
    error = call(x, transform=lambda td_error: td_error)
    np.testing.assert_allclose(call(x), 0.5 * error**2, rtol=1e-6)
    clipped = call(x, transform=functools.partial(losses.huber, delta=0.5))
    np.testing.assert_allclose(clipped, losses.huber(error, 0.5), rtol=1e-6)


def test_the_gradient_of_huber_is_the_clipped_error():
    errors = jnp.array([-5.0, -2.0, -1.0, 0.0, 1.5, 2.0, 1e30])
    np.testing.assert_allclose(
        jax.vmap(jax.grad(lambda e: losses.huber(e, 2.0)))(errors), np.clip(errors, -2.0, 2.0)
    )
    np.testing.assert_array_equal(losses.huber(jnp.array([-3.0, 1.0]), 2.0), [4.0, 0.5])


@EVERY_Q_LOSS
def test_vmap_equals_the_batch(call):
    x = as_dtype(make_batch((4,)), np.float32)
    np.testing.assert_allclose(jax.vmap(call)(x), call(x), rtol=1e-6)


V, Q = jnp.zeros(4), jnp.zeros((4, 2))
I = jnp.zeros(4, jnp.int32)  # noqa: E741


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: losses.policy_gradient_loss(V, V[:, None]),
            r"log_probs \(4,\), advantages \(4, 1\).*broadcast",
        ),
        (lambda: losses.value_loss(V[:, None], V), r"values \(4, 1\), targets \(4,\)"),
        (lambda: losses.value_loss(V, 0.0), r"targets \(\)"),
        (lambda: losses.q_learning_loss(Q, I, V, V, Q[:, :1]), r"q_tm1 \(4, 2\), q_t \(4, 1\)"),
        (
            lambda: losses.q_learning_loss(Q, I, V[:, None], V, Q),
            r"r_t has shape \(4, 1\).*q_tm1 \(4, 2\)",
        ),
        (
            lambda: losses.q_learning_loss(Q, I, V, 0.9, Q),
            r"discount_t has shape \(\).*of shape \(4,\)",
        ),
        (lambda: losses.q_learning_loss(Q, I[:, None], V, V, Q), r"a_tm1 has shape \(4, 1\)"),
        (
            lambda: losses.q_learning_loss(Q, V, V, V, Q),
            r"a_tm1 has dtype float32; expected integers",
        ),
        (lambda: losses.q_learning_loss(0.0, 0, 0.0, 0.0, 0.0), r"q_tm1 is a scalar.*\[\*B, A\]"),
        (lambda: losses.sarsa_loss(Q, I, V, V, Q, I[:1]), r"a_t has shape \(1,\) and q_t \(4, 2\)"),
        (lambda: losses.double_q_learning_loss(Q, I, V, V, Q, Q[0]), r"q_t_selector \(2,\)"),
        (lambda: losses.n_step_q_loss(Q, I, V[:, None]), r"targets has shape \(4, 1\)"),
        (lambda: losses.huber(V, 0.0), "delta is 0.0.*above 0"),
        (lambda: losses.huber(V, V), r"delta has shape \(4,\).*scalar"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
    with pytest.raises(ValueError, match=message):
        jax.jit(call)()  # at trace time too


@pytest.mark.parametrize("action", [-1, -NUM_ACTIONS, -NUM_ACTIONS - 1, NUM_ACTIONS, 100])
@EVERY_Q_LOSS
def test_an_action_that_does_not_exist_makes_its_row_nan_without_a_gradient(call, action):
    """Other rows and their gradients do not change."""
    x = as_dtype(make_batch((4,)), np.float32)
    wrong = {**x, "a_tm1": x["a_tm1"].at[1].set(action)}

    loss, gradient = jax.jit(jax.vmap(jax.value_and_grad(lambda q, x: call({**x, "q_tm1": q}))))(
        wrong["q_tm1"], wrong
    )
    expected = jax.vmap(jax.grad(lambda q, x: call({**x, "q_tm1": q})))(x["q_tm1"], x)

    np.testing.assert_array_equal(np.isnan(loss), [False, True, False, False])
    np.testing.assert_allclose(np.delete(loss, 1), np.delete(call(x), 1), rtol=1e-6)
    np.testing.assert_array_equal(gradient[1], 0.0)
    np.testing.assert_allclose(np.delete(gradient, 1, 0), np.delete(expected, 1, 0), rtol=1e-6)


@pytest.mark.parametrize("action", [-1, NUM_ACTIONS])
def test_a_next_action_that_does_not_exist_makes_the_loss_and_its_gradient_nan(action):
    q = jnp.array([1.0, 2.0, 4.0])
    loss, gradient = jax.value_and_grad(losses.sarsa_loss)(q, 1, 1.0, 0.9, q, action)
    np.testing.assert_array_equal(loss, np.nan)
    np.testing.assert_array_equal(gradient, [0.0, np.nan, 0.0])


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.int16, jnp.uint32])
def test_integers_of_any_type_choose_among_more_actions_than_they_can_count(dtype):
    q = jnp.arange(300.0)
    assert losses.n_step_q_loss(q, dtype(100), 0.0, transform=lambda error: error) == -100.0
