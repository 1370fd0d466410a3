"""Handle the end of a command: signals, exit codes, messages to a terminal that may be closed."""

import contextlib
import enum
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SUPERVISED = "JAX_A3C_SUPERVISED"
"""Environment variable: file descriptor to which a supervised process writes its exit code."""
SAME_SIGNAL = 1.0
"""Seconds after the first signal in which later signals count as the same one."""


class ExitCode(enum.IntEnum):
    """Exit code of `jax-a3c`."""

    DONE = 0
    FAILED = 1
    """Training diverged, an environment broke, a worker hung or the disk is full."""
    REFUSED = 2
    """The command was refused before it did anything."""
    INTERRUPTED = 130
    """One of `SIGNALS` ended the command; the code is 128 + SIGINT for each of them."""


@contextlib.contextmanager
def handling(handler: Callable[[int, Any], None]) -> Iterator[dict[signal.Signals, Any]]:
    """Install a handler for `SIGNALS`, yield the previous handlers, and restore them at the end.

    Ignored signals stay ignored, such as SIGHUP under `nohup`.
    """
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    previous = {number: before for number, before in handlers.items() if before != signal.SIG_IGN}
    try:
        for number in previous:
            signal.signal(number, handler)
        yield previous
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


@contextlib.contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """Yield an event that the first SIGINT, SIGTERM or SIGHUP sets.

    A second signal goes to the previous handler. A third one ends the program at once, even if a
    step hangs and delays a KeyboardInterrupt.

    Signals within `SAME_SIGNAL` seconds of the first count as the same one: `timeout` signals the
    process and then its group, and a terminal signals the supervisor and its child. The context
    stays open for that time, so that repeated signals do not reach the previous handlers.
    """
    stopped = threading.Event()
    first = 0.0

    # Python allows signal handlers in the main thread only.
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def handle(number: int, frame: Any) -> None:
        nonlocal first
        if not stopped.is_set():
            first = time.monotonic()
            stopped.set()

        elif time.monotonic() - first > SAME_SIGNAL:
            # A third signal then ends the program.
            signal.signal(number, signal.SIG_DFL)
            before = previous[signal.Signals(number)]
            if callable(before):
                before(number, frame)
            else:
                signal.raise_signal(number)

    with handling(handle) as previous:
        try:
            yield stopped
        finally:
            # Wait for the repeated signals before the previous handlers return.
            if stopped.is_set():
                time.sleep(max(0.0, first + SAME_SIGNAL - time.monotonic()))


def report_end(code: int) -> None:
    """Tell the supervisor, if there is one, the exit code: this process did not crash."""
    if descriptor := os.environ.get(SUPERVISED):
        with contextlib.suppress(OSError, ValueError):
            os.write(int(descriptor), bytes([code]))


def flush_output() -> None:
    """Flush standard error and standard output, and replace a broken one.

    The interpreter flushes again when it exits. If that failed, it would replace our exit code.

    Raises:
      OSError: if standard output cannot be written.
    """
    for name in ("stderr", "stdout"):
        try:
            if (stream := getattr(sys, name)) is not None:
                stream.flush()
        except OSError:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - open until exit
            if name == "stdout":
                raise
