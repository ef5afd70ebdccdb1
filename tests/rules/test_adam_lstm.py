"""An LSTM that begins as Adam."""

import keras
import numpy as np
import pytest

from keras_l2l import rules


def _gradients(steps, count=50, seed=0):
    return np.random.default_rng(seed).normal(size=(steps, count))


def _updates(rule, gradients):
    parameter = np.zeros(gradients.shape[1], "float32")
    state, found = rule.initial_state([parameter]), []
    for gradient in gradients.astype("float32"):
        (update,), state = rule([gradient], [parameter], state)
        found.append(np.array(update))
    return np.array(found)


@pytest.mark.parametrize("decay_steps", [None, 20])
def test_untrained_it_is_keras_adam(decay_steps):
    gradients = _gradients(30)
    variable = keras.Variable(np.zeros(50, "float32"))
    rate = 0.01
    if decay_steps:
        rate = keras.optimizers.schedules.CosineDecay(0.01, decay_steps)
    adam = keras.optimizers.Adam(rate, beta_2=0.99, epsilon=1e-12)
    expected = []
    for gradient in gradients.astype("float32"):
        before = variable.numpy()
        adam.apply([keras.ops.convert_to_tensor(gradient)], [variable])
        expected.append(variable.numpy() - before)
    rule = rules.AdamLSTM(0.01, beta_2=0.99, decay_steps=decay_steps, seed=0)
    np.testing.assert_allclose(
        _updates(rule, gradients), expected, rtol=1e-3, atol=1e-6
    )


def _with_skip_weight(row, column, value):
    rule = rules.AdamLSTM(0.01, time_scales=(10,), seed=0)
    (kernel,) = [w for w in rule.weights if w.name == "skip_kernel"]
    weights = np.zeros(kernel.shape, "float32")
    weights[row, column] = value
    kernel.assign(weights)
    return rule


def test_log_factor_of_the_time_shortens_late_steps():
    """With s = -2 tanh(t/10 - 1), for each time one factor of all."""
    gradients = _gradients(40)
    adam = _updates(rules.AdamLSTM(0.01, seed=0), gradients)
    found = _updates(_with_skip_weight(2, 0, -2.0), gradients)
    time = np.arange(1, 41) / 10 - 1
    factors = np.exp(4 * np.tanh(-2 * np.tanh(time) / 4))
    np.testing.assert_allclose(
        found, adam * factors[:, None], rtol=1e-4, atol=1e-8
    )


def test_weight_adds_the_gradient():
    """With w = |g|/√v̂ the first step, where g = m̂, is twice Adam's."""
    gradients = _gradients(1)
    found = _updates(_with_skip_weight(0, 1, 1.0), gradients)
    np.testing.assert_allclose(found, -0.02 * np.sign(gradients), rtol=1e-4)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_updates_do_not_depend_on_the_scale_of_the_gradient(scale):
    rule = rules.AdamLSTM(units=4, output_initializer="ones", seed=0)
    gradients = _gradients(10)
    np.testing.assert_allclose(
        _updates(rule, scale * gradients),
        _updates(rule, gradients),
        rtol=1e-3,
        atol=1e-6,
    )


def test_updates_change_their_sign_with_the_gradients():
    rule = rules.AdamLSTM(units=4, output_initializer="ones", seed=0)
    signs = np.sign(_gradients(1, seed=1))  # one for each coordinate
    gradients = _gradients(10)
    np.testing.assert_array_equal(
        _updates(rule, signs * gradients), signs * _updates(rule, gradients)
    )


def test_output_layer_names_all_that_starts_at_zero():
    rule = rules.AdamLSTM(units=4, seed=0)
    zero = [
        weight.name
        for weight in rule.trainable_variables
        if not np.any(weight.numpy())
    ]
    assert sorted(zero) == sorted(rule.OUTPUT_LAYER)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": 0.0}, "`learning_rate`"),
        ({"beta_1": 1.0}, "`beta_1`"),
        ({"beta_2": -0.1}, "`beta_2`"),
        ({"decay_steps": 0}, "`decay_steps`"),
        ({"time_scales": (10, 0)}, "`time_scales`"),
        ({"time_scales": 10}, "`time_scales` must be a list"),
        ({"p": 5.0}, "no argument `p`"),
        ({"preprocessing": "raw"}, "no argument `preprocessing`"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        rules.AdamLSTM(**arguments)
