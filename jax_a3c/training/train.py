"""One run from start to end: train, record, evaluate, summarise."""

import contextlib
import dataclasses
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from jax_a3c.asynchronous import Asynchronous, use_worker_threads
from jax_a3c.checks import InputError
from jax_a3c.methods import METHODS
from jax_a3c.training import plots
from jax_a3c.training.experiment import build
from jax_a3c.training.results import EvaluationStopped, evaluate
from jax_a3c.training.run_directory import RunDirectory
from jax_a3c.training.settings import Settings, check_method
from jax_a3c.types import Progress

ROWS = 200
"""Lines of `metrics.jsonl` that a run writes at most, evenly over its steps."""
PER_EPISODE = ("episode_return", "episode_length")
COUNTS = ("episodes", "nonfinite_gradients")
MAX_NONFINITE = 100
"""Updates in a row whose gradient is not finite, after which a run is given up."""
SUMMARY = (
    *("method", "env", "seed", "status", "env_steps", "updates", "seconds", "compile_seconds"),
    *("env_steps_per_second", "eval_return_mean", "eval_return_std", "eval_episodes"),
)
"""Keys that every `summary.json` has; null where a run did not come so far."""


class Recorder:
    """Turns progress into lines of `metrics.jsonl`, a progress bar, and TensorBoard events if wanted."""

    def __init__(self, run: RunDirectory, total_timesteps: int, *, quiet: bool, tensorboard: bool):
        """Write to `run`; the progress bar goes to the terminal unless `quiet`."""
        self._run = run
        self._interval = total_timesteps / ROWS
        self._last = self.progress = Progress(0, 0, 0.0, {}, [])
        self._finite, self._finite_at = 0, 0
        self._bar = tqdm(
            total=total_timesteps, unit=" steps", unit_scale=True, disable=quiet, dynamic_ncols=True
        )
        self._events = _event_writer()(str(run.path)) if tensorboard else None

    def __call__(self, progress: Progress) -> None:
        """Record what happened since the last line, if that is enough for a new one."""
        self.progress = progress
        self._advance(progress)
        # While threads count, a sum may be ahead of the updates: what it lacks then, it never exceeds later.
        finite = progress.updates - int(progress.metric_sums.get("nonfinite_gradients", 0))
        if finite > self._finite:
            self._finite, self._finite_at = finite, progress.updates
        if progress.env_steps - self._last.env_steps >= self._interval:
            self.write(progress)

    def failed(self, progress: Progress) -> bool:
        """Whether so many updates in a row had no finite gradient that there is no sense in going on."""
        return progress.updates - self._finite_at >= MAX_NONFINITE

    def write(self, progress: Progress) -> None:
        """Record what happened since the last line."""
        row = interval_metrics(self._last, progress)
        if row["updates"] == self._last.updates:
            return
        self._last = progress
        self._run.append_metrics(row)
        self._bar.set_postfix_str(f"return {row['episode_return']:.1f}" if row["episodes"] else "")
        if self._events is not None:
            for name, value in row.items():
                self._events.add_scalar(f"train/{name}", value, row["env_steps"])

    def close(self) -> None:
        """Write what is left and release the terminal and the files."""
        try:
            self.write(self.progress)
        finally:
            self._bar.close()
            if self._events is not None:
                self._events.close()

    def _advance(self, progress: Progress) -> None:
        """Move the bar; the last update of a run overshoots its total."""
        self._bar.update(min(progress.env_steps, self._bar.total) - self._bar.n)


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
    sums = {name: value - last.metric_sums.get(name, 0.0) for name, value in now.metric_sums.items()}
    updates = now.updates - last.updates
    row: dict[str, Any] = {"env_steps": now.env_steps, "updates": now.updates, "seconds": now.seconds}
    row |= {"interval_updates": updates, "mean_staleness": now.mean_staleness}
    row["env_steps_per_second"] = (now.env_steps - last.env_steps) / max(now.seconds - last.seconds, 1e-9)
    for name, value in sums.items():
        if name in PER_EPISODE:
            row[name] = value / sums["episodes"] if sums["episodes"] else float("nan")
        elif name != "env_steps":  # the row has its total
            row[name] = value if name in COUNTS else value / max(1, updates)
    return row


