"""Checkpoints: all that a run needs to go on, in one file that is checked before it is believed.

A checkpoint is a safetensors file. The network's variables stand under `variables/`, the rest of the run's
state under `state/`, each array under its path in the tree. The header holds a manifest in JSON: the format's
number, facts about the run, and the SHA-256 of every array. Nothing is pickled.
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

from jax_a3c.checks import InputError, check_choice, shown
from jax_a3c.hogwild import COUNTERS
from jax_a3c.training.files import PARTIAL, write_whole
from jax_a3c.training.signals import tell
from jax_a3c.types import Params

FORMAT = 1
"""Of the manifest; another one is refused."""
VARIABLES, STATE = "variables/", "state/"
SUFFIX = ".safetensors"
BEST = f"best{SUFFIX}"
BEGINS_ANEW = {
    re.compile(rf"{STATE}(actor|actors/\d+)(?=/|$)"): {
        "seed",
        "final_epsilons",
        "final_epsilon_probabilities",
    },
    re.compile(rf"{STATE}(opt_state|opt_states/\d+|shared/statistics)(?=/|$)"): {"optimizer"},
}
"""What a run can do without: how it acts, what its optimizer remembers; and the settings that decide it."""
DAMAGED = ".damaged"
"""Ends the name of a checkpoint that a resumed run passed over."""


class DamagedError(InputError):
    """A file is no checkpoint, or not the one that was written."""


class DoesNotFitError(InputError):
    """A file holds the state of another network or run."""


class Checkpoint(NamedTuple):
    """What a checkpoint holds.

    Attributes:
      path: of the file.
      arrays: by name.
      facts: what was known of the run when it was written.
    """

    path: Path
    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]

    def params(self, like: Params) -> Params:
        """The network's variables, in the structure of `like`; InputError if they are of another network."""
        return unflatten(like, self.arrays, VARIABLES, self.path)


class Checkpoints:
    """The checkpoints of a run, by their environment steps: the newest ones and the best.

    Attributes:
      folder: that holds them; nothing else writes there.
    """

    def __init__(self, folder: Path):
        """Refer to the folder; nothing is read or written yet."""
        self.folder = folder

    def paths(self) -> list[Path]:
        """The files by number of steps, the newest first."""
        paths = self.folder.glob(f"[0-9]*{SUFFIX}")
        return sorted((path for path in paths if path.stem.isdecimal()), key=steps_of, reverse=True)

    def save(
        self, env_steps: int, arrays: Mapping[str, Any], facts: Mapping[str, Any], *, keep: int
    ) -> Path:
        """Write a checkpoint, and remove what it makes superfluous only when it is on the disk.

        Args:
          env_steps: T, which names it.
          arrays: see `flatten`.
          facts: what JSON can hold.
          keep: how many of the newest ones to keep, at least 1.

        Returns:
          The file.

        Raises:
          OSError: if it cannot be written; the others are as before.
        """
        path = self.folder / f"{env_steps:015d}{SUFFIX}"
        self.folder.mkdir(exist_ok=True)  # somebody may have tidied up
        write(path, arrays, facts)
        for stale in [*self.paths()[keep:], *self.folder.glob(f"*{PARTIAL}")]:
            stale.unlink(missing_ok=True)
        return path

    def keep_as_best(self, path: Path) -> None:
        """Keep a checkpoint of the folder as `best.safetensors` too, a second name for the same file."""
        partial = self.folder / f"{BEST}{PARTIAL}"
        partial.unlink(missing_ok=True)
        try:
            os.link(path, partial)
        except OSError:  # a file system without such names
            write_whole(self.folder / BEST, path.read_bytes())
        else:
            partial.replace(self.folder / BEST)

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; each that is not is named on stderr.

        Returns:
          The checkpoint, None if none was written.

        Raises:
          InputError: if there are checkpoints, and none is whole, or one cannot be opened.
        """
        damaged: dict[Path, DamagedError] = {}
        for path in self.paths():
            try:
                newest = read(path)
            except DamagedError as error:
                damaged[path] = error
                continue
            for why in damaged.values():
                tell(f"{why}; passed over")
            return newest
        if damaged:
            errors = "; ".join(map(str, damaged.values()))
            raise DamagedError(f"no checkpoint in {str(self.folder)!r} is whole: {errors}")
        return None

    def set_aside(self, newest: Path) -> None:
        """Rename the checkpoints after the newest whole one, so that nobody meets them again."""
        for path in self.paths():
            if steps_of(path) > steps_of(newest):
                path.rename(path.with_name(path.name + DAMAGED))

    def load(self, which: str) -> Checkpoint:
        """The `"last"` checkpoint that is whole, or the `"best"` one; InputError if there is none."""
        check_choice("checkpoint", which, ("last", "best"))
        if which == "best":
            if not (self.folder / BEST).exists():
                raise InputError(
                    f"{str(self.folder)!r} has no {BEST}: nothing was evaluated; train with --eval-interval"
                )
            return read(self.folder / BEST)
        newest = self.newest()
        if newest is None:
            raise InputError(
                f"{str(self.folder)!r} has no checkpoint: training is at its start, or they were removed"
            )
        return newest


def write(path: Path, arrays: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write a checkpoint; either all of it is on the disk, or OSError is raised and the name is as before."""
    stored = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    digests = {name: _digest(array) for name, array in stored.items()}
    manifest = json.dumps(
        {"format": FORMAT, "facts": dict(facts), "sha256": digests}, allow_nan=False
    )
    header = {"jax_a3c": manifest, "sha256": hashlib.sha256(manifest.encode()).hexdigest()}
    write_whole(path, safetensors.numpy.save(stored, metadata=header))


