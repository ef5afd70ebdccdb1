"""Every rule, task and estimator, for the contract tests.

A new component needs one line here; a public one without it fails
`test_components.py`.
"""

import functools
import os
import pathlib

import keras
import numpy as np
import pytest

from keras_l2l import meta_gradients, rules, tasks

# The metadata of an exported rule.
METADATA = {
    "description": "A rule.",
    "recipe": {"task": "mnist", "steps": [1, 2]},
    "seed": 7,
    "scores": {"final_loss": 0.25},
}


def _with_random_meta_parameters(rule):
    """Randomises a rule whose output layers start as zeros."""
    generator = np.random.default_rng(0)
    rule.set_weights(
        [
            (weight + generator.normal(0.0, 0.2, weight.shape)).astype(
                weight.dtype
            )
            for weight in rule.get_weights()
        ]
    )
    return rule


# Name → factory of a small instance, with a fixed seed.
RULES = {
    "SGD": lambda: rules.SGD(0.1),
    "Momentum": lambda: rules.Momentum(0.1),
    "Momentum-nesterov": lambda: rules.Momentum(0.1, nesterov=True),
    "RMSprop": lambda: rules.RMSprop(0.01),
    "Adam": lambda: rules.Adam(0.01),
    "AdamW": lambda: rules.AdamW(0.01, weight_decay=0.1, decay_steps=10),
    "Nadam": lambda: rules.Nadam(0.01),
    "Prodigy": lambda: rules.Prodigy(
        3.0, initial_distance=0.01, weight_decay=0.1
    ),
    "ScheduleFreeAdamW": lambda: rules.ScheduleFreeAdamW(
        0.01, warmup_steps=3, weight_decay=0.1
    ),
    "Muon": lambda: rules.Muon(0.01, adam_head=False),
    "SOAP": lambda: rules.SOAP(0.01, frequency=2),
    "CoordinatewiseLSTM": lambda: rules.CoordinatewiseLSTM(units=4, seed=1),
    "CoordinatewiseLSTM-raw": lambda: rules.CoordinatewiseLSTM(
        units=3,
        layers=1,
        output_scale=1.0,
        preprocessing="raw",
        kernel_initializer="orthogonal",
        output_initializer=keras.initializers.RandomNormal(stddev=0.2, seed=2),
        seed=1,
    ),
    "CoordinatewiseLSTM-p5": lambda: rules.CoordinatewiseLSTM(
        units=5, layers=3, p=5.0, seed=1
    ),
    "CoordinatewiseLSTM-averaging": lambda: rules.CoordinatewiseLSTM(
        units=4, layers=1, averaging_cells=2, seed=1
    ),
    "NTMBFGS": lambda: rules.NTMBFGS(units=3, layers=1, seed=1),
    "NTMBFGS-low-rank": lambda: rules.NTMBFGS(
        units=3,
        layers=1,
        averaging_cells=0,
        read_heads=2,
        write_heads=2,
        memory="low_rank",
        rank=5,
        preprocessing="raw",
        seed=1,
    ),
    "NTMBFGS-bfgs": lambda: _with_random_meta_parameters(
        rules.NTMBFGS(units=3, layers=1, initialization="bfgs", seed=1)
    ),
    "NTMBFGS-bfgs-low-rank": lambda: _with_random_meta_parameters(
        rules.NTMBFGS(
            units=3,
            layers=1,
            memory="low_rank",
            rank=6,
            initialization="bfgs",
            seed=1,
        )
    ),
    "RNNprop": lambda: rules.RNNprop(units=4, seed=1),
    "AdamLSTM": lambda: _with_random_meta_parameters(
        rules.AdamLSTM(units=3, layers=1, time_scales=(3, 30), seed=1)
    ),
    "Grouped": lambda: rules.Grouped(
        {
            "matrices": rules.RNNprop(units=3, layers=1, seed=2),
            "others": rules.CoordinatewiseLSTM(units=3, layers=1, seed=1),
        },
        ranks={"matrices": 2},
    ),
    "Grouped-shapes": lambda: rules.Grouped(
        {
            "narrow": rules.RNNprop(units=3, layers=1, seed=2),
            "scalars": rules.Adam(0.01),
            "others": rules.CoordinatewiseLSTM(units=3, layers=1, seed=1),
        },
        shapes={"narrow": (None, 2)},
        sizes={"scalars": (None, 1)},
        ranks={"scalars": 0},
    ),
    "Hierarchical": lambda: _with_random_meta_parameters(
        rules.Hierarchical(units=4, coordinate_units=3, seed=1)
    ),
    "Hierarchical-2": lambda: _with_random_meta_parameters(
        rules.Hierarchical(units=4, coordinate_units=3, seed=1, version=2)
    ),
    "LearnedMuon": lambda: _with_random_meta_parameters(
        rules.LearnedMuon(units=4, seed=1)
    ),
    "LearnedMuon-2": lambda: _with_random_meta_parameters(
        rules.LearnedMuon(units=4, seed=1, version=2)
    ),
    "LearnedMuon-3": lambda: _with_random_meta_parameters(
        rules.LearnedMuon(version=3)
    ),
}


