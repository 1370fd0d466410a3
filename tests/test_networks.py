"""Networks: shapes and parameter counts of the paper, signature, exact resets, convolution."""

import types
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_a3c import networks
from jax_a3c.distributions import Categorical, DiagonalGaussian
from jax_a3c.envs.base import Box, Discrete, EnvSpec
from jax_a3c.networks import (
    LSTM,
    MLP,
    Conv,
    GaussianHead,
    MinAtarConv,
    Mnih2013,
    Nature,
    convolutions,
)
from jax_a3c.networks.products import product
from jax_a3c.networks.torsos import as_real

DISCRETE = Discrete(num_actions=3)
BOX = Box(low=(-1.0, -1.0), high=(1.0, 1.0))
KEY = jax.random.key(0, impl="rbg")  # compiles faster than threefry
# A QR decomposition compiles slowly, so most tests initialise without one.
actor_critic = partial(networks.actor_critic, init="torch")
q_network = partial(networks.q_network, init="torch")


def make_spec(
    shape=(4,), dtype=np.float32, action_space=DISCRETE, num_categories=None, observation_high=None
):
    return EnvSpec(
        id="test:v0",
        observation_shape=shape,
        observation_dtype=dtype,
        action_space=action_space,
        num_categories=num_categories,
        observation_high=observation_high,
    )


def start(network, batch_shape=(5,), length=6, shape=(4,)):
    """Return carry, observations, resets and parameters."""
    carry = network.initial_carry(batch_shape)
    obs = normal(length, *batch_shape, *shape)
    reset = jnp.zeros((length, *batch_shape), bool)
    return carry, obs, reset, jax.jit(network.init)(KEY, carry, obs, reset)


def normal(*shape):
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)


def run(network, *args):
    return jax.jit(network.apply)(*args)


def count(params):
    return sum(x.size for x in jax.tree.leaves(params))


def all_equal(a, b):
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def all_close(a, b, **tolerance):
    jax.tree.map(partial(np.testing.assert_allclose, **tolerance), a, b)


# Torsos.


@pytest.mark.parametrize(
    ("torso", "shape", "flat", "features", "params"),
    [
        (Mnih2013(), (84, 84, 4), 2592, 256, 16 * 257 + 32 * 257 + 2593 * 256),
        (Nature(), (84, 84, 4), 3136, 512, 32 * 257 + 64 * 513 + 64 * 577 + 3137 * 512),
        (MinAtarConv(), (10, 10, 4), 1024, 128, 16 * 37 + 1025 * 128),
        (MLP(), (2, 3), 6, 64, 7 * 64 + 65 * 64),
    ],
)
def test_torso_sizes(torso, shape, flat, features, params):
    out, variables = jax.eval_shape(torso.init_with_output, KEY, jnp.zeros((2, *shape)))
    assert out.shape == (2, features)
    assert variables["params"]["Dense_0"]["kernel"].shape[0] == flat
    assert count(variables) == params


def test_parameter_count_of_the_paper_networks():
    spec = make_spec((84, 84, 4), np.uint8, Discrete(num_actions=6))
    inputs = jnp.zeros((1, 2, 84, 84, 4), jnp.uint8), jnp.zeros((1, 2), bool)
    network = actor_critic(spec, torso="mnih2013")
    params = jax.eval_shape(network.init, KEY, (), *inputs)
    assert count(params) == 16 * 257 + 32 * 257 + 2593 * 256 + 257 * 6 + 257
    network = actor_critic(spec, torso="nature", lstm=256)
    params = jax.eval_shape(network.init, KEY, network.initial_carry((2,)), *inputs)
    torso = 32 * 257 + 64 * 513 + 64 * 577 + 3137 * 512
    assert count(params) == torso + (512 + 1 + 256) * 4 * 256 + 257 * 6 + 257


@pytest.mark.parametrize(
    ("torso", "shape", "message"),
    [
        ("nature", (4,), r"shape \(4,\).*mlp"),
        ("mnih2013", (4, 84, 84), r"20x20.*\(4, 84, 84\).*channels last"),
        ("nature", (35, 84, 4), r"36x36.*\(35, 84, 4\)"),
        ("minatar", (2, 10, 4), r"3x3"),
    ],
)
def test_image_torsos_refuse_other_observations(torso, shape, message):
    network = actor_critic(make_spec(shape), torso=torso)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(network.init, KEY, (), jnp.zeros((1, 2, *shape)), jnp.zeros((1, 2), bool))


