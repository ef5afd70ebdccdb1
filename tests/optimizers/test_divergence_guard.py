"""What the guard leaves out and clips, and when it moves variables back."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_l2l
from keras_l2l import rules
from keras_l2l.optimizers import divergence_guard
from tests.small_fit import built

pytestmark = pytest.mark.filterwarnings("ignore:The guard of")

NAN = [np.nan, np.nan]
PATIENCE = divergence_guard._PATIENCE


def _optimizer(rate=0.1, **arguments):
    return keras_l2l.L2LOptimizer(rules.SGD(rate), **arguments)


def _apply(optimizer, variable, gradients, graph=False):
    """The values of a variable after each of some gradients."""

    def step(gradient):
        optimizer.apply([gradient], [variable])

    step = tf.function(step) if graph else step
    values = []
    for gradient in gradients:
        step(tf.constant(gradient, tf.float32))
        values.append(variable.numpy().copy())
    return values


def _variables():
    return [keras.Variable([1.0, 2.0]), keras.Variable([3.0, 4.0])]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_step_in_a_graph_is_one_without(jit_compile):
    """All that a guard does, with TensorFlow's conditions and without."""
    gradients = [[0.1, 0.2], NAN, [1e9, 0.0], [0.1, 0.2], *[NAN] * 20]
    gradients += [[0.1, 0.2], NAN, [0.1, 0.2]]

    def values_after(graph):
        variable, optimizer = keras.Variable([1.0, 2.0]), _optimizer()
        optimizer.build([variable])

        def step(gradient):
            optimizer.apply([gradient], [variable])

        if graph:
            step = tf.function(step, jit_compile=jit_compile)
        for gradient in gradients:
            step(tf.constant(gradient, tf.float32))
        return [v.numpy() for v in (variable, *optimizer.variables)]

    for one, two in zip(values_after(False), values_after(True)):
        np.testing.assert_allclose(one, two, rtol=1e-6)


def test_scalars_matrices_and_other_dtypes():
    """Variables of one shape are looked at side by side, others are not."""
    variables = [
        keras.Variable(5.0),
        keras.Variable([[1.0, 2.0], [3.0, 4.0]]),
        keras.Variable(np.array([1.0, 1e-200]), dtype="float64"),
        *_variables(),
    ]
    optimizer = _optimizer()
    before = [v.numpy() for v in variables]
    optimizer.apply([tf.ones(v.shape, v.dtype) for v in variables], variables)
    for snapshot, value in zip(optimizer._guard.value.snapshots, before):
        np.testing.assert_array_equal(snapshot, value)
    # They diverge; all but the last come back, each to its own value.
    lost = [v.numpy() for v in variables]
    for variable in variables[:-1]:
        variable.assign(ops.full(variable.shape, np.nan, variable.dtype))
    gradients = [tf.fill(v.shape, tf.cast(np.nan, v.dtype)) for v in variables]
    gradients[-1] = tf.zeros(2)
    optimizer.apply(gradients, variables)
    for variable, value in zip(variables, [*before[:-1], lost[-1]]):
        np.testing.assert_array_equal(variable, value)
    assert optimizer.interventions == {"skipped": 1, "rewound": 1}


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_a_gradient_that_is_not_finite_is_left_out(bad):
    variable, optimizer = keras.Variable([1.0, 2.0]), _optimizer()
    good = [0.1, 0.2]
    first, second, third = _apply(optimizer, variable, [good, [bad, 1], good])
    np.testing.assert_array_equal(second, first)
    np.testing.assert_allclose(third, first - 0.1 * np.array(good), rtol=1e-6)
    assert optimizer.interventions == {"skipped": 1, "rewound": 0}


def test_an_explosion_is_clipped_to_the_running_maximum():
    variable, optimizer = keras.Variable([1.0, 2.0]), _optimizer(1.0)
    _, before, after = _apply(
        optimizer, variable, [[3.0, 4.0], [0.3, 0.4], [1e9, 0.0]]
    )
    np.testing.assert_allclose(before - after, [0.95 * 5.0, 0.0], rtol=1e-6)
    assert optimizer.interventions == {"skipped": 1, "rewound": 0}


def test_variables_whose_gradients_explode_keep_their_proportions():
    (one, two), optimizer = _variables(), _optimizer(1.0)
    optimizer.apply(
        [tf.constant([1.0, 0.0]), tf.constant([0.1, 0.0])], [one, two]
    )
    before = [one.numpy(), two.numpy()]
    optimizer.apply(
        [tf.constant([1e6, 0.0]), tf.constant([1e5, 0.0])], [one, two]
    )
    np.testing.assert_allclose(before[0] - one.numpy(), [1.0, 0.0], rtol=1e-6)
    np.testing.assert_allclose(before[1] - two.numpy(), [0.1, 0.0], rtol=1e-5)


