"""How much faster is it than other ways to write the same learner, side by side?

    python benchmarks/peers.py [--device cpu gpu] [--only cartpole-16] [--repeats 7] [--seconds 2]
    python benchmarks/peers.py --short     does it work? Two rounds of short windows
    python benchmarks/peers.py --table     print the result that exists
    taskset -c 0,1 python benchmarks/peers.py       on two cores of a larger machine

The peers are references that we wrote from the published algorithms: R1, A2C in PureJaxRL's
structure, R2, the gradient through the loop of the rollout, and R6, one synchronous loop around
envpool (`references.py`); R3, Stable-Baselines3's A2C, and R4, A3C of PyTorch's processes
(`torch_references.py`, extra `peers`); and R5, envpool with random actions and no learner. Without
an extra its rows are left out.

Each group of rows has its own process on each device. A GPU gets the groups in which both sides are
one compiled program, without the goals, which are for two cores of a CPU; the script has not been
run on a GPU yet. Everything is compiled and warmed up first. Then each learner gets a window of
some seconds, A B C A B C, after one round that is thrown away. A ratio compares two windows of one
round. The script stops if a learner's parameters do not move or are not finite.

On CartPole and Breakout ours, R1 and R2 have the same network, environment, sizes, loss and
optimizer, and are programs of as many updates as fill a window; `tests/test_references.py` shows
that their updates are equal. In the group `best` each side has the fastest of its settings, by the
medians. On Pong ours appears twice: with the preset for Atari, whose loss and optimizer R6 shares,
and with the paper's settings, one environment for each worker, t_max 20 and Shared RMSProp, which
R4 shares.
"""

import argparse
import functools
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
from tqdm import tqdm

from benchmarks import references
from benchmarks.frame.learners import FOREVER, Learning, check_learned, copy_of_weights
from benchmarks.frame.processes import PLATFORMS, part_on_device, require_device, write_part
from benchmarks.frame.results import (
    Rows,
    parse_windows,
    parser_of,
    plain_settings,
    print_result,
    publish,
    result_path,
)
from benchmarks.frame.summaries import short_id, spread
from benchmarks.frame.tables import Column, Table, field, spread_field
from benchmarks.frame.timing import rate_of
from benchmarks.host import Case, stepping
from jax_a3c import A2CConfig, a2c, envs, networks, optimizers
from jax_a3c.runners.asynchronous import use_worker_threads
from jax_a3c.settings.run import Settings, resolve

# Learning rate and epsilon of A2C, as Stable-Baselines3 has them.
LEARNING_RATE = 7e-4
EPS = 1e-5
CALIBRATION = 16_384
"""Environment steps of the program whose time gives the size of the others."""
OURS_AT_BEST = ((256, 16), (1024, 16), (4096, 16))
"""N and T of our settings in the group `best`."""
STABLE_BASELINES_AT_BEST = (16, 64, 256)
"""N of Stable-Baselines3's settings; the first one, which is usual, has a second row."""
PONG = "envpool:Pong-v5"
WORKERS = 2
RAW_ENVS = 8
PAPER: dict[str, Any] = {
    "num_envs": 1,
    "num_steps": 20,
    "stop_at_episode_end": True,
    "optimizer": "shared-rmsprop",
    "learning_rate": 7e-4,
    "rmsprop_eps": 0.1,
    "loss_reduction": "sum",
    "max_grad_norm": 40.0,
    "gae_lambda": 1.0,
}


class Racer(NamedTuple):
    """Something to measure.

    Attributes:
      run: continues for one window; returns the number of environment steps.
      close: ends it; raises RuntimeError if it should have learned and did not.
    """

    run: Callable[[], int]
    close: Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A row of the table.

    Attributes:
      ours: names of the racers that may stand for us; the fastest one does.
      peer: names of those that may stand for the other side.
      goal: for the ratio; None where there is none.
    """

    ours: tuple[str, ...]
    peer: tuple[str, ...]
    goal: float | None = None


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows that are measured together.

    Attributes:
      title: how a table names the task.
      build: from the seconds of a window to racers that are ready to run, by name.
      comparisons: pairs of racers; a pair is left out if one side is missing.
      devices: devices that can run all of them.
    """

    title: str
    build: Callable[[float], dict[str, Racer]]
    comparisons: tuple[Comparison, ...]
    devices: tuple[str, ...] = ("cpu",)


