"""Data of a user's own: a CSV table, an NPZ archive, or a function.

What is returned is `(train, test)`, each a pair `(x, y)` of arrays (or of
structures of arrays) or a `tf.data.Dataset`; `test` may be `None`.
"""

import collections
import csv
import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_l2l import checks
from keras_l2l.tasks import python_files

_MISSING = {"", "na", "n/a", "nan", "null", "none", "?"}
_MOST_CATEGORIES = 20  # of a text column, one input each
_TEST_SHARE = 5  # a fifth of the examples is held out
_DELIMITERS = ",;\t"


def load(data: str, target: str | None = None) -> tuple[Any, Any]:
    """Loads training and held-out data.

    Args:
        data: String: `FILE.py:FUNCTION`, the path of a `.csv`, or that of an
            `.npz` with arrays `x` and `y`, and perhaps `x_test` and `y_test`
            (or `x_train` and `y_train`).
        target: String, the column of a `.csv` that is to be predicted.
            Defaults to `None`, the last one.

    Returns:
        Tuple `(train, test)`. Without held-out data of its own, a random
        fifth of the arrays is held out, always the same; of a
        `tf.data.Dataset` nothing is, and `test` is `None`.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If the data are not of such a form.

    Example:

    >>> np.savez("mine.npz", x=np.eye(10), y=np.arange(10) % 2)
    >>> (x, y), _ = load("mine.npz")
    >>> x.shape
    (8, 10)
    """
    is_code = python_files.is_reference(data)
    suffix = pathlib.Path(data).suffix.lower()
    if target is not None and suffix != ".csv":
        raise ValueError(
            "Argument `target` is the column of a .csv. "
            f"Received: data={data!r}, target={target!r}"
        )
    if is_code:
        train, test = _from_function(data)
    elif not pathlib.Path(data).is_file():
        raise ValueError(f"Argument `data`: there is no file {data!r}")
    elif suffix == ".csv":
        train, test = read_csv(data, target), None
    elif suffix == ".npz":
        train, test = _read_npz(data)
    else:
        raise ValueError(
            "Argument `data` must be a .csv, an .npz or FILE.py:FUNCTION. "
            f"Received: data={data!r}"
        )
    if isinstance(train, tf.data.Dataset):
        return train, test
    train = _checked(train)
    return _split(train) if test is None else (train, _checked(test))


def read_csv(
    path: str | pathlib.Path, target: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Reads a table whose first line names the columns.

    A column of numbers is an input. A column of text becomes an input of
    zeros and ones for each of its values, of which there are at most 20.

    Args:
        path: String or path of a file in UTF-8, with commas, semicolons or
            tabs between the columns.
        target: String, the column to predict. Defaults to `None`, the last.

    Returns:
        Tuple of arrays: `x`, `[rows, inputs]` of float32; and `y`, `[rows]`,
        numbers, or integers from 0 that stand for the sorted texts.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no such table, or a value is missing.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            delimiter = max(_DELIMITERS, key=first.count)
            file.seek(0)
            lines = list(csv.reader(file, delimiter=delimiter))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"{str(path)!r} must be a CSV file in UTF-8: {error}"
        ) from error
    rows = [(n, row) for n, row in enumerate(lines, 1) if any(row)]
    header = [name.strip() for name in rows[0][1]] if rows else []
    _check_table(str(path), header, rows)
    if target is None:
        target = header[-1]
    elif target not in header:
        raise ValueError(
            f"Argument `target` must be a column of {str(path)!r}, one of "
            f"{header}. Received: target={target!r}."
            f"{checks.did_you_mean(target, header)}"
        )
    numbers = [n for n, _ in rows[1:]]
    columns = {
        name: _Column(name, numbers, [row[i].strip() for _, row in rows[1:]])
        for i, name in enumerate(header)
    }
    y = columns.pop(target).labels()
    inputs = [column.inputs() for column in columns.values()]
    return np.concatenate(inputs, axis=1, dtype="float32"), y


class _Column:
    """A column of a table, as text."""

    def __init__(self, name: str, lines: Sequence[int], cells: Sequence[str]):
        self.name, self.lines, self.cells = name, lines, cells
        missing = [n for n, c in zip(lines, cells) if c.lower() in _MISSING]
        self.values: np.ndarray | None = None
        present = [c for c in cells if c.lower() not in _MISSING]
        try:
            values = np.array(present, "float64")
        except ValueError:
            pass  # of text, where what is missing is a value like others
        else:
            if missing:
                raise ValueError(
                    f"Column {name!r} has no value in {len(missing)} of "
                    f"{len(cells)} rows, the first in line {missing[0]}. "
                    "Remove these rows or the column, or fill in a value"
                )
            self.values = values

    def inputs(self) -> np.ndarray:
        """The inputs that it gives, `[rows, n]`."""
        if self.values is not None:
            return self.values[:, None]
        kinds, index = np.unique(self.cells, return_inverse=True)
        if len(kinds) > _MOST_CATEGORIES:
            raise ValueError(
                f"Column {self.name!r} has {len(kinds)} different texts, such "
                f"as {str(kinds[0])!r}: at most {_MOST_CATEGORIES} become "
                "inputs. Remove it, or turn it into numbers"
            )
        return np.eye(len(kinds))[index]

    def labels(self) -> np.ndarray:
        """The targets that it gives, `[rows]`."""
        if self.values is not None:
            return self.values
        kinds, index = np.unique(self.cells, return_inverse=True)
        rarest, count = collections.Counter(self.cells).most_common()[-1]
        if len(kinds) * 2 > len(self.cells):
            raise ValueError(
                f"Column {self.name!r}, the target, has {len(kinds)} different "
                f"texts in {len(self.cells)} rows, {rarest!r} in {count} of "
                "them: too many to be classes. Name another column by `target`"
            )
        return index


