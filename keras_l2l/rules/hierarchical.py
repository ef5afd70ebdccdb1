"""A recurrent cell for each tensor over a small network for each coordinate."""

import functools
import math
import operator

import keras
import numpy as np
from keras import ops

from keras_l2l import checks
from keras_l2l.rules import preprocessing, tensor_features
from keras_l2l.rules.base import RuleState, UpdateRule
from keras_l2l.rules.orthogonalization import (
    as_matrix,
    matrix_shape,
    orthogonalize,
)

# Decays of the two momenta and of the second moment.
_BETAS = (0.9, 0.99)
_BETA_OF_SQUARES = 0.99

# What the rule does while its networks put out zero: Nesterov momentum, steps
# of this share of a tensor's size, falling with the root of the time.
_NOMINAL_WEIGHTS = (0.1, 0.9, 0.0)
_NOMINAL_STEP = 0.035
_NOMINAL_TIME = 50.0
_NOMINAL_GATE = 3.0

_VECTOR_SIZE = 0.1
_TENSOR_OUTPUTS = 5
_COORDINATE_INPUTS = 4
_EPSILON = 1e-12
# Of a tensor that has not been updated yet: there may be no values before.
_UNKNOWN_SIZE = -1.0


@keras.saving.register_keras_serializable(package="keras_l2l")
class Hierarchical(UpdateRule):
    """A GRU for each tensor that steers a small network for each coordinate.

    Of each coordinate the rule keeps two momenta (0.9 and 0.99) and a second
    moment. They enter, divided by the root of the second moment, a weighted
    sum and a network of one hidden layer. Of a matrix, what comes out is
    orthogonalised, so that all of its directions are learned at one speed.
    The update has a size relative to that of the parameters, in root mean
    squares, which falls as 1/√t.

    A GRU cell for each tensor sees how much of the gradient is signal, how
    the tensor has grown, its shape and the time. It corrects the step size,
    the weights of the sum, the biases of the network, and how much of the
    direction is orthogonalised. With zero at its output, as it starts, the
    rule is a hand-designed one that trains well already.

    Nothing depends on the scale of the gradients, and no number of steps
    need be known. 12 bytes of state a coordinate.

    Args:
        units: Integer. Units of the GRU. Defaults to `16`.
        coordinate_units: Integer. Hidden units of the network for each
            coordinate. Defaults to `8`.
        seed: Integer. Of the initial meta-parameters. Defaults to `0`.
        name: String. The name of the rule.
        dtype: The dtype of the computation. Defaults to `"float32"`.

    Reference:
        - [Wichrowska et al., 2017](https://arxiv.org/abs/1703.04813), a
          hierarchy of recurrent cells.
        - [Harrison et al., 2022](https://arxiv.org/abs/2209.11208), a nominal
          term that the network corrects.
        - [Jordan et al., 2024](https://kellerjordan.github.io/posts/muon/),
          orthogonalised momentum.
    """

    def __init__(
        self, units=16, coordinate_units=8, seed=0, name=None, **kwargs
    ):
        super().__init__(name=name, **kwargs)
        checks.positive_integers(units=units, coordinate_units=coordinate_units)
        self.units = units
        self.coordinate_units = coordinate_units
        self.seed = seed
        seeds = iter(np.random.SeedSequence(seed).generate_state(3).tolist())

        def add(name, shape, is_random=True):
            initializer = (
                keras.initializers.VarianceScaling(seed=next(seeds))
                if is_random
                else "zeros"
            )
            return self.add_weight(
                shape=shape, initializer=initializer, name=name
            )

        # Update gate, reset gate and candidate side by side, as in Keras.
        self.kernel = add("kernel", (tensor_features.COUNT, 3 * units))
        self.recurrent_kernel = add("recurrent_kernel", (units, 3 * units))
        self.bias = add("bias", (3 * units,), False)
        self.tensor_output = add(
            "tensor_output", (units, _TENSOR_OUTPUTS), False
        )
        self.tensor_output_bias = add(
            "tensor_output_bias", (_TENSOR_OUTPUTS,), False
        )
        self.coordinate_kernel = add(
            "coordinate_kernel", (_COORDINATE_INPUTS, coordinate_units)
        )
        self.coordinate_bias = add(
            "coordinate_bias", (units, coordinate_units), False
        )
        self.coordinate_output = add(
            "coordinate_output", (coordinate_units,), False
        )

    @property
    def granularity(self):
        return "tensor"

    def initial_state(self, parameters):
        dtype = self.compute_dtype
        return RuleState(
            local=[
                {
                    "fast": ops.zeros(ops.shape(p), dtype),
                    "slow": ops.zeros(ops.shape(p), dtype),
                    "square": ops.zeros(ops.shape(p), dtype),
                    "first_size": ops.full((), _UNKNOWN_SIZE, dtype),
                    "cell": ops.zeros((self.units,), dtype),
                }
                for p in parameters
            ],
            shared={"step": ops.zeros((), dtype)},
        )

    def call(self, gradients, parameters, state):
        # Scalars of all tensors are computed side by side, `[K]` each: a model
        # has hundreds of tensors, and each operation takes time to trace.
        step = state.shared["step"] + 1.0
        values = [ops.cast(p, self.compute_dtype) for p in parameters]
        moments = [
            _next_moments(
                preprocessing.finite(ops.cast(g, self.compute_dtype)), local
            )
            for g, local in zip(gradients, state.local)
        ]
        corrections = _bias_corrections(step)
        inputs = [_normalized(g, m, corrections) for g, m in moments]
        sizes = ops.stack([_size(value) for value in values])
        first_sizes = ops.stack([local["first_size"] for local in state.local])
        # The size of a tensor before its first update, taken at that update.
        first_sizes = ops.where(first_sizes < 0.0, sizes, first_sizes)
        cell = self._next_cell(
            tensor_features.tensor_features(
                inputs, values, sizes, first_sizes, step
            ),
            ops.stack([local["cell"] for local in state.local]),
        )
        outputs = ops.matmul(cell, self.tensor_output) + self.tensor_output_bias
        updates = self._updates(
            inputs,
            values,
            ops.unstack(sizes),
            _step_sizes(values, sizes, first_sizes, outputs[:, 0], step),
            outputs,
            ops.matmul(cell, self.coordinate_bias),
        )
        return [
            ops.cast(update, p.dtype) for update, p in zip(updates, parameters)
        ], RuleState(
            [
                {**m, "first_size": first_size, "cell": next_cell}
                for (_, m), first_size, next_cell in zip(
                    moments, ops.unstack(first_sizes), ops.unstack(cell)
                )
            ],
            {"step": step},
        )

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "coordinate_units": self.coordinate_units,
            "seed": self.seed,
        }

    def _next_cell(self, inputs, cell):
        """The GRU of all tensors: `[K, features]` and `[K, units]`."""
        update, reset, candidate = ops.split(
            ops.matmul(inputs, self.kernel) + self.bias, 3, axis=-1
        )
        of_update, of_reset, of_candidate = ops.split(
            ops.matmul(cell, self.recurrent_kernel), 3, axis=-1
        )
        # One more, so that the cell remembers some steps from the start.
        update = ops.sigmoid(update + of_update + 1.0)
        reset = ops.sigmoid(reset + of_reset)
        candidate = ops.tanh(candidate + reset * of_candidate)
        return update * cell + (1.0 - update) * candidate

    def _updates(self, inputs, values, sizes, step_sizes, outputs, biases):
        """The updates of all tensors.

        Args:
            inputs: List of lists of three tensors, from `_normalized`.
            values: List of tensors, the parameters.
            sizes: List of scalars, their sizes.
            step_sizes: List of scalars, the sizes that updates are to have.
            outputs: Tensor `[K, 5]`, from the GRU.
            biases: Tensor `[K, coordinate_units]`, from the GRU.
        """
        nominal = ops.array(_NOMINAL_WEIGHTS, outputs.dtype)
        weights = _scalars(nominal + outputs[:, 1:4])
        gates = ops.sigmoid(_NOMINAL_GATE + 2.0 * outputs[:, 4])
        gates, others = ops.unstack(gates), ops.unstack(1.0 - gates)
        biases = _scalars(biases)
        network = (
            _scalars(ops.transpose(self.coordinate_kernel)),
            ops.unstack(self.coordinate_output),
        )
        updates = []
        for i, value in enumerate(values):
            direction = _dot(weights[i], inputs[i]) + _network(
                network, [*inputs[i], value / sizes[i]], biases[i]
            )
            plain = direction / ops.maximum(1.0, _size(direction))
            if len(value.shape) > 1:
                matrix = orthogonalize(as_matrix(direction))
                matrix = ops.reshape(matrix / _size(matrix), value.shape)
                plain = gates[i] * matrix + others[i] * plain
            updates.append(-step_sizes[i] * plain)
        return updates


