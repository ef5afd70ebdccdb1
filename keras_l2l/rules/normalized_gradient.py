"""A gradient and its mean in units of its size, as in Adam."""

from keras import ops

_EPSILON = 1e-12


def initial_moments(count, dtype):
    """The moments before the first step.

    Args:
        count: Integer or scalar integer tensor, `N`.
        dtype: String.

    Returns:
        Dict of the tensors `[N]` `first_moment` and `second_moment`.
    """
    zeros = ops.zeros((count,), dtype)
    return {"first_moment": zeros, "second_moment": zeros}


def normalize(gradient, state, step, beta_1, beta_2):
    """Computes g/√v̂ and m̂/√v̂, which do not depend on the gradient's scale.

    Args:
        gradient: Tensor `[N]`, g.
        state: Dict with the entries of `initial_moments`. Others are ignored.
        step: Scalar, counted from 1.
        beta_1: Float in [0, 1). Decay of the first moment.
        beta_2: Float in [0, 1). Decay of the second moment.

    Returns:
        Tuple `(moments, m̂/√v̂, g/√v̂)`: the dict of the next moments, and two
        tensors `[N]`.

    Reference:
        [Lv et al., 2017](https://arxiv.org/abs/1703.03633)
    """
    first, second = state["first_moment"], state["second_moment"]
    first = first + (gradient - first) * (1.0 - beta_1)
    second = second + (ops.square(gradient) - second) * (1.0 - beta_2)
    scale = 1.0 / (ops.sqrt(second / (1.0 - beta_2**step)) + _EPSILON)
    moments = {"first_moment": first, "second_moment": second}
    return (
        moments,
        first * (scale / (1.0 - beta_1**step)),
        gradient * scale,
    )
