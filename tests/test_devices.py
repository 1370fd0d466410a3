"""Devices: A2C on a device that is not the first, no transfers in its loop, A3C on the CPU."""

from tests.reliability.runs import finish, start

PROGRAM = """
import jax
import numpy as np
from jax_a3c import A2CConfig, A3CConfig, a2c, a3c, envs, networks, optimizers
from jax_a3c.runners.loop import SynchronousRunner

first, second = jax.devices()
env = envs.make("gymnax:CartPole-v1")
network = networks.actor_critic(env, hidden=(8,))
config = A2CConfig(num_envs=4, num_steps=3)
algorithm = a2c(env, network, optimizers.shared_rmsprop(1e-3), config)


def devices(tree):
    return {device for leaf in jax.tree.leaves(tree) for device in leaf.devices()}


# The same run on both devices, without a transfer inside the loop.
finals = []
for device in (first, second):
    with jax.default_device(device):
        state = jax.jit(algorithm.init)(jax.random.key(0))
        loop = jax.jit(
            lambda state: jax.lax.fori_loop(0, 50, lambda _, s: algorithm.step(s)[0], state),
            donate_argnums=0,
        ).lower(state).compile()
        with jax.transfer_guard("disallow"):
            state = loop(state)
        assert devices(state) == {device}, devices(state)
        finals.append(jax.device_get(state.params))
        result = SynchronousRunner(algorithm, config).run(0, until=600)
        assert devices(result.state) == {device}, devices(result.state)
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(result.params), finals[0])
jax.tree.map(np.testing.assert_array_equal, *finals)

# A3C computes on the CPU whatever the default device is.
with jax.default_device(second):
    runner = a3c(lambda: env, network, optimizers.shared_rmsprop(1e-3), A3CConfig(num_workers=2))
    result = runner.run(0, until=500)
assert devices(result.state.actors) == {first}, devices(result.state.actors)
print("done")
"""


def test_methods_run_on_the_devices_they_are_given(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    env = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    code, output = finish(start(script=script, env=env))
    assert code == 0 and output.strip().endswith("done"), output