def read(path: Path) -> Checkpoint:
    """Read a checkpoint and check every array.

    Raises:
      DamagedError: if the file is missing, damaged, of another program or of another format.
    """
    arrays, header = _load(path)
    text = header.get("jax_a3c", "")
    if hashlib.sha256(text.encode()).hexdigest() != header.get("sha256"):
        raise DamagedError(
            f"{path} is damaged or no checkpoint of jax_a3c: its manifest is not as written"
        )
    manifest = json.loads(text)
    if manifest["format"] != FORMAT:
        raise DamagedError(
            f"{path} has the format {manifest['format']}, this version of jax_a3c reads {FORMAT}"
        )
    if set(arrays) != set(manifest["sha256"]):
        raise DamagedError(f"{path} is damaged: its arrays are not those of its manifest")
    for name, array in arrays.items():
        if _digest(array) != manifest["sha256"][name]:
            raise DamagedError(f"{path} is damaged: {name} is not as written")
    return Checkpoint(path, arrays, manifest["facts"])


def export_params(params: Params, path: Path) -> None:
    """Write a network's variables as a plain safetensors file, for other programs.

    Args:
      params: the variables.
      path: the file; each array stands under its path in the tree, such as `params/torso/Dense_0/kernel`.

    Raises:
      OSError: if it cannot be written.
    """
    write_whole(path, safetensors.numpy.save(flatten(params)))


def import_params(path: Path, like: Params) -> Params:
    """Read variables that `export_params`, or another program, wrote, or those of a checkpoint.

    Args:
      path: a safetensors file.
      like: a tree of arrays or of shapes.

    Returns:
      The variables, in the structure of `like`.

    Raises:
      InputError: if the file is missing, damaged or of another network.
    """
    try:
        path = Path(path)
    except TypeError:
        raise InputError(f"initial_params must be the path of a file, got {shown(path)}") from None
    arrays, header = _load(path)
    params = read(path).params(like) if "jax_a3c" in header else unflatten(like, arrays, "", path)
    for name, leaf in named_leaves(params).items():
        if not np.isfinite(leaf).all():
            raise InputError(f"{path} is of no use: {name} is not finite; give other parameters")
    return params


