"""How much faster is it than other ways to write the same learner, side by side?

    python benchmarks/peers.py [--device cpu gpu] [--only cartpole-16] [--repeats 7] [--seconds 2]
    python benchmarks/peers.py --short     does it work? Two rounds of short windows, into runs/bench
    python benchmarks/peers.py --table     the result that exists, as Markdown
    taskset -c 0,1 python benchmarks/peers.py       on two cores of a larger machine

The others are references of our own hand, from the published algorithms: R1, A2C in PureJaxRL's structure,
R2, the gradient through the loop of the rollout, and R6, one synchronous loop around envpool
(`references.py`); R3, Stable-Baselines3's A2C, and R4, A3C of PyTorch's processes (`torch_references.py`,
extra `peers`); and R5, envpool with random actions and no learner. Without an extra its rows are left out.

Each group of rows has a process of its own on each device. A GPU gets those in which both sides are one
compiled program, without the goals, which are for two cores of a CPU; on a GPU it has not been run yet.
Everything is compiled and warmed up first; then each has a window of some seconds, A B C A B C, after one
round that is thrown away, and a ratio is that of the two windows of one round. All learn: parameters that do
not move, or are not finite, end it.

On CartPole and Breakout ours, R1 and R2 have the same network, environment, sizes, loss and optimizer, and
are programs of as many updates as fill a window; `tests/test_references.py` shows the updates to be equal. In
the group `best` each side has the fastest of its settings, by the medians. On Pong ours stands with the
preset for Atari, whose loss and optimizer R6 shares, and with the paper's settings, one environment for each
worker, t_max 20 and Shared RMSProp, which are R4's too.
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
import references
from host import Case, stepping
from measure import (
    FOREVER,
    NO_SUCH_DEVICE,
    PLATFORMS,
    Learning,
    check_learned,
    copy_of_weights,
    parser_of,
    part_of,
    plain_settings,
    print_committed,
    ranged,
    require_device,
    result_path,
    spread,
    table,
    watched,
    write_result,
)
from tqdm import tqdm

from jax_a3c import A2CConfig, a2c, envs, networks, optimizers
from jax_a3c.asynchronous import use_worker_threads
from jax_a3c.training.settings import Settings, resolve

LEARNING_RATE, EPS = 7e-4, 1e-5  # of A2C, as Stable-Baselines3 has them
CALIBRATION = (
    16_384  # environment steps of the program from whose time the size of the others follows
)
OURS_AT_BEST = ((256, 16), (1024, 16), (4096, 16))
STABLE_BASELINES_AT_BEST = (16, 64, 256)  # the first, which is usual, has a row of its own
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
      run: goes on for one window; returns how many environment steps it took.
      close: ends it; RuntimeError if it did not learn, though it should.
    """

    run: Callable[[], int]
    close: Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A row of the table.

    Attributes:
      ours: names of what may stand for us; the fastest does.
      peer: likewise for the other side.
      goal: of the ratio, None where there is none.
    """

    ours: tuple[str, ...]
    peer: tuple[str, ...]
    goal: float | None = None


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows that are measured together.

    Attributes:
      build: from the seconds of a window to what is measured, ready to run, by name.
      comparisons: of them; those are left out of which one side is missing.
      devices: where all of them can run.
    """

    build: Callable[[float], dict[str, Racer]]
    comparisons: tuple[Comparison, ...]
    devices: tuple[str, ...] = ("cpu",)


def main() -> None:
    """Measure each group in a process of its own; write and print."""
    parser = parser_of(__doc__, short="two short rounds, into runs/bench")
    parser.add_argument("--device", nargs="+", choices=list(PLATFORMS), default=["cpu"])
    parser.add_argument("--only", nargs="+", choices=list(GROUPS), default=list(GROUPS))
    parser.add_argument("--repeats", type=int, default=7, help="rounds")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each window")
    parser.add_argument(
        "--part", type=Path, help=argparse.SUPPRESS
    )  # the process of a group writes here
    args = parser.parse_args()
    if args.short:
        args.repeats, args.seconds = 2, 0.3
    partial = args.short or set(args.only) != set(GROUPS)
    out = result_path("peers", args.out, partial)
    if args.table:
        print_committed(out, markdown)
    elif args.part:
        kind, group = require_device(args.device[0]), args.only[0]
        rows = rows_of(group, measure(group, args.repeats, args.seconds), args.device[0])
        args.part.write_text(json.dumps([{**row, "device_kind": kind} for row in rows]))
    else:
        rows = [row for device in args.device for row in rows_of_device(device, args)]
        if not rows:
            raise SystemExit("nothing was measured")
        versions = {
            name: version(name) for name in ("torch", "stable_baselines3") if is_installed(name)
        }
        write_result(out, rows, repeats=args.repeats, seconds=args.seconds, peers=versions)
        print(f"\n{markdown(rows)}\n\nwrote {out}")


