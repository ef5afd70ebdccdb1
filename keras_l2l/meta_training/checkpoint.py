"""One file from which a killed run resumes: arrays and a JSON document.

It is an uncompressed `.npz` file, so that reading one allocates no more than
its size, whatever it claims to hold.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from keras_l2l.serialization.atomic_write import atomic_file

_DOCUMENT = "document"
_DIGEST = "digest"


def write(
    path: str | os.PathLike[str], arrays: Sequence[np.ndarray], document: Any
) -> None:
    """Writes a backup; a kill at any moment leaves the old or the new one.

    Args:
        path: String or path of the file. Its directory is made if it does not
            exist.
        arrays: Sequence of NumPy arrays.
        document: What `json.dumps` takes.

    Example:

    >>> write("run/backup.npz", rule.get_weights(), {"epoch": 3})
    """
    named: dict[str, Any] = {
        f"array_{index}": np.asarray(array)
        for index, array in enumerate(arrays)
    }
    named[_DOCUMENT] = np.frombuffer(json.dumps(document).encode(), np.uint8)
    named[_DIGEST] = _digest(named)
    with atomic_file(path) as file:
        np.savez(file, **named)


def read(path: str | os.PathLike[str]) -> tuple[list[np.ndarray], Any]:
    """Reads a backup; runs nothing from it.

    Args:
        path: String or path of a file that `write` wrote.

    Returns:
        Tuple `(arrays, document)`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no backup, or was changed.
    """
    with open(path, "rb") as file:
        return parse(file.read(), path)


def parse(
    content: bytes, path: str | os.PathLike[str]
) -> tuple[list[np.ndarray], Any]:
    """Reads a backup from the content of its file, as `read`.

    Args:
        content: Bytes.
        path: String or path of the file, for errors.

    Returns:
        Tuple `(arrays, document)`.

    Raises:
        ValueError: If it is no backup, or was changed.
    """
    with errors_name_backup(path):
        named = _read_arrays(content)
        digest = named.pop(_DIGEST, None)  # Older backups have none.
        if digest is not None and digest.tobytes() != _digest(named).tobytes():
            raise ValueError("it was changed after it was written")
        document = json.loads(named.pop(_DOCUMENT).tobytes())
        return [named[f"array_{i}"] for i in range(len(named))], document


@contextlib.contextmanager
def errors_name_backup(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns whatever goes wrong in the block into an error about a backup.

    Args:
        path: String or path of the backup.

    Raises:
        ValueError: If an error was raised within the block.
    """
    try:
        yield
    except Exception as error:  # The readers' own errors are of many types.
        raise ValueError(
            f"The backup {os.fspath(path)!r} cannot be read: {error!s:.500}. "
            "Move it away to start the run anew."
        ) from error


def _digest(named: dict[str, np.ndarray]) -> np.ndarray:
    """SHA-256 of arrays with their names, against accidental changes."""
    result = hashlib.sha256()
    for name, array in sorted(named.items()):
        # NumPy reads bfloat16 back as "|V2", of no byte order.
        kind = array.dtype.str.lstrip("<|")
        result.update(f"{name} {kind} {array.shape}\n".encode())
        result.update(array.tobytes())
    return np.frombuffer(result.digest(), np.uint8)


def _read_arrays(content: bytes) -> dict[str, np.ndarray]:
    """Reads all arrays of an uncompressed `.npz` file."""
    file = io.BytesIO(content)
    # NumPy takes any other file for a pickle, and offers to run it.
    if not zipfile.is_zipfile(file):
        raise ValueError("it is incomplete, or no backup")
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > len(content):
            raise ValueError("it is smaller than its parts")
        return {
            entry.filename.removesuffix(".npy"): _read_array(archive, entry)
            for entry in entries
        }


def _read_array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    """Reads an array whose header must not claim more than there is."""
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{entry.filename!r} is compressed")
    with archive.open(entry) as stream:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise ValueError(f"{entry.filename!r} has format {version}")
        shape, in_columns, dtype = np.lib.format.read_array_header_1_0(stream)
        if dtype.hasobject:
            raise ValueError(f"{entry.filename!r} holds Python objects")
        content = stream.read()
    if math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError(f"{entry.filename!r} is not of shape {shape}")
    array = np.frombuffer(content, dtype)
    return array.reshape(shape[::-1]).T if in_columns else array.reshape(shape)
