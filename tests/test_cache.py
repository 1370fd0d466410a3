"""The compilation cache of the command line: where it is, how it is bounded and turned off."""

import os

import pytest

from jax_a3c.cli.cache import MAX_BYTES, use_compilation_cache
from tests.reliability.runs import finish, start

NAMES = (
    "JAX_COMPILATION_CACHE_DIR",
    "JAX_COMPILATION_CACHE_MAX_SIZE",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
)


@pytest.fixture
def home(monkeypatch, tmp_path):
    """A user's cache folder, and an environment without JAX's variables."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that the end of the test restores it
        monkeypatch.delenv(name)
    return tmp_path / "cache"


def test_it_lies_in_the_users_cache_folder_and_has_a_bound(home):
    use_compilation_cache()
    folder, size, seconds = (os.environ[name] for name in NAMES)
    assert folder.startswith(str(home / "jax_a3c")) and os.path.isdir(folder)
    assert int(size) == MAX_BYTES and float(seconds) == 0.0


def test_what_the_user_sets_stays(home, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_MAX_SIZE", "5")
    use_compilation_cache()
    assert os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] == "5"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    use_compilation_cache()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "elsewhere"


def test_a_folder_that_cannot_be_made_is_done_without(home):
    home.write_text("a file")
    use_compilation_cache()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_a_run_fills_it(tmp_path):
    flags = ["--total-timesteps", "100", "--eval-episodes", "0", "--quiet"]
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "JAX_ENABLE_COMPILATION_CACHE": "true"}
    command = ["train", "a2c", "gymnax:CartPole-v1", *flags, "--run-dir", tmp_path / "run"]
    code, output = finish(start(*command, env=env, shares_programs=False))
    assert code == 0, output
    assert list((tmp_path / "cache" / "jax_a3c").rglob("*-cache"))
    assert "warning" not in output.lower()
