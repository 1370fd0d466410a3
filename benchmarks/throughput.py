"""How many environment steps per second does A2C learn from, and what share of the machine is that?

    python benchmarks/throughput.py [--device cpu gpu] [--env gymnax:CartPole-v1]
        [--num-envs 64 1024] [--num-steps 16] [--dtype float32 bfloat16] [--seeds 1 256] [--short]
    python benchmarks/throughput.py --table              print the result that exists

Each device has its own process. Three programs take turns in windows of time, A B C A B C: the
environment alone with random actions (`env`), the same with the policy that acts (`act`), and the
full update of A2C (`learn`). The first two keep no rollout. One window is one call of a compiled
loop, which sums the metrics and continues where it stopped. The script stops if parameters do not
move or are not finite. CartPole has an MLP of 2 x 64 units, Breakout-MinAtar the network of
MinAtar; the optimizer is RMSProp of the paper.

Network types and numbers of seeds (independent runs under one `vmap`, 64 environments each) take
turns too: `ratio_to_first` compares with the first of them in the same round. bfloat16 is the type
of the torso; parameters, heads, losses and their sums are float32.

The roofline: in the same rounds a product of two square matrices and the copy of a large array are
timed, the peaks. On a GPU JAX multiplies float32 matrices in TF32 by default, in the network and in
the peak alike. The operations of a step are those of the network's matrix products, counted from
its shapes (`operations.update_flops`): what is needed, whatever else the program does. XLA's own
count, `compiled.cost_analysis()`, is stored next to it. It counts the body of a loop once, however
often it runs, so `operations.counted_cost` adds the other iterations; it also counts the second
pass for truncated episodes, which is rare. Bytes per step are XLA's, since nothing else knows what
was fused. They include what a cache serves, so their share of the copy's speed is a bound and can
exceed 1.
"""

import argparse
import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from benchmarks.frame.learners import check_learned, copy_of_weights
from benchmarks.frame.processes import PLATFORMS, require_device, rows_of_devices, write_part
from benchmarks.frame.results import Rows, parser_of, print_result, publish, result_path
from benchmarks.frame.summaries import ranged, short_id, spread
from benchmarks.frame.tables import Column, Table
from benchmarks.frame.timing import fitting_count, interleaved_seconds
from benchmarks.operations import counted_cost, layers_of, update_flops
from jax_a3c import A2CConfig, a2c, envs, networks, objectives, optimizers
from jax_a3c.acting.unroll import UnrollConfig, unroll
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
"""Rows of the square matrices of which the product gives the peak of operations."""
COPIED = {"cpu": 2**28, "gpu": 2**30}
"""Bytes of the array of which the copy gives the peak of memory."""


class Case(NamedTuple):
    """One thing to measure."""

    dtype: str
    seeds: int
    mode: str


class Group(NamedTuple):
    """Programs that take turns.

    Attributes:
      env: id of the environment.
      num_envs: N of each seed.
      num_steps: T.
      cases: the programs. The first one of a mode is the reference of the others.
    """

    env: str
    num_envs: int
    num_steps: int
    cases: list[Case]