def test_smallest_image_passes():
    for torso, side in ((Nature(), 36), (Mnih2013(), 20), (MinAtarConv(), 3)):
        jax.eval_shape(torso.init, KEY, jnp.zeros((1, side, side, 1)))


@pytest.mark.parametrize(
    ("dtype", "scale"), [(np.uint8, 1 / 255), (np.bool_, 1.0), (np.int32, 1.0), (np.float32, 1.0)]
)
def test_observations_become_real_numbers(dtype, scale):
    obs = jnp.asarray(np.arange(24).reshape(1, 2, 3, 4) % 2, dtype)
    real = as_real(obs)
    assert real.dtype == jnp.float32
    np.testing.assert_allclose(real, np.asarray(obs, np.float64) * scale, rtol=1e-6)


@pytest.mark.parametrize("build", [actor_critic, q_network])
def test_uint8_is_divided_by_its_declared_bound(build):
    boards = np.random.default_rng(0).integers(0, 3, (2, 3, 9))
    reset = jnp.zeros((2, 3), bool)
    network = build(make_spec((9,), np.uint8, observation_high=2.0), hidden=(8,))
    params = jax.jit(network.init)(KEY, (), jnp.asarray(boards, np.uint8), reset)
    plain = build(make_spec((9,)), hidden=(8,))
    expected = run(plain, params, (), jnp.asarray(boards / 2.0, np.float32), reset)
    assert all_equal(run(network, params, (), jnp.asarray(boards, np.uint8), reset), expected)

    bytes_ = build(make_spec((9,), np.uint8), hidden=(8,))  # without a declared bound: 255
    expected = run(plain, params, (), jnp.asarray(boards, np.float32) / 255.0, reset)
    assert all_equal(run(bytes_, params, (), jnp.asarray(boards, np.uint8), reset), expected)


@pytest.mark.parametrize("shape", [(), (2,)])
def test_categories_are_one_hot(shape):
    spec = make_spec(shape, np.int32, num_categories=7)
    network = actor_critic(spec, hidden=(8,))
    obs = jnp.asarray(np.random.default_rng(1).integers(0, 7, (2, 3, *shape)))
    reset = jnp.zeros((2, 3), bool)
    params = jax.jit(network.init)(KEY, (), obs, reset)
    plain = actor_critic(make_spec((*shape, 7)), hidden=(8,))
    expected = run(plain, params, (), jnp.eye(7)[obs], reset)
    assert all_equal(run(network, params, (), obs, reset), expected)


# Signature.


@pytest.mark.parametrize("batch_shape", [(), (5,), (2, 3)])
@pytest.mark.parametrize("lstm", [0, 8])
@pytest.mark.parametrize("build", ["shared", "separate", "gaussian", "q"])
def test_signature(batch_shape, lstm, build):
    if build == "q":
        network = q_network(make_spec(), hidden=(8,), lstm=lstm)
    else:
        space = BOX if build == "gaussian" else DISCRETE
        spec = types.SimpleNamespace(spec=make_spec(action_space=space))
        network = actor_critic(spec, hidden=(8,), lstm=lstm, shared=build == "shared")
    carry = network.initial_carry(batch_shape)
    for length in (1, 4):
        obs, reset = jnp.zeros((length, *batch_shape, 4)), jnp.zeros((length, *batch_shape), bool)
        params = jax.eval_shape(network.init, KEY, carry, obs, reset)
        new_carry, distribution, values = jax.eval_shape(network.apply, params, carry, obs, reset)
        assert jax.tree.structure(new_carry) == jax.tree.structure(carry)
        assert [x.shape for x in jax.tree.leaves(new_carry)] == [
            x.shape for x in jax.tree.leaves(carry)
        ]
        assert (carry == ()) == (lstm == 0)
        batch = (length, *batch_shape)
        assert values.shape == ((*batch, 3) if build == "q" else batch)
        if build == "gaussian":
            assert isinstance(distribution, DiagonalGaussian)
            assert distribution.mean.shape == distribution.stddev.shape == (*batch, 2)
        else:
            assert isinstance(distribution, Categorical)
            assert distribution.logits.shape == (*batch, 3)
        assert all(
            x.dtype == jnp.float32 for x in jax.tree.leaves((new_carry, distribution, values))
        )


