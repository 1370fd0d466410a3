"""Train a run from start to end, or resume one: train, save, evaluate, summarize."""

import math
from pathlib import Path
from typing import Any

import jax

from jax_a3c.checks import check_kind
from jax_a3c.errors import InputError
from jax_a3c.experiment.build import Experiment, build
from jax_a3c.experiment.checkpoints import DoesNotFitError, import_params
from jax_a3c.experiment.files import locked
from jax_a3c.experiment.run_directory import RunDirectory
from jax_a3c.messages import tell
from jax_a3c.runners.asynchronous import use_worker_threads
from jax_a3c.settings.methods import METHODS
from jax_a3c.settings.run import RunOptions, Settings, check_method, check_options, differences
from jax_a3c.training.metrics import tensorboard_parts
from jax_a3c.training.session import Session
from jax_a3c.training.signals import stop_on_signal


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

    SIGINT, SIGTERM or SIGHUP stops training, or the evaluation, within about a second. The run is
    then saved but not evaluated, and the summary's status is `interrupted`. A second signal ends
    the program at once.

    Args:
      method: a name in `settings.methods.METHODS`.
      env_id: environment id, such as `gymnax:CartPole-v1`.
      settings: settings of the run, from `resolve`.
      run_dir: folder to write to.
      options: options that do not change what the run learns; None for the defaults.
      initial_params: file of parameters to start from, written by `checkpoints.export_params`.
      origin: line that says where the settings come from. It is printed after all checks have
        passed; None prints nothing.

    Returns:
      The summary, as in `summary.json`.

    Raises:
      InputError: if a setting, a file or the folder cannot be used.
      FloatingPointError: if the gradients are not finite for 100 updates in a row, or in every
        update of the run.
      HostEnvironmentError: if an environment raises or hangs. The learned parameters are saved.
      WorkerHangError: if a worker hangs. The learned parameters are saved.
      OSError: if the last checkpoint or the summary cannot be written.
    """
    check_method(method, settings)
    options = RunOptions() if options is None else options
    experiment = _prepare(method, env_id, settings, options)

    # A short run may end before epsilon reaches its final value.
    if METHODS[method].value_based and settings.epsilon_anneal_steps > settings.total_timesteps:
        end = settings.total_timesteps / settings.epsilon_anneal_steps
        tell(
            f"warning: most actions will be random: epsilon falls only {end:.0%} of its way in "
            f"total_timesteps={settings.total_timesteps:,}, because epsilon_anneal_steps="
            f"{settings.epsilon_anneal_steps:,}"
        )

    # Read the given parameters before the folder is made.
    params = (
        None if initial_params is None else import_params(initial_params, experiment.params_like())
    )
    run = RunDirectory.create(run_dir, method, env_id, settings, options, params)
    if origin is not None:
        tell(origin)
    if not options.quiet:
        _introduce(run, method, settings, experiment)

    with locked(run.path), stop_on_signal() as stopped:
        return Session(run, method, settings, options, experiment, stopped).run()


def _introduce(run: RunDirectory, method: str, settings: Settings, experiment: Experiment) -> None:
    """Print what is trained, with how many parameters, where, and where the run is written."""
    sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(experiment.params_like())]
    device = jax.devices()[0].device_kind
    if METHODS[method].runner == "asynchronous":
        device = (
            f"{settings.num_workers} threads of {jax.local_devices(backend='cpu')[0].device_kind}"
        )
    tell(f"training {method} on {experiment.env.spec.id}")
    tell(f"  network: {sum(sizes):,} parameters")
    tell(f"  device: {device}")
    tell(f"  run directory: {run.path}")


def resume(
    run_dir: Path,
    *,
    settings: Settings | None = None,
    force: bool = False,
    options: RunOptions | None = None,
) -> dict[str, Any]:
    """Resume a run from its newest intact checkpoint.

    On JAX environments, a synchronous method or one asynchronous worker continues bit for bit as
    if the run had never stopped, on the same machine with the same package versions. With several
    workers the interleaving differs each time. Host environments start new episodes. Those runs
    continue with the same statistical behavior, but not with the same bits.

    Args:
      run_dir: folder of the run.
      settings: the settings to resume with; None for the settings of the run.
      force: replace the settings of the run if `settings` differ. Episodes restart if the number
        of workers or environments changes. The optimizer's moments restart if the optimizer
        changes. A different network is still refused.
      options: options that do not change what the run learns; None for the options of the run.

    Returns:
      The summary, as in `summary.json`.

    Raises:
      InputError: if the folder holds no run, none of its checkpoints is intact, the settings
        differ, or another process trains in the folder.
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
                f"cannot resume {str(run.path)!r}: it has no checkpoint, although it has "
                "metrics.jsonl; start a new run"
            )

        # `config.json` may be newer: a process can die between writing it and a first checkpoint.
        saved = stored if checkpoint is None else Settings(**checkpoint.facts["settings"])
        changes = differences(saved, settings)
        if changes:
            tell(
                "resuming with settings that differ from the saved ones: "
                f"{'; '.join(changes.values())}"
            )

        try:
            if checkpoint is not None:
                # Refuse another network before anything compiles.
                checkpoint.params(experiment.params_like())
            session = Session(
                run, method, settings, options, experiment, stopped, checkpoint, changed=changes
            )
            return session.run()
        except DoesNotFitError as error:
            way_out = (
                "start a new run from its parameters: jax-a3c export, then train --initial-params"
            )
            raise InputError("; ".join([str(error), *changes.values(), way_out])) from error


def stored_run(
    run: RunDirectory, settings: Settings | None, *, force: bool = False
) -> tuple[str, str, Settings]:
    """Return the method, environment id and settings of a run that is resumed.

    Args:
      run: the run.
      settings: the settings to resume with; None for the settings of the run.
      force: accept `settings` that differ from the settings of the run.

    Raises:
      InputError: if `settings` differ and `force` is False, or the folder holds no run.
    """
    method, env_id, stored = run.config()
    if settings is not None:
        check_method(method, settings)

    # Refuse unless the user forces a change of settings.
    changes = {} if force or settings is None else differences(stored, settings)
    if changes:
        raise InputError(
            f"the run in {str(run.path)!r} has other settings: {'; '.join(changes.values())}; "
            "leave them out, or add --force to resume with the new ones"
        )
    return method, env_id, stored


def _prepare(method: str, env_id: str, settings: Settings, options: RunOptions) -> Experiment:
    """Build the parts of a run, after the checks that do not need them."""
    check_kind("options", options, RunOptions)
    check_options(settings, options)
    if METHODS[method].runner == "asynchronous":
        use_worker_threads()
    if options.tensorboard:
        tensorboard_parts()
    return build(method, env_id, settings)
