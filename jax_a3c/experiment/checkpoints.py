"""Write and read checkpoints, which hold all that a run needs to resume.

Each checkpoint is one safetensors file. The names of the network's variables begin with
`variables/`, the names of the other arrays of the run with `state/`; the path in the tree follows.
The header holds a manifest in JSON: the number of the format, facts about the run, and the SHA-256
of every array. Nothing is pickled. Every array is checked when the file is read.
"""

import hashlib
import itertools
import json
import os
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors
import safetensors.numpy

from jax_a3c.checks import check_choice
from jax_a3c.errors import InputError
from jax_a3c.experiment.files import PARTIAL, write_whole
from jax_a3c.keys import is_key
from jax_a3c.messages import shown, tell
from jax_a3c.runners.shared_parameters import COUNTERS
from jax_a3c.types import Params

FORMAT = 1
"""Number of the manifest's format. Files of another format are refused."""
VARIABLES = "variables/"
STATE = "state/"
SUFFIX = ".safetensors"
BEST = f"best{SUFFIX}"
BEGINS_ANEW = {
    re.compile(rf"{STATE}(actor|actors/\d+)(?=/|$)"): {
        "seed",
        "final_epsilons",
        "final_epsilon_probabilities",
    },
    re.compile(rf"{STATE}(opt_state|opt_states/\d+|shared/moments)(?=/|$)"): {"optimizer"},
}
"""Parts of the state that can start again (actors, moments) and the settings that reset them."""
DEVICE_KEYS = f"{STATE}actor/key"
"""Random keys of JAX environments on a mesh, one for each device."""
RENAMED = {
    rf"^{STATE}shared/statistics$": f"{STATE}shared/moments",
    rf"^({STATE}opt_state/(?:\d+/)*)statistics(?=/)": r"\1moments",
    rf"^({STATE}actors?/.*)\bdiscounted_return$": r"\1running_return",
}
"""Arrays of the checkpoints of version 0.1, and their names today."""
DAMAGED = ".damaged"
"""Suffix of a damaged checkpoint that a resumed run skipped."""


class DamagedError(InputError):
    """A file is not a checkpoint, or it changed after it was written."""


class DoesNotFitError(InputError):
    """A file holds the state of another network or run."""


class Checkpoint(NamedTuple):
    """The content of a checkpoint.

    Attributes:
      path: path of the file.
      arrays: arrays by name.
      facts: facts about the run at the time of writing.
    """

    path: Path
    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]

    def params(self, like: Params) -> Params:
        """Return the network's variables in the structure of `like`.

        Raises:
          DoesNotFitError: if they belong to another network.
        """
        return unflatten(like, self.arrays, VARIABLES, self.path)


