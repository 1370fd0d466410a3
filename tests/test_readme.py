"""The front page is never ahead of the code: its programs run, its names exist."""

import re
from pathlib import Path

import pytest

import jax_a3c

README = (Path(__file__).parents[1] / "README.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("program", PROGRAMS, ids=["a2c", "a3c", "n-step-q"])
def test_the_programs_run_and_are_as_short_as_they_say(program, capsys):
    exec(compile(program, "README.md", "exec"), {})
    assert len(capsys.readouterr().out) > 20
    assert len([line for line in program.splitlines() if line.strip()]) <= 15


def test_the_functions_table_names_what_exists():
    table = README.partition("## Functions")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", table, flags=re.MULTILINE)
    assert len(rows) >= 7
    methods = {"sample", "log_prob", "entropy", "mode", "kl_divergence"}
    for module, functions in rows:
        for name in set(re.findall(r"`(\w+)`", functions)) - methods:
            assert hasattr(getattr(jax_a3c, module), name), f"{module}.{name}"
