"""Write an objective, here an actor-critic with a trust region, and train it on both runners.

    python examples/own_objective.py

An objective is two pure functions: how to act, and what to minimise on a rollout. This one adds a
term to the loss of A3C, which keeps the policy near the policy of the target network:

    kl_coef KL(pi(.|s; theta^-) || pi(.|s; theta))

The target network theta^- is an older copy of the parameters theta. ACER has a similar trust
region. The same objective trains in one compiled loop and with threads. Both learn CartPole. It
runs in under a minute.

Wang et al. (2017), Sample Efficient Actor-Critic with Experience Replay,
https://arxiv.org/abs/1611.01224
"""

import jax
import jax.numpy as jnp

from jax_a3c import (
    AsynchronousConfig,
    SynchronousConfig,
    asynchronous,
    envs,
    losses,
    networks,
    objectives,
    optimizers,
    returns,
    synchronous,
)
from jax_a3c.evaluation.play import evaluator

TOTAL_TIMESTEPS = 300_000


def trust_region_actor_critic(network, *, gamma=0.99, ent_coef=0.01, kl_coef=0.5, interval=2_000):
    """Return the objective; its target network is copied every `interval` environment steps."""

    def act(params, key, carry, observation, reset, exploration, env_steps):
        """Choose an action for each observation `[N, ...]`."""
        del exploration, env_steps  # for behaviours such as epsilon-greedy
        carry, policy, _ = network.apply(params, carry, observation[None], reset[None])  # T = 1
        return carry, policy.sample(key)[0], ()

    def loss(params, rollout, target_params):
        """Return the loss of a rollout `[T, N]`, and the metrics to report."""
        steps = rollout.steps
        inputs = (rollout.carry, steps.observation, steps.reset)
        _, policy, values = network.apply(params, *inputs)
        _, old_policy, _ = network.apply(target_params, *inputs)

        # R_t: gamma_t = 0 where the episode terminated, lambda_t = 0 where it was truncated.
        discounts = gamma * (1.0 - steps.terminated)
        lambdas = 1.0 - steps.truncated
        next_values = objectives.next_values(network, params, rollout, values)
        targets = returns.lambda_returns(steps.reward, discounts, next_values, lambdas)

        # The terms of A3C and the new one.
        log_probs = policy.log_prob(steps.action)
        terms = {
            "policy_loss": losses.policy_gradient_loss(log_probs, targets - values),
            "value_loss": losses.value_loss(values, targets),
            "entropy": policy.entropy(),
            "divergence": old_policy.kl_divergence(policy),
        }

        # Average over the recorded steps: an asynchronous segment ends with its episode.
        means = {name: jnp.mean(term, where=steps.mask) for name, term in terms.items()}
        total = (
            means["policy_loss"]
            + means["value_loss"]
            - ent_coef * means["entropy"]
            + kl_coef * means["divergence"]
        )
        return total, {"loss": total, **means}

    return objectives.Objective(act, loss, target_update_interval=interval)


env = envs.make("gymnax:CartPole-v1")
network = networks.actor_critic(env, hidden=(64, 64))
objective = trust_region_actor_critic(network)
learning_rate = optimizers.linear_schedule(2e-3, TOTAL_TIMESTEPS)
optimizer = optimizers.shared_rmsprop(learning_rate, eps=1e-5)


def train_synchronous():
    """Train in one compiled loop, as A2C does; return the parameters."""
    config = SynchronousConfig(num_envs=16, num_steps=5)
    algorithm = synchronous(env, network, optimizer, objective, config)
    num_updates = TOTAL_TIMESTEPS // (config.num_envs * config.num_steps)

    @jax.jit
    def train(key):
        return jax.lax.scan(lambda s, _: algorithm.step(s), algorithm.init(key), length=num_updates)

    state, metrics = train(jax.random.key(0))
    divergence = metrics["divergence"].mean()
    print(f"synchronous: {int(state.env_steps):,} steps, mean divergence {divergence:.4f}")
    return state.params


def train_asynchronous():
    """Train with two threads, as A3C does; return the parameters."""
    config = AsynchronousConfig(
        num_workers=2,
        num_envs=8,
        num_steps=5,
        max_grad_norm=0.5,
        total_timesteps=TOTAL_TIMESTEPS,
    )
    runner = asynchronous(lambda: env, network, optimizer, objective, config)

    result = runner.run(jax.random.key(0))
    progress = result.progress
    divergence = progress.metric_sums["divergence"] / progress.updates
    print(f"asynchronous: {progress.env_steps:,} steps, mean divergence {divergence:.4f}")
    return result.params


def main():
    # The evaluator plays complete episodes with the most probable actions.
    play = evaluator(env, network, num_episodes=100, policy="greedy")
    for name, train in (("synchronous", train_synchronous), ("asynchronous", train_asynchronous)):
        params = train()
        mean_return = play(params, jax.random.key(1)).returns.mean()
        print(f"{name}: mean return {mean_return:.1f} of 500")


if __name__ == "__main__":
    main()
