"""How long is it until the first step, and does a long run take more memory than a short one?

    python benchmarks/startup.py [--only imports compilation command memory] [--repeats 5] [--short]
    python benchmarks/startup.py --table                 print the result that exists

Everything runs in a fresh process on the CPU, and the rounds interleave what they compare.

`imports`: an interpreter that does nothing, that imports `jax_a3c`, that imports JAX, and `jax-a3c
--help`.

`compilation`: A2C's train loop, ours and R1 of `references.py`, both `lax.scan` over updates, from
the built parts to a program that can run: tracing in Python and lowering (`trace`), then XLA
(`compile`). The initial state is a separate program (`init`), which also runs. Cold means an empty
compilation cache of JAX; warm means the next process with the same cache, which keeps programs
however quick their compilation was. Goals: ours / R1 cold <= 1.0 and warm / cold <= 0.25, of the
sum.

`command`: a short `jax-a3c train` as a whole, evaluation and picture included, with an empty cache,
with a full cache, and without a cache, as a user has it.

`memory`: the peak of a process that trains U and 10 U updates with the functions that `jax-a3c
train` calls. Goal: 10 U / U <= 1.05.

The script checks of everything that trains that its parameters moved and are finite.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.frame.learners import check_learned, copy_of_weights
from benchmarks.frame.processes import process
from benchmarks.frame.results import Rows, matching, parser_of, print_result, publish, result_path
from benchmarks.frame.summaries import short_id, spread
from benchmarks.frame.tables import Table, field, spread_field

FORMS = {
    "cartpole": {"env": "gymnax:CartPole-v1", "network": "mlp", "num_envs": 16, "num_steps": 5},
    "breakout": {
        "env": "gymnax:Breakout-MinAtar",
        "network": "minatar",
        "num_envs": 64,
        "num_steps": 16,
    },
}
LEARNERS = ("ours", "R1")
NUM_UPDATES = 100
"""Updates of the compiled train loop."""
PHASES = ("init", "trace", "compile")
IMPORTS = {
    "nothing": ["-c", "pass"],
    "import jax_a3c": ["-c", "import jax_a3c"],
    "import jax": ["-c", "import jax"],
    "jax-a3c --help": ["-m", "jax_a3c.cli", "--help"],
}
COMMAND = ("a2c", "gymnax:CartPole-v1")
COMMAND_STEPS = 8_000
MEMORY_METHODS = {"a2c": 80, "a3c": 20}
"""Largest number of environment steps of an update on CartPole: 16 x 5, and a segment of 20."""
TIMES = 10
"""How many times more updates the long run has than the short one."""
GOALS = {"ours_over_r1": 0.9, "warm_over_cold": 0.2, "long_over_short": 1.05}
"""Ratios that should not be exceeded. `warm_over_cold` is a goal of our train loop only."""


def main() -> None:
    """Measure, write and print; or be one of the processes that are measured."""
    parser = parser_of(__doc__, short="one round, short runs")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--repeats", type=int, default=5, help="number of rounds")
    parser.add_argument(
        "--updates", type=int, default=1000, help="U, the updates of the short run for memory"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)  # the task of a measured process
    args = parser.parse_args()
    if args.child:
        task = json.loads(args.child)
        print(json.dumps(TASKS[task.pop("task")](**task)))
        return
    if args.short:
        args.repeats = 1
        args.updates = 100

    out = result_path("startup", args.out, args.short or set(args.only) != set(PARTS))
    if args.table:
        return print_result(out, tables)
    rows = [row for name in args.only for row in PARTS[name](args)]
    sizes = {"repeats": args.repeats, "updates": args.updates, "num_updates": NUM_UPDATES}
    publish(out, rows, tables, **sizes)


def imports(args: argparse.Namespace) -> Rows:
    """Measure the seconds of fresh interpreters."""
    times: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in tqdm(range(args.repeats + 1), desc="imports"):
        for name, words in IMPORTS.items():
            times[name].append(process(words).seconds)

    # The first round loaded the files into memory.
    return [
        {"part": "imports", "what": name, "seconds": spread(values[1:])}
        for name, values in times.items()
    ]


def compilation(args: argparse.Namespace) -> Rows:
    """Measure each phase of ours and R1's, cold and warm, and their ratios in each round."""
    rows = []
    for form in FORMS:
        runs: dict[tuple[str, str], list[dict[str, float]]] = {}
        for _ in tqdm(range(args.repeats), desc=f"compilation, {form}"):
            for learner in LEARNERS:
                with tempfile.TemporaryDirectory() as cache:
                    for state in ("cold", "warm"):
                        phases = task("compile", {"form": form, "learner": learner}, cache)
                        phases["sum"] = sum(phases[name] for name in PHASES)
                        runs.setdefault((learner, state), []).append(phases)

        # Summarise each learner, cold and warm.
        for (learner, state), of_this in runs.items():
            row = {"part": "compilation", "what": form, "learner": learner, "cache": state}
            row |= {
                f"{name}_seconds": spread([run[name] for run in of_this])
                for name in (*PHASES, "sum")
            }

            # Compare warm with cold, and our cold start with R1's.
            ratio = ("warm_over_cold", runs[learner, "cold"]) if state == "warm" else None
            if (learner, state) == ("ours", "cold"):
                ratio = ("ours_over_r1", runs["R1", "cold"])
            if ratio:
                pairs = zip(of_this, ratio[1], strict=True)
                row[ratio[0]] = spread([run["sum"] / other["sum"] for run, other in pairs])
            rows.append(row)
    return rows


