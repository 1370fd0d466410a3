"""The asynchronous runner: one worker equals a plain loop, failures surface, threads end."""

import gc
import itertools
import os
import signal
import threading
import time
import traceback
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from concurrency import PATIENCE, meeting
from jax.flatten_util import ravel_pytree
from probes import EitherEnd, EndlessReward, MatchingAction, Recall, TerminalReward

from jax_a3c import A2CConfig, A3CConfig, a2c, a3c, envs, networks, optimizers
from jax_a3c.acting.actor import init_actor
from jax_a3c.acting.unroll import UnrollConfig, unroll
from jax_a3c.errors import InputError
from jax_a3c.objectives import (
    ActionValueConfig,
    actor_critic,
    gradient,
    guarded,
    n_step_q,
    one_step_q,
    one_step_sarsa,
)
from jax_a3c.optimizers import InPlaceTransformation
from jax_a3c.runners.asynchronous import AsynchronousRunner
from jax_a3c.runners.segments import ONE_CORE
from jax_a3c.settings.parts import AsynchronousConfig

CARTPOLE = envs.make("gymnax:CartPole-v1", max_steps_in_episode=30)
NETWORK = networks.actor_critic(CARTPOLE, hidden=(8,))


def make_agent(env=CARTPOLE, network=NETWORK, optimizer=None, **settings):
    optimizer = optimizer or optimizers.shared_rmsprop(1e-2)
    settings = {"total_timesteps": 2000, "num_steps": 5, "num_workers": 2, **settings}
    return a3c(lambda: env, network, optimizer, A3CConfig(**settings))


def worker_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("a3c-worker")]


def failing_optimizer(worker, fail_at=3):
    """Return shared RMSProp that raises in update number `fail_at` of one worker."""
    optimizer, calls = optimizers.shared_rmsprop(1e-3), itertools.count()

    def in_place(*args):
        if threading.current_thread().name == f"a3c-worker-{worker}" and next(calls) == fail_at:
            raise RuntimeError("the cat pulled the plug")
        optimizer.in_place(*args)

    return InPlaceTransformation(optimizer.init, optimizer.update, in_place, shares_moments=True)


def sequential_loop(env, network, objective, config, update, updates, key):
    """Train like one worker, without threads and without a shared buffer.

    `update` maps `(theta, gradient, env_steps)` to the new theta.
    """
    params_key, actors_key = jax.random.split(key)
    actor = init_actor(
        env,
        network.initial_carry((1,)),
        jax.random.split(actors_key, 1)[0],
        1,
        explore=objective.explore,
        needs_next_action=objective.needs_next_action,
    )
    observation = jnp.zeros((1, *actor.observation.shape))
    params = network.init(params_key, actor.carry, observation, jnp.ones((1, 1), bool))
    theta, unravel = ravel_pytree(params)
    theta, env_steps, interval = np.array(theta), 0, objective.target_update_interval
    target = None if interval is None else theta.copy()
    unroll_config = UnrollConfig(config.num_steps, stop_at_episode_end=config.stop_at_episode_end)

    @partial(jax.jit, compiler_options=ONE_CORE)  # they decide the last bits
    def segment(theta, target, actor, env_steps):
        params, target_params = (None if x is None else unravel(x) for x in (theta, target))
        actor, rollout, _ = unroll(env, objective.act, params, actor, unroll_config, env_steps)
        grads, metrics = gradient(objective, params, rollout, target_params)
        grad, _ = guarded(ravel_pytree(grads)[0], metrics, config.max_grad_norm)
        return actor, grad, rollout.steps.mask.sum()

    for _ in range(updates):
        actor, grad, steps = segment(theta.copy(), target, actor, np.float32(env_steps))
        before, env_steps = env_steps, env_steps + int(steps)
        theta = update(theta, np.asarray(grad), env_steps)
        if interval is not None and env_steps // interval > before // interval:
            target = theta.copy()
    return theta


def in_place_updates(optimizer, statistics):
    """Return the optimizer's in-place rule on private buffers."""
    scratch = np.empty_like(statistics)

    def update(theta, grad, env_steps):
        optimizer.in_place(theta, statistics, grad, scratch, env_steps)
        return theta

    return update


