"""Cache of compiled programs: a process compiles equal programs once and keeps the latest."""

import contextlib
import functools
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

KEPT = 32
"""Number of programs in the cache. A run needs a few; many runs in one process share them."""

_programs: OrderedDict[Any, Callable] = OrderedDict()
_lock = threading.Lock()


def compile_program(
    function: Callable,
    *args: Any,
    device: jax.Device | None = None,
    donate_argnums: tuple[int, ...] = (),
    options: dict[str, Any] | None = None,
) -> Callable:
    """Compile a function for arguments of these shapes, or return an equal program from the cache.

    Two runs with the same network, environment and settings create different function objects.
    `jax.jit` would compile both, 8 to 20 seconds each for a large network, but the text of their
    lowered programs is equal.

    Args:
      function: a pure function.
      *args: arrays, or trees of arrays, with the shapes and dtypes to compile for.
      device: device to compile for; the default device if None.
      donate_argnums: arguments whose buffers the program may reuse.
      options: compiler options for XLA.

    Returns:
      The program, called with arguments of the same shapes and dtypes.
    """
    with jax.default_device(device) if device else contextlib.nullcontext():
        lowered = jax.jit(function, donate_argnums=donate_argnums).lower(*args)
        text = lowered.as_text()
        compile_it = functools.partial(lowered.compile, compiler_options=options)

        # A callback appears in the text as an address, which another function may have later.
        if "callback" in text:
            return compile_it()

        # The text lacks unused arguments, the program's device and the level of optimisation.
        places = tuple(getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(args))
        optimised = jax.config.read("jax_disable_most_optimizations")
        digest = hashlib.sha256(text.encode()).digest()
        places += (device, getattr(jax.config, "jax_default_device", None))
        key = (digest, _kinds(args), lowered.out_tree, places, optimised, str(options))

        # Compile without the lock. A program that is used moves to the end of the cache.
        with _lock:
            program = _programs.pop(key, None)
        if program is None:
            program = compile_it()
        with _lock:
            _programs[key] = program
            while len(_programs) > KEPT:
                _programs.popitem(last=False)
    return program


def shared_jit(function: Callable, *, donate_argnums: tuple[int, ...] = ()) -> Callable:
    """Return a compiled form of a function, as `jax.jit` does, with programs from the cache.

    See `compile_program`.

    Args:
      function: a pure function of positional arguments.
      donate_argnums: arguments whose buffers the program may reuse.

    Returns:
      A function that compiles at its first call for each set of shapes and dtypes.
    """
    programs: dict[Any, Callable] = {}

    def call(*args: Any) -> Any:
        key = _kinds(args)
        if key not in programs:
            programs[key] = compile_program(function, *args, donate_argnums=donate_argnums)
        return programs[key](*args)

    return call


def _kinds(args: tuple[Any, ...]) -> Any:
    """Return the structure, shapes and dtypes of arguments."""
    leaves, structure = jax.tree.flatten(args)
    return structure, tuple((np.shape(leaf), getattr(leaf, "dtype", type(leaf))) for leaf in leaves)


def forget_programs() -> None:
    """Empty the cache. The memory of a program is freed once no runner uses it."""
    with _lock:
        _programs.clear()
