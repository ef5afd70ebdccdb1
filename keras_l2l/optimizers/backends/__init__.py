"""What an optimizer needs of Keras's backend beyond `keras.ops`."""

import importlib

import keras

from keras_l2l.optimizers.backends.base import Backend

SUPPORTED = ("tensorflow", "jax", "torch")


def _of_keras() -> Backend:
    name = keras.config.backend()
    if name not in SUPPORTED:  # `L2LOptimizer` says so when it is made.
        return Backend()
    # Imports no framework but the one in use.
    module = importlib.import_module(f"{__name__}.{name}_backend")
    return module.BACKEND


backend = _of_keras()
