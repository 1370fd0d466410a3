"""Host environments that follow a script, so that tests know every true transition."""

from typing import NamedTuple

import numpy as np

from jax_a3c.envs import Discrete, EnvSpec, HostStep
from jax_a3c.errors import InputError


class Episode(NamedTuple):
    """Length of an episode, how it ends, and whether the game ends with it."""

    length: int
    terminated: bool
    truncated: bool
    game_over: bool = True


def script(seed: int, episodes: int = 400) -> list[Episode]:
    """Draw episodes of 1 to 9 steps that end in all ways."""
    rng = np.random.default_rng(seed)
    ends = [(True, False, True), (True, False, False), (False, True, True), (True, True, True)]
    return [Episode(int(rng.integers(1, 10)), *ends[rng.integers(4)]) for _ in range(episodes)]


SCRIPTS = [script(seed) for seed in range(5)]
SPEC = EnvSpec(
    id="scripted",
    observation_shape=(1,),
    observation_dtype=np.dtype(np.float32),
    action_space=Discrete(num_actions=5),
)


class ScriptedGroup:
    """Environments that reset in the step after an end: reward 10 episode + t, score twice that."""

    def __init__(self, scripts, spec=SPEC):
        self.spec, self.num_envs, self.closed = spec, len(scripts), False
        self._scripts = scripts
        self._episode = np.zeros(self.num_envs, int)
        self._t = np.zeros(self.num_envs, int)

    @staticmethod
    def observation(episode, t):
        """Return the observation at step t of an episode; all observations differ."""
        return 20.0 * episode + t

    def reset(self):
        return self._observations()

    def step(self, action):
        if action.shape != (self.num_envs,) or action.min() < 0 or action.max() >= 5:
            raise InputError(f"wrong action {action}")
        rows = [self._step(i) for i in range(self.num_envs)]
        reward, terminated, truncated, reset_step, game_over = map(
            np.array, zip(*rows, strict=True)
        )
        reward = reward.astype(np.float32)
        return HostStep(
            self._observations(), reward, terminated, truncated, reset_step, 2 * reward, game_over
        )

    def close(self):
        self.closed = True

    def _step(self, i):
        episode, t = self._scripts[i][self._episode[i]], self._t[i]
        if t == episode.length:
            self._episode[i], self._t[i] = self._episode[i] + 1, 0
            return 0.0, False, False, True, False
        self._t[i] = t + 1
        last = t + 1 == episode.length
        return (
            10.0 * self._episode[i] + t,
            last and episode.terminated,
            last and episode.truncated,
            False,
            last and episode.game_over,
        )

    def _observations(self):
        return self.observation(self._episode, self._t).astype(np.float32)[:, None]


class ScriptedFactory:
    """Make groups that follow `scripts`, and keep them for inspection."""

    def __init__(self, scripts=SCRIPTS, spec=SPEC):
        self.spec, self.groups, self.seeds, self._scripts = spec, [], [], scripts

    def make(self, num_envs, *, seed=0, num_threads=None):
        del num_threads
        chosen = [self._scripts[(seed + i) % len(self._scripts)] for i in range(num_envs)]
        self.seeds.append(seed)
        self.groups.append(ScriptedGroup(chosen, self.spec))
        return self.groups[-1]
