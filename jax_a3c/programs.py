"""Compiled programs, of which a process keeps the latest: equal ones are compiled once."""

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
"""Programs that are kept for others that are equal. Many runs in one process need a few at a time."""

_programs: OrderedDict[Any, Callable] = OrderedDict()
_lock = threading.Lock()


def compile_program(
    function: Callable,
    *args: Any,
    device: jax.Device | None = None,
    donate_argnums: tuple[int, ...] = (),
    options: dict[str, Any] | None = None,
) -> Callable:
    """Compile a function for arguments of these shapes, or return the equal program that was compiled before.

    Runs with the same network, environment and settings make new functions, which `jax.jit` compiles again, 8
    to 20 seconds for a large network. Their lowered programs are equal text.

    Args:
      function: a pure function.
      *args: arrays, or trees of them, of the shapes and dtypes to compile for.
      device: to compile for; the default device if None.
      donate_argnums: arguments whose buffers the program may take.
      options: for XLA.

    Returns:
      The program, called with arguments of the same shapes and dtypes.
    """
    with jax.default_device(device) if device else contextlib.nullcontext():
        lowered = jax.jit(function, donate_argnums=donate_argnums).lower(*args)
        text = lowered.as_text()
        compile_it = functools.partial(lowered.compile, compiler_options=options)
        if "callback" in text:  # the text names an address: it may be equal for another function
            return compile_it()

        # The text leaves out arguments that are not used, where the program runs, and how it is optimised.
        places = tuple(getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(args))
        optimised = jax.config.read("jax_disable_most_optimizations")
        digest = hashlib.sha256(text.encode()).digest()
        places += (device, getattr(jax.config, "jax_default_device", None))
        key = (digest, _kinds(args), lowered.out_tree, places, optimised, str(options))
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
    """Compile as `jax.jit` does, but share the programs of equal functions; see `compile_program`.

    Args:
      function: a pure function of positional arguments.
      donate_argnums: arguments whose buffers the program may take.

    Returns:
      The function, which compiles at its first call for each set of shapes and dtypes.
    """
    programs: dict[Any, Callable] = {}

    def call(*args: Any) -> Any:
        key = _kinds(args)
        if key not in programs:
            programs[key] = compile_program(function, *args, donate_argnums=donate_argnums)
        return programs[key](*args)

    return call


def _kinds(args: tuple[Any, ...]) -> Any:
    """Structure, shapes and dtypes of arguments."""
    leaves, structure = jax.tree.flatten(args)
    return structure, tuple((np.shape(leaf), getattr(leaf, "dtype", type(leaf))) for leaf in leaves)


def forget_programs() -> None:
    """Let go of the programs that are kept, and of their memory once no runner uses them."""
    with _lock:
        _programs.clear()