def test_batch_shape_does_not_matter():
    network = actor_critic(make_spec(), hidden=(8,), lstm=8)
    carry, obs, reset, params = start(network, (2, 3))
    reset = reset.at[2, 1].set(True)
    outputs = run(network, params, carry, obs, reset)
    for s in range(2):
        rows = jax.tree.map(lambda x, s=s: x[s], carry)
        row = run(network, params, rows, obs[:, s], reset[:, s])
        all_close(row[0], jax.tree.map(lambda x, s=s: x[s], outputs[0]), atol=1e-6)
        all_close(row[1:], jax.tree.map(lambda x, s=s: x[:, s], outputs[1:]), atol=1e-6)


def test_q_network_gives_its_values_as_logits():
    network = q_network(make_spec(), hidden=(8,))
    carry, obs, reset, params = start(network)
    _, distribution, q_values = run(network, params, carry, obs, reset)
    assert np.array_equal(distribution.logits, q_values)
    assert np.array_equal(distribution.mode(), q_values.argmax(-1))


def test_dueling_advantages_have_mean_zero():
    network = q_network(make_spec(), hidden=(8,), dueling=True)
    carry, obs, reset, params = start(network)
    _, _, q_values = run(network, params, carry, obs, reset)
    layer = params["params"]["trunk"]["torso"]["Dense_0"]
    features = np.tanh(obs @ layer["kernel"] + layer["bias"])
    head = params["params"]["value"]
    values = features @ head["kernel"][:, 0] + head["bias"]
    np.testing.assert_allclose(q_values.mean(-1), values, atol=1e-5)


# Recurrence.


@pytest.mark.parametrize("shared", [True, False])
def test_sequence_equals_single_steps(shared):
    network = actor_critic(make_spec(), hidden=(8,), lstm=8, shared=shared)
    carry, obs, reset, params = start(network)
    reset = reset.at[3, 2].set(True).at[0, 1].set(True)
    carry = jax.tree.map(lambda x: x + 0.3, carry)
    apply = jax.jit(network.apply)
    whole = apply(params, carry, obs, reset)
    outputs = []
    for t in range(obs.shape[0]):
        carry, *output = apply(params, carry, obs[t : t + 1], reset[t : t + 1])
        outputs.append(output)
    steps = jax.tree.map(lambda *x: jnp.concatenate(x), *outputs)
    all_close(list(whole[1:]), steps, atol=1e-6)
    all_close(whole[0], carry, atol=1e-6)


@pytest.mark.optimized
@pytest.mark.parametrize("length", [1, 4])
def test_reset_row_equals_fresh_carry_exactly(length):
    network = actor_critic(make_spec(), hidden=(8,), lstm=8)
    carry, obs, reset, params = start(network, length=length)
    stale = jax.tree.map(lambda x: x.at[2].set(jnp.nan).at[:2].set(7.0), carry)
    apply = jax.jit(network.apply)
    fresh = apply(params, carry, obs, reset)
    again = apply(params, stale, obs, reset.at[0].set(True))
    assert all_equal(fresh, again)
    other = apply(params, stale, obs, reset.at[0, 2].set(True))
    assert all_equal(other[2][:, 2:], fresh[2][:, 2:])
    assert not np.allclose(other[2][:, :2], fresh[2][:, :2])


def test_reset_cuts_the_gradient():
    network = actor_critic(make_spec(), hidden=(8,), lstm=8)
    carry, obs, reset, params = start(network, (2,))

    def last_value(obs):
        return run(network, params, carry, obs, reset.at[3, 0].set(True))[2][-1].sum()

    grads = jax.jit(jax.grad(last_value))(obs)
    assert not np.any(grads[:3, 0]) and np.all(np.any(grads[3:, 0], -1))
    assert np.all(np.any(grads[:, 1], -1))


