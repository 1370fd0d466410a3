"""The asynchronous runner: threads that update one shared parameter vector without a lock."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_a3c.checks import (
    MAX_STEPS,
    MAX_TIMEOUT,
    InputError,
    check_boolean,
    check_callable,
    check_integer,
    check_kind,
    check_number,
    check_timeout,
)
from jax_a3c.envs.base import HostFactory, JaxEnvironment, available_cores
from jax_a3c.hogwild import SharedParameters, aligned_empty
from jax_a3c.host_rollouts import close_all, init_host_actors, lasting, resumed
from jax_a3c.objectives import (
    ActorCriticConfig,
    Network,
    Objective,
    actor_critic,
    check_parts,
    check_rows,
)
from jax_a3c.programs import shared_jit
from jax_a3c.rollouts import RunnerConfig, as_key, init_actor
from jax_a3c.segments import Segments, ravel, unraveller
from jax_a3c.types import ActorState, Array, Params, Progress, TrainingResult
from jax_a3c.workers import Workers

MAX_WORKERS = 1024
"""Threads of a run; systems allow a process some thousands, those of libraries included."""


@dataclass(frozen=True, kw_only=True)
class AsynchronousConfig(RunnerConfig):
    """Settings of the asynchronous runner, on top of those of `rollouts.RunnerConfig`.

    Attributes:
      num_workers: threads, from 1 to 1024. Paper: 16, on as many cores.
      num_envs: environments of each worker, at least 1. Paper: 1.
      total_timesteps: T_max, the environment steps of all workers after which training ends.
      stop_at_episode_end: a segment ends with the episode, as in Algorithms 1, S2 and S3. With several
        environments: with a step that ends all their episodes.
      lock: reads and updates of the shared buffers exclude each other. The control experiment.
      worker_timeout: seconds that a segment may take before its worker counts as hung, above 0; None for
        ever.
    """

    num_workers: int = 16
    num_envs: int = 1
    num_steps: int = 20
    total_timesteps: int = 500_000
    max_grad_norm: float | None = 40.0
    stop_at_episode_end: bool = True
    lock: bool = False
    worker_timeout: float | None = 300.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("num_workers", self.num_workers, 1, MAX_WORKERS)
        check_integer("total_timesteps", self.total_timesteps, 1, MAX_STEPS)
        check_boolean("stop_at_episode_end", self.stop_at_episode_end)
        check_boolean("lock", self.lock)
        check_timeout("worker_timeout", self.worker_timeout)


@dataclass(frozen=True, kw_only=True)
class A3CConfig(AsynchronousConfig, ActorCriticConfig):
    """Settings of A3C: those of the asynchronous runner and those of the actor-critic objective."""

    def __post_init__(self) -> None:
        AsynchronousConfig.__post_init__(self)
        ActorCriticConfig.__post_init__(self)
        check_rows(self, self.num_envs, self.num_steps)


class A3CState(NamedTuple):
    """All that a run is at one moment; `run` goes on from it and changes it in place.

    Attributes:
      shared: parameters, target parameters, shared statistics and counters.
      actors: the acting state of each worker.
      opt_states: what else the optimizer keeps for each worker, None for Shared RMSProp.
    """

    shared: SharedParameters
    actors: list[ActorState]
    opt_states: list[Any]


def a3c(
    make_env: Callable[..., JaxEnvironment | HostFactory],
    network: Network,
    optimizer: optax.GradientTransformation,
    config: A3CConfig | None = None,
) -> "Asynchronous":
    """Asynchronous advantage actor-critic on CPU threads.

    Args:
      make_env: builds the environment, `() -> env`, as `envs.make` does. One written in JAX is pure and
        serves all workers; of one on the host each worker starts a group of its own.
      network: policy and value function, see `networks.actor_critic`.
      optimizer: those of `optimizers` are applied in place, `shared_rmsprop` with statistics that all
        workers share; any other Optax transformation keeps a state per worker, and its updates are added
        without a lock.
      config: settings; the defaults if None.

    Returns:
      The runner; its `run` trains.

    References:
      Mnih et al. (2016), Algorithm S3.

    Example:
      >>> from jax_a3c import a3c, A3CConfig, envs, networks, optimizers
      >>> env = envs.make("gymnax:CartPole-v1")
      >>> optimizer = optimizers.shared_rmsprop(7e-4)
      >>> agent = a3c(lambda: env, networks.actor_critic(env), optimizer, A3CConfig(total_timesteps=1000))
      >>> agent.run(jax.random.key(0)).progress.env_steps >= 1000
      True
    """
    config = A3CConfig() if config is None else config
    check_kind("config", config, A3CConfig)
    check_callable("make_env", make_env, example="lambda: envs.make('gymnax:CartPole-v1')")
    return Asynchronous(make_env(), network, optimizer, actor_critic(network, config), config)


def use_worker_threads() -> None:
    """Let XLA run a worker's program on the worker's own thread.

    By default JAX hands each program on the CPU to a pool, and two workers are four threads that wait for
    each other, which costs them about a fifth of their steps. This sets `jax_cpu_enable_async_dispatch` for
    the process, and must be called before JAX first uses the CPU; later it has no effect. The command line
    does it.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)


