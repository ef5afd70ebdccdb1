"""The training of a user's own model, on a user's own data, as a task."""

import pathlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_l2l.tasks import data_files, python_files
from keras_l2l.tasks.keras_task import KerasTask

_UNITS, _DEPTH, _ACTIVATION = 64, 2, "relu"
_MOST_CLASSES = 20  # of whole numbers, which may be numbers of something
_SHOWN_EXAMPLES = 100  # the outputs of a model are looked at
_SPARSE = "sparse_categorical_crossentropy"


class UserTask(NamedTuple):
    """A task made of a user's files.

    Attributes:
        task: A `KerasTask`.
        description: String. What was taken for what, in one line.
    """

    task: KerasTask
    description: str


def user_task(
    data: str,
    model: str | None = None,
    loss: str | None = None,
    target: str | None = None,
    batch_size: int | None = None,
    units: int | None = None,
    depth: int | None = None,
    activation: str | None = None,
) -> UserTask:
    """Makes a task of files that a user names.

    Without a model it is a perceptron over inputs of mean zero and variance
    one. Text, integers from zero without a gap, or at most 20 different whole
    numbers are then classes; other targets are brought to mean zero and
    variance one.

    Args:
        data: String, see `data_files.load`: a `.csv`, an `.npz`, or
            `FILE.py:FUNCTION`.
        model: String, `FILE.py:FUNCTION` with a function that returns a new
            Keras model. Defaults to `None`, a perceptron.
        loss: String, the name of a loss of Keras. A crossentropy takes logits
            if the model puts out what are no probabilities. Defaults to
            `None`: that of the compiled model; of the perceptron
            `"sparse_categorical_crossentropy"` for classes and `"mse"` for
            numbers.
        target: String, the column of a `.csv` to predict. Defaults to `None`,
            the last one.
        batch_size: Integer, see `KerasTask`.
        units: Integer. Units of a hidden layer of the perceptron. Defaults to
            `None`, 64.
        depth: Integer. Its hidden layers. Defaults to `None`, two.
        activation: String. Their activation. Defaults to `None`, `"relu"`.

    Returns:
        A `UserTask`.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If model, data and loss do not fit each other. The message
            says which argument, what was expected and what was received.

    Example:

    >>> np.savez("mine.npz", x=np.eye(10), y=np.arange(10) % 2)
    >>> task, description = user_task("mine.npz")
    >>> description
    'mine.npz: 8 examples of shape (10,), 2 held out; 2 classes; ...'
    """
    train, test = data_files.load(data, target)
    if model is None:
        hidden = {"units": units, "depth": depth, "activation": activation}
        plan = _perceptron(data, train, test, loss, hidden)
    else:
        for name, value in (
            ("units", units),
            ("depth", depth),
            ("activation", activation),
        ):
            if value is not None:
                raise ValueError(
                    f"Argument `{name}` is one of the perceptron, which "
                    f"`model` replaces. Received: {name}={value!r}, "
                    f"model={model!r}"
                )
        plan = _own_model(model, train, test, loss)
    name = pathlib.PurePath(data.rpartition(".py:")[0] or data).stem
    try:
        task = KerasTask(
            plan.build_model,
            plan.train,
            plan.loss,
            batch_size=batch_size,
            test_data=plan.test,
            name=name,
        )
    except (TypeError, ValueError, tf.errors.OpError) as error:
        raise ValueError(
            f"Model, data and loss do not fit: {_first_lines(error)}"
        ) from error
    return UserTask(task, _describe(data, plan))


class _Plan(NamedTuple):
    """What a task is made of, and what was chosen."""

    build_model: Callable[[], keras.Model]
    train: Any
    test: Any
    loss: Any
    choices: str


