"""When the disk is full, old files stay intact, nothing is half written, and a run continues.

A limit on the size of files simulates the full disk. Python ignores the signal for it, so a write
fails or writes only a part, as on a full disk.
"""

import contextlib
import errno
import json
import os
import random
import resource
from pathlib import Path

import numpy as np
import pytest
from reliability.runs import await_checkpoint, finish, start

from jax_a3c.experiment import checkpoints
from jax_a3c.experiment.checkpoints import Checkpoints
from jax_a3c.experiment.files import append_line, write_whole
from jax_a3c.experiment.run_directory import RunDirectory

CARTPOLE = "gymnax:CartPole-v1"
ARRAYS = {"variables/a": np.arange(700.0), "state/b": np.ones((30, 4), np.float32)}
HARD = resource.getrlimit(resource.RLIMIT_FSIZE)[1]


@contextlib.contextmanager
def room_for(size):
    """Limit the size of every file to `size` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, HARD))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (HARD, HARD))


@contextlib.contextmanager
def failing(monkeypatch, owner, name, number):
    """Let call `number` of a function, counted from 0, fail because the disk is full."""
    calls, before = iter(range(10**6)), getattr(owner, name)

    def call(*arguments, **options):
        if next(calls) == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return before(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, call)
        yield


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def offsets(count, size):
    """Return limits in bytes, all smaller than what should be written."""
    rng = random.Random(0)
    return range(size) if count(0, 1) else sorted({0, 1, size - 1, *rng.sample(range(size), 100)})


def test_full_disk_at_every_byte_of_a_checkpoint(tmp_path, count, figure):
    folder = Checkpoints(tmp_path)
    size = folder.save(1, ARRAYS, {"steps": 1}, keep=2).stat().st_size
    before = names(tmp_path)
    for room in offsets(count, size):
        with room_for(room), pytest.raises(OSError, match="File too large"):
            folder.save(2, ARRAYS, {"steps": 2}, keep=2)
        assert names(tmp_path) == before
        with room_for(room), pytest.raises(OSError, match="File too large"):
            folder.save(1, ARRAYS, {"steps": 3}, keep=2)  # same name, as in a resumed run
        assert names(tmp_path) == before and folder.newest().facts == {"steps": 1}
    tried = 2 * len(offsets(count, size))
    figure(
        f"{tried:,} of {tried:,} refused saves left the checkpoint before, and nothing else",
        cases=tried,
    )


@pytest.mark.parametrize(
    ("owner", "name", "calls"),
    [
        (os, "fsync", 2),
        (Path, "replace", 1),
        (Path, "open", 1),
        (Path, "unlink", 1),
        (os, "open", 1),
    ],
)
def test_full_disk_at_every_call_of_a_save(owner, name, calls, tmp_path, monkeypatch):
    for number in range(calls):
        path = tmp_path / str(number)
        path.mkdir()
        folder = Checkpoints(path)
        for steps in (1, 2):
            folder.save(steps, ARRAYS, {"steps": steps}, keep=2)
        with failing(monkeypatch, owner, name, number), contextlib.suppress(OSError):
            folder.save(3, ARRAYS, {"steps": 3}, keep=2)
        assert not list(path.glob("*.partial"))
        for checkpoint in folder.paths():
            checkpoints.read(checkpoint)
        assert folder.newest().facts["steps"] in (2, 3)
        folder.save(4, ARRAYS, {"steps": 4}, keep=2)
        assert len(folder.paths()) == 2 and folder.newest().facts == {"steps": 4}


def test_full_disk_at_the_best_checkpoint(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    folder = Checkpoints(tmp_path)
    folder.keep_as_best(folder.save(1, ARRAYS, {"steps": 1}, keep=2))
    newer = folder.save(2, ARRAYS, {"steps": 2}, keep=2)
    monkeypatch.setattr(os, "link", no_links)
    for room in (0, 1, 1000, newer.stat().st_size - 1):
        with room_for(room), pytest.raises(OSError, match="File too large"):
            folder.keep_as_best(newer)
        assert folder.load("best").facts == {"steps": 1} and not list(tmp_path.glob("*.partial"))
    folder.keep_as_best(newer)
    assert folder.load("best").facts == {"steps": 2}


def test_full_disk_at_every_byte_of_other_files(tmp_path, count, figure):
    path, lines, tried = tmp_path / "summary.json", tmp_path / "metrics.jsonl", 0
    row = json.dumps({"env_steps": 1, "episode_return": 12.5, "text": "x" * 300})
    content = json.dumps({"status": "completed", "text": "x" * 800}).encode()
    write_whole(path, b"{}")
    for room in offsets(count, len(content)):
        with room_for(room), pytest.raises(OSError, match="File too large"):
            write_whole(path, content)
        assert path.read_bytes() == b"{}" and names(tmp_path) == ["summary.json"]
        tried += 1
    append_line(lines, row)
    for room in offsets(count, 2 * len(row) + 2):
        with room_for(room), pytest.raises(OSError, match="File too large"):
            append_line(lines, row)
        assert lines.read_text() == f"{row}\n"
        tried += 1
    figure(f"{tried:,} of {tried:,} refused writes left the file as it was", cases=tried)


def limited(size):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, HARD))


def words(path, total, *more):
    flags = [
        "--total-timesteps",
        total,
        "--checkpoint-interval",
        "0.05",
        "--eval-episodes",
        "1",
        "--quiet",
    ]
    return ["train", "a2c", CARTPOLE, *flags, "--run-dir", path, *more]


@pytest.mark.parametrize("size", [4_000, 40_000])
def test_a_run_on_a_full_disk_goes_on_and_says_so(size, tmp_path):
    """Only the configuration fits, or everything except checkpoints."""
    process = start(
        *words(tmp_path / "run", "2e5"), preexec_fn=limited(size), shares_programs=False
    )
    code, output = finish(process)
    assert code == 1, output
    assert "Traceback" not in output and "training continues" in output
    last = output.splitlines()[-1]
    assert last.startswith("jax-a3c: error:") and "File too large" in last
    run = RunDirectory(tmp_path / "run")
    assert not list(run.path.rglob("*.partial")) and not run.checkpoints.paths()
    assert run.summary()["env_steps"] == 200_000 and run.summary()["status"] == "failed"
    # One line each for the preset, checkpoints, metrics, the evaluation, the curve and the end.
    assert len(output.splitlines()) <= 6
    assert len(set(output.splitlines())) == len(output.splitlines())
    for row in run.metrics() if (run.path / "metrics.jsonl").exists() else []:
        assert row["env_steps"] <= 200_000


def test_a_run_that_finds_space_again_completes(tmp_path):
    process = start(*words(tmp_path / "run", "1e14"))
    steps = await_checkpoint(process, tmp_path / "run", after=1)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (20_000, HARD))
    process.stdout.readline()  # the message that no checkpoint was written
    run = RunDirectory(tmp_path / "run")
    before = int(run.checkpoints.paths()[0].stem)
    assert before >= steps and run.checkpoints.newest().path == run.checkpoints.paths()[0]
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (HARD, HARD))
    await_checkpoint(process, tmp_path / "run", after=before)
    process.terminate()
    code, output = finish(process)
    assert code == 130 and "Traceback" not in output
    assert run.summary()["status"] == "interrupted"
    assert run.checkpoints.load("last").facts["progress"]["env_steps"] == run.summary()["env_steps"]
    assert run.metrics()[-1]["env_steps"] == run.summary()["env_steps"]


def test_events_for_tensorboard_on_a_full_disk(tmp_path):
    pytest.importorskip("tensorboardX", reason="pip install 'jax-a3c[tensorboard]'")
    process = start(
        *words(tmp_path / "run", "2e5", "--tensorboard"),
        preexec_fn=limited(50_000),
        shares_programs=False,
    )
    code, output = finish(process)
    assert code == 0, output  # checkpoints fit
    assert "Traceback" not in output and output.count("nothing more is logged") == 1
    assert RunDirectory(tmp_path / "run").summary()["status"] == "completed"
