"""The commands of `jax-a3c`, their flags, and what each does.

Nothing heavy is imported before a command needs it, so that `--help` answers at once.
"""

import contextlib
import dataclasses
import datetime
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jax_a3c.checks import InputError
from jax_a3c.presets import PRESETS, preset_id
from jax_a3c.training.settings import RunOptions, Settings, check_options
from jax_a3c.training.signals import ExitCode, flush_output

MAX_NAME = 100
"""Characters of an environment's id in the name of a run's folder; file systems allow 255 in all."""

Which = Literal["last", "best"]


class Given(Settings):
    __doc__ = Settings.__doc__

    def __post_init__(self) -> None:
        """Check nothing: a refusal inside tyro would lose its sentence in a box. `Settings` checks."""


class GivenOptions(RunOptions):
    __doc__ = RunOptions.__doc__

    def __post_init__(self) -> None:
        """As that of `Given`."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train METHOD on ENV, or go on with a run: jax-a3c train --resume RUN_DIR.

    The defaults shown are the preset's where there is one for METHOD and ENV, or for the same environment of
    another library (see `jax-a3c presets`), or those of the run that goes on. Integers may be written as 1e6.
    """

    method: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="METHOD")]
    """a2c, one-step-q, one-step-sarsa or n-step-q in lock-step; a3c, async-one-step-q,
    async-one-step-sarsa or async-n-step-q on threads."""
    env: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENV")]
    """Environment id such as gymnax:CartPole-v1; `jax-a3c envs` lists them."""
    settings: tyro.conf.OmitArgPrefixes[Given]
    options: tyro.conf.OmitArgPrefixes[GivenOptions]
    run_dir: Path | None = None
    """Folder to write to; runs/METHOD-ENV-TIME if left out."""
    resume: Path | None = None
    """Folder of a run to go on with, from its newest checkpoint that is whole. METHOD and ENV may be left
    out."""
    force: bool = False
    """Go on with a run under settings that differ from its own."""
    initial_params: Path | None = None
    """Parameters to start from, a file of `jax-a3c export`."""
    supervise: bool = False
    """Train in a process of its own, which is started anew and goes on if native code of an environment
    kills it."""
    dry_run: bool = False
    """Print settings, shapes and the parameter count, and stop before anything compiles."""

    def __call__(self) -> int:
        """Run the command."""
        self.check()
        settings = Settings(**dataclasses.asdict(self.settings))
        options = RunOptions(**dataclasses.asdict(self.options))
        if self.dry_run:
            return self._describe(settings)
        run_dir = self.resume or self.new_run_dir()
        if self.resume is not None:
            from jax_a3c.training.train import resume

            summary = resume(run_dir, settings=settings, force=self.force, options=options)
        else:
            from jax_a3c.training.train import train

            summary = train(
                self.method,
                self.env,
                settings,
                run_dir,
                options=options,
                initial_params=self.initial_params,
                origin=self._preset(),
            )
        with contextlib.suppress(OSError):  # nobody reads it any more: the run is what it is
            try:
                _print_table([_summary_row(run_dir, summary)])
            finally:
                flush_output()
        return ExitCode.DONE if summary["status"] == "completed" else ExitCode.INTERRUPTED

    def check(self) -> None:
        """Refuse flags that contradict each other."""
        if self.resume is None:
            if self.force:
                raise InputError(
                    "force is a setting of --resume: leave it out, or say which run should go on"
                )
            return
        for name in ("run_dir", "initial_params"):
            if getattr(self, name) is not None:
                raise InputError(
                    f"{name} is of no use with --resume, the run has its own: leave it out"
                )
        from jax_a3c.training.run_directory import RunDirectory

        stored = RunDirectory(self.resume).config()[:2]
        if stored != (self.method, self.env):
            raise InputError(
                f"the run in {str(self.resume)!r} is of {' '.join(stored)}, not of {self.method} {self.env}"
            )

    def _describe(self, settings: Settings) -> int:
        """What `--dry-run` prints."""
        import math

        from jax_a3c.training.checkpoints import import_params, named_leaves
        from jax_a3c.training.experiment import build
        from jax_a3c.training.run_directory import RunDirectory
        from jax_a3c.training.train import stored_run

        check_options(settings, RunOptions(**dataclasses.asdict(self.options)))
        if self.resume is not None:
            stored_run(RunDirectory(self.resume), settings, force=self.force)
        experiment = build(self.method, self.env, settings)
        if self.initial_params is not None:
            import_params(self.initial_params, experiment.parameters_like())
        print(f"{self.method} on {self.env}")
        if (preset := self._preset()) is not None:
            print(preset)
        for name, value in dataclasses.asdict(settings).items():
            print(f"  {name} = {value}")
        print(experiment.env.spec)
        _print_unbounded_actions(experiment.env.spec.action_space)
        shapes = {
            name: leaf.shape for name, leaf in named_leaves(experiment.parameters_like()).items()
        }
        for name, shape in shapes.items():
            print(f"  {name} {shape}")
        print(f"{sum(math.prod(shape) for shape in shapes.values()):,} parameters")
        return ExitCode.DONE

    def _preset(self) -> str | None:
        """The line that says whose settings a new run starts from; None without a preset."""
        if self.resume is not None:
            return None
        found = preset_id(self.method, self.env)
        return None if found is None else f"settings of the preset for {self.method} {found}"

    def new_run_dir(self) -> Path:
        """Where a new run goes."""
        now = datetime.datetime.now().strftime(
            "%Y%m%d-%H%M%S-%f"
        )  # runs may start in the same second
        env = re.sub(r"[^\w.-]+", "-", self.env, flags=re.ASCII)[:MAX_NAME]
        return self.run_dir or Path("runs", f"{self.method}-{env}-{now}")