def main() -> None:
    """Measure each group in a child process; write and print."""
    parser = parser_of(__doc__, short="two short rounds", part=True)
    parser.add_argument("--device", nargs="+", choices=list(PLATFORMS), default=["cpu"])
    parser.add_argument("--only", nargs="+", choices=list(GROUPS), default=list(GROUPS))
    args = parse_windows(parser)

    out = result_path("peers", args.out, args.short or set(args.only) != set(GROUPS))
    if args.table:
        print_result(out, tables)
    elif args.part:
        device = args.device[0]
        kind = require_device(device)
        rates = measure(args.only[0], args.repeats, args.seconds)
        rows = rows_of(args.only[0], rates, device)
        write_part(args.part, [{**row, "device_kind": kind} for row in rows])
    else:
        rows = [row for device in args.device for row in rows_of_device(device, args)]
        if not rows:
            raise SystemExit("nothing was measured")
        names = ("torch", "stable_baselines3")
        versions = {name: version(name) for name in names if is_installed(name)}
        settings = {"repeats": args.repeats, "seconds": args.seconds}
        publish(out, rows, tables, **settings, peers=versions)


def rows_of_device(device: str, args: argparse.Namespace) -> Rows:
    """Return the rows of a device, each group from a child process; none if it is missing."""
    rows: Rows = []
    for group in args.only:
        if device not in GROUPS[group].devices:
            print(f"{group} is left out, it is not for the {device}", flush=True)
            continue
        print(f"{group}, {device}", flush=True)
        sizes = ["--repeats", str(args.repeats), "--seconds", str(args.seconds)]
        part = part_on_device([__file__, "--only", group, *sizes], device)
        if part is None:
            break
        rows += part
    return rows


def measure(group: str, repeats: int, seconds: float) -> dict[str, list[float]]:
    """Return the steps per second of all racers of a group, window by window."""
    racers = GROUPS[group].build(seconds)
    rates: dict[str, list[float]] = {name: [] for name in racers}
    # One round more than asked: the first one warms up.
    for _ in tqdm(range(repeats + 1), desc="rounds", disable=not racers):
        for name, racer in racers.items():
            rates[name].append(rate_of(racer.run))

    for racer in racers.values():
        racer.close()
    return {name: values[1:] for name, values in rates.items()}


def rows_of(group: str, rates: dict[str, list[float]], device: str = "cpu") -> Rows:
    """Return a row for each comparison of which both sides were measured."""
    rows = []
    for comparison in GROUPS[group].comparisons:
        ours, peer = (fastest(side, rates) for side in (comparison.ours, comparison.peer))
        if ours is None or peer is None:
            continue

        # A ratio compares two windows of the same round.
        ratios = [a / b for a, b in zip(rates[ours], rates[peer], strict=True)]
        goal = comparison.goal if device == "cpu" else None
        rows.append(
            {
                "device": device,
                "group": group,
                "ours": ours,
                "peer": peer,
                "ours_env_steps_per_second": spread(rates[ours], 0),
                "peer_env_steps_per_second": spread(rates[peer], 0),
                "ratio": spread(ratios),
                "ratios": [round(ratio, 3) for ratio in ratios],
                "goal": goal,
                "met": None if goal is None else statistics.median(ratios) >= goal,
            }
        )
    return rows


def fastest(names: tuple[str, ...], rates: dict[str, list[float]]) -> str | None:
    """Return the name with the best median; None if none was measured."""
    measured = [name for name in names if name in rates]
    return max(measured, key=lambda name: statistics.median(rates[name]), default=None)