def _network(network, inputs, biases):
    """One hidden layer on every coordinate, in the shape of the tensor."""
    kernel, output = network
    # Bounded: a rare gradient is many times the root of its moment.
    inputs = [value / (1.0 + 0.3 * ops.abs(value)) for value in inputs]
    return _dot(
        output,
        [
            ops.relu(bias + _dot(weights, inputs))
            for weights, bias in zip(kernel, biases)
        ],
    )


def _dot(weights, values):
    """Σ weight · value, without a tensor of all values."""
    return functools.reduce(
        operator.add, (w * value for w, value in zip(weights, values))
    )


def _scalars(matrix):
    """Tensor `[n, m]` → list of lists of scalars."""
    return [ops.unstack(row) for row in ops.unstack(matrix)]


def _next_moments(gradient, local):
    """The gradient and the next moments of one tensor."""
    fast, slow = _BETAS

    def average(old, new, beta):
        return old + (new - old) * (1.0 - beta)

    return gradient, {
        "fast": average(local["fast"], gradient, fast),
        "slow": average(local["slow"], gradient, slow),
        "square": average(
            local["square"], ops.square(gradient), _BETA_OF_SQUARES
        ),
    }


def _bias_corrections(step):
    """How much of an average there is yet: of two momenta and the square."""
    return [1.0 - beta**step for beta in (*_BETAS, _BETA_OF_SQUARES)]


