"""Write frames to a GIF or an MP4, one at a time."""

import importlib
import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jax_a3c.errors import InputError

INSTALL = "pip install 'jax-a3c[video]'"
NEEDS = {".gif": "imageio", ".mp4": "imageio_ffmpeg"}
"""Library that writes a video, by the suffix of the file."""
MAX_FPS = 50
"""Largest number of frames per second. Viewers slow down a GIF with frames below 20 ms."""


def check_output(path: Path) -> None:
    """Check that a video can be written to a file.

    Args:
      path: path of the file.

    Raises:
      InputError: if the suffix is not `.gif` or `.mp4`, if the folder is missing or not writable,
        or if the library is missing.
    """
    if path.suffix not in NEEDS:
        raise InputError(f"output must end in .gif or .mp4, got {str(path)!r}")
    if not path.parent.is_dir():
        raise InputError(
            f"output {str(path)!r} is in a folder that does not exist; create it first"
        )

    # Create and remove a file, which is the only reliable test.
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
            f"a {path.suffix} video needs {NEEDS[path.suffix]}; run {INSTALL}"
        ) from None


def write_video(path: Path, frames: Iterator[np.ndarray], *, fps: int) -> int:
    """Write a video.

    Only one frame is in memory at a time. The file is written under a temporary name and renamed,
    so an error leaves an existing file unchanged.

    Args:
      path: path of a file that ends in `.gif` or `.mp4`.
      frames: frames `[H, W, 3]` uint8, all of the same size.
      fps: frames per second. A GIF rounds the duration of a frame to 10 ms.

    Returns:
      The number of frames.

    Raises:
      InputError: if the suffix is unknown, a library is missing, or the file cannot be written.
    """
    check_output(path)

    # Count the frames while they are written.
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
    """Return the temporary name of a file. Libraries read the format from its suffix."""
    return path.with_name(f"{path.stem}.partial{path.suffix}")


def _write_gif(path: Path, frames: Iterator[np.ndarray], fps: int) -> None:
    """Write a GIF with imageio."""
    import imageio

    # The duration of a frame is in milliseconds.
    get_writer: Any = imageio.get_writer
    with get_writer(path, duration=10 * round(100 / fps), loop=0) as writer:
        for frame in frames:
            writer.append_data(frame)


def _write_mp4(path: Path, frames: Iterator[np.ndarray], fps: int) -> None:
    """Write an MP4 with the ffmpeg program."""
    # imageio would fork this process, and the fork could copy locks that JAX's threads hold.
    from imageio_ffmpeg import get_ffmpeg_exe

    first = _even(next(frames))
    height, width = first.shape[:2]

    # Raw RGB frames on stdin, H.264 in the file.
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
        # The assertion informs the type checker.
        assert process.stdin is not None
        for frame in itertools.chain([first], map(_even, frames)):
            process.stdin.write(frame.tobytes())
    if process.returncode:
        raise OSError(f"ffmpeg ended with code {process.returncode}")


def _even(frame: np.ndarray) -> np.ndarray:
    """Pad a frame to an even height and width, as the colour format of an MP4 needs."""
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
