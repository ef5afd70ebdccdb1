"""The contract of every task, and what `KerasTask` promises of a model."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_l2l import tasks
from keras_l2l.tasks import datasets
from keras_l2l.tasks.base import SEED_STREAMS, episode_seed
from keras_l2l.tasks.mixture import _small_classification
from tests import components


@pytest.fixture(scope="module", params=components.task_names())
def task(request):
    return components.TASKS[request.param]()


def _arrays(structure):
    return [np.array(leaf) for leaf in tf.nest.flatten(structure)]


def _same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(_arrays(a), _arrays(b)))


def test_the_same_seed_gives_the_same_numbers(task):
    assert _same(task.initial_parameters(3), task.initial_parameters(3))
    assert _same(task.sample_batch([3, 1]), task.sample_batch([3, 1]))


def test_another_seed_gives_others(task):
    first, _ = task.initial_parameters(3)
    other, _ = task.initial_parameters(4)
    assert not _same(first, other)
    batch = task.sample_batch([3, 1])
    if tf.nest.flatten(batch):
        assert not _same(batch, task.sample_batch([3, 2]))
        assert not _same(batch, task.sample_batch([4, 1]))


def test_loss_and_state(task):
    parameters, state = task.initial_parameters(0)
    loss, next_state = task.loss(parameters, state, task.sample_batch([0, 0]))
    assert loss.shape == ()
    assert np.isfinite(loss)
    assert [(s.shape, s.dtype) for s in state] == [
        (s.shape, s.dtype) for s in next_state
    ]
    assert np.isfinite(task.test_loss(parameters, state))


def test_specs(task):
    parameters, _ = task.initial_parameters(5)
    assert [(p.shape, p.dtype) for p in parameters] == [
        (s.shape, s.dtype) for s in task.parameter_specs
    ]


def test_loss_is_the_same_in_a_graph(task):
    parameters, state = task.initial_parameters(0)
    batch = task.sample_batch([0, 0])
    eager, _ = task.loss(parameters, state, batch)
    graph, _ = tf.function(task.loss)(parameters, state, batch)
    np.testing.assert_allclose(eager, graph, rtol=1e-5)


def test_episode_seeds_do_not_meet():
    seeds = [
        episode_seed(0, stream, index)
        for stream in SEED_STREAMS
        for index in range(500)
    ]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) >= 0
    assert max(seeds) < 2**31
    assert episode_seed(0, "train", 1) != episode_seed(1, "train", 1)


def test_quadratic_is_the_papers_function():
    task = tasks.Quadratic(dimensions=10)
    (theta,), (matrix, target) = task.initial_parameters(1)
    assert matrix.shape == (1, 10, 10)
    loss, _ = task.loss([theta], [matrix, target], ())
    residual = np.array(matrix)[0] @ np.array(theta)[0] - np.array(target)[0]
    np.testing.assert_allclose(loss, (residual**2).sum(), rtol=1e-5)


def test_keras_task_loss_is_what_model_fit_sees():
    """Regularisation, several outputs, dropout and batch norm included."""
    for name in ("KerasTask-convnet", "KerasTask-two-by-two"):
        task = components.TASKS[name]()
        parameters, state = task.initial_parameters(0)
        batch = task.sample_batch([0, 0])
        loss, next_state = task.loss(parameters, state, batch)

        model = task._model
        for variable, value in zip(
            model.trainable_variables + model.non_trainable_variables,
            parameters + state,
        ):
            variable.assign(value)
        x, y = batch
        model.optimizer = keras.optimizers.SGD(0.0)
        logs = model.train_on_batch(x, y, return_dict=True)
        np.testing.assert_allclose(loss, logs["loss"], rtol=1e-5)
        for ours, theirs in zip(next_state, model.non_trainable_variables):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_keras_task_counts_regularisation():
    task = components.TASKS["KerasTask-convnet"]()
    parameters, state = task.initial_parameters(0)
    batch = task.sample_batch([0, 0])
    loss, _ = task.loss(parameters, state, batch)
    with keras.StatelessScope(
        list(zip(task._model.trainable_variables, parameters))
        + list(zip(task._model.non_trainable_variables, state))
    ):
        outputs = task._model(batch[0], training=True)
    bare = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(
        batch[1], outputs
    )
    kernel = np.array(parameters[-2])
    np.testing.assert_allclose(
        loss, float(bare) + 0.01 * (kernel**2).sum(), rtol=1e-5
    )


def test_test_loss_is_model_evaluate():
    inputs = np.random.default_rng(0).normal(size=(2500, 5)).astype("float32")
    labels = np.arange(2500) % 3
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    task = tasks.KerasTask(
        components.mlp,
        (inputs[:10], labels[:10]),
        loss,
        test_data=(inputs, labels),
    )
    parameters, state = task.initial_parameters(1)
    model = components.mlp()
    model.set_weights(parameters)
    model.compile(loss=loss)
    np.testing.assert_allclose(
        task.test_loss(parameters, state),
        model.evaluate(inputs, labels, verbose=0),
        rtol=1e-5,
    )


def test_datasets_finite_and_repeating():
    inputs = np.arange(20, dtype="float32").reshape(10, 2)
    dataset = tf.data.Dataset.from_tensor_slices((inputs, inputs[:, :1]))

    def build_model():
        return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])

    finite = tasks.KerasTask(build_model, dataset.batch(4), "mse")
    assert finite.batch_size == 4
    seen = {
        float(value)
        for step in range(60)
        for value in finite.sample_batch([0, step])[0][:, 0]
    }
    assert seen == set(inputs[:, 0])  # the last, smaller batch included
    repeating = tasks.KerasTask(
        build_model, dataset.batch(5).repeat(), "mse", max_batches=3
    )
    assert repeating.batch_size == 5


def test_sample_weights_count():
    inputs, targets = np.ones((6, 2), "float32"), np.ones((6, 1), "float32")

    def build_model():
        return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])

    def loss(scale):
        task = tasks.KerasTask(
            build_model, (inputs, targets, np.full(6, scale, "float32")), "mse"
        )
        parameters, state = task.initial_parameters(0)
        return float(task.loss(parameters, state, task.sample_batch([0, 0]))[0])

    assert loss(3.0) == pytest.approx(3.0 * loss(1.0))


def test_a_subclassed_model_is_built():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, inputs):
            return self.dense(inputs)

    task = tasks.KerasTask(Model, (np.ones((4, 2)), np.ones((4, 1))), "mse")
    assert [tuple(s.shape) for s in task.parameter_specs] == [(2, 1), (1,)]


def test_building_leaves_the_users_random_numbers_alone():
    task = components.TASKS["KerasTask-mlp"]()
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    expected = random.random(), np.random.random()  # noqa: NPY002
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    task.initial_parameters(7)
    assert (random.random(), np.random.random()) == expected  # noqa: NPY002


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"build_model": 3}, TypeError, "`build_model` must be a function"),
        ({"build_model": lambda: 3}, TypeError, "must return a `keras.Model`"),
        ({"dataset": None}, TypeError, "`dataset` must be a `tf.data.Dataset`"),
        ({"dataset": (np.ones((3, 5)), np.ones(4))}, ValueError, "first axis"),
        (
            {"dataset": (np.ones((0, 5)), np.ones(0))},
            ValueError,
            "at least one example",
        ),
        (
            {"test_data": (np.ones((0, 5)), np.ones(0))},
            ValueError,
            "`test_data` must hold at least one example",
        ),
        ({"batch_size": 0}, ValueError, "`batch_size` must be a positive"),
        (
            {"dataset": tf.data.Dataset.from_tensors(np.ones(3)).take(0)},
            ValueError,
            "at least one batch",
        ),
        (
            {"dataset": tf.data.Dataset.from_tensor_slices(np.ones(3))},
            ValueError,
            r"call `.batch\(size\)`",
        ),
    ],
)
def test_keras_task_refuses(arguments, error, message):
    good = {
        "build_model": components.mlp,
        "dataset": (np.ones((4, 5)), np.zeros(4, int)),
        "loss": "sparse_categorical_crossentropy",
    }
    with pytest.raises(error, match=message):
        tasks.KerasTask(**{**good, **arguments})


def test_ragged_batches_are_refused():
    dataset = tf.data.Dataset.from_generator(
        lambda: (np.ones((2, n)) for n in (3, 4)),
        output_signature=tf.TensorSpec((2, None)),
    )
    with pytest.raises(ValueError, match="pad them to one length"):
        tasks.KerasTask(components.mlp, dataset)


X, Y = np.ones((4, 2), "float32"), np.ones((4, 1), "float32")


def _dense(**arguments):
    return keras.layers.Dense(1, **arguments)


def test_a_model_that_is_returned_again_is_refused():
    model = keras.Sequential([keras.Input((2,)), _dense()])
    head = _dense()
    for build_model in (
        lambda: model,
        lambda: keras.Sequential([keras.Input((2,)), head]),
    ):
        with pytest.raises(ValueError, match="return a new model each time"):
            tasks.KerasTask(build_model, (X, Y), "mse")


def test_a_frozen_layer_may_be_shared():
    frozen = _dense(trainable=False)
    task = tasks.KerasTask(
        lambda: keras.Sequential([keras.Input((2,)), frozen, _dense()]),
        (X, Y),
        "mse",
    )
    assert len(task.parameter_specs) == 2


def test_episodes_that_begin_alike_are_told():
    def build_model(**arguments):
        return keras.Sequential([keras.Input((2,)), _dense(**arguments)])

    glorot = keras.initializers.GlorotUniform(seed=1)
    with pytest.warns(UserWarning, match="begin with the same parameters"):
        tasks.KerasTask(
            lambda: build_model(kernel_initializer=glorot), (X, Y), "mse"
        )
    # Without a warning: there is nothing to draw.
    tasks.KerasTask(
        lambda: build_model(kernel_initializer="zeros"), (X, Y), "mse"
    )


def test_a_train_step_that_is_not_used_is_told():
    class Model(keras.Sequential):
        def train_step(self, data):
            raise AssertionError

    with pytest.warns(UserWarning, match="does not use the `train_step`"):
        tasks.KerasTask(
            lambda: Model([keras.Input((2,)), _dense()]), (X, Y), "mse"
        )


def test_a_changing_architecture_is_refused():
    widths = iter(range(1, 100))

    def build_model():
        return keras.Sequential(
            [keras.Input((5,)), keras.layers.Dense(next(widths))]
        )

    with pytest.raises(ValueError, match="same architecture"):
        tasks.KerasTask(build_model, (np.ones((4, 5)), np.ones((4, 1))), "mse")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"function": "cubic"}, "`function` must be one of"),
        ({"dimensions": 1}, "`dimensions` must be at least 2"),
        ({"condition": 0.5}, "`condition` must be a number not below 1"),
    ],
)
def test_analytic_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        tasks.Analytic(**{"function": "sphere", **arguments})


@pytest.mark.parametrize("argument", ["dimensions", "functions"])
def test_quadratic_refuses(argument):
    with pytest.raises(ValueError, match=f"`{argument}` must be a positive"):
        tasks.Quadratic(**{argument: 0})


@pytest.mark.parametrize(
    ("function", "minimum"),
    [("sphere", 0.0), ("rosenbrock", 1.0), ("styblinski-tang", -2.903534)],
)
def test_an_analytic_function_has_its_minimum_at_zero(function, minimum):
    task = tasks.Analytic(function, dimensions=3, condition=100.0)
    (start,), (matrix, offset) = task.initial_parameters(1)
    # The condition number of the quadratic form is its square.
    assert np.linalg.cond(matrix) == pytest.approx(10.0, rel=1e-3)
    lowest = np.linalg.solve(matrix, minimum - offset).astype("float32")
    assert abs(task.test_loss([lowest], [matrix, offset])) < 1e-4
    for point in (start, lowest + 0.1, lowest - 0.1):
        assert task.test_loss([point], [matrix, offset]) > 1e-4


def test_analytic_kinds_of_the_mixture_need_no_data():
    kinds = ("sphere", "rosenbrock", "styblinski-tang", "logistic")
    made = tasks.mixture(8, kinds=kinds)
    assert [task.name.removesuffix("-noisy") for task in made] == [
        f"mixture-{index}-{kinds[index % 4]}" for index in range(8)
    ]
    assert {isinstance(t, tasks.GradientNoise) for t in made} == {True, False}
    with pytest.raises(ValueError, match="`kinds` must hold some of"):
        tasks.mixture(kinds=("dense", "cubic"))


@pytest.mark.parametrize(
    "kind", ["table", "table-regression", "linear", "categorical"]
)
def test_tables_of_the_mixture_are_small(kind):
    for task in tasks.mixture(4, kinds=[kind]):
        parameters, state = task.initial_parameters(1)
        batch = task.sample_batch([1, 2])
        loss, _ = task.loss(parameters, state, batch)
        assert np.isfinite(loss)
        assert np.isfinite(task.test_loss(parameters, state))
        examples = len(tf.nest.flatten(task._data)[0])
        assert 100 <= examples <= 2000
        assert len(tf.nest.flatten(task._test_data)[0]) == 1000
        if kind == "linear":
            assert len(parameters) == 2
        if kind == "categorical":
            assert batch[0].dtype == tf.int32


def test_the_labels_of_held_out_examples_are_right():
    """With a share of wrong labels, only those of training are wrong."""
    scores = np.eye(4)[np.arange(3000) % 4]

    class AllWrong:
        def choice(self, values):
            return 1.0

        def uniform(self, size=None):
            return np.zeros(size) if size else 0.5

        def integers(self, high, size):
            return np.full(size, 3)

    def build_model():
        return keras.Sequential([keras.Input((1,)), keras.layers.Dense(4)])

    task = _small_classification(
        build_model, np.zeros((3000, 1), "float32"), scores, AllWrong(), "name"
    )
    assert set(task._data[1].numpy()) == {3}
    assert list(task._test_data[1].numpy()[:4]) == [0, 1, 2, 3]


@components.needs_mnist
def test_the_mixture_is_of_many_kinds_and_always_the_same():
    made = tasks.mixture(8, seed=3)
    kinds = {task.name.split("-")[-1] for task in made}
    assert len(kinds) == 6
    for task in made:
        parameters, state = task.initial_parameters(1)
        loss, _ = task.loss(parameters, state, task.sample_batch([1, 2]))
        assert np.isfinite(loss)
    again, other = (tasks.mixture(1, seed=seed)[0] for seed in (3, 4))
    assert again.name == made[0].name
    assert again.parameter_specs == made[0].parameter_specs
    assert other.parameter_specs != made[0].parameter_specs


def test_a_text_and_what_comes_next():
    inputs, targets = datasets.text("sklearn", 16).train
    assert inputs.shape == targets.shape == (len(inputs), 16)
    np.testing.assert_array_equal(inputs[:, 1:], targets[:, :-1])
    assert targets.max() < datasets.characters("sklearn")


def test_images_shrink_by_averaging():
    pixels = np.zeros((1, 6, 6, 1))
    pixels[0, 0, 0] = 8.0
    # A border of one on each side makes sixteen squares of two by two.
    received = datasets._shrink(pixels, 4)[0, :, :, 0]
    assert received.shape == (4, 4)
    assert received[0, 0] == 2.0
    assert received.sum() == 2.0


@components.needs_cifar
def test_cifar_with_some_of_the_labels():
    images, labels = datasets.images("cifar10", 8).train
    task = tasks.cifar_convnet(labels=(7, 2), size=8, units=2, batch_size=500)
    assert task.name == "cifar-7-2-convnet-2"
    batch_images, batch_labels = task.sample_batch(tf.constant([0, 1]))
    assert set(np.unique(batch_labels)) == {0, 1}
    # The first label is 0, the second 1, each with its own images.
    for new, old in enumerate((7, 2)):
        drawn = batch_images[batch_labels == new][0]
        same = np.all(images == drawn, axis=(1, 2, 3))
        assert old in labels[same]
    assert [s.shape[0] for s in task.parameter_specs[:1]] == [5]
    assert tasks.cifar_convnet(size=8, units=2).name == "cifar-10-convnet-2"


@components.needs_cifar
@pytest.mark.parametrize("labels", [(3,), (3, 3), (0, 10), (), 5, "cats"])
def test_cifar_refuses_labels(labels):
    with pytest.raises(ValueError, match="at least two different integers"):
        tasks.cifar_convnet(labels=labels)


@pytest.mark.parametrize("make", [tasks.mnist_mlp, tasks.cifar_convnet])
def test_image_tasks_refuse_sizes(make):
    with pytest.raises(ValueError, match="Received: size=0"):
        make(size=0)


@components.needs_mnist
def test_mnist_on_smaller_images():
    kernel, *_ = tasks.mnist_mlp(units=5, size=7).parameter_specs
    assert tuple(kernel.shape) == (49, 5)