def test_lstm_equals_the_cell_of_flax():
    core, cell = LSTM(units=8, initialization="torch"), nn.OptimizedLSTMCell(8)
    inputs = normal(5, 3, 4)
    carry = jax.tree.map(lambda x: x + 0.5, core.initial_carry((3,)))
    params = jax.jit(core.init)(KEY, carry, inputs, jnp.zeros((5, 3), bool))
    last, outputs = run(core, params, carry, inputs, jnp.zeros((5, 3), bool))
    kernels = np.split(params["params"]["input"]["kernel"], 4, -1)
    biases = np.split(params["params"]["input"]["bias"], 4)
    recurrents = np.split(params["params"]["recurrent_kernel"], 4, -1)
    theirs = {}
    for k, gate in enumerate("ifgo"):
        theirs["i" + gate] = {"kernel": kernels[k]}
        theirs["h" + gate] = {"kernel": recurrents[k], "bias": biases[k]}
    for t in range(5):
        carry, output = run(cell, {"params": theirs}, carry, inputs[t])
        np.testing.assert_allclose(output, outputs[t], atol=1e-6)
    all_close(last, carry, atol=1e-6)


def test_acting_has_no_loop():
    network = actor_critic(make_spec(), hidden=(8,), lstm=8)
    carry, obs, reset, params = start(network, length=2)
    assert "scan" in str(jax.make_jaxpr(network.apply)(params, carry, obs, reset))
    assert "scan" not in str(jax.make_jaxpr(network.apply)(params, carry, obs[:1], reset[:1]))


# Heads and sharing.


@pytest.mark.parametrize(
    ("variance", "entries"), [("scalar", 1), ("per_dimension", 2), ("parameter", 2)]
)
def test_variance_heads(variance, entries):
    network = actor_critic(make_spec(action_space=BOX), hidden=(8,), variance=variance)
    carry, obs, reset, params = start(network)
    _, policy, _ = run(network, params, carry, obs, reset)
    assert policy.stddev.shape == (6, 5, entries)
    assert np.all(policy.stddev > 0)
    # The variance depends on the state unless it is a parameter.
    assert (np.ptp(policy.stddev) == 0) == (variance == "parameter")
    assert policy.log_prob(policy.mean).shape == (6, 5)


def test_scalar_variance_is_the_softplus_of_a_linear_layer():
    head = GaussianHead(2, "scalar", min_variance=0.0)
    features = normal(3, 4)
    policy, params = head.init_with_output(KEY, features)
    layer = params["params"]["variance"]
    expected = jnp.log1p(jnp.exp(features @ layer["kernel"] + layer["bias"]))
    np.testing.assert_allclose(policy.stddev**2, expected, rtol=1e-5)


@pytest.mark.parametrize("variance", ["scalar", "per_dimension", "parameter"])
def test_log_prob_and_gradient_stay_finite_as_the_variance_vanishes(variance):
    head = GaussianHead(2, variance)
    features = jnp.ones((1, 4))
    params = jax.tree.map(lambda x: jnp.full_like(x, -1e3), head.init(KEY, features))

    def log_prob(params):
        policy = head.apply(params, features)
        return policy.log_prob(policy.mean + 0.1).sum()

    value, grads = jax.jit(jax.value_and_grad(log_prob))(params)
    assert np.isfinite(value) and all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("lstm", [0, 8])
def test_separate_trunks_share_nothing(lstm):
    network = actor_critic(make_spec(), hidden=(8,), lstm=lstm, shared=False)
    carry, obs, reset, params = start(network)

    def policy_loss(params):
        return run(network, params, carry, obs, reset)[1].entropy().sum()

    def value_loss(params):
        return run(network, params, carry, obs, reset)[2].sum()

    moved = {}
    for name, loss in (("policy", policy_loss), ("value", value_loss)):
        grads = jax.jit(jax.grad(loss))(params)["params"]
        moved[name] = {k for k, g in grads.items() if any(np.any(x) for x in jax.tree.leaves(g))}
    assert moved == {"policy": {"policy_trunk", "policy"}, "value": {"value_trunk", "value"}}
    trunks = params["params"]["policy_trunk"], params["params"]["value_trunk"]
    assert not np.array_equal(*[t["torso"]["Dense_0"]["kernel"] for t in trunks])