def optax_updates(optimizer, params):
    """Return the update of plain Optax on the tree of the parameters."""
    _, unravel = ravel_pytree(params)
    state = optimizer.init(params)
    change = jax.jit(optimizer.update)

    def update(theta, grad, env_steps):
        nonlocal state
        before = unravel(theta)
        updates, state = change(unravel(grad), state, before)
        return np.asarray(ravel_pytree(optax.apply_updates(before, updates))[0])

    return update


@pytest.mark.optimized
@pytest.mark.parametrize("stop_at_episode_end", [True, False])
def test_one_worker_equals_the_sequential_loop_bit_for_bit_over_1000_updates(stop_at_episode_end):
    optimizer = optimizers.shared_rmsprop(optimizers.linear_schedule(1e-2, 5000))
    config = A3CConfig(
        num_workers=1, num_steps=5, total_timesteps=5000, stop_at_episode_end=stop_at_episode_end
    )
    result = a3c(lambda: CARTPOLE, NETWORK, optimizer, config).run(jax.random.key(7))
    updates, shared = result.progress.updates, result.state.shared
    assert updates >= 1000
    statistics = np.zeros_like(shared.moments)
    update, objective = in_place_updates(optimizer, statistics), actor_critic(NETWORK, config)
    theta = sequential_loop(
        CARTPOLE, NETWORK, objective, config, update, updates, jax.random.key(7)
    )
    np.testing.assert_array_equal(shared.flat_params, theta)
    np.testing.assert_array_equal(shared.moments, statistics)


@pytest.mark.parametrize(
    ("build", "make_optimizer"),
    [
        (one_step_q, optimizers.shared_rmsprop),
        (one_step_sarsa, optimizers.momentum_sgd),
        (n_step_q, optimizers.rmsprop),
    ],
)
def test_one_worker_of_a_value_based_method_equals_the_sequential_loop_bit_for_bit(
    build, make_optimizer
):
    env = EitherEnd()
    network = networks.q_network(env, hidden=(8,))
    settings = ActionValueConfig(target_update_interval=17, epsilon_anneal_steps=1000)
    optimizer = make_optimizer(optimizers.linear_schedule(1e-2, 3000))
    config = AsynchronousConfig(num_workers=1, num_steps=2, total_timesteps=3000)
    objective = build(network, settings)
    result = AsynchronousRunner(env, network, optimizer, objective, config).run(jax.random.key(7))
    updates, shared = result.progress.updates, result.state.shared
    assert updates >= 1500
    statistics = np.zeros_like(shared.moments)
    update = in_place_updates(optimizer, statistics)
    theta = sequential_loop(env, network, objective, config, update, updates, jax.random.key(7))
    np.testing.assert_array_equal(shared.flat_params, theta)
    own = shared.moments if optimizer.shares_moments else shared.worker_moments[0]
    np.testing.assert_array_equal(own, statistics)


class Compared(NamedTuple):
    """Parameters before and after a run of one worker, and after a plain loop of Optax (theta)."""

    start: Any
    end: Any
    theta: np.ndarray
    updates: int


def compared_with_optax(optimizer, plain, total_timesteps):
    """Run both with random actions, so that rounding of parameters cannot change the data."""
    env = EitherEnd()
    network = networks.q_network(env, hidden=(8,))
    settings = ActionValueConfig(
        gamma=0.5,
        target_update_interval=50,
        final_epsilons=(1.0,),
        final_epsilon_probabilities=(1.0,),
    )
    objective = one_step_q(network, settings)
    config = AsynchronousConfig(num_workers=1, num_steps=2, total_timesteps=total_timesteps)
    runner = AsynchronousRunner(env, network, optimizer, objective, config)
    result = runner.run(jax.random.key(7))
    start = runner.params(runner.init(jax.random.key(7)))

    updates, update = result.progress.updates, optax_updates(plain, start)
    theta = sequential_loop(env, network, objective, config, update, updates, jax.random.key(7))
    return Compared(start, result.params, theta, updates)