class Checkpoints:
    """The checkpoints of a run: the newest ones, named by environment steps, and the best one.

    Attributes:
      folder: folder of the checkpoints; nothing else writes there.
    """

    def __init__(self, folder: Path):
        """Refer to the folder; read and write nothing yet."""
        self.folder = folder

    def paths(self) -> list[Path]:
        """Return the files by number of steps, the newest first."""
        paths = self.folder.glob(f"[0-9]*{SUFFIX}")
        return sorted((path for path in paths if path.stem.isdecimal()), key=steps_of, reverse=True)

    def save(
        self, env_steps: int, arrays: Mapping[str, Any], facts: Mapping[str, Any], *, keep: int
    ) -> Path:
        """Write a checkpoint, then remove the oldest ones.

        Args:
          env_steps: T, the environment steps so far; they name the file.
          arrays: arrays by name, see `flatten`.
          facts: facts about the run, as JSON can hold them.
          keep: number of newest checkpoints to keep, at least 1.

        Returns:
          The path of the file.

        Raises:
          OSError: if it cannot be written; the other checkpoints do not change.
        """
        path = self.folder / f"{env_steps:015d}{SUFFIX}"
        # A user may have removed the folder.
        self.folder.mkdir(exist_ok=True)
        write(path, arrays, facts)

        # Remove older ones only now that the new one is on the disk.
        for stale in [*self.paths()[keep:], *self.folder.glob(f"*{PARTIAL}")]:
            stale.unlink(missing_ok=True)
        return path

    def keep_as_best(self, path: Path) -> None:
        """Keep a checkpoint of the folder as `best.safetensors` too, as a hard link if possible."""
        # Link under a temporary name first: a rename replaces the old best atomically.
        partial = self.folder / f"{BEST}{PARTIAL}"
        partial.unlink(missing_ok=True)
        try:
            os.link(path, partial)
        except OSError:
            # Some file systems have no hard links.
            write_whole(self.folder / BEST, path.read_bytes())
        else:
            partial.replace(self.folder / BEST)

    def newest(self) -> Checkpoint | None:
        """Read the newest intact checkpoint; name each damaged newer one on stderr.

        Returns:
          The checkpoint, None if the folder has none.

        Raises:
          InputError: if there are checkpoints but none is intact, or if one cannot be opened.
        """
        damaged: dict[Path, DamagedError] = {}
        for path in self.paths():
            try:
                newest = read(path)
            except DamagedError as error:
                damaged[path] = error
                continue
            for why in damaged.values():
                tell(f"{why}; skipped")
            return newest

        if damaged:
            errors = "; ".join(map(str, damaged.values()))
            raise DamagedError(f"no checkpoint in {str(self.folder)!r} is intact: {errors}")
        return None

    def set_aside(self, newest: Path) -> None:
        """Rename the damaged checkpoints after the newest intact one; nothing reads them then."""
        for path in self.paths():
            if steps_of(path) > steps_of(newest):
                path.rename(path.with_name(path.name + DAMAGED))

    def load(self, which: str) -> Checkpoint:
        """Read the `"last"` intact checkpoint or the `"best"` one.

        Raises:
          InputError: if there is no such checkpoint, or if it is damaged.
        """
        check_choice("checkpoint", which, ("last", "best"))
        if which == "best":
            if not (self.folder / BEST).exists():
                raise InputError(
                    f"{str(self.folder)!r} has no {BEST} because no checkpoint was evaluated; "
                    f"train with --eval-interval"
                )
            return read(self.folder / BEST)

        newest = self.newest()
        if newest is None:
            raise InputError(
                f"{str(self.folder)!r} has no checkpoint: none was written, or they were removed"
            )
        return newest