class Asynchronous:
    """Workers that share parameters: the runner for any objective."""

    def __init__(
        self,
        env: JaxEnvironment | HostFactory,
        network: Network,
        optimizer: optax.GradientTransformation,
        objective: Objective,
        config: AsynchronousConfig | None = None,
    ):
        """Bind the parts; nothing is compiled or started before `init` or `run`.

        Args:
          env: the environment, as `envs.make` gives it.
          network: gives parameters and carries their initial values.
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
        self._shares_statistics = getattr(optimizer, "shares_statistics", False)
        # Lock-free updates of one buffer are an affair of threads and host memory: always the CPU.
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

    def init(self, key: Array | int) -> A3CState:
        """Start a run: fresh parameters, and an acting state with random numbers of its own per worker.

        Args:
          key: random key, or a seed.

        Returns:
          The state, for `run`.
        """
        num_workers = self.config.num_workers
        with jax.default_device(self._device):
            params_key, actors_key = jax.random.split(jax.device_put(as_key(key), self._device))
            actors = self._init_actors(actors_key)
            # Running statistics start at the first observation.
            flat = self._init_flat(params_key, actors[0].observation)
            opt_states = [self._init_statistics(flat) for _ in range(num_workers)]
        shared = SharedParameters(
            np.asarray(flat),
            num_workers,
            lock=self.config.lock,
            target_update_interval=self._objective.target_update_interval,
        )
        return A3CState(shared, actors, opt_states)

    def close(self, state: A3CState) -> None:
        """Close the environments of a run on the host; the others hold nothing.

        Args:
          state: of the run, which cannot go on afterwards.
        """
        if not isinstance(self._env, JaxEnvironment):
            close_all([actor.env_state for actor in state.actors])

    def params(self, state: A3CState) -> Params:
        """The network's variables.

        Args:
          state: of this run.

        Returns:
          A copy of the shared parameters as they are now, in the tree of `network.init`.
        """
        with jax.default_device(self._device):
            return self._unravel(jnp.array(state.shared.parameters, copy=True))

    def counts(self, state: A3CState) -> tuple[int, int]:
        """Environment steps and updates so far, of all workers."""
        return state.shared.env_steps, state.shared.updates

    def snapshot(self, state: A3CState) -> tuple[Params, Any]:
        """The network's variables, and what else a run needs to go on, as a tree of arrays.

        Of environments on the host it holds nothing: they cannot be saved.

        Args:
          state: of a run that is not under way.
        """
        actors: list[Any] = state.actors
        if not isinstance(self._env, JaxEnvironment):
            actors = [lasting(actor) for actor in actors]
        rest = {"shared": state.shared.snapshot(), "actors": actors, "opt_states": state.opt_states}
        return self.params(state), rest

    def restore(self, state: A3CState, params: Params, rest: Any) -> A3CState:
        """The state of a run that was saved.

        Args:
          state: a fresh one, whose environments go on if they are of the host.
          params: the network's variables.
          rest: as in `snapshot`.
        """
        state.shared.restore(self._flat(params), rest["shared"])
        actors = rest["actors"]
        if not isinstance(self._env, JaxEnvironment):
            actors = [resumed(*both) for both in zip(state.actors, actors, strict=True)]
        return A3CState(state.shared, actors, rest["opt_states"])

    def start_from(self, state: A3CState, params: Params) -> A3CState:
        """A fresh state with these variables of the network, in the target too."""
        flat = self._flat(params)
        for vector in (state.shared.parameters, state.shared.target):
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
        state: A3CState | None = None,
        callback: Callable[[Progress], bool | None] | None = None,
        interval: float = 0.5,
    ) -> TrainingResult:
        """Train until all workers together have taken `total_timesteps` environment steps.

        Args:
          key: random key, or a seed, of a fresh run; unused if `state` is given.
          state: where to go on. It is changed in place, so that after a failure or an interrupt it holds
            what was learned; environments of the host are closed then, and it cannot go on.
          callback: called in this thread about every `interval` seconds, and once at the end; training ends
            early when it returns True.
          interval: seconds, above 0.

        Returns:
          Parameters, state and counts.

        Raises:
          Exception: the first one that a worker raised, with its traceback and the worker's number. All
            workers have ended when it is raised, as they have after Ctrl-C.
          WorkerHangError: if a worker ended no segment within `worker_timeout`.
        """
        check_number("interval", interval, above=0.0, high=MAX_TIMEOUT)
        if callback is not None:
            check_callable("callback", callback)
        if state is None:
            state = self.init(key)
        check_kind("state", state, A3CState)
        if len(state.actors) != self.config.num_workers:
            raise InputError(
                f"num_workers is {self.config.num_workers}, but state is that of {len(state.actors)} workers"
            )
        compiling = time.perf_counter()
        self._compile(state)
        start, first_step = time.perf_counter(), state.shared.env_steps
        sums = np.zeros((self.config.num_workers, len(self._segments.metric_names)))

        def report() -> bool:
            return callback is not None and bool(callback(self._progress(state, sums, start)))

        workers = Workers(self.config.num_workers, timeout=self.config.worker_timeout)
        try:
            workers.run(
                lambda worker: self._work(worker, state, sums, workers),
                interval=interval,
                report=report,
            )
        except BaseException:  # perhaps within a segment: nobody can go on from there
            self.close(state)
            raise
        progress = self._progress(state, sums, start)
        report()
        rate = (progress.env_steps - first_step) / max(progress.seconds, 1e-9)
        return TrainingResult(self.params(state), state, progress, rate, start - compiling)

    def _work(self, worker: int, state: A3CState, sums: np.ndarray, workers: Workers) -> None:
        """One worker: Algorithm 1, S2 or S3, as the objective says, until T > T_max."""
        shared, size = state.shared, state.shared.parameters.size
        end = size + sums.shape[1]  # of the metrics in a packed vector
        theta, scratch = aligned_empty(size), aligned_empty(size)
        while (env_steps := shared.env_steps) < self.config.total_timesteps and workers.go_on(
            worker
        ):
            version = shared.read(theta)  # theta' <- theta, a copy: XLA reads the buffer itself
            state.actors[worker], packed = self._segment(  # t_max steps and d theta
                theta, state.actors[worker], shared.target, np.float32(env_steps)
            )
            vector = np.asarray(
                packed
            )  # waits for the segment; others hold the interpreter meanwhile
            # Slices take a tenth of the time of `np.split`, and all of it is under the interpreter lock.
            gradient, metrics, changes = vector[:size], vector[size:end], vector[end:]
            sums[worker] += metrics
            total = shared.count(worker, int(metrics[0]))  # T
            change = self._change(state, worker, theta, gradient, changes, scratch, total)
            shared.apply(
                worker, version, change
            )  # theta <- theta - update(d theta), without a lock

    def _change(
        self,
        state: A3CState,
        worker: int,
        theta: np.ndarray,
        gradient: np.ndarray,
        changes: np.ndarray,
        scratch: np.ndarray,
        env_steps: int,
    ) -> Callable[[np.ndarray, np.ndarray], None]:
        """What a gradient does to the shared parameters and the optimizer's statistics, in place.

        Running statistics among the parameters, which stand at their end, have no gradient but `changes`.
        """
        opt_state = state.opt_states[worker]
        rule, weights = self._in_place, slice(gradient.size - changes.size)
        if rule is None:
            delta, state.opt_states[worker] = self._update(
                gradient, opt_state, theta, np.float32(env_steps)
            )

        def change(parameters: np.ndarray, shared: np.ndarray) -> None:
            if rule is None:
                np.add(parameters[weights], np.asarray(delta)[weights], out=parameters[weights])
            else:
                vectors = (
                    parameters,
                    shared if self._shares_statistics else opt_state,
                    gradient,
                    scratch,
                )
                rule(*(vector[weights] for vector in vectors), env_steps)
            parameters[weights.stop :] += changes

        return change

    def _compile(self, state: A3CState) -> None:
        """Compile in this thread, once: all workers run the same programs."""
        if self._compiled:
            return
        theta, target = state.shared.parameters, state.shared.target
        self._segment = self._segments.compile(theta, state.actors[0], target)
        if not self._in_place:
            # Optax sees trees: many transformations ask for names, ranks or layers.
            def update(
                grad: Array, opt_state: Any, flat: Array, env_steps: Array
            ) -> tuple[Array, Any]:
                grads, params = self._unravel(grad), self._unravel(flat)
                updates, opt_state = self._optimizer.update(
                    grads, opt_state, params, env_steps=env_steps
                )
                return ravel(updates), opt_state

            arguments = (theta, state.opt_states[0], theta, np.float32(0))
            self._update = self._segments.on_one_core(update, *arguments)
        self._compiled = True

    def _init_actors(self, key: Array) -> list[ActorState]:
        """An acting state for each worker; on the host each has environments of its own."""
        num_workers, num_envs = self.config.num_workers, self.config.num_envs
        env, needs = self._env, self._objective.actor_needs
        if isinstance(env, JaxEnvironment):
            carry = self._network.initial_carry((num_envs,))
            start = shared_jit(lambda key: init_actor(env, carry, key, num_envs, **needs))
            return [start(worker_key) for worker_key in jax.random.split(key, num_workers)]
        # Twice as many threads as cores in all: while a worker computes, its environments wait.
        num_threads = max(1, 2 * available_cores() // num_workers)
        sizes = [num_envs] * num_workers
        return init_host_actors(env, self._network, key, sizes, num_threads=num_threads, **needs)

    def _init_statistics(self, flat: Array) -> Any:
        """What the optimizer keeps for one worker: of its own, or None where all share the buffer."""
        if self._in_place is None:
            return self._optimizer.init(self._unravel(flat))
        return None if self._shares_statistics else np.zeros(flat.size, np.float32)

    def _init_params(self, key: Array, observation: Array) -> Params:
        num_envs = self.config.num_envs
        carry = self._network.initial_carry((num_envs,))
        return self._network.init(key, carry, observation[None], jnp.ones((1, num_envs), bool))

    def _progress(self, state: A3CState, sums: np.ndarray, start: float) -> Progress:
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
