"""One file from which a killed run goes on: arrays and a JSON document."""

import json
import zipfile
from typing import Any

import numpy as np

from keras_l2l.serialization.atomic_write import atomic_file

_DOCUMENT = "document"


def write(path, arrays, document):
    """Writes a backup; a kill at any moment leaves the old or the new one.

    Args:
        path: Where to. Its directory is made if need be.
        arrays: List of NumPy arrays.
        document: What `json.dumps` takes.
    """
    text = np.frombuffer(json.dumps(document).encode(), np.uint8)
    named: dict[str, Any] = {_DOCUMENT: text}
    for index, array in enumerate(arrays):
        named[f"array_{index}"] = array
    with atomic_file(path) as file:
        np.savez(file, **named)


def read(path):
    """Reads a backup; runs nothing from it.

    Args:
        path: What `write` wrote.

    Returns:
        Tuple `(arrays, document)`.

    Raises:
        ValueError: If the file is no backup.
    """
    try:
        # Opened here, as NumPy leaves a file open that it cannot read.
        with open(path, "rb") as file:
            # NumPy takes any other file for a pickle, and offers to run it.
            if not zipfile.is_zipfile(file):
                raise ValueError("it is incomplete, or no backup")
            file.seek(0)
            with np.load(file) as named:
                document = json.loads(named[_DOCUMENT].tobytes())
                arrays = [
                    named[f"array_{index}"]
                    for index in range(len(named.files) - 1)
                ]
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"The backup {str(path)!r} cannot be read: {error}. Move it away "
            "to start the run anew."
        ) from error
    return arrays, document
