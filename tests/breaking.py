"""Environments that a user may have written, for Gymnasium's registry."""

import gymnasium
import numpy as np


class Breaking(gymnasium.Env):
    """Raises in its 150th step."""

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


gymnasium.register("Breaking-v0", entry_point=Breaking)
