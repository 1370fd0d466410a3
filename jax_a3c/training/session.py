"""A run in progress: slices of training with checkpoints and evaluations between them."""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jax_a3c.envs.base import on_device
from jax_a3c.errors import InputError
from jax_a3c.evaluation.score import EvaluationStopped, evaluate
from jax_a3c.experiment import plots
from jax_a3c.experiment.build import Experiment
from jax_a3c.experiment.checkpoints import STATE, VARIABLES, Checkpoint, flatten, refit, unflatten
from jax_a3c.experiment.run_directory import RunDirectory, environment
from jax_a3c.messages import tell
from jax_a3c.runners.base import Progress
from jax_a3c.settings.run import RunOptions, Settings
from jax_a3c.training.loggers import Events, Logger, WandbRun
from jax_a3c.training.metrics import MAX_NONFINITE, NONFINITE, Recorder
from jax_a3c.types import Array, Params

SUMMARY = (
    "method",
    "env",
    "seed",
    "status",
    "env_steps",
    "updates",
    "seconds",
    "compile_seconds",
    "env_steps_per_second",
    "eval_return_mean",
    "eval_return_std",
    "eval_episodes",
    "eval_episodes_cut",
)
"""Keys of every `summary.json`; null where the run did not get that far or was not evaluated."""
CHECKPOINTS_SHARE = 0.05
"""Largest share of a run's time that checkpoints take; on a slow disk they become less frequent."""
REPORTS = 0.05
"""Seconds between two checks of the clock, the counts and the signals."""


