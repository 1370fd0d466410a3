"""What a run reports while it trains: lines of metrics, a progress bar, loggers."""

from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from jax_a3c.experiment.run_directory import RunDirectory
from jax_a3c.messages import Terminal, tell
from jax_a3c.runners.base import Progress
from jax_a3c.training.loggers import Logger

ROWS = 200
"""Lines of `metrics.jsonl`, spread evenly over the steps of a run; each checkpoint adds one."""
PER_EPISODE = ("episode_return", "episode_length")
"""Metrics that are averaged over episodes."""
NONFINITE = ("nonfinite_gradients", "nonfinite_rewards", "nonfinite_observations")
"""Counts of skipped updates, and of updates whose rewards or observations were not finite."""
COUNTS = ("episodes", *NONFINITE)
"""Metrics that are summed over an interval; the others are averaged over its updates."""
MAX_NONFINITE = 100
"""Number of updates in a row without a finite gradient after which training stops."""


class Recorder:
    """Turns progress into lines of `metrics.jsonl`, which it passes on, and a progress bar.

    Attributes:
      progress: progress of the whole run. A runner reports seconds and sums since its last start
        only; they are added up here.
    """

    def __init__(
        self,
        run: RunDirectory,
        total_timesteps: int,
        *,
        quiet: bool,
        loggers: Sequence[Logger] = (),
        progress: Progress | None = None,
    ):
        """Open the outputs.

        Args:
          run: the run directory to write to.
          total_timesteps: environment steps of the whole run.
          quiet: show no progress bar.
          loggers: what else gets the lines; it is closed with the recorder.
          progress: progress of the checkpoint that the run resumes from; None for a new run.
        """
        self.progress = progress or Progress(0, 0, 0.0, {}, [])
        self._run = run
        self._interval = total_timesteps / ROWS
        self._base = self._last = self.progress
        # The reports before and at the last accepted update.
        self._accepted_before = self._accepted = self.progress

        self._refused = False
        self._total = total_timesteps
        self._quiet = quiet
        self._bar: tqdm | None = None
        self._loggers = list(loggers)

    def begin(self) -> None:
        """Prepare for a new start of the runner, whose seconds and sums begin at 0."""
        self._base = self.progress
        if self._bar is None and not self._quiet:
            tell("compiling ...")

    def _draw_bar(self, steps: int) -> None:
        """Move the progress bar, which starts with training, so that its rate is true at once."""
        if self._bar is None:
            self._bar = tqdm(
                total=self._total,
                initial=min(self._base.env_steps, self._total),
                unit=" steps",
                unit_scale=True,
                dynamic_ncols=True,
                mininterval=0.1,
                disable=self._quiet,
                file=Terminal(),
            )
        # The last update may exceed the total.
        self._bar.update(min(steps, self._total) - self._bar.n)

    def __call__(self, progress: Progress) -> None:
        """Take a report of the runner, and write a line once an interval of steps has passed."""
        # Add the report to the progress before this start of the runner.
        before = self._base.metric_sums
        sums = {name: before.get(name, 0.0) + value for name, value in progress.metric_sums.items()}
        seconds = self._base.seconds + progress.seconds
        previous = self.progress
        self.progress = progress = progress._replace(
            seconds=seconds, metric_sums={**before, **sums}
        )

        self._draw_bar(progress.env_steps)

        # With threads a sum may be ahead of the update count, so that an accepted update looks
        # skipped. A later report corrects this.
        if accepted_updates(progress) > accepted_updates(self._accepted):
            self._accepted_before = previous
            self._accepted = progress
        if progress.env_steps - self._last.env_steps >= self._interval:
            self.write()

    def skip_to(self, env_steps: int, updates: int) -> None:
        """Set the counts. Sums since the last report are unknown and appear in no line."""
        self.write()
        self.progress = self._last = self.progress._replace(env_steps=env_steps, updates=updates)

    @property
    def failed(self) -> bool:
        """Return whether training must stop: `MAX_NONFINITE` updates in a row were skipped."""
        return self.progress.updates - self._accepted.updates >= MAX_NONFINITE

    @property
    def learned_nothing(self) -> bool:
        """Return whether the run has made updates and every one of them was skipped."""
        return self.progress.updates > 0 and accepted_updates(self.progress) <= 0

    def skipped(self, env_id: str, *, recent: bool = False) -> str:
        """Return a sentence that says why updates were skipped, and what to do.

        Args:
          env_id: environment id.
          recent: explain the updates since the last accepted one, instead of the whole run.
        """
        # Include the report of the last accepted update: a recurrent state may carry its NaN on.
        start = self._accepted_before if recent else Progress(0, 0, 0.0, {}, [])
        before = start.metric_sums
        now = self.progress.metric_sums
        counts = {name: int(now.get(name, 0) - before.get(name, 0)) for name in NONFINITE}
        return explanation(env_id, counts, self.progress.updates - start.updates)

    def write(self) -> None:
        """Write a line for the time since the last one; the next line includes a failed one."""
        row = interval_metrics(self._last, self.progress)
        if row["updates"] == self._last.updates:
            return

        try:
            self._run.append_metrics(row)
        except OSError as error:
            if not self._refused:
                tell(f"warning: metrics.jsonl cannot be written: {error}; training continues")
            self._refused = True
            return

        # The line is written: show it in the bar and in other programs.
        self._refused = False
        self._last = self.progress
        if self._bar is not None:
            text = f"return {row['episode_return']:.1f}" if row["episodes"] else ""
            self._bar.set_postfix_str(text, refresh=False)
        for logger in list(self._loggers):
            try:
                logger.add(row)
            except Exception as error:  # training never ends because a logger fails
                tell(f"warning: nothing more is logged to {logger.name}: {error}")
                self._loggers.remove(logger)

    def close(self) -> None:
        """Write the last line, and close the progress bar and the loggers."""
        try:
            self.write()
        finally:
            if self._bar is not None:
                self._bar.close()
            for logger in self._loggers:
                try:
                    logger.close()
                except Exception as error:
                    tell(f"warning: the end of the run was not logged to {logger.name}: {error}")
            self._loggers = []


