"""Where does the time of a worker of A3C go?

    python benchmarks/worker_time.py [--env gymnax:CartPole-v1] [--workers 1 2] [--repeats 5]
    python benchmarks/worker_time.py --short     does it work? Two short windows
    python benchmarks/worker_time.py --table     print the result that exists

The script measures microseconds per segment and per step, on the clock and on a core, of workers
that learn with the settings of the preset, in a process that is confined to one core for each of
them. Timers surround what a worker calls: compiled programs, host environments, and the three calls
that touch the shared buffers. What lies between them is Python, NumPy and JAX's own handling of
arrays: "Python and the rest". The cost of the timers is measured too; most of it is in that rest.

On CartPole a segment is one program. Its parts are differences between programs of the same
arguments and results, in as many threads as there are workers, at the end of the same run: one that
computes nothing (the call), one that steps the environment with a hand-written rule, one that acts
with the network, and the whole.

"On a core" is the time that the worker's own thread spent there; for the programs alone it is the
time of all threads. XLA may run a program on another thread, while the worker waits for it without
the interpreter lock. So waiting for the lock appears elsewhere, as time in which a core did nothing
for the process: the idle time of two workers, less that of one, is what they wait for each other.
The result also has the share of the machine that other processes used, which should be next to
nothing. "Holding" is the worker's time on a core in Python and the rest, and on CartPole also in
the call that computes nothing: about the time for which it keeps the lock from the others.
"""

import dataclasses
import functools
import statistics
import sys
import threading
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from benchmarks.frame.learners import FOREVER, INTERVAL, check_learned, copy_of_weights
from benchmarks.frame.processes import confined, write_part
from benchmarks.frame.results import Rows, parser_of, print_result, publish, result_path
from benchmarks.frame.summaries import short_id, spread
from benchmarks.frame.tables import Table, field
from benchmarks.frame.timing import Window, watched
from jax_a3c.acting.unroll import UnrollConfig, unroll
from jax_a3c.envs.base import on_device
from jax_a3c.experiment.build import build
from jax_a3c.objectives import ActorCriticConfig, actor_critic
from jax_a3c.runners.asynchronous import use_worker_threads
from jax_a3c.runners.packing import Packing, TreePacking
from jax_a3c.runners.segments import Segments
from jax_a3c.settings.run import Settings, resolve

ENVS = ("gymnax:CartPole-v1", "envpool:Pong-v5")
WORKERS = [1, 2]
CALLS = 50
"""Calls of one program of CartPole's segment before the next one has its turn."""
PARTS = {
    "step": "environment",
    "act_at": "inference",
    "learn_from": "gradient",
    "act_and_learn": "segment: environment, inference, gradient",
    "split": "parameters as a tree",
    "optax_step": "optimizer's program",
    "read": "shared buffer: read",
    "apply": "shared buffer: apply",
}
"""The parts of a worker's time, by the name of the method or of the compiled function."""
ONCE = ("pack", "unpack")
"""Functions that run once for each actor, before and after training."""
SEGMENT = PARTS["act_and_learn"]
REST = "Python and the rest"


class Ledger:
    """The time of one thread.

    Attributes:
      parts: number of calls and nanoseconds on the clock and on a core, by name.
      begin: both clocks at the first call, in nanoseconds.
      end: both clocks after the last call.
    """

    def __init__(self) -> None:
        self.parts: dict[str, list[int]] = {}
        self.begin: tuple[int, int] | None = None
        self.end = (0, 0)


class Clock:
    """A clock that books the time of calls, for each thread separately.

    Attributes:
      ledgers: the time of each thread, by its identifier.
    """

    def __init__(self) -> None:
        self.ledgers: dict[int, Ledger] = {}

    def timed(self, part: str, function: Callable) -> Callable:
        """Return the function with its time booked."""

        def call(*args: Any) -> Any:
            begin = time.perf_counter_ns(), time.thread_time_ns()
            result = function(*args)
            end = time.perf_counter_ns(), time.thread_time_ns()

            ledger = self.ledgers.setdefault(threading.get_ident(), Ledger())
            ledger.begin = ledger.begin or begin
            ledger.end = end
            booked = ledger.parts.setdefault(part, [0, 0, 0])
            booked[0] += 1
            booked[1] += end[0] - begin[0]
            booked[2] += end[1] - begin[1]
            return result

        return call

    def watch(self, owner: Any, *methods: str) -> None:
        """Book the time of the methods of an object."""
        for name in methods:
            setattr(owner, name, self.timed(PARTS[name], getattr(owner, name)))

    def compiling(self) -> Any:
        """Return a context in which `Segments` compiles programs whose time is booked."""
        compile_ = Segments.on_one_core

        def on_one_core(segments: Segments, function: Callable, *args: Any) -> Callable:
            name = getattr(function, "__name__", "")
            program = compile_(segments, function, *args)
            if name in ONCE:
                return program
            # The call of a program may return before it has run.
            return self.timed(
                PARTS.get(name, PARTS["split"]), lambda *a: jax.block_until_ready(program(*a))
            )

        return mock.patch.object(Segments, "on_one_core", on_one_core)


