"""Checks of the values of a Gymnasium environment, alone and in both vector environments."""

import numpy as np
import pytest

from jax_a3c import envs
from jax_a3c.envs.single import Checked, mismatch

gymnasium = pytest.importorskip("gymnasium", reason="pip install 'jax-a3c[gymnasium]'")
spaces = gymnasium.spaces

REALS = spaces.Box(-1, 1, (3,), np.float32)
ZEROS = np.zeros(3, np.float32)


class Returning(gymnasium.Env):
    """Environment that returns its arguments."""

    action_space = spaces.Discrete(2)

    def __init__(
        self, observation=ZEROS, reward=1.0, terminated=False, truncated=False, space=REALS
    ):
        self.observation_space = space
        self.first = observation
        self.returned = (observation, reward, terminated, truncated, {})

    def reset(self, *, seed=None, options=None):
        return self.first, {}

    def step(self, action):
        return self.returned


@pytest.fixture(autouse=True)
def registered():
    gymnasium.register("Returning-v0", entry_point=Returning, disable_env_checker=True)
    yield
    del gymnasium.registry["Returning-v0"]


@pytest.mark.parametrize(
    ("reward", "number"),
    [
        (2, 2.0),
        (np.float32(2.5), 2.5),
        (np.int64(-3), -3.0),
        (True, 1.0),
        (np.array([2.5]), 2.5),
        (np.array(2.5), 2.5),
        (np.array([[4]]), 4.0),
        ([2.5], 2.5),
        (float("-inf"), float("-inf")),
    ],
)
def test_a_reward_is_one_number(reward, number):
    taken = Checked(Returning(reward=reward), "e").step(0)[1]
    assert np.ndim(taken) == 0 and taken == number


def test_a_reward_of_nan_is_left_to_the_learner():
    assert np.isnan(Checked(Returning(reward=float("nan")), "e").step(0)[1])


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ({"reward": None}, "returned the reward None; it must be one number"),
        ({"reward": "1.5"}, "returned the reward '1.5'; it must be one number"),
        (
            {"reward": np.array([1.0, 2.0])},
            r"returned the reward array\(\[1., 2.\]\); it must be one number",
        ),
        ({"reward": 1j}, "returned the reward 1j; it must be one number"),
        ({"terminated": 0.0}, "returned terminated=0.0; it must be True or False"),
        ({"truncated": None}, "returned truncated=None; it must be True or False"),
        ({"truncated": 1}, "returned truncated=1; it must be True or False"),
        ({"terminated": np.array([True, False])}, r"returned terminated=array\(\[ True, False\]\)"),
    ],
)
def test_what_is_no_reward_or_flag_is_named(returned, message):
    env = Checked(Returning(**returned), "e")
    for _ in range(2):  # not only in the first step
        with pytest.raises(envs.HostEnvironmentError, match=rf"^step\(\) of 'e' {message}"):
            env.step(0)


@pytest.mark.parametrize("flag", [True, np.bool_(True), np.array(True), np.array([True])])
def test_a_flag_is_a_boolean(flag):
    *_, terminated, truncated, _ = Checked(Returning(terminated=flag), "e").step(0)
    assert np.ndim(terminated) == 0 and terminated and not truncated


@pytest.mark.parametrize(
    ("function", "returned", "message"),
    [
        (
            "reset",
            ZEROS,
            r"reset\(\) of 'e' returned a ndarray; it must return the tuple \(observation, info\)",
        ),
        (
            "step",
            (ZEROS, 1.0, False, {}),
            r"step\(\) of 'e' returned a tuple of 4; it must return the tuple",
        ),
    ],
)
def test_another_tuple_is_named(function, returned, message):
    env = Returning()
    setattr(env, function, lambda *_, **__: returned)
    with pytest.raises(envs.HostEnvironmentError, match=message):
        getattr(Checked(env, "e"), function)(*[0] * (function == "step"))


PARTS = spaces.Dict(a=REALS, b=spaces.Tuple((spaces.Discrete(2), spaces.Text(3))))


