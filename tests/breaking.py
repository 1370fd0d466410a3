"""Faulty environments, as a user may write them, for Gymnasium's registry."""

import ctypes
import os
import random
import sys
import threading
import time
from pathlib import Path

import gymnasium
import numpy as np


class Breaking(gymnasium.Env):
    """Raise an exception in step 150; an episode has 10 steps."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self):
        self._steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self._steps += 1
        observation, reward = self.happen()
        return np.full(2, observation, np.float32), reward, self._steps % 10 == 0, False, {}

    def happen(self):
        """Return an observation and a reward, or break; subclasses override it."""
        if self._steps == 150:
            raise ValueError("the wheel came off")
        return 0.0, 1.0


class Leaving(Breaking):
    """Call `sys.exit` in step 150."""

    def happen(self):
        if self._steps == 150:
            sys.exit(0)
        return 0.0, 1.0


class NotANumber(Breaking):
    """Return NaN as reward from step `first` on, and as observation from step `blind` on."""

    def __init__(self, first=150, blind=10**9):
        super().__init__()
        self._first, self._blind = first, blind

    def happen(self):
        return (
            np.nan if self._steps >= self._blind else 0.0,
            np.nan if self._steps >= self._first else 1.0,
        )


class Hanging(Breaking):
    """Hang in step `last` and then in `close`, until `released` is set.

    Each hang appends the time to `hung_at` and touches the file that the environment variable HUNG
    names, if it is set.
    """

    def __init__(self, last=150):
        super().__init__()
        self._last = last

    def happen(self):
        self._hang()
        return 0.0, 1.0

    def close(self):
        self._hang()

    def _hang(self):
        if self._steps >= self._last:
            hung_at.append(time.monotonic())
            if marker := os.environ.get("HUNG"):
                Path(marker).touch()
            released.wait()


class Crashing(Breaking):
    """Crash the process in native code at a random time, in its first CRASHES lives.

    A life is one process; the folder CRASH_DIR has one file per life. The time is 0.3 to 1 seconds
    after the first step, drawn from CRASH_SEED and the number of the life. With CRASH_AT_ONCE the
    process crashes in the first step. These are environment variables.
    """

    def happen(self):
        time.sleep(0.0003)
        if self._steps == 1:
            folder = Path(os.environ["CRASH_DIR"])
            (folder / str(os.getpid())).touch()
            self._life = len(list(folder.iterdir()))
            rng = random.Random(int(os.environ.get("CRASH_SEED", "0")) * 1000 + self._life)
            seconds = 0.0 if "CRASH_AT_ONCE" in os.environ else rng.uniform(0.3, 1.0)
            self._end = time.monotonic() + seconds
            self._way = rng.choice([segmentation_fault, os.abort])
        if self._life <= int(os.environ["CRASHES"]) and time.monotonic() >= self._end:
            self._way()
        return 0.0, 1.0


def segmentation_fault():
    ctypes.string_at(0)


hung_at = []
released = threading.Event()
for kind in (Breaking, Leaving, NotANumber, Hanging, Crashing):
    gymnasium.register(f"{kind.__name__}-v0", entry_point=kind)
