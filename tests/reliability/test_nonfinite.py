"""NaN, infinity and overflow in rewards, observations and gradients never reach parameters."""

import collections
import dataclasses
import itertools
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from probes import Probe

from jax_a3c import A2CConfig, A3CConfig, cli, networks, optimizers
from jax_a3c.experiment.run_directory import RunDirectory
from jax_a3c.normalization import normalized_network, normalized_objective
from jax_a3c.objectives import actor_critic
from jax_a3c.runners.asynchronous import AsynchronousRunner
from jax_a3c.runners.synchronous import synchronous
from jax_a3c.types import Array, TimeStep

LENGTH, NUM_ENVS, NUM_WORKERS = 8, 3, 2
KINDS = {  # reward of a step, offset of the observation, last entry of the observation
    "fine": (1.0, 0.0, 1.0),
    "nan reward": (np.nan, 0.0, 1.0),
    "inf reward": (np.inf, 0.0, 1.0),
    "-inf reward": (-np.inf, 0.0, 1.0),
    "overflow": (1e30, 0.0, 1.0),
    "inf loss": (2.5e19, 0.0, 1.0),  # the gradient of a mean over 15 steps is finite
    "nan observation": (1.0, np.nan, 1.0),
    "inf observation": (1.0, np.inf, 1.0),
    "nan gradient": (1.0, 0.0, 0.0),
}
ALWAYS_REFUSED = ("nan reward", "nan observation", "nan gradient")
"""Kinds that normalisation does not bound."""
OPTIMIZERS = {
    "adam": lambda: optax.adam(1e-3),
    "rmsprop": lambda: optimizers.rmsprop(1e-3),
    "shared-rmsprop": lambda: optimizers.shared_rmsprop(1e-3),
    "momentum-sgd": lambda: optimizers.momentum_sgd(1e-3),
}


class State(NamedTuple):
    """Step within the episode, cue, steps until the first bad step (`fuse`), and its kind."""

    time: Array
    cue: Array
    fuse: Array
    kind: Array


class Poisoned(Probe):
    """Reward for the action that the cue shows; up to two steps of an episode are bad."""

    length = LENGTH

    def __init__(self):
        super().__init__()
        self.spec = dataclasses.replace(self.spec, observation_shape=(3,))

    def reset(self, key):
        cue = jnp.where(jax.random.bernoulli(key), 1.0, -1.0)
        state = State(jnp.int32(0), cue, jnp.int32(-1), jnp.int32(0))
        return state, self.observe(state)

    def step(self, key, state, action):
        state = state._replace(time=state.time + 1, fuse=state.fuse - 1)
        right = (action == 1) == (state.cue > 0)
        reward = jnp.where(right, 1.0, 0.5) * self._given(state)[0]
        cut = state.time >= self.length
        return state, TimeStep(self.observe(state), reward, jnp.array(False), cut)

    def observe(self, state):
        _, added, last = self._given(state)
        return jnp.stack([state.time / 10.0 + added, state.cue + added, last])

    def _given(self, state):
        poisoned = (state.fuse <= 0) & (state.fuse > -2) & (state.kind > 0)
        return jnp.asarray(list(KINDS.values()), jnp.float32)[jnp.where(poisoned, state.kind, 0)]


class Sharp(NamedTuple):
    """Network whose loss is finite and whose gradient is NaN if an observation's last entry is 0.

    It wraps the normalized network, since normalisation turns an entry that is always 1 into 0.
    """

    network: Any

    @property
    def init(self):
        return self.network.init

    @property
    def initial_carry(self):
        return self.network.initial_carry

    def apply(self, params, carry, obs, reset):
        carry, policy, values = self.network.apply(params, carry, obs, reset)
        weights = params["params"] if "statistics" in params else params
        weight = jnp.square(weights["params"]["value"]["kernel"]).sum()
        return carry, policy, values + 1e-3 * jnp.sqrt(jnp.maximum(obs[..., 2], 0.0) * weight)


class Setup(NamedTuple):
    """Settings of a learner."""

    method: str
    optimizer: str
    max_grad_norm: float | None
    lstm: bool
    normalized: bool


def learner(setup):
    """Return the learner of a setup, `LockStep` or `Threads`."""
    env = Poisoned()
    network = networks.actor_critic(env, hidden=(8,), lstm=8 if setup.lstm else 0)
    settings = {"num_steps": 5, "max_grad_norm": setup.max_grad_norm}
    if setup.method == "a2c":
        config: Any = A2CConfig(num_envs=NUM_ENVS, **settings)
    else:
        config = A3CConfig(num_workers=NUM_WORKERS, stop_at_episode_end=False, **settings)
    if setup.normalized:
        normalized = normalized_network(network, env, observations=True, rewards=True)
        network = normalized
    network = Sharp(network)
    objective = actor_critic(network, config)
    if setup.normalized:
        workers = 1 if setup.method == "a2c" else NUM_WORKERS
        objective = normalized_objective(objective, normalized, num_workers=workers)
    parts = env, network, OPTIMIZERS[setup.optimizer](), objective, config
    return (
        LockStep(synchronous(*parts), setup)
        if setup.method == "a2c"
        else Threads(AsynchronousRunner(*parts))
    )


