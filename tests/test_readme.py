"""The README is short, and its programs run."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("program", PROGRAMS, ids=["a2c", "a3c"])
def test_a_program_runs_and_is_as_short_as_its_title_says(program, capsys):
    exec(compile(program, "README.md", "exec"), {})
    assert len(capsys.readouterr().out) > 5
    assert len([line for line in program.splitlines() if line.strip()]) <= 15


def test_the_readme_fits_on_the_front_page():
    assert len(README.splitlines()) <= 140
