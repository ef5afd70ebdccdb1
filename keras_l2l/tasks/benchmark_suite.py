"""Test tasks at real size, none of which is in the mixture."""

import dataclasses
import itertools
from collections.abc import Callable

import keras
import numpy as np
from keras import layers

from keras_l2l.tasks import datasets
from keras_l2l.tasks.image_classification import mnist_mlp
from keras_l2l.tasks.keras_task import KerasTask

_TEXT_LENGTH = 64


@dataclasses.dataclass(frozen=True)
class SuiteTask:
    """A task of the benchmark.

    Attributes:
        make: Function that returns a `KerasTask`, without arguments or with
            that of a directory.
        steps: Integer. Inner steps of a run.
        test_every: Integer. Held-out data are looked at each time this number
            of steps is done. Defaults to `None`, after the last alone.
        data: String, the name of a data set that may have to be downloaded.
            Defaults to `None`, none.
        uses_directory: Boolean. Whether `make` takes a directory, in which it
            keeps what takes long to make. Defaults to `False`.
    """

    make: Callable[..., KerasTask]
    steps: int
    test_every: int | None = None
    data: str | None = None
    uses_directory: bool = False


def _mnist_mlp():
    return mnist_mlp(units=128, depth=2, activation="relu", stddev=None)


def _mnist_long():
    return mnist_mlp(units=64, depth=1, activation="tanh", stddev=None)


def _mnist_lenet():
    def build_model():
        return keras.Sequential(
            [
                keras.Input((28, 28, 1)),
                layers.Conv2D(6, 5, padding="same", activation="tanh"),
                layers.AveragePooling2D(2),
                layers.Conv2D(16, 5, activation="tanh"),
                layers.AveragePooling2D(2),
                layers.Flatten(),
                layers.Dense(120, activation="tanh"),
                layers.Dense(84, activation="tanh"),
                layers.Dense(10),
            ]
        )

    return classification(build_model, datasets.images("mnist"), 64)


def _mnist_autoencoder():
    (images, _), (test_images, _) = datasets.images("mnist")
    pixels = images.reshape(len(images), -1)
    test_pixels = test_images.reshape(len(test_images), -1)

    def build_model():
        return keras.Sequential(
            [
                keras.Input((784,)),
                layers.Dense(128, activation="elu"),
                layers.Dense(16),
                layers.Dense(128, activation="elu"),
                layers.Dense(784),
            ]
        )

    return KerasTask(
        build_model,
        (pixels, pixels),
        keras.losses.BinaryCrossentropy(from_logits=True),
        batch_size=128,
        test_data=(test_pixels, test_pixels),
    )


def _cifar_convnet():
    def build_model():
        return keras.Sequential(
            [
                keras.Input((32, 32, 3)),
                *(
                    layers.Conv2D(
                        width, 3, strides=2, padding="same", activation="relu"
                    )
                    for width in (16, 32, 32)
                ),
                layers.Flatten(),
                layers.Dense(10),
            ]
        )

    return classification(build_model, datasets.images("cifar10"), 64)


def _cifar_convnet_norm():
    def build_model():
        blocks = [
            [
                layers.Conv2D(width, 3, padding="same", use_bias=False),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.MaxPooling2D(),
            ]
            for width in (16, 32, 64)
        ]
        return keras.Sequential(
            [
                keras.Input((32, 32, 3)),
                *itertools.chain(*blocks),
                layers.Flatten(),
                layers.Dropout(0.3),
                layers.Dense(64, activation="relu"),
                layers.Dense(10),
            ]
        )

    return classification(build_model, datasets.images("cifar10"), 64)


def _cifar_resnet():
    """A residual network of eight layers, He et al. (2016)."""

    def convolution(hidden, width, size, stride):
        hidden = layers.Conv2D(
            width,
            size,
            strides=stride,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
        )(hidden)
        return layers.BatchNormalization()(hidden)

    def build_model():
        inputs = keras.Input((32, 32, 3))
        hidden = layers.ReLU()(convolution(inputs, 8, 3, 1))
        for width, stride in ((8, 1), (16, 2), (32, 2)):
            inner = layers.ReLU()(convolution(hidden, width, 3, stride))
            inner = convolution(inner, width, 3, 1)
            if hidden.shape != inner.shape:
                hidden = convolution(hidden, width, 1, stride)
            hidden = layers.ReLU()(layers.Add()([hidden, inner]))
        hidden = layers.GlobalAveragePooling2D()(hidden)
        return keras.Model(inputs, layers.Dense(10)(hidden))

    return classification(build_model, datasets.images("cifar10"), 64)


def _cifar_dense():
    def build_model():
        hidden = [
            [
                layers.Dense(256),
                layers.LayerNormalization(),
                layers.Activation("gelu"),
            ]
            for _ in range(2)
        ]
        return keras.Sequential(
            [
                keras.Input((32, 32, 3)),
                layers.Flatten(),
                *itertools.chain(*hidden),
                layers.Dense(10),
            ]
        )

    return classification(build_model, datasets.images("cifar10"), 64)