def test_shared_trunk_learns_from_both():
    network = actor_critic(make_spec(), hidden=(8,))
    carry, obs, reset, params = start(network)
    assert set(params["params"]) == {"trunk", "policy", "value"}
    for output in (lambda o: o[1].entropy().sum(), lambda o: o[2].sum()):
        grads = jax.jit(jax.grad(lambda p, f=output: f(run(network, p, carry, obs, reset))))(params)
        assert np.any(grads["params"]["trunk"]["torso"]["Dense_0"]["kernel"])


# Initialisation and dtype.


def test_orthogonal_start():
    network = networks.actor_critic(make_spec((64,)), hidden=(64,), lstm=8)
    _, _, _, params = start(network, shape=(64,))
    layers = params["params"]
    kernel = layers["trunk"]["torso"]["Dense_0"]["kernel"]
    np.testing.assert_allclose(kernel.T @ kernel, 2.0 * np.eye(64), atol=1e-5)
    np.testing.assert_allclose(
        np.linalg.norm(layers["policy"]["logits"]["kernel"], axis=0), 0.01, rtol=1e-5
    )
    np.testing.assert_allclose(np.linalg.norm(layers["value"]["kernel"]), 1.0, rtol=1e-5)
    bias = layers["trunk"]["core"]["input"]["bias"]
    assert np.array_equal(bias, np.repeat([0.0, 1.0, 0.0, 0.0], 8))


def test_torch_start():
    network = actor_critic(make_spec((10, 10, 4)), torso="minatar", lstm=16)
    _, _, _, params = start(network, shape=(10, 10, 4))
    trunk, heads = params["params"]["trunk"], params["params"]
    layers = [
        (trunk["torso"]["Conv_0"], 36),
        (trunk["torso"]["Dense_0"], 1024),
        (trunk["core"]["input"], 128),
        ({"kernel": trunk["core"]["recurrent_kernel"]}, 16),
        (heads["policy"]["logits"], 16),
        (heads["value"], 16),
    ]
    for layer, fan_in in layers:
        for x in layer.values():
            assert np.any(x) and np.max(np.abs(x)) <= fan_in**-0.5
        assert np.max(np.abs(layer["kernel"])) > 0.8 * fan_in**-0.5


def test_bfloat16_computes_close_with_float32_parameters_and_outputs():
    spec = make_spec((10, 10, 4))
    both = [
        actor_critic(spec, torso="minatar", lstm=8, dtype=d) for d in (jnp.float32, jnp.bfloat16)
    ]
    carry, obs, reset, params = start(both[0], shape=(10, 10, 4))
    params16 = jax.eval_shape(both[1].init, KEY, carry, obs, reset)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(params16))
    expected, got = (run(network, params, carry, obs, reset) for network in both)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(got))
    all_close(got, expected, atol=0.05)
    assert not all_equal(got, expected)


# Convolution.


def conv_cost(module, params, images):
    return jnp.sum(jnp.sin(module.apply(params, images)))


@pytest.mark.optimized
@pytest.mark.parametrize(
    ("shape", "size", "stride", "features"),
    [
        ((3, 10, 10, 4), (3, 3), (1, 1), 16),  # small: patches
        ((2, 11, 9, 3), (3, 2), (2, 3), 5),  # small, rows left over
        ((2, 84, 84, 4), (8, 8), (4, 4), 8),
        ((2, 20, 20, 16), (4, 4), (2, 2), 8),
        ((2, 9, 9, 64), (3, 3), (1, 1), 8),
        ((2, 23, 22, 16), (4, 3), (3, 2), 5),  # rows and columns left over
        ((convolutions.CHUNK, 8, 8, 4), (3, 3), (1, 1), 5),
        ((2 * convolutions.CHUNK, 8, 8, 4), (3, 3), (1, 1), 5),
        ((2 * convolutions.CHUNK + 3, 9, 8, 16), (4, 3), (2, 2), 5),  # images left over too
    ],
)
def test_conv_equals_flax(shape, size, stride, features):
    images = normal(*shape)
    params = {
        "params": {"kernel": 0.1 * normal(*size, shape[-1], features), "bias": normal(features)}
    }
    results = []
    for module in (Conv(features, size, stride), nn.Conv(features, size, stride, padding="VALID")):

        def cost(params, images, module=module):
            outputs = module.apply(params, images)
            return jnp.sum(jnp.sin(outputs)), outputs

        results.append(jax.jit(jax.grad(cost, argnums=(0, 1), has_aux=True))(params, images))
    all_close(*results, atol=2e-4, rtol=1e-4)


