"""The interfaces of objectives and networks, and the functions that all objectives share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from jax_a3c.rollouts import Rollout, Transition
from jax_a3c.settings.parts import ObjectiveConfig, Reduction
from jax_a3c.types import Array, Metrics, Params


class RunningStatistics(NamedTuple):
    """Running statistics among the parameters, which no gradient changes.

    Attributes:
      update: `(params, rollout) -> changes`, what a rollout adds to the statistics. `changes` is a
        dict with the entries of the dict `params` that hold statistics. These are the last entries
        by name.
      discount: gamma of the `running_return` that the statistics need.
    """

    update: Callable[[Params, Rollout], dict[str, Any]]
    discount: float


class Objective(NamedTuple):
    """A method as pure functions.

    Attributes:
      act: `(params, key, carry, observation [*B, ...], reset [*B], exploration, env_steps) ->
        (carry, action [*B, ...], extras)`, the behaviour that collects data. `extras` is whatever
        the loss wants to find in `Transition.extras`, `()` for nothing. `env_steps` is T, the
        environment steps of all environments so far.
      loss: `(params, rollout [T, *B], target_params) -> (loss, metrics)`, differentiable in
        `params`.
      explore: `(key, num_envs) -> exploration [num_envs]`, a value for each environment, drawn once
        per run, that sets how it explores; None if all explore alike.
      needs_next_action: the loss needs `next_action`, the action after each step. The action after
        a rollout's last step is then chosen at the end of the rollout and taken at the start of the
        next one.
      target_update_interval: I_target, environment steps of all workers between two copies of the
        parameters to the target network. None if the loss needs no target network; `target_params`
        is then None.
      statistics: running statistics in the parameters; None if there are none.
      loss_reduction: whether the loss is a mean over the unmasked steps, or a sum over the steps
        that is averaged over environments; on several devices the runner averages accordingly.
    """

    act: Callable[..., tuple]
    loss: Callable[..., tuple[Array, Metrics]]
    explore: Callable[[Array, int], Any] | None = None
    needs_next_action: bool = False
    target_update_interval: int | None = None
    statistics: RunningStatistics | None = None
    loss_reduction: Reduction = "mean"

    @property
    def actor_needs(self) -> dict[str, Any]:
        """Return the keyword arguments for `init_actor` and `init_host_actor`."""
        return {
            "explore": self.explore,
            "needs_next_action": self.needs_next_action,
            "needs_running_return": self.statistics is not None,
        }

    @property
    def discount(self) -> float:
        """Return gamma of `running_return`, for `UnrollConfig`."""
        return 1.0 if self.statistics is None else self.statistics.discount


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