def transformer(
    characters: int, length: int, width: int, heads: int, blocks: int
) -> Callable[[], keras.Model]:
    """A small transformer that predicts the next character.

    Args:
        characters: Integer, how many different ones there are.
        length: Integer, of a piece of text.
        width: Integer, of an embedding.
        heads: Integer, of attention.
        blocks: Integer.

    Returns:
        Function without arguments that returns a model from integers
        `[B, length]` to logits `[B, length, characters]`.
    """

    def build_model():
        inputs = keras.Input((length,), dtype="int32")
        places = keras.ops.arange(length)
        hidden = layers.Embedding(characters, width)(inputs)
        hidden += layers.Embedding(length, width)(places)
        for _ in range(blocks):
            normed = layers.LayerNormalization()(hidden)
            hidden += layers.MultiHeadAttention(heads, width // heads)(
                normed, normed, use_causal_mask=True
            )
            normed = layers.LayerNormalization()(hidden)
            normed = layers.Dense(4 * width, activation="gelu")(normed)
            hidden += layers.Dense(width)(normed)
        hidden = layers.LayerNormalization()(hidden)
        return keras.Model(inputs, layers.Dense(characters)(hidden))

    return build_model


def _text_transformer():
    build_model = transformer(
        datasets.characters("sklearn"), _TEXT_LENGTH, 64, heads=4, blocks=2
    )
    return classification(
        build_model, datasets.text("sklearn", _TEXT_LENGTH), 16
    )


def _text_recurrent():
    def build_model():
        return keras.Sequential(
            [
                keras.Input((_TEXT_LENGTH,), dtype="int32"),
                layers.Embedding(datasets.characters("sklearn"), 64),
                layers.LSTM(128, return_sequences=True),
                layers.Dense(datasets.characters("sklearn")),
            ]
        )

    return classification(
        build_model, datasets.text("sklearn", _TEXT_LENGTH), 16
    )


def _table_classification():
    # Without it the table is learned by heart, to a loss of zero.
    penalty = keras.regularizers.L2(1e-3)

    def build_model():
        return keras.Sequential(
            [
                keras.Input((30,)),
                *(
                    layers.Dense(
                        64, activation="relu", kernel_regularizer=penalty
                    )
                    for _ in range(2)
                ),
                layers.Dense(2, kernel_regularizer=penalty),
            ]
        )

    return classification(build_model, datasets.table("breast_cancer"), 32)


def _table_regression():
    def build_model():
        return keras.Sequential(
            [
                keras.Input((10,)),
                layers.Dense(64, activation="silu"),
                layers.Dense(64, activation="silu"),
                layers.Dense(1),
            ]
        )

    data = datasets.table("diabetes")
    return KerasTask(
        build_model, data.train, "mse", batch_size=32, test_data=data.test
    )


def _ill_conditioned():
    """Linear regression whose Hessian has a condition number of 10⁴."""
    generator = np.random.default_rng(0)
    size = 64
    inputs = generator.normal(size=(8192, size)) * np.geomspace(1, 0.01, size)
    rotation, _ = np.linalg.qr(generator.normal(size=(size, size)))
    targets = inputs @ np.geomspace(1, 100, size)[:, None] / 8.0
    targets += 0.1 * generator.normal(size=targets.shape)
    inputs = (inputs @ rotation).astype("float32")
    targets = targets.astype("float32")

    def build_model():
        return keras.Sequential([keras.Input((size,)), layers.Dense(1)])

    return KerasTask(
        build_model,
        (inputs[:7168], targets[:7168]),
        "mse",
        batch_size=64,
        test_data=(inputs[7168:], targets[7168:]),
    )


def classification(
    build_model: Callable[[], keras.Model],
    data: datasets.Dataset,
    batch_size: int,
) -> KerasTask:
    """The task of a classifier with logits as outputs.

    Args:
        build_model: As for `KerasTask`.
        data: A `Dataset` with labels.
        batch_size: Integer.

    Returns:
        A `KerasTask` with an accuracy.
    """
    return KerasTask(
        build_model,
        data.train,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        batch_size=batch_size,
        test_data=data.test,
        accuracy=keras.metrics.sparse_categorical_accuracy,
    )


SUITE = {
    "mnist-mlp": SuiteTask(_mnist_mlp, 1000),
    "mnist-lenet": SuiteTask(_mnist_lenet, 500),
    "mnist-autoencoder": SuiteTask(_mnist_autoencoder, 1000),
    "mnist-long": SuiteTask(_mnist_long, 10_000),
    "cifar-convnet": SuiteTask(_cifar_convnet, 500),
    "cifar-convnet-norm": SuiteTask(_cifar_convnet_norm, 500),
    "cifar-resnet": SuiteTask(_cifar_resnet, 500),
    "cifar-dense": SuiteTask(_cifar_dense, 1000),
    "text-transformer": SuiteTask(_text_transformer, 500),
    "text-recurrent": SuiteTask(_text_recurrent, 500),
    "table-classification": SuiteTask(_table_classification, 1000),
    "table-regression": SuiteTask(_table_regression, 1000),
    "ill-conditioned": SuiteTask(_ill_conditioned, 2000),
}
