"""Value-based objectives: losses against float64 loops, behaviour, target, known values."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from concurrency import meeting
from jax.flatten_util import ravel_pytree
from probes import Chain, EitherEnd, Probe, Recall, State, TerminalReward

from jax_a3c import networks, optimizers
from jax_a3c.acting.actor import init_actor
from jax_a3c.acting.unroll import UnrollConfig, unroll
from jax_a3c.envs.base import Discrete
from jax_a3c.errors import InputError
from jax_a3c.objectives import (
    ActionValueConfig,
    ActorCriticConfig,
    Objective,
    actor_critic,
    n_step_q,
    one_step_q,
    one_step_sarsa,
)
from jax_a3c.runners.asynchronous import AsynchronousRunner
from jax_a3c.runners.synchronous import synchronous
from jax_a3c.settings.parts import AsynchronousConfig, SynchronousConfig

OBJECTIVES = [one_step_q, one_step_sarsa, n_step_q]
EITHER_END, TERMINAL_REWARD, CHAIN = EitherEnd(), TerminalReward(), Chain()
NUM_ENVS, NUM_STEPS = 8, 12
NETWORKS = {lstm: networks.q_network(EITHER_END, hidden=(8,), lstm=lstm) for lstm in (0, 8)}

PLAIN = ActionValueConfig(gamma=0.9)
SCALED = ActionValueConfig(
    gamma=0.9,
    vf_coef=0.7,
    loss_reduction="mean",
    reward_scale=0.9,
    reward_clip=2.0,
    huber_delta=2.0,
)
DOUBLE = dataclasses.replace(SCALED, double_q=True)


def fixed_epsilon(epsilon, **settings):
    return ActionValueConfig(
        final_epsilons=(epsilon,),
        final_epsilon_probabilities=(1.0,),
        epsilon_anneal_steps=1,
        **settings,
    )


def within_five_standard_errors(frequency, probability, num_draws):
    return abs(frequency - probability) <= 5 * np.sqrt(probability * (1 - probability) / num_draws)


@functools.cache
def random_play(env, lstm, stop_at_episode_end=False):
    """Return parameters, different target parameters, and a rollout of uniform random actions."""
    network = NETWORKS[lstm]
    act = one_step_q(network, PLAIN).act

    @jax.jit
    def play(key):
        actor = init_actor(
            env, network.initial_carry((NUM_ENVS,)), key, NUM_ENVS, needs_next_action=True
        )
        first = network.init(key, actor.carry, actor.observation[None], actor.reset[None])
        flat, unravel = ravel_pytree(first)
        noise = jax.random.normal(jax.random.fold_in(key, 1), (2, flat.size))
        params, target_params = unravel(flat + noise[0]), unravel(flat + noise[1])
        config = UnrollConfig(NUM_STEPS, stop_at_episode_end=stop_at_episode_end)
        exploring = actor._replace(exploration=jnp.ones(NUM_ENVS))
        _, rollout, _ = unroll(env, act, params, exploring, config)
        return params, target_params, rollout

    return play(jax.random.key(3))


@functools.cache
def differentiated(build, config, lstm):
    """Return `(params, target_params, rollout) -> (loss, metrics), (gradient, target gradient)`."""
    objective = build(NETWORKS[lstm], config)

    def loss(params, target_params, rollout):
        return objective.loss(params, rollout, target_params)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))


@functools.cache
def applied(lstm):
    return jax.jit(lambda *args: NETWORKS[lstm].apply(*args)[2])


@functools.cache
def advanced(lstm):
    return jax.jit(lambda *args: NETWORKS[lstm].apply(*args)[0])


@functools.cache
def weighted_gradient(lstm):
    """Return the sum over steps of `weights` `[T, N]` times the gradient of Q(s_t, a_t)."""

    def weighted(params, weights, rollout):
        steps = rollout.steps
        _, _, q_values = NETWORKS[lstm].apply(params, rollout.carry, steps.observation, steps.reset)
        return jnp.sum(
            weights * jnp.take_along_axis(q_values, steps.action[..., None], axis=-1)[..., 0]
        )

    return jax.jit(jax.grad(weighted))


def values_after(lstm, params, rollout, *, own_state):
    """Return Q(s_{t+1}, .), computed for each step separately, `[T, N, A]`.

    With `own_state` the network is unrolled with its own recurrent state. Only where an episode was
    truncated within the rollout it gets the state of the behaviour. Without `own_state` it gets
    that state everywhere.
    """
    steps, own = rollout.steps, rollout.carry
    never = np.zeros((1, NUM_ENVS), bool)
    rows = []
    for t in range(NUM_STEPS):
        behaviour = jax.tree.map(lambda x, t=t: x[t], steps.next_carry)
        own = advanced(lstm)(params, own, steps.observation[t][None], steps.reset[t][None])
        following = steps.next_observation[t][None]
        lent, unrolled = (
            applied(lstm)(params, carry, following, never)[0] for carry in (behaviour, own)
        )
        cut = steps.truncated[t] & ~steps.terminated[t] & (t < NUM_STEPS - 1)
        rows.append(np.where(own_state & ~cut[:, None], unrolled, lent))
    return np.asarray(rows, np.float64)


def reference_loss(build, config, lstm, params, target_params, rollout):
    """Compute the loss per environment and step, backwards, in float64.

    Returns:
      The loss, and the factor of grad Q(s_t, a_t) in its gradient for each step.
    """
    steps = rollout.steps
    q_values = np.asarray(
        applied(lstm)(params, rollout.carry, steps.observation, steps.reset), np.float64
    )
    online = values_after(lstm, params, rollout, own_state=False)
    target = values_after(lstm, target_params, rollout, own_state=True)
    steps = jax.tree.map(np.asarray, steps)
    delta = np.inf if config.huber_delta is None else config.huber_delta
    total, targets, factors = 0.0, *np.zeros((2, NUM_STEPS, NUM_ENVS))
    for i in range(NUM_ENVS):
        for t in reversed(range(NUM_STEPS)):
            if not steps.mask[t, i]:
                continue
            y = config.reward_scale * float(steps.reward[t, i])
            if config.reward_clip is not None:
                y = min(max(y, -config.reward_clip), config.reward_clip)
            if steps.terminated[t, i]:
                pass
            elif build is one_step_sarsa:
                y += config.gamma * target[t, i, steps.next_action[t, i]]
            elif build is one_step_q or steps.truncated[t, i] or t == NUM_STEPS - 1:
                chooser = online if config.double_q else target
                y += config.gamma * target[t, i, np.argmax(chooser[t, i])]
            else:
                y += config.gamma * targets[t + 1, i]
            targets[t, i] = y
            error = y - q_values[t, i, steps.action[t, i]]
            total += config.vf_coef * reference.huber(error, delta)
            factors[t, i] = -config.vf_coef * min(max(error, -delta), delta)
    count = NUM_ENVS if config.loss_reduction == "sum" else steps.mask.sum()
    return total / count, factors / count


def assert_trees_close(ours, theirs, **tolerance):
    jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance), ours, theirs)


@pytest.mark.parametrize("lstm", [0, 8])
@pytest.mark.parametrize(
    ("build", "config"),
    [
        pytest.param(one_step_q, PLAIN, id="one_step_q-plain"),
        pytest.param(one_step_q, DOUBLE, id="one_step_q-double"),
        pytest.param(one_step_sarsa, PLAIN, id="one_step_sarsa-plain"),
        pytest.param(one_step_sarsa, SCALED, id="one_step_sarsa-scaled"),
        pytest.param(n_step_q, PLAIN, id="n_step_q-plain"),
        pytest.param(n_step_q, DOUBLE, id="n_step_q-double"),
    ],
)
def test_loss_and_gradient_equal_a_plain_loop_through_terminations_and_truncations(
    build, config, lstm
):
    """Algorithms 1 and S2 have the gradient sum of (Q - y) grad Q, with y constant."""
    params, target_params, rollout = random_play(EITHER_END, lstm)
    steps = rollout.steps
    assert (steps.truncated & ~steps.terminated)[:-1].any() and (
        steps.terminated & ~steps.truncated
    ).any()
    assert (steps.truncated & steps.terminated).any(), "both flags at once: it terminated"
    expected, factors = reference_loss(build, config, lstm, params, target_params, rollout)
    if config.huber_delta is not None:
        inner = np.abs(factors) < 0.99 * np.abs(factors).max()
        assert inner.any() and not inner.all(), "both branches of the Huber loss"
    (loss, metrics), (grads, target_grads) = differentiated(build, config, lstm)(
        params, target_params, rollout
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    mean = expected / (NUM_STEPS if config.loss_reduction == "sum" else 1)
    np.testing.assert_allclose(metrics["loss"], mean, rtol=1e-5)
    assert_trees_close(
        grads, weighted_gradient(lstm)(params, factors, rollout), rtol=2e-4, atol=1e-5
    )
    assert all((x == 0.0).all() for x in jax.tree.leaves(target_grads))
    q_values = applied(lstm)(params, rollout.carry, steps.observation, steps.reset)
    taken = np.take_along_axis(np.asarray(q_values), np.asarray(steps.action)[..., None], axis=-1)
    np.testing.assert_allclose(metrics["q_value"], taken.mean(), rtol=1e-4)


@pytest.mark.parametrize("lstm", [0, 8])
def test_the_settings_under_test_change_the_loss(lstm):
    params, target_params, rollout = random_play(EITHER_END, lstm)
    configs = [
        PLAIN,
        *(
            dataclasses.replace(PLAIN, **change)
            for change in ({"double_q": True}, {"huber_delta": 2.0})
        ),
    ]
    losses = [
        reference_loss(build, config, lstm, params, target_params, rollout)[0]
        for build, config in [
            *itertools.product((one_step_q, n_step_q), configs),
            (one_step_sarsa, PLAIN),
        ]
    ]
    assert min(abs(a - b) for a, b in itertools.combinations(losses, 2)) > 1e-3


@pytest.mark.parametrize("end", ["terminated", "truncated"])
@pytest.mark.parametrize("build", OBJECTIVES)
def test_rows_after_the_end_of_a_segment_do_not_count(build, end):
    params, target_params, rollout = random_play(TERMINAL_REWARD, 0, stop_at_episode_end=True)
    steps = rollout.steps
    assert steps.mask[:, 0].tolist() == [True] * 3 + [False] * (NUM_STEPS - 3)
    if end == "truncated":
        steps = steps._replace(terminated=steps.truncated, truncated=steps.terminated)
    fields = ("observation", "action", "reward", "next_observation", "next_action")
    rubbish = steps._replace(**{name: getattr(steps, name).at[3:].set(1) for name in fields})
    expected, factors = reference_loss(
        build, PLAIN, 0, params, target_params, rollout._replace(steps=steps)
    )
    for filled in (steps, rubbish):
        filled = rollout._replace(steps=filled)
        (loss, metrics), (grads, _) = differentiated(build, PLAIN, 0)(params, target_params, filled)
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
        np.testing.assert_allclose(metrics["loss"], expected / 3, rtol=1e-5)
        assert_trees_close(
            grads, weighted_gradient(0)(params, factors, rollout), rtol=2e-4, atol=1e-5
        )


class TwoEnds(Probe):
    """Terminate after 3 steps or truncate after 4, as the cue says; actions have no effect."""

    length = 4

    def reward(self, state, action):
        return 0.0

    def ends(self, state, action):
        return (state.time >= 3) & (state.cue > 0), state.time >= self.length


def signed_act(call):
    """Return an act whose actions encode the call of `unroll`, the observation and the key."""

    def act(params, key, carry, observation, reset, exploration, env_steps):
        drawn = jax.random.randint(key, reset.shape, 0, 100)
        return carry, (10_000 * call + 1000 * observation[:, 0] + drawn).astype(jnp.int32), ()

    return act


@pytest.mark.parametrize(("num_envs", "stop_at_episode_end"), [(8, False), (1, True)])
def test_the_next_action_is_the_one_really_taken_across_segments_too(num_envs, stop_at_episode_end):
    env = TwoEnds()

    config = UnrollConfig(3, stop_at_episode_end=stop_at_episode_end)

    @jax.jit
    def play(call, actor):
        return unroll(env, signed_act(call), None, actor, config)[:2]

    actor = init_actor(env, (), jax.random.key(0), num_envs, needs_next_action=True)
    assert (actor.next_action == -1).all()
    ends = {"terminated": 0, "truncated": 0, "none": 0}
    for call in range(1, 19):
        committed = np.asarray(actor.next_action)
        actor, rollout = play(call, actor)
        steps = jax.tree.map(np.asarray, rollout.steps)
        free = steps.reset[0]
        np.testing.assert_array_equal(free, committed == -1)
        np.testing.assert_array_equal(steps.action[0][~free], committed[~free])
        assert (steps.action[0][free] // 10_000 == call).all()
        for i in range(num_envs):
            taken = int(steps.mask[:, i].sum())
            for t in range(taken):
                if steps.terminated[t, i]:
                    ends["terminated"] += 1
                    continue
                signature = 10 * call + int(steps.next_observation[t, i, 0])
                assert steps.next_action[t, i] // 1000 == signature
                if steps.truncated[t, i]:
                    assert steps.next_observation[t, i, 0] == 4
                    ends["truncated"] += 1
                elif t + 1 < taken:
                    assert steps.next_action[t, i] == steps.action[t + 1, i]
            ended = steps.terminated[taken - 1, i] or steps.truncated[taken - 1, i]
            assert actor.next_action[i] == (-1 if ended else steps.next_action[taken - 1, i])
            ends["none"] += not ended
    assert min(ends.values()) >= 3


def test_without_looking_ahead_there_is_no_next_action():
    actor = init_actor(TERMINAL_REWARD, (), jax.random.key(0), 2)
    act, config = signed_act(0), UnrollConfig(3)
    play = jax.jit(lambda actor: unroll(TERMINAL_REWARD, act, None, actor, config)[:2])
    actor, rollout = play(actor)
    assert actor.next_action is None and rollout.steps.next_action is None
    needs_next_action = {build: build(NETWORKS[0], PLAIN).needs_next_action for build in OBJECTIVES}
    assert needs_next_action == {one_step_q: False, one_step_sarsa: True, n_step_q: False}


def test_sarsa_without_next_actions_is_refused():
    params, target_params, rollout = random_play(EITHER_END, 0)
    rollout = rollout._replace(steps=rollout.steps._replace(next_action=None))
    with pytest.raises(
        InputError, match="rollout has no next_action; start its actor with needs_next_action=True"
    ):
        one_step_sarsa(NETWORKS[0], PLAIN).loss(params, rollout, target_params)


def test_sarsa_has_no_double_form():
    with pytest.raises(InputError, match="double_q must be False for one-step Sarsa"):
        one_step_sarsa(NETWORKS[0], DOUBLE)


@functools.cache
def recorder():
    """Return a function that runs one-step Sarsa for 30 updates of 24 environment steps.

    The function maps `(key, interval)` to the parameters before the first update, and for each
    update to the parameters and the target after it and the inputs of its loss.
    """
    network = networks.q_network(EITHER_END, hidden=())
    objective = one_step_sarsa(network, fixed_epsilon(0.5))

    def recording(params, rollout, target_params):
        loss, metrics = objective.loss(params, rollout, target_params)
        fields = {name: getattr(rollout.steps, name) for name in ("reset", "action", "next_action")}
        return loss, {**metrics, **fields, "target": ravel_pytree(target_params)[0]}

    def run(key, interval):
        recorded = objective._replace(loss=recording, target_update_interval=interval)
        config = SynchronousConfig(num_envs=8, num_steps=3)
        algorithm = synchronous(EITHER_END, network, optimizers.rmsprop(1e-2), recorded, config)

        def step(state, _):
            state, metrics = algorithm.step(state)
            return state, (ravel_pytree(state.params)[0], state.target, metrics)

        start = algorithm.init(key)
        return ravel_pytree(start.params)[0], jax.lax.scan(step, start, length=30)[1]

    return jax.jit(run)


@pytest.mark.parametrize("interval", [10, 100])
def test_the_synchronous_target_is_copied_when_the_steps_cross_a_multiple(interval):
    target, records = recorder()(jax.random.key(0), interval)
    params, targets, metrics = jax.tree.map(np.asarray, records)
    copies = 0
    for update in range(30):
        np.testing.assert_array_equal(metrics["target"][update], target)
        total = 24 * (update + 1)
        if total // interval > (total - 24) // interval:
            assert not np.array_equal(params[update], target)
            target, copies = params[update], copies + 1
        after = jax.tree.map(lambda x, update=update: x[update], targets)
        np.testing.assert_array_equal(ravel_pytree(after.params)[0], target)
        assert after.env_steps == total % interval
    assert copies == (30 if interval == 10 else 7)


def test_the_synchronous_runner_takes_the_actions_that_it_committed_to():
    _, (_, _, metrics) = recorder()(jax.random.key(0), 100)
    goes_on = metrics["reset"][1:, 0] == 0
    taken, committed = metrics["action"][1:, 0][goes_on], metrics["next_action"][:-1, -1][goes_on]
    assert set(committed.tolist()) == {0, 1} and len(committed) > 30
    np.testing.assert_array_equal(taken, committed)


def test_the_asynchronous_runner_takes_the_actions_that_it_committed_to():
    network = networks.q_network(CHAIN, hidden=())
    objective = one_step_sarsa(network, fixed_epsilon(0.5))
    config = AsynchronousConfig(num_workers=1, num_envs=16, num_steps=1)
    runner = AsynchronousRunner(CHAIN, network, optimizers.rmsprop(1e-2), objective, config)
    state = runner.init(0)
    for step in range(1, 9):
        committed = np.asarray(state.actors[0].next_action)
        runner.run(state, until=16 * step)
        time, last_action = divmod(np.argmax(state.actors[0].observation, axis=-1), 2)
        assert (time == step % 4).all()
        if step % 4 == 1:
            assert (committed == -1).all()
        elif step % 4:
            assert set(committed.tolist()) == {0, 1}
            np.testing.assert_array_equal(last_action, committed)


@pytest.mark.parametrize("build", OBJECTIVES)
def test_environments_draw_their_final_epsilons_from_the_settings(build):
    config = ActionValueConfig(final_epsilons=(0.25, 0.75), final_epsilon_probabilities=(0.2, 0.8))
    drawn = np.asarray(build(NETWORKS[0], config).explore(jax.random.key(0), 10_000))
    assert drawn.shape == (10_000,) and set(drawn.tolist()) == {0.25, 0.75}
    assert within_five_standard_errors(np.mean(drawn == 0.75), 0.8, 10_000)


def test_exploration_falls_from_uniform_to_each_environments_final_epsilon():
    num_actions, count = 4, 20_000
    spec = dataclasses.replace(EITHER_END.spec, action_space=Discrete(num_actions=num_actions))
    network = networks.q_network(spec, hidden=())
    act = jax.jit(one_step_q(network, ActionValueConfig(epsilon_anneal_steps=1000)).act)
    observation, reset = jnp.ones((count, 2)), jnp.zeros(count, bool)
    params = network.init(jax.random.key(0), (), observation[None], reset[None])
    best = int(jnp.argmax(network.apply(params, (), observation[None], reset[None])[2][0, 0]))
    finals = jnp.where(jnp.arange(count) % 2, 0.5, 0.0)
    for env_steps, epsilons in [
        (0, (1.0, 1.0)),
        (500, (0.5, 0.75)),
        (1000, (0.0, 0.5)),
        (5000, (0.0, 0.5)),
    ]:
        _, actions, _ = act(
            params, jax.random.key(1), (), observation, reset, finals, np.float32(env_steps)
        )
        for half, epsilon in zip((actions[0::2], actions[1::2]), epsilons, strict=True):
            for action in range(num_actions):
                expected = epsilon / num_actions + (1 - epsilon) * (action == best)
                assert within_five_standard_errors(np.mean(half == action), expected, count // 2)


def paper_mixture(drawn):
    drawn = np.asarray(drawn).ravel()
    frequencies = [np.mean(drawn == np.float32(epsilon)) for epsilon in (0.1, 0.01, 0.5)]
    return all(
        within_five_standard_errors(frequency, probability, drawn.size)
        for frequency, probability in zip(frequencies, (0.4, 0.3, 0.3), strict=True)
    )


class Anywhere(TerminalReward):
    """A probe with a random cue in every episode."""

    def reset(self, key):
        state = State(jnp.zeros((), jnp.int32), jax.random.normal(key))
        return state, self.observe(state)


def test_environments_of_the_synchronous_runner_explore_differently():
    objective, config = (
        one_step_q(NETWORKS[0], ActionValueConfig()),
        SynchronousConfig(num_envs=2000),
    )
    algorithm = synchronous(Anywhere(), NETWORKS[0], optax.sgd(0.1), objective, config)
    actor = jax.jit(algorithm.init)(jax.random.key(0)).actor
    assert paper_mixture(actor.exploration) and actor.next_action is None
    assert len(np.unique(actor.observation, axis=0)) == 2000


def test_asynchronous_workers_explore_differently():
    objective = one_step_q(NETWORKS[0], ActionValueConfig())
    config = AsynchronousConfig(num_workers=64, num_envs=16)
    actors = (
        AsynchronousRunner(Anywhere(), NETWORKS[0], optimizers.rmsprop(0.1), objective, config)
        .init(0)
        .actors
    )
    assert all(actor.next_action is None for actor in actors)
    explorations = np.stack([actor.exploration for actor in actors])
    assert explorations.shape == (64, 16) and paper_mixture(explorations)
    assert all(set(column.tolist()) == {*np.float32([0.1, 0.01, 0.5])} for column in explorations.T)
    assert len(np.unique(explorations, axis=0)) == 64
    assert len(np.unique([jax.random.key_data(actor.key) for actor in actors], axis=0)) == 64
    assert (
        len(np.unique(np.concatenate([actor.observation for actor in actors]), axis=0)) == 64 * 16
    )


def telling_objective():
    """Return an objective with action = env steps + `exploration` that learns nothing."""

    def act(params, key, carry, observation, reset, exploration, env_steps):
        return carry, (env_steps + exploration).astype(jnp.int32), ()

    def loss(params, rollout, target_params):
        assert target_params is None
        first, last = rollout.steps.action.min(), rollout.steps.action.max()
        return 0.0 * optax.tree.sum(params), {
            "first": first.astype(float),
            "last": last.astype(float),
        }

    return Objective(act, loss, lambda key, num_envs: 1000 * jnp.arange(num_envs))


def test_the_behaviour_is_told_the_steps_so_far_on_the_synchronous_runner():
    network = NETWORKS[0]
    config = SynchronousConfig(num_envs=3, num_steps=2)
    algorithm = synchronous(TERMINAL_REWARD, network, optax.sgd(0.1), telling_objective(), config)
    _, metrics = jax.jit(
        lambda key: jax.lax.scan(
            lambda state, _: algorithm.step(state), algorithm.init(key), length=4
        )
    )(jax.random.key(0))
    assert metrics["first"].tolist() == [0, 6, 12, 18]
    assert metrics["last"].tolist() == [2000, 2006, 2012, 2018]


def test_the_behaviour_is_told_the_steps_of_all_workers_on_the_asynchronous_runner():
    alone = AsynchronousConfig(
        num_workers=1, num_envs=3, num_steps=2, total_timesteps=60, stop_at_episode_end=False
    )
    runner = AsynchronousRunner(
        TERMINAL_REWARD, NETWORKS[0], optimizers.rmsprop(0.1), telling_objective(), alone
    )
    sums = runner.run(0).progress.metric_sums
    assert sums["first"] == sum(range(0, 60, 6)) and sums["last"] - sums["first"] == 10 * 2000
    runner.config = dataclasses.replace(alone, num_workers=2)
    state = runner.init(0)
    state.shared._env_steps[0] = 100_000
    both = lambda progress: min(progress.updates_per_worker) > 100  # noqa: E731
    progress = runner.run(state, until=10**9, callback=both, interval=0.05).progress
    assert both(progress)
    assert 100_000 <= progress.metric_sums["first"] / progress.updates <= progress.env_steps


def chain_values(best_after, epsilon, gamma):
    """Compute the fixed point of a method on the chain, `[step, last action, action]`, backwards.

    After the steps in `best_after` the target uses the value of the best action, after the others
    the value of the behaviour.
    """
    q_values = np.zeros((CHAIN.length + 1, 2, 2))
    for t, last_action, action in itertools.product(reversed(range(CHAIN.length)), (0, 1), (0, 1)):
        following = q_values[t + 1, action]
        value = following.max()
        if t not in best_after:
            value = (1 - epsilon) * following.max() + epsilon * following.mean()
        q_values[t, last_action, action] = CHAIN.rewards[t, last_action, action] + gamma * value
    return q_values[:-1]


def chain_table(network, params):
    """Return values and logits of all states, `[step, last action, ...]`."""
    observations = jnp.eye(2 * CHAIN.length + 2)[None, : 2 * CHAIN.length]
    _, distribution, values = network.apply(
        params, (), observations, jnp.zeros((1, 2 * CHAIN.length), bool)
    )
    return (
        np.asarray(x[0], np.float64).reshape(CHAIN.length, 2, *x.shape[2:])
        for x in (values, distribution.logits)
    )


def train_on_chain(runner, network, build_objective, num_steps, updates):
    num_envs, total = 256, 256 * num_steps * updates
    optimizer = optimizers.momentum_sgd(optimizers.linear_schedule(0.3, total), momentum=0.0)
    sizes = {"num_envs": num_envs, "num_steps": num_steps, "max_grad_norm": None}
    objective = build_objective(10 * num_envs * num_steps)
    if runner == "synchronous":
        runner = synchronous(CHAIN, network, optimizer, objective, SynchronousConfig(**sizes))
        run = jax.jit(
            lambda key: jax.lax.scan(
                lambda s, _: (runner.step(s)[0], None), runner.init(key), length=updates
            )
        )
        return run(jax.random.key(0))[0].params
    config = AsynchronousConfig(num_workers=2, total_timesteps=total, **sizes)
    result = AsynchronousRunner(CHAIN, network, meeting(optimizer, 2), objective, config).run(0)
    assert min(result.progress.updates_per_worker) > 0
    return result.params


CHAIN_METHODS = {
    "one-step Q": (one_step_q, 4, {0, 1, 2, 3}),
    "one-step Sarsa": (one_step_sarsa, 4, set()),
    "2-step Q": (n_step_q, 2, {1, 3}),
    "4-step Q": (n_step_q, 4, {3}),
}
REACHED = np.ones((CHAIN.length, 2), bool)
REACHED[0, 1] = False


@pytest.mark.parametrize("runner", ["synchronous", "asynchronous"])
@pytest.mark.parametrize("method", CHAIN_METHODS)
def test_action_values_converge_to_the_exact_ones(method, runner):
    build, num_steps, best_after = CHAIN_METHODS[method]
    network = networks.q_network(CHAIN, hidden=())

    def build_objective(interval):
        return build(network, fixed_epsilon(0.3, gamma=0.9, target_update_interval=interval))

    params = train_on_chain(runner, network, build_objective, num_steps, 8000 // num_steps)
    q_values, _ = chain_table(network, params)
    expected = chain_values(best_after, 0.3, 0.9)
    np.testing.assert_allclose(q_values[REACHED], expected[REACHED], rtol=0.01)


def test_the_exact_values_of_the_methods_are_far_enough_apart_to_tell():
    q_learning, sarsa, two_step = (
        chain_values(CHAIN_METHODS[method][2], 0.3, 0.9)[REACHED]
        for method in ("one-step Q", "one-step Sarsa", "2-step Q")
    )
    for one, other in itertools.combinations((q_learning, sarsa, two_step), 2):
        assert (np.abs(one - other) / np.abs(other)).max() > 0.02
        assert np.abs(one[:, 0] - one[:, 1]).min() > 0.3, "no ties"
    assert np.argmax(q_learning[0]) != np.argmax(sarsa[0]), (
        "Sarsa keeps away from where exploring costs"
    )
    assert (
        np.mean(np.argmax(CHAIN.rewards[REACHED], axis=-1) != np.argmax(q_learning, axis=-1)) > 0.3
    )


@pytest.mark.parametrize("runner", ["synchronous", "asynchronous"])
def test_the_critic_converges_to_the_value_of_the_learned_policy(runner):
    network = networks.actor_critic(CHAIN, hidden=())
    objective = actor_critic(network, ActorCriticConfig(gamma=0.9, ent_coef=0.0))
    params = train_on_chain(runner, network, lambda interval: objective, 2, 4000)
    values, logits = chain_table(network, params)
    policy = np.exp(logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True))
    expected, visited = np.zeros((CHAIN.length + 1, 2)), np.zeros((CHAIN.length + 1, 2))
    for t in reversed(range(CHAIN.length)):
        expected[t] = np.sum(policy[t] * (CHAIN.rewards[t] + 0.9 * expected[t + 1]), axis=-1)
    visited[0, 0] = 1.0
    for t in range(CHAIN.length):
        visited[t + 1] = visited[t] @ policy[t]
    often = visited[:-1] > 0.5
    assert often.sum() == CHAIN.length and policy[often].max(axis=-1).min() > 0.95
    np.testing.assert_allclose(values[often], expected[:-1][often], rtol=0.01)


@pytest.mark.parametrize("build", OBJECTIVES)
def test_an_lstm_learns_to_recall(build):
    env = Recall()
    network = networks.q_network(env, hidden=(8,), lstm=8)
    objective = build(network, fixed_epsilon(0.2, target_update_interval=1000))
    optimizer = optimizers.rmsprop(1e-2, eps=1e-5)
    algorithm = synchronous(
        env, network, optimizer, objective, SynchronousConfig(num_envs=32, num_steps=3)
    )
    run = jax.jit(
        lambda key: jax.lax.scan(
            lambda s, _: (algorithm.step(s)[0], None), algorithm.init(key), length=300
        )[0]
    )
    observations = jnp.array([[[0, 1], [0, -1]], [[1, 0], [1, 0]], [[2, 0], [2, 0]]], jnp.float32)
    reset = jnp.array([[True] * 2, [False] * 2, [False] * 2])
    params = run(jax.random.key(0)).params
    _, greedy, _ = network.apply(params, network.initial_carry((2,)), observations, reset)
    assert greedy.mode()[-1].tolist() == [1, 0]


@pytest.mark.parametrize("build", OBJECTIVES)
def test_the_step_compiles_once_and_maps_over_learning_rates(build):
    network = networks.q_network(CHAIN, hidden=())
    objective = build(network, fixed_epsilon(0.5, target_update_interval=100))
    traces = []

    def algorithm(rate):
        config = SynchronousConfig(num_envs=4, num_steps=5)
        return synchronous(CHAIN, network, optimizers.rmsprop(rate), objective, config)

    @jax.jit
    @jax.vmap
    def step(rate, state):
        traces.append(1)
        return algorithm(rate).step(state)[0]

    rates = jnp.array([0.0, 1e-2, 3e-2])
    state = first = jax.jit(jax.vmap(lambda rate: algorithm(rate).init(jax.random.key(0))))(rates)
    for _ in range(20):
        state = step(rates, state)
    assert len(traces) == 1
    before, after = (
        np.concatenate([x.reshape(3, -1) for x in jax.tree.leaves(s.params)], 1)
        for s in (first, state)
    )
    changes = np.abs(after - before).sum(axis=1)
    assert changes[0] == 0.0 and changes[1] > 0.1 and changes[2] > 1.5 * changes[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"final_epsilon_probabilities": (0.4, 0.3, 0.4)},
            r"final_epsilon_probabilities must be one number for each of final_epsilons "
            r"\(0.1, 0.01, 0.5\), with the sum 1, got \(0.4, 0.3, 0.4\)",
        ),
        ({"final_epsilons": (0.1, 0.5)}, "final_epsilon_probabilities must be one number for each"),
        (
            {"final_epsilons": (0.1, 0.01, 1.5)},
            "final_epsilons must be a number between 0 and 1, got 1.5",
        ),
        (
            {"final_epsilon_probabilities": (1.4, -0.4, 0.0)},
            "final_epsilon_probabilities must be a number between 0 and 1, got 1.4",
        ),
        (
            {"target_update_interval": 0},
            "target_update_interval must be an integer of at least 1, got 0",
        ),
        (
            {"target_update_interval": 1e4},
            "target_update_interval must be an integer of at least 1, got 1",
        ),
        (
            {"epsilon_anneal_steps": 0},
            "epsilon_anneal_steps must be an integer of at least 1, got 0",
        ),
        ({"final_epsilons": 0.1}, "final_epsilons must be a tuple of numbers, got 0.1"),
        ({"huber_delta": 0.0}, "huber_delta must be a number above 0, got 0.0"),
        ({"double_q": 1}, "double_q must be True or False, got 1"),
        ({"gamma": 1.1}, "gamma must be a number between 0 and 1, got 1.1"),
    ],
)
def test_bad_settings_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        ActionValueConfig(**settings)
