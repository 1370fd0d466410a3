"""The asynchronous runner: threads that update one shared parameter vector without a lock."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_a3c.acting.actor import ActorState, actor_to_save, as_key, init_actor, restore_actor
from jax_a3c.acting.groups import close_all, init_host_actors
from jax_a3c.checks import (
    MAX_TIMEOUT,
    check_callable,
    check_kind,
    check_number,
)
from jax_a3c.envs.base import HostFactory, JaxEnvironment, available_cores
from jax_a3c.errors import InputError
from jax_a3c.networks.base import Network
from jax_a3c.objectives import Objective, actor_critic
from jax_a3c.programs import shared_jit
from jax_a3c.runners.base import Progress, TrainingResult
from jax_a3c.runners.parts import check_parts
from jax_a3c.runners.segments import Segments, ravel, unraveller
from jax_a3c.runners.shared_parameters import SharedParameters, aligned_empty
from jax_a3c.runners.workers import Workers
from jax_a3c.settings.parts import A3CConfig, AsynchronousConfig
from jax_a3c.types import Array, Params


class AsynchronousState(NamedTuple):
    """The whole state of a run; `run` continues from it and changes it in place.

    Attributes:
      shared: theta, theta^-, the shared moments and the counters.
      actors: the acting state of each worker.
      opt_states: the optimizer's state of each worker, None for Shared RMSProp.
    """

    shared: SharedParameters
    actors: list[ActorState]
    opt_states: list[Any]


def a3c(
    make_env: Callable[..., JaxEnvironment | HostFactory],
    network: Network,
    optimizer: optax.GradientTransformation,
    config: A3CConfig | None = None,
) -> "AsynchronousRunner":
    """Build asynchronous advantage actor-critic (A3C) on CPU threads.

    Args:
      make_env: function that builds the environment, `() -> env`. A JAX environment is pure and
        serves all workers. For a host environment each worker starts a separate group.
      network: policy and value function, see `networks.actor_critic`.
      optimizer: an optimizer of `jax_a3c.optimizers` is applied in place; with `shared_rmsprop` all
        workers share its moments. Any other Optax transformation keeps a state per worker, and its
        updates are added without a lock.
      config: settings; the defaults if None.

    Returns:
      The runner; its `run` trains.

    References:
      Mnih et al. (2016), Algorithm S3.

    Example:
      >>> from jax_a3c import a3c, A3CConfig, envs, networks, optimizers
      >>> env = envs.make("gymnax:CartPole-v1")
      >>> optimizer = optimizers.shared_rmsprop(7e-4)
      >>> config = A3CConfig(total_timesteps=1000)
      >>> runner = a3c(lambda: env, networks.actor_critic(env), optimizer, config)
      >>> runner.run(jax.random.key(0)).progress.env_steps >= 1000
      True
    """
    config = A3CConfig() if config is None else config
    check_kind("config", config, A3CConfig)
    check_callable("make_env", make_env, example="lambda: envs.make('gymnax:CartPole-v1')")
    return AsynchronousRunner(make_env(), network, optimizer, actor_critic(network, config), config)


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

        self._env = env
        self._network = network
        self._objective = objective
        self._optimizer = optax.with_extra_args_support(optimizer)
        self._in_place = getattr(optimizer, "in_place", None)
        self._shares_moments = getattr(optimizer, "shares_moments", False)

        # Threads update one buffer in host memory, so every program runs on the CPU.
        self._device = jax.local_devices(backend="cpu")[0]
        with jax.default_device(self._device):
            self._unravel = unraveller(shapes)
        self._segments = Segments(
            env,
            objective,
            self._unravel,
            config,
            stop_at_episode_end=config.stop_at_episode_end,
            device=self._device,
        )
        self._compiled = False
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
            opt_states = [self._init_moments(flat) for _ in range(num_workers)]

        shared = SharedParameters(
            np.asarray(flat),
            num_workers,
            lock=self.config.lock,
            target_update_interval=self._objective.target_update_interval,
        )
        return AsynchronousState(shared, actors, opt_states)

    def close(self, state: AsynchronousState) -> None:
        """Close the host environments of a run. JAX environments need no closing.

        Args:
          state: of the run. With host environments it cannot be trained further.
        """
        if not isinstance(self._env, JaxEnvironment):
            close_all([actor.env_state for actor in state.actors])

    def params(self, state: AsynchronousState) -> Params:
        """Return the network's variables.

        Args:
          state: of this run.

        Returns:
          A copy of the current shared parameters, in the tree of `network.init`.
        """
        with jax.default_device(self._device):
            return self._unravel(jnp.array(state.shared.flat_params, copy=True))

    def counts(self, state: AsynchronousState) -> tuple[int, int]:
        """Return T, the environment steps of all workers, and their updates so far."""
        return state.shared.env_steps, state.shared.updates

    def snapshot(self, state: AsynchronousState) -> tuple[Params, Any]:
        """Return the network's variables, and a tree of arrays with the rest of the run's state.

        Host environments cannot be saved, so the tree leaves them out.

        Args:
          state: of a run whose workers have stopped.
        """
        actors: list[Any] = state.actors
        if not isinstance(self._env, JaxEnvironment):
            actors = [actor_to_save(actor) for actor in actors]
        rest = {"shared": state.shared.snapshot(), "actors": actors, "opt_states": state.opt_states}
        return self.params(state), rest

    def restore(self, state: AsynchronousState, params: Params, rest: Any) -> AsynchronousState:
        """Return the state of a run that was saved.

        Args:
          state: from `init`. Host environments are taken from it.
          params: the network's variables.
          rest: the tree that `snapshot` returned.
        """
        state.shared.restore(self._flat(params), rest["shared"])
        actors = rest["actors"]
        if not isinstance(self._env, JaxEnvironment):
            actors = [restore_actor(*both) for both in zip(state.actors, actors, strict=True)]
        return AsynchronousState(state.shared, actors, rest["opt_states"])

    def start_from(self, state: AsynchronousState, params: Params) -> AsynchronousState:
        """Write these network variables to the parameters and the target of a fresh state."""
        flat = self._flat(params)
        for vector in (state.shared.flat_params, state.shared.target):
            if vector is not None:
                vector[:] = flat
        return state

    def _flat(self, params: Params) -> np.ndarray:
        with jax.default_device(self._device):
            return np.asarray(ravel(params))

    def run(
        self,
        key: Array | int = 0,
        *,
        state: AsynchronousState | None = None,
        callback: Callable[[Progress], bool | None] | None = None,
        interval: float = 0.5,
    ) -> TrainingResult:
        """Train until all workers together have taken `total_timesteps` environment steps.

        Args:
          key: random key, or a seed, of a new run; unused if `state` is given.
          state: state to continue from. It is changed in place, so it holds what was learned even
            after a failure or an interrupt. Host environments are closed in that case, and the
            state cannot be trained further.
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
        check_number("interval", interval, above=0.0, high=MAX_TIMEOUT)
        if callback is not None:
            check_callable("callback", callback)
        if state is None:
            state = self.init(key)
        check_kind("state", state, AsynchronousState)
        if len(state.actors) != self.config.num_workers:
            raise InputError(
                f"num_workers is {self.config.num_workers}, but state has {len(state.actors)} "
                "workers; pass a state of as many workers, or none for a new run"
            )

        # Compile before the clock of training starts.
        compiling = time.perf_counter()
        self._compile(state)
        start = time.perf_counter()
        first_step = state.shared.env_steps
        sums = np.zeros((self.config.num_workers, len(self._segments.metric_names)))

        def report() -> bool:
            return callback is not None and bool(callback(self._progress(state, sums, start)))

        # Run the threads until T >= T_max, a callback stops them, or one fails.
        workers = Workers(self.config.num_workers, timeout=self.config.worker_timeout)
        try:
            workers.run(
                lambda worker: self._work(worker, state, sums, workers),
                interval=interval,
                report=report,
            )
        except BaseException:
            # A worker may have stopped inside a segment: do not reuse its environments.
            self.close(state)
            raise

        progress = self._progress(state, sums, start)
        report()
        rate = (progress.env_steps - first_step) / max(progress.seconds, 1e-9)
        return TrainingResult(self.params(state), state, progress, rate, start - compiling)

    def _work(
        self, worker: int, state: AsynchronousState, sums: np.ndarray, workers: Workers
    ) -> None:
        """Run one worker: the thread of Algorithm 1, S2 or S3, as the objective determines.

        The paper repeats until T > T_max. Here a worker begins no segment once T >= T_max.
        """
        shared = state.shared  # theta, theta^- and T
        size = shared.flat_params.size
        end = size + sums.shape[1]  # of the metrics in a packed vector
        max_steps = self.config.total_timesteps  # T_max
        theta = aligned_empty(size)  # theta', this worker's copy
        scratch = aligned_empty(size)

        while (env_steps := shared.env_steps) < max_steps and workers.go_on(worker):
            # theta' <- theta. XLA reads theta' in place, so it must be a copy.
            version = shared.read(theta)

            # Act for up to t_max steps with theta' and accumulate d theta, in compiled programs.
            state.actors[worker], packed = self._segment(
                theta, state.actors[worker], shared.target, np.float32(env_steps)
            )
            # Wait for the segment; other workers may hold the interpreter lock meanwhile.
            vector = np.asarray(packed)

            # Slices take a tenth of the time of `np.split`, all of it under the interpreter lock.
            gradient = vector[:size]  # d theta
            metrics = vector[size:end]
            changes = vector[end:]  # of running statistics
            sums[worker] += metrics

            # T <- T + t, once per segment.
            total = shared.count(worker, int(metrics[0]))

            # Asynchronous update: theta <- theta - update(d theta), by default without a lock.
            change = self._change(state, worker, theta, gradient, changes, scratch, total)
            shared.apply(worker, version, change)

    def _change(
        self,
        state: AsynchronousState,
        worker: int,
        theta: np.ndarray,
        gradient: np.ndarray,
        changes: np.ndarray,
        scratch: np.ndarray,
        env_steps: int,
    ) -> Callable[[np.ndarray, np.ndarray], None]:
        """Return the function that applies a gradient to the shared buffers in place.

        The last entries of the parameters may be running statistics. They have no gradient:
        `changes` is added to them.
        """
        opt_state = state.opt_states[worker]
        rule = self._in_place
        weights = slice(gradient.size - changes.size)  # all but the running statistics

        # Optax computes the update outside of the lock, from theta' and this worker's state.
        if rule is None:
            delta, state.opt_states[worker] = self._update(
                gradient, opt_state, theta, np.float32(env_steps)
            )

        def change(parameters: np.ndarray, shared: np.ndarray) -> None:
            # theta <- theta - update(d theta).
            if rule is None:
                np.add(parameters[weights], np.asarray(delta)[weights], out=parameters[weights])
            else:
                vectors = (
                    parameters,
                    shared if self._shares_moments else opt_state,
                    gradient,
                    scratch,
                )
                rule(*(vector[weights] for vector in vectors), env_steps)

            parameters[weights.stop :] += changes

        return change

    def _compile(self, state: AsynchronousState) -> None:
        """Compile the programs that all workers run, once, in the calling thread."""
        if self._compiled:
            return

        theta = state.shared.flat_params
        target = state.shared.target
        self._segment = self._segments.compile(theta, state.actors[0], target)

        if not self._in_place:
            # Give Optax trees: many transformations need names, ranks or layers.
            def update(
                grad: Array, opt_state: Any, flat: Array, env_steps: Array
            ) -> tuple[Array, Any]:
                grads = self._unravel(grad)  # [P] -> tree
                params = self._unravel(flat)
                updates, opt_state = self._optimizer.update(
                    grads, opt_state, params, env_steps=env_steps
                )
                return ravel(updates), opt_state  # tree -> [P]

            arguments = (theta, state.opt_states[0], theta, np.float32(0))
            self._update = self._segments.on_one_core(update, *arguments)
        self._compiled = True

    def _init_actors(self, key: Array) -> list[ActorState]:
        """Return an acting state for each worker, each with separate environments."""
        num_workers = self.config.num_workers
        num_envs = self.config.num_envs
        env = self._env
        needs = self._objective.actor_needs

        # One JAX environment serves all workers, because its functions are pure.
        if isinstance(env, JaxEnvironment):
            carry = self._network.initial_carry((num_envs,))
            start = shared_jit(lambda key: init_actor(env, carry, key, num_envs, **needs))
            return [start(worker_key) for worker_key in jax.random.split(key, num_workers)]

        # Use twice as many threads as cores: while a worker computes, its environments wait.
        num_threads = max(1, 2 * available_cores() // num_workers)
        sizes = [num_envs] * num_workers
        return init_host_actors(env, self._network, key, sizes, num_threads=num_threads, **needs)

    def _init_moments(self, flat: Array) -> Any:
        """Return the optimizer's state for one worker; None if all workers share the moments."""
        if self._in_place is None:
            return self._optimizer.init(self._unravel(flat))
        return None if self._shares_moments else np.zeros(flat.size, np.float32)

    def _init_params(self, key: Array, observation: Array) -> Params:
        num_envs = self.config.num_envs
        carry = self._network.initial_carry((num_envs,))
        return self._network.init(key, carry, observation[None], jnp.ones((1, num_envs), bool))

    def _progress(self, state: AsynchronousState, sums: np.ndarray, start: float) -> Progress:
        shared = state.shared
        return Progress(
            env_steps=shared.env_steps,
            updates=shared.updates,
            updates_per_worker=shared.updates_per_worker,
            mean_staleness=shared.mean_staleness,
            max_staleness=shared.max_staleness,
            metric_sums=dict(
                zip(self._segments.metric_names, sums.sum(axis=0).tolist(), strict=True)
            ),
            seconds=time.perf_counter() - start,
        )
