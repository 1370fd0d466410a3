"""The actor-critic objective of A3C and A2C."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jax_a3c import losses, returns
from jax_a3c.checks import InputError, check_boolean, check_number
from jax_a3c.objectives.base import (
    Network,
    Objective,
    ObjectiveConfig,
    masked_mean,
    next_values,
    reduce_loss,
    rewards_and_discounts,
)
from jax_a3c.types import Array, Carry, Metrics, Params, Rollout


@dataclass(frozen=True, kw_only=True)
class ActorCriticConfig(ObjectiveConfig):
    """Settings of the actor-critic objective, in addition to `ObjectiveConfig`.

    Attributes:
      gae_lambda: lambda of the returns, in [0, 1]; 1 gives the paper's n-step returns.
      ent_coef: beta, weight of the policy's entropy, at least 0. Paper: 0.01 for discrete actions,
        1e-4 for continuous actions.
      normalize_advantages: shift and scale the advantages of a rollout to mean 0 and standard
        deviation 1. A rollout of a single step keeps its advantage. Not in the paper.
    """

    gae_lambda: float = 1.0
    ent_coef: float = 0.01
    normalize_advantages: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("gae_lambda", self.gae_lambda, 0.0, 1.0)
        check_number("ent_coef", self.ent_coef, 0.0)
        check_boolean("normalize_advantages", self.normalize_advantages)


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
    record = getattr(network, "record", None) if getattr(network, "is_recorded", False) else None
    replay = getattr(network, "replay", None)

    def act(
        params: Params,
        key: Array,
        carry: Carry,
        observation: Array,
        reset: Array,
        exploration: None = None,
        env_steps: Array | float = 0.0,
    ) -> tuple:
        del exploration, env_steps  # exploration comes from sampling the policy

        # a_t ~ pi(.|s_t; theta'), [N, ...] -> [T=1, N, ...] -> [N, ...].
        if record is None:
            carry, policy, _ = network.apply(params, carry, observation[None], reset[None])
            return carry, policy.sample(key)[0]

        (carry, policy, _), layers = record(params, carry, observation[None], reset[None])
        return carry, policy.sample(key)[0], layers

    def loss(params: Params, rollout: Rollout, target_params: None = None) -> tuple[Array, Metrics]:
        del target_params  # R bootstraps from the same parameters: A3C has no target network
        steps = rollout.steps

        # pi(.|s_t; theta') and V(s_t; theta'_v) of all steps at once, [T, N].
        inputs = (rollout.carry, steps.observation, steps.reset)
        if steps.layers is None or replay is None:
            _, policy, values = network.apply(params, *inputs)
        else:
            _, policy, values = replay(params, steps.layers, *inputs)
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

    return Objective(act, loss)


def check_rows(config: ActorCriticConfig, num_envs: int, num_steps: int) -> None:
    """Check that a rollout has more than one advantage if advantages are normalised.

    The only advantage of a rollout would always become 0.

    Args:
      config: settings of the objective.
      num_envs: number of environments of a rollout.
      num_steps: number of steps of a rollout.

    Raises:
      InputError: if advantages are normalised and a rollout has only one.
    """
    if config.normalize_advantages and num_envs * num_steps == 1:
        raise InputError(
            "normalize_advantages must be False with num_envs=1 and num_steps=1: the only "
            "advantage of a rollout would become 0; use more environments or steps"
        )


def _normalize(advantages: Array, mask: Array) -> Array:
    """Shift and scale to mean 0 and deviation 1 over the unmasked steps; keep a single one."""
    centred = advantages - masked_mean(advantages, mask)
    deviation = jnp.sqrt(masked_mean(jnp.square(centred), mask))
    return jnp.where(mask.sum() > 1, centred / (deviation + 1e-8), advantages)
