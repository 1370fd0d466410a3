"""The run directory: what a run was asked, where it ran, what it measured, what it learned."""

import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

from jax_a3c.checks import MAX_COUNT, InputError, check_integer, check_number, plain, shown
from jax_a3c.envs.base import available_cores
from jax_a3c.training.checkpoints import (
    Checkpoint,
    Checkpoints,
    export_params,
    import_params,
    steps_of,
)
from jax_a3c.training.files import append_line, locked, write_whole
from jax_a3c.training.settings import RunOptions, Settings, resolve
from jax_a3c.training.signals import tell
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
SUMMARY_NUMBERS = (
    *("env_steps", "seconds", "env_steps_per_second"),
    *("eval_return_mean", "eval_return_std", "eval_episodes", "eval_episodes_cut"),
)
"""What other programs compute with, in `summary.json`: numbers or null."""


class RunDirectory:
    """Reads and writes the files of one run; each is either whole or absent.

    Attributes:
      path: the folder.
    """

    def __init__(self, path: Path):
        """Refer to the folder `path`; nothing is read or written yet."""
        self.path = _folder(path)

    @classmethod
    def create(
        cls,
        path: Path,
        method: str,
        env_id: str,
        settings: Settings,
        options: RunOptions | None = None,
        initial_params: Params | None = None,
    ) -> "RunDirectory":
        """Start a run in a folder that holds none.

        Args:
          path: the folder; it is made if it is missing.
          method: of the run.
          env_id: of the run.
          settings: all of them, resolved.
          options: what the run does beside training; the defaults if None.
          initial_params: variables that it starts from, if they are given.

        Returns:
          The run directory, with `config.json`, `env.json` and perhaps `initial_params.safetensors` written.

        Raises:
          InputError: if the folder holds a run already or cannot be written.
        """
        run = cls(path)
        path = run.path
        try:
            run.checkpoints.folder.mkdir(parents=True, exist_ok=True)
            with locked(path):
                if (path / "config.json").exists() or any(run.checkpoints.folder.iterdir()):
                    raise InputError(
                        f"run_dir {str(path)!r} holds a run already; choose another folder or remove it"
                    )
                if initial_params is not None:
                    export_params(initial_params, path / INITIAL)
                run.write_config(method, env_id, settings, options or RunOptions())
        except InputError:
            raise
        except (OSError, ValueError) as error:  # a path may also be none
            raise InputError(f"run_dir {str(path)!r} cannot be written: {error}") from error
        run._write("env.json", environment())
        return run

    def write_config(
        self, method: str, env_id: str, settings: Settings, options: RunOptions
    ) -> None:
        """Write `config.json`."""
        content = {"method": method, "env": env_id, "settings": dataclasses.asdict(settings)}
        kept = dataclasses.asdict(options)
        kept.pop("quiet")  # of one terminal
        self._write("config.json", content | {"options": kept})

    def config(self) -> tuple[str, str, Settings]:
        """Method, environment id and settings of the run.

        Raises:
          InputError: if the folder holds no run, or one that this version cannot read.
        """
        config, path = self._read("config.json"), self.path / "config.json"
        try:
            method, env_id = config["method"], config["env"]
            return method, env_id, resolve(method, env_id, **config["settings"])
        except InputError as error:
            raise InputError(
                f"{path} is damaged or of another version of jax_a3c: {error}"
            ) from error
        except (AttributeError, KeyError, TypeError) as error:
            raise InputError(f"{path} is not a run's configuration: {error!r}") from error

    def options(self) -> RunOptions:
        """What the run does beside training.

        Raises:
          InputError: if the folder holds no run, or one that this version cannot read.
        """
        stored = self._read("config.json").get("options", {})
        try:
            return RunOptions(**stored)
        except (InputError, TypeError) as error:
            raise InputError(
                f"{self.path / 'config.json'} is damaged or of another version of jax_a3c: {error}"
            ) from error

    def initial_params(self, like: Params) -> Params | None:
        """The variables that the run was given to start from, None if it was given none."""
        path = self.path / INITIAL
        return import_params(path, like) if path.exists() else None

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add one line to `metrics.jsonl`; OSError if the disk does not take all of it."""
        append_line(self.path / "metrics.jsonl", json.dumps(without_nan(row)))

    def forget_after(self, env_steps: int) -> None:
        """Take back what a run wrote after a checkpoint: later lines of metrics, a torn one, the summary.

        Raises:
          InputError: if a file is damaged; all are as they were then.
        """
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
        """Add one line to `evaluations.jsonl`: the steps of a checkpoint, and what it achieved."""
        append_line(self.path / "evaluations.jsonl", json.dumps(without_nan(row)))

    def evaluations(self) -> list[dict[str, Any]]:
        """The lines of `evaluations.jsonl`, none if there is no such file."""
        return self._rows("evaluations.jsonl") if (self.path / "evaluations.jsonl").exists() else []

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`; a last one that was cut off is left out.

        Raises:
          InputError: if there is no such file, or another line is damaged.
        """
        return self._rows("metrics.jsonl")

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write `summary.json`."""
        self._write("summary.json", summary)

    def summary(self) -> dict[str, Any]:
        """The run's `summary.json`.

        Raises:
          InputError: if there is none, because the run did not end, or it is something else.
        """
        summary = self._read("summary.json")
        for name in SUMMARY_NUMBERS:
            if summary.get(name) is not None:
                check_recorded(f"{name} in {self.path / 'summary.json'}", summary[name])
        return summary

    @property
    def checkpoints(self) -> Checkpoints:
        """Those of the run."""
        return Checkpoints(self.path / "checkpoints")

    def load_params(self, like: Params, which: str = "last") -> Params:
        """Read the network's variables into the structure of `like`.

        Args:
          like: a tree of arrays or of shapes.
          which: `"last"`, the newest checkpoint that is whole, or `"best"`, that with the highest evaluation.

        Returns:
          The variables.

        Raises:
          InputError: if there is no such checkpoint, or it is damaged or of another network.
        """
        checkpoint = self.checkpoints.load(which)
        if which == "last":
            self.tell_loss(checkpoint)
        return checkpoint.params(like)

    def tell_loss(self, newest: Checkpoint | None) -> None:
        """Tell whoever watches if the newest checkpoint is not the one of the run's end: that is gone."""
        try:
            ended = self.summary().get("env_steps")
        except InputError:  # the run did not end, or its summary is of no use
            return
        steps = steps_of(newest.path) if newest else 0
        if ended is not None and ended != steps:
            tell(
                f"{str(self.path)!r} ended at {ended:,} steps, its newest whole checkpoint has {steps:,}"
            )

    def _write(self, name: str, content: dict[str, Any]) -> None:
        write_whole(self.path / name, (json.dumps(without_nan(content), indent=2) + "\n").encode())

    def _rows(self, name: str) -> list[dict[str, Any]]:
        path, rows = self.path / name, []
        lines = self._bytes(name).splitlines()
        for number, line in enumerate(lines, 1):
            try:
                row = _object(line)
            except ValueError as error:
                if number == len(lines):
                    break
                raise InputError(f"{path} is damaged in line {number}: {error}") from error
            where = f"in line {number} of {path}"
            check_integer(f"env_steps {where}", row.get("env_steps"), 0, MAX_COUNT)
            if row.get("eval_return_mean") is not None or row.get("best"):
                check_recorded(f"eval_return_mean {where}", row.get("eval_return_mean"))
            rows.append(row)
        return rows

    def _read(self, name: str) -> dict[str, Any]:
        try:
            return _object(self._bytes(name))
        except InputError:
            raise
        except ValueError as error:
            raise InputError(f"{self.path / name} is damaged: {error}") from error

    def _bytes(self, name: str) -> bytes:
        path = self.path / name
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            if (self.path / "config.json").exists():
                why = "the run did not come so far"
            elif self.path.is_dir():
                why = "is it the directory of a run?"
            elif self.path.is_file():
                why = "it is a file, not the directory of a run"
            else:
                why = "there is no such folder"
            raise InputError(f"{str(self.path)!r} holds no {name}: {why}") from None
        except (OSError, ValueError) as error:
            raise InputError(f"{str(path)!r} cannot be read: {error}") from error


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
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        "unknown",
    )