def command(args: argparse.Namespace) -> Rows:
    """Measure the seconds of `jax-a3c train` as a whole, and its own figure of compilation."""
    names = ("without", "cold", "warm")
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for _ in tqdm(range(args.repeats), desc="command"):
        with tempfile.TemporaryDirectory() as cache:
            for name in names:
                runs[name].append(_one_command(None if name == "without" else cache))

    rows = []
    for name, of_this in runs.items():
        row = {"part": "command", "what": f"jax-a3c train {' '.join(COMMAND)}", "cache": name}
        row["seconds"] = spread([seconds for seconds, _ in of_this])
        row["compile_seconds"] = spread([compiling for _, compiling in of_this])
        if name == "warm":
            pairs = zip(of_this, runs["cold"], strict=True)
            row["warm_over_cold"] = spread([run[0] / cold[0] for run, cold in pairs])
        rows.append(row)
    return rows


def _one_command(cache: str | None) -> tuple[float, float]:
    """Return the seconds of one command, and those that its summary calls compilation."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--total-timesteps", str(COMMAND_STEPS), "--quiet", "--run-dir", folder]
        words = ["-m", "jax_a3c.cli", "train", *COMMAND, *flags]
        seconds = process(words, cache).seconds
        summary = json.loads(Path(folder, "summary.json").read_text())
    return seconds, summary["compile_seconds"]


def memory(args: argparse.Namespace) -> Rows:
    """Measure the peaks of runs of U and 10 U updates, and their ratio in each round."""
    rows = []
    for method, steps in MEMORY_METHODS.items():
        lengths = (args.updates, TIMES * args.updates)
        runs: dict[int, list[dict[str, float]]] = {length: [] for length in lengths}
        for _ in tqdm(range(args.repeats), desc=f"memory, {method}"):
            for length in lengths:
                arguments = {"method": method, "total_timesteps": length * steps}
                runs[length].append(task("train", arguments))

        # Compare the long run with the short one of the same round.
        for length, of_this in runs.items():
            row = {"part": "memory", "what": method, "updates": round(of_this[-1]["updates"])}
            row["peak_mib"] = spread([run["peak_mib"] for run in of_this], 1)
            if length != args.updates:
                pairs = zip(of_this, runs[args.updates], strict=True)
                ratios = [run["peak_mib"] / short["peak_mib"] for run, short in pairs]
                row["long_over_short"] = spread(ratios)
            rows.append(row)
    return rows


PARTS: dict[str, Callable[[argparse.Namespace], Rows]] = {
    "imports": imports,
    "compilation": compilation,
    "command": command,
    "memory": memory,
}


def task(name: str, arguments: dict[str, Any], cache: str | None = None) -> dict[str, float]:
    """Run a function of `TASKS` in a child process; return what it returns."""
    child = ["--child", json.dumps({"task": name, **arguments})]
    return json.loads(process([__file__, *child], cache).output.splitlines()[-1])


def compile_loop(form: str, learner: str) -> dict[str, float]:
    """Compile a train loop and run it once; return the seconds of each phase."""
    import jax

    # Initialise, trace and compile; each phase ends where the next begins.
    init, train = loop_of(form, learner)
    start = time.perf_counter()
    state = jax.block_until_ready(jax.jit(init)(jax.random.key(0)))
    initialised = time.perf_counter()
    lowered = jax.jit(train).lower(state)
    traced = time.perf_counter()
    program = lowered.compile()
    compiled = time.perf_counter()

    check_learned(learner, copy_of_weights(state.params), copy_of_weights(program(state)[0].params))
    begins = (start, initialised, traced)
    ends = (initialised, traced, compiled)
    return {name: end - begin for name, begin, end in zip(PHASES, begins, ends, strict=True)}


def loop_of(form: str, learner: str) -> tuple[Callable, Callable]:
    """Return `init` and a train loop, ours or R1's."""
    from benchmarks import peers, references

    name = short_id(FORMS[form]["env"])
    layers = FORMS[form]["network"]
    config = config_of(form)
    if learner == "ours":
        init, train = peers.ours(name, layers, config)
    else:
        rule = references.optimizer(peers.LEARNING_RATE, peers.EPS, config.max_grad_norm)
        init, train = references.second_pass(name, layers, rule, config)
    return init, lambda state: train(state, NUM_UPDATES)


