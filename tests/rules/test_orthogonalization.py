"""The orthogonal matrix nearest to a matrix."""

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_l2l.rules.orthogonalization import as_matrix, orthogonalize


def _matrix(rows, columns, condition, seed=0):
    rng = np.random.default_rng(seed)
    left, _, right = np.linalg.svd(
        rng.normal(size=(rows, columns)), full_matrices=False
    )
    values = np.geomspace(1.0, 1.0 / condition, min(rows, columns))
    return (left * values) @ right, left @ right


@pytest.mark.parametrize("scale", [1e-18, 1.0, 1e18])
@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (20, 20), (7, 1)])
def test_is_the_nearest_orthogonal_matrix(shape, scale):
    matrix, expected = _matrix(*shape, condition=20.0)
    received = orthogonalize(ops.cast(scale * matrix, "float32"))
    np.testing.assert_allclose(received, expected, atol=0.02)


def test_small_singular_values_stay_below_one():
    matrix, _ = _matrix(30, 10, condition=1e6)
    received = orthogonalize(ops.cast(matrix, "float32"))
    values = np.linalg.svd(received, compute_uv=False)
    assert values[0] == pytest.approx(1.0, abs=0.02)
    assert values.max() < 1.05
    assert values[-1] < 0.01


def test_wide_matrices_are_orthogonalised_in_blocks():
    matrix, _ = _matrix(50, 20, condition=5.0)
    received = np.array(orthogonalize(ops.cast(matrix, "float32"), 8))
    # Three blocks of 7, the last of which is padded.
    for begin in (0, 7, 14):
        block = received[:, begin : begin + 7]
        np.testing.assert_allclose(
            block.T @ block, np.eye(block.shape[1]), atol=0.03
        )


def test_zero_stays_zero():
    received = orthogonalize(ops.zeros((6, 4)))
    np.testing.assert_array_equal(received, np.zeros((6, 4)))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((6, 4), (6, 4)),
        ((3, 3, 5, 8), (45, 8)),
        ((64, 4, 16), (64, 64)),  # queries: the heads are outputs
        ((4, 16, 64), (64, 64)),  # outputs: the heads are inputs
    ],
)
def test_tensors_as_matrices(shape, expected):
    assert as_matrix(ops.zeros(shape)).shape == expected


def test_matrices_side_by_side_are_orthogonalised_alike():
    matrices = ops.stack(
        [
            ops.cast(10.0**seed * _matrix(50, 20, 5.0, seed)[0], "float32")
            for seed in range(3)
        ]
    )
    for width in (8, 128):
        expected = [orthogonalize(matrix, width) for matrix in matrices]
        np.testing.assert_allclose(
            orthogonalize(matrices, width), expected, atol=1e-5
        )


def test_the_derivative_at_zero_is_bounded():
    matrix = tf.Variable(tf.zeros((6, 4)))
    with tf.GradientTape() as tape:
        received = tf.reduce_sum(orthogonalize(matrix))
    derivative = tape.gradient(received, matrix)
    assert np.abs(derivative).max() < 1e8