def flatten(tree: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """Copies of a tree's arrays by their paths, such as `params/torso/Dense_0/kernel`; keys as integers."""
    return {
        prefix + name: np.array(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
        for name, leaf in named_leaves(tree).items()
    }


def unflatten(like: Any, arrays: Mapping[str, np.ndarray], prefix: str, path: Path) -> Any:
    """A tree with the structure of `like` from the arrays whose names begin with a prefix.

    Args:
      like: a tree of arrays or of shapes. Each array of NumPy comes back as one, the others where they are.
      arrays: as `flatten` gives them.
      prefix: of the names.
      path: of the file, for messages.

    Returns:
      The tree.

    Raises:
      DoesNotFitError: if an array is missing, there is one too many, or a shape or dtype differs.
    """
    expected = {prefix + name: leaf for name, leaf in named_leaves(like).items()}
    found = {name for name in arrays if name.startswith(prefix)}
    for name in sorted(found ^ set(expected)):
        what = "there is none of that name" if name in found else "found nothing"
        raise DoesNotFitError(f"{path} is of another network or run: {name}: {what}")
    leaves = []
    for name, leaf in expected.items():
        array = arrays[name]
        if _is_key(leaf):
            leaves.append(
                jax.random.wrap_key_data(jax.numpy.asarray(array), impl=jax.random.key_impl(leaf))
            )
            continue
        wanted = (np.shape(leaf), np.dtype(getattr(leaf, "dtype", type(leaf))))
        if wanted[0] == array.shape == () and wanted[1].kind in "iu" and array.dtype.kind in "iu":
            array = array.astype(wanted[1])  # version 0.1 counted in fewer bits
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
    """The arrays of a checkpoint for a run whose settings were changed.

    Actors and states of the optimizer that do not fit, or are of other settings, are those of the fresh run;
    stderr names them. If there are more or fewer workers now, the first one has what all have counted.

    Args:
      arrays: of the checkpoint.
      fresh: of a run that begins, as `flatten` gives them.
      changed: names of the settings.

    Returns:
      The arrays; `unflatten` refuses them if anything else does not fit.
    """
    fitted, misfits = dict(arrays), []
    for pattern, settings in BEGINS_ANEW.items():
        stored, anew = _parts(pattern, arrays), _parts(pattern, fresh)
        for name in itertools.chain(*stored.values()):
            del fitted[name]
        for part, those in anew.items():
            fits = _kinds(stored[part]) == _kinds(those) and not settings & set(changed)
            fitted |= stored[part] if fits else those
            misfits += [] if fits else [part.removeprefix(STATE)]
    if misfits:
        tell(f"what was saved does not fit the new settings: {', '.join(misfits)} begin anew")
    for name in (f"{STATE}shared/{counter}" for counter in COUNTERS):
        if name in fitted and name in fresh and fitted[name].shape != fresh[name].shape:
            together = np.max if name.endswith("max") else np.sum
            fitted[name], counts = np.zeros_like(fresh[name]), fitted[name]
            fitted[name][0] = together(counts)
    return fitted


def steps_of(path: Path) -> int:
    """Return the environment steps that name the file of a checkpoint."""
    return int(path.stem)


def _parts(
    pattern: re.Pattern, arrays: Mapping[str, np.ndarray]
) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of each part whose name begins with a pattern."""
    parts: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for name, array in arrays.items():
        if match := pattern.match(name):
            parts[match[0]][name] = array
    return parts


def _kinds(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple]:
    return {name: (array.shape, array.dtype) for name, array in arrays.items()}


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths, such as `params/torso/Dense_0/kernel`, in a fixed order."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _load(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays and metadata of a safetensors file."""
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise OSError("it is no regular file")  # a pipe, whose reader would wait
        path.open("rb").close()
    except FileNotFoundError:
        raise DamagedError(f"{path} is missing") from None
    except IsADirectoryError:
        raise DamagedError(
            f"{path} is a folder, not a file as `jax-a3c export` writes it"
        ) from None
    except (OSError, ValueError) as error:  # whether it is whole, nobody knows
        raise InputError(f"{path} cannot be read: {error}") from error
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
            return arrays, file.metadata() or {}
    except (safetensors.SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise DamagedError(f"{path} is damaged or no safetensors file: {error}") from error


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _digest(array: np.ndarray) -> str:
    """SHA-256 of an array's dtype, shape and bytes."""
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode())
    digest.update(array.tobytes())
    return digest.hexdigest()