@dataclass(frozen=True, kw_only=True)
class Eval:
    """Evaluate the final parameters of runs over complete episodes; of several also the aggregate."""

    run_dirs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs."""
    episodes: int = 100
    """Complete episodes, for each policy: greedy, and sampled or epsilon-greedy."""
    max_steps: int | None = None
    """Environment steps of a run's evaluation, of which each game of each policy gets an equal share; whole
    games if left out."""
    seed: int = 1
    """Of start states and sampled actions."""
    quiet: bool = False
    """No progress bar."""
    checkpoint: Which = "last"
    """The newest, or the best by the evaluations of the run."""

    def __call__(self) -> int:
        """Run the command."""
        from jax_a3c.training.results import evaluate_run, evaluate_runs
        from jax_a3c.training.run_directory import RunDirectory, without_nan

        paths = list(dict.fromkeys(self.run_dirs))
        if not paths:
            raise InputError("run_dirs must name at least one folder of a run")
        options: Any = {
            **{"num_episodes": self.episodes, "max_steps": self.max_steps, "seed": self.seed},
            **{"quiet": self.quiet, "which": self.checkpoint},
        }
        if len(paths) == 1:
            results = evaluate_run(RunDirectory(paths[0]), **options)
        else:
            results = evaluate_runs(paths, **options)
        print(json.dumps(without_nan(results), indent=2))
        return ExitCode.DONE


@dataclass(frozen=True, kw_only=True)
class Record:
    """Let the final parameters of a run play, and write a GIF or an MP4 of it."""

    run_dir: tyro.conf.Positional[Path]
    """Folder of the run."""
    output: Path | None = None
    """The .gif or .mp4 file to write; RUN_DIR/recording.gif if left out."""
    episodes: int = 1
    """Whole games."""
    policy: str | None = None
    """greedy, sampled (actor-critic) or epsilon-greedy (value-based); the run's eval_policy if left out."""
    seed: int = 1
    """Of start states and sampled actions."""
    max_steps: int = 3000
    """Environment steps altogether, after which the recording ends."""
    fps: int = 30
    """Pictures per second, one for each step."""
    checkpoint: Which = "last"
    """The newest, or the best by the evaluations of the run."""

    def __call__(self) -> int:
        """Run the command."""
        # pygame draws without a screen or a sound card if it is told so, and complains of neither.
        for variable in ("SDL_VIDEODRIVER", "SDL_AUDIODRIVER"):
            os.environ.setdefault(variable, "dummy")
        from jax_a3c.training.record import record
        from jax_a3c.training.run_directory import RunDirectory

        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        recording = record(RunDirectory(options.pop("run_dir")), **options)
        for episode_return, length in zip(recording.returns, recording.lengths, strict=True):
            print(f"return {episode_return:g} in {length:,} steps")
        if len(recording.returns) < self.episodes:
            print(f"ended at --max-steps {self.max_steps:,}")
        print(f"wrote {recording.path}, {recording.frames:,} pictures")
        return ExitCode.DONE


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write the parameters of a run as a plain safetensors file, for other programs and --initial-params."""

    run_dir: tyro.conf.Positional[Path]
    """Folder of the run."""
    output: Path = Path("params.safetensors")
    """The file to write."""
    checkpoint: Which = "last"
    """The newest, or the best by the evaluations of the run."""

    def __call__(self) -> int:
        """Run the command."""
        from jax_a3c.training.checkpoints import export_params
        from jax_a3c.training.results import load
        from jax_a3c.training.run_directory import RunDirectory

        *_, params = load(RunDirectory(self.run_dir), self.checkpoint)
        try:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            export_params(params, self.output)
        except (OSError, ValueError) as error:  # a path may also be none
            raise InputError(f"output {str(self.output)!r} cannot be written: {error}") from error
        print(f"wrote {self.output}")
        return ExitCode.DONE


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Draw the learning curves of runs into one picture and print their summaries."""

    run_dirs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs."""
    output: Path = Path("learning_curve.png")
    """The PNG file to write."""

    def __call__(self) -> int:
        """Run the command."""
        from jax_a3c.training.plots import learning_curves
        from jax_a3c.training.run_directory import RunDirectory

        if not self.run_dirs:
            raise InputError("run_dirs must name at least one folder of a run")
        runs = [RunDirectory(path) for path in self.run_dirs]
        rows = [
            _summary_row(run.path, run.summary())
            for run in runs
            if os.path.exists(run.path / "summary.json")  # a run that goes on has none yet
        ]
        print(f"wrote {learning_curves(runs, self.output)}")
        _print_table(rows)
        return ExitCode.DONE


@dataclass(frozen=True, kw_only=True)
class Info:
    """Print versions, devices and processor of this machine."""

    def __call__(self) -> int:
        """Run the command."""
        from jax_a3c.training.run_directory import environment

        print(json.dumps(environment(), indent=2))
        return ExitCode.DONE


@dataclass(frozen=True, kw_only=True)
class Presets:
    """List the tuned settings with their measured results."""

    def __call__(self) -> int:
        """Run the command."""
        for (method, env_id), preset in PRESETS.items():
            settings = " ".join(f"{name}={value}" for name, value in preset.settings.items())
            print(f"{method} {env_id}\n  {settings}\n  {preset.result}")
        print(
            "An environment without a preset of its own takes that of the same name in another library: "
            "gymnasium:CartPole-v1 takes that of gymnax:CartPole-v1. Presets with env_options are not shared."
        )
        return ExitCode.DONE


@dataclass(frozen=True, kw_only=True)
class Envs:
    """List the environments that can be made."""

    def __call__(self) -> int:
        """Run the command."""
        from jax_a3c import envs

        rows = []
        for env_id in envs.available():
            spec = envs.make(env_id).spec
            actions = spec.action_space
            rows.append(
                {
                    "id": env_id,
                    "observation": f"{spec.num_categories} categories"
                    if spec.num_categories
                    else f"{spec.observation_shape} {spec.observation_dtype}",
                    "actions": f"{actions.num_actions} discrete"
                    if isinstance(actions, envs.Discrete)
                    else f"{actions.size} continuous",
                    "time limit": spec.max_episode_steps,
                }
            )
        _print_table(rows)
        return ExitCode.DONE


def _print_unbounded_actions(space: Any) -> None:
    """Say which entries of a real action have no finite bounds, and so are not scaled."""
    from jax_a3c.envs.base import Box, is_bounded

    if not isinstance(space, Box):
        return
    unbounded = [str(entry) for entry, bounded in enumerate(is_bounded(space)) if not bounded]
    if unbounded:
        print(
            f"actions {', '.join(unbounded)} have no finite bounds: the policy acts in their own units"
        )


def _summary_row(run_dir: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a summary that a terminal has room for."""
    row = {name: summary.get(name) for name in ("method", "env", "seed", "status")}
    formats = {"env steps": ("env_steps", ","), "seconds": ("seconds", ".1f")}
    formats |= {"steps/s": ("env_steps_per_second", ",.0f"), "return": ("eval_return_mean", ".1f")}
    for title, (name, form) in formats.items():
        if summary.get(name) is not None:  # a run that failed has not all of them
            row[title] = format(summary[name], form)
    if "return" in row:
        if summary.get("eval_return_std") is not None:
            row["return"] = f"{row['return']} ± {summary['eval_return_std']:.1f}"
        cut = f" ({summary['eval_episodes_cut']} cut)" if summary.get("eval_episodes_cut") else ""
        row["evaluated"] = (
            f"{summary.get('eval_episodes')} episodes{cut}, {summary.get('eval_policy')}"
        )
    return {**row, "run": run_dir}


def _print_table(rows: list[dict[str, Any]]) -> None:
    """Print rows as aligned columns; a row may lack some of them. Nothing if there is none."""
    if not rows:
        return
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, *([str(row.get(name, "")) for name in columns] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        print(
            "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
        )
