"""A small model and how to fit it, for the tests of the optimizer."""

import keras
import numpy as np
import tensorflow as tf

from keras_l2l import rules
from keras_l2l.optimizers.l2l_optimizer import L2LOptimizer


def make(seed=0, **kwargs):
    rule = rules.CoordinatewiseLSTM(units=3, layers=1, seed=seed)
    return L2LOptimizer(rule, **kwargs)


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 3)).astype("float32")
    return x, x.sum(axis=1, keepdims=True)


def compiled(optimizer=None, **kwargs):
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(
                2, "tanh", kernel_initializer=keras.initializers.Constant(0.3)
            ),
            keras.layers.Dense(1, kernel_initializer="ones"),
        ]
    )
    kwargs = {"run_eagerly": True, **kwargs}
    model.compile(optimizer or make(), "mse", **kwargs)
    return model


def built(model):
    """The model, with its optimizer built, which on replicas saves a trace."""
    model.optimizer.build(model.trainable_variables)
    return model


def fit(model, epochs=2, **kwargs):
    settings = {"batch_size": 4, "shuffle": False, "verbose": 0, **kwargs}
    return model.fit(*data(), epochs=epochs, **settings)


def mirrored(replicas=2):
    """A strategy on logical CPUs."""
    return tf.distribute.MirroredStrategy(
        [f"CPU:{i}" for i in range(replicas)],
        # Collective operations of one strategy wait for those of another.
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )
