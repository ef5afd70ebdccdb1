"""A Keras model as a task, with a new data set in each episode."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_l2l import checks
from keras_l2l.tasks.base import Task
from keras_l2l.tasks.datasets import Dataset
from keras_l2l.tasks.keras_task import KerasTask

# Keeps the random numbers of the data apart from those of the model.
_STREAM = 2**17


class SyntheticTask(Task):
    """The training of a Keras model on data that each episode draws anew.

    A `KerasTask` has one data set, which a rule can learn by heart; here there
    are as many as episodes, for one compilation. The data of an episode are
    drawn once, when it begins, and stay with the optimizee, as the first
    entries of the model state.

    Args:
        build_model: A function without arguments that returns a new
            `keras.Model`, see `KerasTask`.
        draw_data: A function from a `np.random.Generator` to a pair
            `(training, held-out)` of pairs of arrays `(x, y)`. Their shapes
            and dtypes are always the same, but for the number of training
            examples, `max_examples` at most.
        loss: As in `model.compile(loss=…)`.
        max_examples: Integer. Training examples at most; the arrays are
            filled up to that number.
        batch_size: Integer. Examples in a batch. Defaults to `32`.
        name: String. The name of the task. Defaults to the model's name.
        initializations: Integer. Different initialisations of the model, which
            the episodes share, as to build a model takes longer than to draw
            its data. Defaults to `None`, one for each episode.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If `draw_data` returns more than `max_examples`, or model,
            data and loss do not fit each other.

    Example:

    >>> def draw_data(generator):
    ...     x = generator.normal(size=(150, 4)).astype("float32")
    ...     y = x @ generator.normal(size=(4, 1)).astype("float32")
    ...     return (x[:100], y[:100]), (x[100:], y[100:])
    >>> def build_model():
    ...     return keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> task = keras_l2l.tasks.SyntheticTask(
    ...     build_model, draw_data, "mse", max_examples=100, name="line"
    ... )
    >>> trainer = keras_l2l.MetaTrainer(rule, task, meta_loss="held_out")
    """

    def __init__(
        self,
        build_model: Callable[[], keras.Model],
        draw_data: Callable[[np.random.Generator], Any],
        loss: Any,
        max_examples: int,
        batch_size: int = 32,
        name: str | None = None,
        initializations: int | None = None,
    ):
        checks.positive_integers(
            max_examples=max_examples,
            batch_size=batch_size,
            initializations=initializations or 1,
        )
        self._draw_data = draw_data
        self.max_examples = max_examples
        self.batch_size = batch_size
        self.initializations = initializations
        self._initialized: dict[int, Any] = {}
        _, training, held_out = self._data(0)
        self._task = KerasTask(
            build_model,
            training,
            loss,
            batch_size=batch_size,
            validation_data=held_out,
            name=name,
        )
        super().__init__(self._task.name)

    @property
    def parameter_paths(self):
        return self._task.parameter_paths

    def initial_parameters(self, seed):
        parameters, state = self._initialize(seed)
        count, *data = self._data(seed)
        leaves = [tf.constant(array) for array in tf.nest.flatten(data)]
        return parameters, [tf.constant(count), *leaves, *state]

    def sample_batch(self, seed):
        # Where in the data, as these are the episode's.
        return tf.random.stateless_uniform([self.batch_size], seed)

    def sample_held_out_batch(self, seed):
        return self.sample_batch(seed)

    def loss(self, parameters, model_state, batch):
        count, training, _, state = _unpack(model_state)
        examples = _gather(training, batch, count)
        loss, state = self._task.loss(parameters, state, examples)
        return loss, [*model_state[:5], *state]

    def held_out_loss(self, parameters, model_state, batch):
        _, _, held_out, state = _unpack(model_state)
        examples = _gather(held_out, batch, held_out[0].shape[0])
        return self._task.held_out_loss(parameters, state, examples)

    def test_loss(self, parameters, model_state):
        _, _, held_out, state = _unpack(model_state)
        return float(self._task.held_out_loss(parameters, state, held_out))

    def _initialize(self, seed):
        """The parameters and the state of a model."""
        if self.initializations is None:
            return self._task.initial_parameters(seed)
        index = seed % self.initializations
        if index not in self._initialized:
            made = self._task.initial_parameters(index)
            self._initialized[index] = made
        return self._initialized[index]

    def _data(self, seed):
        """The number of training examples, these, filled up, and held-out."""
        generator = np.random.default_rng([seed, _STREAM])
        training, held_out = map(tuple, Dataset(*self._draw_data(generator)))
        count = len(training[0])
        if not 0 < count <= self.max_examples:
            raise ValueError(
                "Argument `draw_data` must return from 1 to `max_examples` "
                f"training examples. Received: {count} with "
                f"max_examples={self.max_examples}"
            )
        padding = self.max_examples - count
        training = tuple(
            np.pad(array, [(0, padding)] + [(0, 0)] * (array.ndim - 1))
            for array in training
        )
        return np.int32(count), training, held_out


def _unpack(model_state):
    """The count, the training pair, the held-out pair, the model's state."""
    count, x, y, held_out_x, held_out_y, *state = model_state
    return count, (x, y), (held_out_x, held_out_y), state


def _gather(data, places, count):
    """The examples at places in [0, 1) of the first `count`."""
    count = tf.cast(count, places.dtype)
    indices = tf.cast(tf.minimum(places * count, count - 1.0), tf.int32)
    return tuple(tf.gather(array, indices) for array in data)
