"""A worker's segment as compiled programs: up to t_max steps of its environments, and their gradient."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jax_a3c.envs.base import HostFactory, JaxEnvironment
from jax_a3c.host_rollouts import HostRollout, as_rollout, finish, host_unroll, rollout_like
from jax_a3c.objectives import Objective, gradient
from jax_a3c.programs import compile_program
from jax_a3c.rollouts import EpisodeSums, RunnerConfig, unroll
from jax_a3c.types import ActorState, Array, Params, Rollout

Segment = Callable[
    [np.ndarray, ActorState, np.ndarray | None, np.float32], tuple[ActorState, Array | np.ndarray]
]
"""`(theta [P], actor, target [P], env_steps) -> (actor, packed)`; packed is the gradient `[P]`, the metrics,
and what the segment adds to running statistics, one vector: each array that crosses to NumPy costs time under
the interpreter lock."""

ONE_CORE: dict[str, str | bool] = {
    "xla_cpu_multi_thread_eigen": False,
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
}
"""Options for XLA. Others give the same results but for their last bits."""


class Segments:
    """Compiles the segment of one worker; all workers run the same programs.

    Attributes:
      metric_names: of the metrics in a packed vector, the first of them `env_steps`; known once compiled.
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
        """Bind the parts.

        Args:
          env: the environment.
          objective: how to act and what to minimise.
          unravel: from the flat parameters to their tree.
          config: number of steps, the clipping norm, resets.
          stop_at_episode_end: a segment ends with the episode.
          device: a CPU.
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
        """Compile for parameters, actor and target of these shapes."""
        env_steps = np.float32(0)
        if isinstance(self._env, JaxEnvironment):
            return self.on_one_core(self._in_one_program, theta, actor, target, env_steps)
        return self._on_host(theta, actor, target, env_steps)

    def on_one_core(self, function: Callable, *args: Any) -> Callable:
        """Compile for the CPU, without XLA's own threads: the workers are the threads.

        By default XLA runs independent operations of one program side by side on a pool. One worker then
        takes 1.4 cores, and two workers make 1.4 times its steps instead of 1.8 times.
        """
        return compile_program(function, *args, device=self._device, options=ONE_CORE)

    def _in_one_program(
        self, flat: Array, actor: ActorState, target: Array | None, env_steps: Array
    ) -> tuple[ActorState, Array]:
        """The segment of JAX environments."""
        params = self._unravel(flat)
        actor, rollout, episodes = unroll(
            self._env,
            lambda *args: self._objective.act(params, *args, actor.exploration, env_steps),
            actor,
            self._config.num_steps,
            auto_reset=self._config.auto_reset,
            **self._ends,
        )
        return actor, self._packed_gradient(params, target, rollout, episodes)

    def _on_host(
        self, theta: np.ndarray, actor: ActorState, target: np.ndarray | None, env_steps: np.float32
    ) -> Segment:
        """The segment of host environments: they step between calls of the policy; the gradient is last."""

        def act_at(params: Params, key: Array, t: Array, *args: Any) -> Any:
            return self._objective.act(params, jax.random.fold_in(key, t), *args)

        def gradient_of(
            flat: Array, target: Array | None, rollout: HostRollout, episodes: Any
        ) -> Array:
            return self._packed_gradient(
                self._unravel(flat), target, as_rollout([rollout]), episodes
            )

        num_steps = self._config.num_steps
        split = self.on_one_core(self._unravel, theta)
        observed = (actor.carry, actor.observation, actor.reset, actor.exploration)
        arguments = (split(theta), actor.key, np.int32(0), *observed, env_steps)
        act = self.on_one_core(act_at, *arguments)
        _, _, *layers = jax.eval_shape(act_at, *arguments)
        rollout = rollout_like(actor, self._env.spec, num_steps, layers)
        zero = jnp.zeros((), jnp.float32)
        learn = self.on_one_core(gradient_of, theta, target, rollout, EpisodeSums(zero, zero, zero))

        def segment(
            theta: np.ndarray, actor: ActorState, target: np.ndarray | None, env_steps: np.float32
        ) -> tuple[ActorState, Array]:
            params = split(theta)
            playing = host_unroll(
                lambda *args: act(params, *args, actor.exploration, env_steps),
                actor,
                num_steps,
                device=self._device,
                **self._ends,
            )
            actor, rollout, episodes = finish(playing, actor.env_state)
            return actor, learn(theta, target, rollout, episodes)

        return segment

    def _packed_gradient(
        self, params: Params, target: Array | None, rollout: Rollout, episodes: EpisodeSums
    ) -> Array:
        target_params = None if target is None else self._unravel(target)
        grads, metrics = gradient(
            self._objective, params, rollout, self._config.max_grad_norm, target_params
        )
        taken = rollout.steps.mask.sum().astype(jnp.float32)
        metrics = {"env_steps": taken, **metrics, **episodes._asdict()}
        self.metric_names = tuple(metrics)
        statistics = self._objective.statistics
        changes = () if statistics is None else statistics.change(params, rollout)
        parts = (grads, jnp.stack(list(metrics.values())), changes)
        return jnp.concatenate([ravel(part) for part in parts])


def ravel(tree: Any) -> Array:
    """Return the leaves of a tree as one vector `[P]` float32, the form in which threads share them."""
    return ravel_pytree(tree)[0].astype(jnp.float32)


def unraveller(like: Any) -> Callable[[Array], Any]:
    """Return the inverse of `ravel`; each leaf gets back the dtype that it has in `like`.

    Args:
      like: a tree of arrays or of shapes.

    Returns:
      `[P]` float32 -> a tree with the structure, shapes and dtypes of `like`.
    """
    flat, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like))
    return lambda vector: unravel(jnp.asarray(vector).astype(flat.dtype))
