"""How long is it until the first step, and does a long run take more memory than a short one?

    python benchmarks/startup.py [--only imports compilation command memory] [--repeats 5] [--short]
    python benchmarks/startup.py --table                 # the committed result, as Markdown

Everything has a fresh process, on the CPU, and the rounds interleave what they compare.

`imports`: an interpreter that does nothing, that imports `jax_a3c`, that imports JAX, and `jax-a3c --help`.

`compilation`: A2C's train loop, ours and R1 of `references.py`, both `lax.scan` over updates, from the parts
that are built to a program that can run: tracing in Python and lowering (`trace`), then XLA (`compile`); the
initial state is a program of its own (`init`), which runs too. Cold is an empty compilation cache of JAX,
warm the next process with the same one, which keeps programs however quick their compilation was. Goals:
ours / R1 cold <= 1.0, warm / cold <= 0.25, of the sum.

`command`: the whole of a short `jax-a3c train`, evaluation and picture included, with an empty cache, with
the cache full, and as a user has it without any.

`memory`: the peak of a process that trains U and 10 U updates by what `jax-a3c train` calls. Goal: 10 U / U
<= 1.05.

Whatever trains is checked: its parameters moved and are finite.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from measure import (
    check_learned,
    copy_of_weights,
    parser_of,
    print_committed,
    ranged,
    result_path,
    spread,
    table,
    write_result,
)
from tqdm import tqdm

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
"""Of the compiled train loop."""
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
"""Environment steps of an update, at most, on CartPole: 16 x 5, and a segment of 20."""
TIMES = 10
"""Updates of the long run, as a multiple of those of the short one."""

Row = dict[str, Any]


def main() -> None:
    """Measure, write and print; or be one of the processes that are measured."""
    parser = parser_of(__doc__, short="one round, short runs, into runs/bench")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--updates", type=int, default=1000, help="U of the memory's short run")
    parser.add_argument(
        "--child", help=argparse.SUPPRESS
    )  # a process to be measured: its task as JSON
    args = parser.parse_args()
    if args.child:
        task = json.loads(args.child)
        print(json.dumps(TASKS[task.pop("task")](**task)))
        return
    if args.short:
        args.repeats, args.updates = 1, 100
    partial = args.short or set(args.only) != set(PARTS)
    out = result_path("startup", args.out, partial)
    if args.table:
        print_committed(out, markdown)
        return
    rows = [row for name in args.only for row in PARTS[name](args)]
    write_result(out, rows, repeats=args.repeats, updates=args.updates, num_updates=NUM_UPDATES)
    print(f"\n{markdown(rows)}\n\nwrote {out}")


def imports(args: argparse.Namespace) -> list[Row]:
    """Seconds of fresh interpreters."""
    times: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in tqdm(range(args.repeats + 1), desc="imports"):
        for name, words in IMPORTS.items():
            times[name].append(process(words).seconds)
    # The first round brought files into memory.
    return [
        {"part": "imports", "what": name, "seconds": spread(values[1:])}
        for name, values in times.items()
    ]


def compilation(args: argparse.Namespace) -> list[Row]:
    """Seconds of each phase of ours and R1's, cold and warm, and their ratios in each round."""
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
        for (learner, state), of_this in runs.items():
            row = {"part": "compilation", "what": form, "learner": learner, "cache": state}
            row |= {
                f"{name}_seconds": spread([run[name] for run in of_this])
                for name in (*PHASES, "sum")
            }
            ratio = ("warm_over_cold", runs[learner, "cold"]) if state == "warm" else None
            if (learner, state) == ("ours", "cold"):
                ratio = ("ours_over_r1", runs["R1", "cold"])
            if ratio:
                pairs = zip(of_this, ratio[1], strict=True)
                row[ratio[0]] = spread([run["sum"] / other["sum"] for run, other in pairs])
            rows.append(row)
    return rows


def command(args: argparse.Namespace) -> list[Row]:
    """Seconds of `jax-a3c train` as a whole, and of what it calls compilation."""
    names = ("without", "cold", "warm")
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for _ in tqdm(range(args.repeats), desc="command"):
        with tempfile.TemporaryDirectory() as cache:
            for name in names:
                with tempfile.TemporaryDirectory() as folder:
                    flags = [
                        "--total-timesteps",
                        str(COMMAND_STEPS),
                        "--quiet",
                        "--run-dir",
                        folder,
                    ]
                    words = ["-m", "jax_a3c.cli", "train", *COMMAND, *flags]
                    seconds = process(words, None if name == "without" else cache).seconds
                    summary = json.loads(Path(folder, "summary.json").read_text())
                    runs[name].append((seconds, summary["compile_seconds"]))
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


def memory(args: argparse.Namespace) -> list[Row]:
    """Peaks of runs of U and 10 U updates, and their ratio in each round."""
    rows = []
    for method, steps in MEMORY_METHODS.items():
        lengths = (args.updates, TIMES * args.updates)
        runs: dict[int, list[dict[str, float]]] = {length: [] for length in lengths}
        for _ in tqdm(range(args.repeats), desc=f"memory, {method}"):
            for length in lengths:
                runs[length].append(
                    task("train", {"method": method, "total_timesteps": length * steps})
                )
        for length, of_this in runs.items():
            row: Row = {"part": "memory", "what": method, "updates": round(of_this[-1]["updates"])}
            row["peak_mib"] = spread([run["peak_mib"] for run in of_this], 1)
            if length != args.updates:
                pairs = zip(of_this, runs[args.updates], strict=True)
                row["long_over_short"] = spread(
                    [run["peak_mib"] / short["peak_mib"] for run, short in pairs]
                )
            rows.append(row)
    return rows


