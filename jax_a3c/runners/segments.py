"""A worker's segment as compiled programs: up to t_max steps, and d theta."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jax_a3c.acting.actor import ActorState
from jax_a3c.acting.groups import finish
from jax_a3c.acting.host_unroll import (
    HostRollout,
    as_rollout,
    compile_host_act,
    host_unroll,
    rollout_like,
)
from jax_a3c.acting.unroll import EpisodeSums, UnrollConfig, no_episodes, unroll
from jax_a3c.envs.base import HostFactory, JaxEnvironment, on_device
from jax_a3c.objectives import Objective, gradient, guarded
from jax_a3c.programs import compile_program
from jax_a3c.rollouts import Rollout
from jax_a3c.runners.packing import Packing, TreePacking, ravel
from jax_a3c.runners.shared_parameters import Update
from jax_a3c.settings.parts import AsynchronousConfig
from jax_a3c.types import Array, Params

Actor = Any
"""An acting state as segments take and return it: packed for JAX environments, see `enter`."""
Segment = Callable[[np.ndarray, Actor, np.ndarray | None, int | float], tuple[Actor, Update]]
"""`(theta [P], actor, target [P], env_steps) -> (actor, update)`."""

ONE_CORE: dict[str, str | bool] = {
    "xla_cpu_multi_thread_eigen": False,
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
}
"""Compiler options for XLA. Other options change only the last bits of the results."""


class Segments:
    """Compiler of a worker's segment; all workers run the same programs."""

    def __init__(
        self,
        env: JaxEnvironment | HostFactory,
        objective: Objective,
        unravel: Callable[[Array], Params],
        config: AsynchronousConfig,
        *,
        packing: Packing,
        device: jax.Device,
    ):
        """Store the parts.

        Args:
          env: the environment.
          objective: how to act and what to minimise.
          unravel: function from the flat parameters `[P]` to their tree.
          config: number of steps, clipping norm and resets.
          packing: order of the parts of an update.
          device: a CPU device.
        """
        self._env: Any = env
        self._objective = objective
        self._unravel = unravel
        self._packing = packing
        self._device = device
        self._max_grad_norm = config.max_grad_norm
        self._unroll_config = UnrollConfig(
            config.num_steps, config.auto_reset, config.stop_at_episode_end, objective.discount
        )
        self._enter: Callable[[ActorState], Actor] = lambda actor: actor
        self._leave: Callable[[Actor], ActorState] = lambda actor: actor

    def enter(self, actor: ActorState) -> Actor:
        """Return an acting state in the form that a compiled segment takes: one vector."""
        return self._enter(actor)

    def leave(self, actor: Actor) -> ActorState:
        """Return the acting state that a compiled segment returned."""
        return self._leave(actor)

    def compile(self, theta: np.ndarray, actor: ActorState, target: np.ndarray | None) -> Segment:
        """Compile the segment for parameters, actor and target of these shapes."""
        run = self.program(theta, actor, target)

        def segment(
            theta: np.ndarray, actor: Actor, target: np.ndarray | None, env_steps: int | float
        ) -> tuple[Actor, Update]:
            actor, packed = run(theta, actor, target, np.float32(env_steps))
            # Wait for the segment; other workers may hold the interpreter lock meanwhile.
            return actor, self._packing.unpack(np.asarray(packed))

        return segment

    def program(self, theta: np.ndarray, actor: ActorState, target: np.ndarray | None) -> Callable:
        """Compile the segment as `(theta, actor, target, env_steps) -> (actor, packed update)`."""
        build = self._in_one_program if on_device(self._env) else self._on_host
        return build(theta, actor, target)

    def on_one_core(self, function: Callable, *args: Any) -> Callable:
        """Compile a program that runs on one core.

        By default XLA runs independent operations of a program in parallel on a pool of threads.
        One worker then takes 1.4 cores, and two workers take 1.4 times the steps of one instead of
        1.8 times.
        """
        return compile_program(function, *args, device=self._device, options=ONE_CORE)

    def _in_one_program(
        self, theta: np.ndarray, actor: ActorState, target: np.ndarray | None
    ) -> Callable:
        """Compile a segment of JAX environments: act and differentiate in one program."""
        packing = TreePacking(actor)
        self._enter = self.on_one_core(packing.pack, actor)
        packed = self._enter(actor)
        self._leave = self.on_one_core(packing.unpack, packed)

        def act_and_learn(
            flat_params: Array, packed: Array, target: Array | None, env_steps: Array
        ) -> tuple[Array, Array]:
            params = self._unravel(flat_params)  # theta', [P] -> tree
            actor = packing.unpack(packed)  # [W] -> tree

            # Act with theta' for t_max steps, or until the episode ends.
            actor, rollout, episodes = unroll(
                self._env, self._objective.act, params, actor, self._unroll_config, env_steps
            )

            # Compute d theta on the segment.
            return packing.pack(actor), self._packed_update(params, target, rollout, episodes)

        return self.on_one_core(act_and_learn, theta, packed, target, np.float32(0))

    def _on_host(self, theta: np.ndarray, actor: ActorState, target: np.ndarray | None) -> Callable:
        """Compile a segment of host environments.

        The policy's program runs once for each step. The gradient's program runs after the last
        step.
        """

        def learn_from(
            flat_params: Array, target: Array | None, rollout: HostRollout, episodes: Any
        ) -> Array:
            params = self._unravel(flat_params)
            return self._packed_update(params, target, as_rollout([rollout]), episodes)

        # Compile the program of one action.
        split = self.on_one_core(self._unravel, theta)  # [P] -> tree
        act, extras = compile_host_act(self._objective.act, split(theta), actor, self.on_one_core)

        # Compile the program of the gradient, for a rollout of the right shapes.
        rollout = rollout_like(actor, self._env.spec, self._unroll_config.num_steps, extras)
        learn = self.on_one_core(learn_from, theta, target, rollout, no_episodes())

        def run(
            theta: np.ndarray, actor: ActorState, target: np.ndarray | None, env_steps: np.float32
        ) -> tuple[ActorState, Array]:
            # Act with theta' for t_max steps, or until the episode ends.
            playing = host_unroll(
                act, split(theta), actor, self._unroll_config, env_steps, device=self._device
            )
            actor, rollout, episodes = finish(playing, actor.env_state)

            # Compute d theta on the segment.
            return actor, learn(theta, target, rollout, episodes)

        return run

    def _packed_update(
        self, params: Params, target: Array | None, rollout: Rollout, episodes: EpisodeSums
    ) -> Array:
        """Return d theta, the metrics and the changes of running statistics as one vector."""
        target_params = None if target is None else self._unravel(target)  # theta^-
        grads, metrics = gradient(self._objective, params, rollout, target_params)
        # One vector needs one kernel where a tree needs one for each leaf.
        grads, metrics = guarded(ravel(grads), metrics, self._max_grad_norm)

        # Running statistics have no gradient: they change by what this segment contributes.
        statistics = self._objective.statistics
        changes = () if statistics is None else statistics.update(params, rollout)
        return self._packing.pack(grads, {**metrics, **episodes._asdict()}, changes)
