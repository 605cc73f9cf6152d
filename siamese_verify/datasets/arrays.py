"""Arrays in a NumPy file: digits, spectrograms, measurements, or anything else that is no photo."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from siamese_verify.errors import InputError


class ArrayFile:
    """Data set of arrays, read from a `.npz` file as a whole.

    Args:
        path: of the file. It holds `inputs` (N,*shape), `labels` (N,) whole numbers or texts, and perhaps `names` (N,)
            unique texts; nothing in it is unpickled.
        inputs: name of the first of these.
        labels: name of the second.

    Raises:
        InputError: it is missing or damaged, or the arrays do not fit together.
    """

    def __init__(self, path: str | Path, inputs: str = "inputs", labels: str = "labels") -> None:
        self.root = str(path)
        content = read_arrays(path, inputs, labels, optional="names")
        self.inputs = content[inputs]
        count = len(self.inputs) if self.inputs.ndim else 0
        self.names = [str(name) for name in content.get("names", [f"row {row}" for row in range(count)])]
        if count == 0 or self.inputs.dtype.kind not in "biuf" or content[labels].shape != (count,):
            raise InputError(
                f"{path} has {inputs} of {self.inputs.dtype} {self.inputs.shape} and {labels} of shape "
                f"{content[labels].shape}: it needs N inputs of numbers and N labels."
            )
        if len(set(self.names)) != count:
            raise InputError(f"{path} has {len(set(self.names))} different names for {count} inputs: name each once.")
        if content[labels].dtype.kind not in "biuU":
            raise InputError(f"{labels} of {path} are {content[labels].dtype}: use whole numbers or texts.")
        values, numbers = np.unique(content[labels], return_inverse=True)
        self.identities: np.ndarray = numbers.astype(np.int64)
        self.people = [str(value) for value in values]

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, row: int) -> np.ndarray:
        found: np.ndarray = self.inputs[row]
        return found


class ArrayPairs:
    """Data set of pairs of arrays of two kinds, such as recordings and descriptions, for `encoders.Towers`.

    Rows 2i and 2i + 1 are the left and the right array of pair i, and the only ones of identity i.

    Args:
        path: of a `.npz` file that holds `left` (N,*shape) and `right` (N,*shape); nothing in it is unpickled.

    Raises:
        InputError: it is missing or damaged, or the arrays do not fit together.
    """

    def __init__(self, path: str | Path) -> None:
        self.root = str(path)
        content = read_arrays(path, "left", "right")
        self.sides = content["left"], content["right"]
        lengths = {len(side) if side.ndim and side.dtype.kind in "biuf" else 0 for side in self.sides}
        if len(lengths) != 1 or 0 in lengths:
            described = " and ".join(f"{side.dtype} {side.shape}" for side in self.sides)
            raise InputError(f"{path} has left and right of {described}: it needs N arrays of numbers each.")
        self.length = max(side[0].size for side in self.sides)
        self.identities: np.ndarray = np.repeat(np.arange(len(self.sides[0])), 2)
        self.people = [f"pair {number}" for number in range(len(self.sides[0]))]
        self.names = [f"pair {row // 2} {('left', 'right')[row % 2]}" for row in range(len(self))]

    def __len__(self) -> int:
        return len(self.identities)

    def __getitem__(self, row: int) -> np.ndarray:
        return pack_side(self.sides[row % 2][row // 2], bool(row % 2), self.length)


def pack_side(array: np.ndarray, right: bool, length: int) -> np.ndarray:
    """One array as `siamese_verify.encoders.Towers` takes it: (1 + length,) float32.

    Args:
        array: of either kind.
        right: whether it is of the second kind.
        length: numbers of the larger kind.
    """
    packed = np.zeros(1 + length, dtype=np.float32)
    packed[0] = right
    packed[1 : 1 + array.size] = array.ravel()
    return packed


def read_arrays(path: str | Path, *needed: str, optional: str = "") -> dict[str, np.ndarray]:
    """Arrays of a `.npz` file by name.

    Raises:
        InputError: it is missing or damaged, or lacks a needed one.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            content = {name: file[name] for name in (*needed, optional) if name in file.files}
    except FileNotFoundError:
        raise InputError(f"There is no file {path}: write {' and '.join(needed)} by numpy.savez.") from None
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not a .npz file of plain arrays, or is damaged ({error}).") from None
    if missing := [name for name in needed if name not in content]:
        raise InputError(f"{path} has no array {missing[0]}: it needs {' and '.join(needed)}.")
    return content
