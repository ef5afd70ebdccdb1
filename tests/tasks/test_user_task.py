import re

import keras
import numpy as np
import pytest

from keras_l2l.tasks.base import Task
from keras_l2l.tasks.user_task import user_task

FILE = """\
import keras
import numpy as np
import tensorflow as tf

x = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
labels = np.arange(20) % 3


def data():
    return x, labels


def numbers():
    return x, x[:, :2]


def wide():
    return np.ones((20, 5)), labels


def many_labels():
    return x, np.arange(20)


def two_columns():
    return x, np.zeros((20, 2))


def no_batches():
    return tf.data.Dataset.from_tensor_slices((x, labels)).take(0).batch(2)


def batches():
    return tf.data.Dataset.from_tensor_slices((x, labels)).batch(4)


def named():
    return {"input": x}, labels


def net(outputs=3, activation=None):
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(outputs, activation=activation),
        ]
    )


def logits():
    return net()


def probabilities():
    return net(activation="softmax")


def compiled():
    model = net()
    model.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    return model


def compiled_otherwise():
    model = net()
    model.compile(loss="mse")
    return model


def no_model():
    return 3


MODEL = net()


def same():
    return MODEL


def one_logit():
    return net(1)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(FILE)
    return tmp_path


def trained_loss(task: Task) -> float:
    return task.test_loss(*task.initial_parameters(0))


def test_a_table_of_classes(here):
    rows = "".join(f"{i},{'ab'[i % 2]}\n" for i in range(20))
    (here / "table.csv").write_text("number,letter\n" + rows)
    task, description = user_task("table.csv")
    assert description == (
        "table.csv: 16 examples of shape (1,), 4 held out; 2 classes; "
        "perceptron"
    )
    assert task.name == "table"
    shapes = [tuple(spec.shape) for spec in task.parameter_specs]
    assert shapes == [(1, 64), (64,), (64, 64), (64,), (64, 2), (2,)]
    assert 0.3 < trained_loss(task) < 2.0  # about log 2, untrained


def test_a_table_of_numbers(here):
    rows = "".join(f"{i},{1000 + 7.5 * i}\n" for i in range(20))
    (here / "table.csv").write_text("number,price\n" + rows)
    task, description = user_task("table.csv", units=3, depth=1)
    assert "1 number(s) to predict, of mean 0 and variance 1" in description
    shapes = [tuple(spec.shape) for spec in task.parameter_specs]
    assert shapes == [(1, 3), (3,), (3, 1), (1,)]
    assert trained_loss(task) < 10.0  # not 1000²


def test_many_texts_are_classes(here):
    letters = "abcdefghijklmnopqrstuvwxyz"
    rows = "".join(f"{i},{letters[i % 26]}\n" for i in range(78))
    (here / "table.csv").write_text("number,letter\n" + rows)
    assert "26 classes" in user_task("table.csv").description


def test_the_loss_says_what_numbers_are(here):
    np.savez("data.npz", x=np.ones((40, 2)), y=np.arange(40) % 2 + 1.0)
    assert "2 classes" in user_task("data.npz").description
    assert "1 number" in user_task("data.npz", loss="mae").description


def test_the_inputs_of_a_perceptron_are_standardized(here):
    x = np.random.default_rng(0).normal(1e4, 1e3, (50, 2, 3))
    x[:, 0, 0] = 7.0  # never changes
    np.savez("data.npz", x=x, y=x.mean((1, 2)))
    task, _ = user_task("data.npz", units=4, activation="tanh")
    assert trained_loss(task) < 10.0


@pytest.mark.parametrize(
    ("name", "kind"), [("logits", "logits"), ("probabilities", "probabilities")]
)
def test_a_crossentropy_suits_the_model(here, name, kind):
    task, description = user_task(
        *("mine.py:data", f"mine.py:{name}"),
        loss="sparse_categorical_crossentropy",
    )
    assert description.endswith(
        f"loss sparse_categorical_crossentropy of {kind}"
    )
    parameters, state = task.initial_parameters(3)
    x, y = task.sample_batch([0, 0])
    outputs = x.numpy() @ parameters[0].numpy() + parameters[1].numpy()
    logs = outputs - np.log(np.exp(outputs).sum(-1, keepdims=True))
    expected = -np.mean(logs[np.arange(len(y)), y])
    loss, _ = task.loss(parameters, state, (x, y))
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_a_compiled_model_has_its_loss(here):
    task, description = user_task("mine.py:batches", "mine.py:compiled")
    assert description.endswith("no held-out data; loss of the model")
    assert task.batch_size == 4


def test_names_of_keras_losses(here):
    # Where a crossentropy takes logits its class is found by its name.
    for name in ("binary", "categorical", "sparse_categorical"):
        made = f"{name}_crossentropy".title().replace("_", "")
        assert hasattr(keras.losses, made)


SPARSE = {"loss": "sparse_categorical_crossentropy"}


@pytest.mark.parametrize(
    ("data", "model", "options", "message"),
    [
        (
            "data",
            "no_model",
            SPARSE,
            "must return a `keras.Model`. Received: i",
        ),
        ("data", "logits", {}, "`loss` must be given, as the model of"),
        ("data", "compiled_otherwise", {}, "fit: Incompatible shapes: [16] vs"),
        ("data", "logits", {"loss": "msee"}, "name of a loss of Keras"),
        ("data", "logits", {"units": 3}, "`units` is one of the perceptron"),
        ("data", "same", SPARSE, "must return a new model each time"),
        (
            *("wide", "logits", SPARSE),
            "takes inputs of shape (None, 4), does not fit inputs of shape "
            "(16, 5)",
        ),
        (
            *("many_labels", "logits", SPARSE),
            "labels from 0 to 2, as the model has 3 outputs. Received: 3",
        ),
        (
            *("two_columns", "logits", SPARSE),
            "must be labels of shape () for a model",
        ),
        (
            *("two_columns", "logits", {"loss": "mse"}),
            "must have the shape of the model's outputs, (3,). Received: (2,)",
        ),
        ("no_batches", "logits", SPARSE, "at least one batch"),
        ("named", None, {}, "`model` must be given for data"),
        ("batches", None, {}, "`model` must be given for data"),
        (
            *("data", None, {"loss": "binary_crossentropy"}),
            "or a loss of numbers",
        ),
        ("data", None, {"loss": "msee"}, "name of a loss of Keras"),
        ("data", None, {"activation": "rellu"}, "rellu"),
        ("numbers", None, SPARSE, "labels `[examples]` of two classes"),
    ],
)
def test_what_does_not_fit(here, data, model, options, message):
    if model is not None:
        model = f"mine.py:{model}"
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        user_task(f"mine.py:{data}", model, **options)
    assert len(str(caught.value)) < 700
