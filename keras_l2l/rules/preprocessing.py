"""Preprocessing of gradients to network inputs, in `keras.ops` alone."""

import math

from keras import ops

from keras_l2l.execution.custom_gradients import custom_gradient

# Squares of gradients up to this size are finite in float32, so that no
# second moment, norm or product of two gradients can overflow.
MAX_GRADIENT = 1e18


def finite(gradient):
    """Replaces NaN by 0 and clips to ±1e18, infinities included.

    A non-finite gradient would make the hidden state of its coordinate
    non-finite at that step and at every later one.

    Args:
        gradient: Float tensor of any shape, float32 or wider.

    Returns:
        A finite tensor of the same shape and dtype.
    """
    gradient = ops.where(
        ops.isnan(gradient), ops.zeros_like(gradient), gradient
    )
    return ops.clip(gradient, -MAX_GRADIENT, MAX_GRADIENT)


def log_and_sign(gradient, p=10.0, smoothing=0.0):
    """Returns logarithm and sign of a gradient, the inputs of the 2016 LSTM.

    `(log|g| / p, sign g)` where `|g| >= exp(-p)`, else `(-1, exp(p) g)`.

    The derivatives of both reach `exp(p)` where a gradient crosses zero, and
    explode when training is differentiated. `smoothing` leaves the values
    unchanged and replaces the derivatives by those of
    `(log √(g² + smoothing²) / p, g / √(g² + smoothing²))`.

    Args:
        gradient: Float tensor of shape `[...]`, finite.
        p: Float > 0. Gradients smaller than `exp(-p)` enter linearly.
            Defaults to `10.0`.
        smoothing: Float >= 0. Defaults to `0.0`, the exact derivatives.

    Returns:
        Tensor of shape `[..., 2]`.

    Example:

    >>> inputs = log_and_sign(np.array([1.0, -1.0, 0.0], "float32"))
    >>> np.array(inputs).tolist()
    [[0.0, 1.0], [0.0, -1.0], [-1.0, 0.0]]

    Reference:
        [Andrychowicz et al., 2016](https://arxiv.org/abs/1606.04474),
        appendix A.
    """

    def values(gradient):
        # The lower clip is `exp(-p)` itself: there the logarithm is -1 by
        # definition, and its derivative stays finite at zero gradient.
        magnitude = ops.maximum(ops.abs(gradient), math.exp(-p))
        logarithm = ops.log(magnitude) / p
        sign = ops.clip(gradient * math.exp(p), -1.0, 1.0)
        return ops.stack([logarithm, sign], axis=-1)

    @custom_gradient
    def smoothed(gradient):
        def backward(*cotangents, upstream=None):
            (cotangent,) = cotangents or (upstream,)
            square = ops.square(gradient) + smoothing**2
            logarithm = gradient / (p * square)
            sign = smoothing**2 * ops.rsqrt(square) / square
            return cotangent[..., 0] * logarithm + cotangent[..., 1] * sign

        return values(gradient), backward

    return smoothed(gradient) if smoothing else values(gradient)
