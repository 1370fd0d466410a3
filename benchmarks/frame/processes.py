"""Child processes: parts of a benchmark on one device, or on a given number of cores."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

PLATFORMS = {"cpu": "cpu", "gpu": "cuda"}
"""JAX's names of the devices that scripts accept as `--device`."""
NO_SUCH_DEVICE = 3
"""Exit code of a process that was to measure on a device that is missing."""


def part_of(command: Sequence[str], env: dict[str, str] | None = None) -> tuple[int, Any]:
    """Run a script in a child process that writes JSON to the file given by its `--part`.

    Args:
      command: the script's path and its arguments.
      env: additional environment variables.

    Returns:
      The exit code, and what the script wrote; None if the code is not 0.
    """
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder, "part.json")
        words = [sys.executable, *command, "--part", str(part)]
        code = subprocess.run(words, env={**os.environ, **(env or {})}).returncode
        return code, json.loads(part.read_text()) if code == 0 else None


def write_part(path: Path, content: Any) -> None:
    """Write what a child process measured to the file of its `--part`."""
    path.write_text(json.dumps(content))


def part_on_device(command: Sequence[str], device: str) -> Any:
    """Run a script in a child process that sees one device only.

    The script calls `require_device` first.

    Args:
      command: the script's path and its arguments; `--device` and `--part` are added.
      device: a key of `PLATFORMS`.

    Returns:
      What the script wrote; None if the device is missing.

    Raises:
      SystemExit: if the process failed. It has printed why.
    """
    code, part = part_of([*command, "--device", device], {"JAX_PLATFORMS": PLATFORMS[device]})
    if code not in (0, NO_SUCH_DEVICE):
        raise SystemExit(code)
    return part


def rows_of_devices(devices: Sequence[str]) -> list[dict[str, Any]]:
    """Run this script once per device and collect the rows; a missing device has none.

    Args:
      devices: keys of `PLATFORMS`.

    Returns:
      The rows of all processes, each with its `device`.

    Raises:
      SystemExit: if a process failed, or if none of the devices exists.
    """
    rows = []
    for device in devices:
        part = part_on_device(sys.argv, device) or []
        rows += [{"device": device, **row} for row in part]

    if not rows:
        raise SystemExit(f"nothing was measured: none of these devices exists: {devices}")
    return rows


def require_device(device: str) -> str:
    """Return JAX's kind of the one device of this process; exit with a message without it."""
    try:
        return jax.devices()[0].device_kind
    except (RuntimeError, AssertionError) as error:  # JAX asserts that some platform is left
        reason = str(error).partition("\n")[0] or f"JAX has no platform {PLATFORMS[device]!r}"
        print(f"no {device} here, its rows are left out: {reason}", file=sys.stderr)
        raise SystemExit(NO_SUCH_DEVICE) from None


def confined(cores: int, script: str, flags: Sequence[str]) -> Any:
    """Run a script in a child process that has so many cores before JAX sizes its pools.

    Args:
      cores: number of cores.
      script: its path.
      flags: its arguments; `--part FILE` is added.

    Returns:
      What the script wrote to its `--part`.

    Raises:
      SystemExit: if the cores are not available, or with the code of a script that failed.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise SystemExit("this system cannot confine a process to some cores; use Linux")
    allowed = os.sched_getaffinity(0)
    if not 1 <= cores <= len(allowed):
        raise SystemExit(f"cores must be 1 to {len(allowed)} for this process, got {cores}")

    # Confine this process while the child starts, then free it again.
    os.sched_setaffinity(0, sorted(allowed)[:cores])  # a new process inherits it
    try:
        code, part = part_of([script, *flags])
    finally:
        os.sched_setaffinity(0, allowed)

    if code:
        raise SystemExit(code)  # the script has printed why
    return part


class Ended(NamedTuple):
    """A process that has ended.

    Attributes:
      seconds: from its start to its end.
      output: what it printed.
    """

    seconds: float
    output: str


def process(words: Sequence[str], cache: str | None = None) -> Ended:
    """Run the interpreter with these words on the CPU, with or without a compilation cache.

    Raises:
      SystemExit: if the process failed, with what it printed as errors.
    """
    settings = {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    if cache is not None:
        settings |= {
            "JAX_ENABLE_COMPILATION_CACHE": "true",
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        }

    start = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, *words], env={**os.environ, **settings}, capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    if ended.returncode:
        raise SystemExit(ended.stderr)
    return Ended(seconds, ended.stdout)
