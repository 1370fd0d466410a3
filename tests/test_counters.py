"""Counters beyond 32 bits: equal to Python's integers, and exact on every path of a run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from probes import ConstantReward

from jax_a3c import A2CConfig, A3CConfig, a2c, a3c, networks, optimizers
from jax_a3c.experiment.run_directory import RunDirectory
from jax_a3c.objectives import ActionValueConfig, n_step_q
from jax_a3c.runners.counters import Counter
from jax_a3c.runners.loop import SynchronousRunner
from jax_a3c.runners.synchronous import synchronous
from jax_a3c.settings.parts import SynchronousConfig
from jax_a3c.settings.run import RunOptions, resolve
from jax_a3c.training.train import resume, train

BORDERS = [2**31, 2**32, 2**33, 2**53, 2**63]
ENV = ConstantReward()
NETWORK = networks.actor_critic(ENV, hidden=(4,))


@pytest.mark.parametrize("border", BORDERS)
def test_a_counter_is_exact_across_a_border(border):
    start, steps = border - 3, [1, 2, 5, 2**31 - 1, 2**31 - 1, 7]
    final, seen = jax.jit(
        lambda counter: jax.lax.scan(
            lambda counter, count: (counter.add(count), counter),
            counter,
            jnp.array(steps, jnp.int32),
        )
    )(Counter.of(start))
    totals = [start + sum(steps[:i]) for i in range(len(steps) + 1)]
    counters = [Counter(*pair) for pair in zip(seen.high, seen.low, strict=True)]
    assert [int(counter) for counter in [*counters, final]] == totals
    assert float(final.as_float()) == np.float32(totals[-1])


@pytest.mark.parametrize("border", BORDERS[:2])
def test_the_schedule_of_a2c_goes_on_falling(border):
    """With one row per update the learning rate falls from 1 to 0 at twice the border."""
    network = networks.actor_critic(ENV, hidden=(4,))
    rates = []
    optimizer = optimizers.scale_by_learning_rate(optimizers.linear_schedule(1.0, 2 * border))
    seen = optax.GradientTransformationExtraArgs(
        optimizer.init,
        lambda grads, state, params=None, **more: (
            jax.debug.callback(lambda steps: rates.append(float(steps)), more["env_steps"]),
            optimizer.update(jax.tree.map(jnp.ones_like, grads), state, params, **more),
        )[1],
    )
    algorithm = a2c(ENV, network, seen, A2CConfig(num_envs=1, num_steps=1))
    step = jax.jit(algorithm.step)
    state = jax.jit(algorithm.init)(jax.random.key(0))
    state = state._replace(updates=Counter.of(border - 2), env_steps=Counter.of(border - 2))
    for done in range(1, 5):
        before = state.params
        state, _ = step(state)
        assert int(state.updates) == int(state.env_steps) == border - 2 + done
        moved = jax.tree.map(lambda new, old: new - old, state.params, before)
        np.testing.assert_allclose(jax.tree.leaves(moved)[0], -0.5, rtol=1e-5)
    jax.effects_barrier()
    assert rates == [np.float32(border - 2 + done) for done in range(1, 5)]


def test_the_target_follows_and_exploration_ends_beyond_the_border():
    network = networks.q_network(ENV, hidden=(4,))
    settings = ActionValueConfig(
        target_update_interval=3,
        epsilon_anneal_steps=2**31,
        final_epsilons=(0.0,),
        final_epsilon_probabilities=(1.0,),
    )
    objective = n_step_q(network, settings)
    algorithm = synchronous(
        ENV,
        network,
        optimizers.rmsprop(1e-2),
        objective,
        SynchronousConfig(num_envs=2, num_steps=1),
    )
    state = algorithm.init(jax.random.key(0))
    state = state._replace(updates=Counter.of(2**31), env_steps=Counter.of(2**32))

    step = jax.jit(algorithm.step)
    copied = []
    for _ in range(6):
        before = state.target.params
        state, metrics = step(state)
        leaves = zip(jax.tree.leaves(before), jax.tree.leaves(state.target.params), strict=True)
        same = [np.array_equal(*pair) for pair in leaves]
        copied.append(not all(same))
        assert metrics["not_greedy"] == 0.0, "epsilon has reached its final value, 0"
    assert copied == [False, True, True, False, True, True]  # at 4, 6, 10, 12 steps of two each
    assert int(state.env_steps) == 2**32 + 12


def test_a_run_of_the_synchronous_runner_ends_beyond_the_border():
    runner = a2c(ENV, NETWORK, optimizers.shared_rmsprop(1e-3), A2CConfig(num_envs=1, num_steps=1))
    runner = SynchronousRunner(runner, A2CConfig(num_envs=1, num_steps=1))
    state = runner.init(0)._replace(
        updates=Counter.of(2**31 - 10), env_steps=Counter.of(2**31 - 10)
    )
    result = runner.run(state, until=2**31 + 10)
    assert result.progress.env_steps == result.progress.updates == 2**31 + 10

    restored = runner.restore(runner.save(result.state))
    assert runner.counts(restored) == (2**31 + 10, 2**31 + 10)


def test_a_run_on_threads_ends_beyond_the_border():
    config = A3CConfig(num_workers=2, num_steps=1, total_timesteps=2**32 + 10)
    runner = a3c(lambda: ENV, NETWORK, optimizers.shared_rmsprop(1e-3), config)
    state = runner.init(0)
    state.shared._env_steps[1] = 2**32 - 10
    state.shared._updates[1] = 2**32 - 10
    result = runner.run(state)
    assert 2**32 + 10 <= result.progress.env_steps <= 2**32 + 12

    restored = runner.restore(runner.save(result.state))
    assert runner.counts(restored) == runner.counts(result.state)


@pytest.mark.parametrize("method", ["a2c", "a3c"])
def test_a_checkpoint_beyond_the_border_is_found_again(method, tmp_path, monkeypatch):
    """A run that starts just below 2^31 steps is saved and resumed with its number of steps."""
    start, total = 2**31 - 200, 2**31 + 400
    sizes = {"num_envs": 1, "num_steps": 1} | ({"num_workers": 1} if method == "a3c" else {})
    settings = resolve(
        method, "gymnax:CartPole-v1", total_timesteps=total, eval_episodes=1, hidden=(4,), **sizes
    )
    begin_at(monkeypatch, start)
    run = tmp_path / "run"
    summary = train(method, "gymnax:CartPole-v1", settings, run, options=RunOptions(quiet=True))
    assert summary["status"] == "completed" and summary["env_steps"] == total
    assert RunDirectory(run).checkpoints.paths()[0].stem == f"{total:015d}"

    monkeypatch.undo()
    longer = resolve(
        method,
        "gymnax:CartPole-v1",
        total_timesteps=total + 300,
        eval_episodes=1,
        hidden=(4,),
        **sizes,
    )
    summary = resume(run, settings=longer, force=True, options=RunOptions(quiet=True))
    assert summary["env_steps"] == total + 300
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [row["env_steps"] for row in rows]
    assert steps == sorted(steps) and steps[0] >= start and steps[-1] == total + 300


def begin_at(monkeypatch, env_steps):
    """Let new runs of both runners start at `env_steps`."""
    from jax_a3c.runners.asynchronous import AsynchronousRunner

    first, second = SynchronousRunner.init, AsynchronousRunner.init

    def init(self, key):
        counter = Counter.of(env_steps)
        return first(self, key)._replace(updates=counter, env_steps=counter)

    def init_on_threads(self, key):
        state = second(self, key)
        state.shared._env_steps[0] = state.shared._updates[0] = env_steps
        return state

    monkeypatch.setattr(SynchronousRunner, "init", init)
    monkeypatch.setattr(AsynchronousRunner, "init", init_on_threads)
