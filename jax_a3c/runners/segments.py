"""A worker's segment as compiled programs: up to t_max steps, and d theta."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jax_a3c.acting.actor import ActorState
from jax_a3c.acting.groups import finish
from jax_a3c.acting.host_unroll import HostRollout, as_rollout, host_unroll, rollout_like
from jax_a3c.acting.unroll import EpisodeSums, unroll
from jax_a3c.envs.base import HostFactory, JaxEnvironment
from jax_a3c.objectives import Objective, gradient
from jax_a3c.programs import compile_program
from jax_a3c.rollouts import Rollout
from jax_a3c.settings.parts import RunnerConfig
from jax_a3c.types import Array, Params

Segment = Callable[
    [np.ndarray, ActorState, np.ndarray | None, np.float32], tuple[ActorState, Array | np.ndarray]
]
"""`(theta [P], actor, target [P], env_steps) -> (actor, packed)`.

packed is one vector: the gradient `[P]`, the metrics, and what the segment adds to running
statistics. Each array that crosses to NumPy costs time under the interpreter lock, so there is only
one.
"""

ONE_CORE: dict[str, str | bool] = {
    "xla_cpu_multi_thread_eigen": False,
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
}
"""Compiler options for XLA. Other options change only the last bits of the results."""


class Segments:
    """Compiler of a worker's segment; all workers run the same programs.

    Attributes:
      metric_names: names of the metrics in a packed vector, `env_steps` first; set by `compile`.
    """

    def __init__(
        self,
        env: JaxEnvironment | HostFactory,
        objective: Objective,
        unravel: Callable[[Array], Params],
        config: RunnerConfig,
        *,
        stop_at_episode_end: bool,
        device: jax.Device,
    ):
        """Store the parts.

        Args:
          env: the environment.
          objective: how to act and what to minimise.
          unravel: function from the flat parameters `[P]` to their tree.
          config: number of steps, clipping norm and resets.
          stop_at_episode_end: a segment ends with the episode.
          device: a CPU device.
        """
        self.metric_names: tuple[str, ...] = ()
        self._env: Any = env
        self._objective = objective
        self._unravel = unravel
        self._config = config
        self._ends: dict[str, Any] = {
            "stop_at_episode_end": stop_at_episode_end,
            "discount": objective.discount,
        }
        self._device = device

    def compile(self, theta: np.ndarray, actor: ActorState, target: np.ndarray | None) -> Segment:
        """Compile the segment for parameters, actor and target of these shapes."""
        env_steps = np.float32(0)
        if isinstance(self._env, JaxEnvironment):
            return self.on_one_core(self._in_one_program, theta, actor, target, env_steps)
        return self._on_host(theta, actor, target, env_steps)

    def on_one_core(self, function: Callable, *args: Any) -> Callable:
        """Compile a program that runs on one core.

        By default XLA runs independent operations of a program in parallel on a pool of threads.
        One worker then takes 1.4 cores, and two workers take 1.4 times the steps of one instead of
        1.8 times.
        """
        return compile_program(function, *args, device=self._device, options=ONE_CORE)

    def _in_one_program(
        self, flat: Array, actor: ActorState, target: Array | None, env_steps: Array
    ) -> tuple[ActorState, Array]:
        """Run a segment of JAX environments: act and differentiate in one program."""
        params = self._unravel(flat)  # theta', [P] -> tree

        # Act with theta' for t_max steps, or until the episode ends.
        actor, rollout, episodes = unroll(
            self._env,
            lambda *args: self._objective.act(params, *args, actor.exploration, env_steps),
            actor,
            self._config.num_steps,
            auto_reset=self._config.auto_reset,
            **self._ends,
        )

        # Compute d theta on the segment.
        return actor, self._packed_gradient(params, target, rollout, episodes)

    def _on_host(
        self, theta: np.ndarray, actor: ActorState, target: np.ndarray | None, env_steps: np.float32
    ) -> Segment:
        """Compile a segment of host environments.

        The policy's program runs once for each step. The gradient's program runs after the last
        step.
        """

        def act_at(params: Params, key: Array, t: Array, *args: Any) -> Any:
            return self._objective.act(params, jax.random.fold_in(key, t), *args)

        def gradient_of(
            flat: Array, target: Array | None, rollout: HostRollout, episodes: Any
        ) -> Array:
            return self._packed_gradient(
                self._unravel(flat), target, as_rollout([rollout]), episodes
            )

        # Compile the program of one action.
        num_steps = self._config.num_steps
        split = self.on_one_core(self._unravel, theta)  # [P] -> tree
        observed = (actor.carry, actor.observation, actor.reset, actor.exploration)
        arguments = (split(theta), actor.key, np.int32(0), *observed, env_steps)
        act = self.on_one_core(act_at, *arguments)

        # Compile the program of the gradient, for a rollout of the right shapes.
        _, _, *extras = jax.eval_shape(act_at, *arguments)
        rollout = rollout_like(actor, self._env.spec, num_steps, extras)
        zero = jnp.zeros((), jnp.float32)
        learn = self.on_one_core(gradient_of, theta, target, rollout, EpisodeSums(zero, zero, zero))

        def segment(
            theta: np.ndarray, actor: ActorState, target: np.ndarray | None, env_steps: np.float32
        ) -> tuple[ActorState, Array]:
            params = split(theta)  # theta'

            # Act with theta' for t_max steps, or until the episode ends.
            playing = host_unroll(
                lambda *args: act(params, *args, actor.exploration, env_steps),
                actor,
                num_steps,
                device=self._device,
                **self._ends,
            )
            actor, rollout, episodes = finish(playing, actor.env_state)

            # Compute d theta on the segment.
            return actor, learn(theta, target, rollout, episodes)

        return segment

    def _packed_gradient(
        self, params: Params, target: Array | None, rollout: Rollout, episodes: EpisodeSums
    ) -> Array:
        """Return d theta, the metrics and the changes of running statistics as one vector."""
        target_params = None if target is None else self._unravel(target)  # theta^-
        grads, metrics = gradient(
            self._objective, params, rollout, self._config.max_grad_norm, target_params
        )

        taken = rollout.steps.mask.sum().astype(jnp.float32)  # t, the steps of this segment
        metrics = {"env_steps": taken, **metrics, **episodes._asdict()}
        self.metric_names = tuple(metrics)

        # Running statistics have no gradient: they change by what this segment contributes.
        statistics = self._objective.statistics
        changes = () if statistics is None else statistics.update(params, rollout)
        parts = (grads, jnp.stack(list(metrics.values())), changes)
        return jnp.concatenate([ravel(part) for part in parts])


def ravel(tree: Any) -> Array:
    """Return the leaves of a tree as one vector `[P]` float32, the form that threads share."""
    return ravel_pytree(tree)[0].astype(jnp.float32)


def unraveller(like: Any) -> Callable[[Array], Any]:
    """Return the inverse of `ravel`, which gives each leaf the dtype of the leaf in `like`.

    Args:
      like: a tree of arrays or of shapes.

    Returns:
      A function from `[P]` float32 to a tree with the structure, shapes and dtypes of `like`.
    """
    flat, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like))
    return lambda vector: unravel(jnp.asarray(vector).astype(flat.dtype))