def main() -> None:
    """Measure each number of workers in a child process; write and print."""
    parser = parser_of(__doc__, short="two short windows", part=True)
    parser.add_argument("--env", nargs="+", choices=ENVS, default=list(ENVS))
    parser.add_argument(
        "--workers", type=int, nargs="+", default=WORKERS, help="numbers of workers and cores"
    )
    parser.add_argument("--repeats", type=int, default=5, help="number of windows")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each window")
    args = parser.parse_args()
    if args.short:
        args.repeats = 2
        args.seconds = 0.5

    partial = args.short or args.workers != WORKERS or set(args.env) != set(ENVS)
    out = result_path("worker_time", args.out, partial)
    if args.table:
        print_result(out, tables)
    elif args.part:
        row = measure(args.env[0], args.workers[0], args.repeats, args.seconds)
        write_part(args.part, row)
    else:
        rows = []
        for env_id in args.env:
            for workers in args.workers:
                print(f"{env_id}, workers and cores: {workers}", flush=True)
                flags = [*sys.argv[1:], "--env", env_id, "--workers", str(workers)]
                rows.append(confined(workers, __file__, flags))
        publish(out, rows, tables, repeats=args.repeats, seconds=args.seconds)


def measure(env_id: str, workers: int, repeats: int, seconds: float) -> dict[str, Any]:
    """Let the workers learn under the clock, and book a few windows."""
    use_worker_threads()

    # Build the workers with their calls under the clock.
    clock = Clock()
    settings = resolve("a3c", env_id, num_workers=workers, total_timesteps=FOREVER)
    experiment = build("a3c", env_id, settings)
    runner: Any = experiment.runner
    state = runner.init(0)
    in_one_program = on_device(experiment.env)
    clock.watch(state.shared, "read", "apply")
    if not in_one_program:
        for actor in state.actors:
            clock.watch(actor.env_state, "step")

    def train(seconds: float) -> Any:
        return runner.run(
            state, callback=lambda progress: progress.seconds >= seconds, interval=INTERVAL
        ).progress

    # Warm up: CartPole's episodes grow long meanwhile, so that segments are whole.
    before = copy_of_weights(runner.params(state))
    with clock.compiling():
        progress = train(2 * seconds)

    # Book each window separately.
    windows = []
    for _ in range(repeats):
        clock.ledgers.clear()
        steps = progress.env_steps
        progress, window = watched(functools.partial(train, seconds))
        windows.append(booked(list(clock.ledgers.values()), progress.env_steps - steps, window))
    check_learned(f"A3C with {workers} workers", before, copy_of_weights(runner.params(state)))

    alone = None
    if in_one_program:
        alone = segment_in_parts(
            experiment, settings, runner, state, calls=20 if seconds < 1 else 200
        )
    runner.close(state)
    return {
        "env": env_id,
        "workers": workers,
        **row_of(windows, alone),
        "timer_microseconds": timer_cost(),
    }


def booked(ledgers: list[Ledger], steps: int, window: Window) -> dict[str, Any]:
    """Return one window over all workers: nanoseconds by part, on the clock and on a core."""
    parts: dict[str, np.ndarray] = {}
    whole = np.zeros(2)
    for ledger in ledgers:
        for name, numbers in ledger.parts.items():
            parts[name] = parts.get(name, np.zeros(3)) + numbers
        whole += np.subtract(ledger.end, ledger.begin or ledger.end)

    # What is not booked is Python and the rest.
    rest = whole - sum(numbers[1:] for numbers in parts.values())
    segments = parts[PARTS["apply"]][0]
    parts[REST] = np.array([segments, *rest])
    sums = {
        "parts": parts,
        "whole": whole,
        "segments": segments,
        "steps": steps,
        "workers": len(ledgers),
    }
    return {**sums, **window._asdict()}


