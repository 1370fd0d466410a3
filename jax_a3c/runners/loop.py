"""The host loop around the synchronous runner, with many updates between two reports."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_a3c.acting.actor import actor_to_save, as_key, restore_actor
from jax_a3c.acting.groups import close_all
from jax_a3c.checks import MAX_STEPS, check_callable, check_integer
from jax_a3c.programs import compile_program, shared_jit
from jax_a3c.runners.base import Callback, Progress, TrainingResult
from jax_a3c.runners.counters import Counter
from jax_a3c.runners.synchronous import Algorithm, SynchronousState
from jax_a3c.settings.parts import SynchronousConfig
from jax_a3c.types import Array, Metrics, Params

REPORTS = 200
"""Reports that a run makes at least, if it has as many updates: points of its learning curve."""


class SynchronousRunner:
    """Trains a synchronous method; the counterpart of `AsynchronousRunner`.

    Attributes:
      algorithm: the method, a pair of pure functions.
      config: settings of the runner.
    """

    def __init__(self, algorithm: Algorithm, config: SynchronousConfig):
        """Store the parts; nothing is compiled before `run`."""
        self.config = config
        self.algorithm = algorithm
        self._latest: SynchronousState | None = None
        self._steps_per_update = config.num_envs * config.num_steps
        self._init: Callable[..., SynchronousState] = (
            shared_jit(algorithm.init) if algorithm.traceable else algorithm.init
        )
        self._program: (
            Callable[[SynchronousState, Array], tuple[SynchronousState, Metrics]] | None
        ) = None

    def init(self, key: Array | int) -> SynchronousState:
        """Return the first state of a run, from a random key or a seed."""
        return self._init(as_key(key))

    def params(self, state: SynchronousState) -> Params:
        """Return the network's variables in a state."""
        return state.params

    def counts(self, state: SynchronousState) -> tuple[int, int]:
        """Return the environment steps and the updates so far."""
        return int(state.env_steps), int(state.updates)

    def save(self, state: SynchronousState) -> dict[str, Any]:
        """Return a state as a tree of arrays, see `Runner.save`."""
        actor = state.actor
        if not self.algorithm.traceable:
            actor = [actor_to_save(one) for one in state.actor]
        rest = {
            "opt_state": state.opt_state,
            "actor": actor,
            "target": state.target,
            "updates": np.int64(int(state.updates)),
            "env_steps": np.int64(int(state.env_steps)),
        }
        return {"variables": state.params, "state": rest}

    def restore(
        self, tree: dict[str, Any], fresh: SynchronousState | None = None
    ) -> SynchronousState:
        """Return the state that was saved, see `Runner.restore`."""
        rest = tree["state"]
        actor = rest["actor"]
        if not self.algorithm.traceable:
            # Host environments start new episodes with the saved keys.
            state = self.init(0) if fresh is None else fresh
            actor = [restore_actor(*both) for both in zip(state.actor, actor, strict=True)]
        return SynchronousState(
            params=tree["variables"],
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

    def last_state(self, state: SynchronousState) -> SynchronousState | None:
        """Return the state after the last complete update of a run that failed.

        With JAX environments it is lost: the program took over its buffers.
        """
        del state
        return self._latest

    def close(self, state: SynchronousState) -> None:
        """Close the host environments of a run; JAX environments need no closing."""
        if not self.algorithm.traceable:
            close_all([actor.env_state for actor in state.actor])

    def run(
        self,
        state: SynchronousState | Array | int = 0,
        *,
        until: int,
        callback: Callback | None = None,
        interval: float = 0.5,
    ) -> TrainingResult:
        """Train until `until` environment steps are taken.

        Args:
          state: state to continue from, or a random key or a seed of a new run.
          until: environment steps since the start of the run.
          callback: function called with the progress about every `interval` seconds and at the
            end. Training ends early if it returns True.
          interval: seconds that one call to the device may take.

        Returns:
          Parameters, state and counts.

        Raises:
          InputError: if `callback` is not callable, or `state` is neither a state nor a key.
        """
        check_integer("until", until, 1, MAX_STEPS)
        if callback is not None:
            check_callable("callback", callback)
        now = self._begin(state)

        # Compile before the clock of training starts.
        compiling = time.perf_counter()
        program = self._compile(now)

        start = time.perf_counter()
        first = int(now.updates)
        done = first
        chunk = 1
        most = until // self._steps_per_update // REPORTS
        sums: dict[str, float] = {}
        first_step = int(now.env_steps)
        progress = Progress(first_step, done, 0.0, sums, [done])
        while progress.env_steps < until:
            called = time.perf_counter()
            # Round up: the last update may exceed the total.
            left = -(-(until - progress.env_steps) // self._steps_per_update)
            count = min(chunk, left)
            now, metrics = program(now, np.int32(count))
            metrics = jax.device_get(metrics)

            done += count
            sums = {name: sums.get(name, 0.0) + float(value) for name, value in metrics.items()}
            seconds = time.perf_counter() - start
            progress = Progress(int(now.env_steps), done, seconds, sums, [done])
            if callback is not None and callback(progress):
                break

            # Fit the next call into `interval` seconds, and at most double it.
            affordable = count * interval / max(time.perf_counter() - called, 1e-9)
            chunk = max(1, min(2 * chunk, int(affordable), most))

        # Report a run that had already ended too.
        if done == first and callback is not None:
            callback(progress)
        rate = (progress.env_steps - first_step) / max(progress.seconds, 1e-9)
        return TrainingResult(now.params, now, progress, rate, start - compiling)

    def _begin(self, state: SynchronousState | Array | int) -> SynchronousState:
        """Return the state to continue from, with buffers that the program may take over."""
        if not isinstance(state, SynchronousState):
            return self.init(state)
        return jax.tree.map(lambda x: x.copy(), state) if self.algorithm.traceable else state

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
        """Take `count` updates in a Python loop; `_latest` follows in case one of them fails."""
        rows = []
        for _ in range(count):
            self._latest = state
            state, metrics = self.algorithm.step(state)
            rows.append(metrics)
        self._latest = state

        fetched = jax.device_get(rows)
        return state, {name: np.sum([row[name] for row in fetched]) for name in fetched[0]}
