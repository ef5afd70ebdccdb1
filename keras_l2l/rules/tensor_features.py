"""Inputs of the recurrent cell of each tensor. Pure functions."""

import math

from keras import ops

# Features of a tensor, by version of the rule.
COUNTS = {1: 17, 2: 18}
# Steps after which a share of the time is a half.
TIME_SCALES = (10.0, 100.0, 1000.0)
_EPSILON = 1e-12


def tensor_features(gradients, inputs, shapes, sizes, first_sizes, step):
    """Features of K tensors, scaled to order one.

    Args:
        gradients: List of tensors `[k, n]`, one for each shape.
        inputs: List of tensors `[k, 3, n]`, one for each shape: the gradients
            and two momenta of k tensors of n coordinates, over the root of
            the second moment.
        shapes: List of K shapes.
        sizes: Tensor `[K]`, the root mean squares of the tensors.
        first_sizes: Tensor `[K]`, those before the first step.
        step: Scalar, counted from 1.

    Returns:
        Tensor `[K, COUNTS[1]]`.
    """
    products = ops.concatenate([_mean_products(x) for x in inputs])
    gradient, fast, slow = (
        ops.sqrt(products[:, i, i] + _EPSILON) for i in range(3)
    )
    of_tensors = ops.stack(
        [
            # The share of signal in the gradient, at two time scales.
            gradient - 1.0,
            2.0 * fast - 1.0,
            2.0 * slow - 1.0,
            ops.log(fast) / 2.0 + 1.0,
            ops.log(slow) / 2.0 + 1.0,
            products[:, 0, 1] / (gradient * fast),
            products[:, 1, 2] / (fast * slow),
            # Rows of an embedding that are not in the batch.
            ops.concatenate([_share_of_zeros(g) for g in gradients]),
            ops.clip(ops.log(sizes / first_sizes), -3.0, 3.0),
            ops.clip(ops.log(sizes) / 3.0 + 1.0, -3.0, 3.0),
        ],
        axis=-1,
    )
    return ops.concatenate(
        [of_tensors, time_and_shape_features(shapes, step, sizes.dtype)],
        axis=-1,
    )


def time_and_shape_features(shapes, step, dtype):
    """Features of the time and of the shapes of K tensors, of order one.

    Args:
        shapes: List of K shapes.
        step: Scalar, counted from 1.
        dtype: The dtype of the features.

    Returns:
        Tensor `[K, 7]`.
    """
    of_time = ops.stack(
        [
            *(step / (step + scale) for scale in TIME_SCALES),
            ops.log(step) / 5.0 - 1.0,
        ]
    )
    of_shapes = [_of_shape(shape, dtype) for shape in shapes]
    of_time = ops.broadcast_to(of_time, (len(of_shapes), of_time.shape[0]))
    return ops.concatenate([of_time, ops.array(of_shapes, dtype)], axis=-1)


def training_features(signals, alignments, growths, ratios, sizes, first_sizes):
    """Features of the training of K tensors, of order one.

    Args:
        signals: Tensor `[K]`, root mean squares of the momentum over the root
            of the second moment: 1 where gradients are all alike.
        alignments: Tensor `[K]` in [-1, 1], from `step_sizes.alignment`.
        growths: Tensor `[K]`, the logarithms by which steps have grown.
        ratios: Tensor `[K]` in [0, 1], of a gradient to those before it.
        sizes: Tensor `[K]`, the root mean squares of the tensors.
        first_sizes: Tensor `[K]`, those before the first step.

    Returns:
        Tensor `[K, 7]`.
    """
    return ops.stack(
        [
            2.0 * signals - 1.0,
            ops.log(signals + _EPSILON) / 2.0 + 1.0,
            alignments,
            growths / 3.0,
            ratio_features(ratios),
            ops.clip(ops.log(sizes / first_sizes), -3.0, 3.0),
            ops.clip(ops.log(sizes) / 3.0 + 1.0, -3.0, 3.0),
        ],
        axis=-1,
    )


def ratio_features(ratios):
    """How far the gradients of K tensors have vanished, to order one.

    Args:
        ratios: Tensor `[K]` in [0, 1], of a gradient to those before it.

    Returns:
        Tensor `[K]`.
    """
    return ops.log(ops.maximum(ratios, 1e-6)) / 3.0


def _mean_products(inputs):
    """`[k, 3, n]` → `[k, 3, 3]`: means over the coordinates."""
    count = ops.cast(ops.shape(inputs)[-1], inputs.dtype)
    return ops.matmul(inputs, ops.swapaxes(inputs, -2, -1)) / count


def _share_of_zeros(gradient):
    return ops.mean(ops.cast(ops.equal(gradient, 0.0), gradient.dtype), axis=-1)


def _of_shape(shape, dtype):
    shape = shape or (1,)
    return (
        float(len(shape) > 1),
        _scaled_log2(math.prod(shape[:-1]), dtype),
        _scaled_log2(shape[-1], dtype),
    )


def _scaled_log2(count, dtype):
    """Scales a number of rows or columns, known or not, to order one."""
    if isinstance(count, int):
        return math.log2(count) / 5.0 - 1.0
    return ops.log(ops.cast(count, dtype)) / math.log(32.0) - 1.0
