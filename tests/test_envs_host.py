"""Adapters of host environments: shared parts, and each adapter against a plain loop."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from concurrency import PATIENCE

from jax_a3c import envs
from jax_a3c.envs import envpool as envpool_adapter
from jax_a3c.envs import host
from jax_a3c.errors import InputError

envpool = pytest.importorskip("envpool", reason="pip install 'jax-a3c[envpool]'")
gymnasium = pytest.importorskip("gymnasium", reason="pip install 'jax-a3c[gymnasium]'")
spaces = gymnasium.spaces


# --- Layouts and checks


def test_images_with_channels_first_become_channels_last():
    layout = host.observation_layout("e", spaces.Box(0, 255, (4, 84, 84), np.uint8))
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 84, 84), np.uint8)
    assert (layout.shape, layout.dtype) == ((84, 84, 4), np.uint8)
    np.testing.assert_array_equal(layout.convert(images), images.transpose(0, 2, 3, 1))
    for shape in [(96, 96, 3), (7, 7, 3), (210, 160, 3)]:
        assert host.observation_layout("e", spaces.Box(0, 255, shape, np.uint8)).shape == shape


@pytest.mark.parametrize(
    ("space", "high"),
    [
        (spaces.Box(0, 2, (9,), np.uint8), 2.0),
        (spaces.Box(0, 1, (3, 8, 8), np.uint8), 1.0),  # channels first
        (spaces.Box(0, 255, (4, 84, 84), np.uint8), 255.0),
        (spaces.Box(np.uint8([0, 0]), np.uint8([3, 7]), dtype=np.uint8), 7.0),
        (spaces.Box(0, 0, (9,), np.uint8), None),  # nothing is divided by 0
        (spaces.Box(0, 2, (9,), np.int32), None),
        (spaces.Box(0, 1, (9,), np.bool_), None),
        (spaces.Dict(a=spaces.Box(0, 2, (9,), np.uint8)), None),  # float32: not scaled
    ],
)
def test_the_bound_of_uint8_is_known(space, high):
    assert host.observation_layout("e", space).high == high


def test_a_dict_is_one_vector_in_the_order_of_its_keys():
    space = spaces.Dict(
        velocity=spaces.Box(-1, 1, (2,), np.float64),
        direction=spaces.Discrete(3, start=1),
        mission=spaces.Text(5),
        image=spaces.Box(0, 255, (2, 1), np.uint8),
        nested=spaces.Tuple((spaces.MultiBinary(2), spaces.MultiDiscrete([2, 3]))),
    )
    layout = host.observation_layout("e", space)
    value = {
        "velocity": np.array([[0.5, -0.5]]),
        "direction": np.array([3]),
        "mission": ("go",),
        "image": np.array([[[7], [9]]], np.uint8),
        "nested": (np.array([[0, 1]], np.int8), np.array([[1, 2]])),
    }
    expected = [[0, 0, 1, 7, 9, 0, 1, 0, 1, 0, 0, 1, 0.5, -0.5]]
    np.testing.assert_array_equal(layout.convert(value), np.array(expected, np.float32))
    assert layout.dtype == layout.convert(value).dtype == np.float32
    assert layout.shape == (14,)


@pytest.mark.parametrize(
    ("space", "dtype"),
    [
        (spaces.Box(-1, 1, (2,), np.float64), np.float32),
        (spaces.Box(0, 9, (2,), np.int64), np.int32),
        (spaces.Box(0, 2**40, (2,), np.int64), np.float32),  # would wrap round in 32 bits
        (spaces.Box(0, 255, (128,), np.uint8), np.uint8),
    ],
)
def test_64_bits_become_32(space, dtype):
    layout = host.observation_layout("e", space)
    assert layout.dtype == layout.convert(np.zeros((3, *space.shape), space.dtype)).dtype == dtype


def test_categories_begin_at_zero():
    layout = host.observation_layout("e", spaces.Discrete(4, start=2))
    assert (layout.shape, layout.num_categories) == ((), 4)
    np.testing.assert_array_equal(layout.convert(np.array([2, 5])), [0, 3])


@pytest.mark.parametrize(
    "space", [spaces.Text(5), spaces.Dict(a=spaces.Text(3)), spaces.Sequence(spaces.Discrete(2))]
)
def test_observations_without_a_layout_are_refused(space):
    with pytest.raises(InputError, match=r"'e' has (no numbers|the unsupported observation space)"):
        host.observation_layout("e", space)


@pytest.mark.parametrize(
    "space", [spaces.MultiDiscrete([2, 2]), spaces.Box(0, 1, (2, 2)), spaces.Text(3)]
)
def test_actions_without_a_policy_are_refused(space):
    with pytest.raises(InputError, match="supported are Discrete and Box of one axis"):
        host.action_space("e", space)


DISCRETE = envs.EnvSpec(
    id="e", observation_shape=(), observation_dtype=float, action_space=envs.Discrete(num_actions=3)
)
REAL = envs.EnvSpec(
    id="e",
    observation_shape=(),
    observation_dtype=float,
    action_space=envs.Box(low=(-1.0,), high=(2.0,)),
)


@pytest.mark.parametrize(
    ("spec", "action", "message"),
    [
        (DISCRETE, [0, 3], "between 0 and 2"),
        (DISCRETE, [0, -1], "between 0 and 2"),
        (DISCRETE, [0.0, 1.0], "2 integers"),
        (DISCRETE, [0], "2 integers"),
        (DISCRETE, [[0, 1]], "2 integers"),
        (REAL, [0.0, 1.0], r"reals of shape \[N, A\] = \(2, 1\)"),
        (REAL, [["a"], ["b"]], "reals"),
    ],
)
def test_an_action_that_does_not_fit_is_refused(spec, action, message):
    with pytest.raises(InputError, match=message):
        host.checked_action(spec, 2, np.array(action))


def test_an_action_that_is_not_finite_is_no_users_mistake():
    with pytest.raises(FloatingPointError, match="the action of 'e' is not finite"):
        host.checked_action(REAL, 2, np.array([[np.nan], [0.0]]))


def test_real_actions_are_clipped_to_their_bounds():
    action = host.checked_action(REAL, 2, np.array([[-5.0], [5.0]]))
    np.testing.assert_array_equal(action, np.array([[-1.0], [2.0]], np.float32))


def a_step(**other):
    """Return a step of two environments of `DISCRETE` with some fields replaced."""
    zeros, no = np.zeros(2, np.float32), np.zeros(2, bool)
    usual = envs.HostStep(np.zeros(2), zeros, no, no, no, zeros, no)
    return usual._replace(**other)


def test_a_step_that_fits_passes():
    host.check_step(DISCRETE, 2, a_step())
    host.check_step(
        DISCRETE, 2, a_step(reward=np.zeros(2), raw_reward=np.zeros(2, int), observation=[0, 1])
    )
    host.check_observation(DISCRETE, 2, np.zeros(2, np.float32), "reset")


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            a_step(reward=np.zeros((2, 1))),
            r"reward of shape \(2,\) and dtype float32, got shape \(2, 1\)",
        ),
        (a_step(reward=[None, 1.0]), "reward of shape .*, got shape .* and dtype object"),
        (
            a_step(raw_reward=np.float32(1)),
            r"raw_reward of shape \(2,\) and dtype float32, got shape \(\)",
        ),
        (
            a_step(terminated=np.zeros(2)),
            "terminated of shape .* and dtype bool, got .* and dtype float64",
        ),
        (a_step(truncated=np.zeros(2, int)), "truncated of shape"),
        (a_step(reset_step=np.zeros(1, bool)), "reset_step of shape"),
        (a_step(game_over=None), "game_over of shape"),
        (a_step(observation=np.zeros((2, 1))), r"observation of shape \(2,\) and dtype float64"),
        ((0, 0.0, False, False, {}), "a HostStep, got"),
    ],
)
def test_a_step_that_does_not_fit_is_told(step, message):
    with pytest.raises(envs.HostEnvironmentError, match=rf"^step\(\) of 'e' must return {message}"):
        host.check_step(DISCRETE, 2, step)


@pytest.mark.parametrize(
    ("seed", "num_envs"),
    [(-1, 2), (2**31 - 1, 2), ([1], 2), ([1, -1], 2), (1.5, 2), (0, 0), (True, 1)],
)
def test_a_seed_that_the_libraries_would_misread_is_refused(seed, num_envs):
    with pytest.raises(InputError, match=r"seed|num_envs"):
        host.checked_seeds(seed, num_envs)


def test_a_call_that_is_answered_in_time_gives_its_answer():
    calls = host.BoundedCalls("e", PATIENCE)
    assert calls("adding", lambda a, b: a + b, 1, 2) == 3
    calls.close()


def test_a_call_that_hangs_is_left_behind():
    calls, release = host.BoundedCalls("e", 0.05), threading.Event()
    with pytest.raises(
        envs.HostEnvironmentError, match=r"'e' hangs: step did not return within 0.05 seconds"
    ):
        calls("step", release.wait)
    with pytest.raises(envs.HostEnvironmentError, match="hangs"):
        calls("step", time.sleep, 0)
    release.set()
    calls.close()


@pytest.mark.parametrize("timeout", [None, 100.0])
def test_a_call_beside_one_that_hangs_is_refused_at_once(timeout):
    """This happens when the environment of an abandoned worker is closed."""
    calls, entered, release = host.BoundedCalls("e", timeout), threading.Event(), threading.Event()
    results = []

    def hang():
        entered.set()
        release.wait()
        return 7

    work = threading.Thread(target=lambda: results.append(calls("step", hang)))
    work.start()
    entered.wait()
    with pytest.raises(envs.HostEnvironmentError, match="'e' is busy"):
        calls("close", time.sleep, 0)
    calls.close()
    release.set()
    work.join()
    assert results == [7]


# --- envpool: rare cases, with a fake pool


class FakePool:
    """Pool that replays results of `step`: reward, terminated, truncated, info, `[N]` each."""

    def __init__(self, *results):
        self._results = list(results)
        self.actions = []

    def reset(self):
        return np.zeros((2, 1), np.float32), {"lives": np.array([3, 3], np.int32)}

    def step(self, action):
        self.actions.append(action)
        reward, terminated, truncated, info = self._results.pop(0)
        observation = np.full((2, 1), len(self.actions), np.float32)
        return (
            observation,
            np.array(reward, np.float32),
            np.array(terminated, bool),
            np.array(truncated, bool),
            {key: np.array(value) for key, value in info.items()},
        )


def play(pool, **adaptation):
    """Play all steps of a fake pool."""
    environment = envpool_adapter.EnvpoolEnvironment(
        lambda: pool,
        DISCRETE,
        host.observation_layout("e", spaces.Box(0, 1, (1,), np.float32)),
        num_envs=2,
        adaptation=envpool_adapter.Adaptation(**adaptation),
    )
    environment.reset()
    return [environment.step(np.array([1, 2])) for _ in range(len(pool._results))]


def flags(step):
    """Return one letter per set flag, for each environment."""
    names = zip(
        "TCIG", (step.terminated, step.truncated, step.reset_step, step.game_over), strict=True
    )
    columns = [(letter, values) for letter, values in names]
    return ["".join(letter for letter, values in columns if values[i]) for i in range(2)]


def test_a_stale_reward_on_the_step_that_resets_is_dropped():
    pool = FakePool(
        ([3, 1], [0, 0], [1, 0], {}), ([3, 1], [0, 0], [0, 0], {}), ([2, 1], [0, 1], [0, 0], {})
    )
    steps = play(pool)
    assert [flags(step) for step in steps] == [["CG", ""], ["I", ""], ["", "TG"]]
    assert [step.reward.tolist() for step in steps] == [[3, 1], [0, 1], [2, 1]]
    assert [step.raw_reward.tolist() for step in steps] == [[3, 1], [0, 1], [2, 1]]


def test_an_environment_that_ends_in_its_reset_step_is_ignored_once_more():
    none = ([0, 0], [0, 0], [0, 0], {})
    steps = play(FakePool(([0, 0], [1, 0], [0, 0], {}), ([5, 0], [1, 0], [0, 0], {}), none, none))
    assert [flags(step)[0] for step in steps] == ["TG", "IG", "I", ""]
    assert not any(step.reward.any() for step in steps)


def atari(lives, terminated, reward):
    return {"lives": lives, "terminated": terminated, "reward": reward}


def test_atari_tells_a_game_that_ended_in_its_last_allowed_step_and_the_unclipped_score():
    pool = FakePool(
        ([1, -1], [0, 0], [0, 0], atari([3, 3], [0, 0], [7.0, -4.0])),
        ([1, 0], [0, 0], [1, 1], atari([0, 3], [1, 0], [9.0, 0.0])),
    )
    steps = play(pool)
    assert [flags(step) for step in steps] == [["", ""], ["TCG", "CG"]]
    assert [step.reward.tolist() for step in steps] == [[1, -1], [1, 0]]
    assert [step.raw_reward.tolist() for step in steps] == [[7, -4], [9, 0]]


def test_a_lost_life_ends_an_episode_and_not_the_game():
    pool = FakePool(
        ([0, 0], [1, 0], [0, 0], atari([2, 3], [0, 0], [0.0, 0.0])),
        ([0, 0], [0, 0], [0, 0], atari([2, 3], [0, 0], [0.0, 0.0])),
        (
            [0, 0],
            [0, 1],
            [1, 0],
            atari([1, 0], [0, 1], [0.0, 0.0]),
        ),  # a life in the last allowed step
        ([0, 0], [0, 0], [0, 0], atari([3, 3], [0, 0], [0.0, 0.0])),
    )
    steps = play(pool, life_loss_terminates=True)
    assert [flags(step) for step in steps] == [["T", ""], ["I", ""], ["TCG", "TG"], ["I", "I"]]


def test_the_goal_reward_is_given_back_where_the_task_terminates():
    pool = FakePool(([0, 0], [1, 0], [0, 1], {}), ([0, 0], [0, 0], [0, 0], {}))
    steps = play(pool, goal_reward=1.0)
    assert [step.reward.tolist() for step in steps] == [[1, 0], [0, 0]]
    assert [step.raw_reward.tolist() for step in steps] == [[1, 0], [0, 0]]


def test_discrete_actions_stand_for_vectors():
    pool = FakePool(([0, 0], [0, 0], [0, 0], {}))
    play(pool, actions=envpool_adapter.CAR_RACING_ACTIONS)
    np.testing.assert_array_equal(
        pool.actions[0], np.array([[0.6, 0, 0], [-0.6, 0, 0]], np.float32)
    )


# --- Against plain loops


def random_actions(spec, steps, num_envs, seed=0):
    rng = np.random.default_rng(seed)
    if isinstance(spec.action_space, envs.Discrete):
        return rng.integers(0, spec.action_space.num_actions, (steps, num_envs))
    low, high = spec.action_space.low, spec.action_space.high
    return rng.uniform(low, high, (steps, num_envs, len(low))).astype(np.float32)


def plain_pool(name, seed, actions, **settings):
    """Play one environment of envpool: observation, and reward and flags or None for a reset."""
    env = envpool.make_gymnasium(name, num_envs=1, seed=seed, **settings)
    yield env.reset()[0], None
    over = False
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(np.array([action]))
        yield observation, None if over else (reward[0], terminated[0], truncated[0])
        over = terminated[0] or truncated[0]


def plain_gymnasium(name, seed, actions, **settings):
    """Play the loop of Gymnasium's front page; a reset takes one step."""
    env = gymnasium.make(name, **settings)
    yield env.reset(seed=seed)[0], None
    over = False
    for action in actions:
        if over:
            observation, over = env.reset()[0], False
            yield observation, None
            continue
        observation, reward, terminated, truncated, _ = env.step(action)
        over = terminated or truncated
        yield observation, (reward, terminated, truncated)


