"""How a command ends: signals that end a run cleanly, exit codes, messages to a terminal that may be gone."""

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
"""Variable of the environment: the descriptor to which a process that is watched writes its exit code."""
SAME_SIGNAL = 1.0
"""Seconds after the first in which all that come are the same one."""


class ExitCode(enum.IntEnum):
    """Of `jax-a3c`."""

    DONE = 0
    FAILED = 1
    """Training diverged, an environment broke, a worker hung or the disk is full."""
    REFUSED = 2
    """The command, before anything was done."""
    INTERRUPTED = 130
    """128 + SIGINT, whichever of `SIGNALS` it was."""


@contextlib.contextmanager
def handling(handler: Callable[[int, Any], None]) -> Iterator[dict[signal.Signals, Any]]:
    """Send `SIGNALS` to a handler; what handled them before, and will again, is what it yields.

    A signal that is ignored stays so: `nohup` does that with SIGHUP.
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
    """An event that the first SIGINT, SIGTERM or SIGHUP sets; a second one acts as if nothing were installed.

    A third one ends the program, whatever it waits for: a KeyboardInterrupt waits for a step that hangs.
    What comes within `SAME_SIGNAL` of the first is the same one: `timeout` sends it to the process and again
    to its group, a terminal to a supervisor and its child. The context ends no sooner, so that what handled
    signals before it gets none of those.
    """
    stopped, first = threading.Event(), 0.0
    if threading.current_thread() is not threading.main_thread():
        yield stopped  # only the main thread may install handlers; the program around us has its own
        return

    def handle(number: int, frame: Any) -> None:
        nonlocal first
        if not stopped.is_set():
            first = time.monotonic()
            stopped.set()
        elif time.monotonic() - first > SAME_SIGNAL:
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
            if stopped.is_set():
                time.sleep(max(0.0, first + SAME_SIGNAL - time.monotonic()))


class Terminal:
    """Standard error as a file that takes everything: a closed terminal or a broken pipe ends no training."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        """Write what can be written."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.flush()

    def fileno(self) -> int:
        """The descriptor, for the width of the terminal; OSError without one."""
        try:
            return sys.stderr.fileno()
        except AttributeError as error:
            raise OSError(str(error)) from error

    def isatty(self) -> bool:
        """Whether somebody may look at it."""
        with contextlib.suppress(OSError, ValueError):
            return os.isatty(self.fileno())
        return False


def tell(message: str) -> None:
    """A line for whoever watches."""
    print(" ".join(message.splitlines()), file=Terminal(), flush=True)


def report_end(code: int) -> None:
    """Tell the supervisor, if there is one, that this process ends by itself and not in native code."""
    if descriptor := os.environ.get(SUPERVISED):
        with contextlib.suppress(OSError, ValueError):
            os.write(int(descriptor), bytes([code]))


def flush_output() -> None:
    """Write what the streams still hold; OSError if nobody takes what is on standard output.

    Where nobody does the interpreter would try again at its end, and replace our exit code by one of its own.
    """
    for name in ("stderr", "stdout"):
        try:
            if (stream := getattr(sys, name)) is not None:
                stream.flush()
        except OSError:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - until the end
            if name == "stdout":
                raise
