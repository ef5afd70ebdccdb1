"""What decides the steps of each tensor: a recurrent cell, or averages."""

import functools

import keras
import numpy as np
from keras import ops

from keras_l2l.rules.gru_cell import next_cell
from keras_l2l.rules.tensor_features import TIME_SCALES

# Features of `training_features`, and those of `time_and_shape_features`
# without the shares of the time.
_OF_TRAINING = 7
_OF_CONTEXT = 4

# The weight of what is new in the averages of `LinearSteering`.
_AVERAGING = 0.02


class RecurrentSteering:
    """A GRU cell for each tensor, of which a linear layer reads the outputs.

    Args:
        rule: The `UpdateRule` that has the weights.
        units: Integer. Units of the cell.
        outputs: Integer.
        seed: Integer. Of the initial meta-parameters.
    """

    def __init__(self, rule, units, outputs, seed):
        seeds = np.random.SeedSequence(seed).generate_state(2).tolist()
        features = _OF_TRAINING + len(TIME_SCALES) + _OF_CONTEXT
        add = functools.partial(_add_weight, rule)
        # Update gate, reset gate and candidate side by side, as in Keras.
        self._kernel = add("kernel", (features, 3 * units), seeds[0])
        self._recurrent_kernel = add(
            "recurrent_kernel", (units, 3 * units), seeds[1]
        )
        self._bias = add("bias", (3 * units,))
        self._output = add("tensor_output", (units, outputs))
        self._output_bias = add("tensor_output_bias", (outputs,))
        self.memory_size = units

    def next_memory(self, training, context, memory, step):
        """The hidden state of the cells after a step.

        Args:
            training: Tensor `[K, 7]`, from `training_features`.
            context: Tensor `[K, 7]`, from `time_and_shape_features`.
            memory: Tensor `[K, memory_size]`; zeros before the first step.
            step: Scalar, counted from 1.

        Returns:
            Tensor `[K, memory_size]`.
        """
        return next_cell(
            ops.concatenate([training, context], axis=-1),
            *(memory, self._kernel, self._recurrent_kernel, self._bias),
        )

    def outputs(self, training, context, memory):
        """What the linear layer reads.

        Args:
            training: As for `next_memory`.
            context: As for `next_memory`.
            memory: Tensor `[K, memory_size]`, after the step.

        Returns:
            Tensor `[K, outputs]`.
        """
        return ops.matmul(memory, self._output) + self._output_bias


class LinearSteering:
    """A linear function of features of each tensor and of their averages.

    All of its meta-parameters act at once, and each has a meaning: a step is
    to be so much longer, say, where gradients have vanished so far. What a
    tensor with few columns needs, as the kernel of an output layer, may be
    something else: the features come a second time, multiplied by the
    logarithm of the number of columns.

    Args:
        rule: The `UpdateRule` that has the weights.
        outputs: Integer.
    """

    memory_size = _OF_TRAINING

    def __init__(self, rule, outputs):
        features = 1 + _OF_CONTEXT + 4 * _OF_TRAINING
        self._weights = _add_weight(rule, "steering", (features, outputs))

    def next_memory(self, training, context, memory, step):
        """Averages of the features: of all of them, then of the last fifty.

        Args and returns as in `RecurrentSteering`.
        """
        weight = ops.maximum(1.0 / step, _AVERAGING)
        return memory + weight * (training - memory)

    def outputs(self, training, context, memory):
        """Args and returns as in `RecurrentSteering`."""
        one = ops.ones_like(training[:, :1])
        seen = ops.concatenate([training, memory], axis=-1)
        # The last one; zero for six columns.
        columns = context[:, -1:] + 0.5
        features = [one, context[:, len(TIME_SCALES) :], seen, columns * seen]
        return ops.matmul(ops.concatenate(features, axis=-1), self._weights)


def _add_weight(rule, name, shape, seed=None):
    """A weight of a rule: random by a seed, or else zeros."""
    initializer = (
        "zeros"
        if seed is None
        else keras.initializers.VarianceScaling(seed=seed)
    )
    return rule.add_weight(shape=shape, initializer=initializer, name=name)
