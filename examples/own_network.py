"""Write a network in Flax, here one with a memory, and train it with A2C.

    python examples/own_network.py

A network is a Flax module with one more method, `initial_carry`. It maps its last memory, the
observations and the resets to the new memory, the policy and the values. The task: MemoryChain
shows a cue in the first step of an episode and asks for it in the last step. The right answer pays
1 and the wrong one -1, so the mean return without a memory is 0. It runs in under a minute.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_a3c import A2CConfig, a2c, envs, optimizers
from jax_a3c.distributions import Categorical

NUM_UPDATES = 250
REPORTS = 5


class RecurrentActorCritic(nn.Module):
    """Policy and value from a dense layer and a gated recurrent unit.

    Attributes:
      num_actions: number of actions.
      units: U, size of the dense layer and of the memory.
    """

    num_actions: int
    units: int = 64

    def initial_carry(self, batch_shape):
        """Return an empty memory, `[*batch_shape, U]`. Without a memory this is `()`."""
        return jnp.zeros((*batch_shape, self.units))

    @nn.compact
    def __call__(self, carry, observations, resets):
        """Run over time, which is always the first axis.

        Args:
          carry: `[*B, U]`. The memory before the first step.
          observations: `[T, *B, *observation_shape]`.
          resets: `[T, *B]` bool. Whether the observation begins an episode.

        Returns:
          The memory after the last step, the policy `[T, *B]` and the values `[T, *B]`.
        """
        features = observations.reshape(*resets.shape, -1)  # [T, *B, F]
        features = nn.tanh(nn.Dense(self.units)(features))  # [T, *B, U]

        # Each episode begins with an empty memory.
        def step(cell, carry, inputs):
            features, reset = inputs
            carry = jnp.where(reset[..., None], 0.0, carry)
            return cell(carry, features)

        loop = nn.scan(step, variable_broadcast="params", split_rngs={"params": False})
        carry, hidden = loop(nn.GRUCell(self.units), carry, (features, resets))

        # Small weights make the first policy nearly uniform.
        small = nn.initializers.orthogonal(0.01)
        logits = nn.Dense(self.num_actions, kernel_init=small)(hidden)
        values = nn.Dense(1)(hidden)[..., 0]
        return carry, Categorical(logits), values


def main():
    env = envs.make("gymnax:MemoryChain-bsuite")
    network = RecurrentActorCritic(env.spec.action_space.num_actions)
    optimizer = optimizers.shared_rmsprop(2e-3, eps=1e-5)
    config = A2CConfig(num_envs=64, num_steps=16, gae_lambda=0.95)
    algorithm = a2c(env, network, optimizer, config)

    # The network runs in the same compiled loop as the networks of the package.
    @jax.jit
    def train(state):
        length = NUM_UPDATES // REPORTS
        return jax.lax.scan(lambda s, _: algorithm.step(s), state, length=length)

    state = jax.jit(algorithm.init)(jax.random.key(0))
    for _ in range(REPORTS):
        state, metrics = train(state)
        mean_return = metrics["episode_return"].sum() / metrics["episodes"].sum()
        print(f"{int(state.env_steps):7,} steps: mean return {mean_return:5.2f}")

    # Measure the last updates alone. The policy still explores.
    last = {name: values[-10:].sum() for name, values in metrics.items()}
    print(f"last 10 updates: mean return {last['episode_return'] / last['episodes']:.2f} of 1")


if __name__ == "__main__":
    main()
