"""The coordinatewise LSTM of 2016."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_l2l import checks
from keras_l2l.rules import preprocessing
from keras_l2l.rules.base import CoordinatewiseRule
from keras_l2l.rules.lstm_cell import LSTMStack, forget_gate_open

PREPROCESSING = ("log_and_sign", "raw")

_LARGEST_P = 80.0


class LSTMRule(CoordinatewiseRule):
    """Base class of rules that apply an LSTM network to every coordinate.

    Args:
        extra_inputs: Integer. Inputs of the network in addition to the
            preprocessed gradient.
        outputs: Integer. Outputs of the network.
        **kwargs: As for `CoordinatewiseLSTM`.
    """

    def __init__(
        self,
        extra_inputs,
        outputs,
        units=20,
        layers=2,
        output_scale=0.1,
        preprocessing="log_and_sign",
        p=10.0,
        derivative_smoothing=0.0,
        averaging_cells=0,
        kernel_initializer="glorot_uniform",
        output_initializer="glorot_uniform",
        seed=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        units, layers = checks.positive_integers(units=units, layers=layers)
        self.units, self.layers = units, layers
        checks.positive_numbers(output_scale=output_scale, p=p)
        if p > _LARGEST_P:
            raise ValueError(
                f"Argument `p` must be at most {_LARGEST_P}, beyond which "
                f"exp(-p) is zero in float32. Received: p={p!r}"
            )
        _check(preprocessing, derivative_smoothing)
        self.output_scale = float(output_scale)
        self.preprocessing = preprocessing
        self.p = float(p)
        self.derivative_smoothing = float(derivative_smoothing)
        self.averaging_cells = _averaging_cells(averaging_cells, units)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.output_initializer = keras.initializers.get(output_initializer)
        self.seed = None if seed is None else checks.seed(seed)
        inputs = extra_inputs + (2 if preprocessing == "log_and_sign" else 1)
        self._stack = self._add_stack(inputs)
        self._output_kernel = self.add_weight(
            shape=(units, outputs),
            initializer=self._seeded(self.output_initializer, layers),
            name="output_kernel",
        )
        self._output_bias = self.add_weight(
            shape=(outputs,), initializer="zeros", name="output_bias"
        )

    @property
    def granularity(self):
        return "model" if self.averaging_cells else "coordinate"

    def initial_coordinate_state(self, count):
        return self._stack.initial_state(count)

    def run_network(self, gradient, state, *extra_inputs):
        """Computes one step of the network.

        Args:
            gradient: Tensor `[N]`.
            state: Dict with the entries of `initial_coordinate_state`.
            *extra_inputs: Tensors `[N, E]`, with `extra_inputs` columns in
                all.

        Returns:
            Tuple `(outputs, state)`: tensor `[N, outputs]`, and the dict of
            the next hidden state of the LSTM layers.
        """
        if self.preprocessing == "log_and_sign":
            inputs = preprocessing.log_and_sign(  # [N, 2]
                gradient, self.p, self.derivative_smoothing
            )
        else:
            inputs = ops.expand_dims(gradient, -1)  # [N, 1]
        if extra_inputs:
            inputs = ops.concatenate([inputs, *extra_inputs], -1)
        hidden, state = self._stack(inputs, state)
        outputs = ops.matmul(hidden, self._output_kernel) + self._output_bias
        return outputs, state

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "layers": self.layers,
            "output_scale": self.output_scale,
            "preprocessing": self.preprocessing,
            "p": self.p,
            "derivative_smoothing": self.derivative_smoothing,
            "averaging_cells": self.averaging_cells,
            "kernel_initializer": keras.initializers.serialize(
                self.kernel_initializer
            ),
            "output_initializer": keras.initializers.serialize(
                self.output_initializer
            ),
            "seed": self.seed,
        }

    def _add_stack(self, inputs):
        """Adds the weights of the LSTM layers, the first of `inputs`."""
        kernels, biases = [], []
        for layer in range(self.layers):
            kernels.append(
                self.add_weight(
                    shape=(inputs + self.units, 4 * self.units),
                    initializer=self._seeded(self.kernel_initializer, layer),
                    name=f"kernel_{layer}",
                )
            )
            biases.append(
                self.add_weight(
                    shape=(4 * self.units,),
                    initializer=forget_gate_open,
                    name=f"bias_{layer}",
                )
            )
            inputs = self.units
        return LSTMStack(kernels, biases, self.averaging_cells)

    def _seeded(self, initializer, index):
        """Gives an initializer this rule's seed, unless it has its own."""
        if self.seed is None or not isinstance(
            initializer, keras.initializers.Initializer
        ):
            return initializer
        config = initializer.get_config()
        if config.get("seed", 0) is not None:
            return initializer
        config["seed"] = self.seed + index
        return type(initializer).from_config(config)


