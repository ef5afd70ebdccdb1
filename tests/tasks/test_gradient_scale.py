"""Losses of random scale and bursts of gradients."""

import numpy as np
import pytest
import tensorflow as tf

from keras_l2l import tasks


def _gradient(task, seed=3, step=0):
    """The loss and the gradient on a batch of the first parameters."""
    parameters, state = task.initial_parameters(seed)
    batch = task.sample_batch(tf.constant([seed, step]))
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        loss, _ = task.loss(parameters, state, batch)
    return float(loss), tape.gradient(loss, parameters)[0].numpy()


@pytest.mark.slow
def test_loss_scaling_multiplies_loss_and_gradient_but_not_held_out_loss():
    task = tasks.Quadratic(dimensions=3)
    scaled = tasks.LossScaling(task, low=1e-2, high=1e2)
    factors = []
    for seed in range(200):
        loss, gradient = _gradient(task, seed)
        scaled_loss, scaled_gradient = _gradient(scaled, seed)
        factors.append(scaled_loss / loss)
        np.testing.assert_allclose(
            scaled_gradient, factors[-1] * gradient, rtol=1e-4
        )
        parameters, state = scaled.initial_parameters(seed)
        assert scaled.test_loss(parameters, state) == pytest.approx(loss)
        held_out = scaled.held_out_loss(parameters, state, ())
        assert float(held_out) == pytest.approx(loss)
    # Four decades, and as many factors in each of them.
    assert 0.0099 < min(factors) < 0.02
    assert 50.0 < max(factors) < 101.0
    assert abs(np.mean(np.log10(factors))) < 0.2


def test_bursts_multiply_some_gradients_of_all_coordinates_alone():
    task = tasks.Quadratic(dimensions=3)
    bursts = tasks.GradientBursts(task, probability=0.25, factor=100.0)
    loss, gradient = _gradient(task)
    count = 0
    for step in range(200):
        same_loss, scaled = _gradient(bursts, step=step)
        assert same_loss == pytest.approx(loss)
        is_burst = abs(scaled[0, 0]) > 2 * abs(gradient[0, 0])
        factor = 100.0 if is_burst else 1.0
        np.testing.assert_allclose(scaled, factor * gradient, rtol=1e-4)
        count += is_burst
    assert 30 <= count <= 70


def test_bursts_have_the_curvature_of_their_gradients():
    bursts = tasks.GradientBursts(tasks.Quadratic(dimensions=2), 0.0, 9.0)
    parameters, state = bursts.initial_parameters(0)

    def curvature(factor):
        with tf.GradientTape() as outer:
            outer.watch(parameters)
            with tf.GradientTape() as tape:
                tape.watch(parameters)
                loss, _ = bursts.loss(
                    parameters, state, ((), tf.constant(factor))
                )
            (gradient,) = tape.gradient(loss, parameters)
        return outer.jacobian(gradient, parameters[0]).numpy()

    np.testing.assert_allclose(curvature(9.0), 9.0 * curvature(1.0), rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: tasks.LossScaling(t, low=2.0, high=1.0), "`high`"),
        (lambda t: tasks.GradientBursts(t, probability=1.0), "`probability`"),
        (lambda t: tasks.GradientBursts(t, factor=-1.0), "`factor`"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make(tasks.Quadratic())
