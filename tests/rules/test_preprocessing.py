import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_l2l.rules import preprocessing


def test_finite_leaves_ordinary_gradients_alone():
    gradient = np.array([0.0, -1.5, 1e17], "float32")
    np.testing.assert_array_equal(preprocessing.finite(gradient), gradient)


def test_finite_replaces_what_is_not():
    gradient = np.array([np.nan, np.inf, -np.inf, 3e38], "float32")
    np.testing.assert_array_equal(
        preprocessing.finite(gradient),
        np.array([0, 1e18, -1e18, 1e18], "float32"),
    )
    assert np.isfinite(ops.square(preprocessing.finite(gradient))).all()


@pytest.mark.parametrize("p", [5.0, 10.0])
def test_log_and_sign_is_the_papers_formula(p):
    rng = np.random.default_rng(0)
    gradient = rng.normal(size=500) * np.exp(rng.uniform(-20, 5, 500))
    large = np.abs(gradient) >= np.exp(-p)
    assert 0 < large.sum() < 500
    with np.errstate(divide="ignore"):
        expected = np.stack(
            [
                np.where(large, np.log(np.abs(gradient)) / p, -1.0),
                np.where(large, np.sign(gradient), np.exp(p) * gradient),
            ],
            -1,
        )
    np.testing.assert_allclose(
        preprocessing.log_and_sign(gradient, p), expected, rtol=1e-6, atol=1e-6
    )


def test_log_and_sign_of_zero():
    np.testing.assert_array_equal(
        preprocessing.log_and_sign(np.zeros(2, "float32")), [[-1, 0], [-1, 0]]
    )


def test_smoothing_changes_the_derivatives_and_no_value():
    gradient = np.array([-1.0, -1e-3, -1e-6, 0.0, 1e-5, 2e-3, 0.5], "float64")
    p, smoothing, cotangent = 10.0, 1e-2, np.array([0.7, -1.3])
    with tf.GradientTape() as tape:
        x = tf.constant(gradient)
        tape.watch(x)
        values = preprocessing.log_and_sign(x, p, smoothing)
        objective = tf.reduce_sum(values * cotangent)
    np.testing.assert_array_equal(
        values, preprocessing.log_and_sign(gradient, p)
    )

    def smoothed(g):
        root = np.sqrt(g**2 + smoothing**2)
        return np.stack([np.log(root) / p, g / root], -1) @ cotangent

    step = 1e-6
    expected = (smoothed(gradient + step) - smoothed(gradient - step)) / (
        2 * step
    )
    np.testing.assert_allclose(
        tape.gradient(objective, x), expected, rtol=1e-5, atol=1e-5
    )