def _check_table(
    path: str, header: list[str], rows: list[tuple[int, list[str]]]
) -> None:
    if len(rows) < 2:
        raise ValueError(
            f"{path!r} must have a line that names the columns and at least "
            f"one row below it. Received: {len(rows)} lines"
        )
    if len(header) < 2:
        raise ValueError(
            f"{path!r} must have a target and at least one other column. "
            f"Received: the columns {header}"
        )
    if all(map(_is_number, header)):
        raise ValueError(
            f"The first line of {path!r} must name the columns. "
            f"Received: {', '.join(header[:4])}, …"
        )
    twice = [name for name, n in collections.Counter(header).items() if n > 1]
    if twice:
        raise ValueError(
            f"The columns of {path!r} must have different names. "
            f"Received twice: {twice}"
        )
    for number, row in rows[1:]:
        if len(row) != len(header):
            raise ValueError(
                f"Line {number} of {path!r} must have {len(header)} values, "
                f"as the first line has. Received: {len(row)}"
            )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read_npz(path: str) -> tuple[Any, Any]:
    try:
        # NumPy leaves a file open that it cannot read.
        with open(path, "rb") as file, np.load(file) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path!r} must be an .npz of numbers, as `np.savez` writes: "
            f"{error}"
        ) from error
    renamed = {name.replace("_train", ""): a for name, a in arrays.items()}
    if not {"x", "y"} <= set(renamed):
        raise ValueError(
            f"{path!r} must have arrays `x` and `y` (or `x_train` and "
            "`y_train`), and may have `x_test` and `y_test`. "
            f"Received: {sorted(arrays)}"
        )
    test = None
    if {"x_test", "y_test"} <= set(renamed):
        test = (renamed["x_test"], renamed["y_test"])
    return (renamed["x"], renamed["y"]), test


def _from_function(reference: str) -> tuple[Any, Any]:
    value = python_files.load_function("data", reference)()
    if isinstance(value, tf.data.Dataset):
        return value, None
    if isinstance(value, (tuple, list)):
        kinds = [tuple, tf.data.Dataset]
        for kind in kinds:
            if len(value) == 2 and all(isinstance(v, kind) for v in value):
                return value[0], value[1]
        if len(value) in (2, 3):
            return tuple(value), None
    raise ValueError(
        f"Argument `data`: {reference!r} must return arrays `(x, y)`, pairs "
        "`(x_train, y_train), (x_test, y_test)`, a `tf.data.Dataset` of "
        f"batches or a pair of these. Received: {_brief(value)}"
    )


def _brief(value: Any) -> str:
    text = repr(value)
    text = text if len(text) <= 60 else f"{text[:60]}…"
    return f"{text} (of type {type(value).__name__})"


def _checked(data: Any) -> Any:
    """The data as arrays of numbers of one length."""
    names = ("x", "y", "sample_weight")
    if not 2 <= len(data) <= len(names):
        raise ValueError(
            "The data must be `(x, y)` or `(x, y, sample_weight)`. "
            f"Received: {len(data)} values"
        )
    arrays = tuple(
        keras.tree.map_structure(
            lambda leaf, name=name: _numbers(name, leaf), _joined(name, part)
        )
        for name, part in zip(names, data)
    )
    lengths = {len(leaf) for leaf in keras.tree.flatten(arrays)}
    if len(lengths) > 1:
        shapes = {n: _shapes(part) for n, part in zip(names, arrays)}
        raise ValueError(
            "The data must have as many inputs as targets. Received arrays of "
            f"shapes {shapes}"
        )
    return arrays


def _shapes(part: Any) -> Any:
    shapes = [leaf.shape for leaf in keras.tree.flatten(part)]
    return shapes[0] if len(shapes) == 1 else shapes


def _joined(name: str, part: Any) -> Any:
    """A list of numbers, or of rows of them, as an array."""
    if not isinstance(part, list) or any(hasattr(v, "shape") for v in part):
        return part  # a list of arrays: several inputs
    try:
        return np.asarray(part)
    except ValueError as error:  # rows of different length
        raise ValueError(
            f"The data `{name}` must be an array: {error}"
        ) from error


def _numbers(name: str, value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.ndim == 0 or array.size == 0:
        raise ValueError(
            f"The data `{name}` must have examples along the first axis. "
            f"Received an array of shape {array.shape}"
        )
    if array.dtype.kind in "US":
        raise ValueError(
            f"The data `{name}` must be numbers. Received: texts, such as "
            f"{str(array.flat[0])!r}. Labels become integers by `classes, y = "
            "np.unique(y, return_inverse=True)`"
        )
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"The data `{name}` must be an array of numbers. "
            f"Received: {_brief(value)}, of dtype {array.dtype}"
        )
    bad = array.size - np.count_nonzero(np.isfinite(array))
    if bad:
        raise ValueError(
            f"The data `{name}` must be finite. Received: {bad} of "
            f"{array.size} values are NaN or infinite"
        )
    return array.astype("float32") if array.dtype == "float64" else array


def _split(data: Any) -> tuple[Any, Any]:
    """Holds out a random fifth, the same for each length."""
    count = len(keras.tree.flatten(data)[0])
    if count < _TEST_SHARE:
        raise ValueError(
            f"The data must have at least {_TEST_SHARE} examples, one of which "
            f"is held out. Received: {count}"
        )
    order = np.random.default_rng(0).permutation(count)
    held_out = np.sort(order[: count // _TEST_SHARE])
    rest = np.sort(order[count // _TEST_SHARE :])
    return tuple(
        keras.tree.map_structure(lambda a, rows=rows: a[rows], data)
        for rows in (rest, held_out)
    )
