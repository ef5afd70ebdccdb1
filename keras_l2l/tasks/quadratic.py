"""Random quadratic functions."""

import tensorflow as tf

from keras_l2l import checks
from keras_l2l.tasks.base import Task

_INITIAL_STDDEV = 0.01  # as in the authors' released code


class Quadratic(Task):
    """Random quadratic functions `f(θ) = ‖Wθ - y‖²`, a new one each episode.

    `W` of shape `[dimensions, dimensions]` and `y` have IID standard normal
    entries; θ starts at N(0, 0.01²). There is no data.

    Args:
        dimensions: Integer. The dimensions of θ. Defaults to `10`.
        functions: Integer. Number of functions that an optimizee minimises at
            once; the loss is their mean. The paper trains on 128.
            Defaults to `1`.
        dtype: `"float32"` or `"float64"`. Defaults to `"float32"`.

    Raises:
        ValueError: If a number is not a positive integer.

    Example:

    >>> task = keras_l2l.tasks.Quadratic(dimensions=10, functions=128)
    >>> parameters, state = task.initial_parameters(seed=0)
    >>> parameters[0].shape
    TensorShape([128, 10])

    Reference:
        [Andrychowicz et al., 2016](https://arxiv.org/abs/1606.04474),
        section 3.1.
    """

    def __init__(
        self, dimensions: int = 10, functions: int = 1, dtype: str = "float32"
    ):
        super().__init__(f"quadratic-{dimensions}")
        self.dimensions, self.functions = checks.positive_integers(
            dimensions=dimensions, functions=functions
        )
        self.dtype = dtype

    def initial_parameters(self, seed):
        def normal(index, *shape):
            return tf.random.stateless_normal(
                (self.functions, *shape), [seed, index], dtype=self.dtype
            )

        n = self.dimensions
        start = _INITIAL_STDDEV * normal(0, n)
        return [start], [normal(1, n, n), normal(2, n)]

    def sample_batch(self, seed):
        return ()

    def sample_held_out_batch(self, seed):
        return ()

    def loss(self, parameters, model_state, batch):
        (theta,) = parameters  # [functions, n]
        matrix, target = model_state
        residual = tf.linalg.matvec(matrix, theta) - target
        return tf.reduce_mean(tf.reduce_sum(residual**2, -1)), model_state

    def test_loss(self, parameters, model_state):
        return float(self.loss(parameters, model_state, ())[0])
