"""The asynchronous runner: threads that update one shared parameter vector without a lock."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_a3c.acting.actor import ActorState, actor_to_save, init_actor, restore_actor
from jax_a3c.acting.groups import close_all, init_host_actors
from jax_a3c.checks import (
    MAX_STEPS,
    MAX_TIMEOUT,
    check_callable,
    check_integer,
    check_kind,
    check_number,
)
from jax_a3c.envs.base import HostFactory, JaxEnvironment, available_cores, on_device
from jax_a3c.errors import InputError
from jax_a3c.keys import as_key
from jax_a3c.networks.base import Network
from jax_a3c.objectives import Objective
from jax_a3c.programs import shared_jit
from jax_a3c.runners.base import Callback, Progress, TrainingResult
from jax_a3c.runners.packing import Packing, ravel, unraveller
from jax_a3c.runners.parts import check_parts
from jax_a3c.runners.segments import Actor, Segment, Segments
from jax_a3c.runners.shared_parameters import SharedParameters, Update, aligned_empty
from jax_a3c.runners.workers import Workers
from jax_a3c.settings.parts import AsynchronousConfig
from jax_a3c.types import Array, Params


class AsynchronousState(NamedTuple):
    """The whole state of a run; `run` continues from it and changes it in place.

    Attributes:
      shared: theta, theta^-, the shared moments and the counters.
      actors: the acting state of each worker.
      opt_states: the state of an Optax optimizer of each worker; None for an optimizer of
        `jax_a3c.optimizers`, whose moments are in `shared`.
    """

    shared: SharedParameters
    actors: list[ActorState]
    opt_states: list[Any]


def use_worker_threads() -> None:
    """Let XLA run a worker's program on the worker's own thread.

    By default JAX hands each CPU program to a pool of threads. Two workers are then four threads
    that wait for each other, which costs about a fifth of their steps. This function sets
    `jax_cpu_enable_async_dispatch` for the process. Call it before JAX first uses the CPU; later it
    has no effect. The command line calls it.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)


