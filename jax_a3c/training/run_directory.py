"""The run directory: what a run was asked, where it ran, what it measured, what it learned."""

import importlib.metadata
import json
import math
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jax_a3c.checks import InputError
from jax_a3c.envs.base import available_cores
from jax_a3c.training.settings import Settings, resolve
from jax_a3c.types import Params

PACKAGES = ("jax_a3c", "jax", "jaxlib", "flax", "optax", "gymnax", "numpy", "envpool", "gymnasium", "mujoco")
PARAMETERS = "checkpoints/final.npz"


class RunDirectory:
    """Reads and writes the files of one run; each is either whole or absent.

    Attributes:
      path: the folder.
    """

    def __init__(self, path: Path):
        """Refer to the folder `path`; nothing is read or written yet."""
        self.path = path

    @classmethod
    def create(cls, path: Path, method: str, env_id: str, settings: dict[str, Any]) -> "RunDirectory":
        """Start a run in a folder that holds none.

        Args:
          path: the folder; it is made if it is missing.
          method: of the run.
          env_id: of the run.
          settings: all of them, resolved.

        Returns:
          The run directory, with `config.json` and `env.json` written.

        Raises:
          InputError: if the folder holds a run already or cannot be written.
        """
        if (path / "config.json").exists():
            raise InputError(f"run_dir {str(path)!r} holds a run already; choose another folder or remove it")
        run = cls(path)
        try:
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
            run._write("config.json", {"method": method, "env": env_id, "settings": settings})
        except OSError as error:
            raise InputError(f"run_dir {str(path)!r} cannot be written: {error}") from error
        run._write("env.json", environment())
        return run

    def config(self) -> tuple[str, str, Settings]:
        """Method, environment id and settings of the run.

        Raises:
          InputError: if the folder holds no run, or one that this version cannot read.
        """
        config = self._read("config.json")
        try:
            settings = {  # JSON has lists where the settings have tuples
                name: tuple(value) if isinstance(value, list) else value
                for name, value in config["settings"].items()
            }
            return config["method"], config["env"], resolve(config["method"], config["env"], **settings)
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{self.path / 'config.json'} is not a run's configuration: {error!r}"
            ) from error

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add one line to `metrics.jsonl`."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(_finite(row)) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`; a last one that was cut off is left out."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            raise InputError(f"{str(self.path)!r} holds no metrics.jsonl; is it a run directory?")
        rows = []
        for line in path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return rows

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write `summary.json`."""
        self._write("summary.json", summary)

    def summary(self) -> dict[str, Any]:
        """The run's `summary.json`.

        Raises:
          InputError: if there is none, because the run did not end.
        """
        return self._read("summary.json")

    def save_params(self, params: Params) -> None:
        """Write the network's variables, each array under its path in the tree."""
        arrays: dict[str, Any] = {name: np.asarray(leaf) for name, leaf in named_leaves(params).items()}
        partial = self.path / f"{PARAMETERS}.partial"
        with partial.open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.path / PARAMETERS)

    def load_params(self, like: Params) -> Params:
        """Read the network's variables into the structure of `like`.

        Args:
          like: a tree of arrays or of shapes.

        Returns:
          The variables.

        Raises:
          InputError: if the file is missing, unreadable or of another network.
        """
        path = self.path / PARAMETERS
        try:
            with np.load(path, allow_pickle=False) as file:
                stored = dict(file)
        except FileNotFoundError:
            raise InputError(f"{str(self.path)!r} has no {PARAMETERS}; its training did not end") from None
        except Exception as error:
            raise InputError(f"{path} cannot be read, it is damaged: {error}") from error

        for name, leaf in named_leaves(like).items():
            found = stored[name].shape if name in stored else "nothing"
            if found != leaf.shape:
                raise InputError(
                    f"{path} is of another network: {name} should be {leaf.shape}, found {found}"
                )
        return jax.tree.unflatten(jax.tree.structure(like), [stored[name] for name in named_leaves(like)])

    def _write(self, name: str, content: dict[str, Any]) -> None:
        partial = self.path / f"{name}.partial"
        partial.write_text(json.dumps(_finite(content), indent=2) + "\n")
        partial.replace(self.path / name)

    def _read(self, name: str) -> dict[str, Any]:
        path = self.path / name
        if not path.exists():
            raise InputError(f"{str(self.path)!r} holds no {name}; is it the directory of a run that ended?")
        try:
            return json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise InputError(f"{path} is damaged: {error}") from error


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths, such as `params/torso/Dense_0/kernel`, in a fixed order."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def environment() -> dict[str, Any]:
    """Versions, devices, processor and commit: what a figure must name to be believed."""
    return {
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cpu_cores": available_cores(),
        "devices": [f"{device.platform}:{device.device_kind}" for device in jax.devices()],
        "git_commit": _git_commit(),
    }


def _version(package: str) -> str | None:
    """None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )


def _git_commit() -> str | None:
    """Commit of the source tree that this package was imported from, None if it is installed without one."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # some repository around a .venv is not ours
        return git("describe", "--always", "--dirty", "--abbrev=40")
    except (OSError, subprocess.SubprocessError):
        return None


def _finite(value: Any) -> Any:
    """JSON has no NaN: what is not finite becomes null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