class Compiled:
    """A learner on the device, of which one window is one call of one program."""

    def __init__(
        self, name: str, init: Callable, train: Callable, config: A2CConfig, seconds: float
    ):
        """Compile a program of as many updates as fill `seconds`.

        Args:
          name: of the learner.
          init: as of a `Reference`.
          train: likewise.
          config: sizes.
          seconds: length of a window.
        """
        self._name = name
        self._steps_per_update = config.num_envs * config.num_steps
        self._state = jax.jit(init)(jax.random.key(0))
        self._weights = copy_of_weights(self._state.params["params"])
        self._train = jax.jit(train, static_argnums=1, donate_argnums=0)

        # Time a small program, then compile the one that fills a window.
        self._updates = max(1, CALIBRATION // self._steps_per_update)
        self.run()
        start = time.perf_counter()
        self.run()
        self._updates = max(1, round(seconds * self._updates / (time.perf_counter() - start)))
        self.run()

    def run(self) -> int:
        """Train for one window; return the environment steps."""
        self._state, log = self._train(self._state, self._updates)
        jax.block_until_ready((self._state, log))
        return self._updates * self._steps_per_update

    def close(self) -> None:
        """Check that it learned."""
        check_learned(self._name, self._weights, copy_of_weights(self._state.params["params"]))


class Child:
    """A learner of PyTorch in a child process, which trains on request."""

    def __init__(self, name: str, algorithm: str, settings: dict[str, Any], seconds: float):
        """Start it, and wait until it has warmed up."""
        script = Path(__file__).with_name("torch_references.py")
        command = [sys.executable, str(script), algorithm, json.dumps(settings)]
        self._name = name
        self._seconds = seconds
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._expect("ready")

    def run(self) -> int:
        """Train for one window; return the environment steps."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{self._seconds}\n")
        self._process.stdin.flush()
        return json.loads(self._expect('{"steps"'))["steps"]

    def close(self) -> None:
        """End the process; raise RuntimeError if it did not learn."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        learned = json.loads(self._expect('{"learned"'))["learned"]
        self._process.wait()
        if not learned:
            raise RuntimeError(
                f"{self._name} did not learn: parameters did not move or are not finite"
            )

    def _expect(self, start: str) -> str:
        """Return the next line that starts so; skip what libraries print in between."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(start):
                return line
        code = self._process.wait()
        raise RuntimeError(f"{self._name} ended with code {code}; its own message is above")


def same_setting(
    env_name: str, layers: str, num_envs: int, num_steps: int, seconds: float
) -> dict[str, Racer]:
    """Return ours, R1 and R2: A2C on an environment of gymnax."""
    config = A2CConfig(num_envs=num_envs, num_steps=num_steps)
    rule = references.optimizer(LEARNING_RATE, EPS, config.max_grad_norm)
    # The same sizes, network and rule on all sides.
    learners = {
        "ours": ours(env_name, layers, config),
        "R1": references.second_pass(env_name, layers, rule, config),
        "R2": references.through_rollout(env_name, layers, rule, config),
    }
    return {name: compiled(name, *learner, config, seconds) for name, learner in learners.items()}


def ours(env_name: str, layers: str, config: A2CConfig) -> tuple[Callable, Callable]:
    """Return our A2C as the pair of a reference, `init` and `train`."""
    env = envs.make(f"gymnax:{env_name}")
    rule = optimizers.shared_rmsprop(LEARNING_RATE, eps=EPS)
    agent = a2c(env, networks.actor_critic(env, torso=layers), rule, config)

    def train(state: Any, num_updates: int) -> tuple[Any, Any]:
        return jax.lax.scan(lambda state, _: agent.step(state), state, length=num_updates)

    return agent.init, train


def compiled(
    name: str, init: Callable, train: Callable, config: A2CConfig, seconds: float
) -> Racer:
    """Return a learner on the device that is ready to run."""
    start = time.perf_counter()
    learner = Compiled(name, init, train, config, seconds)
    return ready(name, start, learner.run, learner.close)


def best_settings(seconds: float) -> dict[str, Racer]:
    """Return ours and Stable-Baselines3's A2C on CartPole, each in several settings."""
    if is_missing("R3", "peers", "torch", "stable_baselines3") or is_missing(
        "R3", "gymnasium", "gymnasium"
    ):
        return {}

    racers = {}
    for num_envs, num_steps in OURS_AT_BEST:
        config = A2CConfig(num_envs=num_envs, num_steps=num_steps)
        name = our_name(num_envs, num_steps)
        racers[name] = compiled(name, *ours("CartPole-v1", "mlp", config), config, seconds)
    for num_envs in STABLE_BASELINES_AT_BEST:
        # PyTorch runs in a child process, which waits between its windows.
        name = stable_baselines_name(num_envs)
        start = time.perf_counter()
        child = Child(name, "a2c", {"num_envs": num_envs}, seconds)
        racers[name] = ready(name, start, child.run, child.close)
    return racers


def our_name(num_envs: int, num_steps: int) -> str:
    """Return the name of a setting of ours."""
    return f"ours, {num_envs} envs, T={num_steps}"


def stable_baselines_name(num_envs: int) -> str:
    """Return the name of a setting of Stable-Baselines3."""
    return f"R3, {num_envs} envs, T=5"


def pong(seconds: float) -> dict[str, Racer]:
    """Return A3C of two workers, and its peers."""
    if is_missing("Pong", "envpool", "envpool"):
        return {}
    use_worker_threads()

    preset = resolve("a3c", PONG, num_workers=WORKERS, total_timesteps=FOREVER)
    paper = resolve("a3c", PONG, **PAPER, num_workers=WORKERS, total_timesteps=FOREVER)
    racers = {}
    for name, settings in ((A3C_PRESET, preset), (A3C_PAPER, paper)):
        start = time.perf_counter()
        learning = Learning(name, "a3c", PONG, settings)
        # JAX may compile once more for the second call, whose arguments come from the first.
        learning(1.0)
        racers[name] = ready(name, start, functools.partial(learning, seconds), learning.close)

    # R4 has the paper's settings, as our second racer.
    if not is_missing("R4", "peers", "torch"):
        start = time.perf_counter()
        child = Child("R4", "a3c", {"env": PONG, **plain_settings(paper)}, seconds)
        racers["R4"] = ready("R4", start, child.run, child.close)

    raw = stepping(PONG, Case(kind="raw", threads=WORKERS, num_envs=RAW_ENVS))
    racers["R5"] = Racer(functools.partial(raw, seconds), lambda: None)
    racers["R6"] = host_loop(preset, seconds)
    return racers


def host_loop(settings: Settings, seconds: float) -> Racer:
    """Return R6 with the settings of one of our workers and as many threads as workers."""
    import envpool
    import optax

    start = time.perf_counter()
    pool = envpool.make_gymnasium(
        short_id(PONG), num_envs=settings.num_envs, num_threads=WORKERS, seed=0, reward_clip=True
    )
    assert settings.max_grad_norm is not None
    # The loss and the optimizer of our preset.
    rule = optax.chain(
        optax.clip_by_global_norm(settings.max_grad_norm), optax.adam(settings.learning_rate)
    )
    loop = references.HostLoop(pool, settings.network, rule, settings)
    # Compile and warm up.
    weights = copy_of_weights(loop.params)
    loop(0.5)

    def close() -> None:
        check_learned("R6", weights, copy_of_weights(loop.params))
        pool.close()

    return ready("R6", start, functools.partial(loop, seconds), close)


def ready(name: str, start: float, run: Callable[[], int], close: Callable[[], None]) -> Racer:
    """Print how long a racer took to get ready, and return it."""
    print(f"  {name}: ready after {time.perf_counter() - start:.1f} s", flush=True)
    return Racer(run, close)


def is_missing(row: str, extra: str, *packages: str) -> bool:
    """Return whether a package is missing; print what is left out and how to install it."""
    missing = [name for name in packages if not is_installed(name)]
    if missing:
        print(
            f"  {row} is left out, {' and '.join(missing)} missing: pip install 'jax-a3c[{extra}]'",
            flush=True,
        )
    return bool(missing)


def is_installed(package: str) -> bool:
    """Return whether a package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None


def goal_text(row: dict[str, Any]) -> str:
    """Return the goal of a row and whether it was met."""
    if row["goal"] is None:
        return "none"
    return f">= {row['goal']:g}: {'met' if row['met'] else 'missed'}"


def our_title(row: dict[str, Any]) -> str:
    """Return the task and our settings of a row."""
    settings = row["ours"].removeprefix("ours").removeprefix("A3C")
    return GROUPS[row["group"]].title + settings


def peer_title(row: dict[str, Any]) -> str:
    """Return what the peer of a row is, and its settings."""
    key = row["peer"][:2]
    return PEERS[key] + row["peer"].removeprefix(key)


COLUMNS = (
    Column("device", lambda row: row.get("device", "cpu")),  # older rows lack it
    field("group", "group"),
    field("ours", "ours"),
    field("peer", "peer"),
    spread_field("ours, steps/s", "ours_env_steps_per_second"),
    spread_field("peer, steps/s", "peer_env_steps_per_second"),
    spread_field("ratio", "ratio", ".2f"),
    Column("goal", goal_text),
)


def tables(rows: Rows) -> list[Table]:
    """Return the table of all pairs: medians, and the range over the rounds."""
    return [Table(COLUMNS, rows)]


def against_references(goal: float) -> tuple[Comparison, ...]:
    """Compare ours with R1, which has the goal, and with R2."""
    return (
        Comparison(ours=("ours",), peer=("R1",), goal=goal),
        Comparison(ours=("ours",), peer=("R2",)),
    )


PEERS = {
    "R1": "PureJaxRL's structure",
    "R2": "gradient through the rollout",
    "R3": "Stable-Baselines3's A2C",
    "R4": "A3C of PyTorch processes",
    "R5": "envpool alone, random actions",
    "R6": "one synchronous loop around envpool",
}
"""What each reference is."""
A3C_PRESET = "A3C, 16 envs, T=5"
A3C_PAPER = "A3C, 1 env, T=20"
DEVICES = tuple(PLATFORMS)
GROUPS: dict[str, Group] = {
    "cartpole-16": Group(
        title="A2C, CartPole-v1, 16 envs, T=5",
        build=functools.partial(same_setting, "CartPole-v1", "mlp", 16, 5),
        comparisons=against_references(2.2),
        devices=DEVICES,
    ),
    "cartpole-1024": Group(
        title="A2C, CartPole-v1, 1,024 envs, T=16",
        build=functools.partial(same_setting, "CartPole-v1", "mlp", 1024, 16),
        comparisons=against_references(1.5),
        devices=DEVICES,
    ),
    "breakout-64": Group(
        title="A2C, Breakout-MinAtar, 64 envs, T=16",
        build=functools.partial(same_setting, "Breakout-MinAtar", "minatar", 64, 16),
        comparisons=against_references(12.0),
        devices=DEVICES,
    ),
    "best": Group(
        title="A2C, CartPole-v1",
        build=best_settings,
        comparisons=tuple(
            Comparison(
                ours=tuple(our_name(*sizes) for sizes in OURS_AT_BEST),
                peer=tuple(stable_baselines_name(num_envs) for num_envs in settings),
                goal=goal,
            )
            for settings, goal in (
                (STABLE_BASELINES_AT_BEST, 150.0),
                (STABLE_BASELINES_AT_BEST[:1], 200.0),
            )
        ),
    ),
    "pong": Group(
        title="A3C, Pong-v5, 2 workers",
        build=pong,
        comparisons=tuple(
            Comparison(ours=(name,), peer=(peer,), goal=goal)
            for name in (A3C_PRESET, A3C_PAPER)
            for peer, goal in (("R4", 2.5), ("R5", 0.48), ("R6", None))
        ),
    ),
}
"""All groups; the goals are for two cores of a CPU."""

if __name__ == "__main__":
    main()
