"""Image classifiers: the paper's optimizees, and digits by default."""

import itertools
from collections.abc import Iterable

import keras
import numpy as np

from keras_l2l import checks
from keras_l2l.tasks import datasets
from keras_l2l.tasks.keras_task import KerasTask

_LABELS = frozenset(range(10))


def mnist_mlp(
    units=20,
    depth=1,
    activation="sigmoid",
    batch_size=128,
    stddev=0.01,
):
    """The paper's MNIST optimizee: a multilayer perceptron, cross-entropy.

    The data come through `tensorflow-datasets`, which downloads them at the
    first use, or finds them in `TFDS_DATA_DIR`. The optimizee is trained on
    the 60,000 training images; the 10,000 test images are its test data.

    Args:
        units: Integer. Units of each hidden layer. Defaults to `20`.
        depth: Integer. Number of hidden layers. Defaults to `1`.
        activation: String or function. Of the hidden layers.
            Defaults to `"sigmoid"`.
        batch_size: Integer. Defaults to `128`.
        stddev: Float. Weights and biases start at N(0, stddev²); `None` has
            Keras's own initializers. Defaults to `0.01`.

    Returns:
        A `KerasTask`.

    Reference:
        [Andrychowicz et al., 2016](https://arxiv.org/abs/1606.04474),
        section 3.2.
    """
    return _classifier(
        "mnist",
        datasets.images("mnist"),
        units,
        depth,
        activation,
        batch_size,
        stddev,
    )


def digits_mlp(
    units=20,
    depth=1,
    activation="sigmoid",
    batch_size=128,
    stddev=0.01,
):
    """The MNIST optimizee on scikit-learn's digits, which need no download.

    1,797 handwritten digits of 8×8 pixels, of which the last 360, by other
    writers, are the test data.

    Args:
        units: Integer. Units of each hidden layer. Defaults to `20`.
        depth: Integer. Number of hidden layers. Defaults to `1`.
        activation: String or function. Of the hidden layers.
            Defaults to `"sigmoid"`.
        batch_size: Integer. Defaults to `128`.
        stddev: Float. Weights and biases start at N(0, stddev²); `None` has
            Keras's own initializers. Defaults to `0.01`.

    Returns:
        A `KerasTask`.
    """
    return _classifier(
        "digits",
        datasets.digits(),
        units,
        depth,
        activation,
        batch_size,
        stddev,
    )


def cifar_convnet(labels=None, units=16, batch_size=128, size=None):
    """The paper's CIFAR-10 optimizee: a convolutional network.

    Three convolutions of 5×5 pixels, each with batch normalisation, ReLU and
    max-pooling, a dense layer of 32 units with batch normalisation and ReLU,
    and one output for each label; cross-entropy.

    The data come through `tensorflow-datasets`, which downloads them at the
    first use, or finds them in `TFDS_DATA_DIR`.

    Args:
        labels: Sequence of integers from 0 to 9: only images with these
            labels are in the training and the test data, as in the paper's
            CIFAR-2 and CIFAR-5. Defaults to `None`, all of them.
        units: Integer. Channels of each convolution. Defaults to `16`.
        batch_size: Integer. Defaults to `128`.
        size: Integer. Shrinks the images to `size` by `size` pixels, by
            averaging. Defaults to `None`, 32 by 32.

    Returns:
        A `KerasTask`.

    Raises:
        ValueError: If `labels` are not at least two different ones.

    Reference:
        [Andrychowicz et al., 2016](https://arxiv.org/abs/1606.04474),
        section 3.3.
    """
    checks.positive_integers(units=units)
    if size is not None:
        checks.positive_integers(size=size)
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
    """The images with these labels, which become 0, 1, …"""
    images, original = data
    kept = np.isin(original, labels)
    places = np.full(10, -1)
    places[list(labels)] = range(len(labels))
    return images[kept], places[original[kept]]


def _classifier(name, data, units, depth, activation, batch_size, stddev):
    train_data, test_data = (
        (images.reshape(len(images), -1), labels) for images, labels in data
    )
    image_shape = train_data[0].shape[1:]

    def build_model():
        def dense(size, activation=None):
            initial = (
                {}
                if stddev is None
                else {
                    "kernel_initializer": keras.initializers.RandomNormal(
                        stddev=stddev
                    ),
                    "bias_initializer": keras.initializers.RandomNormal(
                        stddev=stddev
                    ),
                }
            )
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