def test_a_step_that_clipping_does_not_shorten_is_short(monkeypatch):
    steps = []
    for share in (1.0, divergence_guard._SHORT_STEP):
        monkeypatch.setattr(divergence_guard, "_SHORT_STEP", share)
        variable = keras.Variable([1.0, 2.0])
        _, before, after = _apply(
            keras_l2l.L2LOptimizer(),
            variable,
            [[3.0, 4.0], [0.3, 0.4], [1e9, 0.0]],
        )
        steps.append(after - before)
    assert np.abs(steps[0]).max() > 0.0
    np.testing.assert_allclose(
        steps[1], divergence_guard._SHORT_STEP * steps[0], rtol=1e-3
    )


def test_the_hidden_state_does_not_see_what_is_left_out():
    variable = keras.Variable([1.0, 2.0])
    optimizer = keras_l2l.L2LOptimizer(rules.Adam())
    _apply(optimizer, variable, [[0.1, 0.2]])
    (moment,) = [v for v in optimizer.variables if "first_moment" in v.path]
    before = moment.numpy()
    _apply(optimizer, variable, [NAN])
    np.testing.assert_array_equal(moment, before)


def test_a_fault_of_one_variable_is_none_of_the_others():
    (one, two), optimizer = _variables(), _optimizer(1.0)
    optimizer.apply(
        [tf.constant([np.nan, 0.5]), tf.constant([1.0, 1.0])], [one, two]
    )
    # What is finite of a gradient is used, as without a guard.
    np.testing.assert_array_equal(one.numpy(), [1.0, 1.5])
    np.testing.assert_array_equal(two.numpy(), [2.0, 3.0])
    assert optimizer.interventions == {"skipped": 1, "rewound": 0}


def test_where_nothing_else_comes_parts_are_used():
    variable, optimizer = keras.Variable([1.0, 200.0]), _optimizer(1.0)
    values = _apply(optimizer, variable, [[np.nan, 1.0]] * 40)
    assert values[PATIENCE][1] == 200.0
    np.testing.assert_array_equal(values[-1], [1.0, 200.0 - (39 - PATIENCE)])


# Back to a snapshot.


@pytest.mark.parametrize("use_ema", [False, True])
def test_variables_that_are_not_finite_go_back_at_once(use_ema):
    variable = keras.Variable([1.0, 2.0])
    optimizer = _optimizer(use_ema=use_ema)
    _apply(optimizer, variable, [[1.0, 1.0]] * 3)
    variable.assign([np.nan, 5.0])  # what an explosion leaves behind
    (value,) = _apply(optimizer, variable, [NAN])
    np.testing.assert_array_equal(value, [1.0, 2.0])
    assert optimizer.interventions == {"skipped": 1, "rewound": 1}
    if use_ema:
        optimizer.finalize_variable_values([variable])
        np.testing.assert_array_equal(variable.numpy(), [1.0, 2.0])
    # From there on, in steps of a quarter, which grow again.
    (after,) = _apply(optimizer, variable, [[1.0, 1.0]])
    np.testing.assert_allclose(after, [0.975, 1.975], rtol=1e-6)
    *_, before, last = _apply(optimizer, variable, [[1.0, 1.0]] * 200, True)
    np.testing.assert_allclose(before - last, [0.1, 0.1], rtol=1e-4)


def _tried(is_bad, optimizer=None):
    """Steps on a variable whose gradient is NaN above 100, or by the data."""
    variable = keras.Variable([1.0])
    optimizer = optimizer or _optimizer()
    values = []
    for step, bad in enumerate(is_bad):
        if step == 1:
            variable.assign([200.0])
        is_bad_here = variable.numpy()[0] > 100.0 if bad is None else bad
        gradient = np.nan if is_bad_here else 0.0
        optimizer.apply([tf.constant([gradient])], [variable])
        values.append(float(variable.numpy()[0]))
    return values, optimizer


def test_variables_that_are_to_blame_go_back():
    values, optimizer = _tried([None] * (PATIENCE + 5))
    # After a trial at the snapshot, and one more at the variables.
    assert values[PATIENCE - 1] == 200.0
    assert values[PATIENCE:] == [1.0, 200.0, 1.0, 1.0, 1.0]
    assert optimizer.interventions["rewound"] == 1


@pytest.mark.parametrize("count", [*range(1, 40, 3), 16, 17, 18, 100])
def test_data_that_are_to_blame_move_nothing(count):
    values, optimizer = _tried([False, *[True] * count, False, False, False])
    assert values[-1] == 200.0
    assert optimizer.interventions["rewound"] == 0
    assert float(optimizer._guard.value.scale.numpy()) == 1.0


def test_after_a_rewind_the_average_begins_anew():
    optimizer = _optimizer(use_ema=True, ema_momentum=0.5)
    _tried([None] * (PATIENCE + 3), optimizer)
    (average,) = optimizer._model_variables_moving_average
    assert average.numpy() == 1.0