def rows_of_device(device: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of a device, each group from this script in a process of its own; none if it is not there."""
    rows = []
    for group in args.only:
        if device not in GROUPS[group].devices:
            print(f"{group} is left out, it is not for the {device}", flush=True)
            continue
        print(f"{group}, {device}", flush=True)
        sizes = ["--repeats", str(args.repeats), "--seconds", str(args.seconds)]
        command = [__file__, "--device", device, "--only", group, *sizes]
        code, part = part_of(command, {"JAX_PLATFORMS": PLATFORMS[device]})
        if code == NO_SUCH_DEVICE:
            break
        if code:
            raise SystemExit(code)  # it has said why
        rows += part
    return rows


def measure(group: str, repeats: int, seconds: float) -> dict[str, list[float]]:
    """Steps per second of all in a group, window by window."""
    racers = GROUPS[group].build(seconds)
    rates: dict[str, list[float]] = {name: [] for name in racers}
    for _ in tqdm(range(repeats + 1), desc="rounds", disable=not racers):
        for name, racer in racers.items():
            steps, window = watched(racer.run)
            rates[name].append(steps / window.seconds)
    for racer in racers.values():
        racer.close()
    return {name: values[1:] for name, values in rates.items()}


def rows_of(group: str, rates: dict[str, list[float]], device: str = "cpu") -> list[dict[str, Any]]:
    """A row for each comparison of which both sides were measured."""
    rows = []
    for comparison in GROUPS[group].comparisons:
        ours, peer = (fastest(side, rates) for side in (comparison.ours, comparison.peer))
        if ours is None or peer is None:
            continue
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
    """The name with the best median, None if none was measured."""
    measured = [name for name in names if name in rates]
    return max(measured, key=lambda name: statistics.median(rates[name]), default=None)


class Compiled:
    """A learner on the device: a whole window is one call of one program."""

    def __init__(
        self, name: str, init: Callable, train: Callable, config: A2CConfig, seconds: float
    ):
        """Compile a program of as many updates as fill `seconds`; `train` is that of a `Reference`."""
        self._name = name
        self._steps_per_update = config.num_envs * config.num_steps
        self._state = jax.jit(init)(jax.random.key(0))
        self._weights = copy_of_weights(self._state.params["params"])
        self._train = jax.jit(train, static_argnums=1, donate_argnums=0)
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
    """A learner of PyTorch in a process of its own, which trains when it is asked."""

    def __init__(self, name: str, algorithm: str, settings: dict[str, Any], seconds: float):
        """Start it, and wait until it has warmed up."""
        script = Path(__file__).with_name("torch_references.py")
        command = [sys.executable, str(script), algorithm, json.dumps(settings)]
        self._name, self._seconds = name, seconds
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._expect("ready")

    def run(self) -> int:
        """Let it train for one window; return the environment steps."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{self._seconds}\n")
        self._process.stdin.flush()
        return json.loads(self._expect('{"steps"'))["steps"]

    def close(self) -> None:
        """End it, and hear whether it learned."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        learned = json.loads(self._expect('{"learned"'))["learned"]
        self._process.wait()
        if not learned:
            raise RuntimeError(
                f"{self._name} did not learn: parameters did not move or are not finite"
            )

    def _expect(self, start: str) -> str:
        """Its next line that starts so; what libraries print in between is passed over."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(start):
                return line
        raise RuntimeError(
            f"{self._name} ended with code {self._process.wait()}; it has said why above"
        )


