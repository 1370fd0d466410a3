"""The interfaces of objectives and networks, and the functions that all objectives share."""

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
    """The interface of a network. A Flax module with these methods satisfies it.

    Arrays are time-major: `observation [T, *B, ...]`, `reset [T, *B]`, `carry [*B, ...]`. Where
    `reset` is True the network resets its carry before it reads that observation.

    A network may also store its activations while acting, so that the loss of an actor-critic
    method saves a forward pass. It then has a true `is_recorded`, and `record` and `replay` as in
    `networks.ActorCritic`.
    """

    @property
    def init(self) -> Callable[..., Params]:
        """Return the function `(key, carry, observation, reset) -> params`."""

    @property
    def apply(self) -> Callable[..., Any]:
        """Return `(params, carry, observation, reset) -> (carry, distribution, values)`."""

    def initial_carry(self, batch_shape: tuple[int, ...]) -> Carry:
        """Return the recurrent state at the start of an episode, `[*batch_shape, ...]`."""


class Statistics(NamedTuple):
    """Running statistics among the parameters, which no gradient changes.

    Attributes:
      change: `(params, rollout) -> changes`, what a rollout adds to the statistics. `changes` is a
        dict with the entries of the dict `params` that hold statistics. These are the last entries
        by name.
      discount: gamma of the `discounted_return` that the statistics need.
    """

    change: Callable[[Params, Rollout], dict[str, Any]]
    discount: float


