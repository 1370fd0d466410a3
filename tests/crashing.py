"""Environments whose native code crashes or hangs, for Gymnasium's registry."""

import ctypes
import os
import random
import time
from pathlib import Path

import gymnasium
import numpy as np


class Standing(gymnasium.Env):
    """Do nothing; an episode has 10 steps."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self):
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        self.happen()
        return np.zeros(2, np.float32), 1.0, self.steps % 10 == 0, False, {}

    def happen(self):
        """Run in every step; subclasses override it."""


class Crashing(Standing):
    """Crash the process in native code at a random time, in its first CRASHES lives.

    A life is one process; the folder CRASH_DIR has one file per life. The time is 0.3 to 1 seconds
    after the first step, drawn from CRASH_SEED and the number of the life. With CRASH_AT_ONCE the
    process crashes in the first step. These are environment variables.
    """

    def happen(self):
        time.sleep(0.0003)
        if self.steps == 1:
            folder = Path(os.environ["CRASH_DIR"])
            (folder / str(os.getpid())).touch()
            self._life = len(list(folder.iterdir()))
            rng = random.Random(int(os.environ.get("CRASH_SEED", "0")) * 1000 + self._life)
            seconds = 0.0 if "CRASH_AT_ONCE" in os.environ else rng.uniform(0.3, 1.0)
            self._end, self._way = (
                time.monotonic() + seconds,
                rng.choice([segmentation_fault, os.abort]),
            )
        if self._life <= int(os.environ["CRASHES"]) and time.monotonic() >= self._end:
            self._way()


def segmentation_fault():
    ctypes.string_at(0)


class Stuck(Standing):
    """Hang in step 50 and touch the file that the environment variable STUCK names."""

    def happen(self):
        if self.steps >= 50:
            Path(os.environ["STUCK"]).touch()
            time.sleep(9999)


gymnasium.register("Crashing-v0", entry_point=Crashing)
gymnasium.register("Stuck-v0", entry_point=Stuck)
