"""Train A2C on CartPole in one compiled loop, then evaluate the learned policy.

    python examples/a2c.py

`a2c` returns a pair of pure functions: `init` makes the state of a run, and `step` plays one
rollout and makes one update. Everything around them is plain JAX. It runs in under a minute.
"""

import jax

from jax_a3c import A2CConfig, a2c, envs, networks, optimizers
from jax_a3c.evaluation.play import evaluator

TOTAL_TIMESTEPS = 400_000
REPORTS = 8

env = envs.make("gymnax:CartPole-v1")
network = networks.actor_critic(env, hidden=(64, 64))


def main():
    # Put the parts together. The learning rate falls with the number of environment steps.
    config = A2CConfig(num_envs=16, num_steps=5)
    learning_rate = optimizers.linear_schedule(2e-3, TOTAL_TIMESTEPS)
    optimizer = optimizers.shared_rmsprop(learning_rate, eps=1e-5)
    algorithm = a2c(env, network, optimizer, config)

    # Compile many updates into one program.
    num_updates = TOTAL_TIMESTEPS // (config.num_envs * config.num_steps)

    @jax.jit
    def train(state):
        return jax.lax.scan(lambda s, _: algorithm.step(s), state, length=num_updates // REPORTS)

    state = jax.jit(algorithm.init)(jax.random.key(0))
    for _ in range(REPORTS):
        state, metrics = train(state)
        mean_return = metrics["episode_return"].sum() / metrics["episodes"].sum()
        print(f"{int(state.env_steps):7,} steps: mean return {mean_return:5.1f}")

    # Play complete episodes with the most probable actions.
    play = evaluator(env, network, num_episodes=100, policy="greedy")
    mean_return = play(state.params, jax.random.key(1)).returns.mean()
    print(f"evaluation: mean return {mean_return:.1f} of 500")


if __name__ == "__main__":
    main()