def finite(tree):
    """Check whether all numbers of a tree are finite."""
    arrays = map(np.asarray, jax.tree.leaves(tree))
    return all(np.isfinite(array).all() for array in arrays if array.dtype.kind == "f")


def poisoned(actor, rng, kind):
    """Arm one environment of an actor; return the actor and the steps until it breaks."""
    state = jax.tree.map(np.array, actor.env_state)
    env, fuse = rng.integers(len(state.time)), int(rng.integers(1, LENGTH - 1))
    state.time[env], state.fuse[env], state.kind[env] = 0, fuse, list(KINDS).index(kind)
    return actor._replace(env_state=State(*map(jnp.asarray, state))), fuse


class LockStep:
    """A2C, one update at a time."""

    def __init__(self, algorithm, setup):
        self._step, self._exact = jax.jit(algorithm.step), "rmsprop" in setup.optimizer
        self.state = jax.jit(algorithm.init)(jax.random.key(0))

    def poison(self, rng, kind):
        actor, _ = poisoned(self.state.actor, rng, kind)
        self.state = self.state._replace(actor=actor)

    def train(self, updates):
        """Train `updates` updates; return how many the library refused."""
        total = 0
        for _ in range(updates):
            before, (self.state, metrics) = self.state, self._step(self.state)
            assert finite((self.state.params, self.state.opt_state, metrics))
            refused = int(metrics["nonfinite_gradients"])
            if self._exact:  # a zero gradient does not move parameters
                weights = [ravel_pytree(x.params["params"])[0] for x in (before, self.state)]
                assert refused == np.array_equal(*weights)
            total += refused
        return total


class Threads:
    """A3C, trained until each worker has made a number of updates."""

    def __init__(self, algorithm):
        self._agent, self.state, self._zeros = algorithm, algorithm.init(0), []
        algorithm.run(self.state, until=1)
        segment = algorithm._segment

        def counting(*args):
            actor, update = segment(*args)
            self._zeros.append(not update.gradient.any())
            return actor, update

        algorithm._segment = counting

    def poison(self, rng, kind):
        for worker, actor in enumerate(self.state.actors):
            self.state.actors[worker], _ = poisoned(actor, rng, kind)

    def train(self, updates):
        """Train until each worker made `updates` updates; return the number of refused ones."""
        algorithm, shared, total = self._agent, self.state.shared, 0
        self._zeros.clear()
        goal = [done + updates for done in shared.updates_per_worker]
        while any(
            done < least for done, least in zip(shared.updates_per_worker, goal, strict=True)
        ):
            more = shared.env_steps + 5 * NUM_WORKERS * updates
            progress = algorithm.run(self.state, until=more).progress
            total += int(progress.metric_sums["nonfinite_gradients"])
            moments = shared.moments, shared.worker_moments, self.state.opt_states
            assert finite((shared.flat_params, moments))
            assert finite(list(progress.metric_sums.values()))
        assert total == sum(self._zeros), "as many as had a gradient of zeros"
        return total