def _perceptron(data, train, test, loss, hidden):
    """A perceptron, with a loss that suits the targets."""
    if isinstance(train, tf.data.Dataset) or not all(
        isinstance(part, np.ndarray) for part in train
    ):
        raise ValueError(
            "Argument `model` must be given for data that are no pair of "
            f"arrays `(x, y)`. Received: model=None, data={data!r}"
        )
    targets = [part[1] for part in (train, test)]
    is_classes = loss == _SPARSE or (loss is None and _are_classes(targets[0]))
    if is_classes:
        classes = np.unique(np.concatenate(targets))
        if targets[0].ndim != 1 or len(classes) < 2:
            raise ValueError(
                "The data `y` must be labels `[examples]` of two classes or "
                f"more. Received: shape {targets[0].shape}, labels "
                f"{classes[:_MOST_CLASSES].tolist()}"
            )
        targets = [np.searchsorted(classes, y).astype("int32") for y in targets]
        outputs, choices = len(classes), f"{len(classes)} classes"
        made_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    else:
        if _takes_logits(loss or "mse"):
            raise ValueError(
                f"Argument `loss` must be {_SPARSE!r} or a loss of numbers, "
                f"such as 'mse', where no model is given. Received: {loss!r}"
            )
        targets = [y.reshape(len(y), -1).astype("float32") for y in targets]
        mean, scale = targets[0].mean(0), _scale(targets[0].std(0))
        targets = [(y - mean) / scale for y in targets]
        outputs, made_loss = targets[0].shape[-1], loss or "mse"
        choices = f"{outputs} number(s) to predict, of mean 0 and variance 1"
    inputs = [part[0].astype("float32") for part in (train, test)]
    build_model = _perceptron_builder(inputs[0], outputs, hidden)
    train, test = (
        (x, y, *rest[2:]) for x, y, rest in zip(inputs, targets, (train, test))
    )
    choices = f"{choices}; perceptron"
    return _Plan(build_model, train, test, made_loss, choices)


def _perceptron_builder(x, outputs, hidden):
    units = hidden["units"] or _UNITS
    activation = hidden["activation"] or _ACTIVATION
    flat = x.reshape(len(x), -1)
    mean, variance = flat.mean(0), _scale(flat.std(0)) ** 2

    def build_model():
        return keras.Sequential(
            [
                keras.Input(x.shape[1:]),
                keras.layers.Flatten(),
                keras.layers.Normalization(mean=mean, variance=variance),
                *(
                    keras.layers.Dense(units, activation=activation)
                    for _ in range(hidden["depth"] or _DEPTH)
                ),
                keras.layers.Dense(outputs),
            ]
        )

    return build_model


def _own_model(reference, train, test, loss):
    """The user's model, with a loss of the name that the user gives."""
    build_model = python_files.load_function("model", reference)
    model = build_model()
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"Argument `model`: {reference!r} must return a `keras.Model`. "
            f"Received: {type(model).__name__}"
        )
    examples = train
    if isinstance(train, tf.data.Dataset):
        examples = next(iter(train.take(1)), None)
        if examples is None:
            raise ValueError(
                "Argument `data` must hold at least one batch. "
                "Received an empty dataset"
            )
    x, y, _ = keras.utils.unpack_x_y_sample_weight(
        keras.tree.map_structure(lambda a: a[:_SHOWN_EXAMPLES], examples)
    )
    outputs = _outputs(reference, model, x)
    if loss is None:
        if not model.compiled and not model.losses:
            raise ValueError(
                "Argument `loss` must be given, as the model of "
                f"{reference!r} is not compiled: `mse` for numbers, "
                f"`{_SPARSE}` for labels"
            )
        return _Plan(build_model, train, test, None, "loss of the model")
    made_loss, choices = _named_loss(loss, outputs)
    _check_outputs(loss, outputs, y, train, test)
    return _Plan(build_model, train, test, made_loss, choices)


def _outputs(reference, model, x):
    """What the model makes of some examples."""
    try:
        return model(x, training=False)
    except Exception as error:  # of any layer, the user's own among them
        shapes = keras.tree.map_structure(lambda a: tuple(a.shape), x)
        expected = getattr(model, "input_shape", None) if model.built else None
        takes = f", which takes inputs of shape {expected}" if expected else ""
        raise ValueError(
            f"The model of {reference!r}{takes}, does not fit inputs of shape "
            f"{shapes}: {_first_lines(error)}"
        ) from error


