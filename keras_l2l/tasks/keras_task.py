"""Any Keras model, dataset and loss as a task."""

import contextlib
import functools
import random
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_l2l import checks
from keras_l2l.tasks.base import Task

_DEFAULT_BATCH_SIZE = 32  # as in `keras.Model.fit`
_TEST_BATCH_SIZE = 1000  # bounds the memory of a test


class KerasTask(Task):
    """The training of a Keras model on a dataset.

    Batch normalisation, dropout, embeddings, several inputs and outputs,
    `add_loss` and regularisation losses all work as in `model.fit`.

    An episode's model comes from `build_model()`. Python's and NumPy's random
    generators, from which Keras draws the seeds of initializers and of
    dropout, are seeded for the episode during the call. The data are held in
    memory, and each batch is a random draw of examples, so that every step of
    every episode can be repeated exactly.

    The loss is that of `model.compute_loss`; a `train_step` of the model's
    own is not used, and a warning says so.

    Args:
        build_model: A function without arguments that returns a new
            `keras.Model`, of the same architecture each time. It may share
            frozen variables between models, but no trainable ones.
        dataset: A `tf.data.Dataset` of batches `(x, y)` or
            `(x, y, sample_weight)`, or a tuple of arrays (or structures of
            arrays) of the same form. A dataset is read once; if it repeats,
            up to `max_batches`.
        loss: As in `model.compile(loss=…)`: a name, a `keras.losses.Loss`, a
            function, or a list or dict of them. Defaults to `None`, the loss
            that the model was compiled with, or the losses that it adds.
        batch_size: Integer. Examples in a batch. Defaults to the size of the
            dataset's first batch, or to 32 for arrays.
        max_batches: Integer. Number of batches that are read of a dataset
            that repeats without end. Defaults to `1000`.
        test_data: Data for scores alone, of the form of `dataset`. Defaults
            to `None`: the test loss is then computed on `validation_data`, or
            without them on the training data, in inference mode.
        accuracy: Function `(y, outputs)` whose mean over held-out data is the
            accuracy, such as `keras.metrics.sparse_categorical_accuracy`.
            Defaults to `None`, without.
        name: String. The name of the task in tables and plots. Defaults to
            the model's name.
        validation_data: Held-out data, of the form of `dataset`, on which no
            optimizee is trained: a meta-loss of `"held_out"` is the loss on
            them, in inference mode. Defaults to `None`, without.
        validation_batch_size: Integer. Examples in a batch of them. Defaults
            to `None`, that of `batch_size`, or all if there are fewer.

    Raises:
        TypeError: If `build_model` or the data are of a wrong type.
        ValueError: If the data hold no examples, or arrays of different
            length, if the loss is not a scalar, or if `build_model` returns
            the same model again.

    Example:

    >>> def build_model():
    ...     return keras.Sequential(
    ...         [
    ...             keras.Input((4,)),
    ...             keras.layers.Dense(20, activation="sigmoid"),
    ...             keras.layers.Dense(3),
    ...         ]
    ...     )
    >>> x = np.random.default_rng(0).normal(size=(100, 4))
    >>> y = np.arange(100) % 3
    >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    >>> task = keras_l2l.tasks.KerasTask(build_model, (x, y), loss)
    >>> task.parameter_paths[0]
    'sequential.../dense.../kernel'
    """

    def __init__(
        self,
        build_model: Callable[[], keras.Model],
        dataset: Any,
        loss: Any = None,
        batch_size: int | None = None,
        max_batches: int = 1000,
        test_data: Any = None,
        accuracy: Callable[[Any, Any], Any] | None = None,
        name: str | None = None,
        validation_data: Any = None,
        validation_batch_size: int | None = None,
    ):
        if not callable(build_model) or isinstance(build_model, keras.Model):
            raise TypeError(
                "Argument `build_model` must be a function without arguments "
                "that returns a new `keras.Model`. "
                f"Received: build_model={build_model!r}"
            )
        max_batches = checks.positive_integer(max_batches=max_batches)
        self._data, first_size = _read("dataset", dataset, max_batches)
        self._validation_data = self._test_data = None
        if validation_data is not None:
            self._validation_data, _ = _read(
                "validation_data", validation_data, max_batches
            )
        if test_data is not None:
            self._test_data, _ = _read("test_data", test_data, max_batches)
        elif validation_data is not None:
            self._test_data = self._validation_data
        else:
            self._test_data = self._data
        self._examples = _count_examples("dataset", self._data)
        self._test_examples = _count_examples("test_data", self._test_data)
        if batch_size is None:
            batch_size = min(first_size, self._examples)
        self.batch_size = checks.positive_integer(batch_size=batch_size)
        self.validation_batch_size = self._validation_size(
            validation_batch_size
        )
        self._accuracy = accuracy
        self._build_model = build_model
        # Another seed than that of `parameters` below, which must differ.
        self._model = self._build(seed=1)
        if loss is not None or not self._model.compiled:
            self._model.compile(loss=loss)
        super().__init__(name or self._model.name)
        # Creates the variables of Keras's own loss object, which cannot be
        # done in a `tf.function`, and raises if model, data and loss do not
        # fit each other.
        parameters, state = self.initial_parameters(0)
        self._warn_of_what_is_lost(parameters)
        value, _ = self.loss(parameters, state, self.sample_batch([0, 0]))
        if value.shape != ():
            raise ValueError(
                "Argument `loss` must give a scalar. Received a loss of "
                f"shape {value.shape}"
            )

    def initial_parameters(self, seed):
        model = self._build(seed)
        ours = {id(v) for v in self._model.trainable_variables}
        if any(id(v) in ours for v in model.trainable_variables):
            raise ValueError(
                "Argument `build_model` must return a new model each time, or "
                "all episodes would begin with the same parameters. Received "
                "a model with the trainable variables of an earlier one. "
                "Create all its layers inside of `build_model`."
            )
        parameters = [tf.identity(v) for v in model.trainable_variables]
        state = [tf.identity(v) for v in model.non_trainable_variables]
        for ours, theirs in (
            (self._model.trainable_variables, parameters),
            (self._model.non_trainable_variables, state),
        ):
            expected = [tuple(v.shape) for v in ours]
            received = [tuple(v.shape) for v in theirs]
            if expected != received:
                raise ValueError(
                    "Argument `build_model` must return the same architecture "
                    f"each time. Expected variables of shapes {expected}. "
                    f"Received: {received}"
                )
        return parameters, state

    def sample_batch(self, seed):
        return _draw(self._data, self.batch_size, seed)

    def loss(self, parameters, model_state, batch):
        loss, _, state = self._run(parameters, model_state, batch, True)
        return loss, state

    def sample_held_out_batch(self, seed):
        if self._validation_data is None:
            return super().sample_held_out_batch(seed)
        return _draw(self._validation_data, self.validation_batch_size, seed)

    def held_out_loss(self, parameters, model_state, batch):
        loss, _, _ = self._run(parameters, model_state, batch, False)
        return loss

    def test_loss(self, parameters, model_state):
        return self.test_metrics(parameters, model_state)["loss"]

    def test_metrics(self, parameters, model_state):
        examples = self._test_examples
        means: dict[str, float] = {}
        for begin in range(0, examples, _TEST_BATCH_SIZE):
            end = min(begin + _TEST_BATCH_SIZE, examples)
            batch = tf.nest.map_structure(
                lambda array, begin=begin, end=end: array[begin:end],
                self._test_data,
            )
            metrics = self._test_function(parameters, model_state, batch)
            for name, value in metrics.items():
                share = (end - begin) / examples
                means[name] = means.get(name, 0.0) + float(value) * share
        return means

    @property
    def parameter_paths(self) -> list[str]:
        return [v.path for v in self._model.trainable_variables]

    @functools.cached_property
    def _test_function(self):
        # A partial of its own for each task: TensorFlow counts the traces of
        # a method over all tasks, and warns of too many.
        return tf.function(
            functools.partial(self._metrics),
            reduce_retracing=True,
            autograph=False,
        )

    def _metrics(self, parameters, model_state, batch):
        loss, outputs, _ = self._run(parameters, model_state, batch, False)
        if self._accuracy is None:
            return {"loss": loss}
        _, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
        accuracy = tf.reduce_mean(self._accuracy(y, outputs))
        return {"loss": loss, "accuracy": accuracy}

    def _run(self, parameters, model_state, batch, training):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        model = self._model
        variables = model.trainable_variables + model.non_trainable_variables
        values = list(parameters) + list(model_state)
        with keras.StatelessScope(
            state_mapping=list(zip(variables, values)), collect_losses=True
        ) as scope:
            outputs = model(x, training=training)
            loss = model.compute_loss(
                x=x,
                y=y,
                y_pred=outputs,
                sample_weight=sample_weight,
                training=training,
            )
        state = [
            tf.convert_to_tensor(scope.get_current_value(v))
            for v in model.non_trainable_variables
        ]
        return loss, outputs, state

    def _validation_size(self, size):
        """The examples in a held-out batch; `None` without held-out data."""
        if size is not None:
            size = checks.positive_integer(validation_batch_size=size)
        if self._validation_data is None:
            return None
        examples = _count_examples("validation_data", self._validation_data)
        return size or min(self.batch_size, examples)

    def _warn_of_what_is_lost(self, parameters):
        """Warns of a model that would be trained otherwise than expected."""
        if type(self._model).train_step is not keras.Model.train_step:
            warnings.warn(
                f"Task {self.name!r} does not use the `train_step` of "
                f"{type(self._model).__name__}: its loss is that of "
                "`compute_loss`. Override `compute_loss` or call `add_loss` "
                "for a loss of your own.",
                stacklevel=3,
            )
        pairs = [
            (p.numpy(), v.numpy())
            for p, v in zip(parameters, self._model.trainable_variables)
        ]
        # Zeros and ones are the same for every seed.
        is_random = any(a.size and np.ptp(a) > 0 for a, _ in pairs)
        if is_random and all(np.array_equal(a, b) for a, b in pairs):
            warnings.warn(
                f"All episodes of task {self.name!r} begin with the same "
                "parameters: `build_model` draws none, or sets seeds of its "
                "own. Leave the seeds of initializers at `None`.",
                stacklevel=3,
            )

    def _build(self, seed):
        with _seeded(seed):
            model = self._build_model()
            if not isinstance(model, keras.Model):
                raise TypeError(
                    "Argument `build_model` must return a `keras.Model`. "
                    f"Received: {model!r}"
                )
            if not model.built:
                x, _, _ = keras.utils.unpack_x_y_sample_weight(self._data)
                model(tf.nest.map_structure(lambda array: array[:1], x))
        return model


