"""Host environments that follow a script, so that tests know every true transition.

A script has one letter for each step: "." goes on, "L" loses a life, "T" terminates the game, "C"
cuts it, and "B" does both. A step that only resets follows each of L, T, C and B. An environment
repeats its script.
"""

import dataclasses

import jax
import numpy as np

from jax_a3c.distributions import Categorical
from jax_a3c.envs import Discrete, EnvSpec, HostStep
from jax_a3c.errors import InputError


def script(seed, episodes=400):
    """Draw episodes of 1 to 9 steps that end in all ways."""
    rng = np.random.default_rng(seed)
    return "".join(
        "." * (int(rng.integers(1, 10)) - 1) + "TLCB"[rng.integers(4)] for _ in range(episodes)
    )


def transitions(script):
    """Yield (episode, t, reward, terminated, truncated, game_over) of each step of a script.

    A step that only resets is None.
    """
    episode = t = 0
    for letter in script:
        reward, _ = ScriptedGroup.payment(episode, t)
        yield episode, t, reward, letter in "LTB", letter in "CB", letter in "TCB"
        t += 1
        if letter != ".":
            episode, t = episode + 1, 0
            yield None


SCRIPTS = [script(seed) for seed in range(5)]
SPEC = EnvSpec(
    id="scripted",
    observation_shape=(1,),
    observation_dtype=np.dtype(np.float32),
    action_space=Discrete(num_actions=5),
)


class ScriptedGroup:
    """Environments whose transitions all differ: reward 10 episode + t, score twice that."""

    def __init__(self, scripts, spec=SPEC):
        self.spec, self.scripts, self.num_envs = spec, scripts, len(scripts)
        self.closed = self.resets = 0

    @staticmethod
    def observation(episode, t):
        """Return the observation at step t of an episode."""
        return 20.0 * episode + t

    @staticmethod
    def payment(episode, t):
        """Return the reward and the score of step t of an episode."""
        reward = 10.0 * episode + t
        return reward, 2 * reward

    def reset(self):
        self.resets += 1
        self.position = np.zeros(self.num_envs, int)  # in the script
        self.episode = np.zeros(self.num_envs, int)
        self.time = np.zeros(self.num_envs, int)  # steps of the episode
        self.over = np.zeros(self.num_envs, bool)
        return self._observations()

    def step(self, action):
        assert not self.closed
        actions = self.spec.action_space.num_actions
        if action.shape != (self.num_envs,) or action.min() < 0 or action.max() >= actions:
            raise InputError(f"wrong action {action}")

        reset_step = self.over
        self.episode += reset_step
        self.time[reset_step] = 0
        reward, score = np.where(reset_step, 0.0, self.payment(self.episode, self.time))
        rows = zip(self.scripts, self.position, reset_step, strict=True)
        letters = np.array(["." if reset else row[i % len(row)] for row, i, reset in rows])
        self.position += ~reset_step
        self.time += ~reset_step
        self.over = letters != "."
        return HostStep(
            observation=self._observations(),
            reward=reward.astype(np.float32),
            terminated=np.isin(letters, ["L", "T", "B"]),
            truncated=np.isin(letters, ["C", "B"]),
            reset_step=reset_step,
            raw_reward=score.astype(np.float32),
            game_over=np.isin(letters, ["T", "C", "B"]),
        )

    def close(self):
        self.closed += 1

    def _observations(self):
        return self.observation(self.episode, self.time).astype(np.float32)[:, None]


class Game(ScriptedGroup):
    """Environments that observe the step of the episode; each step has reward 1 and score 10."""

    @staticmethod
    def observation(episode, t):
        return t + 0.0 * episode

    @staticmethod
    def payment(episode, t):
        return np.ones(len(t)), np.full(len(t), 10.0)

    def render(self):
        """Draw the step of the episode in red and the steps of all games in green."""
        frame = np.zeros((3, 5, 3), np.uint8)
        frame[..., 0], frame[..., 1] = 10 * self.time[0], 5 * self.position[0]
        return frame


class ScriptedFactory:
    """Make groups that follow `scripts`, and keep them for inspection."""

    def __init__(self, scripts=SCRIPTS, spec=SPEC):
        self.spec, self.scripts = spec, scripts
        self.groups, self.seeds = [], []

    def make(self, num_envs, *, seed=0, num_threads=None):
        del num_threads
        self.seeds.append(seed)
        self.groups.append(self.group(num_envs, seed))
        return self.groups[-1]

    def group(self, num_envs, seed):
        chosen = [self.scripts[(seed + i) % len(self.scripts)] for i in range(num_envs)]
        return ScriptedGroup(chosen, self.spec)


class Games(ScriptedFactory):
    """Make games in which environment i follows `scripts[i]`."""

    def __init__(self, *scripts, limit=None):
        spec = dataclasses.replace(
            SPEC,
            id="envpool:Pong-v5",
            action_space=Discrete(num_actions=2),
            max_episode_steps=limit,
        )
        super().__init__(scripts, spec)

    def make_rendered(self, *, seed=0):
        return self.make(1, seed=seed)

    def group(self, num_envs, seed):
        return Game([self.scripts[i % len(self.scripts)] for i in range(num_envs)], self.spec)


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
