"""Test tasks with few data, trained for many epochs: the suite *small*.

Tables of scikit-learn, raw and standardised, with linear models and small
perceptrons; 500 images; one small text; fine-tuning on 256 images. What counts
is the loss on held-out data, at the end and at the best epoch.
"""

import functools
import itertools
import pathlib
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_l2l.tasks import datasets
from keras_l2l.tasks.benchmark_suite import (
    SuiteTask,
    classification,
    transformer,
)
from keras_l2l.tasks.datasets import Dataset
from keras_l2l.tasks.keras_task import KerasTask

EPOCHS = 100
_BATCH_SIZE = 32

# Name → rows of the training data.
_CLASSES = {"breast_cancer": 455, "digits": 1437, "iris": 120, "wine": 142}
_NUMBERS = {"diabetes": 353, "linnerud": 16}
_FINE_TUNED = 256
_PRETRAINING_EPOCHS = 3
_PRETRAINING_BATCH = 64


def _steps(examples, batch_size=_BATCH_SIZE):
    """Steps of an epoch."""
    return -(-examples // batch_size)


def _perceptron(inputs, outputs, hidden):
    def build_model():
        return keras.Sequential(
            [
                keras.Input((inputs,)),
                *(layers.Dense(units, activation="relu") for units in hidden),
                layers.Dense(outputs),
            ]
        )

    return build_model


def _table(name, scale_inputs, hidden):
    """Targets are labels, or numbers in their own units."""
    data = datasets.table(name, scale_inputs, scale_targets=False)
    inputs, targets = data.train
    if name in _CLASSES:
        build_model = _perceptron(
            inputs.shape[1], int(targets.max()) + 1, hidden
        )
        return classification(build_model, data, _BATCH_SIZE)
    return KerasTask(
        _perceptron(inputs.shape[1], targets.shape[1], hidden),
        data.train,
        "mse",
        batch_size=min(_BATCH_SIZE, len(inputs)),
        test_data=data.test,
    )


def _mnist_convnet():
    train, test = datasets.images("mnist")

    def build_model():
        return keras.Sequential(
            [
                keras.Input((28, 28, 1)),
                layers.Conv2D(8, 3, strides=2, activation="relu"),
                layers.Conv2D(16, 3, strides=2, activation="relu"),
                layers.Flatten(),
                layers.Dense(32, activation="relu"),
                layers.Dense(10),
            ]
        )

    data = Dataset(_first(train, 500), _first(test, 1000))
    return classification(build_model, data, _BATCH_SIZE)


def _text_transformer():
    name, length = "breast_cancer", 32
    build_model = transformer(
        datasets.characters(name), length, width=32, heads=2, blocks=1
    )
    return classification(build_model, datasets.text(name, length, 16), 16)


def _fine_tuning(directory: str | pathlib.Path | None = None) -> KerasTask:
    """All layers of a convnet that knows five labels, on five others."""
    train, test = datasets.images("cifar10")
    weights = _pretrained_weights(directory)

    def build_model():
        body = _pretrained_body()
        body.set_weights(weights)
        return keras.Sequential([body, layers.Dense(5)])

    new = range(5, 10)
    data = Dataset(
        _first(_with_labels(train, new), _FINE_TUNED),
        _first(_with_labels(test, new), 1000),
    )
    return classification(build_model, data, _BATCH_SIZE)


def _pretrained_body():
    blocks = [
        [
            layers.Conv2D(
                width,
                3,
                padding="same",
                use_bias=False,
                kernel_initializer=keras.initializers.HeNormal(seed=width),
            ),
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
            layers.GlobalAveragePooling2D(),
        ]
    )


def _pretrained_weights(directory: str | pathlib.Path | None) -> list[Any]:
    """The weights of a body that was trained on the labels 0 to 4.

    They depend on nothing random; they are kept in the directory, if any.
    """
    body = _pretrained_body()
    path = None
    if directory is not None:
        path = pathlib.Path(directory, "pretrained.weights.h5")
        if path.exists():
            try:
                body.load_weights(path)
            except Exception as error:  # h5py has many for a damaged file
                raise ValueError(
                    f"The pretrained weights {str(path)!r} cannot be read: "
                    f"{error}. Delete the file to train them again."
                ) from error
            return body.get_weights()
    images, labels = _with_labels(datasets.images("cifar10").train, range(5))
    head = layers.Dense(5, kernel_initializer=keras.initializers.Zeros())
    model = keras.Sequential([body, head])
    steps = _steps(len(images), _PRETRAINING_BATCH)
    rate = keras.optimizers.schedules.CosineDecay(
        3e-3, _PRETRAINING_EPOCHS * steps
    )
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    generator = np.random.default_rng(0)
    for _ in range(_PRETRAINING_EPOCHS):
        order = generator.permutation(len(images))
        model.fit(
            images[order],
            labels[order],
            batch_size=_PRETRAINING_BATCH,
            shuffle=False,
            verbose=0,
        )
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        body.save_weights(path)
    return body.get_weights()


def _with_labels(data, labels):
    """The examples with these labels, which count from zero then."""
    images, original = data
    kept = np.isin(original, list(labels))
    return images[kept], original[kept] - min(labels)


def _first(data, count):
    return tuple(array[:count] for array in data)


def _make_suite():
    suite = {}
    tables = {**_CLASSES, **_NUMBERS}
    forms = {"raw": False, "standardized": True}
    models = {"linear": (), "mlp": (64, 64)}
    for name, form, model in itertools.product(tables, forms, models):
        every = _steps(tables[name])
        suite[f"{name.replace('_', '-')}-{form}-{model}"] = SuiteTask(
            functools.partial(_table, name, forms[form], models[model]),
            EPOCHS * every,
            test_every=every,
        )
    return {
        **suite,
        "mnist-500-convnet": SuiteTask(
            _mnist_convnet, EPOCHS * 16, test_every=16 * 2, data="mnist"
        ),
        "small-text-transformer": SuiteTask(
            _text_transformer, EPOCHS * 17, test_every=17
        ),
        "fine-tuning": SuiteTask(
            _fine_tuning,
            30 * _steps(_FINE_TUNED),
            test_every=_steps(_FINE_TUNED),
            data="cifar10",
            uses_directory=True,
        ),
    }


SMALL_SUITE = _make_suite()
