import hypothesis
import numpy as np
import tensorflow as tf
from hypothesis import strategies

from keras_l2l import rules
from keras_l2l.meta_gradients.coordinates import (
    Coordinates,
    Part,
    all_coordinates,
    join_small,
    sample_coordinates,
    slice_part,
)


@hypothesis.given(
    strategies.integers(1, 40),
    strategies.integers(0, 39),
    strategies.integers(1, 4),
    strategies.floats(0.01, 0.99),
    strategies.integers(0, 1000),
)
def test_importance_weights_are_unbiased(
    size, padding, optimizees, share, seed
):
    """Each coordinate's weight is one over its probability to be drawn."""
    padding = min(padding, size - 1)
    seeds = tf.constant([[seed, slot] for slot in range(optimizees)])
    rows, coordinates = sample_coordinates(size, share, seeds, 0, padding)
    weights = coordinates.importance_weights.numpy()
    assert len(np.unique(rows)) == len(rows)
    ids = (
        np.zeros(len(rows), int)
        if coordinates.optimizee_ids is None
        else coordinates.optimizee_ids.numpy()
    )
    np.testing.assert_array_equal(ids, rows.numpy() // size)
    # Padding counts for nothing.
    is_padding = rows.numpy() % size >= size - padding
    np.testing.assert_array_equal(weights[is_padding], 0.0)
    drawn = weights[~is_padding]
    assert len(set(drawn)) == 1
    for optimizee in range(optimizees):
        total = weights[ids == optimizee].sum()
        np.testing.assert_allclose(total, size - padding, rtol=1e-5)


def test_an_optimizee_draws_the_same_in_any_batch():
    def draw(seeds):
        rows, _ = sample_coordinates(40, 0.3, tf.constant(seeds), 2)
        return np.reshape(rows, [len(seeds), -1]) % 40

    together = draw([[3, 0], [3, 1], [3, 2]])
    assert (together[0] != together[1]).any()
    np.testing.assert_array_equal(draw([[3, 2], [3, 0]]), together[[2, 0]])
    np.testing.assert_array_equal(draw([[3, 1]]), together[[1]])


def _part(values, coordinates):
    values = tf.constant(values, tf.float32)
    return Part(
        [tf.stack([values, 2.0 * values])],
        values,
        rules.RuleState([{"moment": values}], {}),
        coordinates,
    )


@hypothesis.given(strategies.integers(1, 30), strategies.integers(1, 10))
def test_slices_cover_each_coordinate_once(size, slices):
    part = _part(np.arange(1.0, size + 1.0), Coordinates())
    counts = np.zeros(size)
    for index in range(slices):
        one = slice_part(part, tf.constant(index), slices)
        np.testing.assert_array_equal(one.gradients[0][1], 2.0 * one.parameter)
        np.testing.assert_array_equal(
            one.state.local[0]["moment"], one.parameter
        )
        np.add.at(
            counts,
            one.parameter.numpy().astype(int) - 1,
            one.coordinates.importance_weights,
        )
    np.testing.assert_array_equal(counts, 1.0)


def test_the_weight_of_a_coordinate_is_that_of_its_optimizee():
    coordinates = all_coordinates(tf.zeros([4]), 2)
    scaled = coordinates.scale(
        tf.constant([1.0, np.nan, 3.0, 4.0]), tf.constant([2.0, 10.0])
    )
    np.testing.assert_array_equal(scaled, [2.0, 0.0, 30.0, 40.0])


def test_small_parts_are_joined():
    parts = [
        _part([1.0, 2.0], Coordinates(None, tf.constant([1.0, 0.0]))),
        _part([3.0, 4.0], Coordinates(None, tf.constant([1.0, 2.0]))),
    ]
    (joined,) = join_small(parts)
    np.testing.assert_array_equal(joined.parameter, [1.0, 2.0, 3.0, 4.0])
    np.testing.assert_array_equal(
        joined.gradients[0][1], 2.0 * joined.parameter
    )
    np.testing.assert_array_equal(
        joined.state.local[0]["moment"], joined.parameter
    )
    np.testing.assert_array_equal(
        joined.coordinates.importance_weights, [1.0, 0.0, 1.0, 2.0]
    )
