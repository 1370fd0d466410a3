"""`jax-a3c`: from the words of the command line to a command, and from what it raises to an exit code."""

import contextlib
import dataclasses
import io
import itertools
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from jax_a3c.checks import HostEnvironmentError, InputError, WorkerHangError
from jax_a3c.commands import (
    Envs,
    Eval,
    Export,
    Given,
    GivenOptions,
    Info,
    Plot,
    Presets,
    Record,
    Train,
)
from jax_a3c.machine import current_folder, searches_current_folder
from jax_a3c.training.settings import resolve
from jax_a3c.training.signals import SIGNALS, ExitCode, flush_output, report_end, tell

BUILDS = (Train, Eval, Record, Export)
"""Commands that build an environment."""


def run() -> int:
    """`main` in a process of its own.

    A second Ctrl-C ends a run at once: it does not wait for a step that hangs, as a KeyboardInterrupt would.
    After a run that was interrupted, further signals change nothing.
    """
    if sys.argv[1:2] == ["train"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that knows no plus-minus sign
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
      arguments: of the command line, those of the process if None.

    Returns:
      An `ExitCode`.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _reserve_descriptors()
    try:
        train = tyro.conf.subcommand("train", default=_train_defaults(arguments))
        command: Any = tyro.cli(
            Annotated[Train, train]
            | Annotated[Eval, tyro.conf.subcommand("eval")]
            | Annotated[Record, tyro.conf.subcommand("record")]
            | Annotated[Export, tyro.conf.subcommand("export")]
            | Annotated[Plot, tyro.conf.subcommand("plot")]
            | Annotated[Info, tyro.conf.subcommand("info")]
            | Annotated[Presets, tyro.conf.subcommand("presets")]
            | Annotated[Envs, tyro.conf.subcommand("envs")],
            prog="jax-a3c",
            description="A3C, A2C and the value-based methods of the same paper, in JAX.",
            args=arguments,
            registry=_types(),
        )
        if isinstance(command, Train) and command.supervise and not command.dry_run:
            from jax_a3c.training.supervisor import supervise

            command.check()
            run_dir = command.resume or command.new_run_dir()
            return supervise(arguments, run_dir, resume=command.resume is not None)
        with _modules_from_here() if isinstance(command, BUILDS) else contextlib.nullcontext():
            code = command()
        flush_output()
        return code
    except InputError as error:
        tell(f"jax-a3c: error: {error}")
        return ExitCode.REFUSED
    except (FloatingPointError, HostEnvironmentError, WorkerHangError) as error:
        tell(f"jax-a3c: error: {error}")
        return ExitCode.FAILED
    except OSError as error:  # a full disk, say, at the end of a run
        prints = arguments[:1] != ["train"] or "--dry-run" in arguments
        if isinstance(error, BrokenPipeError) and prints:
            return (
                ExitCode.DONE
            )  # the reader of our output has had enough, `jax-a3c envs | head` say
        tell(f"jax-a3c: error: {error}")
        return ExitCode.FAILED
    except KeyboardInterrupt:
        tell("jax-a3c: interrupted")
        return ExitCode.INTERRUPTED


def _reserve_descriptors() -> None:
    """Keep our files from the descriptors of closed streams, where native code writes its messages."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


@contextlib.contextmanager
def _modules_from_here() -> Iterator[None]:
    """Let modules of the current folder be imported, and by the processes that are started meanwhile.

    A console script has the folder of the script on its path instead. Ours comes last: a file there does not
    stand before an installed package of the same name.
    """
    folder = current_folder()
    if folder is None or searches_current_folder():
        yield
        return

    sys.path.append(folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def _train_defaults(arguments: list[str]) -> Train:
    """What `train` starts from: the settings of the method and environment, or those of a run that goes on.

    METHOD and ENV must stand first: before them no flag is taken, whose value could not be told from the
    method's name.
    """
    words = arguments[1:] if arguments[:1] == ["train"] else []
    named = (
        words[:2]
        if len(words) >= 2 and not any(word.startswith("-") for word in words[:2])
        else None
    )
    options = GivenOptions()
    if (run_dir := _value_of("--resume", words)) is not None:
        from jax_a3c.training.run_directory import RunDirectory

        if not run_dir or run_dir.startswith("--"):
            raise InputError("resume needs the folder of a run: jax-a3c train --resume RUN_DIR")
        run = RunDirectory(Path(run_dir))
        *stored, settings = run.config()
        options = GivenOptions(**dataclasses.asdict(run.options()))
        named = stored
    elif named is not None:
        settings = resolve(*named)
    elif words and not {"-h", "--help"} & set(words):
        raise InputError("METHOD and ENV come first: jax-a3c train METHOD ENV [--flag value ...]")
    else:
        return Train(method=tyro.MISSING, env=tyro.MISSING, settings=Given(), options=options)
    given = Given(**dataclasses.asdict(settings))
    return Train(method=named[0], env=named[1], settings=given, options=options)


def _value_of(flag: str, words: list[str]) -> str | None:
    """What follows a flag on the command line, the last time; None if it is not there, "" if nothing does."""
    value = None
    for word, following in itertools.zip_longest(words, words[1:], fillvalue=""):
        if word == flag:
            value = following
        elif word.startswith(f"{flag}="):
            value = word.partition("=")[2]
    return value


def _types() -> tyro.constructors.ConstructorRegistry:
    """How words are read: integers may be written as `1e6`, no path is empty, as an unset variable is."""
    registry = tyro.constructors.ConstructorRegistry()

    def integer(words: list[str]) -> int:
        with contextlib.suppress(ValueError):
            return int(words[0])
        with contextlib.suppress(ValueError, OverflowError):
            if float(words[0]).is_integer():
                return int(float(words[0]))
        raise ValueError(f"{words[0]} is not an integer")

    def path(words: list[str]) -> Path:
        if not words[0]:
            raise ValueError("a path is empty")
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


if __name__ == "__main__":
    sys.exit(run())
