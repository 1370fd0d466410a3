"""Loggers for other programs: events for TensorBoard, a run on Weights & Biases."""

import json
import math
import os
import time
from pathlib import Path
from typing import Any, Protocol

from jax_a3c.errors import InputError
from jax_a3c.experiment.files import write_whole

WANDB_PROJECT = "jax_a3c"
"""Project on Weights & Biases, unless the variable WANDB_PROJECT names another one."""


class Logger(Protocol):
    """Writes the lines of `metrics.jsonl` for another program."""

    name: str

    def add(self, row: dict[str, Any]) -> None:
        """Add a line of metrics; the caller handles every exception."""

    def close(self) -> None:
        """Write what is left."""


class Events:
    """A file of TensorBoard events.

    It uses the synchronous writer of tensorboardX and not `SummaryWriter`. The thread of
    `SummaryWriter` dies when a disk is full, and the caller then waits forever.
    """

    name = "TensorBoard"

    def __init__(self, folder: Path):
        """Open a new file in a folder; raise InputError if tensorboardX is not installed."""
        writer, self._event, self._scalar = tensorboard_parts()
        self._writer = writer(str(folder / "events"))

    def add(self, row: dict[str, Any]) -> None:
        """Add a line of metrics; raise OSError if it cannot be written."""
        for name, value in finite(row).items():
            summary = self._scalar(f"train/{name}", value)
            event = self._event(wall_time=time.time(), step=row["env_steps"], summary=summary)
            self._writer.write_event(event)
        self._writer.flush()

    def close(self) -> None:
        """Do nothing: each line is on the disk already."""


class WandbRun:
    """A run on Weights & Biases.

    A resumed run continues the same one, whose id is in `wandb.json`. With the variable
    WANDB_MODE=offline the run is written to the run directory, and `wandb sync` uploads it later.
    """

    name = "Weights & Biases"

    def __init__(self, folder: Path, config: dict[str, Any]):
        """Start or continue the run; raise InputError if wandb is missing or refuses."""
        wandb = wandb_module()
        path = folder / "wandb.json"
        stored = json.loads(path.read_text()) if path.exists() else {"id": os.urandom(8).hex()}
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", WANDB_PROJECT),
                name=folder.name,
                id=stored["id"],
                resume="allow",
                dir=str(folder),
                config=config,
                allow_val_change=True,  # a run may resume with other settings
                settings=wandb.Settings(console="off", silent=True),
            )
        except wandb.Error as error:
            raise InputError(
                f"Weights & Biases cannot start: {error}; set WANDB_MODE=offline to log to the run "
                "directory, or leave --wandb out"
            ) from error
        write_whole(path, json.dumps(stored).encode())

    def add(self, row: dict[str, Any]) -> None:
        """Add a line of metrics."""
        named = {f"train/{name}": value for name, value in finite(row).items()}
        self._run.log(named, step=row["env_steps"])

    def close(self) -> None:
        """End the run, which sends what is left."""
        self._run.finish()


def finite(row: dict[str, Any]) -> dict[str, Any]:
    """Return the finite values of a line; a mean return is NaN if no episode ended."""
    return {name: value for name, value in row.items() if math.isfinite(value)}


def tensorboard_parts() -> tuple[Any, Any, Any]:
    """Return the parts of tensorboardX for `Events`; raise InputError if it is not installed."""
    try:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar
    except ImportError:
        raise InputError(
            "tensorboard needs tensorboardX, which is not installed: "
            "pip install 'jax-a3c[tensorboard]'"
        ) from None
    return EventsWriter, Event, scalar


def wandb_module() -> Any:
    """Return the module `wandb`; raise InputError if it is not installed."""
    try:
        import wandb
    except ImportError:
        raise InputError(
            "wandb is not installed: pip install 'jax-a3c[wandb]', or leave --wandb out"
        ) from None
    return wandb
