"""The gradient of an objective on a rollout, and its guard against values that are not finite.

A runner takes three steps: `gradient`, `average` over devices if there are several, and `guarded`.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
import optax

from jax_a3c import shards
from jax_a3c.objectives.base import Objective
from jax_a3c.objectives.bootstrap import next_observations
from jax_a3c.rollouts import Rollout
from jax_a3c.types import Array, Metrics, Params

Sums = TypeVar("Sums")

DATA_COUNTS = ("nonfinite_rewards", "nonfinite_observations")
"""Metrics of `gradient` that stay as they are where an update is skipped: they tell its cause."""


def gradient(
    objective: Objective, params: Params, rollout: Rollout, target_params: Params = None
) -> tuple[Params, Metrics]:
    """Return d theta, the gradient of an objective on a rollout.

    Args:
      objective: the objective to differentiate.
      params: theta, the parameters at which to differentiate.
      rollout: `[T, *B]`.
      target_params: theta^-, parameters of the target network; None for an objective without one.

    Returns:
      The gradient, shaped like `params`, and the metrics, scalars: the objective's, and the counts
      of `nonfinite_data`.
    """
    # d theta of all steps at once: the gradient of their summed or averaged loss.
    grads, metrics = jax.grad(objective.loss, has_aux=True)(params, rollout, target_params)
    return grads, {**metrics, **nonfinite_data(rollout)}


def average(
    objective: Objective, rollout: Rollout, grads: Params, metrics: Metrics, sums: Sums
) -> tuple[Params, Metrics, Sums]:
    r"""Return gradient and metrics of the rollouts of all shards, and the totals of their counts.

        d theta = sum_s w_s d theta_s / sum_s w_s

    w_s is the number of unmasked steps of shard s if the loss is their mean, and 1 if it is a sum
    that is averaged over environments. So the result equals the gradient of one rollout with the
    environments of all shards. The metrics are means over the unmasked steps. All travels in one
    vector.

    Args:
      objective: the objective, with its `loss_reduction`.
      rollout: `[T, *B]`, of this shard.
      grads: from `gradient`, of this shard.
      metrics: from `gradient`, of this shard.
      sums: tree of what this shard counted.

    Returns:
      The same three of all shards; unchanged where there are no shards.
    """
    if not shards.exist():
        return grads, metrics, sums

    # Weigh what is a mean by its steps.
    recorded = rollout.steps.mask.sum().astype(jnp.float32)
    weight = recorded if objective.loss_reduction == "mean" else jnp.ones(())
    means = {name: x * recorded for name, x in metrics.items() if name not in DATA_COUNTS}
    found = {name: metrics[name] for name in DATA_COUNTS}
    weighted = jax.tree.map(lambda g: g * weight, grads)

    # Add up over the shards, and divide by the sums of the weights.
    totals, means, found, sums, weight, recorded = shards.total(
        (weighted, means, found, sums, weight, recorded)
    )
    grads = jax.tree.map(
        lambda total, g: (total / jnp.maximum(weight, 1.0)).astype(g.dtype), totals, grads
    )
    means = {name: x / jnp.maximum(recorded, 1.0) for name, x in means.items()}
    return grads, {**means, **{name: jnp.minimum(x, 1.0) for name, x in found.items()}}, sums


def guarded(grads: Params, metrics: Metrics, max_grad_norm: float | None) -> tuple[Params, Metrics]:
    """Clip a gradient by its global norm, and replace one that is not finite by zeros.

    A gradient also counts as not finite if one of its metrics is not. So no parameter and no sum of
    metrics becomes NaN.

    Args:
      grads: the gradient, a tree.
      metrics: of `gradient`, scalars.
      max_grad_norm: bound of the global L2 norm; None for no bound.

    Returns:
      The gradient and the metrics with `grad_norm`, the norm before clipping, and
      `nonfinite_gradients`, 1 where the gradient was replaced, else 0. Where it was replaced, all
      other metrics except `DATA_COUNTS` are 0.
    """
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
    metrics = {
        name: x if name in DATA_COUNTS else jnp.where(finite, x, 0.0) for name, x in metrics.items()
    }
    return grads, {**metrics, "nonfinite_gradients": 1.0 - finite}


def nonfinite_data(rollout: Rollout) -> Metrics:
    """Return whether an environment returned values that are not finite.

    Args:
      rollout: `[T, *B]`.

    Returns:
      `nonfinite_rewards` and `nonfinite_observations`, each 1 if an unmasked step has one, else 0.
      The observations before and after a step count, since the loss uses the values of both.
    """
    steps = rollout.steps
    rewards = ~jnp.isfinite(steps.reward)
    observations = _nonfinite_rows(steps.observation, steps.mask)
    observations |= _nonfinite_rows(next_observations(rollout), steps.mask)

    # Masked rows do not count.
    found = dict(zip(DATA_COUNTS, (rewards, observations), strict=True))
    return {name: (rows & steps.mask).any().astype(jnp.float32) for name, rows in found.items()}


def _nonfinite_rows(observation: Array, mask: Array) -> Array:
    """Return where an observation `[T, *B, ...]` has an entry that is not finite, `[T, *B]`."""
    if not jnp.issubdtype(observation.dtype, jnp.inexact):
        return jnp.zeros(mask.shape, bool)
    entries = tuple(range(mask.ndim, observation.ndim))
    return (~jnp.isfinite(observation)).any(entries)
