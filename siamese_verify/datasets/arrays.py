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
        try:
            with np.load(path, allow_pickle=False) as file:
                content = {name: file[name] for name in (inputs, labels, "names") if name in file.files}
        except FileNotFoundError:
            raise InputError(
                f"There is no file {path}: write one by numpy.savez, with {inputs} and {labels}."
            ) from None
        except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            raise InputError(f"{path} is not a .npz file of plain arrays, or is damaged ({error}).") from None
        if missing := [name for name in (inputs, labels) if name not in content]:
            raise InputError(f"{path} has no array {missing[0]}: it needs {inputs} and {labels}.")
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