def test_a_variable_without_a_snapshot_stays():
    """One that was frozen when the snapshot of the others was taken."""
    (one, two), optimizer = _variables(), _optimizer()
    optimizer.build([one, two])
    for _ in range(5):
        optimizer.apply([tf.constant([0.1, 0.1])], [one])
    bad = [tf.constant(NAN), tf.constant(NAN)]
    for _ in range(3 * PATIENCE):
        optimizer.apply(bad, [one, two])
    np.testing.assert_array_equal(two.numpy(), [3.0, 4.0])
    # Once it is trained, it has one.
    good = [tf.constant([0.01, 0.01])] * 2
    for _ in range(3):
        optimizer.apply(good, [one, two])
    two.assign(NAN)
    optimizer.apply(bad, [one, two])
    np.testing.assert_allclose(two.numpy(), [3.0, 4.0], atol=0.01)


def test_no_snapshot_is_taken_while_gradients_grow():
    variable, optimizer = keras.Variable([1.0, 2.0]), _optimizer(1e-9)
    growing = [[1.1**i, 0.0] for i in range(120)]
    _apply(optimizer, variable, growing, graph=True)
    assert int(optimizer._guard.value.age.numpy()) == 120
    _apply(optimizer, variable, [[1.0, 0.0]])
    assert int(optimizer._guard.value.age.numpy()) == 1


# Whole trainings.


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
    built(model).fit(x, y, batch_size=16, epochs=8, verbose=0, shuffle=False)
    good = np.isfinite(x).all(1)
    loss = model.evaluate(x[good], y[good], verbose=0)
    return loss, optimizer.interventions


@pytest.mark.slow
def test_fit_survives_a_poisoned_batch():
    loss, interventions = _train(True, 0.01, 100, jit_compile=True)
    assert loss < 1.0
    assert interventions == {"skipped": 8, "rewound": 0}


def test_fit_survives_steps_that_are_far_too_large():
    loss, interventions = _train(True, 2.0)
    assert loss < 10.0
    assert interventions["rewound"] > 0


# The report, and the state in files.


def _fit(optimizer, value, **settings):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(optimizer, "mse", **settings)
    built(model)
    x = np.full((16, 2), value, "float32")
    model.fit(x, np.ones((16, 1)), batch_size=8, epochs=2, verbose=0)
    return model


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_one_warning_says_what_happened(run_eagerly):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = _fit(_optimizer(), np.nan, run_eagerly=run_eagerly)
        model.fit(np.full((8, 2), np.nan), np.ones((8, 1)), verbose=0)
    messages = [str(w.message) for w in caught if "guard" in str(w.message)]
    assert len(messages) == 1
    assert f"{1 if run_eagerly else 4} steps" in messages[0]
    assert "BatchNormalization" in messages[0]


def test_a_good_training_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _fit(_optimizer(0.01), 1.0)


def test_saved_and_loaded_with_the_model(tmp_path):
    model = _fit(_optimizer(), np.nan)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.interventions == {"skipped": 4, "rewound": 0}
    with warnings.catch_warnings():
        # They have been reported.
        warnings.simplefilter("error")
        loaded.fit(np.ones((8, 2)), np.ones((8, 1)), verbose=0)
    for one, two in zip(
        model.optimizer.variables, loaded.optimizer.variables, strict=True
    ):
        assert one.shape == two.shape


def test_a_trial_goes_on_after_loading(tmp_path):
    model = _fit(_optimizer(), 1.0)
    bad = (
        np.full((8 * (PATIENCE + 1), 2), np.nan),
        np.ones((8 * (PATIENCE + 1), 1)),
    )
    straight, resumed = model, tmp_path / "model.keras"
    straight.fit(*(a[: 8 * PATIENCE] for a in bad), batch_size=8, verbose=0)
    straight.save(resumed)
    resumed = keras.models.load_model(resumed)
    assert int(resumed.optimizer._guard.value.streak.numpy()) == -1
    for each in (straight, resumed):
        each.fit(*(a[:8] for a in bad), batch_size=8, verbose=0)
    for one, two in zip(
        [*straight.variables, *straight.optimizer.variables],
        [*resumed.variables, *resumed.optimizer.variables],
        strict=True,
    ):
        np.testing.assert_array_equal(one.numpy(), two.numpy())


@pytest.mark.parametrize(
    "jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_moving_statistics_are_beyond_an_optimizer(jit_compile):
    """What `docs/faults.md` says of BatchNormalization."""
    model = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(1),
        ]
    )
    model.compile(_optimizer(0.01), "mse", jit_compile=jit_compile)
    built(model)
    x, y = np.random.default_rng(0).normal(size=(32, 2)), np.ones((32, 1))
    bad = x.copy()
    bad[:8] = np.nan
    history = model.fit(
        bad, y, batch_size=8, epochs=2, shuffle=False, verbose=0
    )
    assert all(np.isfinite(v.numpy()).all() for v in model.trainable_variables)
    assert history is not None
    assert np.isnan(model.evaluate(x, y, verbose=0))
    # As the documentation says, they can be taken anew.
    layer = model.layers[0]
    layer.moving_mean.assign(np.zeros(2))
    layer.moving_variance.assign(np.ones(2))
    for _ in range(3):
        model(x, training=True)
    assert np.isfinite(model.evaluate(x, y, verbose=0))