class Loop:
    """A compiled loop around a step, which continues at each call where it stopped.

    Attributes:
      step: one iteration.
      state: what is carried from call to call.
      count: iterations of a call.
    """

    def __init__(self, step: Callable[[Any], tuple[Any, Metrics]], state: Any):
        """Compile, and take one step."""
        shapes = jax.eval_shape(step, state)[1]

        def run(state: Any, count: Array) -> tuple[Any, Metrics]:
            def body(_: Array, carry: tuple[Any, Metrics]) -> tuple[Any, Metrics]:
                state, metrics = step(carry[0])
                return state, jax.tree.map(jnp.add, carry[1], metrics)

            zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
            return jax.lax.fori_loop(0, count, body, (state, zeros))

        self.step = step
        self.state = state
        self.count = 1
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
    """Measure on each device in a child process; write and print."""
    parser = parser_of(__doc__, short="two forms, short windows", part=True)
    parser.add_argument("--device", nargs="+", choices=list(PLATFORMS), default=["cpu"])
    parser.add_argument("--env", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument(
        "--num-envs",
        type=int,
        nargs="+",
        help="numbers of environments; default: 2^4 to 2^13 on a CPU, 2^6 to 2^20 on a GPU",
    )
    parser.add_argument("--num-steps", type=int, default=NUM_STEPS, help="T of --num-envs")
    parser.add_argument(
        "--dtype",
        nargs="+",
        choices=["float32", "bfloat16"],
        help="types of the torso; default: float32 on a CPU, both on a GPU",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        help="numbers of runs under one vmap; default: 1 on a CPU, 1 and 256 on a GPU",
    )
    parser.add_argument("--repeats", type=int, default=5, help="windows of each program")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of each window")
    args = parser.parse_args()

    chosen = args.short or args.num_envs or args.num_steps != NUM_STEPS or args.dtype or args.seeds
    out = result_path("throughput", args.out, bool(chosen) or set(args.env) != set(NETWORKS))
    if args.short:
        args.num_envs = args.num_envs or [16]
        args.repeats = 2
        args.seconds = 0.1

    if args.table:
        print_result(out, tables)
    elif args.part:
        write_part(args.part, measure(args.device[0], args))
    else:
        rows = rows_of_devices(args.device)
        publish(out, rows, tables, repeats=args.repeats, seconds=args.seconds)


def groups_of(device: str, args: argparse.Namespace) -> list[Group]:
    """Return all groups of a device: its forms for one seed, then the seeds."""
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


def measure(device: str, args: argparse.Namespace) -> Rows:
    """Return the rows of one device."""
    kind = require_device(device)
    rows = []
    for group in (bar := tqdm(groups_of(device, args), desc=device)):
        bar.set_postfix_str(f"{group.env} N={group.num_envs} T={group.num_steps}")
        rows += [{"device_kind": kind, **row} for row in measure_group(device, group, args)]
    return rows


def measure_group(device: str, group: Group, args: argparse.Namespace) -> Rows:
    """Build the programs of a group and measure them and the peaks in turn."""
    # Compile each program, and size its loop so that it fills a window.
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

    # Measure programs and peaks in turn.
    times: dict[Any, list[float]] = {}
    with left_out_without_memory(f"{group.env}, N={group.num_envs}"):
        peaks = peak_programs(device, list(dict.fromkeys(case.dtype for case in loops)))
        times = interleaved_seconds({**loops, **peaks}, args.repeats)
    rates = {
        case: [loop.count * group.num_envs * group.num_steps * case.seeds / s for s in times[case]]
        for case, loop in loops.items()
        if case in times
    }

    # The first program of a mode is the reference of the others.
    rows = []
    for case, of_case in rates.items():
        if case.mode == "learn":
            after = copy_of_weights(loops[case].state.params)
            check_learned(f"{group.env} {case}", before[case], after)
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
    """Print a message and continue if the device has too little memory for it."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        tqdm.write(f"{what}: not enough memory, left out")


def program(group: Group, case: Case) -> tuple[Callable[[Any], tuple[Any, Metrics]], Any]:
    """Return the step of a mode, `state -> (state, sums)`, and its first state."""
    env: Any = envs.make(group.env)
    network, config = parts(env, group, case.dtype)
    agent = a2c(env, network, optimizers.shared_rmsprop(7e-4, eps=1e-5), config)
    step: Callable[[Any], tuple[Any, Metrics]] = agent.step
    init = agent.init

    if case.mode != "learn":
        act = objectives.actor_critic(network, config).act
        num_actions = env.spec.action_space.num_actions

        # The programs that only step or act keep no rollout.
        def random(params: Any, key: Array, carry: Any, observation: Array, reset: Array, *_: Any):
            return carry, jax.random.randint(key, reset.shape, 0, num_actions), ()

        policy = random if case.mode == "env" else act
        unroll_config = UnrollConfig(group.num_steps, config.auto_reset)

        def init(key: Array) -> Any:
            state = agent.init(key)
            return state.params, state.actor

        def step(state: Any) -> tuple[Any, Metrics]:
            params, actor = state
            actor, _, episodes = unroll(env, policy, params, actor, unroll_config)
            return (params, actor), episodes._asdict()

    # Several seeds are one program under vmap.
    key = jax.random.key(0)
    if case.seeds == 1:
        return step, jax.jit(init)(key)
    return jax.vmap(step), jax.jit(jax.vmap(init))(jax.random.split(key, case.seeds))


def parts(env: Any, group: Group, dtype: str) -> tuple[Any, A2CConfig]:
    """Return the network and the settings of a group."""
    network = networks.actor_critic(env, torso=NETWORKS[group.env], dtype=jnp.dtype(dtype))
    return network, A2CConfig(num_envs=group.num_envs, num_steps=group.num_steps)


def peak_programs(device: str, dtypes: list[str]) -> dict[str, Callable[[], Any]]:
    """Return a matrix product of each type and a copy, compiled."""
    programs: dict[str, Callable[[], Any]] = {}
    multiply = jax.jit(jnp.matmul)
    for dtype in dtypes:
        shape = (MATRIX[device], MATRIX[device])
        matrix = jax.random.normal(jax.random.key(0), shape, jnp.dtype(dtype))
        programs[dtype] = functools.partial(multiply, matrix, matrix)

    copy = jax.jit(lambda x: x + 1.0)
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
    """Return operations and bytes of a step, and the shares of the peaks of the same round."""
    env: Any = envs.make(group.env)
    needed = update_flops(layers_of(parts(env, group, "float32")[0], env.spec), group.num_steps)
    # Bytes are XLA's: nothing else knows what was fused.
    counted = counted_cost(loop.step, loop.state)
    steps = group.num_envs * group.num_steps
    moved = counted.bytes / steps

    # Peaks and shares of the same round.
    flops = [2 * MATRIX[device] ** 3 / s for s in product_seconds]
    speeds = [2 * COPIED[device] / s for s in copy_seconds]  # read and written
    flop_shares = [needed * r / p for r, p in zip(rates, flops, strict=True)]
    byte_shares = [moved * r / p for r, p in zip(rates, speeds, strict=True)]
    return {
        "flops_per_step": round(needed),
        "xla_flops_per_step": round(counted.flops / steps),
        "xla_bytes_per_step": round(moved),
        "peak_gflops": spread([peak / 1e9 for peak in flops], 1),
        "peak_gbytes_per_second": spread([peak / 1e9 for peak in speeds], 1),
        "share_of_peak_flops": spread(flop_shares, 4),
        "share_of_peak_bytes": spread(byte_shares, 4),
    }


Modes = dict[str, dict[str, Any]]
"""The rows of one form, by mode."""


def _any(modes: Modes) -> dict[str, Any]:
    return next(iter(modes.values()))


def _rate(mode: str) -> Callable[[Modes], str]:
    return lambda modes: (
        ranged(modes[mode]["env_steps_per_second"]) if mode in modes else "no memory"
    )


def _of_learning(name: str, form: str) -> Callable[[Modes], str]:
    """Return the cell of a figure that only learning has, and not with several seeds."""
    return lambda modes: (
        ranged(modes["learn"][name], form) if name in modes.get("learn", {}) else ""
    )


def _cost(modes: Modes) -> str:
    learn = modes.get("learn", {})
    if "flops_per_step" not in learn:
        return ""
    return f"{learn['flops_per_step'] / 1e3:,.0f}, {learn['xla_bytes_per_step'] / 1e3:,.0f}"


COLUMNS = (
    Column("device", lambda modes: _any(modes)["device"]),
    Column("environment", lambda modes: short_id(_any(modes)["env"])),
    Column("N, T", lambda modes: f"{_any(modes)['num_envs']:,}, {_any(modes)['num_steps']}"),
    Column("type", lambda modes: _any(modes)["dtype"]),
    Column("seeds", lambda modes: str(_any(modes)["seeds"])),
    Column("env", _rate("env")),
    Column("env + act", _rate("act")),
    Column("learn", _rate("learn")),
    Column("to the first", _of_learning("ratio_to_first", ".2f")),
    Column("kflop, kB per step", _cost),
    Column("of peak flop/s", _of_learning("share_of_peak_flops", ".1%")),
    Column("of copy's B/s", _of_learning("share_of_peak_bytes", ".0%")),
)


def tables(rows: Rows) -> list[Table]:
    """Return the table of steps per second: medians, and the range over the windows."""
    forms: dict[tuple, Modes] = {}
    names = ("device", "env", "num_envs", "num_steps", "dtype", "seeds")
    for row in rows:
        form = tuple(row[name] for name in names)
        # A form of one seed is measured again with several seeds: that row comes second.
        while row["mode"] in forms.get(form, {}):
            form = (*form, "again")
        forms.setdefault(form, {})[row["mode"]] = row
    return [Table(COLUMNS, list(forms.values()))]


if __name__ == "__main__":
    main()