class Session:
    """A run in progress: slices of training with checkpoints and evaluations between them."""

    def __init__(
        self,
        run: RunDirectory,
        method: str,
        settings: Settings,
        options: RunOptions,
        experiment: Experiment,
        stopped: threading.Event,
        checkpoint: Checkpoint | None = None,
        *,
        changed: Collection[str] = (),
    ):
        """Prepare a run; nothing is compiled or written before `run`.

        Args:
          run: the run directory.
          method: a name in `settings.methods.METHODS`.
          settings: settings of the run.
          options: options that do not change what the run learns.
          experiment: the parts of the run, built from `settings`.
          stopped: event that ends the run early when it is set.
          checkpoint: checkpoint to resume from; None for a new run.
          changed: names of the settings that differ from the settings in `checkpoint`.
        """
        self._run = run
        self._method = method
        self._settings = settings
        self._options = options
        self._experiment = experiment
        self._stopped = stopped
        self._checkpoint = checkpoint
        self._changed = changed
        self._training_key, self._evaluation_key = jax.random.split(jax.random.key(settings.seed))

        # What each checkpoint stores next to the arrays.
        self._facts: dict[str, Any] = {
            "environment": environment(),
            "resumed": 0,
            "compile_seconds": 0.0,
        }
        self._facts["settings"] = dataclasses.asdict(settings)

        # Counts and times continue from the checkpoint.
        progress = None
        if checkpoint is not None:
            progress = Progress(**checkpoint.facts["progress"])
            self._facts["resumed"] = checkpoint.facts["resumed"] + 1
            self._facts["compile_seconds"] = checkpoint.facts["compile_seconds"]

        self._recorder = Recorder(
            run,
            settings.total_timesteps,
            quiet=options.quiet,
            loggers=self._open_loggers(),
            progress=progress,
        )
        self._next_checkpoint = 0.0
        self._path: Path | None = None  # of the last checkpoint
        self._refused = False
        # Forget evaluations after the checkpoint: they will come again.
        self._evaluations = [
            row
            for row in run.evaluations()
            if row["env_steps"] <= self._recorder.progress.env_steps
        ]

    def _open_loggers(self) -> list[Logger]:
        """Return the loggers that the options ask for."""
        loggers: list[Logger] = []
        if self._options.tensorboard:
            loggers.append(Events(self._run.path))
        if self._options.wandb:
            names = {"method": self._method, "env": self._experiment.env.spec.id}
            loggers.append(WandbRun(self._run.path, {**names, **self._facts["settings"]}))
        return loggers

    def run(self) -> dict[str, Any]:
        """Train to the end, evaluate and write the summary.

        An `InputError` leaves the run directory unchanged. Every other end writes a summary.
        """
        summary: dict[str, Any] = dict.fromkeys(SUMMARY)
        summary |= {"method": self._method, "env": self._experiment.env.spec.id}
        summary |= {"seed": self._settings.seed, "status": "failed"}
        refused = False

        try:
            params = self._train()
            self._recorder.close()
            self._check_learned()
            if self._settings.eval_episodes and not self._stopped.is_set():
                summary |= self._evaluate(params, self._evaluation_key)
            summary["status"] = "interrupted" if self._stopped.is_set() else "completed"
        except InputError:
            refused = True
            raise
        except KeyboardInterrupt:
            summary["status"] = "interrupted"
            raise
        except BaseException as error:
            summary |= {"status": "failed", "error": f"{type(error).__name__}: {error}"}
            raise
        finally:
            self._recorder.close()
            if not refused:
                summary |= self._counts()
                self._run.write_summary(summary)
                self._draw()
        return summary

    def _check_learned(self) -> None:
        """Check that the run learned something, and print how many updates were skipped.

        Raises:
          FloatingPointError: if the last `MAX_NONFINITE` updates were skipped, or all of them.
        """
        recorder = self._recorder
        env_id = self._experiment.env.spec.id
        saved = "the parameters before them are saved"
        if recorder.failed:
            raise FloatingPointError(
                f"no gradient was finite in the last {MAX_NONFINITE} updates or more; {saved}; "
                f"{recorder.skipped(env_id, recent=True)}"
            )
        if recorder.learned_nothing and not self._stopped.is_set():
            raise FloatingPointError(
                f"no gradient was finite in any of {recorder.progress.updates:,} updates; {saved}; "
                f"{recorder.skipped(env_id)}"
            )

        skipped = int(recorder.progress.metric_sums.get("nonfinite_gradients", 0))
        if skipped:
            tell(
                f"warning: {skipped:,} of {recorder.progress.updates:,} updates were skipped "
                f"because their gradients were not finite; {recorder.skipped(env_id)}"
            )

    def _train(self) -> Params:
        """Train in slices that end with a checkpoint, and return the final parameters."""
        runner = self._experiment.runner
        recorder = self._recorder
        state: Any = self._start()
        try:
            self._save(state)
            while True:
                recorder.begin()
                try:
                    result = runner.run(
                        state,
                        until=self._end_of_slice(),
                        callback=self._report,
                        interval=REPORTS,
                    )
                except BaseException:
                    self._rescue(state)
                    raise

                # Report and save the end of the slice.
                state = result.state
                recorder(result.progress)
                self._facts["compile_seconds"] += result.compile_seconds
                self._save(state, last=self._over())
                if self._over():
                    return result.params

                if self._evaluation_due():
                    self._evaluate(
                        result.params, _at(self._evaluation_key, recorder.progress.env_steps)
                    )
        finally:
            runner.close(state)

    def _start(self) -> Any:
        """Return the first state: fresh, with given parameters, or from the checkpoint."""
        runner = self._experiment.runner
        checkpoint = self._checkpoint
        key = self._training_key
        env_steps = self._recorder.progress.env_steps
        # If episodes restart, another key avoids repeating the first episodes of the run.
        if checkpoint is not None and (self._changed or not on_device(self._experiment.env)):
            key = _at(key, env_steps)

        state: Any = runner.init(key)
        try:
            if checkpoint is not None:
                # Replace the arrays of the fresh state by the saved ones.
                fresh = runner.save(state)
                arrays = checkpoint.arrays
                if self._changed:
                    arrays = refit(arrays, flatten(fresh["state"], STATE), self._changed)
                state = runner.restore(unflatten(fresh, arrays, "", checkpoint.path), state)

                # XLA and NumPy of another version may round differently.
                if (
                    checkpoint.facts["environment"]["packages"]
                    != self._facts["environment"]["packages"]
                ):
                    tell(
                        f"{checkpoint.path} was written with other package versions; the run "
                        "may not continue bit for bit"
                    )
            elif (params := self._run.initial_params(runner.params(state))) is not None:
                state = runner.start_from(state, params)

            # The run directory changes from here on; damaged files are still refused before that.
            self._run.forget_after(env_steps if checkpoint is not None else -1)
            self._run.write_config(
                self._method,
                self._experiment.env.spec.id,
                self._settings,
                self._options,
                self._experiment.own_parts,
            )
            if checkpoint is not None:
                self._run.checkpoints.set_aside(checkpoint.path)
        except BaseException:
            runner.close(state)
            raise
        return state

    def _report(self, progress: Progress) -> bool:
        """Pass progress to the recorder, and return whether the slice should end."""
        self._recorder(progress)
        return self._over() or time.monotonic() >= self._next_checkpoint

    def _end_of_slice(self) -> int:
        """Return the steps at which the next evaluation is due, or at which the run ends."""
        total = self._settings.total_timesteps
        interval = self._options.eval_interval
        if interval is None:
            return total
        return min(total, (self._recorder.progress.env_steps // interval + 1) * interval)

    def _over(self) -> bool:
        """Return whether training should end."""
        steps = self._recorder.progress.env_steps
        total = self._settings.total_timesteps
        return self._stopped.is_set() or self._recorder.failed or steps >= total

    def _save(self, state: Any, *, last: bool = False) -> None:
        """Write a checkpoint and schedule the next one.

        Args:
          state: state of the runner.
          last: raise if the checkpoint cannot be written; otherwise training continues without it.

        Raises:
          FloatingPointError: if a variable of the network is not finite.
          OSError: if `last` and the checkpoint cannot be written.
        """
        self._recorder.write()
        began = time.monotonic()
        progress = self._recorder.progress
        arrays = flatten(self._experiment.runner.save(state))

        # Never save parameters that are NaN or infinite.
        for name, array in arrays.items():
            if (
                name.startswith(VARIABLES)
                and array.dtype.kind == "f"
                and not np.isfinite(array).all()
            ):
                raise FloatingPointError(f"{name} is not finite; the previous checkpoint is kept")

        facts = {**self._facts, "progress": progress._asdict()}
        try:
            self._path = self._run.checkpoints.save(
                progress.env_steps, arrays, facts, keep=self._options.keep_checkpoints
            )
        except OSError as error:
            if last:
                raise
            self._path = None
            # Warn once: a full disk usually stays full.
            if not self._refused:
                tell(
                    f"warning: no checkpoint was written at {progress.env_steps:,} steps: {error}; "
                    "training continues"
                )
            self._refused = True
        else:
            self._refused = False

        # Start the next save early enough that it is on the disk one interval after this state.
        cost = time.monotonic() - began
        wait = max(self._options.checkpoint_interval - 2 * cost - REPORTS, cost / CHECKPOINTS_SHARE)
        self._next_checkpoint = time.monotonic() + wait

    def _rescue(self, state: Any) -> None:
        """Save what was learned before a failure, if the runner still has it."""
        runner = self._experiment.runner
        state = runner.last_state(state)
        if state is not None:
            self._recorder.skip_to(*runner.counts(state))  # the last report may be older
            try:
                self._save(state)
            except FloatingPointError as error:
                tell(str(error))

    def _evaluation_due(self) -> bool:
        """Return whether a multiple of `eval_interval` was crossed since the last evaluation."""
        interval = self._options.eval_interval
        steps = self._recorder.progress.env_steps
        last = self._evaluations[-1]["env_steps"] if self._evaluations else 0
        return interval is not None and steps // interval > last // interval

    def _evaluate(self, params: Params, key: Array) -> dict[str, Any]:
        """Evaluate the last checkpoint and keep it if it is the best; return {} if interrupted."""
        results: dict[str, Any] = {}
        options: Any = {"quiet": self._options.quiet, "stopped": self._stopped.is_set}
        with contextlib.suppress(EvaluationStopped):
            results = evaluate(self._experiment, self._settings, params, key, **options)

            env_steps = self._recorder.progress.env_steps
            mean = results["eval_return_mean"]
            # A resumed run that had already ended: its result is on file.
            if self._evaluations and self._evaluations[-1]["env_steps"] == env_steps:
                return results

            # NaN is never the best, nor is a state that could not be saved.
            bests = [row["eval_return_mean"] for row in self._evaluations if row.get("best")]
            path = self._path if np.isfinite(mean) and mean >= max(bests, default=mean) else None
            self._evaluations.append({"env_steps": env_steps, **results, "best": path is not None})
            try:
                if path is not None:
                    self._run.checkpoints.keep_as_best(path)
                self._run.append_evaluation(self._evaluations[-1])
            except OSError as error:
                tell(f"warning: an evaluation was not written: {error}; training continues")
        return results

    def _counts(self) -> dict[str, Any]:
        """Return the counts and times of the run for its summary."""
        progress = self._recorder.progress

        return {
            "env_steps": progress.env_steps,
            "updates": progress.updates,
            "seconds": progress.seconds,
            "compile_seconds": self._facts["compile_seconds"],
            "env_steps_per_second": progress.env_steps / progress.seconds
            if progress.seconds
            else None,
            "updates_per_worker": progress.updates_per_worker,
            "mean_staleness": progress.mean_staleness,
            "max_staleness": progress.max_staleness,
            **{name: int(progress.metric_sums.get(name, 0)) for name in NONFINITE},
            "resumed": self._facts["resumed"],
            "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }

    def _draw(self) -> None:
        """Draw the learning curve, if there is anything to draw."""
        try:
            plots.learning_curves([self._run], self._run.path / "learning_curve.png")
        except (InputError, OSError) as error:
            tell(f"no learning curve was drawn: {error}")


def _at(key: Array, env_steps: int) -> Array:
    """Return a random key for a step count, which may need more than 32 bits."""
    key = jax.random.fold_in(key, env_steps % 2**32)
    return key if env_steps < 2**32 else jax.random.fold_in(key, env_steps >> 32)