def same_setting(
    env_name: str, layers: str, num_envs: int, num_steps: int, seconds: float
) -> dict[str, Racer]:
    """Ours, R1 and R2 of A2C on an environment of gymnax."""
    config = A2CConfig(num_envs=num_envs, num_steps=num_steps)
    rule = references.optimizer(LEARNING_RATE, EPS, config.max_grad_norm)
    learners = {
        "ours": ours(env_name, layers, config),
        "R1": references.second_pass(env_name, layers, rule, config),
        "R2": references.through_rollout(env_name, layers, rule, config),
    }
    return {name: compiled(name, *learner, config, seconds) for name, learner in learners.items()}


def ours(env_name: str, layers: str, config: A2CConfig) -> tuple[Callable, Callable]:
    """Our A2C as the pair of a reference, `init` and `train`."""
    env = envs.make(f"gymnax:{env_name}")
    rule = optimizers.shared_rmsprop(LEARNING_RATE, eps=EPS)
    agent = a2c(env, networks.actor_critic(env, torso=layers), rule, config)

    def train(state: Any, num_updates: int) -> tuple[Any, Any]:
        return jax.lax.scan(lambda state, _: agent.step(state), state, length=num_updates)

    return agent.init, train


def compiled(
    name: str, init: Callable, train: Callable, config: A2CConfig, seconds: float
) -> Racer:
    """A learner on the device, ready to run."""
    start = time.perf_counter()
    learner = Compiled(name, init, train, config, seconds)
    return ready(name, start, learner.run, learner.close)


def best_settings(seconds: float) -> dict[str, Racer]:
    """Ours and Stable-Baselines3's A2C on CartPole, each in several settings."""
    if is_missing("R3", "peers", "torch", "stable_baselines3") or is_missing(
        "R3", "gymnasium", "gymnasium"
    ):
        return {}
    racers = {}
    for num_envs, num_steps in OURS_AT_BEST:
        config, name = (
            A2CConfig(num_envs=num_envs, num_steps=num_steps),
            our_name(num_envs, num_steps),
        )
        racers[name] = compiled(name, *ours("CartPole-v1", "mlp", config), config, seconds)
    for num_envs in STABLE_BASELINES_AT_BEST:
        name, start = stable_baselines_name(num_envs), time.perf_counter()
        child = Child(name, "a2c", {"num_envs": num_envs}, seconds)
        racers[name] = ready(name, start, child.run, child.close)
    return racers


def our_name(num_envs: int, num_steps: int) -> str:
    """What the table calls a setting of ours."""
    return f"ours, {num_envs} envs, T={num_steps}"


def stable_baselines_name(num_envs: int) -> str:
    """What the table calls a setting of Stable-Baselines3."""
    return f"R3, {num_envs} envs, T=5"


def pong(seconds: float) -> dict[str, Racer]:
    """A3C of two workers, and what it is compared with."""
    if is_missing("Pong", "envpool", "envpool"):
        return {}
    use_worker_threads()
    preset = resolve("a3c", PONG, num_workers=WORKERS, total_timesteps=FOREVER)
    paper = resolve("a3c", PONG, **PAPER, num_workers=WORKERS, total_timesteps=FOREVER)
    racers = {}
    for name, settings in ((A3C_PRESET, preset), (A3C_PAPER, paper)):
        start = time.perf_counter()
        learning = Learning(name, "a3c", PONG, settings)
        learning(
            1.0
        )  # JAX may compile once more for the second call, whose arguments come from the first
        racers[name] = ready(name, start, functools.partial(learning, seconds), learning.close)
    if not is_missing("R4", "peers", "torch"):
        start = time.perf_counter()
        child = Child("R4", "a3c", {"env": PONG, **plain_settings(paper)}, seconds)
        racers["R4"] = ready("R4", start, child.run, child.close)
    raw = stepping(PONG, Case(kind="raw", threads=WORKERS, num_envs=RAW_ENVS))
    racers["R5"] = Racer(functools.partial(raw, seconds), lambda: None)
    racers["R6"] = host_loop(preset, seconds)
    return racers


