"""The compilation cache of the command line, so that a second run starts without compiling.

JAX writes each compiled program to a folder and reads it in the next process. This module chooses
the folder: `jax_a3c` in the user's cache folder, on Linux `~/.cache`. JAX's own environment
variables take precedence:

- `JAX_ENABLE_COMPILATION_CACHE=false` keeps no programs.
- `JAX_COMPILATION_CACHE_DIR` is another folder.
- `JAX_COMPILATION_CACHE_MAX_SIZE` is another bound, in bytes.
"""

import hashlib
import os
from pathlib import Path

import platformdirs

from jax_a3c.machine import cpu_features, cpu_model

MAX_BYTES = 2**30
"""Bound on the size of the folder. JAX removes the programs that were not used for longest."""


def use_compilation_cache() -> None:
    """Set JAX's variables, unless the user has set them. Call it before JAX is imported."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return

    # A program for one processor may not run on another, and home folders may be shared.
    processor = hashlib.sha256(f"{cpu_model()} {cpu_features()}".encode()).hexdigest()
    folder = Path(platformdirs.user_cache_dir("jax_a3c", appauthor=False)) / processor[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # without such a folder each run compiles
    if not os.access(folder, os.W_OK):
        return

    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(MAX_BYTES))
    # By default JAX keeps only programs that took a second; most of a run's take less.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
