"""Named arrays in a file of NumPy, read as data.

`numpy.load` allocates whatever a header asks for, and expands what was
compressed. The file can come from a stranger, so names, shapes and dtypes are
compared with those that are expected before anything is read.
"""

import math
import os
import zipfile
from collections.abc import Mapping, Sequence

import keras
import ml_dtypes
import numpy as np

_SUFFIX = ".npy"


def write_arrays(
    path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]
) -> None:
    """Writes arrays; equal ones give equal bytes.

    Args:
        path: String or path of the file, which ends in `.npz`.
        arrays: Dict from names to arrays.
    """
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            # Without the time of day, which `numpy.savez` leaves out as well.
            entry = zipfile.ZipInfo(f"{name}{_SUFFIX}")
            with archive.open(entry, "w") as stream:
                np.lib.format.write_array(
                    stream,
                    np.asarray(array, order="C"),
                    version=(1, 0),
                    allow_pickle=False,
                )


def read_arrays(
    path: str | os.PathLike[str],
    listed: Mapping[str, tuple[Sequence[int], str]],
) -> dict[str, np.ndarray]:
    """Reads the arrays that `write_arrays` wrote.

    Args:
        path: String or path of the file.
        listed: Dict from the names to `(shape, dtype)`: what the file must
            hold, and nothing else.

    Returns:
        Dict of arrays, in the order of `listed`.

    Raises:
        ValueError: If the file is damaged, or holds anything else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            expected = [f"{name}{_SUFFIX}" for name in listed]
            if sorted(entries) != sorted(expected):
                raise ValueError(
                    f"it must hold {sorted(expected)}, and holds "
                    f"{sorted(entries)}"
                )
            return {
                name: _read(archive, entries[f"{name}{_SUFFIX}"], *variable)
                for name, variable in listed.items()
            }
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise ValueError(f"it is damaged: {error}") from error


def _read(archive, entry, shape, dtype):
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{entry.filename!r} is compressed")
    with archive.open(entry) as stream:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError(f"{entry.filename!r} is of another version")
        header = np.lib.format.read_array_header_1_0(stream)
        stored, is_fortran, kind = header
        # NumPy knows a type of another package, such as bfloat16, by its size.
        known = keras.backend.standardize_dtype(dtype)
        expected = np.dtype(getattr(ml_dtypes, known, known))
        same_kind = kind == expected or (
            kind.kind == "V" and kind.itemsize == expected.itemsize
        )
        if list(stored) != list(shape) or is_fortran or not same_kind:
            raise ValueError(
                f"{entry.filename!r} must be of shape {list(shape)} and dtype "
                f"{dtype}, and is of {header}"
            )
        size = math.prod(shape) * expected.itemsize
        data = stream.read(size + 1)
    if len(data) != size:
        raise ValueError(f"{entry.filename!r} must have {size} bytes")
    return np.frombuffer(data, expected).reshape(shape)
