"""Rollouts of host environments against a plain loop: no step is lost or invented."""

import itertools
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_a3c import returns
from jax_a3c.acting.actor import NONE_CHOSEN
from jax_a3c.acting.groups import alternate, finish, init_host_actor, init_host_actors
from jax_a3c.acting.host_unroll import (
    as_rollout,
    compile_host_act,
    host_unroll,
    rollout_like,
    total,
)
from jax_a3c.acting.unroll import UnrollConfig
from jax_a3c.objectives import next_values
from tests.scripted import SCRIPTS, ScriptedFactory, ScriptedGroup, transitions

GAMMA, LAMBDA, STEPS = 0.9, 0.7, 7


class Values:
    """Network with values parameter * (s + 0.01 carry); the carry counts steps."""

    def initial_carry(self, batch_shape):
        return jnp.zeros(batch_shape)

    def apply(self, params, carry, observation, reset):
        def step(carry, row):
            observation, reset = row
            carry = jnp.where(reset, 0.0, carry) + 1.0
            return carry, params * (observation[..., 0] + 0.01 * carry)

        carry, values = jax.lax.scan(step, carry, (observation, reset))
        return carry, None, values


def act(params, key, t, carry, observation, reset, exploration, env_steps):
    carry = jnp.where(reset, 0.0, carry) + 1.0
    return carry, jnp.asarray(observation[:, 0] + t, jnp.int32) % 5, ()


def recording_act(params, key, t, carry, observation, *others):
    carry, action, _ = act(params, key, t, carry, observation, *others)
    return carry, action, {"seen": 2.0 * jnp.asarray(observation)}


def play(groups, segments, *, stop=False, discount=GAMMA, needs_next_action=False, act=act):
    """Play segments; return one rollout of the joined groups per segment, and episode sums."""
    network = Values()
    actors = [
        init_host_actor(
            group,
            network.initial_carry((group.num_envs,)),
            jax.random.key(i),
            needs_next_action=needs_next_action,
            needs_running_return=True,
        )
        for i, group in enumerate(groups)
    ]
    rollouts, sums = [], []
    for _ in range(segments):
        playing = [
            host_unroll(
                act,
                None,
                actor,
                UnrollConfig(STEPS, stop_at_episode_end=stop, discount=discount),
            )
            for actor in actors
        ]
        ends = [finish(playing[0], groups[0])] if len(groups) == 1 else alternate(playing, groups)
        actors = [end.actor for end in ends]
        rollouts.append(as_rollout([end.rollout for end in ends]))
        sums.append(total([end.episodes for end in ends]))
    return rollouts, sums


@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize("sizes", [(1,), (2, 1)])
def test_layers_stand_beside_the_observations_they_belong_to(stop, sizes):
    scripts = itertools.cycle(SCRIPTS)
    groups = [ScriptedGroup([next(scripts) for _ in range(size)]) for size in sizes]
    rollouts, _ = play(groups, 4, stop=stop and len(sizes) == 1, act=recording_act)
    for rollout in rollouts:
        np.testing.assert_array_equal(rollout.steps.extras["seen"], 2.0 * rollout.steps.observation)


def plain(script, steps):
    """Return the first steps of a script, None where a step only resets."""
    return list(itertools.islice(transitions(script), steps))


def value(params, episode, t):
    return params * (ScriptedGroup.observation(episode, t) + 0.01 * (t + 1))


def expected_returns(rows, params):
    """Return the lambda-returns of one environment by recursion over its real steps."""
    out, following = [0.0] * len(rows), None
    for i in reversed(range(len(rows))):
        if rows[i] is None:
            following = None
            continue
        episode, t, reward, terminated, truncated, _ = rows[i]
        bootstrap = value(params, episode, t + 1)
        if terminated:
            out[i] = reward
        elif truncated or following is None:
            out[i] = reward + GAMMA * bootstrap
        else:
            out[i] = reward + GAMMA * ((1 - LAMBDA) * bootstrap + LAMBDA * following)
        following = out[i]
    return out


