"""Cases of `test_mesh.py`, which need a process with several devices: `mesh_cases.py CASE [WORDS]`.

The reference of most cases is one device. It steps the environments of each shard in turn, with the
keys of that shard, joins the rollouts and learns from them as without a mesh.
"""

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scripted import ScriptedFactory

from jax_a3c import A2CConfig, QConfig, SynchronousConfig, envs, networks, normalization, objectives
from jax_a3c.acting.actor import init_actor
from jax_a3c.acting.unroll import EpisodeSums, UnrollConfig, unroll
from jax_a3c.optimizers import shared_rmsprop
from jax_a3c.rollouts import Rollout
from jax_a3c.runners import synchronous as runner
from jax_a3c.runners.loop import SynchronousRunner
from jax_a3c.runners.mesh import mesh_of

NUM_ENVS = 16
SETTINGS = {
    "actor_critic": A2CConfig(),
    "sum": A2CConfig(loss_reduction="sum", max_grad_norm=40.0),
    "normalized": A2CConfig(normalize_advantages=True),
    "one_step_q": QConfig(target_update_interval=200, epsilon_anneal_steps=1000),
    "one_step_sarsa": QConfig(target_update_interval=200, epsilon_anneal_steps=1000),
    "n_step_q": QConfig(target_update_interval=200, epsilon_anneal_steps=1000, double_q=True),
}


def parts(name, *, lstm=False, statistics=False):
    """Return environment, network, optimizer, objective and settings of a case."""
    env = envs.make("gymnax:CartPole-v1")
    settings = SETTINGS[name]
    size = 8 if lstm else 0
    if isinstance(settings, QConfig):
        network = networks.q_network(env, hidden=(16,), lstm=size)
    else:
        network = networks.actor_critic(env, hidden=(16,), lstm=size)
    if statistics:
        network = normalization.normalized_network(network, env, observations=True, rewards=True)

    make = getattr(objectives, name, objectives.actor_critic)
    objective = make(network, settings)
    if statistics:
        objective = normalization.normalized_objective(objective, network)
    return env, network, shared_rmsprop(1e-3, eps=1e-5), objective, settings


def reference(env, network, optimizer, objective, settings, shards):
    """Return `init, step` of one device that has the random numbers of `shards` devices."""
    size = settings.num_envs // shards
    learner = runner._learner(
        network, optax.with_extra_args_support(optimizer), objective, settings
    )
    config = UnrollConfig(settings.num_steps, settings.auto_reset, discount=objective.discount)

    def init(key):
        params_key, actor_key = jax.random.split(key)
        actors = [
            init_actor(
                env,
                network.initial_carry((size,)),
                jax.random.fold_in(actor_key, shard),
                size,
                **objective.actor_needs,
            )
            for shard in range(shards)
        ]
        observation = jnp.concatenate([actor.observation for actor in actors])
        return learner.init(params_key, observation)._replace(actor=actors)

    def step(state):
        env_steps = state.env_steps.as_float()
        ends = [
            unroll(env, objective.act, state.params, actor, config, env_steps)
            for actor in state.actor
        ]
        actors, rollouts, episodes = zip(*ends, strict=True)

        carry = jax.tree.map(lambda *x: jnp.concatenate(x), *[r.carry for r in rollouts])
        steps = jax.tree.map(lambda *x: jnp.concatenate(x, 1), *[r.steps for r in rollouts])
        sums = EpisodeSums(*map(sum, zip(*episodes, strict=True)))
        return learner.learn(state._replace(actor=list(actors)), Rollout(carry, steps), sums)

    return init, step


def trained(init, step, updates):
    """Return state and summed metrics after some updates."""

    @jax.jit
    def run(key):
        return jax.lax.scan(lambda state, _: step(state), init(key), length=updates)

    state, metrics = run(jax.random.key(3))
    return state, jax.tree.map(lambda x: np.asarray(x, np.float64).sum(), metrics)


def assert_close(one, other, tolerance=1e-6):
    """Check that two trees of arrays are equal up to rounding."""
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance)