def row_of(windows: list[dict[str, Any]], alone: dict[str, Any] | None) -> dict[str, Any]:
    """Return medians over the windows."""

    def median(figure: Callable[[dict[str, Any]], float], digits: int = 2) -> float:
        return round(float(statistics.median(figure(window) for window in windows)), digits)

    parts = {}
    for name in (*PARTS.values(), REST):
        if name not in windows[0]["parts"]:
            continue
        parts[name] = {
            "calls_per_segment": median(lambda w, n=name: w["parts"][n][0] / w["segments"]),
            "us_per_segment": median(lambda w, n=name: w["parts"][n][1] / w["segments"] / 1e3),
            "cpu_us_per_segment": median(lambda w, n=name: w["parts"][n][2] / w["segments"] / 1e3),
            "us_per_step": median(lambda w, n=name: w["parts"][n][1] / w["steps"] / 1e3, 3),
        }

    def held(window: dict[str, Any]) -> float:
        calls = 0.0 if alone is None else alone["call"]["cpu_us"] * 1e3 * window["segments"]
        python = window["parts"][REST][2]
        return (python + calls) / window["whole"][0]

    # Cores that did nothing for this process.
    idle = [1 - w["cpu_seconds"] / (w["workers"] * w["seconds"]) for w in windows]
    others = [window["others"] for window in windows if window["others"] is not None]
    return {
        "env_steps_per_second": spread([w["steps"] / w["seconds"] for w in windows], 0),
        "steps_per_segment": median(lambda w: w["steps"] / w["segments"]),
        "us_per_segment": median(lambda w: w["whole"][0] / w["segments"] / 1e3),
        "us_per_step": median(lambda w: w["whole"][0] / w["steps"] / 1e3, 3),
        "parts": parts,
        "segment_alone": alone,
        "share_of_cores_idle": spread(idle),
        "others_share_of_machine": spread(others) if others else None,
        "share_holding_the_lock": spread([held(w) for w in windows]),
    }


def segment_in_parts(
    experiment: Any, settings: Settings, runner: Any, state: Any, *, calls: int
) -> dict[str, Any]:
    """Return the time of a segment's call, environment, inference and gradient from programs alone.

    Args:
      experiment: of CartPole, whose poles the hand-written rule keeps up.
      settings: of the experiment.
      runner: the runner that trained the state.
      state: its parameters and actors.
      calls: turns of each program, of `CALLS` calls.

    Returns:
      Microseconds by part, on the clock and on a core, and the steps of a call of each program.
    """
    config = runner.config
    env = experiment.env
    names = [field.name for field in dataclasses.fields(ActorCriticConfig)]
    objective_config = ActorCriticConfig(**{name: getattr(settings, name) for name in names})
    objective = actor_critic(experiment.network, objective_config)
    _, unravel = ravel_pytree(runner.params(state))
    cpu = jax.local_devices(backend="cpu")[0]
    # The program of a segment, as the runner compiles it.
    packing = Packing(state.shared.flat_params.size)
    segments = Segments(env, objective, unravel, config, packing=packing, device=cpu)
    theta = np.array(state.shared.flat_params)
    whole = segments.program(theta, state.actors[0], None)
    actors = [segments.enter(actor) for actor in state.actors]
    arguments = (theta, actors[0], None, np.float32(0))

    # Programs with the arguments and results of a segment, which compute a part of it.
    padding = jnp.zeros(len(packing.names) - 2)

    def packed(flat: Any, taken: Any, used: Any) -> Any:
        return jnp.concatenate([flat, jnp.stack([taken, used]), padding])

    tree = TreePacking(state.actors[0])

    def nothing(flat: Any, actor: Any, target: Any, env_steps: Any) -> Any:
        flat, actor = jax.lax.optimization_barrier((flat, actor))
        return actor, packed(flat, 0.0, env_steps)

    unroll_config = UnrollConfig(
        config.num_steps, config.auto_reset, config.stop_at_episode_end, objective.discount
    )

    def playing(act: Callable) -> Callable:
        def play(flat: Any, actor: Any, target: Any, env_steps: Any) -> Any:
            last, rollout, _ = unroll(
                env, act, unravel(flat), tree.unpack(actor), unroll_config, env_steps
            )
            # Use all that a gradient would read, so that XLA leaves out no part of the loop.
            used = sum(jnp.sum(leaf.astype(jnp.float32)) for leaf in jax.tree.leaves(rollout.steps))
            taken = rollout.steps.mask.sum().astype(jnp.float32)
            return tree.pack(last), packed(flat, taken, used)

        return play

    def by_rule(params: Any, key: Any, carry: Any, seen: Any, *_: Any) -> tuple:
        # Push towards the side to which the pole falls: it stays up.
        return carry, (seen[:, 2] + seen[:, 3] > 0).astype(jnp.int32), ()

    # From nothing to the whole, each a part more than the one before.
    functions = {
        "call": nothing,
        "environment": playing(by_rule),
        "inference": playing(objective.act),
    }
    programs = {
        name: segments.on_one_core(function, *arguments) for name, function in functions.items()
    }
    programs["gradient"] = whole
    starts = [[theta.copy(), actor] for actor in actors]
    ledgers = side_by_side(starts, programs, calls, theta.size)

    # Each program does all that the one before does, and one part more.
    parts = {}
    previous = np.zeros(2)
    for name in programs:
        figures = np.array([ledger[name] for ledger in ledgers])  # threads, turns, 3
        spent = np.median(figures[..., :2], axis=(0, 1))
        steps = float(figures[..., 2].mean())
        us, cpu_us = np.round(spent - previous, 2).tolist()
        parts[name] = {"us": us, "cpu_us": cpu_us, "steps_per_call": round(steps, 2)}
        previous = spent
    return parts


