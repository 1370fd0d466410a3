"""With a slow disk or a closed terminal training continues, or ends with a checkpoint."""

import fcntl
import itertools
import os
import signal
import struct
import subprocess
import termios
import time

import numpy as np
import pytest
from concurrency import PATIENCE
from reliability.runs import await_checkpoint, finish, start

from jax_a3c.experiment.run_directory import RunDirectory
from jax_a3c.settings.run import RunOptions, resolve
from jax_a3c.training import train as training
from jax_a3c.training.session import CHECKPOINTS_SHARE, Session

SMALL = ("--hidden", "8", "--num-envs", "1", "--eval-episodes", "1", "--checkpoint-interval", "0.5")


@pytest.mark.parametrize("method", ["a2c", "a3c"])
def test_a_slow_disk(method, count, figure, tmp_path, monkeypatch):
    """Each `fsync` takes 0.3 seconds, and a checkpoint calls it twice.

    The next checkpoint waits until the share of time for checkpoints allows it.
    """
    flush, takes, flushes, counts = os.fsync, count(0.05, 0.3), [], []

    def slow(descriptor):
        began = time.monotonic()
        time.sleep(takes)
        flush(descriptor)
        flushes.append((began, time.monotonic()))

    save = Session._save

    def saving(self, state, *, last=False):
        began, steps = time.monotonic(), self._recorder.progress.env_steps
        save(self, state, last=last)
        counts.append((began, time.monotonic(), steps))
        if len(counts) == count(3, 5):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(os, "fsync", slow)
    monkeypatch.setattr(Session, "_save", saving)
    settings = resolve(method, "gymnax:CartPole-v1", total_timesteps=10**12, hidden=(8,))
    options = RunOptions(quiet=True, checkpoint_interval=0.01)
    summary = training.train(
        method, "gymnax:CartPole-v1", settings, tmp_path / "run", options=options
    )
    assert summary["status"] == "interrupted"
    first, *others = counts
    steps = others[-1][2]
    assert int(RunDirectory(tmp_path / "run").checkpoints.load("last").path.stem) == steps
    scheduled = counts[:-1]
    assert (np.diff([steps for *_, steps in scheduled]) > 0).all(), (
        "training goes on between checkpoints"
    )
    for (began, end, _), (following, *_) in itertools.pairwise(scheduled):
        disk = sum(done - asked for asked, done in flushes if began < asked < end)
        assert disk >= 2 * takes and disk / (following - began - disk) <= CHECKPOINTS_SHARE
    window = others[-1][1] - first[1]
    share = sum(end - began for began, end, _ in others) / window
    waiting = (
        sum(end - began for began, end in flushes if first[1] < began < others[-1][1]) / window
    )
    figure(
        f"{method}: {len(others)} checkpoints in {window:.0f} s with an fsync of {takes} s: "
        f"{share:.1%} of the time, {waiting:.1%} of it for the disk; {steps:,} steps",
        checkpoints=len(others),
        seconds_of_training=round(window, 1),
        share=round(share, 4),
        waiting_for_the_disk=round(waiting, 4),
    )
    assert waiting < count(1.0, 0.06)  # the last checkpoint follows the signal at once


def closed_pipe():
    """Return the write end of a pipe without a reader."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


STREAMS = {
    "a closed pipe": lambda: {"stderr": closed_pipe()},
    "a full device": lambda: {"stderr": os.open("/dev/full", os.O_WRONLY)},
    "closed pipes": lambda: {"stdout": closed_pipe(), "stderr": closed_pipe()},
    "full devices": lambda: dict.fromkeys(("stdout", "stderr"), os.open("/dev/full", os.O_WRONLY)),
    "no descriptor": lambda: {"first": "os.close(2)"},
    "no descriptors": lambda: {"first": "os.closerange(0, 3)"},
}


def test_a_run_whose_messages_nobody_takes_completes(count, figure, tmp_path):
    names, methods = count(["closed pipes"], list(STREAMS)), ("a3c", "a2c")
    for number, name in enumerate(names):
        run, method = RunDirectory(tmp_path / name), methods[number % 2]
        words = ["train", method, "gymnax:CartPole-v1", "--total-timesteps", "20000", *SMALL]
        code, _ = finish(start(*words, "--run-dir", run.path, **STREAMS[name]()))
        assert code == 0, (method, name)
        summary = run.summary()
        assert summary["status"] == "completed" and summary["eval_episodes"] == 1
        assert int(run.checkpoints.load("last").path.stem) == summary["env_steps"] >= 20000
    figure(
        f"{len(names)} runs completed whose streams were {', '.join(names)}",
        runs=len(names),
        streams=names,
    )


def test_results_that_nobody_takes_end_a_command_with_its_code():
    """A closed reader, as in `jax-a3c presets | head`, is not an error; a full disk is."""
    assert finish(start("presets", stdout=closed_pipe()))[0] == 0
    assert finish(start("--help", stdout=closed_pipe()))[0] == 0
    with open("/dev/full", "w") as full:
        process = start("presets", stdout=full, stderr=subprocess.PIPE)
        assert process.wait() == 1 and "error: [Errno 28]" in process.stderr.read()


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs Linux' /proc")
def test_no_file_takes_the_place_of_a_closed_stream(tmp_path):
    """Native code writes its messages to descriptor 2, even if that is another file."""
    words = ["train", "a3c", "gymnax:CartPole-v1", "--total-timesteps", "1e9", *SMALL]
    process = start(*words, "--run-dir", tmp_path / "run", first="os.closerange(0, 3)")
    await_checkpoint(process, tmp_path / "run")
    assert {os.readlink(f"/proc/{process.pid}/fd/{descriptor}") for descriptor in range(3)} == {
        os.devnull
    }
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 130


def test_a_terminal_that_is_closed_ends_the_run_with_a_checkpoint(count, figure, tmp_path):
    """The process gets SIGHUP, and its output cannot be written."""
    methods, slowest = count(["a3c"], ["a2c", "a3c"]), 0.0
    for method in methods:
        terminal, ours = os.openpty()
        os.set_blocking(terminal, False)
        fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        run = RunDirectory(tmp_path / method)
        words = ["train", method, "gymnax:CartPole-v1", "--total-timesteps", "1e9", *SMALL]
        streams = {"stdin": ours, "stdout": ours, "stderr": ours, "start_new_session": True}
        process = start(
            *(*words, "--run-dir", run.path),
            **streams,
            first="import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)",
        )
        os.close(ours)
        shown, deadline = b"", time.monotonic() + PATIENCE
        while (
            b"steps" not in shown or len(run.checkpoints.paths()) < 2
        ) and time.monotonic() < deadline:
            try:
                shown += os.read(terminal, 4096)
            except BlockingIOError:
                time.sleep(0.01)
        assert b"steps" in shown, "the progress bar"
        os.close(terminal)
        began = time.monotonic()
        assert process.wait(timeout=PATIENCE) == 130
        slowest = max(slowest, time.monotonic() - began)
        summary = run.summary()
        assert summary["status"] == "interrupted"
        assert int(run.checkpoints.load("last").path.stem) == summary["env_steps"] > 0
    figure(
        f"{', '.join(methods)}: a closed terminal ended the run with a checkpoint, "
        f"after {slowest:.1f} s",
        runs=len(methods),
        slowest_seconds=round(slowest, 2),
    )
