"""The coordinatewise LSTM of 2016."""

import keras
from keras import ops

from keras_l2l import checks, features
from keras_l2l.rules.base import CoordinatewiseRule

PREPROCESSING = ("log_and_sign", "raw")


@keras.saving.register_keras_serializable(package="keras_l2l")
class CoordinatewiseLSTM(CoordinatewiseRule):
    """An LSTM that runs on every coordinate with its own hidden state.

    Gradient → preprocessing → `layers` LSTM layers of `units` →
    `Linear(units → 1)` → times `output_scale` = update. All coordinates share
    the meta-parameters; each has its own hidden state, zero at the start.

    Args:
        units: Integer. Units of each LSTM layer. Defaults to `20`.
        layers: Integer. Number of LSTM layers. Defaults to `2`.
        output_scale: Float > 0. Multiplies the output of the network. The
            paper has 0.1 for neural networks. Defaults to `0.1`.
        preprocessing: `"log_and_sign"` (see
            `keras_l2l.features.log_and_sign`) or `"raw"`, the gradient
            itself, which the paper uses on quadratics.
            Defaults to `"log_and_sign"`.
        p: Float > 0, of `"log_and_sign"`: gradients smaller than `exp(-p)`
            enter linearly. Defaults to `10.0`.
        derivative_smoothing: Float >= 0, of `"log_and_sign"`. Smooths the
            derivative of the preprocessing, not its values, for gradients up
            to about this size. Without it, meta-gradients with second
            derivatives explode over long unrolls. Defaults to `0.0`.
        kernel_initializer: Initializer of the kernels of the LSTM layers,
            each `[inputs + units, 4 * units]`.
            Defaults to `"glorot_uniform"`.
        output_initializer: Initializer of the kernel `[units, 1]` of the
            linear output layer. Defaults to `"glorot_uniform"`.
        seed: Integer. Seeds both initializers where they have no seed of
            their own. Defaults to `None`, a new one each time.
        name: String. The name of the rule.
        dtype: The dtype of the computation. Defaults to `"float32"`.

    Example:

    >>> rule = keras_l2l.rules.CoordinatewiseLSTM(units=20, layers=2)
    >>> parameters = [keras.ops.zeros((784, 20)), keras.ops.zeros((20,))]
    >>> state = rule.initial_state(parameters)
    >>> gradients = [keras.ops.ones_like(p) for p in parameters]
    >>> updates, state = rule(gradients, parameters, state)

    Reference:
        [Andrychowicz et al., 2016](https://arxiv.org/abs/1606.04474)
    """

    def __init__(
        self,
        units=20,
        layers=2,
        output_scale=0.1,
        preprocessing="log_and_sign",
        p=10.0,
        derivative_smoothing=0.0,
        kernel_initializer="glorot_uniform",
        output_initializer="glorot_uniform",
        seed=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        checks.positive_integers(units=units, layers=layers)
        checks.positive_numbers(output_scale=output_scale, p=p)
        if preprocessing not in PREPROCESSING:
            raise ValueError(
                f"Argument `preprocessing` must be one of {PREPROCESSING}. "
                f"Received: preprocessing={preprocessing!r}"
            )
        if not derivative_smoothing >= 0.0:
            raise ValueError(
                "Argument `derivative_smoothing` must be zero or a positive "
                f"number. Received: derivative_smoothing={derivative_smoothing}"
            )
        self.units = units
        self.layers = layers
        self.output_scale = float(output_scale)
        self.preprocessing = preprocessing
        self.p = float(p)
        self.derivative_smoothing = float(derivative_smoothing)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.output_initializer = keras.initializers.get(output_initializer)
        self.seed = seed

        inputs = 2 if preprocessing == "log_and_sign" else 1
        self._kernels = []
        self._biases = []
        for layer in range(layers):
            self._kernels.append(
                self.add_weight(
                    shape=(inputs + units, 4 * units),
                    initializer=self._seeded(self.kernel_initializer, layer),
                    name=f"kernel_{layer}",
                )
            )
            self._biases.append(
                self.add_weight(
                    shape=(4 * units,),
                    initializer=forget_gate_open,
                    name=f"bias_{layer}",
                )
            )
            inputs = units
        self._output_kernel = self.add_weight(
            shape=(units, 1),
            initializer=self._seeded(self.output_initializer, layers),
            name="output_kernel",
        )
        self._output_bias = self.add_weight(
            shape=(1,), initializer="zeros", name="output_bias"
        )

    def initial_coordinate_state(self, count):
        zeros = ops.zeros((count, self.units), self.compute_dtype)
        return {
            f"{part}_{layer}": zeros
            for layer in range(self.layers)
            for part in ("hidden", "cell")
        }

    def update_coordinates(self, gradient, parameter, state, shared):
        if self.preprocessing == "log_and_sign":
            output = features.log_and_sign(  # [N, 2]
                gradient, self.p, self.derivative_smoothing
            )
        else:
            output = ops.expand_dims(gradient, -1)  # [N, 1]
        next_state = {}
        for layer, (kernel, bias) in enumerate(
            zip(self._kernels, self._biases)
        ):
            output, cell = lstm_cell(
                output,
                state[f"hidden_{layer}"],
                state[f"cell_{layer}"],
                kernel,
                bias,
            )
            next_state[f"hidden_{layer}"] = output
            next_state[f"cell_{layer}"] = cell
        update = ops.matmul(output, self._output_kernel) + self._output_bias
        return self.output_scale * ops.squeeze(update, -1), next_state, shared

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "layers": self.layers,
            "output_scale": self.output_scale,
            "preprocessing": self.preprocessing,
            "p": self.p,
            "derivative_smoothing": self.derivative_smoothing,
            "kernel_initializer": keras.initializers.serialize(
                self.kernel_initializer
            ),
            "output_initializer": keras.initializers.serialize(
                self.output_initializer
            ),
            "seed": self.seed,
        }

    def _seeded(self, initializer, index):
        """The initializer with this rule's seed, unless it has its own."""
        if self.seed is None or not isinstance(
            initializer, keras.initializers.Initializer
        ):
            return initializer
        config = initializer.get_config()
        if config.get("seed", 0) is not None:
            return initializer
        config["seed"] = self.seed + index
        return type(initializer).from_config(config)


