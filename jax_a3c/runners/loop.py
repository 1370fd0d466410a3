"""The host loop around the synchronous runner, with many updates in one call to the device."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_a3c.acting.actor import actor_to_save, restore_actor
from jax_a3c.acting.groups import close_all
from jax_a3c.checks import MAX_STEPS, check_callable, check_integer
from jax_a3c.keys import as_key
from jax_a3c.programs import compile_program, shared_jit
from jax_a3c.runners.base import Callback, Progress, TrainingResult
from jax_a3c.runners.counters import Counter
from jax_a3c.runners.mesh import BY_ENVIRONMENT, one_copy, put
from jax_a3c.runners.synchronous import Algorithm, SynchronousState
from jax_a3c.settings.parts import SynchronousConfig
from jax_a3c.types import Array, Metrics, Params

POINTS = 200
"""Reports of a run, if it has as many updates: points of its learning curve."""
ROWS = 64
"""Largest number of reports of one slice."""
GROWTH = 4
"""Largest factor by which one slice is longer than the one before."""


class Slice(NamedTuple):
    """Some updates in one call to the device, which may still be in progress.

    Attributes:
      ends: for each report, the number of updates of this slice after which it is made.
      rows: `[ROWS]`, sums of the metrics over the updates of each report.
      called: time of the call, in seconds.
    """

    ends: list[int]
    rows: Metrics
    called: float


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
        # Slices in progress at once. Those of host environments run in this thread.
        self._depth = 2 if algorithm.traceable else 1
        self._init: Callable[..., SynchronousState] = (
            shared_jit(algorithm.init) if algorithm.traceable else algorithm.init
        )
        self._program: (
            Callable[[SynchronousState, np.ndarray], tuple[SynchronousState, Metrics]] | None
        ) = None

    def init(self, key: Array | int) -> SynchronousState:
        """Return the first state of a run, from a random key or a seed."""
        return self._init(as_key(key))

    def params(self, state: SynchronousState) -> Params:
        """Return the network's variables in a state."""
        return one_copy(state.params, self.algorithm.mesh)

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
        restored = SynchronousState(
            params=tree["variables"],
            opt_state=rest["opt_state"],
            actor=actor,
            updates=Counter.of(rest["updates"]),
            env_steps=Counter.of(rest["env_steps"]),
            target=rest["target"],
        )
        return self._placed(restored)

    def start_from(self, state: SynchronousState, params: Params) -> SynchronousState:
        """Return `state` with copies of `params` in the network and in the target network."""
        target = state.target
        if target is not None:
            target = target._replace(params=jax.tree.map(jnp.array, params))
        state = state._replace(params=jax.tree.map(jnp.array, params), target=target)
        return self._placed(state)

    def _placed(self, state: SynchronousState) -> SynchronousState:
        """Return a state on the devices of the run's mesh; `state` itself without a mesh."""
        mesh = self.algorithm.mesh
        actor = put(state.actor, mesh, BY_ENVIRONMENT) if self.algorithm.traceable else state.actor
        return put(state._replace(actor=None), mesh)._replace(actor=actor)

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
          callback: function called with the progress, about 200 times in a run and at least every
            `interval` seconds. Training ends early if it returns True, after the updates that the
            device has already begun: up to 2 `interval` seconds. The progress within one call to
            the device is reported when the call has ended, so its `seconds` are interpolated.
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
        ended = start
        first_step = int(now.env_steps)
        progress = Progress(first_step, int(now.updates), 0.0, {}, [int(now.updates)])
        every = max(1, self._updates_to(until, progress) // POINTS)
        chunk = 1
        slices: deque[Slice] = deque()
        stopped = False

        while True:
            # Begin the next slice before the last one is reported, so that the device never waits.
            begun = sum(one.ends[-1] for one in slices)
            left = 0 if stopped else self._updates_to(until, progress) - begun
            if left > 0 and len(slices) < self._depth:
                ends = _ends(min(chunk, left), every)
                called = time.perf_counter()
                now, rows = program(now, _padded(ends))
                slices.append(Slice(ends, rows, called))
                continue
            if not slices:
                break

            # Report the oldest slice, once it has ended.
            done = slices.popleft()
            rows = jax.device_get(done.rows)
            began = max(done.called, ended)
            ended = time.perf_counter()
            reports = _reports(progress, done.ends, rows, began - start, ended - start)
            for report in reports:
                progress = report
                if callback is not None and callback(report):
                    stopped = True

            # Fit the next slice into `interval` seconds.
            affordable = done.ends[-1] * interval / max(ended - began, 1e-9)
            chunk = max(1, min(GROWTH * done.ends[-1], int(affordable)))

        # Report a run that had already ended too.
        if not progress.metric_sums and callback is not None:
            callback(progress)
        rate = (progress.env_steps - first_step) / max(progress.seconds, 1e-9)
        return TrainingResult(self.params(now), now, progress, rate, start - compiling)

    def _updates_to(self, until: int, progress: Progress) -> int:
        """Return how many updates are left; the last one may exceed `until`."""
        return -(-(until - progress.env_steps) // self._steps_per_update)

    def _begin(self, state: SynchronousState | Array | int) -> SynchronousState:
        """Return the state to continue from, with buffers that the program may take over."""
        if not isinstance(state, SynchronousState):
            return self.init(state)
        return jax.tree.map(lambda x: x.copy(), state) if self.algorithm.traceable else state

    def _compile(self, state: SynchronousState) -> Callable:
        """Return the program `(state, ends [ROWS]) -> (state, rows)` of `ends[-1]` updates.

        Row i of the result has the sums of the metrics over the updates from `ends[i - 1]` to
        `ends[i]`. On JAX environments the loop runs on the device, and `ends` is an argument of the
        compiled program. With host environments it is a Python loop.
        """
        if self._program is None and self.algorithm.compile_for is not None:
            self.algorithm.compile_for(state)
            self._program = self._host_updates

        if self._program is None:
            shapes = jax.eval_shape(self.algorithm.step, state)[1]

            def update(_: Array, carry: tuple[SynchronousState, Metrics]) -> Any:
                state, sums = carry
                state, metrics = self.algorithm.step(state)
                return state, jax.tree.map(jnp.add, sums, metrics)

            def updates(state: SynchronousState, ends: Array) -> tuple[SynchronousState, Metrics]:
                def row(i: Array, carry: tuple[SynchronousState, Metrics]) -> Any:
                    state, rows = carry
                    first = jnp.where(i == 0, 0, ends[i - 1])
                    zeros = {name: jnp.zeros(x.shape, x.dtype) for name, x in shapes.items()}
                    state, sums = jax.lax.fori_loop(first, ends[i], update, (state, zeros))
                    return state, jax.tree.map(lambda row, x: row.at[i].set(x), rows, sums)

                empty = {name: jnp.zeros((ROWS, *x.shape), x.dtype) for name, x in shapes.items()}
                used = jnp.argmax(ends == ends[-1]) + 1
                return jax.lax.fori_loop(0, used, row, (state, empty))

            # Donate the state, so that its buffers are reused.
            ends = np.zeros(ROWS, np.int32)
            self._program = compile_program(updates, state, ends, donate_argnums=(0,))
        return self._program

    def _host_updates(
        self, state: SynchronousState, ends: np.ndarray
    ) -> tuple[SynchronousState, Metrics]:
        """Take the updates in a Python loop; `_latest` follows in case one of them fails."""
        metrics = []
        for _ in range(ends[-1]):
            self._latest = state
            state, row = self.algorithm.step(state)
            metrics.append(row)
        self._latest = state

        # Sum the metrics over the updates of each report.
        fetched = jax.device_get(metrics)
        starts = [0, *ends[:-1]]
        parts = [fetched[a:b] for a, b in zip(starts, ends, strict=True)]
        rows: Any = {
            name: np.array([np.sum([row[name] for row in part]) for part in parts])
            for name in fetched[0]
        }
        return state, rows


def _ends(count: int, every: int) -> list[int]:
    """Return after which of `count` updates to report: after each `every`, and the last one."""
    every = max(every, -(-count // ROWS))
    return [*range(every, count, every), count]


def _padded(ends: list[int]) -> np.ndarray:
    """Return `ends` as `[ROWS]` int32; the rest repeats the last one."""
    return np.array(ends + ends[-1:] * (ROWS - len(ends)), np.int32)


def _reports(
    progress: Progress, ends: list[int], rows: Metrics, began: float, ended: float
) -> Iterator[Progress]:
    """Yield the progress at each report of a slice, which began and ended at these seconds."""
    before = progress.updates
    steps = progress.env_steps
    sums = progress.metric_sums
    for i, end in enumerate(ends):
        sums = {name: sums.get(name, 0.0) + float(row[i]) for name, row in rows.items()}
        steps += int(rows["env_steps"][i])
        seconds = began + (ended - began) * end / ends[-1]
        yield Progress(steps, before + end, seconds, sums, [before + end])
