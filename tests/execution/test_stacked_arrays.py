import numpy as np
import pytest
import tensorflow as tf

from keras_l2l.execution.stacked_arrays import (
    StackedArrays,
    count_bytes,
    floating,
)


def _structure(t):
    numbers = tf.reshape(tf.range(10.0), [2, 5]) + t
    return {
        "matrix": numbers,
        "step": tf.cast(t, tf.int32),
        "others": [tf.cast(numbers[0], tf.bfloat16), tf.zeros([0])],
    }


def test_reads_what_was_written():
    @tf.function
    def write_and_read():
        _, arrays = tf.while_loop(
            lambda t, _: t < 3,
            lambda t, arrays: (
                t + 1,
                arrays.write(t, _structure(tf.cast(t, tf.float32))),
            ),
            (tf.constant(0), StackedArrays.like(_structure(0.0), 3)),
        )
        return [arrays.read(t) for t in (2, 0, 2)]

    for t, found in zip((2.0, 0.0, 2.0), write_and_read(), strict=True):
        tf.nest.map_structure(
            np.testing.assert_array_equal, found, _structure(t)
        )


def test_refuses_another_structure():
    arrays = StackedArrays.like(_structure(0.0), 3)
    with pytest.raises(ValueError, match="structure"):
        arrays.write(0, {"matrix": tf.zeros([2, 5])})


def test_leaves_that_have_derivatives_and_their_size():
    structure = _structure(0.0)
    assert [x.dtype for x in floating(structure)] == [
        tf.float32,
        tf.bfloat16,
        tf.float32,
    ]
    assert count_bytes(structure) == 10 * 4 + 4 + 5 * 2
