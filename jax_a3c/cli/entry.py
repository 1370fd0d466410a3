"""The command line `jax-a3c`: parse the arguments, run a command, return an exit code."""

import contextlib
import dataclasses
import difflib
import io
import itertools
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from jax_a3c.checks import check_choice
from jax_a3c.cli.cache import use_compilation_cache
from jax_a3c.cli.commands import (
    Envs,
    Eval,
    Export,
    Info,
    Plot,
    Presets,
    Record,
    Train,
)
from jax_a3c.errors import HostEnvironmentError, InputError, WorkerHangError
from jax_a3c.machine import current_folder, searches_current_folder
from jax_a3c.messages import tell
from jax_a3c.settings.methods import A2CSettings, Settings
from jax_a3c.settings.run import RunOptions, methods_with, resolve
from jax_a3c.training.signals import SIGNALS, ExitCode, flush_output, report_end

COMMANDS: dict[str, type] = {
    "train": Train,
    "eval": Eval,
    "record": Record,
    "export": Export,
    "plot": Plot,
    "info": Info,
    "presets": Presets,
    "envs": Envs,
}
BUILDS = (Train, Eval, Record, Export)
"""Commands that build an environment and so may import modules of the user."""
LONGEST = 500
"""Most characters of the parser's message, which repeats the user's words."""


def run() -> int:
    """Run `main` as the entry point of a process, and return its exit code.

    A second Ctrl-C ends a run at once. A KeyboardInterrupt would wait for a step that hangs. Once
    an interrupted run has ended, further signals are ignored.
    """
    if sys.argv[1:2] == ["train"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Some terminals cannot encode the plus-minus sign.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    use_compilation_cache()

    code: int = ExitCode.FAILED
    try:
        code = main()
        if code == ExitCode.INTERRUPTED:
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)
    finally:
        with contextlib.suppress(OSError):
            flush_output()
        report_end(code)
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command of `jax-a3c`.

    Args:
      arguments: arguments of the command line; None for `sys.argv[1:]`.

    Returns:
      An `ExitCode`.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _reserve_descriptors()

    try:
        train = _train_defaults(arguments)
        _check_flags(arguments, train)
        command = _parse(arguments, train)

        # The supervisor runs the same command in a child process.
        if isinstance(command, Train) and command.supervise and not command.dry_run:
            from jax_a3c.cli.supervisor import supervise

            command.check()
            return supervise(arguments, command.folder(), resume=command.resume is not None)

        with _modules_from_here() if isinstance(command, BUILDS) else contextlib.nullcontext():
            code = command()
        flush_output()
        return code

    # Known errors end with one line instead of a traceback.
    except InputError as error:
        tell(f"jax-a3c: error: {error}")
        return ExitCode.REFUSED
    except (FloatingPointError, HostEnvironmentError, WorkerHangError) as error:
        tell(f"jax-a3c: error: {error}")
        return ExitCode.FAILED
    except OSError as error:  # such as a full disk
        # `jax-a3c envs | head`: the reader of our output has closed the pipe.
        prints = arguments[:1] != ["train"] or "--dry-run" in arguments
        if isinstance(error, BrokenPipeError) and prints:
            return ExitCode.DONE
        tell(f"jax-a3c: error: {error}")
        return ExitCode.FAILED
    except KeyboardInterrupt:
        tell("jax-a3c: interrupted")
        return ExitCode.INTERRUPTED


def _parse(arguments: list[str], train: Train) -> Any:
    """Return the command that the arguments describe.

    Args:
      arguments: words of the command line.
      train: defaults of `train`.

    Raises:
      InputError: if a value is invalid or missing.
      SystemExit: after `--help`.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(
                Annotated[Train, tyro.conf.subcommand("train", default=train)]
                | Annotated[Eval, tyro.conf.subcommand("eval")]
                | Annotated[Record, tyro.conf.subcommand("record")]
                | Annotated[Export, tyro.conf.subcommand("export")]
                | Annotated[Plot, tyro.conf.subcommand("plot")]
                | Annotated[Info, tyro.conf.subcommand("info")]
                | Annotated[Presets, tyro.conf.subcommand("presets")]
                | Annotated[Envs, tyro.conf.subcommand("envs")],
                prog="jax-a3c",
                description="Train and evaluate A3C, A2C and the paper's value-based methods.",
                args=arguments,
                registry=_types(),
            )
    except SystemExit as end:
        if not end.code:
            raise
        raise InputError(_unboxed(printed.getvalue())) from None


def _unboxed(text: str) -> str:
    """Return the first paragraph of the box in which tyro prints an error, on one line."""
    # The first line is the title. Without UTF-8 there is no frame, and rules are made of "-".
    lines = [line.strip("│╭╮╰╯ ") for line in text.splitlines()[1:]]
    blocks = itertools.groupby(lines, key=lambda line: bool(line.strip("─-")))
    paragraph = next((list(block) for is_text, block in blocks if is_text), [])
    message = " ".join(paragraph) or "invalid arguments; --help lists the flags"
    return message if len(message) <= LONGEST else f"{message[:LONGEST]}..."


def _check_flags(arguments: list[str], train: Train) -> None:
    """Refuse an unknown command or flag in one line that names the nearest one."""
    if not arguments or arguments[0].startswith("-"):
        return
    check_choice("the command", arguments[0], COMMANDS)
    command = COMMANDS[arguments[0]]
    parts: list[Any] = [command]
    if command is Train:
        if train.method is tyro.MISSING:  # `train --help`
            return
        parts += [train.settings, train.options]
    names = [field.name for part in parts for field in dataclasses.fields(part)]
    known = [f"--{name.replace('_', '-')}" for name in names]

    for word in arguments[1:]:
        flag = word.partition("=")[0].replace("_", "-")
        if not flag.startswith("--") or flag in ("--", "--help", *known):
            continue
        if flag.replace("--no-", "--", 1) in known:
            continue

        # A flag of other methods, or a misspelled one.
        name = flag.removeprefix("--").replace("-", "_")
        if command is Train and (others := methods_with(name)):
            raise InputError(
                f"unknown flag {flag} of jax-a3c train {train.method}; these methods have it: "
                f"{others}"
            )
        nearest = difflib.get_close_matches(flag, known, n=1)
        way_out = f"did you mean {nearest[0]}?" if nearest else "--help lists the flags"
        raise InputError(f"unknown flag {flag} of jax-a3c {arguments[0]}; {way_out}")


def _reserve_descriptors() -> None:
    """Occupy closed descriptors 0 to 2, so that messages of native code never reach our files."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