@pytest.mark.parametrize("num_groups", [1, 2])
def test_every_return_is_that_of_a_plain_loop(num_groups):
    segments, network, params = 20, Values(), 3.0
    halves = np.array_split(np.arange(len(SCRIPTS)), num_groups)
    groups = [ScriptedGroup([SCRIPTS[i] for i in half]) for half in halves]
    rollouts, _ = play(groups, segments)
    truth = [plain(script, segments * STEPS) for script in SCRIPTS]
    real = 0
    for k, rollout in enumerate(rollouts):
        steps = rollout.steps
        values = network.apply(params, rollout.carry, steps.observation, steps.reset)[2]
        bootstrap = next_values(network, params, rollout, values)
        targets = returns.lambda_returns(
            steps.reward,
            GAMMA * (1.0 - steps.terminated),
            bootstrap,
            LAMBDA * (1.0 - steps.truncated),
        )
        for env, rows in enumerate(truth):
            window = rows[k * STEPS : (k + 1) * STEPS]
            mask = [row is not None for row in window]
            assert steps.mask[:, env].tolist() == mask
            real += sum(mask)
            for t, row in enumerate(window):
                if row is not None:
                    assert steps.observation[t, env, 0] == ScriptedGroup.observation(*row[:2])
                    assert bool(steps.reset[t, env]) == (row[1] == 0)
                    assert (float(steps.reward[t, env]), bool(steps.terminated[t, env])) == row[2:4]
            got = np.asarray(targets[:, env])[mask]
            np.testing.assert_allclose(
                got, np.array(expected_returns(window, params))[mask], rtol=1e-6
            )
    ends = {(r[3], r[4]) for rows in truth for r in rows if r is not None}
    assert {(True, False), (False, True), (True, True)} <= ends and real > 500


def test_games_are_counted_with_unclipped_scores_and_a_lost_life_is_none():
    groups, segments = [ScriptedGroup(SCRIPTS)], 20
    _, sums = play(groups, segments)
    games = returned = length = taken = 0
    for script in SCRIPTS:
        score = steps = 0
        for row in plain(script, segments * STEPS):
            if row is None:
                continue
            _, _, reward, _, _, game_over = row
            score, steps, taken = score + 2 * reward, steps + 1, taken + 1
            if game_over:
                games, returned, length = games + 1, returned + score, length + steps
                score = steps = 0
    np.testing.assert_allclose(np.sum(sums, axis=0), [taken, games, returned, length])
    assert all(one.env_steps.dtype == np.uint32 for one in sums)
    assert games > 20


def test_discounted_returns_begin_anew_with_each_episode():
    rollouts, _ = play([ScriptedGroup(SCRIPTS)], 10)
    got = np.concatenate([rollout.steps.running_return for rollout in rollouts])
    for env, script in enumerate(SCRIPTS):
        total = 0.0
        for t, row in enumerate(plain(script, 10 * STEPS)):
            if row is None:
                total = 0.0
                continue
            total = row[2] + GAMMA * total
            np.testing.assert_allclose(got[t, env], total, rtol=1e-6)


def test_a_segment_ends_with_the_episode():
    script = SCRIPTS[:1]
    rollouts, _ = play([ScriptedGroup(script)], 12, stop=True)
    rows, at = plain(script[0], 200), 0
    for rollout in rollouts:
        window, taken = [], 0
        for row in rows[at : at + STEPS]:
            window.append(row)
            taken += 1
            if row is not None and (row[3] or row[4]):
                break
        at += taken
        mask = rollout.steps.mask[:, 0].tolist()
        assert mask == [row is not None for row in window] + [False] * (STEPS - taken)
        values = Values().apply(2.0, rollout.carry, rollout.steps.observation, rollout.steps.reset)[
            2
        ]
        following = next_values(Values(), 2.0, rollout, values)[:, 0]
        for t, row in enumerate(window):
            if row is not None:
                np.testing.assert_allclose(following[t], value(2.0, row[0], row[1] + 1), rtol=1e-6)


def test_an_action_chosen_ahead_is_the_one_taken():
    rollouts, _ = play([ScriptedGroup(SCRIPTS)], 6, needs_next_action=True)
    for before, after in itertools.pairwise(rollouts):
        np.testing.assert_array_equal(before.steps.next_action[-1], after.steps.action[0])
        np.testing.assert_array_equal(before.steps.next_action[:-1], before.steps.action[1:])
        assert (before.steps.next_action != NONE_CHOSEN).all()


def test_a_cut_segment_looks_ahead_from_its_own_last_step():
    rollouts, _ = play([ScriptedGroup(SCRIPTS[:1])], 12, stop=True, needs_next_action=True)
    cut = 0
    for before, after in itertools.pairwise(rollouts):
        taken = int(np.flatnonzero(before.steps.mask[:, 0]).max()) + 1
        cut += taken < STEPS
        assert before.steps.next_action[taken - 1, 0] == after.steps.action[0, 0]
    assert cut