def host_loop(settings: Settings, seconds: float) -> Racer:
    """R6 with the settings of one worker of ours and as many threads as there are workers."""
    import envpool
    import optax

    start, name = time.perf_counter(), PONG.partition(":")[2]
    pool = envpool.make_gymnasium(
        name, num_envs=settings.num_envs, num_threads=WORKERS, seed=0, reward_clip=True
    )
    assert settings.max_grad_norm is not None
    rule = optax.chain(
        optax.clip_by_global_norm(settings.max_grad_norm), optax.adam(settings.learning_rate)
    )
    loop = references.HostLoop(pool, settings.network, rule, settings)
    weights = copy_of_weights(loop.params)
    loop(0.5)

    def close() -> None:
        check_learned("R6", weights, copy_of_weights(loop.params))
        pool.close()

    return ready("R6", start, functools.partial(loop, seconds), close)


def ready(name: str, start: float, run: Callable[[], int], close: Callable[[], None]) -> Racer:
    """Say how long it took until it could run."""
    print(f"  {name}: ready after {time.perf_counter() - start:.1f} s", flush=True)
    return Racer(run, close)


def is_missing(row: str, extra: str, *packages: str) -> bool:
    """Whether a package is not installed; says what is left out for it, and the way out."""
    missing = [name for name in packages if not is_installed(name)]
    if missing:
        print(
            f"  {row} is left out, {' and '.join(missing)} missing: pip install 'jax-a3c[{extra}]'",
            flush=True,
        )
    return bool(missing)


def is_installed(package: str) -> bool:
    """Whether it can be imported; it is not."""
    return importlib.util.find_spec(package) is not None


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table of the README: medians, and the range over the rounds in brackets."""
    heads = ("device", "group", "ours", "other", "ours, steps/s", "other, steps/s", "ratio", "goal")
    lines = []
    for row in rows:
        goal = row["goal"]
        lines.append(
            (
                row.get("device", "cpu"),  # of before a row had it
                row["group"],
                row["ours"],
                row["peer"],
                *(ranged(row[f"{side}_env_steps_per_second"]) for side in ("ours", "peer")),
                ranged(row["ratio"], ".2f"),
                "none" if goal is None else f">= {goal:g}: {'met' if row['met'] else 'missed'}",
            )
        )
    return table(heads, lines)


def against_references(goal: float) -> tuple[Comparison, ...]:
    """Ours beside R1, which has the goal, and R2."""
    return (
        Comparison(ours=("ours",), peer=("R1",), goal=goal),
        Comparison(ours=("ours",), peer=("R2",)),
    )


A3C_PRESET, A3C_PAPER = "A3C, 16 envs, T=5", "A3C, 1 env, T=20"
DEVICES = tuple(PLATFORMS)
GROUPS: dict[str, Group] = {
    "cartpole-16": Group(
        build=functools.partial(same_setting, "CartPole-v1", "mlp", 16, 5),
        comparisons=against_references(2.0),
        devices=DEVICES,
    ),
    "cartpole-1024": Group(
        build=functools.partial(same_setting, "CartPole-v1", "mlp", 1024, 16),
        comparisons=against_references(1.5),
        devices=DEVICES,
    ),
    "breakout-64": Group(
        build=functools.partial(same_setting, "Breakout-MinAtar", "minatar", 64, 16),
        comparisons=against_references(6.0),
        devices=DEVICES,
    ),
    "best": Group(
        build=best_settings,
        comparisons=tuple(
            Comparison(
                ours=tuple(our_name(*sizes) for sizes in OURS_AT_BEST),
                peer=tuple(stable_baselines_name(num_envs) for num_envs in settings),
                goal=150.0,
            )
            for settings in (STABLE_BASELINES_AT_BEST, STABLE_BASELINES_AT_BEST[:1])
        ),
    ),
    "pong": Group(
        build=pong,
        comparisons=tuple(
            Comparison(ours=(name,), peer=(peer,), goal=goal)
            for name in (A3C_PRESET, A3C_PAPER)
            for peer, goal in (("R4", 2.5), ("R5", 0.5), ("R6", None))
        ),
    ),
}
"""What is measured, with the goals for two cores of a CPU."""

if __name__ == "__main__":
    main()