def vector(observation):
    """Convert an array or a dict of arrays as the adapters should."""
    if not isinstance(observation, dict):
        return np.asarray(observation, np.float32)
    if "direction" in observation:  # MiniGrid
        one_hot = np.eye(4)[observation["direction"]]
        return np.concatenate([one_hot, observation["image"].reshape(1, -1)], 1).astype(np.float32)
    return np.concatenate(
        [np.reshape(observation[key], (1, -1)) for key in sorted(observation)], 1
    ).astype(np.float32)


def check_against(plain, env_id, steps, num_envs=2, options=None, settings=None, squeeze=True):
    """Check that the adapter returns what a plain loop over single environments returns."""
    factory = envs.make(env_id, **(options or {}))
    actions = random_actions(factory.spec, steps, num_envs)
    environment = factory.make(num_envs, seed=5, num_threads=1)
    first = environment.reset()
    played = [environment.step(action) for action in actions]
    environment.close()
    name = env_id.partition(":")[2]
    episodes = 0
    for i in range(num_envs):
        loop = plain(name, 5 + i, actions[:, i], **(settings or options or {}))
        observation, _ = next(loop)
        np.testing.assert_array_equal(np.squeeze(first[i]), np.squeeze(vector(observation)))
        for step, (observation, transition) in zip(played, loop, strict=True):
            np.testing.assert_array_equal(
                np.squeeze(step.observation[i]), np.squeeze(vector(observation))
            )
            assert bool(step.reset_step[i]) == (transition is None)
            reward, terminated, truncated = transition or (0.0, False, False)
            assert step.reward[i] == np.float32(reward)
            assert (step.terminated[i], step.truncated[i]) == (terminated, truncated)
            episodes += bool(terminated or truncated)
    assert episodes > 0
    assert played[0].observation.shape == (num_envs, *factory.spec.observation_shape)
    assert played[0].observation.dtype == factory.spec.observation_dtype
    assert played[0].reward.dtype == played[0].raw_reward.dtype == np.float32
    return played


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("CartPole-v1", {}),
        ("InvertedPendulum-v5", {}),
        ("HalfCheetah-v5", {}),
        ("CartpoleSwingup-v1", {}),
        ("MiniGrid-Empty-5x5-v0", {}),
    ],
)
def test_10_000_steps_of_envpool_are_those_of_a_plain_loop(name, options):
    check_against(plain_pool, f"envpool:{name}", 5_000, options=options)


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1"])
def test_10_000_steps_of_gymnasium_are_those_of_a_plain_loop(name):
    check_against(plain_gymnasium, f"gymnasium:{name}", 5_000)


