"""A recurrent cell for each tensor over a small network for each coordinate."""

import math

import keras
import numpy as np
from keras import ops

from keras_l2l import checks, features
from keras_l2l.orthogonal import as_matrix, orthogonalize
from keras_l2l.rules.base import RuleState, UpdateRule

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
_TENSOR_FEATURES = 17
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
        self.kernel = add("kernel", (_TENSOR_FEATURES, 3 * units))
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
    def independent(self):
        return "tensors"

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
        step = state.shared["step"] + 1.0
        values = [ops.cast(p, self.compute_dtype) for p in parameters]
        moments = [
            _next_moments(
                features.finite(ops.cast(g, self.compute_dtype)), local
            )
            for g, local in zip(gradients, state.local)
        ]
        inputs = [_normalized(g, m, step) for g, m in moments]
        first_sizes = [
            _first_size(value, local["first_size"])
            for value, local in zip(values, state.local)
        ]
        cell = self._next_cell(
            ops.stack(
                [
                    _tensor_features(*arguments, step)
                    for arguments in zip(inputs, values, first_sizes)
                ]
            ),
            ops.stack([local["cell"] for local in state.local]),
        )
        outputs = ops.matmul(cell, self.tensor_output) + self.tensor_output_bias
        biases = ops.matmul(cell, self.coordinate_bias)
        updates = [
            ops.cast(
                self._update(
                    inputs[i],
                    values[i],
                    _step_scale(values[i], first_sizes[i]),
                    outputs[i],
                    biases[i],
                    step,
                ),
                p.dtype,
            )
            for i, p in enumerate(parameters)
        ]
        local = [
            {**m, "first_size": first_sizes[i], "cell": cell[i]}
            for i, (_, m) in enumerate(moments)
        ]
        return updates, RuleState(local, {"step": step})

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

    def _update(self, inputs, value, scale, output, bias, step):
        """The update of one tensor.

        Args:
            inputs: List of three tensors, from `_normalized`.
            value: Tensor, the parameter.
            scale: Scalar, the size of the tensor.
            output: Tensor `[5]`, from the GRU.
            bias: Tensor `[coordinate_units]`, from the GRU.
            step: Scalar, counted from 1.
        """
        direction = sum(
            (nominal + output[1 + i]) * value
            for i, (nominal, value) in enumerate(zip(_NOMINAL_WEIGHTS, inputs))
        )
        direction += self._network([*inputs, value / _size(value)], bias)
        plain = direction / ops.maximum(1.0, _size(direction))
        if len(value.shape) > 1:
            matrix = orthogonalize(as_matrix(direction))
            matrix = ops.reshape(matrix / _size(matrix), value.shape)
            gate = ops.sigmoid(_NOMINAL_GATE + 2.0 * output[4])
            plain = gate * matrix + (1.0 - gate) * plain
        correction = ops.exp(3.0 * ops.tanh(output[0] / 3.0))
        nominal = _NOMINAL_STEP / ops.sqrt(1.0 + (step - 1.0) / _NOMINAL_TIME)
        return -nominal * correction * scale * plain

    def _network(self, inputs, bias):
        """One hidden layer on every coordinate, in the shape of the tensor."""
        # Bounded: a rare gradient is many times the root of its moment.
        inputs = [value / (1.0 + 0.3 * ops.abs(value)) for value in inputs]
        return sum(
            self.coordinate_output[unit]
            * ops.relu(
                bias[unit]
                + sum(
                    self.coordinate_kernel[i, unit] * value
                    for i, value in enumerate(inputs)
                )
            )
            for unit in range(self.coordinate_units)
        )


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


def _normalized(gradient, moments, step):
    """Gradient and momenta over the root of the second moment, unbiased."""
    fast, slow = (1.0 - beta**step for beta in _BETAS)
    square = moments["square"] / (1.0 - _BETA_OF_SQUARES**step)
    scale = 1.0 / (ops.sqrt(square) + _EPSILON)
    return [
        gradient * scale,
        moments["fast"] * (scale / fast),
        moments["slow"] * (scale / slow),
    ]


def _first_size(value, known):
    """The size of a tensor before its first update, taken at that update."""
    return ops.where(known < 0.0, _size(value), known)


def _tensor_features(inputs, value, first_size, step):
    """What the GRU sees of a tensor: `[_TENSOR_FEATURES]`, of order one."""
    gradient, fast, slow = inputs
    sizes = [ops.sqrt(ops.mean(ops.square(x)) + 1e-12) for x in inputs]
    shape = ops.shape(value) or (1,)
    growth = ops.log(_size(value) / first_size)
    return ops.stack(
        [
            # The share of signal in the gradient, at two time scales.
            sizes[0] - 1.0,
            2.0 * sizes[1] - 1.0,
            2.0 * sizes[2] - 1.0,
            ops.log(sizes[1]) / 2.0 + 1.0,
            ops.log(sizes[2]) / 2.0 + 1.0,
            ops.mean(gradient * fast) / (sizes[0] * sizes[1]),
            ops.mean(fast * slow) / (sizes[1] * sizes[2]),
            # Rows of an embedding that are not in the batch.
            ops.mean(ops.cast(ops.equal(gradient, 0.0), value.dtype)),
            ops.clip(growth, -3.0, 3.0),
            ops.clip(ops.log(_size(value)) / 3.0 + 1.0, -3.0, 3.0),
            *(step / (step + scale) for scale in (10.0, 100.0, 1000.0)),
            ops.log(step) / 5.0 - 1.0,
            *(
                ops.cast(constant, value.dtype)
                for constant in (
                    float(len(shape) > 1),
                    _scaled_log2(math.prod(shape[:-1])),
                    _scaled_log2(shape[-1]),
                )
            ),
        ]
    )


def _step_scale(value, first_size):
    """Of what size a tensor is, or should be if it starts at zero.

    Between the size now and that at the start: steps relative to the size now
    would let a tensor grow exponentially.
    """
    smallest = _VECTOR_SIZE
    if len(value.shape) > 1:
        rows, columns = as_matrix(value).shape
        smallest = 0.5 * math.sqrt(2.0 / (rows + columns))
    return ops.sqrt(
        ops.maximum(_size(value), smallest) * ops.maximum(first_size, smallest)
    )


def _scaled_log2(count):
    """Of order one for a number of rows or columns, known or not."""
    if isinstance(count, int):
        return math.log2(count) / 5.0 - 1.0
    return ops.log(ops.cast(count, "float32")) / math.log(32.0) - 1.0


def _size(tensor):
    """Root mean square, never zero."""
    return ops.sqrt(ops.mean(ops.square(tensor)) + _EPSILON**2)
