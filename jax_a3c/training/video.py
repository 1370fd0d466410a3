"""Pictures to a GIF or an MP4, one by one."""

import importlib
import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jax_a3c.checks import InputError

INSTALL = "pip install 'jax-a3c[video]'"
NEEDS = {".gif": "imageio", ".mp4": "imageio_ffmpeg"}
"""By the suffix of the file, the library that writes it."""
MAX_FPS = 50
"""What viewers show of a GIF: they slow down frames shorter than 20 milliseconds."""


def check_output(path: Path) -> None:
    """Refuse a file that could not be written in the end.

    Args:
      path: of the file.

    Raises:
      InputError: if its suffix is another than `.gif` and `.mp4`, its folder is missing or takes no file, or
        the library is missing.
    """
    if path.suffix not in NEEDS:
        raise InputError(f"output must end in .gif or .mp4, got {str(path)!r}")
    if not path.parent.is_dir():
        raise InputError(f"output {str(path)!r} is in a folder that does not exist")
    partial = _partial(path)
    try:
        partial.touch()
        partial.unlink()
    except OSError as error:
        raise InputError(f"output {str(path)!r} cannot be written: {error}") from error
    try:
        importlib.import_module(NEEDS[path.suffix])
    except ImportError:
        raise InputError(
            f"a recording as {path.suffix} needs {NEEDS[path.suffix]}; {INSTALL}"
        ) from None


def write_video(path: Path, frames: Iterator[np.ndarray], *, fps: int) -> int:
    """Write pictures one by one, so that a long game needs no more memory than a short one.

    Args:
      path: a file that ends in `.gif` or `.mp4`; it is there in whole or, after an error, as it was before.
      frames: `[H, W, 3]` uint8, all of one size.
      fps: pictures per second; a GIF counts in hundredths of a second.

    Returns:
      The number of pictures.

    Raises:
      InputError: if the suffix is another, a library is missing, or the file cannot be written.
    """
    check_output(path)
    partial = _partial(path)
    count = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal count
        for frame in frames:
            count += 1
            yield frame

    try:
        (_write_gif if path.suffix == ".gif" else _write_mp4)(partial, counted(), fps)
        partial.replace(path)
    except OSError as error:
        raise InputError(f"output {str(path)!r} cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return count


def _partial(path: Path) -> Path:
    """The name of a file while it is being written; its suffix tells the libraries the format."""
    return path.with_name(f"{path.stem}.partial{path.suffix}")


def _write_gif(path: Path, frames: Iterator[np.ndarray], fps: int) -> None:
    import imageio

    get_writer: Any = imageio.get_writer
    with get_writer(path, duration=10 * round(100 / fps), loop=0) as writer:
        for frame in frames:
            writer.append_data(frame)


def _write_mp4(path: Path, frames: Iterator[np.ndarray], fps: int) -> None:
    # imageio would run Python code in a fork of this process, whose locks JAX's threads may hold.
    from imageio_ffmpeg import get_ffmpeg_exe

    first = _even(next(frames))
    height, width = first.shape[:2]
    given = [
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-s",
        f"{width}x{height}",
        "-r",
        str(fps),
        "-i",
        "-",
    ]
    wanted = ["-an", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(path)]
    command = [get_ffmpeg_exe(), "-y", "-loglevel", "error", *given, *wanted]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None  # for the type checker
        for frame in itertools.chain([first], map(_even, frames)):
            process.stdin.write(frame.tobytes())
    if process.returncode:
        raise OSError(f"ffmpeg ended with code {process.returncode}")


def _even(frame: np.ndarray) -> np.ndarray:
    """With an even number of rows and columns, as the colours of an MP4 need."""
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
