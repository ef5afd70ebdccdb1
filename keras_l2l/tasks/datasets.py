"""Real data in memory, small enough to meta-train on."""

import functools
import importlib
import importlib.resources
import pathlib
import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from keras_l2l import checks

_DIGITS_TEST = 360  # a fifth of the 1,797 digits
_TEXT_TEST = 0.1
_SPLITS = ("train", "test")  # of a data set of images
_ANSWER_SECONDS = 4  # of a server, before a download is given up


class Dataset(NamedTuple):
    """Training data and held-out data, each a pair of arrays `(x, y)`."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


@functools.cache
def images(name: str, size: int | None = None) -> Dataset:
    """Loads labelled images from `tensorflow-datasets`.

    They are found in the directory of the environment variable
    `TFDS_DATA_DIR` (`~/tensorflow_datasets` by default), or downloaded to it
    at the first use.

    Args:
        name: String, `"mnist"` or `"cifar10"` (or another data set of images
            and labels with the splits `train` and `test`).
        size: Integer. Shrinks the images to `size` by `size` pixels, by
            averaging. Defaults to `None`, as they are.

    Returns:
        A `Dataset` of images `[M, H, W, C]` in [0, 1] and labels `[M]`.

    Raises:
        OSError: If they are not there and cannot be downloaded, within a few
            seconds if there is no network; or if TensorFlow Datasets is not
            installed.
    """
    return Dataset(
        *(
            (_shrink(pixels, size).astype("float32") / 255.0, labels)
            for pixels, labels in _splits(name)
        )
    )


@functools.cache
def _splits(name):
    """Reads pixels and labels of `train` and `test`: seconds, at any size."""
    tfds, builder = _tfds(), _builder(name)
    if not builder.data_path.exists():
        _download(builder)
    return tfds.as_numpy(
        builder.as_dataset(
            split=list(_SPLITS), batch_size=-1, as_supervised=True
        )
    )


def has_images(name: str) -> bool:
    """Tells whether labelled images need no download any more.

    Args:
        name: String, as for `images`.

    Returns:
        A boolean.
    """
    try:
        return _builder(name).data_path.exists()
    except OSError:
        return False


@functools.cache
def digits():
    """Scikit-learn's 1,797 handwritten digits, which need no download.

    The last 360, by other writers, are the test data.

    Returns:
        A `Dataset` of images `[M, 8, 8, 1]` in [0, 1] and labels `[M]`.
    """
    pixels, labels = _sklearn().load_digits(return_X_y=True)
    pixels = pixels.astype("float32").reshape(-1, 8, 8, 1) / 16.0
    # The file is ordered by writer: the last ones wrote the test images.
    cut = len(pixels) - _DIGITS_TEST
    return Dataset((pixels[:cut], labels[:cut]), (pixels[cut:], labels[cut:]))


@functools.cache
def photograph(name):
    """A photograph that comes with a package.

    Args:
        name: String: `"china"`, a pagoda above a lake, or `"flower"`, a dahlia,
            both 427×640 pixels, from scikit-learn; or `"grace_hopper"`, a
            portrait in front of a flag, 600×512 pixels, from Matplotlib.

    Returns:
        Array `[H, W, 3]` in [0, 1].
    """
    # It reads the file, or installs what scikit-learn reads it with.
    matplotlib = checks.import_extra(
        "matplotlib", "plots", "A photograph needs"
    )
    if name == "grace_hopper":
        directory = pathlib.Path(matplotlib.get_data_path(), "sample_data")
        image = importlib.import_module("matplotlib.image")
        pixels = image.imread(directory / f"{name}.jpg")
    else:
        pixels = _sklearn().load_sample_image(f"{name}.jpg")
    return pixels.astype("float32") / 255.0


@functools.cache
def text(name, length, stride=8):
    """Pieces of English text, each with the next character at every place.

    The last tenth of each is the test data.

    Args:
        name: String: `"python"`, the reference that comes with Python (some
            460,000 characters), `"sklearn"`, scikit-learn's descriptions of
            its data sets (some 50,000), or `"breast_cancer"`, one of these
            (some 5,000).
        length: Integer. Characters in a piece.
        stride: Integer. Characters between the beginnings of two pieces.
            Defaults to `8`.

    Returns:
        A `Dataset` of integers `[M, length]`, below `characters(name)`.
    """
    codes = _codes(name)
    cut = int(len(codes) * (1.0 - _TEXT_TEST))

    def pieces(codes):
        starts = np.arange(0, len(codes) - length, stride)
        windows = codes[starts[:, None] + np.arange(length + 1)]
        return windows[:, :-1], windows[:, 1:]

    return Dataset(pieces(codes[:cut]), pieces(codes[cut:]))


def characters(name):
    """How many different characters a text has.

    Args:
        name: String, as for `text`.

    Returns:
        An integer.
    """
    return int(_codes(name).max()) + 1


@functools.cache
def table(
    name: str, scale_inputs: bool = True, scale_targets: bool = True
) -> Dataset:
    """Loads a small table of scikit-learn's.

    Every fifth row is test data.

    Args:
        name: String: `"breast_cancer"` (569 rows, two classes), `"digits"`
            (1,797 rows, ten classes), `"iris"` (150 rows, three classes),
            `"wine"` (178 rows, three classes), `"diabetes"` (442 rows, a
            number) or `"linnerud"` (20 rows, three numbers).
        scale_inputs: Boolean. Whether each feature has mean zero and
            variance one. Defaults to `True`.
        scale_targets: Boolean. The same of targets that are numbers.
            Defaults to `True`.

    Returns:
        A `Dataset` of `[M, features]` and labels `[M]`, or numbers `[M, n]`.
    """
    load = getattr(_sklearn(), f"load_{name}")
    # In units of their own, as the others are.
    options = {"scaled": False} if name == "diabetes" else {}
    inputs, targets = load(return_X_y=True, **options)
    if targets.dtype.kind == "f":
        targets = targets.reshape(len(targets), -1).astype("float32")
        targets = _standardized(targets) if scale_targets else targets
    inputs = _standardized(inputs) if scale_inputs else inputs
    inputs = inputs.astype("float32")
    held_out = np.arange(len(inputs)) % 5 == 0
    return Dataset(
        (inputs[~held_out], targets[~held_out]),
        (inputs[held_out], targets[held_out]),
    )


@functools.cache
def _codes(name):
    """A text as integers `[N]`."""
    ascii_text = _TEXTS[name]().encode("ascii", "replace")
    _, codes = np.unique(
        np.frombuffer(ascii_text, np.uint8), return_inverse=True
    )
    return codes.astype("int32")


def _sklearn():
    """Scikit-learn's data, which take a second to import."""
    return checks.import_extra(
        "sklearn.datasets", "sklearn", "The data of scikit-learn need"
    )


