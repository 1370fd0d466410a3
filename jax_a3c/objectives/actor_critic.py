"""The actor-critic objective of A3C and A2C."""

from typing import Any

import jax
import jax.numpy as jnp

from jax_a3c import losses, returns, shards
from jax_a3c.errors import InputError
from jax_a3c.networks.base import Network
from jax_a3c.objectives.base import Objective, masked_mean, reduce_loss, rewards_and_discounts
from jax_a3c.objectives.bootstrap import next_values
from jax_a3c.rollouts import Rollout
from jax_a3c.settings.parts import ActorCriticConfig
from jax_a3c.types import Array, Carry, Metrics, Params


def actor_critic(network: Network, config: ActorCriticConfig) -> Objective:
    r"""Build the objective of A3C and A2C.

        loss = -log pi(a_t|s_t) (R_t - V(s_t))
               + vf_coef 0.5 (R_t - V(s_t))^2 - ent_coef H(pi(.|s_t))

    R_t is the lambda-return of the rollout. No gradient flows through R_t, nor through the
    advantage R_t - V(s_t) in the first term.

    Args:
      network: the policy pi and the value function V.
      config: weights and discounts.

    Returns:
      The objective. Its metrics: `loss, policy_loss, value_loss, entropy`, averaged over steps.

    References:
      Mnih et al. (2016), section 4 and Algorithm S3; Schulman et al. (2016) for lambda < 1.
    """
    # Networks that store activations save the loss a forward pass.
    apply_and_store = (
        getattr(network, "apply_and_store", None)
        if getattr(network, "stores_activations", False)
        else None
    )
    apply_stored = getattr(network, "apply_stored", None)

    def act(
        params: Params,
        key: Array,
        carry: Carry,
        observation: Array,
        reset: Array,
        exploration: None = None,
        env_steps: Array | float = 0.0,
    ) -> tuple[Carry, Array, Any]:
        del exploration, env_steps  # exploration comes from sampling the policy

        # a_t ~ pi(.|s_t; theta'), [N, ...] -> [T=1, N, ...] -> [N, ...].
        if apply_and_store is None:
            carry, policy, _ = network.apply(params, carry, observation[None], reset[None])
            return carry, policy.sample(key)[0], ()

        (carry, policy, _), extras = apply_and_store(params, carry, observation[None], reset[None])
        return carry, policy.sample(key)[0], extras

    def loss(params: Params, rollout: Rollout, target_params: None = None) -> tuple[Array, Metrics]:
        del target_params  # R bootstraps from the same parameters: A3C has no target network
        steps = rollout.steps

        # pi(.|s_t; theta') and V(s_t; theta'_v) of all steps at once, [T, N].
        inputs = (rollout.carry, steps.observation, steps.reset)
        if apply_stored is None or not jax.tree.leaves(steps.extras):
            _, policy, values = network.apply(params, *inputs)
        else:
            _, policy, values = apply_stored(params, steps.extras, *inputs)
        if values.shape != steps.reset.shape:
            raise InputError(
                f"the network's values have shape {values.shape} for observations "
                f"{steps.reset.shape}; an actor-critic method needs one for each state: use "
                "networks.actor_critic"
            )

        # R <- 0 at a terminal state, else V(s_t; theta'_v); then R <- r_i + gamma R, backwards.
        rewards, discounts = rewards_and_discounts(config, steps)
        # lambda_t = 0 at a truncation: bootstrap from the final observation, not the next episode.
        lambdas = config.gae_lambda * (1.0 - steps.truncated)
        bootstrap = next_values(network, params, rollout, values)
        targets = jax.lax.stop_gradient(
            returns.lambda_returns(rewards, discounts, bootstrap, lambdas)
        )

        advantages = targets - values  # R - V(s_i; theta'_v)
        if config.normalize_advantages:
            advantages = _normalize(advantages, steps.mask)

        per_step = {
            # Its gradient is -grad log pi(a_i|s_i; theta') (R - V(s_i; theta'_v)).
            "policy_loss": losses.policy_gradient_loss(policy.log_prob(steps.action), advantages),
            # 0.5 (R - V(s_i; theta'_v))^2; the paper writes no 0.5.
            "value_loss": losses.value_loss(values, targets),
            "entropy": policy.entropy(),  # H(pi(.|s_i; theta'))
        }

        # Sum the three terms; ent_coef is the paper's beta.
        means = {name: masked_mean(x, steps.mask) for name, x in per_step.items()}
        total = (
            means["policy_loss"]
            + config.vf_coef * means["value_loss"]
            - config.ent_coef * means["entropy"]
        )
        return reduce_loss(config, total, steps), {"loss": total, **means}

    return Objective(act, loss, loss_reduction=config.loss_reduction)


def _normalize(advantages: Array, mask: Array) -> Array:
    """Shift and scale to mean 0 and deviation 1 over the unmasked steps; keep a single one.

    The steps are those of all shards, if there are several.
    """
    advantages = jax.lax.stop_gradient(advantages)
    sum_, count = shards.total((jnp.sum(advantages, where=mask), mask.sum()))
    rows = jnp.maximum(count, 1)

    centred = advantages - sum_ / rows
    squares = shards.total(jnp.sum(jnp.square(centred), where=mask))
    deviation = jnp.sqrt(squares / rows)
    return jnp.where(count > 1, centred / (deviation + 1e-8), advantages)
