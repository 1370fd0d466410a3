"""Do the tables of the documentation show the result files?

    python benchmarks/pages.py            rewrite the tables of README.md and docs/*.md
    python benchmarks/pages.py --check    change nothing; fail if a page is out of date

A page marks the place of a table with `<!-- table: NAME -->` and `<!-- end -->`, each on its own
line. What stands between them is replaced. `TABLES` has the names. No number of a table is typed by
hand.
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import (
    atari,
    command,
    convolutions,
    devices,
    goals,
    host,
    kernels,
    learning,
    limits,
    methods,
    on_gpu,
    peers,
    products,
    reliability,
    resets,
    returns,
    robustness,
    scaling,
    startup,
    throughput,
    time_to_score,
    worker_time,
)
from benchmarks.frame.results import RESULTS, Rows, matching, read_result
from benchmarks.frame.summaries import short_commit
from benchmarks.frame.tables import Column, Table, as_markdown, spread_field

ROOT = Path(__file__).parents[1]
MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
OPENING = "<!-- table:"


def main() -> None:
    """Rewrite the pages, or check them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail if out of date")
    args = parser.parse_args()

    # Read every page, and write those that change.
    stale = []
    for path in pages():
        text = path.read_text()
        new = updated(text, path.name)
        if new != text:
            stale.append(path)
            if not args.check:
                path.write_text(new)
                print(f"wrote {path.relative_to(ROOT)}")

    if args.check and stale:
        names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
        raise SystemExit(f"out of date: {names}; run python benchmarks/pages.py")


