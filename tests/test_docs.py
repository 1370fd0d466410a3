"""The manual: links and anchors resolve, programs run, command lines parse, names exist."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

import jax_a3c
from jax_a3c import cli
from jax_a3c.cli import commands, supervisor
from jax_a3c.experiment.run_directory import RunDirectory
from jax_a3c.settings import run as settings
from jax_a3c.settings.methods import METHODS

ROOT = Path(__file__).parents[1]
PAGES = [
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
]
RUN_ELSEWHERE = {"README.md", "docs/deployment.md"}
"""Pages whose programs run in test_readme.py and test_deployment.py."""
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMANDS = (
    "Train",
    "Eval",
    "Record",
    "Export",
    "Plot",
    "Info",
    "Presets",
    "Envs",
)


def text_of(page: str) -> str:
    """Return a page without its blocks of code."""
    return FENCE.sub("", (ROOT / page).read_text())


def blocks_of(page: str, *languages: str) -> list[str]:
    """Return the blocks of code of a page that are in one of the languages."""
    return [
        code for language, code in FENCE.findall((ROOT / page).read_text()) if language in languages
    ]


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub and MkDocs make them."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def programs() -> list:
    """Return the Python blocks of the manual, each with its page."""
    return [
        pytest.param(page, code, id=f"{page}-{number}")
        for page in PAGES
        if page not in RUN_ELSEWHERE
        for number, code in enumerate(blocks_of(page, "python"))
    ]


def command_lines() -> list[str]:
    """Return each `jax-a3c` command line, of a shell block or within a sentence, once."""
    found = []
    for page in PAGES:
        lines = [line for code in blocks_of(page, "sh", "bash") for line in code.splitlines()]
        # A span such as `jax-a3c eval` or `jax-a3c COMMAND --help` names a command, and runs none.
        spans = re.findall(r"`(jax-a3c \w+ [^`]+|jax-a3c (?:presets|envs|info))`", text_of(page))
        spans = [span for span in spans if not re.search(r"\b(METHOD|ENV|COMMAND)\b", span)]
        found += [line for line in lines if "jax-a3c " in line and "pip " not in line] + spans
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("page", PAGES)
def test_every_link_and_anchor_resolves(page):
    for link in LINK.findall(text_of(page)):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


@pytest.mark.parametrize(("page", "program"), programs())
def test_a_program_runs(page, program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(program, page, "exec"), {})


@pytest.mark.parametrize("line", command_lines())
def test_a_command_line_parses(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line, comments=True)
    words = words[words.index("jax-a3c") + 1 :]
    words = [word for word in words if word != "&"]
    if "--resume" in words:
        run = Path(words[words.index("--resume") + 1])
        run.mkdir(parents=True)
        stored = settings.resolve("a2c", "gymnax:CartPole-v1")
        RunDirectory(run).write_config("a2c", "gymnax:CartPole-v1", stored, settings.RunOptions())

    parsed = []
    for name in COMMANDS:
        monkeypatch.setattr(
            getattr(commands, name), "__call__", lambda self: parsed.append(self) or 0
        )
    monkeypatch.setattr(
        supervisor, "supervise", lambda words, *args, **options: parsed.append(words) or 0
    )

    assert cli.main(words) == 0
    (command,) = parsed
    if isinstance(command, commands.Train):
        command.check()
        METHODS[command.method].settings(**dataclasses.asdict(command.settings))


def test_the_table_of_functions_names_what_exists():
    rows = re.findall(
        r"^\| \[`(\w+)`\]\(.*?\) \| (.*) \|$", text_of("docs/api/index.md"), flags=re.MULTILINE
    )
    assert len(rows) == 10
    methods = {"sample", "log_prob", "entropy", "mode", "kl_divergence"}
    for module, functions in rows:
        for name in set(re.findall(r"`(\w+)`", functions)) - methods:
            assert hasattr(getattr(jax_a3c, module), name), f"{module}.{name}"


def test_the_site_has_every_page():
    navigation = (
        (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2].partition("\nnot_in_nav")[0]
    )
    listed = set(re.findall(r"([\w/.-]+\.md)$", navigation, flags=re.MULTILINE))
    pages = {page.removeprefix("docs/") for page in PAGES} - {"README.md"}
    assert pages <= listed, "add the page to nav in mkdocs.yml"
    assert {page for page in listed - pages if not (ROOT / page).is_file()} == set()