def test_the_behaviour_gets_its_parameters_its_exploration_and_the_steps_so_far():
    """Each step has another number, from which `compile_host_act` makes another key."""
    seen = []

    def telling(params, key, t, carry, observation, reset, exploration, env_steps):
        seen.append((params, int(t), exploration.tolist(), float(env_steps)))
        return carry, np.zeros(reset.shape, np.int32), ()

    group = ScriptedGroup(SCRIPTS[:2])
    explore = lambda key, num_envs: np.arange(num_envs) + 0.5  # noqa: E731
    actor = init_host_actor(group, (), jax.random.key(0), explore=explore)
    playing = host_unroll(telling, "theta", actor, UnrollConfig(3), 60.0)
    end = finish(playing, group)
    assert seen == [("theta", t, [0.5, 1.5], 60.0) for t in range(3)]
    assert end.actor.exploration.tolist() == [0.5, 1.5] and end.rollout.extras == ()
    assert (jax.random.key_data(end.actor.key) != jax.random.key_data(actor.key)).any()


@pytest.mark.parametrize("extras", [False, True])
def test_programs_compiled_for_zeros_take_real_rollouts(extras):
    """`compile_host_act` and `rollout_like` have the shapes and dtypes of what is played."""

    def behaviour(params, key, carry, observation, reset, exploration, env_steps):
        action = jax.random.randint(key, reset.shape, 0, 5)
        carry = jnp.where(reset, 0.0, carry) + params
        return carry, action, {"seen": 2.0 * observation} if extras else ()

    group = ScriptedGroup(SCRIPTS[:2])
    actor = init_host_actor(group, jnp.zeros(2), jax.random.key(0), needs_running_return=True)
    compiled, kept = compile_host_act(
        behaviour, np.float32(1), actor, lambda act, *args: jax.jit(act).lower(*args).compile()
    )
    like = rollout_like(actor, group.spec, STEPS, kept)
    config = UnrollConfig(STEPS, discount=GAMMA)
    played = finish(host_unroll(compiled, np.float32(1), actor, config), group).rollout
    kinds = [
        jax.tree.map(lambda x: (x.shape, x.dtype), jax.eval_shape(as_rollout, [rollout]))
        for rollout in (like, played)
    ]
    assert kinds[0] == kinds[1]
    assert (kinds[0].steps.extras == ()) == (not extras)
    assert len(set(map(tuple, np.asarray(played.steps.action).tolist()))) > 1, "one key per step"


def test_groups_share_no_seed():
    def seeds(key):
        factory, sizes = ScriptedFactory(), [3, 8, 2]
        init_host_actors(factory, Values(), jax.random.key(key), sizes)
        return {
            seed + i for seed, size in zip(factory.seeds, sizes, strict=True) for i in range(size)
        }

    assert len(seeds(0)) == 13 and not seeds(0) & seeds(1)


def test_no_group_is_left_open_if_one_cannot_be_started():
    class Failing(ScriptedFactory):
        def make(self, num_envs, **options):
            if len(self.groups) == 2:
                raise OSError("no more")
            return super().make(num_envs, **options)

    factory = Failing()
    with pytest.raises(OSError, match="no more"):
        init_host_actors(factory, Values(), jax.random.key(0), [1, 1, 1])
    assert [group.closed for group in factory.groups] == [True, True]


@pytest.mark.parametrize("error", [StopIteration, ValueError])
def test_a_step_that_raises_ends_the_other_groups_step_too(error):
    """StopIteration counts too, although it would end a generator."""
    groups, under_way = [ScriptedGroup(SCRIPTS[:2]), ScriptedGroup(SCRIPTS[2:])], []

    def slow(action, step=groups[0].step):
        under_way.append(True)
        time.sleep(0.05)
        under_way.pop()
        return step(action)

    def broken(action):
        raise error("broken")

    groups[0].step, groups[1].step = slow, broken
    with pytest.raises((error, RuntimeError)):
        play(groups, 1)
    assert not under_way
    assert not [
        thread for thread in threading.enumerate() if thread.name.startswith("environments")
    ]
    with pytest.raises((error, RuntimeError)):
        play(groups[1:], 1)
