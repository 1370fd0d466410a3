"""Which of the goals of speed were met?

    python benchmarks/goals.py

The script measures nothing. It compares the results of `peers.py`, `scaling.py`, `host.py`,
`startup.py` and `command.py` with the goals that these scripts declare. All goals are for two cores
of a CPU.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmarks import command, host, peers, scaling, startup
from benchmarks.frame.results import RESULTS, matching, read_result
from benchmarks.frame.summaries import ranged, short_id
from benchmarks.frame.tables import Column, Table, as_text


class Goal(NamedTuple):
    """A goal and what was measured.

    Attributes:
      what: the ratio that is measured.
      asked: its goal.
      measured: a `spread`.
      script: name of the script that measures it.
      at_most: the ratio should not exceed the goal, instead of reaching it.
    """

    what: str
    asked: float
    measured: dict[str, float]
    script: str
    at_most: bool = False

    @property
    def met(self) -> bool:
        """Whether the median meets the goal."""
        median = self.measured["median"]
        return median <= self.asked if self.at_most else median >= self.asked


def main() -> None:
    """Print the goals."""
    print(as_text(table()))


def goals() -> Iterator[Goal]:
    """Yield all goals that have a result."""
    yield from _of_peers(rows_of("peers"))
    yield from _of_scaling(rows_of("scaling") + rows_of("scaling_pong"))
    yield from _of_host(rows_of("host"))
    yield from _of_startup(rows_of("startup"))
    yield from _of_command(rows_of("command"))


def rows_of(name: str) -> list[dict[str, Any]]:
    """Return the rows of a committed result."""
    return read_result(RESULTS / f"{name}.json")["rows"]


def _of_peers(rows: list[dict[str, Any]]) -> Iterator[Goal]:
    for row in rows:
        if row["goal"] is not None:
            what = f"{peers.our_title(row)} / {peers.peer_title(row)}"
            yield Goal(what, row["goal"], row["ratio"], "peers.py")


def _of_scaling(rows: list[dict[str, Any]]) -> Iterator[Goal]:
    names = {
        "ratio_to_one_worker": "workers / 1 worker",
        "lock_free_to_locked": "workers, lock-free / locked",
    }
    for row in rows:
        for goal in scaling.GOALS:
            if goal.concerns(row):
                compared = f"{goal.workers} {names[goal.figure]}"
                what = f"A3C, {short_id(row['env'])}, {compared}"
                yield Goal(what, goal.at_least, row[goal.figure], "scaling.py")


def _of_host(rows: list[dict[str, Any]]) -> Iterator[Goal]:
    for row in matching(rows, **host.GOAL):
        what = f"{row['case']}, {short_id(row['env'])} / raw envpool"
        yield Goal(what, host.GOAL_SHARE, row["share_of_raw"], "host.py")


def _of_startup(rows: list[dict[str, Any]]) -> Iterator[Goal]:
    names = {
        "ours_over_r1": "cold compilation, ours / R1",
        "warm_over_cold": "compilation, warm / cold",
        "long_over_short": f"memory of {startup.TIMES} times as many updates",
    }
    ours = [row for row in rows if row["part"] != "command" and row.get("learner") != "R1"]
    for row in ours:
        for figure in startup.GOALS.keys() & row.keys():
            what = f"{names[figure]}, {row['what']}"
            yield Goal(what, startup.GOALS[figure], row[figure], "startup.py", at_most=True)


def _of_command(rows: list[dict[str, Any]]) -> Iterator[Goal]:
    for row in rows:
        what = f"`jax-a3c train` / bare loop, {row['method']}"
        yield Goal(what, command.GOAL, row["ratio"], "command.py")


COLUMNS = (
    Column("goal", lambda goal: goal.what),
    Column("asked", lambda goal: f"{'<=' if goal.at_most else '>='} {goal.asked:g}"),
    Column("measured", lambda goal: ranged(goal.measured, ".2f")),
    Column("result", lambda goal: "met" if goal.met else "missed"),
    Column("script", lambda goal: f"`{goal.script}`"),
)


def table() -> Table:
    """Return the table of all goals: medians, and the range over the rounds."""
    return Table(COLUMNS, list(goals()))


if __name__ == "__main__":
    main()
