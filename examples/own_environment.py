"""Write an environment in JAX, and train it with A2C and with A3C.

    python examples/own_environment.py

An environment is a description, `spec`, and two pure functions: `reset` begins an episode and
`step` acts once. The runners batch it, begin the next episodes and keep the true last observation
of each episode. The task is to walk to a goal on a grid of 5 x 5 cells. Both agents learn to take
the shortest path. It runs in under a minute.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_a3c import A2CConfig, A3CConfig, a2c, a3c, envs, networks, optimizers
from jax_a3c.types import Array, TimeStep

SIZE = 5
MOVES = jnp.array([[-1, 0], [1, 0], [0, -1], [0, 1]])  # up, down, left, right
TIME_LIMIT = 50
TOTAL_TIMESTEPS = 200_000
EPISODES = 1000  # of the evaluation


class State(NamedTuple):
    """What the environment remembers of an episode. The positions are `[row, column]`."""

    position: Array
    goal: Array
    time: Array


class GridWorld:
    """Walk from a random cell to a random goal.

    Each step costs 0.1, and the goal pays 1. The episode terminates at the goal and is truncated
    after 50 steps.
    """

    spec = envs.EnvSpec(
        id="own:GridWorld",
        observation_shape=(4 * SIZE,),
        observation_dtype=jnp.float32,
        action_space=envs.Discrete(num_actions=4),
        max_episode_steps=TIME_LIMIT,
    )

    def reset(self, key):
        """Begin an episode: `key -> (state, observation)`."""
        cells = jax.random.choice(key, SIZE**2, (2,), replace=False)
        position, goal = jnp.stack([cells // SIZE, cells % SIZE], axis=1)
        state = State(position, goal, time=jnp.zeros((), jnp.int32))
        return state, self.observe(state)

    def step(self, key, state, action):
        """Act once: `(key, state, action) -> (state, TimeStep)`, without a reset at the end."""
        del key  # the moves are deterministic
        position = jnp.clip(state.position + MOVES[action], 0, SIZE - 1)
        state = State(position, state.goal, state.time + 1)

        # After a termination nothing follows. After a truncation the value of the state counts.
        terminated = jnp.all(state.position == state.goal)
        truncated = state.time >= TIME_LIMIT
        reward = jnp.where(terminated, 1.0, -0.1)
        return state, TimeStep(self.observe(state), reward, terminated, truncated)

    def observe(self, state):
        """Return the four coordinates, each one-hot."""
        coordinates = jnp.concatenate([state.position, state.goal])
        return jax.nn.one_hot(coordinates, SIZE).reshape(-1)


env = GridWorld()
network = networks.actor_critic(env, hidden=(64,))


def train_a2c():
    """Train 16 environments in one compiled loop; return the parameters."""
    config = A2CConfig(num_envs=16, num_steps=5)
    optimizer = optimizers.shared_rmsprop(2e-3, eps=1e-5)
    algorithm = a2c(env, network, optimizer, config)
    num_updates = TOTAL_TIMESTEPS // (config.num_envs * config.num_steps)

    @jax.jit
    def train(key):
        return jax.lax.scan(lambda s, _: algorithm.step(s), algorithm.init(key), length=num_updates)

    state, _ = train(jax.random.key(0))
    print(f"A2C: {int(state.env_steps):,} steps, {int(state.updates):,} updates")
    return state.params


def train_a3c():
    """Train with two threads that share their parameters; return the parameters."""
    config = A3CConfig(num_workers=2, num_envs=8, num_steps=5, total_timesteps=TOTAL_TIMESTEPS)
    optimizer = optimizers.shared_rmsprop(5e-3, eps=0.1)
    result = a3c(lambda: env, network, optimizer, config).run(jax.random.key(0))
    print(f"A3C: {result.progress.env_steps:,} steps, {result.progress.updates:,} updates")
    return result.params


@jax.jit
def evaluate(params, key):
    """Play episodes with the most probable actions.

    Returns:
      The share of the episodes that reach the goal, and by how many steps their paths are longer
      than the shortest ones, on average.
    """
    state, observation = jax.vmap(env.reset)(jax.random.split(key, EPISODES))
    shortest = jnp.abs(state.position - state.goal).sum(axis=1)
    never = jnp.zeros((1, EPISODES), bool)  # no episode begins again

    def step(loop, _):
        state, observation, arrived = loop
        _, policy, _ = network.apply(params, (), observation[None], never)  # time axis: T = 1
        action = policy.mode()[0]
        keys = jax.random.split(key, EPISODES)
        state, timestep = jax.vmap(env.step)(keys, state, action)
        return (state, timestep.observation, arrived | timestep.terminated), ~arrived

    start = (state, observation, jnp.zeros(EPISODES, bool))
    (_, _, arrived), walking = jax.lax.scan(step, start, length=TIME_LIMIT)
    detour = walking.sum(axis=0) - shortest
    return arrived.mean(), jnp.mean(detour, where=arrived)


def main():
    for name, train in (("A2C", train_a2c), ("A3C", train_a3c)):
        params = train()
        arrived, detour = evaluate(params, jax.random.key(1))
        print(f"{name}: {arrived:.1%} reach the goal, {detour:.2f} steps more than needed")


if __name__ == "__main__":
    main()