@pytest.mark.parametrize(
    ("optimizer", "plain"),
    [
        (
            optimizers.momentum_sgd(1e-2),
            optax.chain(optax.ema(0.99, debias=False), optax.scale(-1e-2)),
        ),
        (optimizers.rmsprop(1e-2), optax.rmsprop(1e-2, decay=0.99, eps=0.1, eps_in_sqrt=True)),
        (
            optimizers.shared_rmsprop(1e-2),
            optax.rmsprop(1e-2, decay=0.99, eps=0.1, eps_in_sqrt=True),
        ),
        (optax.adam(1e-3), optax.adam(1e-3)),
    ],
    ids=["momentum_sgd", "rmsprop", "shared_rmsprop", "adam"],
)
def test_one_worker_equals_plain_optax_over_1000_updates(optimizer, plain):
    run = compared_with_optax(optimizer, plain, 2500)
    initial, final = ravel_pytree(run.start)[0], ravel_pytree(run.end)[0]
    assert run.updates >= 1000
    assert np.abs(run.theta - initial).max() > 0.1
    np.testing.assert_allclose(final, run.theta, rtol=1e-5, atol=1e-5)


def in_torso(params):
    """Return a mask of the leaves that belong to the torso, as Optax expects it."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "torso" in jax.tree_util.keystr(path), params
    )


def labels(params):
    return jax.tree.map(lambda torso: "frozen" if torso else "trained", in_torso(params))


def is_matrix(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


TREE_TRANSFORMATIONS = {
    "multi_transform": optax.multi_transform(
        {"frozen": optax.set_to_zero(), "trained": optax.adam(1e-3)}, labels
    ),
    "masked": optax.chain(optax.masked(optax.set_to_zero(), in_torso), optax.sgd(1e-2)),
    "adamw with a mask": optax.adamw(1e-3, weight_decay=0.1, mask=is_matrix),
    "lamb": optax.lamb(1e-3, weight_decay=0.1, mask=is_matrix),
    "lars": optax.lars(1e-2, weight_decay=0.1),
    "adafactor": optax.adafactor(1e-2, min_dim_size_to_factor=2),
}


@pytest.mark.parametrize("name", TREE_TRANSFORMATIONS)
def test_transformations_that_look_at_names_ranks_or_layers_do_on_threads_what_they_do_in_optax(
    name,
):
    run = compared_with_optax(TREE_TRANSFORMATIONS[name], TREE_TRANSFORMATIONS[name], 200)
    initial, final = ravel_pytree(run.start)[0], ravel_pytree(run.end)[0]
    assert run.updates > 80 and np.abs(run.theta - initial).max() > 0.01
    np.testing.assert_allclose(final, run.theta, rtol=1e-4, atol=1e-5)

    if name in ("multi_transform", "masked"):
        pairs = zip(*map(jax.tree.leaves, (in_torso(run.start), run.start, run.end)), strict=True)
        moved = {torso: np.array_equal(before, after) for torso, before, after in pairs}
        assert moved == {True: True, False: False}, "the frozen torso stays as it was, bit for bit"


def test_a_run_with_masked_moments_is_saved_and_restored():
    runner = make_agent(optimizer=TREE_TRANSFORMATIONS["multi_transform"], num_workers=1)
    result = runner.run(0)
    saved = runner.save(result.state)
    restored = runner.restore(saved)
    np.testing.assert_array_equal(restored.shared.flat_params, result.state.shared.flat_params)
    for ours, theirs in zip(
        *map(jax.tree.leaves, (restored.opt_states, saved["state"]["opt_states"])), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "optimizer",
    [optimizers.shared_rmsprop(1e-2), optimizers.rmsprop(1e-2), optax.adam(1e-2)],
    ids=["shared_rmsprop", "rmsprop", "adam"],
)
def test_a_saved_run_goes_on_as_if_it_had_not_ended(optimizer):
    """Training the saved state further changes nothing of what was saved."""
    env = EitherEnd()
    network = networks.q_network(env, hidden=(8,))
    objective = n_step_q(network, ActionValueConfig(target_update_interval=130))
    config = AsynchronousConfig(num_workers=1, num_steps=2)
    runner = AsynchronousRunner(env, network, optimizer, objective, config)
    state = runner.run(0, until=400).state
    tree, counts = runner.save(state), runner.counts(state)
    assert set(tree) == {"variables", "state"}
    runner.run(state, until=800)
    restored = runner.restore(tree)
    assert runner.counts(restored) == counts
    runner.run(restored, until=800)
    finals = [runner.save(x) for x in (restored, state)]
    leaves = [jax.tree.map(as_integers, final) for final in finals]
    jax.tree.map(np.testing.assert_array_equal, *leaves)
    again = runner.restore(tree, runner.init(5))
    assert runner.counts(again) == counts
    jax.tree.map(np.testing.assert_array_equal, runner.params(again), tree["variables"])


def as_integers(leaf):
    """Return a leaf as an array, a random key as integers."""
    is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def test_a_run_whose_compilation_was_interrupted_starts_anew(monkeypatch):
    """Without the program of Optax a worker would add its gradient to the parameters."""
    runner = make_agent(optimizer=optax.sgd(1e-2), num_workers=1, total_timesteps=100)
    expected = make_agent(optimizer=optax.sgd(1e-2), num_workers=1, total_timesteps=100).run(0)
    on_one_core = runner._segments.on_one_core

    def interrupted(function, *arguments):
        if function.__name__ == "optax_step":
            raise KeyboardInterrupt
        return on_one_core(function, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(runner._segments, "on_one_core", interrupted)
        runner.run(0)
    jax.tree.map(np.testing.assert_array_equal, runner.run(0).params, expected.params)


@pytest.mark.parametrize(
    "make_optimizer", [optimizers.momentum_sgd, optimizers.rmsprop, optimizers.shared_rmsprop]
)
def test_workers_have_statistics_of_their_own_or_share_one_buffer(make_optimizer):
    env = MatchingAction()
    network = networks.actor_critic(env, hidden=(8,))
    optimizer = meeting(make_optimizer(1e-3), num_workers=3)
    result = make_agent(env, network, optimizer, num_workers=3, total_timesteps=9000).run(0)
    assert min(result.progress.updates_per_worker) > 0
    shared, own = result.state.shared, result.state.shared.worker_moments
    assert result.state.opt_states == [None] * 3
    if make_optimizer is optimizers.shared_rmsprop:
        assert own is None and shared.moments.any()
        return
    assert not shared.moments.any() and all(statistics.any() for statistics in own)
    for one, other in itertools.combinations([*own, shared.flat_params, shared.moments], 2):
        assert not np.shares_memory(one, other) and not np.array_equal(one, other)


def test_one_worker_is_deterministic_and_seeds_differ():
    finals = [make_agent(num_workers=1).run(seed).state.shared.flat_params for seed in (3, 3, 4)]
    np.testing.assert_array_equal(finals[0], finals[1])
    assert not np.array_equal(finals[0], finals[2])


def test_equals_the_synchronous_runner_with_one_environment():
    """The same parameters, acting state and rollout give the same loss, gradient and update."""
    optimizer = optimizers.shared_rmsprop(1e-2)
    settings = {"num_envs": 1, "num_steps": 5, "loss_reduction": "sum", "max_grad_norm": 40.0}
    ours = {"num_workers": 1, "num_steps": 5, "stop_at_episode_end": False}
    asynchronous = make_agent(optimizer=optimizer, **ours)
    state = asynchronous.init(jax.random.key(0))
    synchronous = a2c(CARTPOLE, NETWORK, optimizer, A2CConfig(**settings))
    params = asynchronous.params(state)
    lockstep = synchronous.init(jax.random.key(0))._replace(params=params, actor=state.actors[0])
    for update in range(1, 6):
        lockstep, metrics = jax.jit(synchronous.step)(lockstep)
        result = asynchronous.run(state, until=5 * update)
        assert result.progress.updates == update
        for name in ("loss", "policy_loss", "value_loss", "entropy", "grad_norm"):
            np.testing.assert_allclose(
                result.progress.metric_sums[name], metrics[name], rtol=1e-4, err_msg=name
            )
        theirs = ravel_pytree(lockstep.params)[0]
        np.testing.assert_allclose(state.shared.flat_params, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("lock", [True, False])
@pytest.mark.parametrize(
    "optimizer", [optimizers.shared_rmsprop(3e-3), optax.adam(3e-3)], ids=["rmsprop", "adam"]
)
def test_workers_learn_together(lock, optimizer):
    env = MatchingAction()
    network = networks.actor_critic(env, hidden=(16,))
    algorithm = make_agent(
        env,
        network,
        optimizer,
        num_workers=3,
        lock=lock,
        total_timesteps=10**9,
        stop_at_episode_end=False,
    )

    def enough(progress):
        return progress.env_steps >= 9000 and min(progress.updates_per_worker) > 100

    result = algorithm.run(0, callback=enough, interval=0.05)
    observations = jnp.array([[[0.0, 1.0], [0.0, -1.0]]])
    _, policy, _ = network.apply(result.params, (), observations, jnp.ones((1, 2), bool))
    assert policy.mode().tolist() == [[1, 0]]
    assert sum(result.progress.updates_per_worker) == result.progress.updates
    assert enough(result.progress)
    assert result.progress.metric_sums["env_steps"] == result.progress.env_steps
    assert not worker_threads()


def test_segments_end_with_episodes_and_steps_are_counted_exactly():
    env = TerminalReward()
    algorithm = make_agent(
        env, networks.actor_critic(env, hidden=(4,)), num_workers=2, total_timesteps=600
    )
    result = algorithm.run(0)
    assert result.progress.env_steps == 3 * result.progress.updates  # episodes of 3 steps, t_max 5
    assert result.progress.metric_sums["episodes"] == result.progress.updates


def test_workers_have_streams_of_their_own():
    state = make_agent(num_workers=8).init(jax.random.key(0))
    observations = {tuple(np.asarray(actor.observation).ravel().tolist()) for actor in state.actors}
    keys = {tuple(jax.random.key_data(actor.key).tolist()) for actor in state.actors}
    assert len(observations) == len(keys) == 8


def test_an_lstm_remembers_across_segments_with_several_environments_for_each_worker():
    env = Recall()
    network = networks.actor_critic(env, hidden=(16,), lstm=16)
    settings = {"num_envs": 8, "num_steps": 4, "stop_at_episode_end": False, "num_workers": 2}
    algorithm = make_agent(env, network, optax.adam(3e-3), total_timesteps=40_000, **settings)
    state = algorithm.run(0).state
    progress = algorithm.run(state, until=60_000).progress
    assert progress.env_steps == 8 * 4 * progress.updates
    assert progress.metric_sums["episode_return"] / progress.metric_sums["episodes"] > 0.8


def test_a_time_limit_is_not_an_end_and_the_segment_stops_there():
    env = EndlessReward()
    network = networks.actor_critic(env, hidden=(8,))
    optimizer = optimizers.shared_rmsprop(optimizers.linear_schedule(1e-2, 20_000))
    params = make_agent(env, network, optimizer, gamma=0.8, total_timesteps=20_000).run(0).params
    _, _, values = network.apply(params, (), jnp.zeros((1, 1, 2)), jnp.ones((1, 1), bool))
    np.testing.assert_allclose(values, 5.0, atol=0.3)


def test_a_state_of_other_workers_is_refused():
    state = make_agent(num_workers=3).init(0)
    with pytest.raises(ValueError, match="num_workers is 2, but state has 3 workers"):
        make_agent(num_workers=2).run(state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"state": "abc"}, "key must be a random key or a seed, got 'abc'"),
        ({"state": 2**70}, "key must be an integer between"),
        ({"state": jax.random.split(jax.random.key(0))}, "a batch of keys needs jax.vmap"),
        ({"state": (0, [], [])}, r"key must be a random key or a seed, got \(0, \[\], \[\]\)"),
        ({"until": 0}, "until must be an integer of at least 1, got 0"),
        ({"until": 1e6}, "until must be an integer of at least 1, got 1000000.0"),
        ({"callback": 5}, "callback must be a function, got 5"),
        ({"interval": 1e30}, "interval must be a number above 0"),
    ],
)
def test_wrong_arguments_of_a_run_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        make_agent(num_workers=1).run(**arguments)


def test_a_run_can_go_on():
    runner = make_agent(num_workers=1, total_timesteps=1000)
    first = runner.run(0)
    before = first.progress.updates
    second = runner.run(first.state, until=2000)
    assert second.progress.env_steps >= 2000 and second.progress.updates > before
    assert second.compile_seconds < first.compile_seconds


def test_the_workers_program_is_compiled_once(monkeypatch):
    traces = []
    network = networks.actor_critic(CARTPOLE, hidden=(8,))
    algorithm = make_agent(network=network, num_workers=4)
    segments = algorithm._segments
    packed = segments._packed_update
    monkeypatch.setattr(segments, "_packed_update", lambda *args: traces.append(1) or packed(*args))
    for seed in range(3):
        algorithm.run(seed)
    assert len(traces) == 1


@pytest.mark.parametrize("num_workers", [1, 2, 8])
def test_a_workers_exception_is_raised_with_its_traceback_and_all_end(num_workers):
    worker = num_workers - 1
    algorithm = make_agent(
        optimizer=failing_optimizer(worker), num_workers=num_workers, total_timesteps=10**9
    )
    state = algorithm.init(jax.random.key(0))
    with pytest.raises(RuntimeError, match="the cat pulled the plug") as caught:
        algorithm.run(state)
    assert not worker_threads()
    assert f"raised in worker {worker} of {num_workers}" in caught.value.__notes__[0]
    assert "in_place" in "".join(traceback.format_exception(caught.value))
    assert state.shared.env_steps > 0, "what was learned is still there"


def test_exceptions_surface_without_waiting_for_a_report_100_times_of_100():
    algorithm = make_agent(total_timesteps=10**9, num_workers=5)
    for repeat in range(100):
        algorithm._rule = failing_optimizer(repeat % 5, repeat // 5).in_place
        began, reports = time.monotonic(), []
        with pytest.raises(RuntimeError, match="the cat pulled the plug"):
            algorithm.run(repeat, callback=reports.append, interval=PATIENCE)
        assert not reports and time.monotonic() - began < PATIENCE
        assert not worker_threads()


def test_ctrl_c_ends_all_workers():
    algorithm = make_agent(total_timesteps=10**9, num_workers=3)
    state = algorithm.init(jax.random.key(0))

    def interrupt(progress):
        if progress.updates > 10:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # background jobs of a shell ignore SIGINT
    try:
        with pytest.raises(KeyboardInterrupt):
            algorithm.run(state, callback=interrupt, interval=0.05)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not worker_threads()
    assert state.shared.updates > 10


def test_a_callback_can_end_the_run_and_its_errors_end_it_too():
    algorithm = make_agent(total_timesteps=10**9, num_workers=2)
    result = algorithm.run(0, callback=lambda progress: progress.updates > 5, interval=0.01)
    assert result.progress.updates > 5 and not worker_threads()
    with pytest.raises(ZeroDivisionError):
        algorithm.run(0, callback=lambda progress: 1 / 0, interval=0.01)
    assert not worker_threads()


@pytest.mark.parametrize("num_workers", [1, 2, 4, 16, 40])
def test_starting_and_stopping_40_times(num_workers):
    algorithm = make_agent(num_workers=num_workers, total_timesteps=1000)
    state, before = algorithm.init(jax.random.key(0)), threading.active_count()
    for cycle in range(1, 41):
        assert algorithm.run(state, until=1000 * cycle).progress.env_steps >= 1000 * cycle
        assert threading.active_count() == before


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_does_not_grow_with_the_number_of_updates():
    algorithm = make_agent(num_workers=2, total_timesteps=5000)
    state = algorithm.run(0).state
    gc.collect()
    memory, arrays = resident_bytes(), len(jax.live_arrays())
    progress = algorithm.run(state, until=100_000).progress
    gc.collect()
    assert progress.updates > 20_000
    assert len(jax.live_arrays()) <= arrays
    assert resident_bytes() - memory < 4e6


def test_staleness_is_zero_alone_and_reported_in_company():
    assert make_agent(num_workers=1).run(0).progress.max_staleness == 0
    company = make_agent(num_workers=4, total_timesteps=10**9)
    progress = company.run(
        0, callback=lambda progress: progress.mean_staleness > 0, interval=0.05
    ).progress
    assert 0 < progress.mean_staleness <= progress.max_staleness


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_workers": 0}, "num_workers must be an integer of at least 1, got 0"),
        (
            {"total_timesteps": 1e6},
            "total_timesteps must be an integer of at least 1, got 1000000.0",
        ),
        ({"lock": "no"}, "lock must be True or False, got 'no'"),
        ({"gamma": np.float32(2)}, "gamma must be a number between 0 and 1, got 2.0"),
        ({"max_grad_norm": -1.0}, "max_grad_norm must be a number above 0, got -1.0"),
    ],
)
def test_bad_settings_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        A3CConfig(**settings)
