"""Does A2C train faster when several devices share its environments?

    python benchmarks/devices.py [--devices 1 2] [--repeats 7] [--seconds 2]
    python benchmarks/devices.py --short     two short rounds, into runs/bench
    python benchmarks/devices.py --table     print the result that exists

On the CPU the script divides the machine into as many devices as the largest number asks for. They
share its cores, so the gain is what one device leaves unused. On a GPU machine the devices are the
GPUs. The learners of an environment take turns.
"""

import dataclasses
import functools
import os
from typing import Any, NamedTuple

import jax
from tqdm import tqdm

from benchmarks.frame.learners import Learning
from benchmarks.frame.processes import part_of, write_part
from benchmarks.frame.results import (
    Rows,
    parse_windows,
    parser_of,
    print_result,
    publish,
    result_path,
)
from benchmarks.frame.summaries import short_id, spread
from benchmarks.frame.tables import Column, Table, field, spread_field
from benchmarks.frame.timing import rate_of
from jax_a3c.settings.run import resolve

CARTPOLE = "gymnax:CartPole-v1"
BREAKOUT = "gymnax:Breakout-MinAtar"


class Form(NamedTuple):
    """An environment and the size of a rollout.

    Attributes:
      env: id of the environment.
      num_envs: N, of all devices together.
      num_steps: T.
    """

    env: str
    num_envs: int
    num_steps: int


FORMS = (Form(CARTPOLE, 16, 5), Form(CARTPOLE, 1_024, 16), Form(BREAKOUT, 64, 16))
GOAL = 1.4
"""Speed of two devices relative to one, with `GOAL_FORM`."""
GOAL_FORM = FORMS[1]


def main() -> None:
    """Measure in a child process that has the devices, write and print."""
    parser = parser_of(__doc__, short="two short rounds", part=True)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2])
    args = parse_windows(parser)
    if args.part:
        return write_part(args.part, measure(args.devices, args.repeats, args.seconds))

    out = result_path("devices", args.out, args.short)
    if args.table:
        return print_result(out, tables)

    # XLA divides the CPU before it is first used. Each device needs threads of its own.
    most = max(args.devices)
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={most}"
    words = [__file__, "--repeats", str(args.repeats), "--seconds", str(args.seconds)]
    code, rows = part_of(
        [*words, "--devices", *map(str, args.devices)],
        {"XLA_FLAGS": flags, "PJRT_NPROC": str(max(most, os.cpu_count() or 1))},
    )
    if code:
        raise SystemExit(code)
    publish(out, rows, tables, repeats=args.repeats, seconds=args.seconds)


def measure(devices: list[int], repeats: int, seconds: float) -> Rows:
    """Return a row for each form and number of devices."""
    rows = []
    for form in FORMS:
        settings = resolve("a2c", form.env, num_envs=form.num_envs, num_steps=form.num_steps)
        learners = {
            number: Learning(
                f"{form.env} on {number}",
                "a2c",
                form.env,
                dataclasses.replace(settings, devices=number),
            )
            for number in devices
        }

        # Compile, and throw the first window away.
        for learner in learners.values():
            learner(seconds)
        rates: dict[int, list[float]] = {number: [] for number in devices}
        for _ in tqdm(range(repeats), desc=f"{form.env} {form.num_envs} x {form.num_steps}"):
            for number, learner in learners.items():
                rates[number].append(rate_of(functools.partial(learner, seconds)))
        for learner in learners.values():
            learner.close()
        rows += [row_of(form, number, rates) for number in devices]
    return rows


def row_of(form: Form, number: int, rates: dict[int, list[float]]) -> dict[str, Any]:
    """Return the row of a form on a number of devices."""
    first = min(rates)
    ratios = [a / b for a, b in zip(rates[number], rates[first], strict=True)]
    return {
        **form._asdict(),
        "devices": number,
        "device_kind": jax.devices()[0].device_kind,
        "env_steps_per_second": spread(rates[number], 0),
        "ratio": spread(ratios),
    }


def tables(rows: Rows) -> list[Table]:
    """Return the table: a row for each form and number of devices."""
    columns = [
        Column("environment", lambda row: short_id(row["env"])),
        field("N", "num_envs", ","),
        field("T", "num_steps"),
        field("devices", "devices"),
        spread_field("steps/s", "env_steps_per_second"),
        spread_field("ratio to one", "ratio", ".2f"),
    ]
    return [Table(columns, rows)]


if __name__ == "__main__":
    main()
