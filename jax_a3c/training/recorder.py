"""What a run reports while it trains: lines of metrics, a progress bar, events."""

import math
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from jax_a3c.checks import InputError
from jax_a3c.training.run_directory import RunDirectory
from jax_a3c.training.signals import Terminal, tell
from jax_a3c.types import Progress

ROWS = 200
"""Lines of `metrics.jsonl` that a run writes by itself, evenly over its steps; each checkpoint adds one."""
PER_EPISODE = ("episode_return", "episode_length")
NONFINITE = ("nonfinite_gradients", "nonfinite_rewards", "nonfinite_observations")
"""Updates that were skipped, and updates whose data were not finite."""
COUNTS = ("episodes", *NONFINITE)
MAX_NONFINITE = 100
"""Updates in a row whose gradient is not finite, after which a run is given up."""


class Recorder:
    """Turns progress into lines of `metrics.jsonl`, a progress bar, and TensorBoard events if wanted.

    Attributes:
      progress: of the run as a whole; what a trainer reports counts seconds and sums from its own start.
    """

    def __init__(
        self,
        run: RunDirectory,
        total_timesteps: int,
        *,
        quiet: bool,
        tensorboard: bool,
        progress: Progress | None = None,
    ):
        """Write to `run`, on from `progress`; the bar goes to the terminal unless `quiet`."""
        self.progress = progress or Progress(0, 0, 0.0, {}, [])
        self._run = run
        self._interval = total_timesteps / ROWS
        self._base = self._last = self.progress
        self._accepted_before = self._accepted = (
            self.progress
        )  # before and at the last accepted update
        self._refused = False
        self._bar = tqdm(
            **{"total": total_timesteps, "initial": min(self.progress.env_steps, total_timesteps)},
            **{"unit": " steps", "unit_scale": True, "dynamic_ncols": True},
            **{"disable": quiet, "file": Terminal()},
        )
        self._events = Events(run.path) if tensorboard else None

    def begin(self) -> None:
        """A trainer starts anew: seconds and sums of its reports are from now on."""
        self._base = self.progress

    def __call__(self, progress: Progress) -> None:
        """Record what happened since the last line, if that is enough for a new one."""
        before = self._base.metric_sums
        sums = {name: before.get(name, 0.0) + value for name, value in progress.metric_sums.items()}
        seconds, previous = self._base.seconds + progress.seconds, self.progress
        self.progress = progress = progress._replace(
            seconds=seconds, metric_sums={**before, **sums}
        )
        # The last update of a run overshoots its total.
        self._bar.update(min(progress.env_steps, self._bar.total) - self._bar.n)
        # While threads count, a sum may be ahead of the updates: what it lacks then, it never exceeds later.
        if accepted_updates(progress) > accepted_updates(self._accepted):
            self._accepted_before, self._accepted = previous, progress
        if progress.env_steps - self._last.env_steps >= self._interval:
            self.write()

    def skip_to(self, env_steps: int, updates: int) -> None:
        """Go on from these counts. What was summed since the last report is unknown, and in no line."""
        self.write()
        self.progress = self._last = self.progress._replace(env_steps=env_steps, updates=updates)

    @property
    def failed(self) -> bool:
        """So many updates in a row had no finite gradient that training must stop."""
        return self.progress.updates - self._accepted.updates >= MAX_NONFINITE

    @property
    def learned_nothing(self) -> bool:
        """Every update of the run was skipped, and there was one."""
        return self.progress.updates > 0 and accepted_updates(self.progress) <= 0

    def skipped(self, env_id: str, *, recent: bool = False) -> str:
        """Say why updates were skipped, and what to do.

        Args:
          env_id: the environment's.
          recent: of the updates since the last accepted one, not of the whole run.
        """
        # What came just before the last accepted update may be the cause: it stays in a recurrent state.
        start = self._accepted_before if recent else Progress(0, 0, 0.0, {}, [])
        before, now = start.metric_sums, self.progress.metric_sums
        counts = {name: int(now.get(name, 0) - before.get(name, 0)) for name in NONFINITE}
        return explanation(env_id, counts, self.progress.updates - start.updates)

    def write(self) -> None:
        """Record what happened since the last line; if the disk refuses, the next line will tell it."""
        row = interval_metrics(self._last, self.progress)
        if row["updates"] == self._last.updates:
            return
        try:
            self._run.append_metrics(row)
        except OSError as error:
            if not self._refused:
                tell(f"metrics.jsonl cannot be written: {error}; training goes on")
            self._refused = True
            return
        self._refused = False
        self._last = self.progress
        self._bar.set_postfix_str(f"return {row['episode_return']:.1f}" if row["episodes"] else "")
        if self._events is not None:
            try:
                self._events.add(row)
            except OSError as error:
                tell(f"no more events are written for TensorBoard: {error}; training goes on")
                self._events = None

    def close(self) -> None:
        """Write what is left and release the terminal and the files."""
        try:
            self.write()
        finally:
            self._bar.close()


