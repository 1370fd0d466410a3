"""Loggers: Weights & Biases offline, and loggers that fail. test_training.py has TensorBoard."""

import json
import sys

import pytest

from jax_a3c import cli
from jax_a3c.experiment.run_directory import RunDirectory
from jax_a3c.runners.base import Progress
from jax_a3c.training.loggers import finite
from jax_a3c.training.metrics import Recorder

WORDS = ["train", "a2c", "gymnax:CartPole-v1", "--total-timesteps", "1600", "--eval-episodes", "0"]


def test_weights_and_biases_offline_and_resumed(tmp_path, monkeypatch, capsys):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    logged = []
    log = wandb.Run.log
    monkeypatch.setattr(
        wandb.Run, "log", lambda self, row, step: (logged.append((step, row)), log(self, row, step))
    )

    path = tmp_path / "run"
    assert cli.main([*WORDS, "--wandb", "--quiet", "--run-dir", str(path)]) == 0
    (file,) = path.glob("wandb/offline-run-*/*.wandb")
    content = file.read_bytes()
    assert b"train/episode_return" in content and b"learning_rate" in content
    rows = RunDirectory(path).metrics()
    assert [step for step, _ in logged] == [row["env_steps"] for row in rows]
    for (_, row), written in zip(logged, rows, strict=True):
        known = {name: value for name, value in written.items() if value is not None}
        assert row == {f"train/{name}": value for name, value in known.items()}

    # A resumed run has the same id and goes on where it was.
    words = ["--total-timesteps", "3200", "--force", "--quiet"]
    assert cli.main(["train", "--resume", str(path), *words]) == 0
    run_id = json.loads((path / "wandb.json").read_text())["id"]
    files = list(path.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2 and all(file.name == f"run-{run_id}.wandb" for file in files)
    steps = [step for step, _ in logged]
    assert steps == sorted(set(steps)) and steps[-1] == 3200


def test_a_logger_that_is_not_installed_is_refused_before_anything_is_written(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert cli.main([*WORDS, "--wandb", "--run-dir", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'jax-a3c[wandb]'" in line
    assert not (tmp_path / "run").exists()


class Failing:
    """A logger that fails at its second line, and at its end."""

    name = "Failing"

    def __init__(self, at_end=False):
        self.rows = []
        self.at_end = at_end

    def add(self, row):
        if self.rows and not self.at_end:
            raise RuntimeError("no network")
        self.rows.append(finite(row)["updates"])

    def close(self):
        if self.at_end:
            raise RuntimeError("no network")


def test_a_logger_that_fails_ends_no_training(tmp_path, capsys):
    first, second = Failing(), Failing(at_end=True)
    recorder = Recorder(RunDirectory(tmp_path), 300, quiet=True, loggers=[first, second])
    for updates in (1, 2, 3):
        recorder(Progress(100 * updates, updates, float(updates), {"episodes": 0}, [updates]))
    recorder.close()
    assert (first.rows, second.rows) == ([1], [1, 2, 3])
    assert [row["updates"] for row in RunDirectory(tmp_path).metrics()] == [1, 2, 3]
    assert capsys.readouterr().err.splitlines() == [
        "warning: nothing more is logged to Failing: no network",
        "warning: the end of the run was not logged to Failing: no network",
    ]
