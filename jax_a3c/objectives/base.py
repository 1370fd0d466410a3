"""What a method is to a runner, what a network is to a method, and what all objectives share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from jax_a3c.checks import check_choice, check_number
from jax_a3c.rollouts import row_after_each_step
from jax_a3c.types import Array, Carry, Metrics, Params, Rollout, Transition


class Network(Protocol):
    """What a method asks of a network; a Flax module with these methods is one.

    One that has `is_recorded`, which is true, `record` and `replay` as `networks.ActorCritic` does saves the
    loss of an actor-critic method a forward pass.

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


class Statistics(NamedTuple):
    """What the parameters hold beside weights: running statistics, which no gradient changes.

    Attributes:
      change: `(params, rollout) -> changes`, what a rollout adds to them; a dict with those entries of
        `params`, also a dict, that hold them. They are the last ones by name.
      discount: gamma of the `discounted_return` that they ask for.
    """

    change: Callable[[Params, Rollout], dict[str, Any]]
    discount: float


class Objective(NamedTuple):
    """A method, as pure functions.

    Attributes:
      act: `(params, key, carry, observation [*B, ...], reset [*B], exploration, env_steps) -> (carry,
        action [*B, ...])`, and perhaps the layers, as `rollouts.Act`: the behaviour that gathers data;
        `env_steps` is T, the environment steps that all environments have taken so far.
      loss: `(params, rollout [T, *B], target_params) -> (loss, metrics)`, differentiable in `params`.
      explore: `(key, num_envs) -> exploration`, what tells the behaviour of one environment from that of
        another for the whole of a run, `[num_envs]`; None if nothing does.
      looks_ahead: the loss needs `next_action`, the action that follows each step. The one that follows a
        rollout is then chosen at its end, and taken at the start of the next.
      target_update_interval: environment steps of all workers between two copies of the parameters into the
        target network; None if the loss has no use for one, it then gets None.
      statistics: running statistics in the parameters; None if there are none.
    """

    act: Callable[..., tuple]
    loss: Callable[..., tuple[Array, Metrics]]
    explore: Callable[[Array, int], Any] | None = None
    looks_ahead: bool = False
    target_update_interval: int | None = None
    statistics: Statistics | None = None

    @property
    def actor_needs(self) -> dict[str, Any]:
        """What `init_actor` and `init_host_actor` must know of it."""
        sums_discounted = self.statistics is not None
        return {
            "explore": self.explore,
            "looks_ahead": self.looks_ahead,
            "sums_discounted": sums_discounted,
        }

    @property
    def discount(self) -> float:
        """What `unroll` and `host_unroll` must know of it: gamma of `discounted_return`."""
        return 1.0 if self.statistics is None else self.statistics.discount


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Settings that every objective has.

    Attributes:
      gamma: discount per environment step, in [0, 1]. Paper: 0.99.
      vf_coef: weight of the value loss 0.5 (R - V)^2 or 0.5 (R - Q)^2, at least 0. The paper's pseudo-code
        has the square without 0.5, which is 2. By e-mail the authors multiplied the critic's gradient
        by 0.5, which is 1.
      loss_reduction: `"sum"` adds the losses of the T steps of a rollout, as the paper's accumulated
        gradients do, `"mean"` averages them; both average over environments. Step size, epsilon of
        RMSProp and the clipping norm belong to one of the two: sum with 0.1 and 40, mean with 1e-5 and 0.5.
      reward_scale: factor on the rewards that the learner sees; scores stay in reward units.
      reward_clip: bound on the magnitude of those rewards, None for no bound. Authors, for Atari: 1.
    """

    gamma: float = 0.99
    vf_coef: float = 1.0
    loss_reduction: Literal["sum", "mean"] = "sum"
    reward_scale: float = 1.0
    reward_clip: float | None = None

    def __post_init__(self) -> None:
        check_number("gamma", self.gamma, 0.0, 1.0)
        check_number("vf_coef", self.vf_coef, 0.0)
        check_choice("loss_reduction", self.loss_reduction, ("sum", "mean"))
        check_number("reward_scale", self.reward_scale)
        if self.reward_clip is not None:
            check_number("reward_clip", self.reward_clip, above=0.0)


def rewards_and_discounts(config: ObjectiveConfig, steps: Transition) -> tuple[Array, Array]:
    """What the learner sees of a rollout's rewards, and gamma_t, which is 0 where the episode terminated.

    Args:
      config: scale, bound and gamma.
      steps: of a rollout, `[T, *B]`.

    Returns:
      Rewards and discounts, `[T, *B]` float32.
    """
    rewards = steps.reward * config.reward_scale
    if config.reward_clip is not None:
        rewards = jnp.clip(rewards, -config.reward_clip, config.reward_clip)
    return rewards, config.gamma * (1.0 - steps.terminated)


def masked_mean(x: Array, mask: Array) -> Array:
    """Mean over the recorded steps; 0 if none was recorded.

    Args:
      x: `[T, *B]`.
      mask: `[T, *B]` bool, as in `Transition`.

    Returns:
      `[]`.
    """
    return jnp.sum(x, where=mask) / jnp.maximum(mask.sum(), 1)


def reduce_loss(config: ObjectiveConfig, loss: Array, steps: Transition) -> Array:
    """The loss of a rollout from its mean over the recorded steps: that mean, or the sum over a segment.

    Args:
      config: says which.
      loss: `[]`, averaged over the recorded steps and environments.
      steps: of the rollout, `[T, *B]`.

    Returns:
      `[]`.
    """
    # The mean over steps and environments, times the number of steps: the sum over a segment.
    length = steps.mask.sum() / steps.mask[0].size
    return loss * (length if config.loss_reduction == "sum" else 1.0)


def values_after_each_step(network: Network, params: Params, steps: Transition) -> Array:
    """v(s_{t+1}) of each step, from its own next observation and the recurrent state of its own episode.

    One pass without a loop over time, since that recurrent state was kept.

    Args:
      network: whose values these are.
      params: its parameters, constant for the gradient.
      steps: `[*B]` or `[T, *B]`.

    Returns:
      `[*B, ...]` or `[T, *B, ...]`, as the network's values are. Of no meaning where the episode terminated.
    """
    return _values(network, params, steps.next_carry, steps.next_observation, steps.reset.shape)


def _values(
    network: Network, params: Params, carry: Carry, observation: Array, batch_shape: tuple[int, ...]
) -> Array:
    """v of observations `[*batch_shape, ...]` within their episodes, constant for the gradient."""
    never = jnp.zeros((1, *batch_shape), bool)
    return network.apply(jax.lax.stop_gradient(params), carry, observation[None], never)[2][0]


def next_target_values(
    network: Network, target_params: Params, rollout: Rollout, fill: Array | None = None
) -> Array:
    """v(s_{t+1}; theta^-) of every step.

    A recurrent target network has a state of its own, from the one that the behaviour began the rollout with.
    Only in the final observation of an episode that was cut is it lent the behaviour's state.

    Args:
      network: whose values these are.
      target_params: theta^-.
      rollout: `[T, *B]`.
      fill: `[T, *B, ...]`. If only the rows count from which an n-step return bootstraps, what stands in
        the others; a feed-forward network is then asked for those rows alone.

    Returns:
      `[T, *B, ...]`. Of no meaning where the episode terminated.
    """
    steps = rollout.steps
    if not jax.tree.leaves(rollout.carry) and steps.next_observation is not None:  # feed-forward
        if fill is None:
            return values_after_each_step(network, target_params, steps)
        return next_values(network, target_params, rollout, fill)
    carry, _, values = network.apply(target_params, rollout.carry, steps.observation, steps.reset)
    return next_values(network, target_params, rollout, values, carry)


def next_values(
    network: Network, params: Params, rollout: Rollout, values: Array, last_carry: Carry = None
) -> Array:
    """v(s_{t+1}) of every step, constant for the gradient.

    Within an episode it is the next row of `values`. The last row is bootstrapped, and so is, with its own
    final observation and the carry of its own episode, every row at which an episode was truncated. Those
    cost a pass over one step of each environment; it is made only if there are any.

    Args:
      network: whose values these are.
      params: its parameters.
      rollout: `[T, *B]`.
      values: `[T, *B, ...]`. v(s_t) of the rollout's observations.
      last_carry: `[*B, ...]`. Recurrent state with which to value the last observation; by default the
        behaviour's own.

    Returns:
      `[T, *B, ...]`. Of no meaning where the episode terminated.

    References:
      Pardo et al. (2018), Time Limits in Reinforcement Learning.
    """
    values = jax.lax.stop_gradient(values)
    steps = rollout.steps
    observation, carry = rollout.last_observation, rollout.last_carry
    if observation is None:
        observation, carry = jax.tree.map(
            lambda x: x[-1], (steps.next_observation, steps.next_carry)
        )
    if last_carry is not None:
        carry = jax.lax.stop_gradient(last_carry)
    last = _values(network, params, carry, observation, steps.reset.shape[1:])
    params = jax.lax.stop_gradient(
        params
    )  # outside of the loop below, which has no reverse derivative
    return row_after_each_step(
        steps, values, last, lambda row, i: values_after_each_step(network, params, row)
    )


def gradient(
    objective: Objective,
    params: Params,
    rollout: Rollout,
    max_grad_norm: float | None,
    target_params: Params = None,
) -> tuple[Params, Metrics]:
    """Gradient of an objective on a rollout, clipped by its global norm.

    A gradient that is not finite, or whose loss or another metric is not, is replaced by zeros, so that no
    parameter and no sum of metrics ever becomes NaN, and counted.

    Args:
      objective: what to differentiate.
      params: where.
      rollout: `[T, *B]`.
      max_grad_norm: bound of the global L2 norm, None for no bound.
      target_params: of the target network, None for an objective without one.

    Returns:
      The gradient, shaped like `params`, and the objective's metrics with `grad_norm` (before clipping)
      added; they are 0 where the gradient was replaced. Besides three counts, each 0 or 1:
      `nonfinite_gradients`, and what may have caused it, the counts of `nonfinite_data`.
    """
    grads, metrics = jax.grad(objective.loss, has_aux=True)(params, rollout, target_params)
    norm = optax.tree.norm(grads)
    metrics = {**metrics, "grad_norm": norm}
    # The square of an error may be too large for float32, and its gradient, a mean over steps, not.
    finite = jnp.stack([jnp.isfinite(x).all() for x in metrics.values()]).all()
    scale = (
        jnp.ones(()) if max_grad_norm is None else jnp.minimum(1.0, max_grad_norm / (norm + 1e-12))
    )
    grads = jax.tree.map(lambda g: jnp.where(finite, g * scale, 0.0).astype(g.dtype), grads)
    # Metrics are summed over many updates: one NaN would take them all.
    metrics = {name: jnp.where(finite, x, 0.0) for name, x in metrics.items()}
    return grads, {**metrics, "nonfinite_gradients": 1.0 - finite, **nonfinite_data(rollout)}


def nonfinite_data(rollout: Rollout) -> Metrics:
    """Tell whether an environment returned something that is not finite.

    Args:
      rollout: `[T, *B]`.

    Returns:
      `nonfinite_rewards` and `nonfinite_observations`, each 1 where a recorded step has one, else 0. The
      observations are those before and after a step, since its value is asked of both.
    """
    steps = rollout.steps
    following = steps.next_observation
    if following is None:
        last = jax.tree.map(lambda x: x[None], rollout.last_observation)
        following = jnp.concatenate([steps.observation[1:], last])

    rewards = ~jnp.isfinite(steps.reward)
    observations = _nonfinite_rows(steps.observation, steps.mask)
    observations |= _nonfinite_rows(following, steps.mask)
    found = {"nonfinite_rewards": rewards, "nonfinite_observations": observations}
    return {name: (rows & steps.mask).any().astype(jnp.float32) for name, rows in found.items()}


def _nonfinite_rows(observation: Array, mask: Array) -> Array:
    """Where an observation `[T, *B, ...]` has an entry that is not finite, `[T, *B]`."""
    if not jnp.issubdtype(observation.dtype, jnp.inexact):
        return jnp.zeros(mask.shape, bool)
    entries = tuple(range(mask.ndim, observation.ndim))
    return (~jnp.isfinite(observation)).any(entries)
