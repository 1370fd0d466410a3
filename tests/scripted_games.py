"""Host environments that play a script, and a network that records its inputs."""

import jax
import numpy as np

from jax_a3c.distributions import Categorical
from jax_a3c.envs.base import Discrete, EnvSpec, HostStep

# One letter per step of a script: "." continues, "L" loses a life, "T" terminates the game, "C"
# truncates it. An ignored step follows each L, T and C. Each step has score 10 and reward 1.


class Script:
    """Factory whose environment i repeats `scripts[i]` and observes the step in the episode."""

    def __init__(self, *scripts, limit=None):
        self.spec = EnvSpec(
            id="envpool:Pong-v5",
            observation_shape=(1,),
            observation_dtype=np.dtype(np.float32),
            action_space=Discrete(num_actions=2),
            max_episode_steps=limit,
        )
        self.scripts = scripts
        self.seeds, self.made = [], []

    def make(self, num_envs, *, seed=0, num_threads=None):
        self.seeds.append(seed)
        self.made.append(
            Group(self.spec, [self.scripts[i % len(self.scripts)] for i in range(num_envs)])
        )
        return self.made[-1]

    def make_rendered(self, *, seed=0):
        return self.make(1, seed=seed)


class Group:
    def __init__(self, spec, scripts):
        self.spec, self.scripts, self.num_envs = spec, scripts, len(scripts)
        self.closed, self.resets = 0, 0

    def reset(self):
        self.resets += 1
        self.position = np.zeros(self.num_envs, int)
        self.time = np.zeros(self.num_envs, np.float32)
        self.over = np.zeros(self.num_envs, bool)
        return self.time[:, None].copy()

    def step(self, action):
        assert action.shape == (self.num_envs,) and not self.closed
        reset_step = self.over.copy()
        letters = []
        for i, script in enumerate(self.scripts):
            if reset_step[i]:
                self.time[i] = 0
                letters.append("i")
                continue
            letters.append(script[self.position[i] % len(script)])
            self.position[i] += 1
            self.time[i] += 1
        letters = np.array(letters)
        self.over = np.isin(letters, ["L", "T", "C"])
        paid = np.where(reset_step, 0, 1).astype(np.float32)
        return HostStep(
            observation=self.time[:, None].copy(),
            reward=paid,
            terminated=np.isin(letters, ["L", "T"]),
            truncated=letters == "C",
            reset_step=reset_step,
            raw_reward=10 * paid,
            game_over=np.isin(letters, ["T", "C"]),
        )

    def render(self):
        """Draw the step of the episode in red and the steps of all games in green."""
        frame = np.zeros((3, 5, 3), np.uint8)
        frame[..., 0], frame[..., 1] = 10 * self.time[0], 5 * self.position[0]
        return frame

    def close(self):
        self.closed += 1


class Spy:
    """Network that counts the observations since its last reset and records its inputs."""

    def __init__(self):
        self.seen = []

    def initial_carry(self, batch_shape):
        return np.zeros(batch_shape, np.float32)

    def apply(self, params, carry, observation, reset):
        carry = jax.numpy.where(reset[0], 0.0, carry) + 1.0
        jax.debug.callback(
            lambda *x: self.seen.append(x), observation[0, :, 0], reset[0], carry, ordered=True
        )
        return carry, Categorical(params * jax.numpy.ones((*reset.shape, 2))), observation[..., 0]