@pytest.mark.optimized
def test_conv_has_the_parameters_of_flax():
    ours, theirs = Conv(5, (3, 3), (2, 2)), nn.Conv(5, (3, 3), (2, 2), padding="VALID")
    images = jnp.zeros((1, 8, 8, 4))
    assert all_equal(ours.init(KEY, images), theirs.init(KEY, images))


@pytest.mark.optimized
@pytest.mark.parametrize("channels", [4, 16])  # forward: patches, direct
def test_conv_equals_flax_under_jit_vmap_and_scan(channels):
    ours, theirs = Conv(5, (3, 3), (2, 2)), nn.Conv(5, (3, 3), (2, 2), padding="VALID")
    images = normal(3, 2, 8, 8, channels)
    params = {"params": {"kernel": 0.1 * normal(3, 3, 3, channels, 5), "bias": normal(3, 5)}}
    gradients = [jax.grad(partial(conv_cost, m), argnums=(0, 1)) for m in (ours, theirs)]
    all_close(*[jax.jit(jax.vmap(g))(params, images) for g in gradients], atol=1e-4, rtol=1e-4)

    def descend(gradient, params, batch):
        params_grad, images_grad = gradient(params, batch)
        return jax.tree.map(lambda p, g: p - 0.01 * g, params, params_grad), images_grad

    first = jax.tree.map(lambda x: x[0], params)
    scans = [jax.jit(partial(jax.lax.scan, partial(descend, g)))(first, images) for g in gradients]
    all_close(*scans, atol=1e-4, rtol=1e-4)


@pytest.mark.optimized
@pytest.mark.parametrize("channels", [4, 16])
def test_conv_compiles_to_the_form_of_the_device(channels):
    images, kernel = jnp.zeros((2, 8, 8, channels)), jnp.zeros((3, 3, channels, 5))
    forward = jax.jit(lambda k: convolutions.convolve(images, k, (1, 1)))
    on_cpu, on_gpu = (
        forward.trace(kernel).lower(lowering_platforms=(p,)).as_text() for p in ("cpu", "cuda")
    )
    assert ("stablehlo.convolution" in on_cpu) == (channels == 16)
    assert "stablehlo.convolution" in on_gpu
    many = jnp.zeros((2 * convolutions.CHUNK, 8, 8, channels))
    gradient = jax.jit(jax.grad(lambda k: convolutions.convolve(many, k, (1, 1)).sum()))
    on_cpu, on_gpu = (
        gradient.trace(kernel).lower(lowering_platforms=(p,)).as_text() for p in ("cpu", "cuda")
    )
    assert ("stablehlo.while" in on_cpu, "stablehlo.while" in on_gpu) == (True, False)


# Stored activations.


@pytest.mark.optimized
@pytest.mark.parametrize("torso", ["minatar", "mnih2013", "nature"])
def test_replay_equals_apply(torso):
    shape = (10, 10, 4) if torso == "minatar" else (84, 84, 4)
    network = networks.actor_critic(make_spec(shape=shape, dtype=jnp.float32), torso=torso)
    images, reset = jnp.abs(normal(2, 3, *shape)), jnp.zeros((2, 3), bool)
    params = network.init(KEY, (), images, reset)

    def cost(apply, params):
        _, policy, values = apply(params, (), images, reset)
        return jnp.sum(jnp.sin(policy.logits)) + jnp.sum(jnp.cos(values))

    steps = [
        network.apply_and_store(params, (), images[t : t + 1], reset[t : t + 1])[1]
        for t in range(2)
    ]
    layers = jax.tree.map(lambda *column: jnp.stack(column), *steps)
    again = jax.jit(
        jax.value_and_grad(partial(cost, lambda p, *args: network.apply_stored(p, layers, *args)))
    )
    all_close(
        again(params), jax.jit(jax.value_and_grad(partial(cost, network.apply)))(params), atol=1e-4
    )
    doubled = jax.tree.map(lambda x: 2.0 * x, layers)
    assert not np.allclose(
        cost(lambda p, *args: network.apply_stored(p, doubled, *args), params), again(params)[0]
    )


