"""The run directory: configuration, machine, metrics, evaluations and checkpoints of one run."""

import dataclasses
import datetime
import importlib.metadata
import json
import math
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jax_a3c.checks import MAX_COUNT, check_integer, check_number
from jax_a3c.envs.base import available_cores
from jax_a3c.errors import InputError
from jax_a3c.experiment.checkpoints import (
    Checkpoint,
    Checkpoints,
    export_params,
    import_params,
    steps_of,
)
from jax_a3c.experiment.files import append_line, locked, write_whole
from jax_a3c.machine import cpu_model, has_interpreter_lock
from jax_a3c.messages import plain, shown, tell
from jax_a3c.settings.run import RunOptions, Settings, stored_settings
from jax_a3c.types import Params

PACKAGES = (
    "jax_a3c",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "gymnax",
    "numpy",
    "envpool",
    "gymnasium",
    "mujoco",
)
INITIAL = "initial_params.safetensors"
MAX_NAME = 100
"""Largest number of characters of an environment id in a folder name; file systems allow 255."""
SUMMARY_NUMBERS = (
    *("env_steps", "seconds", "env_steps_per_second"),
    *("eval_return_mean", "eval_return_std", "eval_episodes", "eval_episodes_cut"),
)
"""Entries of `summary.json` that are numbers or null. Other programs compute with them."""


