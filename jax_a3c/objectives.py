"""The paper's methods as objectives: how to act, and what to minimise on a rollout.

A runner needs no more of a method than this; who applies the gradient is the runner's affair.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from jax_a3c import losses, returns
from jax_a3c.checks import check_boolean, check_choice, check_number
from jax_a3c.types import Array, Carry, Metrics, Params, Rollout


class Network(Protocol):
    """What a method asks of a network; a Flax module with these methods is one.

    Arrays are time-major: `observation [T, *B, ...]`, `reset [T, *B]`, `carry [*B, ...]`. Where `reset` is
    true the network forgets its carry before it sees that observation.
    """

    @property
    def init(self) -> Callable[..., Params]:
        """`(key, carry, observation, reset) -> params`."""

    @property
    def apply(self) -> Callable[..., Any]:
        """`(params, carry, observation, reset) -> (carry, distribution, values)`."""

    def initial_carry(self, batch_shape: tuple[int, ...]) -> Carry:
        """Recurrent state at the start of an episode, `[*batch_shape, ...]`."""


class Objective(NamedTuple):
    """A method: two pure functions.

    Attributes:
      act: `(params, key, carry, observation [*B, ...], reset [*B]) -> (carry, action [*B, ...])`, the
        behaviour that gathers data.
      loss: `(params, rollout [T, *B]) -> (loss, metrics)`, differentiable in `params`.
    """

    act: Callable[[Params, Array, Carry, Array, Array], tuple[Carry, Array]]
    loss: Callable[[Params, Rollout], tuple[Array, Metrics]]


@dataclass(frozen=True, kw_only=True)
class ActorCriticConfig:
    """Settings of the actor-critic objective.

    Attributes:
      gamma: discount per environment step, in [0, 1]. Paper: 0.99.
      gae_lambda: lambda of the advantages, in [0, 1]; 1 gives the paper's n-step returns.
      vf_coef: weight of the value loss 0.5 (R - V)^2, at least 0. 1 gives the gradient (V - R): the paper's
        2 (V - R) times the 0.5 that the authors reported by e-mail, read literally.
      ent_coef: weight of the policy's entropy, beta, at least 0. Paper: 0.01 for discrete actions, 1e-4
        for continuous ones.
      loss_reduction: `"sum"` adds the losses of the T steps of a rollout, as the paper's accumulated
        gradients do, `"mean"` averages them; both average over environments. Step size, epsilon of
        RMSProp and the clipping norm belong to one of the two: sum with 0.1 and 40, mean with 1e-5 and 0.5.
      normalize_advantages: shift and scale the advantages of a rollout to mean 0 and deviation 1. Not in
        the paper.
      reward_scale: factor on the rewards that the learner sees; scores stay in reward units.
      reward_clip: bound on the magnitude of those rewards, None for no bound. Authors, for Atari: 1.
    """

    gamma: float = 0.99
    gae_lambda: float = 1.0
    vf_coef: float = 1.0
    ent_coef: float = 0.01
    loss_reduction: Literal["sum", "mean"] = "sum"
    normalize_advantages: bool = False
    reward_scale: float = 1.0
    reward_clip: float | None = None

    def __post_init__(self) -> None:
        check_number("gamma", self.gamma, 0.0, 1.0)
        check_number("gae_lambda", self.gae_lambda, 0.0, 1.0)
        check_number("vf_coef", self.vf_coef, 0.0)
        check_number("ent_coef", self.ent_coef, 0.0)
        check_number("reward_scale", self.reward_scale)
        check_boolean("normalize_advantages", self.normalize_advantages)
        check_choice("loss_reduction", self.loss_reduction, ("sum", "mean"))
        if self.reward_clip is not None:
            check_number("reward_clip", self.reward_clip, above=0.0)


def actor_critic(network: Network, config: ActorCriticConfig) -> Objective:
    r"""The objective of A3C and A2C.

        loss = -log pi(a_t|s_t) (R_t - V(s_t)) + vf_coef 0.5 (R_t - V(s_t))^2 - ent_coef H(pi(.|s_t))

    with R_t the lambda-return of the rollout, constant for the gradient, and the advantage R_t - V(s_t)
    constant in the first term.

    Args:
      network: the policy and the value function.
      config: weights and discounts.

    Returns:
      The objective. Its metrics: `loss, policy_loss, value_loss, entropy`, averaged over steps.

    References:
      Mnih et al. (2016), section 4 and Algorithm S3; Schulman et al. (2016) for lambda < 1.
    """

    def act(
        params: Params, key: Array, carry: Carry, observation: Array, reset: Array
    ) -> tuple[Carry, Array]:
        carry, policy, _ = network.apply(params, carry, observation[None], reset[None])
        return carry, policy.sample(key)[0]

    def loss(params: Params, rollout: Rollout) -> tuple[Array, Metrics]:
        steps = rollout.steps
        _, policy, values = network.apply(params, rollout.carry, steps.observation, steps.reset)
        rewards = steps.reward * config.reward_scale
        if config.reward_clip is not None:
            rewards = jnp.clip(rewards, -config.reward_clip, config.reward_clip)
        discounts = config.gamma * (1.0 - steps.terminated)
        # lambda_t = 0 at a truncation: bootstrap from the final observation, forget the next episode.
        lambdas = config.gae_lambda * (1.0 - steps.truncated)
        bootstrap = next_values(network, params, rollout, values)
        targets = jax.lax.stop_gradient(returns.lambda_returns(rewards, discounts, bootstrap, lambdas))
        advantages = targets - values
        if config.normalize_advantages:
            advantages = _normalize(advantages, steps.mask)
        per_step = {
            "policy_loss": losses.policy_gradient_loss(policy.log_prob(steps.action), advantages),
            "value_loss": losses.value_loss(values, targets),
            "entropy": policy.entropy(),
        }
        means = {name: jnp.mean(x, where=steps.mask) for name, x in per_step.items()}
        total = (
            means["policy_loss"] + config.vf_coef * means["value_loss"] - config.ent_coef * means["entropy"]
        )
        # The mean over steps and environments, times the number of steps: the sum over a segment.
        length = steps.mask.sum() / steps.mask[0].size
        return total * (length if config.loss_reduction == "sum" else 1.0), {"loss": total, **means}

    return Objective(act, loss)


def next_values(network: Network, params: Params, rollout: Rollout, values: Array) -> Array:
    """v(s_{t+1}) of every step, constant for the gradient.

    Within an episode it is the next row of `values`. The last row is bootstrapped, and so is, with its own
    final observation and the carry of its own episode, every row at which an episode was truncated. Those
    cost a second pass over the rollout; it is made only if there are any.

    Args:
      network: whose values these are.
      params: its parameters.
      rollout: `[T, *B]`.
      values: `[T, *B, ...]`. v(s_t) of the rollout's observations.

    Returns:
      `[T, *B, ...]`. Of no meaning where the episode terminated.

    References:
      Pardo et al. (2018), Time Limits in Reinforcement Learning.
    """
    params, values = jax.lax.stop_gradient((params, values))
    steps = rollout.steps

    def value(carry: Carry, observation: Array, reset: Array) -> Array:
        return network.apply(params, carry, observation[None], jnp.zeros_like(reset)[None])[2][0]

    last_carry = jax.tree.map(lambda x: x[-1], steps.next_carry)
    last = value(last_carry, steps.next_observation[-1], steps.reset[-1])
    following = jnp.concatenate([values[1:], last[None]])
    truncated = steps.truncated & ~steps.terminated

    def with_final_observations() -> Array:
        own = value(steps.next_carry, steps.next_observation, steps.reset)
        return jnp.where(
            truncated.reshape(truncated.shape + (1,) * (own.ndim - truncated.ndim)), own, following
        )

    return jax.lax.cond(jnp.any(truncated[:-1]), with_final_observations, lambda: following)


def gradient(
    objective: Objective, params: Params, rollout: Rollout, max_grad_norm: float | None
) -> tuple[Params, Metrics]:
    """Gradient of an objective on a rollout, clipped by its global norm.

    A gradient that is not finite is replaced by zeros, so that no parameter ever becomes NaN, and counted.

    Args:
      objective: what to differentiate.
      params: where.
      rollout: `[T, *B]`.
      max_grad_norm: bound of the global L2 norm, None for no bound.

    Returns:
      The gradient, shaped like `params`, and the objective's metrics with `grad_norm` (before clipping) and
      `nonfinite_gradients` (0 or 1) added; the others are 0 where that is 1.
    """
    grads, metrics = jax.grad(objective.loss, has_aux=True)(params, rollout)
    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(norm)
    scale = jnp.ones(()) if max_grad_norm is None else jnp.minimum(1.0, max_grad_norm / (norm + 1e-12))
    grads = jax.tree.map(lambda g: jnp.where(finite, g * scale, 0.0), grads)
    # Metrics are summed over many updates: one NaN would take them all.
    metrics = {name: jnp.where(finite, x, 0.0) for name, x in {**metrics, "grad_norm": norm}.items()}
    return grads, {**metrics, "nonfinite_gradients": 1.0 - finite}


def _normalize(advantages: Array, mask: Array) -> Array:
    """Mean 0 and deviation 1 over the recorded steps of a rollout."""
    mean = jnp.mean(advantages, where=mask)
    deviation = jnp.std(advantages, where=mask)
    return (advantages - mean) / (deviation + 1e-8)