def accepted_updates(progress: Progress) -> int:
    """Return how many updates of a run changed its parameters."""
    return progress.updates - int(progress.metric_sums.get("nonfinite_gradients", 0))


def explanation(env_id: str, counts: dict[str, int], updates: int) -> str:
    """Say why the gradients of some updates were not finite, and what to do.

    Args:
      env_id: the environment's.
      counts: of these updates, by `NONFINITE`.
      updates: how many there were.

    Returns:
      The environment and what it returned, if that was not finite; else what to change in the settings.
    """
    kinds = {
        "rewards": counts["nonfinite_rewards"],
        "observations": counts["nonfinite_observations"],
    }
    returned = [f"{kind} that are not finite in {n:,}" for kind, n in kinds.items() if n]
    if returned:
        return f"{env_id} returned {' and '.join(returned)} of {updates:,} updates: mend the environment"
    return (
        f"rewards and observations of {env_id} were finite: try a smaller learning_rate or a reward_scale "
        "nearer to 0"
    )


def interval_metrics(last: Progress, now: Progress) -> dict[str, Any]:
    """One line of metrics for what happened between two moments of a run.

    Args:
      last: the earlier moment.
      now: the later one.

    Returns:
      Counts so far (`env_steps, updates, seconds`); over the interval the number of episodes that ended,
      their mean return and length (NaN without any), the objective's metrics averaged over updates, and
      steps per second; `mean_staleness` so far.
    """
    sums = {
        name: value - last.metric_sums.get(name, 0.0) for name, value in now.metric_sums.items()
    }
    updates = now.updates - last.updates
    row: dict[str, Any] = {
        "env_steps": now.env_steps,
        "updates": now.updates,
        "seconds": now.seconds,
    }
    row |= {"interval_updates": updates, "mean_staleness": now.mean_staleness}
    row["env_steps_per_second"] = (now.env_steps - last.env_steps) / max(
        now.seconds - last.seconds, 1e-9
    )
    for name, value in sums.items():
        if name in PER_EPISODE:
            row[name] = value / sums["episodes"] if sums["episodes"] else float("nan")
        elif name != "env_steps":  # the row has its total
            row[name] = value if name in COUNTS else value / max(1, updates)
    return row


class Events:
    """A file of events for TensorBoard.

    Of tensorboardX it takes what writes at once, not `SummaryWriter`: its thread dies when a disk is full,
    and then whoever adds events waits for ever.
    """

    def __init__(self, folder: Path):
        """Begin a file in a folder; InputError if tensorboardX is missing."""
        writer, self._event, self._scalar = tensorboard_parts()
        self._writer = writer(str(folder / "events"))

    def add(self, row: dict[str, Any]) -> None:
        """Add a line of metrics; OSError if the disk does not take it."""
        for name, value in row.items():
            if math.isfinite(value):  # no episode ended, and so there is no mean return
                summary = self._scalar(f"train/{name}", value)
                event = self._event(wall_time=time.time(), step=row["env_steps"], summary=summary)
                self._writer.write_event(event)
        self._writer.flush()


def tensorboard_parts() -> tuple[Any, Any, Any]:
    """What `Events` is made of; InputError if tensorboardX is not installed."""
    try:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar
    except ImportError:
        raise InputError(
            "tensorboard needs the extra of that name: pip install 'jax-a3c[tensorboard]'"
        ) from None
    return EventsWriter, Event, scalar
