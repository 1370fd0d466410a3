"""A3C, A2C and the value-based methods of Mnih et al. (2016) in JAX.

Public names are imported when they are first used. `import jax_a3c` is therefore quick, touches no
device and imports no environment library.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jax_a3c.evaluation.load import load
    from jax_a3c.runners.asynchronous import AsynchronousState, a3c, use_worker_threads
    from jax_a3c.runners.synchronous import Algorithm, SynchronousState, a2c
    from jax_a3c.settings.parts import A2CConfig, A3CConfig

__version__ = "0.1.0"

# Modules that are public names of the package.
_MODULES = (
    "distributions",
    "envs",
    "exploration",
    "losses",
    "networks",
    "normalization",
    "objectives",
    "optimizers",
    "returns",
    "scores",
)
# The module of every other public name.
_NAMES = {
    "Algorithm": "runners.synchronous",
    "A2CConfig": "settings.parts",
    "SynchronousState": "runners.synchronous",
    "a2c": "runners.synchronous",
    "A3CConfig": "settings.parts",
    "AsynchronousState": "runners.asynchronous",
    "a3c": "runners.asynchronous",
    "load": "evaluation.load",
    "use_worker_threads": "runners.asynchronous",
}

__all__ = [
    "A2CConfig",
    "A3CConfig",
    "Algorithm",
    "AsynchronousState",
    "SynchronousState",
    "__version__",
    "a2c",
    "a3c",
    "distributions",
    "envs",
    "exploration",
    "load",
    "losses",
    "networks",
    "normalization",
    "objectives",
    "optimizers",
    "returns",
    "scores",
    "use_worker_threads",
]


def __getattr__(name: str) -> Any:
    """Import the module behind a public name when the name is first used."""
    if name in _MODULES:
        return importlib.import_module(f"jax_a3c.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"jax_a3c.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'jax_a3c' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