def _check(preprocessing, derivative_smoothing):
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


def _averaging_cells(count, units):
    """The number of averaging cells, checked, as an `int`."""
    if not (isinstance(count, int | np.integer) and 0 <= count <= units):
        raise ValueError(
            "Argument `averaging_cells` must be an integer from 0 to "
            f"`units`={units}. Received: averaging_cells={count}"
        )
    return int(count)


@keras.saving.register_keras_serializable(package="keras_l2l")
class CoordinatewiseLSTM(LSTMRule):
    """An LSTM that is applied to every coordinate with its own hidden state.

    Gradient → preprocessing → `layers` LSTM layers of `units` →
    `Linear(units → 1)` → times `output_scale` = update. All coordinates share
    the meta-parameters; each has its own hidden state, zero at the start.

    Averaging cells let the coordinates communicate: enough to clip the
    gradient by its norm. The coordinates are then no longer independent, so
    that the optimizer updates all variables at once, and the meta-gradient
    is computed over all coordinates together.

    Args:
        units: Integer. Units of each LSTM layer. Defaults to `20`.
        layers: Integer. Number of LSTM layers. Defaults to `2`.
        output_scale: Float > 0. Multiplies the output of the network. The
            paper has 0.1 for neural networks. Defaults to `0.1`.
        preprocessing: `"log_and_sign"`, see
            `rules.preprocessing.log_and_sign`, or `"raw"`, the gradient
            itself, which the paper uses on quadratics.
            Defaults to `"log_and_sign"`.
        p: Float > 0, of `"log_and_sign"`: gradients smaller than `exp(-p)`
            enter linearly. Defaults to `10.0`.
        derivative_smoothing: Float >= 0, of `"log_and_sign"`. Smooths the
            derivative of the preprocessing, not its values, for gradients up
            to about this size. Without it, meta-gradients with second
            derivatives explode over long unrolls. Defaults to `0.0`.
        averaging_cells: Integer in [0, units]. The number of units of each
            LSTM layer that are global averaging cells: their outputs are
            replaced by the mean over all coordinates of all parameters.
            Defaults to `0`.
        kernel_initializer: Initializer of the kernels of the LSTM layers,
            each `[inputs + units, 4 * units]`.
            Defaults to `"glorot_uniform"`.
        output_initializer: Initializer of the kernel `[units, 1]` of the
            linear output layer. Defaults to `"glorot_uniform"`.
        seed: Integer. Seeds both initializers where they have no seed of
            their own. Defaults to `None`, a new one each time.
        name: String. The name of the rule.
        dtype: As for `UpdateRule`. Defaults to `"float32"`.

    Raises:
        ValueError: If an argument is out of its range.

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
        units: int = 20,
        layers: int = 2,
        output_scale: float = 0.1,
        **kwargs: Any,
    ):
        super().__init__(
            extra_inputs=0,
            outputs=1,
            units=units,
            layers=layers,
            output_scale=output_scale,
            **kwargs,
        )

    def update_coordinates(self, gradient, parameter, state, shared):
        outputs, state = self.run_network(gradient, state)
        return self.output_scale * ops.squeeze(outputs, -1), state, shared