def accepted_updates(progress: Progress) -> int:
    """Return how many updates changed the parameters."""
    return progress.updates - int(progress.metric_sums.get("nonfinite_gradients", 0))


def explanation(env_id: str, counts: dict[str, int], updates: int) -> str:
    """Return a sentence that says why gradients were not finite, and what to do.

    Args:
      env_id: environment id.
      counts: for each name in `NONFINITE`, the number of these updates.
      updates: total number of these updates.

    Returns:
      If the environment returned data that are not finite, a sentence that names them; otherwise
      advice on the settings.
    """
    kinds = {
        "rewards": counts["nonfinite_rewards"],
        "observations": counts["nonfinite_observations"],
    }
    returned = [f"{kind} that are not finite in {n:,}" for kind, n in kinds.items() if n]
    if returned:
        return (
            f"{env_id} returned {' and '.join(returned)} of {updates:,} updates: "
            "fix the environment"
        )
    return (
        f"rewards and observations of {env_id} were finite: try a smaller learning_rate or a "
        "reward_scale nearer to 0"
    )


def interval_metrics(last: Progress, now: Progress) -> dict[str, Any]:
    """Return one line of metrics for the interval between two reports.

    Args:
      last: the earlier progress.
      now: the later progress.

    Returns:
      Totals of the run: `env_steps`, `updates`, `seconds`, `mean_staleness`. For the interval:
      steps per second, the number of episodes that ended, their mean return and length (NaN if
      none ended), and the objective's metrics averaged over updates.
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

    # Average what is neither a count nor a total.
    for name, value in sums.items():
        if name in PER_EPISODE:
            row[name] = value / sums["episodes"] if sums["episodes"] else float("nan")
        elif name != "env_steps":  # the row has the total already
            row[name] = value if name in COUNTS else value / max(1, updates)
    return row
