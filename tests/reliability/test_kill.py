"""After SIGKILL at random times every run resumes and ends with the same parameters."""

import hashlib
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from concurrency import PATIENCE
from reliability.killed_in_a_save import STAGES
from reliability.runs import ROOT, finish, start

from jax_a3c.experiment.run_directory import RunDirectory

DIES = ROOT / "tests" / "reliability" / "killed_in_a_save.py"
INTERVAL = 1.0
SLACK = 1.0
"""Seconds for a slice of training and a save, on the machine that runs the full counts."""
KILLS = 4
"""Maximum number of kills of one run."""


def digest(run):
    """Return the SHA-256 of all arrays of a run's last checkpoint."""
    arrays = run.checkpoints.load("last").arrays
    return hashlib.sha256(b"".join(arrays[name].tobytes() for name in sorted(arrays))).hexdigest()


def began(process, run_dir, before):
    """Wait for a new `config.json`, which a process writes just before it trains."""
    config, deadline = run_dir / "config.json", time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        if config.exists() and config.stat().st_mtime_ns > before:
            return
        time.sleep(0.005)
    assert process.returncode in (-signal.SIGKILL, 0), f"it did not go on: {finish(process)}"


def lost(run):
    """Return the training after the last checkpoint, in seconds and environment steps."""
    newest = run.checkpoints.newest()
    if newest is None or not (run.path / "metrics.jsonl").exists() or not (rows := run.metrics()):
        return 0.0, 0
    progress = newest.facts["progress"]
    steps = rows[-1]["env_steps"] - progress["env_steps"]
    return (rows[-1]["seconds"] - progress["seconds"] if steps > 0 else 0.0), max(steps, 0)


def chain(rng, run_dir, flags, kills):
    """Kill and resume a run `kills` times, then let it end; return a record of each kill."""
    run, found, inside = RunDirectory(run_dir), [], rng.randrange(min(kills, 2))
    while True:
        going_on = ["--resume", run_dir] if found else ["--run-dir", run_dir]
        words = ["train", *([] if found else ["a2c", "gymnax:CartPole-v1"]), *flags, *going_on]
        before = (run_dir / "config.json").stat().st_mtime_ns if found else 0
        stage = STAGES[rng.randrange(len(STAGES))] if len(found) == inside else None
        if len(found) == kills:
            process = start(*words)
            code, output = finish(process)
            assert code == 0, output
            return found
        if stage is not None:
            process = start(stage, rng.randint(1, 4), *words, script=DIES)
            began(process, run_dir, before)
        else:
            process = start(*words)
            began(process, run_dir, before)
            time.sleep(rng.uniform(0.0, 3.0))
            process.kill()
        code, output = finish(process)
        if code == 0:  # it ended before the kill
            return found
        assert code == -signal.SIGKILL, output
        assert (run_dir / "config.json").stat().st_mtime_ns > before, output
        paths, seconds, steps = run.checkpoints.paths(), *lost(run)
        if paths:
            assert run.checkpoints.newest().path == paths[0]  # a kill leaves no damaged checkpoint
        found.append(
            {"stage": stage, "checkpoints": len(paths), "seconds": seconds, "steps": steps}
        )


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_kill(tmp_path, count, figure):
    flags = ["--total-timesteps", count("8e5", "3e6"), "--checkpoint-interval", INTERVAL]
    flags += ["--eval-episodes", "1", "--quiet"]
    process = start("train", "a2c", "gymnax:CartPole-v1", *flags, "--run-dir", tmp_path / "whole")
    code, output = finish(process)
    assert code == 0, output
    whole = RunDirectory(tmp_path / "whole")
    expected = digest(whole)
    wanted, kills, runs, equal = count(2, 200), [], 0, 0
    with ThreadPoolExecutor(count(1, 3)) as pool:
        while len(kills) < wanted:
            numbers = range(runs, runs + count(1, 3))
            several = [
                pool.submit(
                    *(chain, random.Random(number), tmp_path / f"run-{number}", flags),
                    min(KILLS, wanted - len(kills)),
                )
                for number in numbers
            ]
            for number, future in zip(numbers, several, strict=True):
                kills += future.result()
                run = RunDirectory(tmp_path / f"run-{number}")
                summary = run.summary()
                assert summary["status"] == "completed"
                equal += digest(run) == expected
                assert sum(row["interval_updates"] for row in run.metrics()) == summary["updates"]
                assert summary["eval_return_mean"] == whole.summary()["eval_return_mean"]
            runs += len(numbers)
    longest = max(row["seconds"] for row in kills)
    inside = [row["stage"] for row in kills if row["stage"]]
    numbers = {
        "kills": len(kills),
        "inside_a_save": {stage: inside.count(stage) for stage in STAGES},
    }
    numbers |= {"runs": runs, "equal": equal, "longest_loss_seconds": longest, "interval": INTERVAL}
    numbers |= {"mean_loss_seconds": sum(row["seconds"] for row in kills) / len(kills)}
    figure(
        f"{len(kills)} of {len(kills)} kills were followed by a resume, {len(inside)} of them "
        f"inside a save; {equal} of {runs} runs ended with the parameters of an undisturbed run, "
        f"by SHA-256; at most {longest:.2f} s of training were lost, with a checkpoint every "
        f"{INTERVAL} s",
        **numbers,
    )
    assert equal == runs
    assert longest <= INTERVAL + count(
        PATIENCE, SLACK
    )  # the default suite allows for a busy machine