@functools.cache
def shared_rule(name):
    """A rule for tests that change nothing in it: its traces are kept."""
    return RULES[name]()


@functools.cache
def shared_task(name):
    """A task, which changes in no test."""
    return TASKS[name]()


# Rules that share granularity and kind of hidden state with another one.
SIBLINGS = {
    *("SGD", "Momentum", "Momentum-nesterov", "RMSprop", "AdamW", "Nadam"),
    *("ScheduleFreeAdamW", "CoordinatewiseLSTM-raw", "CoordinatewiseLSTM-p5"),
    *("CoordinatewiseLSTM-averaging", "NTMBFGS", "RNNprop", "Grouped"),
    "AdamLSTM",
    *("NTMBFGS-bfgs", "NTMBFGS-bfgs-low-rank"),
    *("Hierarchical", "Hierarchical-2", "LearnedMuon", "LearnedMuon-3"),
}


def rule_names():
    """Names in `RULES`; those with a sibling are `slow`, a new one is not.

    For tests that trace or compile a graph for each rule.
    """
    return [
        pytest.param(name, marks=pytest.mark.slow if name in SIBLINGS else ())
        for name in RULES
    ]


# The rules that must equal an optimizer of Keras, step for step.
KERAS_TWINS = {
    "SGD": lambda: keras.optimizers.SGD(0.1),
    "Momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "Momentum-nesterov": lambda: keras.optimizers.SGD(
        0.1, momentum=0.9, nesterov=True
    ),
    "RMSprop": lambda: keras.optimizers.RMSprop(0.01),
    "Adam": lambda: keras.optimizers.Adam(0.01),
    "AdamW": lambda: keras.optimizers.AdamW(
        keras.optimizers.schedules.CosineDecay(0.01, 10), weight_decay=0.1
    ),
    "Nadam": lambda: keras.optimizers.Nadam(0.01),
}


def mlp():
    return keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(4, activation="tanh"),
            keras.layers.Dense(3),
        ]
    )


def convnet():
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(3, 3, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(3, kernel_regularizer="l2"),
        ]
    )


def image_features():
    """Two convolutions, whose features describe small patches."""
    return keras.Sequential(
        [
            keras.Input((None, None, 3)),
            *(
                keras.layers.Conv2D(
                    channels,
                    3,
                    padding="same",
                    activation="relu",
                    kernel_initializer=keras.initializers.HeNormal(seed=index),
                    bias_initializer=keras.initializers.RandomNormal(
                        stddev=0.1, seed=index
                    ),
                    name=name,
                )
                for index, (name, channels) in enumerate(
                    [("first", 3), ("second", 4)]
                )
            ),
        ]
    )


def recurrent():
    return keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            keras.layers.Embedding(11, 4),
            keras.layers.GRU(3),
            keras.layers.Dense(3),
        ]
    )


def two_by_two():
    """A model with two inputs, two outputs and an added loss."""
    left, right = (
        keras.Input((3,), name="left"),
        keras.Input((2,), name="right"),
    )
    both = keras.layers.Concatenate()([left, right])
    both = keras.layers.ActivityRegularization(l2=0.1)(both)
    hidden = keras.layers.Dense(4, activation="relu")(both)
    return keras.Model(
        {"left": left, "right": right},
        {
            "number": keras.layers.Dense(1, name="number")(hidden),
            "label": keras.layers.Dense(3, name="label")(hidden),
        },
    )


def _classification(build_model, inputs, batch_size=8):
    labels = np.random.default_rng(1).integers(0, 3, len(inputs))
    return tasks.KerasTask(
        build_model,
        (inputs, labels),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        batch_size=batch_size,
    )


def _normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def _mlp_task():
    return _classification(mlp, _normal(20, 5))


def _convnet_task():
    return _classification(convnet, _normal(20, 6, 6, 2))


