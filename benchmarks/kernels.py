"""How many kernels does XLA launch for an update of A2C, and for a step of its environments?

    python benchmarks/kernels.py [--env gymnax:CartPole-v1 gymnax:Breakout-MinAtar]
    python benchmarks/kernels.py --table         print the result that exists

The script compiles the training loop for the default device, as `jax-a3c train` does, and counts
the instructions of the compiled program that are launched as kernels. Nothing runs. "Step" is the
loop over the T steps of a rollout, "update" is the rest of an update. "Launches" counts an inner
loop as often as it runs, and no conditions of loops.
"""

import re
from collections import Counter
from typing import Any

import jax
import numpy as np

from benchmarks.frame.results import Rows, parser_of, print_result, publish, result_path
from benchmarks.frame.summaries import short_id
from benchmarks.frame.tables import Column, Table, field
from jax_a3c.experiment.build import build
from jax_a3c.programs import compile_program
from jax_a3c.settings.run import resolve

FORMS = {
    "gymnax:CartPole-v1": {"num_envs": 16, "num_steps": 5},
    "gymnax:Breakout-MinAtar": {"num_envs": 64, "num_steps": 16},
}
FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "after-all",
}
"""Instructions that are no kernels; the bodies of loops are counted apart."""
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.-]+ = (?:\(.*?\)|\S+) ([\w-]+)\(")
COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) .*\{$")
BODY = re.compile(r"body=%?([\w.-]+)")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


class Loop:
    """A loop of a compiled program.

    Attributes:
      trips: how often it runs; None if that is not known before.
      kernels: number of kernels of its body by kind, without inner loops.
      loops: the loops in its body.
    """

    def __init__(self, computations: dict[str, list[str]], body: str, trips: int | None):
        self.trips = trips
        self.kernels: Counter[str] = Counter()
        self.loops: list[Loop] = []
        for line in computations[body]:
            match = INSTRUCTION.match(line)
            if match is None:
                continue
            kind = match.group(1)
            if kind == "while":
                times = TRIPS.search(line)
                inner = BODY.search(line)
                assert inner is not None
                count = int(times.group(1)) if times else None
                self.loops.append(Loop(computations, inner.group(1), count))
            elif kind not in FREE:
                self.kernels[kind] += 1

    @property
    def launches(self) -> int:
        """Kernels of one iteration; an inner loop of unknown length counts once."""
        inner = sum((loop.trips or 1) * loop.launches for loop in self.loops)
        return self.kernels.total() + inner


def program_of(text: str) -> Loop:
    """Return the entry of a compiled program, from its text."""
    computations: dict[str, list[str]] = {}
    entry = name = ""
    for line in text.splitlines():
        match = COMPUTATION.match(line)
        if match:
            name = match.group(1)
            computations[name] = []
            entry = name if line.startswith("ENTRY") else entry
        elif name:
            computations[name].append(line)
    return Loop(computations, entry, 1)


def main() -> None:
    """Count, write the result and print its table."""
    parser = parser_of(__doc__)
    parser.add_argument("--env", nargs="+", choices=FORMS, default=list(FORMS))
    args = parser.parse_args()
    out = result_path("kernels", args.out, set(args.env) != set(FORMS))
    if args.table:
        return print_result(out, tables)
    publish(out, [count(env_id) for env_id in args.env], tables)


def count(env_id: str) -> dict[str, Any]:
    """Compile the training loop of an environment and count its kernels."""
    settings = resolve("a2c", env_id, **FORMS[env_id])
    runner: Any = build("a2c", env_id, settings).runner
    algorithm = runner.algorithm
    state = jax.jit(algorithm.init)(jax.random.key(0))

    def updates(state: Any, number: Any) -> Any:
        return jax.lax.fori_loop(0, number, lambda _, state: algorithm.step(state)[0], state)

    program: Any = compile_program(updates, state, np.int32(1), donate_argnums=(0,))
    (update,) = program_of(program.as_text()).loops
    (step,) = [loop for loop in update.loops if loop.trips == settings.num_steps]
    others = [loop for loop in (*update.loops, *step.loops) if loop is not step]
    return {
        "env": env_id,
        **FORMS[env_id],
        "device": jax.devices()[0].platform,
        "step": dict(step.kernels),
        "update": dict(update.kernels),
        "other_loops": len(others),
        "launches": update.launches,
    }


def tables(rows: Rows) -> list[Table]:
    """Return the table: a row for each environment."""

    def kernels(part: str, kind: str) -> Column:
        return Column(f"{part}: {kind}", lambda row: str(row[part].get(kind, 0)))

    def others(part: str) -> Column:
        def cell(row: dict[str, Any]) -> str:
            rest = Counter(row[part]) - Counter({k: row[part].get(k, 0) for k in shown})
            return str(rest.total())

        return Column(f"{part}: other", cell)

    shown = ("fusion", "copy")
    columns = [
        Column("environment", lambda row: short_id(row["env"])),
        field("N", "num_envs", ","),
        field("T", "num_steps"),
        field("device", "device"),
    ]
    for part in ("step", "update"):
        columns += [*(kernels(part, kind) for kind in shown), others(part)]
    columns += [field("other loops", "other_loops"), field("launches an update", "launches", ",")]
    return [Table(columns, rows)]


if __name__ == "__main__":
    main()
