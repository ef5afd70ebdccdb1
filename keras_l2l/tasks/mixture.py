"""The mixture of small tasks on which general rules are meta-trained."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_l2l import checks
from keras_l2l.tasks import datasets
from keras_l2l.tasks.analytic import Analytic
from keras_l2l.tasks.augmentation import GradientNoise
from keras_l2l.tasks.base import Task
from keras_l2l.tasks.keras_task import KerasTask
from keras_l2l.tasks.random_choices import (
    ACTIVATIONS,
    draw_initializer,
    log_uniform,
    norm_layers,
)
from keras_l2l.tasks.synthetic_kinds import (
    CLUSTER_KINDS,
    LARGE_KINDS,
    SYNTHETIC_KINDS,
)

_IMAGE_SIZE = 8
_TEXT_LENGTH = 16
_TABLE_TEST = 1000  # held-out examples of a table

# The kinds that take turns by default, some of them twice.
_USUAL_KINDS = (
    *("dense", "convolution", "recurrent", "dense"),
    *("attention", "autoencoder", "convolution", "regression"),
)


def mixture(
    count: int = 24, seed: int = 0, kinds: str | Sequence[str] | None = None
) -> list[Task]:
    """Draws small tasks of many kinds at random.

    The tasks are dense and convolutional classifiers of images, recurrent and
    attention models of text, autoencoders and regressions. Activation, width,
    depth, normalisation, initialisation and batch size are drawn. The data
    are scikit-learn's digits, MNIST and CIFAR-10 shrunk to 8×8 pixels, the
    reference text that comes with Python, and synthetic. A step of an
    optimizee takes a fraction of a millisecond.

    Args:
        count: Integer. Number of tasks; the kinds take turns.
            Defaults to `24`.
        seed: Integer. Seeds the draw. Defaults to `0`.
        kinds: Sequence of strings, the kinds that take turns: `"dense"`,
            `"convolution"`, `"recurrent"`, `"attention"`, `"autoencoder"`,
            `"regression"`. The following need no download: `"logistic"`,
            ill-conditioned logistic regressions; and the test functions
            `"sphere"`, `"rosenbrock"` and `"styblinski-tang"` of random
            dimension and condition, half of them with noisy gradients; and
            tables of 100 to 2,000 training examples, which take many epochs,
            half of them with features in units from 10⁻³ to 10³: `"table"`,
            classifiers with label noise and dropout, `"table-regression"`,
            with targets in such units, too, `"linear"`, classifiers without
            a hidden layer, and `"categorical"`, classifiers of embeddings.
            Others draw small data anew in each episode, see `SyntheticTask`;
            half of the tables are raw, with features in units over six
            decades: `"random-table"`, classifiers, `"random-linear"`, without
            a hidden layer, `"random-measurements"` and
            `"random-linear-regression"`, regressions, half of them with
            targets in units up to hundreds, `"random-categories"`,
            embeddings, `"random-recurrent"`, `"random-recurrent-text"`,
            `"random-attention"` and `"random-attention-text"`, of token
            sequences, `"random-convolution"` and `"random-residual"`, of
            images. `"synthetic"` stands for all of these. Of tables whose
            classes are far apart there are `"random-clusters"` and
            `"random-linear-clusters"`; of so many examples that few are seen
            twice `"random-large-table"`, `"random-large-clusters"` and
            `"random-large-text"`; and regressions almost without noise,
            `"random-function"`, which is smooth, and
            `"random-ill-conditioned"`, which is linear. Defaults to `None`,
            the first six, some of them twice.

    Returns:
        List of `Task`.

    Raises:
        ValueError: If there is no such kind.

    Example:

    >>> tasks = keras_l2l.tasks.mixture(2, kinds=["logistic", "sphere"])
    >>> [task.name for task in tasks]
    ['mixture-0-logistic', 'mixture-1-sphere']
    """
    checks.positive_integers(count=count)
    if kinds is None:
        kinds = _USUAL_KINDS
    elif isinstance(kinds, str):
        kinds = list(SYNTHETIC_KINDS) if kinds == "synthetic" else [kinds]
    unknown = [kind for kind in kinds if kind not in _KINDS]
    if unknown or not kinds:
        raise ValueError(
            f"Argument `kinds` must hold some of {tuple(_KINDS)}. "
            f"Received: kinds={kinds!r}"
        )
    made = []
    for index in range(count):
        generator = np.random.default_rng([seed, index])
        kind = kinds[index % len(kinds)]
        made.append(_KINDS[kind](generator, f"mixture-{index}-{kind}"))
    return made


def _dense_classifier(generator, name):
    depth = int(generator.integers(1, 4))
    widths = [log_uniform(generator, 12, 64) for _ in range(depth)]
    activation = generator.choice(ACTIVATIONS)
    norm = generator.choice(["none", "none", "batch", "layer"])
    initializer = draw_initializer(generator)
    data = _images(generator)

    def build_model():
        layers = [keras.Input(data.train[0].shape[1:]), keras.layers.Flatten()]
        for width in widths:
            layers.append(
                keras.layers.Dense(width, kernel_initializer=initializer())
            )
            layers += [*norm_layers(norm), keras.layers.Activation(activation)]
        return keras.Sequential([*layers, keras.layers.Dense(10)])

    return _classification(build_model, data, generator, name)


def _convolutional_classifier(generator, name):
    depth = int(generator.integers(2, 4))
    widths = [log_uniform(generator, 6, 20) for _ in range(depth)]
    activation = generator.choice(["relu", "relu", "gelu", "silu", "elu"])
    norm = generator.choice(["none", "batch"])
    pools = bool(generator.integers(2))
    data = _images(generator)

    def build_model():
        layers = [keras.Input(data.train[0].shape[1:])]
        for width in widths:
            layers.append(
                keras.layers.Conv2D(width, 3, strides=2, padding="same")
            )
            layers += [*norm_layers(norm), keras.layers.Activation(activation)]
        if pools:
            layers.append(keras.layers.GlobalAveragePooling2D())
        layers += [keras.layers.Flatten(), keras.layers.Dense(10)]
        return keras.Sequential(layers)

    return _classification(build_model, data, generator, name, (16, 48))


def _recurrent_text_model(generator, name):
    width = log_uniform(generator, 16, 40)
    cell = generator.choice([keras.layers.GRU, keras.layers.LSTM])
    data = datasets.text("python", _TEXT_LENGTH)

    def build_model():
        return keras.Sequential(
            [
                keras.Input((_TEXT_LENGTH,), dtype="int32"),
                keras.layers.Embedding(datasets.characters("python"), width),
                cell(width, return_sequences=True),
                keras.layers.Dense(datasets.characters("python")),
            ]
        )

    return _classification(build_model, data, generator, name, (8, 24))


def _attention_text_model(generator, name):
    heads = int(generator.choice([2, 4]))
    width = heads * int(generator.integers(5, 11))
    activation = generator.choice(["relu", "gelu"])
    data = datasets.text("python", _TEXT_LENGTH)

    def build_model():
        inputs = keras.Input((_TEXT_LENGTH,), dtype="int32")
        places = keras.ops.arange(_TEXT_LENGTH)
        hidden = keras.layers.Embedding(datasets.characters("python"), width)(
            inputs
        )
        hidden += keras.layers.Embedding(_TEXT_LENGTH, width)(places)
        normed = keras.layers.LayerNormalization()(hidden)
        hidden += keras.layers.MultiHeadAttention(heads, width // heads)(
            normed, normed, use_causal_mask=True
        )
        normed = keras.layers.LayerNormalization()(hidden)
        normed = keras.layers.Dense(2 * width, activation=activation)(normed)
        hidden += keras.layers.Dense(width)(normed)
        hidden = keras.layers.LayerNormalization()(hidden)
        outputs = keras.layers.Dense(datasets.characters("python"))(hidden)
        return keras.Model(inputs, outputs)

    return _classification(build_model, data, generator, name, (8, 24))


def _autoencoder(generator, name):
    width = log_uniform(generator, 24, 64)
    code = log_uniform(generator, 4, 16)
    activation = generator.choice(ACTIVATIONS)
    loss = generator.choice(["mse", "cross-entropy"])
    (images, _), (test_images, _) = _images(generator)
    pixels = images.reshape(len(images), -1)
    test_pixels = test_images.reshape(len(test_images), -1)

    def build_model():
        return keras.Sequential(
            [
                keras.Input((pixels.shape[1],)),
                keras.layers.Dense(width, activation=activation),
                keras.layers.Dense(code),
                keras.layers.Dense(width, activation=activation),
                keras.layers.Dense(pixels.shape[1]),
            ]
        )

    return KerasTask(
        build_model,
        (pixels, pixels),
        "mse"
        if loss == "mse"
        else keras.losses.BinaryCrossentropy(from_logits=True),
        batch_size=log_uniform(generator, 32, 128),
        validation_data=(test_pixels, test_pixels),
        name=name,
    )


def _regression(generator, name):
    """A network that learns another one on inputs of very unequal scales."""
    size = log_uniform(generator, 8, 32)
    width = log_uniform(generator, 12, 48)
    activation = generator.choice(ACTIVATIONS)
    condition = 10.0 ** generator.uniform(0.0, 2.0)
    noise = 10.0 ** generator.uniform(-2.0, -0.5)
    inputs = generator.normal(size=(8192, size))
    inputs *= np.geomspace(1.0, 1.0 / condition, size)
    inner = generator.normal(size=(size, 16)) / np.sqrt(size)
    outer = generator.normal(size=(16, 2)) / 4.0
    targets = np.tanh(2.0 * inputs @ inner) @ outer
    targets += noise * generator.normal(size=targets.shape)
    data = (inputs.astype("float32"), targets.astype("float32"))

    def build_model():
        return keras.Sequential(
            [
                keras.Input((size,)),
                keras.layers.Dense(width, activation=activation),
                keras.layers.Dense(width, activation=activation),
                keras.layers.Dense(2),
            ]
        )

    return KerasTask(
        build_model,
        tuple(array[:7168] for array in data),
        generator.choice(["mse", "huber"]),
        batch_size=log_uniform(generator, 16, 128),
        validation_data=tuple(array[7168:] for array in data),
        name=name,
    )


def _logistic_regression(generator, name):
    """A linear classifier of rotated inputs of very unequal scales."""
    size = log_uniform(generator, 8, 64)
    condition = 10.0 ** generator.uniform(0.0, 2.0)
    inputs = generator.normal(size=(8192, size))
    scores = inputs @ generator.normal(size=size) / np.sqrt(size)
    labels = scores + 0.3 * generator.normal(size=len(scores)) > 0
    rotation, _ = np.linalg.qr(generator.normal(size=(size, size)))
    inputs = inputs * np.geomspace(1.0, 1.0 / condition, size) @ rotation
    data = (inputs.astype("float32"), labels.astype("int32"))

    def build_model():
        return keras.Sequential([keras.Input((size,)), keras.layers.Dense(2)])

    return _classification(
        build_model,
        datasets.Dataset(
            tuple(array[:7168] for array in data),
            tuple(array[7168:] for array in data),
        ),
        generator,
        name,
    )


def _analytic(function, generator, name):
    task = Analytic(
        function,
        dimensions=log_uniform(generator, 2, 64),
        condition=10.0 ** generator.uniform(0.0, 4.0),
        name=name,
    )
    return GradientNoise(task) if generator.integers(2) else task


def _table_classifier(generator, name, depths=(1, 4)):
    """A classifier of a small table, some of whose labels are wrong."""
    inputs, scores = _table(generator)
    build_model = _table_model(generator, inputs.shape[1:], 4, depths)
    return _small_classification(build_model, inputs, scores, generator, name)


def _table_regression(generator, name):
    """A regression on a small table, with targets in units of their own."""
    inputs, scores = _table(generator)
    targets = scores[:, :2] + 0.1 * generator.normal(size=(len(scores), 2))
    if generator.integers(2):
        targets = _in_units(targets, generator)
    data = (inputs, targets.astype("float32"))
    return KerasTask(
        _table_model(generator, inputs.shape[1:], 2, (0, 4)),
        tuple(array[:-_TABLE_TEST] for array in data),
        generator.choice(["mse", "mae", "huber"]),
        batch_size=log_uniform(generator, 16, 64),
        validation_data=tuple(array[-_TABLE_TEST:] for array in data),
        name=name,
    )


def _categorical_classifier(generator, name):
    """A classifier of embeddings of categories, most of which are rare."""
    size = int(generator.integers(3, 9))
    levels = log_uniform(generator, 8, 64)
    count = log_uniform(generator, 100, 2000) + _TABLE_TEST
    codes = generator.geometric(4.0 / levels, size=(count, size)) % levels
    effects = generator.normal(size=(size, levels, 4))
    scores = effects[np.arange(size), codes].sum(1)
    width = log_uniform(generator, 4, 16)

    def embed():
        return [keras.layers.Embedding(levels, width), keras.layers.Flatten()]

    build_model = _table_model(generator, (size,), 4, (0, 3), embed)
    return _small_classification(
        build_model, codes.astype("int32"), scores, generator, name
    )


_KINDS: dict[str, Callable[..., Any]] = {
    "dense": _dense_classifier,
    "convolution": _convolutional_classifier,
    "recurrent": _recurrent_text_model,
    "attention": _attention_text_model,
    "autoencoder": _autoencoder,
    "regression": _regression,
    "logistic": _logistic_regression,
    "sphere": functools.partial(_analytic, "sphere"),
    "rosenbrock": functools.partial(_analytic, "rosenbrock"),
    "styblinski-tang": functools.partial(_analytic, "styblinski-tang"),
    "table": _table_classifier,
    "table-regression": _table_regression,
    "linear": functools.partial(_table_classifier, depths=(0, 1)),
    "categorical": _categorical_classifier,
    **SYNTHETIC_KINDS,
    **CLUSTER_KINDS,
    **LARGE_KINDS,
}


def _classification(build_model, data, generator, name, sizes=(16, 128)):
    return KerasTask(
        build_model,
        data.train,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        batch_size=log_uniform(generator, *sizes),
        validation_data=data.test,
        name=name,
    )


def _small_classification(build_model, inputs, scores, generator, name):
    """A classification whose training labels are wrong to some share."""
    labels = scores.argmax(-1).astype("int32")
    share = generator.choice([0.0, 0.0, 0.05, 0.2])
    wrong = np.flatnonzero(generator.uniform(size=len(labels)) < share)
    wrong = wrong[wrong < len(labels) - _TABLE_TEST]
    labels[wrong] = generator.integers(scores.shape[1], size=len(wrong))
    data = datasets.Dataset(
        (inputs[:-_TABLE_TEST], labels[:-_TABLE_TEST]),
        (inputs[-_TABLE_TEST:], labels[-_TABLE_TEST:]),
    )
    return _classification(build_model, data, generator, name, (16, 64))


def _table(generator):
    """Draws a table `[M, F]` and scores `[M, 4]` by a random network."""
    size = log_uniform(generator, 4, 32)
    count = log_uniform(generator, 100, 2000) + _TABLE_TEST
    inputs = generator.normal(size=(count, size))
    inner = generator.normal(size=(size, 16)) / np.sqrt(size)
    scores = np.tanh(2.0 * inputs @ inner) @ generator.normal(size=(16, 4))
    if generator.integers(2):
        inputs = _in_units(inputs, generator)
    return inputs.astype("float32"), scores / 4.0


def _in_units(values, generator):
    """Shifts the columns of `[M, F]`, and scales them over six decades."""
    shifts, exponents = generator.normal(size=(2, values.shape[1]))
    return (values + shifts) * 10.0 ** np.clip(1.5 * exponents, -3.0, 3.0)


def _table_model(generator, shape, outputs, depths, first=list):
    """Draws a network of dense layers: a function that builds it."""
    depth = int(generator.integers(*depths))
    widths = [log_uniform(generator, 12, 64) for _ in range(depth)]
    activation = generator.choice(ACTIVATIONS)
    norm = generator.choice(["none", "none", "batch", "layer"])
    rate = float(generator.choice([0.0, 0.0, 0.1, 0.3, 0.5]))

    def build_model():
        layers = [keras.Input(shape), *first()]
        for width in widths:
            layers += [keras.layers.Dense(width), *norm_layers(norm)]
            layers.append(keras.layers.Activation(activation))
            layers += [keras.layers.Dropout(rate)] if rate else []
        return keras.Sequential([*layers, keras.layers.Dense(outputs)])

    return build_model


def _images(generator):
    name = generator.choice(["digits", "mnist", "cifar10", "cifar10"])
    if name == "digits":
        return datasets.digits()
    return datasets.images(str(name), _IMAGE_SIZE)
