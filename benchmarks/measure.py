"""What benchmarks share: a timer that interleaves, a learner that runs by the clock, upkeep of results."""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from jax_a3c.training.experiment import build
from jax_a3c.training.run_directory import environment
from jax_a3c.training.settings import Settings

RESULTS = Path(__file__).parent / "results"
FOREVER = 10**9  # steps: a window ends by its time, and the learning rate stays where it is
INTERVAL = 0.05  # seconds between two looks at the clock while a learner runs
PLATFORMS = {"cpu": "cpu", "gpu": "cuda"}
"""What JAX calls the devices that scripts know as `--device`."""
NO_SUCH_DEVICE = 3
"""Exit code of a process that was to measure on a device that is not there."""
Result = TypeVar("Result")


class Window(NamedTuple):
    """What the clocks say of a stretch of time.

    Attributes:
      seconds: that passed.
      cpu_seconds: that all threads of this process spent on a core.
      others: share of all cores of the machine, 0 to 1, that went to other processes and, on a virtual
        machine, to its neighbours; None where /proc/stat is missing.
    """

    seconds: float
    cpu_seconds: float
    others: float | None


def watched(run: Callable[[], Result]) -> tuple[Result, Window]:
    """The result of `run`, and what the clocks say of the time that it took."""
    machine, cpu, start = _machine_seconds(), time.process_time(), time.perf_counter()
    result = run()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    others, after = None, _machine_seconds()
    if machine is not None and after is not None:
        # A tick is 10 ms, so that a short window can come out a little below 0 or above 1.
        others = min(1.0, max(0.0, (after - machine - cpu) / (seconds * (os.cpu_count() or 1))))
    return result, Window(seconds, cpu, others)


def _machine_seconds() -> float | None:
    """Core-seconds of the whole machine since its start that were not idle; the kernel counts in ticks."""
    try:
        line = Path("/proc/stat").read_text().partition("\n")[0]
    except OSError:
        return None
    user, nice, system, _idle, _waiting, *rest = map(int, line.split()[1:])
    # Interrupts and what the hypervisor took; the time of guests, which comes last, is in `user` already.
    return (user + nice + system + sum(rest[:3])) / os.sysconf("SC_CLK_TCK")


def interleaved_seconds(
    programs: dict[Any, Callable[[], Any]], repeats: int
) -> dict[Any, list[float]]:
    """Seconds of each program, A B C A B C ..., so that a slow minute of the machine meets them all.

    Args:
      programs: what to run, by name; compiled already. Their results are waited for.
      repeats: rounds, after one that is thrown away.

    Returns:
      `repeats` times for each name.
    """
    times: dict[Any, list[float]] = {name: [] for name in programs}
    for _ in range(repeats + 1):
        for name, run in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            times[name].append(time.perf_counter() - start)
    return {name: values[1:] for name, values in times.items()}


class Learning:
    """A method of ours that trains for some seconds at a time, from where it was."""

    def __init__(self, name: str, method: str, env_id: str, settings: Settings):
        """Build it and start its environments; the first call compiles."""
        self._name = name
        self._trainer = build(method, env_id, settings).trainer
        self._state: Any = self._trainer.init(0)
        self._env_steps = 0
        self._weights = self._copy_of_weights()

    def __call__(self, seconds: float) -> int:
        """Train; return the environment steps, those that only reset left out."""
        result = self._trainer.run(
            state=self._state,
            callback=lambda progress: progress.seconds >= seconds,
            interval=INTERVAL,
        )
        taken = result.progress.env_steps - self._env_steps
        self._state, self._env_steps = result.state, result.progress.env_steps
        return taken

    def close(self) -> None:
        """Close the environments; RuntimeError if what was measured was not learning."""
        check_learned(self._name, self._weights, self._copy_of_weights())
        self._trainer.close(self._state)

    def _copy_of_weights(self) -> list[np.ndarray]:
        # Without running statistics, which always move.
        return copy_of_weights(self._trainer.params(self._state)["params"])


def copy_of_weights(params: Any) -> list[np.ndarray]:
    """The leaves of a tree of parameters, as they are now: a program may take the buffers it is given."""
    return [np.array(leaf) for leaf in jax.tree.leaves(params)]


def check_learned(name: str, before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> None:
    """RuntimeError unless every array moved and is finite."""
    for old, new in zip(before, after, strict=True):
        if np.array_equal(old, new) or not np.isfinite(new).all():
            raise RuntimeError(
                f"{name} did not learn: some parameters did not move or are not finite"
            )


def fitting_count(run: Callable[[int], Any], seconds: float) -> int:
    """How many iterations `run(count)` does in about so many seconds."""
    count = 1
    while True:
        start = time.perf_counter()
        jax.block_until_ready(run(count))
        taken = time.perf_counter() - start
        if taken >= seconds / 4:
            return max(1, round(count * seconds / taken))
        count *= 2


def spread(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    """Median, minimum and maximum."""
    ordered = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, digits) for name, value in ordered.items()}


