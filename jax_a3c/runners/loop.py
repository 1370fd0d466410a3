"""The host loop around the synchronous runner, with many updates between two reports."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_a3c.acting.actor import actor_to_save, as_key, restore_actor
from jax_a3c.acting.groups import close_all
from jax_a3c.checks import check_callable, check_kind
from jax_a3c.programs import compile_program, shared_jit
from jax_a3c.runners.base import Progress, TrainingResult
from jax_a3c.runners.counters import Counter
from jax_a3c.runners.synchronous import Algorithm, SynchronousState
from jax_a3c.settings.parts import SynchronousConfig
from jax_a3c.types import Array, Metrics, Params

REPORTS = 200
"""Reports that a run makes at least, if it has as many updates: points of its learning curve."""


class SynchronousRunner:
    """Trains a synchronous method; the counterpart of `AsynchronousRunner`.

    Attributes:
      agent: the method, a pair of pure functions.
      config: settings of the runner.
      latest: with host environments, the state after the last complete update, even if the run
        failed (its environments are then closed). None with JAX environments.
    """

    def __init__(self, algorithm: Algorithm, config: SynchronousConfig, total_timesteps: int):
        """Store the parts; nothing is compiled before `run`."""
        self.config = config
        self.algorithm = algorithm
        self.latest: SynchronousState | None = None
        self._steps_per_update = config.num_envs * config.num_steps
        self._total_timesteps = total_timesteps
        self._init: Callable[..., SynchronousState] = (
            shared_jit(algorithm.init) if algorithm.traceable else algorithm.init
        )
        self._program: (
            Callable[[SynchronousState, Array], tuple[SynchronousState, Metrics]] | None
        ) = None

    def init(self, key: Array | int) -> SynchronousState:
        """Return the first state of a run, from a random key or a seed."""
        return self._init(as_key(key))

    def close(self, state: SynchronousState) -> None:
        """Close the host environments of a run; JAX environments need no closing."""
        if not self.algorithm.traceable:
            close_all([actor.env_state for actor in state.actor])

    def params(self, state: SynchronousState) -> Params:
        """Return the network's variables in a state."""
        return state.params

    def counts(self, state: SynchronousState) -> tuple[int, int]:
        """Return the environment steps and the updates so far."""
        return int(state.env_steps), int(state.updates)

    def snapshot(self, state: SynchronousState) -> tuple[Params, Any]:
        """Return the network's variables, and the rest of the state, as trees of arrays.

        Host environments cannot be saved. Only the actor's key and exploration are kept for them.
        """
        actor = (
            state.actor if self.algorithm.traceable else [actor_to_save(one) for one in state.actor]
        )
        rest = {
            "opt_state": state.opt_state,
            "actor": actor,
            "target": state.target,
            "updates": np.int64(int(state.updates)),
            "env_steps": np.int64(int(state.env_steps)),
        }
        return state.params, rest

    def restore(self, state: SynchronousState, params: Params, rest: Any) -> SynchronousState:
        """Return the state of a saved run from a fresh state and the two parts of a `snapshot`."""
        actor = rest["actor"]
        if not self.algorithm.traceable:
            # Host environments start new episodes with the saved keys.
            actor = [restore_actor(*both) for both in zip(state.actor, actor, strict=True)]
        return SynchronousState(
            params=params,
            opt_state=rest["opt_state"],
            actor=actor,
            updates=Counter.of(rest["updates"]),
            env_steps=Counter.of(rest["env_steps"]),
            target=rest["target"],
        )

    def start_from(self, state: SynchronousState, params: Params) -> SynchronousState:
        """Return `state` with copies of `params` in the network and in the target network."""
        target = state.target
        if target is not None:
            target = target._replace(params=jax.tree.map(jnp.array, params))
        return state._replace(params=jax.tree.map(jnp.array, params), target=target)

    def run(
        self,
        key: Array | int = 0,
        *,
        state: SynchronousState | None = None,
        callback: Callable[[Progress], bool | None] | None = None,
        interval: float = 0.5,
    ) -> TrainingResult:
        """Train until `total_timesteps` environment steps are taken.

        Args:
          key: random key or seed of a fresh run; unused if `state` is given.
          state: state to continue from.
          callback: function called with the progress about every `interval` seconds and at the
            end. Training ends early if it returns True.
          interval: seconds that one call to the device may take.

        Returns:
          Parameters, state and counts.

        Raises:
          InputError: if `callback` is not callable or `state` is not an `SynchronousState`.
        """
        if callback is not None:
            check_callable("callback", callback)
        if state is None:
            state = self.init(key)
        else:
            check_kind("state", state, SynchronousState)
            if self.algorithm.traceable:
                # Copy: the program takes over the buffers of its argument.
                state = jax.tree.map(lambda x: x.copy(), state)

        compiling = time.perf_counter()
        program = self._compile(state)

        start = time.perf_counter()
        first = int(state.updates)
        done = first
        chunk = 1
        most = self._total_timesteps // self._steps_per_update // REPORTS
        sums: dict[str, float] = {}
        first_step = int(state.env_steps)
        progress = Progress(first_step, done, 0.0, sums, [done])
        while progress.env_steps < self._total_timesteps:
            called = time.perf_counter()
            # Round up: the last update may exceed the total.
            left = -(-(self._total_timesteps - progress.env_steps) // self._steps_per_update)
            count = min(chunk, left)
            state, metrics = program(state, np.int32(count))
            metrics = jax.device_get(metrics)

            done += count
            sums = {name: sums.get(name, 0.0) + float(value) for name, value in metrics.items()}
            seconds = time.perf_counter() - start
            progress = Progress(int(state.env_steps), done, seconds, sums, [done])
            if callback is not None and callback(progress):
                break

            # Fit the next call into `interval` seconds, and at most double it.
            affordable = count * interval / max(time.perf_counter() - called, 1e-9)
            chunk = max(1, min(2 * chunk, int(affordable), most))

        # Report a run that had already ended too.
        if done == first and callback is not None:
            callback(progress)
        rate = (progress.env_steps - first_step) / max(progress.seconds, 1e-9)
        return TrainingResult(state.params, state, progress, rate, start - compiling)

    def _compile(self, state: SynchronousState) -> Callable:
        """Return the program `(state, count) -> (state, sums of metrics)` of `count` updates.

        On JAX environments the loop runs on the device, and `count` is an argument of the compiled
        program. With host environments it is a Python loop.
        """
        if self._program is None and self.algorithm.compile_for is not None:
            self.algorithm.compile_for(state)
            self._program = self._host_updates

        # The sums start at zeros of the shapes that a step returns.
        if self._program is None:
            shapes = jax.eval_shape(self.algorithm.step, state)[1]

            def updates(state: SynchronousState, count: Array) -> tuple[SynchronousState, Metrics]:
                def body(
                    _: Array, carry: tuple[SynchronousState, Metrics]
                ) -> tuple[SynchronousState, Metrics]:
                    state, sums = carry
                    state, metrics = self.algorithm.step(state)
                    return state, jax.tree.map(jnp.add, sums, metrics)

                zeros = {
                    name: jnp.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()
                }
                return jax.lax.fori_loop(0, count, body, (state, zeros))

            # Donate the state, so that its buffers are reused.
            self._program = compile_program(updates, state, np.int32(0), donate_argnums=(0,))
        return self._program

    def _host_updates(
        self, state: SynchronousState, count: Array
    ) -> tuple[SynchronousState, Metrics]:
        """Take `count` updates in a Python loop; `latest` follows in case one of them fails."""
        rows = []
        for _ in range(count):
            self.latest = state
            state, metrics = self.algorithm.step(state)
            rows.append(metrics)
        self.latest = state

        fetched = jax.device_get(rows)
        return state, {name: np.sum([row[name] for row in fetched]) for name in fetched[0]}