def side_by_side(
    starts: list[list[Any]], programs: dict[str, Callable], turns: int, size: int
) -> list[dict[str, list[tuple[float, float, float]]]]:
    """Run the programs in turn, in one thread for each start (parameters, actor).

    Returns:
      For each thread and program, by turn: microseconds per call on the clock and on a core, and
      steps per call.
    """
    ledgers: list[dict[str, list[tuple[float, float, float]]]] = [{} for _ in starts]
    # Between two barriers the process runs one program only.
    together = threading.Barrier(len(starts))

    def run(thread: int) -> None:
        theta, first = starts[thread]
        actors = dict.fromkeys(programs, first)
        for turn in range(-1, turns):
            for name, program in programs.items():
                actor = actors[name]
                taken = 0.0
                together.wait()
                start = time.perf_counter()
                cpu_start = time.process_time()
                for _ in range(CALLS):
                    actor, packed = program(theta, actor, None, np.float32(0))
                    taken += np.asarray(packed)[size]
                seconds = time.perf_counter() - start
                together.wait()
                cpu_seconds = (time.process_time() - cpu_start) / len(starts)

                actors[name] = actor
                if turn >= 0:
                    figures = (seconds * 1e6 / CALLS, cpu_seconds * 1e6 / CALLS, taken / CALLS)
                    ledgers[thread].setdefault(name, []).append(figures)

    threads = [threading.Thread(target=run, args=(thread,)) for thread in range(len(starts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ledgers


def timer_cost(calls: int = 20_000) -> float:
    """Return the microseconds that booking adds to a call."""

    def nothing() -> None: ...

    def seconds(function: Callable) -> float:
        begin = time.perf_counter()
        for _ in range(calls):
            function()
        return time.perf_counter() - begin

    return round((seconds(Clock().timed("nothing", nothing)) - seconds(nothing)) / calls * 1e6, 2)


COLUMNS = (
    field("environment", "env"),
    field("workers", "workers"),
    field("part", "part"),
    field("us per segment", "us_per_segment", ".1f"),
    field("on a core", "cpu_us_per_segment", ".1f"),
    field("us per step", "us_per_step", ".2f"),
    field("share", "share", ".0%"),
)


def tables(rows: Rows) -> list[Table]:
    """Return the table of all parts: medians over the windows."""
    return [Table(COLUMNS, [line for row in rows for line in _lines(row)])]


def _lines(row: dict[str, Any]) -> Rows:
    """Return a line for each part, for each part of a segment alone, and for the sum."""
    head = {"env": short_id(row["env"]), "workers": row["workers"]}
    lines = []
    for part, numbers in row["parts"].items():
        share = numbers["us_per_segment"] / row["us_per_segment"]
        lines.append({**head, "part": part, **numbers, "share": share})
        for what, of in (row["segment_alone"] or {}).items() if part == SEGMENT else ():
            times = {"us_per_segment": of["us"], "cpu_us_per_segment": of["cpu_us"]}
            lines.append({**head, "part": f"alone: {what}", **times})

    idle = row["share_of_cores_idle"]["median"]
    held = row["share_holding_the_lock"]["median"]
    whole = {name: row[name] for name in ("us_per_segment", "us_per_step")}
    text = f"all; cores idle {idle:.0%}, a worker holding the lock {held:.0%}"
    return [*lines, {**head, "part": text, **whole, "share": 1.0}]


if __name__ == "__main__":
    main()