def equals_one_device(name, *words):
    """2, 4 and 8 devices learn the parameters of one."""
    options = set(words)
    env, network, optimizer, objective, settings = parts(
        name, lstm="lstm" in options, statistics="statistics" in options
    )
    settings = SynchronousConfig(
        num_envs=NUM_ENVS, num_steps=5, max_grad_norm=settings.max_grad_norm
    )
    for shards in [int(word) for word in words if word.isdecimal()]:
        built = runner.synchronous(
            env, network, optimizer, objective, settings, mesh=mesh_of(jax.devices()[:shards])
        )
        one = reference(env, network, optimizer, objective, settings, shards)
        state, metrics = trained(*built[:2], 200)
        expected, expected_metrics = trained(*one, 200)

        assert int(state.env_steps) == 200 * NUM_ENVS * 5
        assert_close(state.params, expected.params)
        assert_close(state.opt_state, expected.opt_state)
        assert_close(state.target, expected.target)
        assert metrics.keys() == expected_metrics.keys()
        for metric, value in expected_metrics.items():
            np.testing.assert_allclose(metrics[metric], value, rtol=1e-4, atol=1e-4, err_msg=metric)
        assert metrics["episodes"] > 0


def collectives(name, shards, *words):
    """Print the exchanges between the devices in the program of an update."""
    env, network, optimizer, objective, _ = parts(
        name, lstm="lstm" in words, statistics="statistics" in words
    )
    built = runner.synchronous(
        env, network, optimizer, objective, mesh=mesh_of(jax.devices()[: int(shards)])
    )
    state = jax.jit(built.init)(jax.random.key(0))
    text = jax.jit(built.step).lower(state).compile().as_text()
    kinds = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
    found = re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", text)
    # A tuple of arrays is one instruction, but an exchange for each array.
    print("collectives", *[f"{kind}:{shape.count('[')}" for shape, kind in found])


def host_environments():
    """Host environments on two devices: the updates equal those of one, masked rows included."""
    for settings in (
        A2CConfig(num_envs=4, num_steps=5),
        A2CConfig(num_envs=4, num_steps=5, loss_reduction="sum", max_grad_norm=40.0),
        A2CConfig(num_envs=4, num_steps=5, normalize_advantages=True),
    ):
        finals = []
        for mesh in (None, mesh_of(jax.devices()[:2])):
            env = ScriptedFactory()
            network = networks.actor_critic(env, hidden=(16,))
            objective = objectives.actor_critic(network, settings)
            built = runner.synchronous(
                env, network, shared_rmsprop(1e-3, eps=1e-5), objective, settings, mesh=mesh
            )
            result = SynchronousRunner(built, settings).run(0, until=600)
            finals.append((result.params, result.progress))
        (one, progress), (two, progress_of_two) = finals
        assert_close(one, two)
        assert progress.env_steps == progress_of_two.env_steps
        assert progress.metric_sums["episodes"] == progress_of_two.metric_sums["episodes"] > 0
        # Some rows of this environment only reset it.
        assert progress.env_steps < progress.updates * 20
        assert_close(
            list(progress.metric_sums.values()), list(progress_of_two.metric_sums.values()), 1e-4
        )


def nonfinite_shard():
    """A gradient that is not finite on one device changes the parameters on none."""
    env, network, optimizer, objective, _ = parts("actor_critic")
    plain = objective.loss

    def loss(params, rollout, target_params=None):
        value, metrics = plain(params, rollout, target_params)
        broken = jax.lax.axis_index("shards") == 1
        return value * jnp.where(broken, jnp.nan, 1.0), metrics

    built = runner.synchronous(
        env,
        network,
        optimizer,
        objective._replace(loss=loss),
        mesh=mesh_of(jax.devices()[:2]),
    )
    state = jax.jit(built.init)(jax.random.key(0))
    after, metrics = jax.jit(built.step)(state)
    assert metrics["nonfinite_gradients"] == 1.0 and metrics["grad_norm"] == 0.0
    jax.tree.map(np.testing.assert_array_equal, state.params, after.params)


def runner_of_a_mesh():
    """The runner trains, saves and restores on a mesh, as if it had not stopped."""
    env, network, optimizer, objective, settings = parts("actor_critic")
    mesh = jax.make_mesh((2,), ("any",), devices=jax.devices()[:2])
    built = runner.synchronous(env, network, optimizer, objective, settings, mesh=mesh)
    training = SynchronousRunner(built, settings)
    whole = training.run(0, until=8000)
    half = training.run(0, until=4000)

    state = training.restore(training.save(half.state))
    rest = training.run(state, until=8000)
    jax.tree.map(np.testing.assert_array_equal, whole.params, rest.params)
    assert {d for leaf in jax.tree.leaves(rest.params) for d in leaf.devices()} == {
        jax.devices()[0]
    }
    assert len(rest.state.actor.reset.sharding.device_set) == 2


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
    print("done")