def write(path: Path, arrays: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically.

    Raises:
      OSError: if it cannot be written; a file of that name does not change then.
    """
    stored = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    digests = {name: _digest(array) for name, array in stored.items()}

    # Hash the manifest too: a changed digest or fact must not go unnoticed.
    manifest = json.dumps(
        {"format": FORMAT, "facts": dict(facts), "sha256": digests}, allow_nan=False
    )
    header = {"jax_a3c": manifest, "sha256": hashlib.sha256(manifest.encode()).hexdigest()}
    write_whole(path, safetensors.numpy.save(stored, metadata=header))


def read(path: Path) -> Checkpoint:
    """Read a checkpoint and check every array.

    Raises:
      DamagedError: if the file is missing or damaged, or if it has another format.
      InputError: if the file cannot be opened.
    """
    # Check the manifest first: it holds the digests of the arrays.
    arrays, header = _load(path)
    text = header.get("jax_a3c", "")
    if hashlib.sha256(text.encode()).hexdigest() != header.get("sha256"):
        raise DamagedError(
            f"{path} is damaged or not a checkpoint of jax_a3c: its manifest has another SHA-256"
        )
    manifest = json.loads(text)
    if manifest["format"] != FORMAT:
        raise DamagedError(
            f"{path} has the format {manifest['format']}, this version of jax_a3c reads {FORMAT}"
        )

    if set(arrays) != set(manifest["sha256"]):
        raise DamagedError(f"{path} is damaged: its arrays differ from its manifest")
    for name, array in arrays.items():
        if _digest(array) != manifest["sha256"][name]:
            raise DamagedError(f"{path} is damaged: {name} has another SHA-256")
    return Checkpoint(path, {_today(name): x for name, x in arrays.items()}, manifest["facts"])


def export_params(params: Params, path: Path) -> None:
    """Write a network's variables as a plain safetensors file, for other programs.

    Args:
      params: the variables.
      path: path of the file. The name of an array is its path in the tree, such as
        `params/torso/Dense_0/kernel`.

    Raises:
      OSError: if the file cannot be written.
    """
    write_whole(path, safetensors.numpy.save(flatten(params)))


def import_params(path: Path, like: Params) -> Params:
    """Read a network's variables from an exported file or a checkpoint.

    Args:
      path: path of a safetensors file that `export_params` or another program wrote.
      like: tree of arrays or of shapes.

    Returns:
      The variables in the structure of `like`.

    Raises:
      InputError: if the file is missing or damaged, if it belongs to another network, or if a value
        is NaN or infinite.
    """
    try:
        path = Path(path)
    except TypeError:
        raise InputError(f"initial_params must be the path of a file, got {shown(path)}") from None

    # Only a checkpoint has a manifest.
    arrays, header = _load(path)
    params = read(path).params(like) if "jax_a3c" in header else unflatten(like, arrays, "", path)

    for name, leaf in named_leaves(params).items():
        if not np.isfinite(leaf).all():
            raise InputError(
                f"{path}: {name} is not finite; choose a file without NaN or infinities"
            )
    return params


def flatten(tree: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """Copy the arrays of a tree into a dict by their paths, such as `params/torso/Dense_0/kernel`.

    Random keys become integers.
    """
    return {
        prefix + name: np.array(jax.random.key_data(leaf) if is_key(leaf) else leaf)
        for name, leaf in named_leaves(tree).items()
    }


def unflatten(like: Any, arrays: Mapping[str, np.ndarray], prefix: str, path: Path) -> Any:
    """Build a tree with the structure of `like` from the arrays whose names begin with a prefix.

    Args:
      like: tree of arrays or of shapes. A JAX array in it gives a JAX array with the same sharding,
        anything else a NumPy array.
      arrays: arrays by name, as `flatten` returns them.
      prefix: prefix of the names.
      path: path of the file, for error messages.

    Returns:
      The tree.

    Raises:
      DoesNotFitError: if an array is missing or unexpected, or if a shape or dtype differs.
    """
    # Name the first array that only one side has.
    expected = {prefix + name: leaf for name, leaf in named_leaves(like).items()}
    found = {name for name in arrays if name.startswith(prefix)}
    for name in sorted(found ^ set(expected)):
        what = "unexpected array" if name in found else "array is missing"
        raise DoesNotFitError(f"{path} is of another network or run: {name}: {what}")

    leaves = []
    for name, leaf in expected.items():
        array = arrays[name]
        if is_key(leaf):
            key = jax.random.wrap_key_data(jax.numpy.asarray(array), impl=jax.random.key_impl(leaf))
            leaves.append(jax.device_put(key, leaf.sharding))
            continue

        # Check shape and dtype.
        wanted = (np.shape(leaf), np.dtype(getattr(leaf, "dtype", type(leaf))))
        if wanted[0] == array.shape == () and wanted[1].kind in "iu" and array.dtype.kind in "iu":
            # Version 0.1 used smaller counters.
            array = array.astype(wanted[1])
        if (array.shape, array.dtype) != wanted:
            raise DoesNotFitError(
                f"{path} is of another network or run: {name} should be {wanted[1]} {wanted[0]}, "
                f"found {array.dtype} {array.shape}"
            )

        if isinstance(leaf, jax.Array):
            leaves.append(jax.device_put(array, leaf.sharding))
        else:
            leaves.append(np.array(array))
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def refit(
    arrays: Mapping[str, np.ndarray], fresh: Mapping[str, np.ndarray], changed: Collection[str]
) -> dict[str, np.ndarray]:
    """Adapt the arrays of a checkpoint to a run whose settings were changed.

    Actors and moments start again if their shapes differ or if a setting that decides them was
    changed; stderr names them. If the number of workers changed, the first worker gets the counts
    of all workers.

    Args:
      arrays: arrays of the checkpoint.
      fresh: arrays of a new run with the changed settings, as `flatten` returns them.
      changed: names of the changed settings.

    Returns:
      The arrays. `unflatten` refuses them if anything else does not fit.
    """
    fitted = dict(arrays)
    if "devices" in changed and DEVICE_KEYS in fitted and DEVICE_KEYS in fresh:
        fitted[DEVICE_KEYS] = fresh[DEVICE_KEYS]
        tell("the environments continue with new random keys, one for each device")
    arrays = dict(fitted)
    misfits: list[str] = []

    # Keep a part that fits, else take the part of the new run.
    for pattern, settings in BEGINS_ANEW.items():
        stored = _parts(pattern, arrays)
        initial = _parts(pattern, fresh)
        for name in itertools.chain(*stored.values()):
            del fitted[name]
        for part, values in initial.items():
            fits = _kinds(stored[part]) == _kinds(values) and not settings & set(changed)
            fitted |= stored[part] if fits else values
            misfits += [] if fits else [part.removeprefix(STATE)]
    if misfits:
        tell(f"the checkpoint does not fit the new settings: {', '.join(misfits)} start again")

    # Counters have one entry per worker: combine them in the first one.
    for name in (f"{STATE}shared/{counter}" for counter in COUNTERS):
        if name in fitted and name in fresh and fitted[name].shape != fresh[name].shape:
            together = np.max if name.endswith("max") else np.sum
            counts = fitted[name]
            fitted[name] = np.zeros_like(fresh[name])
            fitted[name][0] = together(counts)
    return fitted


def steps_of(path: Path) -> int:
    """Return the environment steps that name the file of a checkpoint."""
    return int(path.stem)


def _today(name: str) -> str:
    """Return today's name of an array that version 0.1 saved under another one."""
    for before, now in RENAMED.items():
        name = re.sub(before, now, name)
    return name


def _parts(
    pattern: re.Pattern, arrays: Mapping[str, np.ndarray]
) -> dict[str, dict[str, np.ndarray]]:
    """Group the arrays by the start of their names that a pattern matches."""
    parts: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for name, array in arrays.items():
        if match := pattern.match(name):
            parts[match[0]][name] = array
    return parts


def _kinds(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple]:
    """Return shape and dtype of each array."""
    return {name: (array.shape, array.dtype) for name, array in arrays.items()}


def named_leaves(tree: Any) -> dict[str, Any]:
    """Return the leaves by path, such as `params/torso/Dense_0/kernel`, in a fixed order."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _load(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read the arrays and the metadata of a safetensors file."""
    # A file that cannot be opened is not counted as damaged.
    try:
        # Opening a pipe would wait for a writer.
        if path.exists() and not path.is_file() and not path.is_dir():
            raise OSError("not a regular file")
        path.open("rb").close()
    except FileNotFoundError:
        raise DamagedError(f"{path} is missing") from None
    except IsADirectoryError:
        raise DamagedError(
            f"{path} is a folder; give a file such as `jax-a3c export` writes"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error

    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return arrays, file.metadata() or {}
    except (safetensors.SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise DamagedError(f"{path} is damaged or not a safetensors file: {error}") from error


def _digest(array: np.ndarray) -> str:
    """Return the SHA-256 of an array's dtype, shape and bytes."""
    # Equal bytes under another dtype or shape are another array.
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode())
    digest.update(array.tobytes())
    return digest.hexdigest()