PARTS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "imports": imports,
    "compilation": compilation,
    "command": command,
    "memory": memory,
}


class Ended(NamedTuple):
    """A process that has ended.

    Attributes:
      seconds: from its start to its end.
      output: what it printed.
    """

    seconds: float
    output: str


def process(words: Sequence[str], cache: str | None = None) -> Ended:
    """Run the interpreter with these words on the CPU, with a compilation cache or none."""
    settings = {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    if cache is not None:
        settings |= {
            "JAX_ENABLE_COMPILATION_CACHE": "true",
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        }
    start = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, *words], env={**os.environ, **settings}, stdout=subprocess.PIPE, text=True
    )
    seconds = time.perf_counter() - start
    if ended.returncode:
        raise SystemExit(ended.returncode)  # it has said why
    return Ended(seconds, ended.stdout)


def task(name: str, arguments: dict[str, Any], cache: str | None = None) -> dict[str, float]:
    """Run a function of `TASKS` in a process of its own; return what it returns."""
    child = ["--child", json.dumps({"task": name, **arguments})]
    return json.loads(process([__file__, *child], cache).output.splitlines()[-1])


def compile_loop(form: str, learner: str) -> dict[str, float]:
    """Compile a train loop, run it once; seconds of each phase."""
    import jax

    init, train = loop_of(form, learner)
    start = time.perf_counter()
    state = jax.block_until_ready(jax.jit(init)(jax.random.key(0)))
    initialised = time.perf_counter()
    lowered = jax.jit(train).lower(state)
    traced = time.perf_counter()
    program = lowered.compile()
    compiled = time.perf_counter()
    check_learned(learner, copy_of_weights(state.params), copy_of_weights(program(state)[0].params))
    moments = zip(
        PHASES, (start, initialised, traced), (initialised, traced, compiled), strict=True
    )
    return {name: end - begin for name, begin, end in moments}


def loop_of(form: str, learner: str) -> tuple[Callable, Callable]:
    """`init` and a train loop, of ours or of R1."""
    import peers
    import references

    name, layers = FORMS[form]["env"].partition(":")[2], FORMS[form]["network"]
    config = config_of(form)
    if learner == "ours":
        init, train = peers.ours(name, layers, config)
    else:
        rule = references.optimizer(peers.LEARNING_RATE, peers.EPS, config.max_grad_norm)
        init, train = references.second_pass(name, layers, rule, config)
    return init, lambda state: train(state, NUM_UPDATES)


def config_of(form: str) -> Any:
    """The settings that both have."""
    from jax_a3c import A2CConfig

    sizes = {name: FORMS[form][name] for name in ("num_envs", "num_steps")}
    return A2CConfig(**sizes)


def train_and_weigh(method: str, total_timesteps: int) -> dict[str, float]:
    """Train as `jax-a3c train` does; the process' peak of memory in MiB."""
    import jax

    from jax_a3c.training.checkpoints import flatten
    from jax_a3c.training.experiment import build
    from jax_a3c.training.run_directory import RunDirectory
    from jax_a3c.training.settings import RunOptions, resolve
    from jax_a3c.training.train import train

    env_id = COMMAND[1]
    settings = resolve(method, env_id, total_timesteps=total_timesteps)
    with tempfile.TemporaryDirectory() as folder:
        summary = train(method, env_id, settings, Path(folder), options=RunOptions(quiet=True))
        # In kilobytes on Linux, in bytes on macOS. Before the check, which takes memory of its own.
        unit = 2**20 if sys.platform == "darwin" else 2**10
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
        experiment = build(method, env_id, settings)
        after = flatten(RunDirectory(Path(folder)).load_params(experiment.parameters_like()))
    trainer: Any = experiment.trainer
    before = flatten(
        trainer.params(trainer.init(jax.random.split(jax.random.key(settings.seed))[0]))
    )
    check_learned(method, copy_of_weights(before), [after[name] for name in sorted(before)])
    return {"peak_mib": peak, "updates": summary["updates"]}


TASKS: dict[str, Callable[..., dict[str, float]]] = {
    "compile": compile_loop,
    "train": train_and_weigh,
}


def markdown(rows: list[Row]) -> str:
    """The tables of the README, one for each part: medians, and the range over the rounds in brackets."""
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(row["part"], []).append(row)
    tables = []
    for of_part in parts.values():
        names = list(dict.fromkeys(name for row in of_part for name in row if name != "part"))
        lines = [[cell(row.get(name, "")) for name in names] for row in of_part]
        tables.append(table([name.replace("_", " ") for name in names], lines))
    return "\n\n".join(tables)


def cell(value: Any) -> str:
    """A spread with its range, anything else as it is."""
    return ranged(value, ".2f") if isinstance(value, dict) else str(value)


if __name__ == "__main__":
    main()
