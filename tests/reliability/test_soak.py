"""In long runs memory, threads and file handles do not grow, and nothing is compiled again."""

import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from reliability.runs import await_checkpoint, finish, start

from jax_a3c.experiment.run_directory import RunDirectory

MAX_MIB_PER_HOUR = 1.0


def sample(process):
    """Return resident memory in MiB, threads and file handles of a process."""
    status = Path(f"/proc/{process.pid}/status").read_text()

    def number(name):
        return int(re.search(rf"^{name}:\s+(\d+)", status, re.MULTILINE)[1])

    return number("VmRSS") / 1024, number("Threads"), len(os.listdir(f"/proc/{process.pid}/fd"))


def distinct(numbers):
    """Return the distinct integers, sorted."""
    return sorted({int(number) for number in numbers})


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux' /proc")
def test_soak(request, tmp_path, count, figure):
    hours = request.config.getoption("--hours") if request.config.getoption("--full") else 10 / 3600
    every, found, processes = count(0.5, 15.0), {}, {}
    for method in ("a2c", "a3c"):
        flags = ["--total-timesteps", "1e14", "--checkpoint-interval", count(1, 30), "--quiet"]
        words = ["train", method, "gymnax:CartPole-v1", "--run-dir", tmp_path / method, *flags]
        with (tmp_path / f"{method}.log").open("w") as log:
            processes[method] = start(*words, stdout=log, env={"JAX_LOG_COMPILES": "1"})
    for method, process in processes.items():
        first = await_checkpoint(process, tmp_path / method)
        await_checkpoint(process, tmp_path / method, after=first)  # everything is compiled now
    time.sleep(hours * 3600 / 6)  # warm-up: allocators and file caches fill
    logs = {method: (tmp_path / f"{method}.log").stat().st_size for method in processes}
    rows = {method: [] for method in processes}
    began = time.monotonic()
    while time.monotonic() - began < hours * 3600:
        for method, process in processes.items():
            rows[method].append((time.monotonic() - began, *sample(process)))
        time.sleep(every)
    for method, process in processes.items():
        compiled = (
            (tmp_path / f"{method}.log")
            .read_text()[logs[method] :]
            .count("Finished XLA compilation")
        )
        process.send_signal(signal.SIGTERM)
        assert finish(process)[0] == 130
        seconds, memory, threads, handles = np.array(rows[method]).T
        slope = np.polyfit(seconds / 3600, memory, 1)[0]
        run = RunDirectory(tmp_path / method)
        found[method] = {
            **{
                "memory_mib": [memory[0], memory[-1]],
                "mib_per_hour": slope,
                "samples": len(memory),
            },
            **{"threads": distinct(threads), "handles": distinct(handles), "compiled": compiled},
            **{
                "env_steps": run.summary()["env_steps"],
                "checkpoint": run.checkpoints.load("last").path.name,
            },
        }
    text = "; ".join(
        f"{method}: {row['env_steps']:,} steps, {row['memory_mib'][0]:.1f} to "
        f"{row['memory_mib'][1]:.1f} MiB, {row['mib_per_hour']:+.2f} MiB an hour, "
        f"threads {row['threads']}, handles {row['handles']}, {row['compiled']} programs compiled"
        for method, row in found.items()
    )
    figure(f"{hours:g} hours of each, side by side: {text}", hours=hours, runs=found)
    for row in found.values():
        assert row["compiled"] == 0
        # During a checkpoint the two workers have ended, and its file is open.
        assert max(row["threads"]) - min(row["threads"]) <= 2
        assert max(row["handles"]) - min(row["handles"]) <= 2
        assert not count(0, 1) or row["mib_per_hour"] <= MAX_MIB_PER_HOUR
