"""The workload of the benchmarks, and how functions are timed."""

import functools
import statistics
import time

import keras
import numpy as np
from keras import ops

from keras_l2l import rules, tasks
from keras_l2l.rules import preprocessing

PIXELS, CLASSES, BATCH_SIZE = 784, 10, 128
EXAMPLES = 1000
UNROLL = 20


def make_task(hidden=(20,)):
    """The shapes of MNIST without its data, which change no cost.

    Args:
        hidden: Sequence of integers, the units of the hidden layers. The
            default is the paper's optimizee, of 15,910 coordinates.

    Returns:
        A `KerasTask`.
    """
    return tasks.KerasTask(
        functools.partial(build_model, hidden),
        make_data(),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        batch_size=BATCH_SIZE,
    )


def make_data():
    """Random images `[M, 784]` and labels `[M]`."""
    rng = np.random.default_rng(0)
    images = rng.random((EXAMPLES, PIXELS), "float32")
    return images, rng.integers(0, CLASSES, EXAMPLES)


def build_model(hidden=(20,)):
    """A multilayer perceptron with sigmoids."""
    return keras.Sequential(
        [
            keras.Input((PIXELS,)),
            *(keras.layers.Dense(u, activation="sigmoid") for u in hidden),
            keras.layers.Dense(CLASSES),
        ]
    )


def make_rule():
    """The rule of the paper, not trained."""
    return rules.CoordinatewiseLSTM(units=20, layers=2, seed=0)


class PlainLSTM(rules.CoordinatewiseLSTM):
    """The same rule as a textbook has it, differentiated automatically."""

    def update_coordinates(self, gradient, parameter, state, shared):
        output, next_state = preprocessing.log_and_sign(gradient, self.p), {}
        layers = zip(self._stack.kernels, self._stack.biases)
        for layer, (kernel, bias) in enumerate(layers):
            hidden, cell = (
                state[f"{part}_{layer}"] for part in ("hidden", "cell")
            )
            joined = ops.concatenate([output, hidden], -1)
            gates = ops.matmul(joined, kernel) + bias
            input_gate, forget, candidate, output_gate = ops.split(
                gates, 4, axis=-1
            )
            cell = ops.sigmoid(forget) * cell
            cell += ops.sigmoid(input_gate) * ops.tanh(candidate)
            output = ops.sigmoid(output_gate) * ops.tanh(cell)
            next_state[f"hidden_{layer}"] = output
            next_state[f"cell_{layer}"] = cell
        update = ops.matmul(output, self._output_kernel) + self._output_bias
        return self.output_scale * ops.squeeze(update, -1), next_state, shared


def count_coordinates(task):
    """The number of parameters of a task's optimizee."""
    return sum(spec.shape.num_elements() for spec in task.parameter_specs)


def first_calls(functions):
    """Calls each function once, which builds its graph.

    Args:
        functions: Dict of functions without arguments, which return a scalar
            tensor.

    Returns:
        Dict of seconds.
    """
    return {name: _seconds(function) for name, function in functions.items()}


def take_turns(functions, repeats):
    """Times functions side by side.

    They take turns, so that a machine whose speed drifts favours none.

    Args:
        functions: Dict of functions without arguments, which return a scalar
            tensor.
        repeats: Integer.

    Returns:
        Dict of the medians of their seconds.
    """
    times = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            times[name].append(_seconds(function))
    return {name: statistics.median(times[name]) for name in functions}


def _seconds(function):
    begin = time.perf_counter()
    float(function())  # Waits for a device that computes in the background.
    return time.perf_counter() - begin
