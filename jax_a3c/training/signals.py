"""Signals that end a run cleanly, and messages to a terminal that may be gone."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """An event that the first SIGINT, SIGTERM or SIGHUP sets; a second one acts as if nothing were installed.

    A third one ends the program, whatever it waits for: Ctrl-C alone waits for a step that hangs.
    What comes within a second of the first is the same signal: `timeout` sends it to the process and again to
    its group, a terminal to a supervisor and its child. A signal that is ignored stays so: `nohup` does that
    with SIGHUP.
    """
    stopped, first = threading.Event(), 0.0
    if threading.current_thread() is not threading.main_thread():
        yield stopped  # only the main thread may install handlers; the program around us has its own
        return
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    previous = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}

    def handle(number: int, frame: Any) -> None:
        nonlocal first
        if not stopped.is_set():
            first = time.monotonic()
            stopped.set()
        elif time.monotonic() - first > 1.0:
            signal.signal(number, signal.SIG_DFL)
            handler = previous[signal.Signals(number)]
            if callable(handler):
                handler(number, frame)
            else:
                signal.raise_signal(number)

    try:
        for number in previous:
            signal.signal(number, handle)
        yield stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


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
    print(message, file=Terminal(), flush=True)