@contextlib.contextmanager
def _modules_from_here() -> Iterator[None]:
    """Add the current folder to the import path, also for processes that are started meanwhile.

    A console script has the folder of the script on its path instead. The current folder comes
    last, so that a file there does not hide an installed package of the same name.
    """
    folder = current_folder()
    if folder is None or searches_current_folder():
        yield
        return

    sys.path.append(folder)
    try:
        yield
    finally:
        # The command may have changed the path meanwhile.
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def _train_defaults(arguments: list[str]) -> Train:
    """Return the defaults of `train`: the settings of the resumed run, or of METHOD on ENV.

    METHOD and ENV must come first, because the value of a flag before them could be mistaken for
    METHOD.

    Raises:
      InputError: if flags come before METHOD and ENV, or --resume names no run.
    """
    words = arguments[1:] if arguments[:1] == ["train"] else []
    named = words[:2] if len(words) >= 2 and not any(w.startswith("-") for w in words[:2]) else None
    options = RunOptions()

    if (run_dir := _value_of("--resume", words)) is not None:
        from jax_a3c.experiment.run_directory import RunDirectory

        if not run_dir or run_dir.startswith("--"):
            raise InputError("resume needs the folder of a run: jax-a3c train --resume RUN_DIR")

        run = RunDirectory(Path(run_dir))
        *named, settings = run.config()
        options = run.options()
    elif named is not None:
        settings = resolve(*named)
    elif arguments[:1] == ["train"] and not {"-h", "--help"} & set(words):
        raise InputError("METHOD and ENV come first: jax-a3c train METHOD ENV [--flag value ...]")

    # `--help` without a method: show what all methods have, with the defaults of A2C.
    else:
        settings = A2CSettings()
    kind = Settings if named is None else type(settings)
    method, env = named or (tyro.MISSING, tyro.MISSING)
    return Train(
        method=method,
        env=env,
        settings=_unchecked(kind, settings),
        options=_unchecked(RunOptions, options),
    )


def _unchecked(kind: type, config: Any) -> Any:
    """Return the fields that `kind` has of a config, as an instance of a subclass without checks.

    The parser makes another instance of its class: tyro would print an error there in a box. The
    command makes an instance of `kind` itself, which checks.
    """
    body = {"__doc__": kind.__doc__, "__post_init__": lambda self: None}
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(kind)}
    return type(kind.__name__, (kind,), body)(**values)


def _value_of(flag: str, words: list[str]) -> str | None:
    """Return the last value of a flag; None without the flag, "" without a value."""
    value = None
    for word, following in itertools.zip_longest(words, words[1:], fillvalue=""):
        if word == flag:
            value = following
        elif word.startswith(f"{flag}="):
            value = word.partition("=")[2]
    return value


def _types() -> tyro.constructors.ConstructorRegistry:
    """Return the parsers of types: integers may be written as `1e6`, paths must not be empty."""
    registry = tyro.constructors.ConstructorRegistry()

    def integer(words: list[str]) -> int:
        with contextlib.suppress(ValueError):
            return int(words[0])
        # `1e6` is a whole number; `1.5` is refused, as are `inf` and `nan`.
        with contextlib.suppress(ValueError, OverflowError):
            if float(words[0]).is_integer():
                return int(float(words[0]))
        raise ValueError(f"{words[0]} is not an integer")

    def path(words: list[str]) -> Path:
        if not words[0]:
            raise ValueError("a path is empty; an unset shell variable may be the cause")
        return Path(words[0])

    @registry.primitive_rule
    def rule(
        info: tyro.constructors.PrimitiveTypeInfo,
    ) -> tyro.constructors.PrimitiveConstructorSpec | None:
        kind: Any = info.type
        if kind not in (int, Path):
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar={int: "INT", Path: "PATH"}[kind],
            instance_from_str={int: integer, Path: path}[kind],
            is_instance=lambda value: isinstance(value, kind),
            str_from_instance=lambda value: [str(value)],
        )

    return registry
