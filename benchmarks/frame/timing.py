"""Timers: programs that take turns, and the clocks of a process and of its machine."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax

Result = TypeVar("Result")


class Window(NamedTuple):
    """Readings of the clocks for a stretch of time.

    Attributes:
      seconds: elapsed time.
      cpu_seconds: time that all threads of this process spent on a core.
      others: share of all cores of the machine, 0 to 1, that other processes used. On a virtual
        machine it includes the time that its neighbours took. None without /proc/stat.
    """

    seconds: float
    cpu_seconds: float
    others: float | None


def watched(run: Callable[[], Result]) -> tuple[Result, Window]:
    """Return the result of `run`, and the readings of the clocks while it ran."""
    machine = _machine_seconds()
    cpu = time.process_time()
    start = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    cpu = time.process_time() - cpu
    after = _machine_seconds()

    others = None
    if machine is not None and after is not None:
        # A tick is 10 ms: a short window can come out a little below 0 or above 1.
        others = min(1.0, max(0.0, (after - machine - cpu) / (seconds * (os.cpu_count() or 1))))
    return result, Window(seconds, cpu, others)


def rate_of(run: Callable[[], int]) -> float:
    """Run once; return per second what `run` counted, such as environment steps."""
    count, window = watched(run)
    return count / window.seconds


def _machine_seconds() -> float | None:
    """Return the core-seconds since the start of the machine that were not idle."""
    try:
        line = Path("/proc/stat").read_text().partition("\n")[0]
    except OSError:
        return None
    user, nice, system, _idle, _waiting, *rest = map(int, line.split()[1:])

    # `rest` begins with interrupts and with what the hypervisor took. The time of guests comes
    # last, and is part of `user` already.
    return (user + nice + system + sum(rest[:3])) / os.sysconf("SC_CLK_TCK")


def interleaved_seconds(
    programs: dict[Any, Callable[[], Any]], repeats: int
) -> dict[Any, list[float]]:
    """Return the seconds of each program, run A B C A B C.

    A slow minute of the machine then affects all programs alike.

    Args:
      programs: compiled programs, by name. The timer waits for their results.
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


def fitting_count(run: Callable[[int], Any], seconds: float) -> int:
    """Return how many iterations `run(count)` does in about that many seconds."""
    count = 1
    while True:
        start = time.perf_counter()
        jax.block_until_ready(run(count))
        taken = time.perf_counter() - start
        if taken >= seconds / 4:
            return max(1, round(count * seconds / taken))
        count *= 2