@pytest.mark.parametrize(
    ("space", "value"),
    [
        (REALS, ZEROS),
        (REALS, np.zeros(3)),  # float64, NumPy's default
        (REALS, [0, 1, 0]),
        (spaces.Box(0, 9, (2,), np.int32), np.array([1, 2])),
        (spaces.Discrete(4, start=2), 5),
        (spaces.Discrete(2), np.int64(1)),
        (spaces.MultiDiscrete([2, 3]), np.array([1, 2])),
        (spaces.MultiBinary(2), np.array([1, 0], np.int8)),
        (PARTS, {"a": ZEROS, "b": (1, "no number"), "more": None}),
    ],
)
def test_an_observation_that_fits(space, value):
    assert mismatch(space, value) is None


BYTES = spaces.Box(0, 255, (3,), np.uint8)


@pytest.mark.parametrize(
    ("space", "value", "message"),
    [
        (REALS, np.zeros(2),
         "observation of shape (2,) and dtype float64, but its space has shape (3,) and"),
        (REALS, np.zeros((3, 1)), "observation of shape (3, 1) and dtype float64"),
        (REALS, {"a": ZEROS}, "observation of shape () and dtype object"),
        (REALS, [[1], [2, 3]], "observation that is not an array"),
        (BYTES, np.full(3, 0.5),
         "observation of shape (3,) and dtype float64, but its space has shape (3,) and"),
        (BYTES, np.array([1, 2, 256]), "observation of shape (3,) and dtype int64"),
        (spaces.Box(0, 9, (3,), np.int32), ZEROS, "observation of shape (3,) and dtype float32"),
        (spaces.Discrete(2), 2, "observation 2, which is outside its space Discrete(2)"),
        (spaces.Discrete(2, start=1), 0, "observation 0, which is outside its space"),
        (spaces.MultiDiscrete([2, 3]), np.array([1, 3]),
         "observation array([1, 3]), which is outside"),
        (PARTS, ZEROS, "observation of type ndarray, but its space is a Dict"),
        (PARTS, {"a": ZEROS}, "observation without 'b', which its space has"),
        (PARTS, {"a": np.zeros(2), "b": (0, "")}, "observation['a'] of shape (2,)"),
        (PARTS, {"a": ZEROS, "b": (2, "")}, "observation['b'][0] 2, which is outside"),
        (PARTS, {"a": ZEROS, "b": (0,)},
         "observation['b'] (0,), but its space is a Tuple of 2"),
    ],
)  # fmt: skip
def test_an_observation_that_does_not_fit_is_told(space, value, message):
    assert mismatch(space, value).startswith(message)


def test_the_first_reset_and_the_first_step_are_checked_and_no_later_one():
    env = Checked(Returning(), "e")
    env.reset()
    env._env.returned = (np.zeros(2), 0.0, False, False, {})
    with pytest.raises(
        envs.HostEnvironmentError, match=r"^step\(\) of 'e' returned an observation of shape \(2,\)"
    ):
        env.step(0)
    env.step(0)


@pytest.mark.parametrize("processes", [False, True])
def test_both_vectors_say_the_same(processes):
    def make(**returned):
        environment = envs.make("gymnasium:Returning-v0", processes=processes, **returned).make(1)
        environment.reset()
        return environment

    environment = make(reward=np.array([2.5]))
    reward = environment.step(np.zeros(1, int)).reward
    assert (reward.shape, reward.dtype, reward[0]) == ((1,), np.float32, 2.5)
    environment.close()

    environment = make(reward=None)
    with pytest.raises(
        envs.HostEnvironmentError,
        match=r"^step\(\) of 'gymnasium:Returning-v0' returned the reward None",
    ):
        environment.step(np.zeros(1, int))
    environment.close()

    with pytest.raises(
        envs.HostEnvironmentError,
        match=r"^reset\(\) of 'gymnasium:Returning-v0' returned an observation",
    ):
        make(observation=np.full(3, 0.5), space=BYTES)


def test_the_bound_of_uint8_reaches_the_spec():
    space = spaces.Box(0, 2, (3,), np.uint8)
    spec = envs.make("gymnasium:Returning-v0", space=space, observation=np.zeros(3, np.uint8)).spec
    assert spec.observation_high == 2.0
