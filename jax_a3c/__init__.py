"""A3C, A2C and the value-based methods of Mnih et al. (2016) in JAX.

Public names are imported when they are first used. `import jax_a3c` is therefore quick, touches no
device and imports no environment library.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jax_a3c.evaluation.load import evaluate, load
    from jax_a3c.evaluation.record import record
    from jax_a3c.runners.asynchronous import AsynchronousState, use_worker_threads
    from jax_a3c.runners.methods import (
        a2c,
        a3c,
        async_n_step_q,
        async_one_step_q,
        async_one_step_sarsa,
        asynchronous,
        n_step_q,
        one_step_q,
        one_step_sarsa,
    )
    from jax_a3c.runners.synchronous import Algorithm, SynchronousState, synchronous
    from jax_a3c.settings.parts import (
        A2CConfig,
        A3CConfig,
        AsynchronousConfig,
        AsyncQConfig,
        QConfig,
        SynchronousConfig,
    )
    from jax_a3c.settings.run import RunOptions, resolve
    from jax_a3c.training.train import resume, train

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
# The other public names, by module.
_NAMES = {
    name: module
    for module, names in {
        "evaluation.load": ("evaluate", "load"),
        "evaluation.record": ("record",),
        "runners.asynchronous": ("AsynchronousState", "use_worker_threads"),
        "runners.methods": (
            "a2c",
            "a3c",
            "async_n_step_q",
            "async_one_step_q",
            "async_one_step_sarsa",
            "asynchronous",
            "n_step_q",
            "one_step_q",
            "one_step_sarsa",
        ),
        "runners.synchronous": ("Algorithm", "SynchronousState", "synchronous"),
        "settings.parts": (
            "A2CConfig",
            "A3CConfig",
            "AsyncQConfig",
            "AsynchronousConfig",
            "QConfig",
            "SynchronousConfig",
        ),
        "settings.run": ("RunOptions", "resolve"),
        "training.train": ("resume", "train"),
    }.items()
    for name in names
}

__all__ = [
    "A2CConfig",
    "A3CConfig",
    "Algorithm",
    "AsyncQConfig",
    "AsynchronousConfig",
    "AsynchronousState",
    "QConfig",
    "RunOptions",
    "SynchronousConfig",
    "SynchronousState",
    "__version__",
    "a2c",
    "a3c",
    "async_n_step_q",
    "async_one_step_q",
    "async_one_step_sarsa",
    "asynchronous",
    "distributions",
    "envs",
    "evaluate",
    "exploration",
    "load",
    "losses",
    "n_step_q",
    "networks",
    "normalization",
    "objectives",
    "one_step_q",
    "one_step_sarsa",
    "optimizers",
    "record",
    "resolve",
    "resume",
    "returns",
    "scores",
    "synchronous",
    "train",
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