def forget_gate_open(shape, dtype=None):
    """Bias `[4 * units]` of the gates: 1 for the forget gate, else 0.

    Args:
        shape: Tuple of one integer.
        dtype: String. Defaults to `None`.

    Returns:
        A tensor.
    """
    units = shape[0] // 4
    return ops.concatenate(
        [
            ops.zeros((units,), dtype),
            ops.ones((units,), dtype),
            ops.zeros((2 * units,), dtype),
        ]
    )


def lstm_cell(inputs, hidden, cell, kernel, bias):
    """One step of an LSTM layer on every coordinate.

    Args:
        inputs: Tensor `[N, I]`.
        hidden: Tensor `[N, H]`.
        cell: Tensor `[N, H]`.
        kernel: Variable `[I + H, 4 * H]`, for the entry, forget, candidate
            and exit gates.
        bias: Variable `[4 * H]`.

    Returns:
        Tuple of the next hidden state and the next cell, `[N, H]` each.
    """
    # As σ(x) = (tanh(x/2) + 1) / 2, all gates are one hyperbolic tangent.
    units = cell.shape[-1]
    scale = ops.convert_to_tensor(
        [0.5] * (2 * units) + [1.0] * units + [0.5] * units, cell.dtype
    )
    return _scaled_cell(inputs, hidden, cell, kernel * scale, bias * scale)


@ops.custom_gradient
def _scaled_cell(inputs, hidden, cell, kernel, bias):
    """The cell, whose way back needs only the gates and `tanh(cell)`.

    Differentiating operation by operation would keep four times as much.
    """
    joined = ops.concatenate([inputs, hidden], -1)
    gates = ops.tanh(ops.matmul(joined, kernel) + bias)  # [N, 4H]
    entry, forget, candidate, exit_ = ops.split(gates, 4, axis=-1)
    next_cell = 0.5 * ((forget + 1) * cell + (entry + 1) * candidate)
    squashed = ops.tanh(next_cell)
    next_hidden = 0.5 * (exit_ + 1) * squashed

    def backward(*cotangents):
        # TensorFlow hands over two tensors, JAX a tuple of them.
        d_hidden, d_cell = cotangents if len(cotangents) == 2 else cotangents[0]
        entry, forget, candidate, exit_ = ops.split(gates, 4, axis=-1)
        d_cell = d_cell + 0.5 * d_hidden * (exit_ + 1) * (1 - squashed**2)
        d_gates = (1 - gates**2) * ops.concatenate(
            [
                0.5 * candidate * d_cell,
                0.5 * cell * d_cell,
                0.5 * (entry + 1) * d_cell,
                0.5 * squashed * d_hidden,
            ],
            -1,
        )
        d_joined = ops.matmul(d_gates, ops.transpose(kernel))
        return (
            d_joined[:, : inputs.shape[-1]],
            d_joined[:, inputs.shape[-1] :],
            0.5 * (forget + 1) * d_cell,
            ops.matmul(ops.transpose(joined), d_gates),
            ops.sum(d_gates, axis=0),
        )

    return (next_hidden, next_cell), backward