def _python_reference():
    from pydoc_data import topics

    return "".join(topics.topics[key] for key in sorted(topics.topics))


def _sklearn_descriptions(ending=".rst"):
    _sklearn()
    files = importlib.resources.files("sklearn.datasets.descr").iterdir()
    return "".join(
        file.read_text(encoding="utf-8")
        for file in sorted(files, key=lambda file: file.name)
        if file.name.endswith(ending)
    )


_TEXTS: dict[str, Callable[[], str]] = {
    "python": _python_reference,
    "sklearn": _sklearn_descriptions,
    "breast_cancer": functools.partial(
        _sklearn_descriptions, "breast_cancer.rst"
    ),
}


def _standardized(values):
    scale = values.std(0)
    # A feature that never changes, such as a pixel at the border, is zero.
    values = (values - values.mean(0)) / np.where(scale > 0.0, scale, 1.0)
    return values.astype("float32")


def _tfds() -> Any:
    """Imports TensorFlow Datasets, which takes a second."""
    try:
        return importlib.import_module("tensorflow_datasets")
    except ImportError as error:
        raise OSError(
            "MNIST and CIFAR-10 are read by TensorFlow Datasets: `pip install "
            '"keras-l2l[data]"`. Everything else does without it'
        ) from error


def _builder(name: str) -> Any:
    return _tfds().builder(name)


def _download(builder: Any) -> None:
    """Downloads a data set, or tells what is missing and how to get it."""
    try:
        # `download_and_prepare` tries for minutes where there is no network.
        for url in sorted(builder.url_infos or ())[:1]:
            _check_reachable(url)
        builder.download_and_prepare()
    except Exception as error:  # it can fail in many ways, none a bug of ours
        raise OSError(
            f"The data set {builder.name!r} is not in "
            f"{str(builder.data_path)!r} and cannot be downloaded: {error}. "
            "Set the environment variable TFDS_DATA_DIR to a directory that "
            "holds it. To fill one where there is a network: `python -c "
            f'"import tensorflow_datasets as tfds; tfds.load({builder.name!r}, '
            "data_dir='DIR')\"`."
        ) from error


def _check_reachable(url: str) -> None:
    """Raises an `OSError` if the server of a URL does not answer soon."""
    answers: queue.SimpleQueue[OSError | None] = queue.SimpleQueue()

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS):
                answers.put(None)
        except urllib.error.HTTPError as error:  # an answer all the same
            error.close()
            answers.put(error if error.code >= 500 else None)
        except OSError as error:
            answers.put(error)

    # A thread, as no timeout covers the look-up of a name.
    threading.Thread(target=ask, daemon=True).start()
    try:
        error = answers.get(timeout=_ANSWER_SECONDS)
    except queue.Empty:
        error = TimeoutError(f"no answer in {_ANSWER_SECONDS} seconds")
    if error is not None:
        raise OSError(f"{url}: {error}") from error


def _shrink(pixels, size):
    """Averages over squares, after a border of zeros where need be."""
    if size is None:
        return pixels
    count, height, width, channels = pixels.shape
    factor = -(-max(height, width) // size)
    rows, columns = factor * size - height, factor * size - width
    pixels = np.pad(
        pixels,
        (
            (0, 0),
            (rows // 2, rows - rows // 2),
            (columns // 2, columns - columns // 2),
            (0, 0),
        ),
    )
    squares = pixels.reshape(count, size, factor, size, factor, channels)
    return squares.mean((2, 4))
