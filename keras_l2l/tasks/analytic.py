"""Test functions of optimization as tasks."""

import numpy as np
import tensorflow as tf

from keras_l2l import checks
from keras_l2l.tasks.base import Task

# The minimum of the Styblinski-Tang function, in each dimension.
_STYBLINSKI_TANG_MINIMUM = -39.16616570377142


class Analytic(Task):
    """A test function of optimization, rotated and shifted in each episode.

    The loss is `f(D Q θ + b)` with a random rotation `Q`, a random `b`, and a
    diagonal `D` that scales the axes unequally; θ starts at N(0, 1). The
    minimum of each function is zero. There is no data.

    Args:
        function: `"sphere"`, the mean of squares; `"rosenbrock"`, a bent
            valley; or `"styblinski-tang"`, with many local minima.
        dimensions: Integer, at least 2. Defaults to `10`.
        condition: Float >= 1. The condition number of D², and so of the
            Hessian of the sphere. Defaults to `1.0`.
        name: String. Defaults to the function and the dimensions, such as
            `"sphere-10"`.
        dtype: `"float32"` or `"float64"`. Defaults to `"float32"`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> task = keras_l2l.tasks.Analytic("rosenbrock", 4, condition=100.0)
    >>> parameters, state = task.initial_parameters(seed=0)
    >>> parameters[0].shape
    TensorShape([4])
    """

    def __init__(
        self,
        function: str,
        dimensions: int = 10,
        condition: float = 1.0,
        name: str | None = None,
        dtype: str = "float32",
    ):
        if function not in _FUNCTIONS:
            raise ValueError(
                f"Argument `function` must be one of {tuple(_FUNCTIONS)}. "
                f"Received: function={function!r}"
            )
        self.dimensions = checks.positive_integer(dimensions=dimensions)
        if dimensions < 2:
            raise ValueError(
                "Argument `dimensions` must be at least 2. "
                f"Received: dimensions={dimensions}"
            )
        if not 1.0 <= condition < float("inf"):
            raise ValueError(
                "Argument `condition` must be a number not below 1. "
                f"Received: condition={condition!r}"
            )
        super().__init__(name or f"{function}-{dimensions}")
        self.function = function
        self.condition = float(condition)
        self.dtype = dtype

    def initial_parameters(self, seed):
        generator = np.random.default_rng(seed)
        n = self.dimensions
        rotation, _ = np.linalg.qr(generator.normal(size=(n, n)))
        stretch = np.geomspace(1.0, self.condition**-0.5, n)
        start, offset = generator.normal(size=(2, n))
        return [tf.constant(start, self.dtype)], [
            tf.constant(stretch[:, None] * rotation, self.dtype),
            tf.constant(offset, self.dtype),
        ]

    def sample_batch(self, seed):
        return ()

    def sample_held_out_batch(self, seed):
        return ()

    def loss(self, parameters, model_state, batch):
        matrix, offset = model_state
        point = tf.linalg.matvec(matrix, parameters[0]) + offset
        return _FUNCTIONS[self.function](point), model_state

    def test_loss(self, parameters, model_state):
        return float(self.loss(parameters, model_state, ())[0])


def _sphere(x):
    return tf.reduce_mean(x**2)


def _rosenbrock(x):
    valley = 100.0 * (x[1:] - x[:-1] ** 2) ** 2
    return tf.reduce_mean(valley + (1.0 - x[:-1]) ** 2)


def _styblinski_tang(x):
    values = (x**4 - 16.0 * x**2 + 5.0 * x) / 2.0
    return tf.reduce_mean(values) - _STYBLINSKI_TANG_MINIMUM


_FUNCTIONS = {
    "sphere": _sphere,
    "rosenbrock": _rosenbrock,
    "styblinski-tang": _styblinski_tang,
}