def _named_loss(name, outputs):
    """A loss of Keras, on logits where the outputs are no probabilities."""
    if not _takes_logits(name):
        return name, f"loss {name}"
    is_logits = not all(
        _are_probabilities(name, leaf.numpy())
        for leaf in keras.tree.flatten(outputs)
    )
    if not is_logits:
        return name, f"loss {name} of probabilities"
    make = getattr(keras.losses, name.title().replace("_", ""))
    return make(from_logits=True), f"loss {name} of logits"


def _takes_logits(name):
    try:
        loss = keras.losses.get(name)
    except ValueError as error:
        raise ValueError(
            "Argument `loss` must be the name of a loss of Keras, such as "
            f"'mse' or {_SPARSE!r}. Received: loss={name!r}"
        ) from error
    return name.endswith("_crossentropy") and callable(loss)


def _are_probabilities(name, outputs):
    # Logits may be zero at the start, as probabilities are not.
    if not np.all((outputs > 0.0) & (outputs < 1.0)):
        return False
    return name.startswith("binary") or np.allclose(
        outputs.sum(-1), 1.0, 0, 1e-3
    )


def _check_outputs(name, outputs, y, train, test):
    """Raises an error where Keras would compute a loss that means nothing."""
    if any(keras.tree.is_nested(part) for part in (outputs, y)):
        return  # several outputs: Keras compares them by name
    expected = tuple(outputs.shape[1:])
    received = tuple(y.shape[1:])
    if name == _SPARSE:
        if received not in (expected[:-1], (*expected[:-1], 1)):
            raise ValueError(
                f"The data `y` must be labels of shape {expected[:-1]} for a "
                f"model with outputs of shape {expected} and the loss "
                f"{name!r}. Received: labels of shape {received}"
            )
        for data in (train, test):
            if data is not None and not isinstance(data, tf.data.Dataset):
                _check_labels(data[1], expected[-1])
    elif expected not in (received, (*received, 1)) and received != (
        *expected,
        1,
    ):
        raise ValueError(
            f"The data `y` must have the shape of the model's outputs, "
            f"{expected}. Received: {received}"
        )


def _check_labels(labels, classes):
    labels = np.asarray(labels)
    wrong = (labels < 0) | (labels >= classes) | (labels != np.floor(labels))
    if wrong.any():
        raise ValueError(
            f"The data `y` must be labels from 0 to {classes - 1}, as the "
            f"model has {classes} outputs. "
            f"Received: {labels[wrong].flat[0]}, and labels from "
            f"{labels.min()} to {labels.max()}"
        )


def _are_classes(y):
    if y.ndim != 1 or np.any(y != np.floor(y)):
        return False
    values = np.unique(y)
    # Texts have become 0, 1, 2, …, however many there are.
    is_count = y.dtype.kind in "biu" and values[-1] == len(values) - 1
    return is_count or len(values) <= _MOST_CLASSES


def _scale(deviation):
    """The standard deviation, one for what never changes."""
    return np.where(deviation > 0.0, deviation, 1.0)


def _first_lines(error):
    """An error of Keras without the arguments of all calls on its way."""
    text = str(error).split("\n\nArguments received")[0]
    text = re.sub(r"\{\{.*?\}\}", "", text)  # nodes of TensorFlow's graph
    return " ".join(text.split())[:400]


def _describe(data, plan):
    parts = []
    if isinstance(plan.train, tf.data.Dataset):
        kept = "no held-out data" if plan.test is None else "held-out data"
        parts.append(f"a dataset of batches, {kept}")
    else:
        x = keras.tree.flatten(plan.train)[0]
        held_out = len(keras.tree.flatten(plan.test)[0])
        parts.append(
            f"{len(x)} examples of shape {x.shape[1:]}, {held_out} held out"
        )
    return f"{data}: {'; '.join([*parts, plan.choices])}"