def test_lunar_lander_is_that_of_a_plain_loop():
    pytest.importorskip("Box2D", reason="pip install 'jax-a3c[gymnasium]'")
    check_against(plain_gymnasium, "gymnasium:LunarLander-v3", 5_000)


def atari_pixels(name, seed, actions, **settings):
    for observation, transition in plain_pool(name, seed, actions, **settings):
        yield observation.transpose(0, 2, 3, 1), transition


def test_pong_is_that_of_a_plain_loop():
    options = {"max_episode_steps": 200}
    played = check_against(
        atari_pixels,
        "envpool:Pong-v5",
        500,
        options=options,
        settings={**options, "reward_clip": True},
    )
    assert played[0].observation.dtype == np.uint8


def test_lives_of_breakout():
    factory = envs.make("envpool:Breakout-v5", episodic_life=True)
    environment = factory.make(1, seed=1)
    environment.reset()
    steps = [environment.step(np.zeros(1, int)) for _ in range(300)]
    environment.close()
    lost, games = (
        sum(bool(getattr(step, name)[0]) for step in steps) for name in ("terminated", "game_over")
    )
    assert lost >= 10 and lost // 5 == games
    assert sum(bool(step.reset_step[0]) for step in steps) == lost


def test_car_racing_with_five_actions():
    factory = envs.make("envpool:CarRacing-v3", continuous=False, max_episode_steps=4)
    assert factory.spec.action_space == envs.Discrete(num_actions=5)
    assert factory.spec.observation_shape == (96, 96, 3)
    environment = factory.make(1)
    environment.reset()
    steps = [environment.step(np.array([3])) for _ in range(6)]
    environment.close()
    assert [bool(step.truncated[0]) for step in steps] == [False] * 3 + [True] + [False] * 2
    assert [bool(step.reset_step[0]) for step in steps] == [False] * 4 + [True] + [False]


