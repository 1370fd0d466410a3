"""The package's own errors."""


class InputError(ValueError):
    """A request of the user cannot be met. The message gives the value and the way out."""


class HostEnvironmentError(RuntimeError):
    """An environment raised an exception or hung. Its group cannot be used any more."""


class WorkerHangError(RuntimeError):
    """A worker of the asynchronous runner made no progress for too long. Its thread is lost."""
