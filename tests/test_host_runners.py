"""Both runners on host environments: they use the same transitions as a plain loop."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_a3c import A2CConfig, A3CConfig, a2c, a3c, networks, objectives, optimizers
from jax_a3c.envs import HostEnvironmentError
from jax_a3c.normalization import normalized_network, normalized_objective
from jax_a3c.runners.asynchronous import AsynchronousRunner
from jax_a3c.runners.loop import SynchronousRunner
from jax_a3c.runners.synchronous import synchronous
from jax_a3c.settings.parts import AsynchronousConfig, SynchronousConfig
from tests.scripted import ScriptedFactory, ScriptedGroup

RATE, STEPS = 1e-3, 7
CONFIG = {
    "num_steps": STEPS,
    "gae_lambda": 0.7,
    "gamma": 0.9,
    "reward_scale": 1e-3,
    "max_grad_norm": None,
}


class Recording(ScriptedFactory):
    """Record actions and answers of each group, step by step."""

    def make(self, num_envs, **options):
        group = super().make(num_envs, **options)
        group.log = [(None, group.reset())]
        step = group.step

        def logged(action):
            answer = step(action)
            group.log.append((action, answer))
            return answer

        group.step = logged
        return group


def plain_gradient(network, params, log, envs):
    """Compute the gradient of the mean actor-critic loss on the true transitions of a log."""

    def heads(params, observations):
        observations = jnp.asarray(np.array(observations), jnp.float32)[None]
        _, policy, values = network.apply(
            params, (), observations, jnp.zeros((1, len(observations[0])), bool)
        )
        return policy, values[0]

    observations = [log[0][1], *(step.observation for _, step in log[1:])]
    values = np.array([heads(params, row)[1] for row in observations])
    data = []
    for env in envs:
        following = None
        for t in reversed(range(len(log) - 1)):
            action, step = log[t + 1]
            if step.reset_step[env]:
                following = None
                continue
            reward, bootstrap = 1e-3 * step.reward[env], values[t + 1, env]
            if step.terminated[env]:
                following = reward
            elif step.truncated[env] or following is None:
                following = reward + 0.9 * bootstrap
            else:
                following = reward + 0.9 * (0.3 * bootstrap + 0.7 * following)
            data.append((observations[t][env], action[env], following))
    if not data:
        return jax.tree.map(jnp.zeros_like, params)
    seen, actions, targets = zip(*data, strict=True)

    def loss(params):
        policy, values = heads(params, seen)
        errors = jnp.array(targets) - values
        log_probs = policy.log_prob(jnp.array(actions)[None])[0]
        policy_loss = -jnp.mean(log_probs * jax.lax.stop_gradient(errors))
        return policy_loss + 0.5 * jnp.mean(errors**2) - 0.01 * jnp.mean(policy.entropy())

    return jax.grad(loss)(params)


def make_network():
    return networks.actor_critic(ScriptedFactory(), hidden=(8,))


def observation_of(entry):
    action, answer = entry
    return answer if action is None else answer.observation


def descend(params, grads):
    return jax.tree.map(lambda p, g: p - RATE * g, params, grads)


def assert_close(got, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), got, expected)


@pytest.mark.parametrize("stop", [False, True])
def test_one_worker_learns_what_a_plain_loop_learns(stop):
    factory, network = Recording(), make_network()
    config = A3CConfig(
        num_workers=1, total_timesteps=40, stop_at_episode_end=stop, loss_reduction="mean", **CONFIG
    )
    runner = a3c(lambda: factory, network, optimizers.momentum_sgd(RATE, momentum=0.0), config)
    state = runner.init(3)
    params = runner.params(state)
    result = runner.run(state)
    [log] = [group.log for group in factory.groups]
    at = 0
    while at < len(log) - 1:
        rows = [(None, observation_of(log[at])), *log[at + 1 : at + STEPS + 1]]
        if stop:
            ends = [i for i, (_, s) in enumerate(rows[1:], 1) if (s.terminated | s.truncated).all()]
            rows = rows[: ends[0] + 1] if ends else rows
        params = descend(params, plain_gradient(network, params, rows, [0]))
        at += len(rows) - 1
    assert_close(result.params, params)
    real = sum(int((~step.reset_step).sum()) for _, step in log[1:])
    assert result.progress.env_steps == real >= 40


@pytest.mark.parametrize("num_envs", [1, 3])
def test_a2c_learns_what_a_plain_loop_learns(num_envs):
    factory, network, updates = Recording(), make_network(), 5
    algorithm = a2c(factory, network, optax.sgd(RATE), A2CConfig(num_envs=num_envs, **CONFIG))
    state = algorithm.init(jax.random.key(3))
    params = state.params
    for _ in range(updates):
        state, _ = algorithm.step(state)
    assert len(factory.groups) == min(2, num_envs)
    for k in range(updates):
        grads, weights = [], []
        for group in factory.groups:
            first, *rest = group.log[k * STEPS : (k + 1) * STEPS + 1]
            rows = [(None, observation_of(first)), *rest]
            weights.append(sum(int((~step.reset_step).sum()) for _, step in rows[1:]))
            grads.append(plain_gradient(network, params, rows, range(group.num_envs)))
        shares = [weight / sum(weights) for weight in weights]
        mean = jax.tree.map(
            lambda *g, s=shares: sum(w * x for w, x in zip(s, g, strict=True)), *grads
        )
        params = descend(params, mean)
    assert_close(state.params, params)
    real = sum(
        int((~step.reset_step).sum()) for group in factory.groups for _, step in group.log[1:]
    )
    assert int(state.env_steps) == real


@pytest.mark.parametrize(
    ("name", "lstm"),
    [
        ("actor_critic", 4),
        ("one_step_sarsa", 4),
        ("n_step_q", 0),
    ],
)
def test_every_method_runs_on_both_runners(name, lstm):
    value_based = name != "actor_critic"
    settings = {"target_update_interval": 50, "epsilon_anneal_steps": 100} if value_based else {}
    config_class = objectives.ActionValueConfig if value_based else objectives.ActorCriticConfig
    make = networks.q_network if value_based else networks.actor_critic
    network = make(ScriptedFactory(), hidden=(8,), lstm=lstm)
    objective = getattr(objectives, name)(network, config_class(reward_scale=1e-3, **settings))
    factory, optimizer = ScriptedFactory(), optimizers.shared_rmsprop(1e-3)
    config = AsynchronousConfig(num_workers=2, num_envs=2, num_steps=5, total_timesteps=200)
    runner = AsynchronousRunner(factory, network, optimizer, objective, config)
    result = runner.run(0)
    assert (
        result.progress.env_steps >= 200 and result.progress.metric_sums["nonfinite_gradients"] == 0
    )
    assert len(factory.groups) == 2
    runner.close(result.state)
    assert all(group.closed for group in factory.groups)
    factory = ScriptedFactory()
    runner = synchronous(factory, network, optimizer, objective, SynchronousConfig(num_envs=3))
    runner = SynchronousRunner(runner, SynchronousConfig(num_envs=3))
    result = runner.run(0, until=200)
    assert (
        result.progress.env_steps >= 200 and result.progress.metric_sums["nonfinite_gradients"] == 0
    )
    assert result.progress.metric_sums["episodes"] > 5
    before = result.progress.env_steps
    assert runner.run(result.state, until=400).progress.env_steps >= 400 > before
    runner.close(result.state)
    assert all(group.closed for group in factory.groups)


class Matching(ScriptedGroup):
    """Reward 1 for the action that the observation shows; episodes of 8 steps."""

    def __init__(self, num_envs, seed):
        super().__init__([".......T"] * num_envs)
        self._rng, self._shown = np.random.default_rng(seed), np.zeros(num_envs, int)

    def _observations(self):
        self._shown = self._rng.integers(0, 5, self.num_envs)
        return self._shown.astype(np.float32)[:, None] - 2

    def step(self, action):
        right = action == self._shown
        answer = super().step(action)
        reward = np.where(answer.reset_step, 0, right).astype(np.float32)
        return answer._replace(reward=reward, raw_reward=reward)


class MatchingFactory(ScriptedFactory):
    def make(self, num_envs, *, seed=0, num_threads=None):
        return Matching(num_envs, seed)


@pytest.mark.parametrize("method", ["a2c", "a3c"])
def test_both_runners_learn(method):
    """The sums cover the second half of the steps, which should be played well."""
    factory = MatchingFactory()
    network = networks.actor_critic(factory, hidden=(32,))
    optimizer = optax.adam(1e-2)
    if method == "a2c":
        config = A2CConfig(num_envs=8, gamma=0.0)
        runner = SynchronousRunner(a2c(factory, network, optimizer, config), config)
    else:
        config = A3CConfig(num_workers=2, num_envs=4, num_steps=5, gamma=0.0)
        runner = a3c(lambda: factory, network, optimizer, config)
    state = runner.run(0, until=8_000).state
    sums = runner.run(state, until=16_000).progress.metric_sums
    assert sums["episode_return"] / sums["episode_length"] > 0.9


@pytest.mark.parametrize("method", ["a2c", "a3c"])
def test_statistics_of_observations_and_rewards_are_learned(method):
    factory = ScriptedFactory()
    network = normalized_network(make_network(), factory, observations=True, rewards=True)
    config = (A3CConfig if method == "a3c" else A2CConfig)(num_envs=2)
    plain = objectives.actor_critic(network, config)
    objective = normalized_objective(plain, network, gamma=0.9)
    if method == "a3c":
        config = AsynchronousConfig(num_workers=1, num_envs=2)
        runner = AsynchronousRunner(
            factory, network, optimizers.shared_rmsprop(0.0), objective, config
        )
    else:
        runner = synchronous(
            factory, network, optax.sgd(0.0), objective, SynchronousConfig(num_envs=2)
        )
        runner = SynchronousRunner(runner, SynchronousConfig(num_envs=2))
    result = runner.run(0, until=3000)
    statistics = result.params["statistics"]
    steps = result.progress.env_steps
    assert float(statistics["observations"]["count"]) == steps
    mean, variance = (np.asarray(statistics["observations"][x]) for x in ("mean", "variance"))
    # The scripts count up, so observations are uniform from 0 to the last one.
    reached = 2 * mean[0]
    np.testing.assert_allclose(variance[0], reached**2 / 12, rtol=0.25)
    assert float(statistics["returns"]["variance"]) > 100


@pytest.mark.parametrize("method", ["a2c", "a3c"])
def test_an_environment_that_breaks_ends_the_run_and_says_so(method):
    class Breaking(ScriptedFactory):
        """Raise in step 40 of the last group."""

        def make(self, num_envs, **options):
            group = super().make(num_envs, **options)
            step, calls, number = group.step, [], len(self.groups)

            def breaking(action):
                calls.append(action)
                if number == 2 and len(calls) == 40:
                    raise HostEnvironmentError("'scripted' raised ValueError in step: broken")
                return step(action)

            group.step = breaking
            return group

    factory, network = Breaking(), make_network()
    with pytest.raises(HostEnvironmentError, match="broken"):
        if method == "a2c":
            config = A2CConfig(num_envs=4)
            runner = SynchronousRunner(a2c(factory, network, optax.sgd(1e-3), config), config)
            state = runner.init(0)
            try:
                runner.run(state, until=10_000)
            finally:
                last = runner.last_state(state)
                assert int(last.updates) == 39 // 5  # complete updates
        else:
            config = A3CConfig(num_workers=2, total_timesteps=10_000)
            a3c(lambda: factory, network, optimizers.shared_rmsprop(1e-3), config).run(0)
    assert all(group.closed for group in factory.groups)  # an aborted rollout cannot be resumed
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith(("environments", "a3c-worker"))]


@pytest.mark.parametrize("method", ["synchronous", "asynchronous"])
def test_a_saved_run_goes_on_with_new_environments(method):
    """Keys and exploration of the actors are kept; `fresh` may bring the environments."""
    factory = ScriptedFactory()
    network = networks.q_network(factory, hidden=(8,))
    settings = objectives.ActionValueConfig(target_update_interval=50)
    parts = factory, network, optimizers.rmsprop(1e-3), objectives.n_step_q(network, settings)
    if method == "synchronous":
        config = SynchronousConfig(num_envs=3)
        runner = SynchronousRunner(synchronous(*parts, config), config)
        actors = lambda state: state.actor  # noqa: E731
    else:
        runner = AsynchronousRunner(*parts, AsynchronousConfig(num_workers=2, num_envs=2))
        actors = lambda state: state.actors  # noqa: E731
    state = runner.run(0, until=200).state
    tree = runner.save(state)
    runner.close(state)
    started = len(factory.groups)

    fresh = runner.init(5)
    groups = factory.groups[started:]
    for restored in (runner.restore(tree), runner.restore(tree, fresh)):
        assert runner.counts(restored) == runner.counts(state)
        jax.tree.map(np.testing.assert_array_equal, runner.params(restored), tree["variables"])
        for ours, saved in zip(actors(restored), actors(state), strict=True):
            np.testing.assert_array_equal(*(jax.random.key_data(x.key) for x in (ours, saved)))
            np.testing.assert_array_equal(ours.exploration, saved.exploration)
            assert not ours.env_state.closed and ours.reset.all()
    assert [actor.env_state for actor in actors(restored)] == groups, "those of `fresh`"
    assert runner.run(restored, until=400).progress.env_steps >= 400
    runner.close(restored)
    assert all(group.closed for group in groups)


def one_step_episodes():
    return ScriptedFactory(["T"] * 5)


def test_the_learning_rate_follows_the_real_steps():
    factory, network = one_step_episodes(), make_network()
    optimizer = optimizers.shared_rmsprop(optimizers.linear_schedule(1e-2, 200))
    algorithm = a2c(factory, network, optimizer, A2CConfig(num_envs=4, num_steps=6))
    state, steps, moved = algorithm.init(jax.random.key(0)), 0, []
    while steps < 200:
        before = state.params
        state, _ = algorithm.step(state)
        steps = int(state.env_steps)
        changes = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, state.params)
        moved.append(max(jax.tree.leaves(changes)))
    assert len(moved) == 17 and steps == 204  # every other row only resets
    assert min(moved[:-1]) > 0 and moved[-1] == 0


@pytest.mark.parametrize("method", ["a2c", "a3c"])
def test_a_rollout_that_only_resets_teaches_nothing(method):
    factory, network = one_step_episodes(), make_network()
    if method == "a2c":
        config = A2CConfig(num_envs=1, num_steps=1)
        runner = SynchronousRunner(a2c(factory, network, optax.sgd(1e-3), config), config)
    else:
        config = A3CConfig(num_workers=1, num_steps=1)
        runner = a3c(lambda: factory, network, optimizers.shared_rmsprop(1e-3), config)
    result = runner.run(0, until=50)
    assert result.progress.env_steps == 50 and result.progress.updates in (99, 100)
    assert all(np.isfinite(value) for value in result.progress.metric_sums.values())
    assert result.progress.metric_sums["nonfinite_gradients"] == 0


def test_the_same_seed_gives_the_same_parameters():
    network, config = make_network(), A2CConfig(num_envs=3)

    def run(seed):
        runner = a2c(ScriptedFactory(), network, optax.sgd(1e-3), config)
        return jax.tree.leaves(SynchronousRunner(runner, config).run(seed, until=300).params)

    first, again, other = run(0), run(0), run(1)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert any((a != b).any() for a, b in zip(first, other, strict=True))


def test_workers_share_no_environment():
    factory = Recording()
    config = AsynchronousConfig(num_workers=3, num_envs=2, total_timesteps=10)
    network = make_network()
    objective = objectives.actor_critic(network, objectives.ActorCriticConfig())
    AsynchronousRunner(factory, network, optimizers.shared_rmsprop(1e-3), objective, config).init(0)
    assert [group.num_envs for group in factory.groups] == [2, 2, 2]
    assert len({seed + i for seed in factory.seeds for i in range(2)}) == 6