@pytest.mark.parametrize("name", ["MyWayHome-v1", "HealthGathering-v1"])
def test_vizdoom(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # Doom writes a settings file into the current folder
    factory = envs.make(f"envpool:{name}", max_episode_steps=5)
    assert factory.spec.observation_shape == (84, 84, 12)
    environment = factory.make(1, seed=1)
    environment.reset()
    steps = [environment.step(np.zeros(1, int)) for _ in range(7)]
    environment.close()
    assert [bool(step.truncated[0]) for step in steps] == [False] * 4 + [True, False, False]
    assert [bool(step.reset_step[0]) for step in steps] == [False] * 5 + [True, False]
    assert not any(step.terminated[0] for step in steps)
    if name == "MyWayHome-v1":
        assert not any(step.reward[0] for step in steps)


def test_seeds_are_those_of_each_environment():
    factory = envs.make("envpool:CartPole-v1")
    first, second = factory.make(3, seed=5).reset(), factory.make(2, seed=[7, 5]).reset()
    np.testing.assert_array_equal(first[[2, 0]], second)


# --- Mistakes


@pytest.mark.parametrize(
    ("env_id", "options", "message"),
    [
        ("envpool:Pong-v4", {}, "did you mean .*'envpool:Pong-v5'"),
        ("gymnasium:LunarLander-v33", {}, "did you mean 'gymnasium:LunarLander"),
        ("envpool:TicTacToe-v1", {}, "were not tested; supported are atari"),
        (
            "envpool:Pong-v5",
            {"noop_max": 0},
            "noop_max of 'envpool:Pong-v5' must be an integer of at least 1",
        ),
        ("envpool:Pong-v5", {"stack_num": 0}, "at least 1"),
        ("envpool:Pong-v5", {"noop_maxx": 1}, "no setting 'noop_maxx'; did you mean 'noop_max'"),
        ("envpool:Pong-v5", {"mode": 99}, "envpool refuses .*: Invalid game mode requested"),
        ("envpool:Pong-v5", {"num_envs": 1}, "no setting 'num_envs'"),
        ("envpool:Pong-v5", {"episodic_life": "no"}, "must be True or False"),
        ("envpool:Pong-v5", {"repeat_action_probability": 2.0}, "between 0 and 1"),
        ("envpool:MiniGrid-Empty-5x5-v0", {"size": -3}, "no setting 'size'"),
        ("envpool:MyWayHome-v1", {"max_episode_steps": 526}, "at most 2100"),
        ("gymnasium:CartPole-v1", {"gravity": 1}, "no setting 'gravity'"),
        ("gymnasium:CartPole-v1", {"max_episode_steps": 0}, "an integer of at least 1, got 0"),
        ("gymnasium:CartPole-v1", {"max_episode_steps": "7"}, "an integer of at least 1, got '7'"),
        ("gymnasium:FrozenLake-v1", {"map_name": "9x9"}, "cannot be made with {'map_name': '9x9'}"),
        ("gymnasium:CartPole-v1", {"timeout": 1e300}, "timeout must be a number above 0"),
        ("envpool:CartPole-v1", {"timeout": 0}, "timeout must be a number above 0"),
        ("gymnasium:no_such_module:Id-v0", {}, "needs the module 'no_such_module'"),
        ("gymnasium:json:Id-v0", {}, "the module 'json' registers no environment 'Id-v0'"),
    ],
)
def test_a_wrong_id_or_setting_is_refused(env_id, options, message):
    with pytest.raises(InputError, match=message):
        envs.make(env_id, **options)


@pytest.mark.parametrize("env_id", ["envpool:CartPole-v1", "gymnasium:CartPole-v1"])
def test_steps_out_of_order_are_refused(env_id):
    environment = envs.make(env_id).make(2)
    with pytest.raises(InputError, match=r"call reset\(\)"):
        environment.step(np.zeros(2, int))
    environment.reset()
    with pytest.raises(InputError, match="between 0 and 1"):
        environment.step(np.array([0, 2]))
    environment.close()
    environment.close()
    with pytest.raises(envs.HostEnvironmentError, match="is closed"):
        environment.step(np.zeros(2, int))


@pytest.mark.parametrize("backend", ["envpool", "gymnasium"])
def test_a_missing_library_says_how_to_install_it(backend, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert getattr(envs, backend).available() == []
    with pytest.raises(InputError, match=rf"pip install 'jax-a3c\[{backend}\]'"):
        envs.make(f"{backend}:CartPole-v1")


# --- User environments

USER_MODULE = '''
import time
import gymnasium
import numpy as np

class Trouble(gymnasium.Env):
    """Count steps; set both flags at 3; action 1 raises, action 2 hangs."""
    observation_space = gymnasium.spaces.Dict(b=gymnasium.spaces.Box(-9, 9, (1,), np.float64),
                                              a=gymnasium.spaces.Discrete(2))
    action_space = gymnasium.spaces.Discrete(3, start=1)

    def __init__(self, pause=0.0):
        self.pause = pause

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.observe(), {}

    def step(self, action):
        assert action in self.action_space
        if action == 2:
            raise ZeroDivisionError("on purpose")
        if action == 3:
            time.sleep(self.pause)
        self.time += 1
        return self.observe(), 1.5, self.time == 3, self.time == 3, {}

    def observe(self):
        return {"a": self.time % 2, "b": np.array([self.time], np.float64)}

gymnasium.register("Trouble-v0", entry_point=Trouble, max_episode_steps=100)
'''


@pytest.fixture(scope="module")
def user_module(tmp_path_factory):
    """Put a user's module that registers an environment on the path."""
    folder: Path = tmp_path_factory.mktemp("user")
    (folder / "user_trouble.py").write_text(USER_MODULE)
    sys.path.insert(0, str(folder))
    yield "user_trouble"
    sys.path.remove(str(folder))
    gymnasium.registry.pop("Trouble-v0", None)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_environment_of_the_user(user_module):
    factory = envs.make(f"gymnasium:{user_module}:Trouble-v0", pause=0.0)
    assert factory.spec.observation_shape == (3,)
    assert factory.spec.max_episode_steps == 100
    environment = factory.make(2)
    assert environment.reset().tolist() == [[1, 0, 0]] * 2
    steps = [environment.step(np.zeros(2, int)) for _ in range(5)]
    environment.close()
    assert [step.observation[0].tolist() for step in steps] == [
        [0, 1, 1],
        [1, 0, 2],
        [0, 1, 3],  # the final observation
        [1, 0, 0],
        [0, 1, 1],
    ]
    assert [flags(step)[1] for step in steps] == ["", "", "TCG", "I", ""]
    assert [step.reward[0] for step in steps] == [1.5, 1.5, 1.5, 0, 1.5]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_environment_that_raises(user_module):
    environment = envs.make(f"gymnasium:{user_module}:Trouble-v0").make(2)
    environment.reset()
    with pytest.raises(
        envs.HostEnvironmentError, match="raised ZeroDivisionError in step: on purpose"
    ):
        environment.step(np.array([0, 1]))
    environment.close()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_doom_that_never_starts_ends_the_process():
    program = """
import ctypes, envpool
from jax_a3c import envs
factory = envs.make("envpool:MyWayHome-v1", timeout=0.2)
# PyDLL keeps the interpreter's lock.
envpool.make_gymnasium = lambda *args, **kwargs: ctypes.PyDLL(None).sleep(9999)
factory.make(1)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 1
    assert "Timeout (0:00:01.2" in done.stderr


def test_an_environment_that_hangs(user_module):
    factory = envs.make(f"gymnasium:{user_module}:Trouble-v0", timeout=5.0, pause=9999.0)
    environment = factory.make(2)
    environment.reset()
    with pytest.raises(
        envs.HostEnvironmentError, match="hangs: step did not return within 5 seconds"
    ):
        environment.step(np.array([0, 2]))
    environment.close()


def test_environments_in_processes_of_their_own():
    program = (
        "import numpy as np\n"
        "from jax_a3c import envs\n"
        "if __name__ == '__main__':\n"
        "    factories = [envs.make('gymnasium:CartPole-v1', processes=p) for p in (False, True)]\n"
        "    groups = [factory.make(2, seed=3) for factory in factories]\n"
        "    assert np.array_equal(*(group.reset() for group in groups))\n"
        "    for _ in range(30):\n"
        "        one, other = (group.step(np.array([0, 1])) for group in groups)\n"
        "        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))\n"
        "    [group.close() for group in groups]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr


def test_both_kinds_of_group_keep_the_protocol():
    for env_id in ("envpool:CartPole-v1", "gymnasium:CartPole-v1"):
        factory = envs.make(env_id)
        assert isinstance(factory, envs.HostFactory) and not isinstance(
            factory, envs.JaxEnvironment
        )
        environment = factory.make(1)
        assert isinstance(environment, envs.HostEnvironment)
        environment.close()
    assert isinstance(envs.make("gymnax:CartPole-v1"), envs.JaxEnvironment)
