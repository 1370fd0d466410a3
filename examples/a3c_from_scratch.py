"""The whole of A3C on one page, to read next to Algorithm S3 of the paper. It learns CartPole.

    python examples/a3c_from_scratch.py [SEED]

Threads act with copies of one parameter vector and change it without a lock. The page uses JAX,
Flax and gymnax, and nothing of `jax_a3c`, which is faster, counts exactly and survives errors.
Names are the symbols of the paper. The vector theta holds the weights of the policy pi and of the
value V, which share all layers but the last. It runs in under a minute.

Mnih et al. (2016), Asynchronous Methods for Deep Reinforcement Learning,
https://arxiv.org/abs/1602.01783
"""

import sys
import threading
import time

import flax.linen as nn
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

NUM_THREADS = 2  # the paper: 16, on 16 cores
T_max = 200_000  # environment steps of all threads
t_max = 20  # steps between two updates
gamma = 0.99  # discount
beta = 0.01  # weight of the entropy
eta_0 = 5e-3  # learning rate at the start; it falls to 0
alpha = 0.99  # decay of the moving average of RMSProp
epsilon = 0.1  # of RMSProp
REWARD_SCALE = 0.1  # not in the paper: the returns of CartPole reach 500

seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
env, env_params = gymnax.make("CartPole-v1")


class Network(nn.Module):
    """Map a state s to log pi(.|s) and V(s)."""

    @nn.compact
    def __call__(self, s):
        h = nn.tanh(nn.Dense(64)(s))
        h = nn.tanh(nn.Dense(64)(h))
        log_pi = nn.log_softmax(nn.Dense(env.num_actions)(h))
        V = nn.Dense(1)(h)[..., 0]
        return log_pi, V


# Assume global shared parameters theta and global shared counter T = 0.
network = Network()
theta, unravel = ravel_pytree(network.init(jax.random.key(seed), jnp.zeros(4)))
theta = np.array(theta)
g = np.zeros_like(theta)  # the moving average of Shared RMSProp
T = 0
returns = []  # of the episodes that ended


def loss(theta_prime, s, a, r, terminal, s_last):
    """Return the loss of a segment, whose gradient is d theta."""
    log_pi, V = network.apply(unravel(theta_prime), s)
    log_pi_a = jnp.take_along_axis(log_pi, a[:, None], axis=1)[:, 0]
    entropy = -jnp.sum(jnp.exp(log_pi) * log_pi, axis=1)

    # R <- r_i + gamma R backwards in time, from V(s_t; theta'); R = 0 behind a terminal state.
    def back_up(R, step):
        r, terminal = step
        R = r + gamma * jnp.where(terminal, 0.0, R)
        return R, R

    _, V_last = network.apply(unravel(theta_prime), s_last)
    _, R = jax.lax.scan(back_up, V_last, (r, terminal), reverse=True)
    R = jax.lax.stop_gradient(R)

    # Descend what the paper ascends. The authors halved the gradient of (R - V)^2.
    advantage = jax.lax.stop_gradient(R - V)
    return jnp.sum(-log_pi_a * advantage - beta * entropy + 0.5 * (R - V) ** 2)


@jax.jit
def segment(theta_prime, actor):
    """Act for t_max steps and return d theta."""

    def step(actor, _):
        env_state, s, score, key = actor
        key, action_key, env_key = jax.random.split(key, 3)

        # Perform a_t according to the policy pi(a_t|s_t; theta').
        log_pi, _ = network.apply(unravel(theta_prime), s)
        a = jax.random.categorical(action_key, log_pi)

        # Receive r_t and s_{t+1}. After an end s_{t+1} begins an episode, within the same segment.
        outcome = env.step(env_key, env_state, a, env_params)
        s_next, env_state, r, terminated, truncated, info = outcome
        terminal = terminated | truncated
        score = score + r

        # A time limit is not a terminal state: add the value of the state that it cuts off.
        _, V_cut = network.apply(unravel(theta_prime), info["final_observation"])
        r = REWARD_SCALE * r + gamma * V_cut * (truncated & ~terminated)

        actor = (env_state, s_next, jnp.where(terminal, 0.0, score), key)
        return actor, (s, a, r, terminal, score)

    actor, (s, a, r, terminal, score) = jax.lax.scan(step, actor, length=t_max)
    d_theta = jax.grad(loss)(theta_prime, s, a, r, terminal, s_last=actor[1])
    return actor, d_theta, score, terminal


def work(key):
    """Run one thread: Algorithm S3."""
    global T, theta, g
    s, env_state = env.reset(key, env_params)
    actor = (env_state, s, jnp.zeros(()), key)

    while T_max > T:
        theta_prime = theta.copy()  # theta' <- theta
        actor, *results = segment(theta_prime, actor)
        d_theta, score, terminal = jax.device_get(results)
        T += t_max  # two threads at once may lose a count
        returns.extend(score[terminal])

        # Shared RMSProp (equations S2 and S3), in place and without a lock.
        eta = eta_0 * max(0, 1 - T / T_max)
        g *= alpha
        g += (1 - alpha) * d_theta**2
        theta -= eta * d_theta / np.sqrt(g + epsilon)


def main():
    keys = jax.random.split(jax.random.key(seed + 1), NUM_THREADS)
    threads = [threading.Thread(target=work, args=(key,), daemon=True) for key in keys]
    for thread in threads:
        thread.start()

    while any(thread.is_alive() for thread in threads):
        time.sleep(1)
        if returns:
            print(f"{T:7,} steps: mean return {np.mean(returns[-100:]):5.1f}")

    print(f"the last 100 episodes: mean return {np.mean(returns[-100:]):.1f} of 500")


if __name__ == "__main__":
    main()