class Objective(NamedTuple):
    """A method as pure functions.

    Attributes:
      act: `(params, key, carry, observation [*B, ...], reset [*B], exploration, env_steps) ->
        (carry, action [*B, ...])`, the behaviour that collects data. A third result may be the
        layers' activations, as in `rollouts.Act`. `env_steps` is T, the environment steps of all
        environments so far.
      loss: `(params, rollout [T, *B], target_params) -> (loss, metrics)`, differentiable in
        `params`.
      explore: `(key, num_envs) -> exploration [num_envs]`, a value for each environment, drawn once
        per run, that sets how it explores; None if all explore alike.
      looks_ahead: the loss needs `next_action`, the action after each step. The action after a
        rollout's last step is then chosen at the end of the rollout and taken at the start of the
        next one.
      target_update_interval: I_target, environment steps of all workers between two copies of the
        parameters to the target network. None if the loss needs no target network; `target_params`
        is then None.
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
        """Return the keyword arguments for `init_actor` and `init_host_actor`."""
        sums_discounted = self.statistics is not None
        return {
            "explore": self.explore,
            "looks_ahead": self.looks_ahead,
            "sums_discounted": sums_discounted,
        }

    @property
    def discount(self) -> float:
        """Return gamma of `discounted_return`, for `unroll` and `host_unroll`."""
        return 1.0 if self.statistics is None else self.statistics.discount


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Settings that every objective has.

    Attributes:
      gamma: discount per environment step, in [0, 1]. Paper: 0.99.
      vf_coef: weight of the value loss 0.5 (R - V)^2 or 0.5 (R - Q)^2, at least 0. The paper's
        pseudo-code has the square without 0.5, which is a weight of 2. By e-mail the authors said
        that they multiplied the critic's gradient by 0.5, which is a weight of 1.
      loss_reduction: `"sum"` adds the losses of the T steps of a rollout, like the gradients that
        the paper accumulates. `"mean"` averages them. Both average over environments. Learning
        rate, RMSProp epsilon and clipping norm depend on this choice: epsilon 0.1 and norm 40 with
        the sum, 1e-5 and 0.5 with the mean.
      reward_scale: factor on the rewards in the loss. Scores stay in reward units.
      reward_clip: bound on the magnitude of the scaled rewards, above 0; None for no bound.
        Authors, for Atari: 1.
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
    """Return the scaled and clipped rewards, and gamma_t, which is 0 where the episode terminated.

    Args:
      config: scale, bound and gamma.
      steps: `[T, *B]`. Steps of a rollout.

    Returns:
      Rewards and discounts, `[T, *B]` float32.
    """
    rewards = steps.reward * config.reward_scale
    if config.reward_clip is not None:
        rewards = jnp.clip(rewards, -config.reward_clip, config.reward_clip)
    return rewards, config.gamma * (1.0 - steps.terminated)


def masked_mean(x: Array, mask: Array) -> Array:
    """Return the mean over the unmasked steps; 0 if all are masked.

    Args:
      x: `[T, *B]`. One value for each step.
      mask: `[T, *B]` bool, as in `Transition`.

    Returns:
      `[]`.
    """
    return jnp.sum(x, where=mask) / jnp.maximum(mask.sum(), 1)


def reduce_loss(config: ObjectiveConfig, loss: Array, steps: Transition) -> Array:
    """Return the loss of a rollout: the given mean, or the sum over a segment.

    Args:
      config: the settings, with `loss_reduction`.
      loss: `[]`. Mean over the unmasked steps of all environments.
      steps: `[T, *B]`. Steps of the rollout.

    Returns:
      `[]`.
    """
    # The sum over a segment is the mean times the steps of an environment, on average over *B.
    length = steps.mask.sum() / steps.mask[0].size
    return loss * (length if config.loss_reduction == "sum" else 1.0)


def values_after_each_step(network: Network, params: Params, steps: Transition) -> Array:
    """Return v(s_{t+1}) of each step, from its stored next observation and next recurrent state.

    Because the recurrent state was stored, this is one pass without a loop over time.

    Args:
      network: the network with the values v.
      params: parameters of the network; no gradient flows into them.
      steps: `[*B]` or `[T, *B]`.

    Returns:
      `[*B, ...]` or `[T, *B, ...]`, as the network's values. Meaningless where the episode
      terminated.
    """
    return _values(network, params, steps.next_carry, steps.next_observation, steps.reset.shape)


def _values(
    network: Network, params: Params, carry: Carry, observation: Array, batch_shape: tuple[int, ...]
) -> Array:
    """Return v of observations `[*batch_shape, ...]` inside an episode, without a gradient."""
    never = jnp.zeros((1, *batch_shape), bool)
    return network.apply(jax.lax.stop_gradient(params), carry, observation[None], never)[2][0]


def next_target_values(
    network: Network, target_params: Params, rollout: Rollout, fill: Array | None = None
) -> Array:
    """Return v(s_{t+1}; theta^-) of every step.

    A recurrent target network computes its own recurrent states, starting from the behaviour's
    state at the start of the rollout. The final observation of a truncated episode is valued with
    the behaviour's state.

    Args:
      network: the network with the values v.
      target_params: theta^-, parameters of the target network.
      rollout: `[T, *B]`.
      fill: `[T, *B, ...]`. Values for the rows from which an n-step return does not bootstrap. A
        feed-forward network then computes only the other rows. None to compute all rows.

    Returns:
      `[T, *B, ...]`. Meaningless where the episode terminated.
    """
    steps = rollout.steps

    # A feed-forward network needs no pass over time.
    if not jax.tree.leaves(rollout.carry) and steps.next_observation is not None:
        if fill is None:
            return values_after_each_step(network, target_params, steps)
        return next_values(network, target_params, rollout, fill)

    carry, _, values = network.apply(target_params, rollout.carry, steps.observation, steps.reset)
    return next_values(network, target_params, rollout, values, carry)


def next_values(
    network: Network, params: Params, rollout: Rollout, values: Array, last_carry: Carry = None
) -> Array:
    """Return v(s_{t+1}) of every step; no gradient flows into it.

    Within an episode it is the next row of `values`. The last row is v of the last observation. A
    row where an episode was truncated is v of its final observation, with the carry of that
    episode. Truncated rows cost one pass over one step of each environment at a time, and no pass
    if there are none.

    Args:
      network: the network with the values v.
      params: parameters of the network.
      rollout: `[T, *B]`.
      values: `[T, *B, ...]`. v(s_t) of the rollout's observations.
      last_carry: `[*B, ...]`. Recurrent state with which to value the last observation; None for
        the behaviour's state.

    Returns:
      `[T, *B, ...]`. Meaningless where the episode terminated.

    References:
      Pardo et al. (2018), Time Limits in Reinforcement Learning.
    """
    values = jax.lax.stop_gradient(values)
    steps = rollout.steps

    # v(s_T), from the observation after the last step.
    observation = rollout.last_observation
    carry = rollout.last_carry
    if observation is None:
        observation, carry = jax.tree.map(
            lambda x: x[-1], (steps.next_observation, steps.next_carry)
        )
    if last_carry is not None:
        carry = jax.lax.stop_gradient(last_carry)
    last = _values(network, params, carry, observation, steps.reset.shape[1:])

    # The loop below has no reverse derivative, so stop the gradient outside of it.
    params = jax.lax.stop_gradient(params)
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
    """Return d theta, the gradient of an objective on a rollout, clipped by its global norm.

    If the gradient, the loss or another metric is not finite, the gradient is replaced by zeros and
    counted. So no parameter and no sum of metrics becomes NaN.

    Args:
      objective: the objective to differentiate.
      params: theta, the parameters at which to differentiate.
      rollout: `[T, *B]`.
      max_grad_norm: bound of the global L2 norm; None for no bound.
      target_params: theta^-, parameters of the target network; None for an objective without one.

    Returns:
      The gradient, shaped like `params`, and the metrics. These are the objective's metrics and
      `grad_norm` (before clipping), all 0 where the gradient was replaced, and three counts, each 0
      or 1: `nonfinite_gradients`, and the counts of `nonfinite_data`, its possible causes.
    """
    # d theta of all steps at once: the gradient of their summed or averaged loss.
    grads, metrics = jax.grad(objective.loss, has_aux=True)(params, rollout, target_params)
    norm = optax.tree.norm(grads)
    metrics = {**metrics, "grad_norm": norm}

    # Check the metrics as well: a squared error may overflow float32 where its gradient does not.
    finite = jnp.stack([jnp.isfinite(x).all() for x in metrics.values()]).all()

    # Clip by the global norm; zero a gradient that is not finite.
    scale = (
        jnp.ones(()) if max_grad_norm is None else jnp.minimum(1.0, max_grad_norm / (norm + 1e-12))
    )
    grads = jax.tree.map(lambda g: jnp.where(finite, g * scale, 0.0).astype(g.dtype), grads)

    # Metrics are summed over many updates, so one NaN would make the sums NaN.
    metrics = {name: jnp.where(finite, x, 0.0) for name, x in metrics.items()}
    return grads, {**metrics, "nonfinite_gradients": 1.0 - finite, **nonfinite_data(rollout)}


def nonfinite_data(rollout: Rollout) -> Metrics:
    """Return whether an environment returned values that are not finite.

    Args:
      rollout: `[T, *B]`.

    Returns:
      `nonfinite_rewards` and `nonfinite_observations`, each 1 if an unmasked step has one, else 0.
      The observations before and after a step count, since the loss uses the values of both.
    """
    steps = rollout.steps

    # s_{t+1} of every step.
    following = steps.next_observation
    if following is None:
        last = jax.tree.map(lambda x: x[None], rollout.last_observation)
        following = jnp.concatenate([steps.observation[1:], last])

    # Masked rows do not count.
    rewards = ~jnp.isfinite(steps.reward)
    observations = _nonfinite_rows(steps.observation, steps.mask)
    observations |= _nonfinite_rows(following, steps.mask)
    found = {"nonfinite_rewards": rewards, "nonfinite_observations": observations}
    return {name: (rows & steps.mask).any().astype(jnp.float32) for name, rows in found.items()}


def _nonfinite_rows(observation: Array, mask: Array) -> Array:
    """Return where an observation `[T, *B, ...]` has an entry that is not finite, `[T, *B]`."""
    if not jnp.issubdtype(observation.dtype, jnp.inexact):
        return jnp.zeros(mask.shape, bool)
    entries = tuple(range(mask.ndim, observation.ndim))
    return (~jnp.isfinite(observation)).any(entries)
