"""What the guard leaves out, and what it brings back."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_l2l
from keras_l2l import rules


def _optimizer(rate=0.1, **arguments):
    return keras_l2l.L2LOptimizer(rules.SGD(rate), **arguments)


def _apply(optimizer, variable, gradients, graph):
    def step(gradient):
        optimizer.apply([gradient], [variable])

    step = tf.function(step) if graph else step
    values = []
    for gradient in gradients:
        step(tf.constant(gradient, tf.float32))
        values.append(variable.numpy().copy())
    return values


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e9])
def test_a_bad_gradient_is_left_out(graph, bad):
    variable = keras.Variable([1.0, 2.0])
    optimizer = _optimizer()
    good = [0.1, 0.2]
    first, second, third = _apply(
        optimizer, variable, [good, [bad, 0.1], good], graph
    )
    np.testing.assert_array_equal(second, first)
    np.testing.assert_allclose(third, first - 0.1 * np.array(good), rtol=1e-6)
    assert optimizer.interventions == {"skipped": 1, "rewound": 0}


def test_the_hidden_state_does_not_see_it():
    variable = keras.Variable([1.0, 2.0])
    optimizer = keras_l2l.L2LOptimizer(rules.Adam())
    _apply(optimizer, variable, [[0.1, 0.2]], False)
    (moment,) = [v for v in optimizer.variables if "first_moment" in v.path]
    before = moment.numpy()
    _apply(optimizer, variable, [[np.nan, 1.0]], False)
    np.testing.assert_array_equal(moment, before)


@pytest.mark.parametrize("graph", [False, True])
def test_after_three_bad_ones_the_variables_go_back(graph):
    variable = keras.Variable([1.0, 2.0])
    optimizer = _optimizer()
    _apply(optimizer, variable, [[1.0, 1.0]] * 3, graph)
    variable.assign([np.nan, 5.0])  # what an explosion leaves behind
    values = _apply(optimizer, variable, [[np.nan, 1.0]] * 3, graph)
    assert np.isnan(values[1]).any()
    np.testing.assert_array_equal(values[2], [1.0, 2.0])
    assert optimizer.interventions == {"skipped": 3, "rewound": 1}
    # From there on, in steps of a quarter, which grow again.
    (after,) = _apply(optimizer, variable, [[1.0, 1.0]], graph)
    np.testing.assert_allclose(after, [0.975, 1.975], rtol=1e-6)
    *_, before, last = _apply(optimizer, variable, [[1.0, 1.0]] * 200, graph)
    np.testing.assert_allclose(before - last, [0.1, 0.1], rtol=1e-4)


def test_without_a_good_step_there_is_nothing_to_go_back_to():
    variable = keras.Variable([1.0, 2.0])
    optimizer = _optimizer()
    values = _apply(optimizer, variable, [[np.nan, 1.0]] * 5, False)
    np.testing.assert_array_equal(values[-1], [1.0, 2.0])
    assert optimizer.interventions == {"skipped": 5, "rewound": 0}


def _train(guard, learning_rate, poison=None, **compile_arguments):
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(512, 8)).astype("float32")
    y = x @ rng.normal(size=(8, 1)).astype("float32")
    if poison is not None:
        x[poison] = np.inf
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(1),
        ]
    )
    optimizer = _optimizer(learning_rate, guard=guard)
    model.compile(optimizer, "mse", **compile_arguments)
    model.fit(x, y, batch_size=16, epochs=8, verbose=0, shuffle=False)
    good = np.isfinite(x).all(1)
    loss = model.evaluate(x[good], y[good], verbose=0)
    return loss, optimizer.interventions


@pytest.mark.parametrize("jit_compile", [False, True])
def test_fit_survives_a_poisoned_batch(jit_compile):
    loss, interventions = _train(True, 0.01, 100, jit_compile=jit_compile)
    assert loss < 1.0
    assert interventions == {"skipped": 8, "rewound": 0}
    without, _ = _train(False, 0.01, 100, jit_compile=jit_compile)
    # The rule itself takes a gradient that is no number for zero, and an
    # infinite one for a huge one.
    assert not without < loss


def test_fit_survives_steps_that_are_far_too_large():
    loss, interventions = _train(True, 2.0)
    assert np.isfinite(loss)
    assert interventions["rewound"] > 0


def test_a_good_training_is_left_alone():
    assert _train(True, 0.01)[1] == {"skipped": 0, "rewound": 0}
    assert _train(True, 0.01)[0] == _train(False, 0.01)[0]


def test_saved_and_loaded_with_the_model(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(_optimizer(), "mse")
    x = np.full((16, 2), np.nan, "float32")
    model.fit(x, np.ones((16, 1)), batch_size=8, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.interventions == {"skipped": 2, "rewound": 0}