@contextlib.contextmanager
def _seeded(seed):
    """Seeds Python's and NumPy's global generators, then restores them."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def _draw(data, count, seed):
    """A random batch of a structure of tensors `[M, …]`."""
    examples = tf.nest.flatten(data)[0].shape[0]
    indices = tf.random.stateless_uniform([count], seed, 0, examples, tf.int32)
    return tf.nest.map_structure(lambda array: tf.gather(array, indices), data)


def _read(argument, data, max_batches):
    """Reads data into a structure of tensors `[M, …]` and a batch size."""
    if not isinstance(data, tf.data.Dataset):
        if data is None or isinstance(data, keras.Model):
            raise TypeError(
                f"Argument `{argument}` must be a `tf.data.Dataset` of "
                "batches or a tuple of arrays `(x, y)`. "
                f"Received: {argument}={data!r}"
            )
        tensors = tf.nest.map_structure(tf.convert_to_tensor, data)
        return tensors, _DEFAULT_BATCH_SIZE
    if data.cardinality() == tf.data.INFINITE_CARDINALITY:
        data = data.take(max_batches)
    batches = list(data)
    if not batches:
        raise ValueError(
            f"Argument `{argument}` must hold at least one batch. "
            "Received an empty dataset"
        )
    batch_size = _count_examples(argument, batches[0])
    columns = [tf.nest.flatten(batch) for batch in batches]
    shapes = {
        tuple(tuple(leaf.shape[1:]) for leaf in column) for column in columns
    }
    if len(shapes) > 1:
        raise ValueError(
            f"Argument `{argument}` must hold examples of one shape; pad them "
            f"to one length. Received examples of shapes {sorted(shapes)[:4]}"
        )
    leaves = [tf.concat(parts, 0) for parts in zip(*columns)]
    return tf.nest.pack_sequence_as(batches[0], leaves), batch_size


def _count_examples(argument, data):
    """The length of the common first axis of a structure of tensors."""
    shapes = [leaf.shape for leaf in tf.nest.flatten(data)]
    counts = {shape[0] if shape.rank else None for shape in shapes}
    if counts == {0}:
        raise ValueError(
            f"Argument `{argument}` must hold at least one example. Received "
            f"arrays of shapes {[tuple(shape) for shape in shapes]}"
        )
    if len(counts) != 1 or None in counts:
        raise ValueError(
            f"Argument `{argument}` must hold arrays with one first axis, "
            "that of the examples, and the elements of a dataset must be "
            "batches: call `.batch(size)`. Received arrays of shapes "
            f"{[tuple(shape) for shape in shapes]}"
        )
    return counts.pop()
