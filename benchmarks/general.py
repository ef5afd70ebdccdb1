"""Section `general`: the update of the default preset, and its guard."""

import time

import keras
import numpy as np
import tensorflow as tf
from workloads import first_calls, take_turns

from keras_l2l import L2LOptimizer, presets

REFERENCE = "keras.optimizers.Adam"
# The variables of two networks: dense layers, and convolutions of stride 2.
NETWORKS = {
    "MNIST perceptron 784-128-128-10": (
        *((784, 128), (128,), (128, 128), (128,), (128, 10), (10,)),
    ),
    "CIFAR-10 convnet 16-32-32": (
        *((3, 3, 3, 16), (16,), (3, 3, 16, 32), (32,)),
        *((3, 3, 32, 32), (32,), (512, 10), (10,)),
    ),
    "dense layer 1024-1024": ((1024, 1024),),
}
LAYERS = 25  # of a model whose first step is timed, two tensors each


def general_section(arguments):
    """The default preset's update, per coordinate, with and without guard."""
    records = []
    for network, shapes in NETWORKS.items():
        count = sum(tf.TensorShape(shape).num_elements() for shape in shapes)
        rows = {
            REFERENCE: _update(keras.optimizers.Adam(1e-3), shapes),
            presets.DEFAULT: _update(L2LOptimizer(), shapes),
            f"{presets.DEFAULT}, no guard": _update(
                L2LOptimizer(guard=False), shapes
            ),
            f"{presets.DEFAULT}, jit": _update(L2LOptimizer(), shapes, True),
        }
        first_calls(rows)
        seconds = take_turns(rows, arguments.repeats)
        records += [
            {
                "row": name,
                "network": network,
                "coordinates": count,
                "nanoseconds_per_coordinate": seconds[name] / count * 1e9,
                "relative_to_keras_adam": seconds[name] / seconds[REFERENCE],
            }
            for name in rows
        ]
    return records + _first_steps()


def _first_steps():
    """What `fit()` takes to trace, and to make a step of, a deep model."""
    _first_step(keras.optimizers.Adam())  # Keras has first calls of its own.
    return [
        {
            "row": f"{name}, first step of {2 * LAYERS} tensors",
            "first_call_seconds": _first_step(optimizer),
        }
        for name, optimizer in (
            (REFERENCE, keras.optimizers.Adam()),
            (presets.DEFAULT, L2LOptimizer()),
        )
    ]


def _first_step(optimizer):
    model = keras.Sequential(
        [keras.Input((16,)), *(keras.layers.Dense(16) for _ in range(LAYERS))]
    )
    model.compile(optimizer, "mse", metrics=["mae"])
    batch = np.ones((8, 16), "float32")
    start = time.perf_counter()
    model.fit(batch, batch, verbose=0)
    return time.perf_counter() - start


def _update(optimizer, shapes, jit_compile=False):
    generator = tf.random.Generator.from_seed(0)
    variables = [
        keras.Variable(0.05 * generator.normal(shape)) for shape in shapes
    ]
    gradients = [generator.normal(shape) for shape in shapes]
    optimizer.build(variables)

    @tf.function(jit_compile=jit_compile)
    def step():
        optimizer.apply(gradients, variables)
        return tf.reshape(variables[-1].value, [-1])[0]

    return step
