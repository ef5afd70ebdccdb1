"""The meta-loss and its derivative."""

import numpy as np
import pytest
import tensorflow as tf

from keras_l2l.meta_gradients.meta_loss import TRANSFORMS, MetaLoss

LOSSES = tf.constant([[2.0, 8.0], [1.5, 6.0], [1.0, 0.5]])
WEIGHTS = tf.constant([[1.0, 0.5], [2.0, 1.0]])


def test_log_counts_losses_of_all_sizes_alike():
    small = MetaLoss(WEIGHTS, transform="log")(LOSSES)
    large = MetaLoss(WEIGHTS, transform="log")(1e6 * LOSSES)
    np.testing.assert_allclose(small, large, rtol=1e-5)
    values = MetaLoss(WEIGHTS, transform="log").values(LOSSES)
    expected = np.log((LOSSES[1:] / LOSSES[0] + 0.01) / 1.01)
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_the_logarithm_hardly_falls_below_its_floor():
    losses = tf.constant([[1.0], [1e-3], [1e-6]])
    usual = MetaLoss(WEIGHTS, transform="log").values(losses)[:, 0]
    np.testing.assert_allclose(
        usual, np.log([0.011 / 1.01, 0.010001 / 1.01]), rtol=1e-4
    )
    lower = MetaLoss(WEIGHTS, transform="log", log_floor=1e-9)
    np.testing.assert_allclose(
        lower.values(losses)[:, 0], np.log([1e-3, 1e-6]), rtol=1e-3
    )


def test_the_first_loss_is_that_of_the_episode():
    meta_loss = MetaLoss(WEIGHTS, [4.0, np.nan], transform="log")
    np.testing.assert_array_equal(meta_loss.first_loss(LOSSES), [4.0, 8.0])


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_slopes_are_the_derivatives(transform):
    # The first loss is given: what it is, the rule cannot change.
    meta_loss = MetaLoss(WEIGHTS, LOSSES[0], transform)
    with tf.GradientTape() as tape:
        tape.watch(LOSSES)
        total = tf.reduce_sum(2.0 * meta_loss(LOSSES))
    expected = tape.gradient(total, LOSSES)[1:]
    np.testing.assert_allclose(meta_loss.slopes(LOSSES), expected, rtol=1e-5)


@pytest.mark.parametrize("loss", [np.nan, np.inf, 1e4])
def test_one_that_diverged_has_no_slope(loss):
    losses = tf.constant([[2.0, 8.0], [1.5, loss], [1.0, 0.5]])
    meta_loss = MetaLoss(WEIGHTS, divergence_limit=1e2)
    np.testing.assert_array_equal(meta_loss.has_diverged(losses), [False, True])
    np.testing.assert_array_equal(meta_loss.slopes(losses)[:, 1], [0.0, 0.0])
    np.testing.assert_array_equal(meta_loss.slopes(losses)[:, 0], WEIGHTS[:, 0])
