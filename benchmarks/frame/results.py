"""Result files: where they are, what they record besides rows, and the options of a script."""

import argparse
import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.frame.summaries import short_commit
from benchmarks.frame.tables import Table, as_text
from jax_a3c.experiment.run_directory import environment
from jax_a3c.settings.run import Settings

RESULTS = Path(__file__).parents[1] / "results"
PAPER = Path(__file__).parents[1] / "paper"

Rows = list[dict[str, Any]]
Tables = Callable[[Rows], Sequence[Table]]
"""A script's function from the rows of its result to its tables."""


def parser_of(
    doc: str | None, *, short: str | None = None, part: bool = False
) -> argparse.ArgumentParser:
    """Return a parser with the options that all scripts have.

    Args:
      doc: the script's docstring; its first line is the question.
      short: what `--short` does; None if the script has no such option.
      part: the script runs itself in child processes, see `part_of`.
    """
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    if short:
        parser.add_argument("--short", action="store_true", help=f"{short}, into runs/bench")

    parser.add_argument(
        "--table", action="store_true", help="measure nothing; print the result that exists"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="result file; the default is in benchmarks/results, or in runs/bench if some cases "
        "are left out",
    )
    if part:
        # Where a child process writes what it measured.
        parser.add_argument("--part", type=Path, help=argparse.SUPPRESS)
    return parser


def parse_windows(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Add `--repeats` and `--seconds`, and parse; `--short` means two rounds of 0.3 seconds."""
    parser.add_argument("--repeats", type=int, default=7, help="number of rounds")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each window")
    args = parser.parse_args()
    if args.short:
        args.repeats = 2
        args.seconds = 0.3
    return args


def result_path(name: str, out: Path | None, partial: object = False) -> Path:
    """Return where a result goes: `out`, else runs/bench if it is partial, else `RESULTS`."""
    return out or (Path("runs", "bench") if partial else RESULTS) / f"{name}.json"


def read_result(path: Path) -> dict[str, Any]:
    """Return a result; exit with a message if there is none yet."""
    if not path.exists():
        raise SystemExit(f"{path} does not exist; run the script without --table first")
    return json.loads(path.read_text())


def write_result(path: Path, rows: Rows, **settings: Any) -> None:
    """Write rows with all that a figure must name: machine, versions, commit, load, settings."""
    result = {
        "environment": environment(),
        "load_average": os.getloadavg(),
        "settings": settings,
        "rows": rows,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


def print_tables(rows: Rows, tables: Tables) -> None:
    """Print the tables of a script."""
    print("\n" + "\n\n".join(as_text(table) for table in tables(rows)))


def print_result(path: Path, tables: Tables) -> None:
    """Print the tables of the result that exists."""
    print_tables(read_result(path)["rows"], tables)


def publish(path: Path, rows: Rows, tables: Tables, **settings: Any) -> None:
    """Write a result and print its tables."""
    write_result(path, rows, **settings)
    print_tables(rows, tables)
    print(f"\nwrote {path}")


def caption_of(result: dict[str, Any]) -> str:
    """Return machine, versions, commit and load of a result."""
    made = result["environment"]
    devices = sorted({row["device_kind"] for row in result["rows"] if "device_kind" in row})
    machine = ", ".join([f"{made['cpu']}, {made['cpu_cores']} cores", *devices])
    versions = ", ".join(f"{name} {version}" for name, version in made["packages"].items())

    commit = short_commit(made.get("git_commit"))
    load = result["load_average"][0]
    return (
        f"{machine}; Python {made['python']}, {versions}; commit {commit}; load average {load:.1f}"
    )


def matching(rows: Rows, /, **values: Any) -> Rows:
    """Return the rows that have these values."""
    return [row for row in rows if all(row[name] == value for name, value in values.items())]


def plain_settings(settings: Settings) -> dict[str, Any]:
    """Return settings as they come back from JSON, for a comparison with a row."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def own_settings(stored: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Return what was stored of the settings that a method has.

    A row that is older than a setting lacks it, and was made with what is its default now. Rows of
    version 0.1 also have the settings of other methods.
    """
    defaults = plain_settings(type(settings)())
    return {name: stored.get(name, default) for name, default in defaults.items()}


def rows_that_hold(rows: Rows, case: dict[str, Any], settings: Settings) -> tuple[Rows, set[int]]:
    """Drop the rows of a case that were made with other settings.

    Args:
      rows: of a result file.
      case: values that identify the rows of the case, such as method and environment.
      settings: current settings of the case.

    Returns:
      The other rows, and the seeds for which the case has a row.
    """
    # Keep a row of the case only if all its settings are the current ones.
    plain = plain_settings(settings)
    of_case = matching(rows, **case)
    kept = [row for row in of_case if own_settings(row["settings"], settings) == plain]
    dropped = [row for row in of_case if row not in kept]
    return [row for row in rows if row not in dropped], {row["seed"] for row in kept}