class AsynchronousRunner:
    """The asynchronous runner for any objective: workers that share parameters."""

    def __init__(
        self,
        env: JaxEnvironment | HostFactory,
        network: Network,
        optimizer: optax.GradientTransformation,
        objective: Objective,
        config: AsynchronousConfig | None = None,
    ):
        """Check and store the parts; `init` and `run` compile and start them.

        Args:
          env: the environment, from `envs.make`.
          network: provides the initial parameters and the initial carry.
          optimizer: as for `a3c`.
          objective: how to act and what to minimise.
          config: settings; the defaults if None.
        """
        self.config = config = AsynchronousConfig() if config is None else config
        shapes = check_parts(env, network, optimizer, objective)
        check_kind("config", config, AsynchronousConfig)

        self._env: Any = env
        self._network = network
        self._objective = objective
        self._optimizer = optax.with_extra_args_support(optimizer)
        self._rule = getattr(optimizer, "in_place", None)
        self._shares_moments = getattr(optimizer, "shares_moments", False)

        # Threads update one buffer in host memory, so every program runs on the CPU.
        self._device = jax.local_devices(backend="cpu")[0]
        with jax.default_device(self._device):
            self._unravel = unraveller(shapes)
        num_params = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
        self._packing = Packing(num_params)
        self._segments = Segments(
            env, objective, self._unravel, config, packing=self._packing, device=self._device
        )
        self._segment: Segment | None = None
        self._optax_step: Callable[..., tuple[Array, Any]] | None = None
        self._init_flat = shared_jit(lambda *args: ravel(self._init_params(*args)))

    def init(self, key: Array | int) -> AsynchronousState:
        """Start a run: new parameters, and an acting state with a separate random key per worker.

        Args:
          key: random key, or a seed.

        Returns:
          The state, for `run`.
        """
        num_workers = self.config.num_workers
        with jax.default_device(self._device):
            params_key, actors_key = jax.random.split(jax.device_put(as_key(key), self._device))

            # Running statistics start at the first observation, so start the actors first.
            actors = self._init_actors(actors_key)
            flat = self._init_flat(params_key, actors[0].observation)
            opt_states = [self._init_opt_state(flat) for _ in range(num_workers)]

        shared = SharedParameters(
            np.asarray(flat),
            num_workers,
            rule=self._rule,
            shares_moments=self._shares_moments,
            lock=self.config.lock,
            target_update_interval=self._objective.target_update_interval,
        )
        return AsynchronousState(shared, actors, opt_states)

    def run(
        self,
        state: AsynchronousState | Array | int = 0,
        *,
        until: int | None = None,
        callback: Callback | None = None,
        interval: float = 0.5,
    ) -> TrainingResult:
        """Train until all workers together have taken `until` environment steps.

        Args:
          state: state to continue from, or a random key or a seed of a new run. A state is changed
            in place, so it holds what was learned even after a failure or an interrupt. Host
            environments are closed in that case, and the state cannot be trained further.
          until: environment steps since the start of the run; None for `config.total_timesteps`.
          callback: called in this thread about every `interval` seconds, and once at the end.
            Training stops early when it returns True.
          interval: seconds between two calls of `callback`, above 0.

        Returns:
          Parameters, state and counts.

        Raises:
          Exception: the first one that a worker raised, with its traceback and the worker's number.
            All workers have ended when it is raised; the same holds for Ctrl-C.
          WorkerHangError: if a worker finished no segment within `worker_timeout`.
        """
        until = self.config.total_timesteps if until is None else until
        check_integer("until", until, 1, MAX_STEPS)
        check_number("interval", interval, above=0.0, high=MAX_TIMEOUT)
        if callback is not None:
            check_callable("callback", callback)
        state = state if isinstance(state, AsynchronousState) else self.init(state)
        shared = state.shared
        if len(state.actors) != self.config.num_workers:
            raise InputError(
                f"num_workers is {self.config.num_workers}, but state has {len(state.actors)} "
                "workers; pass a state of as many workers, or none for a new run"
            )

        # Compile before the clock of training starts.
        compiling = time.perf_counter()
        self._compile(state)
        start = time.perf_counter()
        first_step = shared.env_steps
        shared.start_metrics(len(self._packing.names))

        def report() -> bool:
            return callback is not None and bool(callback(self._progress(shared, start)))

        # Run the threads until T >= T_max, a callback stops them, or one fails.
        workers = Workers(self.config.num_workers, timeout=self.config.worker_timeout)
        actors = [self._segments.enter(actor) for actor in state.actors]
        try:
            workers.run(
                lambda worker: work(
                    worker, shared, self._segment_of(worker, state), actors, until, workers
                ),
                interval=interval,
                report=report,
            )
        except BaseException:
            # A worker may have stopped inside a segment: do not reuse its environments.
            self.close(state)
            raise
        finally:
            state.actors[:] = [self._segments.leave(actor) for actor in actors]

        progress = self._progress(shared, start)
        report()
        rate = (progress.env_steps - first_step) / max(progress.seconds, 1e-9)
        return TrainingResult(self.params(state), state, progress, rate, start - compiling)

    def params(self, state: AsynchronousState) -> Params:
        """Return a copy of the current shared parameters, in the tree of `network.init`."""
        with jax.default_device(self._device):
            return self._unravel(jnp.array(state.shared.flat_params, copy=True))

    def counts(self, state: AsynchronousState) -> tuple[int, int]:
        """Return T, the environment steps of all workers, and their updates so far."""
        return state.shared.env_steps, state.shared.updates

    def save(self, state: AsynchronousState) -> dict[str, Any]:
        """Return the state of a run whose workers have stopped, see `Runner.save`."""
        actors: list[Any] = list(state.actors)
        if not on_device(self._env):
            actors = [actor_to_save(actor) for actor in actors]
        # Copy what workers change in place.
        moments = state.shared.worker_moments
        opt_states = state.opt_states if moments is None else [own.copy() for own in moments]
        rest = {
            "shared": state.shared.snapshot(),
            "actors": actors,
            "opt_states": list(opt_states),
        }
        return {"variables": self.params(state), "state": rest}

    def restore(
        self, tree: dict[str, Any], fresh: AsynchronousState | None = None
    ) -> AsynchronousState:
        """Return the state that was saved, see `Runner.restore`."""
        state = self.init(0) if fresh is None else fresh
        rest = tree["state"]
        state.shared.restore(self._flat(tree["variables"]), rest["shared"])

        # An optimizer of this package keeps its moments with the shared parameters.
        opt_states = rest["opt_states"]
        if state.shared.worker_moments is not None:
            for moments, saved in zip(state.shared.worker_moments, opt_states, strict=True):
                moments[:] = saved
            opt_states = state.opt_states

        actors = rest["actors"]
        if not on_device(self._env):
            actors = [restore_actor(*both) for both in zip(state.actors, actors, strict=True)]
        # Workers change both lists in place.
        return AsynchronousState(state.shared, list(actors), list(opt_states))

    def start_from(self, state: AsynchronousState, params: Params) -> AsynchronousState:
        """Write these network variables to the parameters and the target of a fresh state."""
        flat = self._flat(params)
        for vector in (state.shared.flat_params, state.shared.target):
            if vector is not None:
                vector[:] = flat
        return state

    def last_state(self, state: AsynchronousState) -> AsynchronousState:
        """Return `state`: workers change it in place."""
        return state

    def close(self, state: AsynchronousState) -> None:
        """Close the host environments of a run, which cannot be trained further then."""
        if not on_device(self._env):
            close_all([actor.env_state for actor in state.actors])

    def _compile(self, state: AsynchronousState) -> None:
        """Compile the programs that all workers run, once, in the calling thread."""
        if self._segment is not None:
            return
        theta = state.shared.flat_params
        segment = self._segments.compile(theta, state.actors[0], state.shared.target)

        if self._rule is None:
            # Give Optax trees: many transformations need names, ranks or layers.
            def optax_step(
                grad: Array, opt_state: Any, flat: Array, env_steps: Array
            ) -> tuple[Array, Any]:
                grads = self._unravel(grad)  # [P] -> tree
                params = self._unravel(flat)
                updates, opt_state = self._optimizer.update(
                    grads, opt_state, params, env_steps=env_steps
                )
                return ravel(updates), opt_state  # tree -> [P]

            arguments = (theta, state.opt_states[0], theta, np.float32(0))
            self._optax_step = self._segments.on_one_core(optax_step, *arguments)
        self._segment = segment  # last: an interrupted compilation starts anew

    def _segment_of(self, worker: int, state: AsynchronousState) -> Segment:
        """Return a worker's segment. With Optax it also computes the step that is to be added."""
        assert self._segment is not None
        if self._optax_step is None:
            return self._segment
        run = self._segment
        optax_step = self._optax_step
        shared = state.shared

        def segment(theta: np.ndarray, *args: Any) -> tuple[Actor, Update]:
            actor, update = run(theta, *args)
            # Optax works outside of the lock, from theta' and this worker's state.
            env_steps = np.float32(shared.env_steps + update.env_steps)
            step, state.opt_states[worker] = optax_step(
                update.gradient, state.opt_states[worker], theta, env_steps
            )
            return actor, update._replace(gradient=np.asarray(step))

        return segment

    def _init_actors(self, key: Array) -> list[ActorState]:
        """Return an acting state for each worker, each with separate environments."""
        num_workers = self.config.num_workers
        num_envs = self.config.num_envs
        env = self._env
        needs = self._objective.actor_needs

        # One JAX environment serves all workers, because its functions are pure.
        if on_device(env):
            carry = self._network.initial_carry((num_envs,))
            start = shared_jit(lambda key: init_actor(env, carry, key, num_envs, **needs))
            return [start(worker_key) for worker_key in jax.random.split(key, num_workers)]

        # Use twice as many threads as cores: while a worker computes, its environments wait.
        num_threads = max(1, 2 * available_cores() // num_workers)
        sizes = [num_envs] * num_workers
        return init_host_actors(env, self._network, key, sizes, num_threads=num_threads, **needs)

    def _init_opt_state(self, flat: Array) -> Any:
        """Return the state of an Optax optimizer; None for a rule that works in place."""
        return self._optimizer.init(self._unravel(flat)) if self._rule is None else None

    def _init_params(self, key: Array, observation: Array) -> Params:
        num_envs = self.config.num_envs
        carry = self._network.initial_carry((num_envs,))
        return self._network.init(key, carry, observation[None], jnp.ones((1, num_envs), bool))

    def _flat(self, params: Params) -> np.ndarray:
        with jax.default_device(self._device):
            return np.asarray(ravel(params))

    def _progress(self, shared: SharedParameters, start: float) -> Progress:
        sums = shared.metric_sums.tolist()
        return Progress(
            env_steps=shared.env_steps,
            updates=shared.updates,
            updates_per_worker=shared.updates_per_worker,
            mean_staleness=shared.mean_staleness,
            max_staleness=shared.max_staleness,
            metric_sums=dict(zip(self._packing.names, sums, strict=True)),
            seconds=time.perf_counter() - start,
        )


def work(
    worker: int,
    shared: SharedParameters,
    segment: Segment,
    actors: list[Actor],
    until: int,
    workers: Workers,
) -> None:
    """Run one worker: the thread of Algorithm 1, S2 or S3, as the objective determines.

    The paper repeats until T > T_max. Here a worker begins no segment once T >= T_max.
    """
    theta = aligned_empty(shared.flat_params.size)  # theta', this worker's copy

    while workers.go_on(worker) and shared.env_steps < until:
        # theta' <- theta. XLA reads theta' in place, so it must be a copy.
        version = shared.read(theta)

        # Take t_max steps with theta' and accumulate d theta.
        actor, update = segment(theta, actors[worker], shared.target, shared.env_steps)
        actors[worker] = actor

        # T <- T + t; theta <- theta - step(d theta), by default without a lock.
        shared.apply(worker, version, update)
