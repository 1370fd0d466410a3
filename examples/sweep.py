"""Train A2C with several seeds and learning rates at once, in one compiled program.

    python examples/sweep.py

Both functions of `a2c` are pure. So a run is a function of its learning rate and its key, and the
sweep is `jax.vmap` of that function, once over the seeds and once over the learning rates. The
program prints a table of the returns. It runs in under a minute.
"""

import jax
import jax.numpy as jnp

from jax_a3c import A2CConfig, a2c, envs, networks, optimizers

LEARNING_RATES = jnp.array([1e-4, 1e-3, 1e-2, 1e-1])
NUM_SEEDS = 4
TOTAL_TIMESTEPS = 200_000  # of each run

env = envs.make("gymnax:CartPole-v1")
network = networks.actor_critic(env, hidden=(64, 64))
config = A2CConfig(num_envs=16, num_steps=5)


def train(learning_rate, key):
    """Train once; return the mean return over the last tenth of the updates."""
    schedule = optimizers.linear_schedule(learning_rate, TOTAL_TIMESTEPS)
    optimizer = optimizers.shared_rmsprop(schedule, eps=1e-5)
    algorithm = a2c(env, network, optimizer, config)

    num_updates = TOTAL_TIMESTEPS // (config.num_envs * config.num_steps)
    state = algorithm.init(key)
    _, metrics = jax.lax.scan(lambda s, _: algorithm.step(s), state, length=num_updates)

    last = num_updates // 10
    return metrics["episode_return"][-last:].sum() / metrics["episodes"][-last:].sum()


def main():
    num_runs = len(LEARNING_RATES) * NUM_SEEDS
    print(f"training {num_runs} runs of {TOTAL_TIMESTEPS:,} steps in one program")

    # The inner vmap runs over the seeds, the outer one over the learning rates.
    over_seeds = jax.vmap(train, in_axes=(None, 0))
    over_both = jax.vmap(over_seeds, in_axes=(0, None))
    keys = jax.random.split(jax.random.key(0), NUM_SEEDS)
    mean_returns = jax.jit(over_both)(LEARNING_RATES, keys)  # [learning rates, seeds]

    # Print one row for each learning rate.
    seeds = "".join(f"{f'seed {seed}':>9}" for seed in range(NUM_SEEDS))
    print(f"learning rate{seeds}     mean")
    for learning_rate, row in zip(LEARNING_RATES, mean_returns, strict=True):
        cells = "".join(f"{mean_return:9.1f}" for mean_return in row)
        print(f"{learning_rate:13.0e}{cells}{row.mean():9.1f}")

    means = mean_returns.mean(axis=1)
    best = LEARNING_RATES[means.argmax()]
    print(f"best learning rate: {best:.0e}, mean return {means.max():.1f} of 500")


if __name__ == "__main__":
    main()