def _two_by_two_task():
    return tasks.KerasTask(
        two_by_two,
        (
            {"left": _normal(20, 3), "right": _normal(20, 2)},
            {
                "number": _normal(20, 1),
                "label": np.arange(20) % 3,
            },
        ),
        {
            "number": "mse",
            "label": keras.losses.SparseCategoricalCrossentropy(
                from_logits=True
            ),
        },
        batch_size=8,
    )


def _neural_style_task():
    images = np.random.default_rng(0).uniform(size=(2, 10, 9, 3))
    return tasks.NeuralStyle(
        images,
        images[0],
        image_features(),
        content_layers=["second"],
        style_layers=["first", "second"],
        size=8,
    )


def _synthetic_task():
    def draw_data(generator):
        count = int(generator.integers(10, 21)) + 6
        inputs = generator.normal(size=(count, 5)).astype("float32")
        labels = (inputs @ generator.normal(size=(5, 3))).argmax(-1)
        return (inputs[6:], labels[6:]), (inputs[:6], labels[:6])

    return tasks.SyntheticTask(
        mlp,
        draw_data,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        max_examples=20,
        batch_size=8,
    )


TASKS = {
    "Quadratic": tasks.Quadratic,
    "Quadratic-many": lambda: tasks.Quadratic(dimensions=3, functions=4),
    "Analytic": lambda: tasks.Analytic("rosenbrock", 4, condition=10.0),
    "KerasTask-mlp": _mlp_task,
    "KerasTask-convnet": _convnet_task,
    "KerasTask-recurrent": lambda: _classification(
        recurrent, np.random.default_rng(0).integers(0, 11, (20, 6))
    ),
    "KerasTask-two-by-two": _two_by_two_task,
    "NeuralStyle": _neural_style_task,
    "SyntheticTask": _synthetic_task,
    "RandomScaling": lambda: tasks.RandomScaling(
        tasks.Quadratic(dimensions=3, dtype="float64")
    ),
    "Reparametrization": lambda: tasks.Reparametrization(_convnet_task()),
    "RandomBatchSize": lambda: tasks.RandomBatchSize(_two_by_two_task(), 2),
    "GradientNoise-of-augmented": lambda: tasks.GradientNoise(
        tasks.RandomScaling(
            tasks.RandomScaling(tasks.RandomBatchSize(_mlp_task()))
        )
    ),
    "LossScaling": lambda: tasks.LossScaling(tasks.Quadratic(dimensions=3)),
    "GradientBursts": lambda: tasks.GradientBursts(
        tasks.GradientNoise(_mlp_task()), probability=0.5
    ),
    "adding_problem": lambda: tasks.adding_problem(length=4, units=3),
    "digits_mlp": lambda: tasks.digits_mlp(units=4, batch_size=16),
    "mnist_mlp": lambda: tasks.mnist_mlp(units=4, batch_size=16),
    "cifar_convnet": lambda: tasks.cifar_convnet(
        labels=(7, 2), units=2, batch_size=8, size=8
    ),
}

# Name of a task → data set that may have to be downloaded.
NEEDS_DATA = {"mnist_mlp": "mnist", "cifar_convnet": "cifar10"}

_DATA_DIR = pathlib.Path(
    os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
).expanduser()


def _needs(data):
    return pytest.mark.skipif(
        not any((_DATA_DIR / data).glob("*/dataset_info.json")),
        reason=f"{data} has not been downloaded to TFDS_DATA_DIR",
    )


needs_mnist, needs_cifar = _needs("mnist"), _needs("cifar10")


def task_names(without=()):
    """Names in `TASKS`, those whose data are missing marked to be skipped."""
    return [
        pytest.param(
            name, marks=_needs(NEEDS_DATA[name]) if name in NEEDS_DATA else ()
        )
        for name in TASKS
        if name not in without
    ]


ESTIMATORS = {
    "TruncatedBackpropagation": meta_gradients.TruncatedBackpropagation,
    "TruncatedBackpropagation-second-derivatives": lambda: (
        meta_gradients.TruncatedBackpropagation(second_derivatives=True)
    ),
    "AntitheticES": lambda: meta_gradients.AntitheticES(jit_compile=False),
    "PersistentES": lambda: meta_gradients.PersistentES(jit_compile=False),
    "PersistentES-vectorize": lambda: meta_gradients.PersistentES(
        jit_compile=False, vectorize=True
    ),
    "Imitation": lambda: meta_gradients.Imitation(
        meta_gradients.PersistentES(jit_compile=False),
        rules.Adam(0.01),
        rate=1.0,
    ),
    "TruncatedBackpropagation-share": lambda: (
        meta_gradients.TruncatedBackpropagation(coordinate_share=0.5)
    ),
}