def train(
    method: str,
    env_id: str,
    settings: Settings,
    run_dir: Path,
    *,
    quiet: bool = False,
    tensorboard: bool = False,
) -> dict[str, Any]:
    """Train, evaluate and write the run directory.

    SIGINT and SIGTERM end training, or an evaluation on the host, within about a second; what was learned is
    saved, but evaluated no more, and the summary's status is `interrupted`. A second one ends the program at
    once.

    Args:
      method: a name of `methods.METHODS`.
      env_id: such as `gymnax:CartPole-v1`.
      settings: as `resolve` gives them.
      run_dir: folder to write to.
      quiet: no progress bar.
      tensorboard: write TensorBoard events too.

    Returns:
      The summary, as in `summary.json`.

    Raises:
      InputError: if a setting or the folder is of no use.
      FloatingPointError: if the gradients stay without a finite value.
      HostEnvironmentError: if an environment raises or hangs; what was learned is saved.
    """
    check_method(method, settings)
    if METHODS[method].runner == "asynchronous":
        use_worker_threads()
    experiment = build(method, env_id, settings)
    if METHODS[method].value_based and settings.epsilon_anneal_steps > settings.total_timesteps:
        end = settings.total_timesteps / settings.epsilon_anneal_steps
        print(
            f"epsilon falls only {end:.0%} of its way in total_timesteps={settings.total_timesteps:,}: most "
            f"actions will be random; epsilon_anneal_steps is {settings.epsilon_anneal_steps:,}",
            file=sys.stderr,
        )
    if tensorboard:
        _event_writer()
    run = RunDirectory.create(run_dir, method, env_id, dataclasses.asdict(settings))
    recorder = Recorder(run, settings.total_timesteps, quiet=quiet, tensorboard=tensorboard)
    training_key, evaluation_key = jax.random.split(jax.random.key(settings.seed))
    summary: dict[str, Any] = dict.fromkeys(SUMMARY)
    summary |= {"method": method, "env": env_id, "seed": settings.seed, "status": "failed"}
    trainer = experiment.trainer
    try:
        with _stop_on_signal() as stopped:

            def report(progress: Progress) -> bool:
                recorder(progress)
                return stopped.is_set() or recorder.failed(progress)

            state: Any = trainer.init(training_key)
            try:
                result = trainer.run(state=state, callback=report, interval=0.05)
                state = result.state
            except BaseException:
                # Keep what was learned: on threads the state is changed in place.
                if isinstance(trainer, Asynchronous) or trainer.latest is not None:
                    run.save_params(trainer.params(getattr(trainer, "latest", state)))
                raise
            finally:
                trainer.close(state)
            run.save_params(result.params)
            recorder(result.progress)
            recorder.close()
            summary |= {
                "compile_seconds": result.compile_seconds,
                "env_steps_per_second": result.env_steps_per_second,
            }
            if recorder.failed(result.progress):
                raise FloatingPointError(
                    f"no gradient was finite in the last {MAX_NONFINITE} updates and more; the parameters of "
                    "before are saved: try a smaller learning_rate or reward_scale"
                )
            if not stopped.is_set():
                options: Any = {"quiet": quiet, "stopped": stopped.is_set}
                with contextlib.suppress(EvaluationStopped):
                    summary |= evaluate(
                        experiment, method, settings, result.params, evaluation_key, **options
                    )
            summary["status"] = "interrupted" if stopped.is_set() else "completed"
    except KeyboardInterrupt:
        summary["status"] = "interrupted"
        raise
    except BaseException as error:
        summary |= {"status": "failed", "error": f"{type(error).__name__}: {error}"}
        raise
    finally:
        recorder.close()
        summary |= _counts(recorder.progress)
        run.write_summary(summary)
        _draw(run)
    return summary


def _draw(run: RunDirectory) -> None:
    """The learning curve, if the run came so far."""
    try:
        plots.learning_curves([run], run.path / "learning_curve.png")
    except InputError as error:
        print(f"no learning curve was drawn: {error}", file=sys.stderr)


def _counts(progress: Progress) -> dict[str, Any]:
    return {
        "env_steps": progress.env_steps,
        "updates": progress.updates,
        "seconds": progress.seconds,
        "updates_per_worker": progress.updates_per_worker,
        "mean_staleness": progress.mean_staleness,
        "max_staleness": progress.max_staleness,
        "nonfinite_gradients": int(progress.metric_sums.get("nonfinite_gradients", 0)),
        "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


@contextlib.contextmanager
def _stop_on_signal() -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; a second one acts as if nothing were installed.

    What comes within a second of the first is the same signal: `timeout` sends it to the process and again to
    its group.
    """
    stopped, first = threading.Event(), 0.0
    if threading.current_thread() is not threading.main_thread():
        yield stopped  # only the main thread may install handlers; the program around us has its own
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: Any) -> None:
        nonlocal first
        if not stopped.is_set():
            first = time.monotonic()
            stopped.set()
        elif time.monotonic() - first > 1.0:
            signal.signal(number, previous[signal.Signals(number)])
            signal.raise_signal(number)

    try:
        for number in previous:
            signal.signal(number, handle)
        yield stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _event_writer() -> Any:
    """TensorBoard's writer of events, a class."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise InputError(
            "tensorboard needs the extra of that name: pip install 'jax-a3c[tensorboard]'"
        ) from None
    return SummaryWriter
