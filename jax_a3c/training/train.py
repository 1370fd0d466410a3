"""Train a run from start to end, or resume one: train, save, evaluate, summarize."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import optax

from jax_a3c.checks import check_choice, check_kind
from jax_a3c.envs.base import HostFactory, JaxEnvironment, on_device
from jax_a3c.errors import InputError
from jax_a3c.experiment.build import (
    Experiment,
    Parts,
    build,
    check_own_parts,
    count_devices,
)
from jax_a3c.experiment.checkpoints import DoesNotFitError, import_params
from jax_a3c.experiment.files import locked
from jax_a3c.experiment.run_directory import RunDirectory, new_run_dir
from jax_a3c.machine import has_interpreter_lock
from jax_a3c.messages import tell
from jax_a3c.networks.base import Network
from jax_a3c.objectives.base import Objective
from jax_a3c.runners.asynchronous import use_worker_threads
from jax_a3c.runners.parts import check_env_kind
from jax_a3c.settings.methods import METHODS, DeviceConfig
from jax_a3c.settings.parts import ActionValueConfig, AsynchronousConfig
from jax_a3c.settings.presets import preset_line
from jax_a3c.settings.run import (
    RunOptions,
    Settings,
    check_method,
    check_names,
    check_options,
    check_unused,
    differences,
    resolve,
    stored_settings,
)
from jax_a3c.training.loggers import tensorboard_parts, wandb_module
from jax_a3c.training.session import Session
from jax_a3c.training.signals import stop_on_signal

MOST_WITH_LOCK = 8
"""Workers that the interpreter lock can serve on JAX environments, whose segments hold it for a
seventh of their time."""


def train(
    method: str,
    env: str | JaxEnvironment | HostFactory,
    settings: Settings | Mapping[str, Any] | None = None,
    run_dir: str | Path | None = None,
    *,
    network: Network | None = None,
    objective: Objective | Callable[[Network], Objective] | None = None,
    optimizer: optax.GradientTransformation | None = None,
    options: RunOptions | None = None,
    initial_params: Path | None = None,
) -> dict[str, Any]:
    """Train, evaluate and write the run directory.

    The network, the objective and the optimizer are the ones that the settings describe, or the
    user's own. The run directory does not hold the user's own parts: hand them in again to
    `resume`, and environment and network also to `load`, `evaluate` and `record`.

    SIGINT, SIGTERM or SIGHUP stops training, or the evaluation, within about a second. The run is
    then saved but not evaluated, and the summary's status is `interrupted`. A second signal ends
    the program at once.

    Args:
      method: a name in `settings.methods.METHODS`. It gives the runner and the settings, and the
        objective unless `objective` is given.
      env: environment id, such as `gymnax:CartPole-v1`, or an environment.
      settings: the settings that differ from the defaults of method and environment, by name; or
        all settings, from `resolve`. Those that describe a part that is handed in have no effect.
      run_dir: folder to write to; `runs/METHOD-ENV-TIME` if None.
      network: the user's own network, see `objectives.Network`.
      objective: the user's own objective, or a function `network -> Objective`.
      optimizer: any Optax transformation.
      options: options that do not change what the run learns; None for the defaults.
      initial_params: file of parameters to start from, written by `checkpoints.export_params`.

    Returns:
      The summary, as in `summary.json`, and `run_dir`, the folder.

    Raises:
      InputError: if a setting, a part, a file or the folder cannot be used.
      FloatingPointError: if the gradients are not finite for 100 updates in a row, or in every
        update of the run.
      HostEnvironmentError: if an environment raises or hangs. The learned parameters are saved.
      WorkerHangError: if a worker hangs. The learned parameters are saved.
      OSError: if the last checkpoint or the summary cannot be written.
    """
    check_choice("method", method, METHODS)
    parts = Parts(None, network, objective, optimizer)
    if isinstance(env, str):
        env_id = env
    else:
        check_env_kind(env)
        env_id = env.spec.id
        parts = parts._replace(env=env)
    origin = None
    if settings is None or isinstance(settings, Mapping):
        check_unused(settings or {}, parts.names)
        settings = resolve(method, env_id, **(settings or {}))
        origin = preset_line(method, env_id)
    check_method(method, settings)
    settings = count_devices(settings)
    options = RunOptions() if options is None else options
    experiment = _prepare(method, env_id, settings, options, parts)
    _warn(settings, experiment)

    # Read the given parameters before the folder is made.
    params = (
        None if initial_params is None else import_params(initial_params, experiment.params_like())
    )
    folder = new_run_dir(method, env_id) if run_dir is None else run_dir
    run = RunDirectory.create(folder, method, env_id, settings, options, params, parts.names)
    if origin is not None:
        tell(origin)  # all checks have passed
    if not options.quiet:
        _introduce(run, method, settings, experiment)

    with locked(run.path), stop_on_signal() as stopped:
        summary = Session(run, method, settings, options, experiment, stopped).run()
    return {**summary, "run_dir": run.path}


def _warn(settings: Settings, experiment: Experiment) -> None:
    """Warn of settings that a run can have, but that bring little."""
    # A short run may end before epsilon reaches its final value.
    if (
        isinstance(settings, ActionValueConfig)
        and settings.epsilon_anneal_steps > settings.total_timesteps
    ):
        end = settings.total_timesteps / settings.epsilon_anneal_steps
        tell(
            f"warning: most actions will be random: epsilon falls only {end:.0%} of its way in "
            f"total_timesteps={settings.total_timesteps:,}, because epsilon_anneal_steps="
            f"{settings.epsilon_anneal_steps:,}"
        )

    # Segments of JAX environments are so short that more threads only wait for the lock.
    if (
        isinstance(settings, AsynchronousConfig)
        and settings.num_workers > MOST_WITH_LOCK
        and on_device(experiment.env)
        and has_interpreter_lock()
    ):
        tell(
            f"warning: {settings.num_workers} workers take turns in Python; more than "
            f"{MOST_WITH_LOCK} bring nothing on a JAX environment with this interpreter; a "
            "free-threaded one, such as python3.14t, has no such limit"
        )


def _introduce(run: RunDirectory, method: str, settings: Settings, experiment: Experiment) -> None:
    """Print what is trained, with how many parameters, where, and where the run is written."""
    sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(experiment.params_like())]
    device = jax.devices()[0].device_kind
    if isinstance(settings, DeviceConfig) and settings.devices != 1:
        device = f"{settings.devices} of {device}"
    if isinstance(settings, AsynchronousConfig):
        device = (
            f"{settings.num_workers} threads of {jax.local_devices(backend='cpu')[0].device_kind}"
        )
    tell(f"training {method} on {experiment.env.spec.id}")
    tell(f"  network: {sum(sizes):,} parameters")
    tell(f"  device: {device}")
    tell(f"  run directory: {run.path}")


def resume(
    run_dir: str | Path,
    *,
    env: JaxEnvironment | HostFactory | None = None,
    network: Network | None = None,
    objective: Objective | Callable[[Network], Objective] | None = None,
    optimizer: optax.GradientTransformation | None = None,
    settings: Settings | Mapping[str, Any] | None = None,
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
      env: the user's own environment, if the run was trained with it.
      network: the user's own network, if the run was trained with it.
      objective: the user's own objective, if the run was trained with it.
      optimizer: the user's own optimizer, if the run was trained with it.
      settings: the settings that change, by name, or all settings to resume with; None for the
        settings of the run.
      force: replace the settings of the run if `settings` differ. Episodes restart if the number
        of workers or environments changes. The optimizer's moments restart if the optimizer
        changes. A different network is still refused.
      options: options that do not change what the run learns; None for the options of the run.

    Returns:
      The summary, as in `summary.json`, and `run_dir`, the folder.

    Raises:
      InputError: if the folder holds no run, none of its checkpoints is intact, the settings
        differ, or another process trains in the folder.
      Exception: as `train`.
    """
    run = RunDirectory(run_dir)
    if isinstance(settings, Mapping):
        method, _, stored = run.config()
        check_names(method, settings)
        settings = dataclasses.replace(stored, **settings)
    settings = None if settings is None else count_devices(settings)
    method, env_id, stored = stored_run(run, settings, force=force)
    settings = stored if settings is None else settings
    options = run.options() if options is None else options
    parts = Parts(env, network, objective, optimizer)
    check_own_parts(run, parts, Parts._fields)
    experiment = _prepare(method, env_id, settings, options, parts)

    with locked(run.path), stop_on_signal() as stopped:
        checkpoint = run.checkpoints.newest()
        run.tell_loss(checkpoint)
        if checkpoint is None and (run.path / "metrics.jsonl").exists():
            raise InputError(
                f"cannot resume {str(run.path)!r}: it has no checkpoint, although it has "
                "metrics.jsonl; start a new run"
            )

        # `config.json` may be newer: a process can die between writing it and a first checkpoint.
        saved = stored
        if checkpoint is not None:
            saved = stored_settings(method, checkpoint.facts["settings"])
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
            return {**session.run(), "run_dir": run.path}
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


def _prepare(
    method: str, env_id: str, settings: Settings, options: RunOptions, parts: Parts
) -> Experiment:
    """Build the parts of a run, after the checks that do not need them."""
    check_kind("options", options, RunOptions)
    check_options(settings, options)
    if METHODS[method].runner == "asynchronous":
        use_worker_threads()
    if options.tensorboard:
        tensorboard_parts()
    if options.wandb:
        wandb_module()
    return build(method, env_id, settings, parts)
