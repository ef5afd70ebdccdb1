"""Step sizes of tensors, relative to their own sizes. Pure functions.

A size is a root mean square. Nothing here depends on the scale of the loss.
"""

import math

from keras import ops

from keras_l2l.rules.orthogonalization import matrix_shape

_NOMINAL_TIME = 50.0
_VECTOR_SIZE = 0.1

# A gradient counts for at most twice the mean of those before.
_LARGEST_RATIO = 2.0
_SMALLEST_RATIO = 1e-12
_EPSILON = 1e-12

# Steps grow to at most exp(3), twenty times the nominal ones.
_LARGEST_GROWTH = 3.0


def relative_steps(corrections, step, nominal_step):
    """Steps as shares of the size of a tensor; they fall as 1/√t.

    Args:
        corrections: Tensor `[K]`, from the GRU; zero for the nominal step.
        step: Scalar, counted from 1.
        nominal_step: Float, the first of the nominal steps.

    Returns:
        Tensor `[K]`.
    """
    nominal = nominal_step / ops.sqrt(1.0 + (step - 1.0) / _NOMINAL_TIME)
    return nominal * ops.exp(3.0 * ops.tanh(corrections / 3.0))


def mean_scales(shapes, sizes, first_sizes):
    """The geometric mean of the size now and that at the start.

    Steps relative to the size now let a tensor grow exponentially; relative to
    that at the start they are slow where it must grow.

    Args:
        shapes: List of K shapes.
        sizes: Tensor `[K]`, the sizes now.
        first_sizes: Tensor `[K]`, those before the first step.

    Returns:
        Tensor `[K]`.
    """
    smallest = _smallest_sizes(shapes, sizes.dtype)
    return ops.sqrt(
        ops.maximum(sizes, smallest) * ops.maximum(first_sizes, smallest)
    )


def robust_scales(shapes, sizes, first_sizes):
    """The size at the start for a matrix, and the size now for a vector.

    A matrix does not grow by taking longer steps as it grows, which noise
    alone would bring about. A bias or the kernel of one output may have to
    travel to where the targets are.

    Args:
        shapes: List of K shapes.
        sizes: Tensor `[K]`, the sizes now.
        first_sizes: Tensor `[K]`, those before the first step.

    Returns:
        Tensor `[K]`.
    """
    vectors = ops.array([is_vector(shape) for shape in shapes], "bool")
    scales = ops.where(vectors, sizes, first_sizes)
    return ops.maximum(scales, _smallest_sizes(shapes, sizes.dtype))


def gradient_ratios(mean_squares, means, step):
    """The size of each gradient relative to that of all gradients so far.

    Where the data are fitted, gradients vanish, and so must the steps, which
    are relative to nothing but the size of the tensor. As in AdaGrad with one
    number for a tensor, the size of all gradients is a root mean square. One
    outlier changes it little.

    Args:
        mean_squares: Tensor `[K]`, of the gradients.
        means: Tensor `[K]`, means over the steps so far; zero at first.
        step: Scalar, counted from 1.

    Returns:
        Tuple of tensors `[K]`: the ratios in [0, 1] and the next means.

    Reference:
        [Streeter and McMahan, 2010](https://arxiv.org/abs/1002.4862)
    """
    limit = ops.where(means > 0.0, _LARGEST_RATIO**2 * means, mean_squares)
    means = means + (ops.minimum(mean_squares, limit) - means) / step
    squares = mean_squares / ops.where(means > 0.0, means, 1.0)
    # Zero stays zero, and has a derivative.
    is_zero = ops.equal(mean_squares, 0.0)
    ratios = ops.sqrt(ops.where(is_zero, 1.0, ops.minimum(squares, 1.0)))
    return ops.where(is_zero, 0.0, ratios), means