def _normalized(gradient, moments, corrections):
    """Gradient and momenta over the root of the second moment, unbiased."""
    fast, slow, square = corrections
    scale = 1.0 / (ops.sqrt(moments["square"] / square) + _EPSILON)
    return [
        gradient * scale,
        moments["fast"] * (scale / fast),
        moments["slow"] * (scale / slow),
    ]


def _step_sizes(values, sizes, first_sizes, corrections, step):
    """The sizes that updates are to have: a list of scalars.

    Relative to that of a tensor, or to what it should be if it starts at
    zero. Between the size now and that at the start: steps relative to the
    size now would let a tensor grow exponentially.
    """
    smallest = ops.array([_smallest_size(v.shape) for v in values], sizes.dtype)
    scale = ops.sqrt(
        ops.maximum(sizes, smallest) * ops.maximum(first_sizes, smallest)
    )
    nominal = _NOMINAL_STEP / ops.sqrt(1.0 + (step - 1.0) / _NOMINAL_TIME)
    correction = ops.exp(3.0 * ops.tanh(corrections / 3.0))
    return ops.unstack(nominal * correction * scale)


def _smallest_size(shape):
    if len(shape) < 2:
        return _VECTOR_SIZE
    rows, columns = matrix_shape(shape)
    return 0.5 * math.sqrt(2.0 / (rows + columns))


def _size(tensor):
    """Root mean square, never zero."""
    return ops.sqrt(ops.mean(ops.square(tensor)) + _EPSILON**2)