def test_what_is_not_finite_at_a_random_update(count, figure):
    rng = np.random.default_rng(0)
    methods, clipping, booleans = ("a2c", "a3c"), (0.5, None), (False, True)
    setups = [
        Setup(*x) for x in itertools.product(methods, OPTIMIZERS, clipping, booleans, booleans)
    ]
    if count(1, 0):
        setups = [
            Setup("a2c", "momentum-sgd", None, True, False),
            Setup("a3c", "adam", 0.5, True, True),
        ]
    total, cases, refused = count(40, 1024), 0, collections.Counter()
    for setup in setups:
        kinds = itertools.cycle(list(KINDS)[1:])
        ours = learner(setup)
        for _ in range(total // len(setups)):
            kind = next(kinds)
            before = int(rng.integers(0, 10))
            assert ours.train(before) == 0, (setup, kind)
            ours.poison(rng, kind)
            seen = ours.train(2 * LENGTH // 5 + 2)  # until two episodes have ended
            assert seen > 0 or (setup.normalized and kind not in ALWAYS_REFUSED), (setup, kind)
            after = ours.train(4)
            assert after == 0, f"after {kind} {after} updates of {setup} were refused"
            cases, refused[kind] = cases + 1, refused[kind] + seen
    figure(
        f"{cases:,} cases in {len(setups)} setups: all parameters and statistics are finite; "
        f"{sum(refused.values()):,} updates refused, all counted, and none after the next reset",
        cases=cases,
        setups=len(setups),
        refused=dict(refused),
    )


def words_of(method, path, *more):
    """Return a command on a host environment whose rewards or observations become NaN."""
    words = [
        "train",
        method,
        "gymnasium:breaking:NotANumber-v0",
        "--quiet",
        "--num-envs",
        "2",
        "--hidden",
        "8",
    ]
    words += ["--eval-episodes", "1", "--run-dir", str(path), *more]
    return words + (["--num-workers", "2", "--no-stop-at-episode-end"] if method == "a3c" else [])


@pytest.mark.parametrize(
    ("method", "more"),
    [("a2c", ()), ("a3c", ("--normalize-observations", "--normalize-rewards", "--lstm"))],
)
def test_a_hundred_in_a_row_end_the_run(method, more, tmp_path, capsys):
    pytest.importorskip("gymnasium")
    run = RunDirectory(tmp_path / "run")
    words = words_of(method, run.path, "--total-timesteps", "1e9", "--lstm-size", "8", *more)
    assert cli.main(words) == 1
    told = capsys.readouterr().err.splitlines()
    assert "no gradient was finite in the last 100 updates" in told[
        -1
    ] and "Traceback" not in "".join(told)
    blamed = (
        r"gymnasium:breaking:NotANumber-v0 returned rewards that are not finite "
        r"in \d+ of \d+ updates: fix"
    )
    assert re.search(blamed, told[-1]) and "learning_rate" not in told[-1]
    summary, checkpoint = run.summary(), run.checkpoints.load("last")
    assert summary["status"] == "failed" and summary["nonfinite_gradients"] >= 100
    assert summary["nonfinite_rewards"] >= 100 and summary["nonfinite_observations"] == 0
    assert 0 < int(checkpoint.path.stem) == summary["env_steps"]
    assert finite(checkpoint.arrays)


@pytest.mark.parametrize("method", ["a2c", "a3c"])
@pytest.mark.parametrize(
    ("options", "returned"),
    [
        (["first=1"], "rewards that are not finite in {0} of {0} updates"),
        (["first=1000000", "blind=1"], "observations that are not finite in {0} of {0} updates"),
    ],
)
def test_a_short_run_without_an_accepted_update_is_no_success(
    method, options, returned, tmp_path, capsys
):
    pytest.importorskip("gymnasium")
    run = RunDirectory(tmp_path / "run")
    words = words_of(
        method, run.path, "--total-timesteps", "400", "--num-steps", "5", "--env-options", *options
    )
    assert cli.main(words) == 1
    summary, told = run.summary(), capsys.readouterr().err.splitlines()[-1]
    updates = summary["updates"]
    assert 40 <= updates < 100 and summary["nonfinite_gradients"] == updates
    assert summary["status"] == "failed" and summary["eval_return_mean"] is None
    assert (
        f"no gradient was finite in any of {updates} updates" in told
        and told.partition("error: ")[2] in summary["error"]
    )
    returned = returned.format(updates)
    blamed = f"gymnasium:breaking:NotANumber-v0 returned {returned}: fix the environment"
    assert blamed in told and "learning_rate" not in told


@pytest.mark.parametrize("method", ["a2c", "a3c"])
def test_finite_data_leave_the_learning_rate_to_blame(method, tmp_path, capsys):
    run = RunDirectory(tmp_path / "run")
    words = [
        "train",
        method,
        "gymnax:CartPole-v1",
        "--reward-scale",
        "1e38",
        "--total-timesteps",
        "1600",
    ]
    words += [
        "--num-envs",
        "8",
        "--num-steps",
        "5",
        "--quiet",
        "--run-dir",
        str(run.path),
        "--hidden",
        "8",
    ]
    assert cli.main(words + (["--no-stop-at-episode-end"] if method == "a3c" else [])) == 1
    summary, told = run.summary(), capsys.readouterr().err.splitlines()[-1]
    assert summary["status"] == "failed" and 40 <= summary["updates"] < 100
    assert f"no gradient was finite in any of {summary['updates']} updates" in told
    assert (
        "rewards and observations of gymnax:CartPole-v1 were finite: try a smaller learning_rate"
        in told
    )
    assert summary["nonfinite_rewards"] == summary["nonfinite_observations"] == 0


def test_a_run_with_some_skipped_updates_is_complete_and_says_so(tmp_path, capsys):
    """Of 40 updates of 2 x 5 steps, those with a NaN reward are skipped."""
    pytest.importorskip("gymnasium")
    run = RunDirectory(tmp_path / "run")
    more = ("--total-timesteps", "400", "--num-steps", "5", "--env-options", "first=111")
    assert cli.main(words_of("a2c", run.path, *more)) == 0
    summary, told = run.summary(), capsys.readouterr().err
    assert (
        summary["status"] == "completed" and summary["updates"] > summary["nonfinite_gradients"] > 0
    )
    assert summary["nonfinite_rewards"] == summary["nonfinite_gradients"]
    skipped = f"{summary['nonfinite_gradients']} of {summary['updates']} updates were skipped"
    assert skipped in told and "returned rewards that are not finite in" in told
