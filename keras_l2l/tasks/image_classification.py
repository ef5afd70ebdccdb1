"""Image classifiers: the optimizees of the paper, and one on small digits."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from keras_l2l import checks
from keras_l2l.tasks import datasets
from keras_l2l.tasks.keras_task import KerasTask

_LABELS = frozenset(range(10))


def mnist_mlp(
    units: int = 20,
    depth: int = 1,
    activation: Any = "sigmoid",
    batch_size: int = 128,
    stddev: float | None = 0.01,
    size: int | None = None,
) -> KerasTask:
    """Makes the paper's MNIST task: a multilayer perceptron, cross-entropy.

    The data come from `tensorflow-datasets`, which downloads them at the
    first use, or finds them in `TFDS_DATA_DIR`. The optimizee is trained on
    the 60,000 training images and tested on the 10,000 test images.

    Args:
        units: Integer. Units of each hidden layer. Defaults to `20`.
        depth: Integer. Number of hidden layers. Defaults to `1`.
        activation: String or function. The activation of the hidden layers.
            Defaults to `"sigmoid"`.
        batch_size: Integer. Examples in a batch. Defaults to `128`.
        stddev: Float. Weights and biases start at N(0, stddev²); with `None`
            they start as Keras's defaults. Defaults to `0.01`.
        size: Integer. Side length in pixels to which the images are shrunk,
            by averaging. Defaults to `None`, 28 pixels.

    Returns:
        A `KerasTask`.

    Example:

    >>> task = keras_l2l.tasks.mnist_mlp(units=40)
    >>> task.name
    'mnist-mlp-40x1-sigmoid'

    Reference:
        [Andrychowicz et al., 2016](https://arxiv.org/abs/1606.04474),
        section 3.2.
    """
    if size is not None:
        size = checks.positive_integer(size=size)
    data = datasets.images("mnist", size)
    return _mlp("mnist", data, units, depth, activation, batch_size, stddev)


def digits_mlp(
    units: int = 20,
    depth: int = 1,
    activation: Any = "sigmoid",
    batch_size: int = 128,
    stddev: float | None = 0.01,
) -> KerasTask:
    """Makes the task of `mnist_mlp` on digits that need no download.

    The data are scikit-learn's 1,797 handwritten digits of 8×8 pixels. The
    last 360, by other writers, are the test data.

    Args:
        units: As for `mnist_mlp`.
        depth: As for `mnist_mlp`.
        activation: As for `mnist_mlp`.
        batch_size: As for `mnist_mlp`.
        stddev: As for `mnist_mlp`.

    Returns:
        A `KerasTask`.

    Example:

    >>> task = keras_l2l.tasks.digits_mlp(units=20)
    >>> parameters, state = task.initial_parameters(seed=0)
    >>> [tuple(p.shape) for p in parameters]
    [(64, 20), (20,), (20, 10), (10,)]
    """
    data = datasets.digits()
    return _mlp("digits", data, units, depth, activation, batch_size, stddev)


def cifar_convnet(
    labels: Sequence[int] | None = None,
    units: int = 16,
    batch_size: int = 128,
    size: int | None = None,
) -> KerasTask:
    """Makes the paper's CIFAR-10 task: a convolutional network.

    Three convolutions of 5×5 pixels, each with batch normalisation, ReLU and
    max-pooling, a dense layer of 32 units with batch normalisation and ReLU,
    and one output for each label; cross-entropy.

    The data come from `tensorflow-datasets`, which downloads them at the
    first use, or finds them in `TFDS_DATA_DIR`.

    Args:
        labels: Sequence of integers from 0 to 9. The training and the test
            data keep only images with these labels, as in the paper's CIFAR-2
            and CIFAR-5. Defaults to `None`, all labels.
        units: Integer. Channels of each convolution. Defaults to `16`.
        batch_size: Integer. Examples in a batch. Defaults to `128`.
        size: Integer. Side length in pixels to which the images are shrunk,
            by averaging. Defaults to `None`, 32 pixels.

    Returns:
        A `KerasTask`.

    Raises:
        ValueError: If `labels` are not at least two different integers.

    Example:

    >>> task = keras_l2l.tasks.cifar_convnet(labels=[3, 5], size=8)
    >>> task.name
    'cifar-3-5-convnet-16'

    Reference:
        [Andrychowicz et al., 2016](https://arxiv.org/abs/1606.04474),
        section 3.3.
    """
    units = checks.positive_integer(units=units)
    if size is not None:
        size = checks.positive_integer(size=size)
    chosen = range(10) if labels is None else labels
    chosen = tuple(chosen) if isinstance(chosen, Iterable) else ()
    if len(set(chosen)) < max(2, len(chosen)) or not set(chosen) <= _LABELS:
        raise ValueError(
            "Argument `labels` must hold at least two different integers from "
            f"0 to 9. Received: labels={labels}"
        )
    train_data, test_data = (
        _with_labels(part, chosen) for part in datasets.images("cifar10", size)
    )

    def build_model():
        blocks = [
            [
                keras.layers.Conv2D(units, 5, padding="same"),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
                keras.layers.MaxPooling2D(),
            ]
            for _ in range(3)
        ]
        return keras.Sequential(
            [
                keras.Input(train_data[0].shape[1:]),
                *itertools.chain(*blocks),
                keras.layers.Flatten(),
                keras.layers.Dense(32),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
                keras.layers.Dense(len(chosen)),
            ]
        )

    name = "-".join(map(str, ("cifar", *chosen))) if labels else "cifar-10"
    return _task(
        f"{name}-convnet-{units}",
        build_model,
        (train_data, test_data),
        batch_size,
    )


def _with_labels(data, labels):
    """Keeps the images with these labels, which are renumbered from 0."""
    images, original = data
    kept = np.isin(original, labels)
    places = np.full(10, -1)
    places[list(labels)] = range(len(labels))
    return images[kept], places[original[kept]]


def _mlp(name, data, units, depth, activation, batch_size, stddev):
    train_data, test_data = (
        (images.reshape(len(images), -1), labels) for images, labels in data
    )
    image_shape = train_data[0].shape[1:]

    def build_model():
        def dense(size, activation=None):
            initial = {}
            if stddev is not None:
                initial = {
                    f"{part}_initializer": keras.initializers.RandomNormal(
                        stddev=stddev
                    )
                    for part in ("kernel", "bias")
                }
            return keras.layers.Dense(size, activation=activation, **initial)

        return keras.Sequential(
            [
                keras.Input(image_shape),
                *(dense(units, activation) for _ in range(depth)),
                dense(10),
            ]
        )

    activation_name = keras.activations.serialize(
        keras.activations.get(activation)
    )
    return _task(
        f"{name}-mlp-{units}x{depth}-{activation_name}",
        build_model,
        (train_data, test_data),
        batch_size,
    )


def _task(name, build_model, data, batch_size):
    train_data, test_data = data
    return KerasTask(
        build_model,
        train_data,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        batch_size=batch_size,
        test_data=test_data,
        name=name,
    )