def test_only_known_convolutions_are_recorded():
    spec = make_spec(shape=(10, 10, 4), dtype=jnp.float32)
    recorded = [
        networks.actor_critic(spec, torso=t).stores_activations
        for t in ("minatar", "mlp", MLP((8,)))
    ]
    assert recorded == [True, False, False]
    assert not networks.actor_critic(spec, torso="minatar", lstm=4).stores_activations


# Matrix products.


@pytest.mark.optimized
@pytest.mark.parametrize(("width", "features"), [(64, 3), (7, 1), (5, 5), (4, 64)])
@pytest.mark.parametrize("batch", [(6,), (2, 3), ()])
def test_product_equals_the_operator(width, features, batch):
    inputs, kernel, weights = (
        normal(*batch, width),
        normal(width, features),
        normal(*batch, features),
    )
    results = [
        jax.jit(jax.value_and_grad(lambda x, k, f=f: jnp.sum(weights * f(x, k)), argnums=(0, 1)))(
            inputs, kernel
        )
        for f in (product, jnp.matmul)
    ]
    all_close(*results, atol=1e-5, rtol=1e-5)


@pytest.mark.optimized
def test_product_under_vmap_and_in_half_precision():
    inputs, kernel = normal(3, 6, 64).astype(jnp.bfloat16), normal(3, 64, 2).astype(jnp.bfloat16)
    ours, theirs = (
        jax.jit(jax.vmap(jax.grad(lambda x, k, f=f: f(x, k).sum(), argnums=(0, 1))))(inputs, kernel)
        for f in (product, jnp.matmul)
    )
    assert jax.tree.map(lambda x: x.dtype, ours) == (jnp.bfloat16, jnp.bfloat16)
    all_close(ours, theirs, atol=0.1, rtol=0.02)


def test_a_narrow_product_moves_the_narrow_side_on_the_cpu_only():
    gradient = jax.jit(jax.grad(lambda k, x: product(x, k).sum()))
    arguments = jnp.zeros((64, 2)), jnp.zeros((6, 64))
    texts = [
        gradient.trace(*arguments).lower(lowering_platforms=(p,)).as_text() for p in ("cpu", "cuda")
    ]
    assert ["optimization_barrier" in text for text in texts] == [True, False]


# User errors.


@pytest.mark.parametrize("build", [networks.actor_critic, networks.q_network])
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"torso": "resnet"}, "mlp, mnih2013, nature, minatar, got 'resnet'"),
        ({"init": "zeros"}, "orthogonal, torch, got 'zeros'"),
        ({"lstm": -1}, "lstm.*-1"),
    ],
)
def test_unknown_names(build, setting, message):
    with pytest.raises(ValueError, match=message):
        build(make_spec(), **setting)


def test_unknown_variance():
    with pytest.raises(ValueError, match="parameter, scalar, per_dimension, got 'full'"):
        actor_critic(make_spec(action_space=BOX), variance="full")


def test_q_network_refuses_continuous_actions():
    with pytest.raises(ValueError, match=r"discrete actions.*Box of size 2.*actor_critic"):
        q_network(make_spec(action_space=BOX))


def test_own_torso():
    class Own(nn.Module):
        @nn.compact
        def __call__(self, observations):
            return nn.Dense(8)(observations)

    for network in (
        actor_critic(make_spec(), torso=Own(), shared=False),
        q_network(make_spec(), torso=Own()),
    ):
        carry, obs, reset, params = start(network)
        assert run(network, params, carry, obs, reset)[2].shape[:2] == (6, 5)
