"""Real data in memory, small enough to meta-train on."""

import functools
from typing import NamedTuple

import numpy as np

_DIGITS_TEST = 360  # a fifth of the 1,797 digits
_TEXT_TEST = 0.1


class Dataset(NamedTuple):
    """Training data and held-out data, each a pair of arrays `(x, y)`."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


@functools.cache
def images(name, size=None):
    """Labelled images from `tensorflow-datasets`.

    They are downloaded at the first use, or found in `TFDS_DATA_DIR`.

    Args:
        name: String, `"mnist"` or `"cifar10"` (or another data set of images
            and labels with the splits `train` and `test`).
        size: Integer. Shrinks the images to `size` by `size` pixels, by
            averaging. Defaults to `None`, as they are.

    Returns:
        A `Dataset` of images `[M, H, W, C]` in [0, 1] and labels `[M]`.
    """
    # Takes a second to import, and only such data need it.
    import tensorflow_datasets as tfds

    splits = tfds.as_numpy(
        tfds.load(
            name,
            split=["train", "test"],
            batch_size=-1,
            as_supervised=True,
        )
    )
    return Dataset(
        *(
            (_shrink(pixels, size).astype("float32") / 255.0, labels)
            for pixels, labels in splits
        )
    )


@functools.cache
def digits():
    """Scikit-learn's 1,797 handwritten digits, which need no download.

    The last 360, by other writers, are the test data.

    Returns:
        A `Dataset` of images `[M, 8, 8, 1]` in [0, 1] and labels `[M]`.
    """
    # Takes a second to import, and only the digits need it.
    import sklearn.datasets

    pixels, labels = sklearn.datasets.load_digits(return_X_y=True)
    pixels = pixels.astype("float32").reshape(-1, 8, 8, 1) / 16.0
    # The file is ordered by writer: the last ones wrote the test images.
    cut = len(pixels) - _DIGITS_TEST
    return Dataset(
        (pixels[:cut], labels[:cut]), (pixels[cut:], labels[cut:])
    )


@functools.cache
def text(length, stride=8):
    """Pieces of English text, each with the next character at every place.

    The text is the reference that comes with Python (`pydoc_data.topics`,
    some 460,000 characters), so that nothing need be downloaded. The last
    tenth of it is the test data.

    Args:
        length: Integer. Characters in a piece.
        stride: Integer. Characters between the beginnings of two pieces.
            Defaults to `8`.

    Returns:
        A `Dataset` of integers `[M, length]`, below `characters()`.
    """
    codes = _codes()
    cut = int(len(codes) * (1.0 - _TEXT_TEST))

    def pieces(codes):
        starts = np.arange(0, len(codes) - length, stride)
        windows = codes[starts[:, None] + np.arange(length + 1)]
        return windows[:, :-1], windows[:, 1:]

    return Dataset(pieces(codes[:cut]), pieces(codes[cut:]))


def characters():
    """How many different characters the text has: an integer."""
    return int(_codes().max()) + 1


@functools.cache
def _codes():
    """The text as integers, `[N]`."""
    from pydoc_data import topics

    text = "".join(topics.topics[key] for key in sorted(topics.topics))
    values = np.frombuffer(text.encode("ascii", "replace"), np.uint8)
    _, codes = np.unique(values, return_inverse=True)
    return codes.astype("int32")


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