class RunDirectory:
    """Read and write the files of one run.

    Every file except the logs of metrics and evaluations is written atomically.

    Attributes:
      path: folder of the run.
    """

    def __init__(self, path: str | Path):
        """Refer to the folder `path`; read and write nothing yet."""
        self.path = _folder(path)

    @classmethod
    def create(
        cls,
        path: str | Path,
        method: str,
        env_id: str,
        settings: Settings,
        options: RunOptions | None = None,
        initial_params: Params | None = None,
        own_parts: Sequence[str] = (),
    ) -> "RunDirectory":
        """Create a run in a folder that holds no run yet.

        Args:
          path: folder of the run; created if it is missing.
          method: name of the method.
          env_id: id of the environment.
          settings: all settings, resolved.
          options: what the run does in addition to training; None for the defaults.
          initial_params: variables that training starts from; None to draw them.
          own_parts: names of the parts that the user handed in, such as "network".

        Returns:
          The run directory. It holds `config.json` and `env.json`, and
          `initial_params.safetensors` if `initial_params` were given.

        Raises:
          InputError: if the folder holds a run already or cannot be written.
        """
        run = cls(path)
        folder = run.path

        # The lock keeps two processes from creating the same run.
        try:
            run.checkpoints.folder.mkdir(parents=True, exist_ok=True)
            with locked(folder):
                if (folder / "config.json").exists() or any(run.checkpoints.folder.iterdir()):
                    raise InputError(
                        f"run_dir {str(folder)!r} holds a run already; "
                        f"choose another folder or remove it"
                    )

                # config.json comes last: the folder is a run as soon as it exists.
                if initial_params is not None:
                    export_params(initial_params, folder / INITIAL)
                run.write_config(method, env_id, settings, options or RunOptions(), own_parts)
        except InputError:
            raise
        except (OSError, ValueError) as error:  # ValueError: not a valid path
            raise InputError(f"run_dir {str(folder)!r} cannot be written: {error}") from error

        run._write("env.json", environment())
        return run

    def write_config(
        self,
        method: str,
        env_id: str,
        settings: Settings,
        options: RunOptions,
        own_parts: Sequence[str] = (),
    ) -> None:
        """Write `config.json`."""
        content: dict[str, Any] = {"method": method, "env": env_id}
        content["settings"] = dataclasses.asdict(settings)
        content["own_parts"] = list(own_parts)
        # `quiet` belongs to the terminal and not to the run.
        kept = dataclasses.asdict(options)
        kept.pop("quiet")
        self._write("config.json", content | {"options": kept})

    def config(self) -> tuple[str, str, Settings]:
        """Return the method, the environment id and the settings of the run.

        Raises:
          InputError: if the folder holds no run, or if this version cannot read it.
        """
        config = self._read("config.json")
        path = self.path / "config.json"
        try:
            method = config["method"]
            env_id = config["env"]
            return method, env_id, stored_settings(method, config["settings"])
        except InputError as error:
            raise InputError(
                f"{path} is damaged or from another version of jax_a3c: {error}"
            ) from error
        except (AttributeError, KeyError, TypeError) as error:
            raise InputError(f"{path} is not the configuration of a run: {error!r}") from error

    def options(self) -> RunOptions:
        """Return what the run does in addition to training.

        Raises:
          InputError: if the folder holds no run, or if this version cannot read it.
        """
        stored = self._read("config.json").get("options", {})
        try:
            return RunOptions(**stored)
        except (InputError, TypeError) as error:
            raise InputError(
                f"{self.path / 'config.json'} is damaged or from another version of jax_a3c: "
                f"{error}"
            ) from error

    def own_parts(self) -> list[str]:
        """Return the names of the parts that the user handed in, such as "network".

        Raises:
          InputError: if the folder holds no run, or if its configuration is damaged.
        """
        stored = self._read("config.json").get("own_parts", [])
        if not isinstance(stored, list) or not all(isinstance(name, str) for name in stored):
            raise InputError(
                f"own_parts in {self.path / 'config.json'} must be a list of names, got "
                f"{shown(stored)}"
            )
        return stored

    def initial_params(self, like: Params) -> Params | None:
        """Return the variables that training started from, None if they were drawn."""
        path = self.path / INITIAL
        return import_params(path, like) if path.exists() else None

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Append one line to `metrics.jsonl`.

        Raises:
          OSError: if the line cannot be written.
        """
        append_line(self.path / "metrics.jsonl", json.dumps(without_nan(row)))

    def forget_after(self, env_steps: int) -> None:
        """Remove what the run wrote after a checkpoint: later lines of its logs and its summary.

        An incomplete last line is removed too.

        Args:
          env_steps: environment steps of the checkpoint.

        Raises:
          InputError: if a log is damaged; no file is changed then.
        """
        # Read all logs before the first one is written.
        names = [
            name for name in ("metrics.jsonl", "evaluations.jsonl") if (self.path / name).exists()
        ]
        kept = {
            name: [row for row in self._rows(name) if row["env_steps"] <= env_steps]
            for name in names
        }

        for name, rows in kept.items():
            write_whole(self.path / name, "".join(json.dumps(row) + "\n" for row in rows).encode())
        (self.path / "summary.json").unlink(missing_ok=True)

    def append_evaluation(self, row: dict[str, Any]) -> None:
        """Append one line to `evaluations.jsonl`: the steps and the scores of a checkpoint."""
        append_line(self.path / "evaluations.jsonl", json.dumps(without_nan(row)))

    def evaluations(self) -> list[dict[str, Any]]:
        """Return the lines of `evaluations.jsonl`, an empty list if there is no such file."""
        return self._rows("evaluations.jsonl") if (self.path / "evaluations.jsonl").exists() else []

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of `metrics.jsonl` without an incomplete last one.

        Raises:
          InputError: if there is no such file, or if another line is damaged.
        """
        return self._rows("metrics.jsonl")

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write `summary.json`."""
        self._write("summary.json", summary)

    def summary(self) -> dict[str, Any]:
        """Return the content of `summary.json`.

        Raises:
          InputError: if the file is missing, because the run did not end, or if it is damaged.
        """
        summary = self._read("summary.json")
        for name in SUMMARY_NUMBERS:
            if summary.get(name) is not None:
                check_recorded(f"{name} in {self.path / 'summary.json'}", summary[name])
        return summary

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints of the run."""
        return Checkpoints(self.path / "checkpoints")

    def load_params(self, like: Params, which: str = "last") -> Params:
        """Read the network's variables into the structure of `like`.

        Args:
          like: tree of arrays or of shapes.
          which: `"last"` for the newest intact checkpoint, `"best"` for the checkpoint with the
            highest evaluation.

        Returns:
          The variables.

        Raises:
          InputError: if there is no such checkpoint, or if it is damaged or of another network.
        """
        checkpoint = self.checkpoints.load(which)
        if which == "last":
            self.tell_loss(checkpoint)
        return checkpoint.params(like)

    def tell_loss(self, newest: Checkpoint | None) -> None:
        """Warn on stderr if the checkpoint of the run's end is lost.

        Args:
          newest: newest intact checkpoint, None if there is none.
        """
        try:
            ended = self.summary().get("env_steps")
        except InputError:  # the run did not end, or its summary is damaged
            return
        steps = steps_of(newest.path) if newest else 0
        if ended is not None and ended != steps:
            tell(
                f"{str(self.path)!r} ended at {ended:,} steps, but its newest intact checkpoint "
                f"has {steps:,}"
            )

    def _write(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file of the run."""
        write_whole(self.path / name, (json.dumps(without_nan(content), indent=2) + "\n").encode())

    def _rows(self, name: str) -> list[dict[str, Any]]:
        """Return the checked lines of a log without an incomplete last one."""
        path = self.path / name
        rows: list[dict[str, Any]] = []
        lines = self._bytes(name).splitlines()
        for number, line in enumerate(lines, 1):
            try:
                row = _object(line)
            except ValueError as error:
                # A crash can cut off the last line.
                if number == len(lines):
                    break
                raise InputError(f"{path} is damaged in line {number}: {error}") from error

            # Readers compare and sort these values, so they must be numbers.
            where = f"in line {number} of {path}"
            check_integer(f"env_steps {where}", row.get("env_steps"), 0, MAX_COUNT)
            if row.get("eval_return_mean") is not None or row.get("best"):
                check_recorded(f"eval_return_mean {where}", row.get("eval_return_mean"))
            rows.append(row)
        return rows

    def _read(self, name: str) -> dict[str, Any]:
        """Return the content of a JSON file of the run."""
        try:
            return _object(self._bytes(name))
        except InputError:
            raise
        except ValueError as error:
            raise InputError(f"{self.path / name} is damaged: {error}") from error

    def _bytes(self, name: str) -> bytes:
        """Return the bytes of a file of the run; raise InputError that says why it is missing."""
        path = self.path / name
        try:
            return path.read_bytes()

        except (FileNotFoundError, NotADirectoryError):
            # Tell a young run, another folder, a file and a wrong path apart.
            if (self.path / "config.json").exists():
                why = "the run has not written it yet"
            elif self.path.is_dir():
                why = "the folder may not be a run"
            elif self.path.is_file():
                why = "it is a file, not the directory of a run"
            else:
                why = "there is no such folder"
            raise InputError(f"{str(self.path)!r} holds no {name}: {why}") from None

        except (OSError, ValueError) as error:
            raise InputError(f"{str(path)!r} cannot be read: {error}") from error


def new_run_dir(method: str, env_id: str) -> Path:
    """Return a folder for a new run: `runs/METHOD-ENV-TIME`."""
    # Microseconds: several runs may start in the same second.
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    env = re.sub(r"[^\w.-]+", "-", env_id, flags=re.ASCII)[:MAX_NAME]
    return Path("runs", f"{method}-{env}-{now}")


def environment() -> dict[str, Any]:
    """Return versions, devices, processor and commit, which belong to every measured figure."""
    return {
        "python": platform.python_version(),
        "interpreter_lock": has_interpreter_lock(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cpu_cores": available_cores(),
        "devices": [f"{device.platform}:{device.device_kind}" for device in jax.devices()],
        "git_commit": _git_commit(),
    }


def _version(package: str) -> str | None:
    """Return the version of an installed package, None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Return the commit of the source tree of this package, None if it is installed without one."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        # A repository around a virtual environment does not track this file.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("describe", "--always", "--dirty", "--abbrev=40")
    except (OSError, subprocess.SubprocessError):
        return None


def check_recorded(name: str, value: Any) -> None:
    """Check that a recorded value is a number; counts may be larger than 32 bits."""
    if isinstance(value, int) and not isinstance(value, bool):
        check_integer(name, value, -MAX_COUNT, MAX_COUNT)
    else:
        check_number(name, value)


def _folder(path: Any) -> Path:
    """Return the path of a run's folder; raise InputError if it is not a path."""
    try:
        if not os.fspath(path):
            raise InputError("run_dir is empty; give the path of a folder")
        return Path(path)
    except TypeError:
        raise InputError(f"run_dir must be the path of a folder, got {shown(path)}") from None


def _object(text: bytes) -> dict[str, Any]:
    """Parse bytes as one JSON object; raise ValueError if they are anything else."""
    # UnicodeDecodeError and JSONDecodeError are ValueErrors.
    try:
        value = json.loads(text.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {shown(value)}")
    return value


def without_nan(value: Any) -> Any:
    """Convert NumPy scalars to Python numbers, and NaN and infinities to None, for JSON."""
    value = plain(value)
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
