"""The orthogonal matrix nearest to a matrix. Pure functions."""

import math

import numpy as np
from keras import ops

# Quintic iterations: three that lift small singular values fast, and two
# that bring all of them to one.
_FAST = (3.4445, -4.775, 2.0315)
_EXACT = (1.875, -1.25, 0.375)
_ITERATIONS = (_FAST, _FAST, _FAST, _EXACT, _EXACT)
_DAMPING = 1e-5
# A matrix whose largest element is below it counts as zero.
_SMALLEST = 1e-30


def as_matrix(tensor):
    """A tensor of rank two or more as a matrix.

    The last axis against all others, as in dense and convolution kernels; of
    rank three whichever cut is more nearly square, as in attention, whose
    kernels have an axis for the heads.

    Args:
        tensor: Tensor of known shape.

    Returns:
        Tensor `[n, m]`.
    """
    return ops.reshape(tensor, matrix_shape(tensor.shape))


def matrix_shape(shape):
    """The shape of a tensor as a matrix; see `as_matrix`.

    Args:
        shape: Tuple of two or more integers.

    Returns:
        Tuple `(n, m)`.
    """
    shape = tuple(shape)
    cut = len(shape) - 1
    if len(shape) == 3:
        cut = min((2, 1), key=lambda k: _imbalance(shape, k))
    return math.prod(shape[:cut]), math.prod(shape[cut:])


def orthogonalize(matrix, block_width=128):
    """The nearest matrix whose shorter side is orthonormal: U Vᵀ of U S Vᵀ.

    By a Newton-Schulz iteration on the Gram matrix of the shorter side, so
    that only two products have the longer one. Singular values far below the
    largest stay below one: what has no size has no direction.

    Args:
        matrix: Float tensor `[..., n, m]`. Its scale does not matter.
        block_width: Integer. If both sides are longer, the shorter one is cut
            into blocks of at most this width, which are orthogonalised
            independently: the cost of a coordinate grows with the width.
            Defaults to `128`.

    Returns:
        Tensor `[..., n, m]`. Zero where the matrix is zero, with a bounded
        derivative.

    Reference:
        [Jordan et al., 2024](https://kellerjordan.github.io/posts/muon/)
    """
    *batch, rows, columns = matrix.shape
    if rows < columns:
        turned = orthogonalize(ops.swapaxes(matrix, -2, -1), block_width)
        return ops.swapaxes(turned, -2, -1)
    blocks = -(-columns // block_width)
    if blocks == 1:
        return _orthogonalize(matrix)
    width = -(-columns // blocks)
    padding = blocks * width - columns
    if padding:
        widths = [(0, 0)] * (len(batch) + 1) + [(0, padding)]
        matrix = ops.pad(matrix, widths)
    parts = ops.reshape(matrix, (*batch, rows, blocks, width))
    parts = _orthogonalize(ops.swapaxes(parts, -3, -2))
    matrix = ops.reshape(
        ops.swapaxes(parts, -3, -2), (*batch, rows, blocks * width)
    )
    return matrix[..., :columns] if padding else matrix


def _orthogonalize(matrix):
    """`[..., n, m]`, n ≥ m."""
    # First to a safe scale: the Gram matrix has its square. A zero matrix is
    # divided by one, so that the derivative is bounded, too.
    largest = ops.max(ops.abs(matrix), axis=(-2, -1), keepdims=True)
    matrix = matrix / ops.where(largest > _SMALLEST, largest, 1.0)
    gram = ops.matmul(ops.swapaxes(matrix, -2, -1), matrix)
    norm = ops.sqrt(
        ops.sum(ops.square(gram), axis=(-2, -1), keepdims=True) + 1e-12
    )
    # left → (gram / norm)^½ and right → its inverse, side by side.
    left = gram / norm + _scaled_identity(_DAMPING, gram)
    right = None  # the identity
    diagonals = {a: _scaled_identity(a, gram) for a, *_ in _ITERATIONS}
    for index, (a, b, c) in enumerate(_ITERATIONS):
        product = left if index == 0 else ops.matmul(right, left)
        square = ops.matmul(product, product)
        factor = diagonals[a] + b * product + c * square
        right = factor if index == 0 else ops.matmul(factor, right)
        if index < len(_ITERATIONS) - 1:
            left = ops.matmul(left, factor)
    return ops.matmul(matrix, right) / ops.sqrt(norm)


def _scaled_identity(factor, matrix):
    """A multiple of the identity, a constant of the graph."""
    scaled = factor * np.eye(matrix.shape[-1])
    return ops.convert_to_tensor(scaled, matrix.dtype)


def _imbalance(shape, cut):
    return abs(math.log(math.prod(shape[:cut]) / math.prod(shape[cut:])))
