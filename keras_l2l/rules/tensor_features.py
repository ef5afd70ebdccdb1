"""What a recurrent cell for each tensor sees. Pure functions in `keras.ops`."""

import math

from keras import ops

COUNT = 17
_EPSILON = 1e-12


def tensor_features(inputs, values, sizes, first_sizes, step):
    """What there is to know of tensors, of order one.

    Args:
        inputs: List of `(gradient, fast, slow)`, one for each of K tensors:
            the gradient and two momenta over the root of the second moment.
        values: List of tensors, the parameters.
        sizes: Tensor `[K]`, their root mean squares.
        first_sizes: Tensor `[K]`, those before the first step.
        step: Scalar, counted from 1.

    Returns:
        Tensor `[K, COUNT]`.
    """
    gradients, fasts, slows = zip(*inputs)
    gradient, fast, slow = (
        ops.sqrt(_means(map(ops.square, tensors)) + _EPSILON)
        for tensors in (gradients, fasts, slows)
    )
    of_tensors = ops.stack(
        [
            # The share of signal in the gradient, at two time scales.
            gradient - 1.0,
            2.0 * fast - 1.0,
            2.0 * slow - 1.0,
            ops.log(fast) / 2.0 + 1.0,
            ops.log(slow) / 2.0 + 1.0,
            _means(map(ops.multiply, gradients, fasts)) / (gradient * fast),
            _means(map(ops.multiply, fasts, slows)) / (fast * slow),
            # Rows of an embedding that are not in the batch.
            _means(ops.cast(ops.equal(g, 0.0), g.dtype) for g in gradients),
            ops.clip(ops.log(sizes / first_sizes), -3.0, 3.0),
            ops.clip(ops.log(sizes) / 3.0 + 1.0, -3.0, 3.0),
        ],
        axis=-1,
    )
    of_time = ops.stack(
        [
            *(step / (step + scale) for scale in (10.0, 100.0, 1000.0)),
            ops.log(step) / 5.0 - 1.0,
        ]
    )
    of_shapes = [_of_shape(value) for value in values]
    return ops.concatenate(
        [
            of_tensors,
            ops.broadcast_to(of_time, (len(values), of_time.shape[0])),
            ops.array(of_shapes, sizes.dtype),
        ],
        axis=-1,
    )


def _means(tensors):
    return ops.stack([ops.mean(tensor) for tensor in tensors])


def _of_shape(value):
    shape = ops.shape(value) or (1,)
    return (
        float(len(shape) > 1),
        _scaled_log2(math.prod(shape[:-1]), value.dtype),
        _scaled_log2(shape[-1], value.dtype),
    )


def _scaled_log2(count, dtype):
    """Of order one for a number of rows or columns, known or not."""
    if isinstance(count, int):
        return math.log2(count) / 5.0 - 1.0
    return ops.log(ops.cast(count, dtype)) / math.log(32.0) - 1.0
