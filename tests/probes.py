"""Probe environments: each tests one ability of an agent and has a known value."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_a3c.envs.base import Discrete, EnvSpec
from jax_a3c.types import Array, TimeStep


class State(NamedTuple):
    """State of a probe: the step within the episode and a cue of -1 or 1."""

    time: Array
    cue: Array


class Probe:
    """Base class of the probes: episodes of `length` steps, observation `[time, cue]`, two actions.

    A probe overrides `reward`, and `observe` or `ends` if needed.
    """

    length = 1

    def __init__(self):
        self.spec = EnvSpec(
            id=f"probe:{type(self).__name__}",
            observation_shape=(2,),
            observation_dtype=np.dtype(np.float32),
            action_space=Discrete(num_actions=2),
            max_episode_steps=self.length,
        )

    def reset(self, key: Array) -> tuple[State, Array]:
        cue = jnp.where(jax.random.bernoulli(key), 1.0, -1.0)
        state = State(jnp.zeros((), jnp.int32), cue)
        return state, self.observe(state)

    def step(self, key: Array, state: State, action: Array) -> tuple[State, TimeStep]:
        reward = self.reward(state, action)
        state = State(state.time + 1, state.cue)
        terminated, truncated = self.ends(state, action)
        reward = jnp.asarray(reward, jnp.float32)
        return state, TimeStep(
            self.observe(state), reward, jnp.asarray(terminated), jnp.asarray(truncated)
        )

    def observe(self, state: State) -> Array:
        return jnp.array([state.time, state.cue], jnp.float32)

    def ends(self, state: State, action: Array) -> tuple[Any, Any]:
        return state.time >= self.length, jnp.array(False)

    def reward(self, state: State, action: Array) -> Any:
        raise NotImplementedError


class ConstantReward(Probe):
    """V = 1. It tests whether the value function learns at all."""

    def reward(self, state: State, action: Array) -> Any:
        return 1.0


class ObservedReward(Probe):
    """V = cue. It tests whether the observation reaches the value function."""

    def reward(self, state: State, action: Array) -> Any:
        return state.cue


class TerminalReward(Probe):
    """Reward 1 only on the terminal transition, after 3 steps: V(time) = gamma^(2 - time)."""

    length = 3

    def reward(self, state: State, action: Array) -> Any:
        return state.time == self.length - 1


class EndlessReward(Probe):
    """Reward 1 on each step of an endless task, truncated every 4 steps: V = 1 / (1 - gamma)."""

    length = 4

    def observe(self, state: State) -> Array:
        return jnp.zeros(2)

    def reward(self, state: State, action: Array) -> Any:
        return 1.0

    def ends(self, state: State, action: Array) -> tuple[Any, Any]:
        return jnp.array(False), state.time >= self.length


class RightAction(Probe):
    """Reward 1 for action 1, -1 for action 0. It tests the sign of the policy gradient."""

    def reward(self, state: State, action: Array) -> Any:
        return jnp.where(action == 1, 1.0, -1.0)


class MatchingAction(Probe):
    """Reward 1 for the action that the cue shows. It tests whether the policy uses observations."""

    def reward(self, state: State, action: Array) -> Any:
        return jnp.where((action == 1) == (state.cue > 0), 1.0, -1.0)


class Recall(Probe):
    """The first of 3 steps shows the cue, and the last one rewards it. It tests memory."""

    length = 3

    def observe(self, state: State) -> Array:
        return jnp.array([state.time, jnp.where(state.time == 0, state.cue, 0.0)], jnp.float32)

    def reward(self, state: State, action: Array) -> Any:
        right = (action == 1) == (state.cue > 0)
        return jnp.where(state.time == self.length - 1, jnp.where(right, 1.0, -1.0), 0.0)


class EitherEnd(Probe):
    """Action 1 terminates at once; action 0 continues until step 3 truncates. It tests rollouts."""

    length = 3

    def reward(self, state: State, action: Array) -> Any:
        return state.time + 1.0

    def ends(self, state: State, action: Array) -> tuple[Any, Any]:
        return action == 1, state.time >= self.length


class Chain(Probe):
    """Four steps; the step and the last action are the state. The greedy reward is often wrong.

    The observation is one-hot, so a linear network is a table of action values. The last action is
    kept as the cue, which starts at 0. `rewards` is `[step, last action, action]`.
    """

    length = 4
    rewards = np.array(
        [[[5, 3], [5, 3]], [[7, 3], [3, 6]], [[3, 3], [7, 7]], [[4, 3], [7, 3]]],
        np.float32,
    )

    def __init__(self):
        super().__init__()
        self.spec = dataclasses.replace(self.spec, observation_shape=(2 * self.length + 2,))

    def reset(self, key: Array) -> tuple[State, Array]:
        state = State(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))
        return state, self.observe(state)

    def step(self, key: Array, state: State, action: Array) -> tuple[State, TimeStep]:
        following, timestep = super().step(key, state, action)
        following = following._replace(cue=action)
        return following, timestep._replace(observation=self.observe(following))

    def observe(self, state: State) -> Array:
        return jax.nn.one_hot(2 * state.time + state.cue, 2 * self.length + 2)

    def reward(self, state: State, action: Array) -> Any:
        return jnp.asarray(self.rewards)[state.time, state.cue, action]
