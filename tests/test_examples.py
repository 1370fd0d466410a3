"""The programs of examples/ run by the command in their docstrings, and learn what they say."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = (
    "a2c",
    "a3c_from_scratch",
    "own_environment",
    "own_network",
    "own_objective",
    "sweep",
)
TIMEOUT = 900
"""Seconds. A program takes less than one minute, but this machine may be busy."""


def run(name):
    """Run an example; return the lines that it prints."""
    command = [sys.executable, f"examples/{name}.py"]
    program = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT)
    assert program.returncode == 0, program.stderr
    return program.stdout.splitlines()


def numbers(pattern, lines):
    """Return the number in each line that matches `pattern`, which has one group."""
    matches = [re.fullmatch(pattern, line) for line in lines]
    return [float(match[1]) for match in matches if match]


def test_every_example_is_tested_here():
    assert sorted(path.stem for path in ROOT.glob("examples/*.py")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_holds_the_command(name):
    docstring = ast.get_docstring(ast.parse((ROOT / f"examples/{name}.py").read_text()))
    assert f"\n    python examples/{name}.py" in docstring
    assert "runs in under a minute" in docstring.replace("\n", " ")


def test_a2c_solves_cartpole():
    lines = run("a2c")
    assert len(numbers(r" *[\d,]+ steps: mean return +([\d.]+)", lines)) == 8
    (mean_return,) = numbers(r"evaluation: mean return ([\d.]+) of 500", lines)
    assert mean_return >= 475


def test_a3c_from_scratch_learns_cartpole_without_the_package():
    source = (ROOT / "examples/a3c_from_scratch.py").read_text()
    assert not re.search(r"^(import|from) jax_a3c", source, flags=re.MULTILINE)

    lines = run("a3c_from_scratch")
    (mean_return,) = numbers(r"the last 100 episodes: mean return ([\d.]+) of 500", lines)
    assert mean_return > 195


def test_an_own_environment_is_solved_by_a2c_and_a3c():
    lines = run("own_environment")
    for method in ("A2C", "A3C"):
        pattern = rf"{method}: ([\d.]+)% reach the goal, [\d.]+ steps more than needed"
        assert numbers(pattern, lines)[0] >= 99
        pattern = rf"{method}: [\d.]+% reach the goal, ([\d.]+) steps more than needed"
        assert numbers(pattern, lines)[0] <= 0.1


def test_an_own_network_remembers():
    (mean_return,) = numbers(r"last 10 updates: mean return (-?[\d.]+) of 1", run("own_network"))
    assert mean_return >= 0.9


def test_an_own_objective_solves_cartpole_on_both_runners():
    lines = run("own_objective")
    for runner in ("synchronous", "asynchronous"):
        (mean_return,) = numbers(rf"{runner}: mean return ([\d.]+) of 500", lines)
        assert mean_return >= 400
        (divergence,) = numbers(rf"{runner}: [\d,]+ steps, mean divergence ([\d.]+)", lines)
        assert 0 < divergence < 0.1


def test_a_sweep_finds_the_best_learning_rate():
    lines = run("sweep")
    means = numbers(r" +1e-0\d(?: +[\d.]+){4} +([\d.]+)", lines)
    assert len(means) == 4
    assert means[2] == max(means) > 300  # 1e-2
    assert lines[-1].startswith("best learning rate: 1e-02")
