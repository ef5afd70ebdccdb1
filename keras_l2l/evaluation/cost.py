"""The memory and the time that an update rule takes."""

import dataclasses
import math
import statistics
import time

import keras
import tensorflow as tf

from keras_l2l.rules import UpdateRule

_STATE_SIZES = (1000, 2000)  # coordinates
_COLUMNS = 100
_WARM_UP = 2  # updates: the first one builds the graph
_UPDATES = 10


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of a rule, per coordinate of the optimizee.

    Attributes:
        meta_parameters: Integer, the number of them.
        state_floats: Float. Numbers of hidden state per coordinate.
        state_bytes: Float. Bytes of hidden state per coordinate.
        update_nanoseconds: Float. Time of an update per coordinate: the
            median over some updates of one matrix, on this machine.
        coordinates: Integer. Coordinates of that matrix.
    """

    meta_parameters: int
    state_floats: float
    state_bytes: float
    update_nanoseconds: float
    coordinates: int


def measure_cost(
    rule: UpdateRule, coordinates: int = 100_000, seed: int = 0
) -> Cost:
    """Measures the memory and the time of an update.

    Args:
        rule: An `UpdateRule`.
        coordinates: Integer. Coordinates of the matrix that is updated, a
            hundred columns wide if possible. Defaults to `100_000`.
        seed: Integer. Seeds its random gradients. Defaults to `0`.

    Returns:
        A `Cost`.

    Example:

    >>> measure_cost(rules.Adam()).state_floats
    2.0
    """
    floats, size = state_per_coordinate(rule)
    return Cost(
        meta_parameters=rule.count_params(),
        state_floats=floats,
        state_bytes=size,
        update_nanoseconds=_update_seconds(rule, coordinates, seed)
        / coordinates
        * 1e9,
        coordinates=coordinates,
    )


def state_per_coordinate(rule: UpdateRule) -> tuple[float, float]:
    """Counts the hidden state that each further coordinate adds.

    Args:
        rule: An `UpdateRule`.

    Returns:
        Tuple `(numbers, bytes)` of floats.
    """

    def sizes(count):
        state = rule.named_initial_state([tf.zeros([count])], [""])
        tensors = [tf.convert_to_tensor(t) for t in tf.nest.flatten(state)]
        numbers = [t.shape.num_elements() for t in tensors]
        return sum(numbers), sum(
            number * t.dtype.size for number, t in zip(numbers, tensors)
        )

    small, large = _STATE_SIZES
    fewer, more = sizes(small), sizes(large)
    count = large - small
    return (more[0] - fewer[0]) / count, (more[1] - fewer[1]) / count


def _update_seconds(rule, coordinates, seed):
    columns = math.gcd(coordinates, _COLUMNS)
    shape = [coordinates // columns, columns]
    gradients = [tf.random.stateless_normal(shape, [seed, 0])]
    parameters = [tf.zeros(shape)]
    state = rule.named_initial_state(parameters, [""])

    @tf.function
    def update(state):
        return rule(gradients, parameters, state)

    times = []
    for _ in range(_WARM_UP + _UPDATES):
        begin = time.perf_counter()
        updates, state = update(state)
        keras.ops.convert_to_numpy(updates[0])  # Waits until it is computed.
        times.append(time.perf_counter() - begin)
    return statistics.median(times[_WARM_UP:])