def pages() -> list[Path]:
    """Return the pages that may hold tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def tables_on(text: str) -> list[str]:
    """Return the names of the tables of a page."""
    return [name for _, name, _, _ in MARKED.findall(text)]


def updated(text: str, page: str = "page") -> str:
    """Return the text of a page with its tables written from the result files.

    Args:
      text: Markdown.
      page: its name, for messages.

    Raises:
      ValueError: if a marker has no end, or names no table.
    """
    if text.count(OPENING) != len(tables_on(text)):
        raise ValueError(f"{page} has a line '{OPENING} NAME -->' without '<!-- end -->'")

    def replaced(match: re.Match) -> str:
        opening, name, _, end = match.groups()
        if name not in TABLES:
            raise ValueError(f"{page} has no such table: {name!r}; choose from {sorted(TABLES)}")
        return f"{opening}\n{TABLES[name]()}\n\n{end}"

    return MARKED.sub(replaced, text)


def source_of(name: str, commits: str | None = None) -> str:
    """Return the line below a table: result file, machine, version, commit and load."""
    result = read_result(RESULTS / f"{name}.json")
    made = result["environment"]
    commit = commits or f"commit {short_commit(made['git_commit'])}"
    return (
        f"*`benchmarks/results/{name}.json`: {made['cpu']}, {made['cpu_cores']} cores, Python "
        f"{made['python']}, JAX {made['packages']['jax']}; {commit}; load average "
        f"{result['load_average'][0]:.1f}.*"
    )


IN_TABLE = "commits in the table"


def from_result(
    name: str, choose: Callable[[Rows], Table], commits: str | None = None
) -> Callable[[], str]:
    """Return a function that writes a table of a result file, and its source below."""

    def write() -> str:
        rows = read_result(RESULTS / f"{name}.json")["rows"]
        return f"{as_markdown(choose(rows))}\n\n{source_of(name, commits)}"

    return write


def first(script: Any) -> Callable[[Rows], Table]:
    """Return a function that chooses the first table of a script."""
    return lambda rows: script.tables(rows)[0]


def part(name: str) -> Callable[[Rows], Table]:
    """Return a function that chooses the table of a part of `startup.py`."""
    return lambda rows: startup.tables(matching(rows, part=name))[0]


README_RESULTS = (
    ("a2c", "gymnax:CartPole-v1"),
    ("a3c", "gymnax:CartPole-v1"),
    ("a3c", "gymnax:Pendulum-v1"),
    ("a3c", "envpool:HalfCheetah-v5"),
    ("a2c", "envpool:LunarLander-v3"),
    ("a2c", "gymnax:Breakout-MinAtar"),
)
README_SPEED = (
    ("breakout-64", "ours", "R1"),
    ("best", "ours, 1024 envs, T=16", "R3, 16 envs, T=5"),
    ("pong", peers.A3C_PRESET, "R4"),
)


def readme_results(rows: Rows) -> Table:
    """Return six telling results of learning."""
    cases = {(runs[0]["method"], runs[0]["env"]): runs for runs in learning.tables(rows)[0].rows}
    columns = (
        learning.ENVIRONMENT,
        learning.METHOD,
        learning.SEEDS,
        learning.STEPS,
        learning.RETURN,
        learning.SECONDS,
    )
    return Table(columns, [cases[key] for key in README_RESULTS])


def readme_speed(rows: Rows) -> Table:
    """Return three telling comparisons of speed."""
    chosen = [
        matching(rows, group=group, ours=ours, peer=peer)[0] for group, ours, peer in README_SPEED
    ]
    columns = (
        Column("jax_a3c", peers.our_title),
        Column("steps/s", lambda row: f"{row['ours_env_steps_per_second']['median']:,.0f}"),
        Column("compared with", peers.peer_title),
        spread_field("times as fast", "ratio", ".1f"),
    )
    return Table(columns, chosen)


def action_values() -> str:
    """Return the table of the value-based methods, with the commits of its rows."""
    rows = read_result(RESULTS / "learning.json")["rows"]
    commits = learning.commits_of([row for row in rows if row["method"] in learning.VALUE_BASED])
    write = from_result("learning", learning.action_values_table, f"commits {commits}")
    return write()


def from_gpu(names: tuple[str, ...], choose: Callable[[Rows], Table]) -> Callable[[], str]:
    """Return a function that writes a table of what `on_gpu.py` measured, once it has."""

    def write() -> str:
        found = [f"gpu/{name}" for name in names if (RESULTS / "gpu" / f"{name}.json").exists()]
        if not found:
            return "*Not measured yet: no GPU was at hand. `python benchmarks/on_gpu.py` does it.*"
        rows = [row for name in found for row in read_result(RESULTS / f"{name}.json")["rows"]]
        return "\n\n".join([as_markdown(choose(rows)), *map(source_of, found)])

    return write


def all_goals() -> str:
    """Return the goals of speed; each figure is from the result of its script."""
    return as_markdown(goals.table())


def all_claims() -> str:
    """Return the figures of the tests of reliability, and their machine."""
    made = reliability.CLAIMS[0].figures[0]["environment"]
    return (
        f"{as_markdown(reliability.table())}\n\n*`tests/reliability/figures`: {made['cpu']}, "
        f"{made['cpu_cores']} cores, Python {made['python']}, JAX {made['packages']['jax']}.*"
    )


def peers_in_words(rows: Rows) -> Table:
    """Return the table of peers with the tasks and the peers in words."""
    columns = (
        Column("jax_a3c", peers.our_title),
        Column("peer", lambda row: f"{row['peer'][:2]}: {peers.peer_title(row)}"),
        spread_field("ours, steps/s", "ours_env_steps_per_second"),
        spread_field("peer, steps/s", "peer_env_steps_per_second"),
        spread_field("ratio", "ratio", ".2f"),
    )
    return Table(columns, rows)


TABLES: dict[str, Callable[[], str]] = {
    "readme-results": from_result("learning", readme_results, "commits in docs/results.md"),
    "readme-speed": from_result("peers", readme_speed),
    "learning": from_result("learning", learning.actor_critic_table, IN_TABLE),
    "learning-others": from_result("learning", learning.variants_table, IN_TABLE),
    "learning-action-values": action_values,
    "methods": from_result("methods", first(methods), IN_TABLE),
    "robustness": from_result("robustness", first(robustness)),
    "resets": from_result("resets", first(resets)),
    "atari": from_result("atari", first(atari), IN_TABLE),
    "goals": all_goals,
    "peers": from_result("peers", peers_in_words),
    "throughput": from_result("throughput", first(throughput)),
    "scaling": from_result("scaling", first(scaling)),
    "scaling-pong": from_result("scaling_pong", first(scaling)),
    "worker-time": from_result("worker_time", first(worker_time)),
    "host": from_result("host", first(host)),
    "startup-imports": from_result("startup", part("imports")),
    "startup-compilation": from_result("startup", part("compilation")),
    "startup-command": from_result("startup", part("command")),
    "command": from_result("command", first(command)),
    "kernels": from_result("kernels", first(kernels)),
    "startup-memory": from_result("startup", part("memory")),
    "devices": from_result("devices", first(devices)),
    "limits": from_result("limits", first(limits)),
    "limits-machine": from_result("limits", lambda rows: limits.tables(rows)[1]),
    "time-to-score": from_result("time_to_score", first(time_to_score), IN_TABLE),
    "time-to-score-tried": from_result(
        "time_to_score", lambda rows: time_to_score.tables(rows)[1], IN_TABLE
    ),
    "gpu-methods": from_gpu(("methods",), first(on_gpu)),
    "gpu-throughput": from_gpu(("throughput_cartpole", "throughput_breakout"), first(throughput)),
    "gpu-peers": from_gpu(("peers",), first(peers)),
    "gpu-kernels": from_gpu(("kernels",), first(kernels)),
    "gpu-returns": from_gpu(("returns",), first(returns)),
    "returns": from_result("returns", returns.summary_table),
    "convolutions-forward": from_result("convolutions", lambda rows: convolutions.tables(rows)[0]),
    "convolutions": from_result("convolutions", lambda rows: convolutions.tables(rows)[1]),
    "products": from_result("products", first(products)),
    "reliability": all_claims,
}
"""Functions that write the tables, by the name that a page uses."""


if __name__ == "__main__":
    main()