def powers_of_ratios(ratios, powers):
    """What steps or decays are multiplied by: zero at a zero gradient.

    Args:
        ratios: Tensor `[K]`, from `gradient_ratios`.
        powers: Float or tensor `[K]`, positive.

    Returns:
        Tensor `[K]`.
    """
    # Not `ratios ** powers`, whose derivatives at zero are infinite.
    logs = ops.log(ops.maximum(ratios, _SMALLEST_RATIO))
    return ops.where(ratios > 0.0, ops.exp(powers * logs), 0.0)


def corrected_powers(corrections):
    """Powers from 0.37 to 2.7, nominally one.

    Args:
        corrections: Tensor `[K]`, from the GRU.

    Returns:
        Tensor `[K]`.
    """
    return ops.exp(ops.tanh(corrections))


def alignments(products, sizes):
    """How much gradients go on in the direction of those before.

    The sum of the products of gradient and momentum over the sum of their
    sizes. So coordinates with large gradients, on which the loss depends
    most, count most: it falls below zero where they swing to and fro.

    Args:
        products: Tensor `[K]`, means over the coordinates of the product of
            the gradient and the momentum before it.
        sizes: Tensor `[K]`, means of the absolute values of the products.

    Returns:
        Tensor `[K]` in [-1, 1]; zero at the first step.
    """
    return products / ops.where(sizes > 0.0, sizes, 1.0)


def grown(growths, alignments, ratios, rates, thresholds):
    """How far steps have grown, while the gradients kept their direction.

    A step that is too short shows in gradients that stay alike, and grows by
    a share with each of them; one that is too long shows in gradients that
    turn round, and shrinks. As in Rprop, with one number for a tensor; but
    never below the nominal step: minibatches turn round by chance, too. Where
    the gradient has vanished, the data are fitted, and nothing grows.

    Args:
        growths: Tensor `[K]`, logarithms of the factors so far.
        alignments: Tensor `[K]` in [-1, 1].
        ratios: Tensor `[K]` in [0, 1], from `gradient_ratios`.
        rates: Tensor `[K]`, the growth a step at an alignment of one.
        thresholds: Tensor `[K]`, alignments at which nothing grows.

    Returns:
        Tensor `[K]` in [0, 3].

    Reference:
        - [Riedmiller and Braun, 1993](https://doi.org/10.1109/ICNN.1993.298623)
        - [Baydin et al., 2018](https://arxiv.org/abs/1703.04782), the product
          of successive gradients as the derivative by the step.
    """
    weights = ops.where(alignments > 0.0, ratios, 1.0)
    growths = growths + rates * (weights * alignments - thresholds)
    return ops.clip(growths, 0.0, _LARGEST_GROWTH)


def row_sizes(tensor):
    """Root mean square of each row, never zero: `[k, n]` → `[k, 1]`."""
    return sizes(ops.mean(ops.square(tensor), axis=-1, keepdims=True))


def row_divisors(tensor):
    """As `row_sizes`; one for a row of zeros, so derivatives are bounded."""
    return divisors(ops.mean(ops.square(tensor), axis=-1, keepdims=True))


def sizes(mean_squares):
    """Root mean squares that are never zero."""
    return ops.sqrt(mean_squares + _EPSILON**2)


def divisors(mean_squares):
    """As `sizes`; one where the square is zero, so derivatives are bounded."""
    is_positive = mean_squares > 0.0
    return ops.sqrt(ops.where(is_positive, mean_squares + _EPSILON**2, 1.0))


def is_vector(shape):
    """Whether a tensor has one row or one column, as a matrix.

    Args:
        shape: Tuple of integers.

    Returns:
        A boolean.
    """
    return len(shape) < 2 or min(matrix_shape(shape)) == 1


def _smallest_sizes(shapes, dtype):
    """Sizes that tensors which start at zero are taken to have."""
    return ops.array([_smallest_size(shape) for shape in shapes], dtype)


def _smallest_size(shape):
    if len(shape) < 2:
        return _VECTOR_SIZE
    rows, columns = matrix_shape(shape)
    return 0.5 * math.sqrt(2.0 / (rows + columns))
