"""The gradient of an objective on a rollout, averaged and guarded."""

import jax
import jax.numpy as jnp
import optax

from jax_a3c.objectives.base import Objective
from jax_a3c.rollouts import Rollout
from jax_a3c.types import Array, Metrics, Params


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
