"""The adding problem: a recurrent network whose gradients can explode."""

import keras
import numpy as np

from keras_l2l import checks
from keras_l2l.tasks.keras_task import KerasTask

_EXAMPLES, _TEST_EXAMPLES = 8192, 1024


def adding_problem(
    length: int = 50,
    units: int = 16,
    batch_size: int = 32,
    recurrent_scale: float = 1.2,
) -> KerasTask:
    """Makes the adding problem for a simple recurrent network.

    A sequence holds random numbers in [0, 1], two of which are marked, one in
    each half; the target is their sum. The error is that of the mean of all
    targets, 1/6, until the network remembers numbers over half of a sequence.
    A recurrent kernel whose singular values are above one lets the gradient
    explode: gradient clipping was made for this.

    Args:
        length: Integer, at least 2. Numbers in a sequence. Defaults to `50`.
        units: Integer. Units of the recurrent layer, with hyperbolic
            tangents. Defaults to `16`.
        batch_size: Integer. Sequences in a batch. Defaults to `32`.
        recurrent_scale: Float > 0. The singular values of the recurrent
            kernel at the start, which is orthogonal but for this factor.
            Defaults to `1.2`.

    Returns:
        A `KerasTask`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> task = keras_l2l.tasks.adding_problem(length=10, units=4)
    >>> task.name
    'adding-10x4'

    Reference:
        [Hochreiter & Schmidhuber, 1997](https://doi.org/10.1162/neco.1997.9.8.1735);
        [Pascanu et al., 2013](https://arxiv.org/abs/1211.5063), for the
        gradients.
    """
    length, units = checks.positive_integers(length=length, units=units)
    checks.positive_numbers(recurrent_scale=recurrent_scale)
    if length < 2:
        raise ValueError(
            "Argument `length` must be at least 2, as two numbers are added. "
            f"Received: length={length}"
        )
    inputs, targets = _sequences(length, _EXAMPLES + _TEST_EXAMPLES)

    def build_model():
        return keras.Sequential(
            [
                keras.Input((length, 2)),
                keras.layers.SimpleRNN(
                    units,
                    recurrent_initializer=keras.initializers.Orthogonal(
                        gain=recurrent_scale
                    ),
                    # No loop: a step of so small a layer is mostly overhead.
                    unroll=True,
                ),
                keras.layers.Dense(1),
            ]
        )

    return KerasTask(
        build_model,
        (inputs[:_EXAMPLES], targets[:_EXAMPLES]),
        "mse",
        batch_size=batch_size,
        validation_data=(inputs[_EXAMPLES:], targets[_EXAMPLES:]),
        name=f"adding-{length}x{units}",
    )


def _sequences(length, count):
    """Arrays `[count, length, 2]` of numbers and marks, and `[count, 1]`."""
    generator = np.random.default_rng(0)
    numbers = generator.uniform(size=(count, length))
    half, rows = length // 2, np.arange(count)
    marks = np.zeros_like(numbers)
    marks[rows, generator.integers(0, half, count)] = 1.0
    marks[rows, generator.integers(half, length, count)] = 1.0
    targets = (numbers * marks).sum(1, keepdims=True)
    inputs = np.stack([numbers, marks], -1)
    return inputs.astype("float32"), targets.astype("float32")