def plain_settings(settings: Settings) -> dict[str, Any]:
    """Settings as they come back from JSON, to be compared with those of a row."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def rows_that_hold(
    rows: list[dict], case: dict[str, Any], settings: Settings
) -> tuple[list[dict], set[int]]:
    """Drop the rows of a case that were made with other settings.

    Args:
      rows: of a result file.
      case: what a row of the case has, such as method and environment.
      settings: those of the case now.

    Returns:
      The other rows, and the seeds for which the case has one.
    """

    def is_of_case(row: dict) -> bool:
        return all(row[name] == value for name, value in case.items())

    # A row of before a setting was invented lacks it: it was made with what is now its default.
    defaults, plain = plain_settings(Settings()), plain_settings(settings)
    rows = [row for row in rows if not is_of_case(row) or {**defaults, **row["settings"]} == plain]
    return rows, {row["seed"] for row in rows if is_of_case(row)}


def write_result(path: Path, rows: list[dict[str, Any]], **settings: Any) -> None:
    """Write rows with all that a figure must name: machine, versions, commit, load, settings."""
    result = {
        "environment": environment(),
        "load_average": os.getloadavg(),
        "settings": settings,
        "rows": rows,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


def parser_of(doc: str | None, *, short: str) -> argparse.ArgumentParser:
    """A parser with the options that all scripts have.

    Args:
      doc: the script's docstring; its first line is the question.
      short: what `--short` does.
    """
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--short", action="store_true", help=short)
    parser.add_argument(
        "--table", action="store_true", help="print the result that exists, as Markdown"
    )
    parser.add_argument(
        "--out", type=Path, help="default: the committed result, if nothing was left out"
    )
    return parser


def result_path(name: str, out: Path | None, partial: object) -> Path:
    """Where a result goes: to `out` if told, into runs/bench if it is partial, else among the committed."""
    return out or (Path("runs", "bench") if partial else RESULTS) / f"{name}.json"


def part_of(command: Sequence[str], env: dict[str, str] | None = None) -> tuple[int, Any]:
    """Run a script in a process of its own, which writes JSON into the file of its `--part`.

    Args:
      command: the script's path and its arguments.
      env: environment variables beside those of this process.

    Returns:
      The exit code, and what the script wrote; None if the code is not 0.
    """
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder, "part.json")
        words = [sys.executable, *command, "--part", str(part)]
        code = subprocess.run(words, env={**os.environ, **(env or {})}).returncode
        return code, json.loads(part.read_text()) if code == 0 else None


def rows_of_devices(devices: Sequence[str]) -> list[dict[str, Any]]:
    """Run this script again for each device, in a process that sees no other, and collect its rows.

    The process gets the same arguments, `--device` with that one device, and `--part`, the file for its rows.
    It calls `require_device` first; a device that is not there has no rows.

    Args:
      devices: keys of `PLATFORMS`.

    Returns:
      The rows of all processes, each with its `device`.

    Raises:
      SystemExit: if a process failed, which has said why, or if none of the devices is there.
    """
    rows = []
    for device in devices:
        code, part = part_of([*sys.argv, "--device", device], {"JAX_PLATFORMS": PLATFORMS[device]})
        if code == 0:
            rows += [{"device": device, **row} for row in part]
        elif code != NO_SUCH_DEVICE:
            raise SystemExit(code)
    if not rows:
        raise SystemExit("nothing was measured: none of these devices is there")
    return rows


def require_device(device: str) -> str:
    """What JAX calls the one device of this process; without it end the process with a message."""
    try:
        return jax.devices()[0].device_kind
    except (RuntimeError, AssertionError) as error:  # JAX asserts that some platform is left
        reason = str(error).partition("\n")[0] or f"JAX has no platform {PLATFORMS[device]!r}"
        print(f"no {device} here, its rows are left out: {reason}", file=sys.stderr)
        raise SystemExit(NO_SUCH_DEVICE) from None


def confined(cores: int, script: str, flags: Sequence[str]) -> Any:
    """Run a script in a process that has so many cores from its start, before JAX sizes its pools.

    Args:
      cores: how many.
      script: its path.
      flags: its arguments; `--part FILE` is added, into which it writes JSON.

    Returns:
      What it wrote. SystemExit with its code if it failed.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise SystemExit("this system cannot confine a process to some cores; Linux can")
    allowed = os.sched_getaffinity(0)
    if not 1 <= cores <= len(allowed):
        raise SystemExit(f"asked for {cores} cores; this process may use 1 to {len(allowed)}")
    os.sched_setaffinity(0, sorted(allowed)[:cores])  # a new process inherits it
    try:
        code, part = part_of([script, *flags])
    finally:
        os.sched_setaffinity(0, allowed)
    if code:
        raise SystemExit(code)  # it has said why
    return part


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, ("---",) * len(heads), *lines))


def ranged(values: dict[str, float], form: str = ",.0f") -> str:
    """Median and range of a `spread`, as a cell of a table."""
    low, median, high = (format(values[name], form) for name in ("min", "median", "max"))
    return f"{median} ({low} to {high})"


def print_committed(path: Path, markdown: Callable[[list[dict[str, Any]]], str]) -> None:
    """Print the result that exists; SystemExit if there is none yet."""
    if not path.exists():
        raise SystemExit(f"there is no {path} yet; run this without --table")
    print(markdown(json.loads(path.read_text())["rows"]))
