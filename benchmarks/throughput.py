"""How many environment steps per second does A2C learn from, and what share of the machine is that?

    python benchmarks/throughput.py [--device cpu gpu] [--env gymnax:CartPole-v1] [--num-envs 64 1024]
        [--num-steps 16] [--dtype float32 bfloat16] [--seeds 1 256] [--short]
    python benchmarks/throughput.py --table              # the committed result, as Markdown

Each device has a process of its own. Three programs take turns in windows of time, A B C A B C: the
environment alone with random actions (`env`), the same with the policy that acts (`act`), and the full update
of A2C, learning on (`learn`). The first two keep no rollout. One window is one call of a compiled loop, which
sums the metrics and goes on from where it was. Parameters that do not move, or are not finite, end it all.
CartPole has an MLP of 2 x 64 units, Breakout-MinAtar the network of MinAtar; RMSProp of the paper.

Network types and numbers of seeds (independent runs under one `vmap`, 64 environments each) take turns too:
`ratio_to_first` compares with the first of them in the same round. bfloat16 is for the torso; parameters,
heads, losses and their sums are float32.

The roofline. In the same rounds a product of two square matrices and the copy of a large array are timed:
the peaks. On a GPU JAX multiplies float32 matrices in TF32 unless told otherwise, here as there. The
operations of a step are those of the network's matrix products, counted from its shapes
(`operations.update_flops`): what is needed, whatever else the program does. XLA's own count,
`compiled.cost_analysis()`, stands beside it. It counts the body of a loop once, however often it runs, so
`operations.counted_cost` adds the other iterations; it also counts the second pass for truncated episodes,
which is seldom made. Bytes per step are XLA's, since nothing else knows what was fused; what a cache serves
is among them, so that their share of the copy's speed is a bound, and can be above 1.
"""

import argparse
import contextlib
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from measure import (
    PLATFORMS,
    check_learned,
    copy_of_weights,
    fitting_count,
    interleaved_seconds,
    parser_of,
    print_committed,
    ranged,
    require_device,
    result_path,
    rows_of_devices,
    spread,
    table,
    write_result,
)
from operations import counted_cost, layers_of, update_flops
from tqdm import tqdm

from jax_a3c import A2CConfig, a2c, envs, networks, objectives, optimizers
from jax_a3c.rollouts import unroll
from jax_a3c.types import Array, Metrics

NETWORKS = {"gymnax:CartPole-v1": "mlp", "gymnax:Breakout-MinAtar": "minatar"}
MODES = ("env", "act", "learn")
NUM_STEPS = 16
SMALL = (16, 5)
"""N and T of the usual small form."""
SEEDS_NUM_ENVS = 64
"""Environments of each of several seeds."""
DEFAULTS: dict[str, dict[str, list]] = {
    "cpu": {"num_envs": [2**k for k in range(4, 14)], "dtype": ["float32"], "seeds": [1]},
    "gpu": {
        "num_envs": [2**k for k in range(6, 21)],
        "dtype": ["float32", "bfloat16"],
        "seeds": [1, 256],
    },
}
MATRIX = {"cpu": 2048, "gpu": 8192}
COPIED = {"cpu": 2**28, "gpu": 2**30}
"""Rows of the square matrices, and bytes of the array, from which the peaks are measured."""


class Case(NamedTuple):
    """One thing to measure."""

    dtype: str
    seeds: int
    mode: str


class Group(NamedTuple):
    """What takes turns.

    Attributes:
      env: id of the environment.
      num_envs: N of each seed.
      num_steps: T.
      cases: programs, the one that others are compared with first in its mode.
    """

    env: str
    num_envs: int
    num_steps: int
    cases: list[Case]


class Loop:
    """A compiled loop around a step, which goes on from where it was at each call.

    Attributes:
      step: of one iteration.
      state: what is carried on.
      count: iterations of a call.
    """

    def __init__(self, step: Callable[[Any], tuple[Any, Metrics]], state: Any):
        """Compile; one step is taken."""
        shapes = jax.eval_shape(step, state)[1]

        def run(state: Any, count: Array) -> tuple[Any, Metrics]:
            def body(_: Array, carry: tuple[Any, Metrics]) -> tuple[Any, Metrics]:
                state, metrics = step(carry[0])
                return state, jax.tree.map(jnp.add, carry[1], metrics)

            zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
            return jax.lax.fori_loop(0, count, body, (state, zeros))

        self.step, self.state, self.count = step, state, 1
        self._run = jax.jit(run, donate_argnums=0)
        jax.block_until_ready(self.advance(1))

    def __call__(self) -> Metrics:
        """Take `count` steps."""
        return self.advance(self.count)

    def advance(self, count: int) -> Metrics:
        """Take so many steps."""
        self.state, sums = self._run(self.state, np.int32(count))
        return sums


