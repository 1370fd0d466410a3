"""One run from start to end: train, record, save, evaluate, summarise; and going on with one that ended."""

from pathlib import Path
from typing import Any

from jax_a3c.asynchronous import use_worker_threads
from jax_a3c.checks import InputError, check_kind
from jax_a3c.methods import METHODS
from jax_a3c.training.checkpoints import DoesNotFitError, import_params
from jax_a3c.training.experiment import Experiment, build
from jax_a3c.training.files import locked
from jax_a3c.training.recorder import tensorboard_parts
from jax_a3c.training.run_directory import RunDirectory
from jax_a3c.training.session import Session
from jax_a3c.training.settings import RunOptions, Settings, check_method, check_options, differences
from jax_a3c.training.signals import stop_on_signal, tell


def train(
    method: str,
    env_id: str,
    settings: Settings,
    run_dir: Path,
    *,
    options: RunOptions | None = None,
    initial_params: Path | None = None,
    origin: str | None = None,
) -> dict[str, Any]:
    """Train, evaluate and write the run directory.

    SIGINT, SIGTERM and SIGHUP end training or an evaluation within about a second; what was learned is
    saved, but evaluated no more, and the summary's status is `interrupted`. A second one ends the
    program at once.

    Args:
      method: a name of `methods.METHODS`.
      env_id: such as `gymnax:CartPole-v1`.
      settings: as `resolve` gives them.
      run_dir: folder to write to.
      options: what the run does beside training; the defaults if None.
      initial_params: parameters to start from, as `checkpoints.export_params` writes them.
      origin: where the settings come from, a line for whoever watches once nothing is refused any more; None
        for no such line.

    Returns:
      The summary, as in `summary.json`.

    Raises:
      InputError: if a setting, a file or the folder is of no use.
      FloatingPointError: if the gradients stay without a finite value.
      HostEnvironmentError: if an environment raises or hangs; what was learned is saved.
      WorkerHangError: if a worker hangs; what was learned is saved.
      OSError: if the last checkpoint or the summary cannot be written.
    """
    check_method(method, settings)
    options = RunOptions() if options is None else options
    experiment = _prepare(method, env_id, settings, options)
    if METHODS[method].value_based and settings.epsilon_anneal_steps > settings.total_timesteps:
        end = settings.total_timesteps / settings.epsilon_anneal_steps
        tell(
            f"epsilon falls only {end:.0%} of its way in total_timesteps={settings.total_timesteps:,}: most "
            f"actions will be random; epsilon_anneal_steps is {settings.epsilon_anneal_steps:,}"
        )
    params = (
        None
        if initial_params is None
        else import_params(initial_params, experiment.parameters_like())
    )
    run = RunDirectory.create(run_dir, method, env_id, settings, options, params)
    if origin is not None:
        tell(origin)
    with locked(run.path), stop_on_signal() as stopped:
        return Session(run, method, settings, options, experiment, stopped).run()


def resume(
    run_dir: Path,
    *,
    settings: Settings | None = None,
    force: bool = False,
    options: RunOptions | None = None,
) -> dict[str, Any]:
    """Go on with a run from its newest checkpoint that is whole, as if it had never stopped.

    On environments in JAX, with a synchronous method or one asynchronous worker, everything after is bit for
    bit what it would have been, on the same machine with the same versions. Many workers interleave
    differently each time, and environments of the host begin new episodes: those runs go on statistically.

    Args:
      run_dir: folder of the run.
      settings: what they should be, None for those of the run.
      force: go on even if they differ from those of the run, which then are replaced. With other numbers of
        workers or environments episodes begin anew, with another optimizer its statistics; another network
        is refused.
      options: what the run does beside training; what it did before if None.

    Returns:
      The summary.

    Raises:
      InputError: if the folder holds no run, none of its checkpoints is whole, the settings differ, or
        another process trains in it.
      Exception: as `train`.
    """
    run = RunDirectory(run_dir)
    method, env_id, stored = stored_run(run, settings, force=force)
    settings = stored if settings is None else settings
    options = run.options() if options is None else options
    experiment = _prepare(method, env_id, settings, options)
    with locked(run.path), stop_on_signal() as stopped:
        checkpoint = run.checkpoints.newest()
        run.tell_loss(checkpoint)
        if checkpoint is None and (run.path / "metrics.jsonl").exists():
            raise InputError(
                f"{str(run.path)!r} has learned something, but has no checkpoint any more: begin another run"
            )
        # Not those of `config.json`: a run may have died between it and its first checkpoint.
        saved = stored if checkpoint is None else Settings(**checkpoint.facts["settings"])
        changes = differences(saved, settings)
        if changes:
            tell(
                f"the run goes on with other settings than those saved: {'; '.join(changes.values())}"
            )
        try:
            if checkpoint is not None:
                checkpoint.params(experiment.parameters_like())  # before anything compiles
            session = Session(
                run, method, settings, options, experiment, stopped, checkpoint, changed=changes
            )
            return session.run()
        except DoesNotFitError as error:
            way_out = "a new run can start from its parameters: jax-a3c export, then train --initial-params"
            raise InputError("; ".join([str(error), *changes.values(), way_out])) from error


def stored_run(
    run: RunDirectory, settings: Settings | None, *, force: bool = False
) -> tuple[str, str, Settings]:
    """Method, environment and settings of a run that goes on; InputError if others are given unforced."""
    method, env_id, stored = run.config()
    if settings is not None:
        check_method(method, settings)
    changes = {} if force or settings is None else differences(stored, settings)
    if changes:
        raise InputError(
            f"the run in {str(run.path)!r} has other settings: {'; '.join(changes.values())}. Leave them "
            "out, or go on with the new ones by --force"
        )
    return method, env_id, stored


def _prepare(method: str, env_id: str, settings: Settings, options: RunOptions) -> Experiment:
    """The parts of a run, after all checks that need nothing of it."""
    check_kind("options", options, RunOptions)
    check_options(settings, options)
    if METHODS[method].runner == "asynchronous":
        use_worker_threads()
    if options.tensorboard:
        tensorboard_parts()
    return build(method, env_id, settings)