def _git_commit() -> str | None:
    """Commit of the source tree that this package was imported from, None if it is installed without one."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        git(
            "ls-files", "--error-unmatch", Path(__file__).name
        )  # some repository around a .venv is not ours
        return git("describe", "--always", "--dirty", "--abbrev=40")
    except (OSError, subprocess.SubprocessError):
        return None


def check_recorded(name: str, value: Any) -> None:
    """Refuse what a run cannot have recorded as a number; counts may be larger than 32 bits."""
    if isinstance(value, int) and not isinstance(value, bool):
        check_integer(name, value, -MAX_COUNT, MAX_COUNT)
    else:
        check_number(name, value)


def _folder(path: Any) -> Path:
    """The path of a run; InputError for what is none."""
    try:
        if not os.fspath(path):
            raise InputError("run_dir is empty: it must be the path of a folder")
        return Path(path)
    except TypeError:
        raise InputError(f"run_dir must be the path of a folder, got {shown(path)}") from None


def _object(text: bytes) -> dict[str, Any]:
    """The JSON object that the bytes of a file spell; ValueError if they spell none."""
    try:
        value = json.loads(text.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError(f"it should hold an object, got {shown(value)}")
    return value


def without_nan(value: Any) -> Any:
    """JSON has no NaN, and no numbers of NumPy: what is not finite becomes null."""
    value = plain(value)
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
