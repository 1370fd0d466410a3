"""Settings and fixtures of all tests."""

import json
import time
from pathlib import Path

import hypothesis
import jax
import memory
import pytest

FIGURES = Path(__file__).parent / "reliability" / "figures"

# Tests compile in half the time, unless they are marked `optimized`.
jax.config.update("jax_disable_most_optimizations", True)

# On a busy machine one example may take long.
hypothesis.settings.register_profile(
    "suite", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("suite")


def pytest_addoption(parser):
    parser.addoption(
        "--full",
        action="store_true",
        help="full counts of tests/reliability; figures are written there",
    )
    parser.addoption(
        "--hours", type=float, default=2.0, help="hours of the long runs of tests/reliability"
    )


def pytest_collection_modifyitems(items):
    """Mark the tests that slow.txt lists, and refuse a name there that no test has."""
    both = (Path(__file__).parent / "slow.txt").read_text().partition("# Not in .ci/run")
    slow, _, rare = ({line for line in part.splitlines() if "::" in line} for part in both)
    listed = slow | rare
    found = set()
    for item in items:
        names = {item.nodeid, item.nodeid.partition("[")[0]} & listed
        found |= names
        if names:
            item.add_marker("slow")
        if names & rare:
            item.add_marker("rare")

    # Only whole files tell: a run may select some tests of a file.
    files = {item.nodeid.partition("::")[0] for item in items}
    if len(files) > 40:
        unknown = listed - found
        assert not unknown, f"tests/slow.txt names tests that do not exist: {sorted(unknown)}"


@pytest.fixture(autouse=True, scope="module")
def bounded_memory(request):
    """Check the peak memory of each module, and drop its compiled programs at its end."""
    with memory.bounded(request.node.nodeid):
        yield


@pytest.fixture(autouse=True)
def released_memory():
    """Drop compiled programs when the process is large, so that no module reaches the bound."""
    yield
    memory.release_above()


@pytest.fixture(autouse=True)
def optimized_compilation(request):
    """Compile with all optimisations in tests marked `optimized`."""
    jax.config.update("jax_disable_most_optimizations", "optimized" not in request.keywords)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def count(request):
    """Return `count(short, full)`, which picks the default count or the one of `--full`."""
    return lambda short, full: full if request.config.getoption("--full") else short


@pytest.fixture
def figure(request, capsys):
    """Return `figure(text, **numbers)`: print a result; with `--full` also save it."""
    from jax_a3c.experiment.run_directory import environment

    start = time.time()

    def write(text, **numbers):
        name = request.node.name
        with capsys.disabled():
            print(f"\n{name}: {text}")
        if request.config.getoption("--full"):
            FIGURES.mkdir(exist_ok=True)
            content = {"figure": text, **numbers, "seconds": round(time.time() - start, 1)}
            content["environment"] = environment()
            (FIGURES / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")

    return write