def main() -> None:
    """Measure on each device, in a process of its own; write and print."""
    parser = parser_of(__doc__, short="two forms, short windows, into runs/bench")
    parser.add_argument("--device", nargs="+", choices=list(PLATFORMS), default=["cpu"])
    parser.add_argument("--env", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument(
        "--num-envs", type=int, nargs="+", help="2^4 to 2^13 on a CPU, 2^6 to 2^20 on a GPU"
    )
    parser.add_argument("--num-steps", type=int, default=NUM_STEPS, help="T of --num-envs")
    parser.add_argument("--dtype", nargs="+", choices=["float32", "bfloat16"], help="both on a GPU")
    parser.add_argument("--seeds", type=int, nargs="+", help="1 on a CPU, 1 and 256 on a GPU")
    parser.add_argument("--repeats", type=int, default=5, help="windows of each program")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each window")
    parser.add_argument(
        "--part", type=Path, help=argparse.SUPPRESS
    )  # a device's process writes here
    args = parser.parse_args()
    chosen = args.short or args.num_envs or args.num_steps != NUM_STEPS or args.dtype or args.seeds
    partial = bool(chosen) or set(args.env) != set(NETWORKS)
    out = result_path("throughput", args.out, partial)
    if args.short:
        args.num_envs, args.repeats, args.seconds = args.num_envs or [16], 2, 0.1
    if args.table:
        print_committed(out, markdown)
    elif args.part:
        args.part.write_text(json.dumps(measure(args.device[0], args)))
    else:
        rows = rows_of_devices(args.device)
        write_result(out, rows, repeats=args.repeats, seconds=args.seconds)
        print(f"\n{markdown(rows)}\n\nwrote {out}")


def groups_of(device: str, args: argparse.Namespace) -> list[Group]:
    """All groups of a device: its forms for one seed, then the seeds."""
    chosen = {name: getattr(args, name) or values for name, values in DEFAULTS[device].items()}
    forms = [(num_envs, args.num_steps) for num_envs in chosen["num_envs"]]
    if args.num_envs is None:
        forms = [SMALL, *forms]
    groups = []
    for env in args.env:
        cases = [Case(dtype, 1, mode) for dtype in chosen["dtype"] for mode in MODES]
        groups += [Group(env, *form, cases) for form in forms]
        if max(chosen["seeds"]) > 1:
            cases = [
                Case(chosen["dtype"][0], seeds, mode) for seeds in chosen["seeds"] for mode in MODES
            ]
            groups.append(Group(env, SEEDS_NUM_ENVS, args.num_steps, cases))
    return groups


def measure(device: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of one device."""
    kind = require_device(device)
    rows = []
    for group in (bar := tqdm(groups_of(device, args), desc=device)):
        bar.set_postfix_str(f"{group.env} N={group.num_envs} T={group.num_steps}")
        rows += [{"device_kind": kind, **row} for row in measure_group(device, group, args)]
    return rows


def measure_group(device: str, group: Group, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Build the programs of a group, let them and the peaks take turns, and make a row of each."""
    loops: dict[Case, Loop] = {}
    before: dict[Case, list[np.ndarray]] = {}
    for case in group.cases:
        with left_out_without_memory(f"{group.env}, N={group.num_envs}, {case}"):
            step, state = program(group, case)
            if case.mode == "learn":
                before[case] = copy_of_weights(state.params)
            loop = Loop(step, state)
            loop.count = fitting_count(loop.advance, args.seconds)
            loops[case] = loop
    times: dict[Any, list[float]] = {}
    with left_out_without_memory(f"{group.env}, N={group.num_envs}"):
        peaks = peak_programs(device, list(dict.fromkeys(case.dtype for case in loops)))
        times = interleaved_seconds({**loops, **peaks}, args.repeats)
    rates = {
        case: [loop.count * group.num_envs * group.num_steps * case.seeds / s for s in times[case]]
        for case, loop in loops.items()
        if case in times
    }
    rows = []
    for case, of_case in rates.items():
        if case.mode == "learn":
            check_learned(
                f"{group.env} {case}", before[case], copy_of_weights(loops[case].state.params)
            )
        first = next(other for other in rates if other.mode == case.mode)
        row = {
            "env": group.env,
            "num_envs": group.num_envs,
            "num_steps": group.num_steps,
            **case._asdict(),
            "env_steps_per_second": spread(of_case, 0),
            "ratio_to_first": spread([a / b for a, b in zip(of_case, rates[first], strict=True)]),
        }
        if case.mode == "learn" and case.seeds == 1:
            row |= roofline(device, group, loops[case], of_case, times[case.dtype], times["copy"])
        rows.append(row)
    return rows


@contextlib.contextmanager
def left_out_without_memory(what: str) -> Iterator[None]:
    """Say so and go on if the device has too little memory for it."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        tqdm.write(f"{what}: not enough memory, left out")


def program(group: Group, case: Case) -> tuple[Callable[[Any], tuple[Any, Metrics]], Any]:
    """The step of a mode, `state -> (state, sums)`, and its first state."""
    env: Any = envs.make(group.env)
    network, config = parts(env, group, case.dtype)
    agent = a2c(env, network, optimizers.shared_rmsprop(7e-4, eps=1e-5), config)
    step: Callable[[Any], tuple[Any, Metrics]] = agent.step
    init = agent.init
    if case.mode != "learn":
        act = objectives.actor_critic(network, config).act
        num_actions = env.spec.action_space.num_actions

        def random(key: Array, carry: Any, observation: Array, reset: Array) -> tuple[Any, Array]:
            return carry, jax.random.randint(key, reset.shape, 0, num_actions)

        def init(key: Array) -> Any:
            state = agent.init(key)
            return state.params, state.actor

        def step(state: Any) -> tuple[Any, Metrics]:
            params, actor = state
            policy = random if case.mode == "env" else functools.partial(act, params)
            actor, _, episodes = unroll(
                env, policy, actor, group.num_steps, auto_reset=config.auto_reset
            )
            return (params, actor), episodes._asdict()

    key = jax.random.key(0)
    if case.seeds == 1:
        return step, jax.jit(init)(key)
    return jax.vmap(step), jax.jit(jax.vmap(init))(jax.random.split(key, case.seeds))


def parts(env: Any, group: Group, dtype: str) -> tuple[Any, A2CConfig]:
    """The network and the settings of a group."""
    network = networks.actor_critic(env, torso=NETWORKS[group.env], dtype=jnp.dtype(dtype))
    return network, A2CConfig(num_envs=group.num_envs, num_steps=group.num_steps)


def peak_programs(device: str, dtypes: list[str]) -> dict[str, Callable[[], Any]]:
    """A matrix product of each type and a copy, compiled."""
    size, programs = MATRIX[device], {}
    multiply, copy = jax.jit(jnp.matmul), jax.jit(lambda x: x + 1.0)
    for dtype in dtypes:
        matrix = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(dtype))
        programs[dtype] = functools.partial(multiply, matrix, matrix)
    programs["copy"] = functools.partial(copy, jnp.zeros(COPIED[device] // 4, jnp.float32))
    return programs


def roofline(
    device: str,
    group: Group,
    loop: Loop,
    rates: list[float],
    product_seconds: list[float],
    copy_seconds: list[float],
) -> dict[str, Any]:
    """Operations and bytes of an environment step, and the shares of the peaks of the same round."""
    env: Any = envs.make(group.env)
    needed = update_flops(layers_of(parts(env, group, "float32")[0], env.spec), group.num_steps)
    counted, steps = counted_cost(loop.step, loop.state), group.num_envs * group.num_steps
    flops = [2 * MATRIX[device] ** 3 / s for s in product_seconds]
    speeds = [2 * COPIED[device] / s for s in copy_seconds]  # read and written
    row = {
        "flops_per_step": round(needed),
        "xla_flops_per_step": round(counted.flops / steps),
        "xla_bytes_per_step": round(counted.bytes / steps),
        "peak_gflops": spread([peak / 1e9 for peak in flops], 1),
        "peak_gbytes_per_second": spread([peak / 1e9 for peak in speeds], 1),
        "share_of_peak_flops": spread(
            [needed * r / p for r, p in zip(rates, flops, strict=True)], 4
        ),
    }
    moved = counted.bytes / steps
    row["share_of_peak_bytes"] = spread(
        [moved * r / p for r, p in zip(rates, speeds, strict=True)], 4
    )
    return row


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table of the README: medians, and the range over the windows in brackets."""
    heads = (
        *(
            "device",
            "environment",
            "N, T",
            "network",
            "seeds",
            "env",
            "env + act",
            "learn",
            "to the first",
        ),
        *("kflop, kB per step", "of peak flop/s", "of copy's B/s"),
    )
    forms: dict[tuple, dict[str, dict]] = {}
    for row in rows:
        form = tuple(
            row[name] for name in ("device", "env", "num_envs", "num_steps", "dtype", "seeds")
        )
        # Forms of one seed are measured again beside several seeds: those come last.
        while row["mode"] in forms.get(form, {}):
            form = (*form, "again")
        forms.setdefault(form, {})[row["mode"]] = row
    lines = []
    for (device, env, num_envs, num_steps, dtype, seeds, *_), modes in forms.items():
        rates = [
            ranged(modes[mode]["env_steps_per_second"]) if mode in modes else "no memory"
            for mode in MODES
        ]
        learn = modes.get("learn", {})
        cells = ["", "", ""]
        if "flops_per_step" in learn:
            cells = [
                f"{learn['flops_per_step'] / 1e3:,.0f}, {learn['xla_bytes_per_step'] / 1e3:,.0f}",
                ranged(learn["share_of_peak_flops"], ".1%"),
                ranged(learn["share_of_peak_bytes"], ".0%"),
            ]
        ratio = ranged(learn["ratio_to_first"], ".2f") if learn else ""
        name = env.partition(":")[2]
        lines.append(
            (device, name, f"{num_envs:,}, {num_steps}", dtype, str(seeds), *rates, ratio, *cells)
        )
    return table(heads, lines)


if __name__ == "__main__":
    main()
