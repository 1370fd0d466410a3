"""Layers of the package: which module may import which, and what an import must not load."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "jax_a3c"

# Layers from the bottom up. A row names what it may import; a folder stands for all its files.
BOTTOM = {"types", "errors", "messages", "checks", "machine"}
MATHS = {"returns", "losses", "distributions", "exploration", "shards"}
PROTOCOLS = {"envs.base", "envs.host", "networks.base", "settings.parts"}
LEARNING = {"rollouts", "objectives", "normalization"}
CORE = BOTTOM | MATHS | PROTOCOLS | LEARNING | {"acting", "keys", "programs"}
LIBRARY = CORE | {"runners", "envs", "networks", "optimizers", "scores", "settings"}

RULES: dict[str, set[str]] = {
    "types": set(),
    "errors": set(),
    "machine": set(),
    "messages": set(),
    "checks": {"errors", "messages"},
    "scores": BOTTOM,
    "programs": BOTTOM,
    "keys": BOTTOM,
    **dict.fromkeys(MATHS, BOTTOM),
    "exploration": BOTTOM | {"settings.parts"},
    "optimizers": BOTTOM,
    "settings": BOTTOM | {"settings", "scores"},
    "envs.base": BOTTOM,
    "envs.*": BOTTOM | {"envs.base", "envs.host", "envs.single"},  # no adapter knows another
    "envs": BOTTOM | {"envs"},  # make()
    "networks": BOTTOM | {"networks", "distributions", "envs.base"},
    "rollouts": BOTTOM,
    "objectives": BOTTOM | MATHS | PROTOCOLS | LEARNING,
    "normalization": BOTTOM | MATHS | PROTOCOLS | LEARNING,
    "acting": CORE,
    # A runner knows no network, optimizer or adapter: these are arguments.
    "runners": CORE | {"runners"},
    "experiment": LIBRARY | {"experiment"},
    "evaluation": LIBRARY | {"experiment", "evaluation"},
    "training": LIBRARY | {"experiment", "evaluation", "training", PACKAGE},
    "cli": LIBRARY | {"experiment", "evaluation", "training", "cli", PACKAGE},
    # jax_a3c/__init__.py, for type checkers; at run time its names are lazy.
    PACKAGE: LIBRARY | {"evaluation", "training"},
}

ENVIRONMENT_LIBRARIES = {"gymnax", "envpool", "gymnasium"}
HEAVY = ENVIRONMENT_LIBRARIES | {"matplotlib", "tensorboardX", "imageio", "tyro", "tqdm"}


class Import(NamedTuple):
    """One imported module; `lazy` inside a function or under `if TYPE_CHECKING`."""

    name: str
    lazy: bool
    line: int

    @property
    def inner(self) -> str | None:
        """Return the name inside the package, None for another library."""
        top, _, rest = self.name.partition(".")
        return (rest or PACKAGE) if top == PACKAGE else None


def module_name(path: Path, package: Path) -> str:
    """Return `envs.gymnax` for `jax_a3c/envs/gymnax.py`, and `envs` for its `__init__`."""
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or PACKAGE


def imports_of(source: str, modules: set[str]) -> Iterator[Import]:
    """Yield the imports of a file; `from a import b` is `a.b` if that is a module, else `a`."""

    def visit(node: ast.AST, lazy: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, lazy, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"line {node.lineno}: write absolute imports"
            for alias in node.names:
                longer = Import(f"{node.module}.{alias.name}", lazy, node.lineno)
                yield longer if longer.inner in modules else Import(node.module, lazy, node.lineno)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        inside |= isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, lazy or inside)

    return visit(ast.parse(source), lazy=False)


def allowed(module: str) -> set[str]:
    """Return the row of a module; raise LookupError if the table has none."""
    top = module.split(".")[0]
    for row in (module, f"{top}.*" if "." in module else module, top):
        if row in RULES:
            return RULES[row]
    raise LookupError(f"{module} has no rule: add it to RULES in {Path(__file__).name}")


def violations(package: Path) -> list[str]:
    """Return one sentence per broken rule."""
    files = {module_name(path, package): path for path in sorted(package.rglob("*.py"))}
    modules = set(files) | set(RULES)
    found = []
    for module, path in files.items():
        try:
            may = allowed(module)
        except LookupError as error:
            found.append(str(error))
            continue
        for imported in imports_of(path.read_text(encoding="utf-8"), modules):
            where = f"{path.relative_to(package.parent)}:{imported.line}"
            inner, top = imported.inner, imported.name.split(".")[0]
            if inner:
                if inner != module and not {inner, inner.split(".")[0]} & may:
                    found.append(f"{where}: {module} must not import {inner}")
            elif top in ENVIRONMENT_LIBRARIES:
                if module != f"envs.{top}":
                    found.append(f"{where}: only envs.{top} imports {top}")
                elif not imported.lazy:
                    found.append(f"{where}: import {top} inside the function that needs it")
            elif module == "runners.shared_parameters" and top in {"jax", "jaxlib"}:
                found.append(f"{where}: {module} is NumPy only")
            elif module.split(".")[0] == "settings" and top in {"jax", "jaxlib", "flax", "optax"}:
                found.append(f"{where}: {module} must not import {top}, so that --help is quick")
    return found


def loaded_by(statements: str) -> set[str]:
    """Return the top-level names that a new interpreter loads; check that it keeps `os.environ`."""
    program = (
        "import json, os, sys; before = dict(os.environ)\n"
        f"{statements}\n"
        "assert dict(os.environ) == before, 'os.environ was changed'\n"
        "print(json.dumps([name.split('.')[0] for name in list(sys.modules)]))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_package_keeps_its_layers():
    assert violations(ROOT / PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "source", "message"),
    [
        ("types.py", "from jax_a3c import returns", "types must not import returns"),
        ("returns.py", "from jax_a3c.losses import value_loss", "returns must not import losses"),
        ("losses.py", "from jax_a3c import a2c", "losses must not import jax_a3c"),
        (
            "runners/shared_parameters.py",
            "import jax.numpy as jnp",
            "shared_parameters is NumPy only",
        ),
        (
            "envs/base.py",
            "def f():\n  import jax_a3c.runners.asynchronous",
            "must not import runners.asynchronous",
        ),
        ("runners/asynchronous.py", "from jax_a3c.networks import MLP", "must not import networks"),
        ("runners/synchronous.py", "from jax_a3c import envs", "must not import envs"),
        ("rollouts.py", "from jax_a3c.envs.gymnax import make", "must not import envs.gymnax"),
        ("envs/envpool.py", "from jax_a3c.envs import gymnax", "envs.envpool must not import envs"),
        ("envs/gymnax.py", "import gymnax", "inside the function"),
        ("envs/gymnax.py", "def f():\n  import gymnasium", "only envs.gymnasium imports gymnasium"),
        ("training/train.py", "def f():\n  import envpool", "only envs.envpool imports envpool"),
        ("training/train.py", "from jax_a3c import cli", "training.train must not import cli"),
        ("settings/methods.py", "import jax_a3c.cli", "settings.methods must not import cli"),
        ("settings/parts.py", "import jax", "settings.parts must not import jax"),
        ("utils.py", "", "utils has no rule"),
    ],
)
def test_a_broken_rule_is_found(tmp_path: Path, file: str, source: str, message: str):
    path = tmp_path / PACKAGE / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    (found,) = violations(tmp_path / PACKAGE)
    assert message in found


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("envs/gymnax.py", "from jax_a3c.envs.base import Box\ndef f():\n  import gymnax"),
        ("envs/gymnax.py", "if TYPE_CHECKING:\n  import gymnax"),
        (
            "networks/torsos.py",
            "from jax_a3c.networks.heads import Q\nfrom jax_a3c.types import Array",
        ),
        ("training/train.py", "from jax_a3c import __version__, a2c\nimport jax_a3c.envs"),
        ("objectives.py", "import jax\nfrom jax_a3c import losses, returns"),
        (
            "runners/shared_parameters.py",
            "import types\nfrom jax_a3c.types import Array",
        ),
    ],
)
def test_a_kept_rule_is_not(tmp_path: Path, file: str, source: str):
    path = tmp_path / PACKAGE / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert violations(tmp_path / PACKAGE) == []


def test_importing_the_package_loads_nothing_heavy():
    assert not loaded_by("import jax_a3c") & (HEAVY | {"jax", "jaxlib", "numpy"})


def test_importing_the_command_line_does_not_load_jax():
    assert not loaded_by("import jax_a3c.cli") & (
        ENVIRONMENT_LIBRARIES | {"jax", "jaxlib", "matplotlib"}
    )


def test_the_public_names_load_no_environment_library():
    # JAX sets environment variables, so it is imported before the comparison.
    names = loaded_by(
        "import jax; before = dict(os.environ)\n"
        "import jax_a3c; public = [getattr(jax_a3c, name) for name in jax_a3c.__all__]"
    )
    assert not names & (HEAVY - {"tqdm"})
