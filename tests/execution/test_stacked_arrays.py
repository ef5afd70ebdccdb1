import numpy as np
import pytest
import tensorflow as tf

from keras_l2l.execution import stacked_arrays


@pytest.mark.parametrize("count", [1, 5, 16, 48])
def test_reads_what_was_written(count):
    def structure(t):
        numbers = tf.reshape(tf.range(2.0 * count), [2, count]) + t
        return {
            "matrix": numbers,
            "step": tf.cast(t, tf.int32),
            "half": tf.cast(numbers[0], tf.bfloat16),
            "others": [numbers[1], tf.zeros([0]), numbers[0, 0]],
        }

    @tf.function
    def write_and_read():
        like = structure(0.0)
        _, arrays = tf.while_loop(
            lambda t, _: t < 3,
            lambda t, arrays: (
                t + 1,
                stacked_arrays.write(
                    arrays, t, structure(tf.cast(t, tf.float32))
                ),
            ),
            (tf.constant(0), stacked_arrays.arrays(like, 3)),
        )
        return [stacked_arrays.read(arrays, t, like) for t in (2, 0, 2)]

    for t, found in zip((2.0, 0.0, 2.0), write_and_read(), strict=True):
        for one, two in zip(
            tf.nest.flatten(found),
            tf.nest.flatten(structure(t)),
            strict=True,
        ):
            assert one.dtype == two.dtype
            assert one.shape == two.shape
            np.testing.assert_array_equal(one, two)


def test_one_array_for_each_dtype():
    like = [tf.zeros([3]), tf.zeros([2, 2]), tf.zeros([], tf.int32)]
    assert len(stacked_arrays.arrays(like, 4)) == 2
