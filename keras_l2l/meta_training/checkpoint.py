"""One file from which a killed run goes on: arrays and a JSON document."""

import json
import os
import pathlib
import zipfile
from typing import Any

import numpy as np

_DOCUMENT = "document"


def write(path, arrays, document):
    """Writes a backup so that a kill at any moment leaves a whole one.

    Args:
        path: Where to. Its directory is made if need be.
        arrays: List of NumPy arrays.
        document: What `json.dumps` takes.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        text = np.frombuffer(json.dumps(document).encode(), np.uint8)
        named: dict[str, Any] = {_DOCUMENT: text}
        for index, array in enumerate(arrays):
            named[f"array_{index}"] = array
        np.savez(file, **named)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


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