def config_of(form: str) -> Any:
    """Return the settings that both learners have."""
    from jax_a3c import A2CConfig

    sizes = {name: FORMS[form][name] for name in ("num_envs", "num_steps")}
    return A2CConfig(**sizes)


def train_and_weigh(method: str, total_timesteps: int) -> dict[str, float]:
    """Train as `jax-a3c train` does; return the peak of the process' memory in MiB."""
    import jax

    from jax_a3c.experiment.build import build
    from jax_a3c.experiment.checkpoints import flatten
    from jax_a3c.experiment.run_directory import RunDirectory
    from jax_a3c.settings.run import RunOptions, resolve
    from jax_a3c.training.train import train

    env_id = COMMAND[1]
    settings = resolve(method, env_id, total_timesteps=total_timesteps)
    with tempfile.TemporaryDirectory() as folder:
        summary = train(method, env_id, settings, folder, options=RunOptions(quiet=True))
        # Read the peak before the check, which takes memory too. Linux counts in kilobytes, macOS
        # in bytes.
        unit = 2**20 if sys.platform == "darwin" else 2**10
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
        experiment = build(method, env_id, settings)
        after = flatten(RunDirectory(Path(folder)).load_params(experiment.params_like()))

    # The parameters before training follow from the seed.
    runner: Any = experiment.runner
    init_key = jax.random.split(jax.random.key(settings.seed))[0]
    before = flatten(runner.params(runner.init(init_key)))
    check_learned(method, copy_of_weights(before), [after[name] for name in sorted(before)])
    return {"peak_mib": peak, "updates": summary["updates"]}


TASKS: dict[str, Callable[..., dict[str, float]]] = {
    "compile": compile_loop,
    "train": train_and_weigh,
}


def _seconds(*names: str) -> list:
    return [spread_field(f"{name}, s", f"{name}_seconds", ".2f") for name in names]


COLUMNS = {
    "imports": (field("process", "what"), spread_field("seconds", "seconds", ".2f")),
    "compilation": (
        field("form", "what"),
        field("learner", "learner"),
        field("cache", "cache"),
        *_seconds(*PHASES, "sum"),
        spread_field("ours / R1", "ours_over_r1", ".2f"),
        spread_field("warm / cold", "warm_over_cold", ".2f"),
    ),
    "command": (
        field("command", "what"),
        field("cache", "cache"),
        spread_field("seconds", "seconds", ".2f"),
        *_seconds("compile"),
        spread_field("warm / cold", "warm_over_cold", ".2f"),
    ),
    "memory": (
        field("method", "what"),
        field("updates", "updates", ","),
        spread_field("peak, MiB", "peak_mib", ".0f"),
        spread_field("long / short", "long_over_short", ".2f"),
    ),
}


def tables(rows: Rows) -> list[Table]:
    """Return a table per part: medians, and the range over the rounds."""
    parts = dict.fromkeys(row["part"] for row in rows)
    return [Table(COLUMNS[part], matching(rows, part=part)) for part in parts]


if __name__ == "__main__":
    main()
