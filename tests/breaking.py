"""Faulty environments, as a user may write them, for Gymnasium's registry."""

import os
import sys
import threading
import time
from pathlib import Path

import gymnasium
import numpy as np


class Breaking(gymnasium.Env):
    """Raise an exception in step 150."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self):
        self._steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self._steps += 1
        if self._steps == 150:
            raise ValueError("the wheel came off")
        return np.zeros(2, np.float32), 1.0, self._steps % 10 == 0, False, {}


class Leaving(Breaking):
    """Call `sys.exit` in step 150."""

    def step(self, action):
        if self._steps == 149:
            sys.exit(0)
        return super().step(action)


class NotANumber(Breaking):
    """Return NaN as reward from step `first` on, and as observation from step `blind` on."""

    def __init__(self, first=150, blind=10**9):
        super().__init__()
        self._first, self._blind = first, blind

    def step(self, action):
        self._steps += 1
        reward = np.nan if self._steps >= self._first else 1.0
        observation = np.full(2, np.nan if self._steps >= self._blind else 0.0, np.float32)
        return observation, reward, self._steps % 10 == 0, False, {}


class Hanging(Breaking):
    """Hang in step `last` and then in `close`, until `released` is set.

    Each hang appends the time to `hung_at` and touches the file that the environment variable HUNG
    names, if it is set.
    """

    def __init__(self, last=150):
        super().__init__()
        self._last = last

    def step(self, action):
        self._steps += 1
        self._hang()
        return np.zeros(2, np.float32), 1.0, self._steps % 10 == 0, False, {}

    def close(self):
        self._hang()

    def _hang(self):
        if self._steps >= self._last:
            hung_at.append(time.monotonic())
            if marker := os.environ.get("HUNG"):
                Path(marker).touch()
            released.wait()


hung_at = []
released = threading.Event()
gymnasium.register("Breaking-v0", entry_point=Breaking)
gymnasium.register("Leaving-v0", entry_point=Leaving)
gymnasium.register("NotANumber-v0", entry_point=NotANumber)
gymnasium.register("Hanging-v0", entry_point=Hanging)
